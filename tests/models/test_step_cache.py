"""Step caching, and what else is quicker in pixels that differ a little: what is computed, what is not, and that all of it is undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reverie.errors import InputError
from reverie.models.batching import best_batch
from reverie.models.painter import Painter, check_painter, open_painter, pick
from reverie.recipes.options import Painting
from tests.images import pipelines

SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("painters")
    return {family: pipelines.save(family, root / family) for family in ("sd", "flux", "sd3")}


def painted(painter: Painter, seeds: list[int] = SEEDS, steps: int = 4) -> np.ndarray[Any, Any]:
    return painter.paint(pick(painter.encode(["a red circle"]), [0] * len(seeds)), seeds, 2.0, steps, 32)


@contextmanager
def passes(module: torch.nn.Module) -> Iterator[list[int]]:
    """How often a module truly computes."""
    counted = [0]
    own = module.forward

    def count(*args: Any, **named: Any) -> Any:
        counted[0] += 1
        return own(*args, **named)

    module.forward = count
    yield counted
    module.forward = own


@pytest.mark.parametrize(("every", "computed"), [(1, 4), (2, 2), (3, 2), (9, 1)])
def test_deep_blocks_of_a_unet_are_computed_in_every_nth_step(
    folders: dict[str, Path], every: int, computed: int
) -> None:
    painter = open_painter(str(folders["sd"]), step_cache=every)
    unet = painter.pipe.unet
    plain = painted(open_painter(str(folders["sd"])))
    with passes(unet.up_blocks[0].resnets[0]) as deep, passes(unet.up_blocks[-1].resnets[0]) as shallow:
        found = painted(painter)
    assert (deep[0], shallow[0]) == (computed, 4)
    assert (found.tobytes() == plain.tobytes()) == (every == 1)
    assert "forward" not in vars(unet.up_blocks[0]), "what was put over the blocks stays there"
    assert painted(painter).tobytes() == found.tobytes()


def test_an_image_does_not_depend_on_its_neighbours(folders: dict[str, Path]) -> None:
    for family in ("sd", "flux"):
        painter = open_painter(str(folders[family]), step_cache=2)
        together = painted(painter)
        for place, seed in enumerate(SEEDS):
            assert np.abs(painted(painter, [seed])[0].astype(int) - together[place].astype(int)).max() <= 2, family


def test_attention_of_a_transformer_is_cached_and_let_go(folders: dict[str, Path]) -> None:
    plain, cached = (painted(open_painter(str(folders["flux"]), step_cache=every)) for every in (1, 2))
    assert plain.tobytes() != cached.tobytes()
    painter = open_painter(str(folders["flux"]), step_cache=2)
    painted(painter)
    assert not painter.pipe.transformer.is_cache_enabled


def test_a_network_that_caches_nothing_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"--step-cache: .* paints by a SD3Transformer2DModel, which caches no steps"):
        check_painter(str(folders["sd3"]), 4, 32, step_cache=2)
    for family in ("sd", "flux"):
        check_painter(str(folders[family]), 4, 32, step_cache=2)
    with pytest.raises(InputError, match=r"--step-cache is about painters of pixels"):
        Painting("builtin:token-painter", scheduler=None, step_cache=2).token_stage()


def test_the_decoder_alone_may_be_in_half_precision(folders: dict[str, Path]) -> None:
    plain, half = open_painter(str(folders["sd"])), open_painter(str(folders["sd"]), decoder_dtype="bf16")
    assert half.pipe.vae.dtype == torch.bfloat16
    assert half.pipe.unet.dtype == torch.float32
    far = np.abs(painted(plain).astype(int) - painted(half).astype(int))
    assert 0 < far.max() <= 12
    assert far.mean() < 2


def test_channels_last_paints_the_same(folders: dict[str, Path]) -> None:
    plain, last = open_painter(str(folders["sd"])), open_painter(str(folders["sd"]))
    last.quicken(channels_last=True)
    assert last.pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(painted(plain).astype(int) - painted(last).astype(int)).max() <= 2


@pytest.mark.slow
def test_a_compiled_network_paints_the_same(folders: dict[str, Path]) -> None:
    plain, compiled = open_painter(str(folders["sd"])), open_painter(str(folders["sd"]), compiled=True)
    assert np.abs(painted(plain).astype(int) - painted(compiled).astype(int)).max() <= 2


@pytest.mark.parametrize(
    ("rates", "fits", "best"),
    [
        ({4: 10, 8: 18, 16: 30, 32: 31, 64: 90}, 1000, 16),  # 32 is not a twentieth faster
        ({4: 10, 8: 18, 16: 30, 32: 60, 64: 90}, 32, 32),
        ({4: 10}, 3, 1),
        ({size: size for size in (4, 8, 16, 32, 64, 128, 256)}, 1000, 256),
    ],
)
def test_the_batch_that_a_trial_finds(rates: dict[int, float], fits: int, best: int) -> None:
    def rate(size: int) -> float:
        if size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return rates[size]

    assert best_batch(rate) == best


def test_a_trial_of_batches_hides_no_error() -> None:
    def rate(size: int) -> float:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        best_batch(rate)
