"""Doors in: folders and files that others wrote -> units of captions and real images.

Nothing is trusted: images are decoded before they count as ok, names inside archives never reach the disk, and what cannot
be used becomes a row with a reason. Ids come from a name for the source and the position in it, so importing again, from
another place or after a kill, gives the same rows.
"""

from __future__ import annotations

import csv
import functools
import gzip
import itertools
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from reverie import pairs
from reverie.errors import BrokenImage, InputError, MissingExtra, StoreError, UnknownName
from reverie.store import tables
from reverie.store.pictures import PICTURE_SUFFIXES, as_png, open_picture, suffix

Line = TypeVar("Line")
Kind = Literal["folder", "coco", "csv", "tsv", "jsonl", "text", "parquet", "webdataset", "huggingface"]

TEXT_NAMES = ("txt", "text", "caption", "captions", "sentence", "sentences", "alt_text", "prompt", "title")
LABEL_NAMES = ("label_name", "class_name", "class", "category", "label", "fine_label", "cls")
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes")
MAX_BYTES = 256 << 20  # of one encoded image
KINDS_BY_SUFFIX: dict[str, Kind] = {
    ".json": "coco",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".tgz": "webdataset",
}


class Reading(TypedDict, total=False):
    """How to read a source. All are optional.

    text_column, image_column, label_column: names of columns (or of JSON fields); guessed when not given. In a CSV or TSV without
        a header, numbers from 0.
    images: folder that file names in the source are relative to.
    split: part of a Hugging Face folder, of parquet files called ``<split>-...``, or of a Karpathy caption file, whose train also
        means its restval, as is usual.
    template: text made from a class name where there is no caption, with ``{class}`` for the name.
    captions_per_image: use only the first so many captions of an image.
    """

    text_column: str | None
    image_column: str | None
    label_column: str | None
    images: str | Path | None
    split: str | None
    template: str
    captions_per_image: int | None


class Unit(NamedTuple):
    """Rows of one unit. ``pairs`` is None if the source has captions only."""

    number: int
    captions: pa.Table
    pairs: pa.Table | None


@dataclass(frozen=True)
class Sample:
    """One caption of a source, perhaps with an image, before it gets an id."""

    position: int | str
    text: str | None
    label: str | None = None
    image: bytes | Path | None = None
    problem: str | None = None  # why there is no image where there should be one
    refused: str | None = None  # why the row could not be read at all
    file: str | None = None  # its place in a folder of files, for its owner to find it again
    split: str | None = None  # of a caption file that holds several
    image_id: int | str | None = None  # what COCO's files call the image


def import_into(
    source: str | Path,
    folder: str | Path,
    kind: Kind | None = None,
    *,
    name: str | None = None,
    seed: int = 0,
    unit_size: int = 100,
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
    **reading: Unpack[Reading],
) -> dict[str, int]:
    """Import a source into ``captions.lance`` and ``pairs.lance`` of a folder, or the rest of it after an interruption.

    A source with a new name gets the units after those that are there.

    Args:
        kind: guessed from the source when None.
        name: of the source, part of every id; the kind when None. Give one when a folder gets several sources.
        progress: called with the number of samples imported so far.
        reading: see ``Reading``.
    Returns: how many "captions" this source has and how many of them are "dropped captions"; if it has images, also how many
        "images ok", "images dropped" and "images failed".
    Raises: InputError if the source cannot be read or holds nothing; StoreError if the units hold something else.
    """
    captions_path, pairs_path = Path(folder) / "captions.lance", Path(folder) / "pairs.lance"
    kind = kind or guess_kind(source)
    name = name or kind
    first, found = _begun(source, kind, reading)
    first_unit = _first_unit([captions_path, pairs_path], pairs.caption_id(seed, name, first.position))
    counts: Counter[str] = Counter({"captions": 0, "dropped captions": 0})
    done = tables.done_units(captions_path)
    for number, captions, images in _units(found, name, seed, unit_size, first_unit, threads, skip=done):
        if number in done:
            _refuse_others(captions_path, number, captions, name)
            images = tables.read_unit(pairs_path, number, ["status"]) if images is not None else None
        else:
            if images is not None and number not in tables.done_units(pairs_path):
                tables.append_unit(pairs_path, number, images)
            tables.append_unit(captions_path, number, captions)  # last: this is what says "done"
        counts["captions"] += captions.num_rows
        counts["dropped captions"] += captions["status"].to_pylist().count(pairs.DROPPED)
        if images is not None:
            statuses = images["status"].to_pylist()
            counts.update({f"images {word}": statuses.count(word) for word in (pairs.OK, pairs.DROPPED, pairs.FAILED)})
        if progress:
            progress(counts["captions"])
    return dict(counts)


