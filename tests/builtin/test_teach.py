"""A painter learns from what is read in its paintings, the reader from the judge, and neither from the other's loss."""

import numpy as np
import pytest
import torch

from reverie.builtin import teach, train
from reverie.builtin.reader import Scenes, targets_of
from reverie.builtin.teach import PaintAsRead, ToTeach
from reverie.learn.text_to_image import TextToImage
from reverie.learn.train_painter import Curriculum, LatentBatches
from reverie.models.names import BUILTIN
from reverie.smallworld.judge import judge
from reverie.smallworld.scene import sample
from tests.builtin.tiny_train import SETTINGS, make_tiny

PAINTER = BUILTIN / "painter"


@pytest.fixture(scope="module")
def learner():
    network = TextToImage(str(PAINTER / "vae"), str(PAINTER / "tokenizer"), latent_size=16, channels=(8, 16, 16), attention=(False, True, True), text_time=True)  # fmt: skip
    return PaintAsRead(network, sampler_steps=4, states=2, first=1, widths=(8, 8, 16))


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
    assert first["asked"][:, 8].tolist() == [0, 0, 0, 1, 1]
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
    train.main(tmp_path, ("taught", "reader"), out=tmp_path / "out", **SETTINGS)
    assert (tmp_path / "reader" / "weights" / "reader.safetensors").exists()
    from reverie.builtin import pieces
    from reverie.models.painter import open_painter

    pieces.unpack(tmp_path / "out", tmp_path / "models")
    painter = open_painter(str(tmp_path / "models" / "painter"))
    assert painter.paint(painter.encode(["a red circle"]), [1], steps=2).shape == (1, 64, 64, 3)
