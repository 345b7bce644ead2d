"""The examples of docs/adding-a-filter.md, run."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageFilter

from reverie.stage import settings
from tests.filters.conftest import noise, pair_rows

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-filter.md"


@pytest.fixture(scope="module")
def page():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_filter(page, context):
    sharp = noise(1).resize((96, 96))
    pictures = [sharp, sharp.filter(ImageFilter.GaussianBlur(4)), Image.new("RGB", (96, 96)), b"broken"]
    rows = pair_rows(pictures).select(["pair_id", "unit", "image"])
    found = page["Sharpness"]().open(context)(rows)
    values = found["sharpness"].to_pylist()
    assert values[0] > 10 * values[1] > values[2] == pytest.approx(0, abs=1e-6)
    assert values[3] is None
    assert found.schema.field("sharpness").type == pa.float32()
    assert np.isfinite(values[:3]).all()


def test_the_steps(page):
    sharpness, keep = page["steps"]
    assert (sharpness.kind, keep.kind) == ("columns", "job")
    assert settings(sharpness.stage) == {"stage": "Sharpness", "sigma_px": 1.0}
