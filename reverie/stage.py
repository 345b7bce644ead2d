"""The contract of a stage: a frozen dataclass whose fields are its options and make its fingerprint.

There are two kinds, by base class:

    UnitStage   rows of unit n in, rows of unit n out; the engine owns resume, order and commits
    Job         one long piece of work with its own checkpoints (training, measuring, a page)

A field called ``speed`` holds what may change without changing the result (batch size, workers), one called ``label`` what people
call a thing, ``subject`` and ``control`` which arm pages tell of and hold against which; all are left out of the fingerprint. ``run``
sees only this file; stages never import ``run``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import pyarrow as pa

from reverie.errors import InputError

Worker = Callable[[pa.Table], pa.Table]
"""Rows of one unit in, rows of the same unit out; see ``UnitStage``."""


class TwoPartWorker:
    """A worker whose last part, such as compressing images, is done beside the first part of the next unit."""

    def begin(self, rows: pa.Table) -> Callable[[], pa.Table]:
        """Do what is done one unit after the other; what is returned, called once and perhaps in another thread, waits for the rest."""
        raise NotImplementedError

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Both parts."""
        return self.begin(rows)()


Role = Literal["source", "paint", "score", "select", "learn", "measure", "page"]
"""What a stage is for in a plan; who asks what a run does goes by this, never by the class of a stage."""

NO_SETTINGS = ("speed", "label", "subject", "control")  # fields that change no result, at any depth
OF_STEP = "step:"  # begins what stands in place of a model's name: the learning step of this run that makes the model

EventSink = Callable[..., None]
"""``report(kind, **facts)``: one line of the run's event log, and of the progress display."""


def ignore_events(*_: object, **__: object) -> None:
    """A sink for events that nobody asked for."""


@dataclass(frozen=True)
class StepContext:
    """Where a step works: the run folder, its own name, the steps it reads, the device, and whom to tell."""

    folder: Path  # the run folder
    step: str  # name of this step in the plan
    inputs: tuple[str, ...] = ()  # names of the steps it reads
    seed: int = 0  # the run seed
    device: str = "cpu"
    report: EventSink = field(default=ignore_events, compare=False)
    retry: int = 0  # how often failed rows were made again before; those who draw from seeds then draw others

    @property
    def captions(self) -> Path:
        """Table of captions."""
        return self.folder / "captions.lance"

    @property
    def pairs(self) -> Path:
        """Table of pairs."""
        return self.folder / "pairs.lance"

    def columns(self, step: str | None = None) -> Path:
        """Table of the columns that a step made, before they are joined to the pairs."""
        return self.folder / "columns" / f"{step or self.step}.lance"

    def weights(self, step: str | None = None) -> Path:
        """Folder of the finished weights of a learning step."""
        return self.folder / "weights" / (step or self.step)

    def checkpoints(self, step: str | None = None) -> Path:
        """Folder of the checkpoints of a learning step."""
        return self.folder / "checkpoints" / (step or self.step)

    def model(self, name: str) -> str:
        """A model's name as it is, or for ``step:NAME`` the folder that this learning step leaves."""
        return str(self.weights(name.removeprefix(OF_STEP))) if of_step(name) else name

    def shots(self, step: str | None = None) -> Path:
        """Store of the photos that a step took, as ``reverie import`` would make it; see datasets/few_shot.py, learn/human_pairs.py."""
        return self.folder / "shots" / (step or self.step)

    @property
    def results(self) -> Path:
        """JSON lines of measured numbers: one object a line, see store/results.py."""
        return self.folder / "results.jsonl"


def of_step(model: str) -> bool:
    """Whether a model is one that a step of the run makes, so that nothing of it can be known before."""
    return model.startswith(OF_STEP)


