"""Real filtering: how much nearer a painted image is to real shots of its own class than to those of others; and its nearest shot.

Source: real filtering of arXiv:2210.07574 (section 2.7 of the method). The paper does not give its rule and its code does
not hold it. Ours: an image is kept if its largest cosine to a shot of its own class is no smaller than its largest cosine to
a shot of any other class; the difference is the margin, and ``KeepPerClass`` sets the bound on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reverie.datasets.few_shot import check_shots, check_store, read_shots
from reverie.errors import InputError
from reverie.stage import StepContext, UnitStage, Worker
from reverie.store.pictures import Speed, decoded

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ShotSet:
    """Real shots to compare with. ``name`` tells columns of several sets apart."""

    shots: str | Path  # the step that took them, or a store of labelled photos, made by reverie import
    num: int | None = None  # the first so many of each class; all when None
    name: str = ""

    def __post_init__(self) -> None:
        check_shots(self.shots, self.num)

    @property
    def column(self) -> str:
        """Of the margin."""
        return f"shot_margin_{self.name}" if self.name else "shot_margin"


@dataclass(frozen=True)
class ShotMargin(UnitStage):
    """Columns ``shot_margin`` of each set, ``nearest_shot`` and ``nearest_shot_similarity`` over all shots of all sets.

    ``shot_margin`` is the largest cosine to a shot of the image's own class less the largest to one of another class, in
    [-2, 2]: negative where a shot of another class is nearest. ``nearest_shot`` is a pair_id in the store of the shots, whatever
    its class; near 1, the image repeats a photo. Null without readable image; the margin also without label, or where no shot
    is of its class or none is of another.
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("label", "image")

    sets: tuple[ShotSet, ...]
    model: str = "builtin:clip"
    speed: Speed = field(default_factory=Speed)

    def __post_init__(self) -> None:
        columns = [each.column for each in self.sets]
        if not columns or len(set(columns)) < len(columns):
            raise InputError(f"sets of shots must be there and differ by name; got {', '.join(columns) or 'none'}")

    def check(self) -> None:
        """Raises InputError for a store of shots that is not there."""
        for each in self.sets:
            check_store(each.shots)

    def check_device(self, device: str) -> None:
        """Raises also ModelError, UnknownName for a model that is no encoder of images and texts."""
        from reverie.models.kinds import check_encoder

        super().check_device(device)
        check_encoder(self.model)

    def open(self, context: StepContext) -> Worker:
        """Load the encoder, encode each shot once. Raises InputError for no shots; ModelError, UnknownName."""
        from reverie.models.encoder import open_encoder

        encoder = open_encoder(self.model, context.device, self.speed.batch_size)
        shots: dict[str, tuple[str, bytes]] = {}
        members: list[list[str]] = []
        for each in self.sets:
            names = []
            for rows in read_shots(context, each.shots, each.num, ["pair_id", "label", "image"]):
                for row in rows.to_pylist():
                    names.append(row["pair_id"])
                    shots.setdefault(row["pair_id"], (row["label"], row["image"]))
            members.append(names)
        ids = list(shots)
        labels = np.array([label for label, _ in shots.values()])
        table = pa.table({"pair_id": ids, "image": pa.array([data for _, data in shots.values()], pa.large_binary())})
        found = [
            (numbers, encoder.images(pictures).numpy()) for numbers, pictures in decoded(table, self.speed.batch_size)
        ]
        if sum(len(numbers) for numbers, _ in found) < len(ids):
            raise InputError("a shot cannot be decoded; take the shots again, or look at them with: reverie verify")
        keys = np.concatenate([rows for _, rows in found])
        inside = [np.isin(ids, names) for names in members]

        def look(rows: pa.Table) -> pa.Table:
            own = np.array([label if label is not None else "" for label in rows["label"].to_pylist()])
            margins = np.full((len(self.sets), len(rows)), np.nan, dtype=np.float32)
            nearest: list[str | None] = [None] * len(rows)
            alike = np.full(len(rows), np.nan, dtype=np.float32)
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                cosines = encoder.images(pictures).numpy() @ keys.T
                for place_of, chosen in enumerate(inside):
                    margins[place_of, numbers] = margin(cosines[:, chosen], labels[chosen], own[numbers])
                for number, row in zip(numbers, cosines, strict=True):
                    nearest[number], alike[number] = ids[int(row.argmax())], row.max()
            columns: dict[str, Any] = {
                each.column: pa.array(values, pa.float32(), mask=np.isnan(values))
                for each, values in zip(self.sets, margins, strict=True)
            }
            columns["nearest_shot"] = pa.array(nearest, pa.string())
            columns["nearest_shot_similarity"] = pa.array(alike, pa.float32(), mask=np.isnan(alike))
            return pa.table({"pair_id": rows["pair_id"], "unit": rows["unit"], **columns})

        return look


def margin(
    cosines: Floats, shot_labels: Sequence[str] | npt.NDArray[Any], labels: Sequence[str] | npt.NDArray[Any]
) -> Floats:
    """Largest cosine to shots of the own class less the largest to others.

    Args: cosines: (images, shots). shot_labels: (shots,). labels: (images,).
    Returns: (images,), NaN where either kind of shot is missing.
    """
    same = np.asarray(labels)[:, None] == np.asarray(shot_labels)[None]
    own = np.where(same, cosines, -np.inf).max(axis=1, initial=-np.inf)
    others = np.where(same, -np.inf, cosines).max(axis=1, initial=-np.inf)
    known = np.isfinite(own) & np.isfinite(others)
    return np.where(known, np.where(known, own, 0) - np.where(known, others, 0), np.nan).astype(np.float32)
