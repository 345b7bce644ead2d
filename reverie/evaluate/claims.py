"""A paper's directional claims as data, and what measured numbers say of them.

A claim weighs arms: "a beats b" is a - b, "a gains more over b than c does over d" is (a - b) - (c - d). The weighted sum
is taken seed by seed, because the arms of one seed share what was drawn, and its 95 % interval decides: the claim holds
when the whole interval lies above the bound, fails when the whole of it lies below, and is inconclusive otherwise, or
when fewer than three seeds were run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reverie.evaluate import results
from reverie.evaluate.compare import Verdict, paired

Measured = Mapping[str, Mapping[int, float]]
"""Value by seed of every arm, for one metric. Arms are written run/step/name."""


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


def beats(better: str, worse: str) -> tuple[tuple[str, float], ...]:
    """The terms of better - worse."""
    return (better, 1.0), (worse, -1.0)


def gains_more(better: str, worse: str, than_better: str, than_worse: str) -> tuple[tuple[str, float], ...]:
    """The terms of (better - worse) - (than_better - than_worse)."""
    return (better, 1.0), (worse, -1.0), (than_better, -1.0), (than_worse, 1.0)


def judge(claim: Claim, measured: Measured) -> Judged:
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
    found = paired(sums, dict.fromkeys(sums, claim.above))
    mean = found.mean + claim.above
    low, high = (None if end is None else end + claim.above for end in (found.low, found.high))
    verdict, words = found.verdict, found.words
    if claim.above:
        words = words.replace("zero", f"{claim.above:g}")
    if claim.within is not None and low is not None and high is not None:
        inside, outside = max(-low, high) <= claim.within, low > claim.within or high < -claim.within
        words = (
            f"the interval lies {'inside' if inside else 'outside' if outside else 'partly outside'} ±{claim.within:g}"
        )
        few = verdict == "inconclusive" and len(seeds) < 3
        verdict = "inconclusive" if few or not (inside or outside) else "holds" if inside else "fails"
        words += f", paired over {len(seeds)} seeds"
    return Judged(claim, verdict, words, mean, low, high, sums)


def judge_all(claims: Sequence[Claim], folder: Path, runs: Sequence[str]) -> list[Judged]:
    """Hold claims against the results of a study's runs, and write them to ``folder/claims.json``.

    Raises: StoreError for results that are damaged.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    for run in runs:
        for record in results.read(folder / run / "results.jsonl"):
            arm = f"{run}/{record['step']}/{record['name']}"
            found.setdefault(record["metric"], {}).setdefault(arm, {})[record["seed"]] = record["value"]
    judged = [judge(claim, found.get(claim.metric, {})) for claim in claims]
    partial = folder / ".claims.json.partial"
    partial.write_text(json.dumps([asdict(item) for item in judged], indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(folder / "claims.json")
    return judged
