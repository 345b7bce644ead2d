"""Several processes on one recipe, as ``torchrun`` or ``accelerate launch`` starts them: one does the work, all of them train."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from reverie.run.engine import run
from reverie.run.plan import call_recipe
from reverie.store import tables

RECIPE = str(Path(__file__).with_name("launched.py"))


def curve(folder: Path, step: str) -> list[dict[str, float]]:
    lines = (folder / "checkpoints" / step / "curve.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_share_the_training_and_nothing_else(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "reverie.cli", "run", RECIPE, "--device", "cpu", "--out", str(tmp_path / "two")]
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
    assert tables.verify(tmp_path / "two", per_caption=3) == []
    assert (tmp_path / "two" / "count.txt").exists()
    run(call_recipe(RECIPE, {}), tmp_path / "one")
    for step, num in (("first", 3), ("second", 2)):
        assert (tmp_path / "two" / "weights" / step / "model.safetensors").exists()
        two, one = curve(tmp_path / "two", step), curve(tmp_path / "one", step)
        assert len(two) == len(one) == num
        assert two[0]["lr"] == one[0]["lr"]
