"""A small causal language model, trained from nothing on lines of text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from reverie.errors import InputError
from reverie.learn.stablerep import load_tokenizer
from reverie.nets.saving import save_pretrained
from reverie.nets.text import tokenize


@dataclass(frozen=True)
class LanguageModel:
    """Learns to predict the next token of ``batch["text"]``, the end token included, so that it learns to stop.

    Tokenizer: a builtin model, a folder or a Hub id. Where it adds no begin or end token by itself, they are added.
    """

    tokenizer: str
    config: str = (
        ""  # folder or Hub id of another architecture, its weights not used; the sizes below then do not count
    )
    width: int = 256
    layers: int = 4
    heads: int = 4
    context: int = 128  # tokens; longer texts are cut, and texts_cut counts them

    def build(self) -> nn.Module:
        """An untrained causal model of transformers. Raises InputError if the tokenizer has no end token."""
        tokenizer = load_tokenizer(self.tokenizer)
        if tokenizer.eos_token_id is None:
            raise InputError(f"tokenizer {self.tokenizer} has no end token, so a text could never end; set eos_token")
        if self.config:
            config = AutoConfig.from_pretrained(self.config)
            config.vocab_size = len(tokenizer)
        else:
            config = LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=self.width,
                intermediate_size=4 * self.width,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                max_position_embeddings=self.context,
                tie_word_embeddings=True,
            )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, getattr(tokenizer, name))
        return cast(nn.Module, AutoModelForCausalLM.from_config(config))

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss``: mean over all tokens of the batch, in nats; ``texts_cut``: share of texts longer than the context."""
        tokenizer = load_tokenizer(self.tokenizer)
        texts = [_framed(tokenizer, text) for text in batch["text"]]
        tokens = tokenize(tokenizer, texts, self.context)
        device = next(net.parameters()).device
        ids, mask = tokens.ids.to(device), tokens.mask.to(device)
        logits = net(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        return {
            "loss": F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
            "texts_cut": torch.tensor(tokens.num_cut / len(texts), device=device),
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """A folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` open."""
        save_pretrained(net, folder)
        load_tokenizer(self.tokenizer).save_pretrained(folder)


def _framed(tokenizer: Any, text: str) -> str:
    """The text with the special tokens that the tokenizer does not add by itself, written out."""
    adds = tokenizer("", verbose=False)["input_ids"]
    start = tokenizer.bos_token if tokenizer.bos_token and tokenizer.bos_token_id not in adds else ""
    end = tokenizer.eos_token if tokenizer.eos_token_id not in adds else ""
    return f"{start}{text}{end}"
