import json

import numpy as np
import pytest
import torch

from reverie.arms import by_id
from reverie.errors import InputError
from reverie.learn.refine import Refine
from reverie.run.engine import run
from reverie.smallworld.describe import describe
from reverie.smallworld.scene import sample
from reverie.store import results
from reverie.studies.syntic import SynticStudy, syntic
from reverie.studies.syntic_simulation import SimulateSynTIC, mean_average_precision, ridge, simulate


def scenes(num):
    rng = np.random.default_rng(0)
    return [[describe(sample(rng), "human", rng)] for _ in range(num)]


def test_average_precision_is_that_of_the_textbook():
    scores = np.array([[0.9, 0.1, 0.8, 0.7], [1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0]])
    wanted = np.array([[True, False, False, True], [True, False, False, False], [False, False, False, False]])
    # Row 0: hits at ranks 1 and 3. Row 1: a hit at rank 4. Row 2 wants nothing.
    assert mean_average_precision(scores, wanted) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 4) / 2)


def test_ridge_is_sklearns():
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    x, met = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (40, 7))
    bags = (torch.rand(40, 3, generator=generator) < 0.4).double().numpy()
    expected = Ridge(alpha=1.0).fit(x.numpy(), bags).predict(met.numpy())
    np.testing.assert_allclose(ridge(x, bags, met), expected, atol=1e-8)


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others():
    how = SimulateSynTIC(test=40, max_sentences=100, refinement=Refine(5, guard=False))
    first, again, other = (by_id(simulate(scenes(160), how, seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert {"syntic", "text-features", "capdec", "temperature-0.2", "steps-0", "steps-1000"} <= first.keys()
    assert all(
        0 <= found["mean_average_precision"] <= 1 for found in first.values() if "mean_average_precision" in found
    )
    assert first["steps-1000"]["recall_at_1"] > first["steps-0"]["recall_at_1"]
    assert first["temperature-0.2"]["distinct"] < first["temperature-0.001"]["distinct"]


def test_the_study_of_simulated_features_needs_no_images(tmp_path):
    study = syntic(SynticStudy(sentences=60, num_seeds=2, simulated=True))
    (plan,) = study.runs.values()
    simulate_step = plan.step("simulate")
    quick = SimulateSynTIC((0, 1), test=20, max_sentences=60, refinement=Refine(2, guard=False))
    plan = plan.__class__(
        **{**vars(plan), "steps": (plan.steps[0], simulate_step.__class__("simulate", quick, inputs=("captions",)))}
    )
    assert run(plan, tmp_path / "run")
    rows = results.read(tmp_path / "run" / "results.jsonl")
    assert {row.seed for row in rows} == {0, 1}
    arms = {f"simulated/simulate/{row.arm}" for row in rows}
    missing = {arm for claim in study.claims for arm, _ in claim.terms} - arms
    assert missing <= {"simulated/simulate/source-support", "simulated/simulate/target-support"}  # of more sentences
    assert not list((tmp_path / "run").glob("pairs.lance"))
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["recipe"] == "claims/syntic/simulated"


def test_too_few_photos_are_told(tmp_path):
    study = syntic(SynticStudy(sentences=60, num_seeds=1, simulated=True))
    with pytest.raises(InputError, match="too few"):
        run(study.runs["simulated"], tmp_path / "run")


def test_every_claim_of_the_whole_study_names_an_arm_that_is_made():
    study = syntic()
    assert {"simulated", "smallworld", "cross"} == study.runs.keys()
    made = set()
    for name, plan in study.runs.items():
        for step in plan.steps:
            for arm in getattr(step.stage, "arms", ()):
                made.add(f"{name}/{step.name}/{arm.id}")
    named = {arm for claim in study.claims for arm, _ in claim.terms if "/measure/" in arm}
    assert named <= made
