"""Tuning of CLIP's whole vision tower together with its zero-shot head, for comparison with tuning the head alone.

Source: arXiv:2210.07574, whose domain-gap study finds that on painted images this is no better than the head alone, and on
real ones it is. Teacher and loss are those of ``classifier_tuning``; the teacher is the untouched model.
"""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.captions.classes import read_classes
from reverie.errors import InputError
from reverie.learn.classifier_tuning import LinearHead, save_head, soft_target_loss, starting_head
from reverie.models.backbones import center_square
from reverie.models.classifier import ABOUT, OWN_ENCODER
from reverie.models.encoder import Encoder, open_encoder
from reverie.models.names import locate
from reverie.models.pretrained import load_image_processor, load_tokenizer
from reverie.models.zero_shot import class_embeddings
from reverie.nets.saving import save_pretrained


@dataclass(frozen=True)
class EndToEnd:
    """Batches hold ``images`` (n, 3, H, W), uint8, and ``label`` (n class names). Nothing is augmented, as for the head alone.

    The losses of a step: ``loss`` and ``accuracy`` (share of the batch on its label).
    """

    classes: tuple[str, ...] | Path  # names, or a file of them
    templates: tuple[str, ...] = ("a photo of a {class}.",)
    model: str = "builtin:clip"
    soft_share: float = 0.5  # of the loss; the rest is plain cross-entropy (sl in the paper)
    temperature: float = 2.0  # of the teacher
    image_size: int = 224  # side at which images are read

    def build(self) -> nn.Module:
        """The zero-shot classifier, of which the vision tower and the head learn."""
        with torch.device("cpu"):  # weights are read, also where a caller asks for shapes only
            encoder = open_encoder(self.model)
            rows = class_embeddings(encoder, read_classes(self.classes), self.templates)
            return _Net(encoder, starting_head(rows, encoder.logit_scale), with_teacher=self.soft_share > 0)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The loss is sl SCE + (1 - sl) CE. Raises InputError for a label that is not among the classes."""
        number = self._numbers()
        if strangers := set(batch["label"]) - number.keys():
            raise InputError(f"the label {strangers.pop()!r} is not among the classes")
        labels = torch.tensor([number[name] for name in batch["label"]], device=batch["images"].device)
        logits, teacher = net(batch["images"])
        loss = (1 - self.soft_share) * F.cross_entropy(logits, labels)
        if teacher is not None:
            loss = loss + self.soft_share * soft_target_loss(logits, teacher, self.temperature)
        return {"loss": loss, "accuracy": (logits.detach().argmax(1) == labels).float().mean()}

    def save(self, net: nn.Module, folder: Path) -> None:
        """A classifier folder with its encoder in ``encoder/``."""
        assert isinstance(net, _Net)
        place = locate(self.model)
        encoder = folder / OWN_ENCODER
        save_pretrained(net.clip, encoder)
        load_tokenizer(place).save_pretrained(encoder)
        load_image_processor(place).save_pretrained(encoder)
        save_head(net.head, folder)
        about = {
            "classes": list(read_classes(self.classes)),
            "encoder": OWN_ENCODER,
            "revision": f"tuned from {place}",
            "templates": list(self.templates),
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")

    def _numbers(self) -> dict[str, int]:
        return _numbered(read_classes(self.classes))


@functools.cache
def _numbered(classes: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(classes)}


class _Net(nn.Module):
    """Tower and head, and the tower as it was for the teacher."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, start: Tensor, with_teacher: bool) -> None:
        super().__init__()
        self.clip = encoder.net.float()
        self.head = LinearHead(start)
        self.teacher = copy.deepcopy(self.clip).requires_grad_(False).eval() if with_teacher else None
        for name, parameter in self.clip.named_parameters():
            parameter.requires_grad_(name.startswith(("vision_model", "visual_projection")))
        mean, std, self.side = encoder.preparation
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (n, classes) of uint8 images (n, 3, H, W), and the teacher's."""
        pixels = center_square(images.float() / 255, self.side)
        pixels = (pixels - self.mean) / self.std
        features = self.clip.get_image_features(pixel_values=pixels).pooler_output
        if self.teacher is None:
            return self.head(features), None
        with torch.no_grad():
            known = self.teacher.get_image_features(pixel_values=pixels).pooler_output
        return self.head(features), self.head.zero_shot(known)
