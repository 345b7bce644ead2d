"""A filter of one's own: how colourful is a picture? And a rule that keeps the most colourful half of each caption's."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

import reverie
from reverie.stage import UnitStage


@dataclass(frozen=True)
class Colourful(UnitStage):
    """Column ``colourful``: how far the channels of a picture are apart, in [0, 1]; null without a readable picture."""

    writes: ClassVar[str] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("image",)

    def open(self, context):
        def look(rows: pa.Table) -> pa.Table:
            found = np.full(len(rows), np.nan, dtype=np.float32)
            for numbers, pictures in reverie.decoded(rows, 64):
                for number, picture in zip(numbers, pictures, strict=True):
                    found[number] = np.ptp(np.asarray(picture, dtype=np.float32) / 255, axis=2).mean()
            column = pa.array(found, mask=np.isnan(found))
            return pa.table({"pair_id": rows["pair_id"], "unit": rows["unit"], "colourful": column})

        return look


plan = reverie.Plan(
    recipe="colourful",
    steps=(
        reverie.Step("captions", reverie.FillTemplates(("red circle", "blue star"), ("a {class}",))),
        reverie.Step("paint", reverie.PaintPixels(per_caption=4, steps=4), inputs=("captions",)),
        reverie.Step("colourful", Colourful(), inputs=("paint",)),
        reverie.Step("keep", reverie.Keep("status = 'ok'", 0.5, "colourful", "caption"), inputs=("colourful",)),
    ),
)
run = reverie.run(plan, "runs/colourful")
for pair in run.pairs.where("kept"):
    print(f"{pair['colourful']:.3f}  {pair['text']}")
