"""From ids of a codebook to a sentence: resampler and gates around a language model that stays as it is.

Source: Synth², arXiv:2403.07750. Which parts of the language model its authors train is not known; here none, unless asked: what
learns is the map from codes, the resampler, and the gated blocks (or the map to words, where latents stand before them).

Letters in shapes: B images, an h x w grid of ids, L tokens of a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.errors import InputError
from reverie.nets.gated_cross_attention import GatedLayers
from reverie.nets.resampler import CodeReader, Resampler
from reverie.ranges import check_min

LANGUAGE = "language."  # how the weights of the language model begin, which are saved as a folder of their own


@dataclass(frozen=True)
class LookShape:
    """How a language model looks at images."""

    mode: Literal["gated", "prefix"] = "gated"  # cross-attention between its layers, or latents before its words
    width: int = 128  # of resampler and latents
    latents: int = 16  # that stand for an image
    layers: int = 2  # of the resampler
    heads: int = 4  # of every attention to images
    every: int = 1  # a gated block before each n-th layer
    max_tokens: int = 30  # of a sentence, the end token included; longer ones are cut before it
    train_language: bool = False  # the language model learns too

    def __post_init__(self) -> None:
        check_min(
            1,
            width=self.width,
            latents=self.latents,
            layers=self.layers,
            heads=self.heads,
            every=self.every,
            max_tokens=self.max_tokens,
        )
        if self.width % self.heads:
            raise InputError(f"a resampler of width {self.width} cannot have {self.heads} heads; use a divisor")
        if self.mode not in ("gated", "prefix"):
            raise InputError(f"a language model is shown images as gated or prefix, not {self.mode!r}")


class TokenCaptionNet(nn.Module):
    """A language model with eyes.

    Args:
        language: a causal language model of transformers.
        begin: token ids that every sentence begins after, at least one.
        end: the token that ends one.
        codebook: (K, c), which goes where the net goes.
        grid: rows and columns of the ids of an image.
    """

    codebook: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(
        self, language: Any, begin: Sequence[int], end: int, codebook: Tensor, grid: tuple[int, int], shape: LookShape
    ) -> None:
        super().__init__()
        self.begin, self.end, self.shape = list(begin), end, shape
        self.register_buffer("codebook", codebook.detach().float().clone())
        # Codebooks differ by orders of magnitude in scale, and what learns should not.
        self.register_buffer("mean", self.codebook.mean(0)[:, None, None], persistent=False)
        spread = self.codebook.std(0, correction=0).clamp(min=1e-6)
        self.register_buffer("spread", spread[:, None, None], persistent=False)
        self.reader = CodeReader(codebook.shape[1], grid, shape.width)
        self.resampler = Resampler(shape.width, shape.latents, shape.layers, shape.heads)
        self.max_tokens = shape.max_tokens  # of a sentence that is said
        self.language = language.requires_grad_(shape.train_language)
        if shape.mode == "gated":
            self.gates = GatedLayers(language, shape.width, shape.heads, shape.every)
        else:
            self.prefix = nn.Linear(shape.width, language.get_input_embeddings().weight.shape[1])

    def train(self, mode: bool = True) -> TokenCaptionNet:
        """As for any net, but a language model that does not learn drops nothing out."""
        super().train(mode)
        self.language.train(mode and self.shape.train_language)
        return self

    def look(self, tokens: Tensor) -> Tensor:
        """Ids (B, h, w) -> latents (B, R, width). Ids must be below K; ``check_ids`` says so in words."""
        codes = (lookup(self.codebook, tokens) - self.mean) / self.spread
        return self.resampler(self.reader(codes))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, L, vocabulary): place l of the sentence given all before it, for its tokens ``ids`` (B, L).

        Args: mask: 1 for tokens of the sentence, 0 for padding (B, L).
        """
        latents = self.look(tokens)
        begin = torch.tensor(self.begin, device=ids.device).expand(len(ids), -1)
        said = torch.cat([begin, ids[:, :-1]], 1)
        seen = torch.cat([torch.ones_like(begin), mask[:, :-1]], 1)
        if self.shape.mode == "gated":
            with _Showing(self.gates, latents):
                logits = self.language(input_ids=said, attention_mask=seen).logits
        else:
            before, inputs = self._before(latents, said)
            known = torch.cat([torch.ones(before.shape[:2], dtype=seen.dtype, device=seen.device), seen], 1)
            logits = self.language(inputs_embeds=torch.cat([before, inputs], 1), attention_mask=known).logits
        return logits[:, -ids.shape[1] :].float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def generate(self, tokens: Tensor, beams: int = 1) -> Tensor:
        """Token ids (B, at most max_tokens) of a sentence for each image, the likeliest one by one or by beam search."""
        latents = self.look(tokens)
        begin = torch.tensor(self.begin, device=tokens.device).expand(len(tokens), -1)
        settings = {
            "num_beams": beams,
            "do_sample": False,
            "max_new_tokens": self.max_tokens,
            "early_stopping": beams > 1,
            "eos_token_id": self.end,
            "pad_token_id": self.end,
        }
        if self.shape.mode == "gated":
            with _Showing(self.gates, latents):
                said = self.language.generate(input_ids=begin, attention_mask=torch.ones_like(begin), **settings)
            return said[:, len(self.begin) :]  # type: ignore[no-any-return]
        inputs = torch.cat(self._before(latents, begin), 1)
        known = torch.ones(inputs.shape[:2], dtype=torch.int64, device=inputs.device)
        return self.language.generate(inputs_embeds=inputs, attention_mask=known, **settings)  # type: ignore[no-any-return]

    def _before(self, latents: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        words = self.language.get_input_embeddings()(said)
        return self.prefix(latents).to(words.dtype), words


class _Showing:
    """Latents are there for the gates inside the block only: what a language model is asked elsewhere has no image."""

    def __init__(self, gates: GatedLayers, latents: Tensor) -> None:
        self.gates, self.latents = gates, latents

    def __enter__(self) -> None:
        self.gates.latents = self.latents

    def __exit__(self, *_: object) -> None:
        self.gates.latents = None


def lookup(codebook: Tensor, tokens: Tensor) -> Tensor:
    """Ids (B, h, w) of any integer type -> their codes (B, c, h, w), on the device of the codebook."""
    return F.embedding(tokens.to(codebook.device, torch.long), codebook).permute(0, 3, 1, 2)


def token_loss(logits: Tensor, ids: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """-sum_i w_i sum_l log p(y_il | y_i<l, x_i) over sum_i w_i L_i: the mean over all tokens of a batch, in nats.

    Args: logits (B, L, vocabulary); ids (B, L); mask (B, L), 1 for tokens of the sentence; weights (B,), 1 when None.
    """
    kept = mask.float() if weights is None else mask.float() * weights[:, None]
    each = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(kept)
    return (kept * each).sum() / kept.sum()
