"""Painted pictures measured: names of their metrics, a table for the terminal, and what the page shows of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Column, Table

from reverie.evaluate.generation import PROTOCOL, Number, pictures_folder
from reverie.pairs import pair_id
from reverie.report import plots
from reverie.report.facts import HUNDREDS, ArmFacts, Facts, Measured, called, number, plain_metric
from reverie.report.plain import plain
from reverie.report.thumbs import Thumbs
from reverie.store import tables
from reverie.store.results import Result

NUM_CAPTIONS = 12  # shown
MAX_ARMS = 6  # beside each other
SIDE_PX = 112
COLUMNS = ["pair_id", "text", "image"]
MAIN = ("soa_i", "qa_all", "fd")  # what a curve over guidance shows, as far as it was measured


def table(found: Mapping[str, Sequence[Number]]) -> Table:
    """A column for each set of pictures, a row for each metric with its interval."""
    made = Table("", *(Column(plain(name), justify="right") for name in found), box=None, header_style="bold")
    metrics = list(dict.fromkeys(one.metric for numbers in found.values() for one in numbers))
    known = {name: {one.metric: one for one in numbers} for name, numbers in found.items()}
    for metric in metrics:
        made.add_row(plain(called(metric)), *(_told(known[name].get(metric)) for name in found))
    return made


def of_records(records: Iterable[Result]) -> dict[str, list[Number]]:
    """What a measuring step wrote down, as ``table`` wants it: label of an arm -> its numbers."""
    found: dict[str, list[Number]] = {}
    for record in records:
        if record.protocol == PROTOCOL and record.value is not None:
            low, high = (float(record.details.get(end, record.value)) for end in ("low", "high"))
            found.setdefault(record.label, []).append(
                Number(record.metric, record.value, low, high, record.num_test or 0)
            )
    return found


def _told(one: Number | None) -> str:
    if one is None:
        return "not measured"
    return f"{number(one.metric, one.value)} ({number(one.metric, one.low)} to {number(one.metric, one.high)})"


def gather(facts: Facts, thumbnails: Thumbs) -> dict[str, Any] | None:
    """What generation.html needs; None for a run that measured no painted pictures."""
    found = next((each for each in facts.measured if each.protocol == PROTOCOL), None)
    if found is None:
        return None
    return {
        "sweep": _sweep(found),
        "intervals": _intervals(found),
        "parts": _parts(found),
        "captions": _captions(facts, found, thumbnails),
        "labels": [arm.label for arm in _shown(found)],
        "split": found.about.get("split", ""),
    }


def _shown(found: Measured) -> list[ArmFacts]:
    """Arms whose pictures are shown: painters at the first guidance, or one painter at each."""
    first = found.arms[0].factors.get("guidance")
    beside = [arm for arm in found.arms if arm.factors.get("guidance") == first]
    return list(beside if len(beside) > 1 else found.arms)[:MAX_ARMS]


def _intervals(found: Measured) -> list[tuple[str, str, list[str]]]:
    """Arm, metric and value with its interval over captions, of the arms' first seeds."""
    rows = []
    for arm in found.arms:
        told = []
        for record in arm.records:
            if record.seed == arm.records[0].seed and "low" in record.details and record.value is not None:
                ends = (number(record.metric, float(record.details[end])) for end in ("low", "high"))
                told.append(f"{called(record.metric)} {number(record.metric, record.value)} ({' to '.join(ends)})")
        rows.append((arm.id, arm.label, told))
    return rows


def _parts(found: Measured) -> dict[str, dict[str, dict[str, float]]]:
    """Metric -> word or class -> label of an arm -> its value, for metrics of few parts; what two metrics share once."""
    parts: dict[str, dict[str, dict[str, float]]] = {}
    for arm in _shown(found):
        for record in arm.records:
            own = record.details.get("parts") or {}
            if record.seed == arm.records[0].seed and 1 < len(own) <= 12:
                for name, value in own.items():
                    parts.setdefault(called(record.metric), {}).setdefault(str(name), {})[arm.label] = float(value)
    tables = list(parts.items())
    return {name: rows for place, (name, rows) in enumerate(tables) if rows not in [own for _, own in tables[:place]]}


def _sweep(found: Measured) -> list[Any]:
    """Curves over guidance, one drawing a metric; none where only one guidance was tried."""
    if len({arm.factors.get("guidance") for arm in found.arms}) < 2:
        return []
    drawings = []
    for kind in MAIN:
        metric = next((m for arm in found.arms for m in arm.values if plain_metric(m) == kind), None)
        if metric is None:
            continue
        scale = 100 if kind in HUNDREDS else 1
        lines: dict[str, list[tuple[float, float, tuple[float, float] | None]]] = {}
        for arm in found.arms:
            guidance = arm.factors.get("guidance")
            if metric in arm.values and isinstance(guidance, (int, float)):
                name = arm.label.rpartition(", guidance ")[0] or arm.label
                span = arm.interval(metric)
                ends = (scale * span[0], scale * span[1]) if span else None
                lines.setdefault(name, []).append((float(guidance), scale * arm.mean(metric), ends))
        ordered = {name: sorted(points) for name, points in lines.items()}
        drawings.append(plots.over_guidance(ordered, called(metric)))
    return drawings


def _captions(facts: Facts, found: Measured, thumbnails: Thumbs) -> list[dict[str, Any]]:
    """Some captions, spread over all, with the picture of each arm: same caption, same noise."""
    folders = [
        pictures_folder(facts.folder, found.step) / f"{arm.id}-{arm.records[0].seed}" / "pairs.lance"
        for arm in _shown(found)
    ]
    if not folders or not all(map(tables.exists, folders)):
        return []  # the numbers are worth a page without them
    ids = [
        row["caption_id"] for part in tables.scan(folders[0], ["caption_id"], "copy = 0") for row in part.to_pylist()
    ]
    num = min(NUM_CAPTIONS, len(ids))
    chosen = [ids[place * len(ids) // num] for place in range(num)]
    rows = [
        {
            row["pair_id"]: row
            for row in tables.rows_of(folder, "pair_id", [pair_id(name, 0) for name in chosen], COLUMNS)
        }
        for folder in folders
    ]
    empty = {"image": None}
    return [
        {
            "text": rows[0][pair_id(name, 0)]["text"],
            "pictures": [thumbnails.make(own.get(pair_id(name, 0), empty), SIDE_PX) for own in rows],
        }
        for name in chosen
    ]
