"""Damage of every kind to model folders and run files: it works, or it is one line; never a traceback, never a hang.

Every case is a mutation drawn under its own seed, so a failure is told by its number and comes again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from reverie.cli.main import main
from reverie.errors import ReverieError
from reverie.models.classifier import Cache, load_classifier, save_classifier
from reverie.models.detector import open_detector
from reverie.models.encoder import open_encoder
from reverie.models.names import BUILTIN
from reverie.models.painter import open_painter
from reverie.models.writer import open_writer
from reverie.run.engine import run
from reverie.run.plan import call_recipe
from tests.images import pipelines
from tests.models import tiny
from tests.writes import stay_inside

MUTATIONS = int(os.environ.get("REVERIE_FUZZ", 300))  # of each kind
LONGEST_S = 60
ODD: list[Any] = [
    None,
    0,
    -1,
    1,
    2**31,
    10**9,
    2**63,
    1e308,
    0.5,
    "",
    "x",
    "\ud83d",
    [],
    {},
    [None],
    {"a": 1},
    True,
    "../..",
    [[]],
]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def _nothing_outside(tmp_path: Path) -> Iterator[None]:
    with stay_inside(tmp_path):
        yield


pytestmark = pytest.mark.slow


def mutate(folder: Path, draw: random.Random) -> str:
    """Damage one file of a folder. Returns what was done, for the message."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".lance" not in str(path)]
    file = draw.choice(files)
    data = file.read_bytes()
    if file.suffix in (".json", ".jsonl") and draw.random() < 0.7:
        lines = data.decode().splitlines() if file.suffix == ".jsonl" else [data.decode()]
        if lines:
            at = draw.randrange(len(lines))
            value = json.loads(lines[at])
            done = _bend(value, draw)
            lines[at] = json.dumps(value)
            file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
            return f"{file.relative_to(folder)}: {done}"
    kind = draw.choice(["empty", "cut", "flip", "insert", "pointer", "gone", "folder", "null", "deep", "latin"])
    at = draw.randrange(len(data) + 1)
    if kind in ("gone", "folder"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
    else:
        file.write_bytes(
            {
                "empty": b"",
                "cut": data[:at],
                "flip": data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :],
                "insert": data[:at] + draw.randbytes(draw.randrange(1, 20)) + data[at:],
                "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
                "null": b"null\n",
                "deep": b"[" * 100_000,
                "latin": data[:at] + b"\xff" + data[at:],
            }[kind]
        )
    return f"{file.relative_to(folder)}: {kind} at {at}"


def _bend(value: Any, draw: random.Random) -> str:
    """Change, take away or add one value somewhere in a JSON value."""
    path: list[Any] = []
    while isinstance(value, (dict, list)) and value:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        path.append(key)
        inner = value[key]
        if not isinstance(inner, (dict, list)) or not inner or draw.random() < 0.3:
            break
        value = inner
    if not isinstance(value, (dict, list)) or not value:
        return "nothing"
    if draw.random() < 0.25:
        value.pop(path[-1])
        return f"{path} taken away"
    odd = draw.choice(ODD)
    value[path[-1]] = odd
    return f"{path} is {odd!r}"


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """An end for what hangs, and for what would fill the memory of the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, before[1]))

    def late(*_: object) -> None:
        raise TimeoutError("it hangs")

    old = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
    resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(whole: Path, tmp_path: Path, use: Callable[[Path], object], kind: str) -> None:
    bad = []
    for number in range(MUTATIONS):
        folder = tmp_path / str(number) / whole.name
        shutil.copytree(whole, folder)
        done = mutate(folder, random.Random(f"{kind} {number}"))
        signal.alarm(LONGEST_S)
        try:
            use(folder)
        except ReverieError as error:
            if "\n" in str(error) or not str(error):
                bad.append(f"{number} ({done}): not one line: {str(error)!r}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            bad.append(f"{number} ({done}): {type(error).__name__}: {str(error)[:200]}")
        signal.alarm(0)
        shutil.rmtree(tmp_path / str(number))
    assert not bad, f"{len(bad)} of {MUTATIONS}:\n" + "\n".join(bad)


def say(*words: str) -> None:
    """The command line: exit code 0, 1 (a check that failed) or 2."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code in (0, 1, 2), stop.value.code


