"""A cache on disk for features of a frozen encoder, under a name that is a hash of everything they depend on.

The name of the file is a hash of the encoder's revision, of how pictures are prepared, and of every image byte in order.
So a changed image, encoder or setting never meets rows that were made of something else; it finds no file.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from reverie.models.encoder import Encoder
from reverie.models.pretrained import load_tensors
from reverie.stage import EventSink
from reverie.store.files import atomic_file
from reverie.store.pictures import open_picture

Picture = bytes | np.ndarray[Any, np.dtype[np.uint8]]
"""Encoded bytes, or uint8 (H, W, 3)."""


def cached_rows(
    encoder: Encoder,
    open_batches: Callable[[], Iterable[Sequence[Picture]]],
    folder: Path,
    *,
    shrink_px: int = 0,
    report: EventSink | None = None,
) -> Tensor:
    """Unit rows (n, d), float32 on the CPU, of all pictures in order.

    Args:
        open_batches: gives the pictures, some at a time, from the first; called once to name them and once more if the rows
            are not there yet, so that never more than one batch is in memory.
        folder: where the files are kept; may be shared by any number of encoders and image sets.
        shrink_px: make pictures this small (shorter side) before the encoder's own preparation, as photos of low
            resolution are; 0 leaves them.
    Raises: BrokenImage naming the picture that cannot be decoded by its number, from 0.
    """
    name = hashlib.blake2b(f"{encoder.revision} shrink {shrink_px} ".encode(), digest_size=12)
    total = 0
    for batch in open_batches():
        for picture in batch:
            data = picture if isinstance(picture, bytes) else np.ascontiguousarray(picture).tobytes()
            shape = "bytes" if isinstance(picture, bytes) else str(picture.shape)
            name.update(f"{shape} {len(data)} ".encode() + data)
        total += len(batch)
    file = folder / f"{name.hexdigest()}.safetensors"
    if not file.exists():
        found: list[Tensor] = []
        done, began = 0, time.monotonic()
        for batch in open_batches():
            opened = (_opened(picture, done + place) for place, picture in enumerate(batch))
            found.append(encoder.images([shrunk(picture, shrink_px) for picture in opened]))
            done += len(batch)
            if report:
                report("progress", done=done, total=total, what="images encoded")
        if report and done:
            each = (time.monotonic() - began) / done
            report("speed", what="images encoded", steps=done, done=done, seconds_each=each, low=each, high=each)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as partial:
            save_file({"rows": torch.cat(found) if found else torch.empty(0, 0)}, partial)
    rows: Tensor = load_tensors(file)["rows"]
    return rows


def shrunk(image: Image.Image, shrink_px: int) -> Image.Image:
    """The picture with its shorter side no longer than ``shrink_px`` (bicubic); 0 leaves it as it is."""
    if not shrink_px or min(image.size) <= shrink_px:
        return image
    factor = shrink_px / min(image.size)
    small = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(small, Image.Resampling.BICUBIC)


def _opened(picture: Picture, number: int) -> Image.Image:
    return open_picture(picture, f"image {number}") if isinstance(picture, bytes) else Image.fromarray(picture)
