"""A run folder as the engine leaves it, made by hand through the real plan, store and results."""

import io
import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reverie import pairs
from reverie.arms import Arm, pixels, untrained
from reverie.evaluate.linear_probe import LinearProbe
from reverie.report.page import WritePage
from reverie.run.plan import Plan, Step
from reverie.stage import Job, SourceStage, UnitStage
from reverie.store import results, tables

from ..records import result

EVIL = '<script>alert("1")</script> & <img src=x onerror=alert(2)>'


@dataclass(frozen=True)
class Write(SourceStage):
    writes: ClassVar[str] = "captions"
    count: int = 6
    note: str = EVIL


@dataclass(frozen=True)
class Paint(UnitStage):
    role: ClassVar[str] = "paint"
    writes: ClassVar[str] = "pairs"
    per_caption: int = 3
    guidance: float = 2.0


@dataclass(frozen=True)
class Score(UnitStage):
    writes: ClassVar[str] = "columns"
    model: str = "builtin:clip"


@dataclass(frozen=True)
class StableRep:
    temperature: float = 0.1


@dataclass(frozen=True)
class SimCLR:
    temperature: float = 0.1


@dataclass(frozen=True)
class Train(Job):
    learner: Any


def picture(colour, side=48):
    pixels = np.full((side, side, 3), 245, np.uint8)
    rows, columns = np.mgrid[:side, :side]
    pixels[(rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 3) ** 2] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_plan(num_captions=6, num_seeds=3):
    numbers = range(num_seeds)
    training = [
        Step(f"{kind.__name__.lower()}-{s}", Train(kind()), ("paint",)) for s in numbers for kind in (StableRep, SimCLR)
    ]
    trained = [Arm(name.lower(), name).under(s) for name in ("StableRep", "SimCLR") for s in numbers]
    arms = (*trained, *untrained(numbers), pixels())
    steps = (
        Step("captions", Write(num_captions)),
        Step("paint", Paint(), ("captions",)),
        Step("score", Score(), ("paint",)),
        *training,
        Step("probe", LinearProbe(arms), tuple(step.name for step in training)),
        Step("page", WritePage(), ("probe",)),
    )
    return Plan(
        "stablerep",
        steps,
        seed=7,
        unit_size=3,
        arguments={"guidance": 2.0, "painter": "it's; rm -rf ~", "seeds": (0, 1)},
    )


