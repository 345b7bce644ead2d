"""What a run will take: counts that are exact, times that follow from the trial, and nothing that is left behind."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from reverie.errors import InputError
from reverie.filters.keep import Keep
from reverie.learn.train import Train
from reverie.run.estimate import TRAINED, Span, estimate, models_of
from reverie.run.plan import Plan, Step, call_recipe
from reverie.stage import Job, Role, StepContext, Trial
from reverie.store import tables
from tests.run.fake_recipe import CountPairs, PaintNoise, Sentences, Speed, fake_recipe


@dataclass(frozen=True)
class Learn(Job):
    """Steps of equal length, on batches of so many captions."""

    steps: int = 100
    captions: int = 0
    pause_s: float = 0.01
    seed: int = 0

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        return Trial(replace(self, steps=min(steps, self.steps)), self.steps, self.captions)

    def run(self, context: StepContext) -> None:
        assert self.steps <= TRAINED, "the whole training, in a trial"
        if self.captions:
            names = {
                name
                for part in tables.scan(context.pairs, ["caption_id"], "kept")
                for name in part["caption_id"].to_pylist()
            }
            if len(names) < self.captions:
                raise InputError(f"{len(names)} captions are too few")
        for _ in range(self.steps):
            time.sleep(self.pause_s)
        context.weights().mkdir(parents=True)
        (context.weights() / "weights").write_bytes(b"0" * 1000)
        context.report(
            "speed",
            what="steps",
            steps=self.steps,
            low=0.5 * self.pause_s,
            seconds_each=self.pause_s,
            high=2 * self.pause_s,
        )


@dataclass(frozen=True)
class Measure(Job):
    role: ClassVar[Role] = "measure"

    def run(self, context: StepContext) -> None:
        raise AssertionError("a plan measures nothing")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders that are to vanish are made; empty after each test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def painted(count: int = 40, pause_s: float = 0.02) -> tuple[Step, ...]:
    return (
        Step("captions", Sentences(count)),
        Step("paint", PaintNoise(3, speed=Speed(pause_s)), inputs=("captions",)),
        Step("keep", Keep("status = 'ok'"), inputs=("paint",)),
    )


def test_units_rows_time_and_disk_of_steps_with_units(scratch: Path) -> None:
    found = estimate(Plan("mine", painted(), unit_size=8), captions=2)
    captions, paint, keep = found.steps
    assert (found.captions, found.images, found.units) == (40, 120, 5)
    assert (captions.rows, paint.rows, paint.units) == (40, 120, 5)
    assert paint.seconds is not None
    assert 40 * 0.02 <= paint.seconds.low <= paint.seconds.middle <= paint.seconds.high < 60
    assert paint.tried == "3 units of 2 captions"
    assert paint.disk_bytes is not None
    assert 120 * 100 < paint.disk_bytes < 120 * 3000  # pictures of some hundred bytes
    assert keep.seconds is None
    assert "how it grows is not known" in keep.unknown
    assert not list(scratch.glob("reverie-*"))


def test_trainings_are_cut_short_and_each_kind_is_tried_once(scratch: Path) -> None:
    nets = tuple(Step(f"net-{seed}", Learn(captions=50, seed=seed), inputs=("keep",)) for seed in (0, 1))
    last = Step("probe", Measure(), inputs=("net-0", "net-1"))
    found = estimate(Plan("mine", (*painted(), *nets, last)), captions=2)
    first, second, probe = found.steps[3:]
    assert first.seconds is not None
    assert first.seconds.low == pytest.approx(0.5, abs=0.4)
    assert first.seconds.middle == pytest.approx(1.0, abs=0.4)
    assert first.seconds.high == pytest.approx(2.0, abs=0.4)
    assert (first.steps, first.tried, second.tried, first.disk_bytes) == (100, "8 steps", "as net-0", 1000)
    assert second.seconds == first.seconds
    assert (probe.seconds, probe.unknown) == (None, "not tried: it measures what was trained")
    assert not list(scratch.glob("reverie-*"))


def test_what_cannot_be_tried_says_why_and_counts_as_nothing_known() -> None:
    steps = (
        *painted(),
        Step("net", Learn(captions=10**7), inputs=("keep",)),
        Step("other", CountPairs(), inputs=("paint",)),
    )
    found = estimate(Plan("mine", steps), captions=1)
    assert "a batch of it needs 10,000,000 captions" in found.steps[3].unknown
    assert found.steps[4].unknown == "not tried: it measures what was trained"
    late = estimate(Plan("mine", (*painted(), Step("net", Learn(), inputs=("keep",)))), captions=1, max_minutes=0)
    assert "--max-minutes" in late.steps[3].unknown


def test_a_server_is_not_asked_and_what_reads_it_is_not_tried() -> None:
    found = estimate(Plan("mine", painted()), captions=1, absent=lambda step: "a server" * (step.name == "captions"))
    assert [step.unknown for step in found.steps] == [
        "not tried: a server",
        "not tried: it reads captions",
        "not tried: it reads paint",
    ]
    assert (found.seconds, found.cost, found.disk_bytes) == (None, None, None)


@dataclass(frozen=True)
class Learns(Job):
    """Two trainings, on pictures that are encoded before, for each of some arms."""

    alone: bool = False
    arms: int = 3

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        count = images("kept") if self.alone else 1000
        return Trial(self, (100, 10), images=count, alike=self.arms, alone=self.alone)

    def run(self, context: StepContext) -> None:
        def told(what: str, each: float) -> None:
            context.report("speed", what=what, steps=1, done=0, low=each, seconds_each=each, high=each)

        told("images encoded", 0.25)
        context.report("speed", what="photos", steps=2, done=2, low=5.0, seconds_each=5.0, high=5.0)
        told("steps", 1.0)
        told("steps", 10.0)
        context.weights().mkdir(parents=True)


@dataclass(frozen=True)
class Draw(Job):
    """Something that others read, done in part."""

    part: float = 0.5

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        return Trial(self, part=self.part)

    def run(self, context: StepContext) -> None:
        time.sleep(0.05)


def test_each_training_of_a_step_has_its_own_rate_and_each_arm_takes_as_long() -> None:
    steps = (Step("net", Learns()), Step("again", Learns(arms=1), inputs=("net",)))
    first, second = estimate(Plan("mine", steps)).steps
    assert first.seconds is not None
    assert first.seconds.middle == pytest.approx(3 * (100 * 1.0 + 10 * 10.0 + 2 * 5.0) + 250, abs=1)
    assert second.seconds is not None
    assert second.seconds.middle == pytest.approx(100 + 100 + 10 + 250, abs=1)
    assert (first.steps, second.steps) == (330, 110)


@dataclass(frozen=True)
class Reads(Measure):
    """What reads all that was trained, and knows how much of it there is."""

    names: tuple[str, ...] = ()

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        return Trial(_Reads(self.names))


@dataclass(frozen=True)
class _Reads(Reads):
    def run(self, context: StepContext) -> None:
        assert all((context.weights(name) / "weights").is_file() for name in self.names)
        for what, whole in (("photos", 50), ("photos", 20), ("fits", 3)):
            context.report(
                "speed",
                what=what,
                steps=4,
                done=0,
                whole=whole,
                low=1.0,
                seconds_each=2.0,
                high=4.0 if whole == 3 else 2.0,
            )
        context.report("untimed", text="what Java does has no time in it")


def test_a_measurement_says_how_much_of_what_it_tried_there_is(scratch: Path) -> None:
    nets = tuple(Step(f"net-{seed}", Learn(captions=50, seed=seed), inputs=("keep",)) for seed in (0, 1))
    names = tuple(step.name for step in nets)  # one of them was not tried, as it is like the other
    found = estimate(Plan("mine", (*painted(), *nets, Step("probe", Reads(names=names), inputs=names))), captions=2)
    probe = found.steps[-1]
    assert probe.seconds is not None
    assert probe.seconds.low == pytest.approx(73, abs=1)
    assert probe.seconds.middle == pytest.approx(2 * 73, abs=1)
    assert probe.seconds.high == pytest.approx(2 * 70 + 4 * 3, abs=1)
    assert (probe.tried, probe.unknown) == ("8 photos, 4 fits", "what Java does has no time in it")
    assert (probe.steps, probe.disk_bytes) == (None, None)
    assert found.seconds is not None
    assert found.seconds.middle > 146
    late = estimate(Plan("mine", (*painted(), *nets, Step("probe", Reads(), inputs=names))), captions=1, max_minutes=0)
    assert late.steps[-1].seconds is None
    assert not list(scratch.glob("reverie-*"))


def test_images_that_pass_are_foreseen_from_those_of_the_trial() -> None:
    found = estimate(
        Plan("mine", (*painted(), Step("count", CountPairs()), Step("net", Learns(alone=True), inputs=("count",)))),
        captions=2,
    )
    assert found.steps[4].seconds is not None
    assert 630 + 0.25 * 60 < found.steps[4].seconds.middle < 630 + 0.25 * 120  # as some are not kept


def test_work_done_in_part_counts_for_the_whole_and_what_reads_untried_work_is_not_tried() -> None:
    steps = (
        Step("photos", Draw()),
        Step("other", Draw(0.0)),
        Step("strange", CountPairs()),
        Step("net", Learn(), inputs=("photos", "other")),
        Step("late", Learn(pause_s=0.02), inputs=("strange",)),
    )
    photos, other, _, net, late = estimate(Plan("mine", steps)).steps
    assert photos.seconds is not None
    assert 0.1 <= photos.seconds.middle < 2
    assert photos.tried == "50% of it"
    assert "how it grows is not known" in other.unknown
    assert net.seconds is not None
    assert late.unknown == "not tried: it reads strange, which was not tried"


def test_steps_that_read_what_the_run_trains_are_tried_after_it(scratch: Path) -> None:
    @dataclass(frozen=True)
    class PaintsLearnt(PaintNoise):
        model: str = "step:net"

    captions, paint, keep = painted()
    steps = (
        captions,
        Step("net", Learn(), inputs=("captions",)),
        replace(paint, stage=PaintsLearnt(3, speed=Speed(0.02)), inputs=("captions", "net")),
        keep,
        Step("last", Learn(captions=9), inputs=("keep",)),
    )
    found = estimate(Plan("mine", steps, unit_size=8), captions=2)
    assert found.steps[2].tried == "3 units of 2 captions"
    assert (found.steps[2].rows, found.images) == (120, 120)
    assert "how it grows is not known" in found.steps[3].unknown
    assert found.steps[4].seconds is not None
    assert not list(scratch.glob("reverie-*"))


def test_few_captions_are_several_units_and_a_single_one_has_no_spread() -> None:
    assert estimate(Plan("mine", painted(4)), captions=3).steps[1].tried == "3 units of 1 caption"
    assert estimate(Plan("mine", painted(1)), captions=3).steps[1].tried == "1 unit of 1 caption, no spread"


def test_a_trial_that_stops_says_so() -> None:
    steps = (
        *painted()[:2],
        Step("keep", Keep("status = 'nothing'"), inputs=("paint",)),
        Step("net", Learn(captions=4), inputs=("keep",)),
    )
    found = estimate(Plan("mine", steps), captions=1)
    assert found.steps[1].seconds is not None
    assert found.steps[3].unknown.startswith("not tried:")
    assert "nothing" in found.steps[2].unknown  # why it stopped, and not that its kind is never cut short


def test_no_trial_and_steps_after_the_last_one() -> None:
    found = estimate(Plan("mine", painted()), captions=0, until="paint")
    assert [step.name for step in found.steps] == ["captions", "paint"]
    assert {step.unknown for step in found.steps} == {"not tried (--trial 0)"}
    assert (found.captions, found.images) == (40, 120)
    (net,) = estimate(Plan("mine", (Step("net", Learn()),)), captions=0).steps
    assert (net.steps, net.seconds) == (100, None)


def test_cost_and_json() -> None:
    found = replace(estimate(fake_recipe(count=12, pause_s=0.01), captions=1), price_per_hour=7200.0)
    assert found.seconds is not None
    assert found.cost == Span(*(2 * value for value in found.seconds))
    record = json.loads(json.dumps(found.record()))
    assert record["cost"]["middle"] == pytest.approx(2 * record["seconds"]["middle"], abs=0.01)
    assert set(record["unknown"]) == {"count"}
    assert [step["name"] for step in record["steps"]] == ["captions", "paint", "brightness", "count"]


def test_models_of_a_step() -> None:
    @dataclass(frozen=True)
    class Paints(PaintNoise):
        model: str = "owner/painter"
        label: str = "owner/none"

    assert list(models_of(Step("paint", Paints()))) == ["owner/painter"]


@pytest.mark.slow
def test_a_recipe_as_it_is(scratch: Path) -> None:
    flags = {"per_class": 1, "sampler_steps": 1, "per_caption": 3, "per_batch": 3, "seeds": (0, 1)}
    plan = call_recipe("stablerep", flags)
    found = estimate(plan, captions=1)
    steps = {step.name: step for step in found.steps}
    assert found.tokens is not None
    assert min(found.tokens.values()) > found.captions
    assert all(steps[name].seconds for name in ("captions", "paint", "clip_score", "stablerep-0", "simclr-1"))
    trained = plan.step("stablerep-0").stage
    assert isinstance(trained, Train)
    assert (steps["stablerep-1"].tried, steps["stablerep-0"].steps) == ("as stablerep-0", trained.fit.steps)
    assert steps["probe"].seconds
    assert "fits" in steps["probe"].tried
    assert not list(scratch.glob("reverie-*"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["synth2", "syntic", "synthetic_pretraining", "zero_shot"])
def test_trainings_of_a_recipe_are_timed(recipe: str, scratch: Path) -> None:
    plan = call_recipe(recipe, {})
    found = estimate(plan, captions=1)
    trained = [each for each in found.steps if each.steps]
    assert trained
    assert [each.name for each in trained if each.seconds is None] == []
    assert "paint" not in {each.name for each in found.steps if each.unknown}
    assert not list(scratch.glob("reverie-*"))
