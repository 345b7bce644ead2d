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
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from reverie.errors import InputError, ModelError
from reverie.models.artifacts import find_artifact
from reverie.models.encoder import Encoder, open_encoder
from reverie.models.image_input import Pictured, opened_picture
from reverie.models.pretrained import fetched, load_tensors
from reverie.store.files import atomic_folder
from reverie.store.json_files import read_json

ABOUT = "classifier.json"
HEAD = "head.safetensors"
CACHE = "cache.safetensors"
SHAPE = {"classes": [str], "encoder": str, "revision?": str, "cache?": {"alpha": float, "beta": float}}
OWN_ENCODER = "encoder"  # the encoder's name where it was tuned as well and stands in the folder itself


@dataclass(frozen=True)
class Prediction:
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

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "cpu", batch_size: int = 64) -> Classifier:
        """Open what ``Run.save_pretrained`` or ``Run.push_to_hub`` made: a folder or a Hub id. Raises: as ``load_classifier``."""
        return load_classifier(fetched("classifier", name), device, batch_size)

    def __call__(self, images: Iterable[Pictured]) -> list[Prediction]:
        """One answer an image, in order. Raises InputError for a file that is not there, BrokenImage for one that is no image."""
        if isinstance(images, (str, bytes)):
            raise InputError("give a list of pictures, also for one alone")
        pictures = [opened_picture(image) for image in images]
        if not pictures:
            return []
        chances = self.logits(self.encoder.images(pictures)).softmax(1)
        return [
            Prediction(self.classes[int(row.argmax())], float(row.max()), tuple(float(value) for value in row))
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
    with atomic_folder(folder) as temporary:
        shutil.copy(head, temporary / HEAD)
        about = dict(about)
        if cache is not None:
            save_file({"keys": cache.keys.contiguous(), "labels": cache.labels}, temporary / CACHE)
            about["cache"] = {"alpha": cache.alpha, "beta": cache.beta}
        (temporary / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")


def load_classifier(path: str | Path, device: str = "cpu", batch_size: int = 64) -> Classifier:
    """Open a classifier folder, or the classifier of a run folder.

    Raises: InputError if there is none at the path; ModelError if its encoder is not the one it was tuned on.
    """
    folder = find_artifact("classifier", Path(path))
    about = read_json(folder / ABOUT, SHAPE, ModelError, "make it again")
    classes, own = about["classes"], about["encoder"] == OWN_ENCODER
    head = load_tensors(folder / HEAD)
    weight, bias = head.get("weight"), head.get("bias")
    if (
        weight is None
        or bias is None
        or weight.ndim != 2
        or not len(classes) == len(weight) == len(bias) == bias.numel()
    ):
        raise ModelError(f"{folder} is a damaged classifier ({HEAD} does not fit the classes); make it again")
    cache = _load_cache(folder, about["cache"], len(classes), weight.shape[1]) if "cache" in about else None
    if not own and "revision" not in about:
        raise ModelError(f"{folder} is a damaged classifier ({ABOUT} lacks 'revision'); make it again")
    encoder = open_encoder(str(folder / OWN_ENCODER) if own else about["encoder"], device, batch_size)
    if not own and encoder.revision != about["revision"]:
        raise ModelError(
            f"{folder} was tuned on {about['revision']}, but {about['encoder']} is now {encoder.revision}; tune it again"
        )
    if (width := encoder.images([Image.new("RGB", (32, 32))]).shape[1]) != weight.shape[1]:
        raise ModelError(f"{folder} is a damaged classifier ({HEAD} is for {weight.shape[1]} features, not {width})")
    return Classifier(classes, encoder, weight, bias, cache)


def _load_cache(folder: Path, numbers: Mapping[str, float], num_classes: int, width: int) -> Cache:
    parts = load_tensors(folder / CACHE)
    nothing = torch.empty(0)
    keys, labels = parts.get("keys", nothing), parts.get("labels", nothing)
    fits = keys.ndim == 2 and keys.shape[1] == width and labels.shape == keys.shape[:1]
    if not fits or bool(((labels < 0) | (labels >= num_classes)).any()):
        raise ModelError(f"{folder} is a damaged classifier ({CACHE} does not fit {HEAD}); make it again")
    return Cache(keys.float(), labels, numbers["alpha"], numbers["beta"])
