"""Real guidance: which photo an image is painted from, and how much noise is added to the photo first.

Source: arXiv:2210.07574 and its code (section 2.7 of the method). The code noises pixels of 64 to a step of GLIDE's own
schedule; here the latent of any painter is noised to the same sqrt(abar), and painted over in as many steps. There the shots
are resized by their shorter side only; here they are cut to the middle square as well. Every class must have shots.
"""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from reverie import seeds
from reverie.datasets.few_shot import check_shots, check_store, read_shots, shot_picture
from reverie.errors import InputError, UnknownName
from reverie.stage import StepContext
from reverie.store.pictures import read_square

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.models.noise_levels import Start
    from reverie.models.painter import Painter

# Shots -> sqrt(abar): the steps 50, 40, 35, 20 and 15 of 100 of the authors' list, on GLIDE's cosine schedule.
LEVELS = {1: 0.708, 2: 0.809, 4: 0.853, 8: 0.951, 16: 0.973}
STEPS, TIMESTEPS = 100, 1000  # of the method's runs from noise, and of its network
LATENTS_HELD = 512  # of shots, so that a photo need not be encoded again for each caption of its class

GuidedSteps = int | Literal["published", "share"]


@dataclass(frozen=True)
class FromShots:
    """Images begin at noised photos of their class, each photo in its turn."""

    shots: str | Path  # the step that took them, or a store of labelled photos, made by reverie import
    num: int | None = None  # use the first so many of each class (M); all when None
    level: float | None = (
        None  # sqrt(abar), in [0, 1]: 1 copies the photo, 0 forgets it; None goes by the number of shots
    )
    # of denoising from there; published is as many as the method takes at this level, share that part of 100 of the steps that
    # images from noise take
    steps: GuidedSteps = "published"

    def __post_init__(self) -> None:
        check_shots(self.shots, self.num)
        if self.level is not None and not 0 <= self.level <= 1:
            raise InputError(
                f"the noise level {self.level} is sqrt(abar) and lies in [0, 1]: 1 is the photo, 0 is noise"
            )
        if isinstance(self.steps, int) and self.steps < 1:
            raise InputError(f"--guided-steps {self.steps}: at least 1 step of denoising")
        if isinstance(self.steps, str) and self.steps not in ("published", "share"):
            raise UnknownName("number of steps", self.steps, ("published", "share"))

    def check(self) -> None:
        """Raises InputError for a store that is not there."""
        check_store(self.shots)


def level_for(shots: int) -> float:
    """sqrt(abar) for a number of shots of a class: LEVELS; between two of them linear in log2(shots); beyond, the nearest."""
    known = sorted(LEVELS)
    if shots in LEVELS or not known[0] < shots < known[-1]:
        return LEVELS[min(max(shots, known[0]), known[-1])]
    above = bisect.bisect(known, shots)
    low, high = known[above - 1], known[above]
    share = math.log2(shots / low) / math.log2(high / low)
    return LEVELS[low] + share * (LEVELS[high] - LEVELS[low])


def published_steps(level: float) -> int:
    """Steps that the method takes from sqrt(abar) = ``level`` on, of its 100: 50, 40, 35, 20 and 15 at LEVELS.

    GLIDE's cosine schedule puts the level at a time; the 100 steps are spread evenly over its 1000 timesteps, ends included.
    """
    time = math.acos(level * math.cos(0.008 / 1.008 * math.pi / 2)) / (math.pi / 2) * 1.008 - 0.008
    step = (TIMESTEPS * time - 1) * (STEPS - 1) / (TIMESTEPS - 1)
    return min(max(round(step), 0), STEPS - 1) + 1


def steps_for(wanted: GuidedSteps, level: float, sampler_steps: int) -> int:
    """Steps of an image that begins at this level, where one from noise takes ``sampler_steps``."""
    if isinstance(wanted, int):
        return wanted
    published = published_steps(level)
    return published if wanted == "published" else max(1, round(sampler_steps * published / STEPS))


class Guide:
    """The shots of one ``FromShots``, by class, as latents of one painter."""

    def __init__(self, settings: FromShots, context: StepContext, painter: Painter, steps: int, size_px: int) -> None:
        """Read the shots. Raises InputError without any; ModelError for a painter that cannot begin at a photo."""
        self._by_class: dict[str, list[str]] = {}
        for rows in read_shots(context, settings.shots, settings.num, ["pair_id", "label"]):
            for row in rows.to_pylist():
                self._by_class.setdefault(row["label"], []).append(row["pair_id"])
        fewest = min(len(names) for names in self._by_class.values())
        level = level_for(fewest) if settings.level is None else settings.level
        self.start: Start = painter.start_at(level, steps_for(settings.steps, level, steps))
        self._store = str(settings.shots)

        @functools.lru_cache(maxsize=LATENTS_HELD)
        def latent(name: str) -> Tensor:
            square = np.empty((1, size_px, size_px, 3), dtype=np.uint8)
            read_square(shot_picture(context, settings.shots, name), name, square[0])
            return painter.latents(square)[0]  # one at a time, so that its bits do not depend on its neighbours

        self.latent = latent

    def shot(self, caption_id: str, label: str | None, turn: int) -> str:
        """The photo for the turn-th image of a caption: in turn, from a place that the caption's name gives.

        So all shots of a class begin the same number of images wherever the images of a caption divide by the shots.
        Raises: InputError for a class without shots.
        """
        names = self._by_class.get(label or "")
        if not names:
            raise InputError(
                f"there is no shot of the class {label!r} in {self._store}, which captions are of; give some"
            )
        return names[(seeds.derive("shot", caption_id) + turn) % len(names)]

    def told(self, name: str) -> str:
        """What a row says in ``start``."""
        return f"{name} sqrt(abar) {self.start.level:.4f}"
