"""One caption of a pair at each visit, drawn by weights from its alt-text and the columns that captioners wrote beside it.

    alt     the text that came with the image
    short   caption_short        long    caption_long
    NAME    any other column of texts, or of lists of texts, of which one is drawn

A draw is a pure function of the pair and the visit's seed, which comes of position and run seed, so it is redrawn at each visit and
is the same after any restart. A pair that lacks some of its captions has one of the others, by their weights; one that lacks
all of them is no part of the training.

Source: RECAP, arXiv:2310.16656, trains on short and long captions in equal shares (secondary sources); captions are never joined, so
that each keeps the length that its kind has. That alt-text may be among them is ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from reverie import seeds
from reverie.errors import InputError
from reverie.pairs import CAPTIONS, PAIRS

CHANNELS = {"alt": "text", "short": "caption_short", "long": "caption_long"}
WEIGHT = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<weight>.+)")
FINE = 1 << 53  # numbers that a draw has
NO_CAPTIONS = {*PAIRS.names, *CAPTIONS.names}  # columns that every table has; those of text say other things
READ = {"text", "label"}  # but for these


def has_words(text: str) -> str:
    """The filter of rows in which an expression is a caption; one of blanks alone is none, as in ``Mix.all``."""
    return f"regexp_like({text}, '\\S')"


@dataclass(frozen=True)
class Mix:
    """Which caption of a pair is read at a visit; ``Mix.read`` makes one of words as the command line has them."""

    weights: tuple[tuple[str, float], ...]  # channel and weight, by name; they add up to one

    def __post_init__(self) -> None:
        names = [name for name, _ in self.weights]
        if not names:
            raise InputError("a mix of captions names one or more of them, such as short=0.5 long=0.5")
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise InputError(f"the mix names {twice} twice; give each of its captions one weight")
        for name, weight in self.weights:
            if not 0 < weight <= 1:
                raise InputError(
                    f"the mix has {name}={weight:g}: a weight is above 0 and up to 1; leave out what has none"
                )
        total = math.fsum(weight for _, weight in self.weights)
        if abs(total - 1) > 1e-6:
            told = " ".join(f"{name}={weight:g}" for name, weight in self.weights)
            raise InputError(f"the weights of the mix ({told}) add up to {total:g}, and must add up to 1")
        object.__setattr__(self, "weights", tuple(sorted(self.weights)))

    @classmethod
    def read(cls, words: Sequence[str], flag: str = "--mix") -> Mix:
        """A mix of words such as ``short=0.5`` and ``long=0.5``; a name alone has the weight 1. Raises InputError."""
        found = []
        for word in words:
            name, weight = word, 1.0
            if "=" in word:
                match = WEIGHT.fullmatch(word)
                try:
                    weight = float(match["weight"] if match else "none")
                except ValueError:
                    raise InputError(f"{flag} {word!r}: give CAPTION=WEIGHT, such as short=0.5") from None
                assert match
                name = match["name"]
            elif not re.fullmatch(r"[A-Za-z_]\w*", word):
                raise InputError(f"{flag} {word!r}: give CAPTION=WEIGHT, such as short=0.5")
            if not math.isfinite(weight):
                raise InputError(f"{flag} {word!r}: give CAPTION=WEIGHT, such as short=0.5")
            found.append((name, weight))
        return cls(tuple(found))

    def __str__(self) -> str:
        return " ".join(f"{name}={weight:g}" for name, weight in self.weights)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table of pairs, which are looked at."""
        return tuple(CHANNELS.get(name, name) for name, _ in self.weights)

    def all(self, row: Mapping[str, Any]) -> list[str]:
        """Every caption that a pair can have."""
        return [text for texts, _ in self._told(row) for text in texts]

    def draw(self, row: Mapping[str, Any], seed: int, without: Collection[str] = ()) -> str:
        """The caption of a pair at the visit of this seed.

        Args: without: texts that are not to be drawn, such as those that are too long.
        Raises: InputError for a pair that has none.
        """
        told = [([text for text in texts if text not in without], weight) for texts, weight in self._told(row)]
        told = [(texts, weight) for texts, weight in told if texts]
        if not told:
            raise InputError(f"a pair has none of the captions of the mix ({self}); leave it out")
        place = seeds.derive("mix", seed) % FINE / FINE * math.fsum(weight for _, weight in told)
        chosen = told[-1][0]
        for texts, weight in told:
            if place < weight:
                chosen = texts
                break
            place -= weight
        return chosen[seeds.derive("one of", seed) % len(chosen)]

    def _told(self, row: Mapping[str, Any]) -> list[tuple[list[str], float]]:
        """Texts of each channel that a pair has, with the channel's weight."""
        found: list[tuple[list[str], float]] = []
        for (_, weight), column in zip(self.weights, self.columns, strict=True):
            value = row[column]
            texts = [text for text in ([value] if isinstance(value, str) else value or ()) if text and text.strip()]
            if texts:
                found.append((texts, weight))
        return found

    def usable(self, pairs: Path, where: str = "status = 'ok'") -> str:
        """The filter of pairs that fit another one and have a caption of the mix. Raises what ``check_columns`` does."""
        from reverie.store import tables

        return f"{tables.whole_filter(where)} and ({' or '.join(self.check_columns(pairs, where))})"

    def check_columns(self, pairs: Path, where: str = "status = 'ok'", coming: Collection[str] = ()) -> list[str]:
        """Filters of pairs that have a caption, one for each column.

        Args: coming: columns that are written before the mix is read, and are not looked at.
        Raises: InputError for a table that lacks a column of the mix, or whose pairs have nothing in it.
        """
        from reverie.store import tables

        there = {field.name: field.type for field in tables.open_table(pairs).schema}
        captions = {name for name, kind in there.items() if _is_texts(kind) and not _is_about(name, there)}
        known = f"columns of texts are {', '.join(sorted(captions - NO_CAPTIONS)) or 'none'}, and alt"
        filled = []
        for (name, _), column in zip(self.weights, self.columns, strict=True):
            if column in coming:
                continue
            if column not in there:
                make = "; make it with: reverie recaption" if name in CHANNELS else ""
                raise InputError(
                    f"{pairs.parent} has no column {column!r} for {name} of the mix ({self}){make}; {known}"
                )
            if not _is_texts(there[column]):
                raise InputError(
                    f"the column {column!r} of {pairs.parent}, for the mix ({self}), is not text but {there[column]}"
                )
            if column not in captions - NO_CAPTIONS | READ:
                raise InputError(
                    f"the column {column!r} of {pairs.parent}, for the mix ({self}), holds no captions; {known}"
                )
            text = f"array_to_string({column}, ' ')" if _is_list(there[column]) else column
            holds = has_words(text)
            if not tables.count(pairs, f"{tables.whole_filter(where)} and {holds}"):
                raise InputError(
                    f"the column {column!r} of {pairs.parent} holds no text in any pair that fits {where!r}; leave {name} out of "
                    f"the mix ({self}), or write captions with: reverie recaption"
                )
            filled.append(holds)
        return filled

    def bare(self, pairs: Path, where: str, usable: str) -> str:
        """A line about pairs that have none of the captions; empty where there are none."""
        from reverie.store import tables

        number = tables.count(pairs, where) - tables.count(pairs, usable)
        has, are = ("pair has", "is") if number == 1 else ("pairs have", "are")
        return f"{number:,} {has} no caption of the mix ({self}) and {are} left out" if number else ""


def _is_about(name: str, there: Mapping[str, pa.DataType]) -> bool:
    """Whether a column tells of captions in the column beside it: who wrote them, or what is wrong with them."""
    stem = next((name.removesuffix(end) for end in ("_by", "_flags") if name.endswith(end)), "")
    return stem in there and _is_texts(there[stem])


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_texts(kind: pa.DataType) -> bool:
    if _is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
