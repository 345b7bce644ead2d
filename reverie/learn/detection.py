"""Pictures with boxes -> an object detector of transformers, trained from nothing.

Source: RT-DETR, arXiv:2304.08069, with the matching and the losses that transformers has for it (varifocal for names, L1 and
GIoU for boxes, contrastive denoising). Differs, because there is no pre-trained backbone and little time: batch norms
learn, and begin at one and not near zero; the names of denoised boxes are all random, so that a picture has to be looked at
to name a box, and every step teaches that many times; two resolutions instead of three.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessorPil, RTDetrResNetConfig

from reverie.errors import InputError
from reverie.nets.saving import save_pretrained


@dataclass(frozen=True)
class Detection:
    """Learns to find objects in ``batch["images"]``, uint8 (B, 3, H, W), resized to a square of ``image_size``.

    ``batch["boxes"]`` holds for each picture a float tensor (objects, 4) of x0, y0, x1, y1 in its pixels, perhaps of no objects,
    and ``batch["names"]`` the names of those objects.
    """

    names: tuple[str, ...]  # all that an object can be called
    image_size: int = 64
    widths: tuple[int, ...] = (24, 48, 96)  # channels at a quarter, an eighth, ...
    depth: int = 2  # residual blocks a resolution
    levels: int = 2  # the last so many resolutions are looked at for objects
    width: int = 64  # of encoder and decoder
    layers: int = 2  # of the decoder
    heads: int = 4
    queries: int = 12  # most objects that are found in a picture
    denoising: int = 8  # true boxes with noise that are shown beside, a picture, and as many that are too far off
    flip: bool = True  # mirror every second picture

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise InputError("a detector needs names for what it finds, each of them once")
        if not 2 <= self.levels <= len(self.widths):
            raise InputError(f"levels is {self.levels}; give 2 or more, and no more than the {len(self.widths)} widths")
        if self.image_size % self.strides[-1]:
            raise InputError(f"image_size is {self.image_size}; it must divide by {self.strides[-1]}")
        places = sum((self.image_size // stride) ** 2 for stride in self.strides[-self.levels :])
        if not 1 <= self.queries <= places:
            raise InputError(f"queries is {self.queries}; pictures of {self.image_size} pixels have {places} places")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between two places, for every resolution of the backbone."""
        return tuple(4 * 2**number for number in range(len(self.widths)))

    def build(self) -> nn.Module:
        """An untrained RTDetrForObjectDetection."""
        backbone = RTDetrResNetConfig(
            embedding_size=self.widths[0],
            hidden_sizes=list(self.widths),
            depths=[self.depth] * len(self.widths),
            layer_type="basic",
            out_indices=list(range(len(self.widths) - self.levels + 1, len(self.widths) + 1)),
        )
        config = RTDetrConfig(
            backbone_config=backbone,
            freeze_backbone_batch_norms=False,
            encoder_hidden_dim=self.width,
            encoder_in_channels=list(self.widths[-self.levels :]),
            feat_strides=list(self.strides[-self.levels :]),
            encode_proj_layers=[self.levels - 1],
            encoder_ffn_dim=2 * self.width,
            encoder_attention_heads=self.heads,
            hidden_expansion=0.5,
            d_model=self.width,
            num_queries=self.queries,
            decoder_in_channels=[self.width] * self.levels,
            num_feature_levels=self.levels,
            decoder_layers=self.layers,
            decoder_ffn_dim=2 * self.width,
            decoder_attention_heads=self.heads,
            num_denoising=self.denoising,
            label_noise_ratio=2.0,  # transformers halves it: every name is drawn anew
            id2label=dict(enumerate(self.names)),
            label2id={name: number for number, name in enumerate(self.names)},
        )
        net = RTDetrForObjectDetection(config)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # transformers leaves them near 0, which pre-trained weights then replace
        return cast(nn.Module, net.to(memory_format=torch.channels_last))

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss``, weighted as in the paper, and of the last layer its three parts: ``name``, ``box`` and ``giou``."""
        images, boxes = batch["images"], batch["boxes"]
        side = boxes[0].new_tensor([*images.shape[:-3:-1], *images.shape[:-3:-1]])
        pixels = self.pixels(images)
        flipped = torch.rand(len(images), device=images.device) < 0.5 * self.flip
        pixels = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
        numbers = {name: number for number, name in enumerate(self.names)}
        labels = [
            {
                "class_labels": torch.tensor([numbers[name] for name in names], dtype=torch.long, device=images.device),
                "boxes": _centred((some / side).to(images.device), bool(mirror)),
            }
            for some, names, mirror in zip(boxes, batch["names"], flipped, strict=True)
        ]
        output = net(pixel_values=pixels, labels=labels)
        last = {"name": "loss_vfl", "box": "loss_bbox", "giou": "loss_giou"}
        return {"loss": output.loss, **{ours: output.loss_dict[theirs].detach() for ours, theirs in last.items()}}

    def pixels(self, images: Tensor) -> Tensor:
        """What the net sees, as ``save``'s processor makes it: floats in 0..1, squashed to the square."""
        floats = images.float() / 255
        if images.shape[-2:] != (self.image_size, self.image_size):
            floats = nn.functional.interpolate(floats, size=(self.image_size,) * 2, mode="bilinear", antialias=True)
        return floats.contiguous(memory_format=torch.channels_last)

    def save(self, net: nn.Module, folder: Path) -> None:
        """A folder that ``AutoModelForObjectDetection`` and ``AutoImageProcessor`` open."""
        save_pretrained(net, folder)
        RTDetrImageProcessorPil(size={"height": self.image_size, "width": self.image_size}).save_pretrained(folder)


def _centred(boxes: Tensor, mirror: bool) -> Tensor:
    """Boxes (objects, 4) as fractions, from corners to centre, width and height; mirrored left to right if asked."""
    x0, y0, x1, y1 = boxes.reshape(-1, 4).unbind(1)
    x = (x0 + x1) / 2
    return torch.stack([1 - x if mirror else x, (y0 + y1) / 2, x1 - x0, y1 - y0], 1)
