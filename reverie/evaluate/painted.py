"""Pictures beside the captions that they were made of, and pictures to hold them against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reverie import seeds
from reverie.datasets.captioned import load_captioned, smallworld_source
from reverie.errors import BrokenImage, InputError, ReverieError
from reverie.pairs import FAILED, TOKEN_COLUMNS
from reverie.run.plan import read_plan
from reverie.store import tables
from reverie.store.pictures import open_picture, picture_files, read_picture

Pictures = Callable[[Sequence[int]], list[Image.Image | None]]
"""Numbers to pictures; None for one that is not there or cannot be read."""

BLACK = 4  # grey levels up to which a picture is black all over, as safety checkers leave it


@dataclass(frozen=True)
class Painted:
    """Pictures with their captions, in the order of caption and copy, so that two painters of the same captions pair."""

    name: str
    captions: Sequence[str]  # id of the caption of each picture
    texts: Sequence[str]
    pair_ids: Sequence[str]
    read: Pictures

    def __len__(self) -> int:
        return len(self.captions)

    def batches(self, size: int) -> Iterator[tuple[range, list[Image.Image | None]]]:
        """All of them in order, decoded a batch at a time."""
        for start in range(0, len(self), size):
            numbers = range(start, min(start + size, len(self)))
            yield numbers, self.read(numbers)


def painted(
    folder: Path, where: str | None = None, max_images: int = 0, table: Path | None = None, with_text: bool = True
) -> Painted:
    """The pictures of a run or an import. Those that were dropped or failed are among them: who cannot paint a caption does not show it.

    Args:
        where: which rows, in SQL over the columns of its pairs; all when absent.
        max_images: the first so many by the order of captions; all when 0.
        table: the pairs, where they are not ``folder``'s own.
        with_text: leave out those of which nothing is said.
    Raises: InputError for what is no such folder, or holds no picture with a caption.
    """
    path = table or folder / "pairs.lance"
    if not tables.exists(path):
        inside = sorted(each.parent for each in folder.glob("generation/*/*/pairs.lance"))
        give = (
            f"one of the arms in it, such as {inside[0]}" if inside else "a run folder, or one that reverie import made"
        )
        raise InputError(f"{folder} holds no pictures with captions (pairs.lance); give {give}")
    rows, number = [], 0
    numbered = where is not None
    names = ["pair_id", "caption_id", "copy", "text"]
    for part in tables.scan(path, names, where):
        for row in part.to_pylist():
            rows.append((row["caption_id"], row["copy"], number, row["pair_id"], (row["text"] or "").strip()))
            number += 1
    rows = sorted(row for row in rows if row[4] or not with_text)
    if max_images:
        rows = rows[:max_images]
    if not rows:
        has = "has a caption" if with_text else "is there"
        raise InputError(f"no picture of {folder} {has}" + (f" and fits {where!r}" if where else ""))
    columns = [*names, "image", "status", *(name for name in TOKEN_COLUMNS if name in tables.column_names(path))]
    places = _row_numbers(path, [row[3] for row in rows]) if numbered else [row[2] for row in rows]
    decode = _decoder(folder)

    def read(numbers: Sequence[int]) -> list[Image.Image | None]:
        found = tables.take(path, [places[number] for number in numbers], columns).to_pylist()
        for number, row in zip(numbers, found, strict=True):
            if row["pair_id"] != rows[number][3]:
                raise InputError(f"{folder} was changed while its pictures were read; run the same command again")
        return [_picture(row, decode) for row in found]

    return Painted(folder.name, [row[0] for row in rows], [row[4] for row in rows], [row[3] for row in rows], read)


def _row_numbers(path: Path, wanted: Sequence[str]) -> list[int]:
    """Where pairs stand in a table: a filter leaves rows out, and with them their numbers."""
    numbers: dict[str, int] = {}
    for part in tables.scan(path, ["pair_id"]):
        for name in part["pair_id"].to_pylist():
            numbers[name] = len(numbers)
    return [numbers[name] for name in wanted]


def _picture(row: Mapping[str, Any], decode: Callable[[Mapping[str, Any]], bytes | None]) -> Image.Image | None:
    if row["status"] == FAILED:
        return None
    data = row["image"] or (decode(row) if row.get("tokens") else None)
    if not data:
        return None
    try:
        return open_picture(data, row["pair_id"])
    except BrokenImage:
        return None


def _decoder(folder: Path) -> Callable[[Mapping[str, Any]], bytes | None]:
    """Image tokens as pictures, by the tokenizer that the run's plan names. Raises, when asked, InputError if it is not to be had."""
    pictures: list[Any] = []

    def decode(row: Mapping[str, Any]) -> bytes | None:
        from reverie.models.token_pictures import TokenPictures, models_named

        if not pictures:
            try:
                names = models_named(read_plan(folder), folder)
            except ReverieError as error:
                raise InputError(
                    f"the pictures of {folder} are image tokens, and nothing says whose: {error}"
                ) from error
            pictures.append(TokenPictures(names))
        found: bytes = pictures[0].png(row)
        return found

    return decode


