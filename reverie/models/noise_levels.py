"""Samplers that start from a noised picture instead of pure noise (image-to-image), at a given noise level.

What must match between samplers is the noise level: x = sqrt(abar) x_0 + sqrt(1 - abar) eps, wherever in its own steps a
sampler puts this abar. So a start is named by sqrt(abar); how many steps it takes from there is another matter.

    a table of noise levels (DDPM, DDIM, DPM-Solver++, Euler, PNDM, UniPC)
        the same scheduler with its table cut off after the timestep t* whose abar is nearest. Every step of it is one that
        the network was trained for, and it begins at t* without knowing that there was more
    flow matching, x = (1 - s) x_0 + s eps
        s where the ratio of picture to noise is the same: abar / (1 - abar) = ((1 - s) / s)^2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from reverie.errors import InputError, ModelError

NEAR = 1e-3  # how far the abar that a sampler begins at may be from the nearest that its table has


@dataclass(frozen=True)
class Start:
    """Where a sampler begins. ``scheduler`` takes the place of the pipeline's own for as long as it paints from here."""

    scheduler: Any
    level: (
        float  # sqrt(abar) that the sampler believes in at its first step; that of the table nearest to what was asked
    )
    steps: int  # of denoising that are left
    arguments: dict[str, Any]  # for the call of the pipeline
    _scale: float  # of what the sampler steps through, over sqrt(abar) x_0 + sqrt(1 - abar) eps
    _flow: bool = False

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What to give a pipeline as ``latents``, in the dtype of the noise. clean, noise: (B, C, H, W)."""
        spread = math.sqrt(1 - self.level**2)
        mixed = (self.level * clean.float() + spread * noise.float()) / (self.level + spread if self._flow else 1.0)
        return (mixed * self._scale).to(noise.dtype)


def start_at(scheduler: Any, level: float, steps: int, min_steps: int = 1) -> Start:
    """Begin at the noise level ``level``.

    Args:
        scheduler: of the pipeline; is not changed.
        level: sqrt(abar) wanted, in [0, 1]: 1 hardly touches the picture, 0 hardly leaves any of it.
        steps: of denoising from there, spread over the noise that is left. A sampler that takes whole strides of timesteps comes
            as near to the number as these let it, and none takes more steps than there are timesteps.
        min_steps: steps that there must be.

    Raises: InputError for a level that is none; ModelError for a scheduler that cannot begin in the middle.
    """
    if not 0 <= level <= 1:
        raise InputError(f"the noise level {level} is sqrt(abar) and lies in [0, 1]: 1 is the photo itself, 0 is noise")
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        return _flow(scheduler, level, steps, min_steps)
    name = type(scheduler).__name__
    betas = getattr(scheduler, "betas", None)
    if betas is None or scheduler.config.get("use_flow_sigmas") or "trained_betas" not in scheduler.config:
        raise ModelError(f"{name} has no table of noise levels, so it cannot begin at a photo; use scheduler ddim")
    levels = scheduler.alphas_cumprod
    first = max(int((levels.double() - level**2).abs().argmin()), min_steps - 1)
    steps = max(min_steps, min(steps, first))
    # Two grids from t* down. DDIM, PNDM, DDPM and Euler take steps of num_train_timesteps // steps, a whole number that must
    # divide; the others spread their steps over the table. Of two strides the one that comes nearer to the number.
    strides = range(max(1, (first + 1) // steps), -(-(first + 1) // steps) + 1)
    stride = min(strides, key=lambda stride: abs(first // stride + 1 - steps))
    whole = {
        "num_train_timesteps": stride * (first // stride + 1), "timestep_spacing": "leading", "steps_offset": first % stride,
    }  # fmt: skip
    spread = {"num_train_timesteps": first + 1, "timestep_spacing": "linspace", "steps_offset": 0}
    cut = {"trained_betas": betas[: first + 1].tolist(), "rescale_betas_zero_snr": False}
    found: list[tuple[float, int, float, Any, int]] = []
    for grid, number in ((whole, first // stride + 1), (spread, steps)):
        begun = type(scheduler).from_config(scheduler.config, **cut, **grid)
        try:
            begun.set_timesteps(number)
        except ValueError:  # a scheduler with ideas of its own about its steps
            continue
        if 0 <= begun.timesteps[0] <= first:
            believed = float(levels[round(float(begun.timesteps[0]))])
            found.append((abs(believed - float(levels[first])), len(found), believed, begun, number))
    off, _, believed, begun, number = min(found, default=(math.inf, 0, 0.0, scheduler, 0))
    if off > NEAR:
        raise ModelError(f"{name} does not begin where its table is cut off; use scheduler ddim, ddpm or dpm-solver++")
    seen = float(begun.scale_model_input(torch.ones(()), begun.timesteps[0]))  # Euler steps through x / sqrt(abar)
    scale = 1 / seen / float(begun.init_noise_sigma)  # pipelines multiply by the latter
    return Start(begun, math.sqrt(believed), number, {"num_inference_steps": number}, scale)


def _flow(scheduler: Any, level: float, steps: int, min_steps: int) -> Start:
    """Steps spread evenly over s; the shift of a model towards large s is for runs from noise."""
    largest = float(scheduler.config.num_train_timesteps - 1) / scheduler.config.num_train_timesteps
    spread = math.sqrt(1 - level**2)
    time = min(max(spread / (level + spread), 1 - largest), 1.0)
    steps = max(min_steps, steps)
    plain = {"shift": 1.0, "use_dynamic_shifting": False, "shift_terminal": None}
    plain |= {f"use_{spacing}_sigmas": False for spacing in ("karras", "exponential", "beta")}
    begun = type(scheduler).from_config(scheduler.config, **plain)
    times = [time * (steps - step) / steps for step in range(steps)]
    believed = (1 - time) / math.hypot(1 - time, time)
    return Start(begun, believed, steps, {"num_inference_steps": steps, "sigmas": times}, 1.0, _flow=True)
