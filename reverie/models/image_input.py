"""The forms in which a person may hand over a picture, and how each is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reverie.errors import InputError
from reverie.store.pictures import open_picture, read_picture, upright_rgb

Pictured = str | Path | bytes | Image.Image | np.ndarray[Any, np.dtype[np.uint8]]
"""A file, encoded bytes, a picture of any mode, or uint8 (H, W, 3)."""


def opened_picture(image: Pictured) -> Image.Image:
    """One picture, RGB and upright. Raises InputError for what is no picture, BrokenImage for one that cannot be decoded."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise InputError(f"an array of {image.dtype} {image.shape} is no picture; give uint8 (H, W, 3)")
        return upright_rgb(Image.fromarray(image) if image.size else Image.new("RGB", (0, 0)))
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if isinstance(image, bytes):
        return open_picture(image, "image")
    if not isinstance(image, (str, Path)):
        raise InputError(
            f"a {type(image).__name__} is no picture; give a file, bytes, a PIL picture or uint8 (H, W, 3)"
        )
    return read_picture(Path(image))
