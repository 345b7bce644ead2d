"""How much captions tell about their pictures, by one reference painter: the drop of its denoising loss when it is told the caption.

    I = E_t [ L(no caption) - L(caption) ]        at the same noise and the same times; more = the caption tells more

One painter judges all kinds of captions of the same pictures, and it can only use what it has learned to read: a painter that was trained on
alt-text reads long captions badly. Say which one it was.

Source: arXiv:2310.16656 (RECAP) explains sample efficiency by information per example; this measure of it is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reverie import seeds
from reverie.errors import InputError
from reverie.evaluate.diversity import Value
from reverie.evaluate.significance import Difference, bootstrap
from reverie.ranges import check_min

if TYPE_CHECKING:
    from PIL.Image import Image

    from reverie.models.encoder import Encoder

BATCH = 16  # pictures at once


@dataclass(frozen=True)
class Information:
    """Of one kind of captions."""

    captions: str
    drop: Value  # mean drop of the loss, with its 95 % interval over pictures
    share: float  # of the loss without a caption
    each: tuple[float, ...]  # drop of each picture
    num_cut: int  # captions that the painter's text encoder does not read to their end


def conditional_information(
    painter: str,
    pictures: npt.NDArray[np.uint8],
    captions: Mapping[str, Sequence[str]],
    times: int = 8,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int = BATCH,
    draws: int = 1000,
) -> list[Information]:
    """The drop for each kind of captions of the same pictures.

    Args:
        painter: the reference, a text-to-image pipeline by name or folder.
        pictures: uint8 (n, H, W, 3), at a size that it paints.
        captions: kind -> caption of each picture.
        times: noise levels and draws of noise of each picture, the same for all kinds.
        draws: of the bootstrap over pictures.
    Raises: InputError for captions that are not one for each picture; ModelError, UnknownName for the painter.
    """
    import torch

    from reverie.learn.autoencoder import encode
    from reverie.learn.text_to_image import TextToImage

    check_min(1, times=times, batch_size=batch_size)
    if not captions or not len(pictures):
        raise InputError("information is measured on pictures and at least one kind of captions")
    for kind, texts in captions.items():
        if len(texts) != len(pictures):
            raise InputError(f"{len(texts):,} captions {kind} for {len(pictures):,} pictures; give one of each picture")
    learner = TextToImage(start=painter, caption_drop=0.0)
    learner.check()
    net = learner.build().to(device).eval()
    vae = learner.open_autoencoder(device)
    kinds = {"": [""] * len(pictures), **captions}
    losses = {kind: np.zeros(len(pictures)) for kind in kinds}
    with torch.no_grad():
        for start, some in _batches(pictures, batch_size):
            latents = encode(vae, torch.from_numpy(some).permute(0, 3, 1, 2).contiguous().to(device))
            for turn in range(times):
                luck = [seeds.derive("information", seed, start + place, turn) % 2**62 for place in range(len(some))]
                for kind, texts in kinds.items():
                    batch: dict[str, Any] = {
                        "latents": latents,
                        "text": list(texts[start : start + len(some)]),
                        "seeds": luck,
                    }
                    noisy, at, told, target = learner.shown(batch)
                    missed = (net(noisy, at, told).float() - target.float()).square().flatten(1).mean(1)
                    losses[kind][start : start + len(some)] += missed.double().cpu().numpy() / times
    none = losses.pop("")
    found = []
    for kind, own in losses.items():
        drops = none - own
        rng = np.random.default_rng(seeds.derive("bootstrap", kind))
        drawn = rng.multinomial(len(drops), np.full(len(drops), 1 / len(drops)), draws) @ drops / len(drops)
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        value = float(drops.mean())
        cut = sum(learner.too_long(list(captions[kind])))
        found.append(
            Information(
                kind, Value(value, min(low, value), max(high, value)), value / float(none.mean()),
                tuple(round(drop, 9) for drop in drops.tolist()), cut,
            )
        )  # fmt: skip
    return found


def ranked(found: Sequence[Information]) -> list[tuple[str, Difference | None]]:
    """Kinds of captions from the one that tells most, each with how much more it tells than the next, over pictures."""
    order = sorted(found, key=lambda one: -one.drop.value)
    gaps: list[Difference | None] = [
        bootstrap(np.array(more.each), np.array(less.each)) for more, less in pairwise(order)
    ]
    return list(zip((one.captions for one in order), [*gaps, None], strict=True))


def retrieved(
    encoder: Encoder, pictures: Sequence[Image], captions: Mapping[str, Sequence[str]], k: int = 1
) -> dict[str, float]:
    """For each kind of captions, the share of them that find their own picture among the ``k`` nearest of all pictures.

    A caption that several pictures share is right with any of them. Texts over the encoder's limit are cut, which ``encoder.num_cut`` counts:
    kinds of different length are not ranked fairly by it.

    Raises: InputError for captions that are not one for each picture.
    """
    from reverie.evaluate.metrics.retrieval import recall_at_k

    rows, found = encoder.images(pictures).numpy(), {}
    for kind, texts in captions.items():
        if len(texts) != len(pictures) or not texts:
            raise InputError(f"{len(texts):,} captions {kind} for {len(pictures):,} pictures; give one of each picture")
        names = np.array(texts, dtype=object)
        found[kind] = recall_at_k(encoder.texts(texts).numpy() @ rows.T, names[:, None] == names[None], k)
    return found


def _batches(pictures: npt.NDArray[np.uint8], size: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    for start in range(0, len(pictures), size):
        yield start, pictures[start : start + size]
