"""A sweep of 45 L2 strengths: our batched L-BFGS against scikit-learn's LogisticRegression run 45 times on the same features.

    python benchmarks/linear_probe.py [--train 1280] [--test 3200] [--json]

Features are those of ``builtin:clip`` of street photos of the small world, standardised, 64 classes. The grid is the one that
the linear probe of the package sweeps, and ours does as it does: all strengths at its tolerance for choosing, then the best
one again at its tolerance for the result. Both have the same threads, and take turns. The other way is used as its
documentation says (lbfgs, its default tolerance), with iterations enough to converge. The best strength of each is that with
most test photos right: this compares two ways to the same number, and measures no encoder.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
import warnings
from collections.abc import Callable
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
TURNS = 3


def features(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows of the encoder, float32 (num, d), and classes of labelled photos."""
    images, labels, classes = labelled(num, "street", seed)
    return open_encoder("builtin:clip", "cpu", 64).images(images), torch.as_tensor(np.asarray(labels)), len(classes)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of all threads together."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def compare(num_train: int, num_test: int) -> dict[str, Any]:
    """Both ways, in turns."""
    x, labels, num_classes = features(num_train, 0)
    test, truth, _ = features(num_test, 1)
    logistic_heads(x[:256], labels[:256], num_classes, STRENGTHS[:1])

    def sweep() -> None:
        """As the probe does: all strengths roughly, then the best one well."""
        found["heads"] = logistic_heads(x, labels, num_classes, STRENGTHS, tolerance=1e-4)
        found["right"] = (found["heads"].predict(test) == truth).double().mean(dim=1).numpy()
        best = int(found["right"].argmax())
        found["final"] = logistic_heads(x, labels, num_classes, STRENGTHS[best : best + 1])

    def one_by_one(strengths: tuple[float, ...]) -> None:
        for strength in strengths:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", ConvergenceWarning)
                fitted = LogisticRegression(C=1 / strength, max_iter=ITERATIONS).fit(rows, classes)
            found["short"] += any(issubclass(item.category, ConvergenceWarning) for item in said)
            found["theirs"].append(fitted.score(test_rows, test_classes))

    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    rows, classes = ((x - mean) / scale).numpy(), labels.numpy()
    test_rows, test_classes = ((test - mean) / scale).numpy(), truth.numpy()
    found: dict[str, Any] = {"short": 0, "theirs": []}
    ours_s, theirs_s = [], []
    # In turns, so that others on the machine slow both.
    for part in range(TURNS):
        ours_s.append(timed(sweep))
        theirs_s.append(timed(functools.partial(one_by_one, STRENGTHS[part::TURNS])))
    ours, theirs = np.mean(ours_s, axis=0).tolist(), np.sum(theirs_s, axis=0).tolist()
    order = [place for part in range(TURNS) for place in range(len(STRENGTHS))[part::TURNS]]
    other = np.array(found["theirs"])[np.argsort(order)]
    right = float((found["final"].predict(test)[0] == truth).double().mean())
    apart = np.sqrt(((found["right"] - other) ** 2).mean())
    return {
        "features": f"{num_train:,} x {x.shape[1]}, {num_classes} classes, {len(STRENGTHS)} strengths",
        "test photos": num_test,
        "threads": torch.get_num_threads(),
        "seconds": {"reverie": round(ours[0], 2), "scikit-learn": round(theirs[0], 2)},
        "CPU seconds": {"reverie": round(ours[1], 2), "scikit-learn": round(theirs[1], 2)},
        "best accuracy, %": {"reverie": round(100 * right, 2), "scikit-learn": round(100 * float(other.max()), 2)},
        "difference, points": round(100 * (right - float(other.max())), 2),
        "root mean square difference over all strengths, points": round(100 * float(apart), 2),
        "scikit-learn fits that stopped short": found["short"],
        "ratio time": round(theirs[0] / ours[0], 1),
        "ratio CPU time": round(theirs[1] / ours[1], 1),
    }


def main() -> None:
    """Print the comparison; as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=1280)
    parser.add_argument("--test", type=int, default=3200)
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
