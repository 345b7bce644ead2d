"""SynTIC's captioner as one network: features of an image and tags in, a sentence out.

Source: arXiv:2312.08865. The decoder is a small GPT-2 without pretraining; its size is not in the paper, the default follows
the released one of DeCap (arXiv:2303.03032), which the paper builds on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from reverie.errors import InputError
from reverie.nets.text import tokenize

VISUAL = "visual.safetensors"  # file of everything of a CaptionNet but its decoder
TAG = "a photo of a {name}"  # how a tag is put to the text tower
PROMPT = "there is {names} in the picture"  # names before a sentence, in words that the small world knows too
MAX_PROMPT = 32  # tokens of names before a sentence; more are cut


@dataclass(frozen=True)
class DecoderShape:
    """Size of the decoder."""

    width: int = 768
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1
    max_tokens: int = 30  # of a sentence, the end token included; longer ones are cut before their end token
    tag_heads: int = 8  # of the attention to tags

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.max_tokens, self.tag_heads) < 1 or self.width % self.heads:
            raise InputError(f"a decoder of width {self.width} cannot have {self.heads} heads; use a multiple")


class CaptionNet(nn.Module):
    """Prefix and decoder. ``encode_visual`` is the same when it learns and when it is asked."""

    tag_rows: Tensor  # unit rows (names, d)

    def __init__(self, dim: int, tag_rows: Tensor | None, shape: DecoderShape, tokenizer: Any) -> None:
        super().__init__()
        if tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end token, so a sentence could never end")
        self.end = int(tokenizer.eos_token_id)
        self.max_tokens = shape.max_tokens
        self.value = nn.Linear(dim, shape.width)
        self.attends = tag_rows is not None
        if tag_rows is not None:
            if dim % shape.tag_heads:
                raise InputError(f"features of {dim} numbers cannot be read by {shape.tag_heads} heads; use a divisor")
            self.register_buffer("tag_rows", tag_rows.float())
            self.attention = nn.MultiheadAttention(dim, shape.tag_heads, batch_first=True)
            self.nothing = nn.Parameter(torch.randn(1, 1, dim) / dim**0.5)  # what is read where there is no tag
            self.tags = nn.Linear(dim, shape.width)
        self.decoder = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_embd=shape.width,
                n_layer=shape.layers,
                n_head=shape.heads,
                n_positions=2 + MAX_PROMPT + shape.max_tokens,
                resid_pdrop=shape.dropout,
                embd_pdrop=shape.dropout,
                attn_pdrop=shape.dropout,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=self.end,
                pad_token_id=self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            )
        )

    def encode_visual(self, feature: Tensor, shown: Tensor, tags: Tensor) -> Tensor:
        """The prefix (B, 1 or 2, width).

        Args:
            feature: unit rows (B, d) of the image itself, which ask about the tags.
            shown: unit rows (B, d) in its place for the decoder: projected on a support set, or the same again.
            tags: numbers of names (B, m), -1 where there are fewer; m may be 0.
        """
        prefix = self.value(shown)[:, None]
        if not self.attends:
            return prefix  # type: ignore[no-any-return]
        known = tags >= 0
        keys = torch.cat([self.tag_rows[tags.clamp(min=0)], self.nothing.expand(len(tags), -1, -1)], 1)
        hidden = torch.cat([~known, known.any(1, keepdim=True)], 1)
        read, _ = self.attention(feature[:, None], keys, keys, key_padding_mask=hidden, need_weights=False)
        return torch.cat([prefix, self.tags(read)], 1)

    def forward(
        self, feature: Tensor, shown: Tensor, tags: Tensor, ids: Tensor, mask: Tensor, prompt: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, vocabulary): place l of the sentence given all before it, for its tokens ``ids`` (B, L).

        Args:
            mask: 1 for tokens of the sentence, 0 for padding (B, L).
            prompt: tokens (B, p) between the prefix and the sentence, -1 for padding, which comes first.
        """
        before, known = self._before(feature, shown, tags, prompt)
        inputs = torch.cat([before, self.decoder.transformer.wte(ids[:, :-1])], 1)
        seen = torch.cat([known, mask[:, :-1]], 1)
        places = (seen.cumsum(1) - 1).clamp(min=0)
        output = self.decoder(inputs_embeds=inputs, attention_mask=seen, position_ids=places)
        return output.logits[:, before.shape[1] - 1 :].float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def generate(
        self, feature: Tensor, shown: Tensor, tags: Tensor, prompt: Tensor | None = None, beams: int = 1
    ) -> Tensor:
        """Tokens (B, at most max_tokens) of a sentence for each image, the likeliest one by one or by beam search.

        Keys and values of what was said are kept, as transformers always does where it begins from embeddings.
        """
        before, known = self._before(feature, shown, tags, prompt)
        return self.decoder.generate(  # type: ignore[no-any-return]
            inputs_embeds=before,
            attention_mask=known,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=self.max_tokens,
            early_stopping=beams > 1,
        )

    def _before(self, feature: Tensor, shown: Tensor, tags: Tensor, prompt: Tensor | None) -> tuple[Tensor, Tensor]:
        """What stands before the sentence (B, p, width), padded on the left, and its mask (B, p)."""
        prefix = self.encode_visual(feature, shown, tags)
        known = torch.ones(prefix.shape[:2], dtype=torch.int64, device=prefix.device)
        if prompt is None or not prompt.shape[1]:
            return prefix, known
        words = self.decoder.transformer.wte(prompt.clamp(min=0))
        said = (prompt >= 0).long()
        # The prefix is never padding, so it stands right before the words: padding, prefix, words, in each row.
        rows, marks = [], []
        for at in range(len(prompt)):
            empty = int((said[at] == 0).sum())
            rows.append(torch.cat([words[at, :empty], prefix[at], words[at, empty:]]))
            marks.append(torch.cat([said[at, :empty], known[at], said[at, empty:]]))
        return torch.stack(rows), torch.stack(marks)


