"""Few-shot episodes on frozen features: new classes from a few photos each, by the nearest prototype.

An episode draws classes, photos of each from the train split to learn from, and photos of each from the test split to ask
about; a source without a test split is cut in halves, always the same. The mean of the photos to learn from is
subtracted from all features, which are then scaled to unit length. The prototype of a class is the mean of its photos, and a photo is given
the class whose prototype is nearest in Euclidean distance.

Source: arXiv:2306.00984 (5 classes, 5 photos); the episodes are those of El Banani et al., arXiv:2302.12248, whose public code
draws 5,000 with 6 questions a class. StableRep does not confirm that its episodes are the same.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from reverie import seeds
from reverie.arms import Arm
from reverie.errors import InputError
from reverie.evaluate.linear_probe import ProbeSpeed, check_arms, describe_arm
from reverie.stage import Job, Role, StepContext, Trial
from reverie.store import results

if TYPE_CHECKING:
    from reverie.datasets.labelled import LabelledImages
    from reverie.evaluate.features import FeatureExtractor

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

EPISODES = 150  # of a trial


@dataclass(frozen=True)
class FewShotEpisodes(Job):
    """Weights of several learning steps -> ``top1``: mean accuracy over the same episodes for every arm.

    A record also holds the standard deviation over episodes and half of the 95 % interval of the mean. ``untrained`` and
    ``pixels`` are as in ``linear_probe.py``.
    """

    role: ClassVar[Role] = "measure"

    arms: tuple[Arm, ...]
    photos: str = "smallworld:street:4000:1000"  # see datasets/labelled.py
    size_px: int = 64  # photos are cut to squares of this side
    resize_px: int = 0  # their shorter side before the cut; 0 = size_px
    pixels_px: int = 16  # side of the photos of arm ``pixels``
    ways: int = 5  # classes in an episode
    shots: int = 5  # train photos of each
    queries: int = 6  # test photos of each
    episodes: int = 5000
    seed: int = 0  # of the episodes
    speed: ProbeSpeed = field(default_factory=ProbeSpeed)

    def __post_init__(self) -> None:
        check_arms(self.arms)
        if self.ways < 2 or min(self.shots, self.queries, self.episodes) < 1:
            raise InputError("an episode needs 2 classes or more, and shots, queries and episodes must be at least 1")

    def check(self) -> None:
        """Raises InputError if photos are not there, or broken."""
        from reverie.datasets.labelled import check_photos, has_photos

        check_photos(self.photos, "train")
        if has_photos(self.photos, "test"):
            check_photos(self.photos, "test")

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """A few photos and a few episodes."""
        return Trial(_Tried(**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)}))

    def run(self, context: StepContext) -> None:
        """Measure every arm and write its numbers; run again, it replaces them.

        Raises: InputError for photos that cannot be used or are too few; ModelError for weights that cannot.
        """
        from reverie.datasets.labelled import has_photos, passed_over
        from reverie.evaluate import features

        if told := passed_over(self.photos, ["train", "test"] if has_photos(self.photos, "test") else ["train"]):
            context.report("warning", text=told)
        train, test, split = _splits(self.photos)
        for done, arm in enumerate(self.arms):
            context.report("progress", done=done, total=len(self.arms), arm=arm.label, seed=arm.seed)
            began = time.monotonic()
            describe = describe_arm(arm, self.arms, context, self.pixels_px)
            support, questions = (
                features.extract(describe, photos, self.size_px, self.speed.batch_size, self.resize_px).numpy()
                for photos in (train, test)
            )
            right = accuracies(
                support,
                train.labels,
                questions,
                test.labels,
                ways=self.ways,
                shots=self.shots,
                queries=self.queries,
                episodes=self.episodes,
                seed=self.seed,
            )
            mean, half = interval(right)
            record = results.about(
                context, self, arm, "episodes", split, photos=self.photos, num_test=len(test), num_classes=self.ways,
            )  # fmt: skip
            details = {
                "interval": half,
                "deviation": float(right.std(ddof=1)) if len(right) > 1 else None,
                "ways": self.ways,
                "shots": self.shots,
                "queries": self.queries,
                "episodes": self.episodes,
                "num_features": support.shape[1],
                "seconds": round(time.monotonic() - began, 3),
            }
            results.append(context.results, record(metric="top1", value=mean, details=details))
        context.report("progress", done=len(self.arms), total=len(self.arms))


@dataclass(frozen=True)
class _Tried(FewShotEpisodes):
    """A trial: a few photos through each kind of network, and a few episodes on features that all are the same."""

    def run(self, context: StepContext) -> None:
        from reverie.datasets.labelled import Split, has_photos, photo_labels
        from reverie.evaluate.pace import kinds, paced, some_photos

        splits: tuple[Split, ...] = ("train", "test") if has_photos(self.photos, "test") else ("train",)
        photos = some_photos(self.photos, "train", context.report, splits)
        labels = [np.array(photo_labels(self.photos, split)) for split in splits]
        numbers = [np.unique(np.concatenate(labels), return_inverse=True)[1][: len(labels[0])].astype(np.int64)]
        if len(labels) > 1:
            numbers.append(np.unique(np.concatenate(labels), return_inverse=True)[1][len(labels[0]) :].astype(np.int64))
        else:
            first = _first_half(numbers[0])
            numbers = [numbers[0][first], numbers[0][~first]]
        num, batch = sum(map(len, labels)), self.speed.batch_size
        width: dict[int, int] = {}
        for arm, times in kinds(self.arms):
            describe = describe_arm(arm, self.arms, context, self.pixels_px)

            def rows_of(part: slice, describe: FeatureExtractor = describe) -> Floats:
                return describe(photos.pixels(part, self.size_px, self.resize_px)).float().cpu().numpy()

            rows = paced(context.report, "photos", times * num, rows_of, len(photos), batch)[0]
            width[rows.shape[1]] = width.get(rows.shape[1], 0) + times
        how = {"ways": self.ways, "shots": self.shots, "queries": self.queries, "seed": self.seed}
        for size, times in width.items():
            row = np.ones(size, dtype=np.float32)
            few, asked = (np.broadcast_to(row, (len(own), size)) for own in numbers)

            def some(part: slice, few: Floats = few, asked: Floats = asked) -> None:
                accuracies(few, numbers[0], asked, numbers[1], episodes=part.stop - part.start, **how)

            paced(context.report, "episodes", times * self.episodes, some, min(self.episodes, EPISODES))


def _splits(source: str) -> tuple[LabelledImages, LabelledImages, str]:
    """Photos to learn from, photos to ask about, and what the latter are: of a source without test, half of each class."""
    from reverie.datasets.labelled import find_photos, load_photos

    train = load_photos(source, "train")
    try:
        find_photos(source, "test")
    except InputError:
        first = _first_half(train.labels)
        return train.only(first), train.only(~first), "half of train"
    return train, load_photos(source, "test", train.classes), "test"


def _first_half(labels: Ints) -> npt.NDArray[np.bool_]:
    """Which photos are the half of each class that is learned from."""
    order = np.random.default_rng(seeds.derive("half of each class")).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)  # of each photo among those of its class, in this order
    for number in np.unique(labels):
        own = order[labels[order] == number]
        rank[own] = np.arange(len(own))
    first: npt.NDArray[np.bool_] = rank % 2 == 0
    return first


def accuracies(
    support: Floats,
    support_labels: Ints,
    questions: Floats,
    question_labels: Ints,
    *,
    ways: int,
    shots: int,
    queries: int,
    episodes: int,
    seed: int,
) -> npt.NDArray[np.float64]:
    """Share of right answers in each episode, (episodes,).

    Args:
        support, support_labels: features (n, d) and classes (n,) that are learned from.
        questions, question_labels: features (m, d) and classes (m,) that are asked about.
        seed: of the episodes; episode e is drawn from (seed, e) alone.
    Raises: InputError if fewer than ``ways`` classes have ``shots`` rows to learn from and ``queries`` to ask about.
    """
    rows = {
        int(number): (np.flatnonzero(support_labels == number), np.flatnonzero(question_labels == number))
        for number in np.unique(support_labels)
    }
    usable = [number for number, (few, asked) in rows.items() if len(few) >= shots and len(asked) >= queries]
    if len(usable) < ways:
        raise InputError(
            f"{len(usable)} classes have {shots} train and {queries} test photos, but an episode wants {ways}; "
            "give more photos, or smaller episodes"
        )
    found = np.empty(episodes)
    truth = np.repeat(np.arange(ways), queries)
    for episode in range(episodes):
        draw = np.random.default_rng(seeds.derive("episode", seed, episode))
        chosen = draw.permutation(usable)[:ways]
        few = support[np.concatenate([draw.permutation(rows[number][0])[:shots] for number in chosen])]
        asked = questions[np.concatenate([draw.permutation(rows[number][1])[:queries] for number in chosen])]
        found[episode] = np.mean(nearest(few, asked, ways) == truth)
    return found


def nearest(few: Floats, asked: Floats, ways: int) -> Ints:
    """The nearest prototype, int64 (q,), of each row of ``asked`` (q, d); ``few`` (ways * shots, d) is sorted by class."""
    centre = few.mean(axis=0)
    few, asked = _unit(few - centre), _unit(asked - centre)
    prototypes = few.reshape(ways, -1, few.shape[1]).mean(axis=1)
    # |a - p|^2 without |a|^2, which is the same for all prototypes.
    distances = (prototypes**2).sum(axis=1) - 2 * asked @ prototypes.T
    answers: Ints = distances.argmin(axis=1)
    return answers


def interval(values: npt.NDArray[np.float64], z: float = 1.96) -> tuple[float, float]:
    """Mean, and half of the 95 % interval of the mean over many episodes (0 for one, of which nothing is known)."""
    half = z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), half


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
