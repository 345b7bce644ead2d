"""The multi-positive loss of reverie against the textbook one: time and peak memory of value and gradient.

    python benchmarks/multi_positive_loss.py [--rows 1024 4096 8192] [--json]

The textbook version makes the whole B x B similarity matrix, the mask of positives and the mask of self, as the pseudo-code
of the paper does. Each case runs in a fresh process, so that the peak of its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.learn.losses import multi_positive_loss

DIM, VIEWS, TEMPERATURE = 256, 6, 0.1


def textbook(features: Tensor, caption_ids: Tensor) -> Tensor:
    """Dense reference, all in float32."""
    unit = F.normalize(features, dim=1)
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / TEMPERATURE).masked_fill(own, -1e9)
    positives = ((caption_ids[:, None] == caption_ids[None]) & ~own).float()
    shares = positives / positives.sum(1, keepdim=True).clamp(min=1)
    return -(shares * F.log_softmax(logits, dim=1)).sum(1).mean()


def ours(features: Tensor, caption_ids: Tensor) -> Tensor:
    """As the learners call it."""
    return multi_positive_loss(features, caption_ids, TEMPERATURE)


VERSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"textbook": textbook, "reverie": ours}


def one_case(version: str, rows: int, repeats: int) -> dict[str, float]:
    """Best time in seconds, and by how many MiB the peak of this process rose."""
    features = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(0), requires_grad=True)
    caption_ids = torch.arange(-(-rows // VIEWS)).repeat(VIEWS)[:rows]
    loss_of = VERSIONS[version]
    loss_of(features[: 4 * VIEWS], torch.arange(4).repeat(VIEWS)).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        features.grad = None
        start = time.perf_counter()
        loss = loss_of(features, caption_ids)
        loss.backward()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(times), "peak_mib": (peak - before) / 1024, "loss": float(loss.detach())}


def measured(version: str, rows: int, repeats: int) -> dict[str, float]:
    """``one_case`` in a process of its own."""
    command = [sys.executable, __file__, "--case", version, str(rows), str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table; write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        version, rows, repeats = options.case
        print(json.dumps(one_case(version, int(rows), int(repeats))))
        return
    table: list[dict[str, Any]] = []
    for rows in options.rows:
        dense, chunked = (measured(version, rows, options.repeats) for version in VERSIONS)
        if abs(dense["loss"] - chunked["loss"]) > 1e-4:
            raise SystemExit(f"the two disagree at {rows} rows: {dense['loss']} and {chunked['loss']}")
        table.append(
            {
                "rows": rows,
                "textbook": dense,
                "reverie": chunked,
                "ratio": {
                    "time": round(dense["seconds"] / chunked["seconds"], 2),
                    "peak memory": round(dense["peak_mib"] / max(chunked["peak_mib"], 1.0), 2),
                },
            }
        )
    if options.json:
        print(json.dumps(table))
        return
    print(f"value and gradient, d = {DIM}, {VIEWS} views a caption, {torch.get_num_threads()} threads")
    print(f"{'rows':>6} {'textbook':>20} {'reverie':>20} {'time':>8} {'memory':>8}")
    for row in table:
        shown = [f"{row[name]['seconds']:8.3f} s {row[name]['peak_mib']:5.0f} MiB" for name in VERSIONS]
        ratio = row["ratio"]
        print(f"{row['rows']:>6} {shown[0]:>20} {shown[1]:>20} {ratio['time']:>7.2f}x {ratio['peak memory']:>7.2f}x")


if __name__ == "__main__":
    main()
