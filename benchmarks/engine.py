"""What the engine itself costs a caption: a painter that does nothing, so that only resume, commits and checks are left.

    python benchmarks/engine.py [--json]
    python benchmarks/engine.py --large          1,000,000 captions as well
    python benchmarks/engine.py --parts 100000   where the time of one size goes

Each size runs in a process of its own, because peak memory is a fact about a process. What must hold: memory does not
grow with the number of captions beyond noise, and the processor time of a caption stays the same. Resume is a run that finds all
units committed and no step marked as done, and knows nothing of the tables yet.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from reverie import pairs
from reverie.run import engine
from reverie.run.engine import run
from reverie.run.events import Events
from reverie.run.plan import Plan, Step
from reverie.stage import SourceStage, StepContext, UnitStage, Worker
from reverie.store import tables

SIZES = (10_000, 100_000)
LARGE = 1_000_000


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
        out = Path(folder) / "run"
        began, worked = time.perf_counter(), time.process_time()
        run(Plan("engine", steps, unit_size=100), out)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        for mark in (out / "done").glob("*.json"):
            mark.unlink()
        tables._units_seen.clear()  # as in a process that has just begun
        began, resumed = time.perf_counter(), time.process_time()
        run(Plan("engine", steps, unit_size=100), out)
        again, resumed = time.perf_counter() - began, time.process_time() - resumed
        files = len(list((out / "pairs.lance" / "data").iterdir()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "captions": count,
        "images": 4 * count,
        "units": -(-count // 100),
        "files of pairs": files,
        "seconds": round(seconds, 2),
        "processor seconds": round(worked, 2),
        "processor microseconds a caption": round(1e6 * worked / count, 1),
        "peak memory (MB)": round(peak),
        "seconds to resume": round(again, 3),
        "processor seconds to resume": round(resumed, 3),
    }


PARTS = {  # of what happens in Python, by the function that does it
    "rows of the stages": [(pairs, "table")],
    "reading captions": [(tables, "read_units")],
    "checks": [(engine, "check_rows"), (tables, "_check_unit")],
    "opening tables": [(tables, "open_table")],
    "which units are done": [(tables, "_done")],
    "fitting rows": [(tables, "_fit")],
    "writing files": [(tables, "write_fragments")],
    "commits": [(tables, "_swap")],
    "log": [(Events, "report")],
}


def parts(count: int) -> dict[str, float]:
    """Processor time of each part in the thread that does it, without that of parts inside of it; the rest is in no part."""
    spent, local = dict.fromkeys(PARTS, 0.0), threading.local()

    def timed(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            outer, local.inside = getattr(local, "inside", 0.0), 0.0
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                own = time.thread_time() - began
                spent[name] += own - local.inside
                local.inside = outer + own

        return call

    for name, functions in PARTS.items():
        for home, function in functions:
            setattr(home, function, timed(name, getattr(home, function)))
    worked = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run(
            Plan("engine", (Step("captions", Numbers(count)), Step("paint", Nothing(), inputs=("captions",)))),
            Path(folder) / "run",
        )
    worked = time.process_time() - worked
    shares = {f"percent, {name}": round(100 * seconds / worked, 1) for name, seconds in spent.items()}
    rest = round(100 - sum(shares.values()), 1)
    return {
        "captions": count,
        "processor seconds": round(worked, 2),
        **shares,
        "percent, threads of Lance and Arrow, and the rest": rest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--large", action="store_true", help=f"measure {LARGE:,} captions as well")
    parser.add_argument("--parts", type=int, help="where the time of a run of so many captions goes")
    parser.add_argument("--one", type=int, help="measure one size in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    if options.parts:
        print(json.dumps(parts(options.parts), indent=1))
        return
    rows = []
    for size in (*SIZES, *([LARGE] if options.large else [])):
        words = [sys.executable, __file__, "--one", str(size)]
        rows.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    if options.json:
        print(json.dumps(rows))
        return
    for name in rows[0]:
        print(f"{name:34}", *(f"{row[name]:>12,}" for row in rows))


if __name__ == "__main__":
    main()