def caption_loss(logits: Tensor, ids: Tensor, mask: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-(1/L) sum_l log p(w_l | ...) of each sentence, its end token included, and the mean over sentences.

    Args: logits (B, L, vocabulary); ids (B, L); mask (B, L), 1 for tokens of the sentence.
    """
    each = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none", label_smoothing=label_smoothing)
    kept = mask.flatten() * each
    return (kept.view_as(mask).sum(1) / mask.sum(1)).mean()


def caption_tokens(tokenizer: Any, texts: Sequence[str], limit: int) -> tuple[Tensor, Tensor, int]:
    """Tokens of sentences without a begin token and with an end token (B, L), their mask, and how many were cut."""
    begins = tokenizer.bos_token_id is not None and tokenizer("", verbose=False)["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]
    ends = tokenizer("", verbose=False)["input_ids"][-1:] == [tokenizer.eos_token_id]
    words = [text if ends else text + tokenizer.eos_token for text in texts]
    tokens = tokenize(tokenizer, words, limit + int(begins))
    return tokens.ids[:, int(begins) :], tokens.mask[:, int(begins) :], tokens.num_cut


def prompt_tokens(tokenizer: Any, names: Sequence[Sequence[str]]) -> Tensor:
    """Tokens (B, p) of the prompt with these names, -1 in front of shorter ones; no token where there is no name."""
    rows: list[list[int]] = []
    for each in names:
        text = PROMPT.format(names=" , ".join(each))
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if each else []
        rows.append(ids[:MAX_PROMPT])
    longest = max(map(len, rows), default=0)
    return torch.tensor([[-1] * (longest - len(row)) + row for row in rows], dtype=torch.int64).reshape(
        len(rows), longest
    )


def names_in(text: str, names: Sequence[str]) -> list[str]:
    """The names that a sentence has in it as whole words, also with a plural in s or es, in the order of ``names``."""
    said = f" {' '.join(text.lower().replace(',', ' ').replace('.', ' ').split())} "
    return [name for name in names if any(f" {name.lower()}{ending} " in said for ending in ("", "s", "es"))]
