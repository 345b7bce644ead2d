"""Words to calls: each command is a function whose signature is its flags. Heavy libraries are imported where called.

A ReverieError ends as one line on stderr and exit code 2; Ctrl-C as a hint how to go on and 130; anything else is a bug
and keeps its traceback.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import inspect
import io
import os
import shlex
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Column, Table

from reverie.errors import FolderInUse, InputError, ReverieError, UnknownName
from reverie.ranges import check_at_least, check_numbers
from reverie.report.plain import plain

if typing.TYPE_CHECKING:
    from PIL.Image import Image

    from reverie.recipes.claims import Study
    from reverie.run.plan import Plan
    from reverie.settings import Resolved

Folder = Annotated[Path, tyro.conf.Positional]

USAGE = """reverie: synthetic image-text data, the models trained on it, and the numbers that say what it was worth.

  reverie demo                             the whole way in minutes on a CPU: words, images, training, a page
  reverie make --captions captions.txt     captions and images in bulk; run it again to go on
  reverie run RECIPE ...                   a recipe by name, or your own recipe file
  reverie claims RECIPE                    put a paper's claims to the test: holds, fails or inconclusive
  reverie status FOLDER                    how far a run is, with rate and time left
  reverie verify FOLDER                    check that the tables are whole
  reverie retry FOLDER                     make failed rows again
  reverie repaint FOLDER PAIR_ID           make one image again, alone
  reverie report FOLDER                    write report.html again
  reverie compact FOLDER                   fewer, larger files in the tables of a run that committed many small units
  reverie import SOURCE --out FOLDER       image folders, COCO, CSV, parquet, WebDataset, Hugging Face -> tables
  reverie export FOLDER --to KIND --out X  tables -> WebDataset, parquet, COCO, image folder; classifier -> ONNX
  reverie duplicates FOLDER                pictures that are there twice, first those under two labels
  reverie predict FOLDER PHOTO ...         what a tuned classifier says of photos
  reverie evaluate captions RESULTS REFS   BLEU, ROUGE-L, CIDEr, METEOR of captions in COCO files
  reverie caption FOLDER PHOTO ...         what a trained captioner says of photos
  reverie models [list | check]            the builtin models; measure them

