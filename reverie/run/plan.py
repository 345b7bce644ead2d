"""The plan that a recipe returns: named steps, each with a stage and the names of the steps that it reads.

``plan.json`` in the run folder is the resolved plan, written whole before any work:

    recipe, file, arguments   what to call to get the same plan again (file: the user's own recipe file, or null): all settings, resolved
    given                     names of the settings that were given by hand (null: nobody said); the others were defaults at the time
    seed, unit_size, num_captions, num_units
    notes                     what was said before any work
    steps                     [{name, inputs, kind: captions | pairs | columns | job, role, per_caption, settings, fingerprint}]
    versions, made            library versions, and when (UTC)

A step's fingerprint covers its own settings and those of every step it reads, so that it names a result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import inspect
import json
import platform
import re
import sys
import types
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any, Literal

from reverie import settings as setting
from reverie import stage as stages
from reverie.errors import FolderInUse, InputError, SettingsChanged, StoreError, UnknownName
from reverie.ranges import check_min, check_ranges
from reverie.settings import Resolved
from reverie.stage import Job, SourceStage, UnitStage
from reverie.store.files import atomic_file
from reverie.store.json_files import read_json
from reverie.store.places import check_folder, has_table, point, tables_of

Kind = Literal["captions", "pairs", "columns", "job"]
NAME = re.compile(r"[\w.-]+")  # of a step
NOTE = "plan.lance"  # beside tables that lie in an object store: the text of plan.json
STEP = {
    "name": str, "inputs?": [str], "kind": str, "role?": str, "per_caption?": (int, None), "settings": {"stage": str}, "fingerprint": str,
}  # fmt: skip
RECORD = {
    "recipe": str, "file?": (str, None), "arguments": {...: object}, "given?": ([str], None), "seed": int, "unit_size": int,
    "num_captions": int, "num_units": int, "notes?": [str], "steps": [STEP], "versions?": {...: str}, "made_in?": str, "made?": str,
}  # fmt: skip
RECIPES = Path(__file__).parent.parent / "recipes"
STUDIES = Path(__file__).parent.parent / "studies"
NO_RECIPES = ("__init__", "options")
LIBRARIES = (
    "reverie",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "kornia",
    "pylance",
    "pyarrow",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class Step:
    """A stage at work in a plan. ``inputs`` names the earlier steps whose results it reads."""

    name: str
    stage: UnitStage | Job
    inputs: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """Which table the stage writes, or that it is a job."""
        return self.stage.writes if isinstance(self.stage, UnitStage) else "job"


@dataclass(frozen=True)
class Plan:
    """Everything a run will do, in order. Raises InputError for steps that cannot follow each other."""

    recipe: str
    steps: tuple[Step, ...]
    seed: int = 0
    unit_size: int = 100  # captions in a unit of work, which is also what one commit holds
    arguments: Mapping[str, Any] = field(default_factory=dict)  # what the recipe was called with
    file: str | None = None  # the user's own recipe file
    given: tuple[str, ...] | None = None  # names of the arguments that are none of the defaults; None where nobody said
    notes: tuple[str, ...] = ()  # what a person should know before any work, such as how much there will be

    def __post_init__(self) -> None:
        if not self.steps:
            raise InputError(f"the plan of {self.recipe} has no steps, and so nothing to do; give it at least one")
        seen: dict[str, Kind] = {}
        for step in self.steps:
            if not isinstance(step.stage, (UnitStage, Job)):
                raise InputError(
                    f"step {step.name!r}: {type(step.stage).__name__} is no stage; derive it from UnitStage, SourceStage or Job "
                    "of reverie.stage"
                )
            if not NAME.fullmatch(step.name):
                raise InputError(f"step name {step.name!r}: letters, digits, '_', '-' and '.' only, it names files")
            if step.name in seen:
                raise InputError(f"two steps of the plan are called {step.name!r}")
            for name in step.inputs:
                if name not in seen:
                    raise InputError(f"step {step.name!r} reads {name!r}, which is not an earlier step")
            if step.kind in ("captions", "pairs") and step.kind in seen.values():
                raise InputError(f"step {step.name!r}: a run has one table of {step.kind}, and another step writes it")
            if step.kind == "columns" and "pairs" not in seen.values():
                raise InputError(f"step {step.name!r} adds columns to pairs, but no earlier step makes pairs")
            seen[step.name] = step.kind
        units = [step for step in self.steps if step.kind != "job"]
        if units and not isinstance(units[0].stage, SourceStage):
            raise InputError(f"the first step with units, {units[0].name!r}, must be a source of captions")
        check_min(1, unit_size=self.unit_size)

    @property
    def num_captions(self) -> int:
        """How many captions the source was asked for."""
        return next((int(step.stage.count) for step in self.steps if isinstance(step.stage, SourceStage)), 0)

    @property
    def num_units(self) -> int:
        """How many units of work these are."""
        return -(-self.num_captions // self.unit_size)

    def step(self, name: str) -> Step:
        """The step of this name. Raises UnknownName."""
        for step in self.steps:
            if step.name == name:
                return step
        raise UnknownName("step", name, [step.name for step in self.steps])

    def fingerprints(self) -> dict[str, str]:
        """16 hex digits a step; equal digits mean equal results."""
        prints: dict[str, str] = {}
        for step in self.steps:
            facts = {
                "settings": stages.settings(step.stage),
                "seed": self.seed,
                "inputs": [prints[name] for name in step.inputs],
            }
            prints[step.name] = stages.fingerprint(facts | {"unit_size": self.unit_size})
        return prints

    def record(self) -> dict[str, Any]:
        """The plan as plain JSON values: what plan.json holds."""
        prints = self.fingerprints()
        return {
            "recipe": self.recipe,
            "file": self.file,
            "arguments": json.loads(json.dumps(dict(self.arguments), default=str)),
            "given": None if self.given is None else list(self.given),
            "seed": self.seed,
            "unit_size": self.unit_size,
            "num_captions": self.num_captions,
            "num_units": self.num_units,
            "notes": list(self.notes),
            "steps": [
                {
                    "name": step.name,
                    "inputs": list(step.inputs),
                    "kind": step.kind,
                    "role": step.stage.role,
                    "per_caption": step.stage.per_caption if isinstance(step.stage, UnitStage) else None,
                    "settings": {"stage": type(step.stage).__name__, **stages.options(step.stage)},
                    "fingerprint": prints[step.name],
                }
                for step in self.steps
            ],
            "versions": versions(),
            "made_in": str(Path.cwd()),  # what relative paths in the arguments are relative to
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def again(self, old: Mapping[str, Any]) -> list[str]:
        """Steps that were to do a part of what they do in this plan, by its record, and the jobs that read them.

        Such a step has more items in a field that its stage names in ``grows`` (arms, or seeds), reads more steps, and is otherwise
        as it was. What it did stays good, and it only has to do the rest. None of them may feed a step with units or a
        training, whose results would be others.
        """
        before = {step["name"]: step for step in old["steps"]}
        found: list[str] = []
        for step in self.steps:
            then = before.get(step.name)
            if then and _has_grown(then, step):
                found.append(step.name)
            elif then and set(step.inputs) & set(found):
                if not isinstance(step.stage, Job) or step.stage.together:
                    return []
                found.append(step.name)
        return found

    def goes_on_from(self, other: Plan) -> bool:
        """Whether a folder where the other plan was done can go on with this one."""
        old, new = other.record(), self.record()
        again = self.again(old)
        kept = [step.name for step in other.steps if step.name not in again]
        return not difference(_only(old, kept), _only(new, kept))

    def is_settled(self, folder: Path) -> bool:
        """Whether the folder's plan.json asks for what this plan does."""
        return (folder / "plan.json").exists() and not difference(
            _with_new_fields(read_plan(folder), self.steps), self.record()
        )

    def settle(self, folder: Path, change: bool = False) -> None:
        """Write plan.json, or make sure that the one there asks for the same results.

        Args:
            change: accept other settings for steps that have not begun, and more arms or seeds for those that measure them,
                which then are no longer done; and write it down.
        Raises SettingsChanged with every setting that differs. ``speed`` fields, device and versions may differ.
        """
        path, record = folder / "plan.json", self.record()
        if path.exists():
            old = _with_new_fields(read_plan(folder), self.steps)
            changed = difference(old, record)
            if changed and change:
                known = {step["name"]: step for step in old["steps"]}
                begun = {name for name, step in known.items() if _has_begun(folder, step)}
                again = self.again(old)
                kept = [name for name in known if name in begun.difference(again)]
                changed = difference(_only(old, kept), _only(record, kept)) if begun else {}
                for name in again if not changed else ():  # before plan.json says so, or a kill would leave them done
                    (folder / "done" / f"{name}.json").unlink(missing_ok=True)
            if changed:
                raise SettingsChanged(str(folder), changed)
            if not change or old["steps"] == record["steps"]:
                return
        text = json.dumps(record, indent=1, ensure_ascii=False)
        if at := tables_of(folder):  # so that nobody goes on there with another plan from another folder
            from reverie.store import tables  # reading a plan needs no store

            first = tables.write_note(f"{at}/{NOTE}", text, first=not path.exists())
            if first != text:  # who began there a moment ago goes before
                with atomic_file(path) as partial:
                    partial.write_text(first, encoding="utf-8")
                self.settle(folder)
                return
        with atomic_file(path) as partial:
            partial.write_text(text, encoding="utf-8")


