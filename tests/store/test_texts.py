"""Captions of a run, or a column beside its images, as captions of another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie import pairs
from reverie.captions.corpus import ReadCorpus
from reverie.errors import InputError, SettingsChanged
from reverie.learn.make_support_set import group_of
from reverie.run.engine import run
from reverie.run.plan import Plan, Step, call_recipe
from reverie.stage import StepContext
from reverie.store import tables
from reverie.store.texts import is_store, read_texts
from tests.run.conftest import FAKE
from tests.store.conftest import captions_of, pairs_of

TEXTS = ("a red cat", "A red cat.", "two dogs", "黑猫", "", "  ", "123", "https://x.y", "word " * 70, None)


def put_beside(folder: Path, name: str, values: dict[str, Any], kind: pa.DataType | None = None) -> None:
    """A column of the pairs with these values by pair_id."""
    rows = pa.table(
        {
            "pair_id": pa.array(list(values), pa.string()),
            "unit": pa.array([0] * len(values), pa.int64()),
            name: pa.array(list(values.values()), kind or pa.string()),
        }
    )
    tables.append_unit(folder / "columns" / f"{name}.lance", 0, rows)
    tables.add_columns(folder / "pairs.lance", folder / "columns" / f"{name}.lance")


def keys(folder: Path) -> list[str]:
    return sorted(
        name for part in tables.scan(folder / "pairs.lance", ["pair_id"]) for name in part["pair_id"].to_pylist()
    )


def captions_from(stage: ReadCorpus) -> list[dict[str, Any]]:
    positions = pa.table({"unit": [0] * stage.count, "position": list(range(stage.count))})
    rows: list[dict[str, Any]] = stage.open(StepContext(Path(), "captions"))(positions).to_pylist()
    return rows


row = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["ok", "ok", "ok", "failed", "dropped"]),
        "long": st.sampled_from(TEXTS),
        "label": st.sampled_from(["cat", "dog", None]),
    }
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    units=st.lists(st.lists(row, min_size=1, max_size=4), min_size=1, max_size=3),
    seed=st.randoms(use_true_random=False),
)
def test_rows_add_up_and_their_order_is_not_that_of_the_commits(
    units: list[list[dict[str, Any]]], seed: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = []
    known: dict[str, dict[str, Any]] = {}
    for order in (list(range(len(units))), seed.sample(range(len(units)), len(units))):
        folder = tmp_path_factory.mktemp("store")
        for unit in order:
            images = pairs_of(captions_of(unit, len(units[unit])), copies=1).to_pylist()
            for image, drawn in zip(images, units[unit], strict=True):
                image |= {"status": drawn["status"], "label": drawn["label"]}
                image |= {"reason": None if drawn["status"] == "ok" else "why"}
                known[image["pair_id"]] = drawn
            tables.append_unit(folder / "pairs.lance", unit, pairs.table(images, pairs.PAIRS))
        put_beside(folder, "long", {name: drawn["long"] for name, drawn in known.items()})
        try:
            found.append(captions_from(ReadCorpus(folder, "long")))
        except InputError as error:
            found.append(str(error).replace(str(folder), "FOLDER"))
    assert found[0] == found[1]
    good = [name for name, drawn in known.items() if drawn["status"] == "ok" and drawn["long"] in TEXTS[:4]]
    if isinstance(found[0], str):
        assert not good
        return
    assert {each["source"].removeprefix("pair: ") for each in found[0]} == set(known)
    assert len(found[0]) == len(known)
    for each in found[0]:
        drawn = known[each["source"].removeprefix("pair: ")]
        assert (each["status"] == "ok") == (each["reason"] is None)
        assert each["label"] == drawn["label"]
        if each["status"] == "ok":
            assert each["text"] == drawn["long"]
        elif drawn["status"] != "ok":
            assert each["reason"] == f"{drawn['status']} there: why"
        else:
            assert each["reason"] == "no long" if drawn["long"] is None else each["reason"]
    said = {each["text"] for each in found[0] if each["status"] == "ok"}
    assert {text.strip(" .").lower() for text in said} == {known[name]["long"].strip(" .").lower() for name in good}


def test_without_a_column_captions_are_those_of_the_run_each_once(run_folder: Path) -> None:
    assert ReadCorpus(run_folder).count == 12
    assert ReadCorpus(run_folder / "captions.lance").count == 12
    assert ReadCorpus(run_folder / "pairs.lance", distinct=False).count == 24
    (first, *_) = captions_from(ReadCorpus(run_folder))
    assert first["source"].startswith("caption: ")
    tables.append_unit(run_folder / "more" / "captions.lance", 0, _said_to_be_of("scene: 7"))
    (first, *_) = captions_from(ReadCorpus(run_folder / "more"))
    assert group_of(first["source"]) == "7"  # so that a test photo's own sentence can still be told from chance
    assert {each["label"] for each in captions_from(ReadCorpus(run_folder))} == {"a", "b"}
    assert {each["label"] for each in captions_from(ReadCorpus(run_folder, label_column="text"))} > {"caption 0 0"}


def _said_to_be_of(source: str) -> pa.Table:
    rows = captions_of(0, 2)
    return rows.set_column(rows.schema.get_field_index("source"), "source", pa.array([source] * 2, pa.string()))


def test_rows_are_chosen_by_a_filter(run_folder: Path) -> None:
    names = keys(run_folder)
    put_beside(run_folder, "long", {name: f"text {name}" for name in names})
    put_beside(run_folder, "kept", {name: place < 5 for place, name in enumerate(names)}, pa.bool_())
    stage = ReadCorpus(run_folder, "long", where="kept")
    assert stage.count == 5
    assert (
        call_recipe("make", {"captions": run_folder, "text_column": "long", "captions_where": "kept"}).num_captions == 5
    )
    with pytest.raises(InputError, match="does not fit"):
        ReadCorpus(run_folder, "long", where="keptt")
    with pytest.raises(InputError, match="has no row that fits 'unit > 9'"):
        ReadCorpus(run_folder, "long", where="unit > 9")
    (run_folder / "a.txt").write_text("a cat\n")
    with pytest.raises(InputError, match="--captions-where chooses rows of a run or an import"):
        ReadCorpus(run_folder / "a.txt", where="kept")
    with pytest.raises(InputError, match=r"--captions-where belongs? to a file"):
        call_recipe("make", {"captions_where": "kept"})


def test_a_source_that_has_changed_is_another_one(run_folder: Path, tmp_path: Path) -> None:
    names = keys(run_folder)
    put_beside(run_folder, "long", {name: f"text {name}" for name in names})

    def plan() -> Plan:
        return Plan("test", (Step("captions", ReadCorpus(run_folder, "long")),))

    before = plan()
    assert run(before, tmp_path / "run")
    tables.compact(run_folder / "pairs.lance")  # rewrites the table and changes no row
    assert plan().fingerprints() == before.fingerprints()
    assert run(plan(), tmp_path / "run")
    put_beside(run_folder, "more", {names[0]: "x"})
    assert plan().fingerprints() == before.fingerprints()
    tables.append_unit(
        run_folder / "columns" / "new.lance", 0, pa.table({"pair_id": names[:1], "unit": [0], "long": ["new"]})
    )
    tables.add_columns(run_folder / "pairs.lance", run_folder / "columns" / "new.lance", replace=True)
    with pytest.raises(SettingsChanged, match=r"captions\.content"):
        run(plan(), tmp_path / "run")


# Slips


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("caption_lnog", "has no column 'caption_lnog'; columns of text are pair_id, caption_id, text, label"),
        ("score", "the column 'score' of .* is not text but float"),
        ("names", "the column 'names' of .* is not text but list"),
        ("nothing", "holds no text: it is null in all 24 rows that are ok"),
        ("image", "is not text but large_binary"),
    ],
)
def test_a_column_that_gives_no_captions_is_told_before_any_work(run_folder: Path, column: str, said: str) -> None:
    names = keys(run_folder)
    put_beside(run_folder, "score", dict.fromkeys(names, 0.5), pa.float32())
    put_beside(run_folder, "names", {name: ["a"] for name in names}, pa.list_(pa.string()))
    put_beside(run_folder, "nothing", dict.fromkeys(names))
    with pytest.raises(InputError, match=said) as told:
        call_recipe("make", {"captions": run_folder, "text_column": column})
    assert "\n" not in str(told.value)


def test_a_run_that_is_not_finished_is_told_with_the_step_that_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plan = call_recipe(FAKE, {"count": 6, "unit_size": 3})
    names = [step.name for step in plan.steps]
    assert run(plan, folder, until="captions")
    assert ReadCorpus(folder).count == 6  # its captions are all there
    for column in ("brightness", "painter", "no_such"):
        with pytest.raises(InputError, match=r"is not finished: step 'paint', which its column .* has more to do"):
            ReadCorpus(folder, column)
    assert run(plan, folder, until="paint")
    with pytest.raises(InputError, match=r"is not finished \(left: .*\) and has no column 'no_such' yet"):
        ReadCorpus(folder, "no_such")
    assert ReadCorpus(folder, "text").count == 6
    assert run(plan, folder)
    with pytest.raises(InputError, match="has no column 'no_such'"):
        ReadCorpus(folder, "no_such")
    (folder / "done" / "brightness.json").unlink()  # as a retry leaves it
    with pytest.raises(InputError, match="step 'brightness', which its column 'brightness' comes from"):
        ReadCorpus(folder, "brightness")
    (folder / "done" / "captions.json").unlink()
    with pytest.raises(InputError, match="step 'captions'"):
        ReadCorpus(folder)
    assert {"captions", "paint", "brightness"} <= set(names)


def test_pairs_without_captions_beside_them_are_read_by_their_text(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder / "pairs.lance", tmp_path / "photos" / "pairs.lance")
    texts = read_texts(tmp_path / "photos", "text").rows["text"].to_pylist()
    assert texts == read_texts(run_folder / "pairs.lance", "text").rows["text"].to_pylist()
    assert any(texts)


def test_what_is_and_is_not_a_store(run_folder: Path, tmp_path: Path) -> None:
    assert is_store(run_folder)
    assert is_store(run_folder / "pairs.lance")
    assert not is_store(tmp_path / "nothing")
    assert not is_store(Path("x" * 5000))
    (tmp_path / "photos").mkdir()
    assert not is_store(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "plan.json").write_text(json.dumps({"steps": []}))
    with pytest.raises(InputError, match="has no captions, and so no column 'text'"):
        read_texts(tmp_path / "empty")
    (tmp_path / "empty" / "plan.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_texts(tmp_path / "empty")
    with pytest.raises(InputError, match="no split"):
        ReadCorpus(run_folder, split="train")
    with pytest.raises(InputError, match="no column 'kind' for --label-column"):
        ReadCorpus(run_folder, label_column="kind")
    tables.append_unit(tmp_path / "other.lance", 0, pa.table({"unit": [0], "text": ["a"]}))
    with pytest.raises(InputError, match="not a table of captions or pairs"):
        read_texts(tmp_path / "other.lance")
