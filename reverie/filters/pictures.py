"""The images of a unit, decoded some at a time, for the filters that look at pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from reverie.errors import BrokenImage
from reverie.store.pictures import open_picture


@dataclass(frozen=True)
class Speed:
    """What changes the time, not the scores."""

    batch_size: int = 64  # images decoded, and given to a network, at once


def decoded(rows: pa.Table, batch_size: int) -> Iterator[tuple[list[int], list[Image.Image]]]:
    """Row numbers and RGB pictures, a batch at a time, so that a unit of large images does not fill the memory.

    Rows without an image (tokens only) or with one that does not decode are left out: their columns stay null, which no
    rule of selection takes for good.
    """
    for start in range(0, len(rows), batch_size):
        numbers, pictures = [], []
        part = rows.slice(start, batch_size)
        for number, data, name in zip(
            range(start, len(rows)), part["image"].to_pylist(), part["pair_id"].to_pylist(), strict=False
        ):
            try:
                pictures.append(open_picture(data, name))
            except BrokenImage:
                continue
            numbers.append(number)
        if numbers:
            yield numbers, pictures
