"""The images that arms are fine-tuned on, real and painted, and batches of them."""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from reverie import seeds
from reverie.arms import Arm
from reverie.captions.classes import read_classes
from reverie.datasets.labelled import LabelledImages, load_photos
from reverie.errors import InputError
from reverie.learn.classifier_tuning import shuffled
from reverie.stage import StepContext

if TYPE_CHECKING:
    from reverie.evaluate.fine_tuning import FineTune


Rows = npt.NDArray[np.int64]


AHEAD = 3  # batches in the making while one is consumed


LACKING = 0.05  # share of the painted images of a class that a filter may have taken away, or one image


@dataclass(frozen=True)
class PhotoBatches:
    """Labelled images from several sources, so many of each in every batch; each batch a pure function of (seed, position).

    Every image of a source comes once in each pass over it; where a batch wants more than there are, they come again.
    """

    photos: LabelledImages
    sources: tuple[tuple[Rows, int], ...]  # rows of ``photos``, and how many of them in the joined batch of all ranks
    seed: int
    size_px: int
    rank: int = 0
    world: int = 1
    threads: int = 2

    def __post_init__(self) -> None:
        if not self.sources or any(not len(rows) for rows, _ in self.sources):
            raise InputError("there are no images to learn from")
        batch = sum(share for _, share in self.sources)
        if batch % self.world:
            raise InputError(f"{batch} images a batch cannot be shared equally by {self.world} processes")

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``: ``images`` uint8 (n, 3, size_px, size_px), ``label`` n names."""
        orders = [
            (rows, shuffled(len(rows), share, seeds.derive("source", number, self.seed), start))
            for number, (rows, share) in enumerate(self.sources)
        ]
        with ThreadPoolExecutor(self.threads, "decode") as decoders:
            waiting: deque[tuple[Rows, Any]] = deque()
            while True:
                while len(waiting) < AHEAD:
                    chosen = np.concatenate([rows[next(order)] for rows, order in orders])[self.rank :: self.world]
                    waiting.append((chosen, decoders.submit(self.photos.pixels, chosen, self.size_px)))
                chosen, pixels = waiting.popleft()
                names = [self.photos.classes[number] for number in self.photos.labels[chosen]]
                yield {"images": torch.from_numpy(np.ascontiguousarray(pixels.result())), "label": names}


def too_few(fewest: int, wanted: int) -> bool:
    """Whether a class has lost more images than a filter may take: one, or LACKING of them."""
    return wanted - fewest > max(1, LACKING * wanted)


def draw(labels: Rows, per_class: int | None, seed: int, or_all: bool = False) -> Rows:
    """Rows of ``per_class`` images of each class, in order; None = all. Those of a smaller number are among them.

    Raises: InputError for a class that has fewer, unless all of those will do.
    """
    if per_class is None:
        return np.arange(len(labels))
    taken = [np.empty(0, np.int64)]
    for number in np.unique(labels):
        rows = np.flatnonzero(labels == number)
        if len(rows) < per_class and not or_all:
            raise InputError(f"{per_class} images of each class are asked for, and one class has {len(rows)}")
        taken.append(np.random.default_rng(seeds.derive("draw", seed, int(number))).permutation(rows)[:per_class])
    return np.sort(np.concatenate(taken))


def amounts(arm: Arm) -> tuple[int | None, int | None]:
    """How many real and how many painted images of each class an arm learns from; None = all. Raises InputError for what is no number."""
    real, painted = arm.factors.get("real"), arm.factors.get("painted", 0)
    for number in (real, painted):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise InputError(f"arm {arm.id!r}: {number!r} is no number of images of each class")
    return real, painted  # type: ignore[return-value]


class ArmImages:
    """All images that the arms draw from, as one pool: train photos first, then painted ones; and the test photos."""

    def __init__(self, job: FineTune, context: StepContext) -> None:
        self._job, self._place = job, context
        names = read_classes(job.classes) if job.classes else None
        real = load_photos(job.photos, "train", names) if job._needs_train() else None
        classes = names or (real.classes if real else ())
        if len(classes) < 2:
            raise InputError(f"{job.photos} has photos of one class; a classifier needs two or more to tell apart")
        empty = LabelledImages([], np.empty(0, np.int64), classes)
        self.real = real or empty
        wanted = any(amounts(arm)[1] != 0 for arm in job.arms)
        self.painted = _painted(job, context, classes) if wanted else empty
        self.pool = LabelledImages(
            [*self.real.images, *self.painted.images],
            np.concatenate([self.real.labels, self.painted.labels]),
            classes,
            [photos.name(place) for photos in (self.real, self.painted) for place in range(len(photos))],
        )

    @functools.cached_property
    def test(self) -> LabelledImages:
        """Read when the first arm is trained."""
        photos = load_photos(self._job.photos, "test", self.pool.classes)
        if not len(photos):
            raise InputError(f"{self._job.photos} holds no test photos")
        return photos

    def rows(self, arm: Arm) -> tuple[Rows, Rows]:
        """Rows of the pool that an arm may use: real, and painted."""
        real, painted = np.empty(0, np.int64), np.empty(0, np.int64)
        num_real, wanted = amounts(arm)
        if num_real != 0:
            real = draw(self.real.labels, num_real, arm.seed)
        if wanted != 0:
            fewest = int(np.bincount(self.painted.labels, minlength=len(self.pool.classes)).min())
            if wanted is not None and too_few(fewest, wanted):
                raise InputError(
                    f"{arm.label}: a class has {fewest} painted images of {wanted}; paint more, or ask for fewer"
                )
            if wanted is not None and fewest < wanted:
                self._place.report(
                    "warning",
                    text=f"{arm.label}: a class has {fewest} painted images of {wanted}, and all of them are used",
                )
            painted = draw(self.painted.labels, wanted, arm.seed, or_all=True) + len(self.real)
        return real, painted


def _painted(job: FineTune, context: StepContext, classes: tuple[str, ...]) -> LabelledImages:
    """The painted images by name of their class, in order of their ids. Raises InputError for a strange or missing class."""
    from reverie.store import tables  # fine-tuning on photos alone needs no store

    path = (job.painted or context.folder) / "pairs.lance"
    rows = [row for part in tables.scan(path, ["pair_id", "image", "label"], job.where) for row in part.to_pylist()]
    rows = sorted((row for row in rows if row["image"] is not None), key=lambda row: str(row["pair_id"]))
    number = {name: place_in_list for place_in_list, name in enumerate(classes)}
    if strangers := sorted({str(row["label"]) for row in rows} - number.keys()):
        raise InputError(f"painted images have labels that are not among the classes: {', '.join(strangers[:5])}")
    if lacking := sorted(number.keys() - {row["label"] for row in rows}):
        raise InputError(f"no painted image that fits {job.where!r} shows {', '.join(lacking[:5])}")
    labels = np.array([number[row["label"]] for row in rows], dtype=np.int64)
    return LabelledImages([row["image"] for row in rows], labels, classes, [f"pair {row['pair_id']}" for row in rows])


def digest_of_images(photos: LabelledImages, parts: Sequence[Rows]) -> str:
    """16 hex digits of these images and their labels, so that numbers never pass for those of other images."""
    digest = hashlib.blake2b(digest_size=8)
    for rows in parts:
        digest.update(f"{len(rows)} ".encode())
        for row in rows:
            item = photos.images[row]
            digest.update(f"{photos.labels[row]} ".encode())
            digest.update(item if isinstance(item, bytes) else np.ascontiguousarray(item).tobytes())
    return digest.hexdigest()
