"""Tuning a classifier on cached features against running the encoder every epoch; and 1,000 classes x 800 images.

    python benchmarks/classifier_tuning.py [--images 768] [--classes 1000] [--per-class 800] [--epochs 1] [--json]

First row: the same images, head, loss and number of epochs, twice. Ours encodes once (the encoding counts) and tunes on the
rows, as ``zero_shot`` does; the other way runs the frozen encoder anew on every batch, and is timed over one epoch. Images
are in memory as pixels, so that no decoding helps us.

Second row: random rows of 512 numbers, grouped around their classes, tuned with the paper's settings. What must hold: minutes,
and memory that does not grow. It runs for ``--epochs`` of the paper's 30; the seconds of all 30 are those of one times 30.
Each row is measured in a process of its own, because peak memory is a fact about a process. CPU time counts all threads, and
says more than the clock where others work on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch; as the command line sets it

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from reverie.learn.classifier_tuning import ClassifierTuning, FeatureBatches, starting_head
from reverie.learn.fit import Fit, FitSpeed, fit

EPOCHS = 30  # of the paper
BATCH = 512


def settings(steps: int) -> Fit:
    """As TuneClassifier has them."""
    return Fit(steps, 2e-3, weight_decay=0.1, betas=(0.9, 0.999), clip=1.0, speed=FitSpeed(checkpoint_every_s=60))


def learner(folder: Path, rows: torch.Tensor) -> ClassifierTuning:
    """The classifier that begins from these rows, one a class."""
    save_file({"weight": rows.contiguous()}, folder / "start.safetensors")
    return ClassifierTuning(start=folder / "start.safetensors")


def cached_or_not(num: int) -> dict[str, Any]:
    """Images a second, over all epochs, of both ways."""
    from reverie.models.encoder import open_encoder
    from reverie.models.feature_cache import cached_rows
    from reverie.models.zero_shot import class_embeddings
    from reverie.smallworld.photos import labelled

    images, labels, classes = labelled(num, "street", 0)
    images, targets = np.asarray(images), torch.as_tensor(np.asarray(labels))
    encoder = open_encoder("builtin:clip", "cpu", 64)
    start = starting_head(class_embeddings(encoder, classes, ("a photo of a {class}.",)), encoder.logit_scale)
    encoder.images(images[:64])

    def batches_of() -> Iterator[list[Any]]:
        for first in range(0, num, 64):
            yield list(images[first : first + 64])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began, cpu = time.perf_counter(), time.process_time()
        rows = cached_rows(encoder, batches_of, folder / "features")
        encoding = time.perf_counter() - began
        batches = FeatureBatches(rows, targets, batch=BATCH)
        fit(learner(folder, start), batches, settings(EPOCHS * batches.per_epoch), folder / "fit", seed=0, device="cpu")
        ours, ours_cpu = time.perf_counter() - began, time.process_time() - cpu

        tuning = learner(folder, start)
        net = tuning.build()
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.1)
        began, cpu = time.perf_counter(), time.process_time()
        for first in range(0, num, BATCH):
            rows_now = encoder.images(images[first : first + BATCH])
            loss = tuning.losses(net, {"features": rows_now, "labels": targets[first : first + BATCH]})["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        theirs, theirs_cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "what": f"{num:,} images of {images.shape[1]} px, {len(classes)} classes, {EPOCHS} epochs",
        "images": num,
        "epochs": EPOCHS,
        "seconds, cached features": round(ours, 2),
        "seconds of these to encode": round(encoding, 2),
        "seconds, encoder every epoch": round(EPOCHS * theirs, 2),
        "images/s, cached features": round(EPOCHS * num / ours),
        "images/s, encoder every epoch": round(num / theirs),
        "ratio images/s": round(EPOCHS * theirs / ours, 1),
        "ratio CPU time": round(EPOCHS * theirs_cpu / ours_cpu, 1),
    }


def many(num_classes: int, per_class: int, dim: int, epochs: int) -> dict[str, Any]:
    """Seconds and memory of tuning on random rows around their classes."""
    draw = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(num_classes, dim, generator=draw), dim=1)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    rows = torch.empty(len(labels), dim)
    for part in range(0, len(rows), 100_000):
        some = slice(part, part + 100_000)
        rows[some] = centres[labels[some]] + 0.15 * torch.randn(len(rows[some]), dim, generator=draw)
        rows[some] = F.normalize(rows[some], dim=1)
    process = psutil.Process()
    memory: list[float] = []

    def watch(step: int, net: torch.nn.Module) -> None:
        if step % 100 == 0:
            memory.append(process.memory_info().rss / 2**20)

    batches = FeatureBatches(rows, labels, batch=BATCH)
    steps = epochs * batches.per_epoch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The class names say roughly where a class is, as those of CLIP do.
        start = starting_head(centres + 0.06 * torch.randn(centres.shape, generator=draw), 100.0)
        began, cpu = time.perf_counter(), time.process_time()
        fitted = fit(
            learner(folder, start), batches, settings(steps), folder / "fit", seed=0, device="cpu", watch=watch
        )
        spent, spent_cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "what": f"{num_classes:,} classes x {per_class} images, {dim} features, {epochs} epochs",
        "images": len(rows),
        "epochs": epochs,
        "seconds an epoch": round(spent / epochs, 1),
        "CPU seconds an epoch": round(spent_cpu / epochs, 1),
        f"minutes for {EPOCHS} epochs, from these": round(EPOCHS * spent / epochs / 60, 1),
        "images/s, cached features": round(epochs * len(rows) / spent),
        "MiB of features": round(rows.nbytes / 2**20),
        "peak MiB of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "MiB that memory grew after the first 100 steps": round(max(memory) - memory[0]),
        "right on the last batch": round(float(fitted.losses["accuracy"]), 3),
    }


def main() -> None:
    """Print both rows; as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=800)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", choices=["cached", "many"], help="measure one row in this process")
    options = parser.parse_args()
    if options.one:
        made = (
            cached_or_not(options.images)
            if options.one == "cached"
            else many(options.classes, options.per_class, options.dim, options.epochs)
        )
        print(json.dumps(made))
        return
    rows = []
    for one in ("cached", "many"):
        words = [sys.executable, __file__, *sys.argv[1:], "--one", one]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    if options.json:
        names = dict.fromkeys(name for row in rows for name in row)
        print(json.dumps([{name: row.get(name) for name in names} for row in rows]))
        return
    for row in rows:
        for name, value in row.items():
            print(f"{name:48} {value}")
        print()


if __name__ == "__main__":
    main()
