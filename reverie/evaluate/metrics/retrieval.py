"""Retrieval: how often the right item is among the first k. Pure functions on arrays."""

from __future__ import annotations

from typing import Any

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


def image_text_retrieval(
    images: npt.NDArray[np.floating],
    texts: npt.NDArray[np.floating],
    image_captions: npt.NDArray[Any],
    text_captions: npt.NDArray[Any],
    ks: tuple[int, ...] = (1, 5, 10),
) -> dict[str, float]:
    """Recall both ways between images and texts of one embedding space, the usual CLIP retrieval numbers.

    Args:
        images, texts: (n, d) and (m, d), unit rows; cosine similarity decides.
        image_captions, text_captions: (n,) and (m,), what each row belongs to; equal values are a match, so one image
            may have five captions and one caption ten images.
    Returns: ``image_to_text@k`` (texts found for an image) and ``text_to_image@k`` for each k, in [0, 1].
    Raises: ValueError as :func:`recall_at_k`.
    """
    similarity = images @ texts.T
    relevant = image_captions[:, None] == text_captions[None, :]
    found = {f"image_to_text@{k}": recall_at_k(similarity, relevant, k) for k in ks}
    return found | {f"text_to_image@{k}": recall_at_k(similarity.T, relevant.T, k) for k in ks}
