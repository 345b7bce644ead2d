"""SimCLR: two crops of one image are each other's positives. StableRep with m = 1 and k = 2, from the same code.

Source: arXiv:2002.05709; head and augmentation as in StableRep, arXiv:2306.00984, so that the two can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from reverie.learn.stablerep import StableRep


@dataclass(frozen=True)
class SimCLR(StableRep):
    """Learns from batches of n images, one a caption; captions play no part."""

    images_per_caption: int = 1
    crops: int = 2
