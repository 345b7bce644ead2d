"""What a page was asked for, as it stands in its address, and as a filter on the pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from urllib.parse import urlencode

from reverie.errors import InputError
from reverie.pairs import DROPPED, FAILED, OK
from reverie.store.tables import whole_filter

STATES = {"": "all", "kept": "kept", "dropped": "dropped", "failed": "failed", "bad": "marked as bad"}
LONGEST = 2000  # characters of a part of an address


@dataclass(frozen=True)
class Query:
    """Which pairs are looked at, and in which order. Everything is a text, and empty where nothing was asked."""

    words: str = ""  # all of them in the caption, in any order; "several words" in quotes stand together
    label: str = ""  # class
    state: str = ""  # one of STATES
    where: str = ""  # SQL over the columns
    sort: str = ""  # column of numbers
    up: str = ""  # "1": smallest first
    near: str = ""  # a text that pictures are to be like
    like: str = ""  # a pair whose picture they are to be like
    given: str = ""  # the name of a picture that was sent here, which they are to be like
    page: str = ""

    @property
    def number(self) -> int:
        """Number of the page, from 1."""
        return max(1, int(self.page)) if re.fullmatch(r"[0-9]{1,9}", self.page, re.ASCII) else 1

    @property
    def is_near(self) -> bool:
        """Whether pairs are asked for by what their pictures show."""
        return bool(self.near or self.like or self.given)

    def link(self, path: str = "/", **changes: object) -> str:
        """An address that asks for the same but for these changes; another page than the first only if it says so."""
        new = replace(self, **{"page": "", **{name: str(value) for name, value in changes.items()}})
        given = {item.name: value for item in fields(new) if (value := getattr(new, item.name))}
        return f"{path}?{urlencode(given)}" if given else path


def read(given: Mapping[str, str]) -> Query:
    """The query of an address. What it does not know is left out; a text that is too long stays so, for ``sql`` to refuse."""
    known = {item.name: given[item.name].strip()[: LONGEST + 1] for item in fields(Query) if item.name in given}
    if known.get("state", "") not in STATES:
        known["state"] = ""
    if known.get("near"):  # what was typed last goes before what the page still knew
        known["like"] = known["given"] = ""
    return Query(**known)


def sql(query: Query, has_kept: bool, bad: Iterable[str] = ()) -> str | None:
    """The filter on the pairs, or None for all of them.

    Args:
        has_kept: whether a selection was made, so that there is a column ``kept``.
        bad: pairs that were marked.
    Raises: InputError for a filter of the user's that is none, and for a text that is too long: cut, it would ask for something else.
    """
    for item in fields(query):
        if len(getattr(query, item.name)) > LONGEST:
            raise InputError(f"{item.name!r} is longer than {LONGEST:,} characters; ask for less at a time")
    parts = [f"contains(lower(text), {text_of(word.lower())})" for word in words_of(query.words)]
    if query.label:
        parts.append(f"label = {text_of(query.label)}")
    if query.state == "bad":
        parts.append(f"pair_id in ({', '.join(map(text_of, sorted(bad)))})" if bad else "false")
    elif query.state:
        parts.append(state_sql(query.state, has_kept))
    if query.where:
        parts.append(str(whole_filter(query.where)))
    return " and ".join(parts) or None


def state_sql(state: str, has_kept: bool) -> str:
    """What became of a pair, as a filter."""
    return {
        "kept": f"status = '{OK}'" + " and kept is not false" * has_kept,
        "dropped": f"(status = '{DROPPED}'" + f" or (status = '{OK}' and kept = false)" * has_kept + ")",
        "failed": f"status = '{FAILED}'",
    }[state]


def names_column(where: str, column: str) -> bool:
    """Whether a filter may name this column, other than in a text of its own."""
    return re.search(rf"\b{column}\b", re.sub(r"'(?:[^']|'')*'", "''", where), re.IGNORECASE) is not None


def words_of(text: str) -> list[str]:
    """Words, and what stands in double quotes as one."""
    return [quoted or word for quoted, word in re.findall(r'"([^"]+)"|([^\s"]+)', text)]


def text_of(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"
