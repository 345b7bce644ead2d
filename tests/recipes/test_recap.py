"""The whole line at its smallest, and slips."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image

from reverie.builtin.describer import LearnToDescribe, write_words
from reverie.datasets.human_captions import HumanCaption
from reverie.errors import InputError, ModelError, SettingsChanged
from reverie.learn.describe import TuneAgain, TuneDescriber
from reverie.learn.recaption import RecaptionPairs, RecaptionSeveral
from reverie.learn.text_to_image import TextToImage
from reverie.learn.train_painter import TrainAnew, TrainPainter
from reverie.models.artifacts import find_artifact
from reverie.models.pretrained import load_tensors
from reverie.nets.words import split_words
from reverie.pairs import PAIRS
from reverie.recaption.describe import Describe
from reverie.recaption.mix import Mix
from reverie.recipes.recap import SCALES
from reverie.report.page import write
from reverie.run.columns import add_columns
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.run.preview import preview_of
from reverie.settings import change
from reverie.smallworld.describe import vocabulary
from reverie.smallworld.photos import captioned
from reverie.stage import StepContext
from reverie.store import results, tables
from reverie.store.imports import import_into
from tests.models import tiny
from tests.recaption.conftest import save_captioner
from tests.recaption.test_mix import fill

SMALL: dict[str, Any] = {
    "images": "smallworld:studio:10", "tune_steps": 4, "tune_lora": 0, "tune_captions": 6, "held_out": 2, "base_steps": 2, "train_steps": 2, "batch_size": 4,
    "sampler_steps": 2, "prompts": "smallworld:human:4", "real": "smallworld:studio:6", "features": ("pixels",),
}  # fmt: skip


@pytest.fixture(scope="module")
def describer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The builtin one's kind, untrained."""
    folder = tmp_path_factory.mktemp("describer")
    write_words(folder / "words", split_words(vocabulary()), 256)
    torch.manual_seed(0)
    learner = LearnToDescribe(str(folder / "words"), width=16, eye_layers=1, layers=1, heads=2)
    learner.save(learner.build(), folder / "model")
    return folder / "model"


def bare(folder: Path, **changes: dict[int, Any]) -> Path:
    """Images with alt-text alone."""
    rows = tables.read_unit(fill(folder / "full", **changes) / "pairs.lance", 0, PAIRS.names)
    tables.append_unit(folder / "pairs.lance", 0, rows)
    return folder


def plan(describer: Path, **flags: Any) -> Plan:
    return call_recipe("recap", SMALL | {"captioner": str(describer)} | flags)


@pytest.mark.slow
def test_every_arm_is_trained_on_its_captions_from_one_base_and_measured(describer: Path, tmp_path: Path) -> None:
    assert run(plan(describer, arms=("base", "alt", "mix")), tmp_path / "run")
    folder = tmp_path / "run"
    rows = results.select(results.read(folder / "results.jsonl"), step="generation")
    assert {row.arm for row in rows} == {"base", "alt", "mix"}
    assert {row.factors["mix"] for row in rows} == {"", "alt=1", "long=0.5 short=0.5"}
    assert {"fd:pixels", "soa_c:judge"} <= {row.metric for row in rows}
    pairs = tables.read_unit(folder / "shots" / "photos" / "pairs.lance", 0)
    assert {"text", "caption_short", "caption_long", "caption_long_flags"} <= set(pairs.column_names)
    assert all(text for text in pairs["text"].to_pylist())
    about = json.loads((folder / "weights" / "captioner" / "describer.json").read_text())
    assert (about["captions"], about["held_out"], about["prompts"]["long"]) == (4, 2, "long")
    assert {"hallucinated", "recall", "words", "repetition"} <= about["after"].keys()
    assert (folder / "report.html").exists()
    with pytest.raises(SettingsChanged, match=r"mix"):
        run(plan(describer, arms=("base", "alt", "mix"), mix=("short=0.4", "long=0.6")), folder)


