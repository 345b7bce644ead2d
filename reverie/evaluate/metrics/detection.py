"""Overlap of boxes, and how many detected ones are right. Pure functions on arrays; a box is x0, y0, x1, y1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Boxes = npt.NDArray[np.floating[Any]]


def overlaps(a: Boxes, b: Boxes) -> npt.NDArray[np.float64]:
    """Intersection over union of every box of ``a`` (n, 4) with every box of ``b`` (m, 4): (n, m), 0 to 1.

    A box without area overlaps nothing.
    """
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 1, 4) for boxes in (a, b))
    b = b.transpose(1, 0, 2)
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    areas = [np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1) for boxes in (a, b)]
    both = areas[0] + areas[1] - shared
    share: npt.NDArray[np.float64] = np.divide(shared, both, out=np.zeros_like(both), where=shared > 0)
    return share


def num_right(
    names: Sequence[str], boxes: Boxes, said_names: Sequence[str], said_boxes: Boxes, min_overlap: float = 0.5
) -> int:
    """How many objects of a picture were found: the right name, and an overlap of at least ``least``.

    Objects and answers are matched one to one, so that as many as possible are right; an answer that repeats another is wrong.

    Args:
        names, boxes: what is there, n names and (n, 4).
        said_names, said_boxes: what is said to be there, m names and (m, 4).
    """
    if not len(names) or not len(said_names):
        return 0
    alike = np.array(names, object)[:, None] == np.array(said_names, object)[None]
    right = alike & (overlaps(boxes, said_boxes) >= min_overlap)
    return int(right[linear_sum_assignment(~right)].sum())
