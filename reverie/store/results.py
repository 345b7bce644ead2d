"""Results as JSON lines, one number a line; measuring again replaces the old lines."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import os
import string
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from reverie.arms import Arm, Factor
from reverie.errors import StoreError
from reverie.stage import StepContext, fingerprint, settings
from reverie.store.files import atomic_file
from reverie.store.json_files import all_lines, misfit, read_json, shape_of


@dataclass(frozen=True)
class Result:
    """One measured number, and what it is the number of."""

    arm: str  # id of what was measured, see arms.py
    label: str  # what pages call it
    seed: int  # of the arm
    metric: str  # such as top1, mean_per_class, knn_top1 or cider_d; with another ending where it is of an aspect: top1_shape
    value: float | None  # None where what was measured has no number; ``details`` say why
    split: str  # of the photos
    protocol: str  # how it was measured: linear-probe, fine-tuning, classifier, episodes, captions, ...
    step: str  # the measuring step
    fingerprint: str  # of that step, or of what made the number
    versions: Mapping[str, str]  # of python, reverie, torch and numpy
    factors: Mapping[str, Factor] = field(default_factory=dict)  # what varies between the arms
    # the learning step, or folder, of what was measured; None for what nothing was learned for
    weights: str | None = None
    start: str | None = None  # what its training began from, where that is told
    photos: str | None = None  # where they are from, see datasets/labelled.py
    num_train: int | None = None  # photos, or images, that it learned from to be measured
    num_test: int | None = None  # photos that it was asked about
    num_classes: int | None = None  # that an answer is one of
    num_real: int | None = None  # of ``num_train``
    num_painted: int | None = None
    classes: tuple[str, ...] | None = None  # in the order of ``confusion``
    confusion: tuple[tuple[int, ...], ...] | None = None  # rows are the truth, columns the answers
    correct: str | None = None  # which test photos were right: a bit each, as hex digits
    each: tuple[float, ...] | None = None  # score of each test photo
    arm_fingerprint: str | None = None  # names the result of this arm, whatever others the step has
    details: Mapping[str, Any] = field(default_factory=dict)  # whatever else explains the number

    def as_dict(self) -> dict[str, Any]:
        """What a line of the file holds: all that is known."""
        known = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {key: value for key, value in known.items() if key in NEEDED or (value is not None and value != {})}

    def get(self, name: str, default: object = None) -> Any:
        """A field, or else a factor, or else one of the details, by name."""
        if name in FIELDS:
            return getattr(self, name)
        return self.factors.get(name, self.details.get(name, default))


FIELDS = frozenset(item.name for item in dataclasses.fields(Result))
LINE = shape_of(Result)
NEEDED = FIELDS & LINE.keys()  # of a line, whatever they hold


def about(
    context: StepContext, stage: object, arm: Arm, protocol: str, split: str = "test", **known: Any
) -> functools.partial[Result]:
    """What all numbers of an arm say alike; to call with ``metric``, ``value`` and what else this number has."""
    return functools.partial(
        Result,
        arm=arm.id, label=arm.label, seed=arm.seed, factors=_plain(arm.factors), split=split, protocol=protocol,
        step=context.step, fingerprint=step_fingerprint(context, stage), versions=versions(),
        **{"weights": arm.step} | known,
    )  # fmt: skip


def select(records: Iterable[Result], **wanted: object) -> list[Result]:
    """Those with these fields, factors or details: ``select(records, arm="guided", metric="top1", shots=4)``."""
    missing = object()
    return [record for record in records if all(record.get(name, missing) == value for name, value in wanted.items())]


def append(path: Path, *records: Result) -> None:
    """Add records to the file; lines about the same (step, arm, seed) give way to the new ones.

    So a job that is run again leaves the same file, not a longer one. Readers see the old file or the new one, and two
    processes that append at once both get their lines in.

    Raises: ValueError if a record holds a number that is not finite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        new = {_about(record) for record in records}
        kept = [record for record in read(path) if _about(record) not in new]
        _write(path, [*kept, *records])


def drop(path: Path, step: str) -> None:
    """Take away all records of a measuring step."""
    if path.exists():
        with _alone_in(path.parent):
            _write(path, [record for record in read(path) if record.step != step])


def read(path: Path) -> list[Result]:
    """All records in the order they were measured; none if the file is not there yet.

    Raises: StoreError naming the line that is no record.
    """
    found = []
    for number, line in enumerate(all_lines(path, LINE), 1):
        if wrong := _contradiction(line):
            raise StoreError(f"{path} line {number} is damaged ({wrong}); mend or delete that line")
        found.append(_from_line(line))
    return found


def from_lines(lines: Iterable[Mapping[str, Any]]) -> list[Result]:
    """Records that a file of another shape holds, as ``as_dict`` gives them. Raises ValueError for what is no record."""
    found = []
    for line in lines:
        if wrong := misfit(line, LINE) or _contradiction(line):
            raise ValueError(wrong)
        found.append(_from_line(line))
    return found


def _from_line(line: Mapping[str, Any]) -> Result:
    return Result(**{key: _tuples(value) if isinstance(value, list) else value for key, value in line.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _contradiction(record: Mapping[str, Any]) -> str | None:
    """What a record says of itself that cannot be."""
    if unknown := sorted(record.keys() - FIELDS):
        return f"{unknown[0]!r} is no part of a record"
    if "correct" in record:
        digits = record["correct"]
        if (
            len(digits) % 2
            or set(digits) - set(string.hexdigits)
            or not 0 <= record.get("num_test", -1) <= 4 * len(digits)
        ):
            return "'correct' is not one bit for each test photo"
    if "confusion" in record:
        rows = len(record["confusion"])
        if any(len(row) != rows for row in record["confusion"]) or len(record.get("classes", ())) not in (0, rows):
            return "'confusion' is not a square of the classes"
    return None


def versions() -> dict[str, str]:
    """Versions of what decides a number: python, reverie, torch, numpy."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for package in ("reverie", "torch", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "not installed"
    return found


def step_fingerprint(context: StepContext, stage: object) -> str:
    """What names the result of this step: its fingerprint in the run's plan, or of its own settings without a plan."""
    plan = context.folder / "plan.json"
    if plan.exists():
        shape = {"steps": [{"name": str, "fingerprint": str}]}
        for step in read_json(plan, shape, StoreError, "use another folder")["steps"]:
            if step["name"] == context.step:
                return str(step["fingerprint"])
    return fingerprint(settings(stage))


def arm_fingerprint(context: StepContext, stage: object, reads: Iterable[str | None]) -> str:
    """What names the result of one arm, whatever other arms the step has.

    Args:
        stage: the stage with this arm alone.
        reads: the steps that this arm reads.
    """
    plan, prints = context.folder / "plan.json", {}
    if plan.exists():
        record = json.loads(plan.read_text(encoding="utf-8"))
        prints = {step["name"]: step["fingerprint"] for step in record["steps"]}
    return fingerprint({"settings": settings(stage), "reads": [prints.get(step) for step in reads if step]})


def _plain(factors: Mapping[str, Factor]) -> dict[str, Factor]:
    """Of a folder its name alone: numbers are shown to others."""
    return {key: value.name if isinstance(value, Path) else value for key, value in factors.items()}


def _write(path: Path, records: Iterable[Result]) -> None:
    lines = [json.dumps(record.as_dict(), ensure_ascii=False, allow_nan=False) for record in records]
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _about(record: Result) -> tuple[str, str, int]:
    return record.step, record.arm, record.seed


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which leaves no file behind and ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
