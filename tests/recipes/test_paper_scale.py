"""What a run at paper scale would paint, counted in its plan: nothing is loaded and nothing is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reverie import pairs
from reverie.cli.main import main
from reverie.errors import InputError
from reverie.run.plan import Plan, call_recipe, config_type, find_recipe, known_recipes, recipe_scales
from reverie.store import tables

NUM_CLASSES = 10
SETS = 1 + 5 * 3  # of few_shot: from noise, and from the shots of five numbers and three seeds
SENTENCES = ("--words", "--writer", "--templates")


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Class names, photos, captions and templates."""
    (tmp_path / "classes.txt").write_text("".join(f"thing {number}\n" for number in range(NUM_CLASSES)))
    (tmp_path / "captions.txt").write_text("".join(f"thing {number} in the rain\n" for number in range(1400)))
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "thing 0").mkdir(parents=True)
    (tmp_path / "one.txt").write_text("a photo of a {class}\n")
    (tmp_path / "eight.txt").write_text("".join(f"a {{class}} in place {number}\n" for number in range(8)))
    (tmp_path / "many.txt").write_text("".join(f"a {{class}} in place {number}\n" for number in range(300)))
    rows = [
        {"pair_id": name, "caption_id": name, "copy": 0, "unit": 0, "text": f"thing {name}", "status": "ok"}
        for name in "ab"
    ]
    tables.append_unit(tmp_path / "pairs" / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    return {
        "pairs": str(tmp_path / "pairs"),
        "classes": tmp_path / "classes.txt",
        "photos": str(tmp_path / "photos"),
        "captions": tmp_path / "captions.txt",
        "folder": tmp_path,
    }


PLANNED: dict[
    str, tuple[Callable[[dict[str, Any]], dict[str, Any]], int]
] = {  # flags, and images of all classes or captions
    "zero_shot": (lambda given: {"classes": given["classes"]}, 2_000 * NUM_CLASSES),
    "few_shot": (
        lambda given: {"classes": given["classes"], "shots_from": given["photos"]},
        2_000 * NUM_CLASSES * SETS,
    ),
    "synthetic_pretraining": (
        lambda given: {"classes": given["classes"], "eval_data": given["photos"]},
        1_200_000,
    ),
    "stablerep": (lambda given: {"captions": given["captions"], "eval_data": given["photos"]}, 1400 * 10),
    "syntic": (lambda given: {"captions": given["captions"]}, 1400),
    "synth2": (lambda given: {"classes": given["classes"], "pairs": given["pairs"]}, 48 * NUM_CLASSES),
}
FROM_NAMES = ("zero_shot", "few_shot", "synthetic_pretraining")


def images(plan: Plan) -> int:
    """Painted in all."""
    (paint,) = (step.stage for step in plan.steps if step.kind == "pairs")
    return plan.num_captions * int(paint.per_caption)  # type: ignore[union-attr]


def at_paper(name: str, given: dict[str, Any], **flags: Any) -> Plan:
    return call_recipe(name, {"scale": "paper"} | PLANNED[name][0](given) | flags)


def test_every_recipe_that_has_a_paper_scale_is_counted_here() -> None:
    recipes = {name: find_recipe(name) for name in known_recipes()}
    # recap has images already, and paints nothing at paper but what it is asked to measure.
    assert {*PLANNED, "recap"} == {
        name for name, recipe in recipes.items() if config_type(recipe) and "paper" in recipe_scales(recipe)
    }


@pytest.mark.parametrize("name", PLANNED)
def test_as_many_images_are_planned_as_are_published(name: str, given: dict[str, Any]) -> None:
    written = {"words": "owner/t5"} if name in FROM_NAMES else {}
    plan = at_paper(name, given, **written)
    assert images(plan) == PLANNED[name][1]
    assert plan.step("captions").stage.count == plan.num_captions  # type: ignore[union-attr]


@pytest.mark.parametrize("name", FROM_NAMES)
def test_whatever_writes_the_captions_there_are_as_many_images(name: str, given: dict[str, Any]) -> None:
    published = PLANNED[name][1]
    for flags in (
        {"writer": "owner/writer"},
        {"templates": "one.txt"},
        {"templates": "eight.txt"},
        {"templates": "many.txt"},
    ):
        file = {flag: given["folder"] / value for flag, value in flags.items() if flag == "templates"}
        plan = at_paper(name, given, **flags | file)
        assert published <= images(plan) <= published * 1.01
        (note,) = plan.notes
        assert ("basic" in note) == (
            "templates" in flags and (flags["templates"] != "many.txt" or "pretraining" in name)
        )
    if name != "synthetic_pretraining":  # which asks for a number of images, and refuses to make fewer
        assert images(at_paper(name, given, templates=given["folder"] / "one.txt", per_caption=3)) < published, (
            "as told"
        )


@pytest.mark.parametrize("name", FROM_NAMES)
def test_without_anything_that_writes_sentences_it_asks_for_it(
    name: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="captions") as told:
        at_paper(name, given)
    assert all(flag in str(told.value) for flag in SENTENCES)
    flags = {key.replace("_", "-"): str(value) for key, value in PLANNED[name][0](given).items()}
    out = given["folder"] / "run"
    with pytest.raises(SystemExit) as ended:
        main(["run", name, "--scale", "paper", *(word for key, value in flags.items() for word in (f"--{key}", value)), "--out", str(out)])  # fmt: skip
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert "\n" not in said
    assert "--templates" in said
    assert not out.exists()


def test_it_is_said_how_many_images_a_class_will_have_and_how_many_the_filter_can_drop(given: dict[str, Any]) -> None:
    def note(name: str, **flags: Any) -> str:
        (said,) = at_paper(name, given, **flags).notes
        return said

    assert note("zero_shot", words="owner/t5") == (
        "2,000 images of each of 10 classes (200 captions of each, 10 images of a caption); the filter keeps 800 and drops "
        "1,200"
    )
    basic = note("zero_shot", templates=given["folder"] / "eight.txt")
    assert basic.startswith(
        "2,000 images of each of 10 classes (basic, 8 templates of each, 250 images of a template);"
    )
    few = note("zero_shot", words="owner/t5", per_class=8)
    assert few.startswith("80 images of each")
    assert few.endswith("the filter can drop none of them, as --max-kept keeps 800 of each class")
    assert note("zero_shot", words="owner/t5", per_class=8, fill=False).endswith(
        "keeps 80 of them at most and can drop all"
    )
    assert note("few_shot", words="owner/t5").startswith("16 sets of 2,000 images of each of 10 classes")
    assert note("few_shot", words="owner/t5").endswith("of each set the filter keeps 800 and drops 1,200")
    assert note("synthetic_pretraining", words="owner/t5") == (
        "120,000 images of each of 10 classes (12,000 captions of each, 10 images of a caption); only blank ones are dropped"
    )


def test_at_small_too_templates_give_as_many_images_as_sentences(given: dict[str, Any]) -> None:
    flags = {"scale": "small", "classes": given["classes"], "painter": "owner/painter", "clip": "owner/clip"}
    plan = call_recipe("zero_shot", flags)
    assert images(plan) == 50 * 4 * NUM_CLASSES
    assert "basic, 8 templates of each, about 25 images of a template" in plan.notes[0]
    assert json.dumps(plan.record()["notes"]) == json.dumps(list(plan.notes))


@pytest.mark.parametrize("name", PLANNED)
def test_painting_is_in_half_precision_and_stores_no_more_than_is_looked_at(name: str, given: dict[str, Any]) -> None:
    written = {"words": "owner/t5"} if name in FROM_NAMES else {}
    (stage,) = (step.stage for step in at_paper(name, given, **written).steps if step.kind == "pairs")
    paint = getattr(stage, "paint", stage)
    assert paint.dtype == "fp16"
    assert getattr(paint, "store_px", None) == (None if name in ("syntic", "synth2") else 256)
    assert not (name in ("syntic", "synth2") and stage.keep_images)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name",
    ["make", *(name for name in known_recipes() if name not in ("episodes", "recap", "text_to_image", "synth2"))],
)
def test_pictures_have_a_size_a_format_and_a_precision_wherever_they_are_painted(
    name: str, given: dict[str, Any]
) -> None:
    flags: dict[str, Any] = {"painter_dtype": "bf16", "store_px": 48, "image_format": "webp"}
    plan = call_recipe(name, flags | ({"captions": given["captions"]} if name == "make" else {}))
    (stage,) = (step.stage for step in plan.steps if step.kind == "pairs")
    paint = getattr(stage, "paint", stage)
    assert (paint.dtype, paint.store_px, paint.image_format) == ("bf16", 48, "webp")


@pytest.mark.parametrize(
    "name", ["scratch_efficiency", "stablerep", "synth2", "synthetic_pretraining", "syntic", "zero_shot"]
)
def test_precision_reaches_all_training_of_networks(name: str) -> None:
    more = {"end_to_end_steps": 3} if name == "zero_shot" else {}
    steps = call_recipe(name, {"precision": "bf16"} | more).record()["steps"]
    said = [json.dumps(step["settings"]) for step in steps if '"precision"' in json.dumps(step["settings"])]
    assert said
    assert all('"precision": "bf16"' in text and '"precision": "fp32"' not in text for text in said)


def test_precision_without_a_network_to_train_is_refused() -> None:
    with pytest.raises(InputError, match=r"--precision bf16 .* --end-to-end-steps"):
        call_recipe("zero_shot", {"precision": "bf16"})
