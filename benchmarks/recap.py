"""Metrics of painted pictures by the batch against all in memory, and describing inside the engine against the describer alone.

    python benchmarks/recap.py [--rows 20000] [--width 256] [--images 256] [--captioner builtin:describer] [--turns 3] [--json]

Fréchet distance: rows that come a batch at a time, with the trace by singular values, against all rows put together, numpy's covariance
and scipy's matrix root. Kernel distance: by blocks against one matrix of all pairs. Both ways get the same rows and take turns; the
median turn counts, and the median of the ratios of the turns. Memory is the most that numpy held at once.

Describing: images of the small world in a store, through ``reverie recaption``'s stage (reading, decoding, flags, commits), against the
same captioner on pictures that lie decoded in memory. The ratio is the engine's share of the speed: 1 = the engine costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from PIL import Image
from scipy import linalg

from reverie import pairs
from reverie.errors import ReverieError
from reverie.evaluate.metrics.frechet import Moments, frechet_distance, kernel_distance
from reverie.smallworld.photos import captioned
from reverie.stage import StepContext
from reverie.store import tables
from reverie.store.pictures import as_png

BATCH, UNIT = 256, 100


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def peak_mib(work: Callable[[], Any]) -> float:
    """The most memory that numpy held at once above what was there, in MiB."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


class Features:
    """Batches of rows, made anew whenever they are asked for, as an encoder makes them; float32."""

    def __init__(self, num: int, width: int, seed: int) -> None:
        self.num, self.seed = num, seed
        draw = np.random.default_rng(seed)
        self.mix, self.shift = draw.normal(size=(width, width)).astype(np.float32), np.float32(0.1 * seed)

    def batches(self) -> Any:
        draw = np.random.default_rng(self.seed)
        for start in range(0, self.num, BATCH):
            rows = draw.standard_normal((min(BATCH, self.num - start), len(self.mix)), dtype=np.float32)
            yield rows @ self.mix + self.shift


def ours(a: Features, b: Features) -> float:
    return frechet_distance(Moments.of(a.batches()), Moments.of(b.batches()))


