"""Lance tables on disk: one unit is one commit, and what is committed is whole.

A table lists its finished units by itself: a unit is done if it has rows, or if it is noted in the table's configuration
as finished without rows. Both are part of the commit, so nothing beside the table can disagree with it.

Paths may be local folders or Lance addresses (s3://...), as str; those of a folder that has its tables elsewhere lead there, see
``store/places.py``.
"""

from __future__ import annotations

import ctypes
import functools
import os
import random
import re
import shutil
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset, LanceOperation
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

from reverie.errors import BrokenImage, FolderInUse, InputError, StoreError, StoreFull, UnitExists
from reverie.pairs import CAPTIONS, DROPPED, FAILED, OK, PAIRS, TOKEN_COLUMNS
from reverie.store.files import is_full
from reverie.store.pictures import open_picture
from reverie.store.places import address, shown, tables_of
from reverie.store.sources import counted_clause

TablePath = str | Path

IDENTITY = b"reverie.table"  # schema metadata: a random name of the table, given when it is made
EMPTY_UNIT = "reverie.empty."  # configuration key: a unit that is done and has no rows
LANCE_FOLDERS = {"_versions", "_transactions", "data", "_deletions", "_indices", "_refs"}
# Each commit writes a list of all fragments. Old lists are deleted on the way, or they would come to outweigh the images; not
# too often, as that reads them all, and not too young, as a slow writer needs those since it began.
CLEANUP = {"lance.auto_cleanup.interval": "500", "lance.auto_cleanup.older_than": "3600s"}
TRIES = 100  # how often a commit is tried against rivals before giving up
BATCH_ROWS = 1024
NARROW_ROWS = 65536  # of a column or two of numbers and words
IO_URING_SETUP = 425  # the number of the system call, on every kind of processor that Lance is built for
RING_DEPTH = 1 << 14
BUFFER_BYTES = 64 << 20  # Lance's own default reads 2 GB ahead
CONFLICT = "Retryable commit conflict"
EXAMPLE = "write for example: status = 'ok' and clip_score >= 0.2"


# Reading


def open_table(path: TablePath) -> LanceDataset:
    """The newest version of a table. What is read from it later stays at this version. Raises StoreError."""
    try:
        return lance.dataset(address(path))
    except BaseException as error:
        if not _is_lances(error):
            raise
        if "was not found" not in str(error):
            raise StoreError(f"{shown(path)} is not a readable table: {_short(error)}") from error
        if "://" not in address(path) and Path(path).exists():
            raise StoreError(
                f"{path} exists but is not a table of reverie; give a folder that ends in .lance"
            ) from error
        raise StoreError(f"there is no table at {shown(path)}; has the step that makes it run?") from error


def open_rows(path: TablePath) -> LanceDataset:
    """As ``open_table``, for a reader of single rows here and there: through io_uring where a folder lies here and the kernel has it.

    By default Lance gives every row to a thread, which costs more than reading it.
    """
    table = open_table(path)
    if "://" in address(path) or not has_ring():
        return table
    place = urllib.parse.quote(str(Path(address(path)).absolute()))
    return lance.dataset(f"file+uring://{place}", version=table.version)


@functools.cache
def has_ring() -> bool:
    """Whether this process may use io_uring: old kernels have none, and containers often forbid it."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        syscall = ctypes.CDLL(None).syscall
    except (OSError, AttributeError):
        return False
    # As many and as deep as Lance makes: old kernels count their memory against what a user may lock.
    rings = [syscall(IO_URING_SETUP, RING_DEPTH, ctypes.byref(ctypes.create_string_buffer(120))) for _ in range(2)]
    for ring in rings:
        if ring >= 0:
            os.close(ring)
    return all(ring >= 0 for ring in rings)


def exists(path: TablePath) -> bool:
    """Whether a table was begun here. It may have no finished unit yet.

    Raises: StoreError for one that is damaged, as it is when data is there and nothing says to which version it belongs.
    """
    versions = Path(path) / "_versions"
    if "://" not in address(path) and not _has_files(versions):
        has_data = _has_files(Path(path) / "data")
        # Looked at once more, as data is written only after the first version, which may have come meanwhile.
        if not _has_files(versions):
            if has_data:
                raise StoreError(f"{path} is damaged: its versions are missing, so nothing says what belongs to it")
            return False
    try:
        open_table(path)
    except StoreError as error:
        if isinstance(error.__cause__, ValueError) and "was not found" in str(error.__cause__):
            return False
        raise
    return True


def _has_files(folder: Path) -> bool:
    try:
        return folder.is_dir() and any(folder.iterdir())
    except OSError:  # too long for a name, or a file where a folder is wanted: no table
        return False


def column_names(path: TablePath) -> list[str]:
    """Names of all columns, joined ones last."""
    return list(open_table(path).schema.names)


def count(path: TablePath, where: str | None = None) -> int:
    """Number of rows that fit a Lance SQL filter such as ``status = 'ok' and clip_score > 0.2``."""
    table = open_table(path)
    with asked(path, where):
        return int(table.count_rows(whole_filter(where)))


def scan(path: TablePath, columns: Sequence[str] | None = None, where: str | None = None) -> Iterator[pa.Table]:
    """Rows in stored order, a thousand at a time, in flat memory. Raises InputError for a filter or column that does not fit."""
    table = open_table(path)
    with asked(path, where, columns):
        scanner = _scanner(table, columns, whole_filter(where))
        for batch in scanner.to_batches():
            if batch.num_rows:
                yield pa.Table.from_batches([batch]).replace_schema_metadata(None)


def take(path: TablePath, row_numbers: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows by their number in stored order, in the order asked for. A later commit may renumber rows."""
    with asked(path, None, columns):
        rows = open_table(path).take(np.asarray(row_numbers, dtype=np.uint64), columns=_list(columns))
        return rows.replace_schema_metadata(None)


