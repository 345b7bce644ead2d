"""MAE: a ViT encodes a quarter of an image's patches, and a small decoder reconstructs the others.

Source: He et al., arXiv:2111.06377, by the classes of transformers. Differs: weights begin from a normal distribution
(standard deviation 0.02), as transformers draws them, and not from Xavier's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from reverie.errors import InputError
from reverie.learn import views
from reverie.models.backbones import begin_from, build_backbone, save_backbone

SHARED = (  # what a ViT and its encoder in ViTMAE have in common
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps", "image_size", "patch_size", "num_channels",
    "qkv_bias",
)  # fmt: skip


@dataclass(frozen=True)
class MAE:
    """Learns from batches of images; captions and labels play no part. ``loss``: squared error of normalised pixels.

    The targets are the pixels of each masked patch with their own mean and variance taken out.
    """

    backbone: str = "vit-b16"  # a plain ViT, see models/backbones.py
    image_size: int = 224  # side of a view, pixels
    masked: float = 0.75  # share of the patches
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    min_area: float = 0.2  # of a crop, as a share of the image
    start: str | Path | None = None  # folder or Hub id of the weights to begin from

    def __post_init__(self) -> None:
        if not 0 < self.masked < 1:
            raise InputError(f"masked {self.masked} is the share of patches that are hidden, above 0 and below 1")
        if not 0 < self.min_area <= 1:
            raise InputError(f"min_area {self.min_area} is a share of the image, in (0, 1]")
        if min(self.decoder_width, self.decoder_layers, self.decoder_heads) < 1 or (
            self.decoder_width % self.decoder_heads or self.decoder_width % 4
        ):
            raise InputError(
                f"decoder_width {self.decoder_width} must divide into {self.decoder_heads} heads, and by 4"
            )

    def build(self) -> nn.Module:
        """A transformers ``ViTMAEForPreTraining``. Raises InputError for a backbone that is no plain ViT; ModelError."""
        plain = build_backbone(self.backbone, self.image_size)
        if not isinstance(plain, ViTModel):
            raise InputError(
                f"MAE hides patches from a plain ViT, and {self.backbone} is a {type(plain).__name__}; use vit-tiny or another ViT"
            )
        config: Any = plain.config
        patches = (config.image_size // config.patch_size) ** 2
        if not 1 <= int(patches * (1 - self.masked)) < patches:
            raise InputError(
                f"of {patches} patches none would be {'seen' if self.masked > 0.5 else 'hidden'} at {self.masked}"
            )
        net: Any = ViTMAEForPreTraining(
            ViTMAEConfig(
                **{name: getattr(config, name) for name in SHARED},
                decoder_hidden_size=self.decoder_width,
                decoder_num_hidden_layers=self.decoder_layers,
                decoder_num_attention_heads=self.decoder_heads,
                decoder_intermediate_size=4 * self.decoder_width,
                mask_ratio=self.masked,
                norm_pix_loss=True,
            )
        )
        # transformers 5 zeroes what this sets, and a decoder that does not know where a patch is draws all of them alike.
        net.decoder.initialize_weights(patches)
        if self.start is not None:
            begin_from(plain, self.start)
            net.vit.load_state_dict(plain.state_dict())
        return net  # type: ignore[no-any-return]

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Loss of one step; which patches are hidden is drawn by torch's generator."""
        pixels = views.light(batch["images"], self.image_size, self.min_area)
        return {"loss": net(pixel_values=pixels).loss}

    def save(self, net: nn.Module, folder: Path) -> None:
        """The encoder as a plain ViT; the decoder is not kept."""
        plain = build_backbone(self.backbone, self.image_size)
        plain.load_state_dict(net.vit.state_dict())  # type: ignore[union-attr]
        save_backbone(plain, folder)
