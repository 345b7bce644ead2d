"""Which pairs of images and captions a model has learned from, as one name; and whether a comparison is controlled by it.

Source: Synth², arXiv:2403.07750: generator and captioner see the same pairs, so that a gain comes from new compositions and not from
pairs that a generator trained elsewhere brings along. Here ``controlled`` means that, image tokenizer aside, both were trained on
one manifest of pairs; every record says which it is and why.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
# Levels, of 255, by which a stored picture may differ from itself: on average, and where it does most. Photos of one thing on a plain
# ground are nearer to each other on average than a poor copy is to its photo, but not everywhere.
NEAR, NEAR_AT_MOST = 3.0, 12.0
SMALL = (8, 8, 3)  # parts of a picture that are looked at, and colours
NAMED = 10  # of the pairs that show test photos
LONGEST = 100_000  # characters of a filter that a shell takes as one word
FILE = "manifest.json"  # in the folder of a model


@dataclass(frozen=True)
class Manifest:
    """Pairs that were learned from."""

    pairs: int
    name: str  # 16 hex digits of their ids, captions and image tokens, in any order


@dataclass(frozen=True)
class Control:
    """Whether generator and captioner learned from the same pairs."""

    label: Literal["controlled", "uncontrolled"]
    reason: str


@dataclass(frozen=True)
class LeavingOut:
    """How a person leaves pairs out."""

    flag: str = ""  # that takes a filter; none where a filter is no flag
    where: str = ""  # filter that was given
    file: Path | None = None  # where a filter is written that is too long for a message


def manifest_of(ids: Sequence[str], texts: Sequence[str], tokens: Sequence[np.ndarray | None]) -> Manifest:
    """The manifest of pairs with these ids, captions and image tokens; an image without tokens is not told from another."""
    lines = [
        f"{name}\t{text.strip()}\t{'' if grid is None else _digest(np.asarray(grid).astype('<i4').tobytes())}"
        for name, text, grid in zip(ids, texts, tokens, strict=True)
    ]
    return Manifest(len(ids), _digest("".join(line + "\n" for line in sorted(lines)).encode()))


def manifest_of_pairs(pairs: TokenPairs, taken: Collection[str] | None = None) -> Manifest:
    """The same of pairs of a store, whether their tokens were read or their pictures; of those with the ids ``taken`` alone where given."""
    chosen = [at for at, name in enumerate(pairs.ids) if taken is None or name in taken]
    ids = [pairs.ids[at] for at in chosen]
    grids: list[np.ndarray | None]
    if pairs.tokens is not None:
        grids = [pairs.tokens[at] for at in chosen]
    else:
        known = _tokens_of(pairs.path, ids)
        grids = [known.get(name) for name in ids]
    return manifest_of(ids, [pairs.texts[at] for at in chosen], grids)


def real_among(pairs: TokenPairs) -> set[str]:
    """Ids of those of a store's pairs that were not painted."""
    known = set(pairs.ids)
    parts = tables.scan(pairs.path, ["pair_id"], "origin = 'real'")
    return {name for part in parts for name in part["pair_id"].to_pylist()} & known


def joined(*manifests: Manifest) -> Manifest:
    """The manifest of several sets of pairs together, none of which has a pair of another."""
    names = "".join(sorted(manifest.name for manifest in manifests))
    return Manifest(sum(manifest.pairs for manifest in manifests), _digest(names.encode()))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


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


