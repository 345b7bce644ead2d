"""How much real data painted data is worth: how much of it alone gives the same score, found on a curve of measured numbers.

Of images: a network is trained from scratch on photos or on painted images. Source: arXiv:2210.07574, section 2.8 and table 4: 50,000
painted images do for CIFAR-100 about what 9,500 photos do. Of captioners, which learn from human and from painted pairs, it is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import ClassVar, Literal, NamedTuple

from reverie.arms import Arm, Factor
from reverie.errors import InputError
from reverie.stage import Job, Role, StepContext
from reverie.store import results

PAIRS_ALONE = "human pairs alone"
OF_PAIRS = "human-equivalence"  # protocol of worth in human pairs; pages show it beside the scores, not as one


class Worth(NamedTuple):
    """An amount of real data, or only on which side of the curve it lies."""

    number: float | None  # of photos, or of pairs
    words: str
    side: Literal["on", "below", "above"] = "on"


@dataclass(frozen=True)
class RealImageEquivalent(Job):
    """Numbers of a ``FineTune`` step -> ``worth_real_photos`` for each of its arms with painted images.

    The curve is made of the arms with real photos alone, of the same seed and beginning as the arm itself.
    """

    role: ClassVar[Role] = "measure"

    measured: str  # name of the FineTune step
    metric: str = "top1"

    def run(self, context: StepContext) -> None:
        """Write a number for each arm; where it is off the curve, no number, but a warning that says so.

        Raises: InputError if the step measured no arm on real photos alone.
        """
        records = results.select(results.read(context.results), step=self.measured, metric=self.metric)
        curves: dict[tuple[int, str | None], dict[int, float]] = {}
        for record in records:
            if not record.num_painted:
                assert record.num_train is not None
                assert record.value is not None
                curves.setdefault((record.seed, record.start), {})[record.num_train] = record.value
        found = []
        for record in records:
            if record.num_painted:
                curve = curves.get((record.seed, record.start), {})
                if len(curve) < 2:
                    raise InputError(
                        f"{self.measured} measured {record.arm!r} on fewer than two numbers of real photos, seed "
                        f"{record.seed}; a curve needs two"
                    )
                assert record.value is not None
                worth = worth_of(record.value, curve)
                found.append(
                    results.Result(
                        record.arm, record.label, record.seed, "worth_real_photos", worth.number, record.split, "equivalence",
                        context.step, results.step_fingerprint(context, self), results.versions(), record.factors,
                        photos=record.photos, num_real=record.num_real, num_painted=record.num_painted,
                        num_classes=record.num_classes, details={"words": worth.words},
                    )
                )  # fmt: skip
        _warn(context, found)
        results.append(context.results, *found)


@dataclass(frozen=True)
class HumanPairEquivalent(Job):
    """Scores of captioners -> ``worth_human_pairs``, for each arm with painted pairs beside a known number of human ones: how many human
    pairs alone give the same score, in pairs. So an arm that gains nothing from painting is worth the human pairs that it has.

    An arm says with its factors what it learned from: ``rho``, the share of painted pairs in a batch, and ``human_pairs``. The curve of a
    seed is made of its arms with ``rho`` 0 that have no other factor. Scores are taken as they are, so for worth at equal steps all arms
    must have made as many. Source: arXiv:2210.07574, section 2.8, for the idea, of photos and classifiers; of captioners it is ours.
    """

    role: ClassVar[Role] = "measure"

    measured: str = "measure"  # name of the step whose scores they are
    metric: str = "slot_f1"  # more is better

    def run(self, context: StepContext) -> None:
        """Write a number for each arm and seed; where it is off the curve, no number, but details and a warning that say on which side.

        Raises: InputError if there is no arm with painted pairs, or a seed has one and fewer than two numbers of human pairs alone.
        """
        records = results.select(results.read(context.results), step=self.measured, metric=self.metric)
        curves: dict[int, dict[int, float]] = {}
        for record in records:
            if not record.factors.get("rho") and learned_only_from_pairs(record.factors):
                assert record.value is not None
                curves.setdefault(record.seed, {})[_human(record)] = record.value
        found = []
        for record in records:
            if not record.factors.get("rho") or "human_pairs" not in record.factors:
                continue
            curve = dict(sorted(curves.get(record.seed, {}).items()))
            if len(curve) < 2:
                raise InputError(
                    f"{self.measured} measured fewer than two numbers of {PAIRS_ALONE} beside {record.arm!r}, seed {record.seed}; "
                    "a curve needs two"
                )
            assert record.value is not None
            worth = worth_of(record.value, curve, PAIRS_ALONE)
            told = {
                "words": worth.words, "side": worth.side, "of": self.metric, "measured": self.measured,
                "curve": [[number, round(score, 6)] for number, score in curve.items()],
            }  # fmt: skip
            told |= {"control": record.details["control"]} if "control" in record.details else {}
            arm = Arm(record.arm, record.label, record.seed, record.weights, record.factors)
            about = results.about(context, self, arm, OF_PAIRS, record.split, photos=record.photos, details=told)
            found.append(about(metric="worth_human_pairs", value=worth.number))
        if not found:
            raise InputError(
                f"{self.measured} has no {self.metric} of an arm with painted pairs and a known number of human ones"
            )
        _warn(context, found)
        results.append(context.results, *found)


def learned_only_from_pairs(factors: Mapping[str, Factor]) -> bool:
    """Whether an arm differs from others in its pairs alone: their number, and the share of painted ones."""
    return factors.keys() == {"rho", "human_pairs"}


def _human(record: results.Result) -> int:
    number = record.factors["human_pairs"]
    assert isinstance(number, int)
    return number


def _warn(context: StepContext, found: Iterable[results.Result]) -> None:
    """Tell what is off the curve, the seeds of an arm that are alike together."""
    off: dict[tuple[str, str], list[int]] = {}
    for record in found:
        if record.value is None:
            off.setdefault((record.label, record.details["words"]), []).append(record.seed)
    for (label, words), seeds in off.items():
        of = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        context.report("warning", text=f"{label}, {of}, is worth {words}")


def worth_of(score: float, real: Mapping[int, float], what: str = "real photos") -> Worth:
    """The amount of real data that gives this score, linear in its logarithm between the measured numbers.

    Args:
        real: score, of which more is better and none is below 0, by number of photos or pairs, at least one. Where more measured worse,
            as happens by chance, the better of the smaller numbers stands.
        what: what is counted, for the words.
    """
    best, curve = 0.0, []
    for number, value in sorted(real.items()):
        best = max(best, value)
        curve.append((number, best))
    if score < curve[0][1]:
        return Worth(None, f"fewer than {curve[0][0]:,} {what}", "below")
    if score > best:
        return Worth(None, f"more than {curve[-1][0]:,} {what}", "above")
    for (few, low), (many, high) in pairwise(curve):
        if low < score <= high:
            share = (score - low) / (high - low)
            between = exp(log(few) + share * (log(many) - log(few)))
            return Worth(between, f"{between:,.0f} {what}")
    return Worth(float(curve[0][0]), f"{curve[0][0]:,} {what}")
