"""The one job that joins the store, a learner and the loop."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from reverie import seeds
from reverie.errors import InputError
from reverie.learn.fit import Fit, fit
from reverie.stage import Place


@dataclass(frozen=True)
class TrainSpeed:
    """What does not change the result."""

    threads: int = 2  # that decode images


@dataclass(frozen=True)
class Train:
    """Pairs of the run -> weights, in ``place.weights()``; checkpoints and the curve in ``place.checkpoints()``."""

    together: ClassVar[bool] = True  # by all processes of an ``accelerate launch``

    learner: Any  # see learn/fit.py, Learner
    fit: Fit = field(default_factory=Fit)
    captions_per_batch: int = 64  # n, shared by all processes
    images_per_caption: int = 0  # m; 0 = as the learner says, or 1
    size_px: int = 0  # images are read as squares of this side; 0 = what fits the learner's views
    where: str = "status = 'ok'"  # which pairs, as a Lance SQL filter
    store: Path | None = None  # folder of another store with pairs.lance; the run's own when left out
    group: Literal["caption", "image", "random"] = "caption"  # whose images belong together, see store/batches.py
    at_least: int = 0  # captions with fewer images are left out, where that is more than m
    limit: int = 0  # captions to learn from, drawn at random but the same for every seed; 0 = all
    seed: int = 0  # beside the run seed, to train again on the same pairs
    speed: TrainSpeed = field(default_factory=TrainSpeed)

    def __post_init__(self) -> None:
        if self.captions_per_batch < 1:
            raise InputError(f"captions_per_batch must be at least 1, not {self.captions_per_batch}")

    def check(self) -> None:
        """Raises InputError, ModelError for a network that cannot be built, or another store that is not there."""
        if self.store and not (self.store / "pairs.lance").exists():
            raise InputError(
                f"{self.store} holds no pairs.lance; make it with: reverie import SOURCE --out {self.store}"
            )
        with torch.device("meta"):  # shapes only
            self.learner.build()

    def run(self, place: Place) -> None:
        """Train, or go on training, then put the weights in place last.

        Raises: InputError if the pairs are too few for one batch; what ``fit`` raises.
        """
        from reverie.store.batches import CaptionBatches  # learners and the loop also run where there is no store

        weights = place.weights()
        if weights.exists():
            return
        seed = seeds.derive("train", place.seed, self.seed)
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        batches = CaptionBatches(
            (self.store or place.folder) / "pairs.lance",
            captions=self.captions_per_batch,
            images=self.images_per_caption or getattr(self.learner, "images_per_caption", 1),
            seed=seeds.derive("batches", seed),
            size_px=self.size_px or self._square_px(),
            where=self.where,
            rank=rank,
            world=world,
            threads=self.speed.threads,
            limit=self.limit,
            at_least=self.at_least,
            group=self.group,
        )
        if batches.left_out:
            text = f"{batches.left_out} captions have fewer than {max(batches.images, self.at_least)} usable images and are left out"
            place.report("warning", text=text)
        net, losses = fit(
            self.learner, batches, self.fit, place.checkpoints(), seed=seed, device=place.device, report=place.report
        )
        if rank == 0:
            temporary = weights.with_name(weights.name + ".tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            self.learner.save(net, temporary)
            temporary.rename(weights)
            place.report("trained", steps=self.fit.steps, captions=batches.num_captions, **losses)

    def _square_px(self) -> int:
        """256 for views of 224, as in the papers; small views are cut from images of their own side."""
        view = int(getattr(self.learner, "image_size", 224))
        return view if view < 128 else round(view * 256 / 224)
