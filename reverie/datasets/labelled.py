"""Labelled photos to measure on. A source is written as one word.

    smallworld:street:4000:1000    4,000 train and 1,000 test photos of the small world, by its street camera
    a folder                       with train and test, each ``.parquet`` (columns image and label), ``.lance`` (a table
                                   of pairs), a folder that ``reverie import`` made, or one with a folder of pictures for
                                   each class; a folder that is such a thing itself is train alone

Photos are held in memory as they are encoded; a network sees them a batch at a time.

Class names come from a column ``label_name`` where there is one, else from ``label``. The classes of the small world are made
of two attributes, a colour and a shape, which can be asked for by themselves; real photos have none.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from reverie import seeds
from reverie.errors import BrokenImage, InputError, UnknownName
from reverie.store.pictures import open_picture
from reverie.store.places import has_table
from reverie.store.sources import check_file, counted, in_words, printable, what_is

if TYPE_CHECKING:
    from reverie.store.imports import Sample

Split = Literal["train", "test"]
Picture = bytes | npt.NDArray[np.uint8]
LOOKED_AT = 10_000  # photos of a split that are decoded before any work
SHOWN = 3  # broken photos in one line


@dataclass(frozen=True)
class LabelledImages:
    """Photos, not yet decoded where they come as files, and the number of each one's class."""

    images: Sequence[Picture]  # encoded bytes, or uint8 (H, W, 3)
    labels: npt.NDArray[np.int64]  # (n,)
    classes: tuple[str, ...]
    files: Sequence[str] = ()  # what each is called in messages; empty = by its number

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, wanted: npt.NDArray[np.bool_]) -> LabelledImages:
        """Those where ``wanted`` (n,) is true, under the same classes."""
        places = np.flatnonzero(wanted)
        files = [self.files[int(place)] for place in places] if self.files else ()
        return LabelledImages([self.images[int(place)] for place in places], self.labels[wanted], self.classes, files)

    def pixels(self, rows: slice | npt.NDArray[np.int64], size_px: int, resize_px: int = 0) -> npt.NDArray[np.uint8]:
        """These photos as uint8 (n, 3, size_px, size_px): shorter side resized (bicubic) to resize_px, centre cropped.

        Raises: BrokenImage naming the photo that cannot be decoded.
        """
        places = range(len(self))[rows] if isinstance(rows, slice) else [int(row) for row in rows]
        squares = [_square(self.images[place], size_px, resize_px or size_px, self.name(place)) for place in places]
        return np.stack(squares).transpose(0, 3, 1, 2)

    def picture(self, place: int) -> Image.Image:
        """One photo, upright and of its own size, in RGB. Raises: BrokenImage naming it."""
        item = self.images[place]
        return open_picture(item, self.name(place)) if isinstance(item, bytes) else Image.fromarray(item)

    def name(self, place: int) -> str:
        """What a photo is called in messages."""
        return self.files[place] if self.files else f"photo {place}"


@dataclass(frozen=True)
class Attribute:
    """What several classes have in common, such as the shape of ``red circle``."""

    values: tuple[str, ...]
    of_class: npt.NDArray[np.int64]  # number of the value of each class, (classes,)


def attributes(source: str | Path, classes: Sequence[str]) -> dict[str, Attribute]:
    """What classes of a source are made of, by name: shape and colour in the small world, nothing elsewhere. Reads no picture.

    Args:
        classes: in the order of the labels; with one that the small world does not know there are no attributes.
    """
    if not str(source).startswith("smallworld:"):
        return {}
    from reverie.smallworld.scene import COLOURS, SHAPES, class_names

    if not set(classes) <= set(class_names()):
        return {}
    words = [name.split(" ") for name in classes]
    shapes = np.array([SHAPES.index(shape) for _, shape in words], dtype=np.int64)
    colours = np.array([list(COLOURS).index(colour) for colour, _ in words], dtype=np.int64)
    return {"shape": Attribute(SHAPES, shapes), "colour": Attribute(tuple(COLOURS), colours)}


