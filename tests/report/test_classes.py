"""What the page says of the classes of a classifier, for few, many, and very many of them."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from reverie import pairs
from reverie.filters.per_class import KeepPerClass
from reverie.report import classes as by_class
from reverie.report.facts import gather
from reverie.report.page import WritePage, write
from reverie.run.plan import Plan, Step
from reverie.stage import Job, UnitStage
from reverie.store import results, tables

from ..records import result
from .conftest import EVIL, Paint, Write, picture
from .test_page import read

LONG = "a very long class name that goes on and on as those of ImageNet do, for birds above all"


@dataclass(frozen=True)
class Tune(Job):
    on: str = "painted"
    classes: tuple[str, ...] = ()
    shots: Path | None = None


@dataclass(frozen=True)
class Measure(Job):
    role: ClassVar[str] = "measure"
    photos: str = "photos"


@dataclass(frozen=True)
class NearestShot(UnitStage):
    writes: ClassVar[str] = "columns"


def class_names(num):
    return tuple([EVIL, LONG, *(f"thing number {n}" for n in range(num))][:num])


def make_run(folder, num_classes, per_class=4, measured=True, shots=None):
    """Class n is painted ``per_class`` times and passes min(n, per_class) times; class 0 never does."""
    names = class_names(num_classes)
    steps = (
        Step("captions", Write(num_classes * 2)),
        Step("paint", Paint(per_class), ("captions",)),
        Step("keep", KeepPerClass(names), ("paint",)),
        Step("classifier", Tune(shots=shots), ("keep",)),
        Step("measure", Measure(), ("classifier",)),
        Step("page", WritePage(), ("measure",)),
    )
    plan = Plan("zero_shot", steps, unit_size=1000)
    plan.settle(folder)
    captions, images, columns = [], [], {"pair_id": [], "clip_confidence": [], "kept": [], "drop_reason": []}
    told = {}
    shared_picture = picture((200, 30, 30))
    for number, label in enumerate(names):
        for status, reason in (("ok", None), ("dropped", "no class word")):
            name = pairs.caption_id(7, status, number)
            row = {"caption_id": name, "unit": 0, "text": f"a {label}", "label": label, "status": status}
            captions.append(row | {"reason": reason})
        name = pairs.caption_id(7, "ok", number)
        for copy in range(per_class):
            key = pairs.pair_id(name, copy)
            row = {"pair_id": key, "caption_id": name, "copy": copy, "unit": 0, "text": f"a {label}", "label": label}
            failed = number == 1 and copy == 0
            status = {"status": "failed", "reason": "NaN", "image": None} if failed else {"status": "ok"}
            images.append({"image": shared_picture, "width": 48, "height": 48} | row | status)
            kept = copy < number and not failed
            columns["pair_id"].append(key)
            columns["clip_confidence"].append(None if failed else 0.9 - 0.2 * copy if kept else 0.001 * copy)
            columns["kept"].append(kept)
            columns["drop_reason"].append(None if kept else "fails: clip_confidence > 0.25")
        passed = sum(columns["kept"][-per_class:])
        told[label] = {"made": per_class, "passed": passed, "kept": passed}
    tables.append_unit(folder / "captions.lance", 0, pairs.table(captions, pairs.CAPTIONS))
    tables.append_unit(folder / "pairs.lance", 0, pairs.table(images, pairs.PAIRS))
    columns["unit"] = [0] * len(images)
    schema = pa.schema(
        {"pair_id": pa.string(), "clip_confidence": pa.float32(), "kept": pa.bool_(), "drop_reason": pa.string()}
        | {"unit": pa.int64()}
    )
    tables.append_unit(folder / "columns" / "keep.lance", 0, pa.table(columns, schema=schema))
    tables.add_columns(folder / "pairs.lance", folder / "columns" / "keep.lance")
    lines = [{"time": 1.0, "kind": "run", "device": "cpu"}]
    lines += [{"time": 1.0, "kind": "warning", "text": f"no image of {name!r} passes"} for name in names[:200]]
    lines.append({"time": 2.0, "kind": "selected", "step": "keep", "per_class": told})
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if measured:
        write_accuracy(folder, names)
    return folder


def write_accuracy(folder, names):
    """Ten photos a class. Tuned: class n has (5 + seed) right for even n, 2 for odd; zero-shot: always 4."""
    num = len(names)
    for name, label, seeds in (("classifier", "tuned on painted images", (0, 1, 2)), ("zero-shot", "zero-shot", (0,))):
        for seed in seeds:
            right = np.where(np.arange(num) % 2, 2, 5 + seed) if name != "zero-shot" else np.full(num, 4)
            table = np.diag(right)
            table[np.arange(num), (np.arange(num) + 1) % num] += 10 - right  # all mistakes go to the next class
            correct = np.concatenate([np.arange(10) < value for value in right])
            record = result(
                arm=name, label=label, seed=seed, step="measure", protocol="classifier", weights=f"{name}-{seed}",
                photos="photos", num_test=10 * num, num_classes=num, classes=tuple(names),
                value=float(right.sum() / (10 * num)), confusion=tuple(map(tuple, table.tolist())),
                correct=np.packbits(correct).tobytes().hex(),
            )  # fmt: skip
            results.append(folder / "results.jsonl", record)


@pytest.fixture
def four(tmp_path):
    return make_run(tmp_path, 4)


def test_counts_of_each_class(four):
    found = by_class.gather(gather(four))
    assert [item.name for item in found.classes] == list(class_names(4))
    assert [(item.captions, item.refused, item.images, item.unusable) for item in found.classes] == [
        (1, 1, 4, 0),
        (1, 1, 4, 1),
        (1, 1, 4, 0),
        (1, 1, 4, 0),
    ]
    assert [(item.passed, item.kept) for item in found.classes] == [(0, 0), (0, 0), (2, 2), (3, 3)]
    assert [item.pass_rate for item in found.classes] == [0, 0, 0.5, 0.75]
    assert [item.name for item in found.not_drawn] == [EVIL, LONG]
    assert [item.photos for item in found.classes] == [10] * 4


def test_accuracy_with_and_without_is_the_mean_over_seeds(four):
    found = by_class.gather(gather(four))
    assert found.labels == {"classifier": "tuned on painted images", "zero-shot": "zero-shot"}
    assert [item.right["classifier"] for item in found.classes] == pytest.approx([0.6, 0.2, 0.6, 0.2])
    assert [round(change, 9) for _, change in found.changed] == [0.2, 0.2, -0.2, -0.2]
    first, *_ = found.confused(5)
    assert (first.truth, first.answer, first.times, first.before, first.photos) == (LONG, "thing number 0", 8, 6, 10)
    assert len(found.confused(100)) == 4


def test_the_page_tells_it(four):
    write(four)
    seen = read(four)
    for wanted in (
        "Of 2 of 4 classes hardly an image passes (5% or fewer)",
        "0 of 4",
        "2 of 4 pass, 2 kept",
        "0.900",
        "Which classes gained, which lost",
        "A class has 10 test photos",
        "+20.0",
        "−20.0",
        "3 seeds together",
        "confusion matrix of 4 classes",
        "1 more",  # of the warnings
    ):
        assert wanted in seen.text or any(wanted in str(attrs) for _, attrs in seen.tags), wanted
    assert "fails: clip_confidence > 0.25" in seen.text  # below the picture, in the words of the store
    assert seen.text.count('alert("1")') >= 8
    assert not [tag for tag, _ in seen.tags if tag == "script"]
    names = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(names) == len(set(names))
    assert all(source.startswith(("data:image/", "#")) for source in seen.sources)


def test_zero_shot_is_compared_with_every_seed(four):
    (found,) = gather(four).measured
    (compared,) = found.comparisons
    assert compared.over_seeds.num_seeds == 3
    assert compared.over_photos.mean == pytest.approx(compared.over_seeds.mean)


def test_a_thousand_classes_stay_a_page(tmp_path):
    make_run(tmp_path, 1000)
    began = time.process_time()  # whatever else the machine does
    write(tmp_path)
    assert time.process_time() - began < 60
    seen = read(tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 2_500_000
    for wanted in (
        "56 more classes",
        "Pictures of 936 more classes are not shown",
        "990 more classes",
        "1,000 classes in order",
        "1,000 classes hardly an image passes",
        "150 more, in events.jsonl",
    ):
        assert wanted in seen.text, wanted
    assert "confusion matrix" not in str(seen.tags)
    assert "The most frequent mistakes" in seen.text


def test_before_anything_is_measured_or_selected(tmp_path):
    make_run(tmp_path, 30, measured=False)
    write(tmp_path)
    seen = read(tmp_path)
    assert "Class by class" in seen.text
    assert "gained" not in seen.text
    other = tmp_path / "other"
    other.mkdir()
    Plan("zero_shot", (Step("captions", Write(4)), Step("tune", Tune(), ("captions",)))).settle(other)
    write(other)
    assert "The classes" not in read(other).text


def test_other_selections_do_not_count(four):
    """A selection into another column is there to be compared with; the classes are judged by the one that is learnt from."""
    line = {"time": 3.0, "kind": "selected", "step": "keep-none", "per_class": {"thing number 0": {"passed": 99}}}
    with (four / "events.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert by_class.gather(gather(four)).classes[2].passed == 2


def test_examples_are_spread_from_sure_to_unsure(tmp_path):
    make_run(tmp_path, 12, per_class=9)
    names = class_names(12)
    found = by_class.examples(tmp_path / "pairs.lance", "kept", names, 3)
    for number, name in enumerate(names):
        kept, lost = found[name]
        rows = tables.take(tmp_path / "pairs.lance", [*kept, *lost], ["label", "copy", "kept"]).to_pylist()
        assert {row["label"] for row in rows} <= {name}
        assert [row["kept"] for row in rows] == [True] * len(kept) + [False] * len(lost)
        assert len(kept) == min(number - (number == 1), 3)
        assert len(lost) == min(max(9 - number, 0) + (number == 1), 3)
    kept, lost = found[names[11]]
    assert [row["copy"] for row in tables.take(tmp_path / "pairs.lance", kept, ["copy"]).to_pylist()] == [0, 4, 8]


@pytest.mark.parametrize("where", ["shots", "nowhere"])
def test_nearest_shots_first_the_most_alike(tmp_path, where):
    shots = tmp_path / "shots"
    rows = [
        {"pair_id": f"shot-{n}", "caption_id": f"c{n}", "copy": 0, "unit": 0, "label": f"real {n}", "status": "ok"}
        | {"image": picture((0, 0, 250)), "width": 48, "height": 48}
        for n in range(3)
    ]
    tables.append_unit(shots / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    run = tmp_path / "run"
    run.mkdir()
    make_run(run, 20, shots=tmp_path / where)
    keys = [row["pair_id"] for part in tables.scan(run / "pairs.lance", ["pair_id"]) for row in part.to_pylist()]
    alike = np.random.default_rng(0).permutation(np.linspace(0.2, 1, len(keys)))
    columns = {"pair_id": keys, "unit": [0] * len(keys), "nearest_shot": [f"shot-{n % 3}" for n in range(len(keys))]}
    columns["nearest_shot_similarity"] = pa.array(alike, pa.float32())
    tables.append_unit(run / "columns" / "nearest.lance", 0, pa.table(columns))
    tables.add_columns(run / "pairs.lance", run / "columns" / "nearest.lance")
    found = by_class.nearest_shots(gather(run), 5)
    order = np.argsort(-alike)[:5]
    assert [row["pair_id"] for row in found.pairs] == [keys[n] for n in order]
    assert found.num == 80
    assert found.num_alike == int((alike.astype(np.float32) >= 0.95).sum())
    assert found.median == pytest.approx(float(np.median(alike)), abs=1e-6)
    assert set(found.shots) == ({f"shot-{n % 3}" for n in order} if where == "shots" else set())
    write(run)
    seen = read(run)
    assert "How close to the real shots?" in seen.text
    assert "1.000" in seen.text
    assert ("beside real" in seen.text) == (where == "shots")


def test_of_several_painted_sets_the_one_that_is_learnt_from_counts(tmp_path):
    """As few_shot makes them: the classifier that is asked by default learns from a selection of its own."""
    make_run(tmp_path, 4)
    keys = [row for part in tables.scan(tmp_path / "pairs.lance", ["pair_id", "copy"]) for row in part.to_pylist()]
    guided = [None if row["copy"] < 2 else row["copy"] == 3 for row in keys]  # the first two copies are another set
    columns = {"pair_id": [row["pair_id"] for row in keys], "unit": [0] * len(keys)}
    tables.append_unit(tmp_path / "columns" / "g.lance", 0, pa.table(columns | {"kept_guided": pa.array(guided)}))
    tables.add_columns(tmp_path / "pairs.lance", tmp_path / "columns" / "g.lance")
    plan = json.loads((tmp_path / "plan.json").read_text())
    (keep,) = (step for step in plan["steps"] if step["name"] == "keep")
    (tune,) = (step for step in plan["steps"] if step["name"] == "classifier")
    tune["settings"]["where"] = "kept_guided"
    plan["steps"].insert(3, keep | {"name": "keep-guided", "settings": keep["settings"] | {"column": "kept_guided"}})
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    told = {name: {"made": 2, "passed": 1, "kept": 1} for name in class_names(4)}
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": 9.0, "kind": "selected", "step": "keep-guided", "per_class": told}) + "\n")
    found = by_class.gather(gather(tmp_path))
    assert found.column == "kept_guided"
    assert [(item.images, item.judged, item.passed, item.kept) for item in found.classes] == [(4, 2, 1, 1)] * 4
    chosen = by_class.examples(tmp_path / "pairs.lance", "kept_guided", class_names(4), 3)
    for kept, lost in chosen.values():
        rows = tables.take(tmp_path / "pairs.lance", [*kept, *lost], ["copy"]).to_pylist()
        assert [row["copy"] for row in rows] == [3, 2]
    write(tmp_path)
    assert "Counted is the painted set that the first classifier learns from" in read(tmp_path).text
