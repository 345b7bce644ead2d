"""Features of pictures by a network in an ONNX file: for networks that no package can load beside this torch, such as FID's Inception.

The file takes one input, pictures (batch, 3, height, width): as uint8, or as floats from -1 to 1. Where it fixes height and width, pictures are
resized to them (bilinear); where it does not, they go in as they are, those of one size together. Its first output is one row a picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reverie.errors import MissingExtra, ModelError

KINDS = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
SUFFIX = ".onnx"
INCEPTION = "inception"


class OnnxFeatures:
    """Pictures of any size to float rows (b, d). Made by ``open_onnx_features``."""

    def __init__(self, session: Any, revision: str, batch_size: int) -> None:
        self.revision, self._session, self._batch = revision, session, batch_size
        (self._input,) = session.get_inputs()
        height, width = self._input.shape[2:]
        self._size = (width, height) if isinstance(height, int) and isinstance(width, int) else None
        self._one = self._input.shape[0] == 1  # a file may fix its batch

    def __call__(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Rows in order. Raises ModelError for what the network cannot be given, or an output that is no row."""
        found: list[np.ndarray[Any, Any] | None] = [None] * len(pictures)
        alike: dict[tuple[int, int], list[int]] = {}
        for number, picture in enumerate(pictures):
            alike.setdefault(self._size or picture.size, []).append(number)
        for size, numbers in alike.items():
            step = 1 if self._one else self._batch
            for start in range(0, len(numbers), step):
                some = numbers[start : start + step]
                for number, row in zip(some, self._rows([pictures[n] for n in some], size), strict=True):
                    found[number] = row
        return torch.from_numpy(np.stack(found)) if found else torch.empty(0, 0)  # type: ignore[arg-type]

    def _rows(self, pictures: Sequence[Image.Image], size: tuple[int, int]) -> np.ndarray[Any, Any]:
        sized = [
            picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR) for picture in pictures
        ]
        pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in sized]).transpose(0, 3, 1, 2)
        if self._input.type == "tensor(float)":
            pixels = pixels.astype(np.float32) / 127.5 - 1
        try:
            rows = np.asarray(
                self._session.run(None, {self._input.name: np.ascontiguousarray(pixels)})[0], dtype=np.float32
            )
        except Exception as error:  # onnxruntime has a tree of its own
            raise ModelError(f"{self.revision} cannot read pictures: {' '.join(str(error).split())[:200]}") from error
        rows = rows.reshape(len(rows), -1)
        if len(rows) != len(pictures):
            raise ModelError(
                f"{self.revision} gives {len(rows)} rows for {len(pictures)} pictures; its first output must be one row each"
            )
        return rows


def check_onnx_features(name: str) -> None:
    """What can be told before any work. Raises ModelError for the word ``inception``, and for a file that is not there."""
    if name == INCEPTION:
        raise ModelError(
            "FID's Inception comes as a pickle for torchvision, which does not load beside this torch; export it once as ONNX (uint8 "
            "pictures in, 2048 features out) and name the file: --features inception.onnx"
        )
    if name.endswith(SUFFIX) and not Path(name).is_file():
        raise ModelError(f"there is no file {name}")


def open_onnx_features(name: str, batch_size: int = 32) -> OnnxFeatures:
    """A network of an ONNX file. Raises MissingExtra, ModelError for a file that is none, or takes no pictures."""
    check_onnx_features(name)
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("a network in an ONNX file", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    path = Path(name)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{name} is no ONNX file that can be run: {' '.join(str(error).split())[:200]}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in KINDS or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        told = ", ".join(f"{each.type} {each.shape}" for each in inputs)
        raise ModelError(
            f"{name} takes {told}; what is needed is one input of pictures, uint8 or float (batch, 3, height, width)"
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=6)).hexdigest()
    return OnnxFeatures(session, f"{path.name}@{digest}", batch_size)
