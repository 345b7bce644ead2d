"""Linear probing: the job that trains a linear classifier on the frozen features of several arms, on the same photos.

Imports torch only when it runs, so that a recipe can name it at no cost.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from reverie.arms import PIXELS, UNTRAINED, Arm
from reverie.errors import InputError
from reverie.stage import Job, Role, StepContext, fingerprint
from reverie.store import results

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.datasets.labelled import Attribute
    from reverie.evaluate.features import FeatureExtractor
    from reverie.evaluate.heads import OpenTest


@dataclass(frozen=True)
class ProbeSpeed:
    """What changes time and memory only."""

    batch_size: int = 256  # photos through the network at once


@dataclass(frozen=True)
class LinearProbe(Job):
    """Weights of several learning steps -> accuracy of a linear classifier on real or street photos.

    Classes that are made of attributes are asked for by these as well, each by a classifier of its own on the same features:
    ``top1`` and ``knn_top1`` are of the class, ``top1_shape`` and ``knn_top1_shape`` of its shape, and so on. ``untrained`` is the network of the first arm with weights, drawn anew; ``pixels`` are the photos made small.
    """

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("arms",)

    arms: tuple[Arm, ...]
    photos: str = "smallworld:street:4000:1000"  # see datasets/labelled.py
    size_px: int = 64  # photos are cut to squares of this side
    resize_px: int = 0  # their shorter side before the cut; 0 = size_px
    pixels_px: int = 16  # side of the photos of arm ``pixels``
    protocol: Literal["logistic", "sgd"] = "logistic"
    batch_norm: bool = False  # only for ``sgd``
    held_out: float = 0.2  # share of train that the strength or rate is chosen on
    neighbours: int = 20  # also report weighted k-nearest-neighbours accuracy; 0 = do not
    seed: int = 0  # of the split and of SGD
    speed: ProbeSpeed = field(default_factory=ProbeSpeed)

    def __post_init__(self) -> None:
        check_arms(self.arms)
        if 0 < self.resize_px < self.size_px:
            raise InputError(f"squares of {self.size_px} pixels cannot be cut from photos resized to {self.resize_px}")

    def check(self) -> None:
        """Raises InputError if photos are not there, or broken."""
        from reverie.datasets.labelled import check_photos

        for split in ("train", "test"):
            check_photos(self.photos, split)

    def run(self, context: StepContext) -> None:
        """Probe every arm and write its numbers. An arm that was probed with the same settings, weights and photos stays.

        Raises: InputError for photos that cannot be used; ModelError for weights that cannot.
        """
        import torch

        from reverie.datasets.labelled import LabelledImages, attributes, load_photos
        from reverie.evaluate import features

        train = load_photos(self.photos, "train")
        targets = attributes(self.photos, train.classes)
        open_photos = functools.cache(lambda: load_photos(self.photos, "test", train.classes))

        def rows_of(describe: FeatureExtractor, photos: LabelledImages) -> tuple[Tensor, Tensor]:
            rows = features.extract(describe, photos, self.size_px, self.speed.batch_size, self.resize_px)
            return rows.to(context.device), torch.from_numpy(photos.labels).to(context.device)

        before = {
            (record.arm, record.seed, record.metric): (record.arm_fingerprint, record.details.get("inputs"))
            for record in results.select(results.read(context.results), step=context.step)
        }
        wanted = ["top1", *(f"top1_{name}" for name in targets)]
        for done, arm in enumerate(self.arms):
            context.report("progress", done=done, total=len(self.arms), arm=arm.label, seed=arm.seed)
            inputs = self._inputs(arm, context)
            ours = results.arm_fingerprint(context, dataclasses.replace(self, arms=(arm,)), (arm.step,))
            if all(before.get((arm.id, arm.seed, metric)) == (ours, inputs) for metric in wanted):
                continue
            began = time.monotonic()
            describe = describe_arm(arm, self.arms, context, self.pixels_px)
            x, labels = rows_of(describe, train)
            open_test = functools.cache(functools.partial(lambda describe: rows_of(describe, open_photos()), describe))
            numbers = self.measure(x, labels, open_test, len(train.classes), targets)
            record = results.about(
                context, self, arm, "linear-probe", photos=self.photos, num_train=len(train), num_test=len(open_test()[1]),
                arm_fingerprint=ours,
            )  # fmt: skip
            more: dict[str, object] = {"classifier": self.protocol, "num_features": x.shape[1], "inputs": inputs}
            more["seconds"] = round(time.monotonic() - began, 3)
            found = [record(**number | {"details": number["details"] | more}) for number in numbers]
            results.append(context.results, *found)
        context.report("progress", done=len(self.arms), total=len(self.arms))

    def measure(
        self,
        x: Tensor,
        labels: Tensor,
        open_test: OpenTest,
        num_classes: int,
        targets: Mapping[str, Attribute],
    ) -> list[dict[str, Any]]:
        """The numbers of one arm, as parts of records: metric, value, and how the classifier behind it was chosen.

        Args:
            x, labels, open_test, num_classes: as in ``heads.probe``.
            targets: what is asked for besides the class.
        """
        import torch

        numbers = self._ask(x, labels, open_test, num_classes, "")
        for name, target in targets.items():
            value = torch.from_numpy(target.of_class).to(x.device)

            def asked(value: Tensor = value) -> tuple[Tensor, Tensor]:
                test_x, test_labels = open_test()
                return test_x, value[test_labels]

            numbers += self._ask(x, value[labels], asked, len(target.values), f"_{name}")
        return numbers

    def _ask(
        self, x: Tensor, labels: Tensor, open_test: OpenTest, num_classes: int, ending: str
    ) -> list[dict[str, Any]]:
        """The numbers for one kind of label. ``ending`` is that of their metrics; empty for the class."""
        import numpy as np

        from reverie.evaluate.heads import STRENGTHS, probe
        from reverie.evaluate.knn import knn
        from reverie.evaluate.metrics.classification import top1

        found = probe(
            x,
            labels,
            open_test,
            num_classes,
            protocol=self.protocol,
            # Few classes take many steps, so attributes are tried at a strength a decade.
            candidates=STRENGTHS[::4] if ending and self.protocol == "logistic" else (),
            batch_norm=self.batch_norm,
            held_out=self.held_out,
            seed=self.seed,
        )
        values = {f"top1{ending}": found.top1}
        if not ending:
            values["mean_per_class"] = found.mean_per_class
        if self.neighbours:
            near = knn(x, labels, open_test()[0], num_classes, k=self.neighbours)
            values[f"knn_top1{ending}"] = top1(near.cpu().numpy(), found.labels)
        about = {
            "num_classes": num_classes,
            "details": {"chosen": found.chosen, "held_out_top1": max(found.held_out)},
        }
        numbers: list[dict[str, Any]] = [
            {"metric": metric, "value": value, **about} for metric, value in values.items()
        ]
        # Which test photos were right, one bit each: two arms can then be compared photo by photo.
        numbers[0]["correct"] = np.packbits(found.predicted == found.labels).tobytes().hex()
        return numbers

    def _inputs(self, arm: Arm, context: StepContext) -> str:
        """Names the files that an arm reads as they are now, by size and time of change."""
        from reverie.datasets.labelled import find_photos

        photos = [find_photos(self.photos, split) for split in ("train", "test")]
        return fingerprint(
            {"photos": [*map(_as_it_is, photos)], "weights": _as_it_is(_weights(arm, self.arms, context))}
        )


def check_arms(arms: Sequence[Arm]) -> None:
    """Raises InputError for an arm without weights that is neither ``untrained`` nor ``pixels``."""
    for arm in arms:
        if arm.step is None and arm.id not in (UNTRAINED, PIXELS):
            raise InputError(f"arm {arm.id!r} names no step; only {UNTRAINED!r} and {PIXELS!r} do without")


def describe_arm(arm: Arm, arms: Sequence[Arm], context: StepContext, pixels_px: int) -> FeatureExtractor:
    """What gives the features of an arm. Raises InputError for ``untrained`` beside no weights; ModelError."""
    from reverie.evaluate import features

    weights = _weights(arm, arms, context)
    if weights is None:
        return features.of_pixels(pixels_px)
    if arm.step:
        return features.of_weights(weights, context.device)
    return features.of_untrained(weights, arm.seed, context.device)


def _weights(arm: Arm, arms: Sequence[Arm], context: StepContext) -> Path | None:
    """Weights of an arm, or those whose network ``untrained`` takes; None for ``pixels``."""
    if arm.id == PIXELS:
        return None
    trained = arm.step or next((other.step for other in arms if other.step), None)
    if trained is None:
        raise InputError("arm 'untrained' takes its network from another arm's weights, and no arm has any")
    return context.weights(trained)


def _as_it_is(source: object) -> list[Any]:
    if not isinstance(source, Path) or not source.exists():
        return [str(source)]
    files = [source, *sorted(source.iterdir())] if source.is_dir() else [source]
    return [str(source), *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]
