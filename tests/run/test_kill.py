"""Kill -9 at ten random moments, run again, and the tables are those of a run that nobody touched."""

import json
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reverie.run.engine import run
from reverie.run.plan import call_recipe
from reverie.store import results, tables
from tests.run.conftest import FAKE

COUNT, UNIT, PAUSE_S = 240, 3, 0.02  # so much that ten kills do not outlast it on a fast machine
KILLS = 10
TABLES = ("captions", "pairs", "columns/brightness")


def command(folder: Path) -> list[str]:
    flags = f"--count {COUNT} --unit-size {UNIT} --pause-s {PAUSE_S} --device cpu --seed 5".split()
    return [sys.executable, "-m", "reverie.cli", "run", FAKE, *flags, "--out", str(folder)]


def killed(words: list[str], folder: Path, num_events_more: int, wait_s: float) -> bool:
    """Start a command and kill it after so many more events and a bit. False if it was over before."""
    goal = num_events(folder) + num_events_more
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and num_events(folder) < goal:
        time.sleep(0.002)
    time.sleep(wait_s)
    over = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return not over


def num_events(folder: Path) -> int:
    log = folder / "events.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_ten_kills_leave_the_same_store(
    tmp_path: Path, rows: Callable[[Path], dict[str, list[dict[str, Any]]]]
) -> None:
    folder, rng, survived = tmp_path / "killed here", random.Random(1), []
    for _ in range(KILLS):
        # A number of events and a bit, not a number of seconds: a busy machine spends those on starting Python.
        assert killed(command(folder), folder, rng.randint(3, 9), rng.uniform(0, UNIT * PAUSE_S)), "it was over before"
        survived.append(sum(len(tables.done_units(folder / f"{name}.lance")) for name in TABLES))
    assert survived == sorted(survived)
    assert survived[-1] > 20, survived

    last = subprocess.run(command(folder), check=True, capture_output=True, text=True)
    assert "done" in last.stdout
    run(call_recipe(FAKE, {"count": COUNT, "unit_size": UNIT, "seed": 5}), tmp_path / "untouched")
    assert rows(folder) == rows(tmp_path / "untouched")
    assert (folder / "count.txt").read_text() == (tmp_path / "untouched" / "count.txt").read_text()
    assert tables.verify(folder, per_caption=2) == []


@pytest.mark.slow
def test_ten_kills_of_painting_and_training_leave_the_same_images_and_losses(tmp_path: Path) -> None:
    """The builtin models and a real training: captions, image bytes, scores, curves and results are those of a run left alone."""
    flags = shlex.split(
        "--per-class 1 --per-caption 2 --per-batch 2 --captions-per-batch 4 --sampler-steps 2 --train-steps 200 --seeds 0 "
        "--eval-data smallworld:street:128:64 --device cpu"
    )

    def words(folder: Path) -> list[str]:
        return [sys.executable, "-m", "reverie.cli", "run", "stablerep", *flags, "--out", str(folder)]

    folder, rng, alone = tmp_path / "killed here", random.Random(2), tmp_path / "untouched"
    kills = sum(killed(words(folder), folder, rng.randint(2, 7), rng.uniform(0, 0.5)) for _ in range(KILLS))
    assert kills == KILLS
    for each in (folder, alone):
        subprocess.run(words(each), check=True, capture_output=True)
    for name in ("captions", "pairs"):
        first, second = (
            [row for part in tables.scan(each / f"{name}.lance") for row in part.to_pylist()]
            for each in (folder, alone)
        )
        assert sorted(first, key=str) == sorted(second, key=str)
    for step in ("stablerep-0", "simclr-0"):
        first, second = (
            [json.loads(line) for line in (each / "checkpoints" / step / "curve.jsonl").open()]
            for each in (folder, alone)
        )
        assert [row["loss"] for row in first] == pytest.approx([row["loss"] for row in second], abs=1e-6)
    first, second = (
        [(row.arm, row.metric, row.value) for row in results.read(each / "results.jsonl")] for each in (folder, alone)
    )
    assert first == second
    assert tables.verify(folder, per_caption=2) == []
