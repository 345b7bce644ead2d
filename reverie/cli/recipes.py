"""Commands that run a plan, or look at it before: ``run``, ``make``, ``demo``, ``plan`` and ``claims``."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import shlex
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from reverie.cli.common import open_console, say
from reverie.cli.flags import read
from reverie.errors import InputError
from reverie.models.devices import find_device
from reverie.ranges import check_min, check_numbers, check_ranges

if typing.TYPE_CHECKING:
    from reverie.run.plan import Plan
    from reverie.settings import Resolved
    from reverie.studies import Study

MOST_JOBS = 4  # trainings of the demo at a time: each process holds libraries of half a gigabyte
HOURS = 3.0  # of ``reverie claims --decide``, where nobody says


def run_recipe(words: list[str]) -> int:
    from reverie.run.plan import known_recipes

    if not words:
        raise InputError(f"reverie run: give a recipe: {', '.join(known_recipes())}, or your own file RECIPE.py")
    if words[0] in ("-h", "--help"):
        say(
            f"usage: reverie run RECIPE [flags]\n\nRecipes: {', '.join(known_recipes())}, or your own file RECIPE.py with one"
        )
        say("function annotated '-> Plan'; its keyword arguments are the flags.\n\nExample:")
        say("  reverie run stablerep --scale tiny --guidance 3 --out runs/guidance3")
        say("  reverie run my_recipe.py --help")
        return 0
    return _recipe("run", words[0], words[1:])


def make(words: list[str]) -> int:
    return _recipe("make", "make", words)


def demo(words: list[str]) -> int:
    """StableRep at its smallest. Captions say the class and no more: what else they said, images of a caption would have in common.

    It computes in bf16 where that is quicker than fp32.
    """
    given = {word.partition("=")[0] for word in words}
    if not given & {"--painter-dtype", "--precision", "-h", "--help"}:
        from reverie.nets.autocast import quick_in_bf16

        if quick_in_bf16(find_device(_said_early(words, "device") or "")):
            words = ["--painter-dtype", "bf16", "--precision", "bf16", *words]
    if not given & {"--captions", "--classes", "--writer", "--words", "--templates", "--images-from"}:
        words = ["--templates", "a {class}", *words]
    return _recipe("demo", "stablerep", words, out=Path("runs/demo"), jobs=min(MOST_JOBS, os.cpu_count() or 1))


def claims(words: list[str]) -> int:
    from reverie.run.plan import find_study, known_studies

    if not words:
        raise InputError(f"reverie claims: give a recipe: {', '.join(known_studies())}")
    if words[0] in ("-h", "--help"):
        say(f"usage: reverie claims RECIPE [flags]\n\nRecipes whose claims can be tested: {', '.join(known_studies())}")
        say("\nExample:\n  reverie claims stablerep --scale tiny --num-seeds 3 --out runs/claims-stablerep")
        say("  reverie claims stablerep --scale small --decide --max-hours 12 --out runs/claims-small")
        return 0
    name = words[0]

    from reverie.evaluate.claims import read_looks
    from reverie.evaluate.looks import MAX_SEEDS

    usual = Path("runs") / f"claims-{name}"
    begun = None if {"-h", "--help"} & set(words) else read_looks(Path(_said_early(words, "out") or usual)).max_seeds
    planned = begun or MAX_SEEDS

    def work(
        out: Path = usual,
        device: str = "",
        jobs: int = 1,
        decide: bool = False,
        max_hours: float = HOURS,
        max_seeds: int = planned,
    ) -> None:
        """Flags that every study has.

        Args:
            out: folder for the runs and the page; the same command with the same folder goes on where it stopped.
            device: cpu, cuda or cuda:N; the GPU if there is one, when empty.
            jobs: trainings at a time, each in a process of its own with its share of the cores.
            decide: seeds added until every claim is decided; intervals are wider in return, see docs/claims.md.
            max_hours: with --decide, hours of this call, at any scale; the first look is made in any case, and no seeds are added that would not
                fit. Work of earlier calls does not count.
            max_seeds: with --decide, number of seeds that is never exceeded; it belongs to the folder and cannot change later.
        """

    find = find_study(name)
    found, flags = _settings(find, work, f"reverie claims {name}", words[1:], usual, f"claims/{name}/")
    if not flags["decide"] and (flags["max_hours"] != HOURS or flags["max_seeds"] != planned):
        raise InputError("--max-hours and --max-seeds say how far --decide may go; give it as well, or leave them out")
    check_min(0, max_hours=flags["max_hours"])
    if flags["decide"] and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("--decide works in one process, because several would not stop at the same time")
    out, device, first = flags["out"], find_device(flags["device"]), found.config.num_seeds
    from reverie.report.claims import foreseen, summary, table, write
    from reverie.run.folder import claim
    from reverie.settings import change, flat
    from reverie.studies.conduct import Decide, conduct

    @functools.cache
    def make(seeds: int) -> Study:
        config = change(found.config, num_seeds=seeds)
        study: Study = find(config)
        how: dict[str, Any] = {"arguments": flat(config), "given": tuple(sorted({*found.given, "num_seeds"}))}
        return dataclasses.replace(
            study, runs={run: dataclasses.replace(plan, **how) for run, plan in study.runs.items()}
        )

    claim(out, ours=tuple(make(first).runs))
    console = open_console()
    done = conduct(
        make, out, first, device, jobs=flags["jobs"], decide=Decide(flags["max_seeds"], flags["max_hours"]) if flags["decide"] else None,
        say=lambda text: say(text, to=sys.stderr),
        foresee=lambda judged, seeds: console.print(foreseen(judged, seeds)), after=tell_failed,
    )  # fmt: skip
    console.print(table(done.judged))
    say(summary(done.judged, done.looks, done.study.once))
    again = shlex.join(["reverie", "claims", *words])
    about = {run: done.study.words.get(run, "") for run in done.study.runs}
    say(write(out, name, done.study.about, again, done.judged, about, done.looks).resolve())
    return 0


def plan(words: list[str]) -> int:
    from reverie.run.plan import known_recipes

    if not words:
        raise InputError(f"reverie plan: give a recipe: {', '.join(known_recipes())}, or your own file RECIPE.py")
    if words[0] in ("-h", "--help"):
        say(
            f"usage: reverie plan RECIPE [flags of reverie run RECIPE]\n\nRecipes: {', '.join(known_recipes())}, or your own file RECIPE.py."
        )
        say("Tells what a run will take, from a short trial on this device that leaves nothing behind.\n\nExample:")
        say("  reverie plan stablerep --scale small --price-per-hour 2.5")
        say("  reverie plan make --captions captions.txt --json")
        return 0
    name, usual = words[0], Path("runs") / Path(words[0]).stem

    def own(price_per_hour: float | None = None, trial: int = 3, max_minutes: float = 5.0, json: bool = False) -> None:
        """Flags of a plan. Those of a run are read as the run reads them, so that the word can be put in and taken out again.

        Args:
            price_per_hour: what an hour of this machine costs, in any currency.
            trial: captions in each of the four units that are timed; 0 times nothing.
            max_minutes: minutes of the trial after which no further training is tried.
            json: print JSON instead of a table.
        """

    work = _joined(_flags_of_runs(usual), own)
    made, flags = _resolve(name, words[1:], work, f"reverie plan {name}", usual)
    return _foresee(made, flags)


def _foresee(plan: Plan, flags: dict[str, Any]) -> int:
    """Print what a run will take."""
    import json

    from reverie.models.names import absent
    from reverie.report.foreseen import table, words
    from reverie.run.estimate import estimate, models_of

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("reverie plan works in one process; leave out accelerate launch")
    check_min(0, trial=flags["trial"], price_per_hour=flags["price_per_hour"], max_minutes=flags["max_minutes"])
    if flags["price_per_hour"] == float("inf"):
        raise InputError("--price-per-hour inf: give what an hour costs")
    if flags["preview"] is not None:
        raise InputError(
            "--preview belongs to the run, and reverie plan shows no page; leave it out, or give reverie run"
        )
    folder = _check_flags(plan, flags)
    found = estimate(
        plan, find_device(flags["device"]), flags["trial"], flags["max_minutes"], flags["until"],
        lambda step: next(filter(None, map(absent, models_of(step))), ""),
    )  # fmt: skip
    notes = list(found.notes)
    if (folder / "plan.json").exists():
        notes.append(
            f"{folder} holds a run: these are the numbers of a whole one; what is left: reverie status {folder}"
        )
    if flags["part"] != "1/1" or flags["jobs"] > 1 or flags["on"] != "here":
        notes.append("these are the numbers of all units by one process: --part, --jobs and --on ray are not looked at")
    found = dataclasses.replace(found, price_per_hour=flags["price_per_hour"], notes=tuple(notes))
    if flags["json"]:
        say(json.dumps(found.record(), indent=1, ensure_ascii=False))
        return 0
    console = open_console()
    console.print(table(found))
    for line in words(found):
        say(line)
    return 0


def _flags_of_runs(usual: Path, at_once: int = 1) -> Callable[..., None]:
    """A function with the flags that every run has, for tyro to read.

    Args: usual: the folder, and ``at_once``: trainings at a time, where nobody says.
    """

    def work(
        out: Path = usual,
        files: Path | None = None,
        device: str = "",
        jobs: int = at_once,
        part: str = "1/1",
        until: str | None = None,
        on: Literal["here", "ray"] = "here",
        actors: int = 1,
        gpus_per_actor: float = 0.0,
        ray_address: str = "",
        preview: int | None = None,
    ) -> None:
        """Flags that every recipe has.

        Args:
            out: run folder; the same command with the same folder goes on where it stopped. s3://BUCKET/NAME, gs:// or az:// for tables in an object
                store, see docs/scale.md.
            files: with tables in an object store, folder for everything else; runs/NAME when absent.
            device: cpu, cuda or cuda:N; the GPU if there is one, when empty.
            jobs: trainings at a time, each in a process of its own with its share of the cores.
            part: k/n for the k-th of n slices of the units, one number of a job array.
            until: last step to do; all when absent.
            on: here, or ray for a pool of actors on any number of machines, see docs/scale.md.
            actors: with --on ray, number of actors that make units.
            gpus_per_actor: with --on ray, GPUs of each actor; 0.5 for two actors on one GPU.
            ray_address: with --on ray, HOST:PORT of a Ray cluster; that of RAY_ADDRESS, or a Ray on this machine alone, when empty.
            preview: captions to look at in place of the run: they go as far as the selection, and a page shows them; the run folder stays
                as it is. The run itself, when absent.
        """

    return work


def _recipe(command: str, name: str, words: list[str], out: Path | None = None, jobs: int = 1) -> int:
    usual = out or Path("runs") / Path(name).stem
    work = _flags_of_runs(usual, jobs)
    prog = f"reverie {command} {name}" if command == "run" else f"reverie {command}"
    plan, flags = _resolve(name, words, work, prog, usual)
    shown = flags["preview"]
    _check_flags(plan, flags)
    if shown is not None:
        return _preview(plan, shown, find_device(flags["device"]), flags["until"])
    del flags["preview"]
    return _work(plan, **flags)


def _check_flags(plan: Plan, flags: dict[str, Any]) -> Path:
    """The folder of a run on this machine. Raises InputError for flags of a run that cannot be, or do not go together."""
    if flags["preview"] is not None:
        check_min(1, preview=flags["preview"])
    check_min(1, jobs=flags["jobs"], actors=flags["actors"])
    _part(flags["part"])
    if flags["until"] is not None:
        plan.step(flags["until"])
    device, gpus = flags["device"], flags["gpus_per_actor"]
    if flags["on"] == "here":
        if flags["actors"] != 1 or gpus or flags["ray_address"]:
            raise InputError(
                "--actors, --gpus-per-actor and --ray-address belong to --on ray; give it as well, or leave them out"
            )
    # What devices there are is for the machines of the actors to know; each actor sees its own alone.
    elif device not in ("", "cpu", "cuda"):
        raise InputError(f"--device {device} with --on ray: give cpu, or cuda with --gpus-per-actor")
    elif device == "cuda" and not gpus:
        raise InputError("--device cuda with --on ray: say how many GPUs an actor gets, such as --gpus-per-actor 1")
    return _folder(flags["out"], flags["files"])


def _preview(plan: Plan, count: int, device: str, until: str | None) -> int:
    """A page about a few captions, in the folder for temporary files; the rest of what was made is gone."""
    import tempfile

    from reverie.errors import ReverieError
    from reverie.report.page import write
    from reverie.run.engine import run
    from reverie.run.preview import preview_of
    from reverie.store.files import passing_folder

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("--preview works in one process; leave out accelerate launch")
    last = len(plan.steps) if until is None else plan.steps.index(plan.step(until)) + 1
    small, stopped = preview_of(plan, count, without=[step.name for step in plan.steps[last:]]), ""
    with passing_folder("reverie-preview-") as place:
        folder = place / "preview"
        try:
            run(small, folder, device)
        except ReverieError as error:
            if not list(folder.glob("*.lance")):
                raise
            stopped = str(error)
        text = write(folder).read_bytes()
    number, name = tempfile.mkstemp(prefix=f"reverie-preview-{Path(plan.recipe).name}-", suffix=".html")
    try:
        with os.fdopen(number, "wb") as page:
            page.write(text)
    except OSError:
        Path(name).unlink()
        raise
    if stopped:
        raise InputError(f"{stopped}; what was made until then: {name}")
    say(name)
    return 0


def _resolve(
    name: str, words: list[str], work: Callable[..., Any], prog: str, usual: Path
) -> tuple[Plan, dict[str, Any]]:
    """The plan of a recipe and the flags that every run has, from the command line."""
    from reverie.run.plan import call_recipe, config_type, find_recipe, plan_with

    recipe = find_recipe(name)
    if config_type(recipe) is None:
        arguments, flags = read(_joined(recipe, work), prog, words)
        for flag, value in arguments.items():
            check_numbers(value, flag)
        plan = call_recipe(name, arguments)
    else:
        found, flags = _settings(recipe, work, prog, words, usual, name)
        plan = plan_with(name, found)
    return plan, flags


def _folder(out: Path, files: Path | None) -> Path:
    """The folder of a run on this machine. Raises InputError for --files without a store for the tables."""
    from reverie.store.places import remote

    at = remote(out)
    if at is None and files is not None:
        raise InputError(f"--files is for tables in an object store, and --out {out} is a folder; leave it out")
    return out if at is None else files or Path("runs") / at.rpartition("/")[2]


def _settings(
    recipe: Callable[..., Any], work: Callable[..., None], prog: str, words: list[str], out: Path, name: str
) -> tuple[Resolved, dict[str, Any]]:
    """The settings of a recipe or study and the flags that every run has, read from the command line.

    If the folder holds a run of the same recipe and scale, what was a default then is the default now.

    Args:
        out: the usual folder.
        name: of the recipe, its file, or what the names of all runs of a study begin with.
    """
    from reverie.run.plan import default_settings, settings_of
    from reverie.settings import flat, resolved
    from reverie.store.places import remote

    scale = _said_early(words, "scale")
    default = default_settings(recipe, scale)
    known = None
    early, files = Path(_said_early(words, "out") or out), _said_early(words, "files")
    folder = _folder(early, Path(files) if files and remote(early) else None)
    if not {"-h", "--help"} & set(words) and (begun := _begun(folder, name)):
        known = settings_of(begun, recipe)
        if getattr(known.config, "scale", None) != getattr(default, "scale", None):
            known = None  # the run will refuse, and show what differs
    flags: dict[str, Any] = {}

    def ask(base: Any) -> Any:
        config, more = read(_with_settings(recipe, base, work), prog, words, config=(tyro.conf.OmitArgPrefixes,))
        flags.update(more)
        for flag, value in flat(config).items():
            check_numbers(value, flag)
        if not name.endswith(".py"):
            check_ranges(flat(config))
        return config

    return resolved(default, ask, known), flags


def _begun(folder: Path, name: str) -> Path | None:
    """The folder of a run of this recipe that goes on there; for a study one of its runs. None where nothing was begun."""
    from reverie.run.plan import read_plan

    for path in (folder / "plan.json", *sorted(folder.glob("*/plan.json"))):
        if path.exists():
            record = read_plan(path.parent)
            of = str(record.get("file") or record["recipe"])
            if of == (str(Path(name).resolve()) if name.endswith(".py") else name) or (
                name.endswith("/") and of.startswith(name)
            ):
                return path.parent
        if not name.endswith("/"):
            return None
    return None


def _said_early(words: list[str], flag: str) -> str | None:
    """What follows a flag on the command line, the last time that it is there, before anything else is read; None where it is left out."""
    said = None
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == f"--{flag}":
            said = value if equals else next(iter(words[place + 1 :]), None)
    return said


def _with_settings(
    recipe: Callable[..., Any], default: Any, work: Callable[..., None]
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A function of a recipe's settings and the parameters of ``work``, for tyro to read; called, it gives them back apart."""
    from reverie.run.plan import config_type
    from reverie.settings import names

    kind, general = config_type(recipe), inspect.signature(work).parameters
    assert kind is not None
    if clash := sorted(set(names(kind)) & general.keys()):
        raise InputError(f"the recipe has parameters that every run has: {', '.join(clash)}; rename them")

    def both(**values: Any) -> tuple[Any, dict[str, Any]]:
        return values.pop("config"), values

    own = inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=inspect.Parameter.empty if default is None else default
    )
    keyword = [own, *(item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in general.values())]
    both.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    both.__annotations__ = {"config": Annotated[kind, tyro.conf.arg(name="")]} | _hints(work)
    text, flags = inspect.getdoc(recipe) or "", (inspect.getdoc(work) or "").partition("Args:\n")[2]
    both.__doc__ = f"{text.partition('Args:')[0].rstrip()}\n\nArgs:\n{flags}"
    return both


