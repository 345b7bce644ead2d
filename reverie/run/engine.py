"""Runs a plan, in this process or by a pool of others: does the units of each step that are not done yet, by whichever process.

Unit stages go in order, each over all its units; one thread commits finished units while the next are made. Jobs run once,
when everything before them is complete, and then leave ``done/<step>.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc

from reverie.errors import InputError, ReverieError
from reverie.pairs import FAILED, OK
from reverie.ranges import check_min
from reverie.run.beside import do_beside, group
from reverie.run.events import Events, read_events
from reverie.run.folder import alone, claim, gone_if_it_fails, units_held
from reverie.run.page_so_far import PageSoFar
from reverie.run.plan import Plan, Step, join_run
from reverie.stage import Job, StepContext, TwoPartWorker, UnitStage, Worker
from reverie.store import tables
from reverie.store.files import atomic_file
from reverie.store.places import POINTER, tables_of

AHEAD = 2  # finished units that may wait for the writer; more would only fill memory
AHEAD_BYTES, AHEAD_MOST = 32 << 20, 128  # of small ones more may
# Units made within so many seconds are one commit: each writes a list of all files of the table, which would be most of the work
# of a run of many small units. A kill costs that much more at most.
GATHER_S = 0.25
READ_AHEAD = 16  # units of captions that are read at once


@dataclass(frozen=True)
class Made:
    """A unit that is finished and not committed."""

    unit: int
    rows: pa.Table
    seconds: float


def run(
    plan: Plan,
    folder: Path,
    device: str = "cpu",
    part: tuple[int, int] = (1, 1),
    until: str | None = None,
    jobs: int = 1,
    pool: Pool | None = None,
    at: str | None = None,
) -> bool:
    """Do what is left of a plan in ``folder``, and say whether it is complete now (up to ``until``).

    Args:
        part: (k, n) does the k-th of n equal slices of the units, k from 1, and no jobs. Columns are joined by whoever
            finishes last; a part stops before the first step that needs the other parts.
        until: name of the last step to do.
        jobs: trainings that are done at a time, each in a process of its own with its share of the cores.
        pool: other processes that make the units and do the jobs; see run/on_ray.py.
        at: address in an object store where the tables lie; those of a folder that was told so lie there anyway.
    Raises: FolderInUse, SettingsChanged, and whatever ReverieError a stage raises; units finished before it are kept.
    """
    check_min(1, jobs=jobs)
    if (jobs > 1 or pool) and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(
            f"{'--on ray gives work to actors' if pool else '--jobs does several trainings at a time'}, and here all processes do "
            "one training together; leave it out"
        )
    if jobs > 1 and pool is None and plan.file is not None:  # its stages are known to this process alone
        raise InputError(f"--jobs works for recipes of reverie, and {plan.recipe} is a file of your own; leave it out")
    if until is not None:
        plan.step(until)
    if int(os.environ.get("RANK", 0)) > 0:
        _follow(plan, folder, device, until)
        return True
    last = len(plan.steps) if until is None else plan.steps.index(plan.step(until)) + 1
    with gone_if_it_fails(folder):
        claim(folder, ours=("plan.json", POINTER), flag="--files" if at else "--out")
        for place, step in enumerate(plan.steps):  # which may load models
            step.stage.check()
            if place < last and not (folder / "done" / f"{step.name}.json").exists():
                step.stage.check_device(device)
        if at := at or tables_of(folder):
            join_run(folder, at)
    with ExitStack() as held:
        # A run of jobs alone has no unit, and is still the work of one process.
        own = part_of(plan.num_units, part) if part != (1, 1) else range(max(1, plan.num_units))
        held.enter_context(units_held(folder, own))
        events = held.enter_context(Events(folder))
        with alone(folder):
            plan.settle(folder, change=part == (1, 1))  # nobody else is at work then
        events.report("run", part=list(part), device=device)
        if not all(StepRunner(plan, step, folder, device, events).is_done() for step in plan.steps):
            for note in plan.notes:
                events.say(f"{plan.recipe}: {note}")
        page = held.enter_context(PageSoFar(plan, folder, device, events))
        for place, step in enumerate(plan.steps):
            if page.step is step:
                page.stop()
            work = StepRunner(plan, step, folder, device, events, pool=pool)
            if not work.is_done() and jobs > 1 and part == (1, 1):
                done = {path.stem for path in work.mark.parent.glob("*.json")}
                together = group([other for other in plan.steps[place:last] if other.name not in done], done)
                if len(together) > 1:
                    (pool.jobs if pool else do_beside)(plan, together, folder, device, jobs, events)
            if not work.is_done():
                if part != (1, 1) and (obstacle := work.not_for_a_part()):
                    events.say(f"{step.name}: {obstacle}")
                    return False
                work.do(part_of(plan.num_units, part))
            if step.name == until:
                return work.is_done()
        return all(StepRunner(plan, step, folder, device, events).is_done() for step in plan.steps)


def _follow(plan: Plan, folder: Path, device: str, until: str | None) -> None:
    """What the other processes of an ``accelerate launch`` do: their share of the training, once the first has come to it."""
    while not plan.is_settled(folder):  # until then a mark may be that of a job which is to do more now
        time.sleep(0.2)
    for step in plan.steps:
        marks = {name: folder / "done" / f"{name}.json" for name in (step.name, *step.inputs)}
        if isinstance(step.stage, Job) and step.stage.together:
            while not all(marks[name].exists() for name in step.inputs):
                time.sleep(1.0)
            if not marks[step.name].exists():
                step.stage.run(StepContext(folder, step.name, step.inputs, plan.seed, device))
        if step.name == until:
            return


def part_of(num_units: int, part: tuple[int, int]) -> range:
    """The units of slice k of n. Raises InputError unless 1 <= k <= n."""
    k, n = part
    if not 1 <= k <= n:
        raise InputError(f"part {k}/{n}: give k/n with k from 1 to n")
    return range((k - 1) * num_units // n, k * num_units // n)


class Pool(Protocol):
    """Other processes that do the work of a run, while this one hands it out and commits."""

    def units(self, work: StepRunner, todo: Sequence[int]) -> Generator[Made, None, None]:
        """Make these units of a step, in any order."""
        ...

    def jobs(self, plan: Plan, steps: Sequence[Step], folder: Path, device: str, jobs: int, events: Events) -> None:
        """Do these steps and mark them, up to ``jobs`` of them at a time."""
        ...


class StepRunner:
    """One step of a run: what it reads, what is left, and doing it."""

    def __init__(
        self,
        plan: Plan,
        step: Step,
        folder: Path,
        device: str,
        events: Events,
        retry: int = 0,
        pool: Pool | None = None,
    ) -> None:
        self.plan, self.step, self.events, self.folder, self.pool = plan, step, events, folder, pool
        self.context = StepContext(folder, step.name, step.inputs, plan.seed, device, events.of(step.name), retry)
        self.table = {"captions": self.context.captions, "pairs": self.context.pairs}.get(
            step.kind, self.context.columns()
        )
        self.source = {"pairs": self.context.captions, "columns": self.context.pairs}.get(step.kind)
        self.mark = folder / "done" / f"{step.name}.json"

    def is_done(self) -> bool:
        return self.mark.exists()

    def not_for_a_part(self) -> str | None:
        """Why this step has to wait until the parts are together; None if it need not."""
        if self.step.kind == "job":  # two parts that finish together would both begin it
            return "one piece of work; when all parts are through, run again without --part"
        complete = {path.stem for path in self.mark.parent.glob("*.json")}
        late = [
            step.name for step in self.plan.steps if step.name in self.step.inputs and step.kind in ("columns", "job")
        ]
        late = [name for name in late if name not in complete]
        return f"needs all of {', '.join(late)}; when the other parts are through, run this again" if late else None

    def do(self, mine: range) -> None:
        began = time.monotonic()
        if self.step.kind == "job" and self.pool:
            self.pool.jobs(self.plan, [self.step], self.folder, self.context.device, 1, self.events)
            return
        self.events.report("step", step=self.step.name, stage=self.step.kind)
        if self.step.kind == "job":
            with self.events.progress(self.step.name, 0, 0, "steps"):
                self.do_job()
            return
        self.make(mine)
        with alone(self.folder):
            if not self.is_done() and self.is_complete():
                if self.step.kind == "columns":
                    self.join()
                self.finish(time.monotonic() - began)

    def do_job(self) -> None:
        """Do the job and mark it, without a display."""
        began = time.monotonic()
        cast(Job, self.step.stage).run(self.context)
        self.finish(time.monotonic() - began)

    def finish(self, seconds: float) -> None:
        self.events.report("done", step=self.step.name, seconds=round(seconds, 3))
        self.mark.parent.mkdir(exist_ok=True)
        facts = {
            "step": self.step.name,
            "fingerprint": self.plan.fingerprints()[self.step.name],
            "finished": round(time.time(), 3),
        }
        with atomic_file(self.mark) as partial:
            partial.write_text(json.dumps(facts), encoding="utf-8")

    # What is left

    def due(self) -> set[int]:
        """Units that have something to work on, as far as the input is there."""
        if self.source is None:
            return set(range(self.plan.num_units))
        return tables.units_with(self.source, f"status = '{OK}'")

    def made(self) -> set[int]:
        return tables.done_units(self.table) if tables.exists(self.table) else set()

    def is_complete(self) -> bool:
        if self.source is not None:
            kind = "captions" if self.step.kind == "pairs" else "pairs"
            (before,) = (step.name for step in self.plan.steps if step.kind == kind)
            if not (self.folder / "done" / f"{before}.json").exists():
                return False
        return self.due() <= self.made()

    # Doing it

    def make(self, mine: range) -> None:
        """Make what is left of these units and commit each, the commit of one beside the making of the next."""
        due = self.due() & set(mine)
        todo = sorted(due - self.made())
        if not todo:
            if not due and self.source is not None and self.is_complete():
                what = "caption" if self.step.kind == "pairs" else "image"
                raise InputError(
                    f"no {what} is usable, so there is nothing for step {self.step.name!r} to work on; why: "
                    f"reverie report {self.folder}"
                )
            return
        total, done = len(due), len(due) - len(todo)
        units = self.pool.units(self, todo) if self.pool else self.made_here(todo)
        # Closed here, not whenever an error is forgotten: by then the other processes may be gone.
        with self.events.progress(self.step.name, done, total, "units"), closing(units) as made:
            self.write(made, done, total)

    def made_here(self, todo: Sequence[int]) -> Generator[Made, None, None]:
        """Make units one after the other, in this process; what ends one, where a worker says so, beside the next one."""
        worker = cast(UnitStage, self.step.stage).open(self.context)
        with ThreadPoolExecutor(1, thread_name_prefix="finish") as hands:
            ending: deque[tuple[int, float, Future[pa.Table]]] = deque()
            try:
                for unit, given in self.all_given(todo):
                    began = time.monotonic()
                    if isinstance(worker, TwoPartWorker):
                        rest = hands.submit(self.finished, unit, given, worker.begin(given))
                        ending.append((unit, time.monotonic() - began, rest))
                        if len(ending) == 1:
                            continue
                        unit, seconds, rest = ending.popleft()
                        yield Made(unit, rest.result(), seconds)
                    else:
                        yield Made(unit, self.unit(worker, unit, given), time.monotonic() - began)
            except ReverieError:  # of a unit that was begun: what is before it stays
                yield from (Made(unit, rest.result(), seconds) for unit, seconds, rest in ending)
                raise
            yield from (Made(unit, rest.result(), seconds) for unit, seconds, rest in ending)

    def write(self, made: Iterator[Made], done: int, total: int) -> None:
        """Commit units as they are made, beside the making: at once, but those of the same ``GATHER_S`` seconds together."""
        waiting: list[Made] = []
        lock, hurry, last, size = threading.Lock(), threading.Event(), float("-inf"), 0

        def commit() -> None:
            nonlocal done, last, size
            if not waiting:
                return
            hurry.wait(max(0.0, last + GATHER_S - time.monotonic()))
            with lock:
                group, waiting[:], size = list(waiting), [], 0
            last = time.monotonic()
            tables.append_units(self.table, {item.unit: item.rows for item in group})
            for item in group:
                done += 1
                self.tell(item, done, total)

        with ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:
            commits: deque[Future[None]] = deque()
            try:
                for item in made:
                    with lock:
                        waiting.append(item)
                        size += item.rows.nbytes
                        large = size > AHEAD_BYTES
                    commits.append(writer.submit(commit))
                    if len(commits) > (AHEAD if large else AHEAD_MOST):
                        hurry.set()
                        while len(commits) > AHEAD:  # all that are small, or the next ones would go one by one
                            commits.popleft().result()
                        hurry.clear()
                    while commits and commits[0].done():
                        commits.popleft().result()
            finally:
                hurry.set()
            for each in commits:
                each.result()

    def unit(self, worker: Worker, unit: int, given: pa.Table) -> pa.Table:
        """The finished rows of one unit, checked against what the stage promises."""
        return self.finished(unit, given, lambda: worker(given))

    def finished(self, unit: int, given: pa.Table, finish: Callable[[], pa.Table]) -> pa.Table:
        """The same of what ends one."""
        rows = finish()
        check_rows(self.step, unit, given, rows)
        return rows

    def given(self, unit: int) -> pa.Table:
        """What the worker of this step gets to see for one unit."""
        if self.source is None:
            first = unit * self.plan.unit_size
            positions = range(first, min(first + self.plan.unit_size, self.plan.num_captions))
            return pa.table(
                {"unit": pa.array([unit] * len(positions), pa.int64()), "position": pa.array(positions, pa.int64())}
            )
        if self.step.kind == "pairs":
            return tables.read_unit(self.source, unit, only=OK)
        columns = [
            "pair_id",
            "unit",
            *(name for name in cast(UnitStage, self.step.stage).reads if name not in ("pair_id", "unit")),
        ]
        return tables.read_unit(self.source, unit, columns=columns, only=OK)

    def all_given(self, todo: Sequence[int]) -> Iterator[tuple[int, pa.Table]]:
        """The same for units one after the other. Captions, which are small, are read ahead."""
        if self.step.kind != "pairs" or self.source is None:
            yield from ((unit, self.given(unit)) for unit in todo)
            return
        for start in range(0, len(todo), READ_AHEAD):
            yield from tables.read_units(self.source, todo[start : start + READ_AHEAD], only=OK).items()

    def tell(self, made: Made, done: int, total: int) -> None:
        """Log a unit that is committed."""
        self.events.report(
            "unit",
            step=self.step.name,
            unit=made.unit,
            rows=len(made.rows),
            **status_counts(made.rows),
            seconds=round(made.seconds, 4),
            done=done,
            total=total,
        )

    def join(self) -> None:
        """Put the finished columns beside the pairs. Done again after a kill or a retry, so they may be there."""
        if tables.exists(self.table):
            tables.add_columns(self.context.pairs, self.table, key="pair_id", replace=True)
            self.events.report("joined", step=self.step.name)

    # Doing it again

    def retry_failed(self, was_done: bool, to_join: list[Path]) -> int:
        """Make failed rows again, and rows that are missing because what they come from failed before.

        Args:
            was_done: units that are not there at all are missing rows too, not work that was never begun.
            to_join: marks of steps whose columns must be joined anew if anything changes; taken away before it does, so that
                a kill leaves a run that knows it is not complete.
        Returns: how many rows are no longer failed.
        """
        made = self.made()
        units = sorted(self.due() if was_done else self.due() & made)
        worker: Worker | None = None
        fixed = 0
        with self.events.progress(self.step.name, 0, len(units), "units"):
            for number, unit in enumerate(units, start=1):
                given, known, key = (
                    self.failed(unit) if unit in made else (self.given(unit), pa.array([], pa.string()), "")
                )
                if len(given):
                    worker = worker or cast(UnitStage, self.step.stage).open(self.context)
                    rows = worker(given)
                    for mark in to_join:
                        mark.unlink(missing_ok=True)
                    if unit in made:
                        rows = rows.filter(pc.invert(pc.is_in(rows[key], known)))
                        tables.replace_rows(self.table, rows, key=key)
                    else:  # every row it comes from had failed, so there was no such unit
                        tables.append_unit(self.table, unit, rows)
                    counts = status_counts(rows)
                    fixed += counts.get(OK, len(rows) if self.step.kind == "columns" else 0)
                    self.events.report("retried", step=self.step.name, unit=unit, **counts)
                self.events.report("progress", step=self.step.name, done=number, total=len(units))
        if self.step.kind == "columns" and not self.is_done() and self.is_complete():
            self.join()
            self.finish(0.0)
        return fixed

    def failed(self, unit: int) -> tuple[pa.Table, pa.Array, str]:
        """What to give the worker once more, the keys to keep as they are, and the name of the key."""
        key = "caption_id" if self.step.kind == "captions" else "pair_id"
        given = self.given(unit)
        if self.step.kind == "columns":
            known = tables.read_unit(self.table, unit, columns=["pair_id"])["pair_id"]
            return given.filter(pc.invert(pc.is_in(given["pair_id"], known))), _array(known), key
        rows = tables.read_unit(self.table, unit, columns=sorted({key, "caption_id", "status"}))
        good = rows.filter(pc.not_equal(rows["status"], FAILED))
        if self.step.kind == "captions":  # a source sees positions only: it makes the unit again, and one part is used
            return (given if len(good) < len(rows) else given.slice(0, 0)), _array(good[key]), key
        bad = rows.filter(pc.equal(rows["status"], FAILED))["caption_id"]
        missing = pc.invert(pc.is_in(given["caption_id"], _array(rows["caption_id"])))
        return given.filter(pc.or_(missing, pc.is_in(given["caption_id"], _array(bad)))), _array(good[key]), key


def retry(plan: Plan, folder: Path, device: str = "cpu") -> dict[str, int]:
    """Make failed rows again, and what was left out because of them. Networks that all processes train together
    stay as they are; other jobs that read the rows forget what they made, and are done anew when the run goes on.

    Returns: step -> rows that failed before and no longer do.
    """
    with units_held(folder, range(plan.num_units)), Events(folder) as events, alone(folder):
        # Counted from 1: attempt 0 is the run's own. What failed because of its seed would fail again with the same one.
        before = 1 + sum(event.get("kind") == "retry" for event in read_events(folder))
        events.report("retry", device=device)
        work = [StepRunner(plan, step, folder, device, events, before) for step in plan.steps]
        unit_work = [(item, item.is_done()) for item in work if item.step.kind != "job"]
        to_join = [item.mark for item, _ in unit_work if item.step.kind == "columns"]
        fixed = {item.step.name: item.retry_failed(was_done, to_join) for item, was_done in unit_work}
        if any(fixed.values()):
            for item in work:
                if item.step.kind == "job" and item.is_done():
                    if isinstance(item.step.stage, Job) and item.step.stage.together:
                        events.say(f"{item.step.name}: is trained already and stays as it is, without the new rows")
                    else:
                        item.mark.unlink()
                        events.say(f"{item.step.name}: is done anew, with the new rows, when the run goes on")
            _forget_what_read(
                [item for item in work if not (isinstance(item.step.stage, Job) and item.step.stage.together)]
            )
        return fixed


def _forget_what_read(work: list[StepRunner]) -> None:
    """Take away what jobs made of rows that have changed, and what others made of that, or they would find themselves done."""
    from reverie.store import results  # retrying needs no more of it

    changed = {item.step.name for item in work if item.step.kind != "job"}
    for item in work:
        if item.step.kind == "job" and changed & set(item.step.inputs):
            changed.add(item.step.name)
            for left in (item.context.weights(), item.context.checkpoints()):
                shutil.rmtree(left, ignore_errors=True)
            results.drop(item.context.results, item.step.name)


def status_counts(rows: pa.Table) -> dict[str, int]:
    if "status" not in rows.column_names:
        return {}
    return {item["values"]: item["counts"] for item in pc.value_counts(rows["status"]).to_pylist()}


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def check_rows(step: Step, unit: int, given: pa.Table, rows: pa.Table) -> None:
    """A stage keeps its promises, or it is a bug in the stage: then stop before anything is written."""

    def promise(kept: bool, what: str) -> None:
        if not kept:
            raise ValueError(f"step {step.name!r} ({type(step.stage).__name__}), unit {unit}: {what}")

    promise(set(pc.unique(rows["unit"]).to_pylist()) <= {unit}, "rows of another unit")
    key = "caption_id" if step.kind == "captions" else "pair_id"
    promise(len(pc.unique(rows[key])) == len(rows), f"two rows with one {key}")
    if step.kind == "columns":
        promise(
            pc.unique(rows[key]).to_pylist() == pc.unique(given[key]).to_pylist(), "not one row for each pair given"
        )
        return
    counts = status_counts(rows)
    promise(counts.keys() <= {"ok", "dropped", "failed"}, f"statuses {sorted(counts)}")
    if step.kind == "captions":
        promise(
            counts.get("ok", 0) + counts.get("failed", 0) == len(given), "not one ok or failed row for each position"
        )
    else:
        promise(
            set(rows["caption_id"].to_pylist()) <= set(given["caption_id"].to_pylist()),
            "rows of captions it was not given",
        )
        if per_caption := cast(UnitStage, step.stage).per_caption:
            promise(
                len(rows) == per_caption * len(given),
                f"{len(rows)} rows for {len(given)} captions of {per_caption} each",
            )
