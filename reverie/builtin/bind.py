"""A text encoder learns from captions alone which thing is where.

    a painter's text encoder -> deeper by layers that change nothing yet -> its states tell shape and colour of each place

Under a painter's loss an encoder learns the words of a caption long before it learns which of two things is left of the
other: of two, a classifier on all states of the first painter's encoder told the shape of a given place right in 64 % of
captions, hardly more than knowing both shapes without their places, and half of its paintings of two things
showed one shape twice. Told apart by a loss of its own it takes minutes, for there is no picture in it.

What the encoder said before is kept near, so that the U-Net still understands it. Source: none; the head that reads a place
from the states is a cross-attention like those of a U-Net, with one learnt query a place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from reverie import seeds
from reverie.builtin.reader import OPEN, Scenes
from reverie.models.names import locate
from reverie.models.pretrained import load_into, load_model
from reverie.smallworld.scene import COLOURS, SHAPES

PLACES = 4  # left, right, top, bottom, as in reader.py
HEAD = "places.safetensors"


class Places(nn.Module):
    """States of a caption (B, tokens, width) -> logits of shapes (B, 4, 8) and of colours (B, 4, 8)."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.5 * torch.randn(PLACES, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.out = nn.Linear(width, len(SHAPES) + len(COLOURS))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        seen, _ = self.attention(self.queries.expand(len(states), -1, -1), states, states, need_weights=False)
        shapes, colours = self.out(seen).float().split([len(SHAPES), len(COLOURS)], dim=-1)
        return shapes, colours


def binding_loss(told: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    """Cross-entropy of the shapes and colours that a caption's scene has, each over the places that count.

    Args:
        told: what ``Places`` returns.
        targets: (B, 9), of ``reader.targets_of``.
    """
    losses = [
        F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=OPEN, reduction="sum")
        / (wanted != OPEN).sum().clamp(min=1)
        for logits, wanted in zip(told, (targets[:, :PLACES], targets[:, PLACES : 2 * PLACES]), strict=True)
    ]
    return torch.stack(losses).sum()


def deeper(old: CLIPTextModel, layers: int) -> CLIPTextModel:
    """A text encoder of so many layers with the old one's states: the layers it has more add nothing at first.

    One that is as deep already is copied. Draws from torch's global generator.
    """
    config = copy.deepcopy(old.config)
    before = config.num_hidden_layers
    config.num_hidden_layers = max(before, layers)
    new = CLIPTextModel(config)
    new.load_state_dict(old.state_dict(), strict=False)  # lacks the layers that follow
    for layer in list(new.encoder.layers)[before:]:
        for last in (layer.self_attn.out_proj, layer.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    return new


class Bound(nn.Module):
    """The encoder that learns, the one it was, and what reads places from its states."""

    def __init__(self, encoder: CLIPTextModel, before: CLIPTextModel, places: Places, noise: float) -> None:
        super().__init__()
        self.encoder, self.before, self.places = encoder, before.eval().requires_grad_(False), places
        self._noise = noise

    def forward(self, ids: Tensor, read: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """What ``Places`` reads in the first ``read`` of the captions (B, tokens), and how far the states of all have moved."""
        now: Tensor = self.encoder(ids).last_hidden_state.float()
        with torch.no_grad():
            past: Tensor = self.before(ids).last_hidden_state.float()
        moved = ((now - past).square() / (past.var((0, 1)) + 1e-4)).mean()
        return self.places(now[:read] + self._noise * torch.randn_like(now[:read])), moved


@dataclass(frozen=True)
class LearnToBind:
    """Batches as of ``ToBind``."""

    painter: str  # folder or name, whose text encoder learns
    layers: int = 4  # that it has afterwards
    near: float = 0.3  # weight of how far states moved, as a fraction of their variance in the batch
    noise: float = 0.05  # added to states before they are read, so that what they tell is not faint

    def build(self) -> nn.Module:
        """As deep as it shall be, with the states of before."""
        old = load_model(CLIPTextModel, locate(self.painter), part="text_encoder")
        return Bound(deeper(old, self.layers).requires_grad_(True), old, Places(old.config.hidden_size), self.noise)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss``; ``binding`` and ``moved`` are its parts, ``right`` the share of places whose shape is told right."""
        targets = batch["targets"]
        told, moved = net(batch["ids"], len(targets))
        binding = binding_loss(told, targets)
        counts = targets[:, :PLACES] != OPEN
        right = (told[0].argmax(-1) == targets[:, :PLACES])[counts].float().mean()
        return {"loss": binding + self.near * moved, "binding": binding, "moved": moved, "right": right}

    def save(self, net: nn.Module, folder: Path) -> None:
        """The encoder as a folder ``text_encoder``, and ``places.safetensors``."""
        assert isinstance(net, Bound)
        net.encoder.save_pretrained(folder / "text_encoder")
        save_file({name: value.contiguous() for name, value in net.places.state_dict().items()}, folder / HEAD)


def open_bound(folder: Path) -> tuple[CLIPTextModel, Places]:
    """What ``LearnToBind.save`` wrote, to be trained on."""
    encoder = load_model(CLIPTextModel, locate(str(folder / "text_encoder"))).requires_grad_(True)
    places = Places(encoder.config.hidden_size)
    load_into(places, folder / HEAD)
    return encoder, places


@dataclass(frozen=True)
class ToBind:
    """Batches for ``LearnToBind``: ``ids`` of captions, the first of them with ``targets``; a pure function of (seed, position, rank)."""

    sets: Sequence[Scenes]  # of one thing, and of two
    others: Tensor  # (N, captions, tokens) of any scenes: what was said of these stays near too
    seed: int
    rank: int = 0
    counts: tuple[int, int, int] = (24, 96, 24)  # captions of one thing, of two, of any

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        while True:
            rng = np.random.default_rng(seeds.derive("to bind", self.seed, start, self.rank))
            drawn = [some.draw(rng, count) for some, count in zip(self.sets, self.counts, strict=False)]
            rows, which = (torch.from_numpy(rng.integers(size, size=self.counts[-1])) for size in self.others.shape[:2])
            ids = [ids for _, ids, _ in drawn] + [self.others[rows, which].long()]
            yield {"ids": torch.cat(ids), "targets": torch.cat([targets for _, _, targets in drawn])}
            start += 1