def read(
    source: str | Path,
    kind: Kind | None = None,
    *,
    name: str | None = None,
    seed: int = 0,
    unit_size: int = 100,
    threads: int = 2,
    **reading: Unpack[Reading],
) -> Iterator[Unit]:
    """A source as units of caption rows and, where it has images, one real pair a caption.

    Args: as ``import_into``. Raises: InputError if the source cannot be read or holds nothing.
    """
    kind = kind or guess_kind(source)
    _, found = _begun(source, kind, reading)
    return _units(found, name or kind, seed, unit_size, 0, threads)


def samples(source: str | Path, kind: Kind, **reading: Unpack[Reading]) -> Iterator[Sample]:
    """The captions of a source one by one, in an order that depends on nothing but the source."""
    readers: dict[str, Callable[[Path, Reading], Iterator[Sample]]] = {
        "folder": _folder,
        "coco": _coco,
        "csv": _csv,
        "tsv": functools.partial(_csv, is_tsv=True),
        "jsonl": _jsonl,
        "text": _text,
        "parquet": _parquet,
        "webdataset": _webdataset,
        "huggingface": _huggingface,
    }
    if kind not in readers:
        raise UnknownName("kind of source", kind, readers)
    path = Path(source)
    if not path.exists() and not (kind == "webdataset" and "*" in path.name):
        raise InputError(f"{source} does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{source} is empty")
    if (images := reading.get("images")) and not Path(images).is_dir():
        raise InputError(f"the folder of images {images} does not exist")
    return readers[kind](path, reading)


def guess_kind(source: str | Path) -> Kind:
    """What a path holds, from its name and the names in it. Raises InputError if nothing fits."""
    path = Path(source)
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return "huggingface"
        if next(path.rglob("*.parquet"), None):
            return "parquet"
        if next(path.glob("*.tar"), None):
            return "webdataset"
        return "folder"
    name = path.name.lower().removesuffix(".gz")
    for ending, kind in KINDS_BY_SUFFIX.items():
        if name.endswith(ending):
            return kind
    if not path.exists():
        raise InputError(f"{source} does not exist")
    raise InputError(f"cannot tell what {source} is from its name; give a kind: {', '.join(get_args(Kind))}")


# Units


def _begun(source: str | Path, kind: Kind, reading: Reading) -> tuple[Sample, Iterator[Sample]]:
    """The first sample of a source, and all of them."""
    found = samples(source, kind, **reading)
    first = next(found, None)
    if first is None:
        raise InputError(f"{source} holds no captions or images")
    return first, itertools.chain([first], found)


def _first_unit(paths: Sequence[Path], caption_id: str) -> int:
    """The unit that has the first caption of a source, as it was imported before, or else the one after all that are there.

    A unit of pairs may be there without its captions: the import was stopped between the two.
    """
    there = [path for path in paths if tables.exists(path)]
    for path in there:
        for rows in tables.scan(path, ["unit"], f"caption_id = '{caption_id}'"):
            return int(rows["unit"][0].as_py())
    return max((unit for path in there for unit in tables.done_units(path)), default=-1) + 1


def _units(
    found: Iterator[Sample],
    name: str,
    seed: int,
    unit_size: int,
    first_unit: int,
    threads: int,
    skip: Collection[int] = (),
) -> Iterator[Unit]:
    """``skip`` names units whose images need not be looked at: their pairs come without rows."""
    with ThreadPoolExecutor(threads) as pool:
        for number in itertools.count(first_unit):
            group = list(itertools.islice(found, unit_size))
            if not group:
                return
            yield _unit(number, group, name, seed, pool, number in skip)