def load_photos(source: str | Path, split: Split, classes: tuple[str, ...] | None = None) -> LabelledImages:
    """One split of a source.

    Args:
        classes: names in the order of the train split; given for test, so that both number them alike.
    Raises: InputError if the source is not there, lacks a column, or has a label that is missing or not among classes.
    """
    path = find_photos(source, split)
    if isinstance(path, tuple):
        return _numbered(_smallworld(*path, split), classes, source)
    images, names = [], []
    files: list[str] = []
    for part in _batches(path):
        images += part["image"].to_pylist()
        names += _labels(part, path)
        files += part["file"].to_pylist() if "file" in part.column_names else []
    if not names:
        raise InputError(f"{path} holds no labelled photos")
    if None in images:
        raise InputError(f"{path} has rows without an image or without a label; take them out first")
    classes = classes or tuple(sorted(set(names), key=lambda name: (int(name), "") if name.isdecimal() else (-1, name)))
    number = {name: place for place, name in enumerate(classes)}
    if strange := sorted(set(names) - set(classes)):
        raise InputError(f"{path} has labels that the train photos do not: {', '.join(strange[:5])}")
    files = files or [f"photo {row} of {path}" for row in range(len(names))]
    return LabelledImages(images, np.array([number[name] for name in names], dtype=np.int64), classes, files)


def photo_labels(source: str | Path, split: Split) -> list[str]:
    """The class name of every photo of a split, in order; no picture is read. Raises InputError, UnknownName."""
    path = find_photos(source, split)
    if isinstance(path, tuple):
        from reverie.smallworld.photos import labels_of

        labels, classes = labels_of(path[1], seeds.derive("smallworld photos", split))
        return [classes[label] for label in labels]
    return [name for part in _batches(path, pictures=False) for name in _labels(part, path)]


def check_labels(source: str | Path, split: Split, classes: Sequence[str] | None = None, min_images: int = 0) -> None:
    """Raises InputError for labels that are not among the classes, or a class with too few photos. Reads no picture."""
    found = Counter(photo_labels(source, split))
    if classes is not None and (strange := sorted(found.keys() - set(classes))):
        raise InputError(
            f"the {split} photos of {source} have labels that are not in the class list: {', '.join(strange[:5])}"
        )
    few = [name for name in classes or sorted(found) if found[name] < min_images]
    if few:
        raise InputError(
            f"{min_images} {split} photos of each class are wanted, but {source} has {found[few[0]]} of {few[0]}"
        )


def check_photos(source: str | Path, split: Split) -> None:
    """Raises InputError that names the photos of a split which cannot be read or decoded, before anything is made for them.

    The first ``LOOKED_AT`` are decoded; of more in a folder it is made sure that they are files. Tables were looked at when
    they were made.
    """
    path = find_photos(source, split)
    if isinstance(path, tuple) or path.suffix == ".lance":
        return
    with ThreadPoolExecutor(4) as pool:
        names, problems = [], []
        for name, problem in _looked(path, pool):
            names.append(name)
            problems += [problem] if problem else []
    if problems:
        more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise InputError(
            f"{len(problems):,} of {len(names):,} {split} photos of {printable(str(source))} cannot be read: "
            f"{'; '.join(problems[:SHOWN])}{more}; mend them or take them out"
        )


def passed_over(source: str | Path, splits: Sequence[Split]) -> str | None:
    """What lies among the photos of a folder and counts as none of them, in words; None if nothing does."""
    from reverie.store.imports import NotTaken, entries

    told = []
    for split in splits:
        path = find_photos(source, split)
        if isinstance(path, tuple) or not path.is_dir() or path.suffix == ".lance":
            continue
        found = [entry for entry in entries(path, "folder") if isinstance(entry, NotTaken)]
        if number := sum(entry.number for entry in found):
            reasons: Counter[str] = Counter()
            for entry in found:
                reasons[entry.reason] += entry.number
            shown = reasons.most_common(SHOWN)
            why = [counted(count, what) if len(reasons) > 1 else in_words(count, what) for what, count in shown]
            where = f"among the {split} photos of {printable(str(source))}"
            told.append(
                f"{counted(number, 'files')} {where} {'is' if number == 1 else 'are'} not measured on ({'; '.join(why)})"
            )
    return "; ".join(told) or None


