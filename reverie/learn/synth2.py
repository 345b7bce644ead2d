"""Synth²'s captioner on the one loop: image tokens in, the sentences out.

Source: Synth², arXiv:2403.07750. Real and painted pairs come in as ids of one tokenizer and are looked up on the device; or, as a
control of what that saves and costs, as pictures that are first turned into ids.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from reverie.errors import InputError, ModelError
from reverie.models.names import locate
from reverie.models.pretrained import load_config, load_model, load_tensors, load_tokenizer_of
from reverie.models.tokenizer import Tokenizer, open_tokenizer
from reverie.nets.captioner import VISUAL, caption_tokens
from reverie.nets.saving import save_pretrained
from reverie.nets.token_captioner import LANGUAGE, LookShape, TokenCaptionNet, token_loss


@dataclass(frozen=True)
class Synth2:
    """Learns ``text`` from ``tokens`` (ids, (n, h, w)) or ``images`` (uint8, (n, 3, H, W)); ``painted`` (n,) says which pairs are.

    The losses of a step: ``loss`` and ``texts_cut`` (a share).
    """

    language_model: str  # any causal language model: a builtin, a folder or a Hub id
    tokenizer: str  # of images: a VQModel by name or folder
    size_px: int = 64  # side of the pictures that the ids are of
    shape: LookShape = field(default_factory=LookShape)
    prompt: str = ""  # that every sentence goes on from
    painted_weight: float = 1.0  # of a painted pair in the loss; a real one has 1
    start: Path | str | None = None  # captioner folder of the same shape to go on from; its language model then counts

    def __post_init__(self) -> None:
        if not 0 < self.painted_weight < float("inf"):
            raise InputError(f"the weight of painted pairs, {self.painted_weight}, must be a number above 0")

    def build(self) -> nn.Module:
        """The language model with untrained eyes, or those of ``start``. Raises ModelError, UnknownName, InputError."""
        name = str(Path(self.start) / "decoder") if self.start else self.language_model
        language, words = open_language(name), load_tokenizer_of(name)
        if words.eos_token_id is None:
            raise InputError(f"the tokenizer of {self.language_model} has no end token, so a sentence could never end")
        images = self._images("cpu")
        begin, grid = begin_ids(words, self.prompt), images.grid(self.size_px)
        check_room(language.config, len(begin), self.shape)
        net = TokenCaptionNet(language, begin, int(words.eos_token_id), images.codebook, grid, self.shape)
        if self.start:
            try:
                missing, unexpected = net.load_state_dict(load_tensors(Path(self.start) / VISUAL), strict=False)
            except RuntimeError as error:
                raise ModelError(f"{self.start} is a captioner of another shape; begin from one of the same") from error
            if unexpected or any(not name.startswith(LANGUAGE) for name in missing):
                raise ModelError(f"{self.start} is a captioner of another shape; begin from one of the same")
        return net

    def num_cut(self, texts: Sequence[str]) -> int:
        """How many of these sentences are longer than what is learned of them."""
        words, parts = load_tokenizer_of(self.language_model), range(0, len(texts), 10_000)
        return sum(caption_tokens(words, texts[at : at + 10_000], self.shape.max_tokens)[2] for at in parts)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """One step."""
        seen = batch["tokens"] if "tokens" in batch else self.ids(batch["images"])
        device = seen.device
        words = load_tokenizer_of(self.language_model)
        ids, mask, num_cut = caption_tokens(words, batch["text"], self.shape.max_tokens)
        ids, mask = ids.to(device), mask.to(device)
        weights = None
        if "painted" in batch and self.painted_weight != 1:
            weights = torch.where(batch["painted"].to(device), self.painted_weight, 1.0)
        return {
            "loss": token_loss(net(seen, ids, mask), ids, mask, weights),
            "texts_cut": torch.tensor(num_cut / len(ids), device=device),
        }

    def ids(self, images: Tensor) -> Tensor:
        """Pictures, uint8 (n, 3, H, W), as ids (n, h, w) on their device."""
        images = images.contiguous()
        found = self._images(str(images.device)).ids(images.permute(0, 2, 3, 1).cpu().numpy())
        return torch.from_numpy(found).to(images.device)

    def save(self, net: nn.Module, folder: Path) -> None:
        """``decoder/`` and ``tokenizer/``, which transformers and diffusers open, and the rest as safetensors."""
        assert isinstance(net, TokenCaptionNet)
        folder.mkdir(parents=True, exist_ok=True)
        save_pretrained(net.language, folder / "decoder")
        load_tokenizer_of(self.language_model).save_pretrained(folder / "decoder")
        self._images("cpu").vq.save_pretrained(folder / "tokenizer")
        rest = {name: value.contiguous() for name, value in net.state_dict().items() if not name.startswith(LANGUAGE)}
        save_file(rest, folder / VISUAL)

    def _images(self, device: str) -> Tokenizer:
        return _opened(self.tokenizer, device)


@functools.lru_cache(maxsize=2)
def _opened(name: str, device: str) -> Tokenizer:
    return open_tokenizer(name, device)


def check_language(name: str) -> None:
    """That a name is of a causal language model of transformers, without its weights. Raises ModelError, UnknownName."""
    place = locate(name)
    if place.kind == "openai":
        raise ModelError(
            f"{name} is on a server, and a captioner must look into its language model; name a folder or a Hub id"
        )
    config = load_config(place)
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{place.name} is a model of type {config.model_type!r} and no causal language model; name one such as builtin:writer"
        )


def open_language(name: str) -> Any:
    """A causal language model in this process. Raises as ``check_language``."""
    check_language(name)
    return load_model(transformers.AutoModelForCausalLM, locate(name))


def begin_ids(words: Any, prompt: str) -> list[int]:
    """What stands before every sentence: the begin token, or the end token where there is none, and a prompt."""
    first = words.eos_token_id if words.bos_token_id is None else words.bos_token_id
    asked = words(prompt, add_special_tokens=False, verbose=False)["input_ids"] if prompt else []
    return [int(first), *asked]


def check_room(config: Any, num_begin: int, shape: LookShape) -> None:
    """Raises InputError where a sentence would not fit into the context of a language model of this config."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    before = num_begin + (shape.latents if shape.mode == "prefix" else 0)
    if limit is not None and before + shape.max_tokens > limit:
        raise InputError(
            f"sentences of {shape.max_tokens} tokens after {before} others do not fit into the {limit} of the language model; make them "
            "shorter (--max-tokens)"
        )
