"""Captions that people already have: text files, tables, COCO caption files."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from reverie import pairs
from reverie.captions.checks import check, same
from reverie.errors import InputError, UnknownName
from reverie.stage import Place, Worker

TEXT_COLUMNS = ("caption", "text", "captions", "TEXT", "sentence", "prompt", "title", "alt_text")
PACKED = (".gz", ".bz2", ".zst")


@dataclass(frozen=True)
class FromCorpus:
    """Every usable text of a file, in its order; the others become dropped rows with the reason.

    A caption is named by its row in the file, so another limit or filter leaves the names of the rest as they were.
    """

    writes: ClassVar[Literal["captions"]] = "captions"

    path: Path  # .txt .csv .tsv .jsonl .json (list or COCO) .parquet, also .gz; or a folder of these
    text_column: str | None = None  # None takes caption, text, ... or the only column
    label_column: str | None = None  # class names, if the table has them
    header: bool = True  # CSV and TSV: the first line names the columns; without, they are f0, f1, ...
    limit: int | None = None  # use the first so many usable captions
    distinct: bool = True  # drop a text that came before, up to case and outer punctuation
    max_chars: int = 300
    max_words: int = 60

    @property
    def count(self) -> int:
        """Usable captions, at most ``limit``. Reads the file. Raises InputError."""
        return len(self._read().usable)

    def open(self, place: Place) -> Worker:
        """Read and check all texts. Raises InputError for a file without usable ones."""
        corpus = self._read()
        if corpus.refused:
            told = ", ".join(f"{number} {reason}" for reason, number in corpus.refused.most_common())
            place.report(
                "warning",
                text=f"{Path(self.path).name}: dropping {sum(corpus.refused.values())} of {corpus.seen} texts ({told})",
            )

        def write(wanted: pa.Table) -> pa.Table:
            rows: list[dict[str, Any]] = []
            for unit, position in zip(wanted["unit"].to_pylist(), wanted["position"].to_pylist(), strict=True):
                rows.extend(self._rows(corpus, unit, position, place.seed))
            return pairs.table(rows, pairs.CAPTIONS)

        return write

    def _rows(self, corpus: _Corpus, unit: int, position: int, run_seed: int) -> Iterator[dict[str, Any]]:
        # A refused text goes with the next usable one, those after the last usable one with that.
        last = int(corpus.usable[position])
        first = int(corpus.usable[position - 1]) + 1 if position else 0
        end = corpus.seen if position == len(corpus.usable) - 1 else last + 1
        for number in range(first, end):
            reason = corpus.reasons.get(number)
            text, _ = check(corpus.texts["text"][number].as_py())
            yield {
                "caption_id": pairs.caption_id(run_seed, "corpus", number),
                "unit": unit,
                "text": text,
                "label": corpus.texts["label"][number].as_py(),
                "source": "corpus",
                "status": pairs.DROPPED if reason else pairs.OK,
                "reason": reason,
            }

    def _read(self) -> _Corpus:
        path = Path(self.path)
        changed = path.stat().st_mtime_ns if path.exists() else 0
        return _checked(self, changed)


@dataclass(frozen=True)
class _Corpus:
    texts: pa.Table  # text, label
    usable: np.ndarray[Any, np.dtype[np.int64]]  # row numbers
    reasons: dict[int, str]  # of the refused rows
    seen: int  # rows looked at: all, or those up to the limit

    @property
    def refused(self) -> Counter[str]:
        return Counter(self.reasons.values())


@functools.lru_cache(maxsize=4)
def _checked(stage: FromCorpus, changed: int) -> _Corpus:
    """Judge every text once a process. ``changed`` is in the key so that an edited file is read again."""
    texts = read_texts(Path(stage.path), stage.text_column, stage.label_column, stage.header)
    usable: list[int] = []
    reasons: dict[int, str] = {}
    known: set[str] = set()
    seen = 0
    for text in _values(texts["text"]):
        caption, reason = check(text, stage.max_chars, stage.max_words)
        key = same(caption) if stage.distinct else ""
        if reason is None and stage.distinct and key in known:
            reason = "duplicate"
        if reason is None:
            usable.append(seen)
            known.add(key)
        else:
            reasons[seen] = reason
        seen += 1
        if stage.limit is not None and len(usable) >= stage.limit:
            break
    if not usable:
        told = ", ".join(f"{number} {reason}" for reason, number in Counter(reasons.values()).most_common())
        raise InputError(f"{stage.path} holds no usable caption ({told or 'it is empty'})")
    return _Corpus(texts, np.array(usable, dtype=np.int64), reasons, seen)


def _values(column: pa.ChunkedArray) -> Iterator[str | None]:
    for chunk in column.chunks:
        yield from chunk.to_pylist()


def read_texts(
    path: Path, text_column: str | None = None, label_column: str | None = None, header: bool = True
) -> pa.Table:
    """Texts and labels of a file or of a folder of files.

    Returns: table of ``text`` and ``label``, both string and nullable, in the order of the file (of the sorted files).
    Raises: InputError naming what is wrong: no such file, empty, not UTF-8, no such column, unknown kind.
    """
    if not path.exists():
        raise InputError(f"caption file {path} does not exist")
    files = [path]
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if _kind(item) in READERS)
        if not files:
            raise InputError(f"the folder {path} holds no caption file; known kinds: {' '.join(sorted(READERS))}")
    tables = []
    for file in files:
        reader = READERS.get(_kind(file))
        if reader is None:
            raise InputError(f"{file} is of no known kind; give one of {' '.join(sorted(READERS))}, also with .gz")
        if file.stat().st_size == 0:
            raise InputError(f"caption file {file} is empty")
        try:
            table = reader(file, header)
        except (pa.ArrowInvalid, OSError, EOFError, ValueError) as error:
            raise InputError(f"cannot read captions from {file}: {str(error).splitlines()[0][:200]}") from error
        tables.append(_text_and_label(table, file, text_column, label_column))
    return pa.concat_tables(tables)


def _kind(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix not in PACKED]
    return suffixes[-1].lower() if suffixes else ""


def _text_and_label(table: pa.Table, file: Path, text_column: str | None, label_column: str | None) -> pa.Table:
    names = table.column_names
    for wanted in (text_column, label_column):
        if wanted is not None and wanted not in names:
            raise UnknownName(f"column of {file.name}", wanted, names)
    if text_column is None:
        known = [name for name in TEXT_COLUMNS if name in names] or (names if len(names) == 1 else [])
        if not known:
            raise InputError(
                f"which column of {file} holds the captions? set text_column to one of: {', '.join(names)}"
            )
        text_column = known[0]
    if not pa.types.is_string(kind := table[text_column].type) and not pa.types.is_large_string(kind):
        raise InputError(f"column {text_column!r} of {file} holds {kind}, not text; set text_column to another")
    empty = pa.nulls(len(table), pa.string())
    label = table[label_column].cast(pa.string()) if label_column else empty
    return pa.table({"text": table[text_column].cast(pa.string()), "label": label})


def _lines(path: Path, header: bool) -> pa.Table:
    with pa.input_stream(path, compression="detect") as stream:
        text = stream.read().decode("utf-8-sig")
    # Split at line ends only: str.splitlines would also split at separators that occur inside of captions.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return pa.table({"text": pa.array(lines, pa.string())})


def _separated(path: Path, header: bool, delimiter: str) -> pa.Table:
    read = pa.csv.ReadOptions(autogenerate_column_names=not header, block_size=1 << 24)
    # Quotes mean something in CSV; in TSV files of captions they are usually part of the text.
    parse = pa.csv.ParseOptions(
        delimiter=delimiter, newlines_in_values=delimiter == ",", quote_char='"' if delimiter == "," else False
    )
    with pa.csv.open_csv(path, read_options=read, parse_options=parse) as stream:
        names = stream.schema.names
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return pa.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _json_lines(path: Path, header: bool) -> pa.Table:
    return pa.json.read_json(path, read_options=pa.json.ReadOptions(block_size=1 << 24))


def _json(path: Path, header: bool) -> pa.Table:
    with pa.input_stream(path, compression="detect") as stream:
        content = json.loads(stream.read())
    if isinstance(content, dict):  # COCO: {"images": [...], "annotations": [{"image_id": 1, "caption": "..."}, ...]}
        content = content.get("annotations")
    if isinstance(content, list) and all(isinstance(item, str) for item in content):
        return pa.table({"text": pa.array(content, pa.string())})
    if isinstance(content, list) and all(isinstance(item, dict) for item in content):
        return pa.Table.from_pylist(content)
    raise ValueError("neither a list of texts or objects, nor COCO captions (annotations)")


def _parquet(path: Path, header: bool) -> pa.Table:
    with pq.ParquetFile(path) as file:
        texts = [
            name
            for name, kind in zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)
            if not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
        ]
        return file.read(columns=texts)  # images are nested, and would fill the memory


READERS: dict[str, Callable[[Path, bool], pa.Table]] = {
    ".txt": _lines,
    ".csv": functools.partial(_separated, delimiter=","),
    ".tsv": functools.partial(_separated, delimiter="\t"),
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
