"""Captions, images, all filters and the selection through the engine."""

import io
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
from PIL import Image

from reverie import pairs
from reverie.captions.templates import FillTemplates
from reverie.filters.blank import Blank
from reverie.filters.clip_confidence import ClipConfidence
from reverie.filters.clip_score import ClipScore
from reverie.filters.duplicates import Duplicates, ImageHash
from reverie.filters.keep import Keep
from reverie.run.engine import run
from reverie.run.plan import Plan, Step
from reverie.stage import UnitStage
from reverie.store import tables
from tests.filters.conftest import drawn, encoded


@dataclass(frozen=True)
class Draw(UnitStage):
    """Copy 0 shows the colour of the label, copy 1 is the same picture again, copy 2 is blank, copy 3 fails."""

    writes: ClassVar = "pairs"
    per_caption: int = 4

    def open(self, context):
        def work(captions):
            rows = []
            for caption in captions.to_pylist():
                for copy in range(4):
                    colour = caption["label"].split()[0]
                    place_px = 4 + len(rows) % 40
                    picture = (
                        Image.new("RGB", (64, 64)) if copy == 2 else drawn(colour=colour, box=(4, place_px, 30, 60))
                    )
                    if copy == 1:
                        picture = Image.open(io.BytesIO(rows[-1]["image"]))
                    good = {"image": encoded(picture), "width": 64, "height": 64, "status": "ok"}
                    rows.append(
                        {key: caption[key] for key in ("caption_id", "unit", "text", "label")}
                        | {"pair_id": pairs.pair_id(caption["caption_id"], copy), "copy": copy, "origin": "painted"}
                        | (good if copy < 3 else {"status": "failed", "reason": "NaN"})
                    )
            return pairs.table(rows, pairs.PAIRS)

        return work


def plan(clip):
    classes = ("red circle", "blue square")
    rule = "status = 'ok' and not blank and duplicate_of is null and clip_score > -1 and clip_confidence > 0"
    return Plan(
        recipe="test",
        unit_size=3,
        steps=(
            Step("captions", FillTemplates(classes, ("a {class}", "the {class}"), per_class=2)),
            Step("draw", Draw(), inputs=("captions",)),
            Step("blank", Blank(), inputs=("draw",)),
            Step("score", ClipScore(clip), inputs=("draw",)),
            Step("confidence", ClipConfidence(classes, model=clip), inputs=("draw",)),
            Step("hash", ImageHash(), inputs=("draw",)),
            Step("duplicates", Duplicates(near=False), inputs=("hash",)),
            Step("keep", Keep(rule), inputs=("blank", "score", "confidence", "duplicates")),
        ),
    )


def test_a_whole_run(tmp_path, tiny_clip):
    folder = tmp_path / "run"
    assert run(plan(str(tiny_clip)), folder)
    rows = pa.concat_tables(tables.scan(folder / "pairs.lance")).to_pylist()
    assert len(rows) == 16
    originals, blanks = {}, []
    for row in rows:
        if row["status"] == "failed":
            assert row["drop_reason"] == "fails: status = 'ok'"
        elif row["blank"]:
            assert row["drop_reason"] == "fails: not blank"
            blanks.append(row)
        elif row["duplicate_of"]:
            assert row["drop_reason"] == "fails: duplicate_of is null"
            assert row["duplicate_of"][:16] == row["caption_id"]
        else:
            assert row["kept"]
            originals[row["caption_id"]] = row
    assert (len(blanks), len(originals)) == (4, 4)
    assert sum(row["duplicate_of"] is None for row in blanks) == 1  # they repeat each other
    assert tables.verify(folder, per_caption=4) == []

    before = tables.scan(folder / "pairs.lance", ["pair_id", "kept", "drop_reason"])
    (folder / "done" / "keep.json").unlink()  # as if it was killed after joining
    assert run(plan(str(tiny_clip)), folder)
    after = tables.scan(folder / "pairs.lance", ["pair_id", "kept", "drop_reason"])
    assert pa.concat_tables(before).equals(pa.concat_tables(after))
