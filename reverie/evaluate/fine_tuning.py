"""What weights are worth as a start: each arm trains a classifier on labelled images for a fixed number of steps, and is tested.

The same job trains from scratch on painted images, real photos, or both: see also ``scratch.py``.

Source: arXiv:2210.07574, sections 2.8 and 4 of the method (transfer by fine-tuning; scratch efficiency). Differs: the number
that counts is that of the last step; what is best on a held-out part of the training images comes second; test photos are
never looked at to choose. The authors' code keeps the epoch that is best on the test photos.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_model
from torch import nn

from reverie import seeds, stage
from reverie.captions.classes import read_classes
from reverie.errors import InputError, ModelError, StoreError
from reverie.evaluate import results
from reverie.evaluate.heads import split
from reverie.evaluate.metrics.classification import mean_per_class, top1
from reverie.evaluate.photos import Photos, attributes, check_labels, check_photos, load_photos
from reverie.learn import views
from reverie.learn.classifier_tuning import shuffled
from reverie.learn.fit import Fit, fit
from reverie.learn.supervised import Augmentation, Supervised
from reverie.learn.train import square_px
from reverie.models.load import load_into, tensors_about
from reverie.stage import Place
from reverie.store.json_files import read_json

Rows = npt.NDArray[np.int64]
AHEAD = 3  # batches in the making while one is consumed
MARK = "arm.json"  # what an arm was made of, and its numbers once it is measured
LACKING = 0.05  # share of the painted images of a class that a filter may have taken away, or one image
BEST = "best.safetensors"


@dataclass(frozen=True)
class Arm:
    """One training under one seed: where it begins, and on how many images of each class."""

    name: str  # what the page calls it; arms of one name are its seeds
    seed: int = 0  # of the head, of which images are drawn, their order and augmentation
    weights: str | None = None  # learning step of this run whose backbone it begins from
    model: str | Path | None = None  # or a folder or Hub id; with neither the network is untrained
    real: int | None = None  # train photos of each class; None = all, 0 = none
    painted: int | None = 0  # painted images of each class; None = all
    frozen_batchnorm: bool = False  # running statistics of the start are used and stay

    def __post_init__(self) -> None:
        if self.weights is not None and self.model is not None:
            raise InputError(f"arm {self.name!r} begins from weights of this run, or from a model, not from both")
        if self.frozen_batchnorm and self.weights is None and self.model is None:
            raise InputError(f"arm {self.name!r} begins untrained, and has no statistics of BatchNorm to freeze")
        if min(self.real or 0, self.painted or 0) < 0 or self.real == self.painted == 0:
            raise InputError(f"arm {self.name!r} needs at least one real or painted image of each class")

    @property
    def folder(self) -> str:
        """What its files are called."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.name.lower()).strip('-')}-{self.seed}"


@dataclass(frozen=True)
class FineTuneSpeed:
    """What changes time and memory only."""

    batch_size: int = 256  # photos through the network at once, when measuring
    threads: int = 2  # that decode images


