import io
import json

import pytest
from rich.console import Console
from scipy import stats

from reverie import pairs
from reverie.arms import Arm
from reverie.evaluate.generation import MeasureGeneration
from reverie.report.facts import called, columns, duration, gather, guessing, headline, main_metric
from reverie.report.terminal import table
from reverie.run.plan import Plan, Step
from reverie.stage import settings
from reverie.store import results, tables

from ..records import result
from .conftest import add_shapes, make_plan, write_results


def test_counts_add_up_and_name_their_reasons(run_folder):
    captions, images, kept = gather(run_folder).counts
    assert (captions.made, captions.ok, captions.dropped, captions.failed, captions.planned) == (7, 6, 1, 0, 6)
    assert (images.made, images.ok, images.dropped, images.failed, images.planned) == (18, 16, 1, 1, 18)
    assert (kept.made, kept.ok, kept.dropped) == (images.ok, 12, 4)
    assert all(count.adds_up for count in (captions, images, kept))
    assert sum(times for _, times in images.reasons) == images.dropped + images.failed


def test_reasons_that_are_too_many_to_read_are_told_by_their_kind(tmp_path):
    make_plan(num_seeds=1).settle(tmp_path)
    reasons = [
        f"repeats a caption: 'a {word}: red'"
        for word in ("cat", "dog", "bird", "fish", "hen", "cow", "bee", "ape", "owl")
    ]
    reasons += ["fewer than 5 words"] * 2
    rows = [
        {"caption_id": f"{number:04d}", "unit": 0, "text": "x", "status": "dropped", "reason": reason}
        for number, reason in enumerate(reasons)
    ]
    tables.append_unit(tmp_path / "captions.lance", 0, pairs.table(rows, pairs.CAPTIONS))
    (count,) = gather(tmp_path).counts
    assert count.reasons == (("dropped: repeats a caption", 9), ("dropped: fewer than 5 words", 2))
    tables.append_unit(tmp_path / "few" / "captions.lance", 0, pairs.table(rows[:8], pairs.CAPTIONS))
    make_plan(num_seeds=1).settle(tmp_path / "few")
    (count,) = gather(tmp_path / "few").counts
    assert len(count.reasons) == 8
    assert ("dropped: repeats a caption: 'a cat: red'", 1) in count.reasons


def test_unknown_words_are_one_line_with_a_count_and_five_of_them(tmp_path):
    make_plan(num_seeds=1).settle(tmp_path)
    words = [f"word{number}" for number in range(1200)]
    lines = [{"kind": "warning", "model": "tiny", "words": words[:3], "text": "as it was told then"}]
    lines += [{"kind": "words", "model": "tiny", "words": words[at : at + 100]} for at in range(0, 1200, 100)]
    lines += [{"kind": "warning", "text": "another"}, {"kind": "words", "model": "small", "words": ["zebra"]}]
    (tmp_path / "events.jsonl").write_text("\n".join(json.dumps({"time": 0} | line) for line in lines))
    assert gather(tmp_path).warnings == (
        "tiny has no token for these 1,200 words and cannot paint them: word0, word1, word2, word3, word4, ...",
        "another",
        "small has no token for this word and cannot paint it: zebra",
    )


def test_time_side_by_side_counts_once(tmp_path):
    make_plan(num_seeds=1).settle(tmp_path)
    events = [
        (0, "step", "captions"),
        (10, "step", "paint"),
        (30, "done", "captions"),
        (40, "done", "paint"),
        (90, "step", "paint"),
        (95, "unit", "paint"),
    ]
    lines = [json.dumps({"time": at, "kind": kind, "step": step}) for at, kind, step in events]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    facts = gather(tmp_path)
    assert {step.name: step.seconds for step in facts.steps if step.seconds} == {"captions": 30.0, "paint": 35.0}
    assert facts.seconds == 45.0


def test_time_is_summed_over_sessions_and_ends_with_done(tmp_path):
    plan = make_plan(num_seeds=1)
    plan.settle(tmp_path)
    events = [(0, "run"), (0, "step"), (30, "unit"), (100, "run"), (100, "step"), (120, "done"), (500, "retried")]
    own = {"step": "paint"}
    lines = [json.dumps({"time": at, "kind": kind} | (own if kind != "run" else {})) for at, kind in events]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    steps = {step.name: step for step in gather(tmp_path).steps}
    assert steps["paint"].seconds == 50.0
    assert steps["captions"].seconds is None
    assert "page" not in steps


def test_interval_over_seeds_is_the_t_interval(run_folder):
    (found,) = gather(run_folder).measured
    arm = found.arms[0]
    values = list(arm.values["top1"].values())
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert arm.interval("top1") == pytest.approx((low, high))
    assert found.arms[-1].interval("top1") is None  # raw pixels have one value


def test_raw_pixels_are_compared_with_every_seed(run_folder):
    (found,) = gather(run_folder).measured
    assert [(item.first.id, item.second.id) for item in found.comparisons] == [
        ("stablerep", "simclr"),
        ("stablerep", "untrained"),
        ("stablerep", "pixels"),
    ]
    assert all(item.over_seeds.num_seeds == 3 for item in found.comparisons)
    assert all(item.over_photos is not None for item in found.comparisons)
    for item in found.comparisons:
        assert item.over_photos.mean == pytest.approx(item.over_seeds.mean)


