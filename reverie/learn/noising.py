"""What a scheduler says about training: how latents are noised at a time, and what a network has to predict there.

    epsilon         sqrt(a) z + sqrt(1 - a) e  ->  e
    v_prediction    the same                   ->  sqrt(a) e - sqrt(1 - a) z
    sample          the same                   ->  z
    flow            (1 - s) z + s e            ->  e - z

with latents z, noise e, and the scheduler's own a (product of alphas) or s (sigma) at a time. Samplers differ in how they go
back, but those of one network read the same betas, so DDPM made of a scheduler's settings noises as any of them means it.

Source: DDPM, arXiv:2006.11239; velocity, arXiv:2202.00512; flow matching and the times it draws, arXiv:2403.03206 (section 3.1,
logit-normal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from reverie.errors import ModelError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
DISTILLED = (
    "LCMScheduler",
    "TCDScheduler",
)  # of networks that jump to the end, which a noise prediction loss would undo


class Noised(NamedTuple):
    """What a network is shown, and what it should say."""

    latents: Tensor  # (B, c, h, w)
    times: Tensor  # (B,), as the network wants them
    target: Tensor  # (B, c, h, w)


@dataclass(frozen=True)
class Noising:
    """The training side of a scheduler."""

    schedule: Any  # of diffusers: FlowMatchEulerDiscreteScheduler, or one with ``add_noise`` and ``get_velocity``
    prediction: Prediction

    @property
    def steps(self) -> int:
        """Noise levels there are."""
        return int(self.schedule.config.num_train_timesteps)

    def levels(self, even: Tensor, shift: float = 1.0) -> Tensor:
        """Noise levels (B,) from 0, nearly clean, to steps - 1, of even draws in [0, 1).

        Even draws stay even, but for flow become logit-normal. Above 1, ``shift`` makes more of them noisy.
        """
        if self.prediction == "flow":
            even = torch.special.ndtri(even).sigmoid()
        return (self.steps * shift * even / (1 + (shift - 1) * even)).long().clamp(max=self.steps - 1)

    def __call__(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Noised:
        """Latents with so much noise."""
        if self.prediction == "flow":
            order = self.steps - 1 - levels  # its lists begin at pure noise
            times, sigmas = (
                values.to(latents.device)[order] for values in (self.schedule.timesteps, self.schedule.sigmas)
            )
            share = sigmas.view(-1, *[1] * (latents.ndim - 1))
            return Noised((1 - share) * latents + share * noise, times, noise - latents)
        noisy = self.schedule.add_noise(latents, noise, levels)
        if self.prediction == "epsilon":
            target = noise
        elif self.prediction == "sample":
            target = latents
        else:
            target = self.schedule.get_velocity(latents, noise, levels)
        return Noised(noisy, levels, target)


def noising_of(scheduler: Any, name: str) -> Noising:
    """How a pipeline with this scheduler was trained. Raises ModelError for one that does not say, or of a distilled network.

    Args: name: of the pipeline, for the error.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return Noising(FlowMatchEulerDiscreteScheduler.from_config(config), "flow")
    prediction = config.get("prediction_type", "epsilon")
    if kind in DISTILLED:
        raise ModelError(
            f"{name} is distilled to few steps ({kind}), which further training would undo; train the model that it was made of"
        )
    if (
        "beta_schedule" not in config
        or prediction not in ("epsilon", "v_prediction", "sample")
        or config.get("use_flow_sigmas")
        or config.get("timestep_type", "discrete") != "discrete"
    ):
        raise ModelError(
            f"{name} has a scheduler that no network is trained by here ({kind}, {prediction}); known are those with betas that "
            "predict epsilon, v_prediction or sample, and FlowMatchEulerDiscreteScheduler"
        )
    return Noising(DDPMScheduler.from_config(config), prediction)
