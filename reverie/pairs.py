"""The columns of the tables of captions and of image-text pairs, which every stage reads or writes.

A unit is a numbered group of captions (some hundred). Unit n of every later table comes from unit n here.
Columns that filters add (clip_score, hash, ...) sit beside these; see store/tables.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, Literal

import pyarrow as pa

Status = Literal["ok", "dropped", "failed"]
OK: Status = "ok"  # usable
DROPPED: Status = "dropped"  # made, looked at, not wanted; the reason says why
FAILED: Status = "failed"  # could not be made; `reverie retry` tries again

CLASS_SLOT = "{class}"  # where a template or prompt takes a class name

CAPTIONS = pa.schema(
    [
        pa.field("caption_id", pa.string(), nullable=False),
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),  # class name, or null
        pa.field(
            "source", pa.string()
        ),  # corpus, scene (both with ": " and what a caption is of), template, words, llm, recaption, "import: " and file or row,
        # "caption: " or "pair: " and the row of another run that it was taken of, if that does not say more itself
        pa.field("writer", pa.string()),  # model and revision, or null
        pa.field("prompt", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)

PAIRS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("caption_id", pa.string(), nullable=False),
        pa.field("copy", pa.int64(), nullable=False),
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),
        pa.field("image", pa.large_binary()),  # encoded bytes (PNG, JPEG, WebP), or null
        pa.field("tokens", pa.list_(pa.int32())),  # VQ ids, row by row of the grid, or null
        pa.field("grid", pa.list_(pa.int32())),  # [rows, columns] of the tokens
        pa.field("codebook", pa.string()),  # whose ids they are: codebook_name of models/tokenizer.py
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("origin", pa.string()),  # real, painted
        pa.field("painter", pa.string()),  # model and revision
        pa.field("scheduler", pa.string()),
        pa.field("steps", pa.int32()),
        pa.field("guidance", pa.float32()),
        pa.field("seed", pa.int64()),
        pa.field("start", pa.string()),  # source pair and strength, for images started from a photo
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)

TOKEN_COLUMNS = ("tokens", "grid", "codebook")  # that hold an image as ids


def caption_id(run_seed: int, source: str, position: int | str) -> str:
    """Name a caption by where it comes from, never by a path or by the order of work. 16 hex digits."""
    return hashlib.blake2b(f"{run_seed}/{source}/{position}".encode(), digest_size=8).hexdigest()


def pair_id(caption: str, copy: int) -> str:
    """Name the copy-th image of a caption."""
    return f"{caption}-{copy:03d}"


def table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of exactly this schema; missing nullable fields become null."""
    rows = list(rows)
    known = list(set().union(*rows))
    if unknown := set(known) - set(schema.names):
        raise ValueError(f"columns not in the schema: {sorted(unknown)}")
    try:  # quicker, where all rows have the same columns
        whole = list(zip(*map(itemgetter(*known, *known[:1]), rows), strict=True))
    except (KeyError, TypeError):
        whole = [tuple(row.get(name) for row in rows) for name in known]
    columns = dict(zip(known, whole, strict=False))
    return pa.table(
        {
            field.name: pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.nulls(len(rows), field.type)
            for field in schema
        },
        schema=schema,
    )
