"""Reader of parquet: images as bytes, as a Hugging Face struct of bytes and path, or as file names."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reverie.errors import InputError, UnknownName
from reverie.store.imports.samples import Entry, NotTaken, Reading, Sample, columns_of, from_row
from reverie.store.sources import check_file, check_swelling, printable, unpacked_limit

FEW_ROWS = 8  # at once
LARGE = 10 << 20  # bytes of a column in a group of rows, of which few rows are read at once
SPLITS = ("train", "test", "validation", "val", "dev")


def read_parquet(path: Path, reading: Reading) -> Iterator[Entry]:
    """One file or all files of a folder."""
    tables = [path] if not path.is_dir() else parquet_files(path)
    files = _of_split(path, tables, reading.get("split"))
    used = set(tables)
    position = itertools.count()
    for file in files:
        check_file(file)
        try:
            with pq.ParquetFile(file) as table:
                columns = columns_of(file, table.schema_arrow.names, reading, guess_image=True)
                classes = _class_names(table.schema_arrow, columns.label)
                read = (columns.text, columns.label, columns.image, *columns.others)
                names = [name for name in read if name is not None]
                for batch in batches(table, file, names):
                    for row in batch.to_pylist():
                        for entry in from_row(next(position), row, columns, reading, file, classes):
                            if isinstance(entry, Sample) and isinstance(entry.image, Path):
                                used.add(entry.image)
                            yield entry
        # Damage shows as any of these; a UnicodeDecodeError is text that was not UTF-8 when it was written.
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from error
    if path.is_dir():
        yield from _beside(path, used)


def batches(table: pq.ParquetFile, file: Path, names: list[str], rows: int = 100) -> Iterator[pa.RecordBatch]:
    """These columns, some rows at a time. Raises InputError for a file that swells as no pictures or texts do.

    A long value that many rows share stands once in a file, and once a row in memory: of large columns few rows are read at once.
    """
    groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    sizes = [chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.partition(".")[0] in names]
    limit, largest, size = unpacked_limit(file), max(sizes, default=0), 0
    check_swelling(file, largest, limit)
    for batch in table.iter_batches(batch_size=rows if largest <= LARGE else FEW_ROWS, columns=names):
        size += sum(map(_size, batch.columns))
        check_swelling(file, size, limit)
        yield batch


def _size(values: pa.Array) -> int:
    """Bytes of all values, also of one that stands once and is meant often."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        if not (pa.types.is_binary(kind.value_type) or pa.types.is_string(kind.value_type)):
            return _size(values.dictionary_decode())
        return int(pc.sum(pc.binary_length(values.dictionary).take(values.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_size, values.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _size(values.flatten())
    return int(values.nbytes)


def parquet_files(path: Path) -> list[Path]:
    """All in a folder that are not hidden, in order. A folder of this name, as Spark writes, is looked into like any other."""
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".parquet" and not file.is_dir())
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def _beside(path: Path, used: Collection[Path]) -> Iterator[NotTaken]:
    """What a folder holds beside its tables, and the pictures that they name."""
    others: Counter[str] = Counter()
    for folder, _, names in os.walk(path):
        for file in (Path(folder) / name for name in names):
            if file not in used:
                is_hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
                others["hidden" if is_hidden else f"{file.suffix or 'other'} files beside the tables"] += 1
    yield from (NotTaken(printable(reason), number) for reason, number in others.items())


def _of_split(path: Path, files: list[Path], split: str | None) -> list[Path]:
    """Hugging Face names parquet files ``<split>-00000-of-00001.parquet`` or puts them in a folder called like the split."""
    if not files:
        raise InputError(f"{path} holds no parquet files")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        inside = file.relative_to(path).parts[:-1] if path.is_dir() else ()
        known = [part for part in inside if part in SPLITS]
        by_split.setdefault(known[-1] if known else file.stem.split("-")[0], []).append(file)
    if split is not None:
        if split not in by_split:
            raise UnknownName(f"split of {path}", split, by_split)
        return by_split[split]
    if len(by_split) > 1 and set(by_split) <= set(SPLITS):
        raise InputError(
            f"{path} has several splits ({', '.join(sorted(by_split))}); choose one with --split, or name its own folder or file"
        )
    return files


def _class_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Names behind the numbers of a Hugging Face ClassLabel, from the metadata that `datasets` leaves in the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None  # not written by `datasets`, or not a class label
    return names if isinstance(names, list) else None
