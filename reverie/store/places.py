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
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/|$)")  # what Lance takes for an address, also with one slash
TYPED = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):(/+|$)")


def remote(path: str | Path) -> str | None:
    """The address that a path stands for, as a ``Path`` makes one slash of two; None for what is a path.

    Raises: InputError for an address that holds keys or has no bucket, of another kind of store, or that Lance reads as that of
        another place.
    """
    text = str(path)
    if not (scheme := ADDRESS.match(text)):
        return None
    _refuse_secrets(text)
    if not REMOTE.match(text):
        raise InputError(
            f"{shown(text)} is no address that tables can lie at"
            + (" (it names no bucket)" if scheme[1] in SCHEMES else "")
            + f"; give {', '.join(f'{name}://BUCKET/NAME' for name in SCHEMES)}, or a folder"
        )
    found = REMOTE.sub(r"\1://", text, count=1).rstrip("/")
    if odd := re.search(r"[#%\\]", found) or re.search(r"(?<=/)\.{1,2}(?=/|$)", found):
        raise InputError(f"{found} holds {odd[0]}, which means something else in an address; give another name")
    return found


def _refuse_secrets(text: str) -> None:
    """Raises InputError for an address with keys in it, or what could be some, which no message repeats."""
    if "@" in text:
        raise InputError(
            "an address of an object store holds no keys; they are taken from AWS_*, GOOGLE_* or AZURE_* variables"
        )
    if "?" in text:
        raise InputError(
            '"?" is no part of an address here; give SCHEME://BUCKET/NAME, and what else the store is to know in AWS_*, GOOGLE_* or AZURE_* '
            "variables"
        )


def shown(path: str | Path) -> str:
    """A path in a message: an address has two slashes, of which ``Path`` took one."""
    return TYPED.sub(r"\1://", str(path))


def check_folder(folder: Path) -> None:
    """Raises InputError for an address where the folder of the small files is wanted."""
    if ADDRESS.match(str(folder)):
        _refuse_secrets(str(folder))
        raise InputError(
            f"{shown(folder)} is an address; give the folder that has all else of the run (runs/{folder.name if len(folder.parts) > 2 else 'NAME'}, "
            "or its --files)"
        )


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
