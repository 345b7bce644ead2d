"""Numbers about captions, worked out by hand."""

from __future__ import annotations

import pytest

from reverie.recaption.checks import COCO, Things, quality


def test_things_are_found_by_name_the_longest_first_in_singular_and_plural() -> None:
    things = Things(COCO)
    assert things.named("Two dogs and a hot dog on a bench") == {"dog", "hot dog", "bench"}
    assert things.named("a woman with a kite") == {"person", "kite"}
    assert things.named("a carpet") == frozenset()
    assert len(COCO) == 80
    small = Things(["red circle", "blue square"])
    assert small.named("two large red circles , on a grey background") == {"red circle"}
    assert Things([]).named("anything") == frozenset()


def test_what_is_listed_is_known_by_the_names_that_sentences_are_read_by() -> None:
    things = Things(COCO)
    listed = ["Sofa", "two dogs", "chandelier"]
    assert things.there(listed, "a cat") == {"couch", "dog"}
    assert things.there([], "a cat and a chandelier") == {"cat"}
    found = quality(["a couch and a dog"], [things.there(listed, "")], things, [5], 77)
    assert (found["hallucinated"], found["recall"]) == (0, 1)


def test_hallucination_recall_length_variety_and_repetition() -> None:
    said = ["a dog and a cat", "a dog", "a very very very red kite", ""]
    true = [{"dog"}, {"dog", "bench"}, {"kite"}, {"bus"}]
    found = quality(said, true, Things(COCO), [6, 3, 80, 0], 77)
    assert found == {
        "words": pytest.approx(13 / 4),  # 5, 2, 6 and 0
        "variety": pytest.approx(7 / 13),  # a, dog, and, cat, very, red, kite
        "over_limit": 0.25,
        "repetition": 0.25,
        "empty": 0.25,
        "hallucinated": pytest.approx(1 / 4),  # the cat, of dog, cat, dog and kite
        "hallucinating": 0.25,
        "recall": pytest.approx(3 / 5),
    }


def test_what_there_is_nothing_of_is_none() -> None:
    found = quality(["a red thing"], [set()], Things(COCO), [4], 77)
    assert (found["hallucinated"], found["recall"], found["hallucinating"]) == (None, None, 0.0)
    assert set(quality([], [], Things(COCO), [], 77).values()) == {None}
