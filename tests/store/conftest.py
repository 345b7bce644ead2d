"""Small rows and pictures for the store's tests."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reverie import pairs


def picture(seed: int, width: int = 24, height: int = 16, form: str = "PNG") -> bytes:
    """A picture whose pixels follow from the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def captions_of(unit: int, number: int, seed: int = 0) -> pa.Table:
    """Caption rows of one unit; all ok."""
    names = [pairs.caption_id(seed, "test", f"{unit}/{i}") for i in range(number)]
    return pairs.table(
        [
            {"caption_id": name, "unit": unit, "text": f"caption {unit} {i}", "label": "ab"[i % 2], "status": "ok"}
            for i, name in enumerate(names)
        ],
        pairs.CAPTIONS,
    )


def pairs_of(captions: pa.Table, copies: int = 2) -> pa.Table:
    """Pair rows for caption rows, with small PNG images."""
    rows = []
    for i, caption in enumerate(captions.to_pylist()):
        for copy in range(copies):
            rows.append(
                {
                    "pair_id": pairs.pair_id(caption["caption_id"], copy),
                    "caption_id": caption["caption_id"],
                    "copy": copy,
                    "unit": caption["unit"],
                    "text": caption["text"],
                    "label": caption["label"],
                    "image": picture(1000 * caption["unit"] + 10 * i + copy),
                    "width": 24,
                    "height": 16,
                    "origin": "painted",
                    "status": "ok",
                }
            )
    return pairs.table(rows, pairs.PAIRS)


@pytest.fixture
def run_folder(tmp_path):
    """Three units of four captions with two images each."""
    from reverie.store import tables

    for unit in range(3):
        captions = captions_of(unit, 4)
        tables.append_unit(tmp_path / "captions.lance", unit, captions)
        tables.append_unit(tmp_path / "pairs.lance", unit, pairs_of(captions))
    return tmp_path
