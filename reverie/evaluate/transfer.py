"""Linear probe and nearest neighbours of any encoder on several sets of labelled photos: ``reverie evaluate transfer``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie import seeds
from reverie.datasets.labelled import LabelledImages, find_photos, load_photos
from reverie.errors import InputError, ModelError
from reverie.evaluate.heads import probe
from reverie.evaluate.knn import knn
from reverie.evaluate.metrics.classification import top1
from reverie.models.onnx_features import INCEPTION, SUFFIX, open_onnx_features

Features = Callable[[Sequence[Image.Image]], Tensor]
"""Pictures of any size to float (b, d)."""

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``, in photos."""


@dataclass(frozen=True)
class Transferred:
    """The numbers of one set of photos."""

    photos: str  # as it was asked for
    num_classes: int
    num_train: int
    num_test: int
    linear: float  # top-1 of a linear classifier on the test photos
    mean_per_class: float  # the same, averaged over classes
    knn: float  # top-1 of a vote of the nearest train photos
    chosen: float  # L2 strength of the linear classifier


def transfer(
    features: Features,
    sources: Sequence[str],
    *,
    max_train: int = 0,
    max_test: int = 0,
    neighbours: int = 20,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[Transferred]:
    """Probe one source after the other.

    Args:
        sources: what ``datasets/labelled.py`` reads, each with train and test.
        max_train, max_test: photos to draw from a split that has more, the same under a seed for every encoder; 0 = all.
        seed: of the draw, and of the part of train that the strength is chosen on.
    Raises: InputError for a source that is not there, named twice, or has no class with two train photos; ModelError for
        features that are not finite.
    """
    places = [_place(source) for source in sources]
    if twice := [source for source, place in zip(sources, places, strict=True) if places.count(place) > 1]:
        raise InputError(f"{twice[-1]} is named twice")
    if min(max_train, max_test) < 0 or neighbours < 1 or batch_size < 1:
        raise InputError("the most photos are 0 (all) or more; neighbours and the batch are 1 or more")
    for source in sources:  # a slip in the last one must not cost the work of all before it
        for split in ("train", "test"):
            find_photos(source, split)

    def rows_of(photos: LabelledImages, what: str) -> tuple[Tensor, Tensor]:
        rows = []
        for start in range(0, len(photos), batch_size):
            numbers = range(start, min(start + batch_size, len(photos)))
            rows.append(features([photos.picture(number) for number in numbers]).float().cpu())
            if progress:
                progress(what, numbers.stop, len(photos))
        found = torch.cat(rows)
        if not torch.isfinite(found).all():
            raise ModelError(
                "features are not finite; the network is broken, train it again with a lower learning rate"
            )
        return found.to(device), torch.from_numpy(photos.labels).to(device)

    for source in sources:
        train = load_photos(source, "train")
        classes = train.classes
        x, labels = rows_of(_drawn(train, max_train, seed), f"train photos of {source}")
        test = _drawn(load_photos(source, "test", classes), max_test, seed)
        test_x, test_labels = rows_of(test, f"test photos of {source}")
        found = probe(x, labels, lambda rows=(test_x, test_labels): rows, len(classes), seed=seed)  # type: ignore[misc]
        near = knn(x, labels, test_x, len(classes), k=neighbours).cpu().numpy()
        yield Transferred(
            source, len(classes), len(x), len(test_x), found.top1, found.mean_per_class, top1(near, found.labels),
            found.chosen,
        )  # fmt: skip


def means(rows: Sequence[Transferred]) -> dict[str, float]:
    """Of each metric over the sources, which all weigh the same."""
    metrics = ("linear", "mean_per_class", "knn")
    return {metric: statistics.fmean(getattr(row, metric) for row in rows) for metric in metrics}


def features_of(name: str, device: str = "cpu", batch_size: int = 64) -> tuple[Features, str]:
    """What gives the features of an encoder, and its name with its revision.

    Args: name: a vision model, or one of images and texts, of which the vision tower is taken, by name or folder (see
        models/names.py); an ONNX file (see models/onnx_features.py); or ``pixels``, the photos themselves, 16 x 16, which an encoder
        should be better than.
    Raises: ModelError, UnknownName, MissingExtra.
    """
    if name == "pixels":
        return _pixels, name
    if name.endswith(SUFFIX) or name == INCEPTION:
        network = open_onnx_features(name, batch_size)
        return network, network.revision
    from reverie.models.encoder import open_backbone

    backbone = open_backbone(name, device, batch_size)
    return backbone.features, backbone.revision


def _pixels(pictures: Sequence[Image.Image], side: int = 16) -> Tensor:
    small = [np.asarray(picture.resize((side, side), Image.Resampling.BOX)) for picture in pictures]
    return torch.from_numpy(np.stack(small)).flatten(1).float() / 255


def _drawn(photos: LabelledImages, max_photos: int, seed: int) -> LabelledImages:
    """All photos, or so many of them, classes as often as they happen to come."""
    if not max_photos or len(photos) <= max_photos:
        return photos
    wanted = np.zeros(len(photos), dtype=bool)
    draw = np.random.default_rng(seeds.derive("transfer", seed))
    wanted[draw.permutation(len(photos))[:max_photos]] = True
    return photos.only(wanted)


def called(sources: Sequence[str]) -> list[str]:
    """What a table calls sources: the last part of a folder, or all that was given where two end alike."""
    names = [_place(source).rpartition("/")[2] for source in sources]
    return [source if names.count(name) > 1 else name for source, name in zip(sources, names, strict=True)]


def _place(source: str) -> str:
    return source if source.startswith("smallworld:") else Path(source).resolve().as_posix()
