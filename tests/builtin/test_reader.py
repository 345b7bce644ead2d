"""Targets of known scenes and of paintings, and that a reader learns to read."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from reverie.builtin.reader import (
    NONE,
    OPEN,
    LearnToRead,
    Scenes,
    ToRead,
    make_reader,
    reading_loss,
    share_right,
    targets_as_read,
    targets_of,
)  # fmt: skip
from reverie.smallworld.judge import read
from reverie.smallworld.render import render
from reverie.smallworld.scene import COLOURS, SHAPES, Scene, Thing, sample

STAR, RING, RED, BLUE = (
    SHAPES.index("star"),
    SHAPES.index("ring"),
    list(COLOURS).index("red"),
    list(COLOURS).index("blue"),
)


def thing(shape, colour, x, y):
    return Thing(shape, colour, "large", x, y, 0.2)


def test_one_thing_is_in_all_places_and_two_are_on_their_axis():
    star, ring = thing("star", "red", 0.7, 0.5), thing("ring", "blue", 0.25, 0.45)
    assert targets_of(Scene((star,), "white")) == [STAR] * 4 + [RED] * 4 + [0]
    beside = [RING, STAR, OPEN, OPEN, BLUE, RED, OPEN, OPEN, 1]
    assert targets_of(Scene((star, ring), "white")) == targets_of(Scene((ring, star), "white")) == beside
    above = Scene((star, thing("ring", "blue", 0.6, 0.1)), "white")
    assert targets_of(above) == [OPEN, OPEN, RING, STAR, OPEN, OPEN, BLUE, RED, 1]


@pytest.mark.parametrize("things", [1, 2])
def test_a_render_is_read_as_its_scene(things):
    for seed in range(20):
        scene = sample(np.random.default_rng(seed), num_things=things)
        targets = targets_of(scene)
        assert targets_as_read(read(render(scene, "studio", seed).image), targets) == targets


def test_what_is_not_there_is_no_shape():
    empty = read(np.full((64, 64, 3), 240, np.uint8))
    assert (
        targets_as_read(empty, targets_of(Scene((thing("star", "red", 0.5, 0.5),), "white"))) == [NONE] * 4 + [OPEN] * 5
    )
    two = Scene((thing("star", "red", 0.7, 0.5), thing("ring", "blue", 0.25, 0.5)), "white")
    assert targets_as_read(empty, targets_of(two)) == [NONE, NONE, OPEN, OPEN] + [OPEN] * 5


def test_the_loss_is_that_of_a_slow_loop():
    torch.manual_seed(0)
    answers = make_reader(4, (8, 8, 8))(torch.randn(3, 4, 16, 16))
    targets = torch.tensor([
        [STAR] * 4 + [RED] * 4 + [0], [RING, STAR, OPEN, OPEN, BLUE, RED, OPEN, OPEN, 1], [NONE, NONE, OPEN, OPEN] + [OPEN] * 5,
    ])  # fmt: skip
    shapes, colours, numbers = [], [], []
    for row, wanted in enumerate(targets.tolist()):
        for place in range(4):
            if wanted[place] != OPEN:
                shapes.append(-answers.shapes[row, place].log_softmax(0)[wanted[place]])
            if wanted[4 + place] != OPEN:
                colours.append(-answers.colours[row, place].log_softmax(0)[wanted[4 + place]])
        if wanted[8] != OPEN:
            numbers.append(-answers.number[row].log_softmax(0)[wanted[8]])
    slow = sum(shapes) / len(shapes) + 0.5 * sum(colours) / len(colours) + 0.1 * sum(numbers) / len(numbers)
    assert reading_loss(answers, targets).item() == pytest.approx(slow.item(), rel=1e-5)


def test_a_reader_learns_a_mark_and_is_saved(tmp_path):
    torch.manual_seed(0)
    targets = torch.tensor([[k % 8] * 4 + [k % 8] * 4 + [0] for k in range(64)])
    latents = torch.zeros(64, 4, 16, 16)
    for row in range(64):
        latents[row, :, :, 2 * (row % 8) : 2 * (row % 8) + 2] = 4.0
    some = Scenes(latents.half(), torch.zeros(64, 1, 3, dtype=torch.int16), targets)
    learner, batches = LearnToRead(widths=(8, 8, 16)), ToRead([some], 16, 0)
    net = learner.build()
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    for batch, _ in zip(batches.iterate(0), range(60), strict=False):
        optimizer.zero_grad()
        learner.losses(net, batch)["loss"].backward()
        optimizer.step()
    assert share_right(net(latents), targets) > 0.9
    learner.save(net, tmp_path)
    again = make_reader(4, (8, 8, 16), tmp_path)
    torch.testing.assert_close(again(latents).shapes, net(latents).shapes)
    one, same = next(batches.iterate(5)), next(batches.iterate(5))
    assert torch.equal(one["latents"], same["latents"])


TWO_THREADS = """
import torch
from reverie.builtin.reader import Reader, reading_loss
assert torch.get_num_threads() == 2
reader = Reader(4, (8, 8, 16))
for _ in range(3):
    reading_loss(reader(torch.randn(11, 4, 16, 16)), torch.zeros(11, 9).long()).backward()
"""


def test_two_threads_learn_from_a_batch_that_they_cannot_halve():
    # In a process of its own: what this is about ends the process, without a word.
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", TWO_THREADS], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_block_goes_past_with_a_stride():
    torch.manual_seed(0)
    block = make_reader(4, (8, 16, 16)).body[2]
    images = torch.randn(2, 8, 6, 6)
    inner = torch.nn.functional.silu(block.first_norm(block.first(torch.nn.functional.silu(images))))
    past = torch.nn.functional.conv2d(images, block.past.weight, block.past.bias, stride=2)
    torch.testing.assert_close(block(images), past + block.second_norm(block.second(inner)))