def plain(a: Features, b: Features) -> float:
    """As FID is usually written."""
    first, second = (np.concatenate(list(one.batches())).astype(np.float64) for one in (a, b))
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    away = first.mean(0) - second.mean(0)
    return float(away @ away + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def plain_kernel(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    n, m, d = len(a), len(b), a.shape[1]
    own_a, own_b, across = (((x @ y.T) / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = (own_a.sum() - np.trace(own_a)) / (n * (n - 1)) + (own_b.sum() - np.trace(own_b)) / (m * (m - 1))
    return float(within - 2 * across.mean())


def in_turns(first: Callable[[], float], second: Callable[[], float], turns: int) -> dict[str, Any]:
    """Seconds of both, the median of second / first, and how far their results are apart."""
    taken, apart = [], 0.0
    for _ in range(turns):
        (mine, value), (theirs, other) = timed(first), timed(second)
        taken.append((mine, theirs))
        apart = max(apart, abs(value - other) / max(abs(other), 1e-12))
    return {
        "seconds": {"reverie": round(statistics.median(a for a, _ in taken), 3), "plain": round(statistics.median(b for _, b in taken), 3)},
        "ratio of time": round(statistics.median(b / a for a, b in taken), 2),
        "relative difference": apart,
    }  # fmt: skip


def distances(num: int, width: int, turns: int) -> dict[str, Any]:
    a, b = Features(num, width, 1), Features(num, width, 2)
    ours(Features(BATCH, width, 1), Features(BATCH, width, 2))  # what is loaded once
    found = {"rows": num, "numbers a row": width, "turns": turns}
    for key, value in in_turns(lambda: ours(a, b), lambda: plain(a, b), turns).items():
        found[f"Fréchet, {key}" if not key.startswith("ratio") else "ratio Fréchet, time"] = value
    memory = peak_mib(lambda: ours(a, b)), peak_mib(lambda: plain(a, b))
    found["Fréchet, MiB"] = {"reverie": round(memory[0], 1), "plain": round(memory[1], 1)}
    found["ratio Fréchet, memory"] = round(memory[1] / memory[0], 1)
    some = [np.concatenate(list(Features(min(num, 4000), width, seed).batches())) for seed in (1, 2)]
    for key, value in in_turns(lambda: kernel_distance(*some), lambda: plain_kernel(*some), turns).items():
        found[f"kernel, {key}" if not key.startswith("ratio") else "ratio kernel, time"] = value
    memory = peak_mib(lambda: kernel_distance(*some)), peak_mib(lambda: plain_kernel(*some))
    found["ratio kernel, memory"] = round(memory[1] / memory[0], 1)
    return found


def describing(captioner: str, num: int, turns: int, batch: int = 16) -> dict[str, Any]:
    """Images a second of the stage in a run folder, and of the captioner alone."""
    from reverie.recaption.describe import Describe, DescribeSpeed
    from reverie.run.columns import add_columns

    pictures, said = captioned(num, "street", 0, references=1)
    alone, engine = [], []
    opened = open_captioner(captioner, batch)
    opened([Image.fromarray(picture) for picture in pictures[:batch]])  # what is loaded once
    for _ in range(turns):
        images = [Image.fromarray(picture) for picture in pictures]
        seconds, _ = timed(lambda images=images: [opened(images[at : at + batch]) for at in range(0, num, batch)])
        alone.append(num / seconds)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            fill(folder, pictures, [texts[0] for texts in said])
            stage = Describe(captioner, speed=DescribeSpeed(batch))
            # The engine opens the captioner too, which a long run does once: that is not counted.
            work = stage.open(StepContext(folder, "recaption"))
            object.__setattr__(stage, "open", lambda context, work=work: work)
            seconds, _ = timed(lambda folder=folder, stage=stage: add_columns(folder, stage, "recaption", "cpu"))
            engine.append(num / seconds)
    return {
        "captioner": captioner,
        "images": num,
        "images a second": {"alone": round(statistics.median(alone), 1), "inside the engine": round(statistics.median(engine), 1)},
        "ratio describing, engine to alone": round(statistics.median(e / a for e, a in zip(engine, alone, strict=True)), 2),
    }  # fmt: skip


def open_captioner(name: str, batch: int) -> Callable[[list[Image.Image]], Any]:
    """The captioner without a store around it, asked for short captions as the stage asks for them."""
    from reverie.models.describer import open_describer

    opened = open_describer(name, "cpu", batch_size=batch)
    return lambda pictures: opened.describe(pictures, [0] * len(pictures), "short")


def fill(folder: Path, pictures: np.ndarray[Any, Any], texts: list[str]) -> None:
    """An import of these pictures, a unit at a time."""
    for unit in range(0, len(texts), UNIT):
        captions = [
            {"caption_id": f"{number:016x}", "unit": unit // UNIT, "text": texts[number], "status": pairs.OK}
            for number in range(unit, min(unit + UNIT, len(texts)))
        ]
        rows = [
            {**caption, "pair_id": pairs.pair_id(caption["caption_id"], 0), "copy": 0, "origin": "real", "image": as_png(Image.fromarray(pictures[unit + place]))}
            for place, caption in enumerate(captions)
        ]  # fmt: skip
        tables.append_unit(folder / "captions.lance", unit // UNIT, pairs.table(captions, pairs.CAPTIONS))
        tables.append_unit(folder / "pairs.lance", unit // UNIT, pairs.table(rows, pairs.PAIRS))


def main() -> None:
    """Print the comparison; as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--captioner", default="builtin:describer", help="what reverie recaption takes")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    found = distances(options.rows, options.width, options.turns)
    try:
        found |= describing(options.captioner, options.images, options.turns)
    except ReverieError as error:
        found |= {"captioner": options.captioner, "describing": f"not measured: {error}"}
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:40} {value}")


if __name__ == "__main__":
    main()