class Stage:
    """What the engine may ask of any stage, with its defaults. A stage is a frozen dataclass derived from one of the classes below."""

    role: ClassVar[Role]  # what it is for

    # Read-only to the type checker, so that a stage may have it as a class attribute or a property.
    if TYPE_CHECKING:

        @property
        def adds(self) -> tuple[pa.Field, ...]:
            """Columns that the pairs have after it."""
    else:
        adds = ()

    def check(self) -> None:
        """Raise what can be known to go wrong, before any work of any step."""

    def check_device(self, device: str) -> None:
        """Raise what cannot be done on this device, before any work of any step, of steps that are left to do only: half precision
        (fp16) needs a GPU. Stages look here at what is slow to read, too.
        """
        if device == "cpu" and (name := _half(self)):
            flag = "painter-dtype" if name == "dtype" else name
            raise InputError(f"--{flag} fp16 needs a GPU; use bf16 or fp32 on a CPU")


class UnitStage(Stage):
    """Rows of a unit in, rows of the same unit out.

    ``writes`` says what the worker is given and returns:

        captions   rows of ``unit`` and ``position`` -> rows of ``pairs.CAPTIONS``: for each position one that is ok or failed,
                   and any number that are dropped
        pairs      the captions of a unit that are ok -> rows of ``pairs.PAIRS``, ``per_caption`` of each, ok, dropped or failed
        columns    the pairs of a unit that are ok, in the columns of ``reads`` -> pair_id, unit and new columns, which join the
                   pairs when every unit is done
    """

    role: ClassVar[Role] = "score"  # one that writes pairs says "paint"
    writes: ClassVar[Literal["captions", "pairs", "columns"]]
    reads: ClassVar[tuple[str, ...]] = ()  # columns of the pairs that a stage of columns wants to see

    # Read-only to the type checker, so that a stage may have each as a field, a class attribute or a property.
    if TYPE_CHECKING:

        @property
        def per_caption(self) -> int | None:
            """Of stages that write pairs: rows of each caption; None = it differs."""

        @property
        def keep_images(self) -> bool:
            """Of stages that write pairs: whether rows keep their image; where not, ``repaint`` asks with True."""
    else:
        per_caption = None
        keep_images = True

    def open(self, context: StepContext) -> Worker:
        """Load what the work needs (weights, files), once a process, and return the worker."""
        raise NotImplementedError


class SourceStage(UnitStage):
    """A stage that captions come from: the first of a plan that has units."""

    role: ClassVar[Role] = "source"

    if TYPE_CHECKING:

        @property
        def count(self) -> int:
            """How many captions it will make."""


class Job(Stage):
    """One long piece of work that resumes by itself and leaves finished files under their final names last."""

    role: ClassVar[Role] = "learn"
    together: ClassVar[bool] = False  # whether all processes of an ``accelerate launch`` do it, not the first alone
    # Whether it may be done while others are, in a process of its own: it writes nothing that another job writes or reads.
    beside: ClassVar[bool] = False
    # Fields that hold one item for each thing the job does, such as its arms: with more of them, a run that is done goes on,
    # and the job, run again, leaves what it did and does the rest.
    grows: ClassVar[tuple[str, ...]] = ()

    def run(self, context: StepContext) -> None:
        """Do the work, or the rest of it."""
        raise NotImplementedError

    def preview(self, count: int) -> Job | None:
        """What a look at ``count`` captions or images does in its place, before the run and inside of the run folder alone; None
        where there is nothing to look at. A choice among few images is one as well.
        """
        return self if self.role == "select" else None

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """The same work cut short, to be timed before the run (``reverie plan``); None where it cannot be.

        Args:
            steps: optimiser steps to take.
            images: about how many pairs of the whole run fit a filter. Raises InputError where that is not known.
        """
        return None


class Trial(NamedTuple):
    """Work that is cut short. What takes time tells its ``speed`` as learn/fit.py does, with ``whole`` where the job itself knows how many
    of these things the whole run has (evaluate/pace.py); what has no speed in it is told as ``untimed``, with the reason as ``text``.
    Of a job that tells none, and whose ``part`` is not known, no time is told, but later steps may read what it leaves.
    """

    job: Job
    steps: int | tuple[int, ...] = ()  # optimiser steps of the whole: of its training, or of each of them in order
    captions: int = 0  # of the run, with images, that must be there for its first batch
    images: int = 0  # that the whole work encodes first, where it tells that speed as well
    alike: int = 1  # pieces of such work, of which the job does one
    part: float = 0.0  # share of the whole that the job does, where its time grows with that; 0 = not known
    alone: bool = False  # whether it reads nothing that earlier trainings leave


