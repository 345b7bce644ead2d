"""How often a classifier is right. Pure functions on integer arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]


def top1(predicted: Ints, labels: Ints) -> float:
    """Share of rows whose prediction is the label, in [0, 1].

    Raises: ValueError if the lengths differ or there are no rows: no number is better than a made-up one.
    """
    _check(predicted, labels)
    return float(np.mean(predicted == labels))


def mean_per_class(predicted: Ints, labels: Ints) -> float:
    """Top-1 of each class that occurs in the labels, averaged with equal weight per class, in [0, 1].

    Classes without a row have no accuracy and are left out of the mean.
    Raises: ValueError if the lengths differ or there are no rows.
    """
    _check(predicted, labels)
    return float(np.mean([np.mean(predicted[labels == c] == c) for c in np.unique(labels)]))


def confusion(predicted: Ints, labels: Ints, num_classes: int) -> npt.NDArray[np.int64]:
    """Counts of (label, prediction), shape (num_classes, num_classes): rows are the truth, columns the answers.

    Raises: ValueError if the lengths differ, there are no rows, or a number is outside [0, num_classes).
    """
    _check(predicted, labels)
    both = np.concatenate([predicted, labels])
    if both.min() < 0 or both.max() >= num_classes:
        raise ValueError(f"class numbers must lie in [0, {num_classes}), found {both.min()} to {both.max()}")
    cells = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _check(predicted: Ints, labels: Ints) -> None:
    if predicted.shape != labels.shape or predicted.ndim != 1:
        raise ValueError(f"predictions {predicted.shape} and labels {labels.shape} must be two lists of one length")
    if not len(labels):
        raise ValueError("accuracy of no rows is not defined")
