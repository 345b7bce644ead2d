"""Selection per class: keep the images that the encoder finds likelier than chance, and at most K of them.

Source: arXiv:2210.07574 and its filter script (section 2.3 of the method). The paper's text removes the unlikely images
and keeps the rest (``max_kept=None`` here); the script keeps exactly K = 800, drawn at random from those that pass, and
fills up with failing ones where too few pass. Both are here; all that pass is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie import seeds
from reverie.captions.classes import read_classes
from reverie.errors import InputError
from reverie.filters.keep import join_columns
from reverie.stage import Job, Role, StepContext
from reverie.store import tables


@dataclass(frozen=True)
class KeepPerClass(Job):
    """Columns ``kept`` (bool) and ``drop_reason`` (null where kept), joined to the pairs in one commit.

    A pair passes if it fulfils ``usable`` and ``also``, and its ``by`` is above ``threshold``, strictly unless ``or_equal``; a
    missing value never passes.
    """

    role: ClassVar[Role] = "select"

    classes: tuple[str, ...] | Path  # names, or a file of them
    usable: str = "status = 'ok'"  # filter over the columns of the pairs; what fails it is never kept
    by: str = "clip_confidence"
    threshold: float | None = None  # None is 1 / number of classes: better than chance; 0 lets all usable pairs pass
    max_kept: int | None = None  # kept of each class (K); None keeps all that pass
    choose: Literal["random", "top"] = "random"  # which K of more that pass; the paper's is random
    fill: bool = True  # where fewer than K pass, add the surest of those that do not
    or_equal: bool = False  # a value of exactly ``threshold`` passes too
    also: str | None = None  # filter that must hold as well to pass; those that fill up need not fulfil it
    candidates: str | None = None  # filter: the selection is about these pairs, and null for others; None is all pairs
    column: str = "kept"  # of the result; another name is a selection to compare with, without reasons

    def __post_init__(self) -> None:
        if self.max_kept is not None and self.max_kept < 1:
            raise InputError(f"at least 1 image a class must be kept, not {self.max_kept}")

    def run(self, context: StepContext) -> None:
        """Judge all pairs. Raises InputError for labels that are not among the classes, or if nothing is kept."""
        classes = read_classes(self.classes)
        columns = ["pair_id", "label", self.by]
        parts = list(tables.scan(context.pairs, columns, self.candidates))
        if not parts:
            raise InputError(
                f"there are no pairs to select from{f' among those with {self.candidates}' * bool(self.candidates)}"
            )
        rows = pa.concat_tables(parts)
        names, labels = rows["pair_id"].to_pylist(), rows["label"].to_pylist()
        if strangers := set(labels) - set(classes):
            raise InputError(f"a pair has the label {strangers.pop()!r}, which is not among the {len(classes)} classes")
        usable = _fulfil(context, self.usable)
        also = None if self.also is None else _fulfil(context, self.also)
        scores = rows[self.by].cast(pa.float64()).to_numpy(zero_copy_only=False)
        threshold = 1 / len(classes) if self.threshold is None else self.threshold
        if rows[self.by].type == pa.float32():
            threshold = float(np.float32(threshold))  # or a confidence of exactly 1/3 would be above 1/3
        reasons = np.full(len(rows), None, dtype=object)
        told: dict[str, dict[str, int]] = {}
        rows_of: dict[str, list[int]] = {label: [] for label in classes}
        for row, label in enumerate(labels):
            rows_of[label].append(row)
        for label in classes:
            own = rows_of[label]
            good = [row for row in own if names[row] in usable]
            kept, passed = choose_rows(
                [names[row] for row in good],
                scores[good],
                threshold,
                self.max_kept,
                self.choose,
                self.fill,
                seeds.derive("keep per class", context.seed),
                or_equal=self.or_equal,
                also=None if also is None else np.array([names[row] in also for row in good], dtype=bool),
            )
            for row in own:
                reasons[row] = f"fails: {self.usable}"
            for row, keep, passes in zip(good, kept, passed, strict=True):
                beyond = f"one of more than {self.max_kept} that pass"
                sign = ">=" if self.or_equal else ">"
                failed = f"{self.by} {sign} {threshold:.4g}{f' and {self.also}' * bool(self.also)}"
                reasons[row] = None if keep else beyond if passes else f"fails: {failed}"
            told[label] = {"made": len(own), "passed": int(passed.sum()), "kept": int(kept.sum())}
        keep_any = np.array([reason is None for reason in reasons])
        if not keep_any.any():
            raise InputError(
                f"no image of any class has {self.by} above {threshold:.4g}; use a lower bound, or --max-kept K"
            )
        found = {"pair_id": rows["pair_id"], self.column: pa.array(keep_any)}
        if self.column == "kept":
            found["drop_reason"] = pa.array(list(reasons), pa.string())
        join_columns(context, pa.table(found))
        for label, count in told.items():
            if count["made"] and not count["passed"] and self.column == "kept":
                context.report(
                    "warning",
                    text=f"no image of {label!r} passes ({count['made']} made, {count['kept']} kept to fill up): "
                    "the painter cannot draw it, or the encoder does not know it",
                )
        context.report("selected", num_kept=int(keep_any.sum()), num_pairs=len(rows), per_class=told)


def choose_rows(
    names: Sequence[str],
    scores: np.ndarray[Any, np.dtype[np.float64]],
    threshold: float,
    max_kept: int | None,
    choose: Literal["random", "top"],
    fill: bool,
    seed: int,
    *,
    or_equal: bool = False,
    also: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """The rule for the images of one class. NaN scores never pass and fill up last.

    Args:
        names: ids; ties go by them, and the random draw is by them, so that the order of rows does not matter.
        or_equal: a score of exactly ``threshold`` passes.
        also: (n,) of what must hold besides, to pass.
    Returns: two bool arrays (n,): kept, and passed.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    passed = scores >= threshold if or_equal else scores > threshold
    if also is not None:
        passed &= also
    if max_kept is None:
        return passed.copy(), passed
    surest = np.lexsort([np.array(names, dtype=str), -scores])
    drawn = np.argsort([seeds.derive(seed, name) for name in names], kind="stable") if choose == "random" else surest
    first = [row for row in drawn if passed[row]][:max_kept]
    if fill:
        first += [row for row in surest if not passed[row]][: max_kept - len(first)]
    kept = np.zeros(len(names), dtype=bool)
    kept[first] = True
    return kept, passed


def _fulfil(context: StepContext, where: str) -> set[str]:
    """Names of the pairs for which a filter holds."""
    return {name for part in tables.scan(context.pairs, ["pair_id"], where) for name in part["pair_id"].to_pylist()}
