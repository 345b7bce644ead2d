"""Captions and ids of images -> a painter of image tokens, trained from scratch on a given tokenizer and vocabulary.

Source: MaskGIT, arXiv:2202.04200, section 3.1, under captions as in Muse, arXiv:2301.00704: some ids of an image are masked,
and the network says what they were. For u even in [0, 1), round(cos(pi u / 2) N) of N places are masked, at least one: many
more often than few, as the sampler begins with all of them. The loss is the cross-entropy at masked places alone;
some captions are replaced by the empty one, for guidance. Result: an ``AmusedPipeline`` folder that diffusers opens.

The network has no positions but what its convolutions see of the border, so the blocks with those must reach from there
to the middle of the grid. (The training script in diffusers' examples drops captions with one minus the probability it is
told; here ``caption_drop`` is the share that is dropped.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
from diffusers.utils import logging
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from reverie.errors import InputError
from reverie.models.names import locate
from reverie.models.pretrained import load_model, load_tokenizer_of, part_of
from reverie.models.token_painter import micro_conditions
from reverie.models.tokenizer import check_same_codes, open_tokenizer
from reverie.nets.autocast import ExactAttention
from reverie.nets.text import text_config

MICRO = 8  # width of what is told of size and crop, each of five numbers


class TokenPredictor(nn.Module):
    """The network of ids and the text encoder, called once a step."""

    def __init__(self, net: UVit2DModel, text_encoder: CLIPTextModelWithProjection, size_px: int) -> None:
        super().__init__()
        self.net, self.text_encoder, self.size_px = net, text_encoder, size_px

    def forward(self, ids: Tensor, token_ids: Tensor) -> Tensor:
        """Logits (B, K, h, w) over the codes of every place, for ids (B, h, w) with masks under captions (B, tokens)."""
        if ids.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):  # its attention would be slow in bf16, see nets/autocast.py
                words = self.text_encoder(token_ids, output_hidden_states=True)
        else:
            words = self.text_encoder(token_ids, output_hidden_states=True)
        states, pooled = words.hidden_states[-2], words.text_embeds
        told = micro_conditions(len(ids), self.size_px, states)
        logits: Tensor = self.net(ids, encoder_hidden_states=states, pooled_text_emb=pooled, micro_conds=told)
        return logits


class Shown(NamedTuple):
    """A batch as the network sees it: n grids of h x w ids."""

    ids: Tensor  # (n, h, w)
    hidden: Tensor  # bool (n, h, w): what is masked
    visible: Tensor  # (n, h, w), the ids with masks
    words: Tensor  # (n, tokens)
    told: Tensor  # bool (n,): which captions were not dropped


@dataclass(frozen=True)
class TextToTokens:
    """Batches hold ``text`` or ``token_ids`` (see ``tokens``), and ``latents``: the ids of n images, (n, h, w), as any number.

    ``weights`` (n, h, w), where a batch has them, weigh the places in the loss; the paper's are all the same.
    """

    image_tokenizer: str  # a trained VQModel, or a pipeline that has one, by name or folder
    tokenizer: str  # of the captions, by name or folder
    grid: int = 8  # rows, and as many columns, of the ids
    width: int = 192  # of the transformer
    layers: int = 4
    heads: int = 6
    conv_width: int = 96  # of the blocks with convolutions before and after it
    conv_blocks: int = 3  # before, and as many after
    conv_heads: int = 3
    text_width: int = 128
    text_layers: int = 2
    text_encoder: str = ""  # CLIP folder with the same tokenizer, whose text tower to start from
    start: str = ""  # pipeline by name or folder, of the same codes, to go on from; the sizes above then do not count
    caption_drop: float = 0.1  # share of captions replaced by the empty one, for guidance

    def __post_init__(self) -> None:
        if not 0 <= self.caption_drop <= 1:
            raise InputError(f"caption_drop {self.caption_drop} is a share of captions, from 0 to 1")
        if self.width % self.heads or self.conv_width % self.conv_heads:
            raise InputError(
                f"widths {self.width} and {self.conv_width} do not divide by their heads, {self.heads} and {self.conv_heads}"
            )

    def build(self) -> nn.Module:
        """The network and the text encoder, untrained but for what ``start`` and ``text_encoder`` bring."""
        vq = self._vq()
        if self.start:
            start = locate(self.start)
            net = load_model(UVit2DModel, start, part="transformer").requires_grad_(True)
            words = load_model(CLIPTextModelWithProjection, start, part="text_encoder").requires_grad_(True)
            if (known := net.config.codebook_size) != vq.config.num_vq_embeddings:
                raise InputError(
                    f"{self.start} paints ids of {known} codes, and the tokenizer has {vq.config.num_vq_embeddings}"
                )
            check_same_codes(open_tokenizer(self.start), self.codebook_name, self.image_tokenizer)
            return self._predictor(net, words)
        words = self._text_encoder()
        codes = vq.config.num_vq_embeddings
        net = UVit2DModel(
            hidden_size=self.width,
            cond_embed_dim=words.config.projection_dim,
            micro_cond_encode_dim=MICRO,
            micro_cond_embed_dim=5 * MICRO,
            encoder_hidden_size=words.config.hidden_size,
            vocab_size=codes + 1,  # the last is the mask
            codebook_size=codes,
            in_channels=self.conv_width,
            block_out_channels=self.conv_width,
            num_res_blocks=self.conv_blocks,
            block_num_heads=self.conv_heads,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=-(-self.width * 8 // 3 // 32) * 32,  # gated: as many weights as four times the width
            sample_size=self.grid,
        )
        return self._predictor(net, words)

    def _predictor(self, net: UVit2DModel, words: CLIPTextModelWithProjection) -> TokenPredictor:
        net.set_attn_processor(ExactAttention())
        return TokenPredictor(net, words, self.size_px)

    @property
    def mask_id(self) -> int:
        """What stands for a masked place: one more than the last code."""
        return int(self._vq().config.num_vq_embeddings)

    @property
    def size_px(self) -> int:
        """Side of the pictures that the ids are of."""
        return int(self.grid * 2 ** (len(self._vq().config.block_out_channels) - 1))

    def _text_encoder(self) -> CLIPTextModelWithProjection:
        if self.text_encoder:
            tower = load_model(CLIPTextModelWithProjection, locate(self.text_encoder), "cpu")
            return tower.requires_grad_(True)
        tokenizer = self._tokenizer()
        text = text_config(
            tokenizer, width=self.text_width, layers=self.text_layers, heads=4, context=tokenizer.model_max_length,
            out=self.text_width,
        )  # fmt: skip
        return CLIPTextModelWithProjection(text)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy at masked places, and how often the likeliest id is the right one there."""
        shown = self.shown(batch)
        return self.said(net(shown.visible, shown.words), shown, batch.get("weights"))

    def shown(self, batch: dict[str, Any], hidden: Tensor | None = None) -> Shown:
        """What the network is shown of a batch: ids under masks, captions of which some are dropped.

        Args: hidden: bool (n, h, w), places that are masked whatever the law of masks says.
        """
        ids = batch["latents"].long()
        masks = masked(len(ids), ids[0].numel(), ids.device).view(ids.shape)
        if hidden is not None:
            masks = masks | hidden
        dropped = torch.rand(len(ids)) < self.caption_drop
        if "token_ids" in batch:
            words = batch["token_ids"].long()
            words = torch.where(dropped.to(words.device)[:, None], self.tokens([""]).to(words), words)
        else:
            words = self.tokens(
                ["" if drop else text for text, drop in zip(batch["text"], dropped.tolist(), strict=True)]
            )
        visible = ids.masked_fill(masks, self.mask_id)
        return Shown(ids, masks, visible, words.to(ids.device), ~dropped.to(ids.device))

    def said(self, logits: Tensor, shown: Shown, weights: Tensor | None = None) -> dict[str, Tensor]:
        """The losses of logits (n, K, h, w)."""
        asked, right = logits.permute(0, 2, 3, 1)[shown.hidden].float(), shown.ids[shown.hidden]
        each = F.cross_entropy(asked, right, reduction="none")
        counts = torch.ones_like(each) if weights is None else weights.to(each.device)[shown.hidden]
        return {
            "loss": (counts * each).sum() / counts.sum(),
            "accuracy": (asked.detach().argmax(1) == right).float().mean(),
        }

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids (n, longest) of captions, for batches that visit them often."""
        ids: Tensor = self._tokenizer()(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return ids

    def save(self, net: nn.Module, folder: Path) -> None:
        """An ``AmusedPipeline`` folder with everything in it."""
        assert isinstance(net, TokenPredictor)
        self.pipeline(net.cpu()).save_pretrained(folder)

    def pipeline(self, net: TokenPredictor) -> AmusedPipeline:
        """The network as it is now, with all that it paints with."""
        logging.set_verbosity_error()  # the pipeline is deprecated, its network and its scheduler are not
        return AmusedPipeline(
            vqvae=self._vq().to(net.net.device),
            tokenizer=self._tokenizer(),
            text_encoder=net.text_encoder,
            transformer=net.net,
            scheduler=AmusedScheduler(mask_token_id=self.mask_id),
        )

    @property
    def codebook_name(self) -> str:
        """What the ids are of."""
        return open_tokenizer(self.image_tokenizer).codebook_name

    @property
    def codes(self) -> Tensor:
        """The codebook (K, c), each of its numbers spread by 1 around 0."""
        book: Tensor = self._vq().quantize.embedding.weight.detach().float()
        return (book - book.mean()) / book.std()

    def _vq(self) -> VQModel:
        return _opened_vq(self.image_tokenizer)

    def _tokenizer(self) -> Any:
        return _opened_tokenizer(self.tokenizer)


def masked(count: int, places: int, device: torch.device | str = "cpu") -> Tensor:
    """Which places of so many grids are masked, bool (count, places)."""
    share = torch.cos(math.pi / 2 * torch.rand(count, device=device))
    num = (share * places).round().clamp(min=1)
    rank = torch.rand(count, places, device=device).argsort(1).argsort(1)
    return rank < num[:, None]


@functools.cache
def _opened_vq(folder: str) -> VQModel:
    place = locate(folder)
    vq: VQModel = load_model(VQModel, place, part=part_of(place, "VQModel"))
    return vq


@functools.cache
def _opened_tokenizer(folder: str) -> Any:
    return load_tokenizer_of(folder)
