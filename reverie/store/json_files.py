"""JSON files that a person or a kill may have damaged: read with one line that says what is wrong, and where.

A shape says what a value must be, in the words of Python:

    int, float, str, bool, None     a value of this type; float takes whole numbers too, no number is a bool, all are finite
    (str, None)                     one of these
    [str]                           a list of these
    {"name": str, "seed?": int}     an object with these keys, those with a question mark only perhaps, and any others
    {...: str}                      an object with any keys (besides those named), all values of this shape
    object                          anything
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reverie.errors import ReverieError, StoreError
from reverie.store.sources import what_is

LARGEST = 2**63  # larger whole numbers fit no column and no tensor
NAMES = {None: "null", int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def read_json(path: Path, shape: object, kind: type[ReverieError], hint: str) -> Any:
    """What a JSON file holds.

    Args:
        kind: error to raise for a file that cannot be read, is no JSON, or is of another shape.
        hint: what to do then, the end of its line.
    """
    if (found := what_is(path)) and found != "nothing":  # a pipe would be waited for without end
        raise kind(f"cannot read {path} ({found}, not a file); {hint}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise kind(f"cannot read {path} ({error.strerror}); {hint}") from error
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError too
        raise kind(f"{path} is not valid JSON ({_reason(error)}); {hint}") from error
    if wrong := misfit(value, shape):
        raise kind(f"{path} is damaged ({wrong}); {hint}")
    return value


def read_line(line: str | bytes) -> Any:
    """The value of one line. Raises ValueError, with a reason that is one line itself, for a line that is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from error


def log_lines(path: Path, shape: object) -> Iterator[dict[str, Any]]:
    """The lines of a log; none if it is not there. A line that was cut is left out: who writes may be at work, or was killed.

    Raises: StoreError naming the line that is whole and yet of another shape.
    """
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                value = read_line(line)
            except ValueError:
                continue
            if wrong := misfit(value, shape):
                raise StoreError(f"{path} line {number} is damaged ({wrong}); mend or delete that line")
            yield value


def all_lines(path: Path, shape: object) -> Iterator[dict[str, Any]]:
    """The lines of a file that is always written whole; none if it is not there. Raises StoreError naming a line that is damaged."""
    if not path.exists():
        return
    if found := what_is(path):
        raise StoreError(f"cannot read {path} ({found}, not a file)")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path} ({error.strerror})") from error
    for number, line in enumerate(content.splitlines(), 1):
        try:
            value = read_line(line)
        except ValueError as error:
            raise StoreError(f"{path} line {number} is not JSON ({error}); mend or delete that line") from error
        if wrong := misfit(value, shape):
            raise StoreError(f"{path} line {number} is damaged ({wrong}); mend or delete that line")
        yield value


def shape_of(hint: Any) -> Any:
    """The shape of what is written of a dataclass, or of a value with this annotation.

    A field without a default is always there; one with a default is left out where it says nothing, so it is never null.
    """
    if dataclasses.is_dataclass(hint):
        shape: dict[Any, Any] = {}
        known = typing.get_type_hints(hint)
        for item in dataclasses.fields(hint):
            own = shape_of(known[item.name])
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                shape[item.name] = own
            else:
                left = tuple(one for one in own if one is not None) if isinstance(own, tuple) else (own,)
                shape[f"{item.name}?"] = left[0] if len(left) == 1 else left
        return shape
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(shape_of(part) for part in parts)
    if origin is Mapping:
        return {...: shape_of(parts[1])}
    if origin is tuple and parts[1:] == (...,):
        return [shape_of(parts[0])]
    plain = {Any: object, type(None): None, Path: str, str: str, int: int, float: float, bool: bool}
    if hint not in plain:
        raise TypeError(f"{hint} has no shape in JSON")
    return plain[hint]


def misfit(value: object, shape: Any, where: str = "") -> str | None:
    """How a value is not of this shape, or None."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _not(where, "an object")
        named = {key: inner for key, inner in shape.items() if key is not ...}
        if ... in shape:
            others = value.keys() - {key.removesuffix("?") for key in named}
            if bad := next((bad for key in others if (bad := misfit(value[key], shape[...], _at(where, key)))), None):
                return bad
        for key, inner in named.items():
            name = key.removesuffix("?")
            if name not in value:
                if name == key:
                    return f"{_at(where, name)!r} is missing"
            elif bad := misfit(value[name], inner, _at(where, name)):
                return bad
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _not(where, "a list")
        return next((bad for n, item in enumerate(value) if (bad := misfit(item, shape[0], _at(where, n)))), None)
    if isinstance(shape, tuple):
        found = [misfit(value, one, where) for one in shape]
        return None if None in found else found[0]
    return None if _is(value, shape) else _not(where, NAMES.get(shape, "of its kind"))


def _is(value: object, shape: Any) -> bool:
    if shape is object:
        return True
    if shape is None or shape is bool or shape is str:
        return value is None if shape is None else isinstance(value, shape)
    if isinstance(value, bool) or not isinstance(value, (int, shape)):
        return False
    return math.isfinite(value) and abs(value) < LARGEST if isinstance(value, float) else abs(value) < LARGEST


def _at(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _not(where: str, what: str) -> str:
    return f"{where!r} is not {what}" if where else f"it is not {what}"


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return " ".join(str(error).split())[:200]
