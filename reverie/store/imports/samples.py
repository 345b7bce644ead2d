"""The samples that readers yield, and how a row of any table becomes one."""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from reverie.errors import InputError
from reverie.store.pictures import PICTURE_SUFFIXES
from reverie.store.sources import because, is_text, printable, what_is

Kind = Literal["folder", "pictures", "coco", "csv", "tsv", "jsonl", "text", "parquet", "webdataset", "huggingface"]

TEXT_NAMES = ("txt", "text", "caption", "captions", "sentence", "sentences", "alt_text", "prompt", "title")
LABEL_NAMES = ("label_name", "class_name", "class", "category", "label", "fine_label", "cls")
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes")
FILE_NAMES = (
    "file_name",
    "filename",
    "filepath",
    "file_path",
    "image_path",
    "image_file",
    "image_name",
    "img_path",
    "path",
    "file",
)
ADDRESS_NAMES = ("url", "urls", "image_url", "image_urls", "img_url", "photo_url", "image_link", "link")
WEB_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
FIRST_ROWS = 100  # that tell whether a column names pictures


class Reading(TypedDict, total=False):
    """How to read a source. All are optional; one that a kind of source has no use for is refused.

    text_column, image_column, label_column: names of columns (or of JSON fields); guessed when not given. In a CSV or TSV without
        a header, numbers from 0. In WebDataset, image_column is an ending such as ``left.jpg``.
    images: folder that file names in the source are relative to.
    split: part of a Hugging Face folder, of an image folder, of parquet files called ``<split>-...``, or of a Karpathy caption
        file, whose train also means its restval, as is usual.
    template: text made from a class name where there is no caption, with ``{class}`` for the name.
    captions_per_image: use only the first so many captions of an image.
    without_text: what becomes of an image whose text is missing or empty: "drop", as is usual of a source with captions, or "keep", an
        image alone. One whose text is damaged is dropped in any case, and pictures that are all a source holds are kept.
    """

    text_column: str | None
    image_column: str | None
    label_column: str | None
    images: str | Path | None
    split: str | None
    template: str
    captions_per_image: int | None
    without_text: Literal["drop", "keep"] | None


@dataclass(frozen=True)
class Sample:
    """One caption of a source, perhaps with an image, before it gets an id."""

    position: int | str
    text: str | None
    label: str | None = None
    image: bytes | Path | None = None
    problem: str | None = None  # why there is no image where there should be one
    refused: str | None = None  # why the row could not be read, or is no text
    file: str | None = None  # its place in a folder of files, for its owner to find it again
    split: str | None = None  # of a caption file that holds several
    image_id: int | str | None = None  # what COCO's files call the image
    alone: bool = False  # an image that is wanted though nobody said anything of it


@dataclass(frozen=True)
class NotTaken:
    """Something that a source holds and that becomes no row."""

    reason: str
    number: int = 1


@dataclass(frozen=True)
class NotAsked:
    """Pictures that a source tells of and that nobody asked for: a whole sentence, the same for all rows."""

    text: str


Entry = Sample | NotTaken | NotAsked


class Columns(NamedTuple):
    """Names of the columns that are read."""

    text: str | None
    label: str | None
    image: str | None
    others: tuple[str, ...] = ()  # which may tell of pictures where none are read


def keeps_alone(reading: Reading) -> bool:
    """Whether images without text are wanted."""
    return reading.get("without_text") == "keep"


def columns_of(path: Path, names: Sequence[str], reading: Reading, guess_image: bool) -> Columns:
    """Which column holds what: as given, else by the usual names. Raises InputError, also for a table of images alone if they are not wanted."""
    shown = printable(", ".join(names)) or "none"

    def find(what: Literal["text_column", "label_column", "image_column"], usual: Sequence[str]) -> str | None:
        given = reading.get(what)
        if given is not None and given not in names:
            flag = what.replace("_", "-")
            raise InputError(f"{path} has no column {given!r}; give as --{flag} one of {shown}")
        lower = {name.lower(): name for name in reversed(names)}
        return given or next((lower[name] for name in usual if name in lower), None)

    text = find("text_column", TEXT_NAMES)
    label = find("label_column", LABEL_NAMES)
    folder = reading.get("images")
    image = find("image_column", (*IMAGE_NAMES, *FILE_NAMES) if folder else IMAGE_NAMES if guess_image else ())
    if text is None and label is None and not (image and keeps_alone(reading)):
        if not names:
            raise InputError(f"{path} has no columns; one of captions or classes is needed")
        alone = ", or take the images alone with --without-text keep" * bool(image)
        raise InputError(
            f"{path} has no column of captions or classes; say with --text-column which of {shown} it is{alone}"
        )
    if image is None and folder:
        raise InputError(f"{path} has no column of images for --images; say with --image-column which of {shown} it is")
    if twice := [name for name in (text, label, image) if name is not None and Counter(names)[name] > 1]:
        raise InputError(f"{path} has several columns called {printable(twice[0])!r}; give each a name of its own")
    others = () if image else [name for name in names if name not in (text, label)]
    if guess_image:  # a table by columns: those are read that are called so
        others = [name for name in others if name.lower() in (*FILE_NAMES, *ADDRESS_NAMES)]
    return Columns(text, label, image, tuple(others))


