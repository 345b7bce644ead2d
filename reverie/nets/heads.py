"""Small networks on top of a representation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ProjectionHead(nn.Sequential):
    """Three linear layers with BatchNorm and ReLU between them; (B, width) to (B, out), not normalised.

    ``forward`` is meant for one view group at a time: the statistics of BatchNorm are then over n captions of one view
    (and over all GPUs, where fit.py makes it a SyncBatchNorm). Source: StableRep code.
    """

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(
            nn.Linear(width, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out),
        )

    def by_group(self, features: Tensor, groups: int) -> Tensor:
        """Apply the head to each of ``groups`` equal runs of rows by itself."""
        return torch.cat([self(group) for group in features.chunk(groups)])