@dataclass(frozen=True)
class FineTune:
    """Weights of learning steps, or none -> ``accuracy`` (top-1 of the last step) and ``accuracy_per_class`` on test photos.

    Of photos whose classes are made of attributes (the small world's) also ``accuracy_shape`` and ``accuracy_colour``: how often
    the class that was named has the right shape, or colour. They are derived; nothing is trained for them.

    Where images can be held out also ``accuracy_at_best``, of the step that was best on them. The same number of steps for
    every arm, however many images it has. A finished arm is not run again.
    """

    together: ClassVar[bool] = True  # by all processes of an ``accelerate launch``
    grows: ClassVar[tuple[str, ...]] = ("arms",)

    arms: tuple[Arm, ...]
    photos: str = "smallworld:street:640:640"  # train and test, see evaluate/photos.py
    painted: Path | None = None  # store of painted images, with pairs.lance; the run's own when left out
    where: str = "status = 'ok'"  # which of them, as a Lance SQL filter
    classes: tuple[str, ...] | Path | None = None  # names, or a file of them; those of the train photos when left out
    backbone: str = "resnet-tiny"  # of all arms; weights must be of this architecture
    image_size: int = 32  # side of a view, pixels
    size_px: int = 0  # training images are read as squares of this side; 0 = what fits the views
    fit: Fit = field(default_factory=lambda: Fit(300, 1e-3, weight_decay=0.05, betas=(0.9, 0.999)))
    batch: int = 64
    real_share: float = 0.0  # of a batch, where an arm has real and painted images; 0 = as many as there are of them
    augmentation: Augmentation = "light"
    least_area: float = 0.25  # of a crop, as a share of the image
    label_smoothing: float = 0.0
    held_out: float = 0.1  # share of each class of the training images (of the real ones, if there are any); 0 = none
    looks: int = 10  # how often the held-out part is looked at
    keep: bool = False  # the trained networks, in weights/STEP.ARM-SEED
    speed: FineTuneSpeed = field(default_factory=FineTuneSpeed)

    def __post_init__(self) -> None:
        names = [arm.folder for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise InputError("fine-tuning needs at least one arm, and arms that differ in name or seed")
        if min(self.batch, self.looks) < 1 or not 0 <= self.real_share < 1 or not 0 <= self.held_out < 1:
            raise InputError("batch and looks must be at least 1; real_share and held_out lie in [0, 1)")

    def check(self) -> None:
        """Raises InputError for photos or painted images that are not there or too few; ModelError for a start that does not fit."""
        for name in ("train", "test") if self._needs_train() else ("test",):
            check_photos(self.photos, name)
        known = read_classes(self.classes) if self.classes else None
        check_labels(self.photos, "test", known)
        if self._needs_train():
            check_labels(self.photos, "train", known, max(arm.real or 0 for arm in self.arms))
        if self.painted and not (self.painted / "pairs.lance").exists():
            raise InputError(f"{self.painted} holds no pairs.lance; give the folder of a run or an import")
        classes = read_classes(self.classes) if self.classes else ("any", "other")
        with torch.device("meta"):  # shapes only
            for start in {arm.model for arm in self.arms}:
                self._learner(classes, start).build()

    def run(self, place: Place) -> None:
        """Train and measure what arms are left.

        Raises: InputError for too few images or labels that are not among the classes; ModelError; what ``fit`` raises.
        """
        images = _Images(self, place)
        for number, arm in enumerate(self.arms):
            self._arm(arm, images, place, number)
        place.report("progress", done=len(self.arms) * self.fit.steps, total=len(self.arms) * self.fit.steps)

    def _arm(self, arm: Arm, images: _Images, place: Place, number: int) -> None:
        """Train and measure one arm, or go on with it, or take the numbers it left."""
        began = time.monotonic()
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        sources = images.rows(arm)
        train, held_out = self._without_held_out(sources, images.pool.labels, arm.seed)
        start = place.weights(arm.weights) if arm.weights else arm.model
        learner = dataclasses.replace(self._learner(images.pool.classes, start), frozen_batchnorm=arm.frozen_batchnorm)
        folder = place.checkpoints(f"{place.step}.{arm.folder}")
        made_of = {
            "learner": stage.settings(learner),
            "job": stage.settings(dataclasses.replace(self, arms=(arm,))),
            "images": _digest(images.pool, (*train, held_out)),
            "seed": place.seed,
        }
        if kinds := attributes(self.photos, images.pool.classes):
            made_of["attributes"] = list(kinds)  # numbers of an arm that an older version measured lack them
        mark = _Mark(folder / MARK, stage.fingerprint(made_of))
        records = mark.records()
        if records is None:
            if rank == 0:
                mark.begin()
            batches = PhotoBatches(
                images.pool,
                tuple((rows, share) for rows, share in zip(train, self._shares(train), strict=True) if share),
                seed=seeds.derive("fine-tuning", place.seed, arm.seed),
                size_px=self.size_px or square_px(self.image_size),
                rank=rank,
                world=world,
                threads=self.speed.threads,
            )
            best = _Best(folder, max(1, self.fit.steps // self.looks), self.fit.steps, rank == 0 and len(held_out) > 0)
            truth = images.pool.labels[held_out]

            def watch(step: int, net: nn.Module) -> None:
                best.look(step, net, lambda: top1(self._predict(net, images.pool, held_out, place.device), truth))

            def report(kind: str, **facts: Any) -> None:
                if kind == "progress":
                    before, total = number * self.fit.steps, len(self.arms) * self.fit.steps
                    facts |= {"done": before + facts["done"], "total": total, "arm": arm.name}
                place.report(kind, **facts)

            seed = seeds.derive("fine-tune", place.seed, arm.seed)
            net, _ = fit(learner, batches, self.fit, folder, seed=seed, device=place.device, report=report, watch=watch)
            if rank == 0:
                if self.keep:
                    _put(place.weights(folder.name), net, learner)
                about = self._about(arm, place, sources, len(held_out), images.test)
                records = self._measured(net, images.test, best if len(held_out) else None, place.device)
                seconds = round(time.monotonic() - began, 3)
                records = [about | record | {"seconds": seconds} for record in records]
                mark.end(records)
        if rank == 0 and records:
            results.append(place.results, *records)
            _tidy(folder)

    def _about(
        self, arm: Arm, place: Place, sources: tuple[Rows, Rows], num_held_out: int, test: Photos
    ) -> dict[str, Any]:
        """What all records of an arm say alike."""
        real, painted = (len(rows) for rows in sources)
        model = arm.model.name if isinstance(arm.model, Path) else arm.model
        return {
            "name": arm.name,
            "split": "test",
            "seed": arm.seed,
            "step": place.step,
            # What was measured; nothing for the arm that the page calls the untrained network.
            "weights": None if arm.name == "untrained" else arm.weights or f"{place.step}.{arm.folder}",
            "begins": arm.weights or model or "untrained",
            "curve": f"{place.step}.{arm.folder}",
            "photos": self.photos,
            "num_train": real + painted,
            "num_real": real,
            "num_painted": painted,
            "num_held_out": num_held_out,
            "num_test": len(test),
            "num_classes": len(test.classes),
            "steps": self.fit.steps,
            "frozen_batchnorm": arm.frozen_batchnorm,
            "fingerprint": results.step_fingerprint(place, self),
            "versions": results.versions(),
        }

    def _measured(self, net: nn.Module, test: Photos, best: _Best | None, device: str) -> list[dict[str, Any]]:
        """Numbers of the last step, and then of the best one, whose weights the net is left with."""
        predicted = self._predict(net, test, None, device)
        records: list[dict[str, Any]] = [
            # Which test photos were right, one bit each: two arms can then be compared photo by photo.
            {
                "metric": "accuracy",
                "value": top1(predicted, test.labels),
                "correct": np.packbits(predicted == test.labels).tobytes().hex(),
            },
            {"metric": "accuracy_per_class", "value": mean_per_class(predicted, test.labels)},
        ]
        for name, kind in attributes(self.photos, test.classes).items():
            right = kind.of_class[predicted] == kind.of_class[test.labels]
            records.append(
                {
                    "metric": f"accuracy_{name}",
                    "value": float(right.mean()),
                    "num_classes": len(kind.values),
                    "correct": np.packbits(right).tobytes().hex(),
                }
            )
        if best is not None:
            chosen = best.restore(net)
            if chosen["best_step"] != self.fit.steps:  # else these are the weights that were measured
                predicted = self._predict(net, test, None, device)
            accuracy = top1(predicted, test.labels)
            records.append({"metric": "accuracy_at_best", "value": accuracy, **chosen})
        return records

    def _learner(self, classes: tuple[str, ...], start: str | Path | None) -> Supervised:
        return Supervised(
            classes,
            self.backbone,
            self.image_size,
            self.augmentation,
            self.least_area,
            self.label_smoothing,
            start,
        )

    def _needs_train(self) -> bool:
        return self.classes is None or any(arm.real != 0 for arm in self.arms)

    def _without_held_out(self, sources: tuple[Rows, Rows], labels: Rows, seed: int) -> tuple[tuple[Rows, Rows], Rows]:
        """Rows to train on, real and painted, and rows held out: of the real ones if there are any."""
        real, painted = sources
        source = real if len(real) else painted
        if not self.held_out or np.bincount(labels[source]).max() < 2:
            return sources, np.empty(0, np.int64)
        inside, outside = split(labels[source], self.held_out, seed)
        return ((source[inside], painted) if len(real) else (real, source[inside])), source[outside]

    def _shares(self, train: tuple[Rows, Rows]) -> tuple[int, int]:
        """Real and painted images in a batch."""
        real, painted = (len(rows) for rows in train)
        share = self.real_share if self.real_share and real and painted else real / (real + painted)
        num = round(share * self.batch)
        if real and painted:
            num = min(max(num, 1), self.batch - 1)
        return num, self.batch - num

    @torch.inference_mode()
    def _predict(self, net: nn.Module, photos: Photos, rows: Rows | None, device: str) -> Rows:
        """Class of each photo. The whole photo is seen: resized, and at large sizes its border cut away, as is usual."""
        rows = np.arange(len(photos)) if rows is None else rows
        was_training, found = net.training, []
        net.eval()
        for start in range(0, len(rows), self.speed.batch_size):
            some = photos.pixels(
                rows[start : start + self.speed.batch_size], self.image_size, square_px(self.image_size)
            )
            pixels = views.plain(torch.from_numpy(some).to(device), self.image_size)
            found.append(net(pixel_values=pixels).logits.argmax(1).cpu())
        net.train(was_training)
        return torch.cat(found).numpy()


@dataclass(frozen=True)
class PhotoBatches:
    """Labelled images from several sources, so many of each in every batch; each batch a pure function of (seed, position).

    Every image of a source comes once in each pass over it; where a batch wants more than there are, they come again.
    """

    photos: Photos
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


class _Images:
    """All images that the arms draw from, as one pool: train photos first, then painted ones; and the test photos."""

    def __init__(self, job: FineTune, place: Place) -> None:
        self._job, self._place = job, place
        names = read_classes(job.classes) if job.classes else None
        real = load_photos(job.photos, "train", names) if job._needs_train() else None
        classes = names or (real.classes if real else ())
        if len(classes) < 2:
            raise InputError(f"{job.photos} has photos of one class; a classifier needs two or more to tell apart")
        empty = Photos([], np.empty(0, np.int64), classes)
        self.real = real or empty
        wanted = any(arm.painted != 0 for arm in job.arms)
        self.painted = _painted(job, place, classes) if wanted else empty
        self.pool = Photos(
            [*self.real.images, *self.painted.images],
            np.concatenate([self.real.labels, self.painted.labels]),
            classes,
            [photos.name(place) for photos in (self.real, self.painted) for place in range(len(photos))],
        )

    @functools.cached_property
    def test(self) -> Photos:
        """Read when the first arm is trained."""
        photos = load_photos(self._job.photos, "test", self.pool.classes)
        if not len(photos):
            raise InputError(f"{self._job.photos} holds no test photos")
        return photos

    def rows(self, arm: Arm) -> tuple[Rows, Rows]:
        """Rows of the pool that an arm may use: real, and painted."""
        real, painted = np.empty(0, np.int64), np.empty(0, np.int64)
        if arm.real != 0:
            real = draw(self.real.labels, arm.real, arm.seed)
        if arm.painted != 0:
            fewest = int(np.bincount(self.painted.labels, minlength=len(self.pool.classes)).min())
            wanted = arm.painted
            if wanted is not None and too_few(fewest, wanted):
                raise InputError(
                    f"{arm.name}: a class has {fewest} painted images of {wanted}; paint more, or ask for fewer"
                )
            if wanted is not None and fewest < wanted:
                self._place.report(
                    "warning",
                    text=f"{arm.name}: a class has {fewest} painted images of {wanted}, and all of them are used",
                )
            painted = draw(self.painted.labels, wanted, arm.seed, or_all=True) + len(self.real)
        return real, painted


def _painted(job: FineTune, place: Place, classes: tuple[str, ...]) -> Photos:
    """The painted images by name of their class, in order of their ids. Raises InputError for a strange or missing class."""
    from reverie.store import tables  # fine-tuning on photos alone needs no store

    path = (job.painted or place.folder) / "pairs.lance"
    rows = [row for part in tables.scan(path, ["pair_id", "image", "label"], job.where) for row in part.to_pylist()]
    rows = sorted((row for row in rows if row["image"] is not None), key=lambda row: str(row["pair_id"]))
    number = {name: place_in_list for place_in_list, name in enumerate(classes)}
    if strangers := sorted({str(row["label"]) for row in rows} - number.keys()):
        raise InputError(f"painted images have labels that are not among the classes: {', '.join(strangers[:5])}")
    if lacking := sorted(number.keys() - {row["label"] for row in rows}):
        raise InputError(f"no painted image that fits {job.where!r} shows {', '.join(lacking[:5])}")
    labels = np.array([number[row["label"]] for row in rows], dtype=np.int64)
    return Photos([row["image"] for row in rows], labels, classes, [f"pair {row['pair_id']}" for row in rows])


class _Mark:
    """The file that says what an arm was made of, and its numbers once they are measured."""

    def __init__(self, file: Path, made_of: str) -> None:
        self.file, self.made_of = file, made_of

    def records(self) -> list[dict[str, Any]] | None:
        """The numbers of a finished arm that was made of the same."""
        found = self._read()
        records: list[dict[str, Any]] | None = found.get("records")
        return records if found.get("made_of") == self.made_of else None

    def begin(self) -> None:
        """Take away what another arm of this name left; what this one left is gone on with."""
        if self._read().get("made_of") != self.made_of:
            shutil.rmtree(self.file.parent, ignore_errors=True)
        self._write({"made_of": self.made_of})

    def end(self, records: list[dict[str, Any]]) -> None:
        """Keep the numbers."""
        self._write({"made_of": self.made_of, "records": records})

    def _read(self) -> dict[str, Any]:
        if not self.file.exists():
            return {}
        shape = {"made_of?": object, "records?": [results.RECORD]}
        return dict(read_json(self.file, shape, StoreError, "delete it, then run the same command again"))

    def _write(self, facts: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(facts), encoding="utf-8")
        partial.replace(self.file)


class _Best:
    """Keeps the weights that were best on the held-out images, in a file, so that a kill loses nothing."""

    def __init__(self, folder: Path, every: int, steps: int, writes: bool) -> None:
        self.file, self.every, self.steps, self.writes = folder / BEST, every, steps, writes

    def look(self, step: int, net: nn.Module, measure: Callable[[], float]) -> None:
        """Measure at every so many steps and at the last, and keep the weights if they are better than all before."""
        if not self.writes or (step % self.every and step != self.steps):
            return
        accuracy, known = measure(), self._known()
        if known is None or accuracy > known[1]:
            partial = self.file.with_suffix(".partial")
            save_model(net, str(partial), {"step": str(step), "accuracy": repr(accuracy)})
            partial.replace(self.file)

    def restore(self, net: nn.Module) -> dict[str, float]:
        """Fill the net with the best weights. Returns the step they are of, and how often they were right."""
        load_into(net, self.file)
        known = self._known()
        assert known is not None
        return {"best_step": known[0], "held_out_accuracy": known[1]}

    def _known(self) -> tuple[int, float] | None:
        if not self.file.exists():
            return None
        about = tensors_about(self.file)
        try:
            return int(about["step"]), float(about["accuracy"])
        except (KeyError, ValueError) as error:
            raise ModelError(f"{self.file} is damaged; delete it, then run the same command again") from error


def _digest(photos: Photos, parts: Sequence[Rows]) -> str:
    """16 hex digits of these images and their labels, so that numbers never pass for those of other images."""
    digest = hashlib.blake2b(digest_size=8)
    for rows in parts:
        digest.update(f"{len(rows)} ".encode())
        for row in rows:
            item = photos.images[row]
            digest.update(f"{photos.labels[row]} ".encode())
            digest.update(item if isinstance(item, bytes) else np.ascontiguousarray(item).tobytes())
    return digest.hexdigest()


def _put(weights: Path, net: nn.Module, learner: Supervised) -> None:
    temporary = weights.with_name(weights.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    learner.save(net, temporary)
    shutil.rmtree(weights, ignore_errors=True)
    temporary.rename(weights)


def _tidy(folder: Path) -> None:
    """Take away what a finished arm needs no more."""
    shutil.rmtree(folder / "latest", ignore_errors=True)
    (folder / BEST).unlink(missing_ok=True)
