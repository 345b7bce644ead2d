import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel

from reverie.errors import InputError
from reverie.learn import views
from reverie.learn.fit import Fit, FitSpeed, fit
from reverie.learn.mocov2 import MoCoV2
from reverie.models.backbones import load_backbone, represent
from tests.learn.conftest import Pictures

LEARNER = MoCoV2("resnet-tiny", 32, queue=32, momentum=0.9, head_out=16, batchnorm_groups=2)
SETTINGS = Fit(8, 3e-3, speed=FitSpeed(checkpoint_every_s=0.0))
QUICK = Fit(8, 3e-3)


class Ends(Pictures):
    """The machine goes away before this step."""

    def __init__(self, end: int) -> None:
        super().__init__(8, 1)
        self.end = end

    def iterate(self, start):
        for step, batch in enumerate(super().iterate(start), start):
            if step == self.end:
                raise ConnectionError("gone")
            yield batch


def curve(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


class Rows(nn.Module):
    """Stands for network and slow copy: hands on what it is given."""

    def forward(self, rows):
        return rows


def test_queue_labels_and_loss_are_those_of_a_slow_reference(monkeypatch):
    """The queue as a list: newest at the end, oldest out first. The positive is a view's own key, which is not in the list."""
    learner = dataclasses.replace(LEARNER, queue=12, head_out=6, batchnorm_groups=1)
    torch.manual_seed(0)
    net = learner.build()
    net.query_encoder, net.key_encoder, net.groups = Rows(), Rows(), 1
    views_given = iter(torch.randn(14, 4, 6).unbind())
    monkeypatch.setattr("reverie.learn.mocov2.views.strong", lambda *_: next(views_given))
    queue = [row.tolist() for row in net.queue]
    pairs = []

    def spy(module, given, found):
        pairs.append(tuple(part.detach().clone() for part in found))

    net.register_forward_hook(spy)
    for step in range(7):
        named = learner.losses(net, {"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)})
        total, right = 0.0, 0
        queries, keys = pairs[-1]
        for query, key in zip(queries.tolist(), keys.tolist(), strict=True):
            likeness = [sum(a * b for a, b in zip(query, other, strict=True)) / 0.2 for other in (key, *queue)]
            total -= likeness[0] - math.log(sum(math.exp(value) for value in likeness))
            right += max(likeness) == likeness[0]
        assert float(named["loss"].detach()) == pytest.approx(total / 4, rel=1e-5), step
        assert float(named["accuracy"]) == pytest.approx(right / 4)
        queue = [*queue[4:], *keys.tolist()]
        start = int(net.oldest)
        found = torch.cat([net.queue[start:], net.queue[:start]])  # from the oldest on
        torch.testing.assert_close(found, torch.tensor(queue))


def test_rows_are_unit_and_keys_carry_no_gradient(pictures):
    net = LEARNER.build()
    images = torch.rand(8, 3, 32, 32)
    queries, keys = net(images, images)
    for rows in (queries, keys):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(8))
    assert queries.requires_grad
    assert not keys.requires_grad
    assert all(not weight.requires_grad for weight in net.key_encoder.parameters())


def test_keys_are_the_slow_average_of_the_network(pictures, tmp_path):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(MoCoV2):
        def after_step(self, net):
            super().after_step(net)
            seen.append(
                [
                    {name: value.clone() for name, value in part.named_parameters()}
                    for part in (net.query_encoder, net.key_encoder)
                ]
            )

    learner = Watched(**vars(LEARNER))
    torch.manual_seed(0)
    fit(learner, pictures(8, 1), dataclasses.replace(QUICK, steps=5), tmp_path, seed=3)
    name = "backbone.embedder.embedder.convolution.weight"
    average = None
    for number, (quick, slow) in enumerate(seen):
        if number == 0:  # both began alike, so the start follows from the first two
            average = (slow[name] - 0.1 * quick[name]) / 0.9
        average = 0.9 * average + 0.1 * quick[name]
        torch.testing.assert_close(slow[name], average)
    assert not torch.equal(seen[-1][0][name], seen[-1][1][name])


def test_groups_have_their_own_statistics_and_keys_are_shuffled_between_them():
    torch.manual_seed(0)
    net = LEARNER.build().train()
    images = torch.rand(8, 3, 32, 32)
    net.key_encoder.load_state_dict(net.query_encoder.state_dict())
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        torch.manual_seed(5)
        queries, keys = net(images, images)
        torch.manual_seed(5)
        order = torch.randperm(8)
        net.load_state_dict(state)
        expected = torch.cat([net.query_encoder(images[:4]), net.query_encoder(images[4:])])
        torch.testing.assert_close(queries, F.normalize(expected, dim=1))
        back = {int(place): row for row, place in enumerate(order)}
        slow = torch.cat([net.key_encoder(images[order[:4]]), net.key_encoder(images[order[4:]])])
        torch.testing.assert_close(keys, F.normalize(torch.stack([slow[back[row]] for row in range(8)]), dim=1))
        assert not torch.allclose(queries, keys, atol=1e-3)  # the same images among others


def test_a_vit_has_no_groups(pictures):
    learner = dataclasses.replace(LEARNER, backbone="vit-tiny", batchnorm_groups=8)
    net = learner.build()
    assert net.groups == 1
    learner.check_batch(4)
    named = learner.losses(net, next(pictures(4, 1).iterate(0)))
    named["loss"].backward()
    assert [name for name, weight in net.query_encoder.named_parameters() if weight.grad is None] == []


class Blocks:
    """Batches of 16 from 96 pictures of four coloured blocks, so that none is in the queue when it comes again."""

    def iterate(self, start):
        colours = torch.rand(96, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        images = (255 * F.interpolate(colours, size=(32, 32))).to(torch.uint8)
        while True:
            yield {"images": images[(16 * start + torch.arange(16)) % 96]}
            start += 1


@pytest.mark.parametrize(("backbone", "kind"), [("vit-tiny", "vit"), ("resnet-tiny", "resnet")])
def test_it_learns_and_its_weights_open_anywhere(pictures, tmp_path, monkeypatch, backbone, kind):
    monkeypatch.setattr("reverie.learn.mocov2.views.strong", lambda images, side, _: views.light(images, side, 0.7))
    learner = dataclasses.replace(LEARNER, backbone=backbone, momentum=0.99, batchnorm_groups=1)
    steps = 24 if kind == "vit" else 2  # BatchNorm takes longer to begin with
    net, _ = fit(learner, Blocks(), Fit(steps, 5e-4, 4), tmp_path, seed=0)
    rows = curve(tmp_path)
    if steps > 2:
        assert sum(row["loss"] for row in rows[-5:]) < sum(row["loss"] for row in rows[:5]) - 5 * 0.3
        assert sum(row["accuracy"] for row in rows[-5:]) > sum(row["accuracy"] for row in rows[:5])
    learner.save(net, tmp_path / "weights")
    images = next(pictures(4, 1).iterate(90))["images"]
    with torch.no_grad():
        torch.testing.assert_close(
            represent(load_backbone(tmp_path / "weights"), images), represent(net.query_encoder.backbone, images)
        )
    assert AutoModel.from_pretrained(tmp_path / "weights").config.model_type == kind


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed, with more steps than it takes to fill the queue."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(LEARNER, Pictures(8, 1), SETTINGS, folder, seed=3)


def same(whole, folder, net):
    assert curve(folder) == [pytest.approx(row, abs=1e-6) for row in curve(whole[0])]
    for (name, a), (_, b) in zip(whole[1].net.state_dict().items(), net.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("last", [1, 6])
def test_slow_copy_and_queue_survive_a_checkpoint(whole, tmp_path, last):
    with pytest.raises(ConnectionError):
        fit(LEARNER, Ends(last), SETTINGS, tmp_path, seed=3)
    same(whole, tmp_path, fit(LEARNER, Pictures(8, 1), SETTINGS, tmp_path, seed=3).net)


def test_kill_9_and_go_on_equals_an_undisturbed_run(whole, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "tests.learn.test_mocov2", str(tmp_path)], env=environment)
    path, deadline = tmp_path / "curve.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (tmp_path / "latest").exists() and path.exists() and path.read_text().count("\n") >= 3:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the process ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(curve(tmp_path)) < 8
    same(whole, tmp_path, fit(LEARNER, Pictures(8, 1), SETTINGS, tmp_path, seed=3).net)


def test_slips_are_named(pictures):
    for fields in ({"momentum": 1.0}, {"temperature": 0.0}, {"min_area": 1.5}, {"queue": 0}, {"batchnorm_groups": 0}):
        with pytest.raises(InputError):
            dataclasses.replace(LEARNER, **fields)
    with pytest.raises(InputError, match="queue of 32 keys is not a multiple of a batch of 64 images"):
        LEARNER.check_batch(64)  # smaller than the batch
    with pytest.raises(InputError, match="queue of 32 keys is not a multiple of a batch of 12 images"):
        LEARNER.check_batch(12)
    with pytest.raises(InputError, match="not a multiple of a batch of 6"):
        LEARNER.losses(LEARNER.build(), next(pictures(6, 1).iterate(0)))
    with pytest.raises(InputError, match="16 images does not divide into 16 groups of 2"):
        dataclasses.replace(LEARNER, batchnorm_groups=16).check_batch(16)


class Slow(Pictures):
    def iterate(self, start):
        for batch in super().iterate(start):
            time.sleep(0.2)
            yield batch


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(LEARNER, Slow(8, 1), SETTINGS, Path(sys.argv[1]), seed=3)
