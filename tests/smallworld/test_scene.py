import itertools
import math

import numpy as np
import pytest

from reverie.smallworld.scene import (
    BACKGROUNDS,
    PLACES,
    RELATIONS,
    SIZES,
    Scene,
    Thing,
    class_names,
    place,
    relation,
    sample,
)


def scenes(count: int, num: int = 200) -> list[Scene]:
    rng = np.random.default_rng(count)
    return [sample(rng, count) for _ in range(num)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_things_never_touch_and_stay_inside(count):
    for scene in scenes(count):
        assert len(scene.things) == count
        assert scene.background in BACKGROUNDS
        for thing in scene.things:
            low, high = SIZES[count][thing.size]
            assert low <= thing.radius <= high
            assert min(thing.x, thing.y, 1 - thing.x, 1 - thing.y) >= thing.radius
        for a, b in itertools.combinations(scene.things, 2):
            assert math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_groups_hold_every_thing_once_under_its_name(count):
    for scene in scenes(count):
        assert sorted(itertools.chain(*scene.groups), key=repr) == sorted(scene.things, key=repr)
        assert all(len({thing.name for thing in group}) == 1 for group in scene.groups)
        assert len({group[0].name for group in scene.groups}) == len(scene.groups)
        # Two sizes of one name could not be told as "three small red circles".
        assert all(len({thing.size for thing in group}) == 1 for group in scene.groups)


def test_relation_turns_round_with_its_things():
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    seen = set()
    for scene in scenes(2):
        a, b = scene.things
        assert relation(b, a) == opposite[relation(a, b)]
        seen.add(relation(a, b))
        # What is left of something ends before it begins, so nobody could see it otherwise.
        if relation(a, b) == "left of":
            assert a.x + a.radius < b.x - b.radius
        if relation(a, b) == "above":
            assert a.y + a.radius < b.y - b.radius
    assert seen == set(RELATIONS)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.5, 0.5, "in the middle"),
        (0.2, 0.55, "on the left"),
        (0.8, 0.5, "on the right"),
        (0.45, 0.2, "at the top"),
        (0.5, 0.75, "at the bottom"),
    ],
)
def test_place(x, y, words):
    assert place(Thing("circle", "red", "small", x, y, 0.2)) == words


def test_one_thing_is_found_at_every_place():
    places = [place(scene.things[0]) for scene in scenes(1, 400)]
    assert {words: places.count(words) > 30 for words in PLACES} == dict.fromkeys(PLACES, True)


def test_the_first_thing_is_the_one_asked_for():
    rng = np.random.default_rng(0)
    for name in class_names():
        assert sample(rng, first=name).things[0].name == name
    assert len(set(class_names())) == 64


def test_same_generator_same_scene():
    first, second = (sample(np.random.default_rng(5)) for _ in range(2))
    assert first == second
    assert first != sample(np.random.default_rng(6))
