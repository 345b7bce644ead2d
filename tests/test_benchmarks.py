"""Every benchmark still fits the package: its smallest run, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "benchmarks"
SMALLEST = {
    "reading.py": "--num 2000 --read 64 --batch 8 --rounds 1 --cases 16:16",
    "recap.py": "--rows 300 --width 8 --images 6 --turns 1",
    "synth2.py": "--warm-up 1 --timed 2 --no-memory",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_runs(script: str) -> None:
    words = [sys.executable, str(HERE / script), *SMALLEST[script].split(), "--json"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "not measured" not in str(found)
