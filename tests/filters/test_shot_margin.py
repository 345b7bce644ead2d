"""The margin to real shots, against a version with loops, and what becomes of it in a selection."""

import numpy as np
import pyarrow as pa
import pytest

from reverie.errors import InputError
from reverie.filters.per_class import KeepPerClass
from reverie.filters.shot_margin import ShotMargin, ShotSet, margin
from reverie.models.encoder import open_encoder
from reverie.store import tables
from tests.filters.conftest import all_rows, encoded, noise, pair_rows, run_columns

CLASSES = ("cat", "dog", "owl")
SHOTS = 2


@pytest.fixture
def shots(context):
    """Two shots of each class in the run folder, one a unit, as ``TakeShots`` leaves them: label -> pictures."""
    found = {name: [noise(10 * number + turn) for turn in range(SHOTS)] for number, name in enumerate(CLASSES)}
    for rank in range(SHOTS):
        rows = pair_rows([found[name][rank] for name in CLASSES], unit=rank, labels=list(CLASSES))
        tables.append_unit(context.shots("taken") / "pairs.lance", rank, rows)
    return found


def ids(context):
    """(label, rank) -> name of a shot."""
    return {
        (row["label"], row["unit"]): row["pair_id"]
        for part in tables.scan(context.shots("taken") / "pairs.lance")
        for row in part.to_pylist()
    }


def slow(encoder, picture, label, shots, num):
    """The rule with loops: (margin, nearest shot, its cosine)."""
    row = encoder.images([picture])[0].numpy().astype(float)
    cosines = {
        (name, rank): float(row @ encoder.images([shots[name][rank]])[0].numpy().astype(float))
        for name in CLASSES
        for rank in range(num)
    }
    own = max(value for (name, _), value in cosines.items() if name == label)
    others = max(value for (name, _), value in cosines.items() if name != label)
    nearest = max(cosines, key=cosines.get)
    return own - others, nearest, cosines[nearest]


def test_against_loops(context, shots, tiny_clip):
    encoder = open_encoder(str(tiny_clip))
    pictures = [noise(seed) for seed in range(100, 106)]
    labels = [CLASSES[number % 3] for number in range(6)]
    sets = (ShotSet("taken", 1, "one"), ShotSet("taken", name="all"))
    stage = ShotMargin(sets, str(tiny_clip))
    rows = pair_rows(pictures, labels=labels)
    made = stage.open(context)(rows.select(["pair_id", "unit", *stage.reads]))
    assert made.column_names == [
        "pair_id", "unit", "shot_margin_one", "shot_margin_all", "nearest_shot", "nearest_shot_similarity",
    ]  # fmt: skip
    names = ids(context)
    for row, picture, label in zip(made.to_pylist(), pictures, labels, strict=True):
        assert row["shot_margin_one"] == pytest.approx(slow(encoder, picture, label, shots, 1)[0], abs=1e-5)
        expected, nearest, cosine = slow(encoder, picture, label, shots, 2)
        assert row["shot_margin_all"] == pytest.approx(expected, abs=1e-5)
        assert row["nearest_shot_similarity"] == pytest.approx(cosine, abs=1e-5)
        assert row["nearest_shot"] == names[nearest]
    assert any(row["shot_margin_one"] < 0 for row in made.to_pylist())


def test_a_copy_of_a_shot_is_found_whatever_its_label(context, shots, tiny_clip):
    stage = ShotMargin((ShotSet("taken"),), str(tiny_clip))
    rows = pair_rows([shots["dog"][1], shots["dog"][1]], labels=["dog", "cat"])
    right, wrong = stage.open(context)(rows.select(["pair_id", "unit", *stage.reads])).to_pylist()
    for row in (right, wrong):
        assert row["nearest_shot"] == ids(context)["dog", 1]
        assert row["nearest_shot_similarity"] == pytest.approx(1, abs=1e-5)
    assert right["shot_margin"] > 0 > wrong["shot_margin"]


def test_null_where_there_is_nothing_to_say(context, shots, tiny_clip):
    stage = ShotMargin((ShotSet("taken"),), str(tiny_clip))
    rows = pair_rows([noise(1), None, noise(2)], labels=[None, "cat", "hen"])
    made = stage.open(context)(rows.select(["pair_id", "unit", *stage.reads])).to_pylist()
    assert [row["shot_margin"] for row in made] == [None] * 3
    assert [row["nearest_shot"] is None for row in made] == [False, True, False]
    assert [row["nearest_shot_similarity"] is None for row in made] == [False, True, False]


