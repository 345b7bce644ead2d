"""A paper's directional claims as data, and what measured numbers say of them.

A claim weighs arms: "a beats b" is a - b, "a gains more over b than c does over d" is (a - b) - (c - d). The weighted sum
is taken seed by seed, because the arms of one seed share what was drawn, and photo by photo, because all are asked about the
same ones. Its 95 % interval decides: the claim holds when the whole interval lies above the bound, fails when the whole of
it lies below, and is inconclusive otherwise, or when fewer than three seeds were run.

The interval allows for both other seeds and other test photos: half of it is the root of the summed squares of the half
t-interval over seeds and the half normal interval over photos. Over seeds alone it would be the noise of the batches,
where arms share their images and differ in little else. Of a rank correlation along few points it is no narrower than what chance orders of
these reach (``significance.rank_luck``).

A study that adds seeds until its claims are decided looks more than once; ``looks.py`` says what each look is worth then, and
``power.py`` what a study could see at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from reverie.errors import StoreError
from reverie.evaluate.looks import Looks, levels
from reverie.evaluate.power import LEVEL, detectable, seeds_needed
from reverie.evaluate.significance import MIN_SEEDS, Verdict, is_packed, paired, rank_luck, unpack
from reverie.store import results
from reverie.store.files import atomic_file
from reverie.store.json_files import misfit, read_json

Measured = Mapping[str, Mapping[int, float]]
"""Value by seed of every arm, for one metric. Arms are written run/step/id."""

Answers = Mapping[str, Mapping[int, tuple[str, npt.NDArray[np.float64]]]]
"""By arm and seed: which photos those are, and how it did on each (photos,): 1 or 0 for right or wrong, or a score."""

Z = 1.959964  # of 95 %
RECORD = "claims.json"


@dataclass(frozen=True)
class Claim:
    """What a paper says, in arms of a study."""

    name: str  # as the paper's claims are numbered in docs/recipes, such as "1" or "11a"
    statement: str  # in words
    paper: str  # what the paper measured, and where; empty where it gives no number
    terms: tuple[tuple[str, float], ...]  # arms, written run/step/id, and their weights
    metric: str = "top1"
    above: float = 0.0  # the difference must be greater, in the unit of the metric
    within: float | None = None  # instead: the difference must be no farther from 0 than this
    control: bool = False  # of the study itself: where it does not hold, the other claims say little
    points: int = 0  # of a rank correlation: that it goes along, where they are few; 0 = it is none
    fixed: tuple[str, ...] = ()  # arms in which nothing is drawn by chance: one number serves for all seeds


@dataclass(frozen=True)
class ClaimResult:
    """A claim and what came out; a row of the table."""

    claim: Claim
    verdict: Verdict
    words: str  # why
    mean: float | None = None  # of the weighted sum over seeds; None where an arm was not measured
    low: float | None = None  # its 95 % interval; of several looks the last one's
    high: float | None = None
    by_seed: Mapping[int, float] | None = None
    over_photos: float | None = None  # half of the 95 % interval over other test photos; None where that is not known
    level: float = LEVEL  # two-sided, of the interval at the last look

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None below two."""
        return float(np.std(list(self.by_seed.values()), ddof=1)) if self.by_seed and len(self.by_seed) > 1 else None

    @property
    def distance(self) -> float | None:
        """How far the measured difference lies from the nearest bound."""
        if self.mean is None:
            return None
        bound = self.claim.within
        return abs(self.mean - self.claim.above) if bound is None else abs(abs(self.mean) - bound)

    def could_see(self, seeds: int | None = None) -> float | None:
        """The distance from the bound that so many seeds would decide in four studies of five, by the spread measured here.

        Args: seeds: as many as there are when left out.
        """
        if self.spread is None or self.by_seed is None or len(self.by_seed) < MIN_SEEDS:
            return None
        seeds = seeds or len(self.by_seed)
        found = detectable(self.spread, seeds, (self.over_photos or 0.0) / Z, self.level)
        return found if found is None else max(found, rank_luck(self.claim.points, seeds, self.level))

    def needs(self) -> int | None:
        """How many seeds would decide it in four studies of five, were the true difference the measured one; None for none."""
        if self.spread is None or self.distance is None:
            return None
        found = seeds_needed(self.distance, self.spread, (self.over_photos or 0.0) / Z, self.level)
        if found is None or not self.claim.points:
            return None if found is None else max(found, MIN_SEEDS)
        # Over chance orders the mean of rank correlations has this spread.
        by_chance = float(stats.norm.isf(self.level / 2)) / max(self.distance, 1e-3) / math.sqrt(self.claim.points - 1)
        return max(found, MIN_SEEDS, math.ceil(by_chance**2))


