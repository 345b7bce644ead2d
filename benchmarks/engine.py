"""What the engine itself costs a caption: a painter that does nothing, so that only resume, commits and checks are left.

    python benchmarks/engine.py [--json]

Each size runs in a process of its own, because peak memory is a fact about a process. What must hold: memory does not
grow with the number of captions beyond noise, and the seconds per 1,000 captions stay the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa

from reverie import pairs
from reverie.run.engine import run
from reverie.run.plan import Plan, Step
from reverie.stage import SourceStage, StepContext, UnitStage, Worker

SIZES = (10_000, 100_000)


@dataclass(frozen=True)
class Numbers(SourceStage):
    """Captions at no cost."""

    writes: ClassVar[Literal["captions"]] = "captions"
    count: int

    def open(self, context: StepContext) -> Worker:
        def write(rows: pa.Table) -> pa.Table:
            made = (
                {"caption_id": f"{position:016x}", "unit": unit, "text": f"caption {position}", "status": pairs.OK}
                for unit, position in zip(rows["unit"].to_pylist(), rows["position"].to_pylist(), strict=True)
            )
            return pairs.table(made, pairs.CAPTIONS)

        return write


@dataclass(frozen=True)
class Nothing(UnitStage):
    """Images at no cost: one byte each."""

    writes: ClassVar[Literal["pairs"]] = "pairs"
    per_caption: int = 4

    def open(self, context: StepContext) -> Worker:
        def paint(rows: pa.Table) -> pa.Table:
            made = (
                {
                    "pair_id": pairs.pair_id(row["caption_id"], copy),
                    "caption_id": row["caption_id"],
                    "copy": copy,
                    "unit": row["unit"],
                    "text": row["text"],
                    "image": b"0",
                    "status": pairs.OK,
                }
                for row in rows.to_pylist()
                for copy in range(self.per_caption)
            )
            return pairs.table(made, pairs.PAIRS)

        return paint


def one(count: int) -> dict[str, float]:
    """Run one size in this process and measure it."""
    steps = (Step("captions", Numbers(count)), Step("paint", Nothing(), inputs=("captions",)))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run(Plan("engine", steps, unit_size=100), Path(folder) / "run")
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        run(Plan("engine", steps, unit_size=100), Path(folder) / "run")
        again = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "captions": count,
        "images": 4 * count,
        "seconds": round(seconds, 2),
        "seconds per 1,000 captions": round(1000 * seconds / count, 4),
        "peak memory (MB)": round(peak),
        "seconds to find nothing left": round(again, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", type=int, help="measure one size in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    rows = []
    for size in SIZES:
        words = [sys.executable, __file__, "--one", str(size)]
        rows.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    if options.json:
        print(json.dumps(rows))
        return
    for name in rows[0]:
        print(f"{name:30}", *(f"{row[name]:>12,}" for row in rows))


if __name__ == "__main__":
    main()
