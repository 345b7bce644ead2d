import numpy as np
import pytest
from PIL import Image

from reverie.filters.blank import Blank
from tests.filters.conftest import drawn, encoded, noise, pair_rows


def looked_at(context, pictures, **options):
    stage = Blank(**options)
    return stage.open(context)(pair_rows(pictures).select(["pair_id", "unit", *stage.reads])).to_pylist()


def test_spread_by_hand(context):
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4, :, 1] = 255  # one channel, half of it
    spreads = [
        row["spread"] for row in looked_at(context, [Image.fromarray(half), Image.new("RGB", (8, 8), (9, 9, 9))])
    ]
    assert spreads == pytest.approx([0.5, 0.0])


def test_blank(context):
    grey = Image.new("RGB", (32, 32), (120, 130, 140))
    pictures = [
        grey,
        encoded(grey, "JPEG", quality=50),
        Image.new("RGB", (32, 32)),
        drawn(),
        noise(1),
        drawn(box=(30, 30, 33, 33)),
    ]
    assert [row["blank"] for row in looked_at(context, pictures)] == [True, True, True, False, False, False]
    assert [row["blank"] for row in looked_at(context, [drawn()], min_spread=0.5)] == [True]


def test_null_without_a_readable_image(context):
    assert looked_at(context, [b"broken"]) == [
        {"pair_id": pair_rows([None])["pair_id"][0].as_py(), "unit": 0, "spread": None, "blank": None}
    ]
