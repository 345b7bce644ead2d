"""Rows by number, filter and order, against plain loops; marks; vectors."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reverie.errors import InputError, StoreError
from reverie.store import tables, vectors
from reverie.store.snapshot import Snapshot, fits


def rows(unit: int, number: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng([unit, seed])
    score = [None if each < 0.2 else float(np.float32(each)) for each in draw.random(number)]
    score[-1] = float("nan")
    return pa.table(
        {
            "pair_id": [f"p{unit}-{n}" for n in range(number)],
            "unit": pa.array([unit] * number, pa.int64()),
            "text": [f"it's {n}" for n in range(number)],
            "score": pa.array(score, pa.float32()),
            "seed": pa.array([*draw.integers(-(2**63), 2**63, number - 2), -(2**63), None], pa.int64()),
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Units of which the second had rows replaced, which moves them to the end."""
    path = tmp_path / "t.lance"
    for unit in range(3):
        tables.append_unit(path, unit, rows(unit, 7))
    again = rows(1, 7, seed=1)
    tables.replace_rows(path, again.take([2, 5]), "pair_id")
    return path


def every(path: Path) -> list[dict[str, object]]:
    return [row for part in tables.scan(path) for row in part.to_pylist()]


@pytest.mark.parametrize("where", [None, "unit = 1", "score > 0.5", "text = 'it''s 3' or score is null", "false"])
def test_numbers_are_those_of_a_plain_loop(path: Path, where: str | None) -> None:
    stored, snapshot = every(path), Snapshot(path)
    fit = [row["pair_id"] for part in tables.scan(path, ["pair_id"], where) for row in part.to_pylist()]
    wanted = [number for number, row in enumerate(stored) if row["pair_id"] in fit]
    numbers = snapshot.numbers(where)
    assert numbers.tolist() == wanted
    assert [row["pair_id"] for row in snapshot.rows(numbers, ["pair_id"])] == fit
    assert snapshot.count(where) == len(fit)
    for descending, column in itertools.product((True, False), ("score", "seed")):
        found = [stored[number][column] for number in snapshot.numbers(where, column, descending)]
        there = [each for each in found if each is not None and each == each]
        assert there == sorted(there, reverse=descending)
        assert all(each is None or each != each for each in found[len(there) :])


def test_a_snapshot_stays_as_it_was(path: Path) -> None:
    snapshot, before = Snapshot(path), [row["pair_id"] for row in every(path)]
    assert snapshot.is_newest()
    tables.replace_rows(path, rows(0, 7).take([0]), "pair_id")
    assert not snapshot.is_newest()
    assert [row["pair_id"] for row in snapshot.rows(range(len(snapshot)), ["pair_id"])] == before
    assert snapshot.numbers_of("pair_id", ["p0-0", "nobody", "p1-2"]) == {
        "p0-0": before.index("p0-0"),
        "p1-2": before.index("p1-2"),
    }
    assert snapshot.numbers_of("pair_id", ["p0-0", "p1-1"], "unit = 1") == {"p1-1": before.index("p1-1")}
    assert snapshot.distinct("text", 7) == [f"it's {n}" for n in range(7)]
    assert snapshot.distinct("text", 6) == []


def test_one_row_against_a_filter(path: Path) -> None:
    row = Snapshot(path).take([3])
    assert fits(row, "text = 'it''s 3' and unit < 1")
    assert not fits(row, "unit > 1")
    with pytest.raises(InputError):
        fits(row, "nothing > 1")


def test_marks_are_false_but_where_they_are_true(path: Path) -> None:
    before = [row["pair_id"] for row in every(path)]
    tables.mark(path, "bad", {"p0-1": True, "p2-6": True, "nobody": True})
    tables.mark(path, "bad", {"p0-1": False, "p1-0": True})
    assert [row["pair_id"] for row in every(path)] == before
    assert [row["pair_id"] for row in every(path) if row["bad"]] == [
        name for name in before if name in ("p2-6", "p1-0")
    ]
    tables.append_unit(path, 3, rows(3, 4))
    assert tables.count(path, "bad is null") == 4
    tables.mark(path, "bad", {})
    assert tables.count(path, "not bad") == len(before) + 4 - 2
    version = tables.open_table(path).version
    tables.mark(path, "bad", {"p2-6": True})  # as it is already: no new version
    assert tables.open_table(path).version == version
    with pytest.raises(StoreError, match="a column score already"):
        tables.mark(path, "score", {})


def test_a_table_without_rows_can_be_marked(tmp_path: Path) -> None:
    tables.append_unit(tmp_path / "t.lance", 0, rows(0, 3).slice(0, 0))
    tables.mark(tmp_path / "t.lance", "bad", {"x": True})
    tables.append_unit(tmp_path / "t.lance", 1, rows(1, 3))
    tables.mark(tmp_path / "t.lance", "bad", {"p1-0": True})
    assert tables.count(tmp_path / "t.lance", "bad") == 1


def test_vectors_with_an_index_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(20, 16))
    every = (centres[draw.integers(0, 20, 600)] + 0.3 * draw.normal(size=(600, 16))).astype(np.float32)
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    path = tmp_path / "v.lance"
    for unit in range(2):
        part = [*every[300 * unit : 300 * unit + 300]]
        names = [f"p{n}" for n in range(300 * unit, 300 * unit + 300)]
        tables.append_unit(path, unit, vectors.rows([*names, f"none{unit}"], unit, [*part, None], 16))
    exact = sorted(range(600), key=lambda n: -float(every[n] @ every[7]))[:10]
    assert not vectors.index(path)  # so few are compared one by one
    found = vectors.nearest(path, every[7], 10)
    assert [name for name, _ in found] == [f"p{n}" for n in exact]
    assert [cosine for _, cosine in found] == pytest.approx([float(every[n] @ every[7]) for n in exact], abs=1e-5)
    monkeypatch.setattr(vectors, "INDEX_FROM", 500)
    assert vectors.index(path)
    assert not vectors.index(path)
    found = vectors.nearest(path, every[7], 10)
    assert found[0][0] == "p7"
    assert len({name for name, _ in found} & {f"p{n}" for n in exact}) >= 8
    assert vectors.vector_of(path, "p7") == pytest.approx(every[7])
    assert vectors.vector_of(path, "none0") is None
    assert vectors.vector_of(path, "nobody'") is None
