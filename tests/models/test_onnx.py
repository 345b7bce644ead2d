"""A classifier as an ONNX file must answer as it does in torch, on photos of every size and mode."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors.torch import save_file

from reverie.cli.main import main
from reverie.errors import FolderInUse, InputError, MissingExtra, ModelError
from reverie.models import onnx
from reverie.models.classifier import Cache, Classifier, load_classifier, save_classifier
from reverie.models.encoder import open_encoder
from reverie.models.onnx import export_onnx, square
from tests.models import tiny

CLASSES = ["red circle", 'naïve "cat"', "dog"]


def packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed; pip install 'reverie[onnx]'")


def classifier_folder(folder: Path, encoder: Path, cache: bool = False) -> Path:
    """A classifier folder with a random head of the usual size."""
    opened = open_encoder(str(encoder))
    d = opened.texts(["a"]).shape[1]
    rows = F.normalize(torch.randn(6, d), dim=1)
    save_file({"weight": 20 * rows[:3], "bias": torch.tensor([0.0, 1.0, -1.0])}, folder / "head.safetensors")
    about = {"classes": CLASSES, "encoder": str(encoder), "revision": opened.revision, "templates": ["{class}"]}
    shots = Cache(rows[3:], torch.tensor([2, 0, 2]), alpha=4.0) if cache else None
    save_classifier(folder / "classifier", folder / "head.safetensors", about, shots)
    return folder / "classifier"


def photos() -> list[Image.Image]:
    """Of many sizes and modes; the shorter side is below, at and above that of the encoder."""
    draw = np.random.default_rng(0)
    made = [
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((16, 16), (9, 31), (40, 23), (16, 50), (101, 37))
    ]
    made += [made[2].convert(mode) for mode in ("L", "RGBA", "CMYK", "P", "1")]
    return [*made, Image.fromarray(draw.integers(0, 65536, (20, 30), dtype=np.uint16))]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("onnx")
    return classifier_folder(folder, tiny.save_clip(folder / "clip"))


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where real shots vote beside the head."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("onnx")
    return classifier_folder(folder, tiny.save_clip(folder / "clip"), cache=True)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose photos are squashed into the square, not cut."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("onnx")
    encoder = tiny.save_siglip(folder / "sig")
    transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(encoder)
    return classifier_folder(folder, encoder)


@pytest.mark.parametrize("kind", ["clip", "siglip", "cached"])
def test_the_file_answers_as_torch_does(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    packages()
    import onnxruntime

    classifier, file = load_classifier(request.getfixturevalue(kind)), tmp_path / "new" / "it.onnx"
    assert export_onnx(classifier, file) < 1e-5
    assert [path.name for path in file.parent.iterdir()] == ["it.onnx"]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == CLASSES
    assert about["revision"] == classifier.encoder.revision
    side, edge = int(about["side"]), int(about["edge"])
    assert (edge == 0) == (kind == "siglip")
    pixels = np.stack([square(photo, side, edge, about["resample"]) for photo in photos()])
    answers = classifier(photos())
    files = [
        tmp_path / f"{number}.{'tiff' if photo.mode == 'CMYK' else 'png'}" for number, photo in enumerate(photos())
    ]
    for file_of, photo in zip(files, photos(), strict=True):
        photo.save(file_of)
    for of_file, of_picture in zip(classifier(files), answers, strict=True):
        np.testing.assert_allclose(of_file.probabilities, of_picture.probabilities, atol=1e-5)
    for start, stop in ((0, 1), (1, len(pixels))):  # batches of any size
        logits, chances = session.run(["logits", "probabilities"], {"pixels": pixels[start:stop]})
        expected = np.array([answer.probabilities for answer in answers[start:stop]])
        np.testing.assert_allclose(chances, expected, atol=1e-4)
        np.testing.assert_allclose(logits - logits[:, :1], np.log(expected / expected[:, :1]), atol=1e-3)
    # Something to tell apart; else equal answers would be no wonder.
    chances = np.array([answer.probabilities for answer in answers])
    assert np.ptp(np.log(chances[:, 1:] / chances[:, :1]), axis=0).max() > 0.1


def test_on_the_command_line(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages()
    words = ["export", str(clip), "--to", "onnx", "--out", str(tmp_path / "x.onnx")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert "3 classes; pixels uint8 (batch, 16, 16, 3)" in capsys.readouterr().out
    for further, said in (([], "there already"), (["--where", "kept"], "no pairs")):
        with pytest.raises(SystemExit) as ended:
            main([*words, *further])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_a_preparation_that_it_does_not_know_is_refused(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong numbers with a nod would be worse than no file."""
    packages()
    classifier = load_classifier(clip)
    monkeypatch.setattr(type(classifier.encoder), "preparation", property(lambda _: ((0.9,) * 3, (0.1,) * 3, 16)))
    with pytest.raises(ModelError, match="would differ by"):
        export_onnx(classifier, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told_first(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages()

    def never(_: Classifier) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(onnx, "_program", never)
    classifier = load_classifier(clip)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(FolderInUse, match="there already"):
        export_onnx(classifier, tmp_path / "there")
    with pytest.raises(InputError, match="cannot write"):
        export_onnx(classifier, tmp_path / "there" / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"pip install 'reverie\[onnx\]'"):
        export_onnx(classifier, tmp_path / "x.onnx")
    assert (tmp_path / "there").read_text() == "mine"
