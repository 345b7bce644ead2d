"""How far each step of a run is, read from its folder, also while the run is under way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.run.engine import status_counts
from reverie.run.events import read_events
from reverie.run.plan import read_plan
from reverie.stage import StepContext
from reverie.store import tables

RATE_WINDOW_S = 600.0  # how far back `status` looks for the rate


@dataclass(frozen=True)
class StepStatus:
    """How far a step is. Rows for unit stages, the stage's own steps for jobs; None is "not known yet"."""

    name: str
    kind: str
    done: int | None
    ok: int | None
    dropped: int | None
    failed: int | None
    left: int | None
    rate_per_s: float | None
    eta_s: float | None
    complete: bool


def status(folder: Path) -> list[StepStatus]:
    """How far each step of a run is, read from disk beside whoever works there. Raises InputError if it is not a run."""
    record = read_plan(folder)
    context = StepContext(folder, "status")
    recent = _recent(folder)
    counts = {"captions": _statuses(context.captions), "pairs": _statuses(context.pairs)}
    found = []
    for step in record["steps"]:
        name, kind = step["name"], step["kind"]
        complete = (folder / "done" / f"{name}.json").exists()
        rows: dict[str, int] = counts.get(kind, {})
        done: int | None
        left: int | None
        if kind == "captions":
            done = rows.get("ok", 0) + rows.get("failed", 0)
            left = record["num_captions"] - done
        elif kind == "pairs":
            done = sum(rows.values())
            captions = record["num_captions"] - counts["captions"].get("failed", 0)
            left = captions * step["per_caption"] - done if step["per_caption"] else None
        elif kind == "columns":
            done = tables.count(context.columns(name)) if tables.exists(context.columns(name)) else 0
            left = counts["pairs"].get("ok", 0) - done if counts["pairs"] else None
        else:
            last = recent[name][-1] if recent.get(name) else {}
            done, left = last.get("done"), last["total"] - last["done"] if "total" in last else None
        left = 0 if complete else left
        rate = _rate(recent.get(name, []), kind)
        known = kind in counts
        found.append(
            StepStatus(
                name=name,
                kind=kind,
                done=done,
                ok=rows.get("ok", 0) if known else None,
                dropped=rows.get("dropped", 0) if known else None,
                failed=rows.get("failed", 0) if known else None,
                left=left,
                rate_per_s=rate,
                eta_s=left / rate if rate and left is not None else None,
                complete=complete,
            )
        )
    return found


def _recent(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The last events of each step that say how far it is."""
    recent: dict[str, deque[dict[str, Any]]] = {}
    for event in read_events(folder):
        if "done" in event and "step" in event:
            line = recent.setdefault(event["step"], deque())
            if line and event["done"] < line[-1]["done"]:
                line.clear()  # the next part of a job, or a start from its checkpoint, has a rate of its own
            line.append(event)
            while line[0]["time"] < event["time"] - RATE_WINDOW_S:
                line.popleft()
    return {name: list(line) for name, line in recent.items()}


def _rate(events: list[dict[str, Any]], kind: str) -> float | None:
    """Per second, over the recent events: rows of unit stages, steps of jobs."""
    if len(events) < 2 or (seconds := events[-1]["time"] - events[0]["time"]) <= 0:
        return None
    done = (
        events[-1]["done"] - events[0]["done"] if kind == "job" else sum(event.get("rows", 0) for event in events[1:])
    )
    return done / seconds if done > 0 else None


def _statuses(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    if tables.exists(path):
        for batch in tables.scan(path, columns=["status"]):
            for status_, number in status_counts(batch).items():
                counts[status_] = counts.get(status_, 0) + number
    return counts
