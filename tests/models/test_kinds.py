"""A model of every kind given for every other: one line that says what it is and what is needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reverie.cli.main import main
from reverie.errors import ModelError
from reverie.models import detector, kinds
from reverie.models.detector import check_detector, open_detector
from reverie.models.encoder import open_backbone, open_encoder
from reverie.models.kinds import check_backbone, check_encoder, check_pipeline, check_writer, kind_of
from reverie.models.names import builtin_names, locate
from reverie.models.painter import open_painter
from reverie.models.token_painter import open_token_painter
from reverie.models.tokenizer import check_tokenizer, open_tokenizer
from reverie.models.writer import open_writer
from tests.models import tiny

KINDS = {
    "clip": "an encoder of images and texts (clip)",
    "siglip": "an encoder of images and texts (siglip)",
    "writer": "a language model (",
    "words": "a text-to-text model (t5)",
    "vit": "a vision model (vit)",
    "detector": "an object detector (rt_detr)",
    "describer": "an image-text-to-text model (paligemma)",
    "painter": "a pipeline that paints (StableDiffusionPipeline)",
    "amused": "a pipeline that paints (AmusedPipeline)",
    "tokenizer": "a network of diffusers (VQModel)",
    "server": "a language model on a server",
}
OPENERS: dict[str, tuple[Callable[[str], object], set[str], str]] = {
    "encoder": (open_encoder, {"clip", "siglip"}, "an encoder of images and texts, such as CLIP or SigLIP"),
    "encoder before work": (check_encoder, {"clip", "siglip"}, "an encoder of images and texts, such as CLIP or SigLIP"),
    "backbone": (open_backbone, {"clip", "siglip", "vit", "detector"}, "a vision model, or an encoder of images and texts"),
    "backbone before work": (check_backbone, {"clip", "siglip", "vit", "detector"}, "a vision model, or an encoder of images and texts"),
    "writer": (open_writer, {"writer", "words", "server"}, "a language model"),
    "writer before work": (check_writer, {"writer", "words", "server"}, "a language model"),
    "detector": (open_detector, {"detector"}, "an object detector such as RT-DETR, DETR or YOLOS"),
    "detector before work": (check_detector, {"detector"}, "an object detector such as RT-DETR, DETR or YOLOS"),
    "painter": (open_painter, {"painter", "amused"}, "a text-to-image pipeline of diffusers"),
    "painter before work": (check_pipeline, {"painter", "amused"}, "a text-to-image pipeline of diffusers"),
    "token painter": (open_token_painter, {"amused"}, "a text-to-image pipeline of diffusers"),
    "tokenizer": (open_tokenizer, {"amused", "tokenizer"}, "a tokenizer of images, which is a VQModel of diffusers"),
    "tokenizer before work": (check_tokenizer, {"amused", "tokenizer"}, "a tokenizer of images, which is a VQModel of diffusers"),
}  # fmt: skip
OTHERWISE = {  # a pipeline, but without the part that is needed
    ("token painter", "painter"): "paints no tokens",
    ("tokenizer", "painter"): "has no VQModel",
    ("tokenizer before work", "painter"): "has no VQModel",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small model of every kind."""
    root = tmp_path_factory.mktemp("kinds")
    found = {"server": "openai:m@http://localhost:1/v1"}
    for name, save in {
        "clip": tiny.save_clip, "siglip": tiny.save_siglip, "writer": tiny.save_writer, "words": tiny.save_seq2seq, "detector": tiny.save_rt_detr,
        "amused": tiny.save_amused, "vit": tiny.save_vit,
    }.items():  # fmt: skip
        save(root / name)
        found[name] = str(root / name)
    found["tokenizer"] = str(shutil.copytree(root / "amused" / "vqvae", root / "tokenizer"))
    return found | {"painter": "builtin:painter", "describer": "builtin:describer"}


def test_every_kind_is_known_by_its_small_files(models: dict[str, str]) -> None:
    assert models.keys() == KINDS.keys()
    for kind, name in models.items():
        assert KINDS[kind] in str(kind_of(locate(name)))


@pytest.mark.parametrize("opener", OPENERS)
def test_a_model_of_another_kind_is_refused_by_what_it_is(opener: str, models: dict[str, str]) -> None:
    act, fits, needed = OPENERS[opener]
    for kind, name in models.items():
        if kind in fits:
            continue
        with pytest.raises(ModelError) as refused:
            act(name)
        line = str(refused.value)
        assert "\n" not in line
        if (other := OTHERWISE.get((opener, kind))) is not None:
            assert other in line
        else:
            assert line.startswith(f"{name} is {KINDS[kind]}"), line
            assert line.endswith(f"; what is needed here is {needed}"), line


