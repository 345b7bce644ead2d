"""Linear probing: the job that trains a linear classifier on the frozen features of several arms, on the same photos.

Imports torch only when it runs, so that a recipe can name it at no cost.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from reverie.arms import PIXELS, UNTRAINED, Arm
from reverie.errors import InputError
from reverie.stage import EventSink, Job, Role, StepContext, Trial, fingerprint
from reverie.store import results

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.datasets.labelled import Attribute
    from reverie.evaluate.features import FeatureExtractor
    from reverie.evaluate.heads import OpenTest, Probed


TRIED = 512  # rows of a trial


@dataclass(frozen=True)
class ProbeSpeed:
    """What changes time and memory only."""

    batch_size: int = 256  # photos through the network at once
    threads: int = 8  # that cut random crops


class _Asked(NamedTuple):
    """What a classifier is trained to tell."""

    labels: Tensor  # of the train photos
    open_test: OpenTest
    num_classes: int


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
    batch_norm: bool = False  # before the classifier, without weights of its own; only for ``sgd``
    # Random crops and flips of the train photos, new in every epoch, as published; only for ``sgd``. What chooses the rate, and the
    # nearest neighbours, see photos as the test split is.
    augment: bool = False
    epochs: int = 90  # of ``sgd``
    held_out: float = (
        0.2  # share of train that the strength or rate is chosen on; the strength of an attribute by folds
    )
    neighbours: int = 20  # also report weighted k-nearest-neighbours accuracy; 0 = do not
    seed: int = 0  # of the split and of SGD
    speed: ProbeSpeed = field(default_factory=ProbeSpeed)

    def __post_init__(self) -> None:
        check_arms(self.arms)
        if 0 < self.resize_px < self.size_px:
            raise InputError(f"squares of {self.size_px} pixels cannot be cut from photos resized to {self.resize_px}")
        if self.protocol != "sgd" and (self.batch_norm or self.augment):
            raise InputError(
                "batch norm and random crops belong to the protocol sgd of the linear probe, and not to logistic"
            )
        if self.epochs < 1:
            raise InputError(f"the linear probe wants 1 epoch or more, not {self.epochs}")

    def check(self) -> None:
        """Raises InputError if photos are not there, or broken, or too few of each class to choose on."""
        from reverie.datasets.labelled import check_photos, photo_labels

        for split in ("train", "test"):
            check_photos(self.photos, split)
        if max(Counter(photo_labels(self.photos, "train")).values(), default=0) < 2:
            raise InputError(
                f"the train photos of {self.photos} have no class twice, and the linear probe holds one out; give more train photos"
            )

    def run(self, context: StepContext) -> None:
        """Probe every arm and write its numbers. An arm that was probed with the same settings, weights and photos stays.

        Raises: InputError for photos that cannot be used; ModelError for weights that cannot.
        """
        import torch

        from reverie.datasets.labelled import LabelledImages, attributes, load_photos, passed_over
        from reverie.evaluate import features

        if told := passed_over(self.photos, ["train", "test"]):
            context.report("warning", text=told)
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
        share = self.epochs if self.augment else 1  # of the progress, for each arm
        wanted = ["top1", *(f"top1_{name}" for name in targets)]
        for done, arm in enumerate(self.arms):
            report = functools.partial(context.report, total=share * len(self.arms), arm=arm.label, seed=arm.seed)
            report("progress", done=share * done)
            inputs = self._inputs(arm, context)
            ours = results.arm_fingerprint(context, dataclasses.replace(self, arms=(arm,)), (arm.step,))
            if all(before.get((arm.id, arm.seed, metric)) == (ours, inputs) for metric in wanted):
                continue
            began = time.monotonic()
            describe = describe_arm(arm, self.arms, context, self.pixels_px)
            x, labels = rows_of(describe, train)
            open_test = functools.cache(functools.partial(lambda describe: rows_of(describe, open_photos()), describe))

            def epoch(
                number: int,
                describe: FeatureExtractor = describe,
                report: EventSink = report,
                begun: int = share * done,
            ) -> Tensor:
                report("progress", done=begun + number)
                draw, speed = (self.seed, number), self.speed
                rows = features.extract_crops(describe, train, self.size_px, draw, speed.batch_size, speed.threads)
                return rows.to(context.device)

            numbers = self.measure(
                x, labels, open_test, len(train.classes), targets, crops=epoch if self.augment else None
            )
            record = results.about(
                context, self, arm, "linear-probe", photos=self.photos, num_train=len(train), num_test=len(open_test()[1]),
                arm_fingerprint=ours,
            )  # fmt: skip
            more: dict[str, object] = {"classifier": self.protocol, "num_features": x.shape[1], "inputs": inputs}
            more |= {name: True for name in ("batch_norm", "augment") if getattr(self, name)}
            more["seconds"] = round(time.monotonic() - began, 3)
            found = [record(**number | {"details": number["details"] | more}) for number in numbers]
            results.append(context.results, *found)
        context.report("progress", done=share * len(self.arms), total=share * len(self.arms))

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """A few photos through each kind of network, and a few classifiers on random features; see ``_Tried``."""
        return Trial(_Tried(**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)}))

    def measure(
        self,
        x: Tensor,
        labels: Tensor,
        open_test: OpenTest,
        num_classes: int,
        targets: Mapping[str, Attribute],
        crops: Callable[[int], Tensor] | None = None,
    ) -> list[dict[str, Any]]:
        """The numbers of one arm, as parts of records: metric, value, and how the classifier behind it was chosen.

        Args:
            x, labels, open_test, num_classes: as in ``heads.probe``.
            targets: what is asked for besides the class.
            crops: features of random crops of the train photos in an epoch, which the classifiers are trained on in place of x.
        """
        import torch

        asked = {"": _Asked(labels, open_test, num_classes)}
        for name, target in targets.items():
            value = torch.from_numpy(target.of_class).to(x.device)

            def open_both(value: Tensor = value) -> tuple[Tensor, Tensor]:
                test_x, test_labels = open_test()
                return test_x, value[test_labels]

            asked[f"_{name}"] = _Asked(value[labels], open_both, len(target.values))
        if crops is None:
            found = {ending: self._probe(x, about, ending) for ending, about in asked.items()}
        else:
            found = self._probe_crops(x, asked, crops)
        return [number for ending, about in asked.items() for number in self._numbers(x, about, found[ending], ending)]

    def _probe(self, x: Tensor, asked: _Asked, ending: str) -> Probed:
        from reverie.evaluate.heads import FOLDS_OF_ATTRIBUTES, OF_ATTRIBUTES, probe

        few = ending and self.protocol == "logistic"  # few classes, which cost little
        return probe(
            x,
            asked.labels,
            asked.open_test,
            asked.num_classes,
            protocol=self.protocol,
            candidates=OF_ATTRIBUTES if few else (),
            batch_norm=self.batch_norm,
            epochs=self.epochs,
            held_out=self.held_out,
            folds=FOLDS_OF_ATTRIBUTES if few else 1,
            seed=self.seed,
        )

    def _probe_crops(self, x: Tensor, asked: Mapping[str, _Asked], crops: Callable[[int], Tensor]) -> dict[str, Probed]:
        """Everything that is asked, on the same crops."""
        from reverie.evaluate.heads import SgdProbe

        options: dict[str, Any] = {
            "batch_norm": self.batch_norm,
            "epochs": self.epochs,
            "held_out": self.held_out,
            "seed": self.seed,
        }
        probes = {key: SgdProbe(each.labels, x.shape[1], each.num_classes, **options) for key, each in asked.items()}
        for number in range(self.epochs):
            rows = crops(number)
            for each in probes.values():
                each.epoch(rows)
        return {key: each.finish(x, asked[key].open_test) for key, each in probes.items()}

    def _numbers(self, x: Tensor, asked: _Asked, found: Probed, ending: str) -> list[dict[str, Any]]:
        """The numbers for one kind of label. ``ending`` is that of their metrics; empty for the class."""
        import numpy as np

        from reverie.evaluate.knn import knn
        from reverie.evaluate.metrics.classification import top1

        values = {f"top1{ending}": found.top1}
        if not ending:
            values["mean_per_class"] = found.mean_per_class
        if self.neighbours:
            near = knn(x, asked.labels, asked.open_test()[0], asked.num_classes, k=self.neighbours)
            values[f"knn_top1{ending}"] = top1(near.cpu().numpy(), found.labels)
        # Which of the candidates was chosen, how well it did there, and on what: a share of train, or all of it in so many folds.
        chosen_on = {"folds": found.folds} if found.folds > 1 else {"held_out": self.held_out}
        chosen = {"chosen": found.chosen, "held_out_top1": max(found.held_out), **chosen_on}
        about = {"num_classes": asked.num_classes, "details": chosen}
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


@dataclass(frozen=True)
class _Tried(LinearProbe):
    """A trial. The features of a few photos say how features go together, and random ones that do the same take the place of those of all photos.

    How many steps a logistic regression takes depends on what the features hold: half and twice as many is its spread.
    """

    def run(self, context: StepContext) -> None:
        import torch

        from reverie.datasets.labelled import attributes, photo_labels
        from reverie.evaluate import features
        from reverie.evaluate.pace import kinds, paced, some_photos

        photos = some_photos(self.photos, "train", context.report, ("train", "test"))
        num, num_test = (len(photo_labels(self.photos, split)) for split in ("train", "test"))
        names = sorted(set(photo_labels(self.photos, "train")))
        asked = [len(names), *(len(each.values) for each in attributes(self.photos, names).values())]
        batch = self.speed.batch_size
        tried: dict[int, tuple[Tensor, int]] = {}
        for arm, times in kinds(self.arms):
            describe = describe_arm(arm, self.arms, context, self.pixels_px)

            def rows_of(part: slice, describe: FeatureExtractor = describe) -> Tensor:
                return describe(photos.pixels(part, self.size_px, self.resize_px)).float()

            def crops_of(part: slice, describe: FeatureExtractor = describe) -> Tensor:
                some = dataclasses.replace(photos, images=photos.images[part], labels=photos.labels[part], files=())
                return features.extract_crops(describe, some, self.size_px, (self.seed, 0), batch, self.speed.threads)

            rows = torch.cat(paced(context.report, "photos", times * (num + num_test), rows_of, len(photos), batch))
            if self.augment:
                paced(context.report, "crops", times * num * self.epochs, crops_of, len(photos), batch)
            few, before = tried.get(rows.shape[1], (rows, 0))
            tried[rows.shape[1]] = few, before + times
        for few, times in tried.values():  # the length of a row decides, and not who made it
            try_heads = self._try_sgd if self.protocol == "sgd" else self._try_logistic
            try_heads(context, few.to(context.device), num, asked, times)

    def _try_logistic(self, context: StepContext, few: Tensor, num: int, asked: Sequence[int], times: int) -> None:
        from reverie.evaluate import heads
        from reverie.evaluate.pace import tell, timed

        inside = max(2, round(num * (1 - self.held_out)))
        # Every sixth strength starts farther from its solution than all of them do, and takes about twice as long.
        kinds = [(asked[0], heads.STRENGTHS, heads.STRENGTHS[2::6], 0.5)]
        of_all = heads.OF_ATTRIBUTES * heads.FOLDS_OF_ATTRIBUTES
        for classes, attributes in Counter(asked[1:]).items():
            kinds.append((classes, of_all * attributes, heads.OF_ATTRIBUTES, 1.0))
        for classes, grid, some, far in kinds:
            x, labels = _random_like(few, min(inside, TRIED), classes)
            _, took = timed(functools.partial(heads.logistic_heads, x, labels, classes, some, tolerance=1e-4))
            whole = far * times * (len(grid) + 2) * inside / len(x)  # the last fit is finer, and takes about two
            tell(context.report, "fits", whole, [took], len(some), sure=(0.5, 2.0))

    def _try_sgd(self, context: StepContext, few: Tensor, num: int, asked: Sequence[int], times: int) -> None:
        from reverie.evaluate import heads
        from reverie.evaluate.pace import PASSES, tell, timed

        inside = max(1, round(num * (1 - self.held_out)))
        for classes in asked:
            x, labels = _random_like(few, min(num, 4 * TRIED), classes)  # two batches
            training = heads.SgdTraining(
                labels, x.shape[1], classes, heads.RATES, batch_norm=self.batch_norm, epochs=PASSES + 1
            )
            took = [timed(functools.partial(training.epoch, x))[1] for _ in range(PASSES + 1)]
            # On crops both trainings are at all rates, as which is best is known at the end.
            rows = inside + num * (1 if self.augment else 1 / len(heads.RATES))
            tell(context.report, "rows of SGD", times * self.epochs * rows, took[1:], len(x))


def _random_like(few: Tensor, num: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Random rows (num, d) that vary as these do, and random classes."""
    import torch

    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(num, len(few), generator=draw).to(few) @ (few - few.mean(dim=0))
    return mixed, torch.randint(num_classes, (num,), generator=draw).to(few.device)


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
