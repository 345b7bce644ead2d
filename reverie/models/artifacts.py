"""Finds the finished classifier or captioner in a run folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from reverie.errors import InputError

WEIGHTS = (".safetensors", ".json", ".jsonl", ".txt")  # what decides the answers; a card beside them does not

MAIN = {
    "describer": "captioner"
}  # step whose weights are meant where a run has several; else the one that is called as they are
MADE_BY = {"captioner": "syntic or synth2", "describer": "recap", "classifier": "zero_shot or few_shot"}  # recipes


def find_artifact(what: str, path: Path) -> Path:
    """The folder of a ``classifier`` or ``captioner``: this one, or of a run the step of that name, or its only one.

    Raises: InputError if there is none, or more than one.
    """
    main = _candidates(what, path)
    if not main:
        raise InputError(
            f"there is no finished {what} at {path}; name a run of {MADE_BY[what]}, or a folder of its weights"
        )
    if len(main) > 1:
        raise InputError(f"{path} holds {len(main)} {what}s; name one: {', '.join(str(item) for item in main[:5])}")
    return main[0]


def has_artifact(what: str, path: Path) -> bool:
    """Whether ``find_artifact`` would find it."""
    return len(_candidates(what, path)) == 1


def content_of(what: str, path: Path) -> str:
    """16 hex digits of the weights and settings of a ``classifier`` or ``captioner``, wherever it lies; trained anew, it has others.

    Raises: as ``find_artifact``.
    """
    folder = find_artifact(what, path)
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(item for item in folder.rglob("*") if item.is_file() and item.suffix in WEIGHTS):
        with file.open("rb") as stream:
            own = hashlib.file_digest(stream, hashlib.blake2b).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {own} ".encode())
    return digest.hexdigest()


def _candidates(what: str, path: Path) -> list[Path]:
    about = f"{what}.json"
    if (path / about).is_file():
        return [path]
    found = sorted(file.parent for file in path.glob(f"weights/*/{about}"))
    return [folder for folder in found if folder.name == MAIN.get(what, what)] or found
