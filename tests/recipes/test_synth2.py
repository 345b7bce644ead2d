"""The whole line at its smallest, what a person does with its result, and slips."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from transformers import AutoTokenizer

import reverie
from reverie import pairs
from reverie.cli.main import main
from reverie.datasets.captioned import load_captioned
from reverie.errors import InputError
from reverie.learn.human_pairs import TokenizePairs, chosen_pairs
from reverie.learn.manifest import Manifest, write_manifest
from reverie.models.tokenizer import open_tokenizer
from reverie.recipes.synth2 import SCALES, Synth2Config
from reverie.report.terminal import table
from reverie.run.engine import run
from reverie.run.plan import call_recipe
from reverie.settings import helps
from reverie.show.gallery import Gallery
from reverie.stage import StepContext
from reverie.store import results, tables
from reverie.store.pictures import as_png
from tests.models import tiny

SMALL: dict[str, Any] = {
    "pairs": "smallworld:street:24", "per_class": 4, "min_words": 3, "token_px": 16, "codes": 16, "tokenizer_channels": (8, 8, 8),
    "tokenizer_steps": 3, "tokenizer_batch": 4, "painter_width": 24, "painter_layers": 1, "painter_steps": 3, "painter_batch": 4,
    "sampler_steps": 2, "language_width": 16, "language_layers": 1, "language_steps": 3, "look_width": 16, "look_heads": 2, "look_layers": 1,
    "latents": 2, "max_tokens": 12, "batch_size": 4, "train_steps": 4, "eval_data": "smallworld:street:6", "rho": (0.5, 1.0), "unit_size": 8,
    "spice": "off", "beams": 2, "cost_steps": 0,
}  # fmt: skip
ARMS = ("painted-0.5", "human", "human-as-0.5", "painted-1")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("classes") / "classes.txt"
    file.write_text("red circle\nblue square\ngreen star\nyellow triangle\n")
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, classes: Path) -> Path:
    folder = tmp_path_factory.mktemp("synth2") / "run"
    assert run(call_recipe("synth2", SMALL | {"classes": classes}), folder)
    return folder


def small(**flags: Any) -> dict[str, Any]:
    """Settings of this size, without those of what is not trained."""
    idle = set()
    if flags.get("token_painter") or flags.get("tokenizer"):
        idle |= {"codes", "tokenizer_channels", "tokenizer_steps", "tokenizer_batch"}
    if flags.get("token_painter"):
        idle |= {"painter_width", "painter_layers", "painter_steps"}
    if flags.get("language_model"):
        idle |= {"language_width", "language_layers", "language_steps"}
    if flags.get("ask_about"):
        idle |= {"min_words"}
    return {name: value for name, value in SMALL.items() if name not in idle - set(flags)} | flags


def words(out: Path, **flags: Any) -> list[str]:
    """The command line of a run of this size."""
    told: list[str] = []
    for name, value in small(**flags).items():
        told += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return ["run", "synth2", *told, "--device", "cpu", "--out", str(out)]


def say(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return int(ended.value.code or 0)


def trained(folder: Path, step: str) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "weights" / step / "captioner.json").read_text())
    return about


def test_every_arm_is_measured_and_every_record_says_that_it_is_controlled(finished: Path) -> None:
    rows = results.select(results.read(finished / "results.jsonl"), step="measure")
    for metric in ("cider_d", "cider_d_beam", "slot_f1", "bleu4"):
        assert [row.arm for row in rows if row.metric == metric] == list(ARMS)
    assert {row.details["control"].split(":")[0] for row in rows} == {"controlled"}
    assert {row.arm for row in rows if "painted ones alone" in row.details["control"]} == {"painted-1"}
    manifests = [
        json.loads((finished / "weights" / step / "manifest.json").read_text()) for step in ("painter", "human-0")
    ]
    assert manifests[0] == manifests[1]
    assert manifests[0]["pairs"] == 24


def test_a_rival_sees_as_many_human_pairs_and_another_makes_as_many_steps(finished: Path) -> None:
    told = {
        step: trained(finished, step)["trained"] for step in ("captioner", "human-0", "human-as-0.5-0", "painted-1-0")
    }
    seen = {step: (each["steps"], each["real_seen"], each["painted_seen"]) for step, each in told.items()}
    assert seen == {
        "captioner": (4, 8, 8),
        "human-0": (4, 16, 0),
        "human-as-0.5-0": (2, 8, 0),
        "painted-1-0": (4, 0, 16),
    }


def test_no_pixel_is_stored_and_the_page_decodes_tokens_and_tells_both_comparisons(finished: Path) -> None:
    for path in (finished / "pairs.lance", finished / "shots" / "human" / "pairs.lance"):
        assert tables.count(path, "status = 'ok' and tokens is not null and image is null") == tables.count(path) > 0
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "not complete" not in page
    first = page[page.index("<h1>") : page.index("</h1>")]
    for text in (
        "Captions of 6 unseen photos have CIDEr-D",
        "with 50 % of every batch painted;",
        "with human pairs alone in as many steps and",
        "as many of them seen.",
    ):
        assert text in first
    assert "rival saw 8 human pairs, this 8" in page
    assert re.search(r"\d\.\d% of what was written did not name its class", page)
    assert "<td>names_class</td>" in page
    assert not re.search("<td>(second|scene|scenes|glosses)</td>", page)  # the builtin writer knows none of them
    assert "tags that were seen" not in page  # no captioner of this run sees tags
    assert table(finished).columns[0].header == "captioner"
    part = page[page.index("Painted pairs beside human ones") : page.index("Photos and what is said of them")]
    for text in (
        "<b>CONTROLLED</b>: painter and captioner learned from the same 24 pairs", "at equal steps", "at equal sights of human pairs",
        "facts said right", "captions of the language model", "effective clusters",
    ):  # fmt: skip
        assert text in part
    assert "share of painted pairs in a batch" in part  # the curve
    said = page[page.index("Photos and what is said of them") : page.index("What was made")]
    assert (
        said.count("<img") == said.count("human pairs alone:") >= 6
    )  # each photo is said with painted pairs and without
    shown = page[page.index("Captions and their images") :]
    assert shown.count("<img") >= 8


def test_the_captioner_answers_by_every_door(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = load_captioned("smallworld:street:1").picture(0)
    photo.save(tmp_path / "photo.png")
    (told,) = reverie.load_captioner(finished)([photo])
    assert say("caption", finished, tmp_path / "photo.png", "--json", "--device", "cpu") == 0
    assert json.loads(capsys.readouterr().out)["caption"] == told.text
    assert say("caption", finished, tmp_path / "photo.png", "--tags", "--device", "cpu") == 2
    assert "is given no tags" in capsys.readouterr().err
    row = next(tables.scan(finished / "pairs.lance", ["pair_id"])).to_pylist()[0]
    assert say("repaint", finished, row["pair_id"], "--out", tmp_path / "again.png", "--device", "cpu") == 0
    assert Image.open(tmp_path / "again.png").size == (16, 16)


def test_fine_tuning_begins_at_one_captioner_of_human_pairs(classes: Path) -> None:
    plan = call_recipe(
        "synth2",
        SMALL | {"classes": classes, "mode": "finetune", "train_steps": 40, "human_first": 0.25, "seeds": (0, 3)},
    )
    first: Any = plan.step("human-first-3").stage
    assert (first.steps, first.rho, first.start, first.seed) == (10, 0.0, None, 3)
    for name, rho, steps in (
        ("painted-0.5-3", 0.5, 30),
        ("painted-1-3", 1.0, 30),
        ("human-3", 0.0, 30),
        ("human-as-0.5-3", 0.0, 15),
    ):
        stage: Any = plan.step(name).stage
        assert (stage.rho, stage.steps, stage.start, stage.seed) == (rho, steps, "human-first-3", 3)
        assert stage.warmup_steps > 0
        assert "human-first-3" in plan.step(name).inputs
    measured: Any = plan.step("measure").stage
    assert [(arm.id, arm.factors["exposures_of"]) for arm in measured.arms if "exposures_of" in arm.factors] == [
        ("human-as-0.5", 0.5), ("human-as-0.5", 0.5), ("human-first", 1.0), ("human-first", 1.0),
    ]  # fmt: skip


def test_a_named_painter_brings_its_tokenizer_and_is_not_controlled(classes: Path) -> None:
    plan = call_recipe("synth2", small(classes=classes, token_painter="owner/amused", language_model="owner/gpt"))
    human: Any = plan.step("human").stage
    captioner: Any = plan.step("captioner").stage
    assert human.tokenizer == captioner.tokenizer == captioner.painter == "owner/amused"
    assert not {"tokenizer", "painter", "language"} & {step.name for step in plan.steps}
    assert plan.notes == ("uncontrolled, unless owner/amused learned from the same human pairs",)


@pytest.mark.parametrize(("rho", "main"), [((0.0, 1.0), 1.0), ((0.25, 0.75), 0.25), ((0.1, 0.6), 0.6)])
def test_the_captioner_that_is_asked_saw_painted_pairs(rho: tuple[float, ...], main: float, classes: Path) -> None:
    stage: Any = call_recipe("synth2", SMALL | {"classes": classes, "rho": rho}).step("captioner").stage
    assert stage.rho == main


def test_captions_may_be_asked_without_a_class(classes: Path) -> None:
    plan = call_recipe("synth2", small(classes=classes, ask_about="nothing", writer="owner/model"))
    stage: Any = plan.step("captions").stage
    assert (stage.count, stage.classes) == (16, ())


def fill(folder: Path, models: Path, count: int, **changes: Any) -> Path:
    """A store of human pairs with pictures and their tokens."""
    tokenizer = open_tokenizer(str(models))
    photos = load_captioned(f"smallworld:street:{count}")
    rows = []
    for number in range(count):
        picture = photos.picture(number).resize((16, 16))
        ids = tokenizer.ids(np.asarray(picture)[None])[0]
        known = {
            "pair_id": f"real{number:03d}", "caption_id": f"real{number:03d}", "copy": 0, "unit": 0, "text": photos.references[number][0],
            "image": as_png(photos.picture(number)), "tokens": ids.ravel().tolist(), "grid": list(ids.shape),
            "codebook": tokenizer.codebook_name, "origin": "real", "status": "ok",
        }  # fmt: skip
        rows.append(known | changes)
    tables.append_unit(folder / "pairs.lance", changes.get("unit", 0), pairs.table(rows, pairs.PAIRS))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "amused": tiny.save_amused(folder / "amused"),  # 4 x 4 ids of 16 px
        "vq": tiny.save_vq(folder / "vq", seed=5),
        "vit": tiny.save_vit(folder / "vit"),
        "gpt": tiny.save_writer(folder / "gpt"),
    }


@pytest.mark.slow
def test_human_pairs_may_be_recaptioned_ones(models: dict[str, Path], classes: Path, tmp_path: Path) -> None:
    """Whose own text is missing; every visit reads one of the others."""
    folder = fill(tmp_path / "pairs", models["amused"], 6, text=None)
    ids = [f"real{number:03d}" for number in range(6)]
    more = {
        "caption_short": [f"a red circle {i}" for i in range(6)],
        "caption_long": [f"two blue square {i}" for i in range(5)] + [None],
    }
    tables.append_unit(folder / "more.lance", 0, pa.table({"pair_id": ids, "unit": [0] * 6, **more}))
    tables.add_columns(folder / "pairs.lance", folder / "more.lance")
    # Photos of other classes, so that no pair shows one.
    flags = SMALL | {"pairs": str(folder), "classes": classes, "eval_data": "smallworld:street:6:held"}
    flags |= {"rho": (0.5,), "exposures": False}
    plan = call_recipe("synth2", flags | {"mix": ("short=0.5", "long=0.5"), "require_control": True})
    assert [step.name for step in plan.steps][:3] == ["unseen", "tokenizer", "human"]
    assert "unseen" in plan.step("tokenizer").inputs  # and so never beside it
    assert run(plan, tmp_path / "run")
    shot = tables.read_unit(tmp_path / "run" / "shots" / "human" / "pairs.lance", 0)
    assert {"caption_short", "caption_long"} <= set(shot.column_names)
    assert all(text for text in shot["text"].to_pylist())
    assert trained(tmp_path / "run", "captioner")["trained"]["real_pairs"] == 6
    with pytest.raises(InputError, match=r"6 of 6 pairs of .* have no caption"):
        call_recipe("synth2", flags)


@pytest.mark.slow
def test_painter_language_model_and_captioner_read_one_mix(
    models: dict[str, Path], classes: Path, tmp_path: Path
) -> None:
    """Pairs have a text of their own, which the mix leaves out; the run is controlled all the same."""
    folder = fill(tmp_path / "pairs", models["amused"], 6, text="alttext of the web")
    short = {"pair_id": [f"real{number:03d}" for number in range(6)], "caption_short": [f"zebra {i}" for i in range(6)]}
    tables.append_unit(folder / "more.lance", 0, pa.table({"unit": [0] * 6, **short}))
    tables.add_columns(folder / "pairs.lance", folder / "more.lance")
    flags = {"pairs": str(folder), "mix": ("short",), "eval_data": None, "rho": (0.5,), "require_control": True}
    assert run(call_recipe("synth2", SMALL | flags | {"classes": classes}), tmp_path / "run")
    for step in ("painter/tokenizer", "language"):
        known = AutoTokenizer.from_pretrained(tmp_path / "run" / "weights" / step).get_vocab().keys()
        assert "zebra" in known
        assert "alttext" not in known
    assert trained(tmp_path / "run", "captioner")["trained"]["real_pairs"] == 6


def test_one_mix_is_read_by_all_who_read_human_captions(models: dict[str, Path], classes: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "pairs", models["amused"], 2, text="alttext of the web")
    short = {"pair_id": ["real000", "real001"], "caption_short": ["a zebra", "two zebras"], "unit": [0, 0]}
    tables.append_unit(folder / "more.lance", 0, pa.table(short))
    tables.add_columns(folder / "pairs.lance", folder / "more.lance")
    flags = {"classes": classes, "pairs": str(folder), "mix": ("short",), "eval_data": None}
    plan = call_recipe("synth2", SMALL | flags)
    for name in ("human", "painter", "language", "captioner", "diversity"):
        stage: Any = plan.step(name).stage
        assert str(stage.mix) == "short=1", name


def test_a_painter_of_other_pairs_is_refused_before_it_paints(
    models: dict[str, Path], classes: Path, tmp_path: Path
) -> None:
    painter = shutil.copytree(models["amused"], tmp_path / "painter")
    write_manifest(Manifest(5, "f" * 16), painter)
    pairs_ = str(fill(tmp_path / "pairs", models["amused"], 3))
    flags = small(classes=classes, pairs=pairs_, token_painter=str(painter), eval_data=None, require_control=True)
    with pytest.raises(
        InputError,
        match=r"no controlled comparison: the painter learned from 5 pairs \(f+\), the captioner from another set, of 3",
    ):
        run(call_recipe("synth2", flags), tmp_path / "run")
    assert not (tmp_path / "run" / "captions.lance").exists()
    # A trial, which takes some of the pairs, asks nothing.
    for step in ("human", "captioner"):
        trial: Any = call_recipe("synth2", flags).step(step).stage.trial(1, lambda where: 1)  # type: ignore[union-attr]
        assert not (trial.job.painter if step == "human" else trial.job.controlled)


def test_painted_pairs_are_no_human_ones(models: dict[str, Path], tmp_path: Path) -> None:
    folder = fill(tmp_path / "pairs", models["amused"], 3)
    fill(folder, models["amused"], 1, unit=1, pair_id="painted", origin="painted")
    with pytest.raises(InputError, match=r"1 pairs of .* are painted, and human ones are wanted; .*--pairs-where"):
        TokenizePairs(folder, str(models["amused"])).check()
    TokenizePairs(folder, str(models["amused"]), where="origin = 'real'").check()


def test_a_run_that_measures_no_captioner_is_complete_and_tells_of_control(
    models: dict[str, Path], classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverie.evaluate.cost.peak_memory", lambda *_: None)  # two processes of ten seconds each
    folder = fill(tmp_path / "pairs", models["amused"], 24)
    flags = small(
        classes=classes, pairs=str(folder), tokenizer=str(models["amused"]), eval_data=None, rho=(0.5,), exposures=False, cost_steps=1
    )  # fmt: skip
    assert run(call_recipe("synth2", flags), tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "not complete" not in page
    assert "A captioner is ready; it was not measured, as no photos were given." in page
    assert "reverie caption" in page
    for text in (
        "<b>CONTROLLED</b>: painter and captioner learned from the same 24 pairs",
        "effective clusters",
        "What it costs",
    ):
        assert text in page
    shown = table(tmp_path / "run")
    assert not shown.show_header
    assert str(shown.caption).startswith("controlled: painter and captioner learned from the same 24 pairs")


def test_pairs_whose_pictures_cannot_be_read_are_told(models: dict[str, Path], tmp_path: Path) -> None:
    folder = fill(tmp_path / "pairs", models["amused"], 3)
    fill(folder, models["amused"], 1, unit=1, pair_id="broken", image=b"junk", tokens=None)
    told: list[str] = []
    context = StepContext(tmp_path, "human", report=lambda kind, **facts: told.append(f"{kind}: {facts.get('text')}"))
    TokenizePairs(folder, str(models["amused"])).run(context)
    assert [line for line in told if line.startswith("warning")] == [
        "warning: 1 human pair has neither a picture that can be read nor image tokens, and no part in the training"
    ]


def test_a_tokenizer_is_trained_on_pairs_that_are_taken_alone(
    models: dict[str, Path], classes: Path, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "pairs", models["amused"], 4)
    flags = SMALL | {"classes": classes, "pairs": str(folder), "eval_data": None, "pairs_where": "pair_id <> 'real001'"}
    stage: Any = call_recipe("synth2", flags).step("tokenizer").stage
    assert tables.count(folder / "pairs.lance", stage.where) == 3
    fill(folder, models["amused"], 1, unit=1, pair_id="bare0", image=None)
    fill(folder, models["amused"], 1, unit=2, pair_id="bare1", text="a blue one", image=None)
    with pytest.raises(InputError, match="has no pictures to train a tokenizer on"):
        call_recipe("synth2", flags | {"pairs_where": "unit >= 1"})


def test_a_mix_needs_a_store(classes: Path) -> None:
    with pytest.raises(InputError, match="--mix reads captions that stand beside the text of --pairs"):
        call_recipe("synth2", SMALL | {"classes": classes, "mix": ("short",)})


SLIPS: list[tuple[str, dict[str, Any], str]] = [
    ("rho", {"rho": 1.5}, r"--rho 1\.5: give a number from 0 to 1"),
    ("nothing painted", {"rho": 0.0}, "--rho 0 alone paints nothing"),
    ("one class", {"classes": "one.txt"}, "a list of one class, 'red circle'"),
    ("a class that the writer does not know", {"classes": "strange.txt"}, "builtin:writer writes about the small world only and does not know 'crane'"),
    ("a language model that is none", {"language_model": "vit"}, "no causal language model"),
    ("pairs without captions", {"pairs": "bare"}, "2 of 2 pairs of .* have no caption, first real000; caption them, or name columns that hold captions: --mix$"),
    ("no pairs", {"pairs": "nowhere"}, "holds no pairs.lance; make it with: reverie import"),
    ("other codes", {"token_painter": "amused", "tokenizer": "vq"}, "the codebook of .*vq.* is not the one of"),
    ("a tokenizer of its own beside a painter", {"token_painter": "amused", "tokenizer": "train"}, "leave out --tokenizer, or --token-painter"),
    ("another grid", {"token_painter": "amused", "token_px": 32}, "paints pictures of 16 px, which is another grid than that of 32 px; give 16, or another painter$"),
    ("ids out of range", {"pairs": "wild", "token_painter": "amused"}, "pair real000 has the id 99, and codes are 0 to"),
    ("test photos", {"pairs": "tested", "token_painter": "amused"}, r"2 of 2 pairs of .*tested.pairs\.lance show test photos, first real000 the photo all-00000; that leaves too few to learn from: give other pairs"),
    ("test photos, before a tokenizer is trained", {"pairs": "tested"}, r"2 of 2 pairs of .*tested.pairs\.lance show test photos, first real000 the photo all-00000; that leaves too few to learn from: give other pairs"),
    ("tokens without their tokenizer", {"pairs": "wild"}, "has no pictures to train a tokenizer on"),
    ("ids that do not fill a picture", {"token_px": 18}, "does not divide into ids of 4 px"),
    ("a file of captions as pairs", {"pairs": "one.txt"}, r"one\.txt holds no pairs\.lance; make it with: reverie import PHOTOS --out FOLDER"),
    ("no vectors of an image", {"latents": 0}, "--latents 0: give 1 or more"),
    ("heads that do not divide", {"look_heads": 3}, "a resampler of width 16 cannot have 3 heads"),
    ("not controlled", {"token_painter": "owner/amused", "require_control": True}, "so no run with it is controlled"),
    ("a painter that says nothing", {"token_painter": "amused", "require_control": True}, "does not say which pairs it learned from"),
    ("a writer that is none", {"writer": "vit"}, "vit is a vision model .*; what is needed here is a language model"),
    ("no step is left", {"mode": "finetune", "train_steps": 1}, "--train-steps 1 leaves no step after the 1 on human pairs alone"),
    ("shares with one name", {"rho": (0.5, 0.50000001)}, "--rho 0.5 0.5 names one twice"),
    ("not one painted pair", {"rho": (0.01,)}, r"--rho 0\.01 of the 16 examples of a training .* is no painted pair"),
    ("a tokenizer that is not trained", {"tokenizer": "vq", "codes": 16}, "--codes says nothing here: it belongs to --tokenizer train"),
    ("a painter that is not trained", {"token_painter": "amused", "painter_steps": 3}, "--painter-steps says nothing here"),
    ("words that are not trained", {"language_model": "vit", "language_steps": 3}, "--language-steps says nothing here"),
    ("no fine-tuning", {"human_first": 0.3}, "--human-first says nothing here: it belongs to --mode finetune"),
    ("asked about nothing", {"ask_about": "nothing", "writer": "owner/model", "second_class": 0.5}, "--second-class says nothing here"),
    ("a second class, asked of a builtin writer", {"second_class": 0.5}, "--second-class says nothing here: it belongs to a --writer that is not builtin"),
    ("a scene, asked of a builtin writer", {"scene": 0.5}, "--scene says nothing here: it belongs to a --writer that is not builtin"),
    ("glosses, given to a builtin writer", {"glosses": "wordnet"}, "--glosses says nothing here: it belongs to a --writer that is not builtin"),
    ("ids of a tokenizer that do not fill a picture", {"tokenizer": "vq", "token_px": 18}, "each id is 4 px wide; use a multiple of that"),
    ("no room for a sentence", {"language_model": "gpt", "max_tokens": 70}, "sentences of 70 tokens after 1 others do not fit into the 64"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "said"), [slip[1:] for slip in SLIPS], ids=[slip[0] for slip in SLIPS])
def test_a_slip_is_one_line_before_any_training(
    flags: dict[str, Any],
    said: str,
    models: dict[str, Path],
    classes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "one.txt").write_text("red circle\n")
    (tmp_path / "strange.txt").write_text("red circle\ncrane\n")
    made = {
        "bare": lambda: fill(tmp_path / "bare", models["amused"], 2, text=" "),
        "wild": lambda: fill(tmp_path / "wild", models["amused"], 2, image=None, tokens=[99] * 16),
        "tested": lambda: fill(tmp_path / "tested", models["amused"], 2),
        "nowhere": lambda: tmp_path / "nowhere",
    }
    given: dict[str, Any] = {"classes": classes}
    for name, value in flags.items():
        if value in made:
            value = made[value]()
        given[name] = (
            models.get(value, tmp_path / value if str(value).endswith(".txt") else value)
            if isinstance(value, str)
            else value
        )
    control = given.pop("require_control", False)
    assert say(*words(tmp_path / "run", **given), *(["--require-control"] if control else [])) == 2
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert re.search(rf"^reverie: .*{said}", last), error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_tokenizer_that_has_learned_nothing_does_not_take_photos_for_each_other(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Ids that are equal by chance are no proof where pictures can be looked at."""
    from reverie.learn.manifest import refuse_test_photos
    from reverie.store.token_batches import read_token_pairs

    folder, tokenizer = fill(tmp_path, models["amused"], 3), open_tokenizer(str(models["amused"]))
    found = read_token_pairs(folder / "pairs.lance", tokenizer.codebook_name, tokenizer.num_codes, (4, 4))
    assert found.tokens is not None
    known = load_captioned("smallworld:street:2:held")

    class Blind:
        """Gives every picture the ids of the first pair."""

        def ids(self, pictures: Any) -> Any:
            return np.repeat(found.tokens[:1], len(pictures), 0)  # type: ignore[index]

    refuse_test_photos(found, known, Blind(), 16, folder / "pairs.lance")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1 of 3 pairs"):
        refuse_test_photos(found, known, Blind(), 16)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="first real000 the photo all-00000"):
        refuse_test_photos(found, load_captioned("smallworld:street:2"), Blind(), 16, folder / "pairs.lance")  # type: ignore[arg-type]