def control_of(
    painter: str, painter_learned: Manifest | None, captioner_learned: Manifest | None, painted_alone: bool = False
) -> Control:
    """What a comparison of this captioner may be called.

    Args:
        captioner_learned: what it learned from, or, where it saw painted pairs alone (``painted_alone``), what those beside it did.
    """
    if captioner_learned is None:
        return Control("uncontrolled", "the captioner learned from no human pairs")
    if painter_learned is None:
        return Control("uncontrolled", f"{painter or 'the painter'} does not say which pairs it learned from")
    if painter_learned != captioner_learned:
        return Control(
            "uncontrolled",
            f"the painter learned from {painter_learned.pairs:,} pairs ({painter_learned.name}), the captioner from another set, of "
            f"{captioner_learned.pairs:,} ({captioner_learned.name})",
        )
    if painted_alone:
        return Control(
            "controlled",
            f"the painter learned from the same {captioner_learned.pairs:,} pairs ({captioner_learned.name}) as captioners of human pairs; "
            "this captioner saw painted ones alone",
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


def refuse_test_photos(
    pairs: TokenPairs,
    photos: CaptionedImages,
    tokenizer: Tokenizer,
    size_px: int,
    pictures: Path | None = None,
    leaving: LeavingOut = LeavingOut(),
) -> None:
    """Raises InputError for a pair whose image is a test photo: one with the same ids at every place of the grid.

    Args:
        pictures: table that has the pictures of the pairs, which are then looked at too: a tokenizer that has learned little gives
            different pictures the same ids.
        leaving: what the message says to do.
    """
    seen = _ids_of(photos.batches(BATCH), tokenizer, size_px)
    known: dict[bytes, list[int]] = {}
    for number, grid in enumerate(seen):
        known.setdefault(grid.tobytes(), []).append(number)
    if pairs.tokens is not None:
        grids = list(pairs.tokens.astype(np.int32))
    else:
        grids = _ids_of(_pictures(pairs), tokenizer, size_px)
    alike = {own: known[grid.tobytes()] for own, grid in zip(pairs.ids, grids, strict=True) if grid.tobytes() in known}
    taken = []
    own_pictures = _pictures_of(pictures, list(alike)) if pictures else {}
    for own, numbers in alike.items():
        mine = own_pictures.get(own)
        for number in numbers:
            if mine is None or _same(_small(mine)[None], _small(photos.picture(number)))[0]:
                taken.append((own, photos.names[number]))
                break
    _refuse(taken, len(pairs), pictures or pairs.path, leaving)


def refuse_test_pictures(
    pictures: Iterable[tuple[str, Image.Image]],
    photos: CaptionedImages,
    total: int,
    table: Path,
    tell: Callable[[int], None] = lambda done: None,
    leaving: LeavingOut = LeavingOut(),
) -> None:
    """The same by pictures alone, for when there is no tokenizer yet: it finds all whose pictures ``refuse_test_photos`` looks at.

    Args:
        pictures: ids of pairs, and their pictures.
        total: pairs of ``table`` that they are of, with those that have no picture.
        tell: called with the number of photos and pictures that were looked at so far.
        leaving: what the message says to do.
    """
    known = np.empty((len(photos), *SMALL), np.float32)
    done = 0
    for batch in photos.batches(BATCH):
        known[done : done + len(batch)] = [_small(picture) for picture in batch]
        done += len(batch)
        tell(done)
    coarse, taken = _halved(_halved(known)), []
    for own, picture in pictures:
        mine = _small(picture)
        # Means over parts differ by no more than the parts do, so this leaves out nothing and saves nearly all of the work.
        near = np.flatnonzero(np.abs(coarse - _halved(_halved(mine[None]))).mean((1, 2, 3)) < NEAR)
        near = near[_same(known[near], mine)]
        if len(near):
            taken.append((own, photos.names[int(near[0])]))
        done += 1
        if not done % BATCH:
            tell(done)
    _refuse(sorted(taken), total, table, leaving)


def both(where: str, more: str) -> str:
    """A filter that a person gave, if any, and another."""
    return f"({where}) and {more}" if where else more


def _refuse(taken: Sequence[tuple[str, str]], total: int, table: Path, leaving: LeavingOut) -> None:
    """Raises InputError for pairs, with the photos that they show, if there are any."""
    if not taken:
        return
    pair, photo = taken[0]
    told = f"{len(taken):,} of {total:,} pairs of {table} show test photos, first {pair} the photo {photo}"
    if total - len(taken) < 2:
        raise InputError(f"{told}; that leaves too few to learn from: give other pairs, or other test photos")
    names = ", ".join("'" + own.replace("'", "''") + "'" for own, _ in taken)
    others = both(leaving.where, f"pair_id not in ({names})")
    if len(taken) <= NAMED:
        raise InputError(f"{told}; leave them out: " + (f'{leaving.flag} "{others}"' if leaving.flag else others))
    if not leaving.flag or leaving.file is None or len(others) > LONGEST:
        raise InputError(
            f"{told}; take the test photos out of the folder or file that reverie import reads, and import it anew"
        )
    with atomic_file(leaving.file) as partial:
        partial.write_text(others, encoding="utf-8")
    raise InputError(f'{told}; leave them out: {leaving.flag} "$(cat {shlex.quote(str(leaving.file))})"')


def _pictures_of(table: Path, ids: list[str]) -> dict[str, Image.Image]:
    """The pictures of some pairs, as far as there are any."""
    found = {}
    for start in range(0, len(ids), BATCH):
        for row in tables.rows_of(table, "pair_id", ids[start : start + BATCH], ["pair_id", "image"]):
            if row["image"] is not None:
                found[row["pair_id"]] = open_picture(row["image"], f"pair {row['pair_id']}")
    return found


def _tokens_of(table: Path, ids: list[str]) -> dict[str, np.ndarray]:
    """The image tokens of some pairs, as far as there are any."""
    wanted = pa.array(ids, pa.string())
    found: dict[str, np.ndarray] = {}
    for part in tables.scan(table, ["pair_id", "tokens"], "tokens is not null"):
        rows = part.filter(pc.is_in(part["pair_id"], wanted))
        found |= {row["pair_id"]: np.array(row["tokens"]) for row in rows.to_pylist()}
    return found


def _small(picture: Image.Image) -> np.ndarray:
    """Levels of 8 x 8 parts of a picture: much the same however it was stored."""
    from reverie.models.tokenizer import square

    levels: np.ndarray = square(picture, 64).reshape(8, 8, 8, 8, 3).mean((1, 3)).astype(np.float32)
    return levels


def _same(several: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Which of n pictures, (n, 8, 8, 3), are the same as one, however it was stored."""
    apart = np.abs(several - one)
    same: np.ndarray = (apart.mean((1, 2, 3)) < NEAR) & (apart.max((1, 2, 3)) < NEAR_AT_MOST)
    return same


def _halved(levels: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 parts of n pictures."""
    count, height, width, colours = levels.shape
    halved: np.ndarray = levels.reshape(count, height // 2, 2, width // 2, 2, colours).mean((2, 4))
    return halved


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
