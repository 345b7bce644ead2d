"""All that is known of one pair: what it was made of, what each step said of it, and the command that makes it again."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from reverie.errors import ReverieError
from reverie.filters.keep import clauses
from reverie.pairs import CAPTIONS, PAIRS
from reverie.show.gallery import WIDE, Card, Gallery
from reverie.show.marks import COLUMN
from reverie.store import tables
from reverie.store.files import file_name
from reverie.store.snapshot import fits

Facts = list[tuple[str, str]]
MADE_OF = (
    "origin",
    "painter",
    "scheduler",
    "steps",
    "guidance",
    "seed",
    "start",
    "width",
    "height",
    "grid",
    "codebook",
    "copy",
    "unit",
)
SELECTED = ("kept", "drop_reason")
NOT_SAID = ("stage", "speed", "label")  # settings that are no news beside a step's name


@dataclass(frozen=True)
class StepSaid:
    """What a step of the plan did with a pair."""

    name: str
    stage: str
    role: str
    fingerprint: str
    said: Facts  # of this pair
    verdicts: tuple[tuple[str, bool | None], ...]  # parts of a rule, and whether the pair fulfils them
    settings: Facts


@dataclass(frozen=True)
class Provenance:
    """One pair."""

    picture: Facts
    caption: Facts
    steps: tuple[StepSaid, ...]
    others: Facts  # columns that no step of the plan accounts for
    command: str | None
    why_none: str  # where there is no command


def gather(gallery: Gallery, card: Card) -> Provenance:
    """Everything about a pair. Raises StoreError for a table that is damaged."""
    row = card.row
    steps = tuple(_steps(gallery, card))
    told = {name for step in steps for name, _ in step.said} | {*PAIRS.names, *CAPTIONS.names, *SELECTED, *WIDE, COLUMN}
    others = [(name, shown(value)) for name, value in row.items() if name not in told and value is not None]
    command, why = _command(gallery, card)
    return Provenance(_given(row, MADE_OF), _caption(gallery, row), steps, others, command, why)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Values of two rows that are not the same."""
    names = [name for name in dict.fromkeys([*one, *other]) if name not in WIDE and name not in ("unit", COLUMN)]
    return [(name, shown(one.get(name)), shown(other.get(name))) for name in names if one.get(name) != other.get(name)]


def shown(value: Any) -> str:
    """A value for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, (list, dict)):
        text = json.dumps(value, ensure_ascii=False, default=str)
        return text if len(text) <= 400 else f"{text[:400]} ..."
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _given(row: Mapping[str, Any], names: tuple[str, ...]) -> Facts:
    return [(name, shown(row[name])) for name in names if row.get(name) is not None]


def _caption(gallery: Gallery, row: Mapping[str, Any]) -> Facts:
    table = gallery.folder / "captions.lance"
    found = tables.rows_of(table, "caption_id", [row["caption_id"]], CAPTIONS.names)
    facts = found[0] if found else {"caption_id": row["caption_id"]}
    return [
        (name, shown(value)) for name, value in facts.items() if value is not None and name not in ("unit", "label")
    ]


def _steps(gallery: Gallery, card: Card) -> Iterator[StepSaid]:
    if gallery.record is None:
        return
    alone = gallery.pairs.take([card.number], gallery.columns)
    for step in gallery.record["steps"]:
        if step["role"] not in ("source", "paint", "score", "select"):
            continue
        settings, row = step["settings"], card.row
        said: Facts = []
        if step["kind"] == "pairs":
            said = _given(row, ("status", "reason"))
        elif step["role"] != "source":
            said = _given(row, tuple(name for name in _added(gallery, step["name"]) if name in row))
        verdicts = tuple(_verdicts(str(settings.get("rule", "")), alone)) if step["role"] == "select" else ()
        yield StepSaid(
            step["name"], str(settings.get("stage", "")), step["role"], step["fingerprint"], said, verdicts,
            [(name, shown(value)) for name, value in settings.items() if name not in NOT_SAID and value not in (None, "", [], {})],
        )  # fmt: skip


def _added(gallery: Gallery, step: str) -> list[str]:
    """Columns that a step added to the pairs, by its own table."""
    path = gallery.folder / "columns" / f"{step}.lance"
    try:
        names = tables.column_names(path) if tables.exists(path) else []
    except ReverieError:
        return []
    return [name for name in names if name not in ("pair_id", "unit", *WIDE)]


def _verdicts(rule: str, alone: pa.Table) -> Iterator[tuple[str, bool | None]]:
    """Each part of a rule, and whether the pair fulfils it; None where that cannot be said."""
    try:
        parts = clauses(rule) if rule else []
    except ReverieError:
        return
    for clause in parts:
        try:
            yield clause, fits(alone, clause)
        except ReverieError:
            yield clause, None


def _command(gallery: Gallery, card: Card) -> tuple[str | None, str]:
    """What makes the image again, safe to paste into a shell."""
    if gallery.record is None:
        return None, "This picture was imported, not made here: its caption says where it comes from."
    if not any(step["kind"] == "pairs" for step in gallery.record["steps"]):
        return None, "No step of this run painted it."
    words = ["reverie", "repaint", str(gallery.folder), card.pair_id, "--out", f"{file_name(card.pair_id)}.png"]
    return shlex.join(words), ""
