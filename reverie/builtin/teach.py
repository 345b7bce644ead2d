"""A painter taught by a reader: beside the denoising loss, what it paints should be read as its caption says.

    captions -> paintings under guidance, without gradients -> decoded, read by the judge -> kept, and the reader learns from those kept
    some states on the way -> denoised once more, with gradients -> the reader -> the painter learns from what it reads

A denoising loss is the mean over all pixels and sees little of what tells a star from a cross; the reader sees nothing else.
Source: reward feedback learning, arXiv:2304.05977, section 4. Differences: the reward is a reader's cross-entropy; the gradient
goes through several states of a painting, from early ones on, not through one late one; guidance is part of it; the
denoising loss stays beside it; and the reader goes on learning, from the judge's words about the last few thousand paintings,
because a painter soon finds pictures that a fixed one takes for stars.

Those paintings are in no checkpoint: after a resumption the reader learns from what is painted from then on, at first from a
few paintings often. So a training that was killed goes on, but not to the same digits as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.func import functional_call

from reverie import seeds
from reverie.builtin.bind import Places, binding_loss, open_bound
from reverie.builtin.reader import (
    SMOOTHING,
    Reader,
    Scenes,
    draw_each,
    make_reader,
    reading_loss,
    softened,
    targets_as_read,
)
from reverie.errors import InputError
from reverie.learn.fit import Apart
from reverie.learn.text_to_image import SCHEDULER, Denoiser, TextToImage
from reverie.learn.train_painter import Curriculum
from reverie.smallworld.judge import read


class Kept:
    """The last paintings of this process, with what the judge read in them, in a ring: latents in half precision, ids as they are."""

    def __init__(self, most: int) -> None:
        self.most, self.seen = most, 0
        self.latents, self.targets = torch.zeros(0), torch.zeros(0)
        self.right = torch.zeros(0)  # of the newest (n,): whether the judge read all shapes as they were asked

    def add(self, latents: Tensor, targets: Tensor, asked: Tensor) -> None:
        """New ones go where the oldest are."""
        if not self.seen:
            kind = torch.half if latents.is_floating_point() else latents.dtype
            self.latents = latents.new_zeros(self.most, *latents.shape[1:], dtype=kind)
            self.targets = targets.new_zeros(self.most, *targets.shape[1:])
        self.right = (targets[:, :4] == asked[:, :4]).all(1).float()
        rows = torch.arange(self.seen, self.seen + len(latents), device=latents.device)[-self.most :] % self.most
        self.latents[rows], self.targets[rows] = latents[-self.most :].to(self.latents), targets[-self.most :]
        self.seen += len(latents)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Some of them, evenly and with repeats, by torch's generator."""
        rows = torch.randint(min(self.seen, self.most), (count,)).to(self.latents.device)
        return self.latents[rows].float(), self.targets[rows]


