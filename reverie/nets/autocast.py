"""Where bf16 is quick, and what a U-Net of diffusers keeps in fp32 when it trains in bf16 on a CPU.

There bf16 makes convolutions and matrix products faster, but the backward passes of attention and of group norm slower,
several times over; with these two in fp32 the whole is faster. On a GPU, and without autocast, nothing changes, and
nothing of it is saved with the weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def quick_in_bf16(device: str) -> bool:
    """Whether a device has instructions for bf16; all count in it, some slowly."""
    return device != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


class ExactAttention:
    """An attention processor of diffusers, for sequences (batch, length, width) without a mask."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Queries, keys and values as autocast has it, the attention between them in fp32 where that is faster."""
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            # (batch, heads, length, width of a head)
            states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for states in (attn.to_q(hidden_states), attn.to_k(told), attn.to_v(told))
        )
        if _slow(query):
            with torch.autocast("cpu", enabled=False):
                seen = F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(query.dtype)
        else:
            seen = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = attn.to_out[1](attn.to_out[0](seen.transpose(1, 2).flatten(2)))
        return out


def exact_on_cpu(unet: Any) -> None:
    """Make attention and group norm of a text-to-image U-Net compute in fp32 under bf16 autocast on a CPU, in place."""
    unet.set_attn_processor(ExactAttention())
    exact_norms_on_cpu(unet)


def exact_norms_on_cpu(net: nn.Module) -> None:
    """The same for the group norms of any network."""
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_as_float)


def _as_float(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    # Group norm is on none of autocast's lists: it computes in what it is given.
    return (inputs[0].float(),) if _slow(inputs[0]) else inputs


def _slow(states: Tensor) -> bool:
    return states.dtype == torch.bfloat16 and states.device.type == "cpu"
