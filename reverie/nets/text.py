"""Texts to token ids, and a small text tower in CLIP's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from reverie.errors import InputError


class Tokens(NamedTuple):
    """Token ids (B, L) and mask (B, L), padded to the longest, and how many texts had to be cut."""

    ids: Tensor
    mask: Tensor
    num_cut: int


def tokenize(tokenizer: Any, texts: Sequence[str], limit: int) -> Tokens:
    """Token ids with at most ``limit`` per text; what is cut is cut before the last token, which CLIP reads."""
    rows: list[list[int]] = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    num_cut = sum(len(row) > limit for row in rows)
    rows = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in rows]
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.full((len(rows), max(map(len, rows))), padding)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return Tokens(ids, mask, num_cut)


def text_config(
    tokenizer: Any, *, width: int, layers: int, heads: int, context: int, out: int, read_at_end: bool = True
) -> CLIPTextConfig:
    """A causal transformer for this tokenizer.

    Args:
        read_at_end: whether its state at the end token stands for the text; without, only the states of all tokens are used.
    Raises: InputError if it is read at the end and the tokenizer has no end token, or one with id 2, which transformers reads as
        "old CLIP file" and then takes the largest id of the text in its place.
    """
    if read_at_end and tokenizer.eos_token_id in (None, 2):
        raise InputError("a text tower needs a tokenizer whose end token exists and has an id other than 2")
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=out,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def text_tower(config: CLIPTextConfig) -> Any:
    """The tower with its projection (linear, no bias), initialised as CLIP is. Gives ``.text_embeds`` (B, out)."""
    return CLIPTextModelWithProjection(config)
