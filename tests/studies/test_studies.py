"""Studies name arms that their runs have; the whole way is slow and runs at its smallest."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reverie.cli.main import main
from reverie.errors import InputError, UnknownName
from reverie.evaluate.alignment import MeasureAlignment
from reverie.run.plan import call_recipe, default_settings, find_study, known_studies
from reverie.settings import resolve
from reverie.studies import Study
from reverie.studies.conduct import can_grow
from reverie.studies.syntic_simulation import SimulateSynTIC


def study_of(name, scale="tiny", **flags) -> Study:
    make = find_study(name)
    return make(resolve(default_settings(make, scale), flags))


@pytest.mark.parametrize("scale", ["tiny", "small"])
@pytest.mark.parametrize("name", known_studies())
def test_every_claim_is_about_arms_that_are_measured(name, scale):
    study = study_of(name, scale=scale, num_seeds=2)
    measured = set()
    for run, plan in study.runs.items():
        for step in plan.steps:
            measured |= {f"{run}/{step.name}/{arm.id}" for arm in getattr(step.stage, "arms", ())}
            if isinstance(step.stage, MeasureAlignment):
                clouds = ["refined", "refined-projected", *(cloud.id for cloud in step.stage.more)]
                measured |= {f"{run}/{step.name}/{cloud}" for cloud in clouds}
            # test_syntic_simulation.py runs it, and holds the names against these claims.
            if isinstance(step.stage, SimulateSynTIC):
                simulated = f"{run}/{step.name}/"
                measured |= {arm for claim in study.claims for arm, _ in claim.terms if arm.startswith(simulated)}
    named = {arm for claim in study.claims for arm, _ in claim.terms if claim.metric != "gradient_norm"}
    assert named <= measured
    assert len({claim.name for claim in study.claims}) == len(study.claims)


def test_stablerep_is_held_against_clip_where_that_is_asked_for():
    """One more arm a seed, one more claim, and the usual study as it was."""
    usual, more = study_of("stablerep", num_seeds=2), study_of("stablerep", num_seeds=2, against=("clip",))
    steps = [{step.name for step in study.runs["guidance-2"].steps} for study in (usual, more)]
    assert steps[1] - steps[0] == {"clip-0", "clip-1"}
    assert usual.runs["guidance-8"].fingerprints() == more.runs["guidance-8"].fingerprints()
    ours, clip = (more.runs["guidance-2"].step(name).stage for name in ("stablerep-0", "clip-0"))
    assert (ours.where, ours.min_images, ours.max_images) == (clip.where, clip.min_images, clip.max_images)
    (claim,) = [claim for claim in more.claims if claim not in usual.claims]
    assert claim.name == "1b"
    assert dict(claim.terms) == {"guidance-2/probe/stablerep": 1.0, "guidance-2/probe/clip": -1.0}


@pytest.mark.parametrize("name", known_studies())
def test_a_run_of_a_study_is_a_recipe_that_can_be_called_again(name):
    study = study_of(name, num_seeds=1)
    for run, plan in study.runs.items():
        again = call_recipe(f"claims/{name}/{run}", {"num_seeds": 1})
        assert again.recipe == plan.recipe == f"claims/{name}/{run}"
        assert again.fingerprints() == plan.fingerprints()
        assert again.arguments == plan.arguments


@pytest.mark.parametrize("name", ["stablerep", "synthetic_pretraining"])
def test_encoders_are_judged_by_the_shape(name):
    study = study_of(name, num_seeds=2)
    assert {claim.metric for claim in study.claims} == {"top1_shape"}
    assert "shape" in study.about


@pytest.mark.parametrize("name", known_studies())
def test_a_study_with_more_seeds_goes_on_where_it_ended(name):
    assert can_grow(lambda seeds: study_of(name, scale="small", num_seeds=seeds), 3, 5)
    # Of what the seeds do not touch, more of them say nothing new.
    of_rows = {"syntic": {"C3a", "C3b", "C3c", "C4a"}, "zero_shot": {"13c", "13d"}, "synth2": {"T6a", "T6b", "T6c"}}
    assert study_of(name, num_seeds=3).once == of_rows.get(name, set())


def test_few_shot_paints_for_further_seeds_in_runs_of_their_own():
    """The first three share a table, to which images of a fourth could not be added."""
    three, five = (study_of("few_shot", num_seeds=number) for number in (3, 5))
    assert set(three.runs) == {"strategies", "levels"}
    assert set(five.runs) - set(three.runs) == {f"{run}-seed-{seed}" for run in three.runs for seed in (3, 4)}
    assert all(five.runs[run].fingerprints() == plan.fingerprints() for run, plan in three.runs.items())
    for run, own in five.arms_of.items():
        seeds = {arm.seed for arm in five.runs[run].step("measure-4").stage.arms if arm.id != "zero-shot"}
        assert seeds == ({0, 1, 2} if run == own else {int(run[-1])})
        # What does not depend on shots is the same in all of them.
        assert five.runs[run].step("captions").stage == five.runs[own].step("captions").stage
        assert five.runs[run].seed == five.runs[own].seed
    first = five.runs["strategies"].step("keep").stage.candidates
    assert five.runs["strategies-seed-4"].step("keep").stage.candidates == first


def test_slips():
    with pytest.raises(InputError, match="--num-seeds 0"):
        study_of("stablerep", num_seeds=0)
    with pytest.raises(UnknownName, match="stablrep"):
        find_study("stablrep")
    with pytest.raises(UnknownName, match="no-such"):
        call_recipe("claims/stablerep/no-such", {})


def test_photos_of_the_zero_shot_study_are_the_small_worlds():
    from reverie.studies.zero_shot import SCALES, zero_shot

    found = zero_shot(replace(SCALES["tiny"], eval_data="smallworld:street:1:320"))
    measured = {
        step.name: step.stage.photos for step in found.runs["sentences"].steps if step.name.startswith("measure")
    }
    assert measured == {"measure": "smallworld:street:1:320", "measure-studio": "smallworld:studio:1:320"}
    assert "measured on 320 photos" in found.about
    for other in ("photos/", "smallworld:studio:1:320", "smallworld:street:1:many"):
        with pytest.raises(InputError, match="this study is of the small world; give smallworld:street:1:NUMBER"):
            zero_shot(replace(SCALES["tiny"], eval_data=other))


@pytest.mark.parametrize("name", ["stablerep", "synthetic_pretraining"])
def test_a_study_judged_by_the_shape_wants_photos_that_say_it(name):
    with pytest.raises(InputError, match="judges by the shape in photos of the small world"):
        study_of(name, eval_data="photos/")


def test_captions_are_enough_for_the_fewest_that_an_arm_learns_from():
    with pytest.raises(InputError, match=r"--per-class 1: .*needs 128 captions and has 64; give 2 or more"):
        study_of("stablerep", per_class=1)
    assert study_of("stablerep", per_class=2).claims


@pytest.mark.slow
def test_zero_shot_claims_from_the_command_line(tmp_path, capsys):
    words = ["claims", "zero_shot", "--num-seeds", "1", "--per-class", "2", "--out", str(tmp_path / "study")]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    record = json.loads((tmp_path / "study" / "claims.json").read_text())
    judged = {item["claim"]["name"]: item for item in record["claims"]}
    assert all(item["mean"] is not None for item in judged.values())
    assert judged["13c"]["verdict"] == judged["13d"]["verdict"] == "holds"  # three draws, whatever the seeds
    assert judged["1a"]["verdict"] == "inconclusive"  # of one seed
    assert "report.html" in capsys.readouterr().out
