"""Reader of folders that ``Dataset.save_to_disk`` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reverie.errors import InputError, MissingExtra, ReverieError, UnknownName
from reverie.store.imports.samples import Entry, Reading, columns_of, from_row
from reverie.store.sources import check_file, read_json


def read_huggingface(path: Path, reading: Reading) -> Iterator[Entry]:
    """The rows of one split, whatever format they were saved with. Raises InputError, also for a folder that is damaged."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(f"reading {path}", "huggingface") from error
    try:
        folder = _split_of(path, reading.get("split"))
        for file in folder.glob("*.arrow"):  # `datasets` would wait for a pipe
            check_file(file)
        files = read_json(folder / "state.json").get("_data_files")
        if files == []:  # `datasets` saves no rows, but cannot read them
            return
        for name in (str(each["filename"]) for each in files):
            if Path(name).name != name or name == "..":
                raise InputError(f"{folder / 'state.json'} names the file {name!r}, which leads out of its folder")
            check_file(folder / name)
        yield from _rows(datasets.load_from_disk(str(folder)), path, reading)
    except ReverieError:
        raise
    # Each part of a damaged folder raises errors of its own kind, from KeyError to those of Arrow; all mean the same here.
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"cannot read {path} as a folder written by save_to_disk ({said})") from error


def _split_of(path: Path, split: str | None) -> Path:
    """The folder of one split, alone: what is wrong with the others does not matter then."""
    if not (path / "dataset_dict.json").exists():
        if split is not None and split != (known := read_json(path / "state.json").get("_split")):
            raise InputError(f"{path} is one split ({known or 'without a name'}), not several; leave --split out")
        return path
    splits: list[str] = read_json(path / "dataset_dict.json")["splits"]
    split = split or (splits[0] if len(splits) == 1 else None)
    if split is None:
        raise InputError(
            f"{path} has several splits ({', '.join(sorted(splits))}); choose one with --split, or name its own folder or file"
        )
    if split not in splits:
        raise UnknownName(f"split of {path}", split, splits)
    return path / split


def _rows(data: Any, path: Path, reading: Reading) -> Iterator[Entry]:
    import datasets

    # A format (torch, numpy, pandas, only some columns) that was saved with the rows would give their values other types.
    data = data.with_format(None)
    columns = columns_of(path, data.column_names, reading, guess_image=True)
    if columns.image and isinstance(data.features[columns.image], datasets.Image):
        data = data.cast_column(columns.image, datasets.Image(decode=False))
    feature = data.features[columns.label] if columns.label else None
    classes = feature.names if isinstance(feature, datasets.ClassLabel) else None
    names = [name for name in (columns.text, columns.label, columns.image, *columns.others) if name is not None]
    for position, row in enumerate(data.select_columns(names)):
        yield from from_row(position, row, columns, reading, path, classes)
