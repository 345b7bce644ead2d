"""A recipe file like a user's own, with stages that cost nothing and can be told to be slow, to fail, or to break."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from reverie import pairs, seeds
from reverie.errors import InputError
from reverie.run.plan import Plan, Step
from reverie.stage import Job, Role, SourceStage, StepContext, UnitStage, Worker


@dataclass(frozen=True)
class Speed:
    pause_s: float = 0.0


@dataclass(frozen=True)
class Sentences(SourceStage):
    """ "a sentence about N" for each position; some drafts are dropped, some positions can fail."""

    writes: ClassVar[Literal["captions"]] = "captions"
    count: int = 10
    fail_file: str = ""  # positions listed in this JSON file fail

    def open(self, context: StepContext) -> Worker:
        fail = set(json.loads(Path(self.fail_file).read_text())["captions"]) if self.fail_file else set()

        def write(rows: pa.Table) -> pa.Table:
            made = []
            for row in rows.to_pylist():
                name = pairs.caption_id(context.seed, "fake", row["position"])
                base = {"unit": row["unit"], "source": "corpus", "seed": seeds.derive(context.seed, row["position"])}
                if row["position"] % 7 == 3:
                    made.append(
                        base
                        | {
                            "caption_id": pairs.caption_id(context.seed, "draft", row["position"]),
                            "status": pairs.DROPPED,
                            "reason": "a draft",
                        }
                    )
                bad = row["position"] in fail
                made.append(
                    base
                    | {"caption_id": name, "text": f"a sentence about {row['position']}"}
                    | {"status": pairs.FAILED if bad else pairs.OK, "reason": "told to" if bad else None}
                )
            return pairs.table(made, pairs.CAPTIONS)

        return write


@dataclass(frozen=True)
class PaintNoise(UnitStage):
    """Pictures of 8x8 noise, from nothing but the seed."""

    role: ClassVar[Role] = "paint"
    writes: ClassVar[Literal["pairs"]] = "pairs"
    per_caption: int = 2
    guidance: float = 2.0
    fail_file: str = ""  # texts listed in this JSON file fail in copy 0; "user error" ends the run
    speed: Speed = field(default_factory=Speed)

    def open(self, context: StepContext) -> Worker:
        fail = json.loads(Path(self.fail_file).read_text())["texts"] if self.fail_file else []

        def paint(rows: pa.Table) -> pa.Table:
            made = []
            for row in rows.to_pylist():
                time.sleep(self.speed.pause_s)
                if row["text"] in fail and "user error" in fail:
                    raise InputError("the fake painter was told to refuse this caption; tell it otherwise")
                for copy in range(self.per_caption):
                    seed = seeds.image_seed(context.seed, row["caption_id"], copy)
                    bad = copy == 0 and row["text"] in fail
                    made.append(
                        {
                            "pair_id": pairs.pair_id(row["caption_id"], copy),
                            **{key: row[key] for key in ("caption_id", "unit", "text", "label")},
                            "copy": copy,
                            "seed": seed,
                            "origin": "painted",
                            "width": 8,
                            "height": 8,
                            "guidance": self.guidance,
                            "image": None if bad else _png(seed),
                            "status": pairs.FAILED if bad else pairs.DROPPED if seed % 11 == 0 else pairs.OK,
                            "reason": "told to" if bad else "unlucky" if seed % 11 == 0 else None,
                        }
                    )
            return pairs.table(made, pairs.PAIRS)

        return paint


def _png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Brightness(UnitStage):
    """The mean of the pixels, as a column."""

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    scale: float = 1.0

    def open(self, context: StepContext) -> Worker:
        def look(rows: pa.Table) -> pa.Table:
            means = [
                float(np.asarray(Image.open(io.BytesIO(data))).mean()) * self.scale
                for data in rows["image"].to_pylist()
            ]
            return rows.select(["pair_id", "unit"]).append_column("brightness", pa.array(means, pa.float32()))

        return look


@dataclass(frozen=True)
class CountPairs(Job):
    """A job: one number."""

    role: ClassVar[Role] = "measure"

    where: str = "status = 'ok' and brightness > 0"

    def run(self, context: StepContext) -> None:
        from reverie.store import tables

        context.report("progress", done=1, total=1)
        number = tables.count(context.pairs, where=self.where)
        (context.folder / f"{context.step}.txt").write_text(str(number))


def fake_recipe(
    count: int = 10,
    guidance: float = 2.0,
    per_caption: int = 2,
    seed: int = 0,
    unit_size: int = 4,
    pause_s: float = 0.0,
    fail_file: str = "",
) -> Plan:
    """Sentences, noise and its brightness.

    Args:
        count: captions.
        guidance: changes nothing but the record.
    """
    steps = (
        Step("captions", Sentences(count, fail_file)),
        Step("paint", PaintNoise(per_caption, guidance, fail_file, Speed(pause_s)), inputs=("captions",)),
        Step("brightness", Brightness(), inputs=("paint",)),
        Step("count", CountPairs(), inputs=("paint", "brightness")),
    )
    return Plan("fake_recipe", steps, seed=seed, unit_size=unit_size)


def changed(plan: Plan, name: str, **fields: object) -> Plan:
    """The plan with other fields in the stage of one step."""
    steps = tuple(
        dataclasses.replace(step, stage=dataclasses.replace(step.stage, **fields)) if step.name == name else step  # type: ignore[type-var]
        for step in plan.steps
    )
    return dataclasses.replace(plan, steps=steps)
