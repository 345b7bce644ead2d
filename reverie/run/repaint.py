"""One image of a run made again, alone, from its caption and seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow.compute as pc

from reverie import seeds
from reverie.errors import InputError
from reverie.run.engine import StepRunner
from reverie.run.events import Events
from reverie.run.plan import Plan
from reverie.stage import StepContext, UnitStage
from reverie.store import tables

MAX_RETRIES = 1000  # that repaint looks through


@dataclass(frozen=True)
class Repainted:
    """An image that was made again."""

    image: bytes  # encoded; of image tokens what they show
    same: bool  # whether it is the stored one
    by: Literal["bytes", "ids"]  # what was compared


def repaint(plan: Plan, folder: Path, pair_id: str, device: str = "cpu") -> Repainted:
    """Make one image again, from its caption and seed, without its neighbours.

    Returns: the image, beside the stored one: by their bytes, or by their ids where no picture is stored. On the machine and dtype that made it, they show the same picture;
        to the last bit only if the batch was as large.
    Raises: InputError if there is no such pair, or it is not an image that a step of this plan made.
    """
    columns = ["caption_id", "unit", "copy", "image", "tokens", "seed"]
    found = (
        [] if "'" in pair_id else list(_rows(StepContext(folder, "repaint").pairs, columns, f"pair_id = '{pair_id}'"))
    )
    step = next((step for step in plan.steps if step.kind == "pairs"), None)
    if not found or step is None:
        raise InputError(
            f"{folder} has no pair {pair_id!r}; the ids are in the report and in the pair_id column of the table"
        )
    with Events(folder) as events:
        work = StepRunner(plan, step, folder, device, events, _retry_of(found[0], plan.seed))
        captions = work.given(found[0]["unit"])
        caption = captions.filter(pc.equal(captions["caption_id"], found[0]["caption_id"]))
        stage = cast(UnitStage, step.stage)
        if not stage.keep_images:
            stage = replace(stage, keep_images=True)  # type: ignore[type-var]
        rows = stage.open(work.context)(caption)
    (row,) = rows.filter(pc.equal(rows["pair_id"], pair_id)).select(["image", "tokens"]).to_pylist()
    image: bytes | None = row["image"]
    if image is None:
        raise InputError(f"pair {pair_id} has no image; it could not be painted")
    stored = found[0]
    if stored["image"] is None and stored["tokens"] is not None:
        return Repainted(image, stored["tokens"] == row["tokens"], "ids")
    return Repainted(image, stored["image"] == image, "bytes")


def _retry_of(row: dict[str, Any], run_seed: int) -> int:
    """In which retry an image was made, by its seed; 0 if in none."""
    for retry in range(MAX_RETRIES):
        if row["seed"] in (seeds.image_seed(run_seed, row["caption_id"], row["copy"], 2 * retry + i) for i in (0, 1)):
            return retry
    return 0


def _rows(path: Path, columns: list[str], where: str) -> Iterator[dict[str, Any]]:
    if tables.exists(path):
        for batch in tables.scan(path, columns=columns, where=where):
            yield from batch.to_pylist()
