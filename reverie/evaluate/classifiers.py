"""Accuracy of tuned classifiers: the job that asks several of them about the same photos.

Imports torch only when it runs, so that a recipe can name it at no cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from reverie.arms import Arm
from reverie.captions.classes import read_classes
from reverie.errors import InputError
from reverie.evaluate.linear_probe import ProbeSpeed
from reverie.stage import Job, Role, StepContext, Trial
from reverie.store import results


@dataclass(frozen=True)
class MeasureClassifiers(Job):
    """Classifier folders -> ``top1`` and ``mean_per_class``; a split is read once.

    The weights are those of the last step, never the best of many on these photos. Classes are joined by name.
    """

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("arms",)

    arms: tuple[Arm, ...]
    classes: tuple[str, ...] | Path
    photos: str = "smallworld:street:4000:1000"  # see datasets/labelled.py
    split: Literal["train", "test"] = "test"  # train photos are for choosing settings
    speed: ProbeSpeed = field(default_factory=ProbeSpeed)

    def __post_init__(self) -> None:
        if nameless := next((arm.id for arm in self.arms if arm.step is None), None):
            raise InputError(f"arm {nameless!r} names no step that makes its classifier")

    def check(self) -> None:
        """Raises InputError if the photos are not there, broken or of other classes, or no class list is."""
        from reverie.datasets.labelled import check_labels, check_photos

        check_labels(self.photos, self.split, read_classes(self.classes))
        check_photos(self.photos, self.split)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """A few photos through each encoder."""
        return Trial(_Tried(**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)}))

    def run(self, context: StepContext) -> None:
        """Measure every arm and write its numbers; run again, it replaces them.

        Raises: InputError for photos of classes that are not in the list; ModelError for a classifier that is damaged.
        """
        import numpy as np
        import torch

        from reverie.datasets.labelled import load_photos, passed_over
        from reverie.evaluate.metrics.classification import confusion, mean_per_class, top1
        from reverie.models.classifier import load_classifier
        from reverie.models.feature_cache import Picture, cached_rows

        classes = read_classes(self.classes)
        photos = load_photos(self.photos, self.split, classes)
        if not len(photos):
            raise InputError(f"{self.photos} holds no {self.split} photos")
        if told := passed_over(self.photos, [self.split]):
            context.report("warning", text=told)

        def open_batches() -> Iterator[list[Picture]]:
            for start in range(0, len(photos), self.speed.batch_size):
                yield list(photos.images[start : start + self.speed.batch_size])

        for done, arm in enumerate(self.arms):
            context.report("progress", done=done, total=len(self.arms), arm=arm.label, seed=arm.seed)
            assert arm.step is not None
            classifier = load_classifier(context.weights(arm.step), context.device)
            if classifier.classes != classes:
                raise InputError(f"{arm.step} was tuned for other classes than the photos are measured with")
            rows = cached_rows(classifier.encoder, open_batches, context.folder / "features")
            with torch.inference_mode():
                chances = classifier.logits(rows).softmax(1)
            predicted = chances.argmax(1).numpy()
            table = confusion(predicted, photos.labels, len(classes))
            record = results.about(
                context, self, arm, "classifier", self.split, photos=self.photos, num_test=len(photos), num_classes=len(classes),
                classes=tuple(classes),
            )  # fmt: skip
            right = np.packbits(predicted == photos.labels).tobytes().hex()
            square = tuple(tuple(row) for row in table.tolist())
            results.append(
                context.results,
                record(metric="top1", value=top1(predicted, photos.labels), correct=right, confusion=square),
                record(metric="mean_per_class", value=mean_per_class(predicted, photos.labels)),
            )
        context.report("progress", done=len(self.arms), total=len(self.arms))


@dataclass(frozen=True)
class _Tried(MeasureClassifiers):
    """A trial: a few photos through each encoder. What classifiers of one encoder read is kept, so that each encoder reads them once."""

    def run(self, context: StepContext) -> None:
        from reverie.datasets.labelled import photo_labels
        from reverie.evaluate.pace import kinds, paced, some_photos, tell, timed
        from reverie.models.classifier import OWN_ENCODER, Classifier, load_classifier

        photos = some_photos(self.photos, self.split, context.report, (self.split,))
        num, seen = len(photo_labels(self.photos, self.split)), set[str]()
        for arm, times in kinds(self.arms):
            assert arm.step is not None
            place = context.weights(arm.step)
            classifier, took = timed(lambda: load_classifier(place, context.device))  # noqa: B023
            tell(context.report, "openings", times, [took])
            own = times if (place / OWN_ENCODER).is_dir() else 1
            if classifier.encoder.revision in seen:
                continue
            seen.add(classifier.encoder.revision)

            def look(part: slice, classifier: Classifier = classifier) -> None:
                classifier.encoder.images([photos.picture(number) for number in range(len(photos))[part]])

            paced(context.report, "photos", own * num, look, len(photos), self.speed.batch_size)


@dataclass(frozen=True)
class MeasureGradient(Job):
    """``gradient_norm`` at the starting head, with soft targets alone, at temperatures 1 and 2.

    A control of everything between the store and the loss: at temperature 1 the head already is what the teacher asks for,
    whatever the images. Measured on one batch of each of three draws, which stand for seeds.
    """

    role: ClassVar[Role] = "measure"

    tune: Any  # TuneClassifier, whose images, encoder and classes are taken

    def run(self, context: StepContext) -> None:
        """Measure; run again, it replaces the numbers. Raises what reading the images raises."""
        import torch

        from reverie.learn.classifier_tuning import ClassifierTuning, LinearHead

        start, rows = self.tune.teacher_and_rows(context)
        records = []
        for temperature in (1.0, 2.0):
            for seed in range(3):
                chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:256]
                head = LinearHead(start)
                learner = ClassifierTuning(soft_share=1.0, temperature=temperature)
                # The labels count nothing at this share, so any will do.
                batch = {"features": rows[chosen], "labels": torch.zeros(len(chosen), dtype=torch.long)}
                (gradient,) = torch.autograd.grad(learner.losses(head, batch)["loss"], [head.moved])
                arm = Arm(
                    f"soft-targets-{temperature:g}", f"soft targets, T = {temperature:g}", seed, factors={"temperature": temperature}
                )  # fmt: skip
                record = results.about(context, self, arm, "gradient", "train")
                records.append(record(metric="gradient_norm", value=float(gradient.norm())))
        results.append(context.results, *records)
