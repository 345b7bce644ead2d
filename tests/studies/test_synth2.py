"""The study of Synth²: its sets are what the claims say, its trends are rank correlations, and its smallest run goes all the way."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reverie import pairs
from reverie.arms import Arm, by_id
from reverie.cli.main import main
from reverie.errors import InputError
from reverie.evaluate.data_equivalence import HumanPairEquivalent
from reverie.evaluate.trends import MeasureTrend, Point, spearman
from reverie.report.page import write
from reverie.smallworld.scene import class_names
from reverie.stage import StepContext
from reverie.store import results, tables
from reverie.studies.synth2 import TINY, arms, balanced_size, balances, synth2


def test_arms_differ_in_what_their_claims_say() -> None:
    found = by_id(arms(TINY))
    main_, human = found["painted-0.5"], found["human"]
    assert human == replace(main_, rho=0.0)
    assert found["pixels"] == replace(main_, path="pixels")
    assert found["uncontrolled"] == replace(main_, painted="paint-many", painter="step:painter-many")
    for name in ("some", "many"):  # each set has the painter of its own pairs, with and without what it painted
        assert found[f"human-{name}"] == replace(human, real=f"human-{name}", painter=f"step:painter-{name}")
        assert found[f"painted-{name}"].painter == f"step:painter-{name}"
    assert found["syn-image"] == replace(main_, painted="paint-human")
    assert found["gold"] == replace(main_, painted="human-many", where_painted="")
    assert {found[name].num_painted for name in balances()} == {balanced_size(TINY)}
    assert len({(each.steps, each.batch, each.language_model) for each in found.values()}) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"human": (8, 4, 2)}, "--human 8 4 2 are numbers of pairs, few to many"),
        ({"human": (8, 8, 9)}, "each above the last"),
        ({"photos": 0}, "--photos 0: give 1 or more"),
        ({"cost_steps": 0}, "--cost-steps 0: give 1 or more"),
    ],
)
def test_settings_that_no_claim_can_be_judged_by_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        synth2(replace(TINY, **changes))


def test_shared_work_is_done_once_and_every_captioner_waits_for_its_stores() -> None:
    (plan,) = synth2(replace(TINY, num_seeds=2)).runs.values()
    names = [step.name for step in plan.steps]
    for shared in ("language", "captions", "human", "human-some", "human-many", "cost"):
        assert names.count(shared) == 1
    many: Any = plan.step("painter-many").stage
    assert many == replace(plan.step("painter").stage, store="human-many")  # type: ignore[type-var]
    assert {"human-many", "paint-many", "painter-many", "language"} <= set(plan.step("painted-many-1").inputs)
    assert "paint-human" in plan.step("syn-image-0").inputs
    fewer: Any = plan.step("human").stage
    assert [plan.step(f"human-{name}").stage.limit for name in ("some", "many")] == list(TINY.human[1:])  # type: ignore[union-attr]
    assert fewer.limit == TINY.human[0]


def test_caption_sets_go_from_balanced_to_skewed(tmp_path: Path) -> None:
    """Filters of one table of painted pairs; each has enough of them for the size that all share."""
    rows = [
        {
            "pair_id": f"{pairs.caption_id(0, 'llm', number)}-000", "caption_id": pairs.caption_id(0, "llm", number), "copy": 0, "unit": 0,
            "text": f"a {name}", "label": name, "origin": "painted", "status": "ok",
        }
        for number, name in enumerate(name for name in class_names() for _ in range(TINY.per_class))
    ]  # fmt: skip
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    counts = {name: tables.count(tmp_path / "pairs.lance", where) for name, where in balances().items()}
    assert counts["all-classes"] == len(rows)
    assert counts["one-class-in-ten"] == 7 * TINY.per_class
    assert min(counts.values()) >= balanced_size(TINY)

    (tmp_path / "results.jsonl").touch()
    context = StepContext(tmp_path, "measure")
    for seed in (0, 1):
        for place, name in enumerate(balances()):
            record = results.about(context, TINY, Arm(name, name, seed), "captions")
            results.append(
                context.results, record(metric="slot_f1", value=(0.5 - place / 10) * (1 if seed == 0 else -1))
            )
    points = tuple(Point(name, captions=where) for name, where in balances().items())
    trend = MeasureTrend(Arm("trend", "trend"), points, seeds=(0, 1))
    trend.run(StepContext(tmp_path, "trend"))
    found = results.select(results.read(tmp_path / "results.jsonl"), step="trend")
    assert found[0].details["at"][0] == max(found[0].details["at"])  # most clusters: all classes
    assert found[0].details["at"][-1] == min(found[0].details["at"])
    assert [row.seed for row in found] == [0, 1]
    assert found[0].value == -(found[1].value or 0) > 0


def test_a_trend_of_gains_is_the_rank_correlation_of_differences(tmp_path: Path) -> None:
    context = StepContext(tmp_path, "measure")
    scores = {"a": 0.5, "b": 0.5, "c": 0.6, "x": 0.1, "y": 0.2, "z": 0.5}
    for name, value in scores.items():
        results.append(
            context.results, results.about(context, TINY, Arm(name, name), "captions")(metric="slot_f1", value=value)
        )
    points = (Point("a", "x", 10), Point("b", "y", 20), Point("c", "z", 30))
    MeasureTrend(Arm("trend", "trend"), points).run(StepContext(tmp_path, "trend"))
    (row,) = results.select(results.read(tmp_path / "results.jsonl"), step="trend")
    assert (row.value, row.details["scores"]) == (-1.0, [0.4, 0.3, 0.1])
    with pytest.raises(InputError, match="has no slot_f1 of a with seed 4"):
        MeasureTrend(Arm("trend", "trend"), points, seeds=(4,)).run(StepContext(tmp_path, "trend"))
    with pytest.raises(InputError, match="2 points show no trend"):
        MeasureTrend(Arm("trend", "trend"), points[:2])


def test_equal_scores_are_no_trend() -> None:
    assert spearman([1, 2, 3], [5, 5, 5]) == 0
    assert spearman([1, 2, 3], [3, 5, 4]) == pytest.approx(0.5)


def test_worth_in_human_pairs_is_found_after_the_captioners_were_measured_and_shown_on_the_page(tmp_path: Path) -> None:
    """On records by hand: three seeds on one curve, of arms as the study has them."""
    (plan,) = synth2(TINY).runs.values()
    names = [step.name for step in plan.steps]
    step = plan.step("worth")
    assert step.stage == HumanPairEquivalent("measure", "slot_f1")
    assert step.inputs == ("measure",)
    assert names.index("measure") < names.index("worth")
    assert "worth" in plan.step("page").inputs

    plan.settle(tmp_path)
    scores = {"human": 0.1, "human-some": 0.2, "human-many": 0.3, "painted-some": 0.25, "painted-many": 0.35}
    by_seed = {"painted-0.5": (0.05, 0.15, 0.2)}
    context = StepContext(tmp_path, "measure")
    for arm in arms(TINY):
        for seed in range(3):
            own = replace(arm, seed=seed, step=f"{arm.id}-{seed}")
            about = {"control": "controlled: of one set"}
            record = results.about(
                context, TINY, own, "captions", photos="smallworld:street:10", num_test=10, details=about
            )
            value = by_seed[arm.id][seed] if arm.id in by_seed else scores.get(arm.id, 0.1)
            results.append(tmp_path / "results.jsonl", record(metric="slot_f1", value=value))
    step.stage.run(StepContext(tmp_path, "worth"))  # type: ignore[union-attr]
    rows = results.select(results.read(tmp_path / "results.jsonl"), step="worth")
    assert {row.arm for row in rows} == {arm.id for arm in arms(TINY) if arm.factors["rho"]}
    assert {row.details["control"] for row in rows} == {"controlled: of one set"}
    worth = {row.seed: row.value for row in rows if row.arm == "painted-0.5"}
    assert worth == {0: None, 1: pytest.approx((200 * 600) ** 0.5), 2: pytest.approx(600)}

    page = write(tmp_path).read_text(encoding="utf-8")
    assert "Captions of 10 unseen photos" in page[page.index("<h1>") : page.index("</h1>")]
    part = page[page.index("What painted pairs are worth in human ones") :]
    said = "human pairs alone: 10.0 at 200, 20.0 at 600, 30.0 at 1800; 50 % of every batch painted: 13.3 at 200, 25.0 at 600, 35.0 at 1800"
    assert said in part
    assert "<td>346 (fewer than 200 to 600)</td>" in part
    assert "<td>1,039</td>" in part
    assert "<td>more than 1,800</td>" in part
    assert "human captions, painted" not in part[: part.index("</table>")]  # differs in more than its pairs
    assert re.search(
        r"<td class=\"num\">0<br><span class=\"note\">its painter: 200</span></td><td class=\"num\">1</td>", part
    )

    # Shares of painted pairs beside the same human ones; all other arms are in the table of the measurement.
    part = page[
        page.index("Painted pairs beside human ones") : page.index("What painted pairs are worth in human ones")
    ]
    assert re.findall(r"<tr><td>([\d.]+)</td>", part) == ["0", "0.25", "0.5", "0.75", "1"]
    headline = "Captions of 10 unseen photos have facts said right, F1 13.3 with 50 % of every batch painted; 10.0 with human pairs alone in as many steps."
    assert headline in page


def test_too_few_captions_are_told_before_anything_is_trained() -> None:
    with pytest.raises(InputError, match="--per-class 2: give 3 or more"):
        synth2(replace(TINY, per_class=2))


@pytest.mark.slow
def test_claims_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "claims", "synth2", "--num-seeds", "1", "--human", "8", "16", "24", "--per-class", "3",
        "--painter-steps", "3", "--language-steps", "3", "--train-steps", "2", "--photos", "6", "--cost-steps", "1",
        "--device", "cpu", "--out", str(tmp_path / "study"),
    ]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    judged = {
        item["claim"]["name"]: item for item in json.loads((tmp_path / "study" / "claims.json").read_text())["claims"]
    }
    assert all(item["mean"] is not None for item in judged.values())
    assert judged["T1"]["verdict"] == "inconclusive"  # of one seed
    rows = results.select(
        results.read(tmp_path / "study" / "smallworld" / "results.jsonl"), step="measure", metric="slot_f1"
    )
    worth = results.select(
        results.read(tmp_path / "study" / "smallworld" / "results.jsonl"), metric="worth_human_pairs"
    )
    assert {row.arm for row in worth} == {row.arm for row in rows if row.factors["rho"]}
    assert all(row.details["side"] in ("on", "below", "above") for row in worth)
    page = (tmp_path / "study" / "smallworld" / "report.html").read_text(encoding="utf-8")
    assert "What painted pairs are worth in human ones" in page
    assert "<th>trend</th>" in page
    assert (
        len(re.findall("Images went by pixels", page))
        == page.count("Images went by pixels (by way of pixels): of the ids")
        == 1
    )
    control = {row.arm: row.details["control"].split(":")[0] for row in rows}
    assert [arm for arm, told in control.items() if told == "uncontrolled"] == ["uncontrolled"]
    assert "report.html" in capsys.readouterr().out
