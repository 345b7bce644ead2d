from collections import Counter

import pytest

from reverie.captions.classes import templates_of
from reverie.captions.templates import FillTemplates
from reverie.errors import InputError
from reverie.library import recipe
from reverie.pairs import CAPTIONS
from tests.captions.conftest import units_of


def test_every_combination_once_and_evenly(context):
    stage = FillTemplates(("cat", "dog", "emu"), ("a {class}", "the {class}", "my {class}"), per_class=2)
    units = units_of(stage, context, unit_size=4)
    assert [len(unit) for unit in units] == [4, 2]
    assert all(unit.schema == CAPTIONS for unit in units)
    rows = [row for unit in units for row in unit.to_pylist()]
    assert Counter(row["label"] for row in rows) == {"cat": 2, "dog": 2, "emu": 2}
    assert len({row["text"] for row in rows}) == len({row["caption_id"] for row in rows}) == 6
    assert {row["prompt"] for row in rows[:3]} == set(stage.templates)  # one turn uses different templates
    assert all(row["text"] == row["prompt"].replace("{class}", row["label"]) and row["status"] == "ok" for row in rows)


def test_a_unit_does_not_depend_on_the_others(context):
    stage = FillTemplates(("cat", "dog"), ("a {class}", "the {class}"), per_class=2)
    small, large = units_of(stage, context, 1), units_of(stage, context, 4)
    assert [row["caption_id"] for unit in small for row in unit.to_pylist()] == large[0]["caption_id"].to_pylist()


def test_more_asked_than_there_are_is_said(context):
    stage = FillTemplates(("cat", "dog"), ("a {class}",), per_class=5)
    assert stage.count == 2
    stage.open(context)
    assert [kind for kind, _ in context.report] == ["warning"]
    assert "making 2 captions in all" in context.report[0][1]["text"]


def test_templates_repeat_where_that_is_asked_and_in_equal_numbers(context):
    stage = FillTemplates(("cat", "dog"), ("a {class}", "the {class}", "my {class}"), per_class=7, repeat=True)
    assert (stage.count, stage.num_templates) == (14, 3)
    rows = [row for unit in units_of(stage, context, 5) for row in unit.to_pylist()]
    assert Counter(row["label"] for row in rows) == {"cat": 7, "dog": 7}
    for label in ("cat", "dog"):
        assert sorted(Counter(row["prompt"] for row in rows if row["label"] == label).values()) == [2, 2, 3]
    assert len({row["caption_id"] for row in rows}) == 14, "so that images of one template differ"
    assert {row["status"] for row in rows} == {"ok"}
    assert not context.report


def test_files(tmp_path, context):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "templates.txt").write_text("a {class}\nthe {class}\n")
    stage = FillTemplates(tmp_path / "classes.txt", tmp_path / "templates.txt", per_class=2)
    assert stage.count == 4


def test_a_context_is_put_around_what_does_not_say_it_already(context):
    own = ("{class} in winter", "a satellite photo of {class}.", "a satellite photo of a {class}, a type of land")
    stage = FillTemplates(("forest",), own, per_class=3, context="a satellite photo of {caption}, a type of land")
    (unit,) = units_of(stage, context, unit_size=3)
    assert sorted(unit["text"].to_pylist()) == [
        "a satellite photo of a forest, a type of land",
        "a satellite photo of forest in winter, a type of land",
        "a satellite photo of forest, a type of land",
    ]
    assert set(unit["prompt"].to_pylist()) == set(own)
    with pytest.raises(InputError, match=r"must hold \{caption\} once"):
        FillTemplates(("forest",), context="a satellite photo")


@pytest.mark.parametrize(
    ("templates", "message"),
    [((), "no templates"), (("a cat",), r"has no \{class\}"), (("a {class}", "a {class}"), "given twice")],
)
def test_bad_templates(templates, message):
    with pytest.raises(InputError, match=message):
        _ = FillTemplates(("cat",), templates).count


def test_bad_class_list():
    with pytest.raises(InputError, match="twice"):
        _ = FillTemplates(("cat", "cat")).count


def test_what_templates_names(tmp_path):
    assert templates_of("a {class}, outdoors/indoors") == ("a {class}, outdoors/indoors",)
    assert templates_of(str(tmp_path / "some.txt")) == templates_of(tmp_path / "some.txt") == tmp_path / "some.txt"
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    sentence = recipe("make", templates="a {class} here", classes=tmp_path / "classes.txt", per_class=1)
    assert sentence.step("captions").stage.templates == ("a {class} here",)
    with pytest.raises(InputError, match="no-such"):
        recipe("make", templates="no-such.txt")
