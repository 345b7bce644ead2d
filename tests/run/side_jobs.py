"""Jobs that another process can have, and a program that does four of them two at a time."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from reverie.errors import InputError
from reverie.run.engine import run
from reverie.run.plan import Plan, Step
from reverie.stage import Job, StepContext


@dataclass(frozen=True)
class Wait(Job):
    """Writes which process did it and when, and goes wrong where it is told to."""

    beside: ClassVar[bool] = True

    seconds: float = 0.2
    fails: str = ""  # "refused", or "dies"

    def run(self, context: StepContext) -> None:
        began = time.time()
        while time.time() < began + self.seconds:
            time.sleep(0.02)
            (context.folder / f"{context.step}.alive").write_text(str(time.time()))
        context.report("progress", done=5, total=5, loss=0.5)
        context.report("warning", text="the same in each")
        if self.fails == "refused":
            raise InputError(f"{context.step} does not like its photos")
        if self.fails == "dies":
            os._exit(3)
        (context.folder / f"{context.step}.txt").write_text(f"{os.getpid()} {began} {time.time()}")


@dataclass(frozen=True)
class Gather(Job):
    """Needs the others."""

    def run(self, context: StepContext) -> None:
        found = [(context.folder / f"{name}.txt").read_text() for name in context.inputs]
        (context.folder / "all.txt").write_text("\n".join(found))


def plan_of(seconds: float = 0.2, **fails: str) -> Plan:
    """Jobs a to d, and one that needs them."""
    names = ("a", "b", "c", "d")
    waits = tuple(Step(name, Wait(seconds, fails.get(name, ""))) for name in names)
    return Plan(recipe="side", seed=0, unit_size=1, steps=(*waits, Step("all", Gather(), inputs=names)))


if __name__ == "__main__":
    run(plan_of(float(sys.argv[2])), Path(sys.argv[1]), jobs=2)