def test_each_arm_is_held_against_the_control_at_its_guidance_where_the_step_names_one(tmp_path):
    shared = {"step": "generation", "protocol": "generation", "metric": "soa_c:judge", "weights": "w"}
    values = {"base": 0.1, "alt": 0.2, "long": 0.3, "mix": 0.4}
    records = [
        result(
            **shared, arm=f"{name}-g{guidance}", label=f"{name} {guidance}", value=value + guidance / 100, seed=seed,
            factors={"guidance": float(guidance)},
        )
        for guidance in (2, 5) for name, value in values.items() for seed in (0, 1, 2)
    ]  # fmt: skip
    arms = tuple(Arm(name, name, factors={"painter": "builtin:painter"}) for name in values)
    stage = MeasureGeneration(arms, guidance=(2.0, 5.0), subject="mix", control="alt")
    assert settings(stage) == settings(
        MeasureGeneration(arms, guidance=(2.0, 5.0))
    )  # what pages tell changes no result
    Plan("recap", (Step("generation", stage),)).settle(tmp_path)
    results.append(tmp_path / "results.jsonl", *records)
    facts = gather(tmp_path)
    assert headline(facts) == "mix 2: SOA-C, judge 42.0%; 22.0% with alt 2."
    assert [(item.first.label, item.second.label) for item in facts.measured[0].comparisons] == [
        ("mix 2", "alt 2"), ("base 2", "alt 2"), ("long 2", "alt 2"), ("base 5", "alt 5"), ("long 5", "alt 5"), ("mix 5", "alt 5"),
    ]  # fmt: skip
    assert all(round(item.over_seeds.mean, 6) in (0.2, 0.1, -0.1) for item in facts.measured[0].comparisons)


def test_other_metrics_are_shown_as_they_are(tmp_path):
    make_plan(num_seeds=1).settle(tmp_path)
    results.append(
        tmp_path / "results.jsonl", result(arm="painter", metric="frechet", value=12.345, protocol="quality")
    )
    facts = gather(tmp_path)
    assert headline(facts) == "painter: frechet 12.35."
    assert facts.measured[0].comparisons == ()


def test_what_could_not_be_measured_is_no_zero(tmp_path):
    make_plan(num_seeds=1).settle(tmp_path)
    results.append(tmp_path / "results.jsonl", result(arm="painter", value=None))
    assert gather(tmp_path).measured == ()


def test_terminal_table_has_every_arm_and_the_verdict(tmp_path):
    make_plan().settle(tmp_path)
    write_results(tmp_path)
    console = Console(width=120, file=io.StringIO())
    console.print(table(tmp_path))
    text = console.file.getvalue()
    for word in ("StableRep", "untrained network", "raw pixels", "linear probe, top-1", "inconclusive", "holds"):
        assert word in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (42, "42 s"), (60, "1 min"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (59.96, "1 min")],
)
def test_durations_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_the_headline_is_shape_where_photos_have_shapes(run_folder):
    before = gather(run_folder)
    assert main_metric(before.measured[0]) == "top1"
    assert "1.6% by guessing" in headline(before)
    add_shapes(run_folder, gains={"simclr": -0.1})
    facts = gather(run_folder)
    (found,) = facts.measured
    ours, theirs = (arm.mean("top1_shape") for arm in found.arms[:2])
    said = headline(facts)
    assert said.startswith(
        f"A linear classifier on StableRep features tells the shape in {ours:.1%} of 400 unseen photos"
    )
    assert said.endswith("and 12.5% by guessing.")
    assert found.comparisons[0].over_seeds.mean == pytest.approx(ours - theirs)
    assert found.comparisons[0].over_photos.mean == pytest.approx(ours - theirs)
    assert columns(found) == ["top1_shape", "top1", "top1_colour", "knn_top1"]
    assert called("top1", found) == "linear probe, class"
    assert called("top1", before.measured[0]) == "linear probe, top-1"
    assert called("top1") == "top-1"
    assert guessing(found, "top1") == 1 / 64
    console = Console(width=120, file=io.StringIO())
    console.print(table(run_folder))
    text = console.file.getvalue()
    assert text.index("linear probe, shape") < text.index("linear probe, class") < text.index("linear probe, colour")
    assert "difference in shape" in text


def test_arms_that_were_measured_before_there_were_shapes_are_no_slip(run_folder):
    """A run that was going on while the package was renewed: the first arms have the class alone."""
    old = results.select(results.read(run_folder / "results.jsonl"), arm="stablerep")
    add_shapes(run_folder)
    results.append(run_folder / "results.jsonl", *old)
    facts = gather(run_folder)
    assert headline(facts).startswith("A linear classifier on SimCLR features tells the shape in")
    assert [item.first.id for item in facts.measured[0].comparisons] == ["simclr", "simclr"]


def test_a_fine_tuned_classifier_names_the_right_shape(tmp_path):
    make_plan(num_seeds=1).settle(tmp_path)
    shared = {"arm": "painted", "step": "transfer", "protocol": "fine-tuning", "weights": "w", "num_test": 64}
    numbers = {"top1": (0.25, 64), "top1_shape": (0.5, 8), "top1_colour": (0.75, 8)}
    records = [result(**shared, metric=name, value=value, num_classes=num) for name, (value, num) in numbers.items()]
    results.append(tmp_path / "results.jsonl", *records)
    said = headline(gather(tmp_path))
    assert said == "The classifier painted names the right shape in 50.0% of 64 unseen photos; 12.5% by guessing."
