"""Whether a score rises with something: the rank correlation of both, one number a seed.

With three or four points a correlation has few values (of three: -1, -0.5, 0.5 and 1), so it takes several seeds to say anything.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from reverie.arms import Arm
from reverie.errors import InputError
from reverie.stage import Job, Role, StepContext
from reverie.store import results

METRIC = "spearman"
CLUSTERS = 50  # of captions; fewer where a set has not four times as many


@dataclass(frozen=True)
class Point:
    """Where on the axis, and the arm whose score stands there, or by how much it is above another arm's."""

    arm: str  # id
    above: str = ""  # id of the arm whose score is taken off; none when empty
    at: float = 0.0
    # in place of ``at``: exp(H) of the captions of the run's pairs with this filter, in SQL, over clusters of all such captions
    captions: str = ""


@dataclass(frozen=True)
class MeasureTrend(Job):
    """Scores of an earlier step -> rank correlation along the points, an arm of the name of the trend, in results.jsonl."""

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("seeds",)

    trend: Arm
    points: tuple[Point, ...]
    of: str = "measure"  # step whose scores they are
    metric: str = "slot_f1"
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if len(self.points) < 3:
            raise InputError(f"{len(self.points)} points show no trend; give 3 or more")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What is measured."""
        return (self.trend,)

    def run(self, context: StepContext) -> None:
        """Correlate for each seed anew. Raises InputError for an arm without a score of a seed."""
        scores = {
            (record.arm, record.seed): record.value
            for record in results.select(results.read(context.results), step=self.of, metric=self.metric)
        }
        places = self._places(context)
        found = []
        for seed in self.seeds:
            values = [
                self._score(scores, point.arm, seed) - self._score(scores, point.above, seed) for point in self.points
            ]
            arm = dataclasses.replace(self.trend, seed=seed)
            told = {"at": [round(place, 4) for place in places], "scores": [round(value, 6) for value in values]}
            record = results.about(context, self, arm, "trend", details=told | {"of": self.metric})
            found.append(record(metric=METRIC, value=spearman(places, values)))
        results.append(context.results, *found)

    def _score(self, scores: Mapping[tuple[str, int], float | None], arm: str, seed: int) -> float:
        if not arm:
            return 0.0
        value = scores.get((arm, seed))
        if value is None:
            raise InputError(f"{self.of} has no {self.metric} of {arm} with seed {seed}")
        return value

    def _places(self, context: StepContext) -> list[float]:
        if not all(point.captions for point in self.points):
            return [point.at for point in self.points]
        from reverie.evaluate.diversity import compare
        from reverie.store import tables

        sets = {
            point.arm: [
                text
                for part in tables.scan(context.pairs, ["text"], f"status = 'ok' and ({point.captions})")
                for text in part["text"].to_pylist()
            ]
            for point in self.points
        }
        clusters = min(CLUSTERS, max(2, min(map(len, sets.values())) // 4))
        known = {item.name: item.values["effective"].value for item in compare(sets, clusters=clusters, draws=2)}
        return [known[point.arm] for point in self.points]


def spearman(places: list[float], values: list[float]) -> float:
    """Rank correlation; 0 where all places or all values are equal, which is no trend."""
    from scipy import stats

    if len(set(places)) < 2 or len(set(values)) < 2:
        return 0.0
    found = float(stats.spearmanr(places, values).statistic)
    return 0.0 if math.isnan(found) else found
