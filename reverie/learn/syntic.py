"""The learner of SynTIC's decoder and of its rivals: reads features, writes the sentence that belongs to them.

Source: arXiv:2312.08865. What differs between SynTIC and its rivals is only what the decoder is shown, see ``DecoderInputConfig``; network,
sentences and loop are the same.

    CapDec   arXiv:2211.00575   text features with noise of variance 0.016
    CLOSE    arXiv:2211.09778   text features with noise whose standard deviation is given
    DeCap    arXiv:2303.03032   text features; asked about photos in terms of known sentences
    ViECap   arXiv:2307.16525   CapDec's noise, and names of things before the sentence
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from reverie import seeds
from reverie.errors import InputError
from reverie.learn.stablerep import load_tokenizer
from reverie.models.pretrained import load_tensors
from reverie.nets.captioner import VISUAL, CaptionNet, DecoderShape, caption_loss, caption_tokens, prompt_tokens
from reverie.nets.saving import save_pretrained

Tags = Literal["none", "attention", "prompt"]


@dataclass(frozen=True)
class DecoderInputConfig:
    """What the decoder is shown while it learns, and when it is asked about a photo."""

    # features that it learns from: of painted images, refined or not, or of sentences
    learns_from: Literal["refined", "painted", "text"] = "refined"
    noise: float = 0.0  # standard deviation of what is added to every number of a unit feature, anew at each visit
    learns_projected: bool = True  # in terms of the support set
    asked_projected: bool = True
    temperature: float = 0.01  # of the projection
    top_k: int = 0  # support sentences that a projection uses; 0 = all
    exclude_self: Literal["none", "caption", "same_image_group"] = (
        "none"  # support that is hidden from its own features
    )
    tags: Tags = "attention"
    shuffle_tags: bool = False  # control: the tags of another image
    prompt_dropout: float = 0.4  # share of names that a prompt leaves out while it learns

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise {self.noise} is a standard deviation: 0 or more")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"the temperature {self.temperature} must be a number above 0")
        if self.top_k < 0 or not 0 <= self.prompt_dropout <= 1:
            raise InputError("top_k is 0 or more, and prompt_dropout a share")


STRAIGHT = DecoderInputConfig(learns_from="text", learns_projected=False, asked_projected=False, tags="none")
METHODS = {  # name -> what it shows
    "syntic": DecoderInputConfig(),
    "text": STRAIGHT,
    "capdec": DecoderInputConfig("text", math.sqrt(0.016), False, False, tags="none"),
    "close": DecoderInputConfig("text", 0.08, False, False, tags="none"),
    "decap": DecoderInputConfig("text", 0.0, False, True, tags="none"),
    "viecap": DecoderInputConfig("text", math.sqrt(0.016), False, False, tags="prompt"),
    "painted": DecoderInputConfig("painted", 0.0, False, False, tags="none"),
}


@dataclass(frozen=True)
class CaptionRows:
    """Random batches of sentences with what is shown for them; each a pure function of (seed, position)."""

    features: Tensor  # unit rows (n, d)
    shown: Tensor  # unit rows (n, d)
    tags: Tensor  # int64 (n, m), -1 where there are fewer
    texts: Sequence[str]
    prompts: Sequence[Sequence[str]]  # names in each sentence, for a prompt
    batch: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Batches in a pass."""
        return max(1, len(self.texts) // min(self.batch, len(self.texts)))

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``; within a pass no sentence comes twice."""
        while True:
            number, place = divmod(start, self.per_epoch)
            order = np.random.default_rng(seeds.derive("sentences", self.seed, number)).permutation(len(self.texts))
            rows: list[int] = order[place * self.batch : (place + 1) * self.batch].tolist()
            at = torch.tensor(rows)
            yield {
                "feature": self.features[at],
                "shown": self.shown[at],
                "tags": self.tags[at],
                "text": [self.texts[row] for row in rows],
                "names": [list(self.prompts[row]) if self.prompts else [] for row in rows],
            }
            start += 1


@dataclass(frozen=True)
class SynTIC:
    """Learns to say the sentence of the features it is shown. Losses of a step: ``loss`` and ``texts_cut`` (a share)."""

    tokenizer: str  # of the encoder: a builtin model, a folder or a Hub id
    dim: int  # of the features
    tag_rows: Path | None = None  # file with ``rows`` (names, d): the text features of the names that tags have
    noise: float = 0.0  # as in DecoderInputConfig
    tags: Tags = "attention"
    prompt_dropout: float = 0.4  # as in DecoderInputConfig
    label_smoothing: float = 0.1
    shape: DecoderShape = field(default_factory=DecoderShape)

    def build(self) -> nn.Module:
        """An untrained CaptionNet. Raises InputError."""
        rows = load_tensors(self.tag_rows)["rows"] if self.tags == "attention" and self.tag_rows else None
        return CaptionNet(self.dim, rows, self.shape, load_tokenizer(self.tokenizer))

    def num_cut(self, texts: Sequence[str]) -> int:
        """How many of these sentences are longer than what is learned of them."""
        tokenizer, parts = load_tokenizer(self.tokenizer), range(0, len(texts), 10_000)
        return sum(caption_tokens(tokenizer, texts[at : at + 10_000], self.shape.max_tokens)[2] for at in parts)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """One step; noise is drawn anew."""
        tokenizer = load_tokenizer(self.tokenizer)
        ids, mask, num_cut = caption_tokens(tokenizer, batch["text"], self.shape.max_tokens)
        feature, shown = batch["feature"], batch["shown"]
        device = feature.device
        if self.noise:
            shown = F.normalize(shown + self.noise * torch.randn_like(shown), dim=1)
        prompt = None
        if self.tags == "prompt":
            keep = torch.rand(sum(map(len, batch["names"]))).tolist() if net.training else None
            prompt = prompt_tokens(tokenizer, _some(batch["names"], keep, self.prompt_dropout)).to(device)
        ids, mask = ids.to(device), mask.to(device)
        logits = net(feature, shown, batch["tags"], ids, mask, prompt)
        return {
            "loss": caption_loss(logits, ids, mask, self.label_smoothing),
            "texts_cut": torch.tensor(num_cut / len(ids), device=device),
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """``decoder/``, which ``AutoModelForCausalLM`` and ``AutoTokenizer`` open, and the rest as safetensors."""
        assert isinstance(net, CaptionNet)
        folder.mkdir(parents=True, exist_ok=True)
        save_pretrained(net.decoder, folder / "decoder")
        load_tokenizer(self.tokenizer).save_pretrained(folder / "decoder")
        rest = {name: value.contiguous() for name, value in net.state_dict().items() if not name.startswith("decoder.")}
        save_file(rest, folder / VISUAL)


def _some(names: Sequence[Sequence[str]], draws: Sequence[float] | None, dropout: float) -> list[list[str]]:
    if draws is None:
        return [list(each) for each in names]
    left = iter(draws)
    return [[name for name in each if next(left) >= dropout] for each in names]
