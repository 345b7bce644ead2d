"""The filter rule of 2210.07574 on confidences made by hand."""

import numpy as np
import pyarrow as pa
import pytest

from reverie.errors import InputError
from reverie.filters.keep import join_columns
from reverie.filters.per_class import KeepPerClass, choose_rows
from reverie.store import tables
from tests.filters.conftest import all_rows, pair_rows


def chosen(scores, threshold, max_kept=None, choose="random", fill=True, seed=0):
    names = [f"p{i}" for i in range(len(scores))]
    kept, passed = choose_rows(names, np.array(scores, float), threshold, max_kept, choose, fill, seed)
    return set(np.flatnonzero(kept)), set(np.flatnonzero(passed))


def test_only_what_is_strictly_above_passes():
    assert chosen([0.25, 0.26, 0.24, np.nan], 0.25) == ({1}, {1})


def test_more_than_k_pass_and_k_are_drawn_at_random_from_them():
    scores = np.linspace(0.3, 0.9, 20)
    draws = {frozenset(chosen(scores, 0.25, 5, seed=seed)[0]) for seed in range(20)}
    assert all(len(draw) == 5 for draw in draws)
    assert len(draws) > 10  # not the same five
    assert set().union(*draws) == set(range(20))  # the unsure ones among those that pass come too
    assert chosen(scores, 0.25, 5, seed=3) == chosen(scores, 0.25, 5, seed=3)


def test_top_k_are_the_surest_and_ties_go_by_name():
    assert chosen([0.5, 0.9, 0.5, 0.7], 0.25, 3, "top")[0] == {0, 1, 3}


def test_an_under_filled_class_takes_the_surest_that_fail():
    scores = [0.1, 0.8, 0.2, 0.15, 0.2, np.nan]
    assert chosen(scores, 0.25, 3) == ({1, 2, 4}, {1})
    assert chosen(scores, 0.25, 6)[0] == {0, 1, 2, 3, 4, 5}
    assert chosen(scores, 0.25, 3, fill=False) == ({1}, {1})


def test_a_class_for_which_nothing_passes_fills_up_or_stays_empty():
    assert chosen([0.1, 0.2], 0.25, 1) == ({1}, set())
    assert chosen([0.1, 0.2], 0.25) == (set(), set())


@pytest.fixture
def scored(context):
    """Two classes; nothing of the second passes 1/2."""
    rows = pair_rows([None] * 6, unit=0, per_caption=1, status=["ok"] * 5 + ["failed"], labels=["cat", "dog"] * 3)
    tables.append_unit(context.pairs, 0, rows)
    parts = pa.concat_tables(tables.scan(context.pairs, ["pair_id"]))
    scores = pa.array([0.9, 0.4, 0.6, 0.3, 0.5, None], pa.float32())
    join_columns(context, parts.append_column("clip_confidence", scores))
    return context


def test_in_the_store_every_pair_is_kept_or_has_a_reason_and_a_class_that_fails_is_named(scored):
    KeepPerClass(("cat", "dog")).run(scored)
    rows = list(all_rows(scored, ["kept", "drop_reason"]).values())
    low, failed = "fails: clip_confidence > 0.5", "fails: status = 'ok'"
    assert [row["drop_reason"] for row in rows] == [None, low, None, low, low, failed]
    assert [row["kept"] for row in rows] == [row["drop_reason"] is None for row in rows]
    warnings = [facts["text"] for kind, facts in scored.report if kind == "warning"]
    assert len(warnings) == 1
    assert "'dog'" in warnings[0]
    assert scored.report[-1][1]["per_class"] == {
        "cat": {"made": 3, "passed": 2, "kept": 2}, "dog": {"made": 3, "passed": 0, "kept": 0},
    }  # fmt: skip


@pytest.mark.parametrize("num", [3, 10, 1000])
def test_a_confidence_of_exactly_chance_does_not_pass(context, num):
    """Confidences are stored as float32, and float32(1/3) is more than 1/3."""
    tables.append_unit(context.pairs, 0, pair_rows([None] * 2, unit=0, per_caption=1, labels=["c0", "c1"]))
    parts = pa.concat_tables(tables.scan(context.pairs, ["pair_id"]))
    scores = pa.array(np.array([1 / num, np.nextafter(np.float32(1 / num), np.float32(1))], np.float32))
    join_columns(context, parts.append_column("clip_confidence", scores))
    KeepPerClass(tuple(f"c{n}" for n in range(num)), fill=False).run(context)
    assert {row["label"]: row["kept"] for row in all_rows(context, ["label", "kept"]).values()} == {
        "c0": False,
        "c1": True,
    }


def test_k_of_each_class(scored):
    KeepPerClass(("cat", "dog"), max_kept=1).run(scored)
    rows = list(all_rows(scored, ["kept", "drop_reason"]).values())
    assert sum(row["kept"] for row in rows[::2]) == 1
    assert [row["kept"] for row in rows[1::2]] == [True, False, False]
    assert sum(row["drop_reason"] == "one of more than 1 that pass" for row in rows) == 1


def test_what_cannot_be_is_refused(scored):
    with pytest.raises(InputError, match="label 'dog'"):
        KeepPerClass(("cat", "cow")).run(scored)
    with pytest.raises(InputError, match=r"above 0\.95"):
        KeepPerClass(("cat", "dog"), threshold=0.95).run(scored)
    with pytest.raises(InputError, match="at least 1"):
        KeepPerClass(("cat", "dog"), max_kept=0)
