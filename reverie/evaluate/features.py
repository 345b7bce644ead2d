"""Features of photos, one row each: from a trained or untrained network, an encoder, or the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie import seeds
from reverie.datasets.labelled import LabelledImages
from reverie.errors import ModelError
from reverie.models.backbones import build_backbone, load_backbone, represent

FeatureExtractor = Callable[[npt.NDArray[np.uint8]], Tensor]
"""uint8 (b, 3, size, size) to float (b, d)."""


class ImageEncoder(Protocol):
    """What is needed of an encoder (models/encoder.py has one)."""

    def images(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """Rows (b, d), float32, for uint8 (b, H, W, 3)."""
        ...


def extract(
    describe: FeatureExtractor, photos: LabelledImages, size_px: int, batch_size: int = 256, resize_px: int = 0
) -> Tensor:
    """Features of all photos, float32 (n, d) on the CPU; photos are decoded a batch at a time.

    Raises: ModelError if a feature is not finite, because no number measured on it would mean anything.
    """
    rows = []
    for start in range(0, len(photos), batch_size):
        rows.append(describe(photos.pixels(slice(start, start + batch_size), size_px, resize_px)).float().cpu())
    found = torch.cat(rows)
    if not torch.isfinite(found).all():
        raise ModelError("features are not finite; the network is broken, train it again with a lower learning rate")
    return found


def of_pixels(side_px: int) -> FeatureExtractor:
    """The pixels in [0, 1], averaged down to squares of this side and laid in a row."""

    def describe(images: npt.NDArray[np.uint8]) -> Tensor:
        return F.adaptive_avg_pool2d(torch.from_numpy(images).float() / 255, side_px).flatten(1)

    return describe


def of_weights(folder: Path, device: str = "cpu") -> FeatureExtractor:
    """The representation of a trained backbone, read from its folder."""
    return _of_net(load_backbone(folder), device)


def of_untrained(folder: Path, seed: int, device: str = "cpu") -> FeatureExtractor:
    """The same network as in the folder, with weights as they are before training, drawn under this seed."""
    config = cast(Any, load_backbone(folder)).config
    with torch.random.fork_rng():
        torch.manual_seed(seeds.derive("untrained", seed))
        fresh = build_backbone(str(folder), getattr(config, "view_size", getattr(config, "image_size", 224)))
    return _of_net(fresh, device)


def of_encoder(encoder: ImageEncoder) -> FeatureExtractor:
    """The image rows of a two-tower encoder."""
    return lambda images: encoder.images(images.transpose(0, 2, 3, 1))


def _of_net(net: torch.nn.Module, device: str) -> FeatureExtractor:
    net = net.to(device).eval()

    @torch.inference_mode()
    def describe(images: npt.NDArray[np.uint8]) -> Tensor:
        return represent(net, torch.from_numpy(images).to(device))

    return describe
