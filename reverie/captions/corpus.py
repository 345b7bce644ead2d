"""Captions that are there already: text files, tables, COCO caption files, data sets of others, columns of another run."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie import pairs
from reverie.captions.checks import check, clean, same
from reverie.errors import InputError
from reverie.stage import SourceStage, StepContext, Worker

if TYPE_CHECKING:
    from reverie.store.imports import Sample
    from reverie.store.texts import Texts

ROWS = pa.schema([("position", pa.string()), ("text", pa.string()), ("label", pa.string()), ("file", pa.string())])


@dataclass(frozen=True)
class ReadCorpus(SourceStage):
    """Every usable text of a source, in its order; the others become dropped rows with the reason.

    A caption is named by its position in the source, so another limit or filter leaves the names of the rest as they were.
    """

    writes: ClassVar[Literal["captions"]] = "captions"

    # .txt .csv .tsv .jsonl .parquet, COCO .json (most also .gz), or a data set folder: see store/imports/; or the folder of a run or
    # an import: see store/texts.py
    path: Path
    text_column: str | None = None  # None takes caption, text, ...; a number in a CSV or TSV without header
    label_column: str | None = None  # class names; None takes label, class, ... if there is one
    split: str | None = None  # of a data set that has several
    limit: int | None = None  # use the first so many usable captions
    distinct: bool = True  # drop a text that came before, up to case and outer punctuation
    max_chars: int = 300
    max_words: int = 60
    where: str | None = None  # which rows of a run or an import, in SQL over the columns of its table
    # 16 hex digits of the texts of a run or an import, which may have changed when a run that reads them goes on
    content: str = field(default="", init=False, compare=False)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(
                f"a limit of {self.limit} captions leaves none; give 1 or more, or no limit for all of them"
            )
        if (texts := self._texts()) is not None:
            object.__setattr__(self, "content", texts.content)

    @property
    def count(self) -> int:
        """Usable captions, at most ``limit``. Reads the source. Raises InputError."""
        return len(_judged(self, _changed(self)).usable)

    @property
    def splits(self) -> list[str]:
        """What splits of a Karpathy file the captions are of. Reads the source. Raises InputError."""
        return sorted(_judged(self, _changed(self)).splits)

    def texts(self, max_texts: int) -> list[str]:
        """The first so many usable captions. Reads the source. Raises InputError."""
        corpus = _judged(self, _changed(self))
        return [clean(text or "") for text in corpus.rows["text"].take(corpus.usable[:max_texts]).to_pylist()]

    def open(self, context: StepContext) -> Worker:
        """Read and judge all texts. Raises InputError for a source that cannot be read or has no usable text."""
        corpus = _judged(self, _changed(self))
        if corpus.reasons:
            context.report(
                "warning",
                text=f"{Path(self.path).name}: dropping {len(corpus.reasons)} of {len(corpus.rows)} texts ({_told(corpus.reasons)})",
            )

        def write(wanted: pa.Table) -> pa.Table:
            rows: list[dict[str, Any]] = []
            for unit, position in zip(wanted["unit"].to_pylist(), wanted["position"].to_pylist(), strict=True):
                rows.extend(corpus.captions(unit, position, context.seed))
            return pairs.table(rows, pairs.CAPTIONS)

        return write

    def _texts(self) -> Texts | None:
        """What is in the column of a run or an import; None for a source of another kind. Raises InputError, StoreError."""
        from reverie.store.texts import is_store, read_texts

        if not is_store(Path(self.path)):
            if self.where is not None:
                raise InputError(f"--captions-where chooses rows of a run or an import, and {self.path} is neither")
            return None
        if self.split is not None:
            raise InputError(f"{self.path} is a run or an import, which has no split {self.split!r}; leave it out")
        return read_texts(Path(self.path), self.text_column, self.label_column, self.where)


@dataclass(frozen=True)
class _Corpus:
    """All texts that were looked at, and what was thought of them."""

    rows: pa.Table  # ROWS
    usable: np.ndarray[Any, np.dtype[np.int64]]  # row numbers
    reasons: dict[int, str]  # of the other rows
    splits: frozenset[str]  # that they are of, where the source says so
    whole_source: bool  # the file of a row is all of its source; else it is a place in the corpus

    def captions(self, unit: int, position: int, run_seed: int) -> Iterator[dict[str, Any]]:
        """The usable text of this position with the refused ones before it; at the end also those after it."""
        first = int(self.usable[position - 1]) + 1 if position else 0
        end = len(self.rows) if position == len(self.usable) - 1 else int(self.usable[position]) + 1
        for number, row in enumerate(self.rows.slice(first, end - first).to_pylist(), first):
            reason = self.reasons.get(number)
            yield {
                "caption_id": pairs.caption_id(run_seed, "corpus", row["position"]),
                "unit": unit,
                "text": clean(row["text"] or ""),
                "label": row["label"] or None,
                "source": row["file"] if self.whole_source else f"corpus: {row['file']}" if row["file"] else "corpus",
                "status": pairs.DROPPED if reason else pairs.OK,
                "reason": reason,
            }


@functools.lru_cache(maxsize=4)
def _judged(stage: ReadCorpus, changed: object) -> _Corpus:
    """Read and judge a source once a process. ``changed`` is in the key so that an edited file is read again."""
    from reverie.store import texts as stored
    from reverie.store.imports import guess_kind_unasked, samples

    texts = stage._texts()
    if texts is not None:
        found = stored.samples(texts, stage.text_column or "text")
    else:
        columns = {"text_column": stage.text_column, "label_column": stage.label_column, "split": stage.split}
        found = samples(stage.path, guess_kind_unasked(stage.path), **columns)  # type: ignore[arg-type]
    parts: list[pa.Table] = []
    usable: list[int] = []
    reasons: dict[int, str] = {}
    known: set[str] = set()
    splits: set[str] = set()
    numbers = itertools.count()
    while some := list(itertools.islice(found, 10_000)):
        seen = 0
        for sample, number in zip(some, numbers, strict=False):
            if stage.limit is not None and len(usable) == stage.limit:
                break
            seen += 1
            splits |= {sample.split} if sample.split else set()
            text, reason = check(sample.text, stage.max_chars, stage.max_words)
            reason = sample.refused or reason
            if reason is None and stage.distinct:  # of those that can be used: what repeats a refused row is the first
                reason = "duplicate" if (key := same(text)) in known else None
                known.add(key)
            if reason is None:
                usable.append(number)
            else:
                reasons[number] = reason
        parts.append(_table(some[:seen]))
        if seen < len(some):
            break
    if not usable:
        raise InputError(f"{stage.path} holds no usable caption ({_told(reasons) or 'it is empty'})")
    return _Corpus(
        pa.concat_tables(parts),
        np.array(usable, dtype=np.int64),
        reasons,
        frozenset(splits),
        texts is not None,
    )


def _table(some: Iterable[Sample]) -> pa.Table:
    rows = [
        {"position": str(sample.position), "text": sample.text, "label": sample.label, "file": sample.file}
        for sample in some
    ]
    return pa.Table.from_pylist(rows, ROWS)


def _changed(stage: ReadCorpus) -> object:
    """What differs when the source has been written to."""
    texts = stage._texts()
    return (
        texts.content if texts is not None else Path(stage.path).stat().st_mtime_ns if Path(stage.path).exists() else 0
    )


def _told(reasons: dict[int, str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in Counter(reasons.values()).most_common())
