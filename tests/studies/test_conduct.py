"""A study of jobs that draw numbers: it grows in its folder, looks, pays, and stops."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from reverie.arms import Arm
from reverie.cli.main import main
from reverie.errors import InputError, SettingsChanged
from reverie.evaluate.claims import Claim, beats, judge
from reverie.evaluate.looks import Looks, levels
from reverie.report.claims import summary
from reverie.run.events import read_events
from reverie.run.plan import Plan, Step
from reverie.stage import Job, Role, StepContext
from reverie.store import results
from reverie.studies import Study, in_tables
from reverie.studies.conduct import Decide, conduct, next_seeds, seconds_per_seed, seeds_there


@dataclass(frozen=True)
class Learn(Job):
    """Leaves a number that another seed would have otherwise."""

    beside: ClassVar[bool] = True
    gain: float
    seed: int = 0
    seconds: float = 0.0

    def run(self, context: StepContext) -> None:
        time.sleep(self.seconds)
        context.weights().mkdir(parents=True)
        value = self.gain + 0.01 * np.random.default_rng(self.seed).standard_normal()
        (context.weights() / "value").write_text(repr(float(value)))


@dataclass(frozen=True)
class Measure(Job):
    """Records what steps left."""

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("arms",)
    arms: tuple[Arm, ...]
    metric: str = "top1"

    def run(self, context: StepContext) -> None:
        for arm in self.arms:
            value = float((context.weights(arm.step) / "value").read_text())
            results.append(context.results, results.about(context, self, arm, "mine")(metric=self.metric, value=value))


@dataclass(frozen=True)
class MeasureOnce(Measure):
    """Whose arms are the same however many seeds there are."""

    grows: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Page(Job):
    """Says how many numbers there are."""

    role: ClassVar[Role] = "page"

    def run(self, context: StepContext) -> None:
        (context.folder / "report.html").write_text(str(len(results.read(context.results))))


CLAIMS = (
    Claim("1", "much is better than nothing", "", beats("one/measure/much", "one/measure/nothing")),
    Claim("2", "little is better than nothing", "", beats("one/measure/little", "one/measure/nothing")),
)
GAINS = {"nothing": 0.0, "little": 0.035, "much": 0.5}


@dataclass(frozen=True)
class TrainOn(Page):
    """Learns from what it reads."""

    together: ClassVar[bool] = True


def study(seeds: int, seconds: float = 0.0, gains=GAINS, claims=CLAIMS) -> Study:
    learn = [
        Step(f"{name}-{seed}", Learn(gain, 97 * number + seed, seconds))
        for seed in range(seeds)
        for number, (name, gain) in enumerate(gains.items())
    ]
    arms = tuple(Arm(name, name).under(seed) for seed in range(seeds) for name in gains)
    steps = (
        *learn,
        Step("measure", Measure(arms), inputs=tuple(step.name for step in learn)),
        Step("page", Page(), inputs=("measure",)),
    )
    return Study("About.", {"one": Plan("none", steps, arguments={"num_seeds": seeds})}, claims)


def done(folder, step):
    return sum(event["kind"] == "done" and event["step"] == step for event in read_events(folder / "one"))


def test_seeds_are_added_until_every_claim_is_decided(tmp_path):
    said = []
    found = conduct(study, tmp_path, 3, decide=Decide(), say=said.append)
    assert [item.verdict for item in found.judged] == ["holds", "holds"]
    assert found.looks.max_seeds == 12
    assert found.looks.seeds[:2] == (3, 5)
    assert len(found.looks.seeds) > 1
    assert "every claim is decided" in said[-1]
    assert "1 of 2 claims undecided with 3 seeds; 2 seeds more" in "\n".join(said)
    # Nothing that was done is done again but what measures all seeds, and the page.
    assert all(done(tmp_path, f"much-{seed}") == 1 for seed in range(found.looks.seeds[-1]))
    assert done(tmp_path, "measure") == done(tmp_path, "page") == len(found.looks.seeds)
    assert (tmp_path / "one" / "report.html").read_text() == str(3 * found.looks.seeds[-1])
    record = json.loads((tmp_path / "claims.json").read_text())
    assert [look["seeds"] for look in record["looks"]] == list(found.looks.seeds)
    # What was seen is kept: a call without --decide neither looks anew nor narrows the intervals.
    again = conduct(study, tmp_path, 3, say=said.append)
    assert again.looks == found.looks
    assert [item.low for item in again.judged] == [item.low for item in found.judged]
    assert done(tmp_path, "measure") == len(found.looks.seeds)


def test_a_study_that_was_stopped_between_two_looks_goes_on(tmp_path):
    once = conduct(study, tmp_path / "once", 3, decide=Decide(), say=lambda text: None)
    conduct(study, tmp_path / "cut", 3, decide=Decide(max_hours=0.0), say=lambda text: None)
    assert seeds_there(tmp_path / "cut", study) == 3
    found = conduct(study, tmp_path / "cut", 3, decide=Decide(), say=lambda text: None)
    assert found == once


def test_it_stops_when_the_next_seed_does_not_fit(tmp_path):
    slow = lambda seeds: study(seeds, 0.02, {"nothing": 0.0, "little": 0.0, "much": 0.5})  # noqa: E731
    said = []
    found = conduct(slow, tmp_path, 3, decide=Decide(max_hours=0.0), say=said.append)
    assert found.looks == Looks((3,), 12)
    assert "so it stops here" in said[-1]
    took = {"nothing-2": 0.0, "little-2": 0.0, "much-2": 0.0, "measure": 0.0}
    for event in read_events(tmp_path / "one"):
        if event["kind"] == "done" and event["step"] in took:
            took[event["step"]] += event["seconds"]
    slow_reference = took["nothing-2"] + took["little-2"] + took["much-2"] + took["measure"] / 3
    assert seconds_per_seed(slow, tmp_path, 3) == pytest.approx(slow_reference, abs=5e-3)
    assert slow_reference > 0.06
    own = slow_reference - took["measure"] / 3
    assert seconds_per_seed(slow, tmp_path, 3, jobs=2) == pytest.approx(slow_reference - own / 2, abs=5e-3)
    assert seconds_per_seed(slow, tmp_path, 3, jobs=8) == pytest.approx(slow_reference - 2 * own / 3, abs=5e-3)
    assert found.judged[1].verdict == "inconclusive"
    told = summary(found.judged, found.looks)
    assert "1 of 2 claims decided" in told
    assert "2 would need" in told
    assert "1 look at 3 of at most 12 seeds" in told


def judged(*values):
    return [judge(CLAIMS[1], {arm: dict(enumerate(values)) for arm, _ in CLAIMS[1].terms})]


def test_how_many_seeds_come_next():
    open_, looks = judged(0.1, 0.2, 0.3), Looks((3,), 12)
    assert next_seeds(open_, frozenset(), looks, 10.0, 1e9)[0] == 2
    assert next_seeds(open_, frozenset(), looks, 10.0, 15.0)[0] == 1  # as fit
    assert next_seeds(open_, frozenset(), looks, 10.0, 9.0)[0] == 0
    assert next_seeds(open_, frozenset(), Looks((3, 5, 8), 9), 10.0, 1e9)[0] == 1  # as there may be
    assert next_seeds(open_, frozenset(), Looks((3, 5, 8, 12), 12), 10.0, 1e9)[0] == 0
    number, why = next_seeds(open_, frozenset({"2"}), looks, 10.0, 1e9)
    assert number == 0
    assert why == "1 of 1 claims undecided with 3 seeds (not dependent on seeds: 2); no seed can decide them"
    missing = [*open_, judge(replace(CLAIMS[1], name="d"), {})]
    assert (
        "2 of 2 claims undecided with 3 seeds (not measured: d); 2 seeds more"
        in next_seeds(missing, frozenset(), looks, 10.0, 1e9)[1]
    )
    both = [*open_, judge(replace(CLAIMS[1], name="once"), {arm: {0: 0.1, 1: 0.3} for arm, _ in CLAIMS[1].terms})]
    _, why = next_seeds(both, frozenset({"once"}), Looks((3, 5), 5), 10.0, 1e9)
    assert why.startswith("2 of 2 claims undecided with 5 seeds (not dependent on seeds: once); more are not planned")


def test_looks_are_planned_once(tmp_path):
    conduct(study, tmp_path, 3, decide=Decide(max_seeds=5, max_hours=0.0), say=lambda text: None)
    with pytest.raises(InputError, match="--max-seeds 9 needs another --out"):
        conduct(study, tmp_path, 3, decide=Decide(max_seeds=9), say=lambda text: None)
    with pytest.raises(InputError, match="6 seeds are more than the 5"):
        conduct(study, tmp_path, 6, say=lambda text: None)


def test_the_first_three_seeds_are_the_pilot(tmp_path):
    said, seen = [], []
    found = conduct(study, tmp_path, 6, say=said.append, foresee=lambda items, seeds: seen.append((items, seeds)))
    ((pilot, seeds),) = seen
    assert seeds == 6
    assert len(pilot[0].by_seed) == 3
    assert pilot[0].could_see(6) < pilot[0].could_see()
    assert "the first 3 of 6 seeds are the pilot" in said[0]
    assert found.looks == Looks((6,))  # the pilot decided nothing, so it was no look
    assert found.judged[0].verdict == "holds"
    assert done(tmp_path, "much-0") == 1
    conduct(study, tmp_path, 7, say=said.append, foresee=lambda items, seeds: seen.append((items, seeds)))
    assert len(seen[-1][0][0].by_seed) == 6  # now the last results say it
    assert "--decide pays for its looks" in "\n".join(said)


def test_what_is_foreseen_is_at_the_level_of_the_look_that_comes(tmp_path):
    seen = []
    foresee = lambda items, seeds: seen.append((items, seeds))  # noqa: E731
    conduct(study, tmp_path, 6, decide=Decide(max_hours=0.0), say=lambda text: None, foresee=foresee)
    ((pilot, seeds),) = seen
    assert {item.level for item in pilot} == set(levels(Looks((6,), 12)))
    (usual,) = (replace(item, level=0.05).could_see(seeds) for item in pilot[:1])
    assert pilot[0].could_see(seeds) > 1.05 * usual  # a look that is paid for sees less


def test_seeds_that_were_looked_at_are_done_again_where_they_are_gone(tmp_path):
    first = conduct(study, tmp_path, 5, decide=Decide(max_hours=0.0), say=lambda text: None)
    shutil.rmtree(tmp_path / "one")
    again = conduct(study, tmp_path, 3, say=lambda text: None)
    assert again.looks == first.looks == Looks((5,), 12)
    assert [item.low for item in again.judged] == [item.low for item in first.judged]


def test_nothing_to_estimate_from_is_said(tmp_path):
    said, seen = [], []
    conduct(study, tmp_path, 3, say=said.append, foresee=lambda *told: seen.append(told))
    assert not seen
    assert "nothing to estimate from yet" in said[0]


def test_a_claim_that_does_not_depend_on_seeds_is_looked_at_once(tmp_path):
    def with_one_more(seeds):
        plain = study(seeds)
        draws = tuple(Step(f"draw-{number}", Learn(0.1, 500 + number)) for number in range(3))
        once = Step(
            "once",
            MeasureOnce(tuple(Arm("draw", "draw").under(number) for number in range(3))),
            tuple(s.name for s in draws),
        )
        plan = dataclasses.replace(plain.runs["one"], steps=(*draws, once, *plain.runs["one"].steps))
        claims = (*plain.claims, Claim("3", "of three draws", "", (("one/once/draw", 1.0),)))
        return Study("About.", {"one": plan}, claims)

    found = conduct(with_one_more, tmp_path, 3, decide=Decide(), say=lambda text: None)
    assert found.study.once == {"3"}
    assert found.judged[2].level == 0.05
    assert found.judged[2].verdict == "holds"
    assert found.judged[0].level < 0.05


def test_other_settings_are_still_refused(tmp_path):
    conduct(study, tmp_path, 3, say=lambda text: None)
    with pytest.raises(SettingsChanged, match=r"much-0\.gain"):
        conduct(lambda seeds: study(seeds, gains=GAINS | {"much": 0.6}), tmp_path, 4, say=lambda text: None)


def test_a_study_whose_images_know_all_seeds_cannot_add_any(tmp_path):
    def together(seeds):
        return study(seeds, gains=GAINS | {"much": 0.5 + seeds})  # the same step does something else with more seeds

    said = []
    with pytest.raises(InputError, match="leave out --decide"):
        conduct(together, tmp_path, 3, decide=Decide(), say=said.append)
    assert not list(tmp_path.iterdir())
    conduct(together, tmp_path, 4, say=said.append)
    assert "none can go ahead" in said[0]


def test_further_seeds_may_have_runs_of_their_own(tmp_path):
    """The same numbers in a run of three seeds and one run each for the others decide as in one run of all."""

    def apart(seeds):
        whole, runs, names = study(seeds).runs["one"], {}, {}
        for own in in_tables(seeds):
            name = "one" if 0 in own else f"one-{own[0]}"
            arms = tuple(arm for arm in whole.step("measure").stage.arms if arm.seed in own)
            learn = tuple(step for step in whole.steps if isinstance(step.stage, Learn) and int(step.name[-1]) in own)
            measure = Step("measure", Measure(arms), inputs=tuple(step.name for step in learn))
            steps = (*learn, measure, Step("page", Page(), inputs=("measure",)))
            runs[name], names[name] = Plan("none", steps, arguments={"num_seeds": seeds}), "one"
        return Study("About.", runs, CLAIMS, continues={run: name for run, name in names.items() if run != name})

    once = conduct(study, tmp_path / "once", 3, decide=Decide(), say=lambda text: None)
    found = conduct(apart, tmp_path / "apart", 3, decide=Decide(), say=lambda text: None)
    assert found.looks == once.looks
    assert len(found.looks.seeds) > 1
    assert found.judged == once.judged
    last = found.looks.seeds[-1]
    assert {path.name for path in (tmp_path / "apart").glob("one*")} == {"one", *(f"one-{n}" for n in range(3, last))}
    assert (tmp_path / "apart" / "one" / "report.html").read_text() == "9"
    # All of them are found again by who asks for three.
    assert seeds_there(tmp_path / "apart", apart) == last
    took = [
        event["seconds"] for event in read_events(tmp_path / "apart" / f"one-{last - 1}") if event["kind"] == "done"
    ]
    assert seconds_per_seed(apart, tmp_path / "apart", last) == pytest.approx(sum(took))


def test_what_grows_is_told_from_what_changes():
    def steps(arms=(("much", 0),), metric="top1", reader=None, of=()):
        learn = Step("much-0", Learn(0.5)), Step("much-1", Learn(0.5, 1))
        read = (Step("reads", reader, inputs=("measure",)),) if reader else ()
        return Plan("none", (*learn, Step("measure", Measure(arms, metric), inputs=("much-0", *of)), *read))

    few, more = steps(), (("much", 0), ("much", 1))
    assert steps(more, of=("much-1",)).goes_on_from(few)
    assert steps(more[::-1]).goes_on_from(few)  # the order of arms is none of their results
    assert not few.goes_on_from(steps(more))  # fewer
    assert not steps(more, metric="mean").goes_on_from(few)
    assert not steps((("much", 1),)).goes_on_from(few)  # another
    assert steps(more, reader=Page()).goes_on_from(steps(reader=Page()))
    assert steps(more, reader=Page()).again(steps(reader=Page()).record()) == ["measure", "reads"]
    assert not steps(more, reader=TrainOn()).goes_on_from(steps(reader=TrainOn()))  # it would learn something else


def test_a_folder_keeps_its_number_of_seeds_unless_another_is_asked_for(tmp_path, capsys):
    (tmp_path / "simulated").mkdir()
    (tmp_path / "claims.json").write_text('{"looks": [], "max_seeds": 20}')
    words = ["claims", "syntic", "--simulated", "--out", str(tmp_path), "--num-seeds", "30", "--decide"]
    for flags, said in (
        ([], "more than the 20 that the looks"),
        (["--max-seeds", "40"], "--max-seeds 40 needs another"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*words, *flags])
        assert end.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["claims", "syntic", "--help"])
    assert "cannot change later. (default: 12)" in re.sub(r"[│\s]+", " ", capsys.readouterr().out)


def test_flags_that_say_nothing_alone(tmp_path, capsys):
    words = ["claims", "syntic", "--simulated", "--out", str(tmp_path / "study")]
    for flags in (
        *(["--max-hours", "1"], ["--max-seeds", "5"]),
        *(["--decide", "--max-hours", "-1"], ["--decide", "--max-hours", "nan"]),
    ):
        with pytest.raises(SystemExit) as end:
            main([*words, *flags])
        assert end.value.code == 2
        assert "--max-" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_simulated_features_from_the_command_line(tmp_path, capsys):
    words = ["claims", "syntic", "--simulated", "--sentences", "420", "--out", str(tmp_path / "study")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--decide", "--max-seeds", "4"])
    assert end.value.code == 0
    record = json.loads((tmp_path / "study" / "claims.json").read_text())
    assert [look["seeds"] for look in record["looks"]] == [3, 4]
    page = (tmp_path / "study" / "report.html").read_text()
    assert "looked at with 3, 4 of at most 4 seeds" in page
    out, _ = capsys.readouterr()
    assert "2 looks at 3, 4 of at most 4 seeds" in out
    assert "could see" in out
