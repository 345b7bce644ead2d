"""The whole line at its smallest, what a person does with its result, and slips."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reverie.captions.scenes import FromScenes
from reverie.cli.main import main
from reverie.datasets.captioned import CaptionedImages, held_classes, load_captioned
from reverie.errors import InputError, ReverieError
from reverie.evaluate import caption_files
from reverie.evaluate.captioning import refuse_test_captions
from reverie.evaluate.metrics import java
from reverie.models.captioner import load_captioner
from reverie.models.detector import open_detector
from reverie.models.encoder import open_encoder
from reverie.models.support_set import Support, load_support
from reverie.recipes.options import PUBLIC_DETECTOR
from reverie.recipes.syntic import SCALES
from reverie.report import captioning
from reverie.report.facts import gather
from reverie.report.page import write
from reverie.report.thumbs import Thumbs
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.run.repaint import repaint
from reverie.stage import StepContext
from reverie.store import results, tables
from tests.models import tiny


def syntic(scale: str = "tiny", **flags: Any) -> Plan:
    return call_recipe("syntic", {"scale": scale, **flags})


SMALL: dict[str, Any] = {
    "sentences": 24, "sampler_steps": 1, "epochs": 1, "width": 32, "tag_heads": 2, "eval_data": "smallworld:street:12",
    "rivals": ("capdec", "decap", "viecap"),
}  # fmt: skip
ARMS = (
    "syntic", "without-refinement", "without-projection", "without-tags", "painted-features", "text-features", "capdec",
    "decap", "viecap",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("syntic") / "run"
    assert run(call_recipe("syntic", SMALL), folder)
    return folder


@pytest.fixture
def photos(finished: Path, tmp_path: Path) -> Path:
    for number, image in enumerate(load_captioned("smallworld:street:3").images):
        Image.fromarray(np.asarray(image)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_every_arm_is_asked_about_the_same_photos_in_both_ways(finished: Path) -> None:
    rows = results.select(results.read(finished / "results.jsonl"), step="measure")
    for metric in ("cider_d", "cider_d_beam", "bleu4", "rouge_l", "distinct", "distinct_beam"):
        assert [row.arm for row in rows if row.metric == metric] == list(ARMS)
    for row in rows:
        if row.metric.startswith("cider_d"):
            assert np.mean(row.each) == pytest.approx(row.value, abs=1e-5)
            assert len(row.each) == row.num_test == 12
    files = list((finished / "captions" / "measure").glob("*.jsonl"))
    assert len(files) == len(ARMS)
    lines = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 12
    assert {"photo", "references", "tags", "greedy", "beam"} == lines[0].keys()


def test_the_page_compares_photo_by_photo_by_the_metric_it_names(finished: Path) -> None:
    (found,) = [item for item in gather(finished).measured if item.step == "measure"]
    assert len(found.comparisons) == len(ARMS) - 1
    for item in found.comparisons:
        assert item.over_photos is not None
        assert item.over_photos.mean == pytest.approx(item.over_seeds.mean, abs=1e-6)


def test_captions_are_coco_results_and_the_page_finds_photos_from_any_folder(
    finished: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, known = photos / "run", load_captioned("smallworld:street:3")
    shutil.copytree(finished, folder)
    (folder / "results.jsonl").unlink()
    notes = [
        {"id": 10 * number + place, "image_id": 70 + number, "caption": text}
        for number, texts in enumerate(known.references)
        for place, text in enumerate(texts)
    ]
    images = [{"id": 70 + number, "file_name": f"{number}.png"} for number in range(3)]
    (photos / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    monkeypatch.chdir(photos)
    usual: Any = syntic(**SMALL).step("measure").stage
    stage = dataclasses.replace(usual, arms=usual.arms[:2], photos="captions.json", images=Path())
    stage.run(StepContext(folder, "measure"))
    plan = json.loads((folder / "plan.json").read_text())
    for step in plan["steps"]:
        if step["name"] == "measure":
            step["settings"] |= {"photos": "captions.json", "images": "."}
    (folder / "plan.json").write_text(json.dumps(plan | {"made_in": str(photos)}))

    values = {(row.arm, row.metric): row.value for row in results.read(folder / "results.jsonl")}
    coco = folder / "captions" / "measure" / "coco"
    for references in (photos / "captions.json", coco / "references.json"):
        for file, name, metric in (
            ("syntic-0-greedy", "syntic", "cider_d"),
            ("without-refinement-0-beam", "without-refinement", "cider_d_beam"),
        ):
            read = caption_files.read(coco / f"{file}.json", references)
            assert read.ids == [70, 71, 72]
            score = caption_files.measure(read, ["cider_d"])["CIDEr-D"].corpus
            assert score == pytest.approx(values[name, metric], abs=1e-9)

    (photos / "elsewhere").mkdir()
    monkeypatch.chdir(photos / "elsewhere")
    for are_there in (True, False):
        found = captioning.gather(gather(folder), Thumbs())
        assert found is not None
        pictures = [card["src"] is not None for cards in found["cards"].values() for card in cards]
        assert pictures == [are_there] * len(pictures)
        assert pictures
        for file in photos.glob("*.png"):
            file.unlink()
    assert "no picture" in write(folder).read_text(encoding="utf-8")


def test_small_world_photos_are_called_by_their_scene_in_coco_results(finished: Path) -> None:
    coco = finished / "captions" / "measure" / "coco"
    read = caption_files.read(coco / "capdec-0-greedy.json", coco / "references.json")
    assert (len(read.ids), read.ids[0], read.num_without) == (12, "all-00000", 0)


def test_distances_are_those_of_every_picture_and_its_own_sentence(finished: Path) -> None:
    encoder = open_encoder("builtin:clip")
    (pairs,) = tables.scan(finished / "pairs.lance", ["pair_id", "text", "embedding"], "embedding is not null")
    known = json.loads((finished / "weights" / "refine" / "refined.json").read_text())["pair_ids"]
    refined = load_file(finished / "weights" / "refine" / "rows.safetensors")["rows"]
    by_name = {name: row.numpy() for name, row in zip(known, refined, strict=True)}
    cosines, right = [], []
    texts = pairs["text"].to_pylist()
    features = encoder.texts(texts).numpy()
    for name, text, own in zip(pairs["pair_id"].to_pylist(), texts, features, strict=True):
        cosines.append(float(by_name[name] @ own))
        nearest = int(np.argmax(features @ by_name[name]))
        right.append(texts[nearest] == text)
    photos = encoder.images(next(load_captioned("smallworld:street:12").batches(12))).numpy()
    painted = np.array(pairs["embedding"].to_pylist())
    rows = results.read(finished / "results.jsonl")
    values = {(row.arm, row.metric): row.value for row in results.select(rows, step="alignment")}
    assert values["refined", "pair_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert values["refined", "recall_at_1"] == pytest.approx(np.mean(right))
    gap = np.linalg.norm(painted.mean(0) - photos.mean(0))
    assert values["painted", "centroid_distance"] == pytest.approx(gap, abs=1e-5)


def test_the_page_says_how_much_of_a_projection_is_the_own_sentence(finished: Path, tmp_path: Path) -> None:
    support = load_support(finished / "weights" / "captioner" / "support")
    (pairs,) = tables.scan(finished / "pairs.lance", ["caption_id", "embedding"], "embedding is not null")
    own = torch.tensor([support.ids.index(name) for name in pairs["caption_id"].to_pylist()])
    features = {"painted": torch.tensor(pairs["embedding"].to_pylist())}
    features["refined"] = load_file(finished / "weights" / "refine" / "rows.safetensors")["rows"]
    rows = results.select(results.read(finished / "results.jsonl"), step="alignment")
    values = {(row.arm, row.metric): row.value for row in rows}
    told = {}
    for name, each in features.items():
        weights = (each @ support.rows.T / 0.01).softmax(1)
        twins = (support.rows[own] @ support.rows.T > 0.9999).float()
        told[name] = float((weights * twins).sum(1).mean())
        assert values[f"{name}-projected", "own_sentence"] == pytest.approx(told[name], abs=1e-4)
        assert ("own_sentence" in {metric for who, metric in values if who == name}) is False
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert f"{told['painted']:.1%} of its weight on its own sentence before refinement" in page
    assert f"{told['refined']:.1%} after it" in page
    assert ("hardly more than features of sentences" in page) == (told["refined"] >= 0.9)
    done = json.loads((finished / "weights" / "refine" / "refined.json").read_text())
    assert done["curve"][0]["own"] == pytest.approx(told["painted"], abs=1e-4)
    assert f"Refinement made {done['steps']} passes and ended by" in page

    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["arm"] == "refined-projected" and line["metric"] == "own_sentence":
            line["value"] = 0.99991
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write(tmp_path / "run").read_text(encoding="utf-8")
    assert "more than 99.9% after it" in page
    assert "hardly more than features of sentences" in page
    file.write_text("".join(json.dumps(line) + "\n" for line in lines if line["metric"] != "own_sentence"))
    assert "on its own sentence" not in write(tmp_path / "run").read_text(encoding="utf-8")


def test_what_is_hidden_from_the_projection_is_not_guarded() -> None:
    usual, hidden = (
        call_recipe("syntic", SMALL | flags).step("refine").stage.config.max_own  # type: ignore[attr-defined]
        for flags in ({}, {"exclude_self": "caption"})
    )
    assert (usual, hidden) == (0.9, 1.0)


def test_the_page_shows_photos_captions_and_clouds(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    for text in ("Photos and what is said of them", "Where the features lie", "without projection", "CIDEr-D, beam 5"):
        assert text in page
    assert "not complete" not in page
    clouds = json.loads((finished / "clouds.json").read_text())
    assert {"photos", "painted", "refined", "refined-projected", "sentences"} <= clouds.keys()


def test_the_encoder_is_untouched_and_the_features_are_its(finished: Path) -> None:
    rows = [row for part in tables.scan(finished / "pairs.lance") for row in part.to_pylist()]
    encoder = open_encoder("builtin:clip")
    pictures = [Image.open(io.BytesIO(row["image"])) for row in rows]
    features = encoder.images(pictures)
    torch.testing.assert_close(torch.tensor([row["embedding"] for row in rows]), features, atol=1e-5, rtol=0)
    scores = (features * encoder.texts([row["text"] for row in rows])).sum(1)
    torch.testing.assert_close(torch.tensor([row["clip_score"] for row in rows]), scores, atol=1e-5, rtol=0)
    known = json.loads((finished / "weights" / "refine" / "refined.json").read_text())
    assert known["pair_ids"] == [row["pair_id"] for row in rows]
    refined = load_file(finished / "weights" / "refine" / "rows.safetensors")["rows"]
    texts = encoder.texts([row["text"] for row in rows])
    assert (refined * texts).sum(1).mean() > (features * texts).sum(1).mean()


def test_the_decoder_is_a_public_one(finished: Path) -> None:
    folder = finished / "weights" / "captioner"
    assert AutoModelForCausalLM.from_pretrained(folder / "decoder").config.model_type == "gpt2"
    assert AutoTokenizer.from_pretrained(folder / "decoder").eos_token
    support = load_support(folder / "support")
    assert len(support) == 24
    torch.testing.assert_close(support.rows, open_encoder("builtin:clip").texts(support.texts), atol=1e-5, rtol=0)


def test_it_answers_in_python_and_on_the_command_line(
    finished: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(photos.glob("*.png"))
    captioner = load_captioner(finished)
    told = captioner(files, num_nearest=2)
    assert [item.text for item in captioner([np.asarray(Image.open(file)) for file in files])] == [
        item.text for item in told
    ]
    with pytest.raises(SystemExit) as ended:
        main(["caption", str(finished), str(photos), "--json", "--nearest", "2", "--tags"])
    assert ended.value.code == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["caption"] for line in said] == [item.text for item in told]
    for line, item in zip(said, told, strict=True):
        assert line["tags"] == list(item.tags)
        assert [near["text"] for near in line["nearest"]] == [text for text, _ in item.nearest]
        assert line["nearest"][0]["cosine"] >= line["nearest"][1]["cosine"]
    with pytest.raises(SystemExit):
        main(["caption", str(finished), str(photos), "--tags", "--nearest", "1", "--beams", "2"])
    assert "nearest sentences" in capsys.readouterr().out
    (photos / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as ended:
        main(["caption", str(finished), str(photos)])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert "1 of 4 photos cannot be read" in captured.err
    assert "2.png" in captured.out


def test_another_support_set_changes_what_is_seen_without_training(
    finished: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "other.txt").write_text("two small red rings\na large blue heart on a black background\n")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "caption",
                str(finished),
                str(photos / "0.png"),
                "--support",
                str(photos / "other.txt"),
                "--json",
                "--nearest",
                "5",
            ]
        )
    assert ended.value.code == 0
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(item["text"] for item in line["nearest"]) == [
        "a large blue heart on a black background",
        "two small red rings",
    ]


def test_a_finished_run_is_measured_with_another_support_set(finished: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "Other Domain.txt"
    file.write_text("two small red rings\na large blue heart on a black background\na green star\n")
    shutil.copytree(finished, folder)
    before = results.select(results.read(folder / "results.jsonl"), step="measure")
    weights = sorted(path.stat().st_mtime_ns for path in folder.glob("weights/*/visual.safetensors"))
    plan = call_recipe("syntic", SMALL | {"support": (file,)})
    assert run(plan, folder)
    rows = results.select(results.read(folder / "results.jsonl"), step="measure")
    assert [row for row in rows if row in before] == before  # nothing is asked anew
    projecting = ("syntic", "without-refinement", "without-tags", "decap")
    new = [row for row in rows if row not in before]
    assert list(dict.fromkeys(row.arm for row in new)) == [f"{name}-other-other-domain" for name in projecting]
    assert new[0].label == "SynTIC, support Other Domain.txt"
    assert sorted(path.stat().st_mtime_ns for path in folder.glob("weights/*/visual.safetensors")) == weights
    support = load_support(folder / "weights" / "other-other-domain")
    assert list(support.texts) == file.read_text().splitlines()
    told = load_captioner(folder, support=folder / "weights" / "other-other-domain")(
        load_captioned("smallworld:street:12").images
    )
    lines = json.loads((folder / "captions/measure/coco/syntic-other-other-domain-0-greedy.json").read_text())
    assert [line["caption"] for line in lines] == [item.text for item in told]
    assert "SynTIC, support Other Domain.txt" in (folder / "report.html").read_text(encoding="utf-8")
    # A support set, and a run, are files of sentences like any other.
    shutil.copytree(folder / "weights" / "other-other-domain", tmp_path / "set")
    stage: Any = syntic(**SMALL, support=(tmp_path / "set",)).step("other-set").stage
    assert stage.source.texts(9) == list(support.texts)
    assert any(step.name == "other-run" for step in syntic(**SMALL, support=(folder,)).steps)


def test_slips_of_other_support(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a red circle\na blue star\n")
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a.txt", tmp_path / "b" / "A.txt")
    (text,) = load_captioned("smallworld:street:1").references[0][:1]
    (tmp_path / "test.txt").write_text(f"{text}\n")
    image = {"filename": "a.jpg", "filepath": "val", "split": "test", "sentences": [{"raw": "a red circle"}]}
    more = image | {"filename": "b.jpg", "split": "train", "sentences": [{"raw": "a blue star"}]}
    (tmp_path / "karpathy.json").write_text(json.dumps({"images": [image, more]}))
    for flags, said in (
        ({"support": (tmp_path / "no.txt",)}, "does not exist"),
        ({"support": (tmp_path / "a.txt", tmp_path / "b" / "A.txt")}, "give each once"),
        ({"support": (tmp_path / "a.txt",), "eval_data": None}, "name some: --eval-data"),
        ({"support_split": "train"}, "belongs to a file of --support"),
        ({"support": (tmp_path / "test.txt",)}, "is a reference of the test photo"),
        ({"support": (tmp_path / "karpathy.json",)}, "holds test, train; .*--support-split train"),
    ):
        with pytest.raises(InputError, match=said):
            syntic(**SMALL | flags)
    assert syntic(**SMALL, support=(tmp_path / "karpathy.json",), support_split="train").step("other-karpathy")


JAVA = """#!{python}
import json, sys
if "-version" in sys.argv:
    print('java version "{version}"', file=sys.stderr)
