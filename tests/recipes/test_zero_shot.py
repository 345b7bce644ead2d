"""The whole line at its smallest, and what a person does with its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reverie.cli.main import main
from reverie.errors import InputError
from reverie.models.classifier import load_classifier
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.smallworld.render import render
from reverie.smallworld.scene import class_names, sample
from reverie.store import results

SMALL = {"per_class": 1, "per_caption": 1, "sampler_steps": 1, "epochs": 1, "seeds": (0, 1)}


def zero_shot(**flags: Any) -> Plan:
    return call_recipe("zero_shot", flags)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero_shot") / "run"
    assert run(call_recipe("zero_shot", SMALL | {"eval_data": "smallworld:street:1:64", "end_to_end_steps": 1}), folder)
    return folder


def test_it_measures_zero_shot_and_tuned_beside_each_other(finished: Path) -> None:
    rows = results.select(results.read(finished / "results.jsonl"), metric="top1")
    named = sorted((row.arm, row.seed) for row in rows)
    assert named == [("classifier", 0), ("classifier", 1), ("end-to-end", 0), ("end-to-end", 1), ("zero-shot", 0)]
    assert {row.label for row in results.select(rows, tuned="encoder")} == {"tuned end to end"}
    for row in rows:
        table = np.array(row.confusion)
        assert table.sum() == row.num_test == 64
        assert np.trace(table) / 64 == pytest.approx(row.value)
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "zero-shot" in page
    assert "Planned: 1 image of each of 64 classes (1 caption of each, 1 image of a caption); the filter drops" in page
    assert "not complete" not in page


def test_the_classifier_answers_in_python_and_on_the_command_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        scene = sample(np.random.default_rng(number), 1)
        Image.fromarray(render(scene, "street", number).image).save(tmp_path / f"{number}.png")
    answers = load_classifier(finished)(sorted(tmp_path.glob("*.png")))
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(finished), str(tmp_path), "--json"])
    assert ended.value.code == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["label"] for line in said] == [answer.label for answer in answers]
    assert all(set(line["probabilities"]) == set(class_names()) for line in said)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(finished), str(tmp_path)])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert "1 of 4 photos cannot be read" in captured.err
    assert "2.png" in captured.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["there/is/none.png"], "there is no there/is/none.png"),
        ([], "at least one photo"),
    ],
)
def test_predict_says_what_is_wrong(
    finished: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(finished), *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_where_captions_come_from(tmp_path: Path) -> None:
    listed, template = tmp_path / "classes.txt", tmp_path / "templates.txt"
    listed.write_text("cat\ndog\n", encoding="utf-8")
    template.write_text("a photo of a {class}\n", encoding="utf-8")

    def kind(**flags: Any) -> str:
        return type(zero_shot(**flags).step("captions").stage).__name__

    public = {"painter": "owner/painter", "clip": "owner/clip"}
    assert kind() == "WordToSentence"
    assert kind(writer="builtin:writer") == kind(**public) == "AskWriter"
    assert kind(templates=template) == kind(classes=listed) == kind(classes=listed, **public) == "FillTemplates"
    assert kind(classes=listed, words="owner/t5", **public) == "WordToSentence"
    with pytest.raises(InputError, match="knows the classes of the small world only"):
        zero_shot(classes=listed, words="builtin:words")


def test_a_domain_gives_classes_templates_and_what_sentences_are_said_in(tmp_path: Path) -> None:
    record = {
        "classes": ["forest", "river"],
        "templates": ["a satellite photo of a {}."],
        "synonyms": {"river": ["stream"]},
    }
    (tmp_path / "land.json").write_text(json.dumps({"EuroSAT": record}), encoding="utf-8")
    flags = {"domain": f"{tmp_path / 'land.json'}:EuroSAT", "painter": "owner/painter", "clip": "owner/clip"}
    plan = zero_shot(**flags, words="owner/t5", per_class=5)
    captions, tune = plan.step("captions").stage, plan.step("classifier").stage
    assert (captions.classes, captions.context) == (("forest", "river"), "a satellite photo of {caption}")
    assert dict(captions.synonyms) == {"river": ("stream",)}
    assert (tune.classes, tune.templates) == (("forest", "river"), ("a satellite photo of a {class}.",))
    assert plan.step("confidence").stage.templates == tune.templates
    assert "measure" not in {step.name for step in plan.steps}  # the small world's photos are not of these classes
    plan = zero_shot(**flags, words="owner/t5", context="{class}", around="seen: {caption}")
    assert plan.step("captions").stage.context == "seen: {caption}"
    assert plan.step("classifier").stage.templates == ("{class}",)


def test_painter_and_head_are_given_one_context_whatever_writes_the_captions(tmp_path: Path) -> None:
    record = {"classes": ["forest", "river"], "templates": ["a satellite photo of a {}.", "a satellite view of {}."]}
    (tmp_path / "land.json").write_text(json.dumps({"EuroSAT": record | {"context": "a satellite photo of {caption}"}}))
    (tmp_path / "own.txt").write_text("{class} in winter\n")
    (tmp_path / "classes.txt").write_text("forest\nriver\n")
    public = {"painter": "owner/painter", "clip": "owner/clip"}
    domain = public | {"domain": f"{tmp_path / 'land.json'}:EuroSAT"}
    context = public | {
        "classes": tmp_path / "classes.txt",
        "context": "a satellite photo of a {class}, a kind of land.",
    }
    said = ("a satellite photo of a {class}.", "a satellite view of {class}.")
    for flags in ({"writer": "owner/writer"}, {"words": "owner/t5"}, {"templates": tmp_path / "own.txt"}):
        plan = zero_shot(**domain, **flags)
        captions: Any = plan.step("captions").stage
        assert captions.context == "a satellite photo of {caption}"
        assert plan.step("classifier").stage.templates == plan.step("confidence").stage.templates == said  # type: ignore[union-attr]
        captions = zero_shot(**context, **flags).step("captions").stage
        assert captions.context == "a satellite photo of {caption}, a kind of land"
        captions = zero_shot(**context, **flags, around="{caption}").step("captions").stage
        assert captions.context == "{caption}", "--around goes before both"
    captions = zero_shot(**domain).step("captions").stage
    assert (captions.templates, captions.context) == (said, "{caption}"), "those of the record, as they are"
    captions = zero_shot(**context).step("captions").stage
    assert captions.templates == ("a satellite photo of a {class}, a kind of land.",)


def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path) -> None:
    one = tmp_path / "one.txt"
    one.write_text("cat\n", encoding="utf-8")
    with pytest.raises(InputError, match="two classes"):
        run(call_recipe("zero_shot", {"classes": one}), tmp_path / "run")
    twins = tmp_path / "twins.txt"
    twins.write_text("cat\nCat\n", encoding="utf-8")
    with pytest.raises(InputError, match="differs only by case"):
        zero_shot(classes=twins)
    with pytest.raises(InputError, match="at least one"):
        zero_shot(seeds=())
    assert not (tmp_path / "run" / "captions.lance").exists()


def test_without_photos_a_finished_run_says_that_its_classifier_is_ready(tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("red circle\nblue star\n")
    arguments = SMALL | {"seeds": (0,), "classes": classes, "threshold": 0.0}
    assert run(call_recipe("zero_shot", arguments), tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "is ready; it was not measured" in page
    assert "reverie predict" in page
    assert "not complete" not in page


def test_a_context_without_a_hole_ends_in_the_class() -> None:
    tune: Any = zero_shot(context="a satellite photo of").step("zero-shot").stage
    assert tune.templates == ("a satellite photo of {class}",)


def test_slips_in_numbers_are_told() -> None:
    with pytest.raises(InputError, match="none twice"):
        zero_shot(seeds=(0, 0))
    with pytest.raises(InputError, match="--shrink-px -3"):
        zero_shot(shrink_px=-3)
    for lr in (float("nan"), 0.0, -1.0):
        with pytest.raises(InputError, match=f"--lr {lr}: give a number above 0"):
            zero_shot(lr=lr)
    tune: Any = zero_shot(hard_pseudo_labels=True, label_smoothing=0.1).step("classifier").stage
    assert (tune.tuning.hard_pseudo_labels, tune.tuning.label_smoothing) == (True, 0.1)
