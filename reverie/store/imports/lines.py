"""Readers of text: one caption a line, CSV, TSV, and one JSON object a line. All also packed by gzip."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reverie.errors import InputError
from reverie.store.imports.samples import (
    Columns,
    Entry,
    NotTaken,
    Reading,
    Sample,
    columns_of,
    from_row,
    keeps_alone,
    refused,
    text_of,
)
from reverie.store.sources import opened_text


def read_text_lines(path: Path, reading: Reading) -> Iterator[Entry]:
    """One caption a line. An empty line becomes a dropped row."""
    with opened_text(path) as file:
        for position, line in enumerate(file):
            text, why = text_of(line)
            yield Sample(position, text, refused=why)


def read_csv(path: Path, reading: Reading, is_tsv: bool = False) -> Iterator[Entry]:
    """CSV, or TSV without quoting, as captions contain quotes. With a header, unless the columns are given as numbers.

    Empty rows are not taken; a row with more or fewer fields than the first becomes a dropped row.
    """
    with opened_text(path) as file:
        # Strict, so that a stray quote is an error and does not swallow the rows after it.
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(file, strict=True)
        rows = _rows(path, lines)
        given = reading.get("text_column") or reading.get("label_column") or ""
        first: list[str] = []
        for row in rows:
            if row:
                first = row
                break
            yield NotTaken("an empty row")
        if given.isdecimal():
            header, rows = [str(number) for number in range(len(first))], itertools.chain([first], rows)
        else:
            header = first
        columns = columns_of(path, header, reading, guess_image=False)
        for position, row in enumerate(rows):
            if len(row) == len(header):
                yield from from_row(position, dict(zip(header, row, strict=True)), columns, reading, path)
            elif any(field.strip() for field in row):
                than = "fewer" if len(row) < len(header) else "more"
                yield refused(position, f"{than} fields than the first row", columns)
            else:
                yield NotTaken("an empty row")


def _rows(path: Path, lines: Any) -> Iterator[list[str]]:
    try:
        yield from lines
    except csv.Error as error:
        hint = "; quotes within a field are written twice" if "expected after" in str(error) else ""
        raise InputError(f"cannot read {path}: {error} in line {lines.line_num}{hint}") from error


def read_jsonl(path: Path, reading: Reading) -> Iterator[Entry]:
    """One JSON object a line, or one string a line. The first tells whether it is that; later ones that are not are dropped.

    Where images without text are wanted, those often lack the key of the text, so that all lines tell which keys there are.
    """
    columns: Columns | None = None
    if keeps_alone(reading) and (names := _all_keys(path)):
        columns = columns_of(path, names, reading, guess_image=False)
    with opened_text(path) as file:
        for position, line in enumerate(file):
            if not line.strip():
                yield NotTaken("an empty line")
                continue
            row = _object(line)
            if isinstance(row, dict):
                columns = columns or columns_of(path, list(row), reading, guess_image=False)
                yield from from_row(position, row, columns, reading, path)
            elif columns is None:
                raise InputError(f"{path}: line {position + 1} is {row}")
            else:
                yield refused(position, row, columns)


def _all_keys(path: Path) -> list[str]:
    """Of all lines that hold an object."""
    with opened_text(path) as file:
        rows = (_object(line) for line in file if line.strip())
        return list({key: None for row in rows if isinstance(row, dict) for key in row})


def _object(line: str) -> dict[str, Any] | str:
    """A line as a row, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON"
    if isinstance(row, str):
        return {"text": row}
    return row if isinstance(row, dict) else "neither an object nor a string"
