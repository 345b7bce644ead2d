"""Low-rank adapters beside the attention of any network, through the library peft; what is saved has them added to its weights.

Source: LoRA, arXiv:2106.09685. Scaled by one (alpha = rank), so that the rank changes how much can be learned and not how fast.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from typing import Any

from torch import nn

from reverie.errors import InputError, MissingExtra

# Projections of attention, by the last words of their names in diffusers, CLIP, T5, and language models of transformers.
ATTENTION = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("q_proj", "k_proj", "v_proj", "out_proj", "o_proj", "qkv_proj"),
    *("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"),
    *("c_attn", "c_proj"),
)


def check_lora(rank: int) -> None:
    """Raises InputError for what is no rank, MissingExtra where the library is not there."""
    if rank < 0:
        raise InputError(f"--lora {rank} is a rank: 0 for none, or 1 and more")
    if rank and importlib.util.find_spec("peft") is None:
        raise MissingExtra("LoRA", "lora")


def add_lora(net: nn.Module, rank: int, what: str, dropout: float = 0.0, spared: Collection[str] = ()) -> None:
    """Put adapters beside the attention of a network, in place; they learn, and nothing else of it does.

    Args:
        what: name of the network, for the error.
        spared: names of parts that get none.
    Raises: InputError for a network without attention that is known here; as ``check_lora``.
    """
    check_lora(rank)
    import peft

    net.requires_grad_(False)
    spared = set(spared)
    targets = [
        name
        for name, module in net.named_modules()
        if name.endswith(ATTENTION)
        and not spared & set(name.split("."))
        and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    ]
    if not targets:
        raise InputError(f"{what} has no attention to put LoRA beside; train its weights themselves (--lora 0)")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, lora_dropout=dropout, target_modules=targets)
    peft.inject_adapter_in_model(config, net)


def merge_lora(net: nn.Module) -> None:
    """Add the adapters to the weights beside which they are, in place, and take them out. Nothing is done where there are none."""
    if importlib.util.find_spec("peft") is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                layer: Any = child
                layer.merge()
                setattr(parent, name, layer.get_base_layer())
