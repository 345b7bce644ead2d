"""Columns of captions that are changed in one way each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reverie.errors import InputError
from reverie.learn.recaption import ChangeCaptions, Changed
from reverie.stage import StepContext
from reverie.store import tables
from tests.recaption.test_mix import fill

CHANGES = (
    Changed("short_as_alt", "lengths", "short"),
    Changed("half", "words", share=0.5),
    Changed("any_clause", "clause"),
    Changed("false", "false", share=1.0),
)


def columns(folder: Path) -> dict[str, list[Any]]:
    names = ["pair_id", "text", "caption_short", "caption_long", *(each.column for each in CHANGES)]
    return tables.read_unit(folder / "pairs.lance", 0, names).sort_by("pair_id").to_pydict()


def test_each_column_differs_in_its_way_and_those_it_is_made_of_stay(tmp_path: Path) -> None:
    long = {number: f"a red circle above a blue square , on a white background {number}" for number in range(12)}
    folder = fill(tmp_path, caption_long=long | {3: None})
    before = tables.read_unit(folder / "pairs.lance", 0, ["pair_id", "text", "caption_short", "caption_long"]).sort_by(
        "pair_id"
    )
    job = ChangeCaptions(folder, CHANGES)
    job.check()
    job.run(StepContext(tmp_path / "run", "changed", seed=1))
    found = columns(folder)
    assert {name: found[name] for name in before.column_names} == before.to_pydict()
    assert [len(text.split()) for text in found["short_as_alt"]] == [1] * 12  # as alt-text is, IMG_0.JPG
    for told, half, more, false in zip(
        *(found[name] for name in ("caption_long", "half", "any_clause", "false")), strict=True
    ):
        if told is None:
            assert half is more is false is None
            continue
        assert half == "a red circle above a blue square"
        assert more.startswith(f"{told} , ")
        assert false.startswith(told)
        assert len(false.split(" and ")) == 3  # as many false things as it names
    job.run(StepContext(tmp_path / "run", "changed", seed=1))  # killed before it was noted: the same once more
    assert columns(folder) == found


def test_slips(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be called 'text'"):
        Changed("text", "clause")
    with pytest.raises(InputError, match="cannot be called 'caption_long'"):
        Changed("caption_long", "clause")
    with pytest.raises(InputError, match="--changes 0"):
        ChangeCaptions(tmp_path, ())
    with pytest.raises(InputError, match="has no column 'mine' whose captions could be changed"):
        ChangeCaptions(fill(tmp_path), (Changed("new", "clause", "mine"),)).run(StepContext(tmp_path, "changed"))