def is_black(picture: Image.Image) -> bool:
    """Whether a picture is black all over, which safety checkers put in place of what they refuse."""
    return max(high for _, high in picture.convert("RGB").getextrema()) <= BLACK  # type: ignore[misc]


@dataclass(frozen=True)
class Reference:
    """Pictures to hold painted ones against."""

    name: str
    count: int
    read: Callable[[Sequence[int]], list[Image.Image]]

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int) -> Iterator[list[Image.Image]]:
        """All of them in order."""
        for start in range(0, self.count, size):
            yield self.read(range(start, min(start + size, self.count)))


def reference(source: str, max_images: int = 0, seed: int = 0) -> Reference:
    """Real pictures, or whatever painted ones should be like.

    Args:
        source: smallworld:CAMERA:NUMBER, a run or an import (its pictures that are ok), or a folder of picture files.
        max_images: drawn under the seed where there are more; all when 0.
    Raises: InputError for a source that is not there, holds fewer than two pictures, or one that cannot be read.
    """
    if source.startswith("smallworld:"):
        photos = load_captioned(source)
        found = Reference(source, len(photos), lambda numbers: [photos.picture(number) for number in numbers])
    elif tables.exists(Path(source) / "pairs.lance"):
        found = _of_store(Path(source))
    else:
        files = picture_files([Path(source)])
        found = Reference(
            Path(source).name, len(files), lambda numbers: [read_picture(files[number]) for number in numbers]
        )
    if len(found) < 2:
        raise InputError(
            f"{source} has {len(found)} picture{'s' * (len(found) != 1)}; a distance between sets needs at least 2"
        )
    if not max_images or len(found) <= max_images:
        return found
    drawn = np.random.default_rng(seeds.derive("reference", seed)).permutation(len(found))[:max_images].tolist()
    return Reference(found.name, max_images, lambda numbers: found.read([drawn[number] for number in numbers]))


def check_reference(source: str) -> None:
    """That there are pictures, without drawing or decoding any. Raises InputError, UnknownName."""
    if source.startswith("smallworld:"):
        smallworld_source(source)
    else:
        reference(source)


def _of_store(folder: Path) -> Reference:
    own = painted(folder, "status = 'ok' and image is not null", with_text=False)

    def read(numbers: Sequence[int]) -> list[Image.Image]:
        pictures = own.read(numbers)
        if (
            broken := next((n for n, picture in zip(numbers, pictures, strict=True) if picture is None), None)
        ) is not None:
            raise InputError(
                f"picture {own.pair_ids[broken]} of {folder} cannot be read; take it out with reverie verify"
            )
        return pictures  # type: ignore[return-value]

    return Reference(folder.name, len(own), read)
