"""Small language models, trained from nothing: a causal one on lines of text, and one from class names to sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig, T5Config

from reverie.errors import InputError
from reverie.learn.stablerep import load_tokenizer
from reverie.models.names import Located, locate
from reverie.models.pretrained import load_config
from reverie.nets.saving import save_pretrained
from reverie.nets.text import tokenize
from reverie.pairs import CLASS_SLOT


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
        tokenizer = _ending_tokenizer(self.tokenizer)
        if self.config:
            config = _config(self.config)
        else:
            config = LlamaConfig(
                hidden_size=self.width,
                intermediate_size=4 * self.width,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                max_position_embeddings=self.context,
                tie_word_embeddings=True,
            )
        return cast(nn.Module, AutoModelForCausalLM.from_config(_fitted(config, tokenizer)))

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


@dataclass(frozen=True)
class WordToSentenceModel:
    """Learns to write ``batch["text"]`` where it reads ``batch["label"]``, the class name: what ``WordToSentence`` samples from.

    An encoder-decoder, T5 (arXiv:1910.10683) unless ``config`` names another. Tokenizer: as for ``LanguageModel``.
    """

    tokenizer: str
    config: str = ""  # as for LanguageModel
    prompt: str = CLASS_SLOT  # how the class name is put; WordToSentence must put it the same way
    width: int = 256
    layers: int = 4  # of the encoder, and as many of the decoder
    heads: int = 4
    dropout: float = 0.1
    context: int = 128  # tokens of a sentence; longer ones are cut, and texts_cut counts them

    def build(self) -> nn.Module:
        """An untrained sequence-to-sequence model of transformers. Raises InputError if the tokenizer has no end token."""
        tokenizer = _ending_tokenizer(self.tokenizer)
        if self.config:
            config = _config(self.config)
        else:
            config = T5Config(
                d_model=self.width,
                d_kv=self.width // self.heads,
                d_ff=4 * self.width,
                num_layers=self.layers,
                num_heads=self.heads,
                dropout_rate=self.dropout,
            )
        config = _fitted(config, tokenizer)
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.pad_token_id
        config.decoder_start_token_id = begin
        return cast(nn.Module, AutoModelForSeq2SeqLM.from_config(config))

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss``: mean over all tokens of the sentences, in nats; ``texts_cut``: share of sentences longer than the context.

        Raises: InputError for a sentence without class name.
        """
        tokenizer = load_tokenizer(self.tokenizer)
        if None in batch["label"]:
            raise InputError(
                f"the caption {batch['text'][batch['label'].index(None)]!r} has no class name to learn from"
            )
        asked = tokenize(tokenizer, [self.prompt.replace(CLASS_SLOT, label) for label in batch["label"]], self.context)
        said = tokenize(tokenizer, [_framed(tokenizer, text) for text in batch["text"]], self.context)
        device = next(net.parameters()).device
        targets = said.ids.masked_fill(said.mask == 0, -100).to(device)
        if tokenizer.bos_token_id is not None:
            targets = targets[:, 1:].contiguous()  # the decoder is given it
        logits = net(
            input_ids=asked.ids.to(device), attention_mask=asked.mask.to(device), labels=targets
        ).logits.float()
        return {
            "loss": F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
            "texts_cut": torch.tensor(said.num_cut / len(targets), device=device),
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """A folder that ``AutoModelForSeq2SeqLM`` and ``AutoTokenizer`` open."""
        save_pretrained(net, folder)
        load_tokenizer(self.tokenizer).save_pretrained(folder)


def _config(name: str) -> Any:
    """Of another architecture, by name or folder; its weights need not be there."""
    path = Path(name).expanduser()
    return load_config(Located("folder", str(path), None, path.name) if path.is_dir() else locate(name))


def _ending_tokenizer(name: str) -> Any:
    tokenizer = load_tokenizer(name)
    if tokenizer.eos_token_id is None:
        raise InputError(f"tokenizer {name} has no end token, so a text could never end; set eos_token")
    return tokenizer


def _fitted(config: Any, tokenizer: Any) -> Any:
    """The configuration with the size and the special tokens of this vocabulary."""
    config.vocab_size = len(tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    return config


def _framed(tokenizer: Any, text: str) -> str:
    """The text with the special tokens that the tokenizer does not add by itself, written out."""
    adds = tokenizer("", verbose=False)["input_ids"]
    start = tokenizer.bos_token if tokenizer.bos_token and tokenizer.bos_token_id not in adds else ""
    end = tokenizer.eos_token if tokenizer.eos_token_id not in adds else ""
    return f"{start}{text}{end}"
