"""CLIP: contrastive learning of images and captions. Trains a transformers ``CLIPModel`` from nothing, or any vision
backbone with a text tower beside it.

Source: arXiv:2103.00020. Differs: the logit scale is kept between 1 and 100, as in StableRep's text tower.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPVisionConfig

from reverie.errors import InputError
from reverie.learn import views
from reverie.learn.losses import image_text_loss
from reverie.learn.stablerep import LOGIT_SCALE_RANGE, TextTower, TwoTowers, load_tokenizer
from reverie.models.backbones import MEAN, STD, represent
from reverie.nets.saving import save_pretrained
from reverie.nets.text import Tokens, text_config, tokenize


@dataclass(frozen=True)
class CLIP:
    """Learns from batches of n captions with one or more images each; the defaults are ViT-B/16's.

    With a ``backbone`` the vision tower is that one, so that CLIP can be compared with other learners on it: what is saved is
    the backbone, and ``dual_encoder/`` in it, as of StableRep+. Without one it is CLIP's own, of the sizes given here.
    """

    reads_text: ClassVar[bool] = True

    image_size: int = 224  # side of a view, pixels
    patch_size: int = 16
    width: int = 768  # of the vision tower
    layers: int = 12
    heads: int = 12
    text: TextTower = field(default_factory=TextTower)
    augmentation: Literal["weak", "none"] = "weak"
    backbone: str | None = None  # see models/backbones.py; patch_size, width, layers and heads then say nothing

    def build(self) -> nn.Module:
        """An untrained net. Raises InputError if the images do not divide into patches; ModelError for no such backbone."""
        if self.backbone is not None:
            return _OnBackbone(self.backbone, self.image_size, self.text)
        if self.image_size % self.patch_size:
            raise InputError(f"{self.image_size} pixels do not divide into patches of {self.patch_size}")
        text = self.text
        texts = text_config(
            load_tokenizer(text.tokenizer),
            width=text.width,
            layers=text.layers,
            heads=text.heads,
            context=text.context,
            out=text.out,
        )
        images = CLIPVisionConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            projection_dim=text.out,
        )
        return _Net(CLIPConfig(text_config=texts.to_dict(), vision_config=images.to_dict(), projection_dim=text.out))

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss``, ``accuracy`` (share of images nearest to their own caption, in this process), ``captions_cut``."""
        make = views.weak if self.augmentation == "weak" else views.plain
        texts = batch["text"]
        tokens = tokenize(load_tokenizer(self.text.tokenizer), texts, self.text.context)
        output = net(make(batch["images"], self.image_size), tokens)
        nearest = (output["images"].detach() @ output["texts"].detach().T).argmax(1)
        own = torch.arange(len(nearest), device=nearest.device) % len(texts)
        return {
            "loss": image_text_loss(output["images"], output["texts"], output["scale"]),
            "accuracy": (nearest == own).float().mean(),
            "captions_cut": nearest.new_tensor(tokens.num_cut / len(texts), dtype=torch.float32),
        }

    def after_step(self, net: nn.Module) -> None:
        """Keep the learned scale of the logits between 1 and 100."""
        assert isinstance(net, _Net | _OnBackbone)
        scale = net.clip.logit_scale if isinstance(net, _Net) else net.logit_scale
        scale.data.clamp_(*LOGIT_SCALE_RANGE)

    def save(self, net: nn.Module, folder: Path) -> None:
        """A folder that ``CLIPModel`` and ``CLIPProcessor`` open; of a backbone, as ``StableRep.save`` with a text tower."""
        if isinstance(net, _OnBackbone):
            net.save(folder, load_tokenizer(self.text.tokenizer))
            return
        assert isinstance(net, _Net)
        save_pretrained(net.clip, folder)
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": self.image_size},
            crop_size={"height": self.image_size, "width": self.image_size},
            resample=2,  # bilinear, as the views
            image_mean=list(MEAN),
            image_std=list(STD),
        )
        CLIPProcessor(image_processor=processor, tokenizer=load_tokenizer(self.text.tokenizer)).save_pretrained(folder)


class _Net(nn.Module):
    """The model, giving features of unit length and the scale of the logits."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.clip = CLIPModel(config)

    def forward(self, pixels: Tensor, tokens: Tokens) -> dict[str, Tensor]:
        """Views (m*n, 3, S, S) and n texts to ``images`` (m*n, d), ``texts`` (n, d), ``scale``."""
        images = self.clip.get_image_features(pixel_values=pixels).pooler_output
        ids, mask = tokens.ids.to(pixels.device), tokens.mask.to(pixels.device)
        texts = self.clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        unit = nn.functional.normalize
        return {"images": unit(images, dim=1), "texts": unit(texts, dim=1), "scale": self.clip.logit_scale.exp()}


class _OnBackbone(TwoTowers):
    """A vision backbone and a text tower, giving features of unit length and the scale of the logits."""

    def __init__(self, backbone: str, image_size: int, text: TextTower) -> None:
        super().__init__(backbone, image_size)
        self.add_text(text)

    def forward(self, pixels: Tensor, tokens: Tokens) -> dict[str, Tensor]:
        """As ``_Net.forward``."""
        output = self.projected(represent(self.backbone, pixels), tokens)
        return {
            name: value if name == "scale" else nn.functional.normalize(value, dim=1) for name, value in output.items()
        }
