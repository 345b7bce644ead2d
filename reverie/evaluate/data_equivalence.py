"""How many real photos a number of painted images is worth, when a network is trained from scratch on either.

Source: arXiv:2210.07574, section 2.8 and table 4: 50,000 painted images do for CIFAR-100 about what 9,500 photos do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import ClassVar, NamedTuple

from reverie.errors import InputError
from reverie.stage import Job, Role, StepContext
from reverie.store import results


class Worth(NamedTuple):
    """A number of real photos, or only on which side of the curve it lies."""

    photos: float | None
    words: str


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
                        record.arm, record.label, record.seed, "worth_real_photos", worth.photos, record.split, "equivalence",
                        context.step, results.step_fingerprint(context, self), results.versions(), record.factors,
                        photos=record.photos, num_real=record.num_real, num_painted=record.num_painted,
                        num_classes=record.num_classes, details={"words": worth.words},
                    )
                )  # fmt: skip
                if worth.photos is None:
                    text = f"{record.label}, seed {record.seed}, is worth {worth.words}"
                    context.report("warning", text=text)
        results.append(context.results, *found)


def worth_of(accuracy: float, real: Mapping[int, float]) -> Worth:
    """The number of real photos that gives this accuracy, linear in its logarithm between the measured numbers.

    Args: ``real``: accuracy by number of photos, at least one. Where more photos measured worse, as happens by chance, the
        better of the smaller numbers stands.
    """
    best, curve = 0.0, []
    for photos, value in sorted(real.items()):
        best = max(best, value)
        curve.append((photos, best))
    if accuracy < curve[0][1]:
        return Worth(None, f"fewer than {curve[0][0]:,} real photos")
    if accuracy > best:
        return Worth(None, f"more than {curve[-1][0]:,} real photos")
    for (few, low), (many, high) in pairwise(curve):
        if low < accuracy <= high:
            share = (accuracy - low) / (high - low)
            between = exp(log(few) + share * (log(many) - log(few)))
            return Worth(between, f"{between:,.0f} real photos")
    return Worth(float(curve[0][0]), f"{curve[0][0]:,} real photos")
