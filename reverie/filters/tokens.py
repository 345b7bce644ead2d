"""Filters of pairs that are image tokens: what needs no picture works on the ids, what needs one gets it decoded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie.errors import InputError
from reverie.pairs import TOKEN_COLUMNS as CONTENT
from reverie.stage import StepContext, UnitStage, Worker

AT_ONCE = 64  # images decoded together


@dataclass(frozen=True)
class TokenHash(UnitStage):
    """The columns of ImageHash for exact copies: ``pixels`` is a sha256 of codebook, grid and ids; the others are null.

    Put ``Duplicates(near=False)`` after it: equal ids are equal pictures, and near ones cannot be told from ids.
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = CONTENT
    adds: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("pixels", pa.string()),
        pa.field("hash", pa.int64()),
        pa.field("thumbnail", pa.binary()),
    )

    def open(self, context: StepContext) -> Worker:
        """Nothing to load."""

        def look(rows: pa.Table) -> pa.Table:
            digests = []
            for tokens, grid, codebook in zip(*(rows[name].to_pylist() for name in CONTENT), strict=True):
                whole = None if tokens is None else f"{codebook}/{grid}/".encode() + np.array(tokens, "<i4").tobytes()
                digests.append(whole and hashlib.sha256(whole).hexdigest())
            return pa.table(
                {
                    "pair_id": rows["pair_id"],
                    "unit": rows["unit"],
                    "pixels": pa.array(digests, pa.string()),
                    "hash": pa.nulls(len(rows), pa.int64()),
                    "thumbnail": pa.nulls(len(rows), pa.binary()),
                }
            )

        return look


@dataclass(frozen=True)
class Decoded(UnitStage):
    """A filter that looks at pictures, for pairs that are image tokens: they are decoded first, and the pictures not kept."""

    writes: ClassVar[Literal["columns"]] = "columns"

    inner: UnitStage
    tokenizer: (
        str  # by name or folder, of a VQModel or of the pipeline that painted; refused if the ids are not of its codes
    )

    def __post_init__(self) -> None:
        if not isinstance(self.inner, UnitStage) or self.inner.writes != "columns":
            raise InputError(f"{type(self.inner).__name__} is no filter, so it is not given decoded images")
        # What the engine asks of a stage is that of the filter inside.
        object.__setattr__(self, "reads", tuple(dict.fromkeys((*self.inner.reads, "image", *CONTENT))))
        object.__setattr__(self, "adds", self.inner.adds)

    def check(self) -> None:
        """As the filter inside."""
        self.inner.check()

    def open(self, context: StepContext) -> Worker:
        """Load the tokenizer and what the filter needs."""
        from reverie.models.token_pictures import TokenPictures

        pictures, work = TokenPictures([self.tokenizer], context.device), self.inner.open(context)

        def decode(rows: pa.Table) -> pa.Table:
            images = rows["image"].to_pylist()
            told = rows.select(["pair_id", *CONTENT]).to_pylist()
            todo = [n for n, row in enumerate(told) if images[n] is None and row["tokens"] is not None]
            for start in range(0, len(todo), AT_ONCE):
                some = todo[start : start + AT_ONCE]
                for number, image in zip(some, pictures.pngs([told[number] for number in some]), strict=True):
                    images[number] = image
            place = rows.column_names.index("image")
            return work(rows.set_column(place, "image", pa.array(images, pa.large_binary())))

        return decode
