"""A model through a folder of small files and back."""

import os
import subprocess
import sys

import pytest

from reverie.builtin import pieces
from reverie.errors import InputError


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_there_and_back_and_shorter_the_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 4096)
    model = tmp_path / "model"
    (model / "unet").mkdir(parents=True)
    (model / "unet" / "weights").write_bytes(os.urandom(9000))
    (model / "config.json").write_text("{}")
    pieces.pack(model, tmp_path / "out", "painter")
    pieces.pack(model, tmp_path / "out", "painter-alt")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        *(f"painter-alt.zip.{index}" for index in range(3)),
        *(f"painter.zip.{index}" for index in range(3)),
    ]
    assert all(file.stat().st_size <= 4096 for file in (tmp_path / "out").iterdir())
    pieces.unpack(tmp_path / "out", tmp_path / "models")
    assert files(tmp_path / "models" / "painter") == files(model) == files(tmp_path / "models" / "painter-alt")
    (model / "unet" / "weights").write_bytes(b"short")
    pieces.pack(model, tmp_path / "out", "painter")
    assert [file.name for file in (tmp_path / "out").glob("painter.zip.*")] == ["painter.zip.0"]
    pieces.unpack(tmp_path / "out", tmp_path / "again")
    assert files(tmp_path / "again" / "painter") == files(model)


def test_slips_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds no pieces"):
        pieces.unpack(tmp_path, tmp_path / "models")
    monkeypatch.setattr(pieces, "PIECE", 4096)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(os.urandom(9000))
    pieces.pack(model, tmp_path / "out", "painter")
    (tmp_path / "out" / "painter.zip.2").unlink()
    with pytest.raises(InputError, match="not complete"):
        pieces.unpack(tmp_path / "out", tmp_path / "models")
    (model / "weights").write_bytes(os.urandom(40_000))
    with pytest.raises(InputError, match="more than 8 pieces"):
        pieces.pack(model, tmp_path / "out", "painter")


def test_the_command_of_the_guide(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    pieces.pack(tmp_path / "model", tmp_path / "out", "painter")
    words = [sys.executable, "-m", "reverie.builtin.pieces", str(tmp_path / "out"), str(tmp_path / "models")]
    subprocess.run(words, check=True)
    assert files(tmp_path / "models" / "painter") == files(tmp_path / "model")
