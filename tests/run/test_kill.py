"""Kill -9 at ten random moments, run again, and the tables are those of a run that nobody touched."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reverie.run.local import run
from reverie.run.plan import call_recipe
from reverie.store import tables
from tests.run.conftest import FAKE

COUNT, UNIT, PAUSE_S = 60, 3, 0.02
KILLS = 10
TABLES = ("captions", "pairs", "columns/brightness")


def command(folder: Path) -> list[str]:
    flags = f"--count {COUNT} --unit-size {UNIT} --pause-s {PAUSE_S} --device cpu --seed 5".split()
    return [sys.executable, "-m", "reverie.cli", "run", FAKE, *flags, "--out", str(folder)]


def num_events(folder: Path) -> int:
    log = folder / "events.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_ten_kills_leave_the_same_store(
    tmp_path: Path, rows: Callable[[Path], dict[str, list[dict[str, Any]]]]
) -> None:
    folder, rng, survived = tmp_path / "killed here", random.Random(1), []
    for _ in range(KILLS):
        # A number of events and a bit, not a number of seconds: a busy machine spends those on starting Python.
        goal = num_events(folder) + rng.randint(3, 9)
        process = subprocess.Popen(command(folder), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and num_events(folder) < goal:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, UNIT * PAUSE_S))
        assert process.poll() is None, "the run was over before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        survived.append(sum(len(tables.done_units(folder / f"{name}.lance")) for name in TABLES))
    assert survived == sorted(survived)
    assert survived[-1] > 20, survived

    last = subprocess.run(command(folder), check=True, capture_output=True, text=True)
    assert "done" in last.stdout
    run(call_recipe(FAKE, {"count": COUNT, "unit_size": UNIT, "seed": 5}), tmp_path / "untouched")
    assert rows(folder) == rows(tmp_path / "untouched")
    assert (folder / "count.txt").read_text() == (tmp_path / "untouched" / "count.txt").read_text()
    assert tables.verify(folder, per_caption=2) == []
