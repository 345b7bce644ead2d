"""Cached rows: the encoder's own, and never those of something else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.errors import BrokenImage
from reverie.models.encoder import Encoder, open_encoder
from reverie.models.feature_cache import cached_rows


def png(seed: int, side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return open_encoder("builtin:clip")


def test_rows_are_the_encoders_own_and_the_second_time_it_is_not_asked(encoder: Encoder, tmp_path: Path) -> None:
    pictures = [png(i) for i in range(5)]
    rows = cached_rows(encoder, lambda: [pictures[:3], pictures[3:]], tmp_path)
    torch.testing.assert_close(rows, encoder.images([Image.open(io.BytesIO(data)) for data in pictures]))

    class Asleep:
        revision = encoder.revision

    again = cached_rows(Asleep(), lambda: [pictures[:1], pictures[1:]], tmp_path)  # type: ignore[arg-type]
    assert torch.equal(again, rows)


def test_another_image_order_size_or_encoder_is_another_file(encoder: Encoder, tmp_path: Path) -> None:
    pictures = [png(i) for i in range(3)]

    def files() -> int:
        return len(list(tmp_path.iterdir()))

    cached_rows(encoder, lambda: [pictures], tmp_path)
    for number, (changed, shrink) in enumerate(
        [(pictures[::-1], 0), (pictures[:2], 0), ([*pictures[:2], png(9)], 0), (pictures, 16)], 2
    ):
        cached_rows(encoder, lambda changed=changed: [changed], tmp_path, shrink_px=shrink)  # type: ignore[misc]
        assert files() == number
    other = open_encoder("builtin:clip")
    other.revision = "another"
    cached_rows(other, lambda: [pictures], tmp_path)
    assert files() == 6


def test_arrays_are_pictures_too_and_shrinking_blurs(encoder: Encoder, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sharp = cached_rows(encoder, lambda: [[array]], tmp_path)
    torch.testing.assert_close(sharp, encoder.images(array[None]))
    small = np.asarray(Image.fromarray(array).resize((16, 16), Image.Resampling.BICUBIC))
    torch.testing.assert_close(
        cached_rows(encoder, lambda: [[array]], tmp_path, shrink_px=16), encoder.images(small[None])
    )


def test_a_broken_image_leaves_no_rows_behind(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(BrokenImage):
        cached_rows(encoder, lambda: [[png(0)], [b"not an image"]], tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
