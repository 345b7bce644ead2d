"""Photos with captions that people wrote. A source is one word, or a caption file with a folder of images.

    smallworld:street:400                   400 photos of the small world by its street camera
    smallworld:street:400:HELD              only those whose first thing is of one of these classes: "held" or "known", see below
    captions.json with --eval-images DIR    COCO captions (images and annotations, also .gz), or a Karpathy split

Sixteen of the 64 classes of the small world, two of each colour and of each shape, are ``held``: a corpus that is ``FromScenes``
``without`` them has all their words, but never together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from reverie import seeds
from reverie.errors import BrokenImage, InputError, UnknownName
from reverie.store.pictures import read_picture
from reverie.store.sources import what_is

if TYPE_CHECKING:
    from reverie.smallworld.scene import Scene

LOOKED_AT = 10_000  # photos that are decoded before any work
SETS = ("all", "known", "held")  # of classes of the small world
Picture = Path | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CaptionedImages:
    """Photos, not yet decoded where they are files, with their names and sentences."""

    names: Sequence[str]  # file name, or scene
    images: Sequence[Picture]
    references: Sequence[Sequence[str]]
    ids: Sequence[int | str] = ()  # what COCO's files call them; their names where there is no such file
    scenes: Sequence[Scene] = ()  # what they show, where that is known: in the small world

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, size: int) -> Iterator[list[Image.Image]]:
        """All photos in order, RGB. Raises BrokenImage naming the file."""
        for start in range(0, len(self), size):
            yield [self.picture(number) for number in range(start, min(start + size, len(self)))]

    def picture(self, number: int) -> Image.Image:
        """One photo, RGB. Raises as ``batches``."""
        image = self.images[number]
        if not isinstance(image, Path):
            return Image.fromarray(image)
        return read_picture(image)


def held_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 48 known and the 16 held classes of the small world."""
    from reverie.smallworld.scene import COLOURS, SHAPES

    held = [
        f"{colour} {SHAPES[(place + step) % len(SHAPES)]}" for place, colour in enumerate(COLOURS) for step in (0, 3)
    ]
    known = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES if f"{colour} {shape}" not in held]
    return tuple(known), tuple(held)


def load_captioned(source: str | Path, images: Path | None = None, split: str = "test") -> CaptionedImages:
    """Photos with references. Raises InputError for a source that is not there or holds no photo with a sentence."""
    if str(source).startswith("smallworld:"):
        return _smallworld(str(source))
    if images is None:
        raise InputError(f"{source} has captions, but where are the photos? name their folder: --eval-images DIR")
    from reverie.store.imports import samples

    texts: dict[str, list[str]] = {}
    ids: dict[str, int | str] = {}
    wanted = (None, split, "restval" if split == "train" else split)  # None: a file without splits is taken whole
    for sample in samples(source, "coco"):
        if sample.file and sample.text and sample.split in wanted and not sample.refused:
            texts.setdefault(sample.file, []).append(sample.text)
            ids.setdefault(sample.file, sample.file if sample.image_id is None else sample.image_id)
    files = {name: images / name if what_is(images / name) is None else images / Path(name).name for name in texts}
    if not texts:
        raise InputError(f"{source} has no photo with a sentence in its split {split!r}")
    if missing := [name for name, file in files.items() if what_is(file) == "nothing"]:
        raise InputError(f"{len(missing)} of {len(files)} photos of {source} are not in {images}, first {missing[0]}")
    return CaptionedImages(list(texts), list(files.values()), list(texts.values()), list(ids.values()))


def check_captioned(source: str, images: Path | None = None, split: str = "test") -> None:
    """That photos are there and can be decoded, without drawing any. Raises InputError that names broken ones, UnknownName."""
    if source.startswith("smallworld:"):
        smallworld_source(source)
        return
    found = load_captioned(source, images, split)
    with ThreadPoolExecutor(4) as pool:
        files = found.images[:LOOKED_AT]
        problems = [problem for problem in pool.map(_problem, files) if problem]
    if problems:
        more = f"; and {len(problems) - 3:,} more" if len(problems) > 3 else ""
        raise InputError(
            f"{len(problems):,} of {len(found):,} photos of {source} cannot be read: {'; '.join(problems[:3])}{more}; "
            "mend them or take them out"
        )


def _problem(file: Picture) -> str | None:
    try:
        if isinstance(file, Path):
            read_picture(file)
    except BrokenImage as error:
        return str(error)
    return None


def smallworld_source(source: str) -> tuple[str, int, str]:
    """Camera, number and set of classes that a source of the small world names."""
    from reverie.smallworld.render import CAMERAS

    try:
        _, camera, num, *which = source.split(":")
        asked, kind = int(num), which[0] if which else "all"
    except ValueError as error:
        raise InputError(
            f"photos {source!r} must read smallworld:CAMERA:NUMBER, such as smallworld:street:400"
        ) from error
    if camera not in CAMERAS:
        raise UnknownName("camera", camera, CAMERAS)
    if kind not in SETS or len(which) > 1:
        raise UnknownName("set of classes", ":".join(which), SETS)
    if asked < 1:
        raise InputError(f"photos {source!r} are none; ask for at least 1")
    return camera, asked, kind


def _smallworld(source: str) -> CaptionedImages:
    from reverie.smallworld.photos import captioned, scenes_of_captioned

    camera, asked, kind = smallworld_source(source)
    classes = dict(zip(SETS, ((), *held_classes()), strict=True))[kind]
    # The same photos in every run: they are a benchmark, not a choice of the run.
    seed = seeds.derive("captioned", kind)
    pictures, said = captioned(asked, camera, seed, classes=classes)  # type: ignore[arg-type]
    names = [f"{kind}-{number:05d}" for number in range(asked)]
    return CaptionedImages(names, list(pictures), said, scenes=scenes_of_captioned(asked, seed, classes))
