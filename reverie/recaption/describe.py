"""What a captioner says of every image, in columns beside the text that came with it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from reverie.errors import InputError
from reverie.pairs import CAPTIONS, PAIRS
from reverie.recaption.flags import EMPTY, flags_of
from reverie.stage import StepContext, UnitStage, Worker
from reverie.store.pictures import Speed, decoded

NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Describe(UnitStage):
    """Three columns: ``caption_short`` (or as ``column`` says) with what the captioner says, and two about it.

    ``caption_short_by`` names the captioner by its content, and ``caption_short_flags`` what is wrong with a caption (see
    recaption/flags.py). A caption without a word is null and flagged; all three are null where there is no readable image.
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("image",)

    captioner: Path  # a folder that ``load_captioner`` opens: a run of syntic, or its weights
    column: str = "caption_short"
    beams: int = 1  # 1 takes the likeliest word each time; more search that many sentences at once
    content: str = field(default="", init=False, compare=False)  # 16 hex digits of the captioner's weights and settings
    speed: Speed = field(default_factory=Speed)

    def __post_init__(self) -> None:
        from reverie.models.artifacts import content_of, has_artifact

        if not NAME.fullmatch(self.column):
            raise InputError(f"--column {self.column!r}: small letters, digits and '_' only, such as caption_short")
        if taken := next((item.name for item in self.adds if item.name in (*PAIRS.names, *CAPTIONS.names)), None):
            raise InputError(
                f"--column {self.column!r} would overwrite the column {taken!r} of every pair; give another"
            )
        if self.beams < 1:
            raise InputError(f"{self.beams} beams cannot be; give 1 or more")
        if has_artifact("captioner", Path(self.captioner)):
            object.__setattr__(self, "content", content_of("captioner", Path(self.captioner)))

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        """The columns."""
        return (
            pa.field(self.column, pa.string()),
            pa.field(f"{self.column}_by", pa.string()),
            pa.field(f"{self.column}_flags", pa.list_(pa.string())),
        )

    def check(self) -> None:
        """That there is a finished captioner, before any work. Raises InputError."""
        from reverie.models.artifacts import find_artifact

        find_artifact("captioner", Path(self.captioner))

    def open(self, context: StepContext) -> Worker:
        """Load the captioner. Raises InputError, ModelError."""
        from reverie.models.captioner import load_captioner

        captioner = load_captioner(self.captioner, context.device, self.speed.batch_size)
        encoder = captioner.encoder
        by = f"captioner {self.content}" + f", beam {self.beams}" * (self.beams > 1)

        def describe(rows: pa.Table) -> pa.Table:
            told: list[tuple[str | None, str, list[str]] | None] = [None] * len(rows)
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                texts = [said.text for said in captioner(pictures, self.beams)]
                for number, text, length in zip(numbers, texts, encoder.num_tokens(texts), strict=True):
                    flags = flags_of(text, length, encoder.limit)
                    told[number] = (None if EMPTY in flags else text, by, flags)
            made: dict[str, Any] = {"pair_id": rows["pair_id"], "unit": rows["unit"]}
            for place, item in enumerate(self.adds):
                made[item.name] = pa.array([each and each[place] for each in told], item.type)
            return pa.table(made)

        return describe
