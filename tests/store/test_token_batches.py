from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import pairs
from reverie.errors import InputError
from reverie.models.tokenizer import square
from reverie.store import tables
from reverie.store.pictures import as_png, open_picture
from reverie.store.token_batches import Mixed, TokenPairs, read_token_pairs

GRID, CODES, BOOK = (2, 3), 12, "0123456789ab"


def row(number, **changes):
    return {
        "pair_id": f"p{number:03d}", "caption_id": f"c{number:03d}", "copy": 0, "unit": 0, "text": f"a thing {number}",
        "tokens": [(number + place) % CODES for place in range(6)], "grid": list(GRID), "codebook": BOOK,
        "origin": "real", "status": "ok", **changes,
    }  # fmt: skip


def store(path, *rows):
    tables.append_unit(path / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    return path / "pairs.lance"


def read(path, **settings):
    return read_token_pairs(path, BOOK, CODES, GRID, **settings)


def source(letter, size):
    tokens = np.arange(size * 6).reshape(size, *GRID).astype(np.uint16) % CODES
    ids = [f"{letter}{number}" for number in range(size)]
    return TokenPairs(Path("nowhere"), ids, [f"text {name}" for name in ids], np.arange(size), tokens)


def mixed(rho, batch=7, **settings):
    return Mixed(source("r", 10), source("s", 23), batch, rho, seed=5, **settings)


@pytest.mark.parametrize("rho", [0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.75, 0.99, 1])
def test_share_is_exact_over_a_hundred_batches_and_after_a_resume(rho):
    whole = list(islice(mixed(rho).iterate(0), 100))
    painted = [int(batch["painted"].sum()) for batch in whole]
    assert sum(painted) == int(round(rho * 700, 9))
    assert max(painted) - min(painted) <= 1
    for batch in whole:
        assert [name[0] == "s" for name in batch["pair_id"]] == batch["painted"].tolist()
    for start in (1, 37, 99):
        again = next(mixed(rho).iterate(start))
        assert again["pair_id"] == whole[start]["pair_id"]
        assert torch.equal(again["tokens"], whole[start]["tokens"])


def test_every_pair_comes_once_a_pass():
    seen = {"r": [], "s": []}
    for batch in islice(mixed(0.4).iterate(0), 50):
        for name in batch["pair_id"]:
            seen[name[0]].append(name)
    for names, size in zip(seen.values(), (10, 23), strict=True):
        for start in range(0, len(names) - size, size):
            assert len(set(names[start : start + size])) == size
        assert names[:size] != names[size : 2 * size]


def test_tokens_and_captions_belong_together(tmp_path):
    path = store(tmp_path, *(row(number) for number in (4, 2, 9)), row(5, status="dropped"), row(6, tokens=None))
    found = read(path)
    assert found.ids == ["p002", "p004", "p009"]
    for batch in islice(Mixed(found, None, 2, 0, 1).iterate(0), 3):
        for name, text, tokens in zip(batch["pair_id"], batch["text"], batch["tokens"], strict=True):
            number = int(name[1:])
            assert text == f"a thing {number}"
            assert tokens.flatten().tolist() == row(number)["tokens"]
    assert found.some(2).some(1).ids[0] in found.some(2).ids
    assert read(path, where="pair_id = 'p004'").texts == ["a thing 4"]


def read_bytes():
    """What this process asked the file system for, in bytes."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the machine does not count what is read")
def test_no_image_is_read_for_tokens(tmp_path):
    noise = np.random.default_rng(0)
    images = [as_png(Image.fromarray(noise.integers(0, 256, (96, 96, 3), dtype=np.uint8))) for _ in range(40)]
    path = store(tmp_path, *(row(number, image=image, width=96, height=96) for number, image in enumerate(images)))
    size = sum(map(len, images))
    assert size > 1_000_000
    before = read_bytes()
    list(islice(Mixed(read(path), None, 8, 0, 1).iterate(0), 10))
    assert read_bytes() - before < size / 10
    before = read_bytes()
    (batch,) = islice(Mixed(read(path, images=True), None, 40, 0, 1, size_px=96).iterate(0), 1)
    assert read_bytes() - before > size
    at = batch["pair_id"].index("p003")
    assert as_png(Image.fromarray(batch["images"][at].permute(1, 2, 0).numpy())) == images[3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": None}, "1 of 2 pairs of .* have no caption, first p001; caption them"),
        ({"text": "  "}, "have no caption"),
        ({"grid": [3, 2]}, "tokens of pair p001 are 3 x 2, and 2 x 3 are wanted"),
        ({"codebook": "ffffffffffff"}, "p001 are of the codebook ffffffffffff, and 0123456789ab is wanted"),
        ({"tokens": [0, 1, 2, 3, 4, 12]}, "pair p001 has the id 12, and codes are 0 to 11"),
        ({"tokens": [0, 1, 2, 3, 4, -1]}, "pair p001 has the id -1"),
        ({"tokens": [0, 1, 2]}, "p001 do not fill their grid"),
    ],
)
def test_pairs_that_cannot_be_read_are_named(tmp_path, changes, said):
    path = store(tmp_path, row(0), row(1, **changes))
    with pytest.raises(InputError, match=said):
        read(path)


def test_shares_and_sources_that_cannot_be(tmp_path):
    for rho in (-0.1, 1.01, float("nan")):
        with pytest.raises(InputError, match="from 0 to 1"):
            mixed(rho)
    with pytest.raises(InputError, match="no real pairs"):
        Mixed(None, source("s", 3), 2, 0.5, 1)
    with pytest.raises(InputError, match="no painted pairs"):
        Mixed(source("r", 3), None, 2, 0.5, 1)
    with pytest.raises(InputError, match="no pairs with image tokens"):
        read(store(tmp_path, row(0, tokens=None)))


def test_pixels_are_those_that_ids_are_made_of(tmp_path):
    """A JPEG that is much larger is decoded whole, as it is before it becomes ids, and not at the eighth that would do."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (640, 480, 3), dtype=np.uint8)).save(buffer, "JPEG")
    path = store(tmp_path, row(0, image=buffer.getvalue(), width=480, height=640))
    (batch,) = islice(Mixed(read(path, images=True), None, 1, 0, 1, size_px=32).iterate(0), 1)
    wanted = square(open_picture(buffer.getvalue(), "it"), 32)
    assert (batch["images"][0].permute(1, 2, 0).numpy() == wanted).all()