def _unit(number: int, group: Sequence[Sample], name: str, seed: int, pool: ThreadPoolExecutor, skip: bool) -> Unit:
    captions, images = [], []
    looked = itertools.repeat(_NOT_LOOKED) if skip else pool.map(_look, group)
    for sample, image in zip(group, looked, strict=False):
        caption = pairs.caption_id(seed, name, sample.position)
        row = {"caption_id": caption, "unit": number, "text": sample.text, "label": sample.label}
        reason = sample.refused or (None if sample.text else "no text")
        silent = {"status": pairs.DROPPED, "reason": reason} if reason else {"status": pairs.OK}
        captions.append(row | {"source": f"import: {sample.file or f'row {sample.position}'}"} | silent)
        if not skip and (sample.image is not None or sample.problem is not None):
            failed = {"status": pairs.FAILED, "reason": image.problem} if image.problem else silent
            here = {"pair_id": pairs.pair_id(caption, 0), "copy": 0, "origin": "real"}
            images.append(row | here | {"image": image.data, "width": image.width, "height": image.height} | failed)
    has_images = any(sample.image is not None or sample.problem is not None for sample in group)
    return Unit(number, pairs.table(captions, pairs.CAPTIONS), pairs.table(images, pairs.PAIRS) if has_images else None)


class _Looked(NamedTuple):
    data: bytes | None = None
    width: int | None = None
    height: int | None = None
    problem: str | None = None


_NOT_LOOKED = _Looked()


def _look(sample: Sample) -> _Looked:
    """Decode an image once, so that what is stored as ok can be read later."""
    if sample.image is None:
        return _Looked(problem=sample.problem)
    name = f"image {sample.position}"
    try:
        data = sample.image if isinstance(sample.image, bytes) else _read_file(sample.image, name)
        picture = open_picture(data, name)
    except BrokenImage as error:
        return _Looked(problem=str(error))
    if suffix(data) is None:
        data = as_png(picture)
    return _Looked(data, *picture.size)


def _read_file(path: Path, name: str) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenImage(f"{name}: a file of {path.stat().st_size:,} bytes is too large")
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(f"{name}: cannot read {path.name} ({error.strerror})") from error


def _refuse_others(path: Path, number: int, captions: pa.Table, name: str) -> None:
    """The unit that is there must be the one that would be imported."""
    names = ["caption_id", "text"]
    if not tables.read_unit(path, number, names).equals(captions.select(names)):
        raise StoreError(
            f"unit {number} of {path} holds other captions: {name!r} is the name of another source, or this one has changed; "
            "give another --name or --out"
        )


# Sources


def _folder(path: Path, reading: Reading) -> Iterator[Sample]:
    """One folder a class, images inside, at any depth. The position is the place in the order of class and file names."""
    if not path.is_dir():
        raise InputError(f"{path} is not a folder")
    classes = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    if not classes:
        raise InputError(f"{path} holds no class folders; expected {path.name}/CLASS/IMAGE.jpg")
    names = [_class_name(item.name) for item in classes]
    if twice := [name for name, number in Counter(name.casefold() for name in names).items() if number > 1]:
        same = ", ".join(item.name for item, name in zip(classes, names, strict=True) if name.casefold() == twice[0])
        raise InputError(f"{path} has several folders for one class: {same}")
    files = {
        name: sorted(f for f in item.rglob("[!.]*") if f.suffix.lower() in PICTURE_SUFFIXES)
        for name, item in zip(names, classes, strict=True)
    }
    if empty := [name for name in names if not files[name]]:
        raise InputError(f"{path}: no images for class {', '.join(empty)}")
    position = itertools.count()
    for name in names:
        for file in files[name]:
            yield Sample(next(position), _from_template(reading, name), name, file, file=str(file.relative_to(path)))


def _class_name(folder: str) -> str:
    return " ".join(folder.replace("_", " ").split())


