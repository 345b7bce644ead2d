"""A language model that looks at images: gated cross-attention before its layers, or latents before its words.

Source: Synth², arXiv:2403.07750, after Flamingo (arXiv:2204.14198, section 2.2): y <- y + tanh(a) XAttn(y, X); y <- y + tanh(b) FFN(y),
with a = b = 0 at the start, so that the model then says what it said without images. The blocks hook in before the layers of
any causal language model of transformers, whose own code and weights stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reverie.errors import ModelError
from reverie.nets.resampler import CrossAttention, FeedForward


class GatedCrossAttention(nn.Module):
    """One block: words (B, L, d) read latents (B, R, e); the identity until its gates open."""

    def __init__(self, width: int, seen_width: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(width, seen_width, heads)
        self.forwards = FeedForward(width)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.forward_gate = nn.Parameter(torch.zeros(()))

    def forward(self, words: Tensor, latents: Tensor) -> Tensor:
        """The words, with what they read added."""
        words = words + self.attention_gate.tanh() * self.attention(words, latents)
        return words + self.forward_gate.tanh() * self.forwards(words)  # type: ignore[no-any-return]


class GatedLayers(nn.Module):
    """Blocks before every n-th layer of a language model. They see ``latents`` (B, R, e) while these are set, else nothing happens.

    Beams of one image stand together, as transformers puts them, so B latents serve a multiple of B rows of words.
    """

    latents: Tensor | None

    def __init__(self, model: Any, seen_width: int, heads: int, every: int) -> None:
        super().__init__()
        layers = decoder_layers(model)
        width = model.get_input_embeddings().weight.shape[1]
        width = getattr(model.config.get_text_config(), "hidden_size", width)
        self.blocks = nn.ModuleList(GatedCrossAttention(width, seen_width, heads) for _ in range(0, len(layers), every))
        self.latents = None
        for number, layer in enumerate(layers[::every]):
            layer.register_forward_pre_hook(_Look(self, number), with_kwargs=True)


class _Look:
    """A hook before a layer. An object and no function, so that a copy of the whole model looks through its own blocks."""

    def __init__(self, gates: GatedLayers, number: int) -> None:
        self.gates, self.number = gates, number

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.gates.latents is None:
            return None
        words = args[0] if args else kwargs["hidden_states"]
        seen = self.gates.latents.repeat_interleave(len(words) // len(self.gates.latents), 0)
        words = self.gates.blocks[self.number](words.to(seen.dtype), seen).to(words.dtype)
        return ((words, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": words})


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of a language model's layers: as many as its config says, and its largest part of that kind. Raises ModelError."""
    name = type(model).__name__
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    if not count or not found:
        raise ModelError(
            f"{name} is no causal language model whose layers can be found, so it cannot be shown images between them; use another, "
            "or the prefix mode"
        )
    return max(found, key=lambda part: sum(weight.numel() for weight in part.parameters()))
