"""Inline SVG drawings for the page, by matplotlib. Colours are the page's own CSS variables, so light and dark both fit."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reverie.arms import PIXELS, UNTRAINED, Factor
from reverie.evaluate.claims import ClaimResult
from reverie.report.facts import (
    ASPECT_WORDS,
    HUNDREDS,
    SCORES,
    ArmFacts,
    Measured,
    aspects,
    called,
    guessing,
    number,
    plain_metric,
)

# Matplotlib wants colours it knows; each of these stands for a variable of the page's style sheet.
INK, SOFT, LINE, PAPER = "#010203", "#010204", "#010205", "#010206"
GOOD, BAD = "#010207", "#010208"
ARMS = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper", GOOD: "good", BAD: "bad"} | {
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
HEAT = (0.16, 0.47, 0.68)  # of a picture, which cannot take a variable: as red, green, blue; reads on light and dark
NAMED_BARS, NAMED_CELLS = 24, 70  # classes whose names are written beside their bars, and beside a matrix
AMOUNTS = (
    "shots",
    "real",
    "painted",
)  # factors that are numbers of images of a class; the first that is not 0 is the one that grows
JOINER = "\u200d"  # between emoji that are drawn as one
POINTS = 300  # of a curve; more only makes the page heavier


def arm_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each trained arm, by id, in order of appearance; what is not trained stays grey."""
    trained = [name for name in names if name not in (UNTRAINED, PIXELS)]
    return {name: ARMS[place % len(ARMS)] for place, name in enumerate(trained)} | {
        name: SOFT for name in names if name not in trained
    }


def accuracy(found: Measured, colours: Mapping[str, str]) -> Markup:
    """A bar for the mean of each arm, a dot for each seed, and the 95 % interval of the mean from three seeds on.

    Where photos have shapes and colours there are three panels: the shape first and widest, then class and colour.
    """
    group = aspects(found)
    arms = [arm for arm in found.arms if group[0] in arm.values]
    with _figure(0.55 * len(arms) + 0.75 + 0.25 * (len(group) > 1)) as (figure, axes):
        panels = [axes]
        if len(group) > 1:
            figure.clear()
            panels = list(figure.subplots(1, len(group), width_ratios=(1.35, 1, 1)))
        for axes, metric in zip(panels, group, strict=True):
            _bars(axes, found, arms, metric, colours, wide=len(group) == 1)
            if axes is not panels[0]:
                axes.set_yticks([])
            if len(group) > 1:
                axes.set_title(
                    ASPECT_WORDS[metric], loc="left", fontsize=12, color=INK, pad=18
                )  # above the word "guessing"
        said = ". ".join(
            f"{called(metric, found)}: "
            + "; ".join(f"{arm.label} {number(metric, arm.mean(metric))}" for arm in arms if metric in arm.values)
            for metric in group
        )
        return _svg(figure, said, f"acc-{found.step}")


def _bars(
    axes: Any, found: Measured, arms: Sequence[ArmFacts], metric: str, colours: Mapping[str, str], wide: bool
) -> None:
    """Draw all arms by one metric. ``wide`` axes need less of their width for the number after a bar."""
    scale = 100 if plain_metric(metric) in HUNDREDS else 1
    ends = [
        _bar(axes, row, arm, metric, scale, colours[arm.id]) for row, arm in enumerate(arms) if metric in arm.values
    ]
    chance = guessing(found, metric) if metric in SCORES else None
    if chance:
        axes.axvline(100 * chance, color=SOFT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.text(100 * chance, -0.72, "guessing", color=SOFT, fontsize=10, ha="left", va="bottom")
    axes.set_yticks(range(len(arms)), [_short(arm.label) for arm in arms])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(arms) - 0.45, -0.75)
    first, last = min((low for low, _ in ends), default=0.0), max((high for _, high in ends), default=0.0)
    axes.set_xlim(1.05 * first, first + ((last - first) or 1.0) * (1.22 if wide else 1.6))  # all may be 0
    if first < 0:
        axes.axvline(0, color=SOFT, linewidth=1, zorder=1)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    if not wide:
        axes.locator_params(axis="x", nbins=4)
    if metric in SCORES:
        axes.xaxis.set_major_formatter("{x:g}%")


