"""Duplicate images, exact and near.

Two steps. ``ImageHash`` looks at each image once and writes three small columns; ``Duplicates`` compares those of all images
at once and says of which earlier image a picture is the copy. ``find_duplicates`` takes both for tables that no plan made,
and ``same_pictures`` reads what was found: a picture under two labels is a label conflict.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.fft
from PIL import Image

from reverie.errors import InputError
from reverie.filters.keep import join_columns
from reverie.stage import EventSink, Job, Role, StepContext, UnitStage, Worker
from reverie.store import tables
from reverie.store.pictures import Speed, decoded
from reverie.store.tables import TablePath

BITS = 64
HASH_SIDE = 32  # pixels of the grey picture that is transformed
THUMB_SIDE = 4  # pixels of the coloured one
MAX_DISTANCE = 7  # more bits apart is no near duplicate any more
SMALL = 256  # rows that are compared all with all
PAIRS = 1 << 18  # pairs that are compared at a time

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ImageHash(UnitStage):
    """Columns ``pixels`` (sha256 of size and pixels, hex), ``hash`` (64 bits as int64) and ``thumbnail`` (48 bytes).

    Null where there is no readable image.
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    adds: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("pixels", pa.string()),
        pa.field("hash", pa.int64()),
        pa.field("thumbnail", pa.binary()),
    )

    speed: Speed = field(default_factory=Speed)

    def open(self, context: StepContext) -> Worker:
        """Nothing to load."""

        def look(rows: pa.Table) -> pa.Table:
            found: dict[str, list[Any]] = {name: [None] * len(rows) for name in ("pixels", "hash", "thumbnail")}
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                for number, picture, bits in zip(numbers, pictures, perceptual_hashes(pictures), strict=True):
                    found["pixels"][number] = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
                    found["hash"][number] = int(bits)
                    found["thumbnail"][number] = _shrunk(picture, THUMB_SIDE).tobytes()
            return pa.table(
                {
                    "pair_id": rows["pair_id"],
                    "unit": rows["unit"],
                    "pixels": pa.array(found["pixels"], pa.string()),
                    "hash": pa.array(found["hash"], pa.int64()),
                    "thumbnail": pa.array(found["thumbnail"], pa.binary()),
                }
            )

        return look


def perceptual_hashes(pictures: Sequence[Image.Image]) -> Array:
    """One 64-bit hash a picture, int64 (B,), alike for pictures that look alike in shape and shading.

    The picture is shrunk to 32x32 grey; of its discrete cosine transform the 64 lowest frequencies after the mean are kept, in
    order of rising frequency; a bit is set where the coefficient is above their median. So brightness and contrast do not
    matter, noise and re-encoding little, and 32 bits are set in every hash.
    """
    grey = np.stack([_shrunk(picture.convert("L"), HASH_SIDE) for picture in pictures]).astype(np.float64)
    rows, columns = _low_frequencies()
    coefficients = scipy.fft.dctn(grey, axes=(1, 2), norm="ortho")[:, rows, columns]
    bits = coefficients > np.median(coefficients, axis=1, keepdims=True)
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.int64)[:, 0]


@functools.cache
def _low_frequencies() -> tuple[Array, Array]:
    places = [(row, column) for row in range(HASH_SIDE) for column in range(HASH_SIDE) if row or column]
    places.sort(key=lambda place: (sum(place), place))
    rows, columns = np.array(places[:BITS]).T
    return rows, columns


def _shrunk(picture: Image.Image, side: int) -> Array:
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


