"""What a path holds, and the reader of each kind."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack, get_args

from reverie.errors import InputError, UnknownName
from reverie.store.imports.coco import read_coco
from reverie.store.imports.folders import METADATA, captioned, may_be_class, metadata_files, read_folder, read_pictures
from reverie.store.imports.huggingface import read_huggingface
from reverie.store.imports.lines import read_csv, read_jsonl, read_text_lines
from reverie.store.imports.parquet import parquet_files, read_parquet
from reverie.store.imports.samples import Entry, Kind, Reading, Sample
from reverie.store.imports.webdataset import SHARDS, is_shard, read_webdataset
from reverie.store.pictures import PICTURE_SUFFIXES
from reverie.store.places import shown
from reverie.store.sources import check_file, printable

READERS: dict[str, Callable[[Path, Reading], Iterator[Entry]]] = {
    "folder": read_folder,
    "pictures": read_pictures,
    "coco": read_coco,
    "csv": read_csv,
    "tsv": functools.partial(read_csv, is_tsv=True),
    "jsonl": read_jsonl,
    "text": read_text_lines,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
    "huggingface": read_huggingface,
}
COLUMNS = ("text_column", "label_column", "image_column")
# What a kind can make use of. Anything else that is given would be passed over in silence, so it is refused.
USES: dict[str, tuple[str, ...]] = {
    "folder": (*COLUMNS, "split", "captions_per_image", "without_text"),
    "pictures": ("without_text",),
    "coco": ("images", "split", "captions_per_image", "without_text"),
    "csv": (*COLUMNS, "images", "without_text"),
    "tsv": (*COLUMNS, "images", "without_text"),
    "jsonl": (*COLUMNS, "images", "captions_per_image", "without_text"),
    "text": (),
    "parquet": (*COLUMNS, "images", "split", "captions_per_image", "without_text"),
    "webdataset": (*COLUMNS, "captions_per_image", "without_text"),
    "huggingface": (*COLUMNS, "images", "split", "captions_per_image", "without_text"),
}
FOLDERS = ("folder", "pictures", "parquet", "webdataset", "huggingface")  # kinds whose source may be a folder
KINDS_BY_SUFFIX: dict[str, Kind] = {
    ".json": "coco",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".parquet": "parquet",
    **dict.fromkeys(SHARDS, "webdataset"),
}


class _Unclear(InputError):
    """The user has to say which kind a source is."""


def samples(source: str | Path, kind: Kind, **reading: Unpack[Reading]) -> Iterator[Sample]:
    """The captions of a source one by one, in an order that depends on nothing but the source. Raises InputError."""
    return (entry for entry in entries(source, kind, **reading) if isinstance(entry, Sample))


def entries(source: str | Path, kind: Kind, **reading: Unpack[Reading]) -> Iterator[Entry]:
    """The same, and between them what the source holds and what is not taken. Raises InputError."""
    if kind not in READERS:
        raise UnknownName("kind of source", kind, READERS)
    path = Path(source)
    try:
        there = path.exists()
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error
    if not there and not (kind == "webdataset" and "*" in path.name):
        raise InputError(f"{shown(source)} does not exist")
    if there and not path.is_dir():
        check_file(path)
        if path.is_file() and path.stat().st_size == 0:
            raise InputError(f"{source} is empty")
    elif there and kind not in FOLDERS:
        raise InputError(f"{source} is a folder; give a file of {kind}")
    for name, value in reading.items():
        if value is not None and name != "template" and name not in USES[kind]:
            raise InputError(f"--{name.replace('_', '-')} says nothing of a source of kind {kind}; leave it out")
    if (limit := reading.get("captions_per_image")) is not None and limit < 1:
        raise InputError(f"--captions-per-image {limit} leaves no captions; give 1 or more")
    if (images := reading.get("images")) and not Path(images).is_dir():
        raise InputError(f"the folder of images {images} does not exist")
    return READERS[kind](path, reading)


def guess_kind(source: str | Path) -> Kind:
    """What a path holds, from its name and the names in it. Raises InputError if nothing fits, or several kinds do."""
    path = Path(source)
    try:
        if path.is_dir():
            return _kind_of_folder(path)
        there = path.exists()
    except OSError as error:
        raise InputError(f"cannot read {printable(str(source))}: {error.strerror}") from error
    name = path.name.lower()
    for ending, kind in KINDS_BY_SUFFIX.items():
        if name.endswith((ending, f"{ending}.gz")):
            return kind
    if not there:
        raise InputError(f"{shown(source)} does not exist")
    raise _Unclear(f"cannot tell what {source} is from its name; give a kind: {', '.join(get_args(Kind))}")


def guess_kind_unasked(source: str | Path) -> Kind:
    """``guess_kind`` for a command that has no flag for it: where it asks, the source is to be imported first."""
    try:
        return guess_kind(source)
    except _Unclear as error:
        raise InputError(f"{error}; here is no --kind, so import it with reverie import first") from error


def _kind_of_folder(path: Path) -> Kind:
    if any((path / name).exists() for name in ("captions.lance", "pairs.lance")):
        raise InputError(f"{path} holds tables that are imported or made already; there is nothing to import from it")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return "huggingface"
    shards = [item for item in path.iterdir() if is_shard(item)]
    tables = [file for file in parquet_files(path) if file.name not in METADATA]
    if shards and {file.stem for file in tables} <= {shard.name.partition(".")[0] for shard in shards}:
        tables = []  # img2dataset writes beside each shard a table of all that it asked for, also where nothing came
    if not shards and {file.stem for file in tables} <= {item.name for item in path.iterdir()} and captioned(path):
        raise _Unclear(
            f"text files of the same name lie beside the pictures of {printable(str(path))}: give --kind pictures if they are captions, "
            "or --kind folder if the names of folders are classes"
        )
    found: list[Kind] = [*(["webdataset"] if shards else []), *(["parquet"] if tables else [])]  # type: ignore[list-item]
    if found and _has_pictures(path):
        found.append("folder")
    if len(found) > 1:
        raise _Unclear(f"{path} could be several kinds of source: {', '.join(found)}; say with --kind which one it is")
    return found[0] if found else "pictures" if _is_flat(path) else "folder"


def _is_flat(path: Path) -> bool:
    """Whether a folder holds pictures and neither folders, which could be classes, nor metadata."""
    inside = [item for item in path.iterdir() if not item.name.startswith((".", "__"))]
    has_pictures = any(item.suffix.lower() in PICTURE_SUFFIXES and not item.is_dir() for item in inside)
    return has_pictures and not any(map(may_be_class, inside)) and not metadata_files(path)


def _has_pictures(path: Path) -> bool:
    """Whether pictures lie in folders that are not hidden."""
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        if Path(folder) != path and any(Path(name).suffix.lower() in PICTURE_SUFFIXES for name in files):
            return True
    return False
