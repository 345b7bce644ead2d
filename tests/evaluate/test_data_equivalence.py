import math
import random
from itertools import pairwise

import pytest

from reverie.errors import InputError
from reverie.evaluate.data_equivalence import HumanPairEquivalent, RealImageEquivalent, worth_of
from reverie.stage import StepContext
from reverie.store import results

from ..records import result

REAL = {1000: 0.4, 10_000: 0.6, 20_000: 0.7}


def test_worth_is_linear_in_the_logarithm_of_the_number():
    assert worth_of(0.5, REAL).number == pytest.approx(math.sqrt(1000 * 10_000))  # half way
    assert worth_of(0.65, REAL).number == pytest.approx(math.sqrt(10_000 * 20_000))
    assert worth_of(0.6, REAL).number == pytest.approx(10_000)
    assert worth_of(0.4, REAL).number == 1000
    assert worth_of(0.65, REAL).words == "14,142 real photos"


def test_off_the_curve_there_is_no_number():
    assert worth_of(0.39, REAL) == (None, "fewer than 1,000 real photos", "below")
    assert worth_of(0.71, REAL) == (None, "more than 20,000 real photos", "above")


def test_a_curve_that_dips_by_chance_does_not_count_twice():
    dips = {1000: 0.4, 5000: 0.35, 20_000: 0.6}
    share = (0.5 - 0.4) / (0.6 - 0.4)
    expected = math.exp(math.log(5000) + share * (math.log(20_000) - math.log(5000)))
    assert worth_of(0.5, dips).number == pytest.approx(expected)


def record(name, seed, num_real, num_painted, value, start="untrained"):
    return result(
        arm=name.replace(" ", "-"), label=name, seed=seed, value=value, step="scratch", start=start, num_real=num_real,
        num_painted=num_painted, num_train=num_real + num_painted, num_classes=10, photos="cifar10",
    )  # fmt: skip


def test_the_job_compares_within_a_seed_and_a_beginning(tmp_path):
    told = []
    context = StepContext(tmp_path, "worth", report=lambda kind, **facts: told.append((kind, facts)))
    results.append(
        context.results,
        *(record(f"{n} real", seed, n, 0, value + 0.1 * seed) for n, value in REAL.items() for seed in (0, 1)),
        record("1000 real", 2, 1000, 0, 0.9, start="elsewhere"),
        record("9000 painted", 0, 0, 9000, 0.5),
        record("9000 painted", 1, 0, 9000, 0.95),
    )
    RealImageEquivalent("scratch").run(context)
    RealImageEquivalent("scratch").run(context)
    found = results.select(results.read(context.results), step="worth")
    assert [(row.arm, row.seed, row.metric) for row in found] == [
        ("9000-painted", seed, "worth_real_photos") for seed in (0, 1)
    ]
    assert found[0].value == pytest.approx(math.sqrt(1000 * 10_000))
    assert found[1].value is None
    assert told[0] == ("warning", {"text": "9000 painted, seed 1, is worth more than 20,000 real photos"})


def test_without_a_curve_there_is_nothing_to_say(tmp_path):
    context = StepContext(tmp_path, "worth")
    results.append(context.results, record("1000 real", 0, 1000, 0, 0.4), record("painted", 0, 0, 9000, 0.5))
    with pytest.raises(InputError, match="fewer than two numbers of real photos"):
        RealImageEquivalent("scratch").run(context)


def captioner(name, seed, rho, human, value, **factors):
    return result(
        arm=name, label=name.replace("-", " "), seed=seed, value=value, step="measure", metric="slot_f1", protocol="captions",
        factors={"rho": rho, "human_pairs": human, **factors}, weights=f"{name}-{seed}",
    )  # fmt: skip


def alone(seed, scores):
    return [captioner(f"human-{number}", seed, 0.0, number, score) for number, score in scores.items()]


def judged(folder, *records, **settings):
    told = []
    context = StepContext(folder, "worth", report=lambda kind, **facts: told.append((kind, facts["text"])))
    results.append(context.results, *records)
    for _ in range(2):  # again leaves the same
        told.clear()
        HumanPairEquivalent(**settings).run(context)
    return results.select(results.read(context.results), step="worth"), told


def test_what_is_counted_is_said():
    assert worth_of(0.1, {200: 0.2, 600: 0.4}, "human pairs alone").words == "fewer than 200 human pairs alone"
    assert worth_of(0.3, {200: 0.2, 600: 0.4}, "human pairs alone").words == "346 human pairs alone"


