"""Tuning of a linear classifier on frozen features, starting from the weights of CLIP's zero-shot classifier.

The encoder is frozen and ran once, so a step is one small matrix product. Where painted and real images meet, every
step sees a batch of each.

Source: arXiv:2210.07574 and its code (sections 2.4, 2.5 and 2.7 of the method). Differs: the batches of an epoch are
cut from one endless shuffled stream, so none is dropped and the rate never jumps between epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from reverie import seeds
from reverie.errors import InputError
from reverie.models.classifier import HEAD
from reverie.models.pretrained import load_tensors


@dataclass(frozen=True)
class ClassifierTuning:
    """Batches hold painted ``features`` (n, d) and ``labels`` (n), or ``real_features`` and ``real_labels``, or both.

    The losses of a step: ``loss``, ``accuracy`` (share of the batch on its label), and of ``soft`` and ``hard`` targets.
    """

    start: Path = Path()  # file with ``weight`` (classes, d), the teacher: unit text rows times the logit scale
    begin: Path | None = None  # head.safetensors to go on from, when that is not the teacher
    soft_share: float = 0.5  # of the loss on painted images; the rest is plain cross-entropy (sl in the paper)
    temperature: float = 2.0  # of the teacher, which is the starting head; the student has none
    hard_pseudo_labels: bool = False  # the teacher's first choice in place of its distribution
    label_smoothing: float = 0.0
    synthetic_weight: float = 1.0
    real_weight: float = 1.0
    decay_to: Literal["zero", "start"] = "zero"  # what weight decay pulls the head towards; the paper's is zero

    def __post_init__(self) -> None:
        if not 0 <= self.soft_share <= 1 or not 0 <= self.label_smoothing < 1:
            raise InputError("soft_share lies in [0, 1] and label_smoothing in [0, 1)")
        if self.temperature <= 0:
            raise InputError(f"temperature {self.temperature} must be above 0")

    def build(self) -> nn.Module:
        """The zero-shot head itself, or the one to go on from."""
        head = LinearHead(load_tensors(self.start)["weight"], about_start=self.decay_to == "start")
        if self.begin is not None:
            parts = load_tensors(self.begin)
            with torch.no_grad():
                head.moved.copy_(torch.cat([parts["weight"], parts["bias"][:, None]], dim=1) - head.origin)
        return head

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """w_syn (sl SCE + (1 - sl) CE) on painted plus w_real CE on real images; a kind that is not there counts 0."""
        head = net.module if hasattr(net, "module") else net
        assert isinstance(head, LinearHead)
        parts = [batch[key] for key in ("features", "real_features") if key in batch]
        logits = net(torch.cat(parts))
        pieces = list(logits.split([len(part) for part in parts]))  # on the way back, slices would cost a matrix each
        total = logits.new_zeros(())
        named: dict[str, Tensor] = {}
        labels: list[Tensor] = []
        if "features" in batch:
            painted = pieces.pop(0)
            labels.append(batch["labels"])
            teacher = head.zero_shot(batch["features"])
            named["soft"] = soft_target_loss(painted, teacher, self.temperature, self.hard_pseudo_labels)
            named["hard"] = self._hard(painted, batch["labels"])
            mixed = self.soft_share * named["soft"] + (1 - self.soft_share) * named["hard"]
            total = total + self.synthetic_weight * mixed
        if "real_features" in batch:
            labels.append(batch["real_labels"])
            named["real"] = self._hard(pieces.pop(0), batch["real_labels"])
            total = total + self.real_weight * named["real"]
        named["accuracy"] = (logits.detach().argmax(1) == torch.cat(labels)).float().mean()
        return {"loss": total, **named}

    def save(self, net: nn.Module, folder: Path) -> None:
        """``head.safetensors`` with ``weight`` (classes, d) and ``bias`` (classes)."""
        assert isinstance(net, LinearHead)
        save_head(net, folder)

    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


class LinearHead(nn.Module):
    """W x + b. Both are one matrix, so that both decay, as in the paper's code."""

    start: Tensor  # (classes, d + 1), the bias last
    origin: Tensor  # what decay pulls towards

    def __init__(self, start: Tensor, about_start: bool = False) -> None:
        super().__init__()
        rows = F.pad(start.float(), (0, 1))  # the bias begins at 0
        self.register_buffer("start", rows.clone(), persistent=False)
        self.register_buffer("origin", rows.clone() if about_start else torch.zeros_like(rows), persistent=False)
        self.moved = nn.Parameter(rows - self.origin)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (n, classes) of features (n, d), which are made unit length."""
        rows = self.origin + self.moved
        weight, bias = torch.split(rows, [rows.shape[1] - 1, 1], dim=1)
        return F.linear(F.normalize(features.float(), dim=1), weight, bias[:, 0])

    @torch.no_grad()
    def zero_shot(self, features: Tensor) -> Tensor:
        """Logits of the head as it began."""
        return F.linear(F.normalize(features.float(), dim=1), self.start[:, :-1])

    def parts(self) -> dict[str, Tensor]:
        """``weight`` (classes, d) and ``bias`` (classes)."""
        rows = self.origin + self.moved
        return {"weight": rows[:, :-1], "bias": rows[:, -1]}


def save_head(head: LinearHead, folder: Path) -> None:
    """``head.safetensors`` with ``weight`` (classes, d) and ``bias`` (classes)."""
    save_file({name: value.detach().cpu().contiguous() for name, value in head.parts().items()}, folder / HEAD)


def starting_head(class_rows: Tensor, logit_scale: float) -> Tensor:
    """Unit text rows (classes, d) times the logit scale: with unit image features this head is zero-shot CLIP."""
    return F.normalize(class_rows, dim=1) * logit_scale


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float, hard: bool = False) -> Tensor:
    """Cross-entropy of the student (n, classes) against softmax(teacher / temperature), mean over rows.

    The student is not divided by the temperature and no T^2 is multiplied in, as in the paper's code. ``hard``: against
    the teacher's first choice.
    """
    if hard:
        return F.cross_entropy(student, teacher.argmax(1))
    return F.cross_entropy(student, (teacher / temperature).softmax(1))


@dataclass(frozen=True)
class FeatureBatches:
    """Batches of cached features, each a pure function of (seed, position); every row once in each pass."""

    features: Tensor | None  # painted (N, d); None for batches of real ones alone
    labels: Tensor | None  # (N,)
    real_features: Tensor | None = None  # (M, d)
    real_labels: Tensor | None = None
    batch: int = 512
    real_batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features is None and self.real_features is None:
            raise InputError("there is nothing to tune on: neither painted nor real features")

    @property
    def per_epoch(self) -> int:
        """Steps in one pass over the painted features, or over the real ones where there are no others."""
        rows, batch = (
            (self.features, self.batch) if self.features is not None else (self.real_features, self.real_batch)
        )
        assert rows is not None
        return max(1, -(-len(rows) // batch))

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        streams = [
            (name, rows, labels, shuffled(len(rows), min(batch, len(rows)), seeds.derive(name, self.seed), start))
            for name, rows, labels, batch in (
                ("", self.features, self.labels, self.batch),
                ("real_", self.real_features, self.real_labels, self.real_batch),
            )
            if rows is not None and labels is not None
        ]
        while True:
            found: dict[str, Any] = {}
            for name, rows, labels, order in streams:
                chosen = torch.from_numpy(next(order))
                found[f"{name}features"], found[f"{name}labels"] = rows[chosen], labels[chosen]
            yield found


def shuffled(num: int, batch: int, seed: int, start: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Row numbers below ``num``, ``batch`` at a time, from batch ``start`` of one endless stream of shuffled passes."""
    first = start * batch
    epoch, place = divmod(first, num)
    order = np.random.default_rng((seed, epoch)).permutation(num)
    while True:
        taken = [order[place : place + batch]]
        while (missing := batch - sum(map(len, taken))) > 0:
            epoch += 1
            order = np.random.default_rng((seed, epoch)).permutation(num)
            place = 0
            taken.append(order[:missing])
        place += len(taken[-1])
        yield np.concatenate(taken)
