"""``reverie predict`` and the measuring of classifiers with whatever people have on their disks."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from reverie import pairs
from reverie.arms import Arm
from reverie.cli.main import main
from reverie.errors import BrokenImage, InputError
from reverie.evaluate.classifiers import MeasureClassifiers
from reverie.filters.per_class import KeepPerClass
from reverie.learn.tune_classifier import TuneClassifier
from reverie.models.classifier import load_classifier, save_classifier
from reverie.models.encoder import open_encoder
from reverie.stage import StepContext
from reverie.store import results, tables
from tests.models import tiny

CLASSES = ("red", "green", "blue")
Say = Callable[..., tuple[int, str, str]]

# The same photo as people keep it: file name -> how it is saved.
KINDS = {
    "grey.png": lambda photo: photo.convert("L"),
    "grey.jpg": lambda photo: photo.convert("L"),
    "grey16.png": lambda photo: Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257),
    "rgba.png": lambda photo: photo.convert("RGBA"),
    "grey_alpha.png": lambda photo: photo.convert("LA"),
    "cmyk.jpg": lambda photo: photo.convert("CMYK"),
    "palette.png": lambda photo: photo.convert("P"),
    "palette.gif": lambda photo: photo.convert("P"),
    "black_and_white.png": lambda photo: photo.convert("1"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a finished classifier on a tiny encoder."""
    folder = tmp_path_factory.mktemp("predict")
    encoder = open_encoder(str(tiny.save_clip(folder / "clip")))
    torch.manual_seed(1)
    save_file({"weight": 5 * torch.randn(3, 8), "bias": torch.zeros(3)}, folder / "head.safetensors")
    about = {
        "classes": CLASSES,
        "encoder": str(folder / "clip"),
        "revision": encoder.revision,
        "templates": ["{class}"],
    }
    (folder / "run" / "weights").mkdir(parents=True)
    save_classifier(folder / "run" / "weights" / "classifier", folder / "head.safetensors", about)
    return folder / "run"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    photo = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((40, 30))
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, change in KINDS.items():
        change(photo).save(folder / name)
    return folder


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def typed(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--device", "cpu"])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return typed


def plain(file: Path) -> Image.Image:
    """What a person sees, in red, green and blue."""
    with Image.open(file) as photo:
        if photo.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(photo) // 257).astype(np.uint8)).convert("RGB")
        return photo.convert("RGB")


def test_photos_of_every_mode(run: Path, photos: Path, say: Say) -> None:
    code, out, err = say("predict", run, photos, "--json")
    assert code == 0, err
    said = {Path(line["photo"]).name: line["probabilities"] for line in map(json.loads, out.splitlines())}
    assert said.keys() == KINDS.keys()
    classifier = load_classifier(run)
    for name in KINDS:
        (expected,) = classifier([plain(photos / name)])
        assert list(said[name].values()) == pytest.approx(expected.probabilities, abs=1e-5), name
    assert len({tuple(chances.values()) for chances in said.values()}) >= 3  # not one answer to everything


def test_pictures_and_arrays_in_python(run: Path, photos: Path) -> None:
    classifier = load_classifier(run)
    grey = np.asarray(plain(photos / "grey.png"))
    answers = classifier([photos / "grey.png", str(photos / "grey.png"), (photos / "grey.png").read_bytes()])
    answers += classifier([Image.open(photos / "grey.png"), grey, grey[..., 0], np.dstack([grey, grey[..., :1]])])
    for answer in answers:
        assert answer.probabilities == pytest.approx(answers[0].probabilities, abs=1e-6)
    for wrong in (grey / 255, grey[None], grey[0, 0]):
        with pytest.raises(InputError, match="give uint8"):
            classifier([wrong])


def test_a_broken_photo_among_others(run: Path, photos: Path, say: Say) -> None:
    """The others are answered, and the one is named: one line, exit code 2."""
    (photos / ".hidden").mkdir()
    for hidden in (".hidden/thumb.png", "._sidecar.png"):  # as some systems leave them; nobody means those
        (photos / hidden).write_bytes(b"no picture")
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "empty.png").write_bytes(b"")
    (photos / "grey.jpg").write_bytes((photos / "grey.jpg").read_bytes()[:200])
    code, out, err = say("predict", run, photos, "--json")
    assert code == 2
    assert len(out.splitlines()) == len(KINDS) - 1
    (line,) = err.splitlines()
    assert line.startswith("reverie: 3 of 11 photos cannot be read: ")
    assert all(name in line for name in ("broken.jpg", "empty.png", "grey.jpg"))