@dataclass(frozen=True)
class Duplicates(Job):
    """Column ``duplicate_of``: pair_id of the earlier image that this one repeats, or null for originals.

    Exact: equal size and pixels. Near: hashes at most ``max_distance`` bits apart and thumbnails at most ``max_colour`` apart
    (the hash sees no colour, and a red circle is no copy of a green one). Every copy points at an original, never at another
    copy; earlier means unit, then pair_id. Reads the columns of ImageHash.
    """

    role: ClassVar[Role] = "score"
    adds: ClassVar[tuple[pa.Field, ...]] = (pa.field("duplicate_of", pa.string()),)

    max_distance: int = 4  # bits of 64; 0 takes only equal hashes
    max_colour: int = 24  # largest difference of a thumbnail's pixel, of 255
    near: bool = True  # False: exact copies only

    def preview(self, count: int) -> Job:
        """The same, among few images."""
        return self

    def run(self, context: StepContext) -> None:
        """Compare all ok pairs and join the column to them. Raises InputError."""
        if not 0 <= self.max_distance <= MAX_DISTANCE:
            raise InputError(f"max_distance must lie between 0 and {MAX_DISTANCE} bits, not {self.max_distance}")
        needed = ["pair_id", "unit", "pixels", "hash", "thumbnail"]
        if missing := set(needed) - set(tables.column_names(context.pairs)):
            raise InputError(
                f"the pairs have no column {', '.join(sorted(missing))}; put an ImageHash step before Duplicates"
            )
        parts = list(tables.scan(context.pairs, needed, "status = 'ok' and pixels is not null"))
        if not parts:
            raise InputError("no image to compare: no ok pair has a hash")
        rows = pa.concat_tables(parts).drop_columns("thumbnail")
        order = pc.sort_indices(rows, [("unit", "ascending"), ("pair_id", "ascending")]).to_numpy()
        rows = rows.take(pa.array(order))
        original = exact_copies(rows["pixels"])
        num_exact = int((original != np.arange(len(rows))).sum())
        if self.near:
            small = [np.frombuffer(b"".join(part["thumbnail"].to_pylist()), dtype=np.uint8) for part in parts]
            thumbnails = np.concatenate(small).reshape(len(rows), -1)[order]
            original = near_copies(original, rows["hash"].to_numpy(), thumbnails, self.max_distance, self.max_colour)
        is_copy = original != np.arange(len(rows))
        names = rows["pair_id"].combine_chunks().take(pa.array(original))
        found = pa.array(names.to_pylist(), pa.string(), mask=~is_copy)
        join_columns(context, pa.table({"pair_id": rows["pair_id"], "duplicate_of": found}))
        context.report("duplicates", num_images=len(rows), num_exact=num_exact, num_near=int(is_copy.sum()) - num_exact)


def find_duplicates(folder: Path, duplicates: Duplicates | None = None, report: EventSink | None = None) -> None:
    """Hash all images of a run or an import and join ``duplicate_of`` and the hashes to its pairs, anew.

    Killed on the way, it goes on with the units that are left.
    Raises: InputError if there are no images.
    """
    context = StepContext(folder, "image-hash")
    if not tables.exists(context.pairs):
        raise InputError(f"{folder} holds no images; give the folder of a run or an import with images")
    stage = ImageHash()
    worker, units = stage.open(context), sorted(tables.done_units(context.pairs))
    done = tables.done_units(context.columns())
    for number, unit in enumerate(units, 1):
        if unit not in done:
            rows = tables.read_unit(context.pairs, unit, ["pair_id", "unit", *stage.reads], only="ok")
            tables.append_unit(context.columns(), unit, worker(rows))
        if report:
            report("progress", done=number, total=len(units), what="units")
    tables.add_columns(context.pairs, context.columns(), replace=True)
    (duplicates or Duplicates()).run(StepContext(folder, "duplicates"))
    tables.drop(context.columns())  # the next call may meet other images