def _coco(path: Path, reading: Reading) -> Iterator[Sample]:
    """COCO captions (images and annotations), or a Karpathy split (images with sentences)."""
    with _open_text(path) as file:
        try:
            data = json.load(file)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{path} is not JSON: {error}") from error
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise InputError(f"{path} is not a COCO caption file: it has no list of images")
    try:
        if "annotations" in data:
            files = {image["id"]: image["file_name"] for image in images}
            found = [
                (note["image_id"], files[note["image_id"]], note["caption"], None, note["image_id"])
                for note in data["annotations"]
            ]
        else:
            split = reading.get("split")
            wanted = (split, "restval") if split == "train" else (split,)
            found = [
                (
                    number,
                    str(Path(image.get("filepath", "")) / image["filename"]),
                    sentence["raw"],
                    image.get("split"),
                    image.get("cocoid"),
                )
                for number, image in enumerate(images)
                if split is None or image.get("split") in wanted
                for sentence in image["sentences"]
            ]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not a COCO caption file: an entry lacks or misuses {error}") from error
    used: Counter[Any] = Counter()
    limit = reading.get("captions_per_image")
    for position, (image, file, text, part, image_id) in enumerate(found):
        used[image] += 1
        if limit is None or used[image] <= limit:
            here, problem = _file(reading, file) if reading.get("images") else (None, None)
            yield Sample(position, _clean(text), None, here, problem, file=file, split=part, image_id=image_id)


def _csv(path: Path, reading: Reading, is_tsv: bool = False) -> Iterator[Sample]:
    """CSV, or TSV without quoting, as captions contain quotes. With a header, unless the columns are given as numbers.

    Empty rows are passed over; a row with more or fewer fields than the first becomes a dropped row.
    """
    with _open_text(path) as file:
        # Strict, so that a stray quote is an error and does not swallow the rows after it.
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(file, strict=True)
        rows = _lines(path, lines)
        given = reading.get("text_column") or reading.get("label_column") or ""
        first = next(filter(None, rows), [])
        if given.isdecimal():
            header, rows = [str(number) for number in range(len(first))], itertools.chain([first], rows)
        else:
            header = first
        columns = _columns(path, header, reading, guess_image=False)
        for position, row in enumerate(rows):
            if len(row) == len(header):
                yield from _from_row(position, dict(zip(header, row, strict=True)), columns, reading, path)
            elif any(field.strip() for field in row):
                than = "fewer" if len(row) < len(header) else "more"
                yield _refused(position, f"{than} fields than the first row", columns)


def _jsonl(path: Path, reading: Reading) -> Iterator[Sample]:
    """One JSON object a line, or one string a line. The first tells whether it is that; later ones that are not are dropped."""
    columns: _Columns | None = None
    with _open_text(path) as file:
        for position, line in enumerate(_lines(path, file)):
            if not line.strip():
                continue
            row = _object(line)
            if isinstance(row, dict):
                columns = columns or _columns(path, list(row), reading, guess_image=False)
                yield from _from_row(position, row, columns, reading, path)
            elif columns is None:
                raise InputError(f"{path}: line {position + 1} is {row}")
            else:
                yield _refused(position, row, columns)


