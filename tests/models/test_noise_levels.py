"""A sampler that begins at a noised picture believes in exactly the noise that is there, in every parameterisation."""

import math

import diffusers
import numpy as np
import pytest
import torch

from reverie.errors import InputError, ModelError
from reverie.models.noise_levels import start_at
from reverie.models.painter import SCHEDULERS, Painter, open_painter, pick
from tests.images import pipelines

SIZE = 32
LEVELS = (0.973, 0.951, 0.853, 0.809, 0.708)  # of the method's table, for 16, 8, 4, 2 and 1 shots
BY_TABLE = [name for name in SCHEDULERS if name != "flow-match"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("painters")
    return {family: str(pipelines.save(family, root / family)) for family in pipelines.FAMILIES}


def named(name, schedule="scaled_linear"):
    plain = diffusers.DDIMScheduler(beta_schedule=schedule, clip_sample=False)
    kind, settings = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(plain.config, **settings)


def abar(scheduler):
    """The table, from its definition."""
    return np.cumprod(1 - scheduler.betas.numpy().astype(np.float64))


def pictures(num=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", BY_TABLE)
def test_the_first_timestep_has_the_noise_level_asked_for(name, schedule):
    scheduler = named(name, schedule)
    for level in (*LEVELS, 0.3, 0.6):
        for steps in (7, 20, 50):
            start = start_at(scheduler, level, steps)
            start.scheduler.set_timesteps(start.steps)
            first, *others = (float(t) for t in start.scheduler.timesteps)
            assert abs(abar(scheduler)[round(first)] - level**2) < 1e-3
            assert start.level**2 == pytest.approx(abar(scheduler)[round(first)], abs=1e-6)
            assert all(0 <= t < first for t in others)
            # As many steps as asked for, or where a stride of whole timesteps is taken, no other has a nearer number.
            near = min(abs(first // stride + 1 - steps) for stride in range(1, 1000))
            assert start.steps == steps or abs(start.steps - steps) == near


@pytest.mark.parametrize("name", BY_TABLE)
def test_the_ends_are_the_ends_of_the_table(name):
    scheduler = named(name, "squaredcos_cap_v2")
    assert start_at(scheduler, 1.0, 20).level == pytest.approx(math.sqrt(abar(scheduler)[0]), abs=1e-6)
    assert start_at(scheduler, 1.0, 20).steps == 1
    whole = start_at(scheduler, 0.0, 20)
    assert whole.level < 1e-3
    assert whole.steps == 20
    assert scheduler.config.num_train_timesteps == 1000, "the scheduler of the pipeline is not touched"


def first_seen(painter, level, seeds, clean, guidance=1.0):
    """What the network is given first: its latents and timestep."""
    seen = []
    net = getattr(painter.pipe, "unet", None) or painter.pipe.transformer
    hook = net.register_forward_pre_hook(lambda net, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    embeddings = pick(painter.encode(["a red circle"]), [0] * len(seeds))
    painter.sample(embeddings, seeds, guidance, 8, SIZE, painter.start_at(level, 8), clean)
    hook.remove()
    (args, kwargs), *_ = seen
    latents = args[0] if args else kwargs["hidden_states"]
    time = args[1] if len(args) > 1 else kwargs["timestep"]
    return latents.clone(), float(time.flatten()[0])


def own_noise(seeds, shape):
    return torch.cat([torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@pytest.mark.parametrize("name", BY_TABLE)
def test_the_network_first_sees_the_picture_with_the_noise_of_that_timestep(folders, name):
    painter = open_painter(folders["sd"], scheduler=name)
    table = abar(painter.pipe.scheduler)
    clean = painter.latents(pictures())
    for level in (0.973, 0.708):
        seen, time = first_seen(painter, level, [3, 4], clean)
        share = table[round(time)]
        assert abs(share - level**2) < 1e-3
        expected = math.sqrt(share) * clean + math.sqrt(1 - share) * own_noise([3, 4], clean.shape[1:])
        torch.testing.assert_close(seen, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["pixart", "sdxl"])
def test_other_families_by_table(folders, family):
    painter = open_painter(folders[family])
    clean = painter.latents(pictures())
    seen, time = first_seen(painter, 0.853, [3, 4], clean)
    share = abar(painter.pipe.scheduler)[round(time)]
    assert abs(share - 0.853**2) < 1e-3
    expected = math.sqrt(share) * clean + math.sqrt(1 - share) * own_noise([3, 4], clean.shape[1:])
    torch.testing.assert_close(seen, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("level", LEVELS)
def test_flow_matching_begins_at_the_same_ratio_of_picture_to_noise(folders, family, level):
    painter = open_painter(folders[family])
    clean = painter.latents(pictures())
    seen, time = first_seen(painter, level, [3, 4], clean)
    s = time / 1000 if family == "sd3" else time  # Flux gives its network s itself
    assert ((1 - s) / s) ** 2 == pytest.approx(level**2 / (1 - level**2), rel=1e-3)
    expected = (1 - s) * clean + s * own_noise([3, 4], clean.shape[1:])
    if family == "flux":  # patches of 2 x 2, in rows
        b, c, h, w = expected.shape
        expected = expected.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, 4 * c)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-3)


def test_flow_matching_steps_evenly_down_whatever_shift_the_model_has():
    start = start_at(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 0.708, 20)
    start.scheduler.set_timesteps(sigmas=start.arguments["sigmas"], mu=0.7)
    sigmas = start.scheduler.sigmas
    torch.testing.assert_close(sigmas.diff(), torch.full((start.steps,), -float(sigmas[0]) / start.steps))
    assert start.steps == 20
    assert float(sigmas[0]) == pytest.approx(0.706 / (0.708 + 0.706), abs=1e-3)


@pytest.mark.parametrize("level", [0.973, 0.6])
def test_what_is_painted_equals_ddim_written_by_hand_from_there(folders, level):
    painter = open_painter(folders["sd"])
    pipe, table = painter.pipe, torch.from_numpy(abar(painter.pipe.scheduler)).float()
    clean = painter.latents(pictures(1))
    start = painter.start_at(level, 10)
    ours = painter.sample(painter.encode(["a red circle"]), [5], 1.0, 10, SIZE, start, clean)
    t = int((table - level**2).abs().argmin())
    stride = min(range(1, t + 1), key=lambda stride: abs(t // stride + 1 - 10))
    words = pipe.tokenizer("a red circle", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        state = pipe.text_encoder(words).last_hidden_state
        x = table[t].sqrt() * clean + (1 - table[t]).sqrt() * own_noise([5], clean.shape[1:])
        while t >= 0:
            eps = pipe.unet(x, t, encoder_hidden_states=state).sample
            x0 = (x - (1 - table[t]).sqrt() * eps) / table[t].sqrt()
            before = table[t - stride] if t >= stride else table[0]
            x, t = before.sqrt() * x0 + (1 - before).sqrt() * eps, t - stride
        theirs = (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart", "flux", "sd3"])
def test_latents_are_what_the_pipeline_decodes(folders, family):
    """Encoded, then decoded by the pipeline's own convention, the picture is the autoencoder's reconstruction."""
    painter = open_painter(folders[family])
    vae, picture = painter.pipe.vae, pictures(1)
    vae.register_to_config(shift_factor=0.2 if family in ("flux", "sd3") else None)
    if family == "sdxl":
        vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5])
    found = painter.latents(picture)
    if family == "sdxl":
        mean, std = (
            torch.tensor(values).view(1, 4, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        back = found * std / vae.config.scaling_factor + mean
    else:
        back = found / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    with torch.no_grad():
        pixels = torch.from_numpy(picture).permute(0, 3, 1, 2) / 127.5 - 1
        torch.testing.assert_close(back, vae.encode(pixels).latent_dist.mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "dpm-solver++"])
def test_the_same_noise_in_any_batch(folders, name):
    painter = open_painter(folders["sd"], scheduler=name)
    start = painter.start_at(0.708, 8)
    clean = painter.latents(pictures(3))
    embeddings = pick(painter.encode(["a red circle"]), [0, 0, 0])
    both = painter.sample(embeddings, [1, 2, 3], 2.0, 8, SIZE, start, clean)
    alone = painter.sample(pick(embeddings, [1]), [2], 2.0, 8, SIZE, start, clean[1:2])
    assert (both[1] - alone[0]).abs().max() < 2 / 255
    assert (both[0] - both[2]).abs().max() > 0.02
    again = painter.sample(embeddings, [1, 2, 3], 2.0, 8, SIZE)
    assert type(painter.pipe.scheduler).__name__ == SCHEDULERS[name][0], "a plain run is plain again"
    assert (again - both).abs().max() > 0.02


def test_bf16_begins_at_the_same_place(folders):
    exact, rough = (open_painter(folders["sd"], dtype=dtype) for dtype in ("fp32", "bf16"))
    clean = exact.latents(pictures())
    seen, time = first_seen(exact, 0.853, [3, 4], clean)
    less, same = first_seen(rough, 0.853, [3, 4], clean)
    assert same == time
    assert less.dtype == torch.bfloat16
    assert (seen - less.float()).abs().max() < 0.05


@pytest.fixture(scope="module")
def builtin():
    return open_painter("builtin:painter")


@pytest.fixture(scope="module")
def scenes():
    from reverie.smallworld.photos import labelled

    return labelled(2, "street")[0]


def painted(painter, level, photos, seeds):
    start = painter.start_at(level, 6)
    embeddings = pick(painter.encode(["a red circle"]), [0] * len(photos))
    return painter.sample(embeddings, seeds, 2.0, 6, 64, start, painter.latents(photos))


def test_hardly_noised_it_is_the_reconstruction_and_noised_through_it_forgets_the_photo(builtin, scenes):
    with torch.no_grad():
        pixels = torch.from_numpy(scenes).permute(0, 3, 1, 2) / 127.5 - 1
        known = (builtin.pipe.vae.decode(builtin.pipe.vae.encode(pixels).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
    far = [float((painted(builtin, level, scenes, [1, 2]) - known).abs().mean()) for level in (1.0, 0.95, 0.7, 0.0)]
    assert far[0] < 0.01
    assert far[0] < far[1] < far[2] < far[3]
    others = scenes[::-1].copy()
    assert (painted(builtin, 0.0, scenes, [7, 7]) - painted(builtin, 0.0, others, [7, 7])).abs().max() < 2 / 255
    assert (painted(builtin, 0.7, scenes, [7, 7]) - painted(builtin, 0.7, others, [7, 7])).abs().max() > 0.1


class NoAutoencoder:
    """A pipeline that paints pixels."""

    scheduler = named("ddpm")
    tokenizer = text_encoder = None

    def set_progress_bar_config(self, **settings):
        pass

    def __call__(self, prompt, num_inference_steps, guidance_scale, generator, height, width, output_type):
        raise AssertionError


def test_what_cannot_begin_there_says_so(folders):
    with pytest.raises(ModelError, match="NoAutoencoder has no autoencoder"):
        Painter(NoAutoencoder()).start_at(0.7, 10)
    with pytest.raises(ModelError, match="LCMScheduler does not begin"):
        open_painter(folders["lcm"]).start_at(0.7, 10)
    with pytest.raises(ModelError, match="no table of noise levels"):
        start_at(diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True), 0.7, 10)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="sqrt"):
            start_at(named("ddim"), wrong, 10)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_on_a_gpu_it_begins_where_it_does_on_the_cpu(folders, dtype):
    painter, cpu = open_painter(folders["sdxl"], "cuda", dtype=dtype), open_painter(folders["sdxl"])
    clean = painter.latents(pictures())
    torch.testing.assert_close(clean, cpu.latents(pictures()), atol=1e-2, rtol=1e-2)
    assert painter.pipe.vae.dtype == {"fp32": torch.float32, "fp16": torch.float16}[dtype]
    seen, time = first_seen(painter, 0.853, [3, 4], clean)
    expected, same = first_seen(cpu, 0.853, [3, 4], clean)
    assert time == same
    torch.testing.assert_close(seen.float().cpu(), expected, atol=1e-2, rtol=1e-2)