def _joined(
    recipe: Callable[..., Any], work: Callable[..., None]
) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """A function with the parameters of both, for tyro to read; called, it gives them back apart."""
    own, general = inspect.signature(recipe).parameters, inspect.signature(work).parameters
    if clash := sorted(own.keys() & general.keys()):
        raise InputError(f"the recipe has parameters that every run has: {', '.join(clash)}; rename them")
    if loose := [name for name, item in own.items() if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]:
        raise InputError(f"a recipe names its parameters one by one, so that they can be flags; not *{loose[0]}")

    def both(**values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return {key: values[key] for key in own}, {key: values[key] for key in general}

    keyword = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in (*own.values(), *general.values())]
    both.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    both.__annotations__ = _hints(recipe) | _hints(work)
    text, flags = inspect.getdoc(recipe) or "", (inspect.getdoc(work) or "").partition("Args:\n")[2]
    both.__doc__ = f"{text}\n{flags}" if "Args:" in text else f"{text}\n\nArgs:\n{flags}"
    return both


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    return hints


def _work(
    plan: Plan, out: Path, files: Path | None, device: str, jobs: int, part: str, until: str | None, on: str, actors: int,
    gpus_per_actor: float, ray_address: str,
) -> int:  # fmt: skip
    from reverie.run.engine import run
    from reverie.store.places import remote

    slice_, at = _part(part), remote(out)
    out = _folder(out, files)
    if on == "here":
        complete = run(plan, out, find_device(device), slice_, until, jobs, at=at)
    else:
        from reverie.run.on_ray import cluster

        with cluster(actors, gpus_per_actor, ray_address) as pool:
            complete = run(plan, out, device or ("cuda" if gpus_per_actor else "cpu"), slice_, until, jobs, pool, at)
    tell_failed(out)
    if (out / "results.jsonl").exists():
        from reverie.report.terminal import table

        open_console().print(table(out))
    page = out / "report.html"
    if complete and page.exists():
        say(page.resolve())
    else:
        say(f"{out}: {'done' if complete else 'not complete yet'}; see: reverie status {shlex.quote(str(out))}")
    return 0


def tell_failed(out: Path) -> None:
    """One line about rows that failed, which the page would only say in the end."""
    from reverie.store import tables
    from reverie.store.sources import counted

    failed = {
        what: tables.count(path, "status = 'failed'")
        for what, path in (("captions", out / "captions.lance"), ("images", out / "pairs.lance"))
        if tables.exists(path)
    }
    if any(failed.values()):
        said = " and ".join(counted(number, what) for what, number in failed.items() if number)
        them = "it" if sum(failed.values()) == 1 else "them"
        say(f"{said} failed; make {them} again with: reverie retry {shlex.quote(str(out))}")


def _part(text: str) -> tuple[int, int]:
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise InputError(f"--part {text}: give k/n with k from 1 to n, for example --part 1/16")
    return int(k), int(n)
