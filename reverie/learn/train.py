"""The training job: reads batches from the store and trains any learner with the one training loop."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from reverie import seeds
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError
from reverie.learn.fit import Fit, fit
from reverie.recaption.mix import Mix, has_words
from reverie.stage import Job, StepContext, Trial
from reverie.store.files import atomic_folder
from reverie.store.sources import counted_clause


@dataclass(frozen=True)
class TrainSpeed:
    """What does not change the result."""

    threads: int = 2  # that decode images


@dataclass(frozen=True)
class Train(Job):
    """Pairs of the run -> weights, in ``context.weights()``; checkpoints and the curve in ``context.checkpoints()``."""

    together: ClassVar[bool] = True  # by all processes of an ``accelerate launch``
    beside: ClassVar[bool] = True

    learner: Any  # see learn/fit.py, Learner
    fit: Fit = field(default_factory=Fit)
    captions_per_batch: int = 64  # n, shared by all processes
    images_per_caption: int = 0  # m; 0 = as the learner says, or 1
    size_px: int = 0  # images are read as squares of this side; 0 = what fits the learner's views
    where: str = "status = 'ok'"  # which pairs, as a Lance SQL filter
    store: Path | str | None = (
        None  # folder of another store with pairs.lance, or the step that took shots; else the run's own
    )
    group: Literal["caption", "image", "random"] = "caption"  # whose images belong together, see store/batches.py
    min_images: int = 0  # captions with fewer images are left out, where that is more than m
    max_images: int = 0  # images of each caption that there are to draw from, the first ones; 0 = all
    limit: int = 0  # captions to learn from, drawn at random but the same for every seed; 0 = all
    start: str | None = None  # learning step of this run whose weights the learner begins from, by its field ``start``
    seed: int = 0  # beside the run seed, to train again on the same pairs
    mix: Mix | None = (
        None  # which text an image has at a visit, among what captioners wrote beside it; its own when None
    )
    speed: TrainSpeed = field(default_factory=TrainSpeed)

    def __post_init__(self) -> None:
        if self.captions_per_batch < 1:
            raise InputError(f"captions_per_batch must be at least 1, not {self.captions_per_batch}")
        if self.start is not None and not hasattr(self.learner, "start"):
            raise InputError(f"{type(self.learner).__name__} cannot begin from the weights of another step")

    def check(self) -> None:
        """Raises InputError, ModelError for a network that cannot be built, or another store that is not there or lacks what is read.

        A learner may have ``check_batch(images)``, which raises InputError for a joined batch of a size that it cannot use.
        """
        check_store(self.store)
        if self._reads_own_texts and isinstance(self.store, Path):
            self._with_text(self.store / "pairs.lance")
        if look := getattr(self.learner, "check_batch", None):
            look(self.captions_per_batch * self._images())
        with torch.device("meta"):  # shapes only
            self.learner.build()

    def run(self, context: StepContext) -> None:
        """Train, or go on training, then put the weights in place last.

        A learner may have ``check_labels(names)``, which raises InputError for labels that it does not know.
        Raises: InputError if the pairs are too few for one batch; what ``fit`` raises.
        """
        # Learners and the loop also run where there is no store.
        from reverie.store import tables
        from reverie.store.batches import CaptionBatches

        weights = context.weights()
        if weights.exists():
            return
        seed = seeds.derive("train", context.seed, self.seed)
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        learner = dataclasses.replace(self.learner, start=context.weights(self.start)) if self.start else self.learner
        pairs = shots_store(context, self.store) if self.store else context.pairs
        if look := getattr(learner, "check_labels", None):
            look({name for part in tables.scan(pairs, ["label"], self.where) for name in part["label"].to_pylist()})
        where = self._usable(context, pairs)
        batches = CaptionBatches(
            pairs,
            captions=self.captions_per_batch,
            images=self._images(),
            seed=seeds.derive("batches", seed),
            size_px=self.size_px or self._square_px(),
            where=where,
            rank=rank,
            world=world,
            threads=self.speed.threads,
            limit=self.limit,
            min_images=self.min_images,
            max_images=self.max_images,
            group=self.group,
            texts=self.mix,
        )
        if batches.left_out:
            some = "1 caption has" if batches.left_out == 1 else f"{batches.left_out} captions have"
            text = f"{some} fewer than {max(batches.images, self.min_images)} usable images; left out"
            context.report("warning", text=text)
        net, losses = fit(
            learner, batches, self.fit, context.checkpoints(), seed=seed, device=context.device, report=context.report
        )
        if rank == 0:
            with atomic_folder(weights) as temporary:
                learner.save(net, temporary)
            context.report("trained", steps=self.fit.steps, captions=batches.num_captions, **losses)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """So few steps on the same batches, unless the minutes say how long it takes."""
        if self.fit.minutes is not None:
            return None
        job = dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=min(steps, self.fit.steps)))
        return Trial(job, self.fit.steps, 0 if self.store else self.captions_per_batch)

    def _usable(self, context: StepContext, pairs: Path) -> str:
        """Which pairs have a text to read, and a word about those that have none. Raises InputError where none has."""
        if self._reads_own_texts:
            where, num_bare = self._with_text(pairs)
            if num_bare:
                context.report("warning", text=counted_clause(num_bare, "pairs have no text and are left out"))
            return where
        if self.mix is None:
            return self.where
        where = self.mix.usable(pairs, self.where)
        if bare := self.mix.bare(pairs, self.where, where):
            context.report("warning", text=bare)
        return where

    @property
    def _reads_own_texts(self) -> bool:
        return self.mix is None and bool(getattr(self.learner, "reads_text", False))

    def _with_text(self, pairs: Path) -> tuple[str, int]:
        """Which pairs have a text of their own, and how many have none. Raises InputError where none has."""
        from reverie.store import tables

        where = f"{tables.whole_filter(self.where)} and {has_words('text')}"
        count, told = tables.count(pairs, self.where), tables.count(pairs, where)
        if count and not told:
            raise InputError(
                f"no pair of {pairs.parent} that fits {self.where!r} has a text, and {type(self.learner).__name__} reads texts; write some with "
                "reverie recaption, and learn from them with --mix, or leave this learner out"
            )
        return (where if told < count else self.where), count - told

    def _images(self) -> int:
        return self.images_per_caption or int(getattr(self.learner, "images_per_caption", 1))

    def _square_px(self) -> int:
        return square_px(int(getattr(self.learner, "image_size", 224)))


def square_px(view_px: int) -> int:
    """Side of the squares that views are cut from: 256 for views of 224, as in the papers; small views have their own side."""
    return view_px if view_px < 128 else round(view_px * 256 / 224)
