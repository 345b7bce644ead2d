from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from reverie.errors import InputError
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.store import results

SMALL: dict[str, Any] = {
    "painted_per_class": (1,), "real_per_class": (2,), "mixed_per_class": (1,), "per_caption": 1, "sampler_steps": 2,
    "train_steps": 2, "batch_size": 8, "eval_data": "smallworld:street:128:64", "seeds": (0,),
}  # fmt: skip


def scratch_efficiency(**flags: Any) -> Plan:
    return call_recipe("scratch_efficiency", flags)


def test_the_whole_line_and_again_from_its_images(tmp_path: Path) -> None:
    plan = call_recipe("scratch_efficiency", SMALL)
    assert run(dataclasses.replace(plan, unit_size=64), tmp_path / "run") is True
    rows = results.read(tmp_path / "run" / "results.jsonl")
    found = {row.arm: (row.num_real, row.num_painted) for row in results.select(rows, metric="top1")}
    assert found == {"painted-1": (0, 64), "real-1": (64, 0), "real-2": (128, 0), "real-1-painted-1": (64, 64)}
    assert {row.label for row in results.select(rows, real=1, painted=1)} == {"1 real and 1 painted a class"}
    worth = results.select(rows, metric="worth_real_photos")
    assert {row.arm for row in worth} == {"painted-1", "real-1-painted-1"}
    assert "1 painted a class" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")

    again = call_recipe("scratch_efficiency", SMALL | {"images_from": tmp_path / "run"})
    assert [step.name for step in again.steps] == ["scratch", "worth", "page"]
    assert again.step("scratch").stage.where == "kept"  # type: ignore[attr-defined]
    assert run(again, tmp_path / "again") is True
    both = [results.select(results.read(tmp_path / name / "results.jsonl"), metric="top1") for name in ("run", "again")]
    numbers = [{row.arm: row.value for row in each} for each in both]
    assert numbers[0] == numbers[1]


def test_as_many_images_are_painted_as_the_largest_arm_wants(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n", encoding="utf-8")
    plan = scratch_efficiency(
        classes=tmp_path / "classes.txt",
        eval_data="there",
        painted_per_class=(5, 100),
        real_per_class=(5, 50),
        painter="owner/painter",
    )
    assert plan.num_captions == 50 * 3  # of eight templates, each six or seven times
    assert plan.step("paint").stage.per_caption == 2  # type: ignore[attr-defined]
    arms = plan.step("scratch").stage.arms  # type: ignore[attr-defined]
    assert {(arm.factors["real"], arm.factors["painted"]) for arm in arms} == {
        (0, 5),
        (0, 100),
        (5, 0),
        (50, 0),
        (2, 0),
        (2, 100),
    }
    assert all(arm.step is arm.factors.get("start") is None for arm in arms)


def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("cat\n", encoding="utf-8")

    def refused(said: str, **flags: Any) -> None:
        with pytest.raises(InputError, match=said):
            scratch_efficiency(**(SMALL | flags))

    refused("two classes or more", classes=tmp_path / "one.txt")
    refused("--classes needs --eval-data", classes=tmp_path / "one.txt", eval_data=None)
    refused("--painted-per-class takes different numbers", painted_per_class=(5, 5))
    refused("--real-per-class 0: give 1 or more", real_per_class=(0,))
    refused("there is no curve", real_per_class=(1,), mixed_per_class=())
    refused("at least one seed", seeds=())
    refused(
        "make fewer than 50 images", painted_per_class=(50,), per_caption=1, per_class=2, templates=sentences(tmp_path)
    )
    refused("no pairs.lance", images_from=tmp_path)


def sentences(folder: Path) -> Path:
    (folder / "sentences.txt").write_text("a {class}\na big {class}\n", encoding="utf-8")
    return folder / "sentences.txt"
