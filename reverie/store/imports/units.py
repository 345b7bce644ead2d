"""Samples -> units of captions and pairs in the tables of a folder, and an account of everything that a source holds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Unpack

import pyarrow as pa

from reverie import pairs
from reverie.errors import BrokenImage, FolderInUse, InputError, StoreError
from reverie.store import tables
from reverie.store.imports.kinds import entries, guess_kind
from reverie.store.imports.samples import Entry, Kind, NotAsked, NotTaken, Reading, Sample
from reverie.store.locks import all_units_held
from reverie.store.pictures import as_png, open_picture, suffix
from reverie.store.sources import because, counted, in_words, printable, shared, what_is

MAX_BYTES = 256 << 20  # of one encoded image
SHOWN = 6  # reasons in one line
ALONE = "no text, an image alone"  # why there is no caption where the image is taken without one
Fate = Literal["taken", "dropped", "failed", "not taken"]


class Unit(NamedTuple):
    """Rows of one unit. ``pairs`` is None if the source has captions only."""

    number: int
    captions: pa.Table
    pairs: pa.Table | None


@dataclass
class Account:
    """What became of everything that a source holds: each thing is counted once, under one word.

    dropped: the caption cannot be used; failed: the caption can, its image cannot; not taken: it became no row. An image that is wanted
    without text is taken or failed, and no caption.
    """

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)  # status of caption and image; "" = there is none
    found: Counter[tuple[Fate, str]] = field(default_factory=Counter)  # by fate and reason
    not_asked: dict[str, None] = field(default_factory=dict)  # sentences about pictures that could have come along

    @property
    def counts(self) -> dict[str, int]:
        """How many "captions", how many of them "dropped captions"; with images also "images ok", "dropped" and "failed".

        Where there are some, also how many ok "images without text".
        """
        told = {
            "captions": self._sum(lambda caption, _: caption != ""),
            "dropped captions": self._sum(lambda caption, _: caption == pairs.DROPPED),
        }
        if self._sum(lambda _, image: image != ""):
            for word in (pairs.OK, pairs.DROPPED, pairs.FAILED):
                told[f"images {word}"] = self._sum(lambda _, image, word=word: image == word)
        if alone := self.rows["", pairs.OK]:
            told["images without text"] = alone
        return told

    def _sum(self, fits: Callable[..., bool]) -> int:
        return sum(number for row, number in self.rows.items() if fits(*row))

    def add(self, captions: pa.Table, images: pa.Table | None) -> None:
        """Count the rows of a unit. ``images`` has at least caption_id, status and reason."""
        rows = [] if images is None else images.select(["caption_id", "status", "reason"]).to_pylist()
        by_caption = {row["caption_id"]: row for row in rows}
        for caption in captions.select(["caption_id", "status", "reason"]).to_pylist():
            image = by_caption.get(caption["caption_id"])
            is_alone = caption["reason"] == ALONE
            self.rows["" if is_alone else caption["status"], image["status"] if image else ""] += 1
            if caption["status"] == pairs.DROPPED and not is_alone:
                self.found["dropped", shared(caption["reason"])] += 1
            elif image and image["status"] == pairs.FAILED:
                self.found["failed", shared(image["reason"])] += 1
            else:
                self.found["taken", ""] += 1

    def __str__(self) -> str:
        """The sum, such as: 7 found = 4 taken + 1 dropped (no text) + 2 not taken (2 .txt files)."""
        parts = []
        for fate in ("taken", "dropped", "failed", "not taken"):
            reasons = [(number, why) for (word, why), number in self.found.most_common() if word == fate]
            if number := sum(count for count, _ in reasons):
                told = [
                    counted(count, why) if len(reasons) > 1 else in_words(count, why)
                    for count, why in reasons[:SHOWN]
                    if why
                ]
                told += [f"{len(reasons) - SHOWN} other reasons"] * (len(reasons) > SHOWN)
                parts.append(f"{number:,} {fate}" + (f" ({'; '.join(told)})" if told else ""))
        return f"{self.found.total():,} found = {' + '.join(parts) or '0 taken'}"


def import_into(
    source: str | Path,
    folder: str | Path,
    kind: Kind | None = None,
    *,
    name: str | None = None,
    seed: int = 0,
    unit_size: int = 100,
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
    **reading: Unpack[Reading],
) -> Account:
    """Import a source into ``captions.lance`` and ``pairs.lance`` of a folder, or the rest of it after an interruption.

    A source with a new name gets the units after those that are there. Nobody else may be at work in the folder meanwhile.

    Args:
        kind: guessed from the source when None.
        name: of the source, part of every id; the kind when None. Give one when a folder gets several sources.
        progress: called with the number of samples imported so far.
        reading: see ``Reading``.
    Returns: what became of everything that the source holds.
    Raises: InputError if the source cannot be read or holds nothing; StoreError if the units hold something else; FolderInUse.
    """
    folder = Path(folder)
    captions_path, pairs_path = folder / "captions.lance", folder / "pairs.lance"
    kind = kind or guess_kind(source)
    name = name or kind
    if Path(source).is_dir() and folder.resolve().is_relative_to(Path(source).resolve()):
        raise InputError(f"the folder for the tables, {folder}, lies in the source {source}; give one outside of it")
    account = Account()
    first, found = _begun(source, kind, reading, account)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise FolderInUse(f"{folder} is a file, not a folder") from error
    with all_units_held(folder):
        first_unit = _first_unit([captions_path, pairs_path], pairs.caption_id(seed, name, first.position))
        done = tables.done_units(captions_path)
        for number, captions, images in _units(found, name, seed, unit_size, first_unit, threads, skip=done):
            if number in done:
                _refuse_others(captions_path, number, captions, name)
                stored = ["caption_id", "status", "reason"]
                captions = tables.read_unit(captions_path, number, stored)
                images = tables.read_unit(pairs_path, number, stored) if images is not None else None
            else:
                if images is not None and number not in tables.done_units(pairs_path):
                    tables.append_unit(pairs_path, number, images)
                tables.append_unit(captions_path, number, captions)  # last: this is what says "done"
            account.add(captions, images)
            if progress:
                progress(account.rows.total())
    return account


def read(
    source: str | Path,
    kind: Kind | None = None,
    *,
    name: str | None = None,
    seed: int = 0,
    unit_size: int = 100,
    threads: int = 2,
    **reading: Unpack[Reading],
) -> Iterator[Unit]:
    """A source as units of caption rows and, where it has images, one real pair a caption.

    Args: as ``import_into``. Raises: InputError if the source cannot be read or holds nothing.
    """
    kind = kind or guess_kind(source)
    _, found = _begun(source, kind, reading, Account())
    return _units(found, name or kind, seed, unit_size, 0, threads)


def _begun(source: str | Path, kind: Kind, reading: Reading, account: Account) -> tuple[Sample, Iterator[Sample]]:
    """The first sample of a source, and all of them. What is not taken goes to the account on the way."""

    def taken(found: Iterator[Entry]) -> Iterator[Sample]:
        for entry in found:
            if isinstance(entry, NotTaken):
                account.found["not taken", entry.reason] += entry.number
            elif isinstance(entry, NotAsked):
                account.not_asked[entry.text] = None
            else:
                yield entry

    found = taken(entries(source, kind, **reading))
    first = next(found, None)
    if first is None:
        beside = f": {account}" if account.found else ""
        raise InputError(f"{source} holds no captions or images{beside}")
    return first, itertools.chain([first], found)


def _first_unit(paths: Sequence[Path], caption_id: str) -> int:
    """The unit that has the first caption of a source, as it was imported before, or else the one after all that are there.

    A unit of pairs may be there without its captions: the import was stopped between the two.
    """
    there = [path for path in paths if tables.exists(path)]
    for path in there:
        for rows in tables.scan(path, ["unit"], f"caption_id = '{caption_id}'"):
            return int(rows["unit"][0].as_py())
    return max((unit for path in there for unit in tables.done_units(path)), default=-1) + 1


def _units(
    found: Iterator[Sample],
    name: str,
    seed: int,
    unit_size: int,
    first_unit: int,
    threads: int,
    skip: Collection[int] = (),
) -> Iterator[Unit]:
    """``skip`` names units whose images need not be looked at: their pairs come without rows."""
    has_images = False
    with ThreadPoolExecutor(threads) as pool:
        for number in itertools.count(first_unit):
            group = list(itertools.islice(found, unit_size))
            if not group:
                return
            # Once a source has shown an image, a caption without one misses it.
            has_images = has_images or any(_has_image(sample) for sample in group)
            yield _unit(number, group, name, seed, pool, number in skip, has_images)


def _has_image(sample: Sample) -> bool:
    return sample.image is not None or sample.problem is not None


def _unit(
    number: int, group: Sequence[Sample], name: str, seed: int, pool: ThreadPoolExecutor, skip: bool, has_images: bool
) -> Unit:
    captions, images = [], []
    looked = itertools.repeat(_NOT_LOOKED) if skip or not has_images else pool.map(_look, group)
    for sample, image in zip(group, looked, strict=False):
        caption = pairs.caption_id(seed, name, sample.position)
        is_alone = sample.alone and _has_image(sample)
        row = {"caption_id": caption, "unit": number, "text": None if is_alone else sample.text, "label": sample.label}
        reason = sample.refused or (None if sample.text else ALONE if is_alone else "no text")
        silent = {"status": pairs.DROPPED, "reason": reason} if reason else {"status": pairs.OK}
        captions.append(row | {"source": f"import: {sample.file or f'row {sample.position}'}"} | silent)
        silent = {"status": pairs.OK} if is_alone else silent
        if has_images and not skip:
            is_missed = image.problem is not None and (_has_image(sample) or not reason)
            failed = {"status": pairs.FAILED, "reason": image.problem} if is_missed else silent
            here = {"pair_id": pairs.pair_id(caption, 0), "copy": 0, "origin": "real"}
            images.append(row | here | {"image": image.data, "width": image.width, "height": image.height} | failed)
    return Unit(number, pairs.table(captions, pairs.CAPTIONS), pairs.table(images, pairs.PAIRS) if has_images else None)


class _Looked(NamedTuple):
    data: bytes | None = None
    width: int | None = None
    height: int | None = None
    problem: str | None = None


_NOT_LOOKED = _Looked()


def _look(sample: Sample) -> _Looked:
    """Decode an image once, so that what is stored as ok can be read later."""
    if sample.image is None:
        return _Looked(problem=sample.problem or "no image")
    name = f"image {sample.position}"
    try:
        data = sample.image if isinstance(sample.image, bytes) else _read_file(sample.image)
        picture = open_picture(data, name)
    except BrokenImage as error:
        return _Looked(problem=printable(error.reason))
    if suffix(data) is None:
        data = as_png(picture)
    return _Looked(data, *picture.size)


def _read_file(path: Path) -> bytes:
    if found := what_is(path):
        raise BrokenImage(because(f"{found}, not a file", path.name))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenImage(because("the file is too large", f"{path.stat().st_size:,} bytes"))
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(because(f"cannot read the file ({error.strerror})", path.name)) from error


def _refuse_others(path: Path, number: int, captions: pa.Table, name: str) -> None:
    """The unit that is there must be the one that would be imported."""
    names = ["caption_id", "text"]
    there = tables.read_unit(path, number, [*names, "reason"])
    is_same = there.select(names[:1]).equals(captions.select(names[:1]))
    if is_same and _alone(there) != _alone(captions):
        raise StoreError(
            f"{path} holds {name!r} imported {'with' if _alone(there) else 'without'} --without-text keep; import it so again, or give "
            "another --out"
        )
    if not there.select(names).equals(captions.select(names)):
        raise StoreError(
            f"unit {number} of {path} holds other captions: {name!r} is the name of another source, or this one has changed; "
            "give another --name or --out"
        )


def _alone(captions: pa.Table) -> set[str]:
    """Captions that stand for images alone, by their ids."""
    rows = zip(captions["caption_id"].to_pylist(), captions["reason"].to_pylist(), strict=True)
    return {name for name, reason in rows if reason == ALONE}