def beats(better: str, worse: str) -> tuple[tuple[str, float], ...]:
    """The terms of better - worse."""
    return (better, 1.0), (worse, -1.0)


def gains_more(better: str, worse: str, than_better: str, than_worse: str) -> tuple[tuple[str, float], ...]:
    """The terms of (better - worse) - (than_better - than_worse)."""
    return (better, 1.0), (worse, -1.0), (than_better, -1.0), (than_worse, 1.0)


def judge(claim: Claim, measured: Measured, answers: Answers | None = None, looks: Looks | None = None) -> ClaimResult:
    """Hold a claim against the values of its metric.

    An arm that is missing makes it inconclusive, and the words name the arm: a study may be stopped half way.

    Args:
        looks: at how many seeds the study was looked at, where that is paid for. The verdict is that of what the intervals of
            all looks share, so what was decided once stays decided.
    """
    if looks is None or looks.max_seeds is None:
        return _judge(claim, measured, answers or {}, LEVEL)
    each = [
        _judge(claim, _first(measured, seeds), _first(answers or {}, seeds), level)
        for seeds, level in zip(looks.seeds, levels(looks), strict=True)
    ]
    last, low, high, decided = each[-1], -math.inf, math.inf, 0
    for number, item in enumerate(each, 1):
        if item.low is None or item.high is None or item.by_seed is None or len(item.by_seed) < MIN_SEEDS:
            continue
        if item.low == item.high:  # all seeds have the same number, so nothing is known of chance
            continue
        low, high = max(low, item.low), min(high, item.high)
        if not decided and _verdict(claim, low, high)[0] != "inconclusive":
            decided = number
    if math.isinf(low) or len(last.by_seed or {}) < MIN_SEEDS:
        return last
    if low > high:
        return replace(last, verdict="inconclusive", words="the intervals of its looks have nothing in common")
    verdict, words = _verdict(claim, low, high)
    when = f"decided at look {decided} of {len(each)}" if decided else f"after {_times(len(each), 'look')}"
    words += f", {when}, with {looks.seeds[(decided or len(each)) - 1]} seeds" + _photos(last)
    if last.low is not None and last.high is not None and _verdict(claim, last.low, last.high)[0] != verdict:
        words += "; the interval of the last look alone would decide nothing"
    return replace(last, verdict=verdict, words=words)


def _judge(claim: Claim, measured: Measured, answers: Answers, level: float) -> ClaimResult:
    """What one look says, its interval at this level."""
    if missing := [arm for arm, _ in claim.terms if not measured.get(arm)]:
        return ClaimResult(claim, "inconclusive", f"not measured: {', '.join(missing)}", level=level)
    chance = [measured[arm].keys() for arm, _ in claim.terms if arm not in claim.fixed]
    seeds = sorted(set.intersection(*map(set, chance))) if chance else [0]
    if not seeds:
        return ClaimResult(claim, "inconclusive", "the arms share no seed", level=level)

    def value(arm: str, seed: int) -> float:
        return next(iter(measured[arm].values())) if arm in claim.fixed else measured[arm][seed]

    sums = {seed: sum(weight * value(arm, seed) for arm, weight in claim.terms) for seed in seeds}
    found = paired(sums, dict.fromkeys(sums, 0.0), 1 - level)
    photos = _over_photos(claim, answers, seeds)
    judged = ClaimResult(claim, "inconclusive", found.words, found.mean, None, None, sums, photos, level)
    if found.low is None or found.high is None:
        return judged
    z = Z if level == LEVEL else float(stats.norm.isf(level / 2))
    half = math.hypot((found.high - found.low) / 2, (photos or 0.0) * z / Z)
    if claim.points:
        half = max(half, rank_luck(claim.points, len(seeds), level))
    judged = replace(judged, low=found.mean - half, high=found.mean + half)
    if len(seeds) < MIN_SEEDS:
        return judged
    if not half:
        return replace(judged, words=f"all {len(seeds)} seeds have the same number, so nothing is known of chance")
    verdict, words = _verdict(claim, found.mean - half, found.mean + half)
    return replace(judged, verdict=verdict, words=f"{words}, over {len(seeds)} seeds{_photos(judged)}")