def _looked(path: Path, pool: ThreadPoolExecutor) -> Iterator[tuple[str, str | None]]:
    """The name of each photo and what is wrong with it."""
    if path.is_dir():
        found = [(str(item.file), item.image, item.refused) for item in _samples(path)]
        yield from pool.map(_look_at, found[:LOOKED_AT])
        for name, image, wrong in found[LOOKED_AT:]:
            what = what_is(image) if isinstance(image, Path) else None
            yield name, wrong or (f"{name}: {what}, not a file" if what else None)
        return
    start = 0
    for part in _batches(path):
        rows = [(f"photo {start + row}", image, None) for row, image in enumerate(part["image"].to_pylist())]
        yield from pool.map(_look_at, rows)
        start += len(rows)
        if start >= LOOKED_AT:
            return


def _look_at(photo: tuple[str, Any, str | None]) -> tuple[str, str | None]:
    name, image, wrong = photo
    if wrong or image is None:
        return name, f"{name}: {wrong or 'no image'}"
    try:
        open_picture(image if isinstance(image, bytes) else _read(image, name), name, min_px=32)
    except BrokenImage as error:
        return name, printable(str(error))
    return name, None


def _read(path: Path, name: str) -> bytes:
    """Raises BrokenImage for what is no file that can be read."""
    if what := what_is(path):
        raise BrokenImage(f"{name}: {what}, not a file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(f"{name}: cannot be read ({error.strerror})") from error


def take_photos(source: str | Path, split: Split, wanted: Collection[int]) -> dict[int, Picture]:
    """The photos with these numbers, counted from 0 in the order of ``photo_labels``; no others stay in memory."""
    path = find_photos(source, split)
    if isinstance(path, tuple):
        from reverie.smallworld.photos import photo

        camera, labels = cast(Any, path[0]), photo_labels(source, split)
        return {row: photo(row, labels[row], camera, seeds.derive("smallworld photos", split)) for row in wanted}
    found: dict[int, Picture] = {}
    start = 0
    for part in _batches(path, only=frozenset(wanted)):
        here = [row for row in wanted if start <= row < start + len(part)]
        found |= {row: part["image"][row - start].as_py() for row in here}
        start += len(part)
    return found


def find_photos(source: str | Path, split: Split) -> Path | tuple[str, int]:
    """The file or table of one split, or camera and number of photos of the small world. Raises InputError, UnknownName."""
    if str(source).startswith("smallworld:"):
        return _camera(str(source), split)
    folder = Path(source)
    found = [folder / name for name in (f"{split}.parquet", f"{split}.lance", f"{split}/pairs.lance", split)]
    # A class may be called train, so a folder of this name is a split only if it holds classes or a table itself.
    if split == "train" and not any(_is_split(folder / name) for name in ("train", "test")):
        found += [folder / "pairs.lance", folder]
    path = next((path for path in found if path.exists() and (path.suffix or _class_folders(path))), None)
    if path is None:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:4])
        raise InputError(f"no {split} photos at {source}; one of these must be there: {names}")
    return path


def has_photos(source: str | Path, split: Split) -> bool:
    """Whether a source has this split."""
    try:
        find_photos(source, split)
    except InputError:
        return False
    return True


def _is_split(path: Path) -> bool:
    return has_table(path / "pairs.lance") or _class_folders(path)


def _class_folders(path: Path) -> bool:
    return path.is_dir() and any(item.is_dir() and not item.name.startswith(".") for item in path.iterdir())


def _labels(rows: pa.Table, path: Path) -> list[str]:
    if rows["name"].null_count:
        raise InputError(f"{path} has rows without an image or without a label; take them out first")
    return [str(name) for name in rows["name"].to_pylist()]


def _batches(path: Path, pictures: bool = True, only: Collection[int] | None = None) -> Iterator[pa.Table]:
    """Columns name (class) and, with ``pictures``, image (bytes) and of folders file (its path), some rows at a time.

    Of class folders, ``only`` these rows are read, and the images of others are null.
    """
    if path.suffix == ".lance":
        from reverie.store import tables  # the store is not needed to measure on a parquet file

        where = "status = 'ok' and label is not null and image is not null"
        for rows in tables.scan(path, ["image", "label"] if pictures else ["label"], where):
            yield rows.rename_columns(["image", "name"] if pictures else ["name"])
        return
    if path.is_dir():
        yield _from_folders(path, pictures, only)
        return
    check_file(path)
    try:
        yield from _from_parquet(path, pictures)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read {path}, which is not a whole parquet file: {said}") from error


