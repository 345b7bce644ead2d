"""Class names, from a tuple or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from reverie.captions.checks import clean
from reverie.errors import InputError

HOLE = "{class}"  # where a template or prompt takes a class name


def read_classes(classes: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Names in order, cleaned.

    Args: names, or a file with one a line (blank lines are skipped) or a JSON list of strings.
    Raises: InputError for a file that cannot be read, an empty list, an empty name, names that are equal or differ only by
        case (they would be one class to a reader and two to a classifier).
    """
    if isinstance(classes, (str, Path)):
        origin, names = str(classes), read_list(Path(classes), "class names")
    else:
        origin, names = "the class list", list(classes)
    names = [clean(name) for name in names]
    if not names:
        raise InputError(f"{origin} is empty; give at least one class name")
    if "" in names:
        raise InputError(f"{origin} holds an empty class name (number {names.index('') + 1})")
    first: dict[str, str] = {}
    for name in names:
        twin = first.get(name.casefold())
        if twin is not None:
            how = "twice" if twin == name else f"beside {twin!r}, which differs only by case"
            raise InputError(f"{origin} holds {name!r} {how}; every class needs its own name")
        first[name.casefold()] = name
    return tuple(names)


def read_list(path: Path, what: str) -> list[str]:
    """Lines of a text file without the blank ones, or a JSON list of strings. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {what} from {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
        ) from error
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        items = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InputError(f"{path} must hold a JSON list of strings")
    return items
