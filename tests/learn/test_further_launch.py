"""A pipeline trained on by two processes, and by one on the joined batch: the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from reverie import pairs
from reverie.store import tables
from reverie.store.pictures import as_png
from tests.images.pipelines import save

WORDS = ("red", "green", "blue")


def photos(folder: Path) -> None:
    """Three units of flat pictures; one caption is too long."""
    for unit in range(3):
        rows = []
        for i in range(6):
            caption = pairs.caption_id(0, "test", 6 * unit + i)
            word = WORDS[i % 3]
            rows.append(
                {
                    "pair_id": pairs.pair_id(caption, 0),
                    "caption_id": caption,
                    "copy": 0,
                    "unit": unit,
                    "text": f"a {word} circle on white" + " and two square of blue" * (unit == i == 1),
                    "image": as_png(Image.new("RGB", (32, 32), word)),
                    "status": pairs.OK,
                }
            )
        tables.append_unit(folder / "pairs.lance", unit, pairs.table(rows, pairs.PAIRS))


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    photos(tmp_path / "store")
    start = save("sd", tmp_path / "start")
    words = ["reverie.cli", "run", "text_to_image", "--device", "cpu", "--store", str(tmp_path / "store")]
    words += ["--start", str(start), "--train-steps", "5", "--batch-size", "8", "--lr", "1e-3", "--text-lr", "1e-4"]
    # On CPUs accelerate launch starts a single process, whatever number it is given.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, before in (("one", []), ("two", launch)):
        command = [sys.executable, *(before or ["-m"]), *words, "--out", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
    states = [tmp_path / name / "checkpoints" / "painter" / "latest" / "state.json" for name in ("one", "two")]
    assert [json.loads(state.read_text())["settings"]["processes"] for state in states] == [1, 2]
    one, two = (
        [
            json.loads(line)
            for line in (tmp_path / name / "checkpoints" / "painter" / "curve.jsonl").read_text().splitlines()
        ]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        first, second, old = (
            load_file(folder / f"{part}.safetensors")
            for folder in (tmp_path / "one/weights/painter", tmp_path / "two/weights/painter", start)
        )
        for key, value in first.items():
            torch.testing.assert_close(value, second[key], rtol=1e-3, atol=1e-5, msg=f"{part} {key}")
        assert any(not torch.equal(value, old[key]) for key, value in first.items())
    events = [json.loads(line) for line in (tmp_path / "two" / "events.jsonl").read_text().splitlines()]
    (cut,) = (event["text"] for event in events if event["kind"] == "warning")
    assert cut == "1 of 18 captions are longer than 8 tokens and are left out, and with them 1 pairs that have no other"
