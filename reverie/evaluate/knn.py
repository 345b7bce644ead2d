"""Weighted nearest neighbours: how good features are with nothing trained on top of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def knn(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Class of each test row by a vote of its k nearest train rows in cosine similarity, each weighted exp(sim / temperature).

    Args:
        train, test: float (n, d) and (m, d), any length; made unit length here.
        labels: int64 (n,) in [0, num_classes).
        k: neighbours; all of train if it has fewer.
        chunk: test rows compared at once; changes memory, not the answer.
    Returns: int64 (m,); a tied vote goes to the lower class number.
    Raises: ValueError if k or temperature is not positive, or train is empty.
    Source: Wu et al., arXiv:1805.01978, with the k and temperature that DINO made usual.
    """
    if k < 1 or temperature <= 0 or not len(train):
        raise ValueError(f"needs k >= 1, temperature > 0 and a train row; got {k}, {temperature}, {len(train)} rows")
    keys = F.normalize(train.float(), dim=1)
    votes = []
    for queries in torch.split(F.normalize(test.float(), dim=1), chunk):
        nearness, which = (queries @ keys.T).topk(min(k, len(keys)), dim=1)
        weights = torch.exp((nearness - 1) / temperature)  # relative to a perfect match, so that nothing overflows
        tally = torch.zeros(len(queries), num_classes, device=keys.device).scatter_add_(1, labels[which], weights)
        votes.append(tally.argmax(dim=1))
    return torch.cat(votes) if votes else labels.new_empty(0)
