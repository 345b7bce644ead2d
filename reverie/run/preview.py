"""A look at a run before it: a plan of few captions, spread evenly over all of them, through every step up to the selection.

Captions and images are those that the run would make, by the same names and from the same noise. What learns and what measures is
left out, and so is what reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa

from reverie import stage as stages
from reverie.errors import InputError
from reverie.run.plan import Plan, Step
from reverie.stage import OF_STEP, Job, SourceStage, Stage, StepContext, UnitStage, Worker

SHOWN = 3  # names of steps in a sentence


@dataclass(frozen=True)
class Sampled(SourceStage):
    """``count`` captions of a source, each as the source makes it at its place."""

    writes: ClassVar[Literal["captions"]] = "captions"

    source: SourceStage
    count: int
    together: int = (
        1  # captions that stand together in the source, as those of a class do; between such groups are equal gaps
    )

    def check(self) -> None:
        """Raises what the source does."""
        self.source.check()

    def check_device(self, device: str) -> None:
        """Raises what the source does."""
        self.source.check_device(device)

    def open(self, context: StepContext) -> Worker:
        """Load what the source needs."""
        worker, total = self.source.open(context), int(self.source.count)

        def write(rows: pa.Table) -> pa.Table:
            places = [self._place(place, total) for place in rows["position"].to_pylist()]
            return worker(pa.table({"unit": rows["unit"], "position": pa.array(places, pa.int64())}))

        return write

    def _place(self, place: int, total: int) -> int:
        """Where in the source the caption of this place is."""
        group, inside = divmod(place, self.together)
        return group * self.together * total // self.count + inside


def preview_of(
    plan: Plan,
    count: int,
    unit_size: int | None = None,
    without: Container[str] = (),
    images: bool = True,
    together: int = 1,
    called: str = "a preview",
) -> Plan:
    """The plan that makes ``count`` captions, or all where they are fewer, and goes as far as the selection.

    Args:
        without: names of steps to leave out.
        images: keep pictures, also of a painter that would throw them away.
        together: captions that are taken side by side.
    Raises: InputError where no step is left.
    """
    kept: list[Step] = []
    left_out: list[str] = []
    for step in plan.steps:
        stage = None if step.name in without else _stage(step, count, images, together)
        if stage is None or set(step.inputs) & set(left_out) or _reads(step.stage, left_out):
            left_out.append(step.name)
        else:
            kept.append(dataclasses.replace(step, stage=stage))
    if not any(isinstance(step.stage, UnitStage) or step.stage.role == "score" for step in kept):
        raise InputError(
            f"{plan.recipe} has nothing to look at before its trainings: it begins with {plan.steps[0].name!r}, and no step makes or "
            "chooses images without what the run itself trains"
        )
    named = ", ".join(left_out[:SHOWN]) + (f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else "")
    made = min(count, plan.num_captions)
    notes = [f"{called}, {made:,} of {plan.num_captions:,} captions, spread evenly" if made else called]
    notes += [f"left out of it: {named}"] if left_out else []
    size = unit_size or min(plan.unit_size, count)
    return dataclasses.replace(plan, steps=tuple(kept), unit_size=size, notes=(*plan.notes, *notes))


def _stage(step: Step, count: int, images: bool, together: int) -> UnitStage | Job | None:
    stage = step.stage
    if isinstance(stage, Job):
        return stage.preview(count)
    if isinstance(stage, SourceStage):
        return Sampled(stage, max(1, min(count, int(stage.count))), together)
    if images and not stage.keep_images and any(item.name == "keep_images" for item in dataclasses.fields(stage)):  # type: ignore[arg-type]
        return dataclasses.replace(stage, keep_images=True)  # type: ignore[type-var]
    return stage


def _reads(stage: Stage, steps: list[str]) -> bool:
    """Whether a stage names what one of these steps makes."""

    def names(value: object) -> bool:
        if isinstance(value, dict):
            return any(map(names, value.values()))
        if isinstance(value, list):
            return any(map(names, value))
        return isinstance(value, str) and value.startswith(OF_STEP) and value.removeprefix(OF_STEP) in steps

    return names(stages.options(stage))
