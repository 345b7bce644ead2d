"""Reading and decoding shuffled training batches from the store, `webdataset` and `datasets`: the same images, the same threads.

    python benchmarks/reading.py [--num 50000] [--batch 256] [--rounds 3] [--json] [--cache FOLDER]

Each reader turns stored JPEGs into uint8 batches of the same size. The other two are used as their documentation says
(tar shards with shuffled shards and a buffer of 1,000; parquet opened as an Arrow table and shuffled), once inside the process and
once with as many worker processes as we have decoding threads; the faster of the two counts. They take turns within a
round, so that a busy machine slows all, and the ratio is taken inside each round. Each epoch runs in a process of its own, as
Lance does not bear forks, and time runs from its first batch to its last, which leaves out the start of processes. The store
and `datasets` shuffle exactly.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

UNIT = 1000


def scenery(seed: int, size_px: int) -> bytes:
    """A JPEG with edges, smooth areas and fine grain at about the file size of a photo of its width."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None]) + 1 / size_px
    spectrum = random.normal(size=(3, *frequency.shape, 2)) @ (1, 1j) / frequency**1.2  # photos fall off about like 1/f
    waves = np.fft.irfft2(spectrum, (size_px, size_px))
    waves = np.where(waves[0] > 0, waves, waves[::-1])  # two regions with an edge between
    pixels = np.clip(128 + 60 * waves / waves.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def rows_of(unit: int, num: int, size_px: int) -> Any:
    from reverie import pairs

    rows = []
    for position in range(unit * UNIT, min((unit + 1) * UNIT, num)):
        name = pairs.caption_id(0, "bench", position)
        row = {
            "pair_id": pairs.pair_id(name, 0),
            "caption_id": name,
            "copy": 0,
            "unit": unit,
            "text": f"scene {position}",
        }
        row |= {
            "image": scenery(position, size_px),
            "width": size_px,
            "height": size_px,
            "origin": "painted",
            "status": "ok",
        }
        rows.append(row)
    return pairs.table(rows, pairs.PAIRS)


def make(folder: Path, num: int, size_px: int) -> None:
    """The store, tar shards and a saved dataset with the same images; made once."""
    import datasets

    from reverie.store import exports, tables

    units = [unit for unit in range(-(-num // UNIT)) if unit not in tables.done_units(folder / "pairs.lance")]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for unit, rows in zip(
            units, pool.map(rows_of, units, itertools.repeat(num), itertools.repeat(size_px)), strict=True
        ):
            tables.append_unit(folder / "pairs.lance", unit, rows)
    if not (folder / "tar").exists():
        exports.to_webdataset(folder / "pairs.lance", folder / "tar", per_shard=UNIT, columns=["text"])
    if not (folder / "arrow").exists():
        if not (folder / "parquet").exists():
            exports.to_parquet(folder / "pairs.lance", folder / "parquet", columns=["text"])
        data = datasets.load_dataset(str(folder / "parquet"), split="train", cache_dir=str(folder / "cache"))
        data.save_to_disk(folder / "arrow")


def fit(picture: Image.Image, size_px: int) -> torch.Tensor:
    """What the store does to each image, for the other two: shorter side resized, centre cropped, channels first."""
    if picture.size != (size_px, size_px):
        side = min(picture.size)
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        picture = picture.resize((size_px, size_px), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def store(threads: int, folder: Path, batch: int, size_px: int, epoch: int) -> Iterator[torch.Tensor]:
    from reverie.store.batches import CaptionBatches

    batches = CaptionBatches(folder / "pairs.lance", batch, 1, seed=epoch, size_px=size_px, threads=threads)
    for item in itertools.islice(batches.iterate(0), len(batches)):
        yield item["images"]


class TarSample:
    """A decoded sample of a shard -> a pair. A class, so that worker processes can get it."""

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px

    def __call__(self, sample: tuple[Image.Image, str]) -> tuple[torch.Tensor, str]:
        return fit(sample[0], self.size_px), sample[1]


def webdataset(workers: int, folder: Path, batch: int, size_px: int, epoch: int) -> Iterator[torch.Tensor]:
    import webdataset as wds

    shards = sorted(map(str, (folder / "tar").glob("*.tar")))
    data = (
        wds.WebDataset(shards, shardshuffle=len(shards), seed=epoch).shuffle(1000).decode("pil").to_tuple("jpg", "txt")
    )
    data = data.map(TarSample(size_px)).batched(batch, partial=False)
    for images, _ in wds.WebLoader(data, batch_size=None, num_workers=workers):
        yield images


class ArrowSamples:
    """Rows of a dataset -> tensors; set as its transform."""

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"image": [fit(picture, self.size_px) for picture in rows["image"]], "text": rows["text"]}


def huggingface(workers: int, folder: Path, batch: int, size_px: int, epoch: int) -> Iterator[torch.Tensor]:
    import datasets

    data = datasets.load_from_disk(folder / "arrow").with_transform(ArrowSamples(size_px))
    order = torch.Generator().manual_seed(epoch)
    loader = torch.utils.data.DataLoader(
        data, batch, shuffle=True, generator=order, num_workers=workers, drop_last=True
    )
    for rows in loader:
        yield rows["image"]


def images_per_s(batches: Iterator[torch.Tensor], batch: int, size_px: int) -> float:
    """Speed of an epoch after its first batch."""
    first = next(batches)
    assert first.shape == (batch, 3, size_px, size_px)
    began, number = time.perf_counter(), 0
    for images in batches:
        number += len(images)
    return number / (time.perf_counter() - began)


def readers(threads: int) -> dict[str, Callable[..., Iterator[torch.Tensor]]]:
    """Name -> reader of (folder, batch, size_px, epoch)."""
    return {
        "store": functools.partial(store, threads),
        "webdataset": functools.partial(webdataset, 0),
        f"webdataset, {threads} workers": functools.partial(webdataset, threads),
        "datasets": functools.partial(huggingface, 0),
        f"datasets, {threads} workers": functools.partial(huggingface, threads),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    speeds: dict[str, list[float]] = {name: [] for name in readers(options.threads)}
    ratios = []
    for number in range(options.rounds):
        for name, runs in speeds.items():
            words = [
                sys.executable,
                __file__,
                *sys.argv[1:],
                "--cache",
                str(folder.parent),
                "--one",
                name,
                "--epoch",
                str(number),
            ]
            runs.append(float(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout))
        ratios.append(speeds["store"][-1] / max(runs[-1] for name, runs in speeds.items() if name != "store"))
    files = list((folder / "parquet" / "data").iterdir())
    return {
        "benchmark": "reading",
        "images": options.num,
        "stored_px": options.stored_px,
        "size_px": options.size_px,
        "mean_bytes": round(sum(file.stat().st_size for file in files) / options.num),
        "batch": options.batch,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "images_per_s": {name: round(statistics.median(runs)) for name, runs in speeds.items()},
        "ratio_to_better": {
            "median": round(statistics.median(ratios), 3),
            "rounds": [round(ratio, 3) for ratio in ratios],
        },
        "goal": 1.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=50_000)
    parser.add_argument("--stored-px", type=int, default=128)
    parser.add_argument("--size-px", type=int, default=112)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="folder that keeps the images for the next time")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # measure one reader in this process
    parser.add_argument("--epoch", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.num < 2 * options.batch * options.threads:
        parser.error("--num is too small to give every worker two batches")
    with contextlib.ExitStack() as stack:
        cache = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = cache / f"{options.num}x{options.stored_px}"
        if options.one:
            read = readers(options.threads)[options.one]
            print(
                images_per_s(
                    read(folder, options.batch, options.size_px, options.epoch), options.batch, options.size_px
                )
            )
            return
        make(folder, options.num, options.stored_px)
        found = measure(options, folder)
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{found['images']:,} JPEGs of {options.stored_px} px and {found['mean_bytes']:,} bytes -> {options.size_px} px"
    )
    for name, speed in found["images_per_s"].items():
        print(f"{name:24} {speed:>8,} images/s")
    ratio = found["ratio_to_better"]
    print(
        f"store / the better other one: {ratio['median']:.2f}x (rounds: {ratio['rounds']}; goal at least {found['goal']}x)"
    )


if __name__ == "__main__":
    main()