def join_run(folder: Path, at: str) -> None:
    """Make a folder one of a run whose tables lie at this address: if it was begun there from another folder, with the same plan.

    Where the plan there has other settings for the rows than the one in the folder, as somebody changed what had not begun, it goes
    before: rows of both would stand in one table.
    Raises: FolderInUse for a folder of something else, or with jobs done by the plan of before; InputError for an address that cannot
        be used.
    """
    from reverie.store import tables

    try:
        known = tables.read_note(f"{at}/{NOTE}")
    except StoreError as error:
        reason = str(error).partition("table: ")[2] or str(error)
        raise InputError(
            f"cannot use {at}: {reason}; is the name right, and do the variables of the store (such as AWS_*) let you in?"
        ) from error
    point(folder, at)
    if known is None:
        return
    path = folder / "plan.json"
    if path.exists():
        mine, theirs = (
            {step["name"]: step for step in record["steps"]} for record in (read_plan(folder), json.loads(known))
        )
        if _rows_by(mine) == _rows_by(theirs):
            return  # jobs are of this folder alone
        for name, step in mine.items():
            if (
                step["kind"] == "job"
                and step["fingerprint"] != theirs.get(name, step)["fingerprint"]
                and _has_begun(folder, step)
            ):
                raise FolderInUse(
                    f"{folder} did {name} with other settings than the run at {at} has now; give another --files"
                )
    with atomic_file(path) as partial:
        partial.write_text(known, encoding="utf-8")


