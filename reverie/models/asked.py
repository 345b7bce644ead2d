"""What everything has in common that a run makes and a person then asks about pictures: where it is, and how pictures come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reverie.errors import InputError
from reverie.store.pictures import open_picture, upright_rgb

Pictured = str | Path | bytes | Image.Image | np.ndarray[Any, np.dtype[np.uint8]]
"""A file, encoded bytes, a picture of any mode, or uint8 (H, W, 3)."""


def find_made(what: str, path: Path, recipe: str) -> Path:
    """The folder of a ``classifier`` or ``captioner``: this one, or of a run the step of that name, or its only one.

    Args: recipe: that makes such a thing, for the message.
    Raises: InputError if there is none, or more than one.
    """
    about = f"{what}.json"
    if (path / about).is_file():
        return path
    found = sorted(file.parent for file in path.glob(f"weights/*/{about}"))
    main = [folder for folder in found if folder.name == what] or found
    if not main:
        raise InputError(f"there is no finished {what} at {path}; make one with: reverie run {recipe} --out {path}")
    if len(main) > 1:
        raise InputError(f"{path} holds {len(main)} {what}s; name one: {', '.join(str(item) for item in main[:5])}")
    return main[0]


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
    try:
        return open_picture(Path(image).read_bytes(), str(image))
    except OSError as error:
        raise InputError(f"cannot read {image}: {error.strerror}") from error
