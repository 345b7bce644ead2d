"""StableRep: all images painted from one caption are each other's positives. With a text tower it is StableRep+.

Source: arXiv:2306.00984 and its code.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.errors import InputError
from reverie.learn import views
from reverie.learn.losses import entropy_floor, image_text_loss, multi_positive_loss
from reverie.models.backbones import build_backbone, represent, save_backbone, width
from reverie.models.dual_encoder import save_dual_encoder
from reverie.models.encoder import DUAL_ENCODER
from reverie.models.pretrained import load_tokenizer_of
from reverie.nets.heads import ProjectionHead
from reverie.nets.text import Tokens, text_config, text_tower, tokenize

LOGIT_SCALE_START = math.log(1 / 0.07)
LOGIT_SCALE_RANGE = (0.0, math.log(100))


@dataclass(frozen=True)
class TextTower:
    """A causal transformer read at the end token, as in CLIP. The defaults are the paper's."""

    tokenizer: str = "openai/clip-vit-base-patch16"  # its vocabulary only: a name or folder, no weights are read
    width: int = 512
    layers: int = 12
    heads: int = 8
    context: int = 77  # tokens; longer captions are cut, and captions_cut counts them
    out: int = 512  # of the space that images and texts share


@dataclass(frozen=True)
class StableRep:
    """Learns from batches of n captions with m images each; the defaults are the paper's for ViT-B/16.

    The losses of a step: ``loss``, ``contrast`` (the multi-positive one), ``kl`` (how far it is above its least
    possible value), and with a text tower ``image_text`` and ``captions_cut`` (share of captions cut at the limit).
    """

    backbone: str = "vit-b16"
    image_size: int = 224  # side of a view, pixels
    images_per_caption: int = 6  # m: images of a caption in a batch
    crops: int = 1  # k: views of an image
    temperature: float = 0.1
    head_hidden: int = 4096
    head_out: int = 256
    augmentation: Literal["strong", "weak"] = "strong"
    min_area: float = 0.08  # smallest share of the area that a strong view is cut from
    hue: float = 0.1  # the most that colours of a strong view are turned by, in turns; 0.5 is any hue
    gray: float = 0.2  # share of the strong views that lose their colour
    downscale_px: tuple[int, ...] = ()  # e.g. (64, 128): some images get no sharper than this
    downscale_probability: float = 0.05
    text_tower: bool = False
    text: TextTower = field(default_factory=TextTower)

    @property
    def reads_text(self) -> bool:
        """Whether captions are learned from, as those of the text tower are."""
        return self.text_tower

    def build(self) -> nn.Module:
        """Untrained backbone, head and, if wanted, text tower."""
        return _Net(self)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of one step; ``batch`` as docs/architecture.md has it. Raises InputError on a batch of other sizes."""
        images, captions, texts = batch["images"], batch["caption"], batch["text"]
        count = len(texts)
        if len(images) != self.images_per_caption * count:
            raise InputError(
                f"a batch holds {len(images)} images for {count} captions, but the learner wants "
                f"{self.images_per_caption} for each"
            )
        if count < 2:
            raise InputError("contrast needs 2 or more captions in the batch of each process")
        images = views.downscale(images, self.downscale_px, self.downscale_probability)
        pixels = torch.cat([self._view(images) for _ in range(self.crops)])
        tokens = tokenize(self._tokenizer(), texts, self.text.context) if self.text_tower else None

        output = net(pixels, tokens)

        captions = captions.repeat(self.crops)
        contrast = multi_positive_loss(output["features"], captions, self.temperature)
        named = {"loss": contrast, "contrast": contrast, "kl": contrast - entropy_floor(captions)}
        if tokens is not None:
            named["image_text"] = image_text_loss(output["images"], output["texts"], output["scale"])
            named["loss"] = contrast + named["image_text"]
            named["captions_cut"] = contrast.new_tensor(tokens.num_cut / count)
        return named

    def after_step(self, net: nn.Module) -> None:
        """Keep the learned scale of the image-text logits between 1 and 100."""
        if self.text_tower:
            net.logit_scale.data.clamp_(*LOGIT_SCALE_RANGE)  # type: ignore[operator]

    def save(self, net: nn.Module, folder: Path) -> None:
        """The backbone; the projection head is not kept. With a text tower also ``dual_encoder/``, both towers
        and what they need, which ``open_encoder`` opens.
        """
        assert isinstance(net, _Net)
        net.save(folder, self._tokenizer() if self.text_tower else None)

    def _view(self, images: Tensor) -> Tensor:
        if self.augmentation == "weak":
            return views.weak(images, self.image_size)
        return views.strong(images, self.image_size, self.min_area, self.hue, self.gray)

    def _tokenizer(self) -> Any:
        return load_tokenizer(self.text.tokenizer)


@functools.cache
def load_tokenizer(name: str) -> Any:
    """The tokenizer of a builtin model, a Hub id, or a folder, which may hold nothing else."""
    return load_tokenizer_of(name)


class TwoTowers(nn.Module):
    """A backbone that may have a text tower beside it, both projected into one space, with a learned scale of the logits."""

    def __init__(self, backbone: str, image_size: int) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, image_size)

    def add_text(self, text: TextTower) -> None:
        """Text tower, projection of images, scale."""
        size = width(self.backbone)
        self.text = text_tower(
            text_config(
                load_tokenizer(text.tokenizer),
                width=text.width,
                layers=text.layers,
                heads=text.heads,
                context=text.context,
                out=text.out,
            )
        )
        self.image_projection = nn.Linear(size, text.out, bias=False)
        nn.init.normal_(self.image_projection.weight, std=size**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_START))

    def projected(self, found: Tensor, tokens: Tokens) -> dict[str, Tensor]:
        """Representations (b, width) and n texts to ``images`` (b, d), ``texts`` (n, d) and ``scale``."""
        ids, mask = tokens.ids.to(found.device), tokens.mask.to(found.device)
        return {
            "images": self.image_projection(found),
            "texts": self.text(input_ids=ids, attention_mask=mask).text_embeds,
            "scale": self.logit_scale.exp(),
        }

    def save(self, folder: Path, tokenizer: Any | None) -> None:
        """The backbone; with the tokenizer of a text tower also ``dual_encoder/``, which ``open_encoder`` opens."""
        save_backbone(self.backbone, folder)
        if tokenizer is not None:
            save_dual_encoder(
                self.backbone, self.text, self.image_projection, self.logit_scale, tokenizer, folder / DUAL_ENCODER
            )


class _Net(TwoTowers):
    """Everything that is trained, called once a step."""

    def __init__(self, learner: StableRep) -> None:
        super().__init__(learner.backbone, learner.image_size)
        self.groups = learner.images_per_caption * learner.crops
        self.head = ProjectionHead(width(self.backbone), learner.head_hidden, learner.head_out)
        if learner.text_tower:
            self.add_text(learner.text)

    def forward(self, pixels: Tensor, tokens: Tokens | None) -> dict[str, Tensor]:
        """Views (k*m*n, 3, S, S) and n texts to ``features`` and, with tokens, ``images``, ``texts`` and ``scale``."""
        found = represent(self.backbone, pixels)
        output = {"features": self.head.by_group(found, self.groups)}
        return output if tokens is None else output | self.projected(found, tokens)
