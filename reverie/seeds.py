"""Seeds of random choices, each a pure function of what is chosen.

Nothing depends on call order, batch size or worker, so a restart or another machine draws the same numbers.
"""

from __future__ import annotations

import hashlib


def derive(*parts: int | str) -> int:
    """Hash the parts to a seed in [0, 2**63). Order and type matter, and (1, 2) is not (12,)."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        word = f"{type(part).__name__}:{part}".encode()
        digest.update(len(word).to_bytes(8, "little") + word)
    return int.from_bytes(digest.digest(), "little") >> 1


def image_seed(run_seed: int, caption_id: str, copy: int, attempt: int = 0) -> int:
    """Seed of the start noise of one image. ``attempt`` counts re-tries after a blank image."""
    return derive("image", run_seed, caption_id, copy, attempt)


def step_seed(run_seed: int, step: int, rank: int = 0) -> int:
    """Seed of everything random inside one optimiser step (augmentation, dropout, diffusion time)."""
    return derive("step", run_seed, step, rank)