def _bar(axes: Any, row: int, arm: ArmFacts, metric: str, scale: float, colour: str) -> tuple[float, float]:
    """Draw one arm and return from where to where it reaches on the axis, 0 included."""
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
    reached = [0.0, mean, *values, *(interval or ())]
    end = max(reached) * scale
    axes.annotate(number(metric, mean), (end, row), xytext=(8, 0), textcoords="offset points", va="center", color=INK)
    return min(reached) * scale, end


def clouds(drawn: Sequence[tuple[str, Mapping[str, Sequence[Sequence[float]]]]]) -> Markup:
    """Clouds of points in two dimensions, side by side under their titles, on the same axes."""
    names = list(dict.fromkeys(name for _, each in drawn for name in each))
    with _figure(4.2) as (figure, _):
        figure.clear()
        panels = figure.subplots(1, len(drawn), sharex=True, sharey=True)
        for axes, (title, each) in zip(np.atleast_1d(panels), drawn, strict=True):
            for name, points in each.items():
                x, y = np.array(points).T
                colour = ARMS[names.index(name) % len(ARMS)]
                axes.scatter(x, y, s=9, color=colour, alpha=0.5, linewidth=0, label=name)
                axes.scatter(x.mean(), y.mean(), s=70, marker="X", color=colour, edgecolor=PAPER, linewidth=1, zorder=4)
            axes.set_title(title, fontsize=12, color=INK)
            axes.set_xticks([])
            axes.set_yticks([])
        handles = {
            label: handle
            for axes in np.atleast_1d(panels)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=4,
            markerscale=2,
            labelcolor=INK,
            fontsize=11,
        )
        said = "; ".join(f"{title}: {', '.join(each)}" for title, each in drawn)
        return _svg(figure, f"Features in two dimensions. {said}", "clouds")


