"""Columns beside the pairs of a folder that is there already: a finished run, or an import that no plan made.

The same stage is a step of a plan elsewhere. Here as there it works unit by unit, each unit is one commit, and the columns are
joined to the pairs in one commit when all rows have theirs. ``columns/NAME.json`` says what made them: work that was killed
goes on with the same settings only, and nothing that somebody else made is overwritten.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reverie import stage as stages
from reverie.errors import InputError, SettingsChanged, StoreError
from reverie.pairs import OK
from reverie.run.engine import check_rows
from reverie.run.plan import Step, difference, read_plan
from reverie.stage import EventSink, StepContext, UnitStage, ignore_events
from reverie.store import tables
from reverie.store.files import atomic_file
from reverie.store.json_files import read_json
from reverie.store.locks import all_units_held

ABOUT = {"settings": {"stage": str}, "joined": bool, "complete": bool}


@dataclass(frozen=True)
class Added:
    """What was done."""

    rows: int  # pairs that have the columns, whoever made them: all that are ok
    made: int  # of these, in this call


def add_columns(
    folder: Path, stage: UnitStage, name: str, device: str = "cpu", report: EventSink = ignore_events
) -> Added:
    """Let a stage of columns see all ok pairs of a folder that it has not seen, and join its columns to them.

    Args:
        name: of the work, as a step's is.
    Raises: InputError for a run whose images or columns are not finished, a folder without images, and a column that somebody else
        made; SettingsChanged if the columns were begun with other settings; FolderInUse if somebody is at work there; what the
        stage raises. Finished units are kept.
    """
    stage.check()
    context = StepContext(folder, name, seed=_check_run(folder, name), device=device, report=report)
    if not tables.exists(context.pairs):
        raise InputError(f"{folder} holds no images; give the folder of a run or an import with images")
    with all_units_held(folder):
        about = _begin(context, stage)
        pairs, own = context.pairs, context.columns()
        rows = _keys(pairs, f"status = '{OK}'")
        if not len(rows):
            raise nothing_usable(folder)
        if tables.exists(own):
            known = _keys(own)["pair_id"].combine_chunks()
            rows, total = rows.filter(pc.invert(pc.is_in(rows["pair_id"], known))), len(rows)
        else:
            total = len(rows)
        if len(rows):
            about["complete"] = False
            _write(context, about)
            _make(context, stage, rows)
        if not about["complete"]:
            if not about["joined"]:
                _refuse_taken(context, stage)
                about["joined"] = True  # said before it is done: from here on columns of these names are ours
                _write(context, about)
            tables.add_columns(pairs, own, replace=True)
            _write(context, about | {"complete": True})
        return Added(total, len(rows))


def check_images(folder: Path, where: str = f"status = '{OK}' and image is not null") -> None:
    """Raises InputError for a folder with pairs none of which fits."""
    if not tables.count(folder / "pairs.lance", where):
        raise nothing_usable(folder)


def nothing_usable(folder: Path) -> InputError:
    """That a folder has no image to look at, and what to do."""
    is_run = (folder / "plan.json").exists()
    do = (
        f"make failed ones again: reverie retry {folder}"
        if is_run
        else "import pictures that can be read into a new folder"
    )
    return InputError(f"no image of {folder} is usable, so there is nothing to look at; {do}")


def _check_run(folder: Path, name: str) -> int:
    """The seed of a run, 0 for an import. Raises InputError for a run that has tables to finish, or a step of this name."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give a run folder, or one that reverie import made")
    if not (folder / "plan.json").exists():
        return 0
    plan = read_plan(folder)
    if any(step["name"] == name for step in plan["steps"]):
        raise InputError(f"the run {folder} has a step {name!r} of its own; give the new columns another name")
    left = [
        step["name"]
        for step in plan["steps"]
        if step["kind"] != "job" and not (folder / "done" / f"{step['name']}.json").exists()
    ]
    if left:
        raise InputError(f"the run {folder} is not finished (left: {', '.join(left)}); run its command again first")
    return int(plan["seed"])


