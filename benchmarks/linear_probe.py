"""A sweep of 45 L2 strengths: our batched L-BFGS against scikit-learn's LogisticRegression run 45 times on the same features.

    python benchmarks/linear_probe.py [--train 1280] [--test 6400] [--json]

Features are those of ``builtin:clip`` of street photos of the small world, standardised, 64 classes. The grid is the one that
the linear probe of the package sweeps, and ours does as it does: all strengths at its tolerance for choosing, then the best
one again at its tolerance for the result. Both have the same threads. The other way is used as its documentation says (lbfgs,
its default tolerance), with iterations enough to converge. The best strength of each is that with most test photos right:
this compares two ways to the same number, and measures no encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch; as the command line sets it

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from reverie.evaluate.heads import STRENGTHS, logistic_heads
from reverie.models.encoder import open_encoder
from reverie.smallworld.photos import labelled

ITERATIONS = 1000


def features(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows of the encoder, float32 (num, d), and classes of labelled photos."""
    images, labels, classes = labelled(num, "street", seed)
    return open_encoder("builtin:clip", "cpu", 64).images(images), torch.as_tensor(np.asarray(labels)), len(classes)


def compare(num_train: int, num_test: int) -> dict[str, Any]:
    """Both ways, one after the other."""
    x, labels, num_classes = features(num_train, 0)
    test, truth, _ = features(num_test, 1)
    logistic_heads(x[:256], labels[:256], num_classes, STRENGTHS[:1])

    began = time.perf_counter()
    heads = logistic_heads(x, labels, num_classes, STRENGTHS, tolerance=1e-4)
    sweep_s = time.perf_counter() - began
    ours = (heads.predict(test) == truth).double().mean(dim=1).numpy()
    best = int(ours.argmax())
    began = time.perf_counter()
    final = logistic_heads(x, labels, num_classes, STRENGTHS[best : best + 1])
    ours_s = sweep_s + time.perf_counter() - began
    right = float((final.predict(test)[0] == truth).double().mean())

    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    rows, classes = ((x - mean) / scale).numpy(), labels.numpy()
    test_rows, test_classes = ((test - mean) / scale).numpy(), truth.numpy()
    theirs, short = [], 0
    began = time.perf_counter()
    for strength in STRENGTHS:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ConvergenceWarning)
            found = LogisticRegression(C=1 / strength, max_iter=ITERATIONS).fit(rows, classes)
        short += any(issubclass(item.category, ConvergenceWarning) for item in said)
        theirs.append(found)
    theirs_s = time.perf_counter() - began
    other = np.array([found.score(test_rows, test_classes) for found in theirs])
    return {
        "features": f"{num_train:,} x {x.shape[1]}, {num_classes} classes, {len(STRENGTHS)} strengths",
        "test photos": num_test,
        "threads": torch.get_num_threads(),
        "seconds": {"reverie": round(ours_s, 2), "scikit-learn": round(theirs_s, 2)},
        "of these the sweep": round(sweep_s, 2),
        "best accuracy, %": {"reverie": round(100 * right, 2), "scikit-learn": round(100 * float(other.max()), 2)},
        "difference, points": round(100 * (right - float(other.max())), 2),
        "best strength": {"reverie": STRENGTHS[best], "scikit-learn": STRENGTHS[int(other.argmax())]},
        "root mean square difference over all strengths, points": round(
            100 * float(np.sqrt(((ours - other) ** 2).mean())), 2
        ),
        "scikit-learn fits that stopped short": short,
        "ratio time": round(theirs_s / ours_s, 1),
    }


def main() -> None:
    """Print the comparison; as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=1280)
    parser.add_argument("--test", type=int, default=6400)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    found = compare(options.train, options.test)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:56} {value}")


if __name__ == "__main__":
    main()
