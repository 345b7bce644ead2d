from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from reverie.errors import InputError
from reverie.evaluate.asked import OPPOSITES, ClassReader, SmallWorldReader
from reverie.evaluate.observers import ClipPlaces, Judge, says_yes
from reverie.smallworld.describe import describe
from reverie.smallworld.render import render
from reverie.smallworld.scene import Scene, Thing, sample


def test_sentences_about_the_small_world():
    asked = SmallWorldReader()("Two small red circles left of a blue star, on a white background")
    assert asked.names == ("blue star", "red circle")
    assert asked.counts == {"red circle": 2, "blue star": 1}
    (placed,) = asked.placed
    assert placed.word == "left of"
    assert placed.false == "two small red circles right of a blue star on a white background"
    assert [question.true for question in asked.questions if question.about == "count"] == [
        "Are there exactly two red circles in the picture?",
        "Is there exactly one blue star in the picture?",
    ]
    same = SmallWorldReader()("a red circle left of a red circle")
    assert same.counts == {"red circle": 2}
    assert SmallWorldReader()("stock photo img 1 2 3 4").questions == ()
    assert SmallWorldReader()("red circle wallpaper hd").counts == {}


def test_the_judge_confirms_what_is_true_and_denies_what_is_false():
    rng, judge, right, denied = np.random.default_rng(0), Judge(), [], []
    for number in range(40):
        scene = sample(rng)
        picture = Image.fromarray(render(scene, "studio", number).image)
        for style in ("long", "human"):
            asked = judge.reader(describe(scene, style, rng))
            questions = asked.questions
            right += judge([picture] * len(questions), [question.true for question in questions])
            denied += judge([picture] * len(questions), [question.false for question in questions])
            sight = judge.look([picture])[0]
            assert len(judge.fit(picture, sight, "", asked)) == len(asked.placed)
    assert len(right) > 200
    assert np.mean([says_yes(answer) is True for answer in right]) > 0.97
    assert np.mean([says_yes(answer) is False for answer in denied]) > 0.97
    assert judge([picture], ["What is the weather like?"]) == ["I do not know"]


def test_what_the_judge_sees():
    scene = Scene((Thing("circle", "red", "large", 0.25, 0.5, 0.2), Thing("star", "blue", "large", 0.75, 0.5, 0.2)), "white")  # fmt: skip
    judge, picture = Judge(), Image.fromarray(render(scene, "studio", 0).image)
    sight = judge.look([picture])[0]
    assert sight.counts == {"red circle": 1, "blue star": 1}
    for text, fits in (("a red circle left of a blue star", [True]), ("a blue star left of a red circle", [False])):
        assert judge.fit(picture, sight, text, judge.reader(text)) == fits
    with pytest.raises(InputError, match="32 px and more, not of 20 x 20"):
        judge.look([Image.new("RGB", (20, 20))])


def test_sentences_about_classes_of_a_detector():
    reader = ClassReader(["person", "dog", "hot dog", "bus", "cherry"], {"person": ["man", "woman"]})
    asked = reader("A man with two large dogs, a hot dog and cherries behind buses")
    assert asked.names == ("person", "dog", "hot dog", "cherry", "bus")
    assert asked.counts == {"person": 1, "dog": 2, "hot dog": 1}
    assert [(each.word, each.false) for each in asked.placed] == [
        ("behind", "A man with two large dogs, a hot dog and cherries in front of buses")
    ]
    told = {question.true for question in asked.questions}
    assert {"Is there any bus in the picture?", "Are there exactly two dogs in the picture?"} <= told
    assert reader("a man and another man beside 12 dogs").counts == {"dog": 12}  # how many men is not said
    assert reader("the doghouse of busy people").names == ()
    assert reader("above all, a fine day").placed == ()  # places nothing that is known
    assert reader("a dog under a bus above a man").placed == ()  # two words: their opposites say nothing clear
    assert ClassReader([])("a dog").names == ()


def test_every_word_of_place_has_an_opposite_that_is_one():
    assert set(OPPOSITES.values()) <= set(OPPOSITES)
    assert all(word != other for word, other in OPPOSITES.items())


@pytest.mark.parametrize(
    ("answer", "said"),
    [("Yes.", True), ("no, there is none", False), ("I think yes", True), ("maybe", None), ("", None)],
)
def test_answers(answer, said):
    assert says_yes(answer) is said


class Alike:
    """An encoder whose texts fit by how many of their letters are a's."""

    revision, logit_scale = "alike@1", 1.0

    def images(self, pictures):
        import torch

        return torch.ones(len(pictures), 1)

    def texts(self, texts):
        import torch

        return torch.tensor([[float(text.count("a"))] for text in texts])


def test_a_true_caption_must_fit_clearly_better():
    reader, places = ClassReader(["dog"]), ClipPlaces(Alike(), "alike")
    picture = Image.new("RGB", (8, 8))

    def fits(text):
        return places.fit(picture, None, text, reader(text))

    assert fits("dog above") == [True]  # 1 a against none: P = 0.73
    assert fits("dog below") == [False]
    assert fits("dog over") == [False]  # as good as the other: P = 0.5
    assert fits("dog") == []
