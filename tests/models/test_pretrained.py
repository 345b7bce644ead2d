"""What holds for every loader and every part of a model: all weights are read, no code runs, damage is one line."""

import builtins
import contextlib
import json
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import reverie
from reverie.errors import ModelError
from reverie.learn.text_to_image import TextToImage
from reverie.models import pretrained
from reverie.models.backbones import load_backbone
from reverie.models.classifier import load_classifier, save_classifier
from reverie.models.detector import open_detector
from reverie.models.encoder import open_backbone, open_encoder
from reverie.models.names import BUILTIN
from reverie.models.painter import open_painter
from reverie.models.writer import open_writer
from tests.images import pipelines
from tests.models import tiny


def save_own_classifier(folder: Path) -> Path:
    """A classifier that brings its encoder along."""
    head = folder.parent / "head.safetensors"
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.eye(2, 8), "bias": torch.zeros(2)}, head)
    save_classifier(folder, head, {"classes": ["cat", "dog"], "encoder": "encoder", "revision": "x", "templates": []})
    tiny.save_clip(folder / "encoder")
    return folder


def paint_one(folder: str):
    painter = open_painter(folder)
    return painter.paint(painter.encode(["a red circle"]), [0], steps=2)


LOADERS = {
    "clip": (tiny.save_clip, lambda folder: open_encoder(folder).texts(["a red circle", "cat"])),
    "siglip": (tiny.save_siglip, open_encoder),
    "vit": (tiny.save_vit, open_backbone),
    "resnet": (tiny.save_resnet, load_backbone),
    "detector": (tiny.save_rt_detr, open_detector),
    "writer": (tiny.save_writer, open_writer),
    "t5": (tiny.save_seq2seq, open_writer),
    "classifier": (save_own_classifier, load_classifier),
    "sd": (lambda folder: pipelines.save("sd", folder), paint_one),
    "pixart": (lambda folder: pipelines.save("pixart", folder), paint_one),
    "flux": (lambda folder: pipelines.save("flux", folder), paint_one),
    "start": (lambda folder: shutil.copytree(BUILTIN / "painter", folder), lambda f: TextToImage("", "", start=f).build()),
}  # fmt: skip


@pytest.fixture(scope="module", params=LOADERS)
def model(request, tmp_path_factory):
    """A whole model folder, and how it is opened."""
    save, opened = LOADERS[request.param]
    return save(tmp_path_factory.mktemp(request.param) / "model"), opened


@pytest.fixture
def copied(model, tmp_path):
    return shutil.copytree(model[0], tmp_path / "model"), model[1]


def said(opened, folder) -> str:
    """The one line of a refusal."""
    with pytest.raises(ModelError) as caught:
        opened(str(folder))
    line = str(caught.value)
    assert "\n" not in line
    return line


def weights_of(folder, opened) -> list[Path]:
    files = sorted(Path(folder).rglob("*.safetensors"))
    if opened is LOADERS["start"][1]:
        files = [file for file in files if file.parent.name != "vae"]  # it learns on the autoencoder that it is given
    return [file for file in files if file.name != "head.safetensors"]


def test_a_whole_model_opens(copied):
    folder, opened = copied
    assert opened(str(folder)) is not None


def test_a_part_that_lacks_a_weight_is_refused_by_name(copied):
    folder, opened = copied
    for file in weights_of(folder, opened):
        whole = file.read_bytes()
        weights = load_file(file)
        for lost in (min(weights), max(weights, key=lambda name: weights[name].numel())):
            save_file({name: w for name, w in weights.items() if name != lost}, file, {"format": "pt"})
            line = said(opened, folder)
            assert "lacks" in line, lost
            assert file.parent == Path(folder) or file.parent.name in line
        file.write_bytes(whole)


def test_a_weight_of_another_shape_is_refused(copied):
    folder, opened = copied
    for file in weights_of(folder, opened):
        whole = file.read_bytes()
        weights = load_file(file)
        name = max(weights, key=lambda name: weights[name].numel())
        save_file(weights | {name: torch.zeros(3, 5, 7)}, file, {"format": "pt"})
        assert said(opened, folder)
        file.write_bytes(whole)


@pytest.mark.parametrize("damage", ["empty", "pointer", "cut", "header", "longer"])
def test_a_damaged_file_is_told_by_its_name(copied, damage):
    folder, opened = copied
    for file in sorted(Path(folder).rglob("*.safetensors")):
        if file not in weights_of(folder, opened) and file.name != "head.safetensors":
            continue
        whole = file.read_bytes()
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        file.write_bytes(
            {"empty": b"", "pointer": pointer, "cut": whole[:-10], "header": whole[:40], "longer": whole + b"0"}[damage]
        )
        line = said(opened, folder)
        assert file.name in line
        assert {"empty": "empty", "pointer": "git lfs pull", "cut": "cut"}.get(damage, "damaged") in line
        file.write_bytes(whole)