def test_what_is_not_there(run: Path, tmp_path: Path, say: Say) -> None:
    (tmp_path / "empty").mkdir()
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    for words, said in (
        ((run, tmp_path / "empty"), "there is no picture in"),
        ((run, tmp_path / "nothing.jpg"), "there is no "),
        ((tmp_path / "empty", photo), "there is no finished classifier at"),
        ((tmp_path / "nowhere", photo), "there is no finished classifier at"),
    ):
        code, out, err = say("predict", *words)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert said in line


def test_a_run_that_has_no_classifier_yet(tmp_path: Path, say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "weights" / "classifier.tmp").mkdir(parents=True)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    assert "no finished classifier" in say("predict", tmp_path / "run", photo)[2]
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "run"), "--to", "onnx", "--out", str(tmp_path / "x.onnx")])
    assert "no finished classifier" in capsys.readouterr().err


def as_parquet(folder: Path, images: list[bytes], labels: list[str]) -> Path:
    folder.mkdir()
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "test.parquet")
    return folder


def test_measuring_on_photos_of_every_mode(run: Path, photos: Path, tmp_path: Path) -> None:
    files = [photos / name for name in KINDS]
    labels = [CLASSES[number % 3] for number in range(len(files))]
    source = as_parquet(tmp_path / "set", [file.read_bytes() for file in files], labels)
    MeasureClassifiers((Arm("it", "it", step="classifier"),), CLASSES, str(source)).run(StepContext(run, "measure"))
    (found,) = results.select(results.read(run / "results.jsonl"), metric="top1")
    right = [answer.label == label for answer, label in zip(load_classifier(run)(files), labels, strict=True)]
    assert found.value == pytest.approx(np.mean(right))


def test_measuring_names_the_photo_that_is_broken(run: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    source = as_parquet(tmp_path / "set", [buffer.getvalue(), b"no picture"], ["red", "blue"])
    with pytest.raises(BrokenImage, match=r"image 1: not a JPEG.*10 bytes"):
        MeasureClassifiers((Arm("it", "it", step="classifier"),), CLASSES, str(source)).run(StepContext(run, "measure"))


def test_photos_whose_labels_differ_from_the_classes_by_case(run: Path, tmp_path: Path) -> None:
    """Nothing is guessed: 'Red' may be another class than 'red'."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    source = as_parquet(tmp_path / "set", [buffer.getvalue()] * 2, ["Red", "blue"])
    with pytest.raises(InputError, match="Red"):
        MeasureClassifiers((Arm("it", "it", step="classifier"),), CLASSES, str(source)).run(StepContext(run, "measure"))


def test_a_class_of_which_no_image_passes(tmp_path: Path) -> None:
    """A warning; the run goes on, and the class is known by its name alone."""
    encoder = tiny.save_clip(tmp_path / "clip")
    folder, events = tmp_path / "run", []
    rows = []
    for number, (label, colour) in enumerate([("red", (200, 0, 0))] * 4 + [("blue", (0, 0, 200))] * 2):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
        name = f"{number:016x}"
        row = {"pair_id": f"{name}-000", "caption_id": name, "copy": 0, "unit": 0, "label": label, "status": "ok"}
        rows.append(row | {"image": buffer.getvalue(), "width": 16, "height": 16})
    tables.append_unit(folder / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    scores = {"pair_id": [row["pair_id"] for row in rows], "unit": [0] * 6}
    scores["clip_confidence"] = pa.array(
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.1], pa.float32()
    )  # 0.5 is chance, and not above it
    tables.append_unit(folder / "columns" / "confidence.lance", 0, pa.table(scores))
    tables.add_columns(folder / "pairs.lance", folder / "columns" / "confidence.lance")
    context = StepContext(folder, "keep", report=lambda kind, **facts: events.append((kind, facts)))
    KeepPerClass(("red", "blue")).run(context)
    assert [facts["text"] for kind, facts in events if kind == "warning" and "'blue'" in facts["text"]]
    TuneClassifier(("red", "blue"), ("a photo of a {class}",), str(encoder), epochs=2, batch=4).run(
        StepContext(folder, "classifier")
    )
    (answer,) = load_classifier(folder)([Image.new("RGB", (16, 16))])
    assert len(answer.probabilities) == 2
    assert sum(answer.probabilities) == pytest.approx(1)
