import json

import pytest

from reverie.errors import InputError, ModelError, UnknownName
from reverie.models import names


def folder_with(path, **files):
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = path / name.replace("__", ".")
        file.write_bytes(tensors(content)) if file.suffix == ".safetensors" else file.write_text(content)
    return path


def tensors(note):
    """A safetensors file with no tensor in it, but with a note."""
    header = json.dumps({"__metadata__": {"note": note}}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.fixture
def builtins(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "BUILTIN", tmp_path / "builtin")
    folder_with(tmp_path / "builtin" / "painter", model_index__json="{}")
    folder_with(tmp_path / "builtin" / "writer", config__json="{}", model__safetensors="w")
    (tmp_path / "builtin" / "half_trained").mkdir()
    return tmp_path / "builtin"


def test_builtin(builtins):
    found = names.locate("builtin:writer")
    assert (found.kind, found.path_or_id) == ("builtin", str(builtins / "writer"))
    assert str(found) == f"builtin:writer@{found.revision}"
    assert names.builtin_folder("writer") == names.builtin_folder("builtin:writer")
    assert names.builtin_names() == ["painter", "writer"]


def test_unknown_builtin_names_the_nearest(builtins):
    with pytest.raises(UnknownName, match="did you mean painter"):
        names.locate("builtin:paintr")


def test_unknown_prefix(builtins):
    with pytest.raises(UnknownName, match="openai"):
        names.locate("vllm:some/model")


def test_hub_ids_with_and_without_owner(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert names.locate("gpt2") == names.Located("hub", "gpt2", None, "gpt2")
    folder_with(tmp_path / "models--owner--name" / "refs", main="0123456789abcdef0123")
    assert names.locate("owner/name").revision == "0123456789ab"


def test_folder_revision_follows_content_not_place(tmp_path):
    first = folder_with(tmp_path / "a" / "net", config__json="{}", model__safetensors="weights")
    second = folder_with(tmp_path / "b" / "net", config__json="{}", model__safetensors="weights")
    found = names.locate(str(first))
    assert found.kind == "folder"
    assert found.revision == names.locate(str(second)).revision
    assert str(tmp_path) not in str(found)
    (second / "model.safetensors").write_bytes(tensors("Weights"))
    assert names.locate(str(second)).revision != found.revision


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither config.json"),
        ({"config__json": "{}"}, r"no \*.safetensors"),
        ({"config__json": "{}", "pytorch_model__bin": "x"}, "convert them"),
        ({"model_index__json": "{"}, "not valid JSON"),
    ],
)
def test_folder_that_cannot_be_used(tmp_path, files, message):
    folder = folder_with(tmp_path / "net", **files)
    with pytest.raises(ModelError, match=message):
        names.locate(str(folder))


def test_pipeline_component_without_weights(tmp_path):
    index = json.dumps({"_class_name": "P", "unet": ["diffusers", "UNet"], "tokenizer": ["transformers", "T"]})
    folder_with(tmp_path / "pipe", model_index__json=index)
    folder_with(tmp_path / "pipe" / "tokenizer", vocab__json="{}")
    unet = folder_with(tmp_path / "pipe" / "unet", config__json="{}")
    with pytest.raises(ModelError, match=r"unet has config.json but no"):
        names.locate(str(tmp_path / "pipe"))
    (unet / "diffusion_pytorch_model.safetensors").write_bytes(tensors("w"))
    assert names.locate(str(tmp_path / "pipe")).revision


@pytest.mark.parametrize("name", ["./not-there", "/not/there", "two words", "a/b/c"])
def test_what_is_no_model(name):
    with pytest.raises(ModelError):
        names.locate(name)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "model.safetensors").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        names.locate(str(tmp_path / "model.safetensors"))


def test_server():
    found = names.locate("openai:qwen/qwen3:8b@http://localhost:8000/v1/")
    assert (found.path_or_id, found.url, found.revision) == ("qwen/qwen3:8b", "http://localhost:8000/v1", None)


@pytest.mark.parametrize(
    "name", ["openai:", "openai:gpt", "openai:gpt@", "openai:@http://x/v1", "openai:gpt@ftp://x", "openai:gpt@x/v1"]
)
def test_server_without_a_usable_address(name):
    with pytest.raises(InputError, match="openai:MODEL@URL"):
        names.locate(name)


def test_a_key_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        names.locate("openai:gpt@https://user:s3cret@host/v1")
    assert "s3cret" not in str(caught.value)