@dataclass(frozen=True)
class SamePicture:
    """One picture and its copies."""

    rows: tuple[Mapping[str, Any], ...]  # pair_id, caption_id, label and pixels; the original first
    exact: bool  # all are equal to the last pixel

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it is found under, each once."""
        return tuple(dict.fromkeys(str(row["label"]) for row in self.rows if row["label"] is not None))

    @property
    def in_conflict(self) -> bool:
        """Whether it is found under more than one label."""
        return len(self.labels) > 1


def same_pictures(pairs: TablePath) -> list[SamePicture]:
    """Pictures that are there more than once: label conflicts first, then those with most copies.

    Raises: InputError if nobody has looked for duplicates yet.
    """
    if "duplicate_of" not in tables.column_names(pairs):
        raise InputError(f"{pairs} has no column duplicate_of; run: reverie duplicates")
    columns = ["pair_id", "caption_id", "label", "pixels"]
    copies: dict[str, list[dict[str, Any]]] = {}
    for rows in tables.scan(pairs, [*columns, "duplicate_of"], "duplicate_of is not null"):
        for row in rows.to_pylist():
            copies.setdefault(row["duplicate_of"], []).append(row)
    originals = {}
    wanted = pa.array(copies, pa.string())
    for rows in tables.scan(pairs, columns, "duplicate_of is null") if copies else ():
        for row in rows.filter(pc.is_in(rows["pair_id"], wanted)).to_pylist():
            originals[row["pair_id"]] = row
    groups = [
        SamePicture(
            (first, *sorted(copies[name], key=lambda row: str(row["pair_id"]))),
            all(row["pixels"] == first["pixels"] for row in copies[name]),
        )
        for name, first in originals.items()
    ]
    return sorted(groups, key=lambda group: (not group.in_conflict, -len(group.rows), group.rows[0]["pair_id"]))


def exact_copies(digests: pa.ChunkedArray | Iterable[str]) -> Array:
    """For each row the number of the first row with the same digest: its own for originals."""
    if not isinstance(digests, pa.ChunkedArray):
        digests = pa.chunked_array([pa.array(digests, pa.string())])
    # large: more than 2 GB of digests are no string array
    return _first_with_the_same(digests.cast(pa.large_string()).combine_chunks())


def _first_with_the_same(values: pa.Array) -> Array:
    if not len(values):
        return np.arange(0)
    codes = values.dictionary_encode().indices.to_numpy()  # numbered as they are met
    is_new = np.ones(len(codes), dtype=bool)
    is_new[1:] = codes[1:] > np.maximum.accumulate(codes)[:-1]
    chosen: Array = np.flatnonzero(is_new)[codes]
    return chosen


def near_copies(
    original: Array,
    hashes: Array,
    thumbnails: Array,
    max_distance: int,
    max_colour: int,
    small: int = SMALL,
    num_agreeing: int | None = None,
) -> Array:
    """Point near copies at the first original that they resemble.

    Args:
        original: (N,) from ``exact_copies``. hashes: (N,) int64. thumbnails: (N, 48) uint8.
        small, num_agreeing: change the speed only; see SMALL and ``_Looks.first_alike``.
    Returns: (N,) row numbers; copies of a near copy point at its original.

    The first half of the rows is settled, the second half compared with its originals, and what resembles none of them
    settled in the same way. Only originals are compared with, so a picture that was made ten thousand times costs ten
    thousand comparisons, and memory grows with the rows, not with the pairs that are alike.
    """
    rows = np.flatnonzero(original == np.arange(len(original)))
    hashed = hashes.view(np.uint64)
    # What equals an earlier row in hash and thumbnail resembles the same originals, so one row stands for them all.
    bytes_of = np.column_stack([hashed[rows].view(np.uint8).reshape(len(rows), 8), thumbnails[rows]])
    kind = pa.binary(bytes_of.shape[1])
    looks = pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(np.ascontiguousarray(bytes_of))])
    found = original.copy()
    found[rows] = rows[_first_with_the_same(looks)]
    _settle(found, rows[found[rows] == rows], _Looks(hashed, thumbnails, max_distance, max_colour, small, num_agreeing))
    while not np.array_equal(found, further := found[found]):
        found = further
    return found


def _settle(found: Array, rows: Array, looks: _Looks) -> Array:
    """Write the original of each copy among the rows (rising numbers) to ``found``; returns the originals."""
    if len(rows) > looks.small:
        half = len(rows) // 2
        early, late = _settle(found, rows[:half], looks), rows[half:]
        resembled = looks.first_alike(early, late)
        is_copy = resembled < len(early)
        found[late[is_copy]] = early[resembled[is_copy]]
        return np.concatenate([early, _settle(found, late[~is_copy], looks)])
    late, early = np.nonzero(np.tri(len(rows), k=-1, dtype=bool))  # by the later row, then by the earlier one
    alike = looks.alike(rows[early], rows[late])
    for one, other in zip(rows[early[alike]].tolist(), rows[late[alike]].tolist(), strict=True):
        if found[one] == one and found[other] == other:
            found[other] = one
    chosen: Array = rows[found[rows] == rows]
    return chosen


@dataclass(frozen=True)
class _Looks:
    """What is compared, and how far apart copies may be."""

    hashes: Array  # (N,) uint64
    thumbnails: Array  # (N, 48) uint8
    max_distance: int
    max_colour: int
    small: int
    num_agreeing: int | None

    def alike(self, early: Array, late: Array) -> Array:
        """Whether the rows of each pair are copies: numbers of those that are, rising."""
        near = np.bitwise_count(self.hashes[early] ^ self.hashes[late]) <= self.max_distance
        pairs = np.flatnonzero(near)
        apart = self.thumbnails[early[pairs]].astype(np.int16) - self.thumbnails[late[pairs]]
        chosen: Array = pairs[np.abs(apart).max(axis=1, initial=0) <= self.max_colour]
        return chosen

    def first_alike(self, early: Array, late: Array) -> Array:
        """For each late row the place in ``early`` of the first row that it resembles; len(early) where there is none.

        Cut into d + r blocks of bits, two hashes that differ in d bits agree whole in r blocks at least. So there is one
        table for each choice of r blocks, and rows are compared that agree in one of them: all pairs within d bits, and few
        others. More blocks make more tables with fewer rows that agree by chance; the number follows that of the rows.
        """
        first = np.full(len(late), len(early))
        agree = self.num_agreeing or _num_agreeing(len(early).bit_length(), self.max_distance)
        edges = np.linspace(0, BITS, agree + self.max_distance + 1).astype(int).tolist()
        for blocks in itertools.combinations(itertools.pairwise(edges), agree):
            early_keys, late_keys = _key(self.hashes[early], blocks), _key(self.hashes[late], blocks)
            early_order, late_order = np.argsort(early_keys), np.argsort(late_keys)
            early_keys, late_keys = early_keys[early_order], late_keys[late_order]
            begin = np.searchsorted(early_keys, late_keys, "left")
            counts = np.searchsorted(early_keys, late_keys, "right") - begin
            ends = np.cumsum(counts)
            low = 0
            while low < len(late):  # some at a time, which bounds the memory
                done = int(ends[low - 1]) if low else 0
                high = max(low + 1, int(np.searchsorted(ends, done + PAIRS, "right")))
                sizes = counts[low:high]
                within = np.arange(int(sizes.sum())) - np.repeat(ends[low:high] - sizes - done, sizes)
                one = early_order[np.repeat(begin[low:high], sizes) + within]
                other = np.repeat(late_order[low:high], sizes)
                alike = self.alike(early[one], late[other])
                np.minimum.at(first, other[alike], one[alike])
                low = high
        return first


@functools.cache
def _num_agreeing(magnitude: int, max_distance: int) -> int:
    """R of ``first_alike`` for about 2 ** magnitude rows: what is cheapest if rows agree by chance alone.

    To sort and search a row costs about as much as ten comparisons.
    """

    def cost(agree: int) -> float:
        bits = BITS * agree / (agree + max_distance)
        return math.comb(agree + max_distance, agree) * (10 + 2 ** (magnitude - bits))

    return min(range(1, 6), key=cost)


def _key(hashes: Array, blocks: Iterable[tuple[int, int]]) -> Array:
    """The bits of these blocks, side by side."""
    key = np.zeros_like(hashes)
    place = 0
    for low, high in blocks:
        key |= (hashes >> np.uint64(low) & np.uint64(2 ** (high - low) - 1)) << np.uint64(place)
        place += high - low
    return key
