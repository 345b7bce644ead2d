"""Widening of a trained U-Net: a network with more channels that computes the same function, to train on from.

Every channel becomes several equal ones, and the layers that read them split its weight between them, unevenly, so that the
copies learn to differ. Source: Net2Net, arXiv:1511.05641, section 2.2; there copies are told apart by noise, here
their weights still add up to the old one, so that the function stays. It stays exactly where all levels are widened
alike; else a group norm over two levels groups other channels than before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from reverie.errors import InputError

UNEVEN = 0.1  # how far copies share unevenly, as a fraction of an even share
TEXT_HEADS = 4  # of the pooling that brings the caption to the time embedding


def widen(old: UNet2DConditionModel, channels: Sequence[int], text_time: bool = False) -> UNet2DConditionModel:
    """A U-Net with other channels, each a multiple of the old one's, and the old one's output.

    Args:
        old: text-conditioned, with residual blocks and cross-attention, as ``learn/text_to_image.py`` builds it.
        channels: one a resolution, finest first.
        text_time: the new one also adds the caption to the time embedding, with weights that are 0 at first.

    Raises: InputError for channels that are no multiples. Draws from torch's global generator.
    """
    before = tuple(old.config.block_out_channels)
    if len(before) != len(channels) or any(new % past for new, past in zip(channels, before, strict=False)):
        raise InputError(
            f"a U-Net of channels {before} cannot be widened to {tuple(channels)}; give a multiple of each"
        )
    config = {name: value for name, value in dict(old.config).items() if not name.startswith("_")}
    config |= {"block_out_channels": list(channels), "time_embedding_dim": old.time_embedding.linear_2.out_features}
    if text_time:
        config |= {"addition_embed_type": "text", "addition_embed_type_num_heads": TEXT_HEADS}
    new: UNet2DConditionModel = UNet2DConditionModel.from_config(config)
    levels = _joined_levels(len(before), config["layers_per_block"])
    weights = new.state_dict()
    past = old.state_dict()
    for name, value in weights.items():
        if name not in past:
            if name.startswith("add_embedding.norm2."):  # the last of its layers: it adds nothing yet
                weights[name] = torch.zeros_like(value)
            continue
        known, shape = past[name], value.shape
        if name == "time_embedding.linear_1.weight":
            weights[name] = _more_frequencies(known, shape[1])
            continue
        block = name.split(".norm1.")[0].split(".conv1.weight")[0].split(".conv_shortcut.weight")[0]
        joined = levels.get(block) if block != name else None
        rows = _sources(before, channels, joined) if joined and ".norm1." in name else _copies(known.shape[0], shape[0])
        kept = known[rows]
        if known.ndim > 1:
            columns = _sources(before, channels, joined) if joined else _copies(known.shape[1], shape[1])
            kept = _shared(kept, columns)
        if name.endswith(".to_q.weight"):  # longer queries and keys: attention divides by the root of their length
            kept = kept / (shape[0] / known.shape[0]) ** 0.5
        weights[name] = kept
    new.load_state_dict(weights)
    return new


def _joined_levels(count: int, layers: int) -> dict[str, tuple[int, int]]:
    """Residual blocks of the way up, by name, and the levels whose channels they read side by side."""
    skips = [0]
    for level in range(count):
        skips += [level] * layers + [level] * (level < count - 1)
    joined = {}
    for up in range(count):
        level = count - 1 - up
        for block in range(layers + 1):
            below = min(level + 1, count - 1) if block == 0 else level
            joined[f"up_blocks.{up}.resnets.{block}"] = (below, skips.pop())
    return joined


def _copies(past: int, now: int) -> Tensor:
    """Which old channel each new one copies."""
    return torch.arange(past).repeat_interleave(now // past)


def _sources(before: Sequence[int], channels: Sequence[int], levels: tuple[int, int]) -> Tensor:
    """The same where the channels of two levels lie side by side."""
    first, second = (_copies(before[level], channels[level]) for level in levels)
    return torch.cat([first, before[levels[0]] + second])


def _shared(weight: Tensor, columns: Tensor) -> Tensor:
    """Columns copied, and each divided between its copies so that they add up to it."""
    times = torch.bincount(columns).float()
    uneven = 2 * torch.rand(*weight.shape[:1], len(columns), *weight.shape[2:]) - 1
    mean = torch.zeros_like(weight).index_add_(1, columns, uneven) / times.view(-1, *[1] * (weight.ndim - 2))
    share = (1 + UNEVEN * (uneven - mean[:, columns])) / times[columns].view(-1, *[1] * (weight.ndim - 2))
    return weight[:, columns] * share


def _more_frequencies(weight: Tensor, now: int) -> Tensor:
    """Weights of the time's cosines and sines where there are more of them: the old frequencies are among the new."""
    more = torch.zeros(len(weight), 2, now // 2)
    more[:, :, :: now // weight.shape[1]] = weight.view(len(weight), 2, -1)
    return more.flatten(1)