def test_arms_have_the_same_steps_and_differ_in_their_captions_alone(describer: Path) -> None:
    made = plan(describer, seeds=(0, 1))
    painters = {step.name: step.stage for step in made.steps if isinstance(step.stage, TrainPainter)}
    assert list(painters) == ["base", *(f"{arm}-{seed}" for arm in ("alt", "short", "long", "mix") for seed in (0, 1))]
    assert {name: str(stage.mix) for name, stage in painters.items() if name.endswith("-0")} == {
        "alt-0": "alt=1", "short-0": "short=1", "long-0": "long=1", "mix-0": "long=0.5 short=0.5",
    }  # fmt: skip
    arms = [stage for name, stage in painters.items() if name != "base"]
    assert len({dataclasses.replace(stage, mix=None, seed=0) for stage in arms}) == 1
    assert {stage.start for stage in arms} == {"step:base"}
    assert painters["base"].mix == Mix.read(["alt"])


EVERY = ("scratch", "two", "again", "several")


@pytest.fixture(scope="module")
def other(describer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one of the same kind."""
    folder = tmp_path_factory.mktemp("other") / "model"
    torch.manual_seed(1)
    learner = LearnToDescribe(str(describer.parent / "words"), width=16, eye_layers=1, layers=1, heads=2)
    learner.save(learner.build(), folder)
    return folder


@pytest.mark.slow
def test_further_arms_are_trained_on_captions_in_columns_of_their_own(
    describer: Path, other: Path, tmp_path: Path
) -> None:
    flags = {"more_arms": EVERY, "second_captioner": str(other), "per_image": 3, "over_limit": "cut"}
    made = plan(describer, arms=("base", "mix"), **flags)
    folder = tmp_path / "run"
    assert run(made, folder)
    rows = results.select(results.read(folder / "results.jsonl"), step="generation", metric="fd:pixels")
    assert {row.arm for row in rows} == {"base", "mix", *EVERY}
    assert len({row.value for row in rows}) == 6
    assert {"captioner", "captioner-second", "captioner-again"} < {path.name for path in (folder / "weights").iterdir()}
    pairs = tables.read_unit(folder / "shots" / "photos" / "pairs.lance", 0).to_pydict()
    for style in ("short", "long"):
        said = [pairs[f"caption_{style}{end}"] for end in ("", "_second", "_again")]
        assert all(texts[row] for texts in said for row in range(10))
        by = [pairs[f"caption_{style}{end}_by"][0] for end in ("", "_second", "_again")]
        assert len({*by}) == 3
    assert all(len({*texts}) == 3 for texts in pairs["captions_short"])


def test_further_arms_read_what_they_are_about_and_leave_the_others_as_they_are(describer: Path, other: Path) -> None:
    without = plan(describer, seeds=(0, 1))
    made = plan(describer, seeds=(0, 1), more_arms=EVERY, second_captioner=str(other))
    steps = {step.name: step for step in made.steps}
    for step in without.steps:
        if step.name not in ("generation", "page"):
            assert steps[step.name] == step
            assert made.fingerprints()[step.name] == without.fingerprints()[step.name]
    assert [name for name in steps if name not in {step.name for step in without.steps}] == [
        "captioner-second", "recaption-second", "captioner-again", "recaption-again", "recaption-several",
        *(f"{arm}-{seed}" for arm in EVERY for seed in (0, 1)),
    ]  # fmt: skip
    trained = {name: steps[f"{name}-1"].stage for name in ("mix", *EVERY)}
    assert {name: str(stage.mix) for name, stage in trained.items() if isinstance(stage, TrainPainter)} == {
        "mix": "long=0.5 short=0.5", "scratch": "long=0.5 short=0.5", "several": "captions_short=1",
        "two": "caption_long_second=0.25 caption_short_second=0.25 long=0.25 short=0.25",
        "again": "caption_long_again=0.5 caption_short_again=0.5",
    }  # fmt: skip
    like = trained["mix"]
    for name in ("two", "again", "several"):
        assert dataclasses.replace(trained[name], mix=like.mix) == like  # type: ignore[attr-defined, call-arg]
    assert isinstance(trained["scratch"], TrainAnew)
    assert trained["scratch"].start == "builtin:painter-alt"  # and not step:base, whose network is the same
    assert trained["scratch"].fit == like.fit  # type: ignore[attr-defined]
    assert steps["two-0"].inputs == ("recaption", "base", "recaption-second")
    assert steps["again-0"].inputs == ("recaption", "base", "recaption-again")
    again, second = steps["captioner-again"].stage, steps["captioner-second"].stage
    assert isinstance(again, TuneAgain)
    assert (again.captioner, again.first) == (str(describer), "step:captioner")
    assert isinstance(second, TuneDescriber)
    assert second.captioner == str(other)
    lora = plan(describer, more_arms=("scratch",), lora=4, train_parts="unet").step("scratch-0").stage
    assert (lora.lora, lora.parts) == (0, "both")  # type: ignore[union-attr]


def test_captions_that_nobody_tells_apart_keep_their_shares(describer: Path, tmp_path: Path) -> None:
    one = save_captioner(tmp_path / "captioner")
    config = change(SCALES["tiny"], captioner=str(describer), second_captioner=str(one))
    mixes = {
        mix: {kind: str(change(config, mix=mix).mix_of(kind)) for kind in ("two", "again")}  # type: ignore[arg-type]
        for mix in (("alt=0.2", "short=0.4", "long=0.4"), ("short",))
    }
    assert mixes == {
        ("alt=0.2", "short=0.4", "long=0.4"): {
            "two": "alt=0.2 caption_short_second=0.4 long=0.2 short=0.2",  # the second says short ones alone
            "again": "alt=0.2 caption_long_again=0.4 caption_short_again=0.4",
        },
        ("short",): {"two": "caption_short_second=0.5 short=0.5", "again": "caption_short_again=1"},
    }  # fmt: skip


def test_a_run_of_before_gets_further_arms_and_keeps_what_it_did(describer: Path, tmp_path: Path) -> None:
    before, now = plan(describer), plan(describer, more_arms=("scratch", "several"))
    assert now.goes_on_from(before)


def test_several_short_captions_of_an_image_stand_in_a_list(describer: Path, tmp_path: Path) -> None:
    folder = bare(tmp_path / "store", image={3: b"no picture"})
    job = RecaptionSeveral(str(describer), folder, count=3)
    job.check()
    job.run(StepContext(tmp_path / "run", "recaption-several"))
    rows = tables.read_unit(folder / "pairs.lance", 0).sort_by("text").to_pylist()
    for row in rows:
        said, by, flags = (row[f"captions_short{end}"] for end in ("", "_by", "_flags"))
        if row["text"] == "IMG_3.JPG":
            assert (said, by, flags) == (None, None, None)
        else:
            assert len({*said}) == 3  # each from a seed of its own
            assert by.endswith(", short")
            assert flags == sorted({*flags})
    drawn = {Mix.read(["captions_short"]).draw(rows[0], seed) for seed in range(50)}
    assert drawn == {*rows[0]["captions_short"]}


def test_of_the_captioners_of_a_run_the_first_is_meant(tmp_path: Path) -> None:
    for name in ("captioner-again", "captioner-second", "captioner"):
        (tmp_path / "weights" / name).mkdir(parents=True)
        (tmp_path / "weights" / name / "describer.json").write_text("{}")
    assert find_artifact("describer", tmp_path) == tmp_path / "weights" / "captioner"


def test_a_second_round_learns_as_many_of_its_own_captions_without_flags(tmp_path: Path) -> None:
    good = bare(tmp_path / "store")
    more = tables.read_unit(
        fill(tmp_path / "full") / "pairs.lance", 0, ["pair_id", "unit", "caption_short", "caption_long"]
    )
    names = more["pair_id"].to_pylist()
    flags = pa.array([["repetition"] if number == 5 else [] for number in range(12)], pa.list_(pa.string()))
    for style in ("short", "long"):
        more = more.append_column(f"caption_{style}_flags", flags)
    tables.append_unit(tmp_path / "more.lance", 0, more)
    tables.add_columns(good / "pairs.lance", tmp_path / "more.lance")
    captions = [HumanCaption(names[number], f"a person's {number}") for number in range(4)]
    told: list[str] = []
    context = StepContext(tmp_path, "captioner-again", report=lambda kind, **facts: told.append(facts["text"]))
    job = TuneAgain(store=good)
    own = job._own_captions(context, captions, captions[:3])
    assert len(own) == 3
    assert {each.style for each in own} == {"long"}  # as people's
    assert all(each.text == f"long {names.index(each.image_id)}" for each in own)
    assert own == job._own_captions(context, captions, captions[:3])
    assert not told
    many = job._own_captions(context, captions, [*captions, *captions, *captions])
    assert sorted(names.index(each.image_id) for each in many) == [4, 6, 7, 8, 9, 10, 11]  # nobody's, and not flagged
    assert told == [
        "the captioner has 7 captions of its own without flags for the 12 of people that it is tuned on again"
    ]


def test_a_painter_begins_anew_from_random_weights_and_keeps_what_its_latents_and_words_come_of(tmp_path: Path) -> None:
    from tests.images.pipelines import save

    start = save("sd", tmp_path / "sd")
    learner = TrainAnew(start=str(start))._further()
    learner.check()
    net, like = learner.build(), TextToImage(start=str(start)).build()
    weights, old = dict(net.named_parameters()), dict(like.named_parameters())
    assert {name: each.shape for name, each in weights.items()} == {name: each.shape for name, each in old.items()}
    assert all(each.requires_grad for each in weights.values())
    drawn = [name for name in weights if name.endswith("q_proj.weight") or name.endswith("to_q.weight")]
    assert {name.split(".")[0] for name in drawn} == {"unet", "text_encoder"}
    assert not any(torch.equal(weights[name], old[name]) for name in drawn)
    learner.save(net, tmp_path / "made")
    for part in (
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    ):
        assert (tmp_path / "made" / part).exists(), part
    kept = [
        load_tensors(folder / "vae" / "diffusion_pytorch_model.safetensors") for folder in (start, tmp_path / "made")
    ]
    assert all(torch.equal(each, kept[1][name]) for name, each in kept[0].items())
    with pytest.raises(InputError, match="all of a network learns"):
        TrainAnew(start=str(start), lora=4)


def test_a_network_that_cannot_be_begun_anew_is_told_before_any_work(describer: Path, tmp_path: Path) -> None:
    from tests.images.pipelines import save

    painter = save("sdxl", tmp_path / "sdxl")
    flags = {"painter": str(painter), "prompts": None, "base_steps": 0}
    plan(describer, **flags)
    with pytest.raises(
        ModelError,
        match="is a StableDiffusionXLPipeline, which is not trained from random weights here; leave scratch out",
    ):
        plan(describer, more_arms=("scratch",), **flags)


def test_several_captions_are_asked_of_who_can_say_several(describer: Path, tmp_path: Path) -> None:
    one = str(save_captioner(tmp_path / "captioner"))
    with pytest.raises(InputError, match="says one sentence of an image, and not 4; name another"):
        plan(Path(one), arms=("short",), more_arms=("several",), base_steps=0)
    with pytest.raises(
        InputError,
        match="says one sentence and no long one, which scratch would read; give --arms short and another --mix",
    ):
        plan(Path(one), arms=("short",), more_arms=("scratch",), base_steps=0)
    with pytest.raises(InputError, match="says one sentence and no long one, which two would read"):
        plan(describer, more_arms=("two",), second_captioner=one, mix=("long",))


def test_a_public_captioner_learns_beside_its_weights(describer: Path) -> None:
    def tuned(**flags: Any) -> tuple[int, int]:
        stage = call_recipe("recap", flags).step("captioner").stage
        assert isinstance(stage, TuneDescriber)
        return stage.steps, stage.lora

    assert tuned() == (100, 0)
    assert tuned(captioner=str(describer)) == (300, 16)
    assert tuned(captioner=str(describer), tune_steps=50, tune_lora=0) == (50, 0)
    assert tuned(captioner=str(describer), scale="small") == (300, 16)


def test_the_default_painter_is_one_that_knows_alt_text_alone() -> None:
    for scale in ("tiny", "small"):
        made = call_recipe("recap", {"scale": scale})
        painters = [step.stage for step in made.steps if isinstance(step.stage, TrainPainter)]
        assert {stage.start for stage in painters} == {"builtin:painter-alt"}
        assert "base" not in [step.name for step in made.steps]


def test_images_of_ones_own_need_no_text_where_nothing_is_learned_from_it(describer: Path, tmp_path: Path) -> None:
    folder = bare(tmp_path, text=dict.fromkeys(range(12)))
    human = tmp_path / "captions.jsonl"
    human.write_text(
        "".join(json.dumps({"pair_id": f"p{number}", "text": "a red circle"}) + "\n" for number in range(9))
    )
    flags = {"images": str(folder), "human_": human}
    for asked, told in (
        ({"base_steps": 2}, r"from alt-text; give --base-steps 0"),
        ({"arms": ("alt", "mix"), "base_steps": 2}, r"leave alt out of --arms and give --base-steps 0"),
        (
            {"arms": ("alt", "mix"), "mix": ("alt=0.5", "long=0.5")},
            r"leave alt out of --arms and --mix$",
        ),
    ):
        with pytest.raises(InputError, match=rf"no image of .* has a text, .*{told}"):
            plan(describer, **{"base_steps": 0} | flags | asked)
    made = plan(describer, base_steps=0, **flags)
    assert [step.name for step in made.steps] == [
        "captioner", "recaption", "short-0", "long-0", "mix-0", "generation", "page",
    ]  # fmt: skip
    made = plan(describer, arms=("base", "short", "mix"), base_steps=0, **flags)
    assert [step.name for step in made.steps] == ["captioner", "recaption", "short-0", "mix-0", "generation", "page"]
    asis = plan(describer, arms=("base", "short"), base_steps=0, images=str(folder))
    assert [step.name for step in asis.steps] == ["recaption", "short-0", "generation", "page"]


def imported(folder: Path, texts: list[str | None]) -> Path:
    """Pictures of the small world, with these texts, as a person has them."""
    pictures, _ = captioned(len(texts), "studio", 7)
    (folder / "photos").mkdir(parents=True)
    rows = []
    for number, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        Image.fromarray(picture).save(folder / "photos" / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": text})
    if any(texts):
        (folder / "photos" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_into(folder / "photos", folder / "store", **{"without_text": "keep"} if any(texts) else {})
    return folder / "store"


def warnings(folder: Path) -> set[str]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return {line["text"] for line in lines if line["kind"] == "warning"}


@pytest.mark.slow
def test_images_of_which_nobody_said_anything_teach_a_painter(describer: Path, tmp_path: Path) -> None:
    alone = imported(tmp_path / "alone", [None] * 8)
    flags = {"base_steps": 0, "prompts": None, "over_limit": "cut"}  # an untrained captioner never stops
    assert run(plan(describer, images=str(alone), **flags), tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a" / "weights").iterdir()) == ["long-0", "mix-0", "short-0"]
    rows = tables.read_unit(alone / "pairs.lance", 0).to_pylist()
    assert all(row["text"] is None and row["caption_short"] and row["caption_long"] for row in rows)
    assert not [text for text in warnings(tmp_path / "a") if "left out" in text]
    some = imported(tmp_path / "some", ["IMG_1.JPG", None] * 5)
    assert run(plan(describer, images=str(some), arms=("alt", "mix"), **flags), tmp_path / "b")
    left_out = {text for text in warnings(tmp_path / "b") if "left out" in text}
    assert left_out == {"5 pairs have no caption of the mix (alt=1) and are left out"}
    assert "5 pairs have no caption of the mix" in (tmp_path / "b" / "report.html").read_text()


def test_a_preview_describes_some_images_and_leaves_the_store_as_it_is(describer: Path, tmp_path: Path) -> None:
    folder = bare(tmp_path / "store", text={1: None})
    columns = tables.column_names(folder / "pairs.lance")
    small = preview_of(plan(describer, arms=("base", "short"), base_steps=0, images=str(folder)), 4)
    assert [step.name for step in small.steps] == ["recaption"]
    assert run(small, tmp_path / "run")
    rows = tables.read_unit(tmp_path / "run" / "pairs.lance", 0)
    assert [text.split(";")[0] for text in rows["text"].to_pylist()] == [f"alt-text: IMG_{i}.JPG" for i in (0, 3, 6, 9)]
    assert all("; short: " in text and "; long: " in text for text in rows["text"].to_pylist())
    assert "alt-text: IMG_3.JPG" in write(tmp_path / "run").read_text()
    assert tables.column_names(folder / "pairs.lance") == columns
    assert [path.name for path in folder.iterdir() if path.name != "full"] == ["pairs.lance"]
    with pytest.raises(InputError, match=r"recap has nothing to look at before its trainings"):
        preview_of(plan(describer), 4)


def test_captions_that_another_captioner_wrote_are_told_before_any_work(describer: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has a column 'caption_short' already, which is not overwritten"):
        plan(describer, arms=("base", "short"), base_steps=0, images=str(fill(tmp_path / "taken")))
    flags = {"arms": ("base", "short"), "base_steps": 0, "images": str(bare(tmp_path / "store")), "prompts": None}
    tuned = shutil.copytree(describer, tmp_path / "tuned")
    (tuned / "describer.json").write_text(json.dumps({"prompts": {"short": "short", "long": "long"}}))
    own = next(step.stage for step in plan(tuned, **flags).steps if step.name == "recaption")
    assert isinstance(own, RecaptionPairs)
    own.run(StepContext(tmp_path / "run", "recaption"))
    plan(shutil.copytree(tuned, tmp_path / "moved"), **flags)  # the same weights elsewhere are the same captioner
    with pytest.raises(
        InputError, match=r"in caption_short that were written before with another captioner.*; learn from these"
    ):
        plan(Path("builtin:describer"), **flags)


def test_captions_that_the_tuned_captioner_cannot_have_written_are_told_before_it_is_tuned(
    describer: Path, tmp_path: Path
) -> None:
    human = tmp_path / "captions.jsonl"
    human.write_text("".join(json.dumps({"pair_id": f"p{n}", "text": "a red circle"}) + "\n" for n in range(9)))
    flags = {"arms": ("base", "short"), "base_steps": 0, "human_": human, "prompts": None}
    with pytest.raises(
        InputError, match=r"has a column 'caption_short' already.*; learn from these .*or import the images"
    ):
        plan(describer, images=str(fill(tmp_path / "taken")), **flags)
    other = bare(tmp_path / "other")
    add_columns(other, Describe(str(describer), "caption_short"), "recaption-caption_short")
    with pytest.raises(InputError, match=rf"another captioner; .*\(--captioner {describer}, without --human\)"):
        plan(describer, images=str(other), **flags)
    # A run that was told the same may be this one; one that was told something else is not.
    images, earlier = str(bare(tmp_path / "store")), tmp_path / "earlier"
    earlier.mkdir()
    plan(describer, images=images, **flags).settle(earlier)
    weights = shutil.copytree(describer, earlier / "weights" / "captioner")
    (weights / "describer.json").write_text(json.dumps({"prompts": {"short": "short", "long": "long"}}))
    counted = {"count_tokens_by": "builtin:painter-alt"}
    add_columns(Path(images), Describe(str(weights), "caption_short", **counted), "recaption-caption_short")
    plan(describer, images=images, **flags)
    for other in ({"tune_steps": 5}, {"seed": 1}):
        with pytest.raises(InputError, match=r"written before with another captioner; learn from these"):
            plan(describer, images=images, **flags | other)
    earlier.rename(tmp_path / "moved")  # whose it is, its weights tell
    plan(describer, images=images, **flags | {"tune_steps": 5})


def test_captions_whose_tokens_were_counted_by_another_are_taken(describer: Path, tmp_path: Path) -> None:
    flags = {"arms": ("base", "short"), "base_steps": 0, "images": str(bare(tmp_path / "store")), "prompts": None}
    for style in ("short", "long"):  # as reverie recaption does where nothing more is said
        add_columns(
            tmp_path / "store", Describe(str(describer), f"caption_{style}", style=style), f"recaption-caption_{style}"
        )
    own = next(step.stage for step in plan(describer, **flags).steps if step.name == "recaption")
    assert isinstance(own, RecaptionPairs)
    assert own.count_tokens_by == "builtin:painter-alt"
    told: list[str] = []
    own.run(
        StepContext(tmp_path / "run", "recaption", report=lambda kind, **facts: told.append(facts.get("text", kind)))
    )
    assert [text.rpartition(", ")[2] for text in told if "images have" in text] == ["0 of them now"] * 2
    about = json.loads((tmp_path / "store" / "columns" / "recaption-caption_short.json").read_text())
    assert about["settings"]["count_tokens_by"] == ""
    shorter = Describe(str(describer), "caption_short", max_tokens=6)
    add_columns(bare(tmp_path / "other"), shorter, "recaption-caption_short")
    with pytest.raises(InputError, match=r"were written before with another max_tokens; learn from these"):
        plan(describer, **flags | {"images": str(tmp_path / "other")})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"captioner": "builtin:writer"}, "builtin:writer is a language model .* and cannot say what it sees"),
        ({"mix": ("short=0.5", "long=0.4")}, "add up to 0.9, and must add up to 1"),
        (
            {"tune_captions": 2},
            "--tune-captions 2 human captions are drawn, and --held-out 2 of them are not learned from",
        ),
        ({"images": "nowhere"}, "nowhere holds no pairs.lance"),
        ({"arms": ("base",)}, "--arms base alone trains nothing"),
        ({"text_lr": 1e-4, "train_parts": "unet"}, "which they do not with --train-parts unet"),
        ({"ema": 1.0}, r"--ema 1.0: give a number from 0 to below 1"),
        ({"lora": -1}, "--lora -1: give 0 or more"),
        ({"scale": "paper", "images": "smallworld:studio:10"}, "--scale paper needs images of your own"),
        ({"captioner": None}, "name a captioner"),
        ({"more_arms": ("two",)}, "mixes the captions of two captioners; name the other: --second-captioner NAME"),
        (
            {"second_captioner": "builtin:describer"},
            "--second-captioner says nothing here: it belongs to --more-arms two",
        ),
        ({"more_arms": ("two",), "second_captioner": "builtin:writer"}, "builtin:writer is a language model"),
        (
            {"more_arms": ("two",), "captioner": "builtin:describer", "second_captioner": "builtin:describer"},
            "is --captioner too; name another",
        ),
        (
            {"more_arms": ("two", "again"), "second_captioner": "builtin:describer", "mix": ("alt",)},
            "--more-arms two again: --mix alt has neither short",
        ),
        ({"per_image": 2}, "--per-image says nothing here: it belongs to --more-arms several"),
        ({"more_arms": ("several",), "per_image": 0}, "--per-image 0: give 1 or more"),
        (
            {"more_arms": ("again",), "captioner": "openai:m@http://localhost:1"},
            "--more-arms again tunes the captioner a second time, and openai:",
        ),
        ({"more_arms": ("again", "again")}, "--more-arms again again names one twice"),
    ],
)
def test_a_slip_is_one_line_before_any_work(describer: Path, flags: dict[str, Any], told: str) -> None:
    with pytest.raises((InputError, ModelError), match=told):
        plan(describer, **flags)


def test_a_store_without_a_picture_is_told_before_any_work(describer: Path, tmp_path: Path) -> None:
    folder = bare(tmp_path / "store", status=dict.fromkeys(range(12), "failed"))
    flags = {"arms": ("base", "short"), "base_steps": 0, "images": str(folder)}
    with pytest.raises(
        InputError, match=r"is usable, so there is nothing to look at; import pictures that can be read"
    ):
        plan(describer, **flags)
    (folder / "plan.json").write_text("{}")
    with pytest.raises(InputError, match=rf"; make failed ones again: reverie retry {folder}$"):
        plan(describer, **flags)


def test_columns_of_the_mix_that_nobody_writes_are_told_before_any_work(describer: Path, tmp_path: Path) -> None:
    folder = bare(tmp_path / "store")
    flags = {"arms": ("base", "mix"), "base_steps": 0, "images": str(folder)}
    for words in (("short=0.5", "tags=0.5"), ("tags",), ("caption_short_by",)):
        with pytest.raises(
            InputError, match=rf"has no column '{words[-1].split('=')[0]}' .*columns of texts are none, and alt"
        ):
            plan(describer, mix=words, **flags)
    rows = tables.read_unit(folder / "pairs.lance", 0, ["pair_id", "unit"])
    tables.append_unit(tmp_path / "tags.lance", 0, rows.append_column("tags", pa.array(["a"] + [""] * (len(rows) - 1))))
    tables.add_columns(folder / "pairs.lance", tmp_path / "tags.lance")
    plan(describer, mix=("short=0.3", "caption_long=0.3", "tags=0.2", "alt=0.2"), **flags)
    plan(describer, mix=("else",), **flags | {"arms": ("base", "short")})  # no arm reads it
    with pytest.raises(
        InputError, match=r"images of the small world have no column 'tags'; it may read alt, short and long"
    ):
        plan(describer, mix=("short=0.5", "tags=0.5"))


def test_too_few_human_captions_are_told_before_any_work(describer: Path, tmp_path: Path) -> None:
    human = tmp_path / "captions.jsonl"
    human.write_text(json.dumps({"image": "1.png", "text": "a red circle"}) + "\n")
    with pytest.raises(InputError, match="has captions of 1 image, and 2 are held out to choose the best by"):
        plan(describer, human_=human)


def test_a_public_painter_is_taken_as_it_is(describer: Path, tmp_path: Path) -> None:
    from tests.images.pipelines import save

    painter = save("sd", tmp_path / "sd")
    made = plan(describer, painter=str(painter), images=str(bare(tmp_path / "store")), base_steps=0, prompts=None)
    stages = {step.name: step.stage for step in made.steps}
    assert "base" not in stages
    assert "generation" not in stages
    mix = stages["mix-0"]
    assert isinstance(mix, TrainPainter)
    assert mix.start == str(painter)
    assert SCALES["paper"].paint.painter.startswith("stable-diffusion")
    with pytest.raises(ModelError, match="is an encoder"):
        plan(describer, painter=str(painter), captioner=str(tiny.save_clip(tmp_path / "clip")))