'reverie COMMAND --help' shows the flags of a command and an example."""


HOURS = 3.0  # of ``reverie claims --decide``, where nobody says
FORBIDDEN = ("Permission denied", "Read-only file system")
MISNAMED = (
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
)  # a path given by the user, wherever it is used


def main(words: list[str] | None = None) -> None:
    """The ``reverie`` command. Ends with SystemExit: 0, 2 (the user's to mend) or 130 (stopped)."""
    words = sys.argv[1:] if words is None else words
    # Threads of torch that wait for each other sleep instead of spinning. On an idle machine that costs nothing to speak of;
    # beside one other busy process, painting is eight times faster. It must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it warns of is about parts that are not used here
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(_dispatch(words))
    except ReverieError as error:
        print(f"reverie: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        again = shlex.join(["reverie", *words])
        print(f"\nreverie: stopped; finished units are kept. To go on, run the same command: {again}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `reverie status x | head`
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:  # safetensors and Lance wrap the OSError in one of their own
        if isinstance(error, PermissionError) or any(said in str(error) for said in FORBIDDEN):
            print(f"reverie: not allowed to read or write here ({_one_line(error)})", file=sys.stderr)
            sys.exit(2)
        if isinstance(error, OSError) and error.errno in MISNAMED:
            name = f"{str(error.filename)[:100]}: " if error.filename else ""
            print(f"reverie: cannot use {name}{error.strerror}; give another name", file=sys.stderr)
            sys.exit(2)
        if "No space left on device" not in str(error):
            raise
        print(f"reverie: the disk is full ({error}); free some space and run the same command again", file=sys.stderr)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("reverie"))
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UnknownName("command", name, COMMANDS)
    return COMMANDS[name](rest)


# Recipes


def _run(words: list[str]) -> int:
    from reverie.run.plan import known_recipes

    if not words or words[0] in ("-h", "--help"):
        print(
            f"usage: reverie run RECIPE [flags]\n\nRecipes: {', '.join(known_recipes())}, or your own file RECIPE.py with one"
        )
        print("function annotated '-> Plan'; its keyword arguments are the flags.\n\nExample:")
        print("  reverie run stablerep --scale tiny --guidance 3 --out runs/guidance3")
        print("  reverie run my_recipe.py --help")
        return 0 if words else 2
    return _recipe("run", words[0], words[1:])


def _make(words: list[str]) -> int:
    return _recipe("make", "make", words)


def _demo(words: list[str]) -> int:
    return _recipe("demo", "stablerep", words, out=Path("runs/demo"))


def _claims(words: list[str]) -> int:
    from reverie.run.plan import find_study, known_studies

    if not words or words[0] in ("-h", "--help"):
        print(
            f"usage: reverie claims RECIPE [flags]\n\nRecipes whose claims can be tested: {', '.join(known_studies())}"
        )
        print("\nExample:\n  reverie claims stablerep --scale tiny --num-seeds 3 --out runs/claims-stablerep")
        print("  reverie claims stablerep --scale small --decide --max-hours 12 --out runs/claims-small")
        return 0 if words else 2
    name = words[0]

    usual = Path("runs") / f"claims-{name}"

    def work(
        out: Path = usual,
        device: str = "",
        decide: bool = False,
        max_hours: float = HOURS,
        max_seeds: int | None = None,
    ) -> None:
        """Flags that every study has.

        Args:
            out: folder for the runs and the page; the same command with the same folder goes on where it stopped.
            device: cpu, cuda or cuda:N; the GPU if there is one, when empty.
            decide: seeds added until every claim is decided; intervals are wider in return, see docs/claims.md.
            max_hours: with --decide, hours of this call, at any scale; the first look is made in any case, and no seeds are added that would not
                fit. Work of earlier calls does not count.
            max_seeds: with --decide, the most seeds there may be; it belongs to the folder and cannot change later. 12 when absent.
        """

    find = find_study(name)
    found, flags = _settings(find, work, f"reverie claims {name}", words[1:], usual, f"claims/{name}/")
    if not flags["decide"] and (flags["max_hours"] != HOURS or flags["max_seeds"] is not None):
        raise InputError("--max-hours and --max-seeds say how far --decide may go; give it as well, or leave them out")
    if flags["max_hours"] < 0:
        raise InputError(f"--max-hours {flags['max_hours']:g}: give a number of hours")
    if flags["decide"] and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("--decide works in one process, because several would not stop at the same time")
    out, device, first = flags["out"], _device(flags["device"]), found.config.num_seeds
    from reverie.report.claims import foreseen, summary, table, write
    from reverie.run.folder import claim
    from reverie.settings import change, flat
    from reverie.study import Decide, conduct

    @functools.cache
    def make(seeds: int) -> Study:
        config = change(found.config, num_seeds=seeds)
        study: Study = find(config)
        how: dict[str, Any] = {"arguments": flat(config), "given": tuple(sorted({*found.given, "num_seeds"}))}
        return dataclasses.replace(
            study, runs={run: dataclasses.replace(plan, **how) for run, plan in study.runs.items()}
        )

    claim(out, ours=tuple(make(first).runs))
    console = _console()
    done = conduct(
        make, out, first, device, Decide(flags["max_seeds"], flags["max_hours"]) if flags["decide"] else None,
        say=lambda text: print(text, file=sys.stderr),
        foresee=lambda judged, seeds: console.print(foreseen(judged, seeds)), after=_tell_failed,
    )  # fmt: skip
    console.print(table(done.judged))
    print(summary(done.judged, done.looks, done.study.once))
    again = shlex.join(["reverie", "claims", *words])
    about = {run: done.study.words.get(run, "") for run in done.study.runs}
    print(write(out, name, done.study.about, again, done.judged, about, done.looks).resolve())
    return 0


def _recipe(command: str, name: str, words: list[str], out: Path | None = None) -> int:
    from reverie.run.plan import call_recipe, config_type, find_recipe, plan_with

    usual = out or Path("runs") / Path(name).stem

    def work(out: Path = usual, device: str = "", part: str = "1/1", until: str | None = None) -> None:
        """Flags that every recipe has.

        Args:
            out: run folder; the same command with the same folder goes on where it stopped.
            device: cpu, cuda or cuda:N; the GPU if there is one, when empty.
            part: k/n for the k-th of n slices of the units, one number of a job array.
            until: last step to do; all when absent.
        """

    prog = f"reverie {command} {name}" if command == "run" else f"reverie {command}"
    recipe = find_recipe(name)
    if config_type(recipe) is None:
        arguments, flags = tyro.cli(_joined(recipe, work), prog=prog, args=words)
        for flag, value in arguments.items():
            check_numbers(value, flag)
        plan = call_recipe(name, arguments)
    else:
        found, flags = _settings(recipe, work, prog, words, usual, name)
        plan = plan_with(name, found)
    return _work(plan, flags["out"], _device(flags["device"]), _part(flags["part"]), flags["until"])


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

    scale = _said_early(words, "scale")
    default = default_settings(recipe, scale)
    known = None
    if not {"-h", "--help"} & set(words) and (begun := _begun(Path(_said_early(words, "out") or out), name)):
        known = settings_of(begun, recipe)
        if getattr(known.config, "scale", None) != getattr(default, "scale", None):
            known = None  # the run will refuse, and show what differs
    flags: dict[str, Any] = {}

    def ask(base: Any) -> Any:
        config, more = tyro.cli(
            _with_settings(recipe, base, work), prog=prog, args=words, config=(tyro.conf.OmitArgPrefixes,)
        )
        flags.update(more)
        for flag, value in flat(config).items():
            check_numbers(value, flag)
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
    """What follows a flag on the command line, before anything else is read; None where it is left out."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == f"--{flag}":
            return value if equals else next(iter(words[place + 1 :]), None)
    return None


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
    recipe: Callable[..., Plan], work: Callable[..., None]
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


def _work(plan: Plan, out: Path, device: str, part: tuple[int, int], until: str | None) -> int:
    from reverie.run.local import run

    whole = run(plan, out, device, part, until)
    _tell_failed(out)
    if (out / "results.jsonl").exists():
        from reverie.report.terminal import table

        _console().print(table(out))
    page = out / "report.html"
    if whole and page.exists():
        print(page.resolve())
    else:
        print(f"{out}: {'done' if whole else 'not whole yet'}; see: reverie status {shlex.quote(str(out))}")
    return 0


def _tell_failed(out: Path) -> None:
    """One line about rows that failed, which the page would only say in the end."""
    from reverie.store import tables

    failed = {
        what: tables.count(path, "status = 'failed'")
        for what, path in (("captions", out / "captions.lance"), ("images", out / "pairs.lance"))
        if tables.exists(path)
    }
    if any(failed.values()):
        said = " and ".join(f"{number:,} {what}" for what, number in failed.items() if number)
        print(f"{said} failed; make them again with: reverie retry {shlex.quote(str(out))}")


def _part(text: str) -> tuple[int, int]:
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise InputError(f"--part {text}: give k/n with k from 1 to n, for example --part 1/16")
    return int(k), int(n)


def _device(wanted: str) -> str:
    """The device to work on. Raises InputError for one that is not there."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(["cuda"] if found else []), *(f"cuda:{number}" for number in range(found))]
    if wanted and wanted not in there:
        raise InputError(f"there is no device {wanted!r} here; use one of: {', '.join(there)}")
    return wanted or ("cuda" if found else "cpu")


# Everything about a run folder


def status(folder: Folder) -> None:
    """How far a run is: per step rows done, dropped, failed and left, the rate and the time it still takes.

    Reads the folder beside whoever works there.

    Example: reverie status runs/demo

    Args:
        folder: the run folder.
    """
    from reverie.run.events import duration
    from reverie.run.local import status as read

    table = Table("step", "", *(Column(name, justify="right") for name in NUMBERS), box=None, header_style="bold")
    for step in read(folder):
        numbers = [step.done, step.ok, step.dropped, step.failed, step.left]
        rate = f"{step.rate_per_s:.3g}/s" if step.rate_per_s and not step.whole else ""
        left = duration(step.eta_s) if step.eta_s and not step.whole else ""
        state = "done" if step.whole else "begun" if step.done else ""
        table.add_row(
            plain(step.name), state, *("" if number is None else f"{number:,}" for number in numbers), rate, left
        )
    _console().print(table)


NUMBERS = ("made", "ok", "dropped", "failed", "left", "rate", "time left")


def verify(folder: Folder) -> int:
    """Check the tables of a run: counts add up, no key twice, every caption has its copies or a reason, images decode.

    Example: reverie verify runs/demo

    Args:
        folder: the run folder. Exit code 1 if something is wrong.
    """
    from reverie.run.plan import read_plan
    from reverie.store import tables

    steps = read_plan(folder)["steps"] if (folder / "plan.json").exists() else []  # an import has no plan
    if steps and all(step["kind"] == "job" for step in steps):
        print(f"{folder}: a run without tables of its own; there is nothing to verify")
        return 0
    whole = {path.stem for path in (folder / "done").glob("*.json")}
    # Copies are counted only when all should be there: a run that is under way has units without images yet.
    copies = [step["per_caption"] for step in steps if step["kind"] == "pairs" and step["name"] in whole]
    with _counting("images checked:") as progress:
        problems = tables.verify(folder, per_caption=copies[0] if copies else None, progress=progress)
    print("\n".join(problems) or f"{folder}: whole")
    return 1 if problems else 0


def retry(folder: Folder, device: str = "") -> None:
    """Make failed rows again, and what was left out because of them. Rows that are ok or dropped stay as they are.

    What was made of the rows (a classifier, a captioner, numbers, the page) is done anew when the run goes on; trained backbones stay.

    Example: reverie retry runs/demo

    Args:
        folder: the run folder.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
    """
    from reverie.run.local import retry as again
    from reverie.run.plan import plan_again

    folder = _where_it_was_made(folder)
    for step, mended in again(plan_again(folder), folder, _device(device)).items():
        print(f"{step}: {mended} rows mended")


def _where_it_was_made(folder: Path) -> Path:
    """Go where the run was started, as its arguments may be relative paths. Returns the folder as an absolute path."""
    from reverie.run.plan import read_plan

    made_in = Path(read_plan(folder).get("made_in", "."))
    folder = folder.resolve()
    if made_in.is_dir():
        os.chdir(made_in)
    return folder


def repaint(
    folder: Folder, pair_id: Annotated[str, tyro.conf.Positional], out: Path | None = None, device: str = ""
) -> None:
    """Make one image again, alone, from its seed, and compare it with the stored one.

    Example: reverie repaint runs/demo 8f3a0c52d1e97b64-002 --out again.png

    Args:
        folder: the run folder.
        pair_id: the key of the pair: caption id, a dash, and the number of the copy.
        out: where to write the picture; PAIR_ID.png when left out.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
    """
    from reverie.run.local import repaint as paint
    from reverie.run.plan import plan_again

    path = (out or Path(f"{pair_id}.png")).resolve()
    if path.is_dir():
        raise InputError(f"{out} is a folder; give --out the name of a file, such as {path / f'{pair_id}.png'}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} to")
    folder = _where_it_was_made(folder)
    image, stored = paint(plan_again(folder), folder, pair_id, _device(device))
    path.write_bytes(image)
    print(
        f"{path}: {'the same bytes as the stored image' if image == stored else 'not the same bytes as the stored image'}"
    )


def report(folder: Folder) -> None:
    """Write report.html of a run again, one page that needs no other file.

    Example: reverie report runs/demo

    Args:
        folder: the run folder; it may still be at work.
    """
    from reverie.report.page import write
    from reverie.run.plan import read_plan

    read_plan(folder)
    print(write(folder).resolve())


def compact(folder: Folder) -> None:
    """Rewrite the tables of a run or an import into fewer, larger files; rows and their order stay as they are.

    Example: reverie compact runs/demo

    Args:
        folder: the folder; nobody may be at work in it.
    """
    from reverie.run.folder import units_held
    from reverie.store import tables

    found = sorted(folder.glob("*.lance"))
    if not found:
        raise InputError(f"{folder} holds no tables; give the folder of a run or an import")
    with units_held(folder, range(EVERY_UNIT)):
        for path in found:
            tables.compact(path)
            print(f"{path}: compact")


EVERY_UNIT = 2**31  # more than any run has


def import_(
    source: Folder,
    out: Path,
    kind: Literal["folder", "coco", "csv", "tsv", "jsonl", "text", "parquet", "webdataset", "huggingface"]
    | None = None,
    name: str | None = None,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    images: Path | None = None,
    split: str | None = None,
    template: str = "a photo of a {class}.",
    captions_per_image: int | None = None,
) -> None:
    """Captions and real images of others -> captions.lance and pairs.lance. Run it again to go on.

    Example: reverie import photos/ --out real

    It ends with a count of all that was there: taken, dropped, failed, and not taken, with the reasons.

    Args:
        source: an image folder with class folders or a metadata file, COCO captions (also .gz), CSV, TSV, JSONL, text, parquet, WebDataset
            tars, or a Hugging Face dataset folder.
        out: folder for the tables; new, empty, or of earlier imports: a source that was stopped goes on, and one with
            another name comes after those there.
        kind: what the source is; guessed from its name and content when left out.
        name: of the source, part of every id; the kind when left out. Sources of one folder need different names.
        text_column: where captions are; usual names are tried when left out.
        image_column: where images are; likewise. In WebDataset an ending, such as left.jpg.
        label_column: where class names are; likewise.
        images: folder that file names in the source are relative to.
        split: part of a source that has several: a folder train or test, a split of a Karpathy file or a Hugging Face folder.
        template: caption made from a class name, {class} for the name, where there is no caption.
        captions_per_image: use only the first so many captions of an image.
    """
    from reverie.run.folder import claim_tables
    from reverie.store.imports import import_into

    given: dict[str, Any] = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "images": images,
    }
    given |= {"split": split, "captions_per_image": captions_per_image, "template": template}
    reading = {key: value for key, value in given.items() if value is not None}
    is_new = not out.exists()
    claim_tables(out)
    try:
        with _counting("imported") as progress:
            account = import_into(source, out, kind, name=name, progress=progress, **reading)
    except FolderInUse:
        raise
    except ReverieError:
        if is_new and not {path.name for path in out.iterdir()} - {".lock"}:  # nothing was read: nothing is left behind
            (out / ".lock").unlink(missing_ok=True)
            out.rmdir()
        raise
    counts = account.counts
    captions, ok = counts["captions"], counts.get("images ok")
    said = f"{out}: {captions:,} caption{'s' * (captions != 1)}"
    said += f" ({counts['dropped captions']:,} dropped)" * (counts["dropped captions"] > 0)
    if ok is not None:
        said += f", {ok:,} image{'s' * (ok != 1)} ok"
        said += "".join(
            f", {counts[f'images {why}']:,} {why}" for why in ("dropped", "failed") if counts[f"images {why}"]
        )
    print(f"{said}\n{account}")


def export(
    folder: Folder,
    to: Literal["webdataset", "parquet", "coco", "folder", "onnx"],
    out: Path,
    where: str = "status = 'ok'",
) -> None:
    """The pairs of a run or an import -> files that other tools read; or its classifier -> an ONNX file.

    Example: reverie export runs/demo --to webdataset --out shards --where "kept and clip_score > 0.3"

    Args:
        folder: a run folder, or one that reverie import made; for onnx a run folder, or one of its weights folders.
        to: WebDataset tars, parquet with an Image feature, COCO JSON with images, or an image folder; or ONNX.
        out: a new or empty folder; for onnx a new file.
        where: which pairs, in SQL over their columns.
    """
    if to == "onnx":
        if where != "status = 'ok'":
            raise InputError("--where chooses pairs; an ONNX file holds a classifier and no pairs")
        _export_classifier(folder, out)
        return
    from reverie.store import exports, tables

    write = {
        "webdataset": exports.to_webdataset,
        "parquet": exports.to_parquet,
        "coco": exports.to_coco,
        "folder": exports.to_folder,
    }[to]
    with _counting("exported") as progress:
        counts = write(folder / "pairs.lance", out, where=where, progress=progress)
    print(f"{out}: " + ", ".join(f"{number:,} {what}" for what, number in counts.items()))
    pairs = folder / "pairs.lance"
    if "kept" in tables.column_names(pairs) and (
        lost := tables.count(pairs, f"{tables.whole_filter(where)} and kept = false")
    ):
        print(f'{lost:,} of these were not kept by the selection; leave them out with: --where "{where} and kept"')


def duplicates(folder: Folder, max_distance: int = 4, exact: bool = False) -> None:
    """Pictures that are there more than once, exactly or nearly: a table of those under two labels, and duplicates.html.

    Example: reverie duplicates photos

    Every copy gets the key of the picture that it repeats in the column duplicate_of, so that --where "duplicate_of is null"
    leaves copies out of an export.

    Args:
        folder: an import or a run; nobody may be at work in it.
        max_distance: bits of 64 that the hashes of near copies may differ in.
        exact: only those that are equal to the last pixel.
    """
    from reverie.filters.duplicates import Duplicates, find_duplicates
    from reverie.report.duplicates import gather, sentence, table, write
    from reverie.run.folder import units_held

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give a run folder, or one that reverie import made")
    with units_held(folder, range(EVERY_UNIT)), _counting("units looked at:") as progress:
        find_duplicates(
            folder,
            Duplicates(max_distance, near=not exact),
            lambda kind, **facts: progress(facts["done"], facts["total"]) if kind == "progress" else None,
        )
    page, found = write(folder), gather(folder)
    if found.conflicts:
        _console().print(table(found))
    print(f"{sentence(found)}\n{page.resolve()}")


def _export_classifier(folder: Path, out: Path) -> None:
    from reverie.models.classifier import load_classifier
    from reverie.models.onnx import about, export_onnx

    classifier = load_classifier(folder)
    difference = export_onnx(classifier, out)
    said = about(classifier)
    print(
        f"{out}: {len(classifier.classes):,} classes; pixels uint8 (batch, {said['side']}, {said['side']}, 3) -> logits, "
        f"probabilities; differs from torch by {difference:.1g} at most on random pictures"
    )


@contextmanager
def _counting(what: str) -> Iterator[Callable[..., None]]:
    """Show a count that grows, where somebody watches."""
    with Console(stderr=True).status(what) as line:
        yield lambda done, total=None: line.update(f"{what} {done:,}" + (f" of {total:,}" if total else ""))


def predict(
    classifier: Folder,
    photos: Annotated[tuple[Path, ...], tyro.conf.Positional],
    json: bool = False,
    device: str = "",
    batch: int = 64,
) -> None:
    """What a tuned classifier says of photos: label and confidence.

    Example: reverie predict runs/zero_shot photo.jpg holidays/

    Args:
        classifier: a run folder of zero_shot or few_shot, or one of its weights folders.
        photos: image files, and folders that are searched for them.
        json: one JSON line a photo, with the probabilities of all classes, in place of a table.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        batch: photos through the network at once.
    """
    import json as as_json

    from reverie.models.classifier import load_classifier

    files = _photo_files(photos)
    opened = load_classifier(classifier, _device(device), batch)
    table = Table("photo", "label", Column("confidence", justify="right"), box=None, header_style="bold")
    with _shown_at_the_end(table):
        for pictures in _opened_photos(files, batch):
            for path, answer in zip(pictures, opened(pictures.values()), strict=True):
                if json:
                    chances = dict(
                        zip(opened.classes, (round(value, 6) for value in answer.probabilities), strict=True)
                    )
                    line = {"photo": str(path), "label": answer.label, "confidence": round(answer.confidence, 6)}
                    print(as_json.dumps(line | {"probabilities": chances}, ensure_ascii=False))
                else:
                    table.add_row(plain(path), plain(answer.label), f"{answer.confidence:.1%}")


def caption(
    captioner: Folder,
    photos: Annotated[tuple[Path, ...], tyro.conf.Positional],
    beams: int = 1,
    tags: bool = False,
    nearest: int = 0,
    support: Path | None = None,
    json: bool = False,
    device: str = "",
    batch: int = 64,
) -> None:
    """What a trained captioner says of photos.

    Example: reverie caption runs/syntic photo.jpg holidays/ --tags --nearest 5

    Args:
        captioner: a run folder of syntic, or one of its weights folders.
        photos: image files, and folders that are searched for them.
        beams: 1 takes the likeliest word each time; more search that many sentences at once.
        tags: show also the names of things that it was given.
        nearest: show also so many sentences of the support set, the nearest first, with their cosine.
        support: sentences in whose terms photos are said in place of its own: a file, read as a corpus is, or a support folder; nothing is trained.
        json: one JSON line a photo in place of a table.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        batch: photos through the networks at once.
    """
    import json as as_json

    from reverie.models.captioner import load_captioner

    if beams < 1 or nearest < 0:
        raise InputError("beams are 1 or more, and nearest 0 or more")
    files = _photo_files(photos)
    opened = load_captioner(captioner, _device(device), batch, support)
    table = Table(
        *["photo", "caption", *["tags"] * tags, *["nearest sentences"] * bool(nearest)], box=None, header_style="bold"
    )
    with _shown_at_the_end(table):
        for pictures in _opened_photos(files, batch):
            for path, told in zip(pictures, opened(list(pictures.values()), beams, nearest), strict=True):
                if json:
                    close = [{"text": text, "cosine": round(cosine, 4)} for text, cosine in told.nearest]
                    line = {"photo": str(path), "caption": told.text, "tags": list(told.tags), "nearest": close}
                    print(as_json.dumps(line, ensure_ascii=False))
                    continue
                near = "\n".join(f"{cosine:.2f}  {text}" for text, cosine in told.nearest)
                cells = [str(path), told.text, *[", ".join(told.tags)] * tags, *[near] * bool(nearest)]
                table.add_row(*map(plain, cells))


def _photo_files(photos: tuple[Path, ...]) -> list[Path]:
    """The image files that are named, or lie in folders that are. Raises InputError if there is none."""
    from reverie.store.pictures import picture_files

    if files := picture_files(photos):
        return files
    raise InputError("name at least one photo, or a folder with some")


def _opened_photos(files: list[Path], batch: int) -> Iterator[dict[Path, Image]]:
    """Those that can be read, some at a time; after the last, an InputError that names those that cannot."""
    from reverie.errors import BrokenImage
    from reverie.store.pictures import read_picture

    if batch < 1:
        raise InputError(f"a batch of {batch} photos cannot be; give 1 or more")
    broken: list[str] = []
    for start in range(0, len(files), batch):
        pictures = {}
        for path in files[start : start + batch]:
            try:
                pictures[path] = read_picture(path)
            except BrokenImage as error:
                broken.append(str(error))
        yield pictures
    if broken:
        raise InputError(f"{len(broken)} of {len(files)} photos cannot be read: {'; '.join(broken[:3])}")


@contextmanager
def _shown_at_the_end(table: Table) -> Iterator[None]:
    """Print what the table has by then, also where an error ends it."""
    try:
        yield
    finally:
        if table.row_count:
            _console().print(table)


def _evaluate(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: reverie evaluate KIND ...\n\nKinds: {', '.join(EVALUATIONS)}")
        print("\nExample:\n  reverie evaluate captions results.json captions_val2017.json")
        print("  reverie evaluate transfer runs/demo/weights/stablerep-0 cifar10/ pets/")
        return 0 if words else 2
    if words[0] not in EVALUATIONS:
        raise UnknownName("kind of evaluation", words[0], EVALUATIONS)
    return EVALUATIONS[words[0]](words[1:])


def evaluate_captions(
    results: Folder,
    references: Folder,
    metrics: tuple[Literal["bleu", "rouge_l", "cider_d", "cider", "meteor", "meteor_java", "spice"], ...] = (
        "bleu",
        "rouge_l",
        "cider_d",
        "cider",
        "meteor",
    ),
    json: bool = False,
) -> None:
    """How close captions are to those that people wrote, by the metrics of the COCO toolkit; most of them need no Java.

    Example: reverie evaluate captions results.json captions_val2017.json.gz

    Numbers are times 100, as papers print them. The photos of the results are scored. CIDEr-D is what the COCO toolkit and
    most papers call CIDEr.

    Args:
        results: COCO results, a list of {"image_id", "caption"}; also .gz.
        references: COCO captions, {"images", "annotations"}; also .gz.
        metrics: which ones; cider is the one without clipping and length penalty, meteor the one without paraphrases.
            meteor_java and spice run Java programs: pip install 'reverie[java-metrics]'.
        json: one JSON object in place of a table.
    """
    import json as as_json

    from reverie.evaluate.caption_files import measure, read

    captioned = read(results, references)
    with Console(stderr=True).status("measuring"):
        scores = measure(captioned, metrics)
    told = {name: round(100 * found.corpus, 4) for name, found in scores.items()}
    if json:
        counts = {"photos": len(captioned.ids), "references": captioned.num_references}
        counts |= dict(zip(("captions_without_words", "references_without_words"), captioned.wordless, strict=True))
        print(as_json.dumps(counts | {"photos_without_result": captioned.num_without, "times_100": told}))
        return
    table = Table("metric", Column("times 100", justify="right"), box=None, header_style="bold")
    for name, value in told.items():
        table.add_row(name, f"{value:.1f}")
    _console().print(table)
    print(f"{len(captioned.ids):,} photos, {captioned.num_references:,} references")
    if captioned.num_without:
        print(f"{captioned.num_without:,} more photos have references and no result; they are not scored")
    if any(captioned.wordless):
        empty, bare = captioned.wordless
        print(f"{empty:,} captions and {bare:,} references hold no word; they are scored as they are")


def evaluate_transfer(
    encoder: Annotated[str, tyro.conf.Positional],
    photos: Annotated[tuple[str, ...], tyro.conf.Positional],
    most_train: int = 0,
    most_test: int = 0,
    neighbours: int = 20,
    seed: int = 0,
    batch: int = 64,
    device: str = "",
    json: bool = False,
) -> None:
    """How much a linear classifier and nearest neighbours get out of the frozen features of any encoder, on any labelled photos.

    Example: reverie evaluate transfer runs/demo/weights/stablerep-0 cifar10/ pets/

    Strengths of the linear classifier are chosen on a fifth of train; test is read once. Photos are prepared as the encoder's own
    image processor says. In the mean all sets of photos weigh the same.

    Args:
        encoder: a vision model or the vision tower of a CLIP: weights of a run, a folder, a Hub id, or builtin:clip; pixels for
            the photos themselves, which an encoder should be better than.
        photos: folders with train and test, each a parquet file, a table of pairs, or one folder of pictures for each class.
        most_train: train photos to draw where there are more; 0 is all.
        most_test: test photos to draw where there are more; 0 is all.
        neighbours: that vote.
        seed: of what is drawn and held out.
        batch: photos through the network at once.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        json: one JSON object in place of a table.
    """
    import dataclasses
    import json as as_json

    from reverie.evaluate.transfer import Transferred, called, features_of, means, transfer

    if not photos:
        raise InputError("name photos to measure on: folders with train and test")
    device = _device(device)
    features, name = features_of(encoder, device, batch)
    rows: list[Transferred] = []
    table = Table(
        "photos", *(Column(head, justify="right") for head in ("classes", "train", "test", "linear probe", "nearest")),
        box=None, header_style="bold",
    )  # fmt: skip
    with Console(stderr=True).status("measuring") as line:
        for row in transfer(
            features, photos, most_train=most_train, most_test=most_test, neighbours=neighbours, seed=seed, batch_size=batch,
            device=device, progress=lambda what, done, total: line.update(f"{what}: {done:,} of {total:,}"),
        ):  # fmt: skip
            rows.append(row)
            numbers = f"{row.num_classes:,}", f"{row.num_train:,}", f"{row.num_test:,}"
            table.add_row(called(row.photos), *numbers, f"{row.linear:.1%}", f"{row.knn:.1%}")
    mean = means(rows)
    if json:
        print(as_json.dumps({"encoder": name, "photos": [dataclasses.asdict(row) for row in rows], "mean": mean}))
        return
    if len(rows) > 1:
        table.add_row("mean", "", "", "", f"{mean['linear']:.1%}", f"{mean['knn']:.1%}", style="bold")
    _console().print(table)
    print(f"top-1 on test photos, of the features of {name}")


def models(
    what: Annotated[Literal["list", "check"], tyro.conf.Positional] = "list", num: int = 500, seed: int = 0
) -> int:
    """The models that come with the package, or (check) how well they do what the small world needs of them.

    Example: reverie models check --num 100

    Args:
        what: list them, or measure them; exit code 1 if a gate is missed.
        num: fresh captions to measure on.
        seed: of those captions.
    """
    if what == "check":
        check_at_least(1, num=num)
        from reverie.smallworld import check

        with Console(stderr=True).status("measuring") as line:
            rows = check.check(
                seed=seed,
                num=num,
                progress=lambda what, done, total: line.update(
                    f"measuring {what}" + f": {done:,} of {total:,} images" * (total > 1)
                ),
            )
        _console().print(check.table(rows))
        return 1 if any(row.passed is False for row in rows) else 0
    from reverie.models.names import builtin_folder, builtin_names

    table = Table("name", "size", "licence", "what it is", box=None, header_style="bold")
    for name in builtin_names():
        size = sum(path.stat().st_size for path in builtin_folder(name).rglob("*.safetensors"))
        table.add_row(f"builtin:{name}", f"{size / 1e6:.1f} MB", "Apache-2.0", BUILTIN_IS.get(name, ""))
    _console().print(table)
    return 0


BUILTIN_IS = {
    "painter": "text-to-image, 64x64 (StableDiffusionPipeline), trained on the small world",
    "clip": "image-text encoder (CLIPModel), trained on the small world",
    "writer": "captions from a class name (causal LM), trained on small-world captions",
    "words": "many sentences from a class name (T5), trained on small-world captions",
    "detector": "named objects with boxes (RT-DETR), trained on small-world renders",
}


def _command(name: str, function: Callable[..., int | None]) -> Callable[[list[str]], int]:
    return lambda words: tyro.cli(function, prog=f"reverie {name}", args=words) or 0


# Kinds of `reverie evaluate`.
EVALUATIONS: dict[str, Callable[[list[str]], int]] = {
    "captions": _command("evaluate captions", evaluate_captions),
    "transfer": _command("evaluate transfer", evaluate_transfer),
}

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "make": _make,
    "demo": _demo,
    "claims": _claims,
    "evaluate": _evaluate,
    **{
        name: _command(name, function)
        for name, function in (
            ("status", status),
            ("verify", verify),
            ("retry", retry),
            ("repaint", repaint),
            ("report", report),
            ("compact", compact),
            ("import", import_),
            ("export", export),
            ("duplicates", duplicates),
            ("predict", predict),
            ("caption", caption),
            ("models", models),
        )
    },
}


def _console() -> Console:
    """Tables are cut to the terminal, never to the 80 columns that rich assumes of a pipe. ``:cat:`` in a label is no emoji."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=160, emoji=False)


if __name__ == "__main__":
    main()
