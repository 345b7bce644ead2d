"""Where the tables of a folder lie: in it, or in an object store that its ``tables.json`` names.

A folder whose tables lie elsewhere is worked with like any other: whoever opens ``FOLDER/pairs.lance`` gets the table there. The
small files stay in the folder. No credentials are read, kept or shown here: Lance finds them in the usual variables (AWS_*, GOOGLE_*,
AZURE_*).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from reverie.errors import FolderInUse, InputError
from reverie.store.files import atomic_file
from reverie.store.json_files import read_json

POINTER = "tables.json"
SCHEMES = ("s3", "gs", "az")
REMOTE = re.compile(rf"({'|'.join(SCHEMES)}):/+(?=[^/])")


def remote(path: str | Path) -> str | None:
    """The address that a path stands for, as a ``Path`` makes one slash of two; None for what is a path."""
    text = str(path)
    if not REMOTE.match(text):
        return None
    found = REMOTE.sub(r"\1://", text, count=1).rstrip("/")
    if "@" in found or "?" in found:
        raise InputError(
            "an address of an object store holds no keys; they are taken from AWS_*, GOOGLE_* or AZURE_* variables"
        )
    return found


def address(path: str | Path) -> str:
    """What Lance is to open for the table of this path."""
    if isinstance(path, str) and "://" in path:
        return path
    path = Path(path)
    if found := remote(path):
        return found
    home = path.parent.parent if path.parent.name == "columns" else path.parent
    if path.suffix == ".lance" and (at := tables_of(home)):
        return f"{at}/{path.relative_to(home).as_posix()}"
    return str(path)


def has_table(path: Path) -> bool:
    """Whether something has the name of this table, wherever it lies."""
    if "://" not in address(path):
        return path.exists()
    from reverie.store import tables  # not needed to look into a folder

    return tables.exists(path)


def tables_of(folder: Path) -> str | None:
    """The address at which the tables of a folder lie; None if they lie in it."""
    pointer = folder / POINTER
    if not pointer.is_file():
        return None
    at = remote(read_json(pointer, {"tables": str}, InputError, "give the run's --out again")["tables"])
    if at is None:
        raise InputError(f"{pointer} is damaged (it names no object store)")
    return at


def point(folder: Path, at: str) -> None:
    """Note that the tables of a folder lie at this address. Raises FolderInUse if they lie elsewhere."""
    known = tables_of(folder)
    if known is None and any(folder.glob("*.lance")):
        raise FolderInUse(f"{folder} holds tables of its own; give another --files for the small files of {at}")
    if known not in (None, at):
        raise FolderInUse(f"the tables of {folder} lie at {known}, not at {at}; give another --files")
    if known is None:
        with atomic_file(folder / POINTER) as partial:
            partial.write_text(json.dumps({"tables": at}), encoding="utf-8")
