"""Sets of captions side by side: a table for the terminal, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.table import Column, Table

from reverie.errors import InputError
from reverie.evaluate.diversity import SHARES, Diversity, Value
from reverie.report.plain import plain
from reverie.store.files import atomic_file

CALLED = {  # what the page of a run calls these numbers
    "coverage top 5": "captions in the 5 largest clusters",
    "coverage top 20": "captions in the 20 largest clusters",
    "entropy": "entropy H of the clusters",
    "effective": "effective clusters, e to the H",
    "balance": "H, of the largest that it can be",
    "empty": "clusters without a caption",
    "distance": "mean cosine distance of two captions",
    "distinct-1": "different words, of all words",
    "distinct-2": "different pairs of words, of all pairs",
    "unique": "different captions",
    "words": "different words",
    "length": "words in a caption",
}
FORMATS = (".svg", ".png", ".pdf")


def table(found: Sequence[Diversity]) -> Table:
    """A column for each set, a row for each number with its interval."""
    made = Table("", *(Column(plain(one.name), justify="right") for one in found), box=None, header_style="bold")
    for metric in found[0].values:
        shown = [told(metric, one.values[metric]) for one in found]
        made.add_row(metric, *(f"{value} ({interval})" for value, interval in shown))
    return made


def told(metric: str, value: Value) -> tuple[str, str]:
    """The number and its interval, as people read them."""
    scale, digits, unit = (100, 1, " %") if metric in SHARES else (1, 0 if metric == "words" else 2, "")
    number, low, high = (f"{scale * each:,.{digits}f}" for each in (value.value, value.low, value.high))
    return f"{number}{unit}", f"{low} to {high}"


def check_picture(file: Path) -> None:
    """Raises InputError for a name that no picture can have."""
    if file.suffix not in FORMATS:
        raise InputError(f"a picture cannot be written as {file}; end its name in {', '.join(FORMATS)}")


def draw(found: Sequence[Diversity], file: Path) -> None:
    """How the captions of each set fall into clusters, the largest first, and how many clusters that is worth. Raises InputError."""
    check_picture(file)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for one in found:
        left.plot(np.arange(len(one.shares) + 1), 100 * np.cumsum([0.0, *one.shares]), label=one.name)
    num = len(found[0].shares)
    left.plot([0, num], [0, 100], color="0.6", linestyle=":", label="equal shares")
    left.set(xlabel="clusters, largest first", ylabel="captions in them, %", xlim=(0, num), ylim=(0, 100))
    left.legend(frameon=False, fontsize="small")
    for place, one in enumerate(found):
        value = one.values["effective"]
        right.barh(place, value.value, color=f"C{place}")
        right.plot([value.low, value.high], [place, place], color="black", linewidth=1.2)
    right.set_yticks(range(len(found)), [one.name for one in found], parse_math=False)
    right.invert_yaxis()
    right.set(xlabel=f"effective clusters, of {num}", xlim=(0, num))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        figure.savefig(partial, format=file.suffix[1:], metadata={"Date": None} if file.suffix == ".svg" else None)