@pytest.mark.parametrize(
    ("kind", "check", "opened"),
    [
        ("clip", check_encoder, open_encoder),
        ("siglip", check_encoder, open_encoder),
        ("writer", check_writer, open_writer),
        ("words", check_writer, open_writer),
        ("detector", check_detector, open_detector),
    ],
)
def test_a_model_that_lacks_a_weight_is_told_before_any_work(
    kind: str,
    check: Callable[[str], object],
    opened: Callable[[str], object],
    models: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the names in its files alone, and in the words of who loads it; another shape is told too."""
    folder = shutil.copytree(models[kind], tmp_path / kind)
    check(str(folder))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    gone = sorted(tensors)[len(tensors) // 2]
    save_file({name: value for name, value in tensors.items() if name != gone}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of its weights") as told:
        check(str(folder))
    monkeypatch.setattr(kinds, "check_weight_names", lambda *_: None)
    monkeypatch.setattr(detector, "check_weight_names", lambda *_: None)
    with pytest.raises(ModelError) as late:
        opened(str(folder))
    assert str(late.value) == str(told.value)
    monkeypatch.undo()
    save_file(tensors | {gone: torch.zeros(3, 5, 7)}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        check(str(folder))


ARGUMENTS = {  # words of a command with a model in them -> builtin models that are of the right kind
    "make --classes c.txt --painter MODEL": {"painter", "painter-alt", "token-painter"},
    "make --classes c.txt --clip MODEL": {"clip"},
    "make --classes c.txt --writer MODEL": {"writer", "words"},
    "make --classes c.txt --words MODEL": {"writer", "words"},
    "make --as tokens --classes c.txt --painter MODEL": {"token-painter"},
    "run stablerep --clip MODEL": {"clip"},
    "run stablerep --painter MODEL": {"painter", "painter-alt", "token-painter"},
    "run zero_shot --clip MODEL": {"clip"},
    "run zero_shot --painter MODEL": {"painter", "painter-alt", "token-painter"},
    "run zero_shot --words MODEL": {"writer", "words"},
    "run few_shot --clip MODEL": {"clip"},
    "run synthetic_pretraining --painter MODEL": {"painter", "painter-alt", "token-painter"},
    "run syntic --clip MODEL": {"clip"},
    "run syntic --detector MODEL": {"detector"},
    "run syntic --painter MODEL": {"painter", "painter-alt", "token-painter"},
    "evaluate transfer MODEL smallworld:street:4:4": {"clip", "detector"},
    "evaluate diversity c.txt --encoder MODEL": {"clip"},
    "tokenize c --tokenizer MODEL": {"tokenizer", "token-painter"},
    "predict MODEL x.png": set(),
    "caption MODEL x.png": set(),
    "recaption c --captioner MODEL": {"describer"},
}


@pytest.mark.slow
@pytest.mark.parametrize("words", ARGUMENTS)
def test_every_model_argument_of_the_command_line_with_every_other_builtin(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every_other_builtin(words, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    "words", ["make --classes c.txt --clip MODEL", "evaluate transfer MODEL smallworld:street:4:4"]
)
def test_a_model_argument_with_every_other_builtin(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every_other_builtin(words, tmp_path, monkeypatch, capsys)


def every_other_builtin(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and nothing made."""
    monkeypatch.chdir(tmp_path)
    Path("c.txt").write_text("red circle\nblue star\n")
    Path("c").mkdir()
    (tmp_path / "x.png").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    for name in builtin_names():
        if name in ARGUMENTS[words]:
            continue
        with pytest.raises(SystemExit) as stop:
            main(words.replace("MODEL", f"builtin:{name}").split())
        said = capsys.readouterr()
        assert stop.value.code == 2, (name, said)
        assert said.out == "", name
        assert len([line for line in said.err.splitlines() if line.startswith("reverie: ")]) == 1, (name, said.err)
        line = said.err.splitlines()[-1]
        assert f"builtin:{name}" in line, (name, line)
        assert "No such file" not in line, (name, line)
        assert sorted(tmp_path.rglob("*")) == before, (name, line)
