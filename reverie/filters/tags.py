"""Tags: the names of the objects that a detector finds in an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa

from reverie.errors import InputError
from reverie.stage import StepContext, UnitStage, Worker
from reverie.store.pictures import Speed, decoded


@dataclass(frozen=True)
class Tags(UnitStage):
    """Columns ``tags`` and ``tag_scores``: names of the objects in an image, the surest first, and their scores, 0 to 1.

    A name that is seen twice counts once, with its better score. Both lists are empty where nothing is found, and null where there
    is no readable image. Threshold and number as SynTIC needs them (arXiv:2312.08865, which leaves both open).
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("image",)

    model: str = "builtin:detector"
    threshold: float = 0.7  # lowest score
    max_tags: int = 10  # tags of an image
    speed: Speed = field(default_factory=Speed)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold {self.threshold} is no score; give a number from 0 to 1, such as 0.7")
        if self.max_tags < 1:
            raise InputError(f"at most {self.max_tags} tags cannot be; give 1 or more")

    def check(self) -> None:
        """That there is such a detector, before any work. Raises ModelError, UnknownName."""
        from reverie.models.detector import check_detector

        check_detector(self.model)

    def open(self, context: StepContext) -> Worker:
        """Load the detector. Raises ModelError, UnknownName."""
        from reverie.models.detector import OBJECTS, open_detector, tags

        detector = open_detector(self.model, context.device, self.speed.batch_size)

        def look(rows: pa.Table) -> pa.Table:
            seen: list[list[tuple[str, float]] | None] = [None] * len(rows)
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                for number, found in zip(numbers, detector.find(pictures, self.threshold, OBJECTS), strict=True):
                    seen[number] = tags(found, self.max_tags)
            return pa.table(
                {
                    "pair_id": rows["pair_id"],
                    "unit": rows["unit"],
                    "tags": pa.array(_part(seen, 0), pa.list_(pa.string())),
                    "tag_scores": pa.array(_part(seen, 1), pa.list_(pa.float32())),
                }
            )

        return look


def _part(seen: list[list[tuple[str, float]] | None], which: int) -> list[list[Any] | None]:
    return [None if some is None else [tag[which] for tag in some] for some in seen]
