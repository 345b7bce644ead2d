from pathlib import Path
from typing import Any

import pytest

from reverie.errors import InputError
from reverie.recipes.options import clip_default, clip_for
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.store import tables


def make(**flags: Any) -> Plan:
    return call_recipe("make", flags)


def test_without_clip_there_is_no_score() -> None:
    plan = make(painter="owner/painter")
    assert [step.name for step in plan.steps] == ["captions", "paint", "blank", "hash", "duplicates", "keep"]
    plan = make(painter="owner/painter", clip="owner/clip")
    assert plan.steps[2].name == "clip_score"


def test_duplicates_may_stay() -> None:
    plan = make(painter="owner/painter", duplicates=False)
    assert [step.name for step in plan.steps] == ["captions", "paint", "blank", "keep"]
    assert plan.steps[-1].inputs == ("blank",)
    assert plan.steps[-1].stage.rule == "status = 'ok' and blank = false"  # type: ignore[attr-defined]
    plan = make(painter="owner/painter", duplicates=False, keep="width > 100")
    assert plan.steps[-1].stage.rule == "width > 100"  # type: ignore[attr-defined]


def test_batch_is_speed_only(tmp_path: Path) -> None:
    plans = [make(painter="owner/painter", paint_batch=batch).fingerprints() for batch in (1, 64)]
    assert plans[0] == plans[1]


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a dog\na cat\n")
    (tmp_path / "classes.txt").write_text("dog\n")
    flags = {"painter": "owner/painter"}
    assert make(captions=tmp_path / "captions.txt", **flags).num_captions == 2
    assert make(captions=tmp_path / "captions.txt", limit=1, **flags).num_captions == 1
    templates = make(classes=tmp_path / "classes.txt", per_class=3, **flags)
    assert (templates.num_captions, type(templates.steps[0].stage).__name__) == (3, "FillTemplates")
    asked = make(classes=tmp_path / "classes.txt", writer="owner/writer", per_class=30, **flags)
    assert (asked.num_captions, type(asked.steps[0].stage).__name__) == (30, "AskWriter")
    assert make(per_class=1, **flags).num_captions == 64
    with pytest.raises(InputError, match=r"belongs? to a file"):
        make(text_column="text", **flags)


def test_sentences_of_a_word_to_sentence_model(tmp_path: Path) -> None:
    flags = {"painter": "owner/painter"}
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    (tmp_path / "also.json").write_text('{"dog": ["hound"]}')
    plan = make(
        classes=tmp_path / "classes.txt", words="owner/t5", synonyms=tmp_path / "also.json", per_class=30, **flags
    )
    assert (plan.num_captions, type(plan.steps[0].stage).__name__) == (60, "WordToSentence")
    plan = make(words="builtin:words", around="a photo of {caption}", per_class=2, **flags)
    assert (plan.num_captions, plan.steps[0].stage.context) == (128, "a photo of {caption}")
    with pytest.raises(InputError, match="give --writer or --words, not both"):
        make(words="owner/t5", writer="owner/writer", **flags)
    with pytest.raises(InputError, match="belong to the sentences of --words"):
        make(synonyms=tmp_path / "also.json", **flags)
    with pytest.raises(InputError, match="builtin:words knows the classes of the small world only, not 'cat'"):
        make(classes=tmp_path / "classes.txt", words="builtin:words", **flags)
    with pytest.raises(InputError, match=r"must hold \{caption\} once"):
        make(words="builtin:words", around="a photo", **flags)
    (tmp_path / "also.json").write_text('{"bird": ["hound"]}')
    with pytest.raises(InputError, match=r"unknown class in also.json 'bird'"):
        make(classes=tmp_path / "classes.txt", words="owner/t5", synonyms=tmp_path / "also.json", **flags)


def test_the_builtin_clip_is_for_the_builtin_painter() -> None:
    with pytest.raises(InputError, match="small world only"):
        clip_for("owner/painter", "builtin:clip")
    assert clip_default("owner/painter", "builtin:clip") is None
    assert clip_default("builtin:painter", "builtin:clip") == "builtin:clip"
    with pytest.raises(InputError, match="small world only"):
        make(painter="owner/painter", clip="builtin:clip")


def test_make_with_the_builtin_painter(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red circle\na blue square on a white background\n")
    plan = make(captions=tmp_path / "captions.txt", per_caption=2, sampler_steps=2)
    assert run(plan, tmp_path / "run", part=(1, 1)) is True
    assert tables.verify(tmp_path / "run", per_caption=2) == []
    assert {"clip_score", "blank", "hash", "duplicate_of", "kept"} <= set(
        tables.column_names(tmp_path / "run" / "pairs.lance")
    )


@pytest.mark.parametrize(
    "flag", ["per_class", "unit_size", "per_caption", "sampler_steps", "paint_px", "store_px", "paint_batch"]
)
@pytest.mark.parametrize("number", [0, -8])
def test_a_number_below_its_range_is_told_by_its_flag(flag: str, number: int) -> None:
    with pytest.raises(InputError, match=f"^--{flag.replace('_', '-')} {number}: give 1 or more$"):
        make(**{flag: number})


@pytest.mark.parametrize("flag", ["paint_px", "store_px"])
def test_pictures_that_could_not_be_read_again_are_not_painted(flag: str) -> None:
    make(**{flag: 8000})
    with pytest.raises(InputError, match="100,000 pixels a side are more than can be read again; give 8,000 or less"):
        make(**{flag: 100_000})
