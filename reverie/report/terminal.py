"""The measured numbers of a run as a table for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from reverie.report.facts import KINDS, aspects, called, columns, gather, headline, number
from reverie.report.plain import plain
from reverie.report.synth2 import told_controls


def table(folder: Path) -> Table:
    """One row an arm and a metric: mean over seeds, 95 % interval or what the seeds span, and the comparison.

    Where there are shape, class and colour, nearest neighbours are left to the page.

    Raises: as :func:`reverie.report.facts.gather`.
    """
    facts = gather(folder)
    rows = Table(title=plain(headline(facts)), title_justify="left", title_style="", box=None, header_style="bold")
    kinds = {KINDS.get(found.protocol, "features") for found in facts.measured}
    for name, justify in (
        (kinds.pop() if len(kinds) == 1 else "", "left"),
        ("measured", "left"),
        ("mean", "right"),
        ("seeds", "right"),
        ("spread", "left"),
    ):
        rows.add_column(name, justify=justify)  # type: ignore[arg-type]
    for found in facts.measured:
        if len(facts.measured) > 1:
            rows.add_row(plain(found.step, "bold"))
        group = aspects(found)
        wanted = group if len(group) > 1 else columns(found)
        for arm in found.arms:
            for metric in wanted:
                if (values := arm.values.get(metric)) is None:
                    continue
                interval = arm.interval(metric)
                low, high = interval or (min(values.values()), max(values.values()))
                span = f"{number(metric, low)} to {number(metric, high)}" if len(values) > 1 else ""
                rows.add_row(
                    plain(arm.label),
                    plain(called(metric, found)),
                    number(metric, arm.mean(metric)),
                    str(len(values)),
                    span + (" (95%)" if interval else ""),
                )
        for item in found.comparisons:
            gain = item.over_seeds
            rows.add_row(
                plain(f"{item.first.label} - {item.second.label}"),
                "difference" + " in shape" * (len(group) > 1),
                f"{100 * gain.mean:+.1f}",
                str(gain.num_seeds),
                gain.verdict,
            )
    rows.show_header = bool(facts.measured)
    if told := told_controls(facts):
        rows.caption, rows.caption_justify = plain("\n".join(told)), "left"
    return rows
