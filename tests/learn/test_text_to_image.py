"""From images and captions to a pipeline that diffusers opens, at a size that takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image
from transformers import AutoTokenizer

from reverie import pairs
from reverie.errors import InputError
from reverie.learn.autoencoder import Autoencoder, encode, to_signed
from reverie.learn.fit import Fit
from reverie.learn.text_to_image import SCHEDULER, TextToImage
from reverie.learn.train_painter import LatentBatches, TrainPainter
from reverie.models.painter import open_painter
from reverie.nets.words import split_words, write_tokenizer
from reverie.stage import Place
from reverie.store import tables
from reverie.store.pictures import as_png


def photos(folder: Path, num: int) -> None:
    """Flat red and blue pictures with labels."""
    rows = []
    for i in range(num):
        picture = Image.new("RGB", (16, 16), (220, 20, 20) if i % 2 else (20, 20, 220))
        caption = pairs.caption_id(0, "test", i)
        rows.append(
            {
                "pair_id": pairs.pair_id(caption, 0),
                "caption_id": caption,
                "copy": 0,
                "unit": 0,
                "text": f"{'red' if i % 2 else 'blue'} thing",
                "label": "red" if i % 2 else "blue",
                "image": as_png(picture),
                "status": pairs.OK,
            }
        )
    tables.append_unit(folder / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))


def small(**changes: object) -> TrainPainter:
    settings = {
        "size_px": 16,
        "autoencoder": Autoencoder(channels=(8, 16), latent_channels=2, image_size=16),
        "autoencoder_fit": Fit(steps=100, lr=3e-3, warmup_steps=10, weight_decay=0),
        "autoencoder_batch": 4,
        "channels": (16, 32),
        "text_width": 32,
        "text_layers": 1,
        "fit": Fit(steps=250, lr=3e-3, warmup_steps=10, weight_decay=0, ema=0.95),
        "batch": 8,
    }
    return TrainPainter(**(settings | changes))  # type: ignore[arg-type]


def test_a_painter_trained_on_two_colours_paints_the_colour_asked_for(tmp_path: Path) -> None:
    photos(tmp_path, 16)
    place = Place(tmp_path, "painter")
    small(templates=("a {class} thing", "something {class}")).run(place)
    painter = open_painter(str(place.weights()))
    assert painter.size_px == 16
    assert painter.words_unknown(["a red thing", "something green"]) == ["green"]
    embeddings = painter.encode(["a red thing", "something blue"])
    images = painter.paint(embeddings, [1, 2], guidance=1.0, steps=8, size_px=16)
    red, blue = np.asarray(images, np.float32).mean((1, 2))
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40


def test_templates_need_labels(tmp_path: Path) -> None:
    photos(tmp_path, 4)
    rows = tables.read_unit(tmp_path / "pairs.lance", 0).to_pylist()
    for row in rows:
        row["label"] = None
    other = tmp_path / "other"
    tables.append_unit(other / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    quick = Fit(steps=1)
    with pytest.raises(InputError, match="label"):
        small(templates=("a {class}",), autoencoder_fit=quick).run(Place(other, "painter"))


def test_velocity_is_what_the_scheduler_inverts(tmp_path: Path) -> None:
    """From the noisy latents and the true velocity, the scheduler's own algebra gives back the clean latents."""
    schedule = DDIMScheduler(**SCHEDULER)
    clean, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    times = torch.tensor([5, 400, 900])
    noisy, velocity = schedule.add_noise(clean, noise, times), schedule.get_velocity(clean, noise, times)
    for i, time in enumerate(times):
        alpha = schedule.alphas_cumprod[time]
        again = alpha.sqrt() * noisy[i] - (1 - alpha).sqrt() * velocity[i]
        torch.testing.assert_close(again, clean[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_loss_is_the_squared_error_of_the_velocity_and_some_captions_are_dropped(
    tmp_path: Path, shift: float
) -> None:
    """Against the same draws written out image by image."""
    write_tokenizer(tmp_path / "words", split_words(["a red thing"]), 8)
    vae = AutoencoderKL(block_out_channels=[8], latent_channels=2, norm_num_groups=8)
    vae.save_pretrained(tmp_path / "vae")
    learner = TextToImage(
        str(tmp_path / "vae"), str(tmp_path / "words"), 4, (16, 32), (False, True), text_width=32, caption_drop=0.5,
        shift=shift,
    )  # fmt: skip
    net = learner.build().eval()
    batch = {"latents": torch.randn(6, 2, 4, 4), "text": ["a red thing"] * 6}
    torch.manual_seed(3)
    loss = learner.losses(net, batch)["loss"]
    torch.manual_seed(3)
    noise = torch.randn_like(batch["latents"])
    times = torch.tensor([int(1000 * shift * u / (1 + (shift - 1) * u)) for u in torch.rand(6).tolist()])
    dropped = (torch.rand(6) < 0.5).tolist()
    assert True in dropped
    assert False in dropped
    schedule, tokenizer = DDIMScheduler(**SCHEDULER), AutoTokenizer.from_pretrained(tmp_path / "words")
    errors = []
    for i in range(6):
        one = slice(i, i + 1)
        ids = tokenizer("" if dropped[i] else "a red thing", padding="max_length", return_tensors="pt").input_ids
        noisy = schedule.add_noise(batch["latents"][one], noise[one], times[one])
        target = schedule.get_velocity(batch["latents"][one], noise[one], times[one])
        errors.append(float(((net(noisy, times[one], ids) - target) ** 2).mean()))
    assert float(loss.detach()) == pytest.approx(sum(errors) / 6, rel=1e-4)


def test_the_scaling_factor_brings_latents_to_unit_variance(tmp_path: Path) -> None:
    learner = Autoencoder(channels=(8, 16), latent_channels=2, image_size=16)
    net = learner.build().train()
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    for _ in range(300):
        net(to_signed(images))
    learner.save(net, tmp_path)
    vae = AutoencoderKL.from_pretrained(tmp_path).eval()
    assert float(encode(vae, images).square().mean()) == pytest.approx(1.0, rel=0.05)


def test_latent_batches_depend_on_their_position_only() -> None:
    batches = LatentBatches(torch.arange(10.0).view(10, 1, 1, 1), [[f"{i}", f"also {i}"] for i in range(10)], 4, seed=1)
    stream = batches.iterate(0)
    third = [next(stream) for _ in range(3)][2]
    again = next(batches.iterate(2))
    assert third["text"] == again["text"]
    assert torch.equal(third["latents"], again["latents"])
    assert all(text.split()[-1] == str(int(z)) for text, z in zip(third["text"], third["latents"], strict=True))
