"""What several commands share: tables on the terminal, and counts that grow."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import tyro
from rich.console import Console

from reverie.cli.flags import read
from reverie.store.places import check_folder
from reverie.store.sources import harmless

File = Annotated[Path, tyro.conf.Positional]  # or what else is read
Folder = Annotated[Path, tyro.conf.Positional, "run"]  # of a run or an import, on this machine


def say(text: object = "", to: TextIO | None = None) -> None:
    """Print a line or some. What people, models and files put into it does not steer the terminal."""
    print(harmless(str(text)), file=to or sys.stdout, flush=True)


@contextmanager
def counting(what: str) -> Iterator[Callable[..., None]]:
    """Show a count that grows, where somebody watches."""
    with Console(stderr=True).status(what) as line:
        yield lambda done, total=None: line.update(f"{what} {done:,}" + (f" of {total:,}" if total else ""))


def command_of(name: str, function: Callable[..., int | None]) -> Callable[[list[str]], int]:
    hints = typing.get_type_hints(function, include_extras=True)
    folders = [each for each, hint in hints.items() if "run" in getattr(hint, "__metadata__", ())]

    @functools.wraps(function)
    def checked(*args: Any, **values: Any) -> int | None:
        given = inspect.signature(function).bind(*args, **values).arguments
        for each in folders:
            if given.get(each) is not None:
                check_folder(given[each])
        return function(*args, **values)

    return lambda words: read(checked, f"reverie {name}", words) or 0


def open_console() -> Console:
    """Tables are cut to the terminal, never to the 80 columns that rich assumes of a pipe. ``:cat:`` in a label is no emoji."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=160, emoji=False)
