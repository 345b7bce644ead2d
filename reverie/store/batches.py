"""Training batches from the store: n captions with m of their images each, in an exact shuffle that resumes from one integer.

The order of the whole training is a pure function of (seed, rows of the table): epoch e visits the captions in a permutation
drawn from (seed, e), and batch b draws its m of l copies from (seed, b). So there is no shuffle buffer and no state: batch b
is the same after any restart and however many ranks share it. Memory holds a few bytes a row; images are read when needed, and
kept decoded where all of them together are small: a few hundred small pictures are seen hundreds of times, and decoding them anew took
a quarter of the time of a small training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from reverie import seeds
from reverie.errors import InputError
from reverie.memory import keep_freed
from reverie.store import tables
from reverie.store.latents import Captions
from reverie.store.pictures import read_square

Batch = dict[str, Any]
Group = Literal["caption", "image", "random"]

AHEAD = 3  # batches in the making while one is consumed
CHUNK = 16  # images a decoding task
KEPT_BYTES = 1 << 28  # of decoded images that may stay in memory


class CaptionBatches:
    """Batches of ``captions`` captions with ``images`` images each, over and over, from a table of pairs.

    Args:
        path: table of pairs, read at the version it has now.
        captions: n, captions in the joined batch of all ranks; each rank gets n / world of them.
        images: m, drawn without replacement from the copies of a caption, afresh at each visit.
        seed: of order and draws.
        size_px: images are resized to this shorter side and centre-cropped to a square.
        where: Lance SQL filter that a row must fit.
        rank, world: which slice of the joined batch to yield.
        threads: for decoding. Changes nothing but speed.
        columns: more columns of the table to hand on, one entry an image, in the order of ``images``.
        limit: use so many captions only, the same ones whatever the seed, and those of a lower limit among them; 0 = all.
        group: what counts as the images of a caption: those painted from it; each image alone; or, as a control, images
            dealt to the captions at random, the same way whatever the seed.
        min_images: leave out captions with fewer images than this, where that is more than m, so that learners with different m
            see the same images.
        max_images: of each caption use the first so many images only; 0 = all.
        texts: which text an image has at a visit, in place of its own; that of the first image of a caption stands for the caption.
    Attributes: num_captions, captions with enough copies; left_out, captions with too few of them; ``len()``, batches an epoch.
    Raises: InputError if too few captions are left for one batch, or the sizes do not go together.
    Source: StableRep, arXiv:2306.00984 (section 3, multi-positive batches).
    """

    def __init__(
        self,
        path: str | Path,
        captions: int,
        images: int,
        seed: int,
        size_px: int,
        where: str = "status = 'ok'",
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        columns: Sequence[str] = (),
        limit: int = 0,
        group: Group = "caption",
        min_images: int = 0,
        max_images: int = 0,
        texts: Captions | None = None,
    ) -> None:
        if min(captions, images, size_px, threads, world) < 1 or not 0 <= rank < world:
            raise InputError("captions, images, size_px, threads and world must be at least 1, and rank below world")
        if 0 < max_images < images and group == "caption":
            raise InputError(f"{images} images of a caption cannot be drawn from at most {max_images}")
        if captions % world:
            raise InputError(f"{captions} captions a batch cannot be shared equally by {world} processes")
        self.captions, self.images, self.seed, self.size_px = captions, images, seed, size_px
        self.rank, self.world, self.threads, self.columns = rank, world, threads, tuple(columns)
        self._texts, self._read_of = texts, tuple(dict.fromkeys([*columns, *(texts.columns if texts else ())]))
        self._table = tables.open_rows(path)
        with tables.asked(path, where, self._read_of):
            self._table.scanner(columns=list(self._read_of), limit=1).to_table()
            keys = self._table.scanner(
                columns=["caption_id", "copy", "_rowoffset"], filter=tables.whole_filter(where)
            ).to_table()
        # Sorted by id, so that the order does not depend on who committed first or on compaction.
        keys = keys.take(pc.sort_indices(keys, [("caption_id", "ascending"), ("copy", "ascending")]))
        few = 0
        if min_images > 1:
            whole = np.diff(_run_starts(keys["caption_id"]), append=len(keys))
            few = int((whole < min_images).sum())
            keys = keys.filter(pa.array(np.repeat(whole >= min_images, whole)))
        if max_images:
            first = _run_starts(keys["caption_id"])
            place = np.arange(len(keys)) - np.repeat(first, np.diff(first, append=len(keys)))
            keys = keys.filter(pa.array(place < max_images))
        starts = np.arange(len(keys)) if group == "image" else _run_starts(keys["caption_id"])
        copies = np.diff(starts, append=len(keys))
        enough = copies >= images
        self._rows = keys["_rowoffset"].to_numpy().astype(np.int64)
        if group == "random":
            self._rows = np.random.default_rng(seeds.derive("group")).permutation(self._rows)
        self._starts, self._copies = starts[enough], copies[enough]
        self.left_out = few + int((~enough).sum())
        if limit:
            lot = np.random.default_rng(seeds.derive("limit")).permutation(len(self._starts))
            chosen = np.sort(lot[:limit])
            self._starts, self._copies = self._starts[chosen], self._copies[chosen]
        self.num_captions = len(self._starts)
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self._keeps = int(self._copies.sum()) * 3 * size_px**2 <= KEPT_BYTES
        self._decoded: dict[int, np.ndarray] = {}  # by row, where they are kept
        if self.num_captions < captions:
            raise InputError(
                f"{path} has {self.num_captions} captions with {max(images, min_images)} or more images that fit {where!r} "
                f"({self.left_out} have fewer), and a batch wants {captions}"
            )

    def __len__(self) -> int:
        return self.num_captions // self.captions

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """Batches without end, from the one after ``start`` batches on; see docs/architecture.md for what is in one.

        Raises: BrokenImage naming the pair, if an image does not decode; InputError for a pair that has none.
        """
        if start < 0:
            raise ValueError(f"start must not be negative, got {start}")
        return self._iterate(start)

    def _iterate(self, start: int) -> Iterator[Batch]:
        keep_freed()
        with ThreadPoolExecutor(2, "read") as readers, ThreadPoolExecutor(self.threads, "decode") as decoders:
            waiting: deque[Future[Batch]] = deque()
            try:
                while True:
                    while len(waiting) < AHEAD:
                        position = start + len(waiting)
                        waiting.append(readers.submit(self._read, position, *self._choose(position), decoders))
                    yield waiting.popleft().result()
                    start += 1
            finally:
                for future in waiting:
                    future.cancel()

    def _choose(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Caption numbers (n,) and row numbers (m, n) of this rank's slice of a batch."""
        epoch, place = divmod(position, len(self))
        if self._epoch != epoch:
            generator = np.random.default_rng(seeds.derive("shuffle", self.seed, epoch))
            self._order, self._epoch = generator.permutation(self.num_captions), epoch
        chosen = self._order[place * self.captions : (place + 1) * self.captions]
        # m of l without replacement for all captions at once: the m smallest of l random numbers. All ranks draw alike.
        copies = self._copies[chosen]
        luck = np.random.default_rng(seeds.derive("copies", self.seed, position)).random(
            (len(chosen), self._copies.max())
        )
        luck[np.arange(luck.shape[1]) >= copies[:, None]] = 2.0
        drawn = np.argsort(luck, axis=1)[:, : self.images]
        rows = self._rows[self._starts[chosen][:, None] + drawn]
        share = self.captions // self.world
        mine = slice(self.rank * share, (self.rank + 1) * share)
        return chosen[mine], rows[mine].T

    def _read(self, position: int, chosen: np.ndarray, rows: np.ndarray, decoders: ThreadPoolExecutor) -> Batch:
        names = list(dict.fromkeys(["pair_id", "text", "label", *self._read_of]))
        wanted = rows.reshape(-1).astype(np.uint64)
        stored = np.argsort(wanted)  # rows in stored order are the quickest to read
        known = all(row in self._decoded for row in wanted.tolist())
        table = self._table.take(wanted[stored], columns=names if known else list(dict.fromkeys([*names, "image"])))
        encoded = [] if known else table["image"].to_pylist()
        table = table.select(names).take(np.argsort(stored))
        ids = table["pair_id"].to_pylist()
        pixels = np.empty((len(ids), self.size_px, self.size_px, 3), np.uint8)

        def decode(start: int) -> None:
            for place in range(start, min(start + CHUNK, len(ids))):
                number = stored[place]
                kept = self._decoded.get(int(wanted[number]))
                if kept is not None:
                    pixels[number] = kept
                    continue
                read_square(encoded[place], f"pair {ids[number]}", pixels[number])
                if self._keeps:
                    self._decoded[int(wanted[number])] = pixels[number].copy()

        if known:
            for number, row in enumerate(wanted.tolist()):
                pixels[number] = self._decoded[row]
        else:
            list(decoders.map(decode, range(0, len(ids), CHUNK)))
        first = table.slice(0, len(chosen))
        return {
            "images": torch.from_numpy(pixels).permute(0, 3, 1, 2),
            "caption": torch.from_numpy(np.tile(chosen.astype(np.int64), len(rows))),
            "text": self._drawn(position, first),
            "label": first["label"].to_pylist(),
            "pair_id": ids,
        } | {name: table[name].to_pylist() for name in self.columns}

    def _drawn(self, position: int, first: pa.Table) -> list[str]:
        """The text of each caption at this visit."""
        if self._texts is None:
            texts: list[str] = first["text"].to_pylist()
            return texts
        number = position * self.captions + self.rank * (self.captions // self.world)  # of the visit
        rows = first.select(list(self._texts.columns)).to_pylist()
        return [
            self._texts.draw(row, seeds.derive("caption", self.seed, visit)) for visit, row in enumerate(rows, number)
        ]


def _run_starts(column: pa.ChunkedArray) -> np.ndarray:
    """Where each run of equal values begins."""
    values = column.combine_chunks()
    if len(values) == 0:
        return np.empty(0, np.int64)
    changes = np.asarray(pc.not_equal(values[1:], values[:-1]))
    return np.concatenate([[0], np.flatnonzero(changes) + 1])
