"""MoCo v2: two views of an image are each other's positive, against a queue of some thousand earlier images.

The second view goes through the key encoder, a moving average of the network, whose earlier outputs are the queue.

Source: He et al., arXiv:1911.05722, and Chen et al., arXiv:2003.04297 (head, blur, temperature). Differs: see
``MoCoV2.batchnorm_groups``.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.errors import InputError
from reverie.learn import views
from reverie.learn.gather import gather
from reverie.models.backbones import begin_from, build_backbone, represent, save_backbone, width


@dataclass(frozen=True)
class MoCoV2:
    """Learns from batches of images; captions and labels play no part.

    The losses of a step: ``loss`` (InfoNCE in nats; log(1 + queue) if nothing is told apart) and ``accuracy`` (share of views
    that are most like their own image).

    A network with BatchNorm could recognise the batch by its statistics, since the two views of an image share one and the
    queue does not. The papers shuffle images between GPUs against that. Here, on one device or on each of many, both views
    pass in groups with statistics of their own, and the keys are shuffled between the groups. On many GPUs the statistics
    of a group are those of all GPUs, because fit.py makes every BatchNorm a SyncBatchNorm.
    """

    backbone: str = "resnet-50"
    image_size: int = 224  # side of a view, pixels
    queue: int = 65_536  # keys kept; a multiple of the joined batch of all processes
    momentum: float = 0.999  # of the key encoder; short trainings need less
    temperature: float = 0.2
    head_out: int = 128
    min_area: float = 0.2  # of a crop, as a share of the image
    batchnorm_groups: int = 8  # 1 = no shuffling; without BatchNorm it plays no part
    start: str | Path | None = None  # folder or Hub id of the weights to begin from

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1 or self.temperature <= 0 or not 0 < self.min_area <= 1:
            raise InputError("momentum lies in [0, 1), temperature above 0, min_area in (0, 1]")
        if min(self.queue, self.head_out, self.batchnorm_groups) < 1:
            raise InputError("queue, head_out and batchnorm_groups must be at least 1")

    def build(self) -> nn.Module:
        """Backbone and head (the query encoder), the key encoder, and a queue of random directions. Raises ModelError, InputError."""
        return _Net(self)

    def check_batch(self, images: int) -> None:
        """Raises InputError for a joined batch that does not go into the queue, or not into the groups of BatchNorm."""
        self._check_queue(images)
        with torch.device("meta"):  # shapes only
            _check_groups(images, _Net(dataclasses.replace(self, start=None)).groups)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """InfoNCE of one step; the keys of the step then push the oldest out of the queue."""
        make = [views.strong(batch["images"], self.image_size, self.min_area) for _ in range(2)]
        queries, keys = net(*make)
        inner = net.module if hasattr(net, "module") else net
        assert isinstance(inner, _Net)
        joined = gather(keys)
        self._check_queue(len(joined))
        # A copy, because the queue is changed before backward has read it.
        logits = (
            torch.cat([(queries * keys).sum(1, keepdim=True), queries @ inner.queue.clone().T], 1) / self.temperature
        )
        own = torch.zeros(
            len(logits), dtype=torch.long, device=logits.device
        )  # the first column is the view's own image
        inner.put(joined)
        return {"loss": F.cross_entropy(logits, own), "accuracy": (logits.detach().argmax(1) == 0).float().mean()}

    @torch.no_grad()
    def after_step(self, net: nn.Module) -> None:
        """Move the key encoder a little towards the query encoder."""
        assert isinstance(net, _Net)
        torch._foreach_lerp_(
            list(net.key_encoder.parameters()), list(net.query_encoder.parameters()), 1 - self.momentum
        )

    def save(self, net: nn.Module, folder: Path) -> None:
        """The backbone of the query encoder; head, key encoder and queue are not kept."""
        assert isinstance(net, _Net)
        save_backbone(net.query_encoder.backbone, folder)

    def _check_queue(self, images: int) -> None:
        if images > self.queue or self.queue % images:
            raise InputError(
                f"a queue of {self.queue} keys is not a multiple of a batch of {images} images; change either"
            )


class _Encoder(nn.Module):
    """Views (B, 3, S, S) to (B, head_out), not normalised."""

    def __init__(self, learner: MoCoV2) -> None:
        super().__init__()
        self.backbone = build_backbone(learner.backbone, learner.image_size)
        if learner.start is not None:
            begin_from(self.backbone, learner.start)
        size = width(self.backbone)
        self.head = nn.Sequential(nn.Linear(size, size), nn.ReLU(inplace=True), nn.Linear(size, learner.head_out))

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.head(represent(self.backbone, pixels))
        return found


class _Net(nn.Module):
    """All that a checkpoint must hold: query encoder, key encoder, queue, and where in the queue the oldest key is."""

    queue: Tensor  # (size, head_out), unit rows
    oldest: Tensor  # int64 scalar

    def __init__(self, learner: MoCoV2) -> None:
        super().__init__()
        self.query_encoder = _Encoder(learner)
        self.key_encoder = copy.deepcopy(self.query_encoder).requires_grad_(False)
        has_batchnorm = any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.query_encoder.modules()
        )
        self.groups = learner.batchnorm_groups if has_batchnorm else 1
        self.register_buffer("queue", F.normalize(torch.randn(learner.queue, learner.head_out), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    def forward(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Two views of the same images, (B, 3, S, S) each, to unit rows (B, head_out) each, float32; keys carry no gradient."""
        asked = _in_groups(self.query_encoder, queries, self.groups)
        with torch.no_grad():
            order = torch.randperm(len(keys), device=keys.device)
            kept = _in_groups(self.key_encoder, keys[order], self.groups)[order.argsort()]
        return F.normalize(asked.float(), dim=1), F.normalize(kept.float(), dim=1)

    @torch.no_grad()
    def put(self, keys: Tensor) -> None:
        """Keys (B, head_out) take the place of the oldest."""
        start = int(self.oldest)
        self.queue[start : start + len(keys)] = keys
        self.oldest.fill_((start + len(keys)) % len(self.queue))


def _in_groups(net: nn.Module, pixels: Tensor, groups: int) -> Tensor:
    _check_groups(len(pixels), groups)
    return torch.cat([net(group) for group in pixels.chunk(groups)])


def _check_groups(images: int, groups: int) -> None:
    if images % groups or (groups > 1 and images // groups < 2):
        raise InputError(f"a batch of {images} images does not divide into {groups} groups of 2 or more for BatchNorm")
