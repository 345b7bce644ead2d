"""Arms: what a run measures, side by side.

Code finds an arm by its ``id`` and its ``factors``. The label is for people alone: another one changes no result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from reverie.errors import InputError

Factor = str | int | float | bool | Path | None
"""What a factor can be."""

ID = re.compile(r"[a-z0-9][a-z0-9._-]*")
UNTRAINED, PIXELS, ZERO_SHOT = "untrained", "pixels", "zero-shot"  # ids of arms that nothing is learned for
WITHOUT_CHANCE = (PIXELS, ZERO_SHOT)  # nothing about these is drawn, so one number serves for all seeds

T = TypeVar("T")


@dataclass(frozen=True)
class Arm:
    """One thing that is measured, under one seed: the weights of a learning step, or what needs no training."""

    id: str  # lower-case letters, digits, '.', '_' and '-', as it names files; arms of one id are its seeds
    label: str  # what pages call it
    seed: int = 0  # of its training, or of the weights that it is drawn with
    step: str | None = (
        None  # the learning step whose weights these are, or a folder elsewhere; None where nothing was learned
    )
    factors: Mapping[str, Factor] = field(
        default_factory=dict, hash=False
    )  # what varies: {"shots": 4, "strategy": "guided"}

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise InputError(f"arm id {self.id!r}: lower-case letters, digits, '.', '_' and '-' only, it names files")

    @property
    def key(self) -> str:
        """The id with the seed: what the step that trains it, and its files, are called."""
        return f"{self.id}-{self.seed}"

    def under(self, seed: int, step: str | None = None) -> Arm:
        """The same arm with this seed, trained by this step, or else by the step that is called by its key."""
        return replace(self, seed=seed, step=step or f"{self.id}-{seed}")


def by_id(arms: Mapping[Arm, T]) -> dict[str, T]:
    """What each arm has, by the arm's id."""
    return {arm.id: item for arm, item in arms.items()}


def seeds_together(arms: Iterable[Arm]) -> list[Arm]:
    """These arms in the order of their ids' first appearance, the seeds of each beside each other."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.id, []).append(arm)
    return [arm for group in groups.values() for arm in group]


def under_seeds(arms: Mapping[Arm, T], seeds: Sequence[int], main: str) -> list[tuple[Arm, T]]:
    """Every arm once with each seed, and what it has. The first arm's first is trained by the step ``main``."""
    return [
        (arm.under(seed, main if not place and not number else None), item)
        for place, (arm, item) in enumerate(arms.items())
        for number, seed in enumerate(seeds)
    ]


def untrained(seeds: Iterable[int], factors: Mapping[str, Factor] | None = None) -> list[Arm]:
    """The network of the other arms as it is before training, under each of these seeds."""
    return [Arm(UNTRAINED, "untrained network", seed, factors=factors or {}) for seed in seeds]


def pixels() -> Arm:
    """The photos themselves, made small, in place of features."""
    return Arm(PIXELS, "raw pixels")


def zero_shot(factors: Mapping[str, Factor] | None = None) -> Arm:
    """The classifier of class names that no image was needed for, from the step of that name."""
    return Arm(ZERO_SHOT, "zero-shot", step=ZERO_SHOT, factors=factors or {})
