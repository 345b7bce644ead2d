"""The study of RECAP: its arms differ as its claims say, what it makes of scores is right, and its smallest run goes all the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from reverie.arms import by_id
from reverie.cli.main import main
from reverie.errors import InputError
from reverie.evaluate.generation import MeasureGeneration, PaintAhead
from reverie.evaluate.recaptioning import MeasureInformation
from reverie.evaluate.trends import MeasureTrend
from reverie.learn.train_painter import TrainPainter
from reverie.recaption.mix import Mix
from reverie.run.plan import Plan
from reverie.store import results, tables
from reverie.studies.recap import CLAIMS, KINDS, TINY, arms, changed, recap
from tests.recipes.test_recap import describer

__all__ = ["describer"]  # a fixture


def plan(**changes: Any) -> Plan:
    (made,) = recap(replace(TINY, **changes)).runs.values()
    return made


def test_arms_differ_in_what_their_claims_say() -> None:
    found = by_id(arms(TINY))
    assert found["base"] is None
    trained = {name: train for name, train in found.items() if train is not None}
    alt, mix, long = (trained[name] for name in ("alt", "mix", "long"))
    assert {name: str(trained[name].mix) for name in KINDS} == {
        "alt": "alt=1", "short": "short=1", "long": "long=1", "mix": "long=0.5 short=0.5",
    }  # fmt: skip
    for name in trained:
        if not name.endswith(("-quarter", "-half", "-unet", "-text")):
            where = trained[name].where if name == "all" else alt.where
            assert replace(trained[name], mix=None) == replace(alt, mix=None, where=where), name
    assert trained["mix-half"] == replace(mix, fit=replace(mix.fit, steps=24, warmup_steps=mix.fit.warmup_steps // 2))
    assert trained["alt-quarter"].fit.steps == 12
    assert trained["alt-unet"] == replace(alt, parts="unet")
    assert trained["mix-text"] == replace(mix, parts="text")
    assert trained["long-25"] == replace(long, mix=Mix.read(["caption_long_25"]))
    assert dict(trained["all"].mix.weights) == pytest.approx({"alt": 1 / 3, "short": 1 / 3, "long": 1 / 3})  # type: ignore[union-attr]
    # Every changed column is read by the arm of its name, and no two columns are called alike.
    columns = [each.column for each in changed()]
    assert len({*columns}) == len(columns)
    assert {f"{column}=1" for column in columns} <= {str(train.mix) for train in trained.values()}
    assert {train.start for train in trained.values()} == {"builtin:painter-alt"}
    assert {train.over_limit for train in trained.values()} == {"cut"}  # else arms would see other images


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_steps": 6}, "--train-steps 6: give a multiple of 4"),
        ({"train_steps": 0}, "--train-steps 0: give a multiple of 4"),
        ({"recaptioned": 1}, "--recaptioned 1: give 2 or more"),
        ({"asked_for": 0}, "--asked-for 0: give 2 or more"),
        ({"tune_captions": 1}, "--tune-captions 1: give 2 or more"),
    ],
)
def test_settings_that_no_claim_can_be_judged_by_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        recap(replace(TINY, **changes))


def test_every_picture_is_painted_ahead_where_its_step_looks_for_it() -> None:
    made = plan(num_seeds=2)
    wanted = {
        (step.name, arm.key, step.stage.captions)
        for step in made.steps if isinstance(step.stage, MeasureGeneration) for arm in step.stage.arms
    }  # fmt: skip
    painted = [step for step in made.steps if isinstance(step.stage, PaintAhead)]
    found = {
        (step.stage.step, step.stage.painted.arms[0].key, step.stage.painted.captions)  # type: ignore[union-attr]
        for step in painted
    }
    assert found == wanted
    assert len(painted) == len(wanted)
    trained = {step.name for step in made.steps if isinstance(step.stage, TrainPainter)}
    assert len(trained) == 2 * (len(arms(TINY)) - 1)
    names = [step.name for step in made.steps]
    for step in painted:  # each waits for its own painter alone, and the step that measures for all of its own
        assert set(step.inputs) <= trained | {"changed"}
        assert step.name in made.step(step.stage.step).inputs  # type: ignore[union-attr]
    # What may be done side by side stands side by side.
    assert max(map(names.index, trained)) < min(names.index(step.name) for step in painted)


def test_captions_are_weighed_on_pictures_that_the_painter_did_not_learn_from(tmp_path: Path) -> None:
    made = plan()
    (step,) = (step for step in made.steps if isinstance(step.stage, MeasureInformation))
    painter = made.step(step.inputs[0]).stage
    assert isinstance(painter, TrainPainter)
    assert {made.step(name).stage.where for name in step.inputs} == {painter.where}  # type: ignore[attr-defined]
    table = pa.table({"seed": list(range(100)), "status": ["ok"] * 90 + ["failed"] * 10})
    lance.write_dataset(table, str(tmp_path / "a.lance"))
    learnt, seen = (tables.count(tmp_path / "a.lance", where) for where in (painter.where, step.stage.where))
    both = tables.count(tmp_path / "a.lance", f"({painter.where}) and ({step.stage.where})")
    assert (learnt, seen, both) == (72, 18, 0)


def test_trends_go_along_what_is_left_and_what_is_false() -> None:
    trends = {step.name: step.stage for step in plan().steps if isinstance(step.stage, MeasureTrend)}
    points = {name: [(point.arm, point.at) for point in trend.points] for name, trend in trends.items()}
    assert points == {
        "score-by-words": [("long-25", 0.25), ("long-50", 0.5), ("long-75", 0.75), ("long", 1.0)],
        "score-by-false-things": [("long", 0.0), ("long-false-10", 0.1), ("long-false-30", 0.3)],
    }


def test_every_claim_of_the_specification_is_here_but_the_one_that_claims_nothing() -> None:
    assert {claim.name.rstrip("abcd") for claim in CLAIMS} == {f"D{number}" for number in (*range(1, 11), 12)}
    assert "D11" in recap().about


@pytest.mark.slow
def test_claims_from_the_command_line(describer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "claims", "recap", "--num-seeds", "1", "--painter", "builtin:painter", "--captioner", str(describer), "--recaptioned", "24",
        "--tune-steps", "2", "--tune-captions", "6", "--train-steps", "4", "--batch-size", "2", "--asked-for", "3", "--device", "cpu",
        "--out", str(tmp_path / "study"),
    ]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    folder = tmp_path / "study" / "smallworld"
    judged = {
        item["claim"]["name"]: item for item in json.loads((tmp_path / "study" / "claims.json").read_text())["claims"]
    }
    # A captioner that was trained for two steps may name nothing, of which no share is false.
    assert {name for name, item in judged.items() if item["mean"] is None} <= {"D12a", "D12c"}
    pairs = tables.open_table(folder / "shots" / "photos" / "pairs.lance").schema.names
    assert {each.column for each in changed()} <= set(pairs)
    rows = results.read(folder / "results.jsonl")
    assert {row.arm for row in results.select(rows, step="asked-human")} == {arm.id for arm in arms(TINY)}
    assert {row.arm for row in results.select(rows, step="asked-alt")} == set(KINDS)
    page = (folder / "report.html").read_text(encoding="utf-8")
    for heading in (
        "What was learned from, and what is asked",
        "How much captions tell",
        "Over steps",
        "Which weights learn",
        "A captioner, tuned",
    ):
        assert heading in page
    assert "report.html" in capsys.readouterr().out
