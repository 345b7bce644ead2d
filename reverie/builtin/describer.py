"""What the small world's describer is, and what it learns from: a PaliGemma of a million weights, and two prompts.

It says a short caption to ``short`` and a long one to ``long``, each as smallworld/describe.py words it, of studio and street photos. Scenes of one thing come
first: what stands beside what is much slower to learn from nothing.

Source of the network: PaliGemma, arXiv:2407.07726 (a SigLIP, its features before a Gemma that sees question and picture from both sides), by transformers' own
classes; its sizes are ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import processors
from torch import Tensor, nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipImageProcessorPil

from reverie import seeds
from reverie.builtin.pool import CHUNK, Pool
from reverie.models.describer import ABOUT, STYLES, Style
from reverie.models.names import locate
from reverie.models.pretrained import load_model, load_tokenizer_of
from reverie.nets.saving import save_pretrained
from reverie.nets.words import write_tokenizer

IMAGE = "<image>"
PLACES: Mapping[Style, int] = {"short": 0, "long": 1}  # of a scene's captions in a pool, see train.CAPTIONS


@dataclass(frozen=True)
class LearnToDescribe:
    """Batches hold ``images`` (uint8), ``style`` and ``text``, n each."""

    tokenizer: str  # folder, see ``write_words``
    image_size: int = 64
    patch_size: int = 8
    width: int = 128
    eye_layers: int = 3
    layers: int = 3
    heads: int = 4
    start: str = ""  # by name or folder, to go on from; the sizes above then do not count

    def build(self) -> nn.Module:
        """The model, untrained or as it is at ``start``. Its attention is the plain one: on a CPU the fused one is slow in bf16."""
        net: nn.Module = (
            load_model(PaliGemmaForConditionalGeneration, locate(self.start)) if self.start else self._new()
        ).requires_grad_(True)
        net.set_attn_implementation("eager")  # type: ignore[operator]
        return net

    def _new(self) -> nn.Module:
        tokenizer = load_tokenizer_of(self.tokenizer)
        tower = {"hidden_size": self.width, "intermediate_size": 2 * self.width, "num_attention_heads": self.heads}
        ids = {
            "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        }  # fmt: skip
        config = PaliGemmaConfig(
            vision_config={
                "model_type": "siglip_vision_model", **tower, "num_hidden_layers": self.eye_layers, "image_size": self.image_size,
                "patch_size": self.patch_size, "vision_use_head": False,
            },
            text_config={
                "model_type": "gemma", **tower, "num_hidden_layers": self.layers, "num_key_value_heads": 1, "head_dim": self.width // self.heads,
                "vocab_size": len(tokenizer), "max_position_embeddings": 256, **ids,
            },
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            projection_dim=self.width,
            hidden_size=self.width,
            vocab_size=len(tokenizer),
            **ids,
        )  # fmt: skip
        net: nn.Module = PaliGemmaForConditionalGeneration(config)
        return net

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy of the words of the captions, the end among them."""
        images = batch["images"]
        inputs = self.inputs(batch["style"], batch["text"])
        pixels = images.float() / 127.5 - 1
        return {
            "loss": net(pixel_values=pixels, **{name: value.to(images.device) for name, value in inputs.items()}).loss
        }

    def inputs(self, styles: Sequence[Style], texts: Sequence[str]) -> dict[str, Tensor]:
        """What PaliGemma's processor makes of a picture, a prompt and a suffix, without looking at pictures one by one."""
        tokenizer = load_tokenizer_of(self.tokenizer)
        sides = self.image_size // self.patch_size
        eyes = [tokenizer.convert_tokens_to_ids(IMAGE)] * sides**2
        rows, types = [], []
        for style, ids in zip(styles, tokenizer(list(texts))["input_ids"], strict=True):
            question = [*eyes, tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(style)]
            rows.append([*question, *ids, tokenizer.eos_token_id])
            types.append([0] * len(question) + [1] * (len(ids) + 1))
        width = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        kinds = torch.tensor([kind + [0] * (width - len(kind)) for kind in types])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {
            "input_ids": ids, "token_type_ids": kinds, "attention_mask": mask, "labels": ids.masked_fill(kinds == 0, -100),
        }  # fmt: skip

    def save(self, net: nn.Module, folder: Path) -> None:
        """A folder that transformers and ``open_describer`` open."""
        save_pretrained(net, folder)
        load_tokenizer_of(self.tokenizer).save_pretrained(folder)
        pictures = SiglipImageProcessorPil(
            size={"height": self.image_size, "width": self.image_size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        pictures.image_seq_length = (self.image_size // self.patch_size) ** 2
        pictures.save_pretrained(folder)
        about = {"prompts": {style: style for style in STYLES}}
        (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class ToDescribe:
    """Pictures of pools with a caption each, short or long by the same chance; a pure function of (seed, position).

    Args:
        pools: each with the captions of train.CAPTIONS.
        shares: from images seen to the share of each pool; linear in between.
    """

    pools: Sequence[Pool]
    shares: Mapping[int, Sequence[float]]
    batch: int
    seed: int

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        knots, there = sorted(self.shares), np.array([len(pool.captions) > 0 for pool in self.pools])
        while True:
            rng = np.random.default_rng(seeds.derive("describe", self.seed, start))
            seen = start * self.batch
            shares = np.array(
                [np.interp(seen, knots, [self.shares[knot][one] for knot in knots]) for one in range(len(self.pools))]
            )
            pictures: list[Any] = []
            styles: list[Style] = []
            texts: list[str] = []
            shares = shares * there
            for number in rng.choice(len(self.pools), size=self.batch, p=shares / shares.sum()).tolist():
                pool = self.pools[number]
                row = int(rng.integers(len(pool.captions)))
                styles.append(STYLES[int(rng.integers(len(STYLES)))])
                texts.append(pool.captions[row][PLACES[styles[-1]]])
                pictures.append(pool.images[row // CHUNK][row % CHUNK])
            yield {"images": torch.from_numpy(np.stack(pictures)), "style": styles, "text": texts}
            start += 1


def write_words(folder: Path, words: set[str], longest: int) -> None:
    """The tokenizer of the describer: the words of the small world, its prompts, and the place of a picture; it adds no begin or end."""
    write_tokenizer(folder, words | set(STYLES), longest, end=False)
    tokenizer = load_tokenizer_of(str(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A:0 $B:1", [])
    tokenizer.save_pretrained(folder)
