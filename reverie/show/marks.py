"""Which pairs somebody marked as bad: a log in the folder, from which the column ``bad`` of the pairs follows.

A mark is a line that is on the disk before the page says so, which costs a millisecond and disturbs nobody who works there. The
column is brought up to date behind that: after a pause, before a filter asks for it, at the end, and when the folder is
opened again, should it not have come to that. Neither is a setting or a result of a step, so fingerprints and resume know
nothing of it. Without the log, the column alone says what is marked.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pyarrow as pa

from reverie.errors import FolderInUse, InputError, ReverieError
from reverie.store import tables
from reverie.store.files import check_own
from reverie.store.json_files import log_lines
from reverie.store.locks import all_units_held

COLUMN = "bad"
LINE = {"pair_id": str, "bad": bool}
PAUSE_S = 5.0  # without a mark, after which the column is written


class Marks:
    """The marks of a folder. Raises StoreError for a log that is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "show" / "bad.jsonl"
        self._guard, self._joining = threading.Lock(), threading.Lock()
        self._timer: threading.Timer | None = None
        self._known, self._read = self._in_column(), 0
        self._follow()
        self._changed = self._read > 0  # whoever wrote the log may have been killed before the column was there

    @property
    def bad(self) -> frozenset[str]:
        """Keys of the pairs that are marked."""
        with self._guard:
            self._follow()
            return frozenset(name for name, is_bad in self._known.items() if is_bad)

    def set(self, pair_id: str, is_bad: bool) -> None:
        """Mark a pair, or take its mark away. Raises InputError where a column of this name is somebody else's."""
        with self._guard:
            schema = tables.open_table(self.folder / "pairs.lance").schema
            if COLUMN in schema.names and not pa.types.is_boolean(schema.field(COLUMN).type):
                raise InputError(
                    f"{self.folder} has a column {COLUMN!r} of its own already; no pair can be marked here"
                )
            check_own(self.log.parent, self.log)
            self.log.parent.mkdir(exist_ok=True)
            line = json.dumps({"pair_id": pair_id, "bad": is_bad, "time": round(time.time(), 3)})
            with self.log.open("a+b") as log:
                # a line that a kill has cut is closed first, so that this one stands alone
                if log.tell() and _last_byte(log.fileno()) != b"\n":
                    log.write(b"\n")
                log.write(f"{line}\n".encode())
                log.flush()
                os.fsync(log.fileno())
            self._known[pair_id] = is_bad
            self._changed = True
            if self._timer:
                self._timer.cancel()
            self._timer = threading.Timer(PAUSE_S, self.settle)
            self._timer.daemon = True
            self._timer.start()

    def _follow(self) -> None:
        """Take in what the log says by now; another server may write to it as well."""
        size = self.log.stat().st_size if self.log.is_file() else 0
        if size != self._read:
            self._known |= {str(line["pair_id"]): bool(line["bad"]) for line in log_lines(self.log, LINE)}
            self._read = size

    def _in_column(self) -> dict[str, bool]:
        pairs = self.folder / "pairs.lance"
        schema = tables.open_table(pairs).schema
        if COLUMN not in schema.names or not pa.types.is_boolean(schema.field(COLUMN).type):
            return {}
        return {name: True for part in tables.scan(pairs, ["pair_id"], COLUMN) for name in part["pair_id"].to_pylist()}

    def settle(self) -> str | None:
        """Bring the column up to date. Returns: why it could not be, as when a run is at work there; the log has the marks all the same."""
        with self._joining:
            with self._guard:
                changed, self._changed = self._changed, False
            if not changed:
                return None
            try:
                with all_units_held(self.folder):
                    with self._guard:  # now, as another server may have been here a moment ago
                        self._follow()
                        marks = dict(self._known)
                    tables.mark(self.folder / "pairs.lance", COLUMN, marks)
            except (ReverieError, OSError) as error:
                with self._guard:
                    self._changed = True
                at_work = isinstance(error, FolderInUse)
                return (
                    f"the column {COLUMN} will follow when nobody else is at work in {self.folder}"
                    if at_work
                    else str(error)
                )
            return None

    def close(self) -> str | None:
        """The same, at the end."""
        with self._guard:
            if self._timer:
                self._timer.cancel()
        return self.settle()


def _last_byte(number: int) -> bytes:
    return os.pread(number, 1, os.fstat(number).st_size - 1)
