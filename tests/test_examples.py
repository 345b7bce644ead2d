"""The scripts in examples/, run as they are, in an empty folder."""

from __future__ import annotations

import runpy
import sys
import tarfile
from pathlib import Path

import pytest

import reverie
from reverie.cli.main import main

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Runs an example and gives back what it left in its names, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *words])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__"), capsys.readouterr().out

    return run


def test_every_example_is_named_by_a_test():
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")]
    assert [p.name for p in sorted(EXAMPLES.glob("*.py")) if not any(p.name in text for text in tests)] == []


def test_an_encoder_and_plain_pytorch(example):
    names, said = example("stablerep_encoder.py")
    assert names["run"].is_complete
    assert names["features"].shape == (64, 256)
    assert said.startswith("64 pictures")
    assert names["right"] > 1 / len(names["CLASSES"])


def test_a_classifier_from_class_names(example):
    names, said = example("classifier.py")
    assert said.splitlines()[-1] == "('red circle', 'blue star', 'green square')"
    assert len(said.splitlines()) == 1 + len(names["run"].pairs.where("kept"))
    card = Path("shared/classifier/README.md").read_text(encoding="utf-8")
    assert "| builtin:clip | Apache-2.0 |" in card


def test_a_captioner_from_sentences(example):
    _, said = example("captioner.py")
    assert len(said.splitlines()) == 12
    assert "nearest known sentence: 'a " in said


def test_a_filter(example):
    names, said = example("own_filter.py")
    pairs = names["run"].pairs.to_pandas(["caption_id", "colourful", "kept"])
    assert pairs["kept"].sum() == len(said.splitlines()) == 4
    for _, group in pairs.groupby("caption_id"):
        assert group[group["kept"]]["colourful"].min() >= group[~group["kept"]]["colourful"].max()


def test_a_recipe_by_python_and_by_command(example, tmp_path, capsys):
    _, said = example("own_recipe.py")
    assert said.count("a blue star") == 2
    with pytest.raises(SystemExit) as ended:
        main(["run", str(EXAMPLES / "own_recipe.py"), "--steps", "1", "--per-caption", "1", "--out", "runs/command"])
    assert ended.value.code == 0
    assert len(reverie.open_run("runs/command").pairs) == 3


def test_captions_of_classes_and_without_any(example):
    _, said = example("class_captions.py")
    assert "red circle" in said
    # The writer is small and repeats itself: what repeats is left out with a reason, and each class keeps some.
    rows = reverie.open_run("runs/asked").captions.to_pandas(["label", "status", "reason"])
    assert len(rows) >= 10  # a caption that was left out is asked for again
    kept = rows[rows["status"] == "ok"]
    assert kept.groupby("label").size().min() >= 2
    assert rows[rows["status"] != "ok"]["reason"].str.len().min() > 0 or len(kept) == len(rows)
    command = ["run", str(EXAMPLES / "class_captions.py"), "--no-classes", "3", "--tries", "1", "--dtype", "float32"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", "runs/not-asked"])
    assert ended.value.code == 0
    assert set(reverie.open_run("runs/not-asked").captions.to_pandas(["label"])["label"]) == {None}


def test_images_to_webdataset(example):
    example("images_to_webdataset.py")
    with tarfile.open("shards/00000.tar") as shard:
        texts = {shard.extractfile(name).read() for name in shard.getnames() if name.endswith(".txt")}
    assert texts == {f"a photo of something {colour}".encode() for colour in ("red", "green", "blue")}
