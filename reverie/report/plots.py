"""Inline SVG drawings for the page, by matplotlib. Colours are the page's own CSS variables, so light and dark both fit."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from reverie.report.facts import SCORES, Arm, Measured, main_metric, number, shown

# Matplotlib wants colours it knows; each of these stands for a variable of the page's style sheet.
INK, SOFT, LINE, PAPER = "#010203", "#010204", "#010205", "#010206"
ARMS = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper"} | {
    colour: f"arm{place}" for place, colour in enumerate(ARMS)
}
STYLE = {
    "svg.fonttype": "none",  # letters stay letters: they can be read out, searched and take the page's font
    "svg.hashsalt": "reverie",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.color": LINE,
    "ytick.labelcolor": SOFT,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
}
POINTS = 300  # of a curve; more only makes the page heavier


def arm_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each trained arm in order of appearance; what is not trained stays grey."""
    trained = [name for name in names if name not in ("untrained", "pixels")]
    return {name: ARMS[place % len(ARMS)] for place, name in enumerate(trained)} | {
        name: SOFT for name in names if name not in trained
    }


def accuracy(found: Measured, colours: Mapping[str, str]) -> Markup:
    """A bar for the mean of each arm, a dot for each seed, and the 95 % interval of the mean from three seeds on."""
    metric = main_metric(found)
    arms = [arm for arm in found.arms if metric in arm.values]
    scale = 100 if metric in SCORES else 1
    with _figure(0.55 * len(arms) + 0.75) as (figure, axes):
        ends = []
        for row, arm in enumerate(arms):
            ends.append(_bar(axes, row, arm, metric, scale, colours[arm.name]))
        chance = found.about.get("num_classes") if metric in SCORES else None
        if chance:
            axes.axvline(100 / chance, color=SOFT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
            axes.text(100 / chance, -0.72, "guessing", color=SOFT, fontsize=10, ha="left", va="bottom")
        axes.set_yticks(range(len(arms)), [_short(shown(arm.name)) for arm in arms])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(arms) - 0.45, -0.75)
        axes.set_xlim(0, max(ends) * 1.22)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        if scale == 100:
            axes.xaxis.set_major_formatter("{x:g}%")
        said = "; ".join(f"{shown(arm.name)} {number(metric, arm.mean(metric))}" for arm in arms)
        return _svg(figure, f"{SCORES.get(metric, metric)}: {said}", f"acc-{found.step}")


def _bar(axes: Any, row: int, arm: Arm, metric: str, scale: float, colour: str) -> float:
    """Draw one arm and return where it ends on the axis."""
    mean, values, interval = arm.mean(metric), list(arm.values[metric].values()), arm.interval(metric)
    axes.barh(row, mean * scale, height=0.52, color=colour, alpha=0.28, zorder=2)
    axes.plot([mean * scale] * 2, [row - 0.26, row + 0.26], color=colour, linewidth=2, zorder=3)
    if interval and len(values) > 1:
        axes.plot([end * scale for end in interval], [row, row], color=INK, linewidth=1.2, zorder=3)
    if len(values) > 1:
        shift = np.linspace(-0.13, 0.13, len(values))
        axes.scatter(
            np.array(values) * scale, row + shift, s=26, color=colour, edgecolor=PAPER, linewidth=0.8, zorder=4
        )
    end = max(mean, max(values), interval[1] if interval else 0.0) * scale
    axes.annotate(number(metric, mean), (end, row), xytext=(8, 0), textcoords="offset points", va="center", color=INK)
    return end


def curves(
    lines: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], unit: str, colours: Mapping[str, str]
) -> Markup:
    """Training curves.

    Args:
        lines: arm -> learning step -> (step, value) rows; lines of one arm share a colour.
        unit: what the vertical axis shows.
    """
    with _figure(2.9) as (figure, axes):
        lows, highs = [], []
        for arm, runs in lines.items():
            for place, rows in enumerate(runs.values()):
                steps, values = _thinned(np.array(rows, dtype=float))
                label = _short(shown(arm)) if place == 0 else None
                axes.plot(steps, values, color=colours[arm], linewidth=1.5, alpha=0.85, label=label)
                lows.append(values.min())
                highs.append(values.max())
        low, high = min(lows), max(highs)
        if 0 <= low < 0.5 * high:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("training step")
        axes.set_title(unit, loc="left", fontsize=11, color=SOFT)
        axes.set_xlim(left=0)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        if len(lines) > 1:
            figure.legend(labelcolor=INK, handlelength=1.2, loc="outside lower center", ncols=3)
        said = ", ".join(f"{arm} ({len(runs)} runs)" for arm, runs in lines.items())
        return _svg(
            figure,
            f"{unit} over training steps of {said}; it goes from {highs[0]:.3g} down to {low:.3g}",
            f"curve-{unit}",
        )


def _thinned(rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most ``POINTS`` points, each the mean of its neighbours."""
    parts = np.array_split(rows, min(POINTS, len(rows)))
    means = np.array([part.mean(axis=0) for part in parts])
    return means[:, 0], means[:, 1]


def _short(name: str, limit: int = 22) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


@contextmanager
def _figure(height_inches: float) -> Iterator[tuple[Figure, Any]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, height_inches), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield figure, axes


def _svg(figure: Figure, said: str, name: str) -> Markup:
    """The figure as an SVG element that takes the page's colours and font.

    Args:
        said: what it shows, for those who cannot see it.
        name: keeps the ids of several drawings on one page apart.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", text, count=1)
    text = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", text, count=1)
    text = re.sub(r"font: ?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    prefix = re.sub(r"\W+", "-", name)
    text = re.sub(r"(\bid=\"|url\(#|href=\"#)", rf"\g<1>{prefix}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(said)}" ', 1))