class Taught(nn.Module):
    """Painter, reader and what reads captions, called once a step. The decoder is not one of its parts: it does not learn."""

    def __init__(self, denoiser: Denoiser, reader: Reader, places: Places, learner: PaintAsRead) -> None:
        super().__init__()
        self.denoiser, self.reader, self.places, self._learner = denoiser, reader, places, learner
        self.kept = Kept(learner.keep)  # no buffer: processes would hand theirs on

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of ``PaintAsRead``."""
        return self._learner.of(self, batch)


@dataclass(frozen=True)
class PaintAsRead:
    """Batches as of ``ToTeach``."""

    painter: TextToImage
    reader: str = ""  # folder of a trained one; untrained when left out
    bound: str = (
        ""  # folder of a text encoder that tells places apart (bind.py), in the painter's stead; its own when left out
    )
    weight: float = 0.05  # of what is read, beside the denoising loss of 1
    number: float = 0.2  # of the number of things in what is read
    binding: float = 0.1  # of telling which thing is where from the caption, so that this is not lost
    keep: int = 3000  # of the last paintings of each process, for the reader
    again: int = 48  # of them, that it learns from in a step
    apart_reader: Apart = field(default_factory=lambda: Apart(lr=5e-4, weight_decay=0.02, betas=(0.9, 0.98), clip=1.0))
    sampler_steps: int = 10
    guidance: float = 2.0
    first: int = 2  # states before this step are not learnt from: nothing of a shape is there yet
    states: int = 4  # of each painting, that are learnt from
    noise: float = 0.3  # most that is added to a prediction before it is read
    channels: int = 4  # of the latents
    widths: tuple[int, int, int] = (48, 96, 192)  # of the reader

    @property
    def apart(self) -> dict[str, Apart]:
        """The reader trains apart: its task is the same at the end as at the beginning, so its rate is constant."""
        return {"reader.": self.apart_reader}

    def build(self) -> nn.Module:
        """The painter that ``painter`` starts from, and the reader."""
        folder = Path(self.reader) if self.reader else None
        denoiser = self.painter.build()
        assert isinstance(denoiser, Denoiser)
        if self.bound:
            denoiser.text_encoder, places = open_bound(Path(self.bound))
        else:
            places = Places(denoiser.text_encoder.config.hidden_size)
        return Taught(denoiser, make_reader(self.channels, self.widths, folder), places, self)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss`` of all; ``denoising``, ``read``, ``binding`` and ``reader`` are its parts, ``right`` the share painted as asked."""
        found: dict[str, Tensor] = net(batch)
        return found

    def save(self, net: nn.Module, folder: Path) -> None:
        """The painter alone, as ``TextToImage`` does."""
        assert isinstance(net, Taught)
        self.painter.save(net.denoiser, folder)

    def of(self, net: Taught, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses, inside the net's one call."""
        asked, ids, empty = batch["asked"], batch["asked_ids"], self.painter.tokens([""]).to(batch["asked_ids"])
        times, before, plain, painted = self._paint(net.denoiser, ids, empty)
        targets = torch.tensor(
            [targets_as_read(read(image), wanted) for image, wanted in zip(self._decode(painted), asked.tolist(), strict=True)],
            device=asked.device,
        )  # fmt: skip

        net.kept.add(painted, targets, asked)
        again, again_targets = net.kept.draw(self.again)
        latents = torch.cat([batch["known"].float(), again])
        known = torch.cat([batch["known_targets"], again_targets])
        reader = reading_loss(net.reader(softened(latents)), known, SMOOTHING)

        # Some states of each painting, other ones for each.
        count = len(ids)
        chosen = torch.stack(
            [self.first + torch.randperm(len(times) - self.first)[: self.states] for _ in range(count)]
        )
        steps, which = (
            chosen.flatten().to(ids.device),
            torch.arange(count, device=ids.device).repeat_interleave(self.states),
        )
        noisy, time = before[steps, which], times[steps]

        shown = self.painter.shown(batch)
        predicted = net.denoiser(
            torch.cat([shown.noisy, noisy]).contiguous(memory_format=torch.channels_last),
            torch.cat([shown.times, time]),
            torch.cat([shown.told, ids[which]]),
        ).float()
        real, own = predicted.split([len(shown.noisy), len(noisy)])
        velocity = torch.lerp(plain[steps, which], own, self.guidance)
        clean = _clean(noisy, velocity, time)
        soft = clean + self.noise * torch.rand(len(clean), 1, 1, 1, device=clean.device) * torch.randn_like(clean)
        fixed = {name: weight.detach() for name, weight in net.reader.named_parameters()}
        with torch.autocast(soft.device.type, enabled=False):  # its gradient is what the painter learns from
            as_read = reading_loss(functional_call(net.reader, fixed, (soft,)), asked[which], number=self.number)
        denoising = F.mse_loss(real, shown.target)
        words = net.denoiser.words(torch.cat([batch["said_ids"], ids]))
        with torch.autocast(words.device.type, enabled=False):
            binding = binding_loss(net.places(words.float()), torch.cat([batch["said"], asked]))
        return {
            "loss": denoising + self.weight * batch["weight"] * as_read + self.binding * binding + reader,
            "denoising": denoising,
            "read": as_read,
            "binding": binding,
            "reader": reader,
            "right": net.kept.right.mean(),
        }

    @torch.no_grad()
    def _paint(self, denoiser: Denoiser, ids: Tensor, empty: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Paint by DDIM. Returns: times (S), latents before each step and what was predicted without the caption
        (S, n, c, h, w), and the painting's latents (n, c, h, w).
        """
        schedule = DDIMScheduler(**SCHEDULER)
        schedule.set_timesteps(self.sampler_steps)
        side = self.painter.latent_size
        latents = torch.randn(len(ids), self.channels, side, side, device=ids.device)
        words, before, plain = denoiser.words(torch.cat([empty.expand_as(ids), ids])), [], []
        for time in schedule.timesteps:
            twice = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
            without, with_caption = denoiser.told(twice, time.to(ids.device).expand(len(twice)), words).float().chunk(2)
            before.append(latents)
            plain.append(without)
            velocity = torch.lerp(without, with_caption, self.guidance)
            latents = schedule.step(velocity, int(time), latents, return_dict=False)[0]
        torch.clear_autocast_cache()  # it holds weights in half precision that were cast without a gradient
        return schedule.timesteps.to(ids.device), torch.stack(before), torch.stack(plain), latents

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Latents as pictures (n, height, width, 3)."""
        vae = self.painter.open_autoencoder(str(latents.device))
        images = vae.decode((latents / vae.config.scaling_factor).contiguous(memory_format=torch.channels_last)).sample
        pixels: np.ndarray[Any, np.dtype[np.uint8]] = (
            ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        )
        return pixels


@dataclass(frozen=True)
class ToTeach:
    """Batches for ``PaintAsRead``; a pure function of (seed, position, rank).

    ``latents``, ``token_ids`` for the denoising loss; ``known``, ``known_targets`` for the reader; ``asked_ids``, ``asked`` to paint; ``said_ids``, ``said`` captions of two things;
    ``weight``, from 0 to 1, by which what is read counts.
    """

    painted: Curriculum  # for the denoising loss
    sets: Sequence[Scenes]  # of one thing, and of two
    known: int = 40  # scenes for the reader, as many of each set
    asked: int = 10  # captions to paint
    share_of_one: float = 0.3  # of them of one thing
    said: int = 32  # captions of two things, of which only is told which thing is where
    ramp: int = 80  # steps until what is read has its full weight

    def __post_init__(self) -> None:
        if not 0 <= self.share_of_one <= 1:
            raise InputError(f"share of one {self.share_of_one} must be between 0 and 1")

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        for position, batch in enumerate(self.painted.iterate(start), start):
            rng = np.random.default_rng(seeds.derive("to teach", self.painted.seed, position, self.painted.rank))
            latents, _, targets = draw_each(self.sets, rng, self.known)
            ones = round(self.share_of_one * self.asked)
            _, ids, wanted = _joined(
                some.draw(rng, count) for some, count in zip(self.sets, (ones, self.asked - ones), strict=True)
            )
            _, said_ids, said = self.sets[1].draw(rng, self.said)
            weight = torch.tensor(min(1.0, (position + 1) / self.ramp))
            yield {
                **batch,
                **{"known": latents, "known_targets": targets, "asked_ids": ids, "asked": wanted, "weight": weight},
                **{"said_ids": said_ids, "said": said},
            }


def _joined(drawn: Iterator[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    latents, ids, targets = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return latents, ids, targets


def _clean(noisy: Tensor, velocity: Tensor, times: Tensor) -> Tensor:
    """The latents without noise that a velocity means at these times."""
    kept = DDIMScheduler(**SCHEDULER).alphas_cumprod.to(noisy.device)[times].view(-1, 1, 1, 1)
    clean: Tensor = kept.sqrt() * noisy - (1 - kept).sqrt() * velocity
    return clean
