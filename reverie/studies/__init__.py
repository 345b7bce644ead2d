"""Studies: the runs that test a paper's claims, and the claims themselves. One file a recipe.

A study builds on the parts of its recipe: settings, arms, and the functions that make steps of them.

``reverie claims RECIPE`` makes the runs, each an ordinary run folder beside the others, and judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reverie.errors import InputError
from reverie.evaluate.claims import Claim
from reverie.evaluate.significance import MIN_SEEDS
from reverie.recipes.options import SmallScale
from reverie.run.plan import Plan
from reverie.settings import flat
from reverie.stage import Job


@dataclass(frozen=True)
class StudyConfig:
    """Settings that every study has."""

    scale: SmallScale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes
    num_seeds: int = 3  # number of random seeds of training (0, 1, ...); every arm is trained once with each
    seed: int = 0  # random seed of the run; each training has one of its own


@dataclass(frozen=True)
class Study:
    """Runs by name, and claims about their arms, which are written run/step/id."""

    about: str  # one paragraph for the page: what was done, on what
    runs: Mapping[str, Plan]
    claims: tuple[Claim, ...]
    words: Mapping[str, str] = field(default_factory=dict)  # what each run is, for the page
    # runs that another run is continued in, under further seeds: their arms are that run's, in claims as well
    continues: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = {f"{run}/{step.name}" for run, plan in self.runs.items() for step in plan.steps}
        for claim in self.claims:
            for arm, _ in claim.terms:
                if arm.rpartition("/")[0] not in steps:
                    raise InputError(f"claim {claim.name!r} names {arm!r}, and the study has no such run and step")

    @property
    def arms_of(self) -> dict[str, str]:
        """Every run, and the run by whose name claims know its arms."""
        return {run: self.continues.get(run, run) for run in self.runs}

    @property
    def once(self) -> frozenset[str]:
        """Names of claims about what does not depend on how many seeds there are, such as a gradient at the start."""
        grown = {
            f"{run}/{step.name}"
            for run, plan in self.runs.items()
            for step in plan.steps
            if isinstance(step.stage, Job) and step.stage.grows
        }
        return frozenset(
            claim.name
            for claim in self.claims
            if not any(arm.rpartition("/")[0] in grown for arm, _ in claim.terms if arm not in claim.fixed)
        )


def check_of_small_world(eval_data: str) -> None:
    """Raises InputError for photos of which a study that judges by the shape would learn nothing, hours later."""
    if not eval_data.startswith("smallworld:"):
        raise InputError(
            f"--eval-data {eval_data}: this study judges by the shape in photos of the small world; give smallworld:CAMERA:TRAIN:TEST"
        )


def named(study: str, config: Any, runs: Mapping[str, Plan]) -> dict[str, Plan]:
    """The runs as recipes that can be called again, with the settings of the study."""
    return {name: replace(plan, recipe=f"claims/{study}/{name}", arguments=flat(config)) for name, plan in runs.items()}


def in_tables(number: int) -> list[tuple[int, ...]]:
    """The seeds 0, 1, 2 ... of runs that paint the images of all their seeds in one table, to which none can be added.

    The first run has as many as a verdict needs, every further one has a run of its own. Raises InputError below 1.
    """
    all_ = seeds_of(number)
    return [all_[:MIN_SEEDS], *((seed,) for seed in all_[MIN_SEEDS:])]


def seeds_of(number: int) -> tuple[int, ...]:
    """0, 1, 2 ... Raises InputError below 1."""
    if number < 1:
        raise InputError(f"--num-seeds {number} must be 1 or more; from 3 on there are intervals and verdicts")
    return tuple(range(number))
