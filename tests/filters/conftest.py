import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from reverie import pairs
from reverie.stage import StepContext
from reverie.store import tables
from tests.models import tiny


class Events(list):
    """What a stage reported."""

    def __call__(self, kind, **facts):
        self.append((kind, facts))


@pytest.fixture
def context(tmp_path):
    return StepContext(tmp_path, "filter", inputs=("images",), report=Events())


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("clip") / "clip")


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(seed, size=(24, 20)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def drawn(shape="ellipse", colour="red", box=(16, 16, 44, 44), background="white", size=64):
    picture = Image.new("RGB", (size, size), background)
    getattr(ImageDraw.Draw(picture), shape)(box, fill=colour)
    return picture


def pair_rows(pictures, unit=0, per_caption=1, texts=None, labels=None, status=None):
    """Pair rows of one unit; a picture may be given as bytes, or as None."""
    rows = []
    for number, picture in enumerate(pictures):
        caption = pairs.caption_id(0, "test", f"{unit}/{number // per_caption}")
        rows.append(
            {
                "pair_id": pairs.pair_id(caption, number % per_caption),
                "caption_id": caption,
                "copy": number % per_caption,
                "unit": unit,
                "text": texts[number] if texts else "a red circle",
                "label": labels[number] if labels else None,
                "image": picture if isinstance(picture, bytes | None) else encoded(picture),
                "status": status[number] if status else "ok",
                "reason": None if not status or status[number] == "ok" else "some reason",
            }
        )
    return pairs.table(rows, pairs.PAIRS)


def run_columns(stage, context, name, rows):
    """Run a columns stage over units as the engine does, and join what it made."""
    at = StepContext(context.folder, name, report=context.report)
    worker = stage.open(at)
    for unit in sorted(set(rows["unit"].to_pylist())):
        part = rows.filter(pa.compute.equal(rows["unit"], unit))
        made = worker(part.select(["pair_id", "unit", *stage.reads]))
        tables.append_unit(at.columns(), unit, made)
    tables.add_columns(context.pairs, at.columns())


def all_rows(context, columns):
    rows = pa.concat_tables(tables.scan(context.pairs, ["pair_id", *columns])).to_pylist()
    return {row.pop("pair_id"): row for row in rows}
