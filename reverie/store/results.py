"""Measured numbers as JSON lines: one object a line, replaced by what it measures, never twice the same.

A record holds ``name`` (what was measured, such as an arm), ``metric``, ``value``, ``split``, ``seed``, ``step`` (the
measuring step), ``fingerprint`` and ``versions`` of what made it, and whatever else explains the number.
"""

from __future__ import annotations

import fcntl
import json
import os
import string
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from reverie.errors import StoreError
from reverie.stage import StepContext, fingerprint, settings
from reverie.store.files import atomic_file
from reverie.store.json_files import all_lines, read_json

RECORD = {
    "name": str, "metric": str, "value": (float, None), "split": str, "seed": int, "step": str, "fingerprint": str,
    "versions": {...: str}, "weights?": (str, None), "curve?": (str, None), "photos?": (str, None), "num_test?": int,
    "num_classes?": int, "num_train?": int, "num_real?": int, "num_painted?": int, "shots?": int, "ways?": int, "episodes?": int,
    "classes?": [str], "confusion?": [[int]], "correct?": str, "each?": [float], "decoding?": str, "begins?": str,
}  # fmt: skip
NEEDED = ("name", "metric", "value", "split", "seed", "step", "fingerprint", "versions")


def append(path: Path, *records: Mapping[str, Any]) -> None:
    """Add records to the file; lines about the same (step, name, seed) give way to the new ones.

    So a job that is run again leaves the same file, not a longer one. Readers see the old file or the new one, and two
    processes that append at once both get their lines in.

    Raises: ValueError if a record lacks one of ``NEEDED`` or holds a number that is not finite.
    """
    for record in records:
        if missing := [key for key in NEEDED if key not in record]:
            raise ValueError(f"record of {record.get('name')!r} lacks {', '.join(missing)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        new = {_about(record) for record in records}
        kept = [record for record in read(path) if _about(record) not in new]
        _write(path, [*kept, *records])


def drop(path: Path, step: str) -> None:
    """Take away all records of a measuring step."""
    if path.exists():
        with _alone_in(path.parent):
            _write(path, [record for record in read(path) if record.get("step") != step])


def read(path: Path) -> list[dict[str, Any]]:
    """All records in the order they were measured; none if the file is not there yet.

    Raises: StoreError naming the line that is not a JSON object.
    """
    found = []
    for number, record in enumerate(all_lines(path, RECORD), 1):
        if wrong := _contradiction(record):
            raise StoreError(f"{path} line {number} is damaged ({wrong}); mend or delete that line")
        found.append(record)
    return found


def _contradiction(record: Mapping[str, Any]) -> str | None:
    """What a record says of itself that cannot be."""
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


def _write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    lines = [json.dumps(dict(record), ensure_ascii=False, allow_nan=False) for record in records]
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _about(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record.get("step"), record.get("name"), record.get("seed")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which leaves no file behind and ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
