import dataclasses
import json
from pathlib import Path

import pytest

from reverie.captions.templates import FillTemplates
from reverie.errors import InputError, SettingsChanged, UnknownName
from reverie.learn.classifier_tuning import ClassifierTuning
from reverie.learn.tune_classifier import TuneClassifier
from reverie.run.plan import Plan, Step, call_recipe, find_recipe, known_recipes, plan_again, read_plan
from tests.run.fake_recipe import Brightness, PaintNoise, Sentences, Speed, changed, fake_recipe

FAKE = str(Path(__file__).with_name("fake_recipe.py"))


def test_fingerprints_follow_what_is_read() -> None:
    plan, other = fake_recipe(), fake_recipe(guidance=3.0)
    same = {name for name, value in plan.fingerprints().items() if other.fingerprints()[name] == value}
    assert same == {"captions"}


@pytest.mark.parametrize(("seed", "unit_size"), [(1, 4), (0, 5)])
def test_seed_and_unit_size_are_in_every_fingerprint(seed: int, unit_size: int) -> None:
    old, new = fake_recipe().fingerprints(), fake_recipe(seed=seed, unit_size=unit_size).fingerprints()
    assert not set(old.values()) & set(new.values())


def test_a_plan_has_steps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the plan of empty has no steps"):
        Plan("empty", ())
    fake_recipe().settle(tmp_path)
    record = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(record | {"steps": []}))
    with pytest.raises(InputError, match=r"plan.json is damaged \(it has no steps\); use another folder"):
        read_plan(tmp_path)


def test_speed_is_in_no_fingerprint() -> None:
    assert fake_recipe().fingerprints() == fake_recipe(pause_s=9).fingerprints()


def test_settle_names_exactly_what_differs(tmp_path: Path) -> None:
    fake_recipe().settle(tmp_path)
    fake_recipe(pause_s=1).settle(tmp_path)  # only speed: welcome
    with pytest.raises(SettingsChanged) as caught:
        fake_recipe(guidance=3.0, seed=5).settle(tmp_path)
    assert caught.value.difference == {"paint.guidance": (2.0, 3.0), "seed": (0, 5)}
    assert "\n" not in str(caught.value)


def test_a_change_in_many_steps_is_told_once_and_what_came_or_went_last(tmp_path: Path) -> None:
    def plan(lr: float, extra: int) -> Plan:
        tunes = [Step(f"tune-{n}", TuneClassifier(("a", "b"), lr=lr)) for n in range(extra)]
        return Plan("x", (*fake_recipe().steps, *tunes))

    plan(0.1, 3).settle(tmp_path)
    with pytest.raises(SettingsChanged) as caught:
        plan(0.2, 2).settle(tmp_path)
    said = str(caught.value)
    assert "settings (tune-0.lr: 0.1 -> 0.2, " in said
    assert said.count("0.1 -> 0.2") == 1
    assert said.endswith("more); use another --out or the old settings")
    assert len(said) < 500


def test_settle_sees_nested_settings_and_other_steps(tmp_path: Path) -> None:
    plan = fake_recipe()
    plan.settle(tmp_path)
    with pytest.raises(SettingsChanged) as caught:
        dataclasses.replace(plan, steps=plan.steps[:-1]).settle(tmp_path)
    assert caught.value.difference == {
        "count.stage": ("CountPairs", None),
        "count.where": ("status = 'ok' and brightness > 0", None),
        "count.reads": ("paint, brightness", None),
    }


def test_a_run_goes_on_after_its_stages_gained_fields(tmp_path: Path) -> None:
    tune = TuneClassifier(("a", "b"), on="mixed", shots="taken")
    plan = Plan("x", (*fake_recipe().steps, Step("tune", tune)))
    plan.settle(tmp_path)
    record = json.loads((tmp_path / "plan.json").read_text())
    old = record["steps"][-1]["settings"]
    del old["random_head"], old["tuning"]["label_smoothing"]  # as an earlier version wrote it
    (tmp_path / "plan.json").write_text(json.dumps(record))
    plan.settle(tmp_path)
    for changes in ({"random_head": True}, {"tuning": ClassifierTuning(label_smoothing=0.1)}, {"lr": 1.0}):
        other = dataclasses.replace(plan, steps=(*plan.steps[:-1], Step("tune", dataclasses.replace(tune, **changes))))
        with pytest.raises(SettingsChanged, match=r"tune\."):
            other.settle(tmp_path)


