"""Step caching: deep blocks of a denoising network that are computed in every n-th step only, and otherwise give what they gave last.

    U-Nets          all but the finest level: conv_in, the first block down and the last block up run at every step, and join what the
                    others last gave. diffusers caches transformers alone, so this is ours; the idea is that of DeepCache
                    (arXiv:2312.00858), of which this is the case of one skip branch.
    transformers    attention, by ``enable_cache`` of diffusers with pyramid attention broadcast (arXiv:2408.12588)

Both count steps, and no number of a batch decides what is computed, so an image does not depend on its neighbours. (First-block and other caches
of diffusers compare the whole batch with the step before; they are not used for that reason.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import PyramidAttentionBroadcastConfig, UNet2DConditionModel
from diffusers.models.cache_utils import CacheMixin
from torch import nn

from reverie.errors import InputError


def check_step_cache(kind: type, name: str) -> None:
    """Raises InputError for a class of networks of which no part can be left out of a step."""
    if not issubclass(kind, (UNet2DConditionModel, CacheMixin)):
        raise InputError(f"--step-cache: {name} paints by a {kind.__name__}, which caches no steps; leave it out")


@contextmanager
def cached_steps(pipe: Any, net: Any, every: int) -> Iterator[None]:
    """Inside of the block, one image or batch is painted with deep blocks computed in every ``every``-th step; 1 is as usual."""
    if every == 1:
        yield
    elif isinstance(net, UNet2DConditionModel):
        with _deep_blocks_cached(net, every):
            yield
    else:
        whole = (-1, net.config.get("num_train_timesteps", 1000) + 1)
        net.enable_cache(
            PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=every,
                cross_attention_block_skip_range=every,
                spatial_attention_timestep_skip_range=whole,
                cross_attention_timestep_skip_range=whole,
                current_timestep_callback=lambda: pipe._current_timestep,
            )
        )
        try:
            yield
        finally:
            net.disable_cache()


@contextmanager
def _deep_blocks_cached(net: UNet2DConditionModel, every: int) -> Iterator[None]:
    step = -1

    def count(*_: Any) -> None:
        nonlocal step
        step += 1

    def cached(forward: Callable[..., Any]) -> Callable[..., Any]:
        kept: Any = None

        def give(*args: Any, **named: Any) -> Any:
            nonlocal kept
            if step % every == 0:
                kept = forward(*args, **named)
            return kept

        return give

    deep: list[nn.Module] = [*net.down_blocks[1:], *net.up_blocks[:-1]]
    if net.mid_block is not None:
        deep.append(net.mid_block)
    counting = net.register_forward_pre_hook(count)
    for block in deep:
        block.forward = cached(block.forward)
    try:
        yield
    finally:
        counting.remove()
        for block in deep:
            del block.forward  # of the instance; that of the class is what it was
