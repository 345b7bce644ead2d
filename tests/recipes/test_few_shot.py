"""The whole line at its smallest, through the engine, and the plan of its arms."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reverie.cli.main import main
from reverie.datasets.few_shot import shots_filter
from reverie.errors import InputError
from reverie.images.real_guidance import FromShots
from reverie.models.classifier import load_classifier
from reverie.recipes.few_shot import SCALES
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.smallworld.photos import photo
from reverie.store import results, tables

CLASSES = ("red circle", "blue star", "green cross", "pink ring")
SMALL: dict[str, Any] = {
    "per_class": 3, "per_caption": 1, "sampler_steps": 2, "max_kept": 2, "epochs": 1, "num_shots": (1, 2), "seeds": (3,),
}  # fmt: skip
HUB = {"painter": "owner/painter", "clip": "owner/clip"}  # nothing is looked up to make a plan


def few_shot(scale: str = "tiny", **flags: Any) -> Plan:
    return call_recipe("few_shot", {"scale": scale, **flags})


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A list of four classes, and photos of them: three of each to take shots of, four to measure on."""
    root = tmp_path_factory.mktemp("given")
    for split, num in (("train", 3), ("test", 4)):
        for name in CLASSES:
            (root / "photos" / split / name).mkdir(parents=True)
            for number in range(num):
                picture = Image.fromarray(photo(number, name, "street", len(split)))
                picture.save(root / "photos" / split / name / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return {"classes": root / "classes.txt", "shots_from": str(root / "photos")}


@pytest.fixture(scope="module")
def finished(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few_shot") / "run"
    assert run(call_recipe("few_shot", SMALL | given), folder)
    return folder


def rows_of(folder: Path, where: str) -> list[dict[str, Any]]:
    return [row for part in tables.scan(folder / "pairs.lance", where=where) for row in part.to_pylist()]


def test_every_arm_is_measured_on_the_same_photos_beside_zero_shot(finished: Path) -> None:
    records = results.select(results.read(finished / "results.jsonl"), metric="top1")
    said = {(row.step, row.label, row.seed, row.get("shots")) for row in records}
    arms = ("mixed, guided", "shots alone", "mixed, real filter", "mixed, basic", "cache model")
    for count, shots in ((1, "1 shot"), (2, "2 shots")):
        assert {(f"measure-{count}", f"{arm}, {shots}", 3, count) for arm in arms} <= said
        assert (f"measure-{count}", "zero-shot", 0, 0) in said
    assert len(said) == len(records) == 12
    assert {row.num_test for row in records} == {16}
    zero = [row.value for row in results.select(records, arm="zero-shot")]
    assert zero[0] == zero[1]
    (guided,) = results.select(records, shots=2, strategy="guided", order="mixed")
    assert (guided.arm, guided.weights) == ("mixed-guided-2", "classifier")


def test_blocks_of_copies_are_the_sets_and_each_has_its_own_selection(finished: Path) -> None:
    guided: dict[int, list[dict[str, Any]]] = {copy: rows_of(finished, f"copy = {copy}") for copy in range(3)}
    assert {row["start"] for row in guided[0]} == {None}
    for copy, count in ((1, 2), (2, 1)):  # most shots first
        first = {
            row["pair_id"]
            for part in tables.scan(finished / "shots/shots-3/pairs.lance", where=shots_filter(count))
            for row in part.to_pylist()
        }
        assert {row["start"].split()[0] for row in guided[copy]} <= first
        assert len(guided[copy]) == 12
        assert all(row[f"kept_guided_{count}_3"] is not None and row["kept"] is None for row in guided[copy])
    levels = [float(guided[copy][0]["start"].split()[-1]) for copy in (1, 2)]
    assert levels == pytest.approx([0.809, 0.708], abs=2e-3)
    for column, copy in (("kept", 0), ("kept_filter_1_3", 0), ("kept_filter_2_3", 0), ("kept_guided_2_3", 1)):
        kept = Counter(row["label"] for row in rows_of(finished, column))
        assert set(kept.values()) == {2}, "K of each class in every set"
        assert {row["copy"] for row in rows_of(finished, column)} == {copy}
    near = rows_of(finished, "status = 'ok'")
    assert all(row["nearest_shot"] and 0 < row["nearest_shot_similarity"] <= 1.001 for row in near)
    assert all(row["shot_margin_2_3"] is not None for row in near)


def test_it_is_whole_and_goes_on_to_nothing(
    finished: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (finished / "done").iterdir()}
    assert run(call_recipe("few_shot", SMALL | given), finished)
    assert {path.name: path.stat().st_mtime_ns for path in (finished / "done").iterdir()} == before
    for folder in (finished, finished / "shots" / "shots-3"):
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(folder)])
        assert ended.value.code == 0
        assert "complete" in capsys.readouterr().out
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "mixed, guided, 2 shots" in page
    assert "not complete" not in page


