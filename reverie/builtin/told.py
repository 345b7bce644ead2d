"""A painter of tokens is told apart by captions that differ in a shape: the right one must say its tokens better than a wrong one.

    half of a batch    masks of the cosine law, as text_to_tokens.py has them
    the other half     every place that a thing reaches into is masked, and some of the others; asked under the caption, and under one with other shapes

Of 4 nats that a masked token of the small world takes, its caption's shape decides some hundredths: which of many like codes a place has is mostly chance, and
a cross-entropy learns shapes as slowly. Between two captions of one picture under one mask that chance is the same, and what is left is the shape. No place
of a thing is visible then, for else a network would do well by finding that caption and picture disagree, which no sampler asks.

Source: none; the likelihood ratio of two captions under a generative model is what a diffusion classifier (arXiv:2303.16203) tells classes by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import seeds
from reverie.learn.text_to_tokens import TextToTokens, masked
from reverie.learn.train_painter import Curriculum
from reverie.smallworld.describe import plural
from reverie.smallworld.scene import SHAPES


@dataclass(frozen=True)
class TellShapesApart:
    """Batches as of ``ToTell``."""

    tokens: TextToTokens
    weight: float = 0.1  # of telling captions apart, beside the cross-entropies of 1

    def build(self) -> nn.Module:
        """What ``tokens`` builds."""
        return self.tokens.build()

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss``; ``told`` and ``apart`` are parts of it, and ``right`` is the share of pictures that the right caption says better."""
        half = {name: value[::2] for name, value in batch.items()}
        usual = self.tokens.losses(net, {name: value for name, value in half.items() if name != "other_ids"})
        ids, weights = batch["latents"][1::2].long(), batch["weights"][1::2]
        hidden = (weights > 1) | masked(len(ids), ids[0].numel(), ids.device).view(ids.shape)
        shown = ids.masked_fill(hidden, self.tokens.mask_id)
        words = torch.cat([batch["token_ids"][1::2], batch["other_ids"][1::2]]).long().to(ids.device)
        logits = net(torch.cat([shown, shown]), words).permute(0, 2, 3, 1).float()
        asked = hidden & (weights > 1)
        each = F.cross_entropy(logits.flatten(0, 2), torch.cat([ids, ids]).flatten(), reduction="none").view(
            -1, *ids.shape[1:]
        )
        own, other = each.chunk(2)
        told = own[asked].mean()
        better = ((other - own) * asked).sum((1, 2))
        apart = F.softplus(-better).mean()
        return {
            "loss": usual["loss"] + told + self.weight * apart,
            "accuracy": usual["accuracy"],
            "told": told,
            "apart": apart,
            "right": (better > 0).float().mean(),
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """What ``tokens`` saves."""
        self.tokens.save(net, folder)


@dataclass(frozen=True)
class ToTell:
    """Batches of ``painted`` with ``other_ids`` (n, tokens): their captions with other shapes, or with those of two things exchanged. A pure
    function of (seed, position, rank).
    """

    painted: Curriculum  # with token ids and weights
    forms: Tensor  # (shapes, 2) token ids of each shape's names, one thing and several

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        for position, batch in enumerate(self.painted.iterate(start), start):
            rng = np.random.default_rng(seeds.derive("to tell", self.painted.seed, position, self.painted.rank))
            yield {**batch, "other_ids": other_captions(batch["token_ids"], self.forms, rng)}


def forms_of(learner: TextToTokens) -> Tensor:
    """Token ids of the names of shapes, (shapes, 2): of one thing, and of several."""
    names = [name for shape in SHAPES for name in (shape, plural(shape))]
    return learner.tokens(names)[:, 1].view(len(SHAPES), 2)  # after the token that begins a caption


def other_captions(ids: Tensor, forms: Tensor, rng: np.random.Generator) -> Tensor:
    """Captions (n, tokens) with every shape another one, the same for the same; those of two shapes with these exchanged, half of the time."""
    found = ids[..., None, None] == forms  # (n, tokens, shapes, 2)
    shapes, form = found.any(-1), found.any(-2).float().argmax(-1)
    there = shapes.any(-1)
    now = shapes.float().argmax(-1)
    count = len(forms)
    new = now.clone()
    for row, own in enumerate(now):
        own_shapes = own[there[row]].unique().tolist()
        to = np.arange(count)
        if len(own_shapes) == 2 and rng.random() < 0.5:
            to[own_shapes] = own_shapes[::-1]
        else:
            to = (to + rng.integers(1, count)) % count
        new[row] = torch.from_numpy(to)[own]
    return torch.where(there, forms[new, form], ids)
