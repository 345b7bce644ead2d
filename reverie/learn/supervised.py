"""Supervised learning of a classifier network: pre-training on painted images, fine-tuning on photos.

Source: arXiv:2210.07574, section 2.8 of the method. Its recipe for training was not published in full; the defaults here
are the usual ones for ImageNet (crop of 8 to 100 % of the area, flip).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import seeds
from reverie.captions.classes import read_classes
from reverie.errors import InputError
from reverie.learn import views
from reverie.models.backbones import begin_from, build_classifier, save_backbone

Augmentation = Literal["light", "strong", "plain"]


@dataclass(frozen=True)
class Supervised:
    """Learns from batches of labelled images: a backbone and one linear layer, by cross-entropy.

    Classes are joined by name, never by order. The losses of a step: ``loss`` and ``accuracy`` (share of images on their
    label).
    """

    classes: tuple[str, ...] | Path  # names, or a file of them
    backbone: str = "resnet-50"  # see models/backbones.py
    image_size: int = 224  # side of a view, pixels
    augmentation: Augmentation = "light"  # crop and flip; or with colour and blur as well; or none
    min_area: float = 0.08  # of a crop, as a share of the image
    label_smoothing: float = 0.0
    start: str | Path | None = None  # folder or Hub id of the weights to begin from; of the backbone, not of the head
    frozen_batchnorm: bool = False  # running statistics are used and stay; scale and shift are trained all the same
    wrong_labels: float = 0.0  # control: share of images whose label is drawn anew, the same at every visit

    def __post_init__(self) -> None:
        if len(read_classes(self.classes)) < 2:
            raise InputError("a classifier needs two classes or more to tell apart")
        if not 0 < self.min_area <= 1:
            raise InputError(f"min_area {self.min_area} is a share of the image, in (0, 1]")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing {self.label_smoothing} lies in [0, 1)")
        if not 0 <= self.wrong_labels <= 1:
            raise InputError(f"wrong_labels {self.wrong_labels} is a share, in [0, 1]")

    def build(self) -> nn.Module:
        """A transformers model for image classification, begun from ``start``. Raises ModelError, InputError."""
        net: nn.Module = build_classifier(self.backbone, self.image_size, read_classes(self.classes))
        if self.start is not None:
            begin_from(net.base_model, self.start)  # type: ignore[arg-type]
        return net

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy of one step. ``label`` of the batch may be shorter than ``images``, which are view-major.

        Raises: InputError for a label that is missing or not among the classes.
        """
        if self.frozen_batchnorm:
            freeze_batchnorm(net)
        images, names = batch["images"], batch["label"]
        numbers = _numbers(self.classes)
        self.check_labels(names)
        known = [numbers[name] for name in names] * (len(images) // len(names))
        if self.wrong_labels:
            known = [self._maybe_wrong(*image) for image in zip(known, batch["pair_id"], strict=True)]
        labels = torch.tensor(known, device=images.device)
        logits = net(pixel_values=self._views(images)).logits.float()
        return {
            "loss": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing),
            "accuracy": (logits.detach().argmax(1) == labels).float().mean(),
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """A folder that opens as a backbone, and in transformers as a model for image classification."""
        save_backbone(net, folder)

    def check_labels(self, names: Iterable[str | None]) -> None:
        """Raises InputError for a label that is missing or not among the classes."""
        strangers = set(names) - _numbers(self.classes).keys()
        if None in strangers:
            raise InputError("some images have no label, so their class cannot be learned; leave them out")
        if strangers:
            shown = ", ".join(sorted(map(str, strangers))[:5])
            raise InputError(f"there are labels that are not among the classes: {shown}")

    def _maybe_wrong(self, label: int, pair_id: str) -> int:
        draw = np.random.default_rng(seeds.derive("wrong label", pair_id))
        return int(draw.integers(len(_numbers(self.classes)))) if draw.random() < self.wrong_labels else label

    def _views(self, images: Tensor) -> Tensor:
        if self.augmentation == "plain":
            return views.plain(images, self.image_size)
        make = views.light if self.augmentation == "light" else views.strong
        return make(images, self.image_size, self.min_area)


def freeze_batchnorm(net: nn.Module) -> None:
    """Put every BatchNorm into eval mode: it normalises with its running statistics and leaves them as they are."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@functools.cache
def _numbers(classes: Sequence[str] | Path) -> dict[str, int]:
    return {name: number for number, name in enumerate(read_classes(classes))}
