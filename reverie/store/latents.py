"""Latents of the pictures in a store, in a table of their own, and training batches of them with a caption each.

    latents.lance    pair_id, unit, shape (c, h, w), latents (c * h * w numbers of 2 bytes)

Unit n is made of the pairs of unit n and lands in one commit, so a kill costs the unit in hand, and several processes can
share the units. Batches read from disk what they need: memory holds a few bytes a pair. They are a pure function of
(seed, position, rows): epoch e visits the pairs in a permutation drawn from (seed, e), one visit after the other without a
gap, and what is drawn at a visit comes from (seed, number of the visit). So all ranks together see what one would see alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from reverie import seeds
from reverie.errors import InputError, ModelError
from reverie.store import tables
from reverie.store.pictures import read_square

AHEAD = 3  # batches in the making while one is consumed
SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("shape", pa.list_(pa.int32())),
        pa.field("latents", pa.large_binary()),
    ]
)
Encode = Callable[[torch.Tensor], torch.Tensor]
"""Pictures (B, 3, H, W), uint8 -> latents (B, c, h, w)."""


class Captions(Protocol):
    """Which caption a pair has at a visit."""

    @property
    def columns(self) -> Sequence[str]:
        """Of the table of pairs, which it wants to see."""

    def draw(self, row: Mapping[str, Any], seed: int) -> str:
        """The caption of a pair at the visit of this seed."""


class SeveralCaptions(Captions, Protocol):
    """Which of the captions of a pair is read at a visit, and all that can be."""

    def all(self, row: Mapping[str, Any]) -> list[str]:
        """Every caption that a pair can have."""


def encode_units(
    pairs: Path,
    latents: Path,
    encode: Encode,
    size_px: int,
    where: str = "status = 'ok'",
    share: tuple[int, int] = (0, 1),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Encode the pictures of every unit that has no latents yet.

    Args:
        size_px: pictures are made squares of this side.
        share: (k, n), k from 0: do every n-th unit, from the k-th on.
        report: told of the units done and of all units, of this share.
    Raises: BrokenImage naming the pair; InputError for a pair without a picture; ModelError for latents that are not finite.
    """
    mine = sorted(tables.done_units(pairs))[share[0] :: share[1]]
    todo = [unit for unit in mine if unit not in tables.done_units(latents)] if tables.exists(latents) else mine
    at_once = min(100, max(1, (1 << 20) // size_px**2))
    for number, unit in enumerate(todo, start=len(mine) - len(todo) + 1):
        rows = tables.read_unit(pairs, unit, columns=["pair_id", "image"], where=where)
        ids, pictures = rows["pair_id"].to_pylist(), rows["image"].to_pylist()
        found: list[torch.Tensor] = []
        for first in range(0, len(ids), at_once):
            some = range(first, min(first + at_once, len(ids)))
            pixels = np.empty((len(some), size_px, size_px, 3), np.uint8)
            for place, out in zip(some, pixels, strict=True):
                read_square(pictures[place], f"pair {ids[place]}", out)
            found += encode(torch.from_numpy(pixels).permute(0, 3, 1, 2)).half().cpu()
        for name, one in zip(ids, found, strict=True):
            if not one.isfinite().all():
                raise ModelError(f"the latents of pair {name} are not finite; is this the right autoencoder?")
        made = {
            "pair_id": ids,
            "unit": [unit] * len(ids),
            "shape": [list(one.shape) for one in found],
            "latents": [one.contiguous().numpy().tobytes() for one in found],
        }
        tables.append_unit(latents, unit, pa.table(made, schema=SCHEMA))
        report(number, len(mine))


class StoredLatents:
    """Batches of latents, each with one caption of its pair, over and over.

    Args:
        pairs: table of pairs, read at the version it has now.
        latents: what ``encode_units`` made of it.
        captions: which caption a pair has at a visit.
        batch: rows of the joined batch of all ranks; each rank gets batch / world of them.
        seed: of order and draws.
        where: Lance SQL filter that a pair must fit.
        rank, world: which slice of the joined batch to yield.
        without: pairs that are left out, by their names.
    Attributes: num_pairs; shape, of one pair's latents.
    Raises: InputError if no pair fits, or one that does has no latents, or the sizes do not go together.
    """

    def __init__(
        self,
        pairs: Path,
        latents: Path,
        captions: Captions,
        batch: int,
        seed: int,
        where: str = "status = 'ok'",
        rank: int = 0,
        world: int = 1,
        without: Collection[str] = (),
    ) -> None:
        if min(batch, world) < 1 or not 0 <= rank < world:
            raise InputError("batch and world must be at least 1, and rank below world")
        if batch % world:
            raise InputError(f"a batch of {batch} cannot be shared equally by {world} processes")
        self.captions, self.batch, self.seed, self.rank, self.world = captions, batch, seed, rank, world
        self._pairs, self._latents = tables.open_rows(pairs), tables.open_rows(latents)
        with tables.asked(pairs, where, captions.columns):
            self._pairs.scanner(columns=list(captions.columns), limit=1).to_table()
            wanted = _names(self._pairs, tables.whole_filter(where))
        known = _names(self._latents)
        # Sorted by id, so that the order does not depend on who committed first or on compaction.
        wanted = wanted.take(pc.sort_indices(wanted["pair_id"]))
        if without and len(wanted):
            wanted = wanted.filter(pc.invert(pc.is_in(wanted["pair_id"], pa.array(sorted(without), pa.string()))))
            if not len(wanted):
                raise InputError(
                    f"every pair of {pairs} that fits {where!r} is left out, as its captions are longer than the text encoder reads; "
                    "let them be cut, or give shorter ones"
                )
        found = pc.index_in(wanted["pair_id"], known["pair_id"])
        if found.null_count:
            raise InputError(
                f"{found.null_count:,} pairs of {pairs} have no latents; delete {latents} to make them anew"
            )
        if not len(wanted):
            raise InputError(f"{pairs} has no pair that fits {where!r}")
        self.num_pairs = len(wanted)
        self._pair_rows = wanted["_rowoffset"].to_numpy().astype(np.uint64)
        self._latent_rows = known["_rowoffset"].take(found).to_numpy().astype(np.uint64)
        self.shape = tuple(self._latents.take([int(self._latent_rows[0])], columns=["shape"])["shape"][0].as_py())
        self._orders: dict[int, np.ndarray] = {}

    def iterate(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Batches without end, from the one after ``start`` batches on: ``latents`` (n, c, h, w), ``text`` and ``seeds``."""
        with ThreadPoolExecutor(2, "read") as readers:
            waiting: deque[Future[dict[str, Any]]] = deque()
            try:
                while True:
                    while len(waiting) < AHEAD:
                        visits, chosen = self._choose(start + len(waiting))
                        waiting.append(readers.submit(self._read, visits, chosen))
                    yield waiting.popleft().result()
                    start += 1
            finally:
                for future in waiting:
                    future.cancel()

    def _choose(self, position: int) -> tuple[list[int], np.ndarray]:
        """Numbers of the visits of this rank's slice of a batch, and which pairs are visited."""
        share = self.batch // self.world
        first = position * self.batch + self.rank * share
        visits = np.arange(first, first + share)
        epochs, places = np.divmod(visits, self.num_pairs)
        needed = np.unique(epochs).tolist()
        self._orders = {
            epoch: self._orders[epoch]
            if epoch in self._orders
            else np.random.default_rng(seeds.derive("shuffle", self.seed, epoch)).permutation(self.num_pairs)
            for epoch in needed
        }
        chosen = np.concatenate([self._orders[epoch][places[epochs == epoch]] for epoch in needed])
        return visits.tolist(), chosen

    def _read(self, visits: list[int], chosen: np.ndarray) -> dict[str, Any]:
        drawn = [seeds.derive("visit", self.seed, visit) for visit in visits]
        rows = _take(self._pairs, self._pair_rows[chosen], list(self.captions.columns)).to_pylist()
        stored = _take(self._latents, self._latent_rows[chosen], ["latents"])["latents"].to_pylist()
        latents = torch.frombuffer(bytearray(b"".join(stored)), dtype=torch.float16).view(-1, *self.shape)
        return {
            "latents": latents.float(),
            "text": [
                self.captions.draw(row, seeds.derive("caption", seed)) for row, seed in zip(rows, drawn, strict=True)
            ],
            "seeds": [seeds.derive("noise", seed) for seed in drawn],
        }


def _names(table: Any, where: str | None = None) -> pa.Table:
    return table.scanner(columns=["pair_id", "_rowoffset"], filter=where).to_table()


def _take(table: Any, rows: np.ndarray, columns: list[str]) -> pa.Table:
    """Rows in this order, which may name one twice; in stored order, each once, they are the quickest to read."""
    stored, places = np.unique(rows, return_inverse=True)
    return table.take(stored, columns=columns).take(places)