else:
    asked = json.load(open(sys.argv[sys.argv.index("spice-1.0.jar") + 1]))
    told = [{{"image_id": each["image_id"], "scores": {{"All": {{"f": 0.25 * (each["image_id"] % 2)}}}}}} for each in asked]
    json.dump(told, open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""


@pytest.mark.parametrize("version", ["1.8.0_402", "17.0.2"])
def test_spice_is_measured_where_its_java_is_and_else_said_once(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    package = tmp_path / "pycocoevalcap"
    (package / "spice" / "lib").mkdir(parents=True)
    for name in java.CORENLP:
        (package / "spice" / "lib" / name).touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text(JAVA.format(python=sys.executable, version=version))
    (tmp_path / "bin" / "java").chmod(0o755)
    monkeypatch.setattr(java, "_package", lambda need: package)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    usual: Any = syntic(**SMALL).step("measure").stage
    stage = dataclasses.replace(usual, arms=usual.arms[:1], photos="smallworld:street:4")
    said: list[str] = []
    context = StepContext(folder, "spice", report=lambda kind, **facts: said.append(str(facts.get("text", ""))))
    stage.run(context)
    values = {row.metric: row.value for row in results.select(results.read(context.results), step="spice")}
    left_out = {text for text in said if text.startswith("SPICE is left out")}
    if version.startswith("1.8"):
        assert values["spice"] == values["spice_beam"] == pytest.approx(0.125)
        assert not left_out
        return
    assert not {"spice", "spice_beam"} & set(values)
    assert "cider_d" in values
    (why,) = left_out  # the same words each time, which are shown once
    assert "runs under Java 8 only" in why
    with pytest.raises(ReverieError, match="Java 8 only"):
        syntic(**SMALL, spice="on").step("measure").stage.check()
    dataclasses.replace(stage, spice="off").run(StepContext(folder, "off", report=context.report))
    assert len([text for text in said if text.startswith("SPICE")]) == 2  # of the two decoders, before


def test_without_images_the_features_stay_and_a_picture_can_be_seen_again(tmp_path: Path) -> None:
    plan = call_recipe(
        "syntic", SMALL | {"keep_images": False, "rivals": (), "detector": "none", "parts": False, "sentences": 4}
    )
    run(plan, tmp_path / "run", until="paint")
    rows = [row for part in tables.scan(tmp_path / "run" / "pairs.lance") for row in part.to_pylist()]
    assert all(row["image"] is None and len(row["embedding"]) == 128 and row["tags"] is None for row in rows)
    assert tables.verify(tmp_path / "run") == []
    again = repaint(plan, tmp_path / "run", rows[0]["pair_id"])
    assert not again.same
    picture = Image.open(io.BytesIO(again.image))
    feature = open_encoder("builtin:clip").images([picture])[0]
    torch.testing.assert_close(torch.tensor(rows[0]["embedding"]), feature, atol=1e-2, rtol=0)


def test_a_captioner_of_another_encoder_or_damaged_is_told(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "captioner"
    shutil.copytree(finished / "weights" / "captioner", folder)
    about = json.loads((folder / "captioner.json").read_text())
    (folder / "captioner.json").write_text(json.dumps(about | {"revision": "another"}))
    with pytest.raises(Exception, match="trained on another"):
        load_captioner(folder)
    (folder / "captioner.json").write_text(json.dumps({}))
    with pytest.raises(Exception, match="damaged"):
        load_captioner(folder)
    with pytest.raises(InputError, match="no finished captioner"):
        load_captioner(tmp_path / "nothing")


def test_held_classes_have_only_known_words() -> None:
    known, held = held_classes()
    assert (len(known), len(held), len(set(known) & set(held))) == (48, 16, 0)
    assert {word for name in held for word in name.split()} <= {word for name in known for word in name.split()}
    texts = " . ".join(" . ".join(each) for each in load_captioned("smallworld:street:30:held").references)
    assert any(name in texts for name in held)


def test_sentences_without_held_classes_never_name_one(tmp_path: Path) -> None:
    import pyarrow as pa

    from reverie.nets.captioner import names_in

    known, held = held_classes()
    rows = pa.table({"unit": [0] * 200, "position": list(range(200))})

    def named(**how: Any) -> int:
        texts = FromScenes(200, known, **how).open(StepContext(tmp_path, "captions"))(rows)["text"].to_pylist()
        return sum(bool(names_in(text, held)) for text in texts)

    assert named(without=held) == 0 < named()
    with pytest.raises(InputError, match="no scene can begin"):
        FromScenes(3, known, without=known)


def test_sentences_about_scenes_depend_on_their_position_alone(tmp_path: Path) -> None:
    import pyarrow as pa

    context = StepContext(tmp_path, "captions")

    def texts(positions: list[int], **how: Any) -> list[str]:
        rows = pa.table({"unit": [0] * len(positions), "position": positions})
        return FromScenes(100, **how).open(context)(rows)["text"].to_pylist()

    assert texts([3, 5]) == [texts([3])[0], texts([5])[0]]
    assert all("heart" in text for text in texts(list(range(9)), classes=("red heart",)))


# Slips


def support_of(*rows: tuple[str, str, str | None]) -> Support:
    ids, texts, groups = zip(*rows, strict=True)
    return Support(ids, texts, groups, torch.eye(len(rows)), "builtin:clip", "builtin:clip@0")


def test_a_support_set_with_a_test_caption_is_refused_by_its_id() -> None:
    photos = CaptionedImages(["dir/7.jpg", "8.jpg"], [], [["A cat sits."], ["A dog runs.", "A dog."]])
    assert refuse_test_captions(support_of(("a", "a bird", None), ("b", "a tree", "9.jpg")), photos) == 0
    with pytest.raises(InputError, match=r"support sentence b is about the test photo dir/7\.jpg"):
        refuse_test_captions(support_of(("a", "a bird", "9.jpg"), ("b", "anything", "dir/7.jpg")), photos)
    with pytest.raises(InputError, match=r"support sentence b is about the test photo 7\.jpg"):
        refuse_test_captions(support_of(("b", "a cat sits", "7.jpg")), photos)
    # Another set may number its files alike.
    assert refuse_test_captions(support_of(("b", "anything", "other/7.jpg")), photos) == 0
    with pytest.raises(
        InputError, match=r"support sentence c \('a dog RUNS'\) is a reference of the test photo 8\.jpg"
    ):
        refuse_test_captions(support_of(("c", "a dog RUNS", None)), photos)
    # The same words of another photo are chance, and are counted.
    assert refuse_test_captions(support_of(("d", "A dog.", "9.jpg")), photos) == 1


def test_one_photo_is_measured_as_far_as_one_can_be(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    stage: Any = syntic(**SMALL | {"eval_data": "smallworld:street:1"}).step("alignment").stage
    stage.run(StepContext(tmp_path / "run", "alone", ("support", "refine")))
    rows = results.select(results.read(tmp_path / "run" / "results.jsonl"), step="alone")
    assert ("photos", "recall_at_1") in {(row.arm, row.metric) for row in rows}
    assert "mmd" not in {row.metric for row in rows if row.arm in ("photos", "painted")}


def test_a_warm_up_beyond_the_end_is_warned_of(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    stage: Any = syntic(**SMALL | {"warmup_steps": 100, "max_tokens": 3}).step("captioner").stage
    said: list[str] = []
    context = StepContext(
        tmp_path / "run", "again", report=lambda kind, **facts: said.append(str(facts.get("text", "")))
    )
    stage.run(context)
    assert any("1 steps of training lie within the 100 of warm-up" in text for text in said)
    assert any("24 of 24 sentences are cut at 3 tokens" in text for text in said)


def test_a_file_of_several_splits_says_which_to_learn_from(tmp_path: Path) -> None:
    image = {"filename": "a.jpg", "filepath": "val", "split": "test", "sentences": [{"raw": "a red circle"}]}
    more = image | {"split": "train", "sentences": [{"raw": "a blue star"}, {"raw": "a green heart"}]}
    file = tmp_path / "karpathy.json"
    file.write_text(json.dumps({"images": [image, more]}))
    with pytest.raises(InputError, match=r"holds test, train; say what to learn from: --captions-split train"):
        syntic(captions=file)
    corpus: Any = syntic(captions=file, captions_split="train").step("captions").stage
    assert corpus.texts(9) == ["a blue star", "a green heart"]


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("", {}, "is empty"),
        ("\n \n", {}, "no usable caption"),
        ("a red circle\n", {}, "gives one sentence"),
        ("a red circle\nA red circle.\n", {}, "gives one sentence"),
        ("red " * 25_000 + "\n" + "blue " * 20_000, {}, "no usable caption"),
        ("a man rides a horse\na dog sleeps\n", {}, "draws coloured shapes and knows"),
        ("a red circle\na blue star\n", {"sentences": 3}, "not both"),
        ("a red circle\na blue star\n", {"seeds": (1, 1)}, "none twice"),
        ("a red circle\na blue star\n", {"detector": "none", "rivals": ("viecap",)}, "name one: --detector"),
        ("a man\na dog\n", {"painter": "some/painter", "clip": "some/clip"}, "knows coloured shapes only"),
        ("a red circle\na blue star\n", {"captions": None, "captions_split": "train"}, "belongs? to a file"),
        ("a red circle\na blue star\n", {"projection_temperature": 0.0}, "above 0"),
        ("a red circle\na blue star\n", {"refine_lr": -1.0}, "above 0"),
        ("a red circle\na blue star\n", {"width": 30}, "cannot have 4 heads"),
        ("a red circle\na blue star\n", {"lr": -1.0}, "--lr -1.0: give a number above 0"),
        ("a red circle\na blue star\n", {"warmup_steps": -5}, "--warmup-steps -5: give 0 or more"),
        (
            "a red circle\na blue star\n",
            {"label_smoothing": 1.0},
            "--label-smoothing 1.0: give a number from 0 to below 1",
        ),
        ("a red circle\na blue star\n", {"min_score": 2.0}, "is a cosine"),
        ("a red circle\na blue star\n", {"max_support": -1}, "--max-support -1: give 0 or more"),
        ("a red circle\na blue star\n", {"refine_target": 5.0}, "is a cosine"),
        ("a red circle\na blue star\n", {"rivals": ("decap", "decap")}, "name each once"),
    ],
)
def test_slips_are_told_before_any_work(text: str, flags: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text(text)
    with pytest.raises(InputError, match=said):
        call_recipe("syntic", {"captions": tmp_path / "captions.txt"} | flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"eval_data": "smallworld:moon:12"}, "moon"),
        ({"eval_data": "smallworld:street:0"}, "at least 1"),
        ({"eval_data": "smallworld:street:12:other"}, "set of classes"),
        ({"tag_heads": 3}, "tag_heads"),
    ],
)
def test_what_only_a_late_step_would_notice_is_told_before_any_work(
    flags: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises((InputError, ReverieError), match=said):
        run(call_recipe("syntic", SMALL | flags), tmp_path / "run")
    assert not (tmp_path / "run" / "captions.lance").exists()


def test_test_captions_among_the_sentences_are_told_before_any_work(tmp_path: Path) -> None:
    photos = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a red circle"}]}
    (tmp_path / "photos.json").write_text(json.dumps(photos))
    Image.new("RGB", (8, 8)).save(tmp_path / "1.jpg")
    (tmp_path / "own.txt").write_text("a blue star\nA red circle.\n")
    flags = {"eval_data": str(tmp_path / "photos.json"), "eval_images": tmp_path}
    with pytest.raises(InputError, match="is a reference of the test photo 1"):
        call_recipe("syntic", flags | {"captions": tmp_path / "own.txt"})
    with pytest.raises(InputError, match="is about the test photo 1"):
        call_recipe("syntic", flags | {"captions": tmp_path / "photos.json"})


def test_slips_in_python(finished: Path, photos: Path) -> None:
    captioner = load_captioner(finished)
    for wrong in (photos / "0.png", Image.new("RGB", (8, 8)), "0.png", 3):
        with pytest.raises(InputError, match="give a list"):
            captioner(wrong)
    with pytest.raises(InputError, match="no picture"):
        captioner([None])
    with pytest.raises(InputError, match="1 or more"):
        captioner([photos / "0.png"], beams=0)
    own = finished / "weights" / "captioner"
    assert len(load_captioner(finished, support=str(own / "support")).support) == 24
    with pytest.raises(InputError, match="changes nothing"):
        load_captioner(finished / "weights" / "text-features-0", support=own / "support")


def test_missing_photos_and_unknown_sources_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must read smallworld"):
        load_captioned("smallworld:street")
    with pytest.raises(InputError, match="set of classes"):
        load_captioned("smallworld:street:3:other")
    photos = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "id": 5, "caption": "a cat"}],
    }
    (tmp_path / "captions.json").write_text(json.dumps(photos))
    with pytest.raises(InputError, match="--eval-images DIR"):
        load_captioned(str(tmp_path / "captions.json"))
    with pytest.raises(InputError, match=r"1 of 1 photos .* first 1\.jpg"):
        load_captioned(str(tmp_path / "captions.json"), tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.jpg")
    found = load_captioned(str(tmp_path / "captions.json"), tmp_path)
    assert (list(found.names), list(found.references)) == (["1.jpg"], [["a cat"]])


def test_plans_name_what_they_are_asked_for() -> None:
    steps = {step.name: step for step in syntic(seeds=(0, 1), parts=False).steps}
    assert [name for name in steps if "captioner" in name or "syntic" in name] == ["captioner", "syntic-1"]
    with pytest.raises(InputError, match="give sentences"):
        syntic("paper")


def test_the_detector_of_paper_runs_with_what_constraints_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its architecture, small, with the settings that its config on the Hub has, through our own door."""
    assert SCALES["paper"].tags.detector == PUBLIC_DETECTOR == "PekingU/rtdetr_r50vd"
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"^(timm|torchvision)\b", pinned, re.MULTILINE)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "timm" else find(name, *more))
    folder = tiny.save_rt_detr(tmp_path / "detector", layer_type="bottleneck")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["backbone_config"]["model_type"]) == ("rt_detr", "rt_detr_resnet")
    config |= {"backbone": None, "backbone_kwargs": None, "use_timm_backbone": False, "use_pretrained_backbone": False}
    (folder / "config.json").write_text(json.dumps(config))
    preparing = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    preparing["image_processor_type"] = "RTDetrImageProcessor"  # without Pil, as it was saved
    (folder / "preprocessor_config.json").write_text(json.dumps(preparing))
    found = open_detector(str(folder)).find([Image.new("RGB", (40, 20), "red")], 0.0)[0]
    assert {item.name for item in found} <= set(tiny.DETECTED)
    assert found


def test_with_sentences_of_ones_own_the_page_says_that_a_captioner_is_ready(tmp_path: Path) -> None:
    lines = [f"a {size} {colour} circle" for size in ("small", "large") for colour in ("red", "blue", "green")]
    (tmp_path / "own.txt").write_text("\n".join(lines))
    flags = {name: SMALL[name] for name in ("sampler_steps", "epochs", "width", "tag_heads")}
    assert run(call_recipe("syntic", flags | {"captions": tmp_path / "own.txt", "parts": False}), tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "A captioner is ready; it was not measured, as no photos were given." in page
    assert "reverie caption" in page
    assert "not complete" not in page


def test_a_drawn_support_set_is_what_captions_are_projected_on(tmp_path: Path) -> None:
    flags = SMALL | {"max_support": 5, "rivals": (), "detector": "none"}
    assert run(call_recipe("syntic", flags), tmp_path / "run")
    full, drawn = (load_support(tmp_path / "run" / "weights" / name) for name in ("support", "support-drawn"))
    assert (len(full), len(drawn)) == (24, 5)
    assert set(drawn.ids) < set(full.ids)
    assert len(load_captioner(tmp_path / "run").support) == 5


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    flags = "--sentences 60 --sampler-steps 2 --epochs 3 --width 32 --tag-heads 2 --eval-data smallworld:street:12 --no-meteor"

    def numbers(folder: Path) -> dict[tuple[str, str, str], float]:
        return {(row.step, row.arm, row.metric): row.value for row in results.read(folder / "results.jsonl")}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "reverie.cli", "run", "syntic", *flags.split(), "--out", str(folder)]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    for seconds in (12, 16, 20, 24):
        work = start(tmp_path / "killed")
        with contextlib.suppress(subprocess.TimeoutExpired):
            work.wait(seconds)
        work.kill()
        work.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_goes_on_with_more_seeds_as_if_they_had_been_there(tmp_path: Path) -> None:
    few = SMALL | {"parts": False, "rivals": (), "epochs": 3}

    def measured(folder: Path) -> dict[tuple[str, int, str], results.Result]:
        rows = results.select(results.read(folder / "results.jsonl"), step="measure")
        return {(row.arm, row.seed, row.metric): row for row in rows}

    assert run(call_recipe("syntic", few | {"seeds": (0,)}), tmp_path / "grown")
    before = measured(tmp_path / "grown")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "grown" / "captions" / "measure").iterdir()}
    assert run(call_recipe("syntic", few | {"seeds": (0, 1)}), tmp_path / "grown")
    after = measured(tmp_path / "grown")
    assert {seed for _, seed, _ in after} == {0, 1}
    assert all(after[key] == row for key, row in before.items())
    assert all(file.stat().st_mtime_ns == when for file, when in files.items())  # not asked again
    assert run(call_recipe("syntic", few | {"seeds": (0, 1)}), tmp_path / "at-once")
    whole = measured(tmp_path / "at-once")
    assert {key: row.value for key, row in after.items()} == {key: row.value for key, row in whole.items()}
