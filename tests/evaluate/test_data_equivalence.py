import math

import pytest

from reverie.errors import InputError
from reverie.evaluate.data_equivalence import RealImageEquivalent, worth_of
from reverie.stage import StepContext
from reverie.store import results

from ..records import result

REAL = {1000: 0.4, 10_000: 0.6, 20_000: 0.7}


def test_worth_is_linear_in_the_logarithm_of_the_number():
    assert worth_of(0.5, REAL).photos == pytest.approx(math.sqrt(1000 * 10_000))  # half way
    assert worth_of(0.65, REAL).photos == pytest.approx(math.sqrt(10_000 * 20_000))
    assert worth_of(0.6, REAL).photos == pytest.approx(10_000)
    assert worth_of(0.4, REAL).photos == 1000
    assert worth_of(0.65, REAL).words == "14,142 real photos"


def test_off_the_curve_there_is_no_number():
    assert worth_of(0.39, REAL) == (None, "fewer than 1,000 real photos")
    assert worth_of(0.71, REAL) == (None, "more than 20,000 real photos")


def test_a_curve_that_dips_by_chance_does_not_count_twice():
    dips = {1000: 0.4, 5000: 0.35, 20_000: 0.6}
    share = (0.5 - 0.4) / (0.6 - 0.4)
    expected = math.exp(math.log(5000) + share * (math.log(20_000) - math.log(5000)))
    assert worth_of(0.5, dips).photos == pytest.approx(expected)


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
