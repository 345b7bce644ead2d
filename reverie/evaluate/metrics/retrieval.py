"""Retrieval: how often the right item is among the first k. Pure functions on arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def recall_at_k(similarity: npt.NDArray[np.floating], relevant: npt.NDArray[np.bool_], k: int) -> float:
    """Share of queries that find at least one relevant candidate among their k most similar, in [0, 1].

    An irrelevant candidate that ties with the best relevant one counts as ahead of it, so a model that says the same
    of everything scores 0, not 1.

    Args:
        similarity: (queries, candidates), higher is more alike, finite.
        relevant: (queries, candidates); every query needs at least one relevant candidate.
        k: at least 1.
    Raises: ValueError on other shapes, no queries, a query without a relevant candidate, or similarities not finite.
    """
    if similarity.shape != relevant.shape or similarity.ndim != 2 or not len(similarity):
        raise ValueError(
            f"similarity {similarity.shape} and relevant {relevant.shape} must be equal, 2-d and not empty"
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if not np.isfinite(similarity).all():
        raise ValueError("similarities must be finite")
    if not relevant.any(axis=1).all():
        raise ValueError("a query without a relevant candidate has no recall")
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    ahead = ((similarity >= best) & ~relevant).sum(axis=1)
    return float(np.mean(ahead < k))
