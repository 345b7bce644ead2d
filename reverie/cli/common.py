"""What several commands share: tables on the terminal, and counts that grow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import tyro
from rich.console import Console

from reverie.cli.flags import read
from reverie.store.sources import harmless

Folder = Annotated[Path, tyro.conf.Positional]


def say(text: object = "", to: TextIO | None = None) -> None:
    """Print a line or some. What people, models and files put into it does not steer the terminal."""
    print(harmless(str(text)), file=to or sys.stdout, flush=True)


@contextmanager
def counting(what: str) -> Iterator[Callable[..., None]]:
    """Show a count that grows, where somebody watches."""
    with Console(stderr=True).status(what) as line:
        yield lambda done, total=None: line.update(f"{what} {done:,}" + (f" of {total:,}" if total else ""))


def command_of(name: str, function: Callable[..., int | None]) -> Callable[[list[str]], int]:
    return lambda words: read(function, f"reverie {name}", words) or 0


def open_console() -> Console:
    """Tables are cut to the terminal, never to the 80 columns that rich assumes of a pipe. ``:cat:`` in a label is no emoji."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=160, emoji=False)
