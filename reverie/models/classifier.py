"""A classifier folder: a linear head on a named encoder. Opened in one line, asked about files, arrays or pictures.

classifier.json      classes in order, encoder and its revision, templates
head.safetensors     weight (classes, d) and bias (classes)
encoder/             the encoder, where it was tuned as well
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from reverie.errors import InputError, ModelError
from reverie.models.encoder import Encoder, open_encoder
from reverie.store.pictures import open_picture

ABOUT = "classifier.json"
HEAD = "head.safetensors"
OWN_ENCODER = "encoder"  # the encoder's name where it was tuned as well and stands in the folder itself
MAIN = "classifier"  # the learning step of a run that is meant when only the run is named

Pictured = str | Path | bytes | Image.Image | np.ndarray[Any, np.dtype[np.uint8]]
"""A file, encoded bytes, a picture of any mode, or uint8 (H, W, 3)."""


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one image."""

    label: str
    confidence: float  # softmax probability of the label, in [0, 1]
    probabilities: tuple[float, ...]  # of all classes, in their order


class Classifier:
    """Made by ``load_classifier``. Call it with images."""

    def __init__(self, classes: Sequence[str], encoder: Encoder, weight: Tensor, bias: Tensor) -> None:
        self.classes, self.encoder = tuple(classes), encoder
        self.weight, self.bias = weight.float(), bias.float()

    def __call__(self, images: Iterable[Pictured]) -> list[Answer]:
        """One answer an image, in order. Raises InputError for a file that is not there, BrokenImage for one that is no image."""
        pictures = [_opened(image) for image in images]
        if not pictures:
            return []
        chances = self.logits(self.encoder.images(pictures)).softmax(1)
        return [
            Answer(self.classes[int(row.argmax())], float(row.max()), tuple(float(value) for value in row))
            for row in chances
        ]

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (n, classes) for the encoder's rows (n, d)."""
        return F.linear(F.normalize(rows.float(), dim=1), self.weight, self.bias)


def load_classifier(path: str | Path, device: str = "cpu", batch_size: int = 64) -> Classifier:
    """Open a classifier folder, or the classifier of a run folder.

    Raises: InputError if there is none at the path; ModelError if its encoder is not the one it was tuned on.
    """
    folder = find_classifier(Path(path))
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        head = load_file(folder / HEAD)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is a damaged classifier ({error}); make it again") from error
    own = about["encoder"] == OWN_ENCODER
    encoder = open_encoder(str(folder / OWN_ENCODER) if own else about["encoder"], device, batch_size)
    if not own and encoder.revision != about["revision"]:
        raise ModelError(
            f"{folder} was tuned on {about['revision']}, but {about['encoder']} is now {encoder.revision}; tune it again"
        )
    return Classifier(about["classes"], encoder, head["weight"], head["bias"])


def find_classifier(path: Path) -> Path:
    """The folder itself, or of a run folder the step named ``classifier``, or its only one. Raises InputError."""
    if (path / ABOUT).is_file():
        return path
    found = sorted(file.parent for file in path.glob(f"weights/*/{ABOUT}"))
    main = [folder for folder in found if folder.name == MAIN] or found
    if not main:
        raise InputError(
            f"there is no finished classifier at {path}; make one with: reverie run zero_shot --out {path}"
        )
    if len(main) > 1:
        raise InputError(f"{path} holds {len(main)} classifiers; name one: {', '.join(str(item) for item in main[:5])}")
    return main[0]


def _opened(image: Pictured) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, bytes):
        return open_picture(image, "image")
    try:
        return open_picture(Path(image).read_bytes(), str(image))
    except OSError as error:
        raise InputError(f"cannot read {image}: {error.strerror}") from error
