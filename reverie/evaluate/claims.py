"""A paper's directional claims as data, and what measured numbers say of them.

A claim weighs arms: "a beats b" is a - b, "a gains more over b than c does over d" is (a - b) - (c - d). The weighted sum
is taken seed by seed, because the arms of one seed share what was drawn, and photo by photo, because all are asked about the
same ones. Its 95 % interval decides: the claim holds when the whole interval lies above the bound, fails when the whole of
it lies below, and is inconclusive otherwise, or when fewer than three seeds were run.

The interval allows for both other seeds and other test photos: half of it is the root of the summed squares of the half
t-interval over seeds and the half normal interval over photos. Over seeds alone it would be the noise of the batches,
where arms share their images and differ in little else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reverie.evaluate import results
from reverie.evaluate.compare import MIN_SEEDS, Verdict, is_packed, paired, unpack

Measured = Mapping[str, Mapping[int, float]]
"""Value by seed of every arm, for one metric. Arms are written run/step/name."""

Answers = Mapping[str, Mapping[int, tuple[str, npt.NDArray[np.float64]]]]
"""By arm and seed: which photos those are, and how it did on each (photos,): 1 or 0 for right or wrong, or a score."""

Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Claim:
    """What a paper says, in arms of a study."""

    name: str  # as the paper's claims are numbered in docs/recipes, such as "1" or "11a"
    says: str  # in words
    paper: str  # what the paper measured, and where; empty where it gives no number
    terms: tuple[tuple[str, float], ...]  # arms, written run/step/name, and their weights
    metric: str = "top1"
    above: float = 0.0  # the difference must be greater, in the unit of the metric
    within: float | None = None  # instead: the difference must be no farther from 0 than this
    control: bool = False  # of the study itself: where it does not hold, the other claims say little
    fixed: tuple[str, ...] = ()  # arms in which nothing is drawn by chance: one number serves for all seeds


@dataclass(frozen=True)
class Judged:
    """A claim and what came out; a row of the table."""

    claim: Claim
    verdict: Verdict
    words: str  # why
    mean: float | None = None  # of the weighted sum over seeds; None where an arm was not measured
    low: float | None = None  # its 95 % interval
    high: float | None = None
    by_seed: Mapping[int, float] | None = None
    over_photos: float | None = None  # half of the 95 % interval over other test photos; None where that is not known


def beats(better: str, worse: str) -> tuple[tuple[str, float], ...]:
    """The terms of better - worse."""
    return (better, 1.0), (worse, -1.0)


def gains_more(better: str, worse: str, than_better: str, than_worse: str) -> tuple[tuple[str, float], ...]:
    """The terms of (better - worse) - (than_better - than_worse)."""
    return (better, 1.0), (worse, -1.0), (than_better, -1.0), (than_worse, 1.0)


def judge(claim: Claim, measured: Measured, answers: Answers | None = None) -> Judged:
    """Hold a claim against the values of its metric.

    An arm that is missing makes it inconclusive, and the words name the arm: a study may be stopped half way.
    """
    if missing := [arm for arm, _ in claim.terms if not measured.get(arm)]:
        return Judged(claim, "inconclusive", f"not measured: {', '.join(missing)}")
    chance = [measured[arm].keys() for arm, _ in claim.terms if arm not in claim.fixed]
    seeds = sorted(set.intersection(*map(set, chance))) if chance else [0]
    if not seeds:
        return Judged(claim, "inconclusive", "the arms share no seed")

    def value(arm: str, seed: int) -> float:
        return next(iter(measured[arm].values())) if arm in claim.fixed else measured[arm][seed]

    sums = {seed: sum(weight * value(arm, seed) for arm, weight in claim.terms) for seed in seeds}
    found = paired(sums, dict.fromkeys(sums, 0.0))
    photos = _over_photos(claim, answers or {}, seeds)
    if found.low is None or found.high is None:
        return Judged(claim, "inconclusive", found.words, found.mean, None, None, sums, photos)
    half = math.hypot((found.high - found.low) / 2, photos or 0.0)
    low, high = found.mean - half, found.mean + half
    verdict, words = _verdict(claim, low, high)
    words += f", over {len(seeds)} seeds" + " and other photos" * (photos is not None)
    if len(seeds) < MIN_SEEDS:
        verdict, words = "inconclusive", found.words
    return Judged(claim, verdict, words, found.mean, low, high, sums, photos)


def _verdict(claim: Claim, low: float, high: float) -> tuple[Verdict, str]:
    if claim.within is not None:
        inside, outside = max(-low, high) <= claim.within, low > claim.within or high < -claim.within
        where = "inside" if inside else "outside" if outside else "partly outside"
        return (
            "holds" if inside else "fails" if outside else "inconclusive",
            f"the interval lies {where} ±{claim.within:g}",
        )
    bound = f"{claim.above:g}" if claim.above else "zero"
    if low > claim.above:
        return "holds", f"the interval lies above {bound}"
    if high < claim.above:
        return "fails", f"the interval lies below {bound}"
    return "inconclusive", f"the interval includes {bound}"


def _over_photos(claim: Claim, answers: Answers, seeds: Sequence[int]) -> float | None:
    """Half of the 95 % interval of the weighted sum over other test photos, seeds as they are.

    Each photo has a weighted sum of its own, which arms asked about the same photos share; other photos are independent.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for arm, weight in claim.terms:
        known = answers.get(arm, {})
        own = list(known.values()) if arm in claim.fixed else [known[seed] for seed in seeds if seed in known]
        if not own:
            return None
        source = f"{own[0][0]}, {len(own[0][1])}"
        right = np.mean([bits for _, bits in own], axis=0)
        sums[source] = sums.get(source, np.zeros(len(right))) + weight * right
    return Z * math.sqrt(sum(float(each.var(ddof=1)) / len(each) for each in sums.values() if len(each) > 1))


def judge_all(claims: Sequence[Claim], folder: Path, runs: Sequence[str]) -> list[Judged]:
    """Hold claims against the results of a study's runs, and write them to ``folder/claims.json``.

    Raises: StoreError for results that are damaged.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    answers: dict[str, dict[str, dict[int, tuple[str, npt.NDArray[np.float64]]]]] = {}
    for run in runs:
        for record in results.read(folder / run / "results.jsonl"):
            arm = f"{run}/{record['step']}/{record['name']}"
            found.setdefault(record["metric"], {}).setdefault(arm, {})[record["seed"]] = record["value"]
            if is_packed(record):
                own = answers.setdefault(record["metric"], {}).setdefault(arm, {})
                own[record["seed"]] = f"{record['photos']} {record.get('size_px', '')}", unpack(record)
    judged = [judge(claim, found.get(claim.metric, {}), answers.get(claim.metric)) for claim in claims]
    partial = folder / ".claims.json.partial"
    partial.write_text(json.dumps([asdict(item) for item in judged], indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(folder / "claims.json")
    return judged
