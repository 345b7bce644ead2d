"""Texts that stand in the tables of a run or an import: its captions, or any column of text beside its images.

So what one run wrote about its images, such as ``caption_long``, is what another run paints or learns from. Rows come by unit
and key, whatever the order in which they were committed, and every row that is not taken says why.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from reverie.errors import InputError
from reverie.pairs import CAPTIONS, OK, PAIRS
from reverie.store import tables
from reverie.store.imports.samples import Sample, label_of, text_of
from reverie.store.json_files import read_json

PLAN = {"steps": [{"name": str, "kind": str}]}
ROWS = 10_000  # at once


class Texts(NamedTuple):
    """A column of a table with what is known of its rows, by unit and key."""

    rows: pa.Table  # key, text, label, source, status, reason
    content: str  # 16 hex digits of all that is in the rows


def is_store(path: Path) -> bool:
    """Whether a path is the folder of a run or an import, or one of its tables."""
    try:
        if not path.is_dir():
            return False
        return path.suffix == ".lance" or any(
            (path / name).exists() for name in ("captions.lance", "pairs.lance", "plan.json")
        )
    except OSError:  # a name that is too long is no store
        return False


def read_texts(
    path: Path, text_column: str | None = None, label_column: str | None = None, where: str | None = None
) -> Texts:
    """The texts of a run, an import or one table of it: its captions, or a column of its pairs.

    Args:
        text_column: of the captions, or else of the pairs; the caption itself when None.
        label_column: of the same table; ``label`` when None.
        where: which rows, in SQL over the columns of that table.
    Raises: InputError for a run whose step with this column is not finished, a column that is not there, is not text, or holds
        none, and for a filter that does not fit; StoreError for a damaged table.
    """
    table = _table_of(path, text_column or "text")
    column = text_column or "text"
    _check_column(path, table, column)
    if label_column is not None and label_column not in tables.column_names(table):
        raise InputError(f"{table} has no column {label_column!r} for --label-column; {_columns(table)}")
    opened = tables.open_table(table)
    return _read(
        table, column, label_column, where, (opened.schema.metadata or {}).get(tables.IDENTITY, b""), opened.version
    )


def samples(texts: Texts, column: str) -> Iterator[Sample]:
    """Each row as a caption of a source; one that is not ok, or has no text, with the reason."""
    for start in range(0, len(texts.rows), ROWS):
        for row in texts.rows.slice(start, ROWS).to_pylist():
            label, wrong = label_of(row["label"])
            text, refused = text_of(row["text"])
            if row["status"] != OK:
                refused = f"{row['status']} there: {row['reason']}"
            elif row["text"] is None:
                refused = f"no {column}"
            yield Sample(row["key"], text, label, refused=refused or wrong, file=row["source"])


def _table_of(path: Path, column: str) -> Path:
    """The table of a store that has this column. Raises InputError for a run whose step that makes it is not finished."""
    folder, kind = path, "captions" if column in CAPTIONS.names else "pairs"
    # Pairs that a step took, such as those of the small world, have no captions beside them; their text is the same.
    if column in PAIRS.names and not tables.exists(path / "captions.lance") and tables.exists(path / "pairs.lance"):
        kind = "pairs"
    if path.suffix == ".lance":
        folder, kind = path.parent, path.stem
    table = folder / f"{kind}.lance"
    left = _not_done(folder)
    makers = [name for name, makes in left.items() if makes in ("captions", kind)]
    makers += [name for name in left if _adds(folder / "columns" / f"{name}.lance", column)]
    if makers:
        raise InputError(
            f"the run {folder} is not finished: step {makers[0]!r}, which its column {column!r} comes from, has more to do; run its "
            "command again first"
        )
    if not tables.exists(table):
        raise InputError(f"{folder} has no {kind}, and so no column {column!r}; give another run or file of captions")
    if left and column not in tables.column_names(table):
        raise InputError(
            f"the run {folder} is not finished (left: {', '.join(left)}) and has no column {column!r} yet; {_columns(table)}"
        )
    return table


def _not_done(path: Path) -> dict[str, str]:
    """Steps of a run that have more to do, with their kinds; none for what no plan made."""
    if not (path / "plan.json").exists():
        return {}
    plan = read_json(path / "plan.json", PLAN, InputError, "it is not the plan of a run; give another folder")
    done = {mark.stem for mark in (path / "done").glob("*.json")}
    return {step["name"]: step["kind"] for step in plan["steps"] if step["name"] not in done}


def _adds(columns: Path, name: str) -> bool:
    return tables.exists(columns) and name in tables.column_names(columns)


def _check_column(path: Path, table: Path, column: str) -> None:
    schema = tables.open_table(table).schema
    if column not in schema.names:
        raise InputError(f"{path} has no column {column!r}; {_columns(table)}")
    kind = schema.field(column).type
    if not _is_text(kind):
        raise InputError(f"the column {column!r} of {path} is not text but {kind}; {_columns(table)}")
    if not {"status", "unit"} <= set(schema.names) or not {"pair_id", "caption_id"} & set(schema.names):
        raise InputError(f"{table} is not a table of captions or pairs; give the folder of a run or an import")


def _columns(table: Path) -> str:
    """Which columns there are to take, in words."""
    schema = tables.open_table(table).schema
    return f"columns of text are {', '.join(field.name for field in schema if _is_text(field.type)) or 'none'}"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


@functools.lru_cache(maxsize=2)
def _read(table: Path, column: str, label: str | None, where: str | None, identity: bytes, version: int) -> Texts:
    """``identity`` and ``version`` are in the key so that a table that has changed is read again."""
    names = tables.column_names(table)
    of = "pair" if "pair_id" in names else "caption"
    label = label or ("label" if "label" in names else None)
    wanted = [f"{of}_id", "unit", "status", "reason", *([label] if label else []), column]
    wanted += ["source"] if of == "caption" and "source" in names else []
    parts = list(tables.scan(table, list(dict.fromkeys(wanted)), where))
    if not parts:
        raise InputError(f"{table} has no row" + (f" that fits {where!r}" if where else ""))
    rows = pa.concat_tables(parts)
    rows = rows.take(pc.sort_indices(rows, [("unit", "ascending"), (f"{of}_id", "ascending")]))
    named = pc.binary_join_element_wise(f"{of}: ", rows[f"{of}_id"].cast(pa.string()), "")
    rows = pa.table(
        {
            "key": rows[f"{of}_id"],
            "text": rows[column],
            "label": rows[label] if label else pa.nulls(len(rows), pa.string()),
            # What a caption is of, such as the photo, stays known; a column beside an image is of the image.
            "source": pc.coalesce(rows["source"], named) if "source" in wanted else named,
            "status": rows["status"],
            "reason": rows["reason"],
        }
    )
    ok = rows.filter(pc.equal(rows["status"], OK))
    if ok["text"].null_count == len(ok):
        raise InputError(
            f"the column {column!r} of {table} holds no text: it is null in all {len(ok):,} rows that are ok"
            if len(ok)
            else f"{table} has no row that is ok, so its column {column!r} holds nothing to take"
        )
    digest = hashlib.blake2b(digest_size=8)
    for start in range(0, len(rows), ROWS):
        digest.update(repr(rows.slice(start, ROWS).to_pydict()).encode("utf-8", "surrogatepass"))
    return Texts(rows, digest.hexdigest())
