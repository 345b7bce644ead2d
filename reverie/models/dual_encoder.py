"""A vision backbone and a text tower with projections into one space, as a model that ``AutoModel`` opens like a CLIP.

transformers has such a model for two towers of any kind, but it reads a ViT through the pooler, an extra tanh layer that
no backbone of ours trains; here the representation is that of ``represent``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPTextModelWithProjection, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from reverie.models.backbones import from_config, represent, save_image_processor, width
from reverie.nets.saving import save_pretrained


@strict
class DualEncoderConfig(PreTrainedConfig):  # type: ignore[misc]
    """Of both towers. The text tower is CLIP's."""

    model_type = "reverie_dual_encoder"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012

    vision_config: PreTrainedConfig | dict[str, Any] | None = None
    text_config: PreTrainedConfig | dict[str, Any] | None = None
    projection_dim: int = 512

    def __post_init__(self, **kwargs: Any) -> None:
        for name, usual in (("vision_config", "vit"), ("text_config", "clip_text_model")):
            given = getattr(self, name)
            if not isinstance(given, PreTrainedConfig):
                settings = dict(given or {})
                setattr(self, name, AutoConfig.for_model(settings.pop("model_type", usual), **settings))
        super().__post_init__(**kwargs)


class DualEncoder(PreTrainedModel):  # type: ignore[misc]
    """Features of images and texts in one space, as ``CLIPModel`` gives them: ``get_image_features(...).pooler_output``."""

    config_class = DualEncoderConfig
    main_input_name = "pixel_values"

    def __init__(self, config: DualEncoderConfig, towers: tuple[nn.Module, nn.Module] | None = None) -> None:
        super().__init__(config)
        if towers is None:
            towers = from_config(config.vision_config), CLIPTextModelWithProjection(config.text_config)
        self.vision_model, self.text_model = towers
        self.visual_projection = nn.Linear(width(self.vision_model), config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Projected representations (B, d) of normalised pixels."""
        return BaseModelOutputWithPooling(
            pooler_output=self.visual_projection(represent(self.vision_model, pixel_values))
        )

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutputWithPooling:
        """Projected features (B, d) of token ids."""
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return BaseModelOutputWithPooling(pooler_output=output.text_embeds)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (images, texts)."""
        images = nn.functional.normalize(self.get_image_features(pixel_values).pooler_output, dim=1)
        texts = nn.functional.normalize(self.get_text_features(input_ids, attention_mask).pooler_output, dim=1)
        return self.logit_scale.exp() * images @ texts.T


AutoConfig.register(DualEncoderConfig.model_type, DualEncoderConfig)
AutoModel.register(DualEncoderConfig, DualEncoder)


def save_dual_encoder(
    backbone: nn.Module, text: nn.Module, projection: nn.Linear, logit_scale: Tensor, tokenizer: Any, folder: Path
) -> None:
    """Write a folder that ``open_encoder`` opens: both towers, their projections, tokenizer and image processor.

    Args:
        text: ``CLIPTextModelWithProjection``.
        projection: from the representation of the backbone to the width of the text features, without bias.
        logit_scale: logarithm of the factor on cosine similarities.
    """
    vision: Any = backbone
    config = DualEncoderConfig(
        vision_config=vision.config.to_dict(),
        text_config=text.config.to_dict(),  # type: ignore[union-attr, operator]
        projection_dim=projection.out_features,
    )
    with torch.no_grad():
        net = DualEncoder(config, (backbone, text))
        net.visual_projection.weight.copy_(projection.weight)
        net.logit_scale.copy_(logit_scale)
    save_pretrained(net, folder)
    tokenizer.save_pretrained(folder)
    save_image_processor(vision.config.view_size, folder)
