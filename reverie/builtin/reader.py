"""A small network that reads a scene from a painter's latents, as ``smallworld/judge.py`` reads it from pixels, but with a gradient.

    latents (B, c, 16, 16) -> which shape (or none) and which colour is at the left, right, top and bottom; one thing or two

A single thing is in all four places at once; of two, a caption tells the axis, and the two places on the other one do not
count. Learnt from renders, whose scenes are known (``LearnToRead``), and then, beside a painter, from what the judge reads in
its paintings (``teach.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from reverie import seeds
from reverie.models.pretrained import load_into
from reverie.nets.autocast import exact_norms_on_cpu
from reverie.smallworld.judge import Reading
from reverie.smallworld.scene import COLOURS, SHAPES, Scene, Thing

NONE = len(SHAPES)  # the answer for what is no shape of the small world
OPEN = -1  # a target that does not count
SIDE = 16  # of the latents
FILE = "reader.safetensors"
SOFT, BLURRED = 0.5, 0.6  # most noise, and most of a blur, that a reader has to see through
SMOOTHING = 0.03  # of labels
COLOUR, NUMBER = 0.5, 0.1  # weights of the losses of colour and number, beside 1 of shape


class Answers(NamedTuple):
    """Logits: shapes (B, 4, 9) with none last, colours (B, 4, 8), number of things (B, 2)."""

    shapes: Tensor
    colours: Tensor
    number: Tensor


class Reader(nn.Module):
    """Latents (B, c, 16, 16) -> ``Answers``."""

    def __init__(self, channels: int = 4, widths: tuple[int, int, int] = (48, 96, 192), hidden: int = 512) -> None:
        super().__init__()
        a, b, c = widths
        self.body = nn.Sequential(
            nn.Conv2d(channels, a, 3, padding=1), _Block(a, a, 1), _Block(a, b, 2), _Block(b, b, 1), _Block(b, c, 2), _Block(c, c, 1)
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.SiLU(), nn.Flatten(), nn.Linear(c * (SIDE // 4) ** 2, hidden), nn.SiLU(), nn.Linear(hidden, 4 * (NONE + 1 + len(COLOURS)) + 2)
        )  # fmt: skip

    def forward(self, latents: Tensor) -> Answers:
        """As the class says."""
        told = self.head(self.body(latents.contiguous(memory_format=torch.channels_last))).float()
        shapes, colours, number = told.split([4 * (NONE + 1), 4 * len(COLOURS), 2], dim=1)
        return Answers(shapes.unflatten(1, (4, -1)), colours.unflatten(1, (4, -1)), number)


class _Block(nn.Module):
    """Two convolutions around a group norm each, and a way past them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after)
        self.second, self.second_norm = nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(8, after)
        self.past, self.stride = (
            nn.Identity() if before == after and stride == 1 else nn.Conv2d(before, after, 1),
            stride,
        )

    def forward(self, states: Tensor) -> Tensor:
        inner = self.first_norm(self.first(F.silu(states)))
        # A 1 x 1 convolution with this stride, but such a one writes past its memory in the backward pass (oneDNN 3.12 in
        # torch 2.13) where images are channels last, have under 16 channels and cannot be dealt evenly to several threads:
        #   torch.set_num_threads(2); images = torch.randn(11, 8, 16, 16).contiguous(memory_format=torch.channels_last)
        #   torch.nn.Conv2d(8, 8, 1, 2)(images).sum().backward()
        # aborts, now or later.
        kept = states[:, :, :: self.stride, :: self.stride]
        passed: Tensor = self.past(kept) + self.second_norm(self.second(F.silu(inner)))
        return passed


def targets_of(scene: Scene) -> list[int]:
    """What a reader should answer for a scene of one thing or two: four shapes, four colours, number of things less one."""
    return _targets([_named(thing) for thing in _places(scene.things)], len(scene.things))


def targets_as_read(reading: Reading, asked: Sequence[int]) -> list[int]:
    """The same for a painting, by what the judge reads in it, where ``asked`` were the targets of the scene to be painted.

    With another number of things than was asked for, no shape counts as there.
    """
    number = 1 if asked[8] == 0 else 2
    if len(reading.things) != number:
        return [OPEN if shape == OPEN else NONE for shape in asked[:4]] + [OPEN] * 4 + [OPEN]
    level = asked[0] != OPEN  # the two are beside each other
    things = sorted(reading.things, key=lambda thing: thing.x if level else thing.y)
    named = [_named(thing) for thing in (things * 4 if number == 1 else things * 2)[:4]]
    return _targets([pair if asked[k] != OPEN else None for k, pair in enumerate(named)], number)


