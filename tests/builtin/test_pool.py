"""Boxes of a pool: on the pixels of the things, under the right names, and the same after a kill."""

import dataclasses
import re

import numpy as np
import pytest

from reverie.builtin import pool
from reverie.smallworld import render
from reverie.smallworld.judge import read
from reverie.smallworld.scene import sample


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 12)


def make(folder, num=36, camera="studio"):
    pool.make_boxed(folder, num, camera, 5, lambda kind, **facts: None)
    return pool.Boxed.open([folder], 16, seed=1)


def test_boxes_are_what_a_thing_adds_to_a_picture(monkeypatch):
    """With and without the last thing, under a light that does not change with what was drawn before it."""
    plain = dataclasses.replace(render.CAMERAS["studio"], light=(1.0, 1.0))
    monkeypatch.setitem(render.CAMERAS, "studio", plain)
    for seed in range(30):
        scene = sample(np.random.default_rng(seed))
        whole = render.render(scene, "studio", seed)
        less = render.render(dataclasses.replace(scene, things=scene.things[:-1]), "studio", seed)
        rows, columns = np.nonzero(np.abs(whole.image.astype(int) - less.image).max(2) > 20)
        tight = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        # A box leaves out what covers less than half of its pixels, such as the tips of a star.
        assert np.abs(whole.boxes[-1] - tight).max() <= 2, seed
        np.testing.assert_array_equal(whole.boxes[:-1], less.boxes)


def test_names_and_boxes_are_those_of_the_picture(small_chunks, tmp_path):
    made = make(tmp_path)
    batch = next(made.iterate(0))
    assert batch["images"].shape == (16, 3, 64, 64)
    right = 0
    for image, boxes, names in zip(batch["images"], batch["boxes"], batch["names"], strict=True):
        assert boxes.shape == (len(names), 4)
        seen = {thing.name: np.array(thing.box) * 64 for thing in read(image.permute(1, 2, 0).numpy()).things}
        right += len(seen) == len(set(names)) and all(
            name in seen and (names.count(name) > 1 or np.abs(seen[name] - box).max() <= 3)
            for name, box in zip(names, boxes.numpy(), strict=True)
        )
    assert right >= 14  # the judge has not learnt to be perfect
    counts = [len(things) for things in made.things]
    assert {0, 1, 2, 3, 4} >= set(counts) >= {1, 2, 3, 4}


def test_a_killed_pool_goes_on(small_chunks, tmp_path):
    whole = make(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pool.make_boxed(tmp_path / "killed", 36, "studio", 5, _killed_after(24))
    again = make(tmp_path / "killed")
    assert whole.things == again.things
    np.testing.assert_array_equal(np.stack(whole.images), np.stack(again.images))


def _killed_after(count):
    def report(kind, done, total):
        if done == count:
            raise KeyboardInterrupt

    return report


def test_batches_by_position(small_chunks, tmp_path):
    made = make(tmp_path)
    stream = made.iterate(0)
    next(stream)
    for one, other in zip(next(stream).values(), next(made.iterate(1)).values(), strict=True):
        assert str(one) == str(other)


def quiet(kind, **facts):
    """Nobody listens."""


def test_several_processes_draw_the_same(small_chunks, tmp_path):
    whole = make(tmp_path / "one")
    pool.make_boxed(tmp_path / "two", 36, "studio", 5, quiet, workers=2)
    again = pool.Boxed.open([tmp_path / "two"], 16, seed=1)
    assert whole.things == again.things
    np.testing.assert_array_equal(np.stack(whole.images), np.stack(again.images))


def test_a_number_of_things_and_an_end_in_time(small_chunks, tmp_path):
    pool.make(tmp_path, 36, "studio", ("long",), 5, quiet, things=2, until=0.0)
    made = pool.Pool.open([tmp_path], 4, seed=1)
    assert len(made.captions) == 12  # the first chunk is made, however late it is
    image = made.images[0][0].transpose(1, 2, 0)
    assert len(read(image).things) == 2


def test_few_scenes_are_a_chunk_all_the_same(small_chunks, tmp_path):
    """Of a number of scenes some pools take a share, which may be less than a chunk."""
    pool.make(tmp_path, 9, "studio", ("long",), 5, quiet)
    assert len(pool.Pool.open([tmp_path], 4, seed=1).captions) == 12


def test_other_captions_are_of_the_same_scenes(small_chunks, tmp_path):
    for things in (None, 2):
        folder = tmp_path / str(things)
        pool.make(folder, 24, "studio", ("long",), 5, quiet, things=things)
        long = pool.Pool.open([folder], 4, seed=1).captions
        again = pool.captions(folder, ("long",), 5, things)
        assert [len(texts) for texts in again] == [pool.CAPTIONS_EACH] * 24
        strip = re.compile("^(a picture of|an image of) ")  # the opening is drawn, all else is the scene's
        assert [strip.sub("", texts[0]) for texts in again] == [strip.sub("", texts[0]) for texts in long]
        alt = pool.captions(folder, ("alt",), 5, things)
        assert alt == pool.captions(folder, ("alt",), 5, things)
        assert not {text for texts in alt for text in texts} & {text for texts in long for text in texts}