def _object(line: str) -> dict[str, Any] | str:
    """A line as a row, or what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError:
        return "not JSON"
    if isinstance(row, str):
        return {"text": row}
    return row if isinstance(row, dict) else "neither an object nor a string"


def _text(path: Path, reading: Reading) -> Iterator[Sample]:
    """One caption a line. An empty line becomes a dropped row."""
    with _open_text(path) as file:
        for position, line in enumerate(_lines(path, file)):
            yield Sample(position, _clean(line))


def _parquet(path: Path, reading: Reading) -> Iterator[Sample]:
    """One file or all files of a folder; images as bytes, as a Hugging Face struct of bytes and path, or as file names."""
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    files = _of_split(path, files, reading.get("split"))
    position = itertools.count()
    for file in files:
        try:
            with pq.ParquetFile(file) as table:
                columns = _columns(file, table.schema_arrow.names, reading, guess_image=True)
                classes = _class_names(table.schema_arrow, columns.label)
                names = [name for name in (columns.text, columns.label, columns.image) if name is not None]
                for batch in table.iter_batches(batch_size=100, columns=names):
                    for row in batch.to_pylist():
                        yield from _from_row(next(position), row, columns, reading, file, classes)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from error


def _of_split(path: Path, files: list[Path], split: str | None) -> list[Path]:
    """Hugging Face names parquet files ``<split>-00000-of-00001.parquet`` or puts them in a folder called like the split."""
    if not files:
        raise InputError(f"{path} holds no parquet files")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        inside = file.relative_to(path).parts[:-1] if path.is_dir() else ()
        known = [part for part in inside if part in ("train", "test", "validation", "val", "dev")]
        by_split.setdefault(known[-1] if known else file.stem.split("-")[0], []).append(file)
    if split is not None:
        if split not in by_split:
            raise UnknownName(f"split of {path}", split, by_split)
        return by_split[split]
    if {"train"} < set(by_split) and set(by_split) <= {"train", "test", "validation", "val", "dev"}:
        raise InputError(f"{path} has several splits ({', '.join(sorted(by_split))}); say which one")
    return files


def _class_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Names behind the numbers of a Hugging Face ClassLabel, from the metadata that `datasets` leaves in the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None  # not written by `datasets`, or not a class label
    return names if isinstance(names, list) else None


def _webdataset(path: Path, reading: Reading) -> Iterator[Sample]:
    """Tar shards: members that share a name up to the first dot are one sample. Read as a stream; nothing is unpacked."""
    if path.is_dir() or not path.exists():
        shards = sorted(path.glob("*.tar") if path.is_dir() else path.parent.glob(path.name))
        if not shards:
            raise InputError(f"{path} holds no .tar files")
    else:
        shards = [path]
    position = itertools.count()
    first: InputError | None = None
    known = False
    waiting: list[Sample] = []  # unusable samples before the first usable one
    for shard in shards:
        try:
            for parts in _tar_samples(shard):
                number = next(position)
                found = _from_parts(number, parts, reading, shard)
                if isinstance(found, list):
                    yield from waiting
                    yield from found
                    waiting, known = [], True
                else:
                    # One sample without a caption is dropped; none with one means that the columns are wrong.
                    first = first or found
                    image = "image" if any(f".{ending}" in PICTURE_SUFFIXES for ending in parts) else None
                    refused = _refused(number, "no usable caption or class", _Columns(None, None, image))
                    if known:
                        yield refused
                    else:
                        waiting.append(refused)
        except (tarfile.TarError, EOFError, OSError, gzip.BadGzipFile) as error:
            raise InputError(f"cannot read {shard} as tar: {error}") from error
    if first and not known:
        raise first


def _tar_samples(shard: Path) -> Iterator[dict[str, bytes | str]]:
    """Samples of one shard as ending -> bytes; a str is the reason why a member was not read."""
    key: tuple[str, str] | None = None
    parts: dict[str, bytes | str] = {}
    with tarfile.open(shard, "r|*") as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            stem, dot, ending = name.partition(".")
            if not member.isfile() or not stem or not dot:
                continue
            if (folder, stem) != key:
                if parts:
                    yield parts
                key, parts = (folder, stem), {}
            if member.size > MAX_BYTES:
                parts[ending.lower()] = f"a file of {member.size:,} bytes is too large"
            else:
                file = tar.extractfile(member)
                parts[ending.lower()] = file.read() if file else "not a file"
    if parts:
        yield parts


def _from_parts(
    position: int, parts: dict[str, bytes | str], reading: Reading, shard: Path
) -> list[Sample] | InputError:
    """A WebDataset sample: caption in .txt or .json, class in .cls or .json, image under its usual ending.

    Returns: its samples, or why it has none.
    """
    row: dict[str, Any] = {}
    for ending, content in parts.items():
        if ending in ("txt", "caption", "cls") and isinstance(content, bytes):
            row["txt" if ending == "caption" else ending] = content.decode("utf-8", "replace")
        elif ending == "json" and isinstance(content, bytes):
            try:
                facts = json.loads(content)
            except ValueError as error:
                return InputError(f"{shard} .json is not JSON: {error}")
            row = {**facts, **row} if isinstance(facts, dict) else row
        elif f".{ending}" in PICTURE_SUFFIXES:
            row["image"] = content
    try:
        columns = _columns(shard, list(row), {**reading, "image_column": None}, guess_image=False)
    except InputError as error:
        return error
    columns = columns._replace(image="image" if "image" in row else None)
    if isinstance(problem := row.get("image"), str):
        return [Sample(position, _clean(row.get(columns.text or "")), None, None, f"image {position}: {problem}")]
    return list(_from_row(position, row, columns, reading, shard))


def _huggingface(path: Path, reading: Reading) -> Iterator[Sample]:
    """A folder written by ``Dataset.save_to_disk``."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(f"reading {path}", "huggingface") from error
    try:
        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a folder written by save_to_disk: {error}") from error
    if isinstance(data, datasets.DatasetDict):
        split = reading.get("split") or (next(iter(data)) if len(data) == 1 else None)
        if split is None:
            raise InputError(f"{path} has several splits ({', '.join(sorted(data))}); say which one")
        if split not in data:
            raise UnknownName(f"split of {path}", split, data)
        data = data[split]
    columns = _columns(path, data.column_names, reading, guess_image=True)
    if columns.image and isinstance(data.features[columns.image], datasets.Image):
        data = data.cast_column(columns.image, datasets.Image(decode=False))
    classes = data.features[columns.label].names if _is_class_label(data, columns.label) else None
    names = [name for name in (columns.text, columns.label, columns.image) if name is not None]
    for position, row in enumerate(data.select_columns(names)):
        yield from _from_row(position, row, columns, reading, path, classes)


