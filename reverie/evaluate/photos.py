"""Labelled photos to measure on, from a source written as one word.

    smallworld:street:4000:1000    4,000 train and 1,000 test photos of the small world, by its street camera
    a folder                       with train and test, each ``.parquet`` (columns image and label), ``.lance`` (a table
                                   of pairs), or a folder that ``reverie import`` made

Photos are held in memory as they are encoded; a network sees them a batch at a time.

Class names come from a column ``label_name`` where there is one, else from ``label``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from reverie import seeds
from reverie.errors import InputError, UnknownName
from reverie.store.pictures import open_picture

Split = Literal["train", "test"]
Picture = bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Photos:
    """Photos, not yet decoded where they come as files, and the number of each one's class."""

    images: Sequence[Picture]  # encoded bytes, or uint8 (H, W, 3)
    labels: npt.NDArray[np.int64]  # (n,)
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, rows: slice, size_px: int, resize_px: int = 0) -> npt.NDArray[np.uint8]:
        """These photos as uint8 (n, 3, size_px, size_px): shorter side resized (bicubic) to resize_px, centre cropped.

        Raises: BrokenImage naming the photo that cannot be decoded.
        """
        squares = [
            _square(item, size_px, resize_px or size_px, rows.start + place)
            for place, item in enumerate(self.images[rows])
        ]
        return np.stack(squares).transpose(0, 3, 1, 2)


def load_photos(source: str | Path, split: Split, classes: tuple[str, ...] | None = None) -> Photos:
    """One split of a source.

    Args:
        classes: names in the order of the train split; given for test, so that both number them alike.
    Raises: InputError if the source is not there, lacks a column, or has a label that is missing or not among classes.
    """
    path = find_photos(source, split)
    if isinstance(path, tuple):
        return _smallworld(*path, split)
    rows = _rows(path)
    if not rows.num_rows:
        raise InputError(f"{path} holds no labelled photos")
    if rows["image"].null_count or rows["name"].null_count:
        raise InputError(f"{path} has rows without an image or without a label; take them out first")
    names = [str(name) for name in rows["name"].to_pylist()]
    classes = classes or tuple(sorted(set(names), key=lambda name: (int(name), "") if name.isdigit() else (-1, name)))
    number = {name: place for place, name in enumerate(classes)}
    if strange := sorted(set(names) - set(classes)):
        raise InputError(f"{path} has labels that the train photos do not: {', '.join(strange[:5])}")
    return Photos(rows["image"].to_pylist(), np.array([number[name] for name in names], dtype=np.int64), classes)


def find_photos(source: str | Path, split: Split) -> Path | tuple[str, int]:
    """The file or table of one split, or camera and number of photos of the small world. Raises InputError, UnknownName."""
    if str(source).startswith("smallworld:"):
        return _camera(str(source), split)
    found = [Path(source) / name for name in (f"{split}.parquet", f"{split}.lance", f"{split}/pairs.lance")]
    path = next((path for path in found if path.exists()), None)
    if path is None:
        names = ", ".join(str(path.relative_to(source)) for path in found)
        raise InputError(f"no {split} photos at {source}; one of these must be there: {names}")
    return path


def _rows(path: Path) -> pa.Table:
    """Columns image (bytes) and name (class)."""
    if path.suffix == ".lance":
        from reverie.store import tables  # the store is not needed to measure on a parquet file

        where = "status = 'ok' and label is not null and image is not null"
        return pa.concat_tables(tables.scan(path, ["image", "label"], where)).rename_columns(["image", "name"])
    try:
        columns = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a parquet file") from error
    name = "label_name" if "label_name" in columns else "label"
    if missing := [column for column in ("image", name) if column not in columns]:
        raise InputError(f"{path} has no column {missing[0]!r}; it has: {', '.join(columns)}")
    rows = pq.read_table(path, columns=["image", name]).select(["image", name]).rename_columns(["image", "name"])
    if pa.types.is_struct(rows["image"].type):  # how Hugging Face datasets keep an image: {bytes, path}
        rows = rows.set_column(0, "image", pa.chunked_array([chunk.field("bytes") for chunk in rows["image"].chunks]))
    return rows


def _camera(source: str, split: Split) -> tuple[str, int]:
    from reverie.smallworld.render import CAMERAS  # drawing is not needed to measure on real photos

    try:
        _, camera, *sizes = source.split(":")
        num = dict(zip(("train", "test"), map(int, sizes), strict=True))[split]
    except ValueError as error:
        raise InputError(
            f"photos {source!r} must read smallworld:CAMERA:TRAIN:TEST, such as smallworld:street:4000:1000"
        ) from error
    if camera not in CAMERAS:
        raise UnknownName("camera", camera, CAMERAS)
    if num < 1:
        raise InputError(f"photos {source!r} has no {split} photos")
    return camera, num


def _smallworld(camera: str, num: int, split: Split) -> Photos:
    from reverie.smallworld.photos import labelled

    # The same photos in every run: they are a benchmark, not a choice of the run.
    images, labels, classes = labelled(num, cast(Any, camera), seeds.derive("smallworld photos", split))
    return Photos(list(images), np.asarray(labels, dtype=np.int64), tuple(classes))


def _square(item: Picture, size_px: int, resize_px: int, place: int) -> npt.NDArray[Any]:
    if isinstance(item, bytes):
        image = open_picture(item, f"photo {place}", at_least_px=resize_px)
    else:
        image = Image.fromarray(item)
    scale = resize_px / min(image.size)
    width, height = (max(round(side * scale), resize_px) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size_px) // 2, (height - size_px) // 2
    return np.asarray(image.crop((left, top, left + size_px, top + size_px)))