def _half(settings: object) -> str | None:
    """The first field that says fp16, at any depth."""
    if isinstance(settings, tuple):
        return next(filter(None, map(_half, settings)), None)
    if not dataclasses.is_dataclass(settings):
        return None
    fields = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
    own = next((name for name in ("dtype", "precision") if fields.get(name) == "fp16"), None)
    return own or next(filter(None, map(_half, fields.values())), None)


def options(stage: object) -> dict[str, Any]:
    """All fields of a stage as plain JSON values, ``speed`` included; a file or model folder by its name and content."""
    return {item.name: _plain(getattr(stage, item.name)) for item in dataclasses.fields(stage)}  # type: ignore[arg-type]


def settings(stage: object) -> dict[str, Any]:
    """The fields that change the result: everything but ``NO_SETTINGS``, at any depth. Starts with the stage's class name."""
    return {"stage": type(stage).__name__, **decisive(options(stage))}


def with_defaults(recorded: Any, stage: object) -> Any:
    """What ``options`` recorded of a stage, with the default of every field that the record lacks, at any depth."""
    if isinstance(recorded, list) and isinstance(stage, (list, tuple)) and len(recorded) == len(stage):
        return [with_defaults(old, now) for old, now in zip(recorded, stage, strict=True)]
    if not isinstance(recorded, Mapping) or not dataclasses.is_dataclass(stage) or isinstance(stage, type):
        return recorded
    known = dict(recorded)
    for item in dataclasses.fields(stage):
        if item.name in known:
            known[item.name] = with_defaults(known[item.name], getattr(stage, item.name))
        elif item.default is not dataclasses.MISSING:
            known[item.name] = _plain(item.default)
        elif item.default_factory is not dataclasses.MISSING:
            known[item.name] = _plain(item.default_factory())
    return known


def settings_now(recorded: Any, stage: object) -> Any:
    """What ``settings`` recorded of a stage, with the default of every field that it did not have then."""
    return decisive(with_defaults(recorded, stage))


def fingerprint(facts: Mapping[str, Any]) -> str:
    """16 hex digits that name a set of plain settings."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            "class": type(value).__name__,
            **{f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)},
        }
    if isinstance(value, Path):
        return (
            f"{value.name}, content {_digest(value.resolve(), value.stat().st_mtime_ns)}"
            if value.is_file()
            else f"{value.name}, content {_digest_of_weights(value)}"
            if (value / "config.json").is_file()
            else str(value)
        )
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


@functools.lru_cache(maxsize=64)
def _digest(file: Path, changed: int) -> str:
    """8 hex digits of what is in a file: an edited file must not pass for the one that a run began with."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=4)).hexdigest()


def _digest_of_weights(folder: Path) -> str:
    """8 hex digits of the weights and settings in a model folder, wherever the folder lies."""
    digest = hashlib.blake2b(digest_size=4)
    for file in sorted(item for item in folder.iterdir() if item.suffix in (".safetensors", ".json")):
        digest.update(f"{file.name} {_digest(file.resolve(), file.stat().st_mtime_ns)} ".encode())
    return digest.hexdigest()


def decisive(facts: Any) -> Any:
    """What decides the result among plain settings: all but ``NO_SETTINGS``, at any depth."""
    if isinstance(facts, dict):
        return {key: decisive(value) for key, value in facts.items() if key not in NO_SETTINGS}
    if isinstance(facts, list):
        return [decisive(item) for item in facts]
    return facts


WORDS_SHOWN = 5  # of those that a model does not know


def words_unknown(model: str, words: Sequence[str]) -> str:
    """One line, however many they are."""
    some = ", ".join(words[:WORDS_SHOWN])
    which, them = (f"these {len(words):,} words", "them") if len(words) > 1 else ("this word", "it")
    more = ", ..." if len(words) > WORDS_SHOWN else ""
    return f"{model} has no token for {which} and cannot paint {them}: {some}{more}"
