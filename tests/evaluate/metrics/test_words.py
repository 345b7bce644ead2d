import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from reverie.evaluate.metrics.words import (
    CLASSES,
    END,
    START,
    Trigrams,
    classes_of,
    content_words,
    facts_counted,
    jensen_shannon,
    type_token,
    words_of,
)


def test_classes_of_words():
    assert classes_of("A red Fiat, near IMG_2041 by Anna. Walking quickly, 3 dogs jumped!") == [
        *("determiner", "other word", "name", "symbol", "preposition", "code", "preposition", "name", "symbol"),
        *("-ing", "-ly", "symbol", "number", "other word", "-ed", "symbol"),
    ]
    assert set(classes_of("it isn't there, and 2 of the very old ones walked slowly by Rome running X9!")) <= set(
        CLASSES
    )
    assert content_words("The dog and the other dog are in Rome's park") == {"dog", "rome's", "park"}


def test_facts_counted():
    found = facts_counted("Two small wooden boats on the left of a white pier, with a gull above the water")
    assert found == {"content words": 9, "attributes": 3, "numbers": 1, "relations": 2}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4), st.lists(st.integers(0, 9), min_size=4, max_size=4))
def test_divergence_is_scipys(a, b):
    if not sum(a) or not sum(b):
        with pytest.raises(ValueError, match="empty histogram"):
            jensen_shannon(dict(enumerate(a)), dict(enumerate(b)))
        return
    known = jensenshannon(a, b, base=2) ** 2
    assert jensen_shannon(dict(enumerate(a)), dict(enumerate(b))) == pytest.approx(np.nan_to_num(known), abs=1e-9)


def test_divergence_of_what_shares_nothing_is_one_bit():
    assert jensen_shannon({"a": 3}, {"b": 5}) == 1.0
    assert jensen_shannon({"a": 3, "b": 1}, {"a": 30, "b": 10}) == 0.0


def test_type_token_looks_at_so_many_words():
    texts = ["a b a", "b c d", "e"]
    assert type_token(texts, 3) == pytest.approx(2 / 3)
    assert type_token(texts, 6) == pytest.approx(4 / 6)
    with pytest.raises(ValueError, match="7 words are not 8"):
        type_token(texts, 8)


TEXTS = ["a red dog", "a red cat", "the red dog runs", "a blue dog"]


def slow_probability(texts, context, word):
    """The definition, by counting through all texts each time."""
    padded = [[START, START, *words_of(text), END] for text in texts]
    letters = Counter("".join(f"{word} " for words in padded for word in words[2:-1]))
    total, kinds = sum(letters.values()), len(letters)

    def spelt():
        if word == END:
            return 1 / (1 + total)
        return math.prod((letters[letter] + kinds / 64) / (total + kinds) for letter in f"{word} ")

    def p(some):
        after = [
            words[at]
            for words in padded
            for at in range(2, len(words))
            if not some or tuple(words[at - len(some) : at]) == some
        ]
        lower = p(some[1:]) if some else spelt()
        if not after:
            return lower
        return (after.count(word) + len(set(after)) * lower) / (len(after) + len(set(after)))

    return p(tuple(context))


@pytest.mark.parametrize(
    ("context", "word"),
    [(("a", "red"), "dog"), (("a", "red"), "zebra"), (("red", "dog"), END), (("x", "y"), "dog"), ((START, START), "a")],
)
def test_probabilities_are_those_of_the_definition(context, word):
    assert Trigrams(TEXTS).probability(context, word) == pytest.approx(slow_probability(TEXTS, context, word))


def test_probabilities_of_known_words_leave_something_to_others():
    model = Trigrams(TEXTS)
    known = sum(
        model.probability(("a", "red"), word) for word in ("a", "red", "dog", "cat", "the", "runs", "blue", END)
    )
    assert 0.8 < known < 1


def test_texts_like_those_it_knows_say_fewer_bits():
    model = Trigrams(TEXTS * 5)
    like, words = model.bits("a red dog")
    other, _ = model.bits("zebras galloping westwards")
    assert words == 4
    assert like < other / 3
    assert model.bits("a red dog")[0] == pytest.approx(
        -sum(
            math.log2(model.probability(c, w))
            for c, w in [((START, START), "a"), ((START, "a"), "red"), (("a", "red"), "dog"), (("red", "dog"), END)]
        )
    )
    with pytest.raises(ValueError, match="without a word"):
        Trigrams(["", "..."])
