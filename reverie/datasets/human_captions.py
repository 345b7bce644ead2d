"""Captions that people wrote to teach a captioner: a file of JSON lines, a caption each.

    {"image": "photos/1.jpg", "text": "Two red mugs on a ...", "annotator": "a", "guideline_version": "1"}
    {"pair_id": "4f0c...", "text": "a red mug", "style": "short"}

``image`` is a file beside this one, ``pair_id`` an image of the store that is recaptioned. ``style`` is long when left out. ``objects`` may
list what is in the image, for the rate of hallucinated things. Several people may caption one image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from reverie import seeds
from reverie.captions.checks import clean
from reverie.errors import InputError
from reverie.store import tables
from reverie.store.json_files import misfit, read_line
from reverie.store.pictures import open_picture, read_picture
from reverie.store.sources import read_text

SHAPE = {
    "image?": str, "pair_id?": str, "text?": str, "caption?": str, "style?": str, "annotator?": (str, None),
    "guideline_version?": (str, None), "objects?": [str],
}  # fmt: skip


@dataclass(frozen=True)
class HumanCaption:
    """One caption of one image."""

    image_id: str  # file, from the folder of the captions, or pair_id
    text: str
    style: Literal["short", "long"] = "long"
    annotator: str = ""
    guideline_version: str = ""
    objects: tuple[str, ...] = ()
    file: Path | None = None  # None: an image of the store


def read_human_captions(file: Path) -> list[HumanCaption]:
    """All captions of a file. Raises InputError that names the line of what is none."""
    found = []
    for number, line in enumerate(read_text(file, "the human captions").split("\n"), 1):  # a text may hold U+2028
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = read_line(line)
        except ValueError as error:
            raise InputError(f"{where} is no JSON ({error}); give one object a line, with image and text") from error
        if wrong := misfit(row, SHAPE):
            raise InputError(f"{where} is no human caption ({wrong})")
        image, pair = row.get("image"), row.get("pair_id")
        text = clean(row.get("text") or row.get("caption") or "")
        if not (image or pair) or not text:
            raise InputError(f"{where} has no {'text' if image or pair else 'image and no pair_id'}")
        if row.get("style", "long") not in ("short", "long"):
            raise InputError(f"{where} has the style {row['style']!r}; a caption is short or long")
        found.append(
            HumanCaption(
                _file_id(file.parent, image) if image else pair, text, row.get("style", "long"), row.get("annotator") or "", row.get("guideline_version") or "",
                tuple(row.get("objects", ())), None if not image else file.parent / image,
            )
        )  # fmt: skip
    if not found:
        raise InputError(f"{file} holds no captions; give one JSON object a line, with image and text")
    return found


def _file_id(folder: Path, image: str) -> str:
    """The same of a file however it is written: ./1.png, the whole path, or a link."""
    try:
        return os.path.relpath(os.path.realpath(folder / image), os.path.realpath(folder))
    except ValueError:  # a zero byte in the name, which is told where the file is read
        return image


def one_id_each(
    captions: Sequence[HumanCaption], pictures: Mapping[str, Image.Image]
) -> tuple[list[HumanCaption], dict[str, Image.Image]]:
    """Captions and pictures, where images that are equal to the last pixel are one: a file and the pair that was imported from it."""
    first: dict[bytes, str] = {}
    same = {}
    for name, picture in pictures.items():
        digest = hashlib.blake2b(f"{picture.size}".encode() + picture.tobytes()).digest()
        same[name] = first.setdefault(digest, name)
    one = [dataclasses.replace(each, image_id=same[each.image_id]) for each in captions]
    return one, {name: pictures[name] for name in first.values()}


def hold_out(
    captions: Iterable[HumanCaption], count: int, file: Path, seed: int = 0
) -> tuple[list[HumanCaption], list[HumanCaption]]:
    """Captions to learn from, and those of so many images that are only measured on. No image is on both sides.

    Raises: InputError where nothing would be left to learn from.
    """
    captions = list(captions)
    names = sorted({caption.image_id for caption in captions}, key=lambda name: seeds.derive("held out", seed, name))
    if len(names) <= count:
        are = f"{len(names)} image{'s' * (len(names) != 1)}"
        raise InputError(
            f"{file} has captions of {are}, and {count} are held out to choose the best by; write more of them, or hold out fewer "
            "(--held-out)"
        )
    held = set(names[:count])
    return [each for each in captions if each.image_id not in held], [
        each for each in captions if each.image_id in held
    ]


def pictures_of(captions: Iterable[HumanCaption], pairs: Path | None) -> dict[str, Image.Image]:
    """The picture of each image, RGB. Raises InputError for one that is not there, BrokenImage for one that cannot be read."""
    found: dict[str, Image.Image] = {}
    stored = []
    for caption in captions:
        if caption.file is None:
            stored.append(caption.image_id)
        elif caption.image_id not in found:
            found[caption.image_id] = read_picture(caption.file)
    if stored and pairs is None:
        raise InputError(f"the image {stored[0]} is named by a pair_id, and there is no store to look for it in")
    for start in range(0, len(stored), 100):
        assert pairs is not None
        for row in tables.rows_of(pairs, "pair_id", sorted(set(stored[start : start + 100])), ["pair_id", "image"]):
            found[row["pair_id"]] = open_picture(row["image"], f"pair {row['pair_id']}")
    if lost := sorted(set(stored) - found.keys()):
        raise InputError(f"{len(lost)} of the captioned images are not in {pairs}, first {lost[0]}")
    return found
