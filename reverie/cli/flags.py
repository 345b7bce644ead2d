"""Flags from the signature of a function, and what is wrong with the words that somebody typed, in one line.

tyro reads the words; what it refuses is looked at once more here, to name the flag, the value and what was expected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from reverie.errors import InputError
from reverie.settings import called, flag, required

NEAR = 0.6  # likeness of words, from which one may have been meant for the other


@dataclass(frozen=True)
class Option:
    """A flag, or a word that stands alone."""

    name: str  # as it is typed: --per-caption, or FOLDER
    hint: Any
    is_required: bool

    @property
    def is_flag(self) -> bool:
        return self.name.startswith("--")

    @property
    def is_switch(self) -> bool:
        return self.hint is bool

    @property
    def takes_several(self) -> bool:
        return any(typing.get_origin(kind) is tuple for kind in _kinds(self.hint))

    @property
    def expected(self) -> str:
        kinds = [kind for kind in _kinds(self.hint) if kind is not type(None)]
        return " or ".join(map(called, kinds))


def read(function: Callable[..., Any], prog: str, words: Sequence[str], **how: Any) -> Any:
    """What a function returns for words of the command line. Raises InputError, in one line, for words that do not fit it."""

    @functools.wraps(function)
    def given(*args: Any, **values: Any) -> Any:
        return args, values

    known = options(function)
    for word in words:  # where a command takes words that stand alone, tyro takes the value for one of them
        if said := _valued_switch(word, {option.name for option in known if option.is_switch}):
            raise InputError(said)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            args, values = tyro.cli(given, prog=prog, args=list(words), **how)
    except SystemExit as stop:
        if not stop.code:
            raise
        said = what_is_wrong(known, prog, words) or f"{_unboxed(box.getvalue())}; see {prog} --help"
        raise InputError(said) from None
    return function(*args, **values)


def options(function: Callable[..., Any]) -> list[Option]:
    """What may be typed for a function: its parameters, those that are settings as the flags of all that is in them."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        plain = _plain(hints[name])
        if isinstance(plain, type) and dataclasses.is_dataclass(plain):
            needed = required(plain) if parameter.default is parameter.empty else []
            found += [Option(flag(item), hint, item in needed) for item, hint in _hints(plain).items()]
        elif tyro.conf.Positional in getattr(hints[name], "__metadata__", ()):
            found.append(Option(name.upper(), plain, parameter.default is parameter.empty))
        else:
            found.append(Option(flag(name), plain, parameter.default is parameter.empty))
    return found


def what_is_wrong(known: Sequence[Option], prog: str, words: Sequence[str]) -> str | None:
    """The first thing that is wrong with these words, in one line; None if nothing is seen."""
    flags = {option.name: option for option in known if option.is_flag}
    flags |= {option.name.replace("--", "--no-", 1): option for option in known if option.is_flag and option.is_switch}
    alone, given, left = [option for option in known if not option.is_flag], set(), list(words)
    while left:
        word = left.pop(0)
        if not _is_flag(word):
            if not alone:
                near = [each for each in _near(f"--{word}", flags) if each == f"--{word}"]
                hint = f"did you mean {near[0]}?" if near else f"see {prog} --help"
                return f"nothing is to be said by the word {word!r} here; {hint}"
            option = alone[0]
            if said := _misfit(option, [word], prog):
                return said
            given.add(option.name)
            if not option.takes_several:
                alone.pop(0)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in flags:
            near = _near(name, flags)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see {prog} --help"
            return f"{prog} has no flag {name}; {hint}"
        option = flags[name]
        given.add(option.name)
        if option.is_switch:
            if said := _valued_switch(word, {option.name}):
                return said
            continue
        values = [value] if equals else []
        while left and not equals and not _is_flag(left[0]) and (option.takes_several or not values):
            values.append(left.pop(0))
        if not values and not option.takes_several:
            return f"{name} has no value; give {option.expected}"
        if said := _misfit(option, values, name):
            return said
    if missing := [option.name for option in known if option.is_required and option.name not in given]:
        return f"{prog}: give {' and '.join(missing)}; see {prog} --help"
    return None


def _valued_switch(word: str, switches: Collection[str]) -> str | None:
    name, equals, _ = word.partition("=")
    name = name.replace("_", "-")
    switch = name if name in switches else name.replace("--no-", "--", 1)
    if not equals or switch not in switches:
        return None
    return f"{word}: {name} takes no value; give {switch} or {switch.replace('--', '--no-', 1)}"


def _misfit(option: Option, values: Sequence[str], name: str) -> str | None:
    each = [typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind for kind in _kinds(option.hint)]
    kinds = [kind for one in each for kind in _kinds(one)]
    for value in values:
        if not any(_fits(value, kind) for kind in kinds):
            choices = [
                str(each)
                for kind in kinds
                if typing.get_origin(kind) is typing.Literal
                for each in typing.get_args(kind)
            ]
            near = _near(value, choices)
            return f"{name} {value}: give {option.expected}{f'; did you mean {near[0]}?' if near else ''}"
    return None


def _fits(value: str, kind: Any) -> bool:
    """Whether a word may be a value of this kind; of kinds that are not known here all may be."""
    if typing.get_origin(kind) is typing.Literal:
        return value in map(str, typing.get_args(kind))
    if kind is type(None):
        return value == "None"
    if kind not in (int, float):
        return True
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _is_flag(word: str) -> bool:
    """Whether a word begins a flag, and is no number below zero."""
    return re.match(r"-(?![\d.])(?!inf\b|nan\b)", word) is not None and word != "-"


def _near(word: str, known: Iterable[str]) -> list[str]:
    """At most two that may have been meant: those that begin so, or else those that are like it."""
    begun = [each for each in known if each.startswith(word) and len(word) > len("--x")]
    return begun[:2] or difflib.get_close_matches(word, list(known), n=2, cutoff=NEAR)


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _plain(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _hints(kind: type) -> dict[str, Any]:
    """The type of each setting by name, those of groups among them."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        found |= _hints(hint) if isinstance(hint, type) and dataclasses.is_dataclass(hint) else {item.name: hint}
    return found


def _unboxed(text: str) -> str:
    """What stands in the first part of a box of lines."""
    lines = [re.sub(r"^[│\s]+|[│\s]+$", "", line) for line in text.splitlines() if "╭" not in line and "╰" not in line]
    first = lines[: next((place for place, line in enumerate(lines) if line and set(line) == {"─"}), None)]
    return " ".join(line for line in first if line) or "these words do not fit"
