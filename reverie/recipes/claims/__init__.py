"""One file a recipe: the runs that put a paper's claims to the test, and the claims themselves.

``reverie claims RECIPE`` makes the runs, each an ordinary run folder beside the others, and judges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reverie.errors import InputError
from reverie.evaluate.claims import Claim
from reverie.run.plan import Plan, Step


@dataclass(frozen=True)
class Study:
    """Runs by name, and claims about their arms, which are written run/step/name."""

    about: str  # one paragraph for the page: what was done, on what
    runs: Mapping[str, Plan]
    claims: tuple[Claim, ...]
    words: Mapping[str, str] = field(default_factory=dict)  # what each run is, for the page

    def __post_init__(self) -> None:
        steps = {f"{run}/{step.name}" for run, plan in self.runs.items() for step in plan.steps}
        for claim in self.claims:
            for arm, _ in claim.terms:
                if arm.rpartition("/")[0] not in steps:
                    raise InputError(f"claim {claim.name!r} names {arm!r}, and the study has no such run and step")

    @property
    def once(self) -> frozenset[str]:
        """Names of claims about what does not depend on how many seeds there are, such as a gradient at the start."""
        grown = {
            f"{run}/{step.name}"
            for run, plan in self.runs.items()
            for step in plan.steps
            if getattr(step.stage, "grows", ())
        }
        return frozenset(
            claim.name
            for claim in self.claims
            if not any(arm.rpartition("/")[0] in grown for arm, _ in claim.terms if arm not in claim.fixed)
        )


def seeds_of(number: int) -> tuple[int, ...]:
    """0, 1, 2 ... Raises InputError below 1."""
    if number < 1:
        raise InputError(f"--seeds {number} must be 1 or more; from 3 on there are intervals and verdicts")
    return tuple(range(number))


def insert(plan: Plan, steps: Iterable[Step], before: str) -> Plan:
    """The plan with more steps before the one of this name."""
    place = [step.name for step in plan.steps].index(before)
    return dataclasses.replace(plan, steps=(*plan.steps[:place], *steps, *plan.steps[place:]))


def replace(plan: Plan, name: str, **changes: object) -> Plan:
    """The plan with other fields in the step of this name: ``stage`` or ``of``."""
    steps: Sequence[Step] = [
        dataclasses.replace(step, **changes) if step.name == name else step  # type: ignore[arg-type]
        for step in plan.steps
    ]
    return dataclasses.replace(plan, steps=tuple(steps))
