"""What a study of recaptioning found beyond the scores of its painters, for the page: evaluate/recaptioning.py says what is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from reverie.errors import InputError
from reverie.evaluate.recaptioning import NUMBERS, PROTOCOL
from reverie.evaluate.train_inference import LOWER_IS_BETTER, which_weights
from reverie.evaluate.trends import METRIC as TREND
from reverie.report import plots
from reverie.report.facts import HUNDREDS, Facts, called, number, plain_metric
from reverie.store.results import Result

WORDS = {  # number of captions -> what the page calls it
    "loss": "loss of human captions",
    "words": "words of a caption",
    "repetition": "captions that repeat themselves",
    "variety": "different words, of all words",
    "over_limit": "captions over the captioner's own limit",
}
SHARES = ("recall", "hallucinated", "repetition", "variety", "over_limit")  # numbers of captions that are shares
Point = tuple[float, float, tuple[float, float] | None]


def gather(facts: Facts) -> dict[str, Any] | None:
    """What recaption.html needs; None for a run that measured nothing of it."""
    records = [
        record for found in facts.aside if found.protocol == PROTOCOL for arm in found.arms for record in arm.records
    ]
    if not records:
        return None
    by_metric: dict[str, list[Result]] = {}
    for record in records:
        by_metric.setdefault(record.metric, []).append(record)
    return {
        "matrix": _matrix(by_metric.get("columns_best", ())),
        "advantages": _means(by_metric.get("matched_advantage", ())),
        "columns_best": _means(by_metric.get("columns_best", ())),
        "against_shift": _means(record for record in by_metric.get("spearman", ())),
        "steps": _steps(by_metric.get("log2_steps", ())),
        "ranks": _means(by_metric.get("mean_rank", ())),
        "information": _information(by_metric.get("information", ())),
        "weights": _weights(facts),
        "trends": _trends(facts),
        "tuning": _tuning(by_metric),
    }


def _matrix(records: Sequence[Result]) -> dict[str, Any] | None:
    """Mean over seeds of the scores, as a heat map, and the shifts."""
    if not records:
        return None
    told = records[0].details
    scores = np.mean([record.details["scores"] for record in records], axis=0)
    metric = str(told["of"])
    return {
        "drawing": plots.prompt_matrix(scores, told["arms"], told["prompts"], metric, plain_metric(metric) in LOWER_IS_BETTER),
        "metric": called(metric),
        "prompts": told["prompts"],
        "shift": told["shift"],
        "shifts": list(zip(told["arms"], told["shifts"], strict=True)),
        "seeds": len(records),
    }  # fmt: skip


def _means(records: Iterable[Result]) -> dict[str, tuple[float, int]]:
    """Label of an arm -> mean over its seeds, and their number."""
    values: dict[str, list[float]] = {}
    for record in records:
        values.setdefault(record.label, []).append(record.value or 0.0)
    return {label: (float(np.mean(own)), len(own)) for label, own in values.items()}


def _steps(records: Sequence[Result]) -> dict[str, Any] | None:
    """Scores over steps, and after how many each arm is as good as the least of all in the end."""
    if not records:
        return None
    metric = str(records[0].details["of"])
    sign = -1 if plain_metric(metric) in LOWER_IS_BETTER else 1
    lines = {
        label: _line([[(at, sign * score) for at, score in record.details["curve"]] for record in own], metric)
        for label, own in _by_label(records).items()
    }
    shares = {label: 2**mean for label, (mean, _) in _means(records).items()}
    return {"drawing": plots.over("optimiser steps", lines, called(metric)), "metric": called(metric), "shares": shares}


def _trends(facts: Facts) -> list[Any]:
    """Scores along captions that are changed more and more, a drawing each."""
    drawings = []
    for found in facts.measured:
        for arm in found.arms if found.protocol == "trend" else ():
            own = [record for record in arm.records if record.metric == TREND and "scores" in record.details]
            if own:
                metric = str(own[0].details["of"])
                seeds = [list(zip(record.details["at"], record.details["scores"], strict=True)) for record in own]
                what = arm.label.partition(" along ")[2] or arm.label
                drawings.append(plots.over(what, {called(metric): _line(seeds, metric)}, called(metric)))
    return drawings


def _line(seeds: Sequence[Sequence[tuple[float, float]]], metric: str) -> list[Point]:
    """Mean over seeds at each place, with its interval from three seeds on."""
    scale = 100 if plain_metric(metric) in HUNDREDS else 1
    points: list[Point] = []
    for place in range(len(seeds[0])):
        values = np.array([scale * line[place][1] for line in seeds])
        span = None
        if len(values) > 2:
            half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
            span = (float(values.mean()) - half, float(values.mean()) + half)
        points.append((float(seeds[0][place][0]), float(values.mean()), span))
    return points


def _information(records: Sequence[Result]) -> list[tuple[str, float, float, int]]:
    """Label, drop of the loss, share of the loss without a caption, seeds; what tells most first."""
    rows = [
        (label, float(np.mean([record.value for record in own])), float(np.mean([record.details["share"] for record in own])), len(own))
        for label, own in _by_label(records).items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row[1])


def _weights(facts: Facts) -> dict[str, Any] | None:
    """What it does which weights learn, in the first step that measured painters of which it was varied."""
    for found in facts.measured:
        if not any(arm.factors.get("parts") not in (None, "both") for arm in found.arms):
            continue
        records = [record for arm in found.arms for record in arm.records]
        metrics = list(dict.fromkeys(record.metric for record in records if record.factors.get("parts")))
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for metric in metrics:
            try:
                effects = which_weights(records, metric)
            except InputError:  # a distance that was not measured
                continue
            for effect in effects:
                for parts, mean in effect.means.items():
                    rows.setdefault((effect.captions, parts), {})[metric] = number(metric, mean)
        return {"metrics": {metric: called(metric) for metric in metrics}, "rows": rows}
    return None


def _tuning(by_metric: Mapping[str, Sequence[Result]]) -> dict[str, Any] | None:
    """Numbers of a captioner before and after it was tuned, as they are shown."""
    means = {name: _means(by_metric.get(name, ())) for name in NUMBERS}
    when = list(dict.fromkeys(label for own in means.values() for label in own))
    if not when:
        return None
    rows = {
        WORDS.get(name, called(name)): [as_text(name, own[label][0]) if label in own else "" for label in when]
        for name, own in means.items() if own
    }  # fmt: skip
    return {"when": when, "rows": rows, "seeds": max(seeds for own in means.values() for _, seeds in own.values())}


def as_text(name: str, value: float) -> str:
    """A number of captions as text."""
    return f"{value:.1%}" if name in SHARES else f"{value:.3g}"


def _by_label(records: Iterable[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for record in records:
        found.setdefault(record.label, []).append(record)
    return found
