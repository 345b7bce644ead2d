"""Gathering of the rows of all processes that lets gradients through, as ``accelerate.gather`` and ``dist.all_gather`` do not."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    return dist.get_rank() if world() > 1 else 0


def gather(rows: Tensor) -> Tensor:
    """Rows (B, ...) of every process, in the order of ranks: (world * B, ...). B must be equal everywhere.

    Backward sums, over the processes, the gradients that each has for our rows. With losses that are means over local
    anchors, and gradients that DDP averages, that is the gradient of the mean over all anchors.
    """
    if world() == 1:
        return rows
    return _AllGather.apply(rows)  # type: ignore[no-untyped-call, no-any-return]


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(world())[rank()]
