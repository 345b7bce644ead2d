from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reverie.store import tables

FAKE = str(Path(__file__).with_name("fake_recipe.py"))


@pytest.fixture
def rows() -> Callable[[Path], dict[str, list[dict[str, Any]]]]:
    """Everything in the tables of a run, sorted by key, image bytes and all."""

    def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
        found = {}
        for name, key in (("captions", "caption_id"), ("pairs", "pair_id")):
            batches = tables.scan(folder / f"{name}.lance")
            found[name] = sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: row[key])
        return found

    return read
