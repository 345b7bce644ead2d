"""Image tokens of stored rows -> pictures to look at, by whichever of some tokenizers has the codebook that they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reverie.errors import InputError, ReverieError
from reverie.models.names import locate
from reverie.models.pretrained import load_settings, part_of
from reverie.models.tokenizer import Ids, Tokenizer, open_tokenizer
from reverie.stage import StepContext
from reverie.store.pictures import as_png


class TokenPictures:
    """Decodes rows with ``tokens``, ``grid`` and ``codebook``. Tokenizers are loaded when the first row asks for one."""

    def __init__(self, names: Iterable[str], device: str = "cpu") -> None:
        self.names, self.device = list(dict.fromkeys(names)), device
        self._left = list(self.names)
        self._known: dict[str, Tokenizer] = {}
        self._why: dict[str, str] = {}

    def png(self, row: Mapping[str, Any]) -> bytes:
        """One row as an encoded picture. Raises: InputError for ids that none of the tokenizers can mean, or that fit no grid."""
        return as_png(Image.fromarray(self.tokenizer(row["codebook"]).pictures(grid_of(row)[None])[0]))

    def pngs(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Many rows at once, in order; those with grids of one size go through the decoder together."""
        found: dict[int, bytes] = {}
        groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        grids = [grid_of(row) for row in rows]
        for number, (row, grid) in enumerate(zip(rows, grids, strict=True)):
            groups.setdefault((row["codebook"], grid.shape), []).append(number)
        for (codebook, _), numbers in groups.items():
            pictures = self.tokenizer(codebook).pictures(np.stack([grids[number] for number in numbers]))
            found |= {number: as_png(Image.fromarray(one)) for number, one in zip(numbers, pictures, strict=True)}
        return [found[number] for number in range(len(rows))]

    def tokenizer(self, codebook: str | None) -> Tokenizer:
        """The one that has this codebook. Raises InputError if none has."""
        while codebook not in self._known and self._left:
            name = self._left.pop(0)
            try:
                place = locate(name)
                if load_settings(place, part_of(place, "VQModel")).get("_class_name") != "VQModel":
                    continue
                opened = open_tokenizer(name, self.device)
            except ReverieError as error:
                self._why[name] = str(error)
                continue
            self._known.setdefault(opened.codebook_name, opened)
        if codebook is None or codebook not in self._known:
            tried = ", ".join(str(each.revision) for each in self._known.values()) or "none was found"
            why = "".join(f"; {error}" for error in list(self._why.values())[:1] if not self._known)
            raise InputError(
                f"image tokens of codebook {codebook or 'unknown'} cannot be turned into pictures: give the tokenizer that they "
                f"are of, --tokenizer NAME (tried: {tried}{why})"
            )
        return self._known[codebook]


def grid_of(row: Mapping[str, Any]) -> Ids:
    """The ids of a row as int32 (rows, columns). Raises InputError for ids that do not fill their grid."""
    tokens, grid = row["tokens"], row["grid"]
    if len(grid or ()) != 2 or grid[0] * grid[1] != len(tokens):
        raise InputError(f"pair {row.get('pair_id')}: {len(tokens)} image tokens do not fill a grid of {grid}")
    return np.array(tokens, np.int32).reshape(grid)


def models_named(record: Mapping[str, Any], folder: Path) -> list[str]:
    """Names of models in the steps of a run's plan.json that may have made its tokens, painters first; folders of those it trained."""
    context, found = StepContext(folder, ""), []
    for step in sorted(record["steps"], key=lambda step: step["kind"] != "pairs"):
        settings = step.get("settings", {})
        for inner in (settings, settings.get("inner")):
            if isinstance(inner, Mapping):
                found += [
                    context.model(inner[key]) for key in ("tokenizer", "model") if isinstance(inner.get(key), str)
                ]
    return found
