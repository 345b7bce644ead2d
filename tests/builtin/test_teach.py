"""A painter learns from what is read in its paintings, the reader from the judge, and neither from the other's loss."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from reverie.builtin import teach, train
from reverie.builtin.reader import Scenes, targets_of
from reverie.builtin.teach import PaintAsRead, ToTeach
from reverie.errors import InputError
from reverie.learn.fit import FitSpeed
from reverie.learn.text_to_image import TextToImage
from reverie.learn.train_painter import Curriculum, LatentBatches
from reverie.models.names import BUILTIN
from reverie.smallworld.judge import judge
from reverie.smallworld.scene import sample
from tests.builtin.tiny_train import SETTINGS, make_tiny, stopped_after

PAINTER = BUILTIN / "painter"


@pytest.fixture(scope="module")
def learner():
    network = TextToImage(str(PAINTER / "vae"), str(PAINTER / "tokenizer"), latent_size=16, channels=(8, 16, 16), attention=(False, True, True), text_time=True)  # fmt: skip
    return PaintAsRead(network, sampler_steps=4, states=2, first=1, widths=(8, 8, 16), keep=8, again=7)


@pytest.fixture(scope="module")
def batch(learner):
    torch.manual_seed(0)
    scenes = []
    for things in (1, 2):
        targets = [targets_of(sample(np.random.default_rng(k), num_things=things)) for k in range(8)]
        ids = learner.painter.tokens(["a red circle"] * 8)[:, None]
        scenes.append(Scenes(torch.randn(8, 4, 16, 16).half(), ids, torch.tensor(targets)))
    sets = [LatentBatches(some.latents, some.token_ids, 0, 0) for some in scenes]
    batches = ToTeach(Curriculum(sets, {0: (0.5, 0.5)}, 4, 0), scenes, known=6, asked=5)
    first, again = next(batches.iterate(3)), next(batches.iterate(3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [len(first[name]) for name in ("latents", "known", "asked")] == [4, 6, 5]
    assert first["asked"][:, 8].tolist() == [0, 0, 1, 1, 1]
    weights = [batch["weight"].item() for batch, _ in zip(batches.iterate(77), range(4), strict=False)]
    assert weights == pytest.approx([78 / 80, 79 / 80, 1, 1])
    return first


def gradients(learner, batch, weight, precision=None):
    torch.manual_seed(0)
    net = learner.build()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = net(batch)
    (found["denoising"] * 0 + found[weight]).backward()
    return {name for name, value in net.named_parameters() if value.grad is not None and value.grad.abs().max() > 0}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_learns_from_its_own_loss(learner, batch, precision):
    painter = gradients(learner, batch, "read", precision)
    assert painter
    assert all(name.startswith("denoiser.") for name in painter)
    # Under autocast too: weights that were cast while it painted without gradients must not be used again.
    convolutions = {name for name in painter if "conv1.weight" in name}
    assert len(convolutions) > 8
    reader = gradients(learner, batch, "reader", precision)
    assert reader
    assert all(name.startswith("reader.") for name in reader)


def test_the_reader_learns_from_the_last_paintings_too(learner, batch, monkeypatch):
    torch.manual_seed(0)
    net = learner.build()
    shown = []
    net.reader.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    monkeypatch.setattr(teach, "softened", lambda latents: latents)
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
    ):  # which takes no other half precision in some functions
        learner.losses(net, batch)
        first = net.kept.latents[:5].clone()
        learner.losses(net, batch)
    assert (len(net.kept.latents), net.kept.targets.shape, net.kept.seen) == (8, (8, 9), 10)
    assert torch.equal(net.kept.latents[2:5], first[2:])  # the two oldest made room
    assert not torch.equal(net.kept.latents[:2], first[:2])
    # The reader is called twice in a step: for its own loss, then for the painter's.
    known, again = shown[2].split([6, 7])
    assert torch.equal(known, batch["known"])
    assert all((net.kept.latents.float() == one).flatten(1).all(1).any() for one in again)
    assert any((first[2:].float() == one).flatten(1).all(1).any() for one in again)
    assert not [name for name in net.state_dict() if "kept" in name]


def test_the_reader_trains_apart_from_the_painter(learner):
    from reverie.learn.fit import decay_groups

    net = learner.build()
    own = {id(weight) for group in decay_groups(net, 0.01, {}, learner.apart)[2:] for weight in group["params"]}
    assert own == {id(weight) for weight in net.reader.parameters()}


def test_it_paints_as_the_pipeline_does(learner, batch):
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    net = learner.build().eval()
    pipe = StableDiffusionPipeline.from_pretrained(PAINTER)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet, pipe.text_encoder = net.denoiser.unet, net.denoiser.text_encoder
    ids, empty = learner.painter.tokens(["a red circle"]), learner.painter.tokens([""])
    torch.manual_seed(2)
    times, before, _, painted = learner._paint(net.denoiser, ids, empty)
    assert len(times) == len(before) == 4
    found = pipe(
        "a red circle", num_inference_steps=4, guidance_scale=2.0, latents=before[0], output_type="latent"
    ).images
    torch.testing.assert_close(painted, found, rtol=1e-3, atol=1e-3)
    decoded = learner._decode(painted)
    assert decoded.shape == (1, 64, 64, 3)
    assert judge(decoded[0], "a red circle").right in (True, False)


def test_the_prediction_is_brought_back_to_latents():
    from diffusers import DDIMScheduler

    schedule = DDIMScheduler(**teach.SCHEDULER)
    latents, noise, times = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16), torch.tensor([5, 400, 900])
    clean = teach._clean(schedule.add_noise(latents, noise, times), schedule.get_velocity(latents, noise, times), times)
    torch.testing.assert_close(clean, latents, rtol=1e-3, atol=1e-3)


def test_the_command_teaches_the_painter_and_ships_it(tmp_path, monkeypatch):
    make_tiny(monkeypatch.setattr)
    train.main(tmp_path, ("painter",), out=tmp_path / "out", **SETTINGS)
    monkeypatch.setattr(train.ToTeach, "iterate", stopped_after(2, iterate := train.ToTeach.iterate))
    often = dataclasses.replace(train.TAUGHT_FIT, steps=3, speed=FitSpeed(checkpoint_every_s=0))
    monkeypatch.setattr(train, "TAUGHT_FIT", often)
    with pytest.raises(ConnectionError):
        train.main(tmp_path, ("taught", "reader"), out=tmp_path / "out", share_of_one=0.5, **SETTINGS)
    assert (tmp_path / "reader" / "weights" / "reader.safetensors").exists()
    monkeypatch.setattr(train.ToTeach, "iterate", iterate)
    train.main(tmp_path, ("taught", "reader"), out=tmp_path / "out", share_of_one=0.5, **SETTINGS)  # goes on
    rows = [json.loads(line) for line in (tmp_path / "taught" / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    log = json.loads((tmp_path / "taught" / "weights" / "training.json").read_text())
    assert (log["batches"]["share_of_one"], log["batches"]["batch"], log["steps"]) == (0.5, 2, 3)
    from reverie.builtin import pieces
    from reverie.models.painter import open_painter

    pieces.unpack(tmp_path / "out", tmp_path / "models")
    painter = open_painter(str(tmp_path / "models" / "painter"))
    assert painter.paint(painter.encode(["a red circle"]), [1], steps=2).shape == (1, 64, 64, 3)


def test_slips_are_named(tmp_path):
    with pytest.raises(InputError, match=r"share of one 1.5 must be between 0 and 1"):
        train.main(tmp_path, ("taught",), share_of_one=1.5)
