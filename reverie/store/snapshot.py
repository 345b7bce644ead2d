"""One version of a table, for many small reads: which rows fit a filter, in which order, and some of them by their number.

Opening a table reads a list of all its fragments, which a page that reads sixty rows should not pay each time; and numbers of rows
are good as long as nobody renumbers them, which within one version nobody does.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reverie.store import tables
from reverie.store.tables import TablePath, asked, whole_filter

Numbers = npt.NDArray[np.uint32]

ROWS_AT_ONCE = 8192  # of narrow columns


class Snapshot:
    """The version of a table that was newest when this was made. May be read by several threads. Raises StoreError."""

    def __init__(self, path: TablePath) -> None:
        self.path, self._table = path, tables.open_table(path)
        self.version: int = self._table.version
        self.schema: pa.Schema = self._table.schema
        with asked(path, None):
            self._length = int(self._table.count_rows())
            self._starts, self._gaps = _layout(self._table)

    def __len__(self) -> int:
        return self._length

    def is_newest(self) -> bool:
        """Whether nobody has committed since."""
        with asked(self.path, None):
            return bool(self._table.latest_version == self.version)

    def count(self, where: str | None = None) -> int:
        """Number of rows that fit a filter. Raises InputError for one that does not fit the table."""
        with asked(self.path, where):
            return int(self._table.count_rows(whole_filter(where)))

    def numbers(self, where: str | None, order: str | None = None, descending: bool = True) -> Numbers:
        """Numbers of the rows that fit, 4 bytes each, in stored order or that of a column of numbers; rows without a value last.

        Raises: InputError for a filter or a column that does not fit the table.
        """
        columns = [order] if order else []
        found: list[Numbers] = []
        values: list[npt.NDArray[Any]] = []
        missing: list[npt.NDArray[np.bool_]] = []
        with asked(self.path, where, columns):
            scanner = self._table.scanner(
                columns=columns, filter=whole_filter(where), with_row_address=True, scan_in_order=True,
                batch_size=ROWS_AT_ONCE, batch_readahead=2, fragment_readahead=2, io_buffer_size=tables.BUFFER_BYTES,
            )  # fmt: skip
            for batch in scanner.to_batches():
                found.append(self._numbers_at(batch["_rowaddr"].to_numpy()))
                if order:
                    missing.append(pc.is_null(batch[order], nan_is_null=True).to_numpy(zero_copy_only=False))
                    values.append(pc.fill_null(batch[order], 0).to_numpy(zero_copy_only=False))
        numbers = np.concatenate(found) if found else np.empty(0, np.uint32)
        if not order or not found:
            return numbers
        by, last = np.concatenate(values), np.concatenate(missing)
        if descending:  # of whole numbers the complement, as the least of them has no negative
            by = ~by if np.issubdtype(by.dtype, np.integer) else -by
        return numbers[np.lexsort((by, last))]

    def numbers_of(self, key: str, wanted: Sequence[str], where: str | None = None) -> dict[str, int]:
        """The number of the row of each of some hundred keys; those without a row, or one that does not fit, are left out."""
        if not wanted:
            return {}
        both = " and ".join(filter(None, [f"{key} in ({quoted(wanted)})", whole_filter(where)]))
        with asked(self.path, where, [key]):
            rows = self._table.scanner(columns=[key], filter=both, with_row_address=True).to_table()
        return dict(zip(rows[key].to_pylist(), self._numbers_at(rows["_rowaddr"].to_numpy()).tolist(), strict=True))

    def take(self, numbers: Sequence[int] | Numbers | range, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by their number, in the order asked for."""
        with asked(self.path, None, columns):
            wanted = np.asarray(numbers, dtype=np.uint64)
            rows = self._table.take(wanted, columns=None if columns is None else list(columns))
            return rows.replace_schema_metadata(None)

    def rows(
        self, numbers: Sequence[int] | Numbers | range, columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """The same as dictionaries."""
        return list(self.take(numbers, columns).to_pylist()) if len(numbers) else []

    def distinct(self, column: str, most: int) -> list[str]:
        """Different values of a column of text, sorted, or nothing if they are more than ``most``."""
        seen: set[str] = set()
        with asked(self.path, None, [column]):
            for batch in self._table.scanner(columns=[column], batch_size=ROWS_AT_ONCE).to_batches():
                seen.update(value for value in batch[column].unique().to_pylist() if value is not None)
                if len(seen) > most:
                    return []
        return sorted(seen)

    def _numbers_at(self, addresses: npt.NDArray[np.uint64]) -> Numbers:
        """An address is a fragment and a place in it, rows that were replaced counted in."""
        fragments, places = (
            (addresses >> np.uint64(32)).astype(np.int64),
            (addresses & np.uint64(2**32 - 1)).astype(np.int64),
        )
        numbers = self._starts[fragments] + places
        for fragment, gaps in self._gaps.items():
            here = fragments == fragment
            if here.any():
                numbers[here] -= np.searchsorted(gaps, places[here])
        return numbers.astype(np.uint32)


def _layout(table: Any) -> tuple[npt.NDArray[np.int64], dict[int, npt.NDArray[np.int64]]]:
    """By number of the fragment, the number of its first row; and of those from which rows were replaced, the places without one."""
    fragments = table.get_fragments()
    starts = np.zeros(max((fragment.fragment_id for fragment in fragments), default=-1) + 1, np.int64)
    gaps: dict[int, npt.NDArray[np.int64]] = {}
    start = 0
    for fragment in fragments:
        starts[fragment.fragment_id] = start
        start += fragment.count_rows()
        if fragment.num_deletions:
            scanner = table.scanner(columns=[], with_row_address=True, fragments=[fragment], scan_in_order=True)
            there = (scanner.to_table()["_rowaddr"].to_numpy() & np.uint64(2**32 - 1)).astype(np.int64)
            gaps[fragment.fragment_id] = np.setdiff1d(np.arange(fragment.physical_rows), there)
    return starts, gaps


def quoted(values: Sequence[str]) -> str:
    """Texts as a list of SQL."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def fits(row: pa.Table, where: str) -> bool:
    """Whether a single row, taken out of its table, fits a filter. Raises InputError for one that does not fit its columns."""
    alone = lance.write_dataset(row, f"memory://{uuid.uuid4().hex}")
    with asked("this row", where):
        return bool(alone.count_rows(whole_filter(where)))
