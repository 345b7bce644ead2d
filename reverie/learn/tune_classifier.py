"""The job that tunes a classifier on kept images: features of a frozen encoder, and a head that begins at the class names.

Source: arXiv:2210.07574, sections 2.4 to 2.7 of the method.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from reverie import seeds
from reverie.captions.classes import read_classes
from reverie.datasets.few_shot import check_shots, check_store, shots_filter, shots_store
from reverie.errors import InputError
from reverie.learn.classifier_tuning import ClassifierTuning, FeatureBatches, starting_head
from reverie.learn.fit import Fit, FitSpeed, fit, refuse_several
from reverie.models.classifier import HEAD, save_classifier
from reverie.models.encoder import Encoder, open_encoder
from reverie.models.feature_cache import cached_rows
from reverie.models.zero_shot import class_embeddings
from reverie.stage import Job, StepContext, Trial

Rows = tuple[Tensor | None, Tensor | None]
"""Features (n, d) and class numbers (n,), or neither."""
On = Literal["nothing", "painted", "shots", "mixed", "painted, then shots", "shots, then painted"]


@dataclass(frozen=True)
class TuneSpeed:
    """What does not change the result."""

    batch_size: int = 64  # images through the encoder at once


@dataclass(frozen=True)
class TuneClassifier(Job):
    """Kept pairs, real shots, or both -> a classifier folder in ``context.weights()``."""

    classes: tuple[str, ...] | Path  # names, or a file of them
    templates: tuple[str, ...] = ("a photo of a {class}.",)
    model: str = "builtin:clip"
    on: On = "painted"  # "nothing" leaves the zero-shot head as it is: the baseline
    shots: Path | str | None = None  # store of labelled photos, made by reverie import, or the step that took them
    num_shots: int | None = None  # the first so many of each class; all when None
    where: str = "kept"  # which painted pairs
    candidates: str | None = None  # filter: encode all of these and pick from them, so that selections share one pass
    epochs: int = 30  # passes over the painted images; over the shots where there are no others
    steps: int | None = None  # of each phase, in place of epochs
    batch: int = 512  # painted images a step
    real_batch: int = 32  # shots a step
    lr: float = 2e-3
    weight_decay: float = 0.1
    clip: float = 1.0  # largest norm of the gradient
    tuning: ClassifierTuning = field(default_factory=ClassifierTuning)
    random_head: bool = False  # control: begin from noise and not from the class names
    wrong_labels: float = 0.0  # control: share of painted images whose label is drawn anew
    shrink_px: int = 0  # painted images are made this small first, as photos of low resolution are
    seed: int = 0
    speed: TuneSpeed = field(default_factory=TuneSpeed)

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.real_batch, 1 if self.steps is None else self.steps) < 1:
            raise InputError("epochs, steps and batches must be at least 1")
        if self.shrink_px < 0:
            raise InputError(f"shrink_px {self.shrink_px} must be 1 or more, or 0 to leave images as they are")
        if not 0 < self.lr < math.inf:
            raise InputError(f"the learning rate {self.lr:g} must be a number above 0")
        if not 0 <= self.wrong_labels <= 1:
            raise InputError(f"wrong_labels {self.wrong_labels} is a share, in [0, 1]")
        if self.on not in ("nothing", "painted") and self.shots is None:
            raise InputError(f"tuning on {self.on!r} needs real shots")
        check_shots(self.shots, self.num_shots)

    def check(self) -> None:
        """Raises InputError for fewer than two classes, shots that are not there, or several processes."""
        refuse_several("a classifier is tuned")
        if len(read_classes(self.classes)) < 2:
            raise InputError("a classifier needs two classes or more to tell apart")
        check_store(self.shots)

    def check_device(self, device: str) -> None:
        """Raises also ModelError, UnknownName for a model that is no encoder of images and texts."""
        from reverie.models.kinds import check_encoder

        super().check_device(device)
        check_encoder(self.model)

    def run(self, context: StepContext) -> None:
        """Encode, tune, and put the folder in place last.

        Raises: InputError for labels that are not among the classes or no images; what ``fit`` raises.
        """
        if context.weights().exists():
            return
        classes = read_classes(self.classes)
        encoder = open_encoder(self.model, context.device, self.speed.batch_size)
        start = starting_head(class_embeddings(encoder, classes, self.templates), encoder.logit_scale)
        checkpoints = context.checkpoints()
        checkpoints.mkdir(parents=True, exist_ok=True)
        save_file({"weight": start}, checkpoints / "start.safetensors")
        begin = checkpoints / "begin.safetensors"
        rows = self.start_rows(start)
        save_file({"weight": rows, "bias": torch.zeros(len(rows))}, begin)
        losses: dict[str, float] = {}
        for number, on in enumerate(_phases(self.on)):
            batches = self._batches(on, classes, encoder, context)
            settings = Fit(
                self.epochs * batches.per_epoch if self.steps is None else self.steps,
                self.lr,
                weight_decay=self.weight_decay,
                betas=(0.9, 0.999),
                clip=self.clip,
                speed=FitSpeed(checkpoint_every_s=60),
            )
            learner = dataclasses.replace(self.tuning, start=checkpoints / "start.safetensors", begin=begin)
            folder = checkpoints / f"phase{number}" if number else checkpoints
            seed = seeds.derive("tune", context.seed, self.seed)
            net, losses = fit(
                learner, batches, settings, folder, seed=seed, device=context.device, report=context.report
            )
            (checkpoints / f"after{number}").mkdir(exist_ok=True)
            learner.save(net, checkpoints / f"after{number}")
            begin = checkpoints / f"after{number}" / HEAD
        about = {"classes": list(classes), "encoder": self.model, "templates": list(self.templates)}
        save_classifier(context.weights(), begin, about | {"revision": encoder.revision})
        context.report("trained", classes=len(classes), **losses)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """So few steps of each phase, on batches as large as those of the run."""
        own = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        phases = _phases(self.on)
        painted = {"painted", "mixed"} & set(phases)
        kept = images(self.where) if painted else 0
        whole = self.steps
        if whole is None and len(painted) == len(phases):
            whole = self.epochs * max(1, -(-kept // self.batch))
        elif whole is None:
            classes = len(read_classes(self.classes))
            if self.num_shots is None:  # so many as there are
                return None
            whole = self.epochs * max(1, -(-self.num_shots * classes // self.real_batch))
        encoded = images(self.candidates or self.where) if painted else 0
        short = _Short(**{**own, "steps": min(steps, whole)})
        return Trial(short, (whole,) * len(phases), int(kept > 0), encoded, part=float(not phases))

    def teacher_and_rows(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """The zero-shot head (classes, d), and the encoder's rows (n, d) of the painted images it is tuned on."""
        classes = read_classes(self.classes)
        encoder = open_encoder(self.model, context.device, self.speed.batch_size)
        start = starting_head(class_embeddings(encoder, classes, self.templates), encoder.logit_scale)
        return start, labelled_rows(
            context.pairs, self.where, classes, encoder, context, self.shrink_px, self.candidates
        )[0]

    def start_rows(self, start: Tensor) -> Tensor:
        """The head to begin from: the teacher, or noise of the same size."""
        if not self.random_head:
            return start
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(seeds.derive("head", self.seed)))
        return starting_head(noise, float(start.norm(dim=1).mean()))

    def _batches(self, on: On, classes: Sequence[str], encoder: Encoder, context: StepContext) -> FeatureBatches:
        painted: Rows = (None, None)
        real: Rows = (None, None)
        if on in ("painted", "mixed"):
            rows, labels = labelled_rows(
                context.pairs, self.where, classes, encoder, context, self.shrink_px, self.candidates
            )
            painted = rows, _with_wrong(labels, self.wrong_labels, len(classes), self.seed)
        if on in ("shots", "mixed"):
            assert self.shots is not None
            store, where = shots_store(context, self.shots), shots_filter(self.num_shots)
            real = labelled_rows(store, where, classes, encoder, context)
        return self._drawn(painted, real, seeds.derive("rows", context.seed, self.seed))

    def _drawn(self, painted: Rows, real: Rows, seed: int) -> FeatureBatches:
        return FeatureBatches(*painted, *real, self.batch, self.real_batch, seed)


