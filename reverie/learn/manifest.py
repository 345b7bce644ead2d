"""Which pairs of images and captions a model has learned from, as one name; and whether a comparison is controlled by it.

Source: Synth², arXiv:2403.07750: generator and captioner see the same pairs, so that a gain comes from new compositions and not from
pairs that a generator trained elsewhere brings along. Here ``controlled`` means that, image tokenizer aside, both were trained on
one manifest of pairs; every record says which it is and why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from reverie.datasets.captioned import CaptionedImages
from reverie.errors import InputError, ModelError
from reverie.store import tables
from reverie.store.files import atomic_file
from reverie.store.json_files import read_json
from reverie.store.pictures import open_picture
from reverie.store.token_batches import TokenPairs

if TYPE_CHECKING:
    from reverie.models.tokenizer import Tokenizer

BATCH = 64  # pictures at once
FILE = "manifest.json"  # in the folder of a model


@dataclass(frozen=True)
class Manifest:
    """Pairs that were learned from."""

    pairs: int
    name: str  # 16 hex digits of their ids and captions, in any order


@dataclass(frozen=True)
class Control:
    """Whether generator and captioner learned from the same pairs."""

    label: Literal["controlled", "uncontrolled"]
    reason: str


def manifest_of(pairs: TokenPairs) -> Manifest:
    """The manifest of these pairs."""
    digest = hashlib.blake2b(digest_size=8)
    for line in sorted(f"{name}\t{text}" for name, text in zip(pairs.ids, pairs.texts, strict=True)):
        digest.update(line.encode() + b"\n")
    return Manifest(len(pairs), digest.hexdigest())


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Put it beside the weights of a model."""
    with atomic_file(folder / FILE) as partial:
        partial.write_text(json.dumps(asdict(manifest)), encoding="utf-8")


def read_manifest(model: str | Path) -> Manifest | None:
    """The manifest of a model folder, or None where it has none, as a model by name. Raises ModelError for a damaged one."""
    file = Path(model) / FILE
    if not file.is_file():
        return None
    about = read_json(file, {"pairs": int, "name": str}, ModelError, "train the model again")
    return Manifest(about["pairs"], about["name"])


def control_of(painter: str, painter_learned: Manifest | None, captioner_learned: Manifest | None) -> Control:
    """What a comparison of this captioner may be called."""
    if captioner_learned is None:
        return Control("uncontrolled", "the captioner learned from no human pairs")
    if painter_learned is None:
        return Control("uncontrolled", f"{painter or 'the painter'} does not say which pairs it learned from")
    if painter_learned != captioner_learned:
        return Control(
            "uncontrolled",
            f"the painter learned from {painter_learned.pairs:,} pairs ({painter_learned.name}), the captioner from "
            f"{captioner_learned.pairs:,} others ({captioner_learned.name})",
        )
    return Control(
        "controlled",
        f"painter and captioner learned from the same {captioner_learned.pairs:,} pairs ({captioner_learned.name})",
    )


def require_control(control: Control) -> None:
    """Raises InputError where a controlled comparison was asked for and this is none."""
    if control.label != "controlled":
        raise InputError(
            f"this is no controlled comparison: {control.reason}; train both on one set of pairs, or do not ask for it"
        )


def refuse_test_photos(pairs: TokenPairs, photos: CaptionedImages, tokenizer: Tokenizer, size_px: int) -> None:
    """Raises InputError for a pair whose image is a test photo: one with the same ids at every place of the grid."""
    seen = _ids_of(photos.batches(BATCH), tokenizer, size_px)
    known = {grid.tobytes(): name for name, grid in zip(photos.names, seen, strict=True)}
    if pairs.tokens is not None:
        grids = list(pairs.tokens.astype(np.int32))
    else:
        grids = _ids_of(_pictures(pairs), tokenizer, size_px)
    taken = [
        (own, known[grid.tobytes()]) for own, grid in zip(pairs.ids, grids, strict=True) if grid.tobytes() in known
    ]
    if taken:
        pair, photo = taken[0]
        raise InputError(
            f"{len(taken):,} of {len(pairs):,} pairs of {pairs.path} show test photos, first {pair} the photo {photo}; take them out"
        )


def _pictures(pairs: TokenPairs) -> Iterator[list[Image.Image]]:
    for start in range(0, len(pairs), BATCH):
        part = tables.take(pairs.path, pairs.rows[start : start + BATCH], ["pair_id", "image"])
        named = zip(part["pair_id"].to_pylist(), part["image"].to_pylist(), strict=True)
        yield [open_picture(data, f"pair {name}") for name, data in named]


def _ids_of(batches: Iterable[list[Image.Image]], tokenizer: Tokenizer, size_px: int) -> list[np.ndarray]:
    """Ids (h, w) of each picture."""
    from reverie.models.tokenizer import square

    found: list[np.ndarray] = []
    for pictures in batches:
        ids = tokenizer.ids(np.stack([square(picture, size_px) for picture in pictures]))
        found += list(ids.astype(np.int32))
    return found
