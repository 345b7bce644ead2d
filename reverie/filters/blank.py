"""Images that show nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie.stage import StepContext, UnitStage, Worker
from reverie.store.pictures import Speed, decoded


@dataclass(frozen=True)
class Blank(UnitStage):
    """Columns ``spread`` and ``blank``.

    ``spread`` is the standard deviation of the pixels within a colour channel, of the channel where it is largest, with
    pixels in [0, 1]: 0 for one flat colour, 0.5 for half black and half white. ``blank`` is true below ``min_spread``.
    Both are null where there is no readable image.
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    adds: ClassVar[tuple[pa.Field, ...]] = (pa.field("spread", pa.float32()), pa.field("blank", pa.bool_()))

    min_spread: float = 0.02  # five grey levels of 255: JPEG noise and faint gradients stay below
    speed: Speed = field(default_factory=Speed)

    def open(self, context: StepContext) -> Worker:
        """Nothing to load."""

        def look(rows: pa.Table) -> pa.Table:
            spread = np.full(len(rows), np.nan, dtype=np.float32)
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                for number, picture in zip(numbers, pictures, strict=True):
                    spread[number] = np.asarray(picture).std(axis=(0, 1)).max() / 255
            unknown = np.isnan(spread)
            return pa.table(
                {
                    "pair_id": rows["pair_id"],
                    "unit": rows["unit"],
                    "spread": pa.array(spread, pa.float32(), mask=unknown),
                    "blank": pa.array(spread < self.min_spread, pa.bool_(), mask=unknown),
                }
            )

        return look
