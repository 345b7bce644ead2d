"""What sets of captions are like, and how far they lie from each other: tables for the terminal."""

from __future__ import annotations

from rich.table import Column, Table

from reverie.evaluate.diversity import Value
from reverie.evaluate.text_shift import MEASURES, TextShift
from reverie.report.plain import plain

SHARES = ("two words or fewer", "over ", "no caption", "not ASCII", "names", "codes", "type-token")  # how shares begin


def table(found: TextShift) -> Table:
    """A column for each set, a row for each number with its interval."""
    made = Table("", *(Column(plain(one.name), justify="right") for one in found.sets), box=None, header_style="bold")
    made.add_row("captions", *(f"{one.total:,}" for one in found.sets))
    for metric in found.sets[0].values:
        made.add_row(metric, *(_told(metric, one.values[metric]) for one in found.sets))
    return made


def shifts(found: TextShift) -> list[Table]:
    """One table a measure: in the row what was learned from, in the column what is asked for."""
    made = []
    for measure in MEASURES:
        heads = (Column(plain(one.name), justify="right") for one in found.sets)
        one_table = Table(measure, *heads, box=None, header_style="bold")
        for one, row in zip(found.sets, found.shifts[measure], strict=True):
            one_table.add_row(plain(one.name), *(f"{round(value, 3) + 0.0:.3f}" for value in row))
        made.append(one_table)
    return made


def _told(metric: str, value: Value) -> str:
    if metric.startswith(SHARES):
        return f"{100 * value.value:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})"
    digits = 2 if value.high < 100 else 1 if value.high < 1000 else 0
    return f"{value.value:,.{digits}f} ({value.low:,.{digits}f} to {value.high:,.{digits}f})"