def _is_class_label(data: Any, column: str | None) -> bool:
    import datasets

    return column is not None and isinstance(data.features[column], datasets.ClassLabel)


# Rows


class _Columns(NamedTuple):
    text: str | None
    label: str | None
    image: str | None


def _columns(path: Path, names: Sequence[str], reading: Reading, guess_image: bool) -> _Columns:
    """Which column holds what: as given, else by the usual names."""

    def find(what: Literal["text_column", "label_column", "image_column"], usual: Sequence[str]) -> str | None:
        given = reading.get(what)
        if given is not None and given not in names:
            flag = what.replace("_", "-")
            raise InputError(f"{path} has no column {given!r}; give as --{flag} one of {', '.join(names)}")
        lower = {name.lower(): name for name in reversed(names)}
        return given or next((lower[name] for name in usual if name in lower), None)

    text = find("text_column", TEXT_NAMES)
    label = find("label_column", LABEL_NAMES)
    guess_image = guess_image or reading.get("images") is not None
    image = find("image_column", IMAGE_NAMES if guess_image else ())
    if text is None and label is None:
        raise InputError(
            f"{path} has no column of captions or classes; say with --text-column which of {', '.join(names)} it is"
        )
    return _Columns(text, label, image)


def _from_row(
    position: int,
    row: Mapping[str, Any],
    columns: _Columns,
    reading: Reading,
    path: Path,
    classes: Sequence[str] | None = None,
) -> Iterator[Sample]:
    """The samples of a row: one a caption, as some columns hold lists of captions. ``classes`` names the numbers of the label."""
    label = row.get(columns.label) if columns.label else None
    if classes and isinstance(label, int):
        label = classes[label] if 0 <= label < len(classes) else None  # -1 means "not labelled"
    label = None if label is None else str(label).strip()
    image, problem = _image(row.get(columns.image), reading, path) if columns.image else (None, None)
    value = row.get(columns.text) if columns.text else _from_template(reading, label)
    if not isinstance(value, (list, tuple)):
        yield Sample(position, _clean(value), label, image, problem)
        return
    for number, text in enumerate(value[: reading.get("captions_per_image")]):
        yield Sample(f"{position}/{number}", _clean(text), label, image, problem)


def _refused(position: int, why: str, columns: _Columns) -> Sample:
    """What stands for a row that could not be read."""
    return Sample(position, None, problem=why if columns.image else None, refused=why)


def _image(value: Any, reading: Reading, path: Path) -> tuple[bytes | Path | None, str | None]:
    """Bytes, a struct of bytes and path, or a file name -> the image, or why there is none."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return (value, None) if value else (None, "no image bytes")
    if not isinstance(value, str) or not value:
        return None, "no image"
    return _file(reading if reading.get("images") else {"images": path.parent}, value)


def _file(reading: Reading, name: str) -> tuple[Path | None, str | None]:
    """A file name in a source -> the file in the folder of images, or why there is none."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return None, f"the file name {name} may lead out of the folder of images"
    path = Path(reading["images"] or ".") / name
    is_there = os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a text that is too long for a name
    return (path, None) if is_there else (None, f"no image file {name}")


def _from_template(reading: Reading, label: str | None) -> str | None:
    return None if label is None else (reading.get("template") or "{class}").replace("{class}", label)


def _clean(text: Any) -> str | None:
    return None if text is None else str(text).strip()


def _open_text(path: Path) -> IO[str]:
    return (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig", newline="")
    )


def _lines(path: Path, lines: Iterator[Line]) -> Iterator[Line]:
    """Pass lines on; what goes wrong on the way is an error of the file."""
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (csv.Error, OSError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