def growth(measured: Sequence[Measured]) -> Markup | None:
    """Accuracy over the number of images of a class, a line for each kind of arm; None where arms do not differ by a number.

    Arms say their number in their factors (``AMOUNTS``). An arm without one is a level line.
    """
    lines: dict[str, dict[int, ArmFacts]] = {}
    levels: dict[str, ArmFacts] = {}
    for found in measured:
        for arm in found.arms:
            if found.protocol not in ("classifier", "fine-tuning") or "top1" not in arm.values:
                continue
            if at := _amount(arm.factors):
                lines.setdefault(at[0], {})[at[1]] = arm
            else:
                levels[arm.id] = arm
    lines = {name: line for name, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    with _figure(2.9 + 0.12 * (len(lines) + len(levels))) as (figure, axes):
        for place, (name, line) in enumerate(lines.items()):
            amounts, colour = sorted(line), ARMS[place % len(ARMS)]
            means = [100 * line[amount].mean("top1") for amount in amounts]
            style = ("-", "--")[place // len(ARMS) % 2]
            axes.plot(
                amounts, means, style, color=colour, linewidth=1.6, marker="o", markersize=5, label=_short(name, 40)
            )
            for amount in amounts:
                if span := line[amount].interval("top1"):
                    axes.plot([amount] * 2, [100 * end for end in span], color=colour, linewidth=1, alpha=0.7)
        for arm in levels.values():
            height = 100 * arm.mean("top1")
            axes.axhline(height, color=SOFT, linewidth=1.2, linestyle=(0, (2, 3)), label=_short(arm.label, 40))
        axes.set_xscale("log")
        ticks = sorted({amount for line in lines.values() for amount in line})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("images of each class")
        axes.set_title(SCORES["top1"], loc="left", fontsize=11, color=SOFT)
        axes.yaxis.set_major_formatter("{x:g}%")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        figure.legend(labelcolor=INK, handlelength=1.6, fontsize=10, loc="outside lower center", ncols=2)
        said_all = "; ".join(
            f"{name}: " + ", ".join(f"{line[n].mean('top1'):.1%} at {n:,}" for n in sorted(line))
            for name, line in lines.items()
        )
        return _svg(figure, f"{SCORES['top1']} over images of each class. {said_all}", "growth")


def over_shares(
    lines: Mapping[str, Sequence[tuple[float, float, tuple[float, float] | None]]],
    levels: Mapping[str, float],
    metric: str,
) -> Markup:
    """A score over the share of painted pairs in a batch.

    Args:
        lines: what to call a line -> share, mean and interval of each of its points, as they are shown.
        levels: level lines, such as that of human pairs alone.
        metric: what is drawn.
    """
    return _lines_over("share of painted pairs in a batch", lines, levels, metric, "shares", (-0.03, 1.03))


def over_guidance(
    lines: Mapping[str, Sequence[tuple[float, float, tuple[float, float] | None]]], metric: str
) -> Markup:
    """A score of painted pictures over the guidance that they were painted with; ``lines`` as in ``over_shares``."""
    return _lines_over("guidance", lines, {}, metric, f"guidance {metric}")


def over_human_pairs(
    lines: Mapping[str, Sequence[tuple[float, float, tuple[float, float] | None]]], metric: str
) -> Markup:
    """A score over the number of human pairs, on a logarithmic axis; ``lines`` as in ``over_shares``."""
    return _lines_over("human pairs", lines, {}, metric, f"human pairs {metric}", log=True)


def _lines_over(
    what: str,
    lines: Mapping[str, Sequence[tuple[float, float, tuple[float, float] | None]]],
    levels: Mapping[str, float],
    metric: str,
    name_of_drawing: str,
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> Markup:
    with _figure(2.9) as (figure, axes):
        for place, (name, points) in enumerate(lines.items()):
            colour = ARMS[place % len(ARMS)]
            places, means = [x for x, _, _ in points], [mean for _, mean, _ in points]
            axes.plot(places, means, color=colour, linewidth=1.6, marker="o", markersize=5, label=_short(name, 60))
            for x, _, span in points:
                if span:
                    axes.plot([x] * 2, span, color=colour, linewidth=1, alpha=0.7)
        for name, height in levels.items():
            axes.axhline(height, color=SOFT, linewidth=1.2, linestyle=(0, (2, 3)), label=_short(name, 60))
        axes.set_xlabel(what)
        axes.set_title(metric, loc="left", fontsize=11, color=SOFT)
        if limits:
            axes.set_xlim(*limits)
        if log:
            ticks = sorted({x for points in lines.values() for x, _, _ in points})
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        figure.legend(labelcolor=INK, handlelength=1.6, fontsize=10, loc="outside lower center", ncols=1)
        said = "; ".join(
            f"{name}: " + ", ".join(f"{mean:.1f} at {x:g}" for x, mean, _ in points) for name, points in lines.items()
        )
        return _svg(figure, f"{metric} over the {what}. {said}", name_of_drawing)


def _amount(factors: Mapping[str, Factor]) -> tuple[str, int] | None:
    """The line that an arm is a point of, in words, and where on it; None for an arm without a number of images."""
    name = next((name for name in AMOUNTS if factors.get(name)), None)
    if name is None or not isinstance(number_of := factors[name], int):
        return None
    rest = {key: value for key, value in factors.items() if key != name and value}
    words = [str(value) for value in rest.values() if isinstance(value, str)]
    words += [f"{key} {value:g}" for key, value in rest.items() if isinstance(value, float)]
    others = [f"{value} {key}" for key, value in rest.items() if key in AMOUNTS]
    return (", ".join(words) if name == "shots" else f"{' and '.join((name, *others))} a class"), number_of


def curves(
    lines: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    unit: str,
    colours: Mapping[str, str],
    labels: Mapping[str, str],
) -> Markup:
    """Training curves.

    Args:
        lines: id of an arm -> learning step -> (step, value) rows; lines of one arm share a colour.
        unit: what the vertical axis shows.
        labels: of the arms, by id.
    """
    with _figure(2.9) as (figure, axes):
        lows, highs = [], []
        for arm, runs in lines.items():
            for place, rows in enumerate(runs.values()):
                steps, values = _thinned(np.array(rows, dtype=float))
                label = _short(labels[arm]) if place == 0 else None
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
        said = ", ".join(f"{labels[arm]} ({len(runs)} runs)" for arm, runs in lines.items())
        return _svg(
            figure,
            f"{unit} over training steps of {said}; it goes from {highs[0]:.3g} down to {low:.3g}",
            f"curve-{unit}",
        )


def differences(judged: Sequence[ClaimResult]) -> Markup:
    """What claims came to, in points: a dot for each seed, the mean, its interval, and marks at what is claimed."""
    verdicts = {"holds": GOOD, "fails": BAD, "inconclusive": SOFT}
    with _figure(0.42 * len(judged) + 0.9) as (figure, axes):
        for row, item in enumerate(judged):
            colour, values = verdicts[item.verdict], [100 * value for value in (item.by_seed or {}).values()]
            bounds = [item.claim.above] if item.claim.within is None else [-item.claim.within, item.claim.within]
            axes.vlines([100 * bound for bound in bounds], row - 0.32, row + 0.32, color=INK, linewidth=1.2, zorder=1)
            axes.scatter(values, [row] * len(values), s=18, color=colour, alpha=0.45, linewidth=0, zorder=2)
            if item.low is not None and item.high is not None:
                axes.plot([100 * item.low, 100 * item.high], [row, row], color=colour, linewidth=2, zorder=3)
            axes.scatter(np.mean(values), row, s=52, color=colour, edgecolor=PAPER, linewidth=0.8, zorder=4)
        axes.axvline(0, color=LINE, linewidth=1, zorder=0)
        axes.set_yticks(range(len(judged)), [_short(item.claim.name) for item in judged])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(judged) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.set_xscale("symlog", linthresh=4)  # one large difference must not hide the small ones
        axes.margins(x=0.06)
        low, high = axes.get_xlim()
        steps = (2, 4, 10, 20, 50, 100) if max(-low, high) > 4 else (0.25, 0.5, 1, 2, 3)
        ticks = [tick for step in steps for tick in (-step, step) if low <= tick <= high] + [0.0] * int(
            low <= 0 <= high
        )
        axes.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
        axes.set_xlabel("difference, points")
        said = "; ".join(f"claim {item.claim.name} {item.verdict}" for item in judged)
        return _svg(figure, f"Differences with 95 % intervals: {said}", "claims")


def by_class(values: Sequence[tuple[str, float]], what: str, mark: float | None = None) -> Markup:
    """A bar a class, in the order given: with its name for a few classes, as a skyline for many.

    Args:
        values: name and share in [0, 1], or a difference of shares in [-1, 1].
        what: what the axis shows.
        mark: bars up to it are drawn as bad; below zero they are in any case.
    """
    names, shares = [name for name, _ in values], 100 * np.array([value for _, value in values])
    low = np.array([value < 0 if mark is None else value <= mark for _, value in values])
    few = len(values) <= NAMED_BARS

    def shares_of(value: float, _: object) -> str:
        return f"{value:g}%" if mark is not None else f"{value:+g}" if value else "0"

    with _figure(0.27 * len(values) + 0.7 if few else 2.4) as (figure, axes):
        colours = np.where(low, ARMS[1], ARMS[0])
        if few:
            axes.barh(range(len(values)), shares, height=0.62, color=colours, alpha=0.75)
            axes.scatter(shares, range(len(values)), s=9, color=colours)  # so that a share of 0 is seen
            axes.set_yticks(range(len(values)), [_short(name) for name in names])
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.set_ylim(len(values) - 0.4, -0.6)
            axes.xaxis.set_major_formatter(shares_of)
            axes.set_xlabel(what)
            axes.grid(axis="x")
        else:
            edges = np.arange(len(values) + 1)
            for chosen, colour in ((~low, ARMS[0]), (low, ARMS[1])):
                axes.stairs(np.where(chosen, shares, 0), edges, fill=True, color=colour, alpha=0.75)
            if mark is not None and low.any():  # of those at 0 nothing else would be seen
                axes.vlines(np.flatnonzero(low) + 0.5, 0, 1.5, color=ARMS[1], linewidth=400 / len(values))
            axes.set_xlim(0, len(values))
            axes.yaxis.set_major_formatter(shares_of)
            axes.set_xlabel(f"{len(values):,} classes in order")
            axes.set_title(what, loc="left", fontsize=11, color=SOFT)
            axes.grid(axis="y")
        if mark is not None:
            (axes.set_xlim if few else axes.set_ylim)(0, 100)
        axes.set_axisbelow(True)
        said = f"{what} of {len(values)} classes, from {shares.min():.0f} to {shares.max():.0f}"
        return _svg(figure, said, f"classes-{what}")


def heat_map(table: np.ndarray[Any, Any], names: Sequence[str]) -> Markup:
    """A confusion matrix: what each class (a row) was taken for, as shares of its photos."""
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    ink = np.zeros((*table.shape, 4), dtype=np.float32)
    ink[...] = (*HEAT, 0.0)
    ink[..., 3] = shares**0.7  # so that a few mistakes can be seen beside many right answers
    num, side = len(names), 6.2
    with _figure(side) as (figure, axes):
        axes.imshow(ink, interpolation="none", aspect="equal")
        for edge in ("top", "right"):
            axes.spines[edge].set_visible(True)
        size = min(10.0, 0.7 * 72 * (side - 1) / num)
        if num <= NAMED_CELLS:
            shown_names = [_short(name, 18) for name in names]
            axes.set_yticks(range(num), shown_names, fontsize=size)
            axes.set_xticks(range(num), shown_names, fontsize=size, rotation=90)
            axes.tick_params(length=0)
        axes.set_ylabel("is", fontsize=10)
        axes.set_xlabel("taken for", fontsize=10)
        said = f"confusion matrix of {num} classes; {np.trace(table) / max(table.sum(), 1):.1%} lies on the diagonal"
        return _svg(figure, said, "confusion")


def prompt_matrix(
    values: np.ndarray[Any, Any], rows: Sequence[str], columns: Sequence[str], metric: str, less: bool = False
) -> Markup:
    """A score of arms (rows) on kinds of prompts (columns), the darker the better within its column; a frame where both have one name.

    Args: less: whether less is better.
    """
    good = -values if less else values
    low, high = good.min(axis=0, keepdims=True), good.max(axis=0, keepdims=True)
    ink = np.zeros((*values.shape, 4), dtype=np.float32)
    ink[...] = (*HEAT, 0.0)
    ink[..., 3] = 0.08 + 0.6 * (good - low) / np.maximum(high - low, 1e-12)
    with _figure(0.9 + 0.5 * len(rows)) as (figure, axes):
        axes.imshow(ink, interpolation="none", aspect="auto")
        for row, arm in enumerate(rows):
            for column, asked in enumerate(columns):
                axes.text(
                    column,
                    row,
                    number(metric, float(values[row, column])),
                    ha="center",
                    va="center",
                    color=INK,
                    fontsize=11,
                )
                if arm == asked:
                    axes.add_patch(
                        Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor=INK, linewidth=1.4)
                    )
        axes.set_yticks(range(len(rows)), [_short(name, 24) for name in rows])
        axes.set_xticks(range(len(columns)), [_short(name, 18) for name in columns])
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_ylabel("learned from", fontsize=10)
        axes.set_xlabel("asked with", fontsize=10)
        for edge in ("left", "bottom"):
            axes.spines[edge].set_visible(False)
        said = ". ".join(
            f"{arm}: "
            + ", ".join(
                f"{number(metric, float(value))} on {asked}" for value, asked in zip(line, columns, strict=True)
            )
            for arm, line in zip(rows, values, strict=True)
        )
        return _svg(
            figure, f"{called(metric)} of what was learned from, on what was asked. {said}", f"prompts-{metric}"
        )


def over(
    what: str, lines: Mapping[str, Sequence[tuple[float, float, tuple[float, float] | None]]], metric: str
) -> Markup:
    """A score over anything; ``lines`` as in ``over_shares``."""
    return _lines_over(what, lines, {}, metric, f"{what} {metric}")


def _thinned(rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most ``POINTS`` points, each the mean of its neighbours."""
    parts = np.array_split(rows, min(POINTS, len(rows)))
    means = np.array([part.mean(axis=0) for part in parts])
    return means[:, 0], means[:, 1]


def _short(name: str, limit: int = 36) -> str:
    if len(name) <= limit:
        return name
    end = limit - 1
    while end > 1 and (_goes_on(name[end]) or name[end - 1] == JOINER):  # half an emoji is another one
        end -= 1
    return name[:end] + "…"


def _goes_on(char: str) -> bool:
    """Whether this is no sign of its own but part of the one before: a joiner, an accent, a variant or a skin colour."""
    return char == JOINER or unicodedata.category(char) in ("Mn", "Me") or "\U0001f3fb" <= char <= "\U0001f3ff"


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
    with warnings.catch_warnings():
        # Letters stay letters, which the page's own fonts draw; matplotlib's fonts only measure them here.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", text, count=1)
    text = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", text, count=1)
    text = re.sub(r"font: ?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    prefix = re.sub(r"\W+", "-", name)
    text = re.sub(r"(\bid=\"|url\(#|href=\"#)", rf"\g<1>{prefix}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(said)}" ', 1))
