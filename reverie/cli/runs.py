"""Commands about a run folder: how far it is, whether it is sound, and doing parts of it again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from reverie.cli.common import Folder, counting, open_console, say
from reverie.errors import InputError
from reverie.models.devices import find_device
from reverie.report.plain import plain

if TYPE_CHECKING:
    from reverie.run.status import StepStatus


def status(folder: Folder, watch: bool = False) -> None:
    """How far a run is: per step rows done, dropped, failed and left, the rate and the time it still takes.

    Reads the folder beside whoever works there.

    Example: reverie status runs/demo --watch

    Args:
        folder: the run folder.
        watch: show it anew every few seconds until all is done; Ctrl-C ends the looking, not the run.
    """
    from reverie.run.status import status as read
    from reverie.store.locks import at_work

    console = open_console()
    if not watch:
        console.print(_status_table(read(folder)))
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                steps = read(folder)
                over = all(step.complete for step in steps)
                shown: list[Table | Text] = [_status_table(steps)]
                if not over and at_work(folder) is False:
                    shown.append(plain(f"nobody is at work in {folder}; the command that began the run goes on"))
                live.update(Group(*shown), refresh=True)
                if over:
                    return
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        if at_work(folder):
            say(
                "the run goes on" if console.is_terminal else "\nthe run goes on"
            )  # the display ends its line there alone


def _status_table(steps: Iterable[StepStatus]) -> Table:
    from reverie.run.events import duration

    table = Table("step", "", *(Column(name, justify="right") for name in NUMBERS), box=None, header_style="bold")
    for step in steps:
        numbers = [step.done, step.ok, step.dropped, step.failed, step.left]
        rate = f"{step.rate_per_s:.3g}/s" if step.rate_per_s and not step.complete else ""
        left = duration(step.eta_s) if step.eta_s and not step.complete else ""
        state = "done" if step.complete else "begun" if step.done else ""
        table.add_row(
            plain(step.name), state, *("" if number is None else f"{number:,}" for number in numbers), rate, left
        )
    return table


WATCH_S = 3.0  # between two looks of ``status --watch``
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
        say(f"{folder}: a run without tables of its own; there is nothing to verify")
        return 0
    complete = {path.stem for path in (folder / "done").glob("*.json")}
    # Copies are counted only when all should be there: a run that is under way has units without images yet.
    copies = [step["per_caption"] for step in steps if step["kind"] == "pairs" and step["name"] in complete]
    with counting("images checked:") as progress:
        problems = tables.verify(folder, per_caption=copies[0] if copies else None, progress=progress)
    say("\n".join(problems) or f"{folder}: complete ({_contents(folder)})")
    return 1 if problems else 0


def _contents(folder: Path) -> str:
    """How much was looked at: tables that are gone altogether leave nothing that could be wrong."""
    from reverie.store import tables

    captions, pairs = tables.count(folder / "captions.lance"), folder / "pairs.lance"
    images = tables.count(pairs) if tables.exists(pairs) else 0
    said = f"{images:,} image{'s' * (images != 1)}" if images else "no images"
    return f"{captions:,} caption{'s' * (captions != 1)}, {said}"


def retry(folder: Folder, device: str = "") -> None:
    """Make failed rows again, and what was left out because of them. Rows that are ok or dropped stay as they are.

    What was made of the rows (a classifier, a captioner, numbers, the page) is done anew when the run goes on; trained backbones stay.

    Example: reverie retry runs/demo

    Args:
        folder: the run folder.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
    """
    from reverie.run.engine import retry as retry_failed
    from reverie.run.plan import plan_again
    from reverie.store.sources import counted

    folder = _where_it_was_made(folder)
    for step, fixed in retry_failed(plan_again(folder), folder, find_device(device)).items():
        say(f"{step}: {counted(fixed, 'rows')} fixed")


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
    from reverie.run.plan import plan_again
    from reverie.run.repaint import repaint as paint
    from reverie.store.files import atomic_file, file_name

    path = (out or Path(f"{file_name(pair_id)}.png")).resolve()
    if path.is_dir():
        raise InputError(f"{out} is a folder; give --out the name of a file, such as {path / f'{pair_id}.png'}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} to")
    folder = _where_it_was_made(folder)
    found = paint(plan_again(folder), folder, pair_id, find_device(device))
    with atomic_file(path) as partial:
        partial.write_bytes(found.image)
    say(f"{path}: {'' if found.same else 'not '}the same {found.by} as the stored image")


def report(folder: Folder) -> None:
    """Write report.html of a run again, one page that needs no other file.

    Example: reverie report runs/demo

    Args:
        folder: the run folder; it may still be at work.
    """
    from reverie.report.page import write
    from reverie.run.plan import read_plan

    read_plan(folder)
    say(write(folder).resolve())


def compact(folder: Folder) -> None:
    """Rewrite the tables of a run or an import into fewer, larger files; rows and their order stay as they are.

    Example: reverie compact runs/demo

    Args:
        folder: the folder; nobody may be at work in it.
    """
    from reverie.store import tables
    from reverie.store.locks import all_units_held

    found = [path for path in (folder / "captions.lance", folder / "pairs.lance") if tables.exists(path)]
    if not found:
        raise InputError(f"{folder} holds no tables; give the folder of a run or an import")
    with all_units_held(folder):
        for path in found:
            tables.compact(path)
            say(f"{path}: compact")
