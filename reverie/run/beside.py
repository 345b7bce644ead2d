"""Trainings that do not depend on each other, side by side: each in a process of its own, with its share of the cores.

A small network leaves all cores but one idle for most of a step. What a training makes is the same as alone with as many threads;
with another number of threads sums are rounded otherwise, as they are on another machine.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from reverie.errors import InputError, ReverieError
from reverie.run.events import Events
from reverie.run.plan import Plan, Step
from reverie.stage import Job

WATCH_S = 0.2  # between two looks whether the process that began us is still there


def group(steps: Sequence[Step], done: set[str]) -> tuple[Step, ...]:
    """The steps, from the first of these on, that can be done side by side now; at most one where the first cannot.

    Args:
        steps: those of a plan that are left, in order.
        done: names of steps that are done.
    """
    found: list[Step] = []
    for step in steps:
        if not (isinstance(step.stage, Job) and step.stage.beside and set(step.inputs) <= done):
            break
        found.append(step)
    return tuple(found)


def do_beside(plan: Plan, steps: Sequence[Step], folder: Path, device: str, jobs: int, events: Events) -> None:
    """Do these steps, up to ``jobs`` of them at a time.

    A step that fails ends the others; each goes on from its last checkpoint when the run is begun again.

    Raises: ReverieError as the step says it, RuntimeError for a process that died; InputError for a plan that another process
        cannot have, because its stages are in a recipe file of one's own.
    """
    left, far = deque(steps), {step.name: (0, 0) for step in steps}
    names = ", ".join(step.name for step in steps[:3]) + (", ..." if len(steps) > 3 else "")
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    busy: dict[Connection, str] = {}
    try:
        with events.progress(names, 0, 0, "steps"):
            for _ in range(min(jobs, len(steps))):
                ours, theirs = context.Pipe()
                threads = max(1, (os.cpu_count() or 1) // min(jobs, len(steps)))
                process = context.Process(target=_work, args=(theirs, plan, folder, device, threads, os.getpid()))
                try:
                    process.start()
                except (AttributeError, TypeError, OSError, ImportError) as error:
                    raise InputError(f"{_alone(plan)} ({error})") from error
                except Exception as error:  # pickle's own errors have no common base that says so
                    if type(error).__name__ != "PicklingError":
                        raise
                    raise InputError(_alone(plan)) from error
                theirs.close()
                workers[ours] = process
                _give(ours, left, busy, events)
            while busy:
                for pipe in cast("list[Connection]", wait(list(busy))):
                    try:
                        kind, facts = pipe.recv()
                    except EOFError:
                        workers[pipe].join()
                        raise RuntimeError(
                            f"{plan.recipe}: the process of step {busy[pipe]!r} ended with code {workers[pipe].exitcode}"
                        ) from None
                    if kind == "refused":
                        raise ReverieError(facts["text"])
                    if kind == "done":
                        events.say(f"{busy.pop(pipe)}: done in {facts['seconds']:.1f} s")
                        _give(pipe, left, busy, events)
                    else:
                        show(kind, facts, far, events)
    finally:
        for pipe, process in workers.items():
            pipe.close()
            if busy:
                process.terminate()
        for process in workers.values():
            process.join()


def _alone(plan: Plan) -> str:
    return f"the trainings of {plan.recipe} cannot be done side by side, because another process cannot have its plan; leave out --jobs"


def _give(pipe: Connection, left: deque[Step], busy: dict[Connection, str], events: Events) -> None:
    """The next step to this process, or nothing, after which it ends."""
    if left:
        step = left.popleft()
        events.report("step", step=step.name, stage=step.kind)
        busy[pipe] = step.name
        pipe.send(busy[pipe])
    else:
        pipe.send(None)


def show(kind: str, facts: dict[str, Any], far: dict[str, tuple[int, int]], events: Events) -> None:
    """What another process reports, in the one display: the log has it already."""
    if kind == "warning":
        events.show_warning(facts)
        return
    far[facts["step"]] = int(facts["done"]), int(facts["total"])
    totals = [total for _, total in far.values() if total]
    # What has not begun counts like the mean of what has; a step may have nothing to do.
    total = round(sum(totals) / len(totals) * len(far)) if totals else 0
    events.show_progress(sum(done for done, _ in far.values()), total, facts)


class _Told(Events):
    """Events of a process that has no display: it tells the one that began it."""

    def __init__(self, folder: Path, pipe: Connection) -> None:
        super().__init__(folder, Console(file=io.StringIO()))
        self._pipe, self._one = pipe, threading.Lock()  # of the threads that may report

    def report(self, kind: str, **facts: Any) -> None:
        super().report(kind, **facts)
        if kind == "warning" or ("done" in facts and "total" in facts):
            plain = {name: value for name, value in facts.items() if isinstance(value, (int, float, str))}
            with self._one:
                self._pipe.send((kind, plain))


def _work(pipe: Connection, plan: Plan, folder: Path, device: str, threads: int, parent: int) -> None:
    """A process: one step after the other, as they come through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that began us, who ends us
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    from reverie.run.engine import StepRunner

    os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that is still to be loaded
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    with _Told(folder, pipe) as events:
        while True:
            try:
                name = pipe.recv()
            except EOFError:
                return
            if name is None:
                return
            began = time.monotonic()
            try:
                StepRunner(plan, plan.step(name), folder, device, events).do_job()
            except ReverieError as error:
                pipe.send(("refused", {"text": str(error)}))
                return
            pipe.send(("done", {"seconds": time.monotonic() - began}))


def _watch(parent: int) -> None:
    """End with the process that began us, even if it was killed: nothing else may write when the run is begun again."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)