def test_copies_of_test_photos_are_found_by_their_pictures_and_no_others_are(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Before there is a tokenizer: however they were stored, among the pairs that are taken, and not among the others."""
    folder, photos = fill(tmp_path / "pairs", models["amused"], 3), load_captioned("smallworld:street:3")
    for number, quality in enumerate((60, 90), 1):
        stored = io.BytesIO()
        photos.picture(number).resize((96, 96)).save(stored, "JPEG", quality=quality)
        own = {"pair_id": f"copy{number}", "text": f"copy {number}", "image": stored.getvalue(), "tokens": None}
        fill(folder, models["amused"], 1, unit=number, **own)
    fill(folder, models["amused"], 1, unit=3, pair_id="broken", text="a broken one", image=b"junk")
    where = "pair_id like 'copy%' or pair_id = 'broken'"
    told: list[tuple[int, int]] = []
    context = StepContext(tmp_path, "unseen", report=lambda kind, **facts: told.append((facts["done"], facts["total"])))
    look = TokenizePairs(folder, "step:tokenizer", where=where, test_photos="smallworld:street:3").look()
    with pytest.raises(
        InputError,
        match=r"2 of 3 pairs of .* show test photos, first copy1 the photo all-00001; that leaves too few to learn from: give other pairs",
    ):
        look.run(context)
    assert told == [(3, 6)]
    replace(look, where="pair_id = 'real000' or pair_id = 'broken'", test_photos="smallworld:street:40:held").run(
        context
    )


def shown_test_photos(folder: Path, painter: Path, where: str, out: Path) -> str:
    """What is said of pairs that show test photos, as a person reads it."""
    context = StepContext(out, "unseen", report=lambda kind, **facts: None)
    look = TokenizePairs(folder, str(painter), where=where, test_photos="smallworld:street:11").look()
    with pytest.raises(InputError) as said:
        look.run(context)
    return str(said.value)


def test_pairs_are_left_out_by_what_the_message_says(models: dict[str, Path], classes: Path, tmp_path: Path) -> None:
    """Few in the message; many in a file, as a list that ends in dots is of no use to anybody."""
    folder = fill(tmp_path / "pairs", models["amused"], 11)
    fill(folder, models["amused"], 1, unit=1, pair_id="other0", image=as_png(Image.new("RGB", (16, 16), "red")))
    fill(
        folder,
        models["amused"],
        1,
        unit=2,
        pair_id="other1",
        text="a blue one",
        image=as_png(Image.new("RGB", (16, 16), "blue")),
    )
    few = shown_test_photos(folder, models["amused"], "pair_id in ('real003', 'other0', 'other1')", tmp_path)
    assert few.endswith(
        "leave them out: --pairs-where \"(pair_id in ('real003', 'other0', 'other1')) and pair_id not in ('real003')\""
    )
    many = shown_test_photos(folder, models["amused"], "", tmp_path)
    assert many.startswith("11 of ")
    assert many.endswith(f'leave them out: --pairs-where "$(cat {tmp_path / "leave-out.sql"})"')
    flags = small(classes=classes, pairs=str(folder), eval_data="smallworld:street:11")
    where = (tmp_path / "leave-out.sql").read_text()
    assert "real" not in "".join(chosen_pairs(folder / "pairs.lance", where, 0, None))
    stage: Any = call_recipe("synth2", flags | {"pairs_where": where}).step("unseen").stage
    stage.run(StepContext(tmp_path, "unseen", report=lambda kind, **facts: None))


def test_pairs_that_all_say_the_same_are_told_before_anything_is_trained(
    models: dict[str, Path], tmp_path: Path
) -> None:
    table = fill(tmp_path, models["amused"], 3, text="a dog on grass") / "pairs.lance"
    with pytest.raises(InputError, match=r"all 3 pairs .* say 'a dog on grass'; a captioner needs two different"):
        chosen_pairs(table, "", 0, None)
    fill(tmp_path, models["amused"], 1, unit=1, pair_id="real0005", text="a cat on sand")
    assert "real0005" in chosen_pairs(table, "", 0, None)
    with pytest.raises(InputError, match="all 2 pairs that are taken"):  # as the limit leaves the other one out
        chosen_pairs(table, "", 2, None)
    with pytest.raises(InputError, match="has 1 pair to learn from"):
        chosen_pairs(table, "pair_id = 'real001'", 0, None)


def test_pairs_without_caption_are_left_out_by_what_the_message_says(models: dict[str, Path], tmp_path: Path) -> None:
    folder = fill(tmp_path, models["amused"], 3)
    fill(folder, models["amused"], 1, unit=1, pair_id="bare", text=" ")
    with pytest.raises(InputError, match=r"1 of 4 pairs of .* have no caption, first bare;") as said:
        chosen_pairs(folder / "pairs.lance", "unit < 5", 0, None)
    flag, where = str(said.value).rpartition("leave them out: ")[2].split(" ", 1)
    assert (flag, where) == ("--pairs-where", "\"(unit < 5) and regexp_like(text, '\\S')\"")
    assert len(chosen_pairs(folder / "pairs.lance", where.strip('"'), 0, None)) == 3


@pytest.mark.parametrize(("limit", "where", "told"), [
    (100, "", ["--human-pairs 100 is more than the 3 pairs; all of them are taken"]),
    (3, "pair_id <> 'real001'", ["--human-pairs 3 is more than the 2 pairs that --pairs-where takes; all of them are taken"]),
    (3, "", []),
    (0, "", []),
])  # fmt: skip
def test_fewer_pairs_than_were_asked_for_are_told(
    limit: int, where: str, told: list[str], models: dict[str, Path], tmp_path: Path
) -> None:
    folder, said = fill(tmp_path / "pairs", models["amused"], 3), list[str]()
    context = StepContext(
        tmp_path, "human", report=lambda kind, **facts: said.append(facts["text"]) if kind == "warning" else None
    )
    TokenizePairs(folder, str(models["amused"]), where=where, limit=limit).run(context)
    assert said == told


def test_the_help_speaks_of_tokens() -> None:
    said = helps(Synth2Config)
    assert said["guidance"].endswith("s in l_u + s (l_c - l_u) over the logits of ids")
    assert "masked" in said["sampler_steps"]
    assert not re.search(r"\beps|denois|noise|\(l\)", said["guidance"] + said["sampler_steps"] + said["per_caption"])


def test_pairs_of_a_run_that_are_tokens_are_exported_without_a_word_about_the_tokenizer(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shown"
    assert say("export", finished / "shots" / "human", "--to", "folder", "--out", out) == 0
    assert len([*out.rglob("*.png")]) == 24


def test_pairs_of_a_run_that_are_tokens_are_shown_as_pictures(finished: Path) -> None:
    gallery = Gallery(finished / "shots" / "human")
    first = next(tables.scan(finished / "shots" / "human" / "pairs.lance", ["pair_id"])).to_pylist()[0]["pair_id"]
    found = gallery.picture(first, 0, 160)
    gallery.close()
    assert found is not None
    assert found[1] == "image/png"


def test_tokens_that_are_painted_again_are_compared_as_ids(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    row = next(tables.scan(folder / "pairs.lance", ["pair_id"])).to_pylist()[0]
    assert say("repaint", folder, row["pair_id"], "--out", tmp_path / "again.png", "--device", "cpu") == 0
    assert "again.png: the same ids as the stored image" in capsys.readouterr().out


def test_cost_is_measured_with_the_models_of_the_run(classes: Path) -> None:
    plan = call_recipe("synth2", SMALL | {"classes": classes, "cost_steps": 10})
    does: Any = plan.step("cost").stage
    captioner: Any = plan.step("captioner").stage
    assert (does.settings.painter, does.settings.language_model) == ("step:painter", "step:language")
    assert (does.settings.warm_up, does.settings.timed, does.settings.batch) == (2, 10, 2)
    assert does.settings.shape == captioner.shape
    assert "cost" in plan.step("page").inputs
    assert "cost" not in {step.name for step in call_recipe("synth2", SMALL | {"classes": classes}).steps}


def test_scales_can_be_planned(classes: Path) -> None:
    tables_of = {scale: call_recipe("synth2", {"scale": scale}) for scale in ("tiny", "small")}
    assert {scale: plan.num_captions for scale, plan in tables_of.items()} == {"tiny": 64 * 8, "small": 64 * 100}
    assert len([step for step in tables_of["small"].steps if step.name.startswith("painted-")]) == 3 * 3 + 2
    with pytest.raises(InputError, match="give the human pairs to learn from"):
        call_recipe("synth2", {"scale": "paper"})
    assert SCALES["paper"].tokenizer == "amused/amused-256"


@pytest.mark.slow
def test_pixels_and_fine_tuning(classes: Path, tmp_path: Path) -> None:
    plan = call_recipe(
        "synth2", SMALL | {"classes": classes, "mode": "finetune", "path": "pixels", "rho": (1.0,), "cost_steps": 1}
    )
    assert run(plan, tmp_path)
    told = trained(tmp_path, "captioner")["trained"]
    assert (told["mode"], told["path"], told["real_seen"], told["painted_seen"]) == ("finetune", "pixels", 8, 8)
    assert 0 <= told["round_trip"] <= 1
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{100 * told['round_trip']:.1f}% are the same once they are decoded and encoded again" in page
    part = page[page.index("What it costs") :]
    for text in (
        "image tokens",
        "pictures",
        "images a second",
        "peak memory, MiB",
        "bytes a pair on disk",
        "ids that come back",
    ):
        assert text in part


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_numbers(finished: Path, classes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "reverie.cli", *words(tmp_path / "run", classes=classes)]
    for mark in ("human", "paint", "captioner"):  # killed soon after each of these is there
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "run" / "done" / f"{mark}.json").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    first, second = (
        [(row.step, row.arm, row.metric, row.value) for row in results.read(folder / "results.jsonl")]
        for folder in (finished, tmp_path / "run")
    )
    assert first == second
    ids = [
        sorted(
            (row["pair_id"], *row["tokens"]) for part in tables.scan(folder / "pairs.lance") for row in part.to_pylist()
        )
        for folder in (finished, tmp_path / "run")
    ]
    assert ids[0] == ids[1]
