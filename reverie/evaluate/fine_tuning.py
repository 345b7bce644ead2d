"""Fine-tuning as a measure of pre-trained weights: each arm trains a classifier on labelled images for a fixed number of steps, and is tested.

The same job trains from scratch, on painted images, real photos, or both: see also ``data_equivalence.py``. The images are loaded by
``fine_tuning_images.py``, and the files that an arm leaves are written by ``fine_tuning_files.py``.

Source: arXiv:2210.07574, sections 2.8 and 4 of the method (transfer by fine-tuning; scratch efficiency). Differs: the main
result is that of the last step; that of the step that was best on held-out training images comes second. Test photos never choose a step,
while the authors' code keeps the epoch that is best on them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from reverie import seeds, stage
from reverie.arms import UNTRAINED, Arm, Factor
from reverie.captions.classes import read_classes
from reverie.datasets.labelled import LabelledImages, attributes, check_labels, check_photos, passed_over
from reverie.errors import InputError
from reverie.evaluate.fine_tuning_files import MARK, ArmMark, BestWeights, put_weights, tidy
from reverie.evaluate.fine_tuning_images import ArmImages, PhotoBatches, amounts, digest_of_images
from reverie.evaluate.heads import split
from reverie.evaluate.metrics.classification import mean_per_class, top1
from reverie.learn import views
from reverie.learn.fit import Fit, fit
from reverie.learn.supervised import Augmentation, Supervised
from reverie.learn.train import square_px
from reverie.stage import Job, Role, StepContext, Trial
from reverie.store import results
from reverie.store.places import has_table

if TYPE_CHECKING:
    from reverie.evaluate.fine_tuning_images import Rows


@dataclass(frozen=True)
class FineTuneSpeed:
    """What changes time and memory only."""

    batch_size: int = 256  # photos through the network at once, when measuring
    threads: int = 2  # that decode images


@dataclass(frozen=True)
class FineTune(Job):
    """Weights of learning steps, or none -> ``top1`` (of the last step) and ``mean_per_class`` on test photos.

    Of photos whose classes are made of attributes (the small world's) also ``top1_shape`` and ``top1_colour``: how often
    the class that was named has the right shape, or colour. They are derived; nothing is trained for them.

    Where images can be held out also ``top1_at_best``, of the step that was best on them. The same number of steps for
    every arm, however many images it has. A finished arm is not run again.

    An arm begins from the weights of its step, or is untrained without one; its seed is that of the head, of which images are drawn, of
    their order and augmentation. Its factors may say

        start             folder or Hub id of a backbone to begin from, in place of a step
        real              train photos of each class; None = all (the default), 0 = none
        painted           painted images of each class; None = all, 0 = none (the default)
        frozen_batchnorm  whether the running statistics of the start are used, and stay
    """

    together: ClassVar[bool] = True  # by all processes of an ``accelerate launch``
    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("arms",)

    arms: tuple[Arm, ...]
    photos: str = "smallworld:street:640:640"  # train and test, see datasets/labelled.py
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
    min_area: float = 0.25  # of a crop, as a share of the image
    label_smoothing: float = 0.0
    held_out: float = 0.1  # share of each class of the training images (of the real ones, if there are any); 0 = none
    looks: int = 10  # how often the held-out part is looked at
    keep: bool = False  # the trained networks, in weights/STEP.ARM-SEED
    speed: FineTuneSpeed = field(default_factory=FineTuneSpeed)

    def __post_init__(self) -> None:
        names = [arm.key for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise InputError("fine-tuning needs at least one arm, and arms that differ in id or seed")
        for arm in self.arms:
            _check_arm(arm)
        if min(self.batch, self.looks) < 1 or not 0 <= self.real_share < 1 or not 0 <= self.held_out < 1:
            raise InputError("batch and looks must be at least 1; real_share and held_out lie in [0, 1)")

    def check(self) -> None:
        """Raises InputError for photos or painted images that are not there or too few; ModelError for a start that does not fit."""
        for name in ("train", "test") if self._needs_train() else ("test",):
            check_photos(self.photos, name)
        known = read_classes(self.classes) if self.classes else None
        check_labels(self.photos, "test", known)
        if self._needs_train():
            check_labels(self.photos, "train", known, max(amounts(arm)[0] or 0 for arm in self.arms))
        if self.painted and not has_table(self.painted / "pairs.lance"):
            raise InputError(f"{self.painted} holds no pairs.lance; give the folder of a run or an import")
        classes = read_classes(self.classes) if self.classes else ("any", "other")
        with torch.device("meta"):  # shapes only
            for start in {_start(arm) for arm in self.arms}:
                self._learner(classes, start).build()

    def run(self, context: StepContext) -> None:
        """Train and measure what arms are left.

        Raises: InputError for too few images or labels that are not among the classes; ModelError; what ``fit`` raises.
        """
        if self._needs_train() and (told := passed_over(self.photos, ["train"])):
            context.report("warning", text=told)
        images = ArmImages(self, context)
        for number, arm in enumerate(self.arms):
            self._arm(arm, images, context, number)
        if told := passed_over(self.photos, ["test"]):  # no look at the test split before the networks are final
            context.report("warning", text=told)
        context.report("progress", done=len(self.arms) * self.fit.steps, total=len(self.arms) * self.fit.steps)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """One arm, for so few steps, on real photos where an arm has some; what it begins from does not change its time."""
        if self.fit.minutes is not None:
            return None
        arm = next((arm for arm in self.arms if amounts(arm)[0] != 0), None)
        amount: dict[str, Factor] = {"real": amounts(arm)[0]} if arm else {"real": 0, "painted": None}
        short = dataclasses.replace(self.fit, steps=min(steps, self.fit.steps))
        job = dataclasses.replace(self, arms=(Arm(UNTRAINED, "a trial", factors=amount),), fit=short, looks=1)
        captions = 0 if arm or self.painted else 1
        return Trial(job, self.fit.steps, captions, alike=len(self.arms), alone=True)

    def _arm(self, arm: Arm, images: ArmImages, context: StepContext, number: int) -> None:
        """Train and measure one arm, or go on with it, or take the numbers it left."""
        began = time.monotonic()
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        sources = images.rows(arm)
        train, held_out = self._without_held_out(sources, images.pool.labels, arm.seed)
        start = context.weights(arm.step) if arm.step else _start(arm)
        frozen = bool(arm.factors.get("frozen_batchnorm"))
        learner = dataclasses.replace(self._learner(images.pool.classes, start), frozen_batchnorm=frozen)
        folder = context.checkpoints(part_of(context.step, arm))
        made_of = {
            "learner": stage.settings(learner),
            "job": stage.settings(dataclasses.replace(self, arms=(arm,))),
            "images": digest_of_images(images.pool, (*train, held_out)),
            "seed": context.seed,
        }
        if kinds := attributes(self.photos, images.pool.classes):
            made_of["attributes"] = list(kinds)
        mark = ArmMark(folder / MARK, stage.fingerprint(made_of))
        records = mark.records()
        if records is None:
            if rank == 0:
                mark.begin()
            batches = PhotoBatches(
                images.pool,
                tuple((rows, share) for rows, share in zip(train, self._shares(train), strict=True) if share),
                seed=seeds.derive("fine-tuning", context.seed, arm.seed),
                size_px=self.size_px or square_px(self.image_size),
                rank=rank,
                world=world,
                threads=self.speed.threads,
            )
            best = BestWeights(
                folder, max(1, self.fit.steps // self.looks), self.fit.steps, rank == 0 and len(held_out) > 0
            )
            truth = images.pool.labels[held_out]

            def watch(step: int, net: nn.Module) -> None:
                best.look(step, net, lambda: top1(self._predict(net, images.pool, held_out, context.device), truth))

            def report(kind: str, **facts: Any) -> None:
                if kind == "progress":
                    before, total = number * self.fit.steps, len(self.arms) * self.fit.steps
                    facts |= {"done": before + facts["done"], "total": total, "arm": arm.label}
                context.report(kind, **facts)

            seed = seeds.derive("fine-tune", context.seed, arm.seed)
            net, _ = fit(
                learner, batches, self.fit, folder, seed=seed, device=context.device, report=report, watch=watch
            )
            if rank == 0:
                if self.keep:
                    put_weights(context.weights(folder.name), net, learner)
                about = self._about(arm, context, sources, images.test)
                since, count = time.monotonic(), len(images.test)
                numbers = self._measured(net, images.test, best if len(held_out) else None, context.device)
                each = (time.monotonic() - since) / count
                context.report(
                    "speed", what="photos measured", steps=count, done=count, seconds_each=each, low=each, high=each
                )
                more = {
                    "steps": self.fit.steps,
                    "num_held_out": len(held_out),
                    "seconds": round(time.monotonic() - began, 3),
                }
                records = [about(**number | {"details": number.get("details", {}) | more}) for number in numbers]
                mark.end(records)
        if rank == 0 and records:
            results.append(context.results, *records)
            tidy(folder)

    def _about(
        self, arm: Arm, context: StepContext, sources: tuple[Rows, Rows], test: LabelledImages
    ) -> functools.partial[results.Result]:
        """What all records of an arm say alike."""
        real, painted = (len(rows) for rows in sources)
        start = _start(arm)
        return results.about(
            context, self, arm, "fine-tuning",
            # What was measured; nothing for the arm that is an untrained network before this.
            weights=None if arm.id == UNTRAINED else arm.step or part_of(context.step, arm),
            start=arm.step or (start.name if isinstance(start, Path) else start) or UNTRAINED,
            photos=self.photos, num_train=real + painted, num_real=real, num_painted=painted, num_test=len(test),
            num_classes=len(test.classes),
        )  # fmt: skip

    def _measured(
        self, net: nn.Module, test: LabelledImages, best: BestWeights | None, device: str
    ) -> list[dict[str, Any]]:
        """Numbers of the last step, as parts of records, and then of the best one, whose weights the net is left with."""
        predicted = self._predict(net, test, None, device)
        records: list[dict[str, Any]] = [
            # Which test photos were right, one bit each: two arms can then be compared photo by photo.
            {
                "metric": "top1",
                "value": top1(predicted, test.labels),
                "correct": np.packbits(predicted == test.labels).tobytes().hex(),
            },
            {"metric": "mean_per_class", "value": mean_per_class(predicted, test.labels)},
        ]
        for name, kind in attributes(self.photos, test.classes).items():
            right = kind.of_class[predicted] == kind.of_class[test.labels]
            records.append(
                {
                    "metric": f"top1_{name}",
                    "value": float(right.mean()),
                    "num_classes": len(kind.values),
                    "correct": np.packbits(right).tobytes().hex(),
                }
            )
        if best is not None:
            chosen = best.restore(net)
            if chosen["best_step"] != self.fit.steps:  # else these are the weights that were measured
                predicted = self._predict(net, test, None, device)
            records.append({"metric": "top1_at_best", "value": top1(predicted, test.labels), "details": chosen})
        return records

    def _learner(self, classes: tuple[str, ...], start: str | Path | None) -> Supervised:
        return Supervised(
            classes,
            self.backbone,
            self.image_size,
            self.augmentation,
            self.min_area,
            self.label_smoothing,
            start,
        )

    def _needs_train(self) -> bool:
        return self.classes is None or any(amounts(arm)[0] != 0 for arm in self.arms)

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
    def _predict(self, net: nn.Module, photos: LabelledImages, rows: Rows | None, device: str) -> Rows:
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


def part_of(step: str, arm: Arm) -> str:
    """What the files of an arm are called: its checkpoints, its curve, and the weights that are kept."""
    return f"{step}.{arm.key}"


def _start(arm: Arm) -> str | Path | None:
    start = arm.factors.get("start")
    return start if isinstance(start, Path) else str(start) if start is not None else None


def _check_arm(arm: Arm) -> None:
    """Raises InputError for factors that do not go together."""
    if arm.step is not None and arm.factors.get("start") is not None:
        raise InputError(f"arm {arm.id!r} begins from weights of this run, or from a model, not from both")
    if arm.factors.get("frozen_batchnorm") and arm.step is None and arm.factors.get("start") is None:
        raise InputError(f"arm {arm.id!r} begins untrained, and has no statistics of BatchNorm to freeze")
    real, painted = amounts(arm)
    if min(real or 0, painted or 0) < 0 or real == painted == 0:
        raise InputError(f"arm {arm.id!r} needs at least one real or painted image of each class")