# No code of a model runs


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that leaves a mark where it runs; whoever asks a question fails."""
    mark = tmp_path / "pwned"

    def asked(*_):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(builtins, "input", asked)
    return mark, f"open({str(mark)!r}, 'w').write('ran')\nfrom transformers import CLIPModel as Any, CLIPConfig as C\n"


def test_code_beside_a_model_never_runs_and_nobody_is_asked(copied, evil):
    folder, opened = copied
    if (folder / "model_index.json").exists() and "text_encoder_2" in (folder / "model_index.json").read_text():
        pytest.skip("the parts of the smaller pipelines are of the same kinds")
    mark, code = evil
    for place in {file.parent for file in Path(folder).rglob("*.json")}:
        (place / "evil.py").write_text(code)
        (place / "custom_generate").mkdir(exist_ok=True)
        (place / "custom_generate" / "generate.py").write_text(code)
    kinds = (
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForSeq2SeqLM",
        "AutoImageProcessor",
        "AutoProcessor",
    )
    settings = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
    files = [file for file in sorted(Path(folder).rglob("*.json")) if file.name in settings]
    assert files
    for file in files:
        whole = file.read_text()
        known = json.loads(whole) | {
            "auto_map": {**dict.fromkeys(kinds, "evil.Any"), "AutoTokenizer": ["evil.Any", "evil.Any"]}
        }
        strange = dict.fromkeys(("model_type", "tokenizer_class", "image_processor_type", "processor_class"), "Unheard")
        for wanted in (known, known | strange):
            file.write_text(json.dumps(wanted))
            with contextlib.suppress(ModelError):  # some of it is for classes that the library has itself
                opened(str(folder))
            assert not mark.exists(), file
        file.write_text(whole)


@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": ["evil", "Any"]},
        {"_class_name": "Unheard"},
        {"unet": ["evil", "Any"]},
        {"text_encoder": ["evil", "Any"]},
        {"tokenizer": ["evil", "Any"]},
        {"scheduler": ["os", "system"]},
        {"../up": ["diffusers", "UNet2DConditionModel"]},
        {"unet": ["diffusers"]},
        {"unet": [1, 2]},
    ],
)
def test_parts_of_a_pipeline_come_from_the_libraries_alone(tmp_path, evil, change):
    mark, code = evil
    folder = pipelines.save("sd", tmp_path / "sd")
    for place in (folder, *(item for item in folder.iterdir() if item.is_dir())):
        (place / "evil.py").write_text(code)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    assert said(open_painter, folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "diffusion_pytorch_model.bin", "model.pt"])
def test_pickles_are_never_opened(copied, name):
    folder, opened = copied
    for file in weights_of(folder, opened):
        whole = file.read_bytes()
        file.unlink()
        (file.parent / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        assert "pickle" in said(opened, folder)
        (file.parent / name).unlink()
        file.write_bytes(whole)


def test_there_is_no_other_door():
    """Whoever reads a model elsewhere would have to think of all this again."""
    root = Path(reverie.__file__).parent
    doors = re.compile(
        r"\.from_pretrained\(|safetensors\.torch import [^\n]*\bload_|\bsafe_open\(|torch\.load\(|snapshot_download\("
    )
    found = {file.relative_to(root).as_posix() for file in root.rglob("*.py") if doors.search(file.read_text("utf-8"))}
    assert found == {"models/pretrained.py"}


# The Hub


@pytest.fixture
def online(monkeypatch):
    """As on a machine that has not been told to stay offline, with a Hub of our own."""

    def at(url):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)

    return at


@pytest.mark.parametrize(
    "opened", [open_encoder, open_backbone, open_detector, open_writer, open_painter, load_backbone]
)
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_a_hub_name_without_a_network_is_told_at_once(online, url, opened):
    online(url)
    began = time.monotonic()
    with pytest.raises(ModelError, match="not in the local cache"):
        opened("nobody/nothing")
    assert time.monotonic() - began < 5


def test_a_hub_that_answers_is_asked_and_an_offline_one_is_not(online, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        online(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert pretrained.hub_answers()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not pretrained.hub_answers()


def test_the_way_leads_through_a_proxy(online, monkeypatch):
    online("https://huggingface.co")
    monkeypatch.setenv("https_proxy", "http://proxy.here:3128")
    assert pretrained._first_hop() == ("proxy.here", 3128)
    monkeypatch.setenv("no_proxy", "huggingface.co")
    assert pretrained._first_hop() == ("huggingface.co", 443)


def test_a_cached_model_opens_without_a_network(online, monkeypatch, tmp_path):
    online("http://127.0.0.1:9")
    snapshot = tmp_path / "models--some--clip" / "snapshots" / ("0" * 40)
    tiny.save_clip(snapshot)
    (tmp_path / "models--some--clip" / "refs").mkdir()
    (tmp_path / "models--some--clip" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    import transformers.utils.hub as hub

    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert open_encoder("some/clip").revision == "some/clip@" + "0" * 12


def test_a_tokenizer_without_a_pad_token_pads_with_its_end(tmp_path):
    folder = tiny.save_clip(tmp_path / "clip")
    expected = open_encoder(str(folder)).texts(["a red circle on white", "cat"])
    for file in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if file.exists():
            known = json.loads(file.read_text())
            known.pop("pad_token", None)
            file.write_text(json.dumps(known))
    encoder = open_encoder(str(folder))
    torch.testing.assert_close(encoder.texts(["a red circle on white", "cat"]), expected)
