"""A classifier folder: a linear head on a named encoder. Opened in one line, asked about files, arrays or pictures.

classifier.json      classes in order, encoder and its revision, templates
head.safetensors     weight (classes, d) and bias (classes)
cache.safetensors    of a cache model: keys (n, d) and labels (n), the number of each key's class
encoder/             the encoder, where it was tuned as well
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reverie.errors import InputError, ModelError
from reverie.models.asked import Pictured, find_made, opened_picture
from reverie.models.encoder import Encoder, open_encoder

ABOUT = "classifier.json"
HEAD = "head.safetensors"
CACHE = "cache.safetensors"
OWN_ENCODER = "encoder"  # the encoder's name where it was tuned as well and stands in the folder itself


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one image."""

    label: str
    confidence: float  # softmax probability of the label, in [0, 1]
    probabilities: tuple[float, ...]  # of all classes, in their order


@dataclass(frozen=True)
class Cache:
    """Labelled photos that vote beside the head, the nearer the louder; nothing is trained.

    Source: Zhang et al., Tip-Adapter, arXiv:2111.03930: alpha exp(-beta (1 - cosine)) for the class of each key.
    """

    keys: Tensor  # unit rows (n, d)
    labels: Tensor  # int64 (n,)
    alpha: float = 1.0
    beta: float = 5.5

    def votes(self, rows: Tensor, num_classes: int) -> Tensor:
        """What to add to the logits, (m, classes), for unit rows (m, d)."""
        nearness = torch.exp(-self.beta * (1 - rows @ self.keys.T))
        values = self.labels[:, None] == torch.arange(num_classes)
        return self.alpha * nearness @ values.to(nearness.dtype)


class Classifier:
    """Made by ``load_classifier``. Call it with images."""

    def __init__(
        self, classes: Sequence[str], encoder: Encoder, weight: Tensor, bias: Tensor, cache: Cache | None = None
    ) -> None:
        self.classes, self.encoder, self.cache = tuple(classes), encoder, cache
        self.weight, self.bias = weight.float(), bias.float()

    def __call__(self, images: Iterable[Pictured]) -> list[Answer]:
        """One answer an image, in order. Raises InputError for a file that is not there, BrokenImage for one that is no image."""
        if isinstance(images, (str, bytes)):
            raise InputError("give a list of pictures, also for one alone")
        pictures = [opened_picture(image) for image in images]
        if not pictures:
            return []
        chances = self.logits(self.encoder.images(pictures)).softmax(1)
        return [
            Answer(self.classes[int(row.argmax())], float(row.max()), tuple(float(value) for value in row))
            for row in chances
        ]

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (n, classes) for the encoder's rows (n, d)."""
        rows = F.normalize(rows.float(), dim=1)
        logits = F.linear(rows, self.weight, self.bias)
        return logits + self.cache.votes(rows, len(self.classes)) if self.cache else logits


def save_classifier(folder: Path, head: Path, about: Mapping[str, Any], cache: Cache | None = None) -> None:
    """Write a classifier folder beside its place and rename it, so that it is never seen half.

    Args:
        head: file to copy, with ``weight`` and ``bias``.
        about: ``classes``, ``encoder`` (its name), ``revision`` (of the encoder) and ``templates``.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    shutil.copy(head, temporary / HEAD)
    about = dict(about)
    if cache is not None:
        save_file({"keys": cache.keys.contiguous(), "labels": cache.labels}, temporary / CACHE)
        about["cache"] = {"alpha": cache.alpha, "beta": cache.beta}
    (temporary / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.rename(folder)


def load_classifier(path: str | Path, device: str = "cpu", batch_size: int = 64) -> Classifier:
    """Open a classifier folder, or the classifier of a run folder.

    Raises: InputError if there is none at the path; ModelError if its encoder is not the one it was tuned on.
    """
    folder = find_made("classifier", Path(path), "zero_shot")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        head = load_file(folder / HEAD)
        cache = Cache(**load_file(folder / CACHE), **about["cache"]) if "cache" in about else None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(f"{folder} is a damaged classifier ({error}); make it again") from error
    own = isinstance(about, dict) and about.get("encoder") == OWN_ENCODER
    needed = {"classes", "encoder"} if own else {"classes", "encoder", "revision"}
    if not isinstance(about, dict) or needed - about.keys():
        raise ModelError(f"{folder} is a damaged classifier ({ABOUT} lacks what it needs); make it again")
    if {"weight", "bias"} - head.keys() or not len(about["classes"]) == len(head["weight"]) == len(head["bias"]):
        raise ModelError(f"{folder} is a damaged classifier ({HEAD} does not fit the classes); make it again")
    encoder = open_encoder(str(folder / OWN_ENCODER) if own else about["encoder"], device, batch_size)
    if not own and encoder.revision != about["revision"]:
        raise ModelError(
            f"{folder} was tuned on {about['revision']}, but {about['encoder']} is now {encoder.revision}; tune it again"
        )
    return Classifier(about["classes"], encoder, head["weight"], head["bias"], cache)
