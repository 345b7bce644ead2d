"""Looking at a large table: what a page of `reverie show` takes to come, and what memory the server holds, at a tenth of the pairs and at all.

    python benchmarks/show.py [--num N] [--folder KEPT] [--json]

The table is written first, 1,000 pairs a commit, with one small picture for all and captions of words from a list; that is not
measured. Each size has a server of its own, started as a person would, and is asked as a browser would, a request at a time.
What must hold: the first page comes in less than a second, and neither it nor the memory grows with the table; a filter
or an order looks at all rows once, and keeps 4 bytes of each that fits.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from reverie import pairs
from reverie.store import tables

NUM = 1_000_000
UNIT = 1_000
TURNS = 5  # of requests that cost the same each time; the middle one is told
WORDS = [
    "a",
    "photo",
    "of",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "striped",
    "old",
    "new",
    "wooden",
    "bird",
    "boat",
    "chair",
    "cup",
    "dog",
    "fish",
    "house",
    "lamp",
    "tree",
    "truck",
]


def write(folder: Path, num: int) -> None:
    """A table as a run leaves it, goes on where an earlier one stopped."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(buffer, "PNG")
    done = tables.done_units(folder / "pairs.lance")
    for unit in range(num // UNIT):
        if unit in done:
            continue
        draw = np.random.default_rng(unit)
        numbers = range(unit * UNIT, (unit + 1) * UNIT)
        words = [" ".join(WORDS[place] for place in places) for places in draw.integers(0, len(WORDS), (UNIT, 8))]
        captions = [f"{number // 4:016x}" for number in numbers]
        kept = draw.random(UNIT) < 0.9
        made = pa.table(
            {
                "pair_id": [pairs.pair_id(name, number % 4) for name, number in zip(captions, numbers, strict=True)],
                "caption_id": captions,
                "copy": pa.array([number % 4 for number in numbers], pa.int64()),
                "unit": pa.array([unit] * UNIT, pa.int64()),
                "text": words,
                "label": [f"class {place}" for place in draw.integers(0, 100, UNIT)],
                "image": pa.array([buffer.getvalue()] * UNIT, pa.large_binary()),
                "width": pa.array([8] * UNIT, pa.int32()),
                "height": pa.array([8] * UNIT, pa.int32()),
                "seed": pa.array(draw.integers(0, 2**62, UNIT)),
                "status": ["ok" if each < 0.99 else "failed" for each in draw.random(UNIT)],
                "reason": pa.nulls(UNIT, pa.string()),
                "clip_score": pa.array(draw.random(UNIT), pa.float32()),
                "kept": pa.array(kept),
                "drop_reason": [None if each else "fails: clip_score >= 0.2" for each in kept],
            }
        )
        tables.append_unit(folder / "pairs.lance", unit, made)


def measure(folder: Path, num: int) -> dict[str, Any]:
    """Ask a server over this folder."""
    words = [sys.executable, "-m", "reverie.cli", "show", str(folder), "--port", "0", "--no-browser"]
    began = time.perf_counter()
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0].rstrip("/")
        started = time.perf_counter() - began
        spent = cpu(server.pid)
        first, page = ask(address, "/")
        spent = cpu(server.pid) - spent
        row: dict[str, Any] = {
            "pairs": num,
            "seconds until the address is printed": started,
            "seconds, first page": first,
        }
        row["CPU seconds of it"] = spent
        row["memory after the first page (MB)"] = memory(server.pid)
        pictures = re.findall(r'src="(/picture/[^"]+)"', page)
        row["ms, a page again"] = middle(address, "/")
        row["ms, the last page"] = middle(address, "/?page=999999999")
        row["ms, a picture"] = 1000 * sorted(ask(address, each)[0] for each in pictures)[len(pictures) // 2]
        for name, query in (
            ("words in captions", {"words": "striped boat"}),
            ("words that nobody wrote", {"words": "zebra"}),
            ("a filter", {"where": "clip_score > 0.5 and seed % 3 = 0"}),
            ("sorted", {"sort": "clip_score"}),
            ("kept, sorted", {"state": "kept", "sort": "seed"}),
        ):
            path = "/?" + urllib.parse.urlencode(query)
            row[f"seconds, {name}"] = ask(address, path)[0]
            row[f"ms, {name}, page 100"] = middle(address, f"{path}&page=100")
        found = re.findall(r'class="open" href="([^"]+)"', page)
        row["ms, one pair"] = middle(address, found[5].replace("&amp;", "&"))
        row["ms, a mark"] = 1000 * mark(address, re.findall(r"/pair/([^?]+)", found[5])[0])
        row["seconds, a filter by marks, the column written first"] = ask(address, "/?where=bad")[0]
        row["peak memory (MB)"] = memory(server.pid)
    finally:
        server.terminate()
        server.wait()
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}


def ask(address: str, path: str) -> tuple[float, str]:
    """Seconds until all of the answer is there, and the answer."""
    began = time.perf_counter()
    with urllib.request.urlopen(address + path) as answer:
        text = answer.read().decode("utf-8", errors="replace")
    return time.perf_counter() - began, text


def middle(address: str, path: str) -> float:
    """Milliseconds of the middle one of some turns."""
    return 1000 * sorted(ask(address, path)[0] for _ in range(TURNS))[TURNS // 2]


def mark(address: str, pair_id: str) -> float:
    """Seconds to mark a pair."""
    body = urllib.parse.urlencode({"pair": pair_id, "bad": "1"}).encode()
    wanted = urllib.request.Request(f"{address}/mark", body, {"origin": address, "accept": "application/json"})
    began = time.perf_counter()
    with urllib.request.urlopen(wanted) as answer:
        answer.read()
    return time.perf_counter() - began


def cpu(pid: int) -> float:
    """Seconds that the process has kept a core busy, which other programs do not change as they do the clock's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """The most memory that the process has held, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=NUM, help=f"pairs of the larger table, a multiple of {10 * UNIT:,}")
    parser.add_argument(
        "--folder", type=Path, help="where the tables are written, and kept; a temporary folder when left out"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = []
        for num in (options.num // 10, options.num):
            folder = (options.folder or Path(temporary)) / str(num)
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, num)
            rows.append(measure(folder, num))
    if options.json:
        print(json.dumps(rows))
        return
    for name in rows[0]:
        print(f"{name:55}", *(f"{row[name]:>12,}" for row in rows))


if __name__ == "__main__":
    main()