def encode(folder: Path) -> None:
    encoder = open_encoder(str(folder))
    encoder.images([PICTURE])
    encoder.texts(["a red circle on white", "cat"])


def write(folder: Path) -> None:
    open_writer(str(folder)).write(["class : red circle", "cat"], [1, 2], 6, 1.0, 0.9)


def paint(folder: Path) -> None:
    painter = open_painter(str(folder))
    painter.words_unknown(["a red circle"])
    painter.paint(painter.encode(["a red circle"]), [0], steps=2)


MODELS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "clip": (tiny.save_clip, encode),
    "builtin-clip": (lambda folder: shutil.copytree(BUILTIN / "clip", folder), encode),
    "siglip": (tiny.save_siglip, encode),
    "writer": (tiny.save_writer, write),
    "chat": (lambda folder: tiny.save_writer(folder, "{% for m in messages %}{{ m['content'] }}{% endfor %}"), write),
    "t5": (tiny.save_seq2seq, write),
    "detector": (tiny.save_rt_detr, lambda folder: open_detector(str(folder)).find([PICTURE], 0.0)),
    "painter": (lambda folder: pipelines.save("sd", folder), paint),
    "pixart": (lambda folder: pipelines.save("pixart", folder), paint),
}


@pytest.mark.parametrize("kind", MODELS)
def test_model_folders(kind: str, tmp_path: Path) -> None:
    save, use = MODELS[kind]
    fuzz(save(tmp_path / "whole"), tmp_path, use, kind)


def test_classifier_folders(tmp_path: Path) -> None:
    import torch

    head = tmp_path / "head.safetensors"
    save_file({"weight": torch.randn(3, 8), "bias": torch.zeros(3)}, head)
    keys = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    about = {"classes": ["cat", "dog", "owl"], "encoder": "encoder", "revision": "x", "templates": ["{class}"]}
    save_classifier(tmp_path / "whole", head, about, Cache(keys, torch.tensor([0, 1, 2, 0])))
    tiny.save_clip(tmp_path / "whole" / "encoder")
    fuzz(tmp_path / "whole", tmp_path, lambda folder: load_classifier(folder)([PICTURE]), "classifier")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a captioner."""
    folder = tmp_path_factory.mktemp("syntic") / "run"
    small = {
        "sentences": 24,
        "sampler_steps": 1,
        "epochs": 1,
        "width": 32,
        "tag_heads": 2,
        "eval_data": "smallworld:street:2",
    }
    assert run(call_recipe("syntic", small | {"rivals": ()}), folder)
    return folder


def test_captioner_folders(captioned: Path, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "photo.png")
    whole = captioned / "weights" / "captioner"
    fuzz(whole, tmp_path, lambda f: say("caption", str(f), str(tmp_path / "photo.png"), "--nearest", "2"), "captioner")


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a finished run of a classifier, without its networks; of few classes, as its page is written each time."""
    here = tmp_path_factory.mktemp("zero_shot")
    folder, names = here / "run", ["red circle", "blue star"]
    (here / "classes.txt").write_text("\n".join(names))
    for name in names:
        (here / "photos" / "test" / name).mkdir(parents=True)
        PICTURE.save(here / "photos" / "test" / name / "0.png")
    small = {
        "classes": here / "classes.txt",
        "per_class": 1,
        "per_caption": 1,
        "sampler_steps": 1,
        "epochs": 1,
        "seeds": (0, 1),
        "eval_data": str(here / "photos"),
    }
    assert run(call_recipe("zero_shot", small), folder)
    for file in folder.rglob("*.safetensors"):
        if file.stat().st_size > 1_000_000:
            file.unlink()
    return folder


@pytest.mark.parametrize("command", ["status", "report", "verify", "retry"])
def test_run_folders(command: str, classified: Path, tmp_path: Path) -> None:
    fuzz(classified, tmp_path, lambda folder: say(command, str(folder)), command)
