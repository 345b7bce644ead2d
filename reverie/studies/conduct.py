"""Conducts a study: estimates its power, does its runs, judges its claims, and adds seeds until they are decided or the time is up.

Steps of a run are named by their seed, and jobs that measure say which fields may grow (``stage.Job``), so a study with more
seeds goes on in the folder of the one with fewer. Where a run cannot grow, further seeds have runs of their own
(``Study.continues``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reverie.errors import InputError
from reverie.evaluate.claims import ClaimResult, judge_all, read_looks, weigh
from reverie.evaluate.looks import MAX_SEEDS, Looks, levels
from reverie.evaluate.significance import MIN_SEEDS
from reverie.run.engine import run
from reverie.run.events import read_events
from reverie.run.plan import read_plan
from reverie.stage import Job
from reverie.studies import Study

Make = Callable[[int], Study]
"""The study with so many seeds."""


@dataclass(frozen=True)
class Decide:
    """Add seeds until every claim is decided, this many are there, or so much time has passed."""

    max_seeds: int | None = None  # as many as the folder was begun with, or ``MAX_SEEDS``
    max_hours: float = 3.0  # of this call


@dataclass(frozen=True)
class Conducted:
    """What came out of a study."""

    study: Study
    judged: list[ClaimResult]
    looks: Looks


def conduct(
    make: Make,
    folder: Path,
    seeds: int,
    device: str = "cpu",
    decide: Decide | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    foresee: Callable[[Sequence[ClaimResult], int], None] = lambda judged, seeds: None,
    after: Callable[[Path], None] = lambda folder: None,
) -> Conducted:
    """Do what is left of a study with at least so many seeds, and judge its claims.

    Args:
        jobs: trainings at a time.
        decide: add seeds; the looks are paid for. What was begun so goes on so.
        say: one sentence for the person who waits.
        foresee: told, before most of the work, the claims as the last results or the pilot have them, at the level of the next look, and
            the number of seeds then.
        after: told the folder of each run that is done.
    Raises: InputError for more seeds than the looks are planned for, or where seeds cannot be added.
    """
    began, before = time.monotonic(), read_looks(folder)
    there = seeds_there(folder, make)
    if there > seeds:
        say(f"{folder} has {there} seeds already; all of them count")
    # Where a run's folder was taken away since the last look, its seeds are done again: a look at fewer is no further look.
    seeds = max(seeds, there, *before.seeds[-1:], MIN_SEEDS if decide else 1)
    looks = _begin(before, decide, seeds, folder)
    if decide and not can_grow(make, seeds):
        raise InputError(
            "a run of this study does something else with more seeds, so none can be added later; leave out --decide and give --num-seeds"
        )

    def do(number: int) -> Study:
        study = make(number)
        for place, (name, plan) in enumerate(study.runs.items(), 1):
            say(f"run {place} of {len(study.runs)}, {name}, {_seeds(number)}")
            run(plan, folder / name, device, jobs=jobs)
            after(folder / name)
        return study

    pilot = _pilot(make, do, folder, there, seeds, say)
    if pilot:
        level, once = levels(looks.add(seeds))[-1], make(seeds).once
        foresee([item if item.claim.name in once else replace(item, level=level) for item in pilot], seeds)
    while True:
        started, done = time.monotonic(), there
        study = do(seeds)
        if before.seeds and not (looks.max_seeds or decide) and before.seeds[-1] < seeds:
            say(
                f"this study was looked at with {before.seeds[-1]} seeds before: who looks until claims are decided is wrong more "
                "often than in 5 % of cases; --decide pays for its looks"
            )
        looks = looks.add(seeds)
        judged = judge_all(study.claims, folder, study.arms_of, looks, study.once)
        if not decide:
            return Conducted(study, judged, looks)
        took = (time.monotonic() - started) / (seeds - done) if done >= MIN_SEEDS and seeds > done else 0.0
        each = max(took, seconds_per_seed(make, folder, seeds, jobs))
        left = 3600 * decide.max_hours - (time.monotonic() - began)
        more, why = next_seeds(judged, study.once, looks, each, left)
        say(why)
        if not more:
            return Conducted(study, judged, looks)
        there, seeds = seeds, seeds + more


def next_seeds(
    judged: Sequence[ClaimResult], once: frozenset[str], looks: Looks, seconds_each: float, seconds_left: float
) -> tuple[int, str]:
    """How many seeds to add before the next look, 0 to stop, and why.

    Half as many again, or as many as fit into the time: neither depends on what was measured, so the error spent stays right.

    Args: seconds_each: that a further seed takes.
    """
    seeds, max_seeds = looks.seeds[-1], looks.max_seeds or looks.seeds[-1]
    undecided = [item for item in judged if item.verdict == "inconclusive"]
    open_ = [item for item in undecided if item.claim.name not in once and item.mean is not None]
    if not undecided:
        return 0, f"every claim is decided, with {seeds} seeds"
    fixed = [item.claim.name for item in undecided if item.claim.name in once]
    unknown = [item.claim.name for item in undecided if item.claim.name not in once and item.mean is None]
    told = [f"not dependent on seeds: {', '.join(fixed)}"] * bool(fixed) + [
        f"not measured: {', '.join(unknown)}"
    ] * bool(unknown)
    aside = f" ({'; '.join(told)})" if told else ""
    state = f"{len(undecided)} of {len(judged)} claims undecided with {seeds} seeds{aside}"
    if not open_:
        return 0, f"{state}; no seed can decide them"
    if seeds >= max_seeds:
        return 0, f"{state}; more are not planned for (--max-seeds)"
    wanted = min((seeds + 1) // 2, max_seeds - seeds)
    fits = int(seconds_left / seconds_each) if seconds_each > 0 else wanted
    if fits < 1:
        lasts, left = _time(seconds_each), _time(max(0.0, seconds_left))
        return 0, f"{state}; another seed takes about {lasts} and {left} of --max-hours are left, so it stops here"
    more = min(wanted, fits)
    return more, f"{state}; {_seeds(more)} more in about {_time(more * seconds_each)}"


def seconds_per_seed(make: Make, folder: Path, seeds: int, jobs: int = 1) -> float:
    """What a further seed takes: the steps of the last one, and its share of the jobs that measure all of them, as they were timed.

    Of steps that can be done side by side, ``jobs`` at a time, each counts as that part of its time.
    """
    now, less, total = make(seeds), make(seeds - 1), 0.0
    for name, plan in now.runs.items():
        took: dict[str, float] = {}
        for event in read_events(folder / name):
            if event.get("kind") == "done" and "seconds" in event:
                took[event["step"]] = took.get(event["step"], 0.0) + float(event["seconds"])
        known = less.runs.get(name)
        shared = set(plan.again(known.record())) if known else set()
        there = {step.name for step in known.steps} if known else set()
        own = [step for step in plan.steps if step.name not in there]
        beside = [step.name for step in own if isinstance(step.stage, Job) and step.stage.beside]
        alone = [step.name for step in own if step.name not in beside]
        total += sum(took.get(step, 0.0) for step in beside) / max(1, min(jobs, len(beside)))
        total += sum(took.get(step, 0.0) for step in alone)
        total += sum(took.get(step, 0.0) for step in shared) / seeds
    return total


def seeds_there(folder: Path, make: Make) -> int:
    """How many seeds the runs of a study were begun with; 0 where there are none yet."""

    def begun(runs: Iterable[str]) -> list[Path]:
        return [folder / name for name in runs if (folder / name / "plan.json").exists()]

    found = [read_plan(plan)["arguments"].get("num_seeds") for plan in begun(make(1).runs)]
    there = max((number for number in found if isinstance(number, int)), default=0)
    # Further seeds may have runs of their own, of which the plans of the first ones know nothing.
    while there and begun(set(make(there + 1).runs) - set(make(there).runs)):
        there += 1
    return there


def can_grow(make: Make, seeds: int, to: int | None = None) -> bool:
    """Whether the study with more seeds can go on where this one ended."""
    few, many = make(seeds), make(to or seeds + 1)
    return all(many.runs[name].goes_on_from(plan) for name, plan in few.runs.items())


def _begin(before: Looks, decide: Decide | None, seeds: int, folder: Path) -> Looks:
    """The looks so far, under the rule that this call has. Raises InputError where it would change the rule or break it."""
    if not decide and before.max_seeds is None:
        return before
    wanted = decide.max_seeds if decide else None
    if before.max_seeds is not None and wanted not in (None, before.max_seeds):
        raise InputError(
            f"the looks at {folder} are planned for at most {before.max_seeds} seeds, and what was seen must not change that: "
            f"--max-seeds {wanted} needs another --out"
        )
    max_seeds = before.max_seeds or wanted or MAX_SEEDS
    if seeds > max_seeds:
        raise InputError(f"{seeds} seeds are more than the {max_seeds} that the looks are planned for; see --max-seeds")
    # Looks that were not paid for decided nothing that counts here.
    return before if before.max_seeds is not None else Looks((), max_seeds)


def _pilot(
    make: Make, do: Make, folder: Path, there: int, seeds: int, say: Callable[[str], None]
) -> list[ClaimResult] | None:
    """The claims as the last results have them; else, where more than three seeds are wanted, as the first three of these do."""
    study = make(max(there, 1))
    known = weigh(study.claims, folder, study.arms_of) if there else []
    if any(item.could_see() is not None for item in known):
        return known
    if seeds <= MIN_SEEDS:
        say(f"nothing to estimate from yet: {_seeds(seeds)}, and what a study can see is known from {MIN_SEEDS} on")
        return None
    if not can_grow(make, MIN_SEEDS, seeds):
        say(
            "nothing to estimate from yet: a run of this study does something else with more seeds, so none can go ahead"
        )
        return None
    say(f"the first {MIN_SEEDS} of {_seeds(seeds)} are the pilot, which says what all of them can see")
    study = do(max(MIN_SEEDS, there))
    return weigh(study.claims, folder, study.arms_of)


def _seeds(number: int) -> str:
    return f"{number} seed{'s' * (number != 1)}"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