def _places(things: Sequence[Thing]) -> list[Thing | None]:
    """What is at the left, right, top and bottom."""
    if len(things) == 1:
        return [things[0]] * 4
    a, b = things
    if abs(a.x - b.x) >= abs(a.y - b.y):
        return [*sorted(things, key=lambda thing: thing.x), None, None]
    return [None, None, *sorted(things, key=lambda thing: thing.y)]


def _named(thing: Thing | None) -> tuple[int, int] | None:
    if thing is None:
        return None
    shape = SHAPES.index(thing.shape) if thing.shape in SHAPES else NONE
    return shape, list(COLOURS).index(thing.colour) if thing.colour in COLOURS else OPEN


def _targets(named: Sequence[tuple[int, int] | None], number: int) -> list[int]:
    return [pair[0] if pair else OPEN for pair in named] + [pair[1] if pair else OPEN for pair in named] + [number - 1]


def reading_loss(answers: Answers, targets: Tensor, smoothing: float = 0.0, number: float = NUMBER) -> Tensor:
    """Cross-entropy of shapes, colours and number (by this weight) for targets (B, 9), each over those that count."""
    parts = (
        (1.0, answers.shapes.flatten(0, 1), targets[:, :4].flatten()),
        (COLOUR, answers.colours.flatten(0, 1), targets[:, 4:8].flatten()),
        (number, answers.number, targets[:, 8]),
    )
    losses = []
    for weight, logits, wanted in parts:
        summed = F.cross_entropy(logits, wanted, ignore_index=OPEN, label_smoothing=smoothing, reduction="sum")
        losses.append(weight * summed / (wanted != OPEN).sum().clamp(min=1))
    return torch.stack(losses).sum()


def share_right(answers: Answers, targets: Tensor) -> Tensor:
    """Share of images (B,) of which all shapes that count are answered; 0 of none."""
    right = (answers.shapes.argmax(-1) == targets[:, :4]) | (targets[:, :4] == OPEN)
    return right.all(1).float().sum() / max(1, len(targets))


def softened(latents: Tensor) -> Tensor:
    """Latents under noise and blur of a random strength each: a reader of predictions must see through both."""
    amount = torch.rand(2, len(latents), 1, 1, 1, device=latents.device)
    noisy = latents + SOFT * amount[0] * torch.randn_like(latents)
    blurred = F.avg_pool2d(F.pad(noisy, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(noisy, blurred, BLURRED * amount[1])


@dataclass(frozen=True)
class LearnToRead:
    """Batches hold ``latents`` (n, c, 16, 16) and ``targets`` (n, 9) of their scenes."""

    channels: int = 4
    widths: tuple[int, int, int] = (48, 96, 192)

    def build(self) -> nn.Module:
        """An untrained reader."""
        return make_reader(self.channels, self.widths)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Its loss, and the share of images that are read right."""
        answers = net(softened(batch["latents"].float()))
        return {
            "loss": reading_loss(answers, batch["targets"], SMOOTHING),
            "right": share_right(answers, batch["targets"]),
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """``reader.safetensors``."""
        save_reader(net, folder)


def save_reader(net: nn.Module, folder: Path, about: dict[str, str] | None = None) -> None:
    """The weights of a reader of any kind, in a folder, and notes about it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder / FILE, about)


def make_reader(channels: int, widths: tuple[int, int, int], folder: Path | None = None) -> Reader:
    """A reader, untrained or with the weights of a folder."""
    reader = Reader(channels, widths)
    if folder is not None:
        load_into(reader, folder / FILE)
    exact_norms_on_cpu(reader)
    return reader


@dataclass(frozen=True)
class Scenes:
    """Latents of known scenes with captions; rows are drawn evenly."""

    latents: Tensor  # (N, c, 16, 16)
    token_ids: Tensor  # (N, captions, tokens)
    targets: Tensor  # (N, 9)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, token ids of one caption each, and targets."""
        rows = torch.from_numpy(rng.integers(len(self.latents), size=count))
        which = torch.from_numpy(rng.integers(self.token_ids.shape[1], size=count))
        return self.latents[rows].float(), self.token_ids[rows, which].long(), self.targets[rows]


def draw_each(sets: Sequence[Scenes], rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """As many of each set, ``count`` in all at most: what ``Scenes.draw`` gives."""
    latents, ids, targets = (
        torch.cat(parts) for parts in zip(*(some.draw(rng, count // len(sets)) for some in sets), strict=True)
    )
    return latents, ids, targets


@dataclass(frozen=True)
class ToRead:
    """Batches for ``LearnToRead``, as many scenes of each set; a pure function of (seed, position, rank)."""

    sets: Sequence[Scenes]
    batch: int
    seed: int
    rank: int = 0

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        while True:
            rng = np.random.default_rng(seeds.derive("to read", self.seed, start, self.rank))
            latents, _, targets = draw_each(self.sets, rng, self.batch)
            yield {"latents": latents, "targets": targets}
            start += 1
