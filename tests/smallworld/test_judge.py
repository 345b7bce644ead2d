import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from reverie.builtin.check import check_judge
from reverie.errors import InputError
from reverie.smallworld.describe import describe
from reverie.smallworld.judge import Facts, agrees, facts, judge, read
from reverie.smallworld.render import render
from reverie.smallworld.scene import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing, place, relation, sample


def test_gates():
    rows = {row.gate: row for row in check_judge(seed=1, num=100)}
    accuracies = {name: row for name, row in rows.items() if row.unit == "fraction"}
    assert len(accuracies) == 4
    # At 100 pictures one error costs 1 %, so the gate of 99 % allows one.
    assert all(row.passed is not False for row in accuracies.values()), accuracies


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_shape_on_every_background(shape, background):
    for colour in COLOURS:
        scene = Scene((Thing(shape, colour, "large", 0.45, 0.55, 0.3),), background)
        reading = read(render(scene, seed=11).image)
        assert [(thing.name, reading.background) for thing in reading.things] == [(f"{colour} {shape}", background)]


def test_where_and_how_large():
    rng = np.random.default_rng(2)
    off, sizes = [], []
    for seed in range(60):
        scene = sample(rng, 1)
        picture, thing = render(scene, seed=seed), scene.things[0]
        (seen,) = read(picture.image).things
        off.append(max(abs(seen.x - thing.x), abs(seen.y - thing.y), abs(seen.radius - thing.radius)))
        sizes.append(seen.size == thing.size)
        assert np.abs(np.array(seen.box) - picture.boxes[0] / 64).max() < 3.5 / 64
        assert place(seen) == place(thing)
    assert np.median(off) < 0.01
    assert np.mean(sizes) > 0.95


@pytest.mark.parametrize("side", [32, 48, 128, 200])
def test_any_size(side):
    rng = np.random.default_rng(3)
    right = []
    for seed in range(20):
        scene = sample(rng, 1)
        caption = describe(scene, "long", rng)
        right.append(judge(render(scene, seed=seed, side=side).image, caption).right)
    assert np.mean(right) >= 0.9


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64), np.uint8),
        np.zeros((3, 64, 64), np.uint8),
        np.zeros((16, 64, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="expected uint8"):
        read(image)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_picture_shows_nothing(background):
    image = np.full((64, 64, 3), BACKGROUNDS[background], np.uint8)
    image[10:13, 20:23] = COLOURS["red"]  # a speck
    reading = read(image)
    assert (reading.things, reading.background) == ((), background)
    assert not judge(image, "a red square").right


def test_what_has_no_shape_or_no_colour_is_not_given_one():
    y, x = np.mgrid[0:64, 0:64]
    blot = np.full((64, 64, 3), 240, np.uint8)
    blot[(np.hypot(x - 32, y - 32) < 12) | ((y > 30) & (y < 34) & (x > 4)) | (x + y == 64)] = COLOURS["red"]
    (seen,) = read(blot).things
    assert (seen.shape, seen.colour) == ("", "red")
    gray_circle = np.full((64, 64, 3), 240, np.uint8)
    gray_circle[np.hypot(x - 32, y - 32) < 14] = 90
    (seen,) = read(gray_circle).things
    assert (seen.shape, seen.colour) == ("circle", "")


def test_noise_is_not_a_thing():
    image = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert all(thing.shape == "" for thing in read(image).things)


@pytest.mark.parametrize("style", ["short", "human", "long"])
@pytest.mark.parametrize("count", [1, 2])
def test_facts_are_what_the_caption_says(style, count):
    rng = np.random.default_rng(5)
    for _ in range(150):
        scene = sample(rng, count)
        caption = describe(scene, style, rng)
        said = facts(caption)
        assert said.names == tuple(thing.name for thing in scene.things)
        assert said.background == (scene.background if "background" in caption else None)
        assert said.sizes in ((), tuple(thing.size for thing in scene.things))
        assert bool(said.sizes) == ("small" in caption or "large" in caption)
        if count == 1:
            assert said.relation is None
            assert said.place in (None, place(scene.things[0]))
            assert (said.place is None) == (place(scene.things[0]) not in caption)
        else:
            assert said.place is None
            assert said.relation in (None, relation(*scene.things))


def test_facts_of_counted_things():
    assert facts("two small red crosses and a small blue star on a white background") == Facts(
        ("red cross", "red cross", "blue star"), ("small", "small", "small"), None, None, "white"
    )


@pytest.mark.parametrize("caption", ["", "a photo", "a circle on a white background", "stock photo img 1 2 3 4"])
def test_a_caption_without_things_cannot_be_judged(caption):
    with pytest.raises(InputError, match="nothing to judge"):
        facts(caption)


PAIR = Scene(
    (Thing("circle", "red", "small", 0.25, 0.5, 0.15), Thing("square", "blue", "large", 0.75, 0.5, 0.21)), "white"
)


@pytest.fixture(scope="module")
def reading():
    return read(render(PAIR, seed=1).image)


class TestAgrees:
    right = Facts(("red circle", "blue square"), ("small", "large"), None, "left of", "white")

    def test_all_right(self, reading):
        verdict = agrees(reading, self.right)
        assert verdict.right
        assert (verdict.relation, verdict.background, verdict.sizes, verdict.place) == (True, True, True, None)

    def test_silence_is_not_judged(self, reading):
        verdict = agrees(reading, Facts(("blue square", "red circle"), (), None, None, None))
        assert verdict.right
        assert (verdict.relation, verdict.background, verdict.sizes, verdict.place) == (None, None, None, None)

    @pytest.mark.parametrize(
        ("change", "wrong"),
        [
            ({"names": ("red circle", "blue star")}, {"shapes", "things", "relation", "sizes"}),
            ({"names": ("red circle", "cyan square")}, {"colours", "things", "relation", "sizes"}),
            ({"names": ("blue circle", "red square")}, {"things", "relation", "sizes"}),
            ({"names": ("blue square", "red circle")}, {"relation", "sizes"}),
            ({"relation": "above"}, {"relation"}),
            ({"background": "gray"}, {"background"}),
        ],
    )
    def test_each_wrong_fact_is_found(self, reading, change, wrong):
        verdict = agrees(reading, dataclasses.replace(self.right, **change))
        assert not verdict.right
        assert {part for part, value in dataclasses.asdict(verdict).items() if value is False} == wrong

    def test_a_thing_too_many_is_wrong(self, reading):
        assert not agrees(reading, Facts(("red circle",), (), None, None, None)).right


def test_touching_a_soft_edge_does_not_change_the_reading():
    scene = Scene((Thing("ring", "cyan", "small", 0.4, 0.5, 0.18),), "black")
    image = ndimage.gaussian_filter(render(scene, seed=2).image.astype(np.float32), (1, 1, 0))
    (seen,) = read(image.round().astype(np.uint8)).things
    assert seen.name == "cyan ring"
