import numpy as np
import pyarrow as pa
import pytest

from reverie.errors import InputError
from reverie.filters.keep import Keep, best, clauses, join_columns
from reverie.store import tables
from tests.filters.conftest import all_rows, pair_rows


@pytest.fixture
def scored(context):
    """Two units of three captions with two copies each, and their scores."""
    scores = [0.1, 0.3, 0.25, None, 0.2, 0.9]
    for unit in (0, 1):
        status = ["ok"] * 5 + (["ok"] if unit else ["failed"])
        rows = pair_rows([None] * 6, unit=unit, per_caption=2, status=status, labels=["cat", "dog"] * 3)
        tables.append_unit(context.pairs, unit, rows)
    parts = pa.concat_tables(tables.scan(context.pairs, ["pair_id"]))
    join_columns(context, parts.append_column("clip_score", pa.array([*scores, *scores], pa.float32())))
    return context


def test_every_pair_is_kept_or_has_a_reason(scored):
    Keep().run(scored)
    found = list(all_rows(scored, ["kept", "drop_reason"]).values())
    below = "fails: clip_score >= 0.2"  # or missing
    expected = [below, None, None, below, None]
    assert [row["drop_reason"] for row in found] == [*expected, "fails: status = 'ok'", *expected, None]
    assert [row["kept"] for row in found] == [row["drop_reason"] is None for row in found]
    assert tables.count(scored.pairs, "kept") == 7
    kind, facts = scored.report[-1]
    assert (kind, facts["num_kept"], facts["num_pairs"]) == ("selected", 7, 12)
    assert sum(facts["reasons"].values()) == 5


@pytest.mark.parametrize(
    "rule",
    [
        "status = 'ok' and clip_score between 0.15 and 0.28",
        "clip_score >= 0.2 or label = 'cat'",
        "status = 'ok' and (clip_score >= 0.2 and label = 'dog' or clip_score < 0.15)",
        "clip_score is null",
        "not status = 'failed' and label in ('cat', 'and')",
    ],
)
def test_kept_is_what_the_store_finds_for_the_whole_rule(scored, rule):
    Keep(rule).run(scored)
    kept = {name for name, row in all_rows(scored, ["kept"]).items() if row["kept"]}
    assert kept == {
        name for part in tables.scan(scored.pairs, ["pair_id"], rule) for name in part["pair_id"].to_pylist()
    }


def test_the_best_of_each_caption(scored):
    Keep("status = 'ok'", top=0.5, within="caption").run(scored)
    rows = all_rows(scored, ["kept", "clip_score", "drop_reason"]).values()
    assert sorted(row["clip_score"] for row in rows if row["kept"]) == pytest.approx([0.2, 0.25, 0.25, 0.3, 0.3, 0.9])
    assert {row["drop_reason"] for row in rows if row["clip_score"] is None} == {
        "not in the top 50% by clip_score of its caption"
    }


def test_selecting_again_replaces_the_columns(scored):
    Keep().run(scored)
    Keep("clip_score >= 0.9").run(scored)
    assert tables.count(scored.pairs, "kept") == 2


def test_images_are_not_written_again(scored):
    def size():
        return sum(file.stat().st_size for file in (scored.pairs / "data").rglob("*") if file.is_file())

    rows = pair_rows([bytes(200_000)] * 4, unit=2)
    tables.append_unit(scored.pairs, 2, rows)
    before = size()
    Keep("status = 'ok'").run(scored)
    assert size() - before < 50_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "clip_scor >= 0.2"}, "does not fit"),
        ({"rule": "status = 'ok' and"}, "is not a filter"),
        ({"rule": "(status = 'ok'"}, "is not a filter"),
        ({"rule": ""}, "is not a filter"),
        ({"rule": "clip_score > 0.95"}, "keeps none of 12 pairs .12 fails: clip_score > 0.95"),
        ({"top": 0.0}, "share to keep must lie in"),
        ({"top": 0.5, "by": "beauty"}, "beauty"),
    ],
)
def test_rules_that_cannot_be_used(scored, options, message):
    with pytest.raises(InputError, match=message):
        Keep(**options).run(scored)
    assert "kept" not in tables.column_names(scored.pairs)


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("a = 1", ["a = 1"]),
        ("a = 1 and b = 2 AND not c", ["a = 1", "b = 2", "not c"]),
        ("a = 'x and y' and b = 'it''s'", ["a = 'x and y'", "b = 'it''s'"]),
        ("(a = 1 and b = 2) and c", ["(a = 1 and b = 2)", "c"]),
        ("a between 1 and 2 and b", ["a between 1 and 2", "b"]),
        ("a and b or c", ["a and b or c"]),
        ("candy > 1 and band < 2", ["candy > 1", "band < 2"]),
        ("case when a and b then c else d end", ["case when a and b then c else d end"]),
    ],
)
def test_clauses(rule, parts):
    assert clauses(rule) == parts


def test_best_rounds_up_and_breaks_ties_by_name():
    rows = pa.table({"pair_id": ["d", "b", "c", "a"], "score": [1.0, 1.0, None, 1.0], "label": ["x", "x", "x", None]})
    assert best(rows, 0.5, "score", "label").tolist() == [True, True, False, True]
    assert best(rows, 0.3, "score", "label").tolist() == [False, True, False, True]
    assert best(rows, 0.5, "score", "all").tolist() == [False, True, False, True]
    many = pa.table({"pair_id": [f"{n:03d}" for n in range(100)], "score": np.arange(100.0)})
    assert best(many, 0.07, "score", "all").sum() == 7  # 0.07 * 100 is a hair above 7