@dataclass(frozen=True)
class _Short(TuneClassifier):
    """A trial: it comes again and again upon what images there are, until they fill a batch."""

    def _drawn(self, painted: Rows, real: Rows, seed: int) -> FeatureBatches:
        full = [_repeated(rows, batch) for rows, batch in ((painted, self.batch), (real, self.real_batch))]
        return super()._drawn(full[0], full[1], seed)


def _repeated(rows: Rows, batch: int) -> Rows:
    features, labels = rows
    if features is None or labels is None:
        return rows
    times = -(-batch // len(features))
    return features.repeat(times, 1), labels.repeat(times)


def _phases(on: On) -> tuple[On, ...]:
    phases: dict[On, tuple[On, ...]] = {
        "nothing": (), "painted, then shots": ("painted", "shots"), "shots, then painted": ("shots", "painted"),
    }  # fmt: skip
    return phases.get(on, (on,))


def labelled_rows(
    pairs: Path,
    where: str,
    classes: Sequence[str],
    encoder: Encoder,
    context: StepContext,
    shrink_px: int = 0,
    candidates: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows (n, d) and class numbers (n,) of the pairs, by name.

    Args: candidates: filter that all of ``where`` fulfil; all of these are encoded, and kept for the next who asks for them.
    Raises: InputError for no pair, or a label that is not among the classes.
    """
    from reverie.store import tables  # tuning on rows in hand needs no store

    number = {name: place_in_list for place_in_list, name in enumerate(classes)}
    rows = [row for part in tables.scan(pairs, ["pair_id", "label"], where) for row in part.to_pylist()]
    if not rows:
        raise InputError(f"no image in {pairs.parent} fulfils {where!r}; there is nothing to tune on")
    if strangers := sorted({str(row["label"]) for row in rows} - set(classes)):
        raise InputError(f"{pairs.parent} has labels that are not among the classes: {', '.join(strangers[:5])}")

    def open_batches() -> Iterator[list[bytes]]:
        for part in tables.scan(pairs, ["image"], candidates or where):
            yield part["image"].to_pylist()

    found = cached_rows(encoder, open_batches, context.folder / "features", shrink_px=shrink_px, report=context.report)
    if candidates is not None:
        names = [name for part in tables.scan(pairs, ["pair_id"], candidates) for name in part["pair_id"].to_pylist()]
        at = {name: place_in_table for place_in_table, name in enumerate(names)}
        if outside := next((row["pair_id"] for row in rows if row["pair_id"] not in at), None):
            raise InputError(
                f"pair {outside} fulfils {where!r} but not {candidates!r}, which was to hold for all of them"
            )
        found = found[[at[row["pair_id"]] for row in rows]]
    return found, torch.tensor([number[row["label"]] for row in rows])


def _with_wrong(labels: Tensor, share: float, num_classes: int, seed: int) -> Tensor:
    """Labels of which a share is drawn anew, from all classes."""
    if not share:
        return labels
    rng = np.random.default_rng(seeds.derive("wrong labels", seed))
    found: np.ndarray[Any, np.dtype[np.int64]] = labels.numpy().copy()
    changed = rng.permutation(len(found))[: round(share * len(found))]
    found[changed] = rng.integers(num_classes, size=len(changed))
    return torch.from_numpy(found)