def test_margin_by_hand():
    cosines = np.array([[0.9, 0.5, 0.7], [0.2, 0.6, 0.6], [0.1, 0.2, 0.3]], np.float32)
    assert margin(cosines, ["a", "a", "b"], ["a", "b", "c"])[:2] == pytest.approx([0.2, 0.0])
    assert np.isnan(margin(cosines, ["a", "a", "b"], ["a", "b", "c"])[2]), "no shot of its class"
    assert np.isnan(margin(cosines[:1, :2], ["a", "a"], ["a"])), "no shot of another"
    assert margin(cosines[:0], ["a", "a", "b"], []).shape == (0,)


def test_several_encoder_batches_and_units_in_a_store(context, shots, tiny_clip):
    encoder = open_encoder(str(tiny_clip))
    tables.append_unit(context.pairs, 0, pair_rows([noise(200), noise(201)], unit=0, labels=["cat", "dog"]))
    tables.append_unit(context.pairs, 1, pair_rows([shots["owl"][0], noise(203)], unit=1, labels=["owl", "cat"]))
    rows = pa.concat_tables(tables.scan(context.pairs))
    run_columns(ShotMargin((ShotSet("taken"),), str(tiny_clip)), context, "margin", rows)
    found = all_rows(context, ["label", "shot_margin", "nearest_shot"])
    for name, picture in zip(found, (noise(200), noise(201), shots["owl"][0], noise(203)), strict=True):
        expected = slow(encoder, picture, found[name]["label"], shots, 2)
        assert found[name]["shot_margin"] == pytest.approx(expected[0], abs=1e-5)


def test_a_selection_by_margin(context):
    """At least the margin passes; an image must besides be surer than chance; the largest margins fill up."""
    labels = ["cat"] * 5 + ["dog"] * 3
    tables.append_unit(context.pairs, 0, pair_rows([None] * 8, labels=labels))
    scores = {
        "shot_margin": [0.0, 0.3, -0.1, 0.2, None, -0.2, -0.3, -0.1],
        "clip_confidence": [0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9],
    }
    names = pa.concat_tables(tables.scan(context.pairs, ["pair_id"]))
    for column, values in scores.items():
        names = names.append_column(column, pa.array(values, pa.float32()))
    from reverie.filters.keep import join_columns

    join_columns(context, names)
    stage = KeepPerClass(
        ("cat", "dog"),
        by="shot_margin",
        threshold=0.0,
        or_equal=True,
        also="clip_confidence > 0.5",
        max_kept=2,
        column="kept_near",
    )
    stage.run(context)
    kept = [row["kept_near"] for row in all_rows(context, ["kept_near"]).values()]
    assert kept == [True, False, False, True, False, True, False, True]
    assert "drop_reason" not in tables.column_names(context.pairs)


def test_a_selection_among_some_pairs_says_nothing_of_others(context):
    rows = pair_rows([None] * 4, per_caption=2, labels=["cat"] * 4)
    tables.append_unit(context.pairs, 0, rows)
    from reverie.filters.keep import join_columns

    join_columns(context, rows.select(["pair_id"]).append_column("clip_confidence", pa.array([0.9, 0.9, 0.8, 0.1])))
    KeepPerClass(("cat", "dog"), candidates="copy < 1").run(context)
    found = list(all_rows(context, ["copy", "kept", "drop_reason"]).values())
    assert [(row["copy"], row["kept"]) for row in found] == [(0, True), (1, None), (0, True), (1, None)]
    assert context.report[-1][1]["per_class"]["cat"] == {"made": 2, "passed": 2, "kept": 2}
    with pytest.raises(InputError, match="no pairs to select from among those with copy > 7"):
        KeepPerClass(("cat", "dog"), candidates="copy > 7").run(context)


def test_what_cannot_be_is_refused(context, shots, tiny_clip, tmp_path):
    with pytest.raises(InputError, match="differ by name"):
        ShotMargin((ShotSet("a"), ShotSet("b")))
    with pytest.raises(InputError, match="none"):
        ShotMargin(())
    with pytest.raises(InputError, match=r"no pairs\.lance"):
        ShotMargin((ShotSet(tmp_path),)).check()
    with pytest.raises(InputError, match="no order of shots"):
        ShotSet(tmp_path, 2)
    broken = pair_rows([encoded(noise(1))[:50]], unit=SHOTS, labels=["cat"])
    tables.append_unit(context.shots("taken") / "pairs.lance", SHOTS, broken)
    with pytest.raises(InputError, match="a shot cannot be decoded"):
        ShotMargin((ShotSet("taken"),), str(tiny_clip)).open(context)
