"""Latents in a table of their own: made unit by unit, read in batches that depend on seed and position only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image

from reverie import pairs
from reverie.errors import InputError, ModelError
from reverie.store import tables
from reverie.store.latents import StoredLatents, encode_units
from reverie.store.pictures import as_png

NUM = 14


class Numbered:
    """Says the pair's text, and one of three words by the seed of the visit."""

    columns = ("text",)

    def draw(self, row: Mapping[str, Any], seed: int) -> str:
        return f"{row['text']} {seed % 3}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Flat pictures whose red is their number, in units of 5."""
    rows = []
    for i in range(NUM):
        caption = pairs.caption_id(0, "test", i)
        rows.append(
            {
                "pair_id": pairs.pair_id(caption, 0),
                "caption_id": caption,
                "copy": 0,
                "unit": i // 5,
                "text": f"{i}",
                "image": as_png(Image.new("RGB", (8, 8), (i, 0, 0))),
                "status": pairs.OK,
            }
        )
    for unit in range(3):
        tables.append_unit(
            tmp_path / "pairs.lance", unit, pairs.table([row for row in rows if row["unit"] == unit], pairs.PAIRS)
        )
    return tmp_path


def corner(pictures: torch.Tensor) -> torch.Tensor:
    """Not much of an autoencoder: the upper left corner."""
    return pictures[:, :, :2, :2].float()


def encoded(folder: Path, **more: Any) -> StoredLatents:
    encode_units(folder / "pairs.lance", folder / "latents.lance", corner, 8)
    return StoredLatents(folder / "pairs.lance", folder / "latents.lance", Numbered(), seed=1, **({"batch": 4} | more))


def rows(batches: StoredLatents, start: int, count: int) -> list[tuple[float, str, int]]:
    stream = batches.iterate(start)
    found = []
    for _ in range(count):
        batch = next(stream)
        found += list(zip(batch["latents"][:, 0, 0, 0].tolist(), batch["text"], batch["seeds"], strict=True))
    return found


def test_a_batch_holds_latents_of_its_texts_and_an_epoch_every_pair_once(store: Path) -> None:
    batches = encoded(store, batch=7)
    assert (batches.num_pairs, batches.shape) == (NUM, (3, 2, 2))
    batch = next(batches.iterate())
    assert batch["latents"].shape == (7, 3, 2, 2)
    assert batch["latents"].dtype == torch.float32
    seen = rows(batches, 0, 6)
    assert all(int(text.split()[0]) == int(latent) for latent, text, _ in seen)
    for epoch in range(3):
        assert sorted(int(latent) for latent, _, _ in seen[epoch * NUM : (epoch + 1) * NUM]) == list(range(NUM))
    assert len({seed for _, _, seed in seen}) == len(seen)
    assert {text.split()[1] for _, text, _ in seen} == {"0", "1", "2"}
    assert [latent for latent, _, _ in seen[:NUM]] != [latent for latent, _, _ in seen[NUM : 2 * NUM]]


def test_batches_are_a_function_of_seed_and_position_whoever_reads_them(store: Path) -> None:
    alone = rows(encoded(store), 0, 9)
    assert rows(encoded(store), 5, 4) == alone[20:]
    halves = [rows(encoded(store, rank=rank, world=2), 0, 9) for rank in (0, 1)]
    joined = [row for place in range(0, 18, 2) for half in halves for row in half[place : place + 2]]
    assert joined == alone
    tables.compact(store / "pairs.lance", keep_s=0)
    assert rows(encoded(store), 0, 9) == alone


def test_a_batch_may_be_larger_than_the_store(store: Path) -> None:
    assert len(rows(encoded(store, batch=40), 0, 2)) == 80


def test_units_that_are_there_are_not_made_again_and_are_shared_by_processes(store: Path) -> None:
    calls: list[int] = []

    def stops(pictures: torch.Tensor) -> torch.Tensor:
        calls.append(len(pictures))
        if len(calls) == 2:
            raise ConnectionError("gone")
        return corner(pictures)

    paths = store / "pairs.lance", store / "latents.lance"
    with pytest.raises(ConnectionError):
        encode_units(*paths, stops, 8)
    told: list[tuple[int, int]] = []
    encode_units(*paths, stops, 8, report=lambda done, total: told.append((done, total)))
    assert calls == [5, 5, 5, 4]
    assert told == [(2, 3), (3, 3)]
    alone = rows(encoded(store), 0, 3)
    for share in ((1, 2), (0, 2)):
        encode_units(store / "pairs.lance", store / "shared.lance", corner, 8, share=share)
    shared = StoredLatents(store / "pairs.lance", store / "shared.lance", Numbered(), 4, 1)
    assert rows(shared, 0, 3) == alone


def test_a_unit_without_a_fitting_pair_is_done_and_empty(store: Path) -> None:
    paths = store / "pairs.lance", store / "latents.lance"
    encode_units(*paths, corner, 8, where="unit > 0")
    assert tables.done_units(paths[1]) == {0, 1, 2}
    assert StoredLatents(*paths, Numbered(), 4, 1, where="unit > 0").num_pairs == NUM - 5
    with pytest.raises(InputError, match=r"5 pairs of .* have no latents; delete"):
        StoredLatents(*paths, Numbered(), 4, 1)
    with pytest.raises(InputError, match="no pair that fits"):
        StoredLatents(*paths, Numbered(), 4, 1, where="unit > 7")
    with pytest.raises(InputError, match="cannot be shared equally by 3 processes"):
        StoredLatents(*paths, Numbered(), 4, 1, world=3)


def test_latents_that_are_no_numbers_are_named(store: Path) -> None:
    with pytest.raises(ModelError, match=r"latents of pair .* are not finite"):
        encode_units(store / "pairs.lance", store / "latents.lance", lambda pictures: corner(pictures) / 0, 8)


READ = """
import resource, sys
from pathlib import Path
from reverie.learn.train_painter import PairCaptions
from reverie.store.latents import StoredLatents
folder = Path(sys.argv[1])
stream = StoredLatents(folder / "pairs.lance", folder / "latents.lance", PairCaptions(), 16, 1).iterate()
next(stream)
for _ in range(int(sys.argv[2])):
    next(stream)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_stays_flat_as_latents_grow(tmp_path: Path) -> None:
    """All of 10 MB and all of 240 MB of latents are read once, by processes of their own."""
    from reverie.store.latents import SCHEMA

    used = {}
    for units in (1, 24):
        folder = tmp_path / str(units)
        for unit in range(units):
            ids = [f"{unit:03d}-{i:03d}" for i in range(160)]
            texts = [
                {"pair_id": name, "caption_id": name, "copy": 0, "unit": unit, "text": "a cat", "status": pairs.OK}
                for name in ids
            ]
            tables.append_unit(folder / "pairs.lance", unit, pairs.table(texts, pairs.PAIRS))
            data = torch.randn(160, 4 * 64 * 128).half().numpy()
            made = {
                "pair_id": ids,
                "unit": [unit] * 160,
                "shape": [[4, 64, 128]] * 160,
                "latents": [one.tobytes() for one in data],
            }
            tables.append_unit(folder / "latents.lance", unit, pa.table(made, schema=SCHEMA))
        words = [sys.executable, "-c", READ, str(folder), str(10 * units)]
        used[units] = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert used[24] - used[1] < 60, used
