"""Which files this process opened to write, made, moved or took away, as Python's own audit events tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
_seen: list[str] | None = None
_installed = False


def _hook(event: str, values: tuple[object, ...]) -> None:
    if _seen is None:
        return
    if event == "open":
        path, mode, flags = values
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(int(str(flags)) & _WRITING)
        if writes and isinstance(path, (str, bytes, os.PathLike)):
            _seen.append(os.fsdecode(path))
    elif event in _CHANGES and not (
        event in ("os.remove", "os.rmdir") and values[-1] != -1
    ):  # of a folder that rmtree named
        _seen.extend(os.fsdecode(value) for value in values[:2] if isinstance(value, (str, bytes, os.PathLike)))


@contextmanager
def stay_inside(*folders: Path) -> Iterator[None]:
    """Fails if anything outside of these folders was written in the block; compiled modules and devices apart.

    What a library writes without Python (Lance does) is not seen: a look at what stands beside the folders sees that.
    """
    global _seen, _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    here = Path.cwd()
    beside = {folder: sorted(folder.parent.iterdir()) for folder in folders}
    _seen = []
    try:
        yield
    finally:
        written, _seen = _seen, None
    roots = [folder.resolve() for folder in folders]
    outside = [
        path
        for path in written
        if not any((here / path).resolve().is_relative_to(root) for root in roots)
        and "__pycache__" not in path
        and not path.startswith("/dev/")
    ]
    assert not outside, sorted(set(outside))[:5]
    assert all(sorted(folder.parent.iterdir()) == before for folder, before in beside.items())
