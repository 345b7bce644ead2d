"""Class names and words that mean the same, from Python values or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reverie.captions.checks import clean
from reverie.errors import InputError, UnknownName
from reverie.pairs import CLASS_SLOT
from reverie.store.sources import is_text, read_json, read_text


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
    if path.suffix != ".json":
        return [line.strip() for line in read_text(path, what).splitlines() if line.strip()]
    items = read_json(path, what)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InputError(f"{path} must hold a JSON list of strings")
    if broken := [number for number, item in enumerate(items, 1) if not is_text(item)]:
        raise InputError(f"{path}: string {broken[0]} holds half of a character (a lone surrogate)")
    return items


def templates_of(given: str | Path) -> tuple[str, ...] | Path:
    """What --templates names: one sentence, where {class} is in it, or a file of them."""
    return (str(given),) if CLASS_SLOT in str(given) else Path(given)


def read_synonyms(
    synonyms: Mapping[str, str | Sequence[str]] | Path | None, classes: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Words that mean the same, for every class that has some.

    Args:
        synonyms: class name -> a word or several, or a JSON file that holds such an object; the case of names does not matter.
    Raises: InputError for anything else; UnknownName for a name that is no class.
    """
    if synonyms is None:
        return {}
    origin = synonyms.name if isinstance(synonyms, Path) else "the synonyms"
    given = read_json(synonyms, "synonyms") if isinstance(synonyms, Path) else synonyms
    if not isinstance(given, Mapping):
        raise InputError(f"{origin} must hold a JSON object: class name -> list of words that also count")
    known = {name.casefold(): name for name in classes}
    found: dict[str, tuple[str, ...]] = {}
    for name, words in given.items():
        label = known.get(clean(str(name)).casefold())
        if label is None:
            raise UnknownName(f"class in {origin}", str(name), classes)
        words = [words] if isinstance(words, str) else words
        if not isinstance(words, Sequence) or not all(isinstance(word, str) and clean(word) for word in words):
            raise InputError(f"{origin}: the words for {label!r} must be a list of words, not {words!r}")
        found[label] = tuple(clean(word) for word in words)
    return found
