"""The measured numbers of a run as a table for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from reverie.report import facts as tell
from reverie.report.plain import plain


def table(folder: Path) -> Table:
    """One row an arm and a metric: mean over seeds, 95 % interval or what the seeds span, and the comparison.

    Where there are shape, class and colour, nearest neighbours are left to the page.

    Raises: as :func:`reverie.report.facts.gather`.
    """
    facts = tell.gather(folder)
    rows = Table(title=plain(tell.sentence(facts)), title_justify="left", title_style="", box=None, header_style="bold")
    for name, justify in (
        ("features", "left"),
        ("measured", "left"),
        ("mean", "right"),
        ("seeds", "right"),
        ("spread", "left"),
    ):
        rows.add_column(name, justify=justify)  # type: ignore[arg-type]
    for found in facts.measured:
        if len(facts.measured) > 1:
            rows.add_row(plain(found.step, "bold"))
        group = tell.aspects(found)
        wanted = group if len(group) > 1 else tell.columns(found)
        for arm in found.arms:
            for metric in wanted:
                if (values := arm.values.get(metric)) is None:
                    continue
                interval = arm.interval(metric)
                low, high = interval or (min(values.values()), max(values.values()))
                span = f"{tell.number(metric, low)} to {tell.number(metric, high)}" if len(values) > 1 else ""
                rows.add_row(
                    plain(tell.shown(arm.name)),
                    plain(tell.called(metric, found)),
                    tell.number(metric, arm.mean(metric)),
                    str(len(values)),
                    span + (" (95%)" if interval else ""),
                )
        for item in found.comparisons:
            gain = item.over_seeds
            rows.add_row(
                plain(f"{tell.shown(item.first)} - {tell.shown(item.second)}"),
                "difference" + " in shape" * (len(group) > 1),
                f"{100 * gain.mean:+.1f}",
                str(gain.num_seeds),
                gain.verdict,
            )
    return rows
