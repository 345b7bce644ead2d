"""Gathering small files while another process goes on committing: what it costs the writer, and that no row is lost.

    python benchmarks/compaction.py [--json]

One process commits units one by one; this one compacts the table again and again until that is over.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reverie import pairs
from reverie.store import tables

UNITS, ROWS = 600, 20
WRITE = "import sys, benchmarks.compaction as b; b.write(sys.argv[1])"


def write(path: str) -> None:
    """Commit the units, and print the seconds and processor seconds that it took."""
    began, worked = time.perf_counter(), time.process_time()
    for unit in range(UNITS):
        rows = [
            {
                "caption_id": f"{unit * ROWS + number:016x}",
                "unit": unit,
                "text": f"caption {number}",
                "status": pairs.OK,
            }
            for number in range(ROWS)
        ]
        tables.append_unit(path, unit, pairs.table(rows, pairs.CAPTIONS))
    print(json.dumps([time.perf_counter() - began, time.process_time() - worked]))


def one(compacted: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path, times = Path(folder) / "captions.lance", 0
        words = [sys.executable, "-c", WRITE, str(path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as writer:
            while writer.poll() is None:
                time.sleep(0.5)
                if compacted and tables.exists(path) and tables.count(path):
                    tables.compact(path)
                    times += 1
            assert writer.stdout is not None
            seconds, worked = json.loads(writer.stdout.read())
        assert tables.done_units(path) == set(range(UNITS)), "a unit was lost"
        ids = [name for part in tables.scan(path, ["caption_id"]) for name in part["caption_id"].to_pylist()]
        assert sorted(ids) == [f"{number:016x}" for number in range(UNITS * ROWS)], "a row was lost or doubled"
        return {
            "compactions": times,
            "units committed": UNITS,
            "rows lost or doubled": 0,
            "files in the end": len(tables.open_table(path).get_fragments()),
            "milliseconds a commit": round(1000 * seconds / UNITS, 1),
            "processor milliseconds a commit": round(1000 * worked / UNITS, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = [one(False), one(True)]
    if options.json:
        print(json.dumps(rows))
        return
    for name in rows[0]:
        print(f"{name:34}", *(f"{row[name]:>10}" for row in rows))


if __name__ == "__main__":
    main()
