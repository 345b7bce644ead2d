"""Projection on a support set against the two matrix products that it cannot do without; peak memory by the number of features.

    python benchmarks/projection.py [--json]

The bare products are features x support and weights x support, in the same tiles, without the softmax between them. Peak
memory is that of a process of its own, above what it has when the support set is in memory: it must not grow with the features.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.nets.projection import project

SUPPORT, DIM, FEATURES, TILE = 567_000, 512, 4096, (1024, 4096)
TURNS = 2


def rows(num: int, seed: int) -> Tensor:
    """Random unit rows."""
    return F.normalize(torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def bare(features: Tensor, support: Tensor) -> Tensor:
    """The products alone; the sums mean nothing."""
    found = []
    for part in features.split(TILE[0]):
        sums = torch.zeros(len(part), DIM)
        for block in support.split(TILE[1]):
            sums.addmm_(part @ block.T, block)
        found.append(sums)
    return torch.cat(found)


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_mib(num: int) -> float:
    """Peak memory of projecting so many features, above that of the support set, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", str(num)], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def one(num: int) -> float:
    """Measured in this process."""
    support, features = rows(100_000, 0), rows(num, 1)
    project(features[:8], support)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_kib()
    project(features, support)
    return (peak_kib() - before) / 1024


def peak_kib() -> int:
    """Peak resident memory of this process since it was last forgotten (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments.add_argument("--one", type=int, help="measure the memory of so many features in this process")
    asked = arguments.parse_args()
    if asked.one:
        print(one(asked.one))
        return
    support, features = rows(SUPPORT, 0), rows(FEATURES, 1)
    project(features[:64], support[:8192])
    turns = [
        (seconds(lambda: bare(features, support)), seconds(lambda: project(features, support))) for _ in range(TURNS)
    ]
    ratios = [ours / theirs for theirs, ours in turns]
    row = {
        "features": FEATURES,
        "support sentences": SUPPORT,
        "dimensions": DIM,
        "seconds, bare products": round(statistics.median(theirs for theirs, _ in turns), 2),
        "seconds, project": round(statistics.median(ours for _, ours in turns), 2),
        "project over bare products (at most 1.25 wanted)": round(statistics.median(ratios), 3),
        "of each turn": [round(ratio, 3) for ratio in ratios],
        "MiB above the support set, 1,024 features": round(peak_mib(1024), 1),
        "MiB above the support set, 16,384 features": round(peak_mib(16_384), 1),
        "ratio": round(1 / statistics.median(ratios), 3),
    }
    if asked.json:
        print(json.dumps(row))
    else:
        print("\n".join(f"{name}: {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
