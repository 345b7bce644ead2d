"""Finding near copies by their hashes: time and memory by the number of images, and against comparing all with all.

    python benchmarks/duplicates.py [--json] [--images 20000 --images 1000000]

The hashes are those of pictures with random low frequencies, half of their bits set, as those of real pictures are. Of a
hundred images ten are near copies of another one, and one is a near copy of one popular picture.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from reverie.filters.duplicates import BITS, near_copies

Array = np.ndarray[Any, Any]
SIZES = (20_000, 125_000, 1_000_000)
COMPARED = 20_000  # images at most that are compared all with all
DISTANCE, COLOUR = 4, 24
COPIES, POPULAR = 0.1, 0.01


def looks(num: int) -> tuple[Array, Array]:
    """Hashes and thumbnails."""
    random = np.random.default_rng(0)
    hashes = np.empty(num, dtype=np.int64)
    for low in range(0, num, 100_000):
        coefficients = random.standard_normal((min(100_000, num - low), BITS))
        bits = coefficients > np.median(coefficients, axis=1, keepdims=True)
        hashes[low : low + len(bits)] = np.packbits(bits, axis=1).view(np.int64)[:, 0]
    thumbnails = random.integers(0, 256, (num, 48), dtype=np.uint8)
    copies = random.choice(num, round(num * (COPIES + POPULAR)), replace=False)
    sources = random.integers(0, num, len(copies))
    sources[: round(num * POPULAR)] = 0
    unsigned = hashes.view(np.uint64)
    unsigned[copies] = unsigned[sources]
    for _ in range(DISTANCE // 2):
        unsigned[copies] ^= np.uint64(1) << random.integers(0, BITS, len(copies), dtype=np.uint64)
    thumbnails[copies] = thumbnails[sources] // 8 * 8 + random.integers(0, 8, (len(copies), 48), dtype=np.uint8)
    return hashes, thumbnails


def all_with_all(hashes: Array, thumbnails: Array) -> Array:
    """Each image against all originals before it."""
    unsigned, found = hashes.view(np.uint64), np.arange(len(hashes))
    originals, num = np.empty(len(hashes), dtype=np.int64), 0
    for row in range(len(hashes)):
        before = originals[:num]
        near = before[np.bitwise_count(unsigned[before] ^ unsigned[row]) <= DISTANCE]
        apart = np.abs(thumbnails[near].astype(np.int16) - thumbnails[row]).max(axis=1, initial=0)
        if (apart <= COLOUR).any():
            found[row] = near[int((apart <= COLOUR).argmax())]
        else:
            originals[num], num = row, num + 1
    return found


def timed(work: Callable[[], Array]) -> tuple[Array, float, float]:
    """What it returns, seconds, and CPU seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - began, time.process_time() - cpu


def measure(num: int) -> dict[str, Any]:
    """One number of images. Memory is measured in a turn of its own, as measuring it takes time."""
    hashes, thumbnails = looks(num)
    found, seconds, cpu = timed(lambda: near_copies(np.arange(num), hashes, thumbnails, DISTANCE, COLOUR))
    tracemalloc.start()
    near_copies(np.arange(num), hashes, thumbnails, DISTANCE, COLOUR)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    row: dict[str, Any] = {
        "images": num,
        "near copies": int((found != np.arange(num)).sum()),
        "seconds": round(seconds, 2),
        "CPU seconds": round(cpu, 2),
        "CPU microseconds an image": round(cpu / num * 1e6, 1),
        "peak bytes an image, above the hashes": round(peak / num),
    }
    if num <= COMPARED:
        slow, _, taken = timed(lambda: all_with_all(hashes, thumbnails))
        row |= {"CPU seconds, all with all": round(taken, 2), "equal answers": bool((slow == found).all())}
        row["ratio CPU time"] = round(taken / cpu, 1)
    return row


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--images", type=int, action="append", help="so many; give it again for further numbers")
    asked = parser.parse_args()
    rows = [measure(num) for num in asked.images or SIZES]
    if asked.json:
        print(json.dumps(rows))
    else:
        print("\n\n".join("\n".join(f"{name}: {value}" for name, value in row.items()) for row in rows))


if __name__ == "__main__":
    main()
