import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def as_bytes(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def colour_photos(num, seed, size=(24, 18)):
    """Noisy pictures of one colour each: (encoded bytes, names)."""
    draw = np.random.default_rng(seed)
    names = [sorted(COLOURS)[place % 3] for place in range(num)]
    shape = (num, size[1], size[0], 3)
    pixels = np.array([COLOURS[name] for name in names])[:, None, None] + draw.normal(0, 60, shape)
    return [as_bytes(item) for item in pixels.clip(0, 255).astype(np.uint8)], names


def photos_with_notes(folder):
    """Class folders of 12 train and 12 test photos, and files among them that are none: one in train, two in test."""
    for seed, split in enumerate(("train", "test")):
        for number, (image, name) in enumerate(zip(*colour_photos(12, seed), strict=True)):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            (folder / split / name / f"{number}.png").write_bytes(image)
    for name in ("train/blue/a.heic", "test/blue/a.heic", "test/red/notes.txt"):
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def photo_folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, (split, num) in enumerate({"train": 60, "test": 30}.items()):
        images, names = colour_photos(num, seed)
        pq.write_table(pa.table({"image": images, "label": names}), folder / f"{split}.parquet")
    return folder
