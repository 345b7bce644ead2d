"""Captions -> CLIP features and tags of painted images, with or without the images themselves.

Source: SynTIC, arXiv:2312.08865, which needs of an image only its CLIP feature and its tags. For half a million captions that is
0.6 to 1.2 GB in place of 200 GB of pictures. An image that was not kept can be painted again with ``reverie repaint``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie import pairs
from reverie.errors import InputError
from reverie.images.pixels import PaintPixels
from reverie.stage import Role, StepContext, UnitStage, Worker
from reverie.store.pictures import decoded

if TYPE_CHECKING:
    from reverie.models.detector import Detector
    from reverie.models.encoder import Encoder

EMBEDDING = "embedding"  # column: unit vector, float32 (d,)


@dataclass(frozen=True)
class FeatureSpeed:
    """What changes the speed only."""

    batch_size: int = 64  # images through the encoder and the detector at once


@dataclass(frozen=True)
class PaintFeatures(UnitStage):
    """``PaintPixels`` with columns beside it: embedding, clip_score (cosine to the caption), tags and tag_scores."""

    role: ClassVar[Role] = "paint"
    writes: ClassVar[Literal["captions", "pairs", "columns"]] = "pairs"

    paint: PaintPixels = field(default_factory=PaintPixels)
    clip: str = "builtin:clip"
    detector: str | None = None  # any object detector of transformers; None leaves the tags empty
    threshold: float = 0.7  # lowest score of a thing that is told
    max_tags: int = 10  # different names of an image
    keep_images: bool = False
    speed: FeatureSpeed = field(default_factory=FeatureSpeed)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or self.max_tags < 1:
            raise InputError(f"threshold {self.threshold} lies in [0, 1], and max_tags {self.max_tags} is at least 1")

    @property
    def per_caption(self) -> int:
        """Images of each caption."""
        return self.paint.per_caption

    def check(self) -> None:
        """Raises what the painter's own check raises; ModelError, UnknownName for an encoder or detector that is not there."""
        from reverie.models.kinds import check_encoder

        self.paint.check()
        check_encoder(self.clip)
        if self.detector is not None:
            from reverie.models.detector import check_detector

            check_detector(self.detector)

    def check_device(self, device: str) -> None:
        """Raises what the painter's own check raises."""
        super().check_device(device)
        self.paint.check_device(device)

    def open(self, context: StepContext) -> Worker:
        """Load painter, encoder and detector. Raises ModelError, UnknownName, InputError."""
        from reverie.models.encoder import open_encoder

        paint = self.paint.open(context)
        encoder = open_encoder(self.clip, context.device, self.speed.batch_size)
        detector = None
        if self.detector is not None:
            from reverie.models.detector import open_detector

            detector = open_detector(self.detector, context.device, self.speed.batch_size)

        def work(captions: pa.Table) -> pa.Table:
            rows = paint(captions)
            columns = self._columns(rows, encoder, detector)
            if not self.keep_images:
                rows = rows.set_column(
                    rows.schema.get_field_index("image"), "image", pa.nulls(len(rows), pa.large_binary())
                )
            for name, column in columns.items():
                rows = rows.append_column(name, column)
            return rows

        return work

    def _columns(self, rows: pa.Table, encoder: Encoder, detector: Detector | None) -> dict[str, pa.Array]:
        from reverie.models.detector import OBJECTS, tags

        texts = sorted({text for text in rows["text"].to_pylist() if text})
        vectors = dict(zip(texts, encoder.texts(texts).numpy(), strict=True))
        found: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        seen: dict[int, Sequence[tuple[str, float]]] = {}
        usable = rows["status"].to_pylist()
        for numbers, pictures in decoded(rows, self.speed.batch_size):
            good = [place for place, number in enumerate(numbers) if usable[number] == pairs.OK]
            pictures, numbers = [pictures[place] for place in good], [numbers[place] for place in good]
            if not pictures:
                continue
            found |= zip(numbers, encoder.images(pictures).numpy(), strict=True)
            if detector is not None:
                things = detector.find(pictures, self.threshold, OBJECTS)
                seen |= zip(numbers, (tags(each, self.max_tags) for each in things), strict=True)
        size = next(iter(vectors.values())).shape[0] if vectors else encoder.texts(["a"]).shape[1]
        names = [rows["text"][number].as_py() for number in range(len(rows))]
        scores = [
            float(found[number] @ vectors[names[number]]) if number in found and names[number] else None
            for number in range(len(rows))
        ]
        kind = pa.list_(pa.float32(), size)
        return {
            EMBEDDING: pa.array([found.get(number) for number in range(len(rows))], kind),
            "clip_score": pa.array(scores, pa.float32()),
            "tags": pa.array([_part(seen.get(number), 0) for number in range(len(rows))], pa.list_(pa.string())),
            "tag_scores": pa.array([_part(seen.get(number), 1) for number in range(len(rows))], pa.list_(pa.float32())),
        }


def _part(told: Sequence[tuple[str, float]] | None, which: int) -> list[Any] | None:
    return None if told is None else [each[which] for each in told]
