"""Files and folders that are seen complete or not at all, whenever the work is cut off."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reverie.errors import InputError, StoreFull

FULL = re.compile(r"os error (28|122|27)\b|No space left|quota exceeded|File too large", re.IGNORECASE)
BESIDE = (".tmp", ".previous")  # endings of what ``atomic_folder`` keeps beside a folder while it works


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to: it takes that name when the block ends, and disappears if the block fails.

    Raises: StoreFull if the disk is.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several processes may write the same file
    with _full_is_told(path):
        try:
            yield partial
            flush_to_disk(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False, durable: bool = True) -> Iterator[Path]:
    """An empty folder beside ``path`` to fill: it takes that name when the block ends, and disappears if the block fails.

    So do folders above it that were not there before.

    Args:
        replace: take the place of a folder that has the name already; else only an empty one may. Killed between the two
            renames that this takes, the old one waits for ``restore_folder``.
        durable: flush every file first, so that it is complete even after a power cut; slow for very many small files.
    Raises: StoreFull if the disk is.
    """
    temporary, previous = (path.with_name(f"{path.name}{ending}") for ending in BESIDE)
    with _full_is_told(path):
        shutil.rmtree(temporary, ignore_errors=True)  # left by a kill
        above = [folder for folder in path.parents if not folder.exists()]
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for item in (*temporary.rglob("*"), temporary) if durable else ():
                flush_to_disk(item)
            if replace:
                restore_folder(path)
                shutil.rmtree(previous, ignore_errors=True)
                if path.exists():
                    path.rename(previous)
            temporary.rename(path)
            flush_to_disk(path.parent)
            above = []
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if replace:
                restore_folder(path)
                shutil.rmtree(previous, ignore_errors=True)
            with suppress(OSError):  # another may have put something there meanwhile
                for folder in above:
                    folder.rmdir()


def restore_folder(path: Path) -> None:
    """Give a folder its name back where a kill fell between the two renames of ``atomic_folder(path, replace=True)``."""
    previous = path.with_name(f"{path.name}.previous")
    if previous.exists() and not path.exists():
        previous.rename(path)


def file_name(name: str) -> str:
    """A name without dots, slashes or anything else that a tar reader or a file system takes for more than a letter."""
    return re.sub(r"[^\w -]", "_", name).strip() or "_"


def check_own(*paths: Path) -> None:
    """That what is to be written to is no link: a folder that came from strangers may hold some to files elsewhere. Raises InputError."""
    for each in paths:
        if each.is_symlink():
            raise InputError(
                f"{each} is a link, and what it leads to is not written to; put a file or folder in its place"
            )


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: OSError) -> bool:
    """Disk full, quota used up, or a file larger than allowed; Lance says it in words only."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or bool(FULL.search(str(error)))


@contextmanager
def _full_is_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StoreFull(f"no space left to write {path}; free some and run the same command again") from error
        raise


@contextmanager
def passing_folder(prefix: str) -> Iterator[Path]:
    """A folder among those for temporary files that is gone after the block, also when the process is told to end (SIGTERM)."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    main = threading.current_thread() is threading.main_thread()  # others may not listen to signals
    before = signal.signal(signal.SIGTERM, leave) if main else None
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as place:
            yield Path(place)
    finally:
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
