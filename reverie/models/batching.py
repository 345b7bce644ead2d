"""Batch sizes that halve when the device runs out of memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class AdaptiveBatcher:
    """Calls a function on pieces of a list; halves the piece on out-of-memory and remembers the size that fitted."""

    size: int

    def __call__(self, function: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in order, one a piece. Raises what ``function`` raises; out-of-memory only for a single item."""
        start = 0
        while start < len(items):
            piece = items[start : start + self.size]
            try:
                result = function(piece)
            except RuntimeError as error:
                if len(piece) == 1 or not should_reduce_batch_size(error):
                    raise
            else:
                yield result
                start += len(piece)
                continue
            # Outside of the handler, so that the traceback no longer holds the tensors that filled the memory.
            self.size = len(piece) // 2
            gc.collect()
            clear_device_cache()


def best_batch(rate: Callable[[int], float], first: int = 4, most: int = 256, gain: float = 1.05) -> int:
    """The batch, doubled from ``first`` on, after which a larger one is not a twentieth faster, or does not fit the memory.

    Args: rate: items a second in batches of this size; may raise out-of-memory.
    """
    best, known, size = 1, 0.0, first
    while size <= most:
        try:
            found = rate(size)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            gc.collect()
            clear_device_cache()
            break
        if known and found < gain * known:
            break
        best, known, size = size, found, 2 * size
    return best
