import re

import numpy as np
import pytest

from reverie.smallworld.describe import STYLES, describe, grammatical, vocabulary
from reverie.smallworld.scene import COLOURS, SHAPES, Scene, Thing, place, relation, sample


def lone_groups(rng, count, num):
    """Scenes of one thing, or of two different ones."""
    found = []
    while len(found) < num:
        scene = sample(rng, count)
        if len(scene.groups) == count:
            found.append(scene)
    return found


@pytest.mark.parametrize("style", ["short", "human"])
@pytest.mark.parametrize("count", [1, 2])
def test_captions_of_one_and_two_things_are_grammatical_and_not_when_shuffled(style, count):
    rng = np.random.default_rng(count)
    shuffled = []
    for scene in lone_groups(rng, count, 200):
        text = describe(scene, style, rng)
        assert grammatical(text), text
        assert scene.things[0].name in text
        words = text.split(" ")
        shuffled.append(grammatical(" ".join(rng.permutation(words))))
    # A shuffle may by chance give the same sentence (one time in six with three words), or swap the things.
    assert np.mean(shuffled) < 0.1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red",
        "red circle",
        "a orange circle",
        "a red circle on",
        "a red circle left of",
        "a red circle a blue square",
        "a mauve circle",
        "a red circle on a white background on a white background",
        "a red circle .",
    ],
)
def test_what_is_not_a_sentence(text):
    assert not grammatical(text)


def test_an_a_or_an():
    for colour in COLOURS:
        text = describe(
            Scene((Thing("star", colour, "small", 0.5, 0.5, 0.2),), "white"), "short", np.random.default_rng(0)
        )
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


@pytest.mark.parametrize("style", STYLES)
def test_every_word_is_in_the_vocabulary(style):
    rng, known = np.random.default_rng(3), set(vocabulary())
    for _ in range(300):
        text = describe(sample(rng, weights=(0.25, 0.25, 0.25, 0.25)), style, rng)
        assert set(text.split()) <= known, text
    assert list(vocabulary()) == sorted(known)


def test_long_captions_leave_nothing_out():
    rng = np.random.default_rng(4)
    for _ in range(200):
        scene = sample(rng, weights=(0.25, 0.25, 0.25, 0.25))
        text = describe(scene, "long", rng)
        assert f"{scene.background} background" in text
        for group in scene.groups:
            first = group[0]
            plural = "" if len(group) == 1 else "es" if first.shape.endswith("s") else "s"
            assert f"{first.size} {first.name}{plural}" in text
        if len(scene.things) == 1:
            assert place(scene.things[0]) in text
        if len(scene.things) == len(scene.groups) == 2:
            assert f" {relation(*scene.things)} " in text


def test_alt_text_leaves_out_more_than_half_of_the_things():
    rng = np.random.default_rng(5)
    named = [
        sum(word in SHAPES for word in describe(sample(rng, 4), "alt", rng).split()) / 4 for _ in range(500)
    ]  # fmt: skip
    assert 0.5 <= 1 - np.mean(named) <= 0.7


def test_about_a_tenth_of_the_facts_in_alt_text_are_wrong():
    rng = np.random.default_rng(6)
    shapes, colours = [], []
    for _ in range(2500):
        scene = sample(rng, 1)
        for word in describe(scene, "alt", rng).split():
            if word in SHAPES:
                shapes.append(word != scene.things[0].shape)
            if word in COLOURS:
                colours.append(word != scene.things[0].colour)
    # One draw in ten is a random word, which is right by chance one time in eight.
    assert np.mean(shapes) == pytest.approx(0.1 * 7 / 8, abs=0.025)
    assert np.mean(colours) == pytest.approx(0.1 * 7 / 8, abs=0.025)


def test_alt_text_carries_noise_and_the_other_styles_do_not():
    rng = np.random.default_rng(7)
    noise = re.compile(r"stock|download|photo by|shop|wallpaper|buy|new|img|dsc|jpg|untitled|png")
    scenes = [sample(rng) for _ in range(300)]
    assert np.mean([bool(noise.search(describe(scene, "alt", rng))) for scene in scenes]) > 0.6
    for style in ("short", "long", "human"):
        assert not any(noise.search(describe(scene, style, rng)) for scene in scenes)


@pytest.mark.parametrize("style", STYLES)
def test_same_generator_same_caption(style):
    scene = sample(np.random.default_rng(8), 3)
    texts = {describe(scene, style, np.random.default_rng(9)) for _ in range(3)}
    assert len(texts) == 1