def from_row(
    position: int,
    row: Mapping[str, Any],
    columns: Columns,
    reading: Reading,
    path: Path,
    classes: Sequence[str] | None = None,
) -> Iterator[Entry]:
    """The samples of a row: one a caption, as some columns hold lists of captions. ``classes`` names the numbers of the label."""
    value = row.get(columns.label) if columns.label else None
    if classes and isinstance(value, int):
        value = classes[value] if 0 <= value < len(classes) else None  # -1 means "not labelled"
    if columns.others and position < FIRST_ROWS:
        yield from _not_asked(row, columns.others)
    label, wrong = label_of(value)
    image, problem = image_of(row.get(columns.image), reading, path) if columns.image else (None, None)

    keeps = keeps_alone(reading)

    def sample(place: int | str, text: Any, keeps: bool = keeps) -> Sample:
        said, refused = text_of(text)
        alone = keeps and not (said or refused or wrong)
        return Sample(place, said, label, image, problem, refused or wrong, alone=alone)

    if columns.text is None:
        yield sample(position, from_template(reading, label))
        return
    value = row.get(columns.text)
    if not isinstance(value, (list, tuple)):
        yield sample(position, value)
        return
    limit = reading.get("captions_per_image")
    if not value and keeps:
        yield sample(position, None)
    elif not value:
        yield Sample(position, None, label, image, problem, "an empty list of captions")
    is_silent = keeps and not any(text_of(text)[0] for text in value[:limit])  # then the first stands for the image
    for number, text in enumerate(value[:limit]):
        yield sample(f"{position}/{number}", text, is_silent and number == 0)
    if limit is not None and len(value) > limit:
        yield NotTaken("captions beyond --captions-per-image", len(value) - limit)


def _not_asked(row: Mapping[str, Any], others: Sequence[str]) -> Iterator[NotAsked]:
    """Columns whose values are names or addresses of pictures."""
    for name in others:
        value = row.get(name)
        if not isinstance(value, str):
            continue
        is_address = WEB_ADDRESS.match(value) is not None
        is_picture = Path(value.partition("?")[0] if is_address else value).suffix.lower() in PICTURE_SUFFIXES
        if is_address and (is_picture or name.lower() in ADDRESS_NAMES):
            yield NotAsked(
                f"captions only: {printable(name)} holds web addresses, which are not followed; fetch the pictures, with img2dataset say, and "
                "import its folder"
            )
        elif is_picture:
            flag = "" if name.lower() in (*IMAGE_NAMES, *FILE_NAMES) else f" --image-column {printable(name)}"
            yield not_asked(name, flag)


def not_asked(name: str, flag: str = "") -> NotAsked:
    """Of a column or a key that names files."""
    return NotAsked(f"captions only: {printable(name)} names pictures; import them too with --images FOLDER{flag}")


def refused(position: int | str, why: str, columns: Columns) -> Sample:
    """What stands for a row that could not be read."""
    return Sample(position, None, problem=why if columns.image else None, refused=why)


def text_of(value: Any) -> tuple[str | None, str | None]:
    """A value -> its text, or why it is none. None, and the NaN that stands for it in numbers, is no text without more words."""
    if value is None or _is_nan(value):
        return None, None
    if not isinstance(value, str):
        return None, f"the caption is not text but {called(value)}"
    if not is_text(value):
        return None, "the caption holds half of a character (a lone surrogate)"
    if "\0" in value:
        return None, because("the caption holds zero bytes", "not UTF-8 text")
    return value.strip(), None


def label_of(value: Any) -> tuple[str | None, str | None]:
    """A value -> the name of a class, or why it is none. Numbers are names too."""
    if value is None or _is_nan(value):
        return None, None
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers where some are missing
        value = int(value)
    if not isinstance(value, (str, int, float, decimal.Decimal, datetime.date)):
        return None, f"the class is not text but {called(value)}"
    label = str(value).strip()
    if not is_text(label) or "\0" in label:
        return None, "the class is not UTF-8 text"
    return label, None


def called(value: Any) -> str:
    """What a value is, in words."""
    names = {bool: "true or false", int: "a number", float: "a number", bytes: "bytes", list: "a list", tuple: "a list"}
    names |= {dict: "an object", str: "text", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def image_of(value: Any, reading: Reading, path: Path) -> tuple[bytes | Path | None, str | None]:
    """Bytes, a struct of bytes and path, or a file name -> the image, or why there is none."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return (value, None) if value else (None, "no image bytes")
    if value is None or value == "" or _is_nan(value):
        return None, "no image"
    if not isinstance(value, str):
        return None, f"the image is neither bytes nor a file name but {called(value)}"
    return image_file(reading if reading.get("images") else {"images": path.parent}, value)


def image_file(reading: Reading, name: Any) -> tuple[Path | None, str | None]:
    """A file name in a source -> the file in the folder of images, or why there is none."""
    if not isinstance(name, str):
        return None, f"the file name is not text but {called(name)}"
    shown = printable(name)
    if WEB_ADDRESS.match(name):
        return None, because("web addresses are not followed", shown)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return None, because("the file name may lead out of the folder of images", shown)
    path = Path(reading["images"] or ".") / name
    found = what_is(path)
    if found is None:
        return path, None
    is_missing = found == "nothing" or found.startswith("unreadable")  # such as a text that is too long for a name
    return None, because("no image file" if is_missing else f"{found}, not a file", shown)


def from_template(reading: Reading, label: str | None) -> str | None:
    """The text of a class where there is no caption."""
    return None if label is None else (reading.get("template") or "{class}").replace("{class}", label)
