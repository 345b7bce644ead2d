import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.captions.changed import (
    first_part,
    first_words,
    match_lengths,
    parts_of,
    with_false_things,
    with_random_clause,
)
from reverie.errors import InputError
from reverie.evaluate.asked import SmallWorldReader
from reverie.smallworld.describe import describe, vocabulary
from reverie.smallworld.scene import class_names, sample

LONG = "a small red circle , two blue stars and a large pink heart , on a white background"


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_lengths_become_those_of_the_others(own, other):
    texts = [" ".join(f"w{n}x{k}" for k in range(size)) for n, size in enumerate(own)]
    like = ["x " * size for size in other]
    found = match_lengths(texts, like)
    lengths = [len(text.split()) for text in found]
    assert set(lengths) <= set(other)
    if len(own) == len(other):
        assert sorted(lengths) == sorted(other)
    for before, after in zip(texts, found, strict=True):
        assert set(after.split()) <= set(before.split())  # nothing new
        assert after.split()[0] == before.split()[0]
    order = np.argsort(own, kind="stable")
    assert [lengths[at] for at in order] == sorted(lengths)


def test_lengths_of_nothing():
    assert match_lengths(["", "a b"], ["x y z"]) == ["", "a b a"]
    assert match_lengths([], ["x"]) == []
    with pytest.raises(InputError, match="no captions whose lengths"):
        match_lengths(["a"], [])


def test_first_part_keeps_whole_sentences_or_clauses():
    assert "".join(parts_of(LONG)) == LONG
    assert len(parts_of(LONG)) == 4
    assert first_part(LONG, 0.25) == "a small red circle"
    assert first_part(LONG, 0.5) == "a small red circle , two blue stars"
    assert first_part(LONG, 1) == LONG
    told = "A dog runs. It is brown, and wet! Behind it is a tree."
    assert first_part(told, 0.3) == "A dog runs."
    assert first_part(told, 2 / 3) == "A dog runs. It is brown, and wet!"
    assert first_part("a dog", 0.1) == "a dog"
    for share in (0, 1.5, float("nan")):
        with pytest.raises(InputError, match="cannot be kept"):
            first_part(LONG, share)


def test_a_random_clause_is_of_another_caption():
    texts = [f"thing{n} , part{n} and piece{n}" for n in range(6)]
    found = with_random_clause(texts, seed=1)
    for number, (before, after) in enumerate(zip(texts, found, strict=True)):
        assert after.startswith(f"{before} , ")
        assert not after.endswith(str(number))
    assert found == with_random_clause(texts, seed=1) != with_random_clause(texts, seed=2)
    with pytest.raises(InputError, match="at least two"):
        with_random_clause(["a"])


def test_false_things_come_with_their_chance_and_are_not_named_before():
    rng, read = np.random.default_rng(0), SmallWorldReader()
    texts = [describe(sample(rng), "long", rng) for _ in range(300)]

    def named(text):
        return read(text).names

    none, some, many = (with_false_things(texts, share, class_names(), named) for share in (0.0, 0.1, 0.3))
    assert none == texts
    total = sum(len(named(text)) for text in texts)
    for share, changed in ((0.1, some), (0.3, many)):
        added = [set(named(after)) - set(named(before)) for before, after in zip(texts, changed, strict=True)]
        assert sum(map(len, added)) / total == pytest.approx(share, abs=0.04)
    assert all(set(named(less)) <= set(named(more)) for less, more in zip(some, many, strict=True))
    assert {word for text in many for word in text.split()} <= set(vocabulary())
    with pytest.raises(InputError, match="cannot be added"):
        with_false_things(texts, 2, class_names(), named)


def test_first_words_cut_anywhere_but_leave_no_sign_at_the_end():
    assert first_words("a small red circle , two stars", 0.5) == "a small red circle"
    assert first_words("a small red circle , two stars", 5 / 7) == "a small red circle"
    assert first_words("a dog", 0.1) == "a"
    assert first_words("a dog", 1) == "a dog"
    with pytest.raises(InputError, match="a share of 0 of a caption cannot be kept"):
        first_words("a dog", 0)
