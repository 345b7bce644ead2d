import numpy as np
import pytest

from reverie.datasets.captioned import load_captioned
from reverie.evaluate.captioning import _facts
from reverie.smallworld.describe import describe
from reverie.smallworld.scene import sample
from reverie.smallworld.slots import KINDS, facts_of, facts_said, slot_f1, slot_f1_each


@pytest.mark.parametrize("style", ["short", "human", "long"])
def test_every_fact_of_a_true_sentence_is_true(style):
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(300):
        scene = sample(rng)
        said, true = facts_said(describe(scene, style, rng)), facts_of(scene)
        assert said
        assert said <= true, (describe(scene, style, rng), said - true)
        kinds |= {kind for kind, _ in said}
        if style == "long":  # says all there is but where each thing lies
            assert {fact for fact in true if fact[0] != "relation"} <= said
    assert kinds == set(KINDS)


def test_what_is_said():
    text = "A photo of two small red circles, and a blue star on the left. The blue star is right of the green cross!"
    assert facts_said(text) == {
        ("object", "circle"),
        ("object", "star"),
        ("object", "cross"),
        ("attribute", "red circle"),
        ("attribute", "small red circle"),
        ("attribute", "blue star"),
        ("attribute", "green cross"),
        ("count", "2 red circle"),
        ("count", "1 blue star"),
        ("relation", "blue star on the left"),
        ("relation", "green cross left of blue star"),
    }
    assert facts_said("a ring above a small ring on a gray background") == {
        ("object", "ring"),
        ("attribute", "gray background"),
    }
    assert facts_said("a dog") == frozenset()


def test_f1_is_exact():
    said = [facts_said("a red circle"), facts_said("a large blue star on a white background")]
    true = [facts_said("a large red circle"), facts_said("two blue stars on a black background")]
    scores = slot_f1(said, true)
    assert scores["slot_f1_object"] == 1.0
    assert scores["slot_f1_attribute"] == pytest.approx(2 * 2 / (4 + 4))
    assert scores["slot_f1_count"] == pytest.approx(2 * 1 / (2 + 2))
    assert scores["slot_f1_relation"] is None
    assert scores["slot_f1"] == pytest.approx(2 * 5 / (8 + 8))
    assert slot_f1_each(said, true) == [pytest.approx(2 * 3 / 7), pytest.approx(2 * 2 / 9)]


def test_photos_know_their_scenes():
    photos = load_captioned("smallworld:street:12:held")
    for scene, texts in zip(photos.scenes, photos.references, strict=True):
        assert all(facts_said(text) <= facts_of(scene) for text in texts)
    (metric, value, each), *_ = _facts([texts[0] for texts in photos.references], photos)
    assert metric == "slot_f1"
    assert 0.3 < value < 1
    assert len(each) == 12