def _rows_by(steps: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Fingerprints of the steps that make rows."""
    return {name: step["fingerprint"] for name, step in steps.items() if step["kind"] != "job"}


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan.json of a run folder. Raises InputError if the folder is not a run."""
    path = folder / "plan.json"
    if not path.exists():
        check_folder(folder)
        what = "is not a run folder (no plan.json in it)" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; give the folder that a run was told with --out")
    record: dict[str, Any] = read_json(path, RECORD, InputError, "it is not the plan of a run; use another --out")
    if old := next((step for step in record["steps"] if not {"inputs", "role"} <= step.keys()), None):
        if not {"of", "inputs"} & old.keys():
            raise InputError(f"{path} is damaged (step {old['name']!r} has no 'inputs'); use another folder")
        raise InputError(
            f"{folder} was made by an earlier version of reverie, which this one cannot go on with; use another --out"
        )
    names = [step["name"] for step in record["steps"]]
    if not names:
        raise InputError(f"{path} is damaged (it has no steps); use another folder")
    if bad := next((name for name in names if not NAME.fullmatch(name) or names.count(name) > 1), None):
        raise InputError(f"{path} is damaged (a step is called {bad!r}); use another folder")
    for what, known in (("kind", Kind), ("role", stages.Role)):
        if bad := next((step[what] for step in record["steps"] if step[what] not in typing.get_args(known)), None):
            raise InputError(f"{path} is damaged (a step is of {what} {bad!r}); use another folder")
    return record


def run_of(folder: Path) -> Path:
    """The run that a folder of pairs belongs to: itself, or the one that took them into its ``shots``."""
    taken = not (folder / "plan.json").exists() and folder.resolve().parent.name == "shots"
    return folder.resolve().parents[1] if taken else folder


def _with_new_fields(record: dict[str, Any], steps: Sequence[Step]) -> dict[str, Any]:
    """A plan record as it would have been had its stages had the fields that they have now.

    Fields come with new versions, and their defaults are what was done before, so a run goes on across an upgrade.
    """
    stage_of = {step.name: step.stage for step in steps}
    return {
        **record,
        "steps": [
            {**step, "settings": stages.with_defaults(step["settings"], stage_of.get(step["name"]))}
            for step in record["steps"]
        ],
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    """Settings that change results and differ between two plan records: {"paint.guidance": (2.0, 3.0)}."""

    def flat(record: Mapping[str, Any]) -> dict[str, object]:
        facts: dict[str, object] = {"seed": record["seed"], "unit_size": record["unit_size"]}
        for step in record["steps"]:
            facts |= _flat(step["name"], {**step["settings"], "reads": ", ".join(step["inputs"])})
        return facts

    before, now = flat(old), flat(new)
    return {
        key: (before.get(key), now.get(key)) for key in before.keys() | now.keys() if before.get(key) != now.get(key)
    }


def _only(record: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """A plan record with these steps alone."""
    return {**record, "steps": [step for step in record["steps"] if step["name"] in names]}


def _has_grown(old: Mapping[str, Any], step: Step) -> bool:
    """Whether a step is to do more than its record says, and nothing else: more items in fields that grow, more steps to read."""
    fields = step.stage.grows if isinstance(step.stage, Job) else ()
    if not fields or not set(old["inputs"]) <= set(step.inputs):
        return False
    before, now = stages.decisive(old["settings"]), stages.settings(step.stage)
    grown = [name for name in fields if before.get(name) != now[name]]
    complete = all(name in before and all(item in now[name] for item in before[name]) for name in grown)
    rest = [{key: value for key, value in each.items() if key not in grown} for each in (before, now)]
    return bool(grown) and complete and _flat("", rest[0]) == _flat("", rest[1])


def _has_begun(folder: Path, step: Mapping[str, Any]) -> bool:
    """Whether a step has left anything in a run folder that other settings would contradict."""
    name, kind = step["name"], step["kind"]
    left = [folder / "done" / f"{name}.json", folder / "weights" / name, folder / "shots" / name]
    table = folder / (f"{kind}.lance" if kind in ("captions", "pairs") else f"columns/{name}.lance")
    parts = [path.name for path in (folder / "checkpoints").glob("*")]  # a job of several parts has one for each
    return (
        any(path.exists() for path in left)
        or has_table(table)
        or any(part == name or part.startswith(f"{name}.") for part in parts)
    )


def _flat(prefix: str, value: object) -> dict[str, object]:
    if isinstance(value, Mapping):
        parts = [_flat(f"{prefix}.{key}", item) for key, item in value.items() if key not in stages.NO_SETTINGS]
        return {key: item for part in parts for key, item in part.items()}
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        return _flat(prefix, {str(number): item for number, item in enumerate(value)})
    return {prefix: value}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what comes out, without importing them."""
    return dict(_versions())


@functools.cache
def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an absent library decides nothing
    return found


def known_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.py") if path.stem not in NO_RECIPES)


def known_studies() -> list[str]:
    """Names of the recipes whose paper's claims can be put to the test."""
    return sorted({path.stem for path in STUDIES.glob("*.py")} & set(known_recipes()))


def find_study(name: str) -> Callable[..., Any]:
    """The function that makes the study of a recipe's claims. Raises UnknownName."""
    if name not in known_studies():
        raise UnknownName("study of claims", name, known_studies())
    return typing.cast(Callable[..., Any], vars(import_module(f"reverie.studies.{name}"))[name])


def _run_of_study(study: str, run: str) -> Callable[..., Plan]:
    make = find_study(study)

    @functools.wraps(make)  # its settings are those of the study
    def recipe(config: Any) -> Plan:
        runs = make(config).runs
        if run not in runs:
            raise UnknownName(f"run of the study {study}", run, runs)
        return typing.cast(Plan, runs[run])

    return recipe


def find_recipe(name: str) -> Callable[..., Plan]:
    """The recipe of this name, the one defined in this ``.py`` file, or one run of a study, as claims/STUDY/RUN.

    A user's file defines one function that returns a ``Plan`` (annotated ``-> Plan``, or called like the file).
    Raises UnknownName for a name, InputError for a file that is missing or defines none or several.
    """
    if re.fullmatch(r"claims/\w+/[\w.-]+", name):
        return _run_of_study(*name.split("/")[1:])
    if not name.endswith(".py"):
        if name not in known_recipes():
            raise UnknownName("recipe", name, known_recipes())
        return _only_recipe(vars(import_module(f"reverie.recipes.{name}")), name, f"recipe {name}")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"there is no recipe file {name}")
    spec = util.spec_from_file_location(f"_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a path that ends in .py has both"  # noqa: PT018
    module = util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up here
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise InputError(f"recipe file {name} cannot be read: {error}") from error
    return _only_recipe(vars(module), path.stem, f"recipe file {name}")


def _only_recipe(names: Mapping[str, Any], stem: str, what: str) -> Callable[..., Plan]:
    own = [item for item in names.values() if inspect.isfunction(item) and item.__module__ == names["__name__"]]
    named = [item for item in own if item.__name__ == stem]
    found = named or [item for item in own if str(item.__annotations__.get("return")).endswith(("Plan", "Plan'>"))]
    if len(found) != 1:
        names_found = ", ".join(item.__name__ for item in found) or "none"
        raise InputError(
            f"{what} must define one function annotated '-> Plan', or named {stem!r}; it has: {names_found}"
        )
    return typing.cast(Callable[..., Plan], found[0])


def config_type(recipe: Callable[..., Any]) -> type | None:
    """The dataclass of settings that a recipe or a study takes first; None for one with keyword arguments."""
    first = next(iter(inspect.signature(recipe).parameters), "")
    kind = _hints(recipe).get(first)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _hints(recipe: Callable[..., Any]) -> dict[str, Any]:
    """The types of a recipe's parameters, as far as they are annotated with what its file imports also when it runs."""
    found: dict[str, Any] = {}
    for name, item in inspect.signature(recipe).parameters.items():
        alone = types.SimpleNamespace(
            __annotations__={name: item.annotation}
        )  # what it returns may be there for mypy only
        with contextlib.suppress(NameError):
            found |= typing.get_type_hints(alone, vars(sys.modules[recipe.__module__]))
    return found


def recipe_scales(recipe: Callable[..., Any]) -> Mapping[str, Any]:
    """The settings of each scale: ``SCALES`` of a recipe's file; those of its dataclass alone where it has none."""
    kind = config_type(recipe)
    assert kind is not None, "a recipe with keyword arguments has no settings"
    scales: Mapping[str, Any] = getattr(sys.modules[recipe.__module__], "SCALES", {})
    return scales or ({} if setting.required(kind) else {"default": kind()})


def default_settings(recipe: Callable[..., Any], scale: object = None) -> Any:
    """What a recipe does at a scale unless it is told otherwise; at the first one if there is no such.

    None where its dataclass has settings without default.
    """
    scales = recipe_scales(recipe)
    return scales.get(str(scale), next(iter(scales.values()))) if scales else None


def call_recipe(name: str, arguments: Mapping[str, Any]) -> Plan:
    """Call a recipe, by name or file, and note in the plan how it was called.

    Args:
        arguments: keyword arguments, or settings by their flat names; those that are left out are the defaults of the scale. A text
            does for a path.
    """
    recipe = find_recipe(name)
    kind = config_type(recipe)
    if kind is None:
        hints = _hints(recipe)
        arguments = {key: _path(value, hints.get(key)) for key, value in arguments.items()}
        plan = _plan_of(name, recipe(**arguments))
        usual = {item.name: item.default for item in inspect.signature(recipe).parameters.values()}
        given = tuple(key for key, value in arguments.items() if value != usual.get(key))
        return dataclasses.replace(plan, arguments=usual | dict(arguments), given=given)

    def ask(base: Any) -> Any:
        config = setting.build(kind, arguments) if base is None else setting.change(base, **arguments)
        if not name.endswith(".py"):  # what flags of another's recipe mean is its own business
            check_ranges(setting.flat(config))
        return config

    return plan_with(name, setting.resolved(default_settings(recipe, arguments.get("scale")), ask))


def plan_with(name: str, found: Resolved) -> Plan:
    """The plan of a recipe, by name or file, with these settings, which it notes."""
    plan = _plan_of(name, find_recipe(name)(found.config))
    return dataclasses.replace(plan, arguments=setting.flat(found.config), given=found.given)


def _plan_of(name: str, plan: object) -> Plan:
    if not isinstance(plan, Plan):
        raise InputError(f"recipe {name} returned {type(plan).__name__}, not a Plan")
    return dataclasses.replace(plan, file=str(Path(name).resolve()) if name.endswith(".py") else None)


def settings_of(folder: Path, recipe: Callable[..., Any]) -> Resolved:
    """The settings that a run was begun with. Raises InputError for one that the recipe does not have any more."""
    record = read_plan(folder)
    arguments, given = record["arguments"], record.get("given") or []
    kind, default = config_type(recipe), default_settings(recipe, record["arguments"].get("scale"))
    assert kind is not None
    name = record.get("file") or record["recipe"]
    _refuse_unknown(folder / "plan.json", name, arguments, setting.names(kind))
    try:
        config = setting.build(kind, arguments) if default is None else setting.change(default, **arguments)
    except InputError as error:
        raise InputError(f"{folder / 'plan.json'} is damaged ({error}); use another folder") from error
    return Resolved(config, tuple(name for name in given if name in arguments))


def _refuse_unknown(path: Path, recipe: str, arguments: Mapping[str, Any], known: Container[str]) -> None:
    if unknown := sorted(name for name in arguments if name not in known):
        raise InputError(f"{path} gives the recipe {recipe} a setting that it does not have: {unknown[0]!r}")


def _refuse_foreign_code(folder: Path, name: str) -> None:
    """A run that was begun here names its recipe file as it lies here, and outside of its folder. One that came with the folder is not run.

    Raises: InputError.
    """
    if name.endswith(".py") and (Path(name) != Path(name).resolve() or Path(name).is_relative_to(folder.resolve())):
        raise InputError(
            f"{folder / 'plan.json'} names the recipe file {name}, which is code that may have come with the folder and is not run; "
            f"run it yourself if you trust it: reverie run {name} --out {folder}"
        )


def plan_again(folder: Path) -> Plan:
    """The plan of a run folder, from the recipe it was made with. Raises SettingsChanged if the recipe changed since."""
    record = read_plan(folder)
    name = record.get("file") or record["recipe"]
    _refuse_foreign_code(folder, name)
    recipe = find_recipe(name)
    path = folder / "plan.json"
    try:
        if config_type(recipe) is None:
            hints = _hints(recipe)
            arguments = {key: _typed(value, hints.get(key)) for key, value in record["arguments"].items()}
            _refuse_unknown(path, name, arguments, inspect.signature(recipe).parameters)
            plan = call_recipe(name, arguments)
        else:
            plan = plan_with(name, settings_of(folder, recipe))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} gives the recipe {name} settings that it cannot take ({error})") from error
    plan.settle(folder)
    return plan


def _typed(value: object, hint: object) -> object:
    """JSON knows no tuples and no paths."""
    if isinstance(value, list):
        return tuple(_typed(item, None) for item in value)
    return _path(value, hint)


def _path(value: object, hint: object) -> object:
    return Path(value) if isinstance(value, str) and hint in (Path, Path | None) else value
