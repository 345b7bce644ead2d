"""The run folder: checks that it is new, empty or a run, and locks the units that a process works on.

Locks are POSIX byte ranges: byte n of ``.lock`` is unit n. Two processes may share a folder as long as their units
differ; a second one on the same units is told so at once. A run of all units holds them all to the end of its jobs. The
kernel frees the locks when a process dies, and they work on NFS with a lock service; on a file system without locks,
the store still refuses a unit that is already there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reverie.errors import FolderInUse, InputError
from reverie.store.locks import bytes_held
from reverie.store.places import remote


@contextmanager
def gone_if_it_fails(folder: Path) -> Iterator[None]:
    """Take away the folder, and those above it, if they were made in the block, are empty, and the block fails."""
    made = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for each in made:
                each.rmdir()
        raise


def claim(folder: Path, ours: tuple[str, ...] = ("plan.json",), flag: str = "--out") -> None:
    """Make the folder, or make sure that it is empty or holds one of the files that say it is ours.

    Args: flag: the one that named the folder.
    Raises FolderInUse if it holds something else, InputError if it cannot be made.
    """
    if at := remote(folder):
        raise InputError(f"{at} is no folder; only the tables of reverie run and make can lie in an object store")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except (FileExistsError, NotADirectoryError) as error:
        raise FolderInUse(f"{folder} is a file, not a folder; give another {flag}") from error
    except OSError as error:
        raise InputError(f"cannot use {folder} for the run: {error.strerror}; give another {flag}") from error
    if strangers and not set(ours) & set(strangers):
        shown = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
        raise FolderInUse(f"{folder} holds something that reverie did not write ({shown}); give a new or empty {flag}")


def claim_tables(folder: Path) -> None:
    """The same for tables without a plan. Raises FolderInUse for a run: its units are planned, others would confuse it."""
    if (folder / "plan.json").exists():
        raise FolderInUse(f"{folder} is the folder of a run; import into a folder of its own")
    claim(folder, ours=("captions.lance", "pairs.lance"))


@contextmanager
def units_held(folder: Path, units: range) -> Iterator[None]:
    """Hold these units as long as the block lasts. Raises FolderInUse if another process holds one of them."""
    in_use = FolderInUse(f"another process is at work on the same units of {folder}; wait for it or stop it")
    with bytes_held(folder / ".lock", units.start, len(units), in_use):
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process does what is done once (joining columns), then keep them out."""
    with bytes_held(folder / ".lock-once", 0, 1):
        yield
