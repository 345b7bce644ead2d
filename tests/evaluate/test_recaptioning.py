"""What a study of recaptioning makes of scores, by hand; and what its page draws of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reverie.arms import Arm
from reverie.errors import InputError, StoreError
from reverie.evaluate.recaptioning import (
    Asked,
    Curve,
    MeasureMatrix,
    MeasureRanks,
    MeasureSteps,
    MeasureTuning,
    captions_of,
)
from reverie.models.names import builtin_folder
from reverie.recaption.checks import Things, quality_of_each
from reverie.recaption.mix import Mix
from reverie.report.plots import prompt_matrix
from reverie.stage import StepContext
from reverie.store import results
from tests.recaption.test_mix import fill
from tests.records import result

KINDS = ("alt", "short", "long")


def found(folder: Path, step: str) -> dict[tuple[str, str, int], Any]:
    return {
        (row.arm, row.metric, row.seed): row.value
        for row in results.select(results.read(folder / "results.jsonl"), step=step)
    }


def scored(
    folder: Path, values: dict[str, dict[str, float]], metric: str = "qa:judge", seeds: tuple[int, ...] = (0,)
) -> None:
    """Values of arm by step."""
    results.append(
        folder / "results.jsonl",
        *(
            result(step=step, arm=arm, seed=seed, metric=metric, value=value + 0.01 * seed, protocol="generation")
            for step, own in values.items() for arm, value in own.items() for seed in seeds
        ),
    )  # fmt: skip


def matrix(folder: Path, seeds: tuple[int, ...] = (0,), **changes: Any) -> MeasureMatrix:
    asked = tuple(Asked(kind, (f"asked-{kind}",), (f"smallworld:{kind}:40",)) for kind in KINDS)
    asked = (*asked, Asked("both", ("asked-short", "asked-long"), ("smallworld:short:40", "smallworld:long:40")))
    own: dict[str, Any] = {
        "learned": tuple((kind, Mix.read([kind])) for kind in KINDS),
        "asked": asked,
        "store": folder,
        "seeds": seeds,
    }
    return MeasureMatrix(**own | changes)


def test_the_matrix_says_who_is_best_on_what_it_learned_from(tmp_path: Path) -> None:
    fill(tmp_path, 40)
    scored(
        tmp_path,
        {
            "asked-alt": {"alt": 0.6, "short": 0.5, "long": 0.3}, "asked-short": {"alt": 0.4, "short": 0.5, "long": 0.6},
            "asked-long": {"alt": 0.2, "short": 0.5, "long": 0.8},
        },
        seeds=(0, 1),
    )  # fmt: skip
    matrix(tmp_path, (0, 1)).run(StepContext(tmp_path, "matrix"))
    numbers = found(tmp_path, "matrix")
    assert numbers["matrix", "columns_best", 0] == numbers["matrix", "columns_best", 1] == 2
    assert numbers["short", "matched_advantage", 0] == pytest.approx(0.0)
    assert numbers["long", "matched_advantage", 1] == pytest.approx(0.8 - (0.2 + 0.5) / 2)
    assert -1 <= numbers["matrix", "spearman", 0] <= 1
    (record, *_) = results.select(results.read(tmp_path / "results.jsonl"), step="matrix", metric="columns_best")
    assert record.details["prompts"] == ["alt", "short", "long", "both"]
    assert [row[3] for row in record.details["scores"]] == pytest.approx([0.3, 0.5, 0.7])  # the mean of its parts
    drawn = str(prompt_matrix(np.array(record.details["scores"]), KINDS, ("alt", "short", "long", "both"), "qa:judge"))
    assert "<svg" in drawn
    assert "80.0%" in drawn

    with pytest.raises(InputError, match="asked-alt has not measured qa:judge of every arm with every seed"):
        matrix(tmp_path, (0, 1, 2)).run(StepContext(tmp_path, "matrix"))
    with pytest.raises(InputError, match="nobody is asked with captions of alt"):
        matrix(
            tmp_path,
            asked=(
                Asked("short", ("asked-short",), ("smallworld:short:40",)),
                Asked("long", ("asked-long",), ("smallworld:long:40",)),
            ),
        )


def test_ranks_are_means_over_metrics_and_errors_are_better_when_low(tmp_path: Path) -> None:
    scored(tmp_path, {"asked": {"short": 0.5, "long": 0.7, "mix": 0.6}})
    scored(tmp_path, {"asked": {"short": 0.5, "long": 0.7, "mix": 0.6}}, "ca:judge")
    arms = tuple(Arm(name, name) for name in ("short", "long", "mix"))
    with pytest.raises(InputError, match="asked has no metric of all of short, long, mix with seed 4"):
        MeasureRanks(arms, "asked", (4,)).run(StepContext(tmp_path, "ranks"))
    results.drop(tmp_path / "results.jsonl", "asked")
    both = [
        result(step="asked", arm=arm, seed=0, metric=metric, value=value, protocol="generation")
        for metric, values in {"qa:judge": (0.5, 0.7, 0.6), "fd:pixels": (5, 7, 6), "pa:judge": (0.5, 0.5, 0.1)}.items()
        for arm, value in zip(("short", "long", "mix"), values, strict=True)
    ]
    results.append(tmp_path / "results.jsonl", *both)
    MeasureRanks(arms, "asked").run(StepContext(tmp_path, "ranks"))
    numbers = found(tmp_path, "ranks")
    assert numbers["short", "mean_rank", 0] == pytest.approx((3 + 1 + 1.5) / 3)
    assert numbers["mix", "mean_rank", 0] == pytest.approx((2 + 2 + 3) / 3)
    assert [numbers[arm, "worst", 0] for arm in ("short", "long", "mix")] == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_steps_are_those_after_which_an_arm_has_what_the_least_has_in_the_end(tmp_path: Path) -> None:
    scored(tmp_path, {"asked": {"alt-half": 0.3, "alt": 0.5, "long-half": 0.5, "long": 0.9}})
    curves = tuple(Curve(Arm(name, name), ((10, f"{name}-half"), (20, name))) for name in ("alt", "long"))
    MeasureSteps(curves, "asked").run(StepContext(tmp_path, "steps"))
    numbers = found(tmp_path, "steps")
    assert numbers["alt", "log2_steps", 0] == 0
    assert numbers["long", "log2_steps", 0] == -1
    assert numbers["long", "area_under", 0] == pytest.approx(0.7)
    with pytest.raises(InputError, match="asked has no qa:judge of alt-half with seed 7"):
        MeasureSteps(curves, "asked", seeds=(7,)).run(StepContext(tmp_path, "steps"))


def test_tuning_is_told_before_and_after_on_photos_that_nobody_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MeasureTuning, "photos", 6)
    job = MeasureTuning((Arm("tuned", "tuned", step="tuned-0"),))
    with pytest.raises(StoreError):
        job.run(StepContext(tmp_path, "tuning"))
    weights = tmp_path / "weights" / "tuned-0"
    shutil.copytree(builtin_folder("describer"), weights)
    # What was "tuned" is the captioner itself, and both are asked for what it says when it is asked for short captions.
    about = {"prompts": {"short": "short", "long": "short"}, "captioner": "builtin:describer@0"}
    (weights / "describer.json").write_text(json.dumps(about))
    job.run(StepContext(tmp_path, "tuning"))
    told = {(record.arm, record.metric): record for record in results.read(tmp_path / "results.jsonl")}
    for name in ("words", "recall", "hallucinated"):
        before, after = told["before", name], told["after", name]
        assert before.each == after.each
        assert before.each is not None
        assert len(before.each) == 6
        assert before.value == pytest.approx(sum(before.each) / 6)
    words = told["before", "words"].value
    assert words is not None
    assert 2 < words < 11  # a short caption


def test_numbers_of_each_image_are_those_of_all_where_images_are_alike() -> None:
    things = Things(("red circle", "blue star", "pink heart"))
    said, true = (
        ["a red circle", "a red circle and a blue star", ""],
        [{"red circle"}, {"red circle", "pink heart"}, {"pink heart"}],
    )
    each = quality_of_each(said, true, things)
    assert each == {"words": (3, 7, 0), "recall": (1, 0.5, 0), "hallucinated": (0, 0.5, 0)}


def test_captions_of_a_mix_are_one_of_every_pair(tmp_path: Path) -> None:
    store = fill(tmp_path, 30) / "pairs.lance"
    texts = captions_of(store, Mix.read(["short=0.5", "long=0.5"]))
    assert len(texts) == 30
    assert {text.split()[0] for text in texts} == {"short", "long"}
    assert captions_of(store, Mix.read(["short=0.5", "long=0.5"])) == texts
