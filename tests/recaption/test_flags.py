import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.recaption.flags import IN_A_ROW, MOST_TOGETHER, flags_of, repeats


@pytest.mark.parametrize(
    ("text", "tokens", "flags"),
    [
        ("a red circle on a red circle", 9, []),
        ("", 2, ["empty"]),
        (" . ,", 4, ["empty"]),
        ("a red circle", 78, ["too_long"]),
        ("a red circle", 77, []),
        ("a very very very red circle", 8, ["repetition"]),
        ("a very very red circle", 8, []),
        ("on the left, on the left, On the left", 11, ["repetition"]),
        ("red red RED", 99, ["too_long", "repetition"]),
    ],
)
def test_flags(text: str, tokens: int, flags: list[str]) -> None:
    assert flags_of(text, tokens, 77) == flags


def slowly(words: list[str]) -> bool:
    """Every start and every size, written out."""
    return any(
        words[start : start + size * IN_A_ROW] == words[start : start + size] * IN_A_ROW
        for size, start in itertools.product(range(1, MOST_TOGETHER + 1), range(len(words)))
        if start + size * IN_A_ROW <= len(words)
    )


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=14))
def test_repetition_is_what_looking_everywhere_finds(words: list[str]) -> None:
    assert repeats(" ".join(words)) == slowly(words)
