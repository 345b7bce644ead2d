"""Finds the finished classifier or captioner in a run folder."""

from __future__ import annotations

from pathlib import Path

from reverie.errors import InputError


def find_artifact(what: str, path: Path, recipe: str) -> Path:
    """The folder of a ``classifier`` or ``captioner``: this one, or of a run the step of that name, or its only one.

    Args: recipe: that makes such a thing, for the message.
    Raises: InputError if there is none, or more than one.
    """
    about = f"{what}.json"
    if (path / about).is_file():
        return path
    found = sorted(file.parent for file in path.glob(f"weights/*/{about}"))
    main = [folder for folder in found if folder.name == what] or found
    if not main:
        raise InputError(f"there is no finished {what} at {path}; make one with: reverie run {recipe} --out {path}")
    if len(main) > 1:
        raise InputError(f"{path} holds {len(main)} {what}s; name one: {', '.join(str(item) for item in main[:5])}")
    return main[0]
