"""Selection by a rule: mark the pairs to learn from, without copying or deleting any."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reverie import pairs
from reverie.errors import InputError
from reverie.stage import Job, Role, Stage, StepContext
from reverie.store import tables

Group = Literal["all", "caption", "label"]


@dataclass(frozen=True)
class Keep(Job):
    """Columns ``kept`` (bool) and ``drop_reason`` (null where kept), joined to the pairs in one commit.

    The rule is a filter of the store's SQL over any column of the pairs. The reason is the first of its clauses (joined by
    ``and``) that the pair does not fulfil; a clause about a missing value is not fulfilled. Of the pairs that fulfil the rule,
    ``top`` keeps only the best share.
    """

    role: ClassVar[Role] = "select"

    rule: str = "status = 'ok' and clip_score >= 0.2"
    top: float = 1.0  # share kept of those that fulfil the rule, in (0, 1]
    by: str = "clip_score"  # column that says which are the best: high is good
    within: Group = "all"  # the best of all, of each caption, or of each label; of a group at least one stays

    def __post_init__(self) -> None:
        clauses(self.rule)
        tables.check_filter(self.rule)
        if not 0 < self.top <= 1:
            raise InputError(f"the share to keep must lie in (0, 1], not {self.top}")

    def run(self, context: StepContext) -> None:
        """Judge all pairs. Raises InputError for a rule that does not fit the columns, or that keeps nothing."""
        columns = ["pair_id", "unit", "caption_id", "label", *([self.by] if self.top < 1 else [])]
        rows = pa.concat_tables(tables.scan(context.pairs, columns)) if tables.count(context.pairs) else None
        if rows is None:
            raise InputError("there are no pairs to select from")
        reason = np.full(len(rows), None, dtype=object)
        for clause in reversed(clauses(self.rule)):  # so that the first one that fails has the last word
            good = [part["pair_id"] for part in tables.scan(context.pairs, ["pair_id"], clause)]
            known = pa.chunked_array(good, pa.string()) if good else pa.chunked_array([[]], pa.string())
            reason[~np.asarray(pc.is_in(rows["pair_id"], known))] = f"fails: {clause}"
        if self.top < 1:
            passed = np.flatnonzero(reason == None)  # noqa: E711 - elementwise
            worse = passed[~best(rows.take(pa.array(passed)), self.top, self.by, self.within)]
            reason[worse] = (
                f"not in the top {self.top:.0%} by {self.by} of {'its ' * (self.within != 'all')}{self.within}"
            )
        kept = np.array([item is None for item in reason])
        counts = Counter(str(item) for item in reason if item is not None)
        if not kept.any():
            told = ", ".join(f"{number} {why}" for why, number in counts.most_common(3))
            raise InputError(f"the rule {self.rule!r} keeps none of {len(rows)} pairs ({told}); use a milder one")
        join_columns(
            context,
            pa.table(
                {"pair_id": rows["pair_id"], "kept": pa.array(kept), "drop_reason": pa.array(list(reason), pa.string())}
            ),
        )
        context.report("selected", num_kept=int(kept.sum()), num_pairs=len(rows), reasons=dict(counts.most_common()))


def best(rows: pa.Table, top: float, by: str, within: Group) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """True for the ``top`` share of each group, rounded up, ties by pair_id. Rows without a value come last."""
    score = rows[by].cast(pa.float64()).to_numpy(zero_copy_only=False)
    score = np.where(np.isnan(score), -np.inf, score)
    names = {"all": None, "caption": "caption_id", "label": "label"}[within]
    group = (
        np.unique(rows[names].fill_null("").to_pylist(), return_inverse=True)[1] if names else np.zeros(len(rows), int)
    )
    order = np.lexsort([np.array(rows["pair_id"].to_pylist()), -score, group])
    sizes = np.bincount(group)
    place_in_group = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[order] = place_in_group < np.ceil(np.repeat(sizes, sizes) * top - 1e-9)
    return chosen


def clauses(rule: str) -> list[str]:
    """Split a filter at the ``and`` between its clauses: not inside quotes, parentheses, or ``between x and y``.

    A rule with an ``or`` (or a ``case``) on its top level is one clause. Raises InputError for an empty rule or unbalanced parentheses.
    """
    tables.whole_filter(rule)
    parts: list[str] = []
    start, depth, between = 0, 0, False
    for token in re.finditer(r"'(?:[^']|'')*'|`[^`]*`|\"[^\"]*\"|[()]|\w+", rule):
        word = token[0].lower()
        depth += (word == "(") - (word == ")")
        if depth == 0 and word in ("or", "case"):
            parts, start = [], 0
            break
        if depth == 0 and word == "between":
            between = True
        elif depth == 0 and word == "and" and between:
            between = False
        elif depth == 0 and word == "and":
            parts.append(rule[start : token.start()].strip())
            start = token.end()
    parts.append(rule[start:].strip())
    if not all(parts):
        raise InputError(f"the rule {rule!r} is not a filter: an 'and' stands alone; {tables.EXAMPLE}")
    return parts


def check_rule(rule: str, *stages: Stage) -> None:
    """Raises InputError for a rule that does not fit the pairs and what these stages add to them: before any work."""
    fields = [field for stage in stages for field in stage.adds]
    tables.check_filter(rule, pa.schema([*pairs.PAIRS, *fields]))


def join_columns(context: StepContext, columns: pa.Table) -> None:
    """Write a job's columns to its own table, then join them to the pairs in one commit.

    Safe to repeat: what an interrupted run left is made anew, and columns of the same name are replaced.
    """
    own = context.columns()
    tables.drop(own)
    tables.append_unit(own, 0, columns.append_column("unit", pa.array([0] * len(columns), pa.int64())))
    tables.add_columns(context.pairs, own, replace=True)