def _from_parquet(path: Path, pictures: bool) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path)
    columns = file.schema_arrow.names
    name = "label_name" if "label_name" in columns else "label"
    if missing := [column for column in ("image", name) if column not in columns]:
        raise InputError(f"{path} has no column {missing[0]!r}; it has: {', '.join(columns)}")
    from reverie.store.imports.parquet import batches

    for batch in batches(file, path, ["image", name] if pictures else [name], 1024):
        found = {"name": batch[name]}
        if pictures:
            image = batch["image"]
            is_bytes = pa.types.is_binary(image.type) or pa.types.is_large_binary(image.type)
            found["image"] = (
                image if is_bytes else pa.array(map(_encoded, image.to_pylist(), repeat(path)), pa.large_binary())
            )
        yield pa.table(found)


def _encoded(value: Any, path: Path) -> bytes | None:
    """The bytes of a cell that holds {bytes, path}, as Hugging Face datasets do, or the name of a file beside the table."""
    from reverie.store.imports.samples import image_of

    image, problem = image_of(value, {}, path)
    if problem and problem != "no image":
        raise BrokenImage(f"{path}: {problem}; the column image holds bytes, or names of files in its folder")
    return _read(image, printable(str(image))) if isinstance(image, Path) else image


def _samples(path: Path) -> list[Sample]:
    from reverie.store.imports import samples

    return list(samples(path, "folder"))


def _from_folders(path: Path, pictures: bool, only: Collection[int] | None) -> pa.Table:
    """Of ``only`` some, a photo that cannot be read is empty bytes, which no one can decode: others can take its place."""
    found = _samples(path)
    files = [str(path / item.file) if item.file else f"photo {row}" for row, item in enumerate(found)]
    if wrong := next(
        (f"{file}: {item.refused}" for file, item in zip(files, found, strict=True) if item.refused), None
    ):
        raise InputError(f"{path} has photos that cannot be used: {wrong}")
    names = pa.array([item.label for item in found], pa.string())
    if not pictures:
        return pa.table({"name": names})
    images: list[bytes | None] = []
    for row, (item, file) in enumerate(zip(found, files, strict=True)):
        if only is not None and row not in only:
            images.append(None)
            continue
        try:
            images.append(_read(item.image, file) if isinstance(item.image, Path) else item.image)
        except BrokenImage:
            if only is None:
                raise
            images.append(b"")
    return pa.table({"name": names, "image": pa.array(images, pa.large_binary()), "file": files})


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


@functools.lru_cache(maxsize=4)  # steps of one run often measure on the same photos
def _smallworld(camera: str, num: int, split: Split) -> LabelledImages:
    from reverie.smallworld.photos import labelled

    # The same photos in every run: they are a benchmark, not a choice of the run.
    images, labels, classes = labelled(num, cast(Any, camera), seeds.derive("smallworld photos", split))
    return LabelledImages(list(images), np.asarray(labels, dtype=np.int64), tuple(classes))


def _numbered(photos: LabelledImages, classes: tuple[str, ...] | None, source: str | Path) -> LabelledImages:
    """The photos with their labels as numbers of these classes."""
    if classes is None or classes == photos.classes:
        return photos
    if strange := sorted(set(photos.classes) - set(classes)):
        raise InputError(f"{source} has labels that are not in the class list: {', '.join(strange[:5])}")
    number = np.array([classes.index(name) for name in photos.classes], dtype=np.int64)
    return LabelledImages(photos.images, number[photos.labels], classes, photos.files)


def _square(item: Picture, size_px: int, resize_px: int, name: str) -> npt.NDArray[Any]:
    if isinstance(item, bytes):
        image = open_picture(item, name, min_px=resize_px)
    else:
        image = Image.fromarray(item)
    scale = resize_px / min(image.size)  # bounded in the other direction by what open_picture refuses
    width, height = (max(round(side * scale), resize_px) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size_px) // 2, (height - size_px) // 2
    return np.asarray(image.crop((left, top, left + size_px, top + size_px)))
