"""From nothing to a painter that diffusers opens, at a size that takes seconds."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from reverie.builtin import pieces, train
from reverie.builtin.describer import LearnToDescribe
from reverie.errors import InputError
from reverie.learn.describe import examples
from reverie.models import names
from reverie.models.describer import Decoding, asking_of, open_describer
from reverie.models.names import BUILTIN, locate
from reverie.models.painter import open_painter
from reverie.models.pretrained import load_processor, load_tensors
from reverie.models.token_painter import open_token_painter, painted_ids
from reverie.models.tokenizer import open_tokenizer
from reverie.smallworld.scene import Scene, Thing
from tests.builtin.tiny_train import SETTINGS, make_tiny, stopped_after


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    make_tiny(monkeypatch.setattr)
    monkeypatch.setattr(train, "BUILTIN", BUILTIN)


def curve(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_decoder_painter_and_alt_come_out_as_pieces_that_paint(tmp_path):
    shipped = {file: file.stat().st_mtime_ns for file in BUILTIN.rglob("*")}
    train.main(tmp_path, ("painter-alt", "painter", "decoder"), out=tmp_path / "out", **SETTINGS)
    assert {file: file.stat().st_mtime_ns for file in BUILTIN.rglob("*")} == shipped
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["painter-alt.zip.0", "painter.zip.0"]
    pieces.unpack(tmp_path / "out", tmp_path / "models")
    for name in ("painter", "painter-alt"):
        told = [file.read_text() for file in (tmp_path / "shipped" / name).rglob("*.json")]
        assert not any(str(tmp_path) in text for text in told)
        painter = open_painter(str(tmp_path / "models" / name))
        assert painter.pipe.unet.config.block_out_channels == [8, 16, 16]
        assert painter.pipe.unet.config.addition_embed_type == "text"
        images = painter.paint(painter.encode(["a red circle"]), [1], steps=2)
        assert images.shape == (1, 64, 64, 3)
        log = json.loads((tmp_path / "models" / name / "training.json").read_text())
        assert (log["steps"], log["learner"]["text_time"]) == (3, True)
    assert log["before"][0]["steps"] == 3  # of the painter that it began from
    # The encoder is that of the package, so that latents mean the same; the decoder has learnt.
    old = AutoencoderKL.from_pretrained(BUILTIN / "painter" / "vae").state_dict()
    new = AutoencoderKL.from_pretrained(tmp_path / "models" / "painter" / "vae").state_dict()
    same = {name.split(".")[0] for name in old if torch.equal(old[name].half(), new[name].half())}
    changed = {name.split(".")[0] for name in old if not torch.equal(old[name].half(), new[name].half())}
    assert {"encoder", "quant_conv"} <= same - changed
    assert changed <= {"decoder", "post_quant_conv"}
    assert "decoder" in changed


def test_minutes_end_it_with_a_rate_of_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "MARGIN_S", 0.0)
    train.main(tmp_path, ("painter",), minutes=0.12, **SETTINGS)
    rows = curve(tmp_path / "painter")
    assert rows[-1]["lr"] == 0.0
    pieces.unpack(tmp_path / "out", tmp_path / "models")
    StableDiffusionPipeline.from_pretrained(tmp_path / "models" / "painter")
    train.main(tmp_path, ("painter",), minutes=0.12, **SETTINGS)  # there already
    assert curve(tmp_path / "painter") == rows


def test_what_is_not_finished_is_written_early(tmp_path, monkeypatch):
    monkeypatch.setattr(train.Curriculum, "iterate", stopped_after(2, train.Curriculum.iterate))
    with pytest.raises(ConnectionError):
        train.main(tmp_path, ("painter",), out=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "painter" / "weights").exists()
    pieces.unpack(tmp_path / "out", tmp_path / "models")
    StableDiffusionPipeline.from_pretrained(tmp_path / "models" / "painter")


def test_further_begins_at_the_package_and_widens_what_is_smaller(tmp_path, monkeypatch):
    fine, middle, coarse = StableDiffusionPipeline.from_pretrained(BUILTIN / "painter").unet.config.block_out_channels
    monkeypatch.setattr(train, "CHANNELS", (2 * fine, middle, coarse))
    train.main(tmp_path, ("painter",), further=1, out=tmp_path / "out", **SETTINGS)
    log = json.loads((tmp_path / "painter-further" / "weights" / "training.json").read_text())
    assert len(log["before"]) == 1
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "painter-further" / "weights")
    assert pipe.unet.config.block_out_channels == [2 * fine, middle, coarse]


def test_a_tokenizer_and_a_painter_of_its_ids_come_out(tmp_path):
    train.main(tmp_path, ("token-painter", "tokenizer", "token-reader"), out=tmp_path / "out", **SETTINGS)
    pieces.unpack(tmp_path / "out", tmp_path / "models")
    tokenizer = open_tokenizer(str(tmp_path / "models" / "tokenizer"))
    assert (tokenizer.size_px, tokenizer.factor, tokenizer.num_codes) == (64, 8, 32)
    assert tokenizer.ids(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 8, 8)
    log = json.loads((tmp_path / "models" / "tokenizer" / "training.json").read_text())
    assert (log["steps"], log["learner"]["codes"], log["learner"]["start"]) == (3, 32, "builtin:painter")
    assert str(BUILTIN) not in (tmp_path / "image-tokenizer" / "latest" / "state.json").read_text()
    assert 0 < log["last"]["codebook_use"] <= 1
    painter = open_token_painter(str(tmp_path / "models" / "token-painter"))
    assert painter.tokenizer.codebook_name == tokenizer.codebook_name
    assert painted_ids(painter, ["a red circle"], [1], 3.0, 2).shape == (1, 8, 8)
    log = json.loads((tmp_path / "models" / "token-painter" / "training.json").read_text())
    assert (log["steps"], log["learner"]["tokens"]["width"], log["batches"]["batch"]) == (3, 16, 4)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("tokenizer",), ("decoder",), ("painter", "token-reader", "token-painter")])
def test_a_training_goes_on_where_the_package_lies_elsewhere(parts, tmp_path, monkeypatch):
    """What it begins from is that of the package, and no path of it is a setting."""
    train.main(tmp_path / "work", parts, out=tmp_path / "out", **SETTINGS)
    monkeypatch.setattr(names, "BUILTIN", shutil.copytree(BUILTIN, tmp_path / "elsewhere"))
    monkeypatch.setattr(train, "BUILTIN", tmp_path / "elsewhere")
    trained = list((tmp_path / "work").glob("*/weights"))
    assert len(trained) == len(parts)
    for weights in trained:
        assert str(BUILTIN) not in (weights.parent / "latest" / "state.json").read_text()
        shutil.rmtree(weights)
    train.main(
        tmp_path / "work", parts, out=tmp_path / "out", **SETTINGS
    )  # would refuse a checkpoint of other settings
    assert all(weights.exists() for weights in trained)


def test_a_describer_comes_out_that_is_asked_as_it_was_taught(tmp_path):
    train.main(tmp_path, ("describer",), out=tmp_path / "out", **SETTINGS)
    pieces.unpack(tmp_path / "out", tmp_path / "models")
    folder = tmp_path / "models" / "describer"
    pictures = [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for i in range(2)
    ]
    described = open_describer(folder).describe(pictures, [1, 2], "long", Decoding(5, 1.0))
    assert len(described) == 2
    assert json.loads((folder / "training.json").read_text())["steps"] == 3
    # What it learned from is what its processor makes of the same pictures and captions.
    learner = LearnToDescribe(str(tmp_path / "describer-tokenizer"), **train.DESCRIBER)
    styles, texts = ["short", "long"], ["a red circle", "a small red circle on the left , on a white background"]
    place = locate(str(folder))
    theirs = examples(load_processor(place), asking_of(place), pictures, styles, texts)
    for name, ours in learner.inputs(styles, texts).items():
        assert torch.equal(theirs[name], ours), name
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(theirs["pixel_values"], pixels, atol=1e-5, rtol=0)


def test_a_describer_goes_on_from_the_package(tmp_path):
    train.main(tmp_path, ("describer",), further=1, out=tmp_path / "out", **SETTINGS)
    weights = tmp_path / "describer-further" / "weights"
    log = json.loads((weights / "training.json").read_text())
    assert (len(log["before"]), log["steps"], log["learner"]["start"]) == (1, 1, "builtin:describer")
    shipped = load_tensors(BUILTIN / "describer" / "model.safetensors")
    for name, value in load_tensors(weights / "model.safetensors").items():
        torch.testing.assert_close(value, shipped[name].float(), atol=1e-4, rtol=0)  # one step, of a small rate


@pytest.mark.slow
def test_two_processes_train_one_painter(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    words = [
        sys.executable,
        "-m",
        "tests.builtin.tiny_train",
        str(tmp_path),
        "decoder",
        "painter",
        "reader",
        "bound",
        "taught",
        "token-reader",
        "token-painter",
    ]
    processes = [
        subprocess.Popen(
            words,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [row["step"] for row in curve(tmp_path / "painter")] == [3]
    log = json.loads((tmp_path / "painter" / "weights" / "training.json").read_text())
    assert log["batches"]["processes"] == 2
    log = json.loads((tmp_path / "taught" / "weights" / "training.json").read_text())
    assert (log["steps"], log["batches"]["processes"], log["before"][0]["steps"]) == (2, 2, 3)
    log = json.loads((tmp_path / "token-painter" / "weights" / "training.json").read_text())
    assert (log["steps"], log["batches"]["processes"]) == (3, 2)
    pieces.unpack(tmp_path / "out", tmp_path / "models")
    StableDiffusionPipeline.from_pretrained(tmp_path / "models" / "painter")


def test_slips_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="minutes 0 must be above 0"):
        train.main(tmp_path, minutes=0)
    for other in (float("nan"), float("inf")):  # which no clock reaches
        with pytest.raises(InputError, match="must be above 0"):
            train.main(tmp_path, minutes=other)
    with pytest.raises(InputError, match="no device 'gpu' here"):  # before minutes of rendering
        train.main(tmp_path, device="gpu")
    with pytest.raises(InputError, match="taught wants a reader to teach it"):
        train.main(tmp_path, ("taught",))
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="num_scenes below 12"):
        train.main(tmp_path, num_scenes=3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="clip: one process trains it"):
        train.main(tmp_path, ("clip", "painter"))


def test_the_same_encoder_has_the_same_name_in_half_precision(tmp_path):
    vae = AutoencoderKL.from_pretrained(BUILTIN / "painter" / "vae")
    vae.save_pretrained(tmp_path / "full")
    assert train._encoder(tmp_path / "full") == train._encoder(BUILTIN / "painter" / "vae")
    vae.encoder.conv_in.weight.data += 0.1
    vae.save_pretrained(tmp_path / "other")
    assert train._encoder(tmp_path / "other") != train._encoder(tmp_path / "full")


def test_bf16_is_for_what_is_quick_in_it(tmp_path, monkeypatch):
    for quick, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(train.torch.cpu, "get_capabilities", lambda quick=quick: {"avx512_bf16": quick})
        assert train.Work(tmp_path).fit(train.PAINTER_FIT).precision == precision
    gpu = train.Work(tmp_path, device="cuda")
    assert gpu.fit(train.PAINTER_FIT, 7).precision == "bf16"
    assert gpu.fit(train.PAINTER_FIT, 7).steps == 7
    assert np.isclose(gpu.fit(train.PAINTER_FIT).lr, 2 * train.PAINTER_FIT.lr)


def test_no_model_that_ships_names_a_place_on_a_machine():
    for file in BUILTIN.rglob("*.json"):
        if file.name != "tokenizer.json":  # words, of which "/" may be one
            told = re.findall(r'"(?:/|[A-Za-z]:\\)[^"]*"', file.read_text(encoding="utf-8"))
            assert not told, (file, told)


def test_places_of_things_weigh_more() -> None:
    scene = Scene((Thing("circle", "red", "small", x=0.25, y=0.5, radius=0.1),), "white")
    (found,) = train._weights([scene], 8)
    heavy = {(row, column) for row, column in (found > 1).nonzero().tolist()}
    # The middles of places are 1/16, 3/16, ... apart from the edge; the circle reaches 0.1 around row 4.0, column 2.0.
    assert heavy == {(3, 1), (3, 2), (4, 1), (4, 2)}
    assert set(found.unique().tolist()) == {1.0, train.THINGS_WEIGH}
