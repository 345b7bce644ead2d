"""Painted pairs beside those of the run: the same captions by another painter, or other captions, as a store of their own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from reverie import pairs
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError
from reverie.images.tokens import PaintTokens, TokenWorker
from reverie.stage import Job, StepContext
from reverie.store import tables

COLUMNS = ["caption_id", "unit", "text", "label"]


@dataclass(frozen=True)
class PaintApart(Job):
    """Captions -> image tokens in ``context.shots()``, as a step that took photos leaves them. The run's own pairs stay as they are.

    Of the same caption two painters begin at the same noise.
    """

    paint: PaintTokens = field(default_factory=PaintTokens)
    of: Path | str | None = (
        None  # store, or the step that took pairs, whose captions are painted; the run's captions when absent
    )

    def check(self) -> None:
        """Raises InputError for a store that is not there, and what the painting stage raises."""
        check_store(self.of)
        self.paint.check()

    def check_device(self, device: str) -> None:
        """As the painting stage."""
        self.paint.check_device(device)

    def run(self, context: StepContext) -> None:
        """Paint the units that are left. Raises InputError if no caption could be painted; what the painting stage raises."""
        source = shots_store(context, self.of) if self.of else context.captions
        own, units = context.shots() / "pairs.lance", sorted(tables.done_units(source))
        done = tables.done_units(own) if tables.exists(own) else set()
        work = self._opened(context) if set(units) - done else None
        for number, unit in enumerate(units, 1):
            if work and unit not in done:
                tables.append_unit(own, unit, work(tables.read_unit(source, unit, COLUMNS, only=pairs.OK)))
            context.report("progress", done=number, total=len(units), what="units")
        if not tables.exists(own) or not tables.count(own, f"status = '{pairs.OK}'"):
            raise InputError(f"no caption of {source} could be painted")

    def _opened(self, context: StepContext) -> TokenWorker:
        """The worker, to whom this store is the run: its pairs may be by another painter than the run's own."""
        paint = self.paint
        named = dataclasses.replace(
            paint,
            model=context.model(paint.model),
            tokenizer=context.model(paint.tokenizer) if paint.tokenizer else None,
        )
        return named.open(dataclasses.replace(context, folder=context.shots()))
