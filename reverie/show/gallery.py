"""A folder of pairs as pages show it: some rows of a query, one pair with all that is known of it, and pictures to look at.

What a page costs does not grow with the table: without a filter and an order rows are read by their number; with one, the numbers
of all rows that fit are found once (4 bytes each) and kept for the pages after it, for the last few queries alone.
"""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from reverie.errors import BrokenImage, InputError, ReverieError
from reverie.pairs import OK, PAIRS, TOKEN_COLUMNS
from reverie.run.plan import read_plan, run_of
from reverie.show import query as queries
from reverie.show.marks import COLUMN, Marks
from reverie.show.near import Near, encoder_of
from reverie.show.query import Query
from reverie.store import tables
from reverie.store.pictures import as_png, open_picture
from reverie.store.places import check_folder
from reverie.store.snapshot import Numbers, Snapshot

if TYPE_CHECKING:
    from reverie.models.token_pictures import TokenPictures

PER_PAGE = 60
NUM_QUERIES = 4  # of which the rows are remembered
MAX_CLASSES = 300  # that are offered by name
COUNTED = ("kept", "dropped", "failed")
MOMENT_S = 0.25  # that a page waits for numbers that it can do without
LOOK_AGAIN_S = 2.0  # for a newer version of the table
SIDES_PX = (160, 320, 1024)  # of the pictures that are sent
WIDE = ("pixels", "hash", *TOKEN_COLUMNS)  # columns that are no text for people


@dataclass(frozen=True)
class Card:
    """A pair as a page shows it."""

    number: int  # of its row
    row: Mapping[str, Any]
    place: int  # in what was asked for
    is_bad: bool
    nearness: float | None = None

    @property
    def pair_id(self) -> str:
        """Its key."""
        return str(self.row["pair_id"])

    @property
    def state(self) -> str:
        """What became of it, in a word; empty for a pair that is ok where nothing was selected."""
        if self.row["status"] != OK:
            return str(self.row["status"])
        kept = self.row.get("kept")
        return "" if kept is None else "kept" if kept else "dropped"

    @property
    def reason(self) -> str:
        """Why it was not kept."""
        if self.state in ("kept", ""):
            return ""
        return str(
            (self.row["reason"] if self.row["status"] != OK else self.row.get("drop_reason")) or "no reason given"
        )

    @property
    def has_picture(self) -> bool:
        """Whether there may be something to see."""
        return self.row["status"] == OK or bool(self.row.get("width"))


@dataclass(frozen=True)
class Page:
    """Some pairs of a query."""

    cards: Sequence[Card]
    total: int
    number: int
    num_pages: int


