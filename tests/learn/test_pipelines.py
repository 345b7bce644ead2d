"""Public pipelines of each family, trained on: what they are told, by which loss, what learns, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)
from safetensors.torch import load_file

from reverie.errors import InputError, ModelError
from reverie.learn.fit import Fit, fit
from reverie.learn.pipelines import GUIDANCE, PipelineDenoiser, start_of
from reverie.learn.text_to_image import TextToImage
from reverie.models.names import locate
from reverie.models.painter import open_painter
from reverie.models.pretrained import load_pipeline
from tests.images.pipelines import FAMILIES, save, vae

TEXTS = ["a red circle", "two blue square on white", "green"]
SCHEDULES = {
    "sd-epsilon": ("sd", PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)),
    "sd-velocity": (
        "sd",
        DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
    ),
    "sd-sample": ("sd", EulerDiscreteScheduler(prediction_type="sample", beta_schedule="squaredcos_cap_v2")),
    "sdxl-epsilon": ("sdxl", EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.0009, beta_end=0.013)),
    "sdxl-velocity": ("sdxl", EulerDiscreteScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear")),
    "pixart-epsilon": ("pixart", None),
    "sd3-flow": ("sd3", FlowMatchEulerDiscreteScheduler(shift=3.0)),
    "flux-flow": ("flux", FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
}


def made(folder: Path, family: str, scheduler: Any = None) -> str:
    """A pipeline folder, with this scheduler."""
    if scheduler is None:
        return str(save(family, folder))
    torch.manual_seed(0)
    pipe = FAMILIES[family]()
    pipe.register_modules(scheduler=scheduler)
    pipe.save_pretrained(folder)
    return str(folder)


def batch_of(count: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(count, 4, 4, 4, generator=generator),
        "text": [TEXTS[place % len(TEXTS)] for place in range(count)],
        "seeds": [100 + place for place in range(count)],
    }


def told_by(net: torch.nn.Module, texts: list[str], learner: TextToImage) -> Any:
    return texts if isinstance(net, PipelineDenoiser) else learner.tokens(texts)


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart", "sd3", "flux"])
def test_the_network_is_told_in_training_what_the_pipeline_tells_it_in_painting(tmp_path: Path, family: str) -> None:
    learner = TextToImage(start=made(tmp_path / "pipe", family))
    net = learner.build().eval()
    pipe = load_pipeline(locate(str(tmp_path / "pipe")))
    pipe.set_progress_bar_config(disable=True)
    seen: dict[str, Any] = {}

    def look(_: Any, args: Any, named: Any, out: Any) -> None:
        seen.setdefault("time", named.get("timestep", args[1] if len(args) > 1 else None))
        seen.setdefault("out", out[0])

    network = getattr(pipe, start_of(learner.start).driver.network)
    network.register_forward_hook(look, with_kwargs=True)
    noise = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    latents = pipe._pack_latents(noise, *noise.shape) if family == "flux" else noise
    more = {"use_resolution_binning": False} if family == "pixart" else {}
    scale = GUIDANCE if family == "flux" else 1.0
    size = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
    with torch.no_grad():
        pipe(TEXTS, guidance_scale=scale, latents=latents, **size, **more)
        time = torch.as_tensor(seen["time"]).flatten()[:1].float() * (1000 if family == "flux" else 1)
        predicted = net(noise, time.expand(3), told_by(net, TEXTS, learner))
    out = seen["out"]
    if family == "flux":
        out = pipe._unpack_latents(out, 4, 4, 1)
    torch.testing.assert_close(predicted, out[:, :4], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", SCHEDULES)
def test_the_loss_is_that_of_diffusers_on_the_same_noise(tmp_path: Path, case: str) -> None:
    """As its training scripts write it, with the scheduler's own functions."""
    family, scheduler = SCHEDULES[case]
    learner = TextToImage(start=made(tmp_path / "pipe", family, scheduler), caption_drop=0.5)
    net, batch = learner.build().eval(), batch_of(8)
    with torch.no_grad():
        loss = learner.losses(net, batch)["loss"]

    pipe = load_pipeline(locate(str(tmp_path / "pipe")))
    latents = batch["latents"]
    noise, even, texts = torch.empty_like(latents), torch.empty(8), []
    for place, seed in enumerate(batch["seeds"]):
        generator = torch.Generator().manual_seed(seed)
        noise[place] = torch.randn(4, 4, 4, generator=generator)
        even[place], drop = torch.rand(2, generator=generator)
        texts.append("" if drop < 0.5 else batch["text"][place])
    assert 0 < texts.count("") < 8
    if case.endswith("flow"):
        schedule = pipe.scheduler
        normal = torch.distributions.Normal(0.0, 1.0).icdf(even)
        places = 999 - (torch.sigmoid(normal) * 1000).long().clamp(max=999)
        times = schedule.timesteps[places]
        noisy, target = schedule.scale_noise(latents, times, noise), noise - latents
    else:
        schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        times = (even * 1000).long()
        noisy = schedule.add_noise(latents, noise, times)
        target = {
            "epsilon": noise,
            "v_prediction": schedule.get_velocity(latents, noise, times),
            "sample": latents,
        }[schedule.config.prediction_type]
    with torch.no_grad():
        predicted = net(noisy, times, told_by(net, texts, learner))
    expected = torch.nn.functional.mse_loss(predicted.float(), target.float(), reduction="mean")
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_betas_of_a_pipeline_are_its_own(tmp_path: Path) -> None:
    """Whatever its sampler is, the noise is that of the scheduler that it was saved with."""
    scheduler = DDIMScheduler(beta_start=0.002, beta_end=0.03, beta_schedule="linear", num_train_timesteps=400)
    noising = start_of(made(tmp_path / "pipe", "sd", scheduler)).noising
    clean, noise, levels = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2), torch.tensor([3, 399])
    torch.testing.assert_close(noising(clean, noise, levels).latents, scheduler.add_noise(clean, noise, levels))
    assert noising.steps == 400
    assert int(noising.levels(torch.tensor([0.9999])).max()) == 399


