"""CLIP score: the cosine between an image and its caption."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie.stage import StepContext, UnitStage, Worker
from reverie.store.pictures import Speed, decoded


@dataclass(frozen=True)
class ClipScore(UnitStage):
    """Column ``clip_score``: cosine between image and caption, in [-1, 1]; null where there is no readable image or text.

    Texts longer than the encoder's limit are cut with the end token kept; each unit reports how many were.
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("text", "image")
    adds: ClassVar[tuple[pa.Field, ...]] = (pa.field("clip_score", pa.float32()),)

    model: str = "builtin:clip"
    speed: Speed = field(default_factory=Speed)

    def check_device(self, device: str) -> None:
        """Raises also ModelError, UnknownName for a model that is no encoder of images and texts."""
        from reverie.models.kinds import check_encoder

        super().check_device(device)
        check_encoder(self.model)

    def open(self, context: StepContext) -> Worker:
        """Load the encoder. Raises ModelError, UnknownName."""
        from reverie.models.encoder import open_encoder

        encoder = open_encoder(self.model, context.device, self.speed.batch_size)

        def score(rows: pa.Table) -> pa.Table:
            scores = np.full(len(rows), np.nan, dtype=np.float32)
            texts = rows["text"].to_pylist()
            distinct = sorted({text for text in texts if text})  # a caption is encoded once, not once a copy
            cut_before = encoder.num_cut
            vectors = dict(zip(distinct, encoder.texts(distinct).numpy(), strict=True))
            if cut := encoder.num_cut - cut_before:
                context.report("text_cut", num_cut=cut, num_texts=len(distinct), model=encoder.revision)
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                for number, vector in zip(numbers, encoder.images(pictures).numpy(), strict=True):
                    if texts[number]:
                        scores[number] = vector @ vectors[texts[number]]
            found = pa.array(scores, pa.float32(), mask=np.isnan(scores))
            return pa.table({"pair_id": rows["pair_id"], "unit": rows["unit"], "clip_score": found})

        return score
