"""Files and folders that are seen complete or not at all, whenever the machine stops."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.errors import StoreFull


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to: it takes that name when the block ends, and disappears if the block fails.

    Raises: StoreFull if the disk is.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several processes may write the same file
    try:
        try:
            yield partial
            flush_to_disk(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no space left to write {path}; free some and run the same command again") from error
        raise


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder beside ``path`` to fill: it takes that name when the block ends.

    Args:
        replace: take away a folder that has the name already; else it must not be there.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a kill
    temporary.mkdir(parents=True)
    yield temporary
    if replace:
        shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