def _photos(judged: ClaimResult) -> str:
    return " and other photos" * (judged.over_photos is not None)


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _first(by_arm: Mapping[str, Mapping[int, Any]], seeds: int) -> dict[str, dict[int, Any]]:
    """What was there when there were so many seeds."""
    return {arm: {seed: item for seed, item in own.items() if seed < seeds} for arm, own in by_arm.items()}


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


def weigh(
    claims: Sequence[Claim],
    folder: Path,
    runs: Mapping[str, str],
    looks: Looks | None = None,
    once: Collection[str] = (),
) -> list[ClaimResult]:
    """Hold claims against the results of a study's runs.

    Args:
        runs: folder of a run -> the name by which claims know its arms; two may have one name, with a seed in one of them only.
        once: names of claims whose numbers do not change with the seeds, so that every look is the same one.
    Raises: StoreError for results that are damaged.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    answers: dict[str, dict[str, dict[int, tuple[str, npt.NDArray[np.float64]]]]] = {}
    for run, known_as in runs.items():
        for record in results.read(folder / run / "results.jsonl"):
            arm = f"{known_as}/{record.step}/{record.arm}"
            if record.value is not None:
                found.setdefault(record.metric, {}).setdefault(arm, {})[record.seed] = record.value
            if is_packed(record):
                own = answers.setdefault(record.metric, {}).setdefault(arm, {})
                own[record.seed] = str(record.photos), unpack(record)
    return [
        judge(
            claim,
            found.get(claim.metric, {}),
            answers.get(claim.metric),
            None if claim.name in once else looks,
        )
        for claim in claims
    ]


def judge_all(
    claims: Sequence[Claim],
    folder: Path,
    runs: Mapping[str, str],
    looks: Looks | None = None,
    once: Collection[str] = (),
) -> list[ClaimResult]:
    """As :func:`weigh`, and write what came out to ``folder/claims.json``, with how it was decided and at which looks."""
    judged, looks = weigh(claims, folder, runs, looks, once), looks or Looks()
    record = {
        "rule": "95 % interval at each look"
        if looks.max_seeds is None
        else "Pocock-type error spending over all looks",
        "max_seeds": looks.max_seeds,
        "looks": [{"seeds": seeds, "level": level} for seeds, level in zip(looks.seeds, levels(looks), strict=True)],
        "claims": [asdict(item) | {"could_see": item.could_see()} for item in judged],
    }
    with atomic_file(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    return judged


def read_looks(folder: Path) -> Looks:
    """The looks at a study so far, from its ``claims.json``. Raises StoreError for one that is damaged."""
    path = folder / RECORD
    if not path.exists():
        return Looks()
    hint = "the same command without it judges anew"
    record = read_json(path, object, StoreError, hint)
    if isinstance(record, list):  # written before looks were
        return Looks()
    if wrong := misfit(record, {"looks": [{"seeds": int}], "max_seeds": (int, None)}):
        raise StoreError(f"{path} is damaged ({wrong}); {hint}")
    return Looks(tuple(look["seeds"] for look in record["looks"]), record["max_seeds"])
