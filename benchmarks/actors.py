"""How much of k times one actor k actors of Ray do, with a painter that sleeps, so that cores are not what is measured.

    python benchmarks/actors.py [--json] [--unit-s 2]

All on one Ray on this machine; each number of actors makes as many units for each actor. Actors are there before the clock starts.
What must hold: 0.9 or more at 8.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa

from reverie import pairs
from reverie.run.engine import run
from reverie.run.events import read_events
from reverie.run.on_ray import cluster
from reverie.run.plan import Plan, Step
from reverie.stage import Role, SourceStage, StepContext, UnitStage, Worker

ACTORS = (1, 2, 4, 8)
UNITS = 6  # for each actor


@dataclass(frozen=True)
class Numbers(SourceStage):
    """Captions at no cost, one a unit."""

    writes: ClassVar[Literal["captions"]] = "captions"
    count: int

    def open(self, context: StepContext) -> Worker:
        def write(rows: pa.Table) -> pa.Table:
            made = (
                {"caption_id": f"{row['position']:016x}", "unit": row["unit"], "text": "a caption", "status": pairs.OK}
                for row in rows.to_pylist()
            )
            return pairs.table(made, pairs.CAPTIONS)

        return write


@dataclass(frozen=True)
class Sleep(UnitStage):
    """An image of a hundred kilobytes after a while."""

    role: ClassVar[Role] = "paint"
    writes: ClassVar[Literal["pairs"]] = "pairs"
    per_caption: int = 4
    seconds: float = 2.0

    def open(self, context: StepContext) -> Worker:
        def paint(rows: pa.Table) -> pa.Table:
            time.sleep(self.seconds)
            made = (
                {
                    "pair_id": pairs.pair_id(row["caption_id"], copy), "caption_id": row["caption_id"], "copy": copy, "unit": row["unit"],
                    "text": row["text"], "image": b"0" * 100_000, "status": pairs.OK,
                }
                for row in rows.to_pylist()
                for copy in range(self.per_caption)
            )  # fmt: skip
            return pairs.table(made, pairs.PAIRS)

        return paint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--unit-s", type=float, default=2.0, help="seconds that a unit sleeps")
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, cluster(actors=max(ACTORS)) as pool:
        for number in ACTORS:
            out, pool.count = Path(folder) / str(number), max(ACTORS)
            steps = (
                Step("captions", Numbers(UNITS * number)),
                Step("paint", Sleep(seconds=options.unit_s), inputs=("captions",)),
            )
            plan = Plan("actors", steps, unit_size=1)
            run(plan, out, until="captions", pool=pool)
            pool.wait()
            pool.count = number
            run(plan, out, pool=pool)
            (seconds,) = (
                event["seconds"] for event in read_events(out) if event["kind"] == "done" and event["step"] == "paint"
            )
            rows.append({"actors": number, "units": UNITS * number, "seconds": round(seconds, 2)})
    for row in rows:
        row["efficiency"] = round(rows[0]["seconds"] / row["seconds"], 3)
    if options.json:
        print(json.dumps(rows))
        return
    for name in rows[0]:
        print(f"{name:12}", *(f"{row[name]:>8}" for row in rows))


if __name__ == "__main__":
    main()