def write_tables(folder, num_captions=6):
    captions, images = [], []
    for n in range(num_captions):
        text = EVIL if n == 0 else f"a photo of thing number {n}"
        name = pairs.caption_id(7, "test", n)
        shared = {"caption_id": name, "unit": n // 3, "text": text, "label": EVIL if n == 0 else "thing"}
        captions.append(shared | {"source": "llm", "status": "ok"})
        for copy in range(3):
            row = shared | {"pair_id": pairs.pair_id(name, copy), "copy": copy, "origin": "painted", "status": "ok"}
            colour = tuple(int(v) for v in np.random.default_rng(n).integers(40, 220, 3))
            images.append(row | {"image": picture(colour), "width": 48, "height": 48})
    captions.append(shared | {"caption_id": "twice", "status": "dropped", "reason": f"the same as another {EVIL}"})
    images[4] |= {"status": "failed", "reason": "not a number", "image": None}
    images[7] |= {"status": "dropped", "reason": "black"}
    for unit in range(num_captions // 3):
        for table, rows, schema in (("captions", captions, pairs.CAPTIONS), ("pairs", images, pairs.PAIRS)):
            own = [row for row in rows if row["unit"] == unit]
            tables.append_unit(folder / f"{table}.lance", unit, pairs.table(own, schema))
    good = [row for row in images if row["status"] == "ok"]
    columns = {
        "pair_id": [row["pair_id"] for row in good],
        "unit": pa.array([0] * len(good), pa.int64()),
        "clip_score": pa.array([0.1 * (n % 5) for n in range(len(good))], pa.float32()),
        "kept": [n % 5 != 0 for n in range(len(good))],
        "drop_reason": [None if n % 5 else f"fails: clip_score >= 0.1 {EVIL}" for n in range(len(good))],
    }
    tables.append_unit(folder / "columns" / "keep.lance", 0, pa.table(columns))
    tables.add_columns(folder / "pairs.lance", folder / "columns" / "keep.lance")


def write_events(folder, plan, until):
    at, lines = 1000.0, [{"time": 1000.0, "kind": "run", "device": "cpu"}]
    lines.append({"time": at, "kind": "warning", "text": f"unknown words: {EVIL}"})
    (folder / "done").mkdir(exist_ok=True)
    for place, step in enumerate(plan.steps[:until]):
        lines.append({"time": at, "kind": "step", "step": step.name})
        lines.append({"time": at + 5 + place, "kind": "progress", "step": step.name, "done": 1, "total": 2})
        if place < until - 1:
            at += 10 + 7 * place
            lines.append({"time": at, "kind": "done", "step": step.name, "seconds": 10 + 7 * place})
            (folder / "done" / f"{step.name}.json").write_text("{}")
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"time": 3, "ki')


def write_curves(folder, plan):
    for number, step in enumerate(step for step in plan.steps if isinstance(step.stage, Train)):
        curve = folder / "checkpoints" / step.name / "curve.jsonl"
        curve.parent.mkdir(parents=True)
        noise = np.random.default_rng(number).normal(0, 0.05, 800)
        level = 1.2 if number % 2 else 1.6
        rows = [{"step": n + 1, "loss": 9.0, "kl": level * (1 + 3 * np.exp(-n / 150)) + noise[n]} for n in range(800)]
        curve.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_results(folder, num_seeds=3, num_test=400):
    means = {"StableRep": 0.31, "SimCLR": 0.25, "untrained": 0.12, "pixels": 0.17}
    labels = {"untrained": "untrained network", "pixels": "raw pixels"}
    hard = np.random.default_rng(0).random(num_test)  # every arm finds the same photos hard, as arms do
    for name, mean in means.items():
        for seed in range(1 if name == "pixels" else num_seeds):
            draw = np.random.default_rng([seed, len(name)])
            right = 0.6 * hard + 0.4 * draw.random(num_test) < mean * 0.95 + 0.02 * draw.normal()
            value = float(right.mean())
            top1 = result(
                arm=name.lower(), label=labels.get(name, name), seed=seed, value=value, correct=np.packbits(right).tobytes().hex(),
                weights=f"{name.lower()}-{seed}" if mean > 0.2 else None, num_train=2000, num_test=num_test,
                photos="smallworld:street:2000:400", num_classes=64,
            )  # fmt: skip
            near = replace(top1, metric="knn_top1", value=0.8 * value, correct=None)
            results.append(folder / "results.jsonl", top1, near)


@pytest.fixture
def run_folder(tmp_path):
    """A finished run."""
    folder, plan = tmp_path / "a run", make_plan()
    folder.mkdir()
    plan.settle(folder)
    write_tables(folder)
    write_events(folder, plan, until=len(plan.steps))
    write_curves(folder, plan)
    write_results(folder)
    return folder


def add_shapes(folder, metric="top1", gains=None):
    """Shape and colour beside the class of every arm, as they are on photos of the small world: shapes are easier by ``gains``."""
    records = results.read(folder / "results.jsonl")
    for name, seed in dict.fromkeys((record.arm, record.seed) for record in records):
        own = results.select(records, arm=name, seed=seed)
        top1 = next(record for record in own if record.metric == metric)
        more = []
        for ending, gain in (("shape", (gains or {}).get(name, 0.2)), ("colour", 0.5)):
            draw = np.random.default_rng([seed, len(name), len(ending)])
            right = draw.random(top1.num_test) < top1.value + gain
            bits = np.packbits(right).tobytes().hex()
            value = {"value": float(right.mean()), "num_classes": 8, "correct": bits}
            more.append(replace(top1, metric=f"{metric}_{ending}", **value))
        results.append(folder / "results.jsonl", *own, *more)
