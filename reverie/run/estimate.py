"""What a run will take, before it: the resolved steps, how much each makes, and time and disk from a timed trial on this device.

The trial is a run of its own in a folder that is gone afterwards: a few units of a few captions through every step up to the selection
(run/preview.py), then a few steps of each training, and a little of each measurement, that can be cut short (``Job.trial``). The first unit and the first step set things up
and do not count for the rate; of the others the middle one does, and the quickest and the slowest are the spread. What cannot be tried
has no time, and says why; it is never counted as nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa

from reverie import stage as stages
from reverie.errors import InputError, ReverieError
from reverie.run.engine import StepRunner, run
from reverie.run.events import Events, read_events
from reverie.run.plan import Plan, Step
from reverie.run.preview import preview_of
from reverie.stage import Job, StepContext, Trial, UnitStage
from reverie.store import tables
from reverie.store.files import passing_folder

ENCODED = "images encoded"  # what else tells its speed, see models/feature_cache.py
READ = frozenset({"ReadCorpus"})  # stages whose captions are there already
GROWS = "took {:.2g} s on what the trial had; how it grows is not known"
UNITS = 4  # of a trial; the first one does not count
TRAINED = 8  # optimiser steps of a trial
# Of what is not tried anywhere, and small beside the rest.
NEVER = {"measure": "not tried: it measures what was trained", "page": "not tried: it writes the page at the end"}
AFTER = "not tried: it reads "  # of what could be tried if a step before it were
MAX_COPIED = 1 << 29  # bytes of images that a trial may copy to have enough for a batch of training


class Span(NamedTuple):
    """A number with its spread."""

    low: float
    middle: float
    high: float

    def times(self, factor: float, more: float = 0.0) -> Span:
        """Each by a factor, and as much more."""
        return Span(*(value * factor + more for value in self))


def _sum(spans: Iterable[Span]) -> Span:
    """Of things that are done one after the other."""
    return Span(*(sum(each) for each in zip(*spans, strict=True)))


@dataclass(frozen=True)
class StepEstimate:
    """What one step will take; None is not known, and ``unknown`` says why."""

    name: str
    stage: str
    role: str
    units: int | None = None
    rows: int | None = None  # captions or images that it makes or looks at
    steps: int | None = None  # optimiser steps
    seconds: Span | None = None
    disk_bytes: int | None = None
    tried: str = ""  # what was timed
    unknown: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    recipe: str
    device: str
    captions: int
    images: int | None
    units: int
    tokens: Mapping[str, int] | None  # that a writer reads and writes
    steps: tuple[StepEstimate, ...]
    trial_seconds: float
    notes: tuple[str, ...] = ()
    price_per_hour: float | None = None

    @property
    def without(self) -> tuple[str, ...]:
        """Steps that would take time and could not be tried here, without those that only wait for them: the sums are less than the whole."""
        missing = [
            step
            for step in self.steps
            if step.seconds is None and step.unknown.startswith("not tried: ") and step.unknown not in NEVER.values()
        ]
        first = [step for step in missing if not step.unknown.startswith(AFTER)]
        return tuple(step.name for step in first or missing)

    @property
    def is_known(self) -> bool:
        """Whether a sum says anything: one without the painter, of nothing but captions that are read, does not."""
        return not self.without or any(step.seconds is not None and step.stage not in READ for step in self.steps)

    @property
    def seconds(self) -> Span | None:
        """Of all steps whose time is known, one after the other."""
        known = [step.seconds for step in self.steps if step.seconds is not None]
        return _sum(known) if known and self.is_known else None

    @property
    def cost(self) -> Span | None:
        """Of that time."""
        whole = self.seconds
        return whole.times(self.price_per_hour / 3600) if whole and self.price_per_hour is not None else None

    @property
    def disk_bytes(self) -> int | None:
        """Of all steps whose results were weighed."""
        known = [step.disk_bytes for step in self.steps if step.disk_bytes is not None]
        return sum(known) if known and self.is_known else None

    def record(self) -> dict[str, Any]:
        """All of it as plain JSON values."""

        def span(value: Span | None) -> dict[str, float] | None:
            return None if value is None else {name: round(part, 3) for name, part in value._asdict().items()}

        return {
            "recipe": self.recipe, "device": self.device, "captions": self.captions, "images": self.images, "units": self.units,
            "tokens": None if self.tokens is None else dict(self.tokens), "seconds": span(self.seconds), "disk_bytes": self.disk_bytes,
            "price_per_hour": self.price_per_hour, "cost": span(self.cost), "trial_seconds": round(self.trial_seconds, 1), "notes": list(self.notes),
            "without": list(self.without),
            "unknown": {step.name: step.unknown for step in self.steps if step.unknown},
            "steps": [{**vars(step), "seconds": span(step.seconds)} for step in self.steps],
        }  # fmt: skip


@dataclass
class _Tried:
    """What the trial of the steps up to the selection left to read."""

    captions: int
    events: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)  # by step
    stopped: str = ""  # why it did not come to its end
    seconds: float = 0.0

    def read(self, folder: Path) -> None:
        """All that was told so far."""
        events: dict[str, list[dict[str, Any]]] = {}
        for event in read_events(folder) if (folder / "events.jsonl").exists() else ():
            events.setdefault(str(event.get("step", "")), []).append(event)
        self.events = events


def estimate(
    plan: Plan,
    device: str = "cpu",
    captions: int = 3,
    max_minutes: float = 5.0,
    until: str | None = None,
    absent: Callable[[Step], str] = lambda step: "",
) -> Estimate:
    """Try a plan, and tell what all of it will take.

    Args:
        captions: of each unit of the trial; 0 tries nothing, and then no time is known.
        max_minutes: after which no further training is begun.
        until: last step of the run.
        absent: why a step with units cannot be tried here, such as a server that would be asked; empty for one that can.
    Raises: what the plan's stages say is wrong with it, before any work.
    """
    if captions:  # several units also of few captions, as one shows no spread
        captions = max(1, min(captions, plan.num_captions // UNITS))
    last = len(plan.steps) if until is None else plan.steps.index(plan.step(until)) + 1
    steps = plan.steps[:last]
    why: dict[str, str] = {}
    for step in steps:
        late = next((f"it reads {name}" for name in step.inputs if name in why), "")
        if text := late or (absent(step) if isinstance(step.stage, UnitStage) else ""):
            why[step.name] = text
    for step in plan.steps:
        step.stage.check()
        if step in steps and step.name not in why:
            step.stage.check_device(device)
    with passing_folder("reverie-plan-") as place:
        folder, began = place / "trial", time.monotonic()
        tried = _try(plan, steps, folder, device, captions, why) if captions else _Tried(0)
        found = [_unit_step(plan, step, folder, tried) for step in steps]
        if captions:
            later = _Later(plan, folder, device, began + 60 * max_minutes, tried, captions, why)
            found = [later.estimate(step, known) for step, known in zip(steps, found, strict=True)]
        else:
            found = [_with(known, steps=_steps(step)) for step, known in zip(steps, found, strict=True)]
        took = time.monotonic() - began
        tokens = _tokens(plan, tried)
    found = [_explained(step, known, why, bool(captions), tried) for step, known in zip(steps, found, strict=True)]
    painted = next((each.rows for step, each in zip(steps, found, strict=True) if step.kind == "pairs"), None)
    return Estimate(plan.recipe, device, plan.num_captions, painted, plan.num_units, tokens, tuple(found), took, plan.notes)  # fmt: skip


def _try(plan: Plan, steps: Sequence[Step], folder: Path, device: str, captions: int, why: Mapping[str, str]) -> _Tried:
    """Some units through the steps up to the selection."""
    names = {step.name for step in steps}
    without = {*why, *(step.name for step in plan.steps if step.name not in names)}
    try:
        small = preview_of(plan, UNITS * captions, captions, without, images=False, together=captions, called="a trial")
    except InputError:  # nothing before the trainings
        return _Tried(0)
    tried, began = _Tried(small.num_captions), time.monotonic()
    try:
        run(small, folder, device)
    except ReverieError as error:
        tried.stopped = str(error)
    tried.seconds = time.monotonic() - began
    tried.read(folder)
    return tried


def _unit_step(plan: Plan, step: Step, folder: Path, tried: _Tried) -> StepEstimate:
    """What is known of a step from the trial up to the selection."""
    known = StepEstimate(step.name, type(step.stage).__name__, step.stage.role)
    events = tried.events.get(step.name, [])
    done = next((float(event["seconds"]) for event in events if event.get("kind") == "done"), None)
    if isinstance(step.stage, Job):
        if done is None:
            return known
        if step.stage.role == "source":  # all of it was done
            return _with(known, seconds=Span(done, done, done), tried="all of it")
        return _with(known, unknown=GROWS.format(done))
    made = [event for event in events if event.get("kind") == "unit"]
    rows = _rows(plan, step, made, tried)
    known = _with(known, units=plan.num_units, rows=rows)
    if not made or done is None or not tried.captions:
        return known
    each = [float(event["seconds"]) for event in made[1:] or made]
    size = tried.captions / len(made)
    middle = statistics.median(each)
    opening = max(0.0, done - middle * len(made))
    span = Span(min(each) / size, middle / size, max(each) / size).times(plan.num_captions, opening)
    return _with(known, seconds=span, disk_bytes=_weight(step, folder, plan.num_captions / tried.captions),
                 tried=f"{len(each)} unit{'s' * (len(each) > 1)} of {size:g} caption{'s' * (size != 1)}" + ", no spread" * (len(each) == 1))  # fmt: skip


def trial_of(stage: Job, images: Callable[[str], int]) -> Trial | str:
    """How a job is cut short, or why it is not; empty where its kind never is."""
    try:
        return stage.trial(TRAINED, images) or ""
    except ReverieError as error:
        return str(error)


def _total(trial: Trial) -> int | None:
    """Optimiser steps of the whole, if it has some."""
    steps = trial.steps if isinstance(trial.steps, int) else sum(trial.steps)
    return steps * trial.alike or None


def _steps(step: Step) -> int | None:
    """Optimiser steps, as far as they are known without images."""

    def images(where: str) -> int:
        raise InputError("not known")

    trial = trial_of(step.stage, images) if isinstance(step.stage, Job) else ""
    return None if isinstance(trial, str) else _total(trial)


def _span(facts: Mapping[str, Any]) -> Span:
    return Span(*(float(facts[name]) for name in ("low", "seconds_each", "high")))


def _times(trial: Trial, told: Sequence[Mapping[str, Any]], took: float) -> tuple[Span, Span]:
    """Of the whole work, by the speeds of its trial, and of the same again, when what was encoded is kept."""
    whole = trial.steps if isinstance(trial.steps, tuple) else (trial.steps,)
    fits = [_span(facts) for facts in told if facts["what"] == "steps"]
    fits += fits[-1:] * (len(whole) - len(fits))
    opening = took - sum(facts.get("done", facts["steps"]) * _span(facts).middle for facts in told)
    again = [Span(*3 * (max(0.0, opening),))]
    again += [span.times(trial.alike * steps) for span, steps in zip(fits, whole, strict=False)]
    encoded: list[Span] = []
    for facts in told:
        if "whole" in facts:
            again.append(_span(facts).times(facts["whole"]))
        elif facts["what"] == ENCODED:
            encoded.append(_span(facts).times(trial.images))
        elif facts["what"] != "steps":
            again.append(_span(facts).times(trial.alike * facts["done"]))
    return _sum([*again, *encoded]), _sum(again)


def _files(folder: Path, step: str) -> Iterable[Path]:
    """What a step left in a folder, its parts included."""
    return [file for place in (folder / step, *folder.glob(f"{step}.*")) for file in place.rglob("*") if file.is_file()]


def _with(known: StepEstimate, **facts: Any) -> StepEstimate:
    return StepEstimate(**{**vars(known), **facts})


def _rows(plan: Plan, step: Step, made: Sequence[Mapping[str, Any]], tried: _Tried) -> int | None:
    stage = cast(UnitStage, step.stage)
    if step.kind == "captions":
        return plan.num_captions
    if step.kind == "pairs" and stage.per_caption:
        return plan.num_captions * stage.per_caption
    if not made or not tried.captions:
        return None
    return round(sum(int(event["rows"]) for event in made) / tried.captions * plan.num_captions)


def _weight(step: Step, folder: Path, factor: float) -> int | None:
    """Bytes of what a step leaves, from the rows of the trial; images are not compressed any further by the store."""
    context = StepContext(folder, step.name)
    path = {"captions": context.captions, "pairs": context.pairs}.get(step.kind, context.columns())
    if not tables.exists(path):
        return None
    if step.kind == "columns":  # they are there twice: beside the pairs, and by themselves
        return round(2 * factor * sum(int(part.nbytes) for part in tables.scan(path)))
    own = _own_columns(path, step, folder)
    return round(factor * sum(int(part.nbytes) for part in tables.scan(path, own)))


def _own_columns(path: Path, step: Step, folder: Path) -> list[str]:
    """Columns of a table without those that later steps joined to it."""
    names = tables.column_names(path)
    if step.kind != "pairs":
        return names
    joined = {
        name
        for other in (folder / "columns").glob("*.lance")
        for name in tables.column_names(other)
        if name not in ("pair_id", "unit")
    }
    return [name for name in names if name not in joined]


def _tokens(plan: Plan, tried: _Tried) -> dict[str, int] | None:
    told = [event for events in tried.events.values() for event in events if event.get("kind") == "tokens"]
    if not told or not tried.captions:
        return None
    factor = plan.num_captions / tried.captions
    return {name: round(factor * sum(event[name] for event in told)) for name in ("read", "written")}


class _Later:
    """What a trial does after the steps up to the selection: trainings cut short, each kind once, as the same with another seed takes as
    long; then the steps with units that read what these leave.
    """

    def __init__(
        self, plan: Plan, folder: Path, device: str, stop: float, tried: _Tried, captions: int, why: Mapping[str, str]
    ) -> None:
        self.plan, self.folder, self.device, self.stop, self.tried = plan, folder, device, stop, tried
        self.captions = captions  # of a unit
        self.why = why  # of steps that cannot be tried
        self.made = {name for name, events in tried.events.items() if any(each.get("kind") == "done" for each in events)}  # fmt: skip
        self.known: dict[str, tuple[str, StepEstimate]] = {}
        self.copied = 0  # captions that the trial's images were multiplied to
        self.own: pa.Table | None = None  # those images

    def estimate(self, step: Step, known: StepEstimate) -> StepEstimate:
        """What a step will take, if it can be tried now."""
        if known.seconds or known.unknown or step.name in self.why:
            return known
        if not isinstance(step.stage, Job) or step.stage.preview(self.captions):
            return self._units(step, known)
        trial = trial_of(step.stage, self._images)
        if isinstance(trial, str):
            return _with(known, unknown=f"not tried: {trial}") if trial else known
        known = _with(known, steps=_total(trial))
        facts = stages.settings(step.stage)
        del facts["stage"]
        if facts.get("start") in step.inputs:
            del facts["start"]
        facts.pop("seed", None)
        key = stages.fingerprint({"stage": type(step.stage).__name__, **facts})
        if key in self.known:
            name, same = self.known[key]
            self._stands_in(name, step.name)
            return _with(known, seconds=same.seconds, disk_bytes=same.disk_bytes, unknown=same.unknown,
                         tried=f"as {name}" if same.seconds else "")  # fmt: skip
        if reason := self._obstacle(() if trial.alone else step.inputs):
            return _with(known, unknown=reason)
        found, again = self._try(step, trial, known)
        self.known[key] = step.name, again
        return found

    def _stands_in(self, name: str, other: str) -> None:
        """What reads a step that was not tried, as it differs in its seed alone, finds what the other one left."""
        weights = StepContext(self.folder, other).weights()
        if name in self.made and not weights.exists():
            weights.parent.mkdir(parents=True, exist_ok=True)
            weights.symlink_to(weights.with_name(name))
            self.made.add(other)

    def _obstacle(self, inputs: Iterable[str]) -> str:
        """Why what reads these steps is not tried."""
        if time.monotonic() > self.stop:
            return "not tried: the trial had taken its time (--max-minutes)"
        late = next((name for name in inputs if name not in self.made), "")
        return f"not tried: it reads {late}, which was not tried" if late else ""

    def _images(self, where: str) -> int:
        """About how many pairs of the run fit a filter, by what those of the trial did."""
        path = self.folder / "pairs.lance"
        if not self.tried.captions or not tables.exists(path):
            raise InputError("there were no images to try it on")
        some = tables.count(path, f"({where}) and unit < {UNITS}")
        return round(some * self.plan.num_captions / self.tried.captions)

    def _units(self, step: Step, known: StepEstimate) -> StepEstimate:
        """A step up to the selection that had to wait for what a training leaves."""
        if self.tried.stopped or not self.tried.captions:
            return known
        if reason := self._obstacle(step.inputs):
            return _with(known, unknown=reason)
        few = step.stage.preview(self.captions) if isinstance(step.stage, Job) else None
        here = dataclasses.replace(step, stage=few or step.stage)
        small = dataclasses.replace(self.plan, unit_size=self.captions)
        try:
            with Events(self.folder) as events:
                StepRunner(small, here, self.folder, self.device, events).do(range(UNITS))
        except ReverieError as error:
            return _with(known, unknown=f"not tried: {error}")
        self.made.add(step.name)
        self.tried.read(self.folder)
        return _unit_step(self.plan, step, self.folder, self.tried)

    def _try(self, step: Step, trial: Trial, known: StepEstimate) -> tuple[StepEstimate, StepEstimate]:
        """Do it. Returns: what the step takes, and what one that differs in its seed alone takes after it."""
        told: list[dict[str, Any]] = []
        untimed: list[str] = []

        def report(kind: str, **facts: Any) -> None:
            if kind == "speed":
                told.append(facts)
            elif kind == "untimed":
                untimed.append(facts["text"])

        context = StepContext(self.folder, step.name, step.inputs, self.plan.seed, self.device, report)
        try:
            if trial.captions:
                self._multiply(trial.captions)
            began = time.monotonic()
            trial.job.run(context)
            took = time.monotonic() - began
        except ReverieError as error:
            known = _with(known, unknown=f"not tried: {error}")
            return known, known
        self.made.add(step.name)
        number = sum(int(facts["steps"]) for facts in told if facts["what"] == "steps")
        parts: dict[str, int] = {}
        for facts in told:
            if "whole" in facts:
                parts[facts["what"]] = parts.get(facts["what"], 0) + int(facts["steps"])
        if parts:
            first, again = _times(trial, told, took)
            known = _with(known, unknown="; ".join(untimed), tried=", ".join(f"{some} {what}" for what, some in parts.items()))  # fmt: skip
            return _with(known, seconds=first), _with(known, seconds=again)
        if not number:
            if trial.part:
                known = _with(
                    known,
                    seconds=Span(*3 * (took / trial.part,)),
                    tried="all of it" if trial.part == 1 else f"{trial.part:.0%} of it",
                )
            else:
                known = _with(known, unknown="not tried: too few steps to time" if known.steps else GROWS.format(took))
            return known, known
        left = [file for place in ("weights", "checkpoints") for file in _files(self.folder / place, step.name)]
        size = trial.alike * sum(file.stat().st_size for file in left)
        known = _with(known, disk_bytes=size, tried=f"{number} steps")
        first, again = _times(trial, told, took)
        return _with(known, seconds=first), _with(known, seconds=again)

    def _multiply(self, captions: int) -> None:
        """Copies of the trial's images, under other names, until there are enough of them for a batch."""
        path = self.folder / "pairs.lance"
        if not tables.exists(path):
            raise InputError("there were no images to try it on")
        if captions <= self.copied:
            return
        if self.own is None:
            self.own = pa.concat_tables(tables.scan(path))
        rows = self.own
        names = dict.fromkeys(rows["caption_id"].to_pylist())
        times = -(-2 * captions // max(1, len(names)))  # twice as many, as not all are kept
        if times * rows.nbytes > MAX_COPIED:
            raise InputError(f"a batch of it needs {captions:,} captions with images, more than a trial makes")
        first = max(tables.done_units(path)) + 1
        for number in range(times):
            mark = f"{first + number:04x}"
            changed: dict[str, list[Any]] = {
                "caption_id": [mark + name[len(mark) :] for name in rows["caption_id"].to_pylist()],
                "pair_id": [mark + name[len(mark) :] for name in rows["pair_id"].to_pylist()],
                "unit": [first + number] * len(rows),
            }
            copy = rows
            for name, values in changed.items():
                place = copy.schema.get_field_index(name)
                copy = copy.set_column(place, copy.schema.field(place), pa.array(values, copy.schema.field(place).type))
            tables.append_unit(path, first + number, copy)
        self.copied = captions


def _explained(step: Step, known: StepEstimate, why: Mapping[str, str], is_trial: bool, tried: _Tried) -> StepEstimate:
    """A step whose time is not known, with the reason."""
    if known.seconds is not None or known.unknown:
        return known
    if not is_trial:
        return _with(known, unknown="not tried (--trial 0)")
    if step.name in why:
        return _with(known, unknown=f"not tried: {why[step.name]}")
    if step.kind != "job" or cast(Job, step.stage).preview(1):
        reason = tried.stopped or "it reads what the run itself trains"
        return _with(known, unknown=f"not tried: {reason}")
    return _with(known, unknown=NEVER.get(step.stage.role, "not tried: this kind of work is not cut short"))


def models_of(step: Step) -> Iterable[str]:
    """Names in the settings of a step that may be those of models."""

    def named(value: object, field: str = "") -> Iterable[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from named(item, str(key))
        elif isinstance(value, list):
            for item in value:
                yield from named(item, field)
        elif isinstance(value, str) and value and (field in MODELS or value.startswith("openai:")):
            yield value

    return dict.fromkeys(named(stages.options(step.stage)))


MODELS = ("model", "writer", "painter", "clip", "detector", "captioner", "language_model", "tokenizer", "text_encoder")
