"""Pairs by what their pictures show: a vector of each, by the run's encoder, in a table beside the run, and the nearest of them.

The run itself is not changed. The table grows unit by unit, so that a stop costs the unit in hand, and a folder that grew is
brought up to date by what is new.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reverie.errors import InputError, ReverieError
from reverie.pairs import OK, TOKEN_COLUMNS
from reverie.stage import StepContext
from reverie.store import tables, vectors
from reverie.store.files import check_own
from reverie.store.pictures import decoded, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from reverie.models.encoder import Encoder

NUM_GIVEN = 16  # pictures of a user's own that are remembered
AT_ONCE = 64  # pictures that are decoded and encoded together
SMALL_PX = 512  # longer side of a user's own picture as it is looked at
NUM_NEAREST = 300  # pairs that are found
SCORES_BY = ("ClipScore", "ClipConfidence")  # stages that score pictures by an encoder of images and texts

Progress = Callable[[int, int], None]


def encoder_of(record: Mapping[str, Any] | None, folder: Path) -> str:
    """The encoder that a run scored its pictures by, or else the builtin one."""
    for step in record["steps"] if record else ():
        settings = step["settings"]
        for inner in (settings, settings.get("inner")):
            if isinstance(inner, Mapping) and inner.get("stage") in SCORES_BY and isinstance(inner.get("model"), str):
                name = StepContext(folder, "").model(inner["model"])
                beside = Path(str(record.get("made_in", "."))) / name if record else Path(name)
                return str(beside) if beside.is_dir() else name
    return "builtin:clip"


class Near:
    """The vectors of a folder by one encoder, which is loaded when it is first needed.

    Args: decode: makes encoded pictures of rows that are image tokens.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        device: str = "cpu",
        decode: Callable[[Mapping[str, Any]], bytes | None] = lambda row: None,
    ) -> None:
        self.folder, self.name, self.device, self._decode = folder, name, device, decode
        slug = re.sub(r"[^\w.-]+", "-", name)[-40:].strip("-.")
        self.table = folder / "show" / f"{slug}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}.lance"
        self.done, self.total, self.error = 0, 0, ""
        self._encoder: Encoder | None = None
        self._given: OrderedDict[str, tuple[Image, np.ndarray[Any, np.dtype[np.float32]]]] = OrderedDict()
        self._encoding, self._guard = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    @property
    def is_building(self) -> bool:
        """Whether pictures are being looked at now."""
        return self._thread is not None and self._thread.is_alive()

    def num_known(self) -> int:
        """How many pairs have been looked at."""
        return tables.count(self.table) if tables.exists(self.table) else 0

    def start(self) -> None:
        """Look at what is new in a thread of its own, unless one is at it."""
        with self._guard:
            if not self.is_building:
                self.error = ""
                self._thread = threading.Thread(target=self._build_quietly, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Let that thread end after the pictures in hand."""
        self._stopped.set()
        if self._thread:
            self._thread.join(timeout=10)

    def build(self, progress: Progress = lambda done, total: None) -> int:
        """Look at all pictures that have no vector yet, and make the index where it pays. Returns: how many were looked at.

        Raises: ModelError for an encoder that is none; InputError for a folder that cannot be written.
        """
        pairs, new = self.folder / "pairs.lance", self._new()
        self.done, self.total = 0, len(new)
        done_units = tables.done_units(self.table)
        columns = ["pair_id", "image", *(name for name in TOKEN_COLUMNS if name in tables.column_names(pairs))]
        check_own(self.table.parent, self.table)
        try:
            self.table.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot keep vectors in {self.table.parent}: {error.strerror}") from error
        for unit in sorted(pc.unique(new["unit"]).to_pylist()):
            wanted = new.filter(pc.equal(new["unit"], unit))["pair_id"]
            rows = tables.read_unit(pairs, unit, columns, only=OK)
            rows = rows.filter(pc.is_in(rows["pair_id"], value_set=wanted.combine_chunks()))
            found = self._encode(rows)
            if self._stopped.is_set():
                return self.done
            made = vectors.rows(rows["pair_id"].to_pylist(), unit, found, self._size())
            if unit in done_units:
                tables.replace_rows(self.table, made, "pair_id")
            else:
                tables.append_unit(self.table, unit, made)
            self.done += len(rows)
            progress(self.done, self.total)
        if tables.exists(self.table):
            vectors.index(self.table)
        return self.total

    def take(self, data: bytes) -> str:
        """Remember a picture of the user's own for as long as the server runs, unless many others follow. Returns: its name.

        Raises: BrokenImage for what is no picture; ModelError.
        """
        with self._encoding:  # one at a time, as a picture may be large
            picture = open_picture(data, "what was sent", min_px=SMALL_PX)
            picture.thumbnail((SMALL_PX, SMALL_PX))
            vector = self._open().images([picture]).numpy()[0]
        name = hashlib.blake2b(data, digest_size=8).hexdigest()
        with self._guard:
            self._given[name] = (picture, vector)
            while len(self._given) > NUM_GIVEN:
                self._given.popitem(last=False)
        return name

    def given(self, name: str) -> Image | None:
        """Such a picture, made small, if it is still known."""
        with self._guard:
            return self._given[name][0] if name in self._given else None

    def find(self, text: str = "", like: str = "", given: str = "") -> dict[str, float]:
        """The nearest pairs among those looked at, with their cosine, nearest first: to a text, to the picture of a pair, or to one that was taken.

        Raises: InputError for a pair that has no picture, or none that was looked at yet, and for a picture that is not known any more; ModelError.
        """
        with self._guard:
            taken = self._given.get(given)
        if given and taken is None:
            raise InputError("the picture that was sent is not known any more; send it again")
        if not tables.exists(self.table):
            return {}
        vector: np.ndarray[Any, np.dtype[np.float32]] | None
        if taken:
            vector = taken[1]
        elif like:
            vector = vectors.vector_of(self.table, like)
            if vector is None:
                raise InputError(f"pair {like} has no picture that was looked at, so nothing can be like it")
        else:
            with self._encoding:
                vector = self._open().texts([text]).numpy()[0]
        return dict(vectors.nearest(self.table, vector, NUM_NEAREST))

    def _new(self) -> pa.Table:
        """Keys and units of the pairs that have no vector yet."""
        schema = pa.schema([("pair_id", pa.string()), ("unit", pa.int64())])
        known: pa.Array = pa.array([], pa.string())
        if tables.exists(self.table):
            parts = [part["pair_id"].combine_chunks() for part in tables.scan(self.table, ["pair_id"])]
            known = pa.concat_arrays(parts) if parts else known
        found = [schema.empty_table()]
        for part in tables.scan(self.folder / "pairs.lance", schema.names, f"status = '{OK}'"):
            found.append(part.cast(schema).filter(pc.invert(pc.is_in(part["pair_id"], value_set=known))))
        return pa.concat_tables(found)

    def _encode(self, rows: pa.Table) -> list[np.ndarray[Any, np.dtype[np.float32]] | None]:
        images = [row["image"] or (self._decode(row) if row.get("tokens") else None) for row in rows.to_pylist()]
        shown = pa.table({"pair_id": rows["pair_id"], "image": pa.array(images, pa.large_binary())})
        found: list[Any] = [None] * len(rows)
        for numbers, pictures in decoded(shown, AT_ONCE):
            if self._stopped.is_set():
                break
            with self._encoding:
                features = self._open().images(pictures).numpy()
            for number, vector in zip(numbers, features, strict=True):
                found[number] = vector
        return found

    def _size(self) -> int:
        """Numbers in a vector."""
        with self._encoding:
            return int(self._open().texts(["a"]).shape[1])

    def _open(self) -> Encoder:
        if self._encoder is None:
            from reverie.models.encoder import open_encoder

            self._encoder = open_encoder(self.name, self.device, AT_ONCE)
        return self._encoder

    def _build_quietly(self) -> None:
        try:
            self.build()
        except (ReverieError, OSError) as error:  # the page says it
            self.error = str(error)
