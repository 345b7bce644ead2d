"""Features of photos, one row each: from a trained or untrained network, an encoder, or the pixels themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from reverie import seeds
from reverie.datasets.labelled import LabelledImages
from reverie.errors import ModelError
from reverie.models.backbones import build_backbone, load_backbone, represent

FeatureExtractor = Callable[[npt.NDArray[np.uint8]], Tensor]
"""uint8 (b, 3, size, size) to float (b, d)."""


def extract(
    describe: FeatureExtractor, photos: LabelledImages, size_px: int, batch_size: int = 256, resize_px: int = 0
) -> Tensor:
    """Features of all photos, float32 (n, d) on the CPU; photos are decoded a batch at a time.

    Raises: ModelError if a feature is not finite, because no number measured on it would mean anything.
    """
    starts = range(0, len(photos), batch_size)
    return _rows(describe, (photos.pixels(slice(start, start + batch_size), size_px, resize_px) for start in starts))


def extract_crops(
    describe: FeatureExtractor,
    photos: LabelledImages,
    size_px: int,
    draw: tuple[int, ...],
    batch_size: int = 256,
    threads: int = 2,
) -> Tensor:
    """Features of one random crop of each photo, as ``extract`` gives them, in the order of the photos.

    A crop is what a probe on ImageNet trains on: 8 to 100 % of the photo, of an aspect ratio of 3/4 to 4/3, resized (bilinear) to a
    square of ``size_px`` and mirrored half of the time.

    Args: ``draw``, numbers that together with the place of a photo say which crop it is, such as seed and epoch.
    """

    def crop(place: int) -> npt.NDArray[np.uint8]:
        picture, luck = photos.picture(place), np.random.default_rng(seeds.derive("probe crop", *draw, place))
        box = crop_box(*picture.size, luck)
        square = picture.resize((size_px, size_px), Image.Resampling.BILINEAR, box=box)
        return np.asarray(square)[:, :: -1 if luck.random() < 0.5 else 1]

    with ThreadPoolExecutor(threads) as pool:
        places = (range(start, min(start + batch_size, len(photos))) for start in range(0, len(photos), batch_size))
        squares = (np.stack(list(pool.map(crop, some))).transpose(0, 3, 1, 2) for some in places)
        return _rows(describe, squares)


def crop_box(width: int, height: int, luck: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop: area uniform in 8 to 100 %, aspect ratio log-uniform in 3/4 to 4/3.

    Ten tries for a box that fits into the picture, then the largest centred one, as torchvision does.
    """
    for _ in range(10):
        area = width * height * luck.uniform(0.08, 1.0)
        ratio = math.exp(luck.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(luck.integers(width - wide + 1)), int(luck.integers(height - tall + 1))
            return left, top, left + wide, top + tall
    wide, tall = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def _rows(describe: FeatureExtractor, batches: Iterable[npt.NDArray[np.uint8]]) -> Tensor:
    found = torch.cat([describe(pixels).float().cpu() for pixels in batches])
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


def _of_net(net: torch.nn.Module, device: str) -> FeatureExtractor:
    net = net.to(device).eval()

    @torch.inference_mode()
    def describe(images: npt.NDArray[np.uint8]) -> Tensor:
        return represent(net, torch.from_numpy(images).to(device))

    return describe