def test_record_is_complete(tmp_path: Path) -> None:
    plan = call_recipe(FAKE, {"count": 9, "guidance": 3.5})
    plan.settle(tmp_path)
    record = read_plan(tmp_path)
    assert record["arguments"]["guidance"] == 3.5
    assert record["arguments"]["per_caption"] == 2  # defaults too
    assert (record["num_captions"], record["num_units"], record["unit_size"]) == (9, 3, 4)
    assert [step["kind"] for step in record["steps"]] == ["captions", "pairs", "columns", "job"]
    assert [step["role"] for step in record["steps"]] == ["source", "paint", "score", "measure"]
    assert record["steps"][1]["per_caption"] == 2
    assert record["steps"][1]["settings"]["speed"] == {"class": "Speed", "pause_s": 0.0}
    assert record["versions"]["python"].startswith("3.")
    assert record["versions"]["torch"]


def test_plan_again_calls_the_same_recipe(tmp_path: Path) -> None:
    plan = call_recipe(FAKE, {"count": 9, "guidance": 3.5, "seed": 7})
    plan.settle(tmp_path)
    assert plan_again(tmp_path).fingerprints() == plan.fingerprints()


def test_damaged_plan_is_said(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_plan(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_plan(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Step("paint", PaintNoise()),), "must be a source"),
        ((Step("a", Sentences()), Step("a", PaintNoise())), "called 'a'"),
        ((Step("a", Sentences()), Step("b", PaintNoise(), inputs=("c",))), "not an earlier step"),
        ((Step("a", Sentences()), Step("b", PaintNoise()), Step("c", PaintNoise())), "one table of pairs"),
        ((Step("a", Sentences()), Step("b", Brightness())), "no earlier step makes pairs"),
        ((Step("a/b", Sentences()),), "names files"),
    ],
)
def test_steps_that_cannot_follow(steps: tuple[Step, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan("bad", steps)


def test_units_cover_the_captions() -> None:
    plan = Plan("p", (Step("a", Sentences(10)),), unit_size=4)
    assert (plan.num_captions, plan.num_units) == (10, 3)
    assert Plan("p", (Step("a", Sentences(8)),), unit_size=4).num_units == 2


def test_unknown_recipe_gets_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean stablerep"):
        find_recipe("stablerp")
    assert "stablerep" in known_recipes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "it has: none"),
        ("from reverie.run.plan import Plan\ndef a() -> Plan: ...\ndef b() -> Plan: ...\n", "it has: a, b"),
        ("def (\n", "cannot be read"),
        ("import no_such_module\n", "cannot be read"),
    ],
)
def test_recipe_file_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        find_recipe(str(path))


def test_recipe_file_may_name_its_function_like_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def mine():\n    return 3\ndef helper() -> int: ...\n")
    with pytest.raises(InputError, match="returned int, not a Plan"):
        call_recipe(str(path), {})
    with pytest.raises(InputError, match="no recipe file"):
        find_recipe(str(tmp_path / "other.py"))


def test_plan_json_is_valid_json_with_paths_in_arguments(tmp_path: Path) -> None:
    plan = dataclasses.replace(fake_recipe(), arguments={"captions": tmp_path / "a b.txt", "seeds": (0, 1)})
    assert json.loads(json.dumps(plan.record()))["arguments"] == {
        "captions": str(tmp_path / "a b.txt"),
        "seeds": [0, 1],
    }


def test_speed_default_equals_given() -> None:
    assert changed(fake_recipe(), "paint", speed=Speed(3)).fingerprints() == fake_recipe().fingerprints()


def test_an_edited_file_is_another_setting(tmp_path: Path) -> None:
    words = tmp_path / "classes.txt"
    words.write_text("cat\ndog\n")

    def plan() -> Plan:
        return Plan(recipe="mine", steps=(Step("captions", FillTemplates(words)),))

    plan().settle(tmp_path)
    plan().settle(tmp_path)  # the same file is no change
    words.write_text("cat\nfox\n")
    with pytest.raises(SettingsChanged, match=r"classes\.txt, content \w{8}' -> .*classes\.txt, content \w{8}"):
        plan().settle(tmp_path)
