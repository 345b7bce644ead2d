"""Two stores of image tokens with captions -> training batches with a fixed share of painted pairs; no image is read.

What is in batch b is a pure function of (seed, b): of its captions, floor(rho B (b + 1)) - floor(rho B b) are painted ones, so that
the share of all batches so far is exact to one caption, whatever rho is and wherever a training went on. Each source is
visited in passes of its own, every pair once a pass.

Source: Synth², arXiv:2403.07750, does not say how it mixes; here it is a share of every batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reverie import seeds
from reverie.errors import InputError
from reverie.store import tables
from reverie.store.latents import SeveralCaptions
from reverie.store.pictures import read_square

WITH_TOKENS = "status = 'ok' and tokens is not null"
WITH_IMAGE = "status = 'ok' and image is not null"


@dataclass(frozen=True)
class TokenPairs:
    """Captions with the tokens of their image.

    Attributes:
        texts: the caption of each pair, or, where one of several is drawn, the first that it has.
        tokens: (n, h, w), as narrow as the codebook allows, or None where images are read instead.
        rows: their places in the table.
        drawn: what a caption is drawn from at each visit, and how; None where a pair has one only.
    """

    path: Path
    ids: list[str]
    texts: list[str]
    rows: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32] | npt.NDArray[np.uint16] | None
    drawn: tuple[SeveralCaptions, list[dict[str, Any]]] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def some(self, limit: int) -> TokenPairs:
        """So many of them, the same ones whatever the seed, and those of a lower limit among them; all for 0."""
        if not limit or limit >= len(self):
            return self
        kept = np.random.default_rng(seeds.derive("limit")).permutation(len(self))[:limit]
        kept.sort()
        tokens = None if self.tokens is None else self.tokens[kept]
        names, texts = ([column[at] for at in kept.tolist()] for column in (self.ids, self.texts))
        drawn = None if self.drawn is None else (self.drawn[0], [self.drawn[1][at] for at in kept.tolist()])
        return TokenPairs(self.path, names, texts, self.rows[kept], tokens, drawn)

    @property
    def all_texts(self) -> list[str]:
        """Every caption that any of them can have."""
        if self.drawn is None:
            return self.texts
        captions, rows = self.drawn
        return [text for row in rows for text in captions.all(row)]

    def text(self, row: int, visit: int, seed: int) -> str:
        """The caption of a pair at a visit, which are counted from the start of the training."""
        if self.drawn is None:
            return self.texts[row]
        captions, rows = self.drawn
        return captions.draw(rows[row], seeds.derive("caption", seed, visit))


def read_token_pairs(
    path: Path,
    codebook: str,
    num_codes: int,
    grid: tuple[int, int],
    where: str | None = None,
    images: bool = False,
    captions: SeveralCaptions | None = None,
) -> TokenPairs:
    """All pairs of a table that have tokens and a caption, in the order of their ids.

    Args:
        codebook: name of the codebook that the tokens must be of; num_codes: how many codes it has.
        where: Lance SQL filter beside having tokens.
        images: those that have a picture instead, whose tokens are not read.
        captions: which caption a pair has at a visit, in place of its own text; all pairs that fit must have one.
    Raises: InputError for pairs without captions or tokens, of another codebook or grid, or with ids out of range.
    """
    need = WITH_IMAGE if images else WITH_TOKENS
    fits = f"{need} and ({where})" if where else need
    told = captions.columns if captions else ("text",)
    columns = ["pair_id", *told, *([] if images else ["tokens", "grid", "codebook"])]
    found, number = [], 0
    for part in tables.scan(path, ["_rowoffset", *columns], fits):
        found.append(part)
        number += len(part)
    if not number:
        what, how = (
            ("pictures", "") if images else ("image tokens", "; make some of its pictures with: reverie tokenize")
        )
        raise InputError(f"{path} has no pairs with {what}" + (f" that fit {where!r}" if where else "") + how)
    names = [name for part in found for name in part["pair_id"].to_pylist()]
    rows_told = [row for part in found for row in part.select(list(told)).to_pylist()]
    texts = [((captions.draw(row, 0) if captions else row["text"]) or "").strip() for row in rows_told]
    order = np.argsort(np.array(names), kind="stable")
    if missing := [names[at] for at in order.tolist() if not texts[at]]:
        raise InputError(
            f"{len(missing):,} of {number:,} pairs of {path} have no caption, first {missing[0]}; caption them, or leave them out with a filter: text <> ''"
        )
    rows = np.concatenate([part["_rowoffset"].to_numpy() for part in found]).astype(np.int64)
    tokens = None
    if not images:
        tokens = np.concatenate([_grids(part, path, codebook, num_codes, grid) for part in found])[order]
    ordered = order.tolist()
    drawn = (captions, [rows_told[at] for at in ordered]) if captions else None
    return TokenPairs(path, [names[at] for at in ordered], [texts[at] for at in ordered], rows[order], tokens, drawn)


def _grids(part: Any, path: Path, codebook: str, num_codes: int, grid: tuple[int, int]) -> Any:
    """Ids (n, h, w) of some rows."""
    names = part["pair_id"]
    for number, (sides, book) in enumerate(zip(part["grid"].to_pylist(), part["codebook"].to_pylist(), strict=True)):
        if tuple(sides or ()) != grid:
            asked = " x ".join(map(str, sides or ("no grid",)))
            raise InputError(
                f"{path}: the tokens of pair {names[number]} are {asked}, and {grid[0]} x {grid[1]} are wanted; tokenize all "
                "pictures at one size"
            )
        if book is not None and book != codebook:
            raise InputError(
                f"{path}: the tokens of pair {names[number]} are of the codebook {book}, and {codebook} is wanted, in which they would "
                "mean other things; tokenize its pictures anew, or use the tokenizer that they were made with"
            )
    lists = part["tokens"].combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    flat = lists.flatten().to_numpy()
    if (lengths != grid[0] * grid[1]).any():
        name = names[int(np.flatnonzero(lengths != grid[0] * grid[1])[0])]
        raise InputError(f"{path}: the tokens of pair {name} do not fill their grid; make them again")
    ids = flat.reshape(len(part), *grid)
    wrong = (ids < 0) | (ids >= num_codes)
    if wrong.any():
        at = int(np.flatnonzero(wrong.any((1, 2)))[0])
        raise InputError(
            f"{path}: pair {names[at]} has the id {int(ids[at][wrong[at]][0])}, and codes are 0 to {num_codes - 1}; its tokens were "
            "made by another tokenizer, or are damaged"
        )
    return ids.astype(np.uint16 if num_codes <= 1 << 16 else np.int32)


@dataclass(frozen=True)
class Mixed:
    """Random batches of two sources.

    Args:
        real, painted: one of them may be empty where its share is 0.
        batch: B, captions in one.
        rho: share of painted ones, in [0, 1].
        seed: of the order.
        size_px: read pictures of this side in place of tokens.
    """

    real: TokenPairs | None
    painted: TokenPairs | None
    batch: int
    rho: float
    seed: int
    size_px: int | None = None

    def __post_init__(self) -> None:
        check_share(self.rho)
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} captions cannot be; give 1 or more")
        if not self.real and self.rho < 1:
            raise InputError("there are no real pairs; give some, or train on painted ones alone (--rho 1)")
        if not self.painted and self.rho > 0:
            raise InputError("there are no painted pairs; make some, or train on real ones alone (--rho 0)")

    def num_painted(self, batches: int) -> int:
        """Painted captions in the first so many batches; the rest of them are real."""
        return int(batches * self.batch * Fraction(str(self.rho)))

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``: tokens (B, h, w) or images (B, 3, H, W), text, painted (B,), pair_id."""
        while True:
            before, behind = self.num_painted(start), self.num_painted(start + 1)
            picked = [
                *self._picked("real", self.real, start * self.batch - before, (start + 1) * self.batch - behind),
                *self._picked("painted", self.painted, before, behind),
            ]
            yield {
                "tokens" if self.size_px is None else "images": torch.stack(
                    [self._seen(source, row) for source, row, _ in picked]
                ),
                "text": [source.text(row, visit, self.seed) for source, row, visit in picked],
                "pair_id": [source.ids[row] for source, row, _ in picked],
                "painted": torch.arange(self.batch) >= self.batch - (behind - before),
            }
            start += 1

    def _picked(self, name: str, source: TokenPairs | None, first: int, last: int) -> list[tuple[TokenPairs, int, int]]:
        """Pair and number of visits ``first`` to ``last`` of a source, counted from the start of the training."""
        if source is None or first == last:
            return []
        found = []
        for visit in range(first, last):
            number, place = divmod(visit, len(source))
            found.append((source, int(_order(name, self.seed, number, len(source))[place]), visit))
        return found

    def _seen(self, source: TokenPairs, row: int) -> torch.Tensor:
        if self.size_px is None:
            assert source.tokens is not None
            return torch.from_numpy(source.tokens[row].astype(np.int32))
        data = tables.take(source.path, [int(source.rows[row])], ["image"])["image"][0].as_py()
        pixels = np.empty((self.size_px, self.size_px, 3), np.uint8)
        read_square(
            data, f"pair {source.ids[row]}", pixels, exact=True
        )  # as the tokenizer reads it: decoded smaller, a JPEG would have other ids
        return torch.from_numpy(pixels).permute(2, 0, 1)


@functools.lru_cache(maxsize=4)
def _order(name: str, seed: int, number: int, size: int) -> npt.NDArray[np.int64]:
    """In which order a source is visited in a pass."""
    return np.random.default_rng(seeds.derive(name, seed, number)).permutation(size)


def check_share(rho: float) -> None:
    """Raises InputError for what is no share of painted pairs."""
    if not 0 <= rho <= 1:
        raise InputError(f"rho {rho} is the share of painted pairs in a batch, from 0 to 1")
