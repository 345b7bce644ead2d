"""A sweep of 45 L2 strengths: our batched L-BFGS against scikit-learn's LogisticRegression run 45 times on the same features.

    python benchmarks/linear_probe.py [--train 1280] [--test 6400] [--json]

Features are those of ``builtin:clip`` of street photos of the small world, standardised, 64 classes. The grid is the one that
the linear probe of the package sweeps, and ours runs at the tolerance with which it does. Both have the same threads. The
other way is used as its documentation says (lbfgs, its default tolerance), with iterations enough to converge. Accuracy is
measured on test photos at every strength: the largest difference, and the one at the strength that is best for each.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from typing import Any

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
    ours_s = time.perf_counter() - began
    ours = (heads.predict(test) == truth).double().mean(dim=1).numpy()

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
        "best accuracy, %": {"reverie": round(100 * ours.max(), 2), "scikit-learn": round(100 * other.max(), 2)},
        "difference of the best, points": round(100 * (ours.max() - other.max()), 2),
        "largest difference at one strength, points": round(100 * float(np.abs(ours - other).max()), 2),
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
        print(f"{name:45} {value}")


if __name__ == "__main__":
    main()