def slow_worth(score, curve):
    """Goes up the curve pair by pair until the score is there."""
    numbers = sorted(curve)
    for few, many in pairwise(numbers):
        low, high = (max(curve[number] for number in numbers if number <= end) for end in (few, many))
        for number in range(few, many + 1):
            if low + (high - low) * math.log(number / few) / math.log(many / few) >= score:
                return number
    return None


def test_captioners_are_worth_what_a_slow_walk_up_the_curve_of_their_seed_finds(tmp_path):
    rng = random.Random(0)
    curves = {seed: {n: rng.uniform(0.1, 0.9) for n in (200, 600, 1800)} for seed in range(4)}
    scores = {seed: rng.uniform(curves[seed][200], max(curves[seed].values())) for seed in curves}
    arms = [captioner("painted-0.5", seed, 0.5, 200, score) for seed, score in scores.items()]
    found, told = judged(tmp_path, *(row for seed, curve in curves.items() for row in alone(seed, curve)), *arms)
    assert [(row.arm, row.seed, row.metric, row.protocol) for row in found] == [
        ("painted-0.5", seed, "worth_human_pairs", "human-equivalence") for seed in curves
    ]
    for row in found:
        assert row.value == pytest.approx(slow_worth(scores[row.seed], curves[row.seed]), abs=1)
        assert row.factors == {"rho": 0.5, "human_pairs": 200}
        assert row.details["side"] == "on"
    assert not told


def test_beyond_the_curve_of_human_pairs_there_is_no_number_but_the_side(tmp_path):
    curve = {200: 0.2, 600: 0.3, 1800: 0.4}
    scores = {"low": (0.1, 0.3, 0.15), "high": (0.5, 0.2, 0.4)}
    arms = [captioner(name, seed, 0.5, 600, value) for name, each in scores.items() for seed, value in enumerate(each)]
    found, told = judged(tmp_path, *(row for seed in range(3) for row in alone(seed, curve)), *arms)
    sides = {(row.arm, row.seed): (row.value, row.details["side"], row.details["words"]) for row in found}
    assert sides == {
        ("low", 0): (None, "below", "fewer than 200 human pairs alone"),
        ("low", 1): (pytest.approx(600), "on", "600 human pairs alone"),
        ("low", 2): (None, "below", "fewer than 200 human pairs alone"),
        ("high", 0): (None, "above", "more than 1,800 human pairs alone"),
        ("high", 1): (200, "on", "200 human pairs alone"),
        ("high", 2): (pytest.approx(1800), "on", "1,800 human pairs alone"),
    }
    assert told == [
        ("warning", "low, seeds 0, 2, is worth fewer than 200 human pairs alone"),
        ("warning", "high, seed 0, is worth more than 1,800 human pairs alone"),
    ]


def test_the_curve_is_of_arms_that_differ_in_human_pairs_alone(tmp_path):
    others = (
        captioner("human-as-0.5", 0, 0.0, 400, 0.9, exposures_of=0.5),  # fewer steps
        captioner("human-400", 1, 0.0, 400, 0.9),  # another seed
    )
    unknown = result(arm="painted", step="measure", metric="slot_f1", factors={"rho": 0.5})  # of how many is not said
    arms = (captioner("painted-0.5", 0, 0.5, 200, 0.3), captioner("syn", 0, 0.5, 200, 0.3, images="painted"))
    found, _ = judged(tmp_path, *alone(0, {200: 0.2, 1800: 0.4}), *others, unknown, *arms)
    assert [row.arm for row in found] == ["painted-0.5", "syn"]
    assert [row.value for row in found] == [pytest.approx(math.sqrt(200 * 1800))] * 2
    assert found[0].details["curve"] == [[200, 0.2], [1800, 0.4]]


def test_captioners_without_a_curve_of_their_seed_are_refused(tmp_path):
    rows = (*alone(0, {200: 0.2, 600: 0.3}), *alone(1, {200: 0.2}))
    with pytest.raises(
        InputError, match=r"fewer than two numbers of human pairs alone beside 'painted', seed 1; a curve needs two"
    ):
        judged(tmp_path, *rows, *(captioner("painted", seed, 0.5, 200, 0.25) for seed in (0, 1)))
    with pytest.raises(InputError, match="measure has no cider_d of an arm with painted pairs"):
        judged(tmp_path, metric="cider_d")
    assert not results.select(results.read(tmp_path / "results.jsonl"), step="worth")