def test_one_guided_image_is_painted_again_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = rows_of(finished, "copy = 2 and status = 'ok'")[5]
    with pytest.raises(SystemExit) as ended:
        main(["repaint", str(finished), row["pair_id"], "--out", str(tmp_path / "again.png")])
    assert ended.value.code == 0
    (tmp_path / "stored.png").write_bytes(row["image"])
    again, stored = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("again.png", "stored.png"))
    assert np.abs(again - stored).max() <= 2


def test_predict_asks_the_first_arm_of_most_shots(finished: Path) -> None:
    about = json.loads((finished / "plan.json").read_text())
    (main_arm,) = [step for step in about["steps"] if step["name"] == "classifier"]
    assert (main_arm["settings"]["on"], main_arm["settings"]["num_shots"]) == ("mixed", 2)
    assert main_arm["settings"]["where"] == "kept_guided_2_3"
    row = rows_of(finished, "copy = 0 and status = 'ok'")[0]
    ours, cache = (load_classifier(finished / where)([row["image"]]) for where in ("", "weights/cache-model-1-3"))
    assert len(ours[0].probabilities) == len(cache[0].probabilities) == 4


def steps_of(plan: Plan) -> dict[str, Any]:
    return {step.name: step.stage for step in plan.steps}


def test_arms_share_shots_images_and_steps() -> None:
    plan = steps_of(few_shot(**{**SMALL, "num_shots": (1, 4), "seeds": (0, 1), "max_kept": 5, "epochs": 30}, **HUB))
    assert [plan[f"shots-{seed}"].per_class for seed in (0, 1)] == [4, 4]
    assert plan["shots-0"].seed != plan["shots-1"].seed
    starts = plan["paint"].starts
    assert starts[0] is None
    assert set(starts[1:]) == {FromShots(f"shots-{seed}", count, steps="share") for count in (1, 4) for seed in (0, 1)}
    assert plan["paint"].per_caption == len(starts) == 5
    tuned = {name: stage for name, stage in plan.items() if name.startswith(("mixed", "shots-alone", "classifier"))}
    assert len(tuned) == 4 * 4
    for name, stage in tuned.items():
        count, seed = (4, 0) if name == "classifier" else (int(word) for word in name.split("-")[-2:])
        assert (stage.shots, stage.num_shots, stage.seed) == (f"shots-{seed}", count, seed)
        assert stage.steps == 30 * -(-5 * 64 // 64)
    keeps = {stage.column: stage for name, stage in plan.items() if name.startswith("keep")}
    assert keeps["kept_filter_4_1"].by == "shot_margin_4_1"
    assert (keeps["kept_filter_4_1"].threshold, keeps["kept_filter_4_1"].or_equal) == (0.0, True)
    assert keeps["kept_filter_4_1"].also == f"clip_confidence > {1 / 64}"
    assert {stage.max_kept for stage in keeps.values()} == {5}
    cache = plan["cache-model-1-0"]
    assert (cache.alpha, cache.beta, cache.shots, cache.num_shots) == (1.0, 5.5, "shots-0", 1)


def test_flags_reach_their_stages() -> None:
    plan = steps_of(
        few_shot(
            **{**SMALL, "per_caption": 3},
            strategies=("guided",),
            levels=(0.9, 0.5),
            orders=("shots-first", "painted-first", "painted"),
            guided_filter=False,
            guided_steps=9,
            alpha=2.0,
            beta=3.0,
            soft_share=0.25,
            real_batch=7,
            **HUB,
        )
    )
    starts = plan["paint"].starts
    assert [(start.level, start.steps) for start in starts] == [(0.9, 9), (0.5, 9)] * 2
    assert plan["paint"].per_caption == 12
    assert plan["keep-guided-2-3-1"].candidates == "copy >= 3 and copy < 6"
    assert plan["keep-guided-2-3-1"].threshold == 0.0
    assert plan["classifier"].on == "shots, then painted"
    assert plan["painted-first-guided-at-0.5-1-3"].on == "painted, then shots"
    assert plan["painted-guided-at-0.9-1-3"].on == "painted"
    assert plan["painted-guided-at-0.9-1-3"].real_batch == 7
    assert plan["painted-guided-at-0.9-1-3"].tuning.soft_share == 0.25
    assert (plan["cache-model-1-3"].alpha, plan["cache-model-1-3"].beta) == (2.0, 3.0)
    assert "keep" not in plan
    names = [arm.label for arm in plan["measure-1"].arms]
    assert names[1] == "shots alone, 1 shot", "what painted images are worth is the first comparison of the page"


def test_paper_is_as_published(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("forest\nriver\n")
    (tmp_path / "photos" / "forest").mkdir(parents=True)
    flags = {"classes": tmp_path / "classes.txt", "shots_from": str(tmp_path / "photos"), "words": "owner/t5"}
    plan = few_shot("paper", **flags, strategies=("filter",))
    stages = steps_of(plan)
    tune, paint = stages["classifier"], stages["paint"]
    assert (tune.lr, tune.weight_decay, tune.clip, tune.batch, tune.real_batch) == (1e-3, 0.1, 1.0, 512, 32)
    assert (tune.tuning.soft_share, tune.tuning.temperature) == (0.5, 2.0)
    assert (tune.tuning.real_weight, tune.tuning.synthetic_weight) == (1.0, 1.0)
    assert tune.steps == 30 * -(-800 * 2 // 512)
    assert (paint.guidance, paint.starts) == (3.0, (None,))
    assert (SCALES["paper"].num_shots, SCALES["paper"].guided_steps) == ((1, 2, 4, 8, 16), "published")
    assert "measure-1" not in stages, "there are no test photos"
    assert plan.step("page").inputs


def test_what_cannot_be_is_refused_before_any_work(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("forest\nriver\n")
    with pytest.raises(InputError, match="--shots-from FOLDER"):
        few_shot(classes=tmp_path / "classes.txt")
    for wrong, said in (
        ({"num_shots": ()}, "--num-shots needs"),
        ({"num_shots": (0, 1)}, "--num-shots 0: give 1 or more"),
        ({"num_shots": (1, 1)}, "names one twice"),
        ({"seeds": ()}, "--seeds needs"),
        ({"strategies": ()}, "--strategies needs"),
        ({"orders": ("mixed", "mixed")}, "names one twice"),
        ({"levels": (0.5,), "strategies": ("basic",)}, "add guided"),
        ({"guided_steps": 5, "strategies": ("basic",)}, "add guided"),
        ({"guided_steps": "published", "strategies": ("basic",)}, "add guided"),
        ({"guided_steps": 0}, "--guided-steps 0: give 1 or more"),
        ({"levels": (1.5,)}, r"--levels 1\.5: give a number from 0 to 1"),
        ({"max_kept": 0}, "--max-kept 0: give 1 or more"),
    ):
        with pytest.raises(InputError, match=said):
            few_shot(**{**SMALL, **wrong})
    with pytest.raises(InputError, match="4 shots of each class are asked"):
        run(call_recipe("few_shot", SMALL | given | {"num_shots": (4,)}), tmp_path / "run")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES[:3]))
    with pytest.raises(InputError, match="not in the list: pink ring"):
        run(call_recipe("few_shot", SMALL | given | {"classes": tmp_path / "classes.txt"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
