"""How fast a measurement goes: a little of it, timed before a run, and how often the whole run does the same.

The measuring stages give these pieces in ``Job.trial``; ``reverie plan`` multiplies (run/estimate.py).
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from reverie.arms import Arm
from reverie.datasets.labelled import LabelledImages, Split, load_photos, photo_labels, take_photos
from reverie.stage import EventSink

T = TypeVar("T")

FEW = 192  # photos of a trial
PASSES = 3  # that are timed
LONG = 0.5  # seconds that a pass had better not take


def kinds(arms: Iterable[Arm]) -> list[tuple[Arm, int]]:
    """The first arm of each id, and how many seeds it comes with: they differ in their numbers, and not in their time."""
    arms = list(arms)
    seeds = Counter(arm.id for arm in arms)
    first = {arm.id: arm for arm in reversed(arms)}
    return [(first[name], seeds[name]) for name in seeds]


def tell(
    report: EventSink, what: str, whole: float, took: Sequence[float], each: int = 1, sure: tuple[float, float] = (1, 1)
) -> None:
    """Say what some equal pieces took.

    Args:
        whole: things that the whole run has.
        took: seconds of each piece.
        each: things in a piece.
        sure: factors that the quickest and the slowest piece are widened by, where the whole may differ from what was tried.
    """
    own = [seconds / each for seconds in took]
    report(
        "speed", what=what, steps=each * len(own), done=each * len(own), whole=whole, seconds_each=statistics.median(own),
        low=sure[0] * min(own), high=sure[1] * max(own),
    )  # fmt: skip


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work gives, and the seconds it took."""
    began = time.monotonic()
    found = work()
    return found, time.monotonic() - began


def paced(
    report: EventSink, what: str, whole: float, work: Callable[[slice], T], count: int, batch: int = FEW
) -> list[T]:
    """Do work on slices of so many things, and tell what one takes.

    The first few set things up and do not count; the next few say how many are done at once then, up to a batch, so that neither a
    quick network is timed on a handful of photos nor a slow one on hundreds.
    Returns: what the timed slices gave.
    """
    few = min(4, -(-count // PASSES))
    work(slice(0, few))
    _, took = timed(lambda: work(slice(0, few)))
    size = max(few, min(batch, -(-count // PASSES), int(LONG * few / max(took, 1e-9))))
    parts = [slice(start, start + size) for start in range(0, count - size + 1, size)][:PASSES]
    found = [timed(lambda part=part: work(part)) for part in parts]  # type: ignore[misc]
    tell(report, what, whole, [seconds for _, seconds in found], size)
    return [each for each, _ in found]


def some_photos(source: str, split: Split, report: EventSink, splits: Sequence[Split]) -> LabelledImages:
    """A few photos of a split. Those of the small world have to be drawn, and what all of these splits take is told."""
    labels = photo_labels(source, split)
    few = min(FEW, len(labels))
    if not source.startswith("smallworld:"):
        pictures = take_photos(source, split, range(few))
        classes = tuple(sorted(set(labels)))
        import numpy as np

        numbers = np.array([classes.index(label) for label in labels[:few]], dtype=np.int64)
        return LabelledImages([pictures[place] for place in range(few)], numbers, classes)
    camera = source.split(":")[1]
    load_photos(f"smallworld:{camera}:2:2", split)
    photos, took = timed(lambda: load_photos(f"smallworld:{camera}:{few}:{few}", split))
    tell(report, "photos drawn", sum(len(photo_labels(source, each)) for each in splits), [took], few)
    return photos
