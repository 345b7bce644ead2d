"""What a run will take, as a table for the terminal and the lines below it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table

from reverie.report.facts import duration
from reverie.report.plain import plain
from reverie.run.estimate import Estimate, Span, StepEstimate

SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB")
NUMBERS = ("units", "rows", "steps", "time", "from", "to", "disk")
SAME = 4  # names of steps in a line


def table(found: Estimate) -> Table:
    """One row a step: how much it makes, its time with the spread of the trial, and what was tried."""
    rows = Table(
        "step", "", *(Column(name, justify="right") for name in NUMBERS), "tried", box=None, header_style="bold"
    )
    for step in found.steps:
        counts = (step.units, step.rows, step.steps)
        rows.add_row(
            plain(step.name),
            plain(step.stage),
            *("" if number is None else f"{number:,}" for number in counts),
            *_times(step.seconds),
            "" if step.disk_bytes is None else size(step.disk_bytes),
            plain(step.tried or "not known"),
        )
    return rows


def words(found: Estimate) -> list[str]:
    """What all steps come to, and what cannot be known."""
    images = f", {found.images:,} images" if found.images else ""
    units = f"{found.units:,} unit{'s' * (found.units != 1)}"
    made = f"{found.captions:,} captions{images}, {units}" if found.captions else "no captions are made"
    lines = [f"{found.recipe} on {found.device}: {made}"]
    if found.tokens:
        lines.append(f"tokens of the writer: {found.tokens['read']:,} read, {found.tokens['written']:,} written")
    about, without = "about", ""
    if missing := found.without:
        about, without = "at least", f" without {_named(missing)}"
    if not found.is_known:
        what = ("disk", "time", *(("cost",) if found.price_per_hour is not None else ()))
        lines += [f"{name}: not known{without}" for name in what]
    if found.disk_bytes is not None:
        lines.append(f"disk: {about} {size(found.disk_bytes)}{without}")
    if found.seconds is not None:
        time = found.seconds
        lines.append(f"time: {about} {duration(time.middle)} ({duration(time.low)} to {duration(time.high)}){without}, one step after the other")  # fmt: skip
    if found.cost is not None:
        cost = found.cost
        lines.append(
            f"cost: {about} {cost.middle:,.2f} ({cost.low:,.2f} to {cost.high:,.2f}){without} at {found.price_per_hour:g} an hour"
        )
    if found.trial_seconds >= 1:
        lines.append(f"the trial took {duration(found.trial_seconds)} and left nothing behind")
    lines += [f"note: {note}" for note in found.notes]
    if unknown := _together(found.steps):
        lines.append("not in these numbers:")
        lines += [f"  {line}" for line in unknown]
    return lines


def size(number: float) -> str:
    """Bytes as a person says them."""
    for unit in SIZES:
        if number < 1000 or unit == SIZES[-1]:
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError("the last unit takes all")


def _times(seconds: Span | None) -> tuple[str, str, str]:
    if seconds is None:
        return "", "", ""
    return duration(seconds.middle), duration(seconds.low), duration(seconds.high)


def _together(steps: tuple[StepEstimate, ...]) -> list[str]:
    """Reasons, each with the steps that it is about."""
    by_reason: dict[str, list[str]] = {}
    for step in steps:
        if step.unknown:
            by_reason.setdefault(step.unknown, []).append(step.name)
    return [f"{_named(names)}: {reason}" for reason, names in by_reason.items()]


def _named(names: Sequence[str]) -> str:
    """Some names of steps, and how many more there are."""
    return ", ".join(names[:SAME]) + (f" and {len(names) - SAME} more" if len(names) > SAME else "")
