"""All errors that a user can meet, as a tree.

    ReverieError                 one clear line: what is wrong and what to do; the command line exits with 2
    ├── InputError               a file, folder, column, class list or option is not usable as given
    │   ├── BrokenImage          bytes that are not a picture, or a picture too large to open safely
    │   └── UnknownName          a word that names nothing; carries the nearest known ones
    ├── SettingsChanged          resume with other settings; carries the difference
    ├── StoreError               the tables on disk
    │   ├── UnitExists           this unit is already committed
    │   ├── StoreFull            no space left while committing; nothing half-written remains visible
    │   └── FolderInUse          the output folder holds something that is not ours
    ├── ModelError               a model cannot be found, lacks weights, or is of the wrong kind
    ├── MissingExtra             an optional library is needed; carries the install line
    └── TrainingError            the loss is not finite, or no row of a batch has a positive

Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

SHOWN = 6  # differing settings in one line


class ReverieError(Exception):
    """Base of all errors that a user can mend. ``str(error)`` is one line, fit to print."""


class InputError(ReverieError):
    """Something given by the user is not usable."""


class BrokenImage(InputError):
    """Image bytes that cannot be decoded, or would decode to more pixels than allowed.

    Attributes:
        reason: the same for the row of the image, which knows its name: see ``because`` in store/sources.py.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class UnknownName(InputError):
    """A word that names nothing known."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class SettingsChanged(ReverieError):
    """A run folder was made with other settings than the ones asked for now."""

    def __init__(
        self, place: str, difference: Mapping[str, tuple[object, object]], other: str = "another --out"
    ) -> None:
        # Of a step that came or went, all settings differ from nothing: what has two values tells more.
        order = sorted(difference.items(), key=lambda item: (None in item[1], item[0]))
        told: dict[str, str] = {}  # by what changed, so that a change in many steps is told once
        for key, (old, new) in order:
            told.setdefault(f"{key.rpartition('.')[2]}: {old!r} -> {new!r}", f"{key}: {old!r} -> {new!r}")
        shown = ", ".join(list(told.values())[:SHOWN])
        if len(told) > SHOWN:
            shown += f", and {len(told) - SHOWN} more"
        super().__init__(f"{place} was made with other settings ({shown}); use {other} or the old settings")
        self.difference = dict(difference)


class StoreError(ReverieError):
    """A table on disk is missing, damaged, or refuses a change."""


class UnitExists(StoreError):
    """The unit to append is already in the table."""


class StoreFull(StoreError):
    """The disk is full. The table is as it was before the commit."""


class FolderInUse(StoreError):
    """The folder holds files that reverie did not write."""


class ModelError(ReverieError):
    """A model name or folder does not lead to usable weights."""


class MissingExtra(ReverieError):
    """An optional dependency is not installed."""

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(f"{need} needs an optional package; install it with: pip install 'reverie[{extra}]'")


class TrainingError(ReverieError):
    """Training cannot go on; the message says where the evidence was saved."""