class Gallery:
    """The pairs of a run or an import. Methods may be called by several threads.

    Args:
        encoder: what pictures are compared by; the one that the run scored with when empty.
        tokenizer: what image tokens are decoded by; the one that the run painted with when empty.
    Raises: InputError for a folder without images; StoreError for tables that are damaged.
    """

    def __init__(self, folder: Path, encoder: str = "", device: str = "cpu", tokenizer: str = "") -> None:
        check_folder(folder)
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; give a run folder, or one that reverie import made")
        if not tables.exists(folder / "pairs.lance"):
            raise InputError(f"{folder} holds no images; give the folder of a run or an import with images")
        self.folder = folder
        self.record = read_plan(folder) if (folder / "plan.json").exists() else None
        self.marks = Marks(folder)
        self.near = Near(folder, encoder or encoder_of(self.record, folder), device, self.decode)
        self._guard, self._decoding = threading.RLock(), threading.Lock()
        self._found: OrderedDict[tuple[object, ...], Sequence[int] | Numbers] = OrderedDict()
        self._pairs, self._looked = Snapshot(folder / "pairs.lance"), time.monotonic()
        self._facts: dict[str, Future[Any]] = {}
        self._usable = (-1, 0)  # of which version, how many
        self._behind = ThreadPoolExecutor(1)
        self._tokenizer = tokenizer
        self._tokens: TokenPictures | None = None

    @property
    def pairs(self) -> Snapshot:
        """The newest version of the table that is known; looked for anew every few seconds."""
        with self._guard:
            if time.monotonic() - self._looked > LOOK_AGAIN_S:
                self._looked = time.monotonic()
                if not self._pairs.is_newest():
                    self._renew()
            return self._pairs

    def settle(self) -> str | None:
        """Bring the column of marks up to date. Returns: why it could not be."""
        why = self.marks.settle()
        with self._guard:
            if not self._pairs.is_newest():
                self._renew()
        return why

    def _renew(self) -> None:
        self._pairs, self._facts = Snapshot(self.folder / "pairs.lance"), {}
        self._found.clear()

    # What there is

    @property
    def has_kept(self) -> bool:
        """Whether pairs were selected."""
        return "kept" in self.pairs.schema.names

    @property
    def numeric(self) -> list[str]:
        """Columns of numbers, those of scores first."""
        names = [
            field.name
            for field in self.pairs.schema
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        ]
        return sorted((name for name in names if name != "hash"), key=lambda name: name in PAIRS.names)

    @property
    def columns(self) -> list[str]:
        """Columns that a filter may name."""
        return [field.name for field in self.pairs.schema if field.name not in WIDE and _is_plain(field.type)]

    @property
    def scores(self) -> list[str]:
        """Columns of fractions that steps added, which a card shows."""
        return [
            field.name
            for field in self.pairs.schema
            if field.name not in PAIRS.names and pa.types.is_floating(field.type)
        ]

    def counts(self) -> dict[str, int | None]:
        """How many pairs became what; None for what is still being counted, as on the first page of a large table."""
        found = self._fact("counts", MOMENT_S) or {}
        return {"": len(self.pairs), **{state: found.get(state) for state in COUNTED}, "bad": len(self.marks.bad)}

    @property
    def num_usable(self) -> int:
        """How many pairs are ok, and so have a picture to compare by."""
        with self._guard:
            if self._usable[0] != self.pairs.version:
                self._usable = (self.pairs.version, self.pairs.count(f"status = '{OK}'"))
            return self._usable[1]

    def classes(self) -> list[str]:
        """Names of classes to choose from; none if they are very many, or not known yet."""
        return list(self._fact("classes", MOMENT_S / 5) or ())

    def _fact(self, name: str, wait_s: float) -> Any:
        """What is found out once about a version of the table, behind the pages; waited for only a moment."""
        with self._guard:
            pairs = self.pairs
            if not self._facts:
                counted = {state: queries.state_sql(state, self.has_kept) for state in COUNTED}
                self._facts = {
                    "counts": self._behind.submit(
                        lambda: {state: pairs.count(where) for state, where in counted.items()}
                    ),
                    "classes": self._behind.submit(lambda: pairs.distinct("label", MAX_CLASSES)),
                }
            asked = self._facts[name]
        try:
            return asked.result(wait_s)
        except TimeoutError:
            return None

    # Pairs of a query

    def page(self, asked: Query) -> Page:
        """The pairs of a page. Raises InputError for a filter or an order that does not fit the table."""
        nearest = self._find(asked)
        with self._guard:
            numbers, nearness = self._numbers(asked, nearest)
            total = len(numbers)
            num_pages = max(1, -(-total // PER_PAGE))
            number = min(asked.number, num_pages)
            first = (number - 1) * PER_PAGE
            return Page(self._cards(numbers[first : first + PER_PAGE], first, nearness), total, number, num_pages)

    def at(self, asked: Query, place: int) -> str | None:
        """The key of the pair at a place of a query, or None beyond its ends."""
        nearest = self._find(asked)
        with self._guard:
            numbers, _ = self._numbers(asked, nearest)
            if not 0 <= place < len(numbers):
                return None
            return str(self.pairs.rows(numbers[place : place + 1], ["pair_id"])[0]["pair_id"])

    def card(self, pair_id: str, place: int = -1) -> Card | None:
        """A pair with all of its columns but the wide ones, by its key."""
        with self._guard:
            found = self.pairs.numbers_of("pair_id", [pair_id])
            return self._cards(list(found.values()), place, {}, self.columns)[0] if found else None

    def partners(self, cards: Sequence[Card], columns: Sequence[str] | None = None) -> list[Card | None]:
        """For each pair of another folder the one here with the same key, or else of the same caption and seed."""
        with self._guard:
            found = self.pairs.numbers_of("pair_id", [card.pair_id for card in cards])
            missing = {
                (str(card.row["text"]), card.row["seed"]): card.pair_id
                for card in cards
                if card.pair_id not in found and card.row.get("seed") is not None
            }
            if missing:
                seeds = sorted({seed for _, seed in missing})
                numbers = self.pairs.numbers(f"seed in ({', '.join(map(str, seeds))})")
                for number, row in zip(numbers.tolist(), self.pairs.rows(numbers, ["text", "seed"]), strict=True):
                    if name := missing.get((str(row["text"]), row["seed"])):
                        found.setdefault(name, number)
            order = [card.pair_id for card in cards if card.pair_id in found]
            there = dict(zip(order, self._cards([found[name] for name in order], 0, {}, columns), strict=True))
            return [there.get(card.pair_id) for card in cards]

    def _cards(
        self,
        numbers: Sequence[int] | Numbers,
        first: int,
        nearness: Mapping[int, float],
        columns: Sequence[str] | None = None,
    ) -> list[Card]:
        known = self.pairs.schema.names
        wanted = columns or [
            "pair_id",
            "text",
            "label",
            "seed",
            "width",
            "status",
            "reason",
            "kept",
            "drop_reason",
            *self.scores,
        ]
        rows = self.pairs.rows(numbers, [name for name in wanted if name in known])
        bad = self.marks.bad
        places = np.asarray(numbers).tolist()
        return [
            Card(number, row, first + place, row["pair_id"] in bad, nearness.get(number))
            for place, (number, row) in enumerate(zip(places, rows, strict=True))
        ]

    def _find(self, asked: Query) -> Mapping[str, float]:
        """The nearest pairs, where those are asked for. Nothing waits for it, as the encoder may have to be loaded."""
        return self.near.find(asked.near, asked.like, asked.given) if asked.is_near else {}

    def _numbers(
        self, asked: Query, nearest: Mapping[str, float]
    ) -> tuple[Sequence[int] | Numbers, Mapping[int, float]]:
        if queries.names_column(asked.where, COLUMN):
            why = self.settle()
            if COLUMN not in self.pairs.schema.names:
                raise InputError(
                    why or f"no pair of {self.folder} is marked yet, so there is no column {COLUMN!r} to filter by"
                )
        where = queries.sql(asked, self.has_kept, self.marks.bad)
        if asked.sort and asked.sort not in self.numeric:
            raise InputError(
                f"there is no column of numbers {asked.sort!r} to sort by; the columns are {', '.join(self.numeric)}"
            )
        if asked.is_near:
            return self._nearest(asked, where, nearest)
        if where is None and not asked.sort:
            return range(len(self.pairs)), {}
        key = (where, asked.sort, asked.up if asked.sort else "")
        if key in self._found:
            self._found.move_to_end(key)
        else:
            self._found[key] = self.pairs.numbers(where, asked.sort or None, not asked.up)
            while len(self._found) > NUM_QUERIES:
                self._found.popitem(last=False)
        return self._found[key], {}

    def _nearest(
        self, asked: Query, where: str | None, nearest: Mapping[str, float]
    ) -> tuple[list[int], dict[int, float]]:
        numbers = self.pairs.numbers_of("pair_id", list(nearest), where)
        nearness = {numbers[name]: cosine for name, cosine in nearest.items() if name in numbers}
        found = list(nearness)
        if asked.sort and found:
            values = dict(zip(found, (row[asked.sort] for row in self.pairs.rows(found, [asked.sort])), strict=True))
            known = [number for number in found if values[number] is not None and values[number] == values[number]]
            known.sort(key=lambda number: values[number], reverse=not asked.up)
            found = known + [number for number in found if number not in set(known)]
        return found, nearness

    # Pictures

    def picture(self, pair_id: str, number: int, side_px: int) -> tuple[bytes, str] | None:
        """The picture of a pair, decoded and encoded again, no side longer than this; with its kind. None if there is none.

        Args: number: of the row where it was last seen.
        """
        pairs = self.pairs
        columns = ["pair_id", "image", *(name for name in TOKEN_COLUMNS if name in pairs.schema.names)]
        rows = pairs.rows([number], columns) if 0 <= number < len(pairs) else []
        if not rows or rows[0]["pair_id"] != pair_id:  # rows have moved since
            rows = pairs.rows(list(pairs.numbers_of("pair_id", [pair_id]).values()), columns)
        if not rows:
            return None
        image = rows[0]["image"] or (self.decode(rows[0]) if rows[0].get("tokens") else None)
        if not image:
            return None
        try:
            picture = open_picture(image, pair_id, min_px=side_px)
        except BrokenImage:
            return None
        picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        if max(picture.size) <= 160 or side_px == max(SIDES_PX):
            return as_png(picture), "image/png"
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        return buffer.getvalue(), "image/jpeg"

    def decode(self, row: Mapping[str, Any]) -> bytes | None:
        """A row of image tokens as an encoded picture, if the tokenizer that the run names is still to be had."""
        from reverie.models.token_pictures import TokenPictures, models_named

        with self._decoding:
            try:
                if self._tokens is None:
                    run = run_of(self.folder)
                    made = models_named(read_plan(run), run) if (run / "plan.json").exists() else []
                    self._tokens = TokenPictures([self._tokenizer] if self._tokenizer else made)
                return self._tokens.png(row)
            except ReverieError:
                return None  # an empty frame, as for a broken picture

    def close(self) -> str | None:
        """Stop what goes on behind the pages, and bring the column of marks up to date."""
        self.near.stop()
        self._behind.shutdown(cancel_futures=True)
        return self.marks.close()


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values of this type are for people: no bytes, and no vectors."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return False
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return not pa.types.is_floating(kind.value_type)
    return not pa.types.is_fixed_size_list(kind)
