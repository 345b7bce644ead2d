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
        ("I'm sorry, but I cannot see the picture", 9, ["refusal"]),
        ("As an AI, I have no eyes for this", 9, ["refusal"]),
        ("SALE 50 OFF TODAY ONLY shop now", 9, ["ocr_dump"]),
        ('A sign with the words "OPEN" in a window', 9, []),
        ('"we are open on sundays and holidays" on a sign', 12, ["ocr_dump"]),
        ("ein roter Kreis auf weißem Grund und ein Hund", 12, ["non_english"]),
        ("красный круг", 5, ["non_english"]),
        ("naïve café décor", 5, []),
        ("a man named Peter on a horse", 9, ["face_name"]),
        ("the actress Jane Example in a red dress", 9, ["face_name"]),
        ("Jane Example, an actress in a red dress", 9, ["face_name"]),
        ("a man on the Golden Gate bridge", 9, []),
        ("a woman in front of the Eiffel Tower", 9, []),
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