class Few:
    """The same small batch at every step."""

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        while True:
            yield batch_of()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a pipeline, by part and name."""
    return {
        f"{file.parent.name}.{name}": value
        for file in folder.glob("*/*.safetensors")
        for name, value in load_file(file).items()
    }


@pytest.mark.parametrize(
    ("family", "parts"), [("sd", "unet"), ("sd", "text"), ("sd", "both"), ("sdxl", "both"), ("sd3", "text")]
)
def test_only_the_parts_asked_for_change_each_at_its_rate(tmp_path: Path, family: str, parts: Any) -> None:
    learner = TextToImage(start=made(tmp_path / "pipe", family), parts=parts, text_rate=0.1, caption_drop=0)
    net, _ = fit(learner, Few(), Fit(1, lr=1e-3, weight_decay=0), tmp_path / "fit", seed=0)
    learner.save(net, tmp_path / "saved")
    old, new = weights(tmp_path / "pipe"), weights(tmp_path / "saved")
    assert old.keys() == new.keys()
    moved: dict[str, float] = {}
    for name, value in old.items():
        part = name.split(".")[0]
        moved[part] = max(moved.get(part, 0.0), float((new[name] - value).abs().max()))
    expected = {
        part: (1e-4 if part.startswith("text") else 1e-3)
        * (part != "vae" and (parts == "both" or part.startswith("text") == (parts == "text")))
        for part in moved
    }
    # The first step of Adam is the learning rate, whatever the gradient.
    assert moved == pytest.approx(expected, rel=0.02, abs=1e-9)


def test_a_frozen_part_stays_as_in_painting(tmp_path: Path) -> None:
    net = TextToImage(start=made(tmp_path / "pipe", "sd3"), parts="unet").build().train()
    assert isinstance(net, PipelineDenoiser)
    assert net.transformer.training
    assert not any(module.training for module in net.text_encoder_3.modules())


@pytest.mark.parametrize("case", ["sd-velocity", "sd-sample", "sdxl-epsilon", "sd3-flow", "flux-flow"])
def test_what_is_saved_keeps_its_scheduler_and_paints_with_it(tmp_path: Path, case: str) -> None:
    family, scheduler = SCHEDULES[case]
    learner = TextToImage(start=made(tmp_path / "pipe", family, scheduler))
    learner.save(learner.build().eval(), tmp_path / "saved")
    for file in ("model_index.json", "scheduler/scheduler_config.json"):
        old, new = (json.loads((tmp_path / folder / file).read_text()) for folder in ("pipe", "saved"))
        for known in (old, new):
            known.pop("_name_or_path", None)
        assert new == old
    images = []
    for folder in ("pipe", "saved"):
        painter = open_painter(str(tmp_path / folder))
        images.append(painter.paint(painter.encode(TEXTS), [1, 2, 3], guidance=1.0, steps=2, size_px=32))
        if scheduler is not None and "prediction_type" in scheduler.config:
            assert painter.pipe.scheduler.config.prediction_type == scheduler.config.prediction_type
    np.testing.assert_array_equal(*images)


def test_an_average_of_weights_is_saved_as_well(tmp_path: Path) -> None:
    learner = TextToImage(start=made(tmp_path / "pipe", "sdxl"))
    net, _ = fit(learner, Few(), Fit(2, lr=1e-2, ema=0.5), tmp_path / "fit", seed=0)
    learner.save(net, tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors")
    averaged = load_file(tmp_path / "fit" / "latest" / "ema.safetensors")
    for name, value in saved.items():
        assert torch.equal(value, averaged[f"module.unet.{name}"])


def test_the_limit_is_that_of_the_longest_text_encoder(tmp_path: Path) -> None:
    for family, limit in (("sd", 8), ("sdxl", 8), ("pixart", 120), ("sd3", 256), ("flux", 512)):
        learner = TextToImage(start=made(tmp_path / family, family))
        assert learner.text_limit == limit
        assert learner.too_long(["a " * (limit - 2), "a " * limit]) == [False, True]


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_cannot_be_trained_is_refused_before_any_weight_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a LatentConsistencyModelPipeline, which is not trained here"):
        start_of(made(tmp_path / "lcm", "lcm"))
    distilled = made(tmp_path / "distilled", "sd", LCMScheduler(beta_schedule="scaled_linear"))
    with pytest.raises(ModelError, match=r"distilled to few steps \(LCMScheduler\)"):
        start_of(distilled)
    with pytest.raises(ModelError, match="scheduler that no network is trained by here"):
        start_of(made(tmp_path / "edm", "sd", EDMEulerScheduler()))
    with pytest.raises(ModelError, match="only with a scheduler with betas"):
        start_of(made(tmp_path / "flow", "sd", FlowMatchEulerDiscreteScheduler()))
    with pytest.raises(ModelError, match="only with a scheduler of flow matching"):
        start_of(made(tmp_path / "betas", "sd3", DDIMScheduler()))
    inpainting = Path(made(tmp_path / "inpainting", "sd"))
    change(inpainting / "unet" / "config.json", in_channels=9)
    with pytest.raises(ModelError, match="reads 9 channels and its latents have 4"):
        start_of(str(inpainting))
    half = Path(made(tmp_path / "half", "sdxl"))
    change(half / "model_index.json", text_encoder=[None, None])
    with pytest.raises(ModelError, match="has no text_encoder, without which"):
        start_of(str(half))
    classes = Path(made(tmp_path / "classes", "sd"))
    change(classes / "unet" / "config.json", class_embed_type="timestep")
    with pytest.raises(ModelError, match="told more than a text and a time"):
        start_of(str(classes))
    vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(ModelError, match="is not a pipeline of diffusers"):
        start_of(str(tmp_path / "vae"))
    with pytest.raises(ModelError, match="a language model on a server"):
        start_of("openai:model@http://localhost:1/v1")
    with pytest.raises(InputError, match="trained as a whole"):
        TextToImage(start=made(tmp_path / "sdxl", "sdxl"), autoencoder=str(tmp_path / "vae")).check()
    with pytest.raises(InputError, match="needs an autoencoder and a tokenizer"):
        TextToImage()


def test_a_broken_configuration_is_one_line(tmp_path: Path) -> None:
    folder = Path(made(tmp_path / "pipe", "sd"))
    config = json.loads((folder / "vae" / "config.json").read_text())
    del config["latent_channels"]
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no entry 'latent_channels'"):
        start_of(str(folder))
