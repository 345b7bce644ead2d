"""A lock on a whole folder, for an import or another job that takes all units; the same file and bytes that runs lock.

A POSIX lock belongs to a process, which may take it twice and loses it when it closes the file anywhere. So what this process
itself holds is kept beside it.
"""

from __future__ import annotations

import errno
import fcntl
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.errors import FolderInUse
from reverie.store.places import check_folder

EVERY_UNIT = 2**31  # more than any run has
_own: set[Path] = set()
_guard = threading.Lock()


@contextmanager
def all_units_held(folder: Path) -> Iterator[None]:
    """Keep everybody else out of the tables of a folder. Raises FolderInUse if somebody is at work there."""
    check_folder(folder)
    path = (folder / ".lock").resolve()
    in_use = FolderInUse(
        f"another process is at work in {folder}; wait for it or stop it, then run the same command again"
    )
    with _guard:
        if path in _own:
            raise in_use
        _own.add(path)
    try:
        with bytes_held(path, 0, EVERY_UNIT, in_use):
            yield
    finally:
        with _guard:
            _own.discard(path)


def at_work(folder: Path) -> bool | None:
    """Whether another process works on units of a folder; None where its file system does not say. Asks, and holds nothing."""
    is_mac = sys.platform == "darwin"  # the fields of its ``struct flock`` stand in another order
    query = struct.pack("qqihh", 0, 0, 0, fcntl.F_WRLCK, 0) if is_mac else struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)  # fmt: skip
    try:
        with (folder / ".lock").open("rb") as file:
            found = fcntl.fcntl(file, fcntl.F_GETLK, query)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    kind: int = struct.unpack("qqihh", found)[3] if is_mac else struct.unpack("hhqqi4x", found)[0]
    return kind != fcntl.F_UNLCK


@contextmanager
def bytes_held(path: Path, start: int, length: int, in_use: FolderInUse | None = None) -> Iterator[None]:
    """Hold these bytes of a file as long as the block lasts; none where the length is 0.

    Args: in_use: raised if another process holds one of them; where it is left out, it is waited for.
    """
    with path.open("ab") as file:
        try:
            if length:  # 0 would mean "up to the end"
                fcntl.lockf(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if in_use else 0), length, start)
        except OSError as error:
            if in_use and error.errno in (errno.EACCES, errno.EAGAIN):
                raise in_use from error
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):  # a file system without locks
                raise
        yield
