"""Settings of a recipe: a frozen dataclass whose fields, and those of the groups in it, are its flags.

A field stands once, with its type, its tiny default and its help as the comment beside it. Groups that recipes share are
dataclasses of their own (``recipes/options.py``); a name is never used twice in one recipe, so settings can be written flat:
{"painter": "builtin:painter", "guidance": 2.0, ...}. That is what ``plan.json`` holds, and what ``change`` takes.

Some defaults follow from other settings: without photos of a user's own classes there is nothing to measure on. A class says
which in ``following``; what is given by hand goes before what follows.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from reverie.errors import InputError, UnknownName

T = TypeVar("T")


@dataclass(frozen=True)
class Resolved:
    """Settings, and the names of those that were given by hand and differ from the default."""

    config: Any
    given: tuple[str, ...]


def flat(config: Any) -> dict[str, Any]:
    """All settings by name, those of groups among them."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        more = flat(value) if _is_group(value) else {item.name: value}
        if twice := found.keys() & more.keys():
            raise TypeError(f"{type(config).__name__} has two settings that are called {min(twice)}")
        found |= more
    return found


def change(config: T, **changes: Any) -> T:
    """The same with other settings, by their flat names; JSON's lists and texts become tuples and paths again.

    Raises UnknownName for a setting that is not there, InputError for a value of another kind.
    """
    known = flat(config)
    for name in changes:
        if name not in known:
            raise UnknownName("setting", name, known)
    return typing.cast(T, _changed(config, changes))


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(type(config))
    new = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if _is_group(value):
            new[item.name] = _changed(value, changes)
        elif item.name in changes:
            new[item.name] = _typed(item.name, changes[item.name], hints[item.name])
    return dataclasses.replace(config, **new)


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """Settings from flat values alone, with the defaults of the class. Raises InputError where one that has none is missing."""
    hints = typing.get_type_hints(kind)
    known = names(kind)
    for name in values:
        if name not in known:
            raise UnknownName("setting", name, known)
    given: dict[str, Any] = {}
    for item in dataclasses.fields(typing.cast(type, kind)):
        if dataclasses.is_dataclass(hints[item.name]):
            group = typing.cast(Any, getattr(kind, item.name, None) or hints[item.name]())
            given[item.name] = _changed(group, values)
        elif item.name in values:
            given[item.name] = _typed(item.name, values[item.name], hints[item.name])
        elif item.name in required(kind):
            raise InputError(f"give {flag(item.name)}")
    return kind(**given)


def names(kind: type) -> list[str]:
    """The flat names of all settings of a class."""
    found: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        if name in {item.name for item in dataclasses.fields(kind)}:
            found += names(typing.cast(type, hint)) if dataclasses.is_dataclass(hint) else [name]
    return found


@functools.cache
def helps(kind: type) -> Mapping[str, str]:
    """What each setting of a class is, by name: the comment beside it, or above it where it is long."""
    found: dict[str, str] = {}
    hints = typing.get_type_hints(kind)
    for base in reversed(kind.__mro__[:-1]):
        above: list[str] = []
        for line in inspect.getsource(base).splitlines():
            if comment := re.fullmatch(r"    # (.*)", line):
                above.append(comment[1])
            elif setting := re.match(r"    (\w+): [^#]*(?:  # (.*))?$", line):
                found[setting[1]] = setting[2] or " ".join(above)
                above = []
            else:
                above = []
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            found |= dict(helps(typing.cast(type, hints[item.name])))
    return {name: found[name] for name in names(kind)}


def flag(name: str) -> str:
    """A setting as it is typed: words with hyphens, and without the last underscore of a name that is a word of Python."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def required(kind: type) -> list[str]:
    """Settings of a class that have no default."""
    return [
        item.name
        for item in dataclasses.fields(kind)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]


def resolve(default: T, values: Mapping[str, Any]) -> T:
    """The settings that come of these flat values and a default, with the defaults that follow from them."""
    return typing.cast(T, resolved(default, lambda base: change(base, **values)).config)


def resolved(default: Any, ask: Callable[[Any], Any], known: Resolved | None = None) -> Resolved:
    """The settings that come of a default and of what a person gives.

    Args:
        default: settings, or None for a class that has some without default.
        ask: a default -> the settings, with what was given by hand in place of the default's.
        known: what a run was begun with that now goes on. Where it was not given by hand then, it stands in for the default,
            so that a default that has changed since changes nothing about it.
    """
    base = default
    if base is None and known is None:
        config = ask(None)
        base = build(type(config), {name: getattr(config, name) for name in required(type(config))})
        if following := _following(config, None):
            base = change(base, **following)
            config = ask(base)
        return Resolved(config, _differing(config, base))
    if known is not None:
        if base is None:
            base = build(
                type(known.config), {name: getattr(known.config, name) for name in required(type(known.config))}
            )
        usual = flat(base)
        base = change(known.config, **{name: usual[name] for name in known.given})
    now, before = _following(ask(base), default), _following(known.config, default) if known else {}
    base = change(
        base,
        **{name: value for name, value in now.items() if not known or name in known.given or before[name] != value},
    )
    config = ask(base)
    return Resolved(config, _differing(config, base))


def _differing(config: Any, base: Any) -> tuple[str, ...]:
    usual = flat(base)
    return tuple(name for name, value in flat(config).items() if value != usual[name])


def _following(config: Any, default: Any) -> dict[str, Any]:
    """Defaults that follow from settings: always of the same names."""
    return dict(config.following(default)) if hasattr(config, "following") else {}


def _is_group(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A value as its annotation has it: JSON knows no tuples and no paths, and 3 is a float where one is asked for.

    Raises InputError for a value of another kind.
    """
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for kind in kinds:
        if (found := _as(value, kind)) is not _UNFIT:
            return found
    raise InputError(f"--{name.replace('_', '-')} {value!r}: give {' or '.join(map(called, kinds))}")


_UNFIT = object()
_CALLED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    type(None): "None",
}


def _as(value: Any, kind: Any) -> Any:
    """The value as one of this kind, or ``_UNFIT``; any value fits a kind that a user's own settings have and ours do not."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value if any(value == each and type(value) is type(each) for each in parts) else _UNFIT
    if origin is tuple and parts[1:] == (...,):
        if not isinstance(value, (list, tuple)):
            return _UNFIT
        items = tuple(_as(item, parts[0]) for item in value)
        return _UNFIT if any(item is _UNFIT for item in items) else items
    if kind not in _CALLED:
        return tuple(value) if isinstance(value, list) and origin is not list else value
    if kind is Path:
        return Path(value) if isinstance(value, (str, Path)) else _UNFIT
    if kind is str and isinstance(value, Path):
        return str(value)
    if isinstance(value, bool) and kind is not bool:
        return _UNFIT
    if kind is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, kind) else _UNFIT


def called(kind: Any) -> str:
    """What a person calls values of this kind."""
    if typing.get_origin(kind) is typing.Literal:
        *others, last = map(str, typing.get_args(kind))
        return f"{', '.join(others)} or {last}" if others else last
    if typing.get_origin(kind) is tuple:
        return f"several, each {called(typing.get_args(kind)[0])}"
    return _CALLED.get(kind, str(kind))