def check_columns(folder: Path, stage: UnitStage, name: str) -> dict[str, Any] | None:
    """That columns of these names are not there, or are those of this work. Returns: what is known of the work; None before it began.

    Raises: InputError for columns that somebody else made; SettingsChanged for work that was begun with other settings.
    """
    context = StepContext(folder, name)
    path, settings = _path(context), stages.settings(stage)
    if not path.exists():
        _refuse_taken(context, stage)
        return None
    about = _about(path)
    old = about["settings"]
    if old.get("content") and old["content"] == settings.get("content"):
        old = old | {"captioner": settings["captioner"]}  # the same weights, wherever they lie
    before, now = ({"seed": 0, "unit_size": 0, "steps": [_step(context, each)]} for each in (old, settings))
    if changed := difference(before, now):
        raise SettingsChanged(f"{name} of {folder}", changed, "another name for the new column")
    return about


def begun_with(folder: Path, name: str) -> dict[str, Any]:
    """The settings that columns of this name were begun with; none before that. Raises StoreError."""
    path = _path(StepContext(folder, name))
    found: dict[str, Any] = _about(path)["settings"] if path.exists() else {}
    return found


def _about(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path, ABOUT, StoreError, "delete it and the table beside it to begin anew")
    return found


def _begin(context: StepContext, stage: UnitStage) -> dict[str, Any]:
    """What is known of these columns, after making sure that they are ours to write."""
    if (known := check_columns(context.folder, stage, context.step)) is not None:
        return known
    names = tables.column_names(context.pairs)
    if missing := [name for name in stage.reads if name not in names]:
        raise InputError(f"{context.folder} has no column {missing[0]!r}, which {type(stage).__name__} reads")
    about = {"settings": stages.settings(stage), "joined": False, "complete": False}
    _write(context, about)
    return about


def _refuse_taken(context: StepContext, stage: UnitStage) -> None:
    names = tables.column_names(context.pairs)
    if taken := [field.name for field in stage.adds if field.name in names]:
        raise InputError(
            f"{context.folder} has a column {taken[0]!r} already, which is not overwritten; give the new one another name"
        )


def _step(context: StepContext, settings: dict[str, Any]) -> dict[str, Any]:
    return {"name": context.step, "settings": settings, "inputs": []}


def _make(context: StepContext, stage: UnitStage, rows: pa.Table) -> None:
    """Make what these pairs lack, a unit at a time."""
    own = context.columns()
    done = tables.done_units(own)
    units = sorted(pc.unique(rows["unit"]).to_pylist())
    worker, step = stage.open(context), Step(context.step, stage)
    columns = ["pair_id", "unit", *(name for name in stage.reads if name not in ("pair_id", "unit"))]
    context.report("progress", done=0, total=len(units), what="units")
    for number, unit in enumerate(units, 1):
        given = tables.read_unit(context.pairs, unit, columns, only=OK)
        if unit in done:  # some of its pairs failed when it was made, and were made again since
            given = given.filter(pc.is_in(given["pair_id"], rows["pair_id"].combine_chunks()))
        made = worker(given)
        check_rows(step, unit, given, made)
        if unit in done:
            tables.replace_rows(own, made, key="pair_id")
        else:
            tables.append_unit(own, unit, made)
        context.report("progress", done=number, total=len(units), what="units")


def _keys(path: Path, where: str | None = None) -> pa.Table:
    schema = pa.schema([("pair_id", pa.string()), ("unit", pa.int64())])
    parts = [part.cast(schema) for part in tables.scan(path, schema.names, where)]
    return pa.concat_tables([schema.empty_table(), *parts])


def _path(context: StepContext) -> Path:
    return context.columns().with_suffix(".json")


def _write(context: StepContext, about: dict[str, Any]) -> None:
    path = _path(context)
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
