"""From images and captions to a pipeline that diffusers opens, at a size that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from reverie import pairs
from reverie.errors import InputError, ModelError
from reverie.learn.autoencoder import Autoencoder, encode, to_signed
from reverie.learn.fit import Fit
from reverie.learn.text_to_image import SCHEDULER, Denoiser, TextToImage
from reverie.learn.train_painter import Curriculum, LatentBatches, TrainPainter
from reverie.models.painter import open_painter
from reverie.nets.words import split_words, write_tokenizer
from reverie.stage import StepContext
from reverie.store import tables
from reverie.store.pictures import as_png
from tests.images.pipelines import save


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
    context = StepContext(tmp_path, "painter")
    small(templates=("a {class} thing", "something {class}")).run(context)
    painter = open_painter(str(context.weights()))
    assert painter.size_px == 16
    assert painter.words_unknown(["a red thing", "something green"]) == ["green"]
    embeddings = painter.encode(["a red thing"] * 6 + ["something blue"] * 6)
    images = painter.paint(embeddings, range(1, 13), guidance=1.0, steps=8, size_px=16)
    red, _, blue = np.asarray(images, np.float32).mean((1, 2)).T
    right = np.where(np.arange(12) < 6, red - blue, blue - red) > 40
    assert right.sum() >= 10, red - blue  # a noise of the other colour may win, so soon


def test_templates_need_labels(tmp_path: Path) -> None:
    photos(tmp_path, 4)
    rows = tables.read_unit(tmp_path / "pairs.lance", 0).to_pylist()
    for row in rows:
        row["label"] = None
    other = tmp_path / "other"
    tables.append_unit(other / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    quick = Fit(steps=1)
    with pytest.raises(InputError, match="label"):
        small(templates=("a {class}",), autoencoder_fit=quick).run(StepContext(other, "painter"))


def test_pairs_without_a_caption_are_refused_before_any_training(tmp_path: Path) -> None:
    photos(tmp_path, 4)
    rows = tables.read_unit(tmp_path / "pairs.lance", 0).to_pylist()
    rows[1]["text"] = None
    other = tmp_path / "other"
    tables.append_unit(other / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    with pytest.raises(InputError, match=r"every pair needs a caption, and .* has 1 without a text; .*\(--mix alt\)$"):
        small().run(StepContext(other, "painter"))
    assert not (other / "checkpoints").exists()


def test_a_pipeline_is_trained_on_and_captions_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    photos(tmp_path, 6)
    start = save("sd", tmp_path / "start")
    told: list[tuple[str, dict[str, Any]]] = []
    context = StepContext(tmp_path, "painter", report=lambda kind, **facts: told.append((kind, facts)))
    templates = ("a {class} circle on white", "a {class} circle on white and a {class} square of two left")
    stage = TrainPainter(templates=templates, start=str(start), parts="text", fit=Fit(2, 1e-3), batch=4)
    stage.check()
    stage.run(context)
    words = "6 of 12 captions are longer than 8 tokens and are left out"
    assert [facts["text"] for kind, facts in told if kind == "warning"] == [words]
    trained = next(facts for kind, facts in told if kind == "trained")
    assert (trained["images"], trained["captions"], trained["dropped"]) == (6, 12, 6)
    assert (tmp_path / "checkpoints" / "painter" / "latents.lance").exists()
    painter = open_painter(str(context.weights()))
    assert painter.size_px == 32
    old, new = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (start, context.weights())
    )
    assert all(torch.equal(value, new[name]) for name, value in old.items())
    told.clear()
    stage.run(context)
    assert told == []


def test_cut_short_both_trainings_are_and_few_pairs_of_a_store_are_encoded(tmp_path: Path) -> None:
    photos(tmp_path / "store", 70)
    trial = small(store=tmp_path / "store", templates=("a {class}",)).trial(3, lambda where: 1 // 0)
    assert trial is not None
    assert (trial.steps, trial.images, trial.captions) == ((100, 250), 70, 0)
    told: list[dict[str, Any]] = []

    def report(kind: str, **facts: Any) -> None:
        if kind == "speed":
            told.append(facts)

    trial.job.run(StepContext(tmp_path / "run", "painter", report=report))
    assert [(facts["what"], facts["done"]) for facts in told] == [("steps", 3), ("images encoded", 64), ("steps", 3)]
    own = small(start="builtin:painter").trial(3, lambda where: 12)
    assert own is not None
    assert (own.steps, own.images, own.captions) == ((250,), 12, 1)
    assert small(fit=Fit(minutes=1.0)).trial(3, lambda where: 12) is None


def test_sizes_and_starts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size_px 17 does not fit; give a multiple of 2"):
        small(size_px=17).check()
    with pytest.raises(InputError, match="size_px 36 does not fit; give a multiple of 8"):
        TrainPainter(start=str(save("sd", tmp_path / "sd")), size_px=36).check()
    with pytest.raises(ModelError, match="not trained here"):
        TrainPainter(start=str(save("lcm", tmp_path / "lcm"))).check()
    with pytest.raises(InputError, match=r"nowhere holds no pairs\.lance"):
        small(store=tmp_path / "nowhere").check()
    file = tmp_path / "sd" / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file({name: value for name, value in tensors.items() if "layers.1" not in name}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="sd/text_encoder lacks 16 of its weights"):
        TrainPainter(start=str(tmp_path / "sd")).check()


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


def learner_of(folder: Path, **changes: object) -> TextToImage:
    """Untrained parts, at a size that takes milliseconds."""
    write_tokenizer(folder / "words", split_words(["a red thing on the left"]), 8)
    vae = AutoencoderKL(block_out_channels=[8], latent_channels=2, norm_num_groups=8)
    vae.save_pretrained(folder / "vae")
    settings = {"latent_size": 8, "channels": (16, 32), "attention": (False, True), "text_width": 32}
    return TextToImage(str(folder / "vae"), str(folder / "words"), **(settings | changes))  # type: ignore[arg-type]


def test_bf16_on_a_cpu_stays_near_fp32_and_keeps_attention_and_norms_exact(tmp_path: Path) -> None:
    learner = learner_of(tmp_path, text_time=True)
    torch.manual_seed(0)
    net = learner.build()
    assert isinstance(net, Denoiser)
    batch = {"latents": torch.randn(6, 2, 8, 8), "text": ["a red thing"] * 6}
    seen: dict[str, torch.dtype] = {}

    def look(module: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        seen[type(module).__name__] = out.dtype

    for name, module in net.named_modules():
        if isinstance(module, (torch.nn.GroupNorm, torch.nn.Conv2d)) or name.endswith(".to_out.0"):
            module.register_forward_hook(look)
    losses, gradients = [], []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            seen.clear()
            loss = learner.losses(net, batch)["loss"]
        net.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([w.grad.flatten() for w in net.parameters() if w.grad is not None]))
    assert seen == {"Conv2d": torch.bfloat16, "GroupNorm": torch.float32, "Linear": torch.bfloat16}
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]
    assert bool(gradients[1].isfinite().all())
    assert float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)) > 0.99


def test_own_attention_is_that_of_diffusers(tmp_path: Path) -> None:
    net = learner_of(tmp_path).build().eval()
    assert isinstance(net, Denoiser)
    inputs = torch.randn(2, 2, 8, 8), torch.tensor([3, 700]), torch.randint(0, 8, (2, 8))
    with torch.no_grad():
        own = net(*inputs)
        net.unet.set_attn_processor(AttnProcessor2_0())
        torch.testing.assert_close(net(*inputs), own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text_time", [False, True])
def test_what_is_saved_is_an_ordinary_pipeline_that_paints(tmp_path: Path, text_time: bool) -> None:
    learner = learner_of(tmp_path, text_time=text_time)
    net = learner.build()
    learner.save(net, tmp_path / "saved")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert {type(processor).__name__ for processor in pipe.unet.attn_processors.values()} == {"AttnProcessor2_0"}
    pipe.set_progress_bar_config(disable=True)
    images = pipe(["a red thing", "a thing on the left"], num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 8, 8, 3)
    assert np.isfinite(images).all()


def test_a_smaller_start_is_widened_and_a_start_as_asked_for_is_not(tmp_path: Path) -> None:
    small_one = learner_of(tmp_path)
    old = small_one.build()
    small_one.save(old, tmp_path / "saved")
    asked = {"start": str(tmp_path / "saved"), "channels": (32, 64), "text_time": True}
    wider = learner_of(tmp_path, widened=True, **asked).build()
    assert isinstance(wider, Denoiser)
    assert wider.unet.config.block_out_channels == [32, 64]
    inputs = torch.randn(2, 2, 8, 8), torch.tensor([3, 700]), torch.randint(0, 8, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(wider.eval()(*inputs), old.eval()(*inputs), atol=1e-5, rtol=1e-4)
    kept = learner_of(tmp_path, **asked).build()
    assert isinstance(kept, Denoiser)
    assert tuple(kept.unet.config.block_out_channels) == (16, 32)
    same = learner_of(tmp_path, start=str(tmp_path / "saved"), widened=True).build()
    for one, other in zip(same.parameters(), old.parameters(), strict=True):
        assert torch.equal(one, other)


def test_token_ids_are_as_good_as_their_texts(tmp_path: Path) -> None:
    learner = learner_of(tmp_path, caption_drop=0.5)
    net = learner.build().eval()
    texts, latents = ["a red thing", "the left", "a thing", "on"], torch.randn(4, 2, 8, 8)
    losses = []
    for told in ({"text": texts}, {"token_ids": learner.tokens(texts)}):
        torch.manual_seed(5)
        losses.append(float(learner.losses(net, {"latents": latents, **told})["loss"].detach()))
    assert losses[0] == losses[1]


def test_one_caption_in_ten_is_dropped(tmp_path: Path) -> None:
    learner = learner_of(tmp_path, caption_drop=0.1)
    _, _, dropped = learner._draws({"seeds": range(40_000)}, torch.zeros(40_000, 1, 1, 1))
    assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.005)


def test_draws_from_seeds_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    learner = learner_of(tmp_path, caption_drop=0.5)
    net = learner.build().eval()
    batch = {"latents": torch.randn(4, 2, 8, 8), "text": ["a red thing"] * 4, "seeds": [5, 6, 7, 8]}
    halves = [{key: value[some] for key, value in batch.items()} for some in (slice(2), slice(2, 4))]
    with torch.no_grad():
        whole, *parts = (float(learner.losses(net, part)["loss"]) for part in (batch, *halves))
    assert whole == pytest.approx(sum(parts) / 2, rel=1e-5)
    assert parts[0] != pytest.approx(parts[1], rel=1e-3)


def test_further_training_of_our_own_painter_is_as_from_scratch(tmp_path: Path) -> None:
    """Its scheduler is the one of training from scratch: the same draws give the same loss."""
    learner = learner_of(tmp_path)
    net = learner.build().eval()
    learner.save(net, tmp_path / "saved")
    losses = []
    for one in (learner, learner_of(tmp_path, start=str(tmp_path / "saved"))):
        torch.manual_seed(7)
        batch = {"latents": torch.ones(4, 2, 8, 8), "text": ["a red thing"] * 4}
        losses.append(float(one.losses(net, batch)["loss"].detach()))
    assert losses[0] == losses[1]


def sets_of_three() -> list[LatentBatches]:
    """Sets whose latents say which set and row they are, and whose captions say the same."""
    return [
        LatentBatches(
            torch.arange(50.0).view(50, 1, 1, 1) + 100 * place,
            torch.arange(50).view(50, 1, 1) + 100 * place,
            batch=0,
            seed=0,
        )
        for place in range(3)
    ]


def test_a_curriculum_has_the_shares_that_are_asked_for() -> None:
    shares = {0: (1, 0, 0), 1000: (1, 0, 0), 3000: (0.5, 0.3, 0.2)}
    batches = Curriculum(sets_of_three(), shares, batch=20, seed=1, processes=2)
    for position, counts in {0: [20, 0, 0], 25: [20, 0, 0], 50: [15, 3, 2], 75: [10, 6, 4], 900: [10, 6, 4]}.items():
        assert batches.counts(position) == counts
        batch = next(batches.iterate(position))
        assert torch.equal(batch["latents"].flatten().long(), batch["token_ids"].flatten())
        assert torch.bincount(batch["token_ids"].flatten() // 100, minlength=3).tolist() == counts
    assert all(sum(batches.counts(position)) == 20 for position in range(100))


def test_a_curriculum_depends_on_position_and_rank_only() -> None:
    def rows(start: int, count: int, rank: int = 0) -> list[list[int]]:
        batches = Curriculum(sets_of_three(), {0: (0.4, 0.3, 0.3)}, batch=16, seed=1, rank=rank, processes=2)
        stream = batches.iterate(start)
        return [next(stream)["token_ids"].flatten().tolist() for _ in range(count)]

    assert rows(0, 5)[3:] == rows(3, 2)
    assert rows(0, 1) != rows(1, 1)
    assert rows(0, 1, rank=1) != rows(0, 1)
    with pytest.raises(InputError, match=r"\(0.5, 0.4, 0\) from 7 images on are not 3 parts of 1"):
        Curriculum(sets_of_three(), {7: (0.5, 0.4, 0)}, batch=16, seed=1)


def test_latent_batches_depend_on_their_position_only() -> None:
    batches = LatentBatches(torch.arange(10.0).view(10, 1, 1, 1), [[f"{i}", f"also {i}"] for i in range(10)], 4, seed=1)
    stream = batches.iterate(0)
    third = [next(stream) for _ in range(3)][2]
    again = next(batches.iterate(2))
    assert third["text"] == again["text"]
    assert torch.equal(third["latents"], again["latents"])
    assert all(text.split()[-1] == str(int(z)) for text, z in zip(third["text"], third["latents"], strict=True))