def rows_of(path: TablePath, key: str, values: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows whose key is one of some hundred values, as dictionaries in stored order; columns that are not there are left out."""
    if not values or not exists(path):
        return []
    known = column_names(path)
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    found = scan(path, [name for name in columns if name in known], f"{key} in ({quoted})")
    return [row for rows in found for row in rows.to_pylist()]


def done_units(path: TablePath) -> set[int]:
    """Units that are committed, with or without rows. A table that is not there yet has none."""
    return _done(open_table(path)) if exists(path) else set()


def units_with(path: TablePath, where: str) -> set[int]:
    """Units that have a row which fits a filter; none of a table that is not there."""
    if not exists(path):
        return set()
    found: set[int] = set()
    with asked(path, where, ["unit"]):
        scanner = open_table(path).scanner(columns=["unit"], filter=whole_filter(where), batch_size=NARROW_ROWS)
        for batch in scanner.to_batches():
            found.update(pc.unique(batch["unit"]).to_pylist())
    return found


def read_unit(
    path: TablePath, unit: int, columns: Sequence[str] | None = None, only: str | None = None, where: str | None = None
) -> pa.Table:
    """All rows of one unit.

    Args:
        columns: names in the order wanted; all when None.
        only: a status word (ok, dropped, failed); other rows are left out.
        where: a Lance SQL filter on top.
    Raises: StoreError if the unit is not committed; InputError for a filter or column that does not fit.
    """
    return read_units(path, [unit], columns, only, where)[unit]


def read_units(
    path: TablePath,
    wanted: Sequence[int],
    columns: Sequence[str] | None = None,
    only: str | None = None,
    where: str | None = None,
) -> dict[int, pa.Table]:
    """All rows of some units, read together, by unit. Arguments and errors as of ``read_unit``."""
    table = open_table(path)
    with asked(path, None, ["unit"]):
        units = _units_by_fragment(table)
    found = [number for number, inside in units.items() if not inside.isdisjoint(wanted)]
    there = _empty_units(table).union(*(units[number] for number in found))
    if missing := [unit for unit in wanted if unit not in there]:
        raise StoreError(f"unit {missing[0]} is not in {path} yet")
    which = f"unit in ({', '.join(map(str, wanted))})" if len(wanted) > 1 else f"unit = {wanted[0]}"
    filters = [which, f"status = '{only}'" if only else "", whole_filter(where) or ""]
    names = None if columns is None else list(dict.fromkeys([*columns, *(["unit"] if len(wanted) > 1 else [])]))
    with asked(path, where, columns):
        # Naming the fragments keeps this independent of how many other units there are.
        fragments = [table.get_fragment(i) for i in found] or None
        scanner = _scanner(table, names, " and ".join(filter(None, filters)) if found else "false", fragments)
        rows = scanner.to_table().replace_schema_metadata(None)
    if len(wanted) == 1:
        return {wanted[0]: rows}
    parts = {unit: rows.filter(pc.equal(rows["unit"], unit)) for unit in wanted}
    return {unit: part if columns is None else part.select(list(columns)) for unit, part in parts.items()}


# Filters

SUMS = "+-*/%|&^"
SWELLS = (  # calls that make a lot out of a number
    r"(?i:`?\b(?P<swells>repeat|[lr]pad|space|(?:array|list)_(?:repeat|resize)|range|generate_series|gen_series)`?\s*\()"
)
MAX_SUMS = 200  # in a filter: each is a level of recursion in Lance, whose stack ends below 1,000


def whole_filter(where: str | None) -> str | None:
    """A filter in parentheses, so that Lance reads all of it: by itself it stops at the end of the first expression.

    Raises: InputError for quotes or parentheses that do not match, for comments and semicolons, which could hide them, and for
        placeholders, endless sums and functions that make a lot out of a number, at which Lance panics or ends the process.
    """
    if where is None:
        return None
    depth, sums, wrong = 0, 0, "" if where.strip() else "it is empty"
    for token in re.finditer(rf"{SWELLS}|'(?:[^']|'')*'|`[^`]*`|\"[^\"]*\"|['`\"();$?]|--|/\*|::|[-:+*/%|&^]", where):
        depth += (token[0] == "(") - (token[0] == ")")
        sums += token[0] in SUMS
        if sums > MAX_SUMS:
            wrong = f"it has more than {MAX_SUMS} of {' '.join(SUMS)}"
        elif token["swells"]:
            wrong = f"{token['swells']} may fill the memory"
        elif token[0] in ("'", "`", '"', ";", "--", "/*", "$", "?", ":"):
            wrong = f"{token[0]} at character {token.start() + 1} does not belong in it"
        elif depth < 0:
            wrong = f"the parenthesis at character {token.start() + 1} closes nothing"
        if wrong:
            break
    if depth > 0 and not wrong:
        wrong = "a parenthesis is not closed"
    if wrong:
        raise InputError(f"{where!r} is not a filter: {wrong}; {EXAMPLE}")
    return f"({where})"


def check_filter(where: str, schema: pa.Schema | None = None) -> None:
    """Raises InputError for what is not one filter; with a schema, also for a column that is not in it or of another type."""
    if wrong := _parsed(where, schema):
        raise InputError(wrong)


@functools.lru_cache(maxsize=64)
def _parsed(where: str, schema: pa.Schema | None) -> str | None:
    """What is wrong with a filter, found out on a table without rows."""
    whole = whole_filter(where)
    table = lance.write_dataset((schema or PAIRS).empty_table(), f"memory://{uuid.uuid4().hex}")
    try:
        table.count_rows(whole)
    except (ValueError, OSError) as error:
        said = str(error)
        if "Schema error" not in said:
            return f"{where!r} is not a filter: {_short(error)}; {EXAMPLE}"
        if schema is not None:
            return (
                f"the filter {where!r} does not fit the columns, which are {', '.join(schema.names)}: {_short(error)}"
            )
    return None


# Writing


def append_unit(path: TablePath, unit: int, rows: pa.Table) -> None:
    """Commit all rows of one unit at once; make the table if it is not there.

    Readers see all of the unit or nothing, and so does whoever comes after a kill at any moment. No rows is fine: the unit
    is then done and empty. Joined columns that the rows lack become null.
    Raises: UnitExists if the unit is committed, also when another process was a moment faster; StoreFull with the table as
        before; FolderInUse if the folder holds something else; ValueError for rows that are not of this unit, or a key twice.
    """
    append_units(path, {unit: rows})


def append_units(path: TablePath, units: Mapping[int, pa.Table]) -> None:
    """Commit several units at once, in one file: all of them are seen or none. Those without rows are noted before, one by one.

    A commit writes a list of all files of the table, so few files are what keeps many units cheap.
    Raises: as ``append_unit`` does; UnitExists if any of them is committed.
    """
    for unit, rows in units.items():
        _check_unit(unit, rows)
    schema = next(iter(units.values())).schema
    try:
        table = open_table(path)
    except StoreError:
        if not exists(path):  # looked at anew: a rival may have made it since
            _create(path, schema)
        table = open_table(path)
    _refuse_done(table, units, path)
    filled = [rows for rows in units.values() if rows.num_rows]
    with _commits(path):
        for unit in (unit for unit, rows in units.items() if not rows.num_rows):
            _note_empty(path, unit)
            table = open_table(path)
        if not filled:
            return
        whole = pa.concat_tables([_fit(rows, table.schema, path) for rows in filled])
        new = list(write_fragments(whole, table, mode="append"))
    for wait_s in _waits():
        with _commits(path):
            if _swap(table, new):
                return
        time.sleep(wait_s)
        table = open_table(path)
        try:
            _refuse_done(table, [unit for unit, rows in units.items() if rows.num_rows], path)
        except UnitExists:
            files = table.new_file_session()
            for file in (file for fragment in new for file in fragment.files):
                files.delete_file(f"data/{file.path}")
            raise
    raise StoreError(
        f"could not commit {_named(units)} to {path}: other writers were faster {TRIES} times; use fewer of them"
    )


def _swap(table: LanceDataset, new: list[Any]) -> bool:
    """Commit the fragments if nobody else committed rows since ``table`` was opened; False if somebody did.

    Lance lets plain appends pass each other, so an append cannot notice a rival that commits the same unit. This commit is an
    Update that also names the oldest fragment, unchanged: two Updates of one fragment from the same version conflict, and the
    slower of them learns it before anything is visible. (A table without rows has no fragment to name; there a Merge, which
    conflicts with everything, does the same.) The caller looks again at what is done, and tries again.
    """
    oldest = next(iter(table.fragment_ids()), None)
    if oldest is None:
        for number, fragment in enumerate(new):
            fragment.id = number
        operation = LanceOperation.Merge(new, table.lance_schema)
    else:
        operation = LanceOperation.Update(new_fragments=new, updated_fragments=[table.get_fragment(oldest).metadata])
    try:
        LanceDataset.commit(table, operation, read_version=table.version)
    except CommitConflictError as error:
        if not error.retryable:
            raise
        return False
    return True


def replace_rows(path: TablePath, rows: pa.Table, key: str) -> None:
    """Put these rows in the place of those with the same key, in one commit; rows with a new key are added to their unit.

    Joined columns that the rows lack become null, since they were computed from what is replaced.
    Raises: StoreError if a row belongs to a unit that is not committed; StoreFull with the table as before.
    """
    if rows.num_rows == 0:
        return
    table = open_table(path)
    if early := set(pc.unique(rows["unit"]).to_pylist()) - _done(table):
        raise StoreError(f"cannot replace rows of unit {min(early)} in {path}: it is not committed")
    if pc.count_distinct(rows[key]).as_py() != rows.num_rows:
        raise ValueError(f"{key} is not unique in the new rows")
    with _commits(path):
        whole = _fit(rows, table.schema, path)
        table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all().execute(whole)


def add_columns(path: TablePath, from_path: TablePath, key: str = "pair_id", replace: bool = False) -> None:
    """Join the columns of a finished table to another one by key, in one commit, without rewriting what is there.

    Rows of ``path`` without a partner get null; rows of ``from_path`` without one are not used.
    Args:
        replace: put columns of the same name anew instead of refusing. The columns of the record itself are never replaced,
            but for image tokens where every image is there as a picture too.
    Raises: StoreError for a name that is there, a key twice, or no common key at all; StoreFull with the table as before.
    """
    for wait_s in _waits():
        table, extra = open_table(path), open_table(from_path)
        fields = [field.with_nullable(True) for field in extra.schema if field.name not in (key, "unit")]
        taken = {field.name for field in fields} & set(table.schema.names)
        if own := (taken & {*PAIRS.names, *CAPTIONS.names}) - _made_from_pictures(table, replace):
            raise StoreError(
                f"{from_path} would overwrite {', '.join(sorted(own))} of {path}; name its columns otherwise"
            )
        if taken and not replace:
            raise StoreError(f"{path} has {', '.join(sorted(taken))} already; join with replace to put them anew")
        if not table.fragment_ids():
            if new := [field for field in fields if field.name not in taken]:
                table.add_columns(pa.schema(new))
            return
        partners = _partners(table, extra, key, path, from_path)
        with asked(path, None), _commits(path):
            base = _without(table, taken) if taken else table
            fragments, schema, start = [], None, 0
            for fragment in base.get_fragments():
                stop = start + fragment.count_rows()
                reader = pa.RecordBatchReader.from_batches(
                    pa.schema(fields), _taken(extra, fields, partners[start:stop])
                )
                metadata, schema = fragment.merge_columns(reader)
                fragments.append(metadata)
                start = stop
            try:
                LanceDataset.commit(table, LanceOperation.Merge(fragments, schema), read_version=table.version)
                return
            except CommitConflictError as error:
                if not error.retryable:
                    raise
        time.sleep(wait_s)
    raise StoreError(
        f"could not join {from_path} to {path}: other writers were faster {TRIES} times; let them finish first"
    )


def drop(path: TablePath) -> None:
    """Delete a table, if it is there."""
    if "://" in address(path):
        if exists(path):
            LanceDataset.drop(address(path))
    else:
        shutil.rmtree(path, ignore_errors=True)


def read_note(path: TablePath) -> str | None:
    """The text that ``write_note`` left; None if there is none. Raises StoreError for a place that cannot be read."""
    return str(open_table(path).to_table()["text"][0].as_py()) if exists(path) else None


def write_note(path: TablePath, text: str, first: bool = False) -> str:
    """Leave a text beside tables that lie where files cannot be written, as a table of one row.

    Args:
        first: a text that is there by now stays.
    Returns: the text that is there now.
    Raises: StoreError for a place that cannot be written to.
    """
    note = pa.table({"text": [text]})
    for wait_s in _waits():
        if first and (known := read_note(path)) is not None:
            return known
        with asked(path, None), _commits(path):
            try:
                if first:  # as in ``_create``: it succeeds for one of those that do it at once
                    operation = LanceOperation.Overwrite(
                        note.schema, list(write_fragments(note, address(path), mode="create"))
                    )
                    LanceDataset.commit(address(path), operation, max_retries=0)
                    return text
                lance.write_dataset(note, address(path), mode="overwrite")
                return text
            except OSError as error:
                if "onflict" not in str(error) and not (first and exists(path)):
                    raise
        time.sleep(wait_s)
    raise StoreError(f"could not write {path}: other writers were faster {TRIES} times; let them finish first")


def mark(path: TablePath, column: str, marks: Mapping[str, bool], key: str = "pair_id") -> None:
    """Set a column of true and false in the rows with these keys, in one commit; other rows stay as they are.

    A column that is not there yet is made, false in all rows; so become rows that were added since, where it is null. Only
    fragments with a row that changes get a new file of this one column, and rows keep their order. Keys without a row are ignored.
    Raises: StoreError for a column of another kind; StoreFull with the table as before.
    """
    for wait_s in _waits():
        table = open_table(path)
        field = next((field for field in table.schema if field.name == column), None)
        if field is not None and field.type != pa.bool_():
            raise StoreError(f"{path} has a column {column} already, of {field.type}; rows cannot be marked in it")
        with asked(path, None, [key]), _commits(path):
            try:
                if field is None:
                    # not just false, which Lance takes for a column that is never null: rows to come have no value yet
                    made = {column: f"nullif({key} = '', true)"}
                    table.add_columns(made if table.fragment_ids() else pa.schema([pa.field(column, pa.bool_())]))
                    table = open_table(path)
                changed = _to_mark(table, column, marks, key)
                if not changed:
                    return
                news, modified = [], set[int]()
                for number, rows in changed.items():
                    metadata, fields = table.get_fragment(number).update_columns(rows, key, key)
                    news.append(metadata)
                    modified |= set(fields)
                operation = LanceOperation.Update(updated_fragments=news, fields_modified=sorted(modified))
                LanceDataset.commit(table, operation, read_version=table.version)
                return
            except (CommitConflictError, OSError) as error:
                if not getattr(error, "retryable", CONFLICT in str(error)):
                    raise
        time.sleep(wait_s)
    raise StoreError(f"could not mark rows of {path}: other writers were faster {TRIES} times; let them finish first")


def _to_mark(table: LanceDataset, column: str, marks: Mapping[str, bool], key: str) -> dict[int, pa.Table]:
    """By fragment, the keys and new values of rows that have another value, or none."""
    found: dict[int, dict[str, bool]] = {}
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in marks)
    where = f"{column} is null" + (f" or {key} in ({quoted})" if marks else "")
    scanner = table.scanner(columns=[key, column], filter=where, with_row_address=True, batch_size=BATCH_ROWS)
    for batch in scanner.to_batches():
        for row in batch.to_pylist():
            value = marks.get(row[key], row[column] or False)
            if value is not row[column]:
                found.setdefault(row["_rowaddr"] >> 32, {})[row[key]] = value
    return {
        number: pa.table({key: list(rows), column: pa.array(rows.values(), pa.bool_())})
        for number, rows in found.items()
    }


def compact(path: TablePath, keep_s: float = 3600) -> None:
    """Gather small commits into large files, drop replaced rows, and delete versions older than ``keep_s`` seconds.

    Who reads an old version meanwhile (a training run, say) can go on if that version is younger than ``keep_s``.
    Raises: StoreFull with the table as before.
    """
    for wait_s in _waits():
        table = open_table(path)
        with asked(path, None), _commits(path):
            try:
                table.optimize.compact_files(batch_size=BATCH_ROWS)
                break
            except OSError as error:
                if CONFLICT not in str(error):
                    raise
        time.sleep(wait_s)
    open_table(path).cleanup_old_versions(older_than=timedelta(seconds=keep_s))


# Checking


def verify(
    folder: TablePath,
    per_caption: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 2,
) -> list[str]:
    """Check the tables of a folder against each other and against what a record must be.

    Args:
        folder: holds captions.lance, and perhaps pairs.lance and columns/*.lance.
        per_caption: how many copies an ok caption must have, ok or with a reason; when None, at least one in a unit that is done.
        progress: called with images decoded so far and in all.
    Returns: what is wrong, one sentence each, also of a table that cannot be read; empty if all is well.
    Raises: StoreError if there is no table of captions.
    """
    folder = Path(folder)
    problems: list[str] = []
    try:
        is_there = exists(folder / "captions.lance")
    except StoreError as error:
        return [str(error)]
    if not is_there:
        raise StoreError(f"there is no captions.lance in {folder}")
    try:
        _check_tables(folder, per_caption, progress, threads, problems)
    except StoreError as error:  # of a table that cannot be read; what was found before still holds
        problems.append(str(error))
    return problems


def _check_tables(
    folder: Path,
    per_caption: int | None,
    progress: Callable[[int, int], None] | None,
    threads: int,
    problems: list[str],
) -> None:
    captions = _load(folder / "captions.lance", ["caption_id", "unit", "text", "status", "reason"])
    assert captions is not None
    problems += _check_rows("captions", captions, "caption_id", r"^[0-9a-f]{16}$")
    _tell(
        problems, "captions are ok but have no text", captions, "caption_id", _ok(captions) & ~_filled(captions["text"])
    )
    names = ["pair_id", "caption_id", "copy", "unit", "status", "reason", "width", "height", "grid"]
    pairs = _load(folder / "pairs.lance", names)
    if pairs is not None:
        problems += _check_rows("pairs", pairs, "pair_id", r"^[0-9a-f]{16}-[0-9]{3,}$")
        problems += _check_family(captions, pairs, done_units(folder / "pairs.lance"), per_caption)
        problems += _check_content(folder / "pairs.lance", progress, threads)
        marked = {path.stem for path in folder.glob("done/*.json")} if tables_of(folder) else set()
        own = {*folder.glob("columns/*.lance"), *(folder / "columns" / f"{name}.lance" for name in marked)}
        for path in sorted(own):
            extra = _load(path, ["pair_id"])
            if extra is not None:
                _tell(problems, f"keys are in {path.name} twice", extra, "pair_id", _repeated(extra["pair_id"]))
                stray = _not(pc.is_in(extra["pair_id"], value_set=pairs["pair_id"].combine_chunks()))
                _tell(problems, f"keys of {path.name} are not in pairs", extra, "pair_id", stray)


def _load(path: Path, columns: list[str]) -> pa.Table | None:
    if not exists(path):
        return None
    table = open_table(path)
    if missing := [name for name in columns if name not in table.schema.names]:
        raise StoreError(f"{path} lacks the columns {', '.join(missing)}")
    with asked(path, None, columns):
        rows = table.to_table(columns=columns)
        rows.validate(full=True)  # damage may come through as text that is none
    return rows


def _check_rows(what: str, rows: pa.Table, key: str, form: str) -> list[str]:
    """Keys well-formed and unique, status words known, and every row that is not ok with a reason. Counts add up by that."""
    problems: list[str] = []
    _tell(problems, f"{what} have a malformed {key}", rows, key, _not(pc.match_substring_regex(rows[key], form)))
    _tell(problems, f"{what} share their {key} with another row", rows, key, _repeated(rows[key]))
    known = pc.is_in(rows["status"], value_set=pa.array([OK, DROPPED, FAILED]))
    _tell(problems, f"{what} have an unknown status", rows, key, _not(known))
    silent = ~_ok(rows) & ~_filled(rows["reason"])
    _tell(problems, f"{what} are dropped or failed without a reason", rows, key, silent)
    return problems


def _check_family(captions: pa.Table, pairs: pa.Table, done: set[int], per_caption: int | None) -> list[str]:
    """Every pair belongs to a caption of its unit, and every ok caption has its copies."""
    problems: list[str] = []
    parent = pc.index_in(pairs["caption_id"], value_set=captions["caption_id"].combine_chunks())
    _tell(problems, "pairs belong to no caption", pairs, "pair_id", np.asarray(parent.is_null()))
    unit = captions["unit"].take(parent)
    _tell(
        problems,
        "pairs are in another unit than their caption",
        pairs,
        "pair_id",
        _yes(pc.not_equal(unit, pairs["unit"])),
    )
    copy = pc.utf8_lpad(pairs["copy"].cast(pa.string()), 3, "0")
    named = pc.binary_join_element_wise(pairs["caption_id"].cast(pa.string()), copy, "-")
    _tell(
        problems,
        "pairs have an id that is not their caption and copy",
        pairs,
        "pair_id",
        _not(pc.equal(named, pairs["pair_id"])),
    )

    planned = captions.filter(pa.array(_ok(captions)))
    reached = np.asarray(pc.is_in(planned["unit"], value_set=pa.array(sorted(done), pa.int64())))
    if per_caption is not None and (num_open := len(set(planned.filter(pa.array(~reached))["unit"].to_pylist()))):
        left = counted_clause(num_open, "units of captions have no pairs yet")
        problems.append(f"{left}; run the same command again to finish")
    planned = planned.filter(pa.array(reached))
    copies = pairs.group_by("caption_id").aggregate([("copy", "count_distinct"), ("copy", "min"), ("copy", "max")])
    row = pc.index_in(planned["caption_id"], value_set=copies["caption_id"].combine_chunks())
    number = np.asarray(pc.fill_null(copies["copy_count_distinct"].take(row), 0))
    if per_caption is None:
        _tell(problems, "ok captions have no pair and no reason", planned, "caption_id", number == 0)
    else:
        last = np.asarray(pc.fill_null(copies["copy_max"].take(row), -1))
        first = np.asarray(pc.fill_null(copies["copy_min"].take(row), -1))
        wrong = (number != per_caption) | (first != 0) | (last != per_caption - 1)
        _tell(problems, f"ok captions do not have copies 0 to {per_caption - 1}", planned, "caption_id", wrong)
    return problems


def _check_content(path: Path, progress: Callable[[int, int], None] | None, threads: int) -> list[str]:
    """Every ok pair has tokens that fill their grid, an image that decodes to its width and height, or at least its features."""
    found: dict[str, list[str]] = {}
    total, done = count(path, "status = 'ok'"), 0
    columns = ["pair_id", "image", "tokens", "grid", "width", "height"]
    columns += [name for name in ("embedding",) if name in column_names(path)]
    with ThreadPoolExecutor(threads) as pool:
        for rows in scan(path, columns, "status = 'ok'"):
            for name, problem in zip(rows["pair_id"].to_pylist(), pool.map(_look, rows.to_pylist()), strict=True):
                if problem:
                    found.setdefault(problem, []).append(name)
            done += rows.num_rows
            if progress:
                progress(done, total)
    return [f"{counted_clause(len(names), problem)}: {_some(names)}" for problem, names in found.items()]


def _look(row: dict[str, Any]) -> str | None:
    if row["image"] is None and row["tokens"] is None and row.get("embedding") is None:
        return "pairs are ok but have neither image nor tokens"
    if row.get("embedding") is not None and not np.isfinite(row["embedding"]).all():
        return "embeddings are not finite"
    if row["tokens"] is not None and len(row["grid"] or ()) != 2:
        return "pairs have tokens without a grid of two numbers"
    if row["tokens"] is not None and row["grid"][0] * row["grid"][1] != len(row["tokens"]):
        return "pairs have more or fewer tokens than their grid holds"
    if row["image"] is not None:
        try:
            size = open_picture(row["image"], row["pair_id"]).size
        except BrokenImage:
            return "images do not decode"
        if size != (row["width"], row["height"]):
            return "images are not as wide and high as their row says"
    return None


def _tell(problems: list[str], what: str, rows: pa.Table, key: str, wrong: np.ndarray) -> None:
    """Add a sentence with the number and the first few keys of the rows that are wrong."""
    if wrong.any():
        named = _some(rows[key].filter(pa.array(wrong)).to_pylist())
        problems.append(f"{counted_clause(int(wrong.sum()), what)}: {named}")


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _ok(rows: pa.Table) -> np.ndarray:
    return _yes(pc.equal(rows["status"], OK))


def _filled(column: pa.ChunkedArray) -> np.ndarray:
    return _yes(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0))


def _yes(mask: Any) -> np.ndarray:
    return np.asarray(pc.fill_null(mask, False), dtype=bool)


def _not(mask: Any) -> np.ndarray:
    return ~_yes(mask)


def _repeated(column: pa.ChunkedArray) -> np.ndarray:
    """True at the second and later rows of a value."""
    counts = pc.value_counts(column)
    values = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    mask = _yes(pc.is_in(column, value_set=values))
    seen: set[object] = set()
    for index, value in zip(np.flatnonzero(mask), column.filter(pa.array(mask)).to_pylist(), strict=True):
        mask[index] = value in seen
        seen.add(value)
    return mask


# What is done

_units_seen: dict[bytes, dict[int, frozenset[int]]] = {}  # table identity -> fragment -> its units; see below


def _done(table: LanceDataset) -> set[int]:
    with asked(table.uri, None, ["unit"]):
        return _empty_units(table).union(*_units_by_fragment(table).values())


def _empty_units(table: LanceDataset) -> set[int]:
    return {int(name.removeprefix(EMPTY_UNIT)) for name in table.config() if name.startswith(EMPTY_UNIT)}


def _units_by_fragment(table: LanceDataset) -> dict[int, frozenset[int]]:
    """Which units the rows of each fragment belong to.

    A fragment keeps its units for life and its number is never used again, so what was read once is remembered, and a
    process that watches a growing table reads only what is new.
    """
    identity = (table.schema.metadata or {}).get(IDENTITY, b"")
    known = _units_seen.get(identity, {}) if identity else {}
    numbers = list(table.fragment_ids())
    units: dict[int, set[int]] = {number: set() for number in numbers if number not in known}
    if units:
        fragments = [table.get_fragment(number) for number in units]
        scanner = table.scanner(columns=["unit"], with_row_address=True, fragments=fragments, batch_size=NARROW_ROWS)
        for batch in scanner.to_batches():
            both = np.stack([batch["_rowaddr"].to_numpy() >> 32, batch["unit"].to_numpy().astype(np.uint64)])
            first = np.ones(both.shape[1], bool)  # of rows of the same, which stand together
            first[1:] = (both[:, 1:] != both[:, :-1]).any(axis=0)
            for number, unit in both[:, first].T.tolist():
                units[number].add(unit)
    whole = {number: known[number] if number in known else frozenset(units[number]) for number in numbers}
    if identity:
        _units_seen[identity] = whole
    return whole


def _refuse_done(table: LanceDataset, units: Iterable[int], path: TablePath) -> None:
    if there := _done(table).intersection(units):
        raise UnitExists(f"{_named(there)} is already in {path}")


def _named(units: Iterable[int]) -> str:
    first, *more = sorted(units)
    return f"unit {first}" + (f" and {len(more)} more" if more else "")


def _note_empty(path: TablePath, unit: int) -> None:
    """Commit that a unit is done without rows.

    Two processes that note the same unit set the same key, which Lance refuses to the slower one.
    """
    for wait_s in _waits():
        table = open_table(path)
        _refuse_done(table, [unit], path)
        try:
            table.update_config({f"{EMPTY_UNIT}{unit}": "1"})
            return
        except OSError as error:
            if "onflict" not in str(error):
                raise
        time.sleep(wait_s)
    raise StoreError(
        f"could not commit unit {unit} to {path}: other writers were faster {TRIES} times; use fewer of them"
    )


# Small parts


def _create(path: TablePath, schema: pa.Schema) -> None:
    """Make the table without rows; fine if another process just did."""
    place = Path(address(path))
    if place.is_file() or (place.is_dir() and {item.name for item in place.iterdir()} - LANCE_FOLDERS):
        raise FolderInUse(f"{path} holds something that is not a table; give another folder")
    schema = schema.with_metadata({IDENTITY: uuid.uuid4().hex.encode()})
    with _commits(path):
        try:
            # Not lance.write_dataset(mode="create"): of two that create at once, it lets the second overwrite the first and
            # what was committed to it since. Without retries an Overwrite succeeds for one of them only.
            table = LanceDataset.commit(address(path), LanceOperation.Overwrite(schema, []), max_retries=0)
        except OSError as error:
            if is_full(error) or not exists(path):
                raise
            return
        table.update_config(CLEANUP)


def _check_unit(unit: int, rows: pa.Table) -> None:
    if unit < 0 or "unit" not in rows.column_names or pc.any(pc.not_equal(rows["unit"], unit)).as_py():
        raise ValueError(f"these are not the rows of unit {unit}")
    for key in ("pair_id", "caption_id"):
        if key in rows.column_names:  # the first of the two that is there is the key of the table
            if pc.count_distinct(rows[key]).as_py() != rows.num_rows:
                raise ValueError(f"{key} is not unique within unit {unit}")
            break


def _fit(rows: pa.Table, schema: pa.Schema, path: TablePath) -> pa.Table:
    """The rows with exactly the columns of the table; those that were joined later are null."""
    unknown = set(rows.column_names) - set(schema.names)
    # A table that was begun before the record had a column can do without it as long as it is empty.
    if unknown := {name for name in unknown if name not in PAIRS.names or rows[name].null_count < rows.num_rows}:
        raise StoreError(f"{path} has no column {', '.join(sorted(unknown))}")
    if missing := {field.name for field in schema if not field.nullable} - set(rows.column_names):
        raise StoreError(f"rows for {path} lack {', '.join(sorted(missing))}")
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _made_from_pictures(table: LanceDataset, replace: bool) -> set[str]:
    """The columns of image tokens, if nothing is lost with them: no row is tokens alone."""
    alone = table.count_rows("tokens is not null and image is null") if "tokens" in table.schema.names else 0
    return set(TOKEN_COLUMNS) if replace and not alone else set()


def _partners(table: LanceDataset, extra: LanceDataset, key: str, path: TablePath, from_path: TablePath) -> np.ndarray:
    """For each row of ``table``, in stored order, the row number in ``extra`` with the same key, or -1."""
    if key not in extra.schema.names or key not in table.schema.names:
        raise StoreError(f"cannot join {from_path} to {path}: both need a column {key}")
    with asked(f"{path} or {from_path}", None, [key]):
        mine, theirs = (side.to_table(columns=[key])[key].combine_chunks() for side in (table, extra))
    if pc.count_distinct(theirs).as_py() != len(theirs):
        raise StoreError(f"{from_path} has the same {key} twice; nothing was joined")
    partners = np.asarray(pc.fill_null(pc.index_in(mine, value_set=theirs), -1))
    if len(theirs) and (partners < 0).all():
        raise StoreError(f"no {key} of {from_path} is in {path}; nothing was joined")
    return partners


def _taken(extra: LanceDataset, fields: list[pa.Field], partners: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows of ``extra`` at these numbers, null where there is none."""
    for start in range(0, len(partners), BATCH_ROWS):
        wanted = partners[start : start + BATCH_ROWS]
        here = wanted >= 0
        if here.any():
            rows = extra.take(wanted[here].astype(np.uint64), columns=[field.name for field in fields])
        else:
            rows = pa.schema(fields).empty_table()
        places = pa.array(np.cumsum(here) - 1, mask=~here)
        rows = rows.select([field.name for field in fields]).take(places).combine_chunks().cast(pa.schema(fields))
        yield from rows.to_batches()


def _without(table: LanceDataset, names: Iterable[str]) -> LanceDataset:
    """A version of the table that lacks these columns and that nobody sees: new ones can be put in their place in one commit."""
    rebuild, (metadata, *parts) = (
        table.lance_schema.__reduce__()
    )  # the only way to keep the numbers of the other fields
    kept: list[bytes] = []
    start = 0
    for field in table.lance_schema.fields():
        stop = start + _size(field)
        kept += [] if field.name() in names else parts[start:stop]
        start = stop
    operation = LanceOperation.Project(rebuild(metadata, *kept))
    return LanceDataset.commit(table, operation, read_version=table.version, detached=True)


def _size(field: Any) -> int:
    """How many parts a field has, its children counted in."""
    return 1 + sum(_size(child) for child in field.children())


def _scanner(
    table: LanceDataset, columns: Sequence[str] | None, where: str | None, fragments: list[Any] | None = None
) -> Any:
    return table.scanner(
        columns=_list(columns),
        filter=where,
        fragments=fragments,
        batch_size=BATCH_ROWS,
        batch_readahead=2,
        fragment_readahead=2,
        io_buffer_size=BUFFER_BYTES,
        scan_in_order=True,
    )


def _list(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _waits() -> Iterator[float]:
    """How long to wait after each lost race: a little, at random, so that rivals do not meet again."""
    for number in range(TRIES):
        yield random.uniform(0, min(0.01 * 2**number, 0.5))


FILTER_FAULTS = (
    "Error applying filter",
    "Physical plan does not support",
    "Unsupported type",
)  # in the middle of reading


@contextmanager
def asked(path: TablePath, where: str | None, columns: Sequence[str] | None = None) -> Iterator[None]:
    """Turn Lance's complaint about a filter or a column into one line."""
    try:
        yield
    except BaseException as error:
        if not _is_lances(error):
            raise
        said = str(error)
        of_filter = where is not None and any(each in said for each in FILTER_FAULTS)
        if not of_filter and ("Invalid user input" not in said or "a Lance file" in said):
            raise StoreError(f"cannot read {path}: {_short(error)}") from error
        asked = f"filter {where!r}" if where else f"columns {', '.join(columns or ())}"
        raise InputError(f"{asked} does not fit {path}: {_short(error)}") from error


def _is_lances(error: BaseException) -> bool:
    """What Lance and Arrow raise at what they cannot read, a panic in their Rust included, which is no Exception."""
    return isinstance(
        error, (ValueError, OSError, RuntimeError, NotImplementedError, pa.ArrowException, MemoryError)
    ) or (type(error).__name__ == "PanicException")


@contextmanager
def _commits(path: TablePath) -> Iterator[None]:
    """Turn "disk full" in any of its words into StoreFull, and what a server says into one line. Lance shows a commit only when all
    of its files are written.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StoreFull(f"no space left for {path}; free some and run the same command again") from error
        if "://" in address(path):
            raise StoreError(
                f"cannot write {path}: {_short(error)}; what was committed before is kept, so the same command goes on"
            ) from error
        raise


def _short(error: BaseException) -> str:
    """The first line of Lance's message without the place in its source; of a server's answer its status."""
    if answer := re.search(r"status code: (\d{3}[\w ]*)", str(error)):
        return f"the server answered {answer[1].strip()}"
    if "Error performing" in str(error):
        return f"the server does not answer ({str(error).rpartition('source:')[2].strip()[:120] or 'no reason given'})"
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        re.sub(r",? /\S+\.rs:\d+(:\d+)?.*$", "", line)
        .removeprefix("External error: ")
        .removeprefix("Invalid user input: ")[:300]
    )
