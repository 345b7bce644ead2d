"""Power against closed forms and against studies that are simulated one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reverie.evaluate.claims import Claim, beats, judge
from reverie.evaluate.power import detectable, power, seeds_needed


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_over_seeds_alone_it_is_the_noncentral_t(seeds):
    for distance in (0.3, 1.0, 4.0):
        closed = stats.nct.sf(stats.t.isf(0.025, seeds - 1), seeds - 1, distance * np.sqrt(seeds) / 0.7)
        assert power(distance, 0.7, seeds) == pytest.approx(closed, abs=2e-4)


def test_over_photos_alone_it_is_the_normal():
    assert detectable(0.0, 3, photos=0.02) == pytest.approx(0.02 * (1.959964 + stats.norm.ppf(0.8)), rel=1e-5)
    assert detectable(0.0, 3) == 0.0
    assert detectable(0.01, 1) is None


@pytest.mark.parametrize(("seeds", "photos"), [(3, 0), (3, 400), (6, 400)])
def test_four_of_five_studies_decide_the_detectable_difference(seeds, photos):
    """Slow reference: draw photos and seeds, judge as a study is judged, and count."""
    rng, spread, rate = np.random.default_rng(1), 0.02, 0.2
    # A photo is gained with chance ``rate`` or not; the mean over photos has this standard error.
    error = np.sqrt(rate * (1 - rate) / photos) if photos else 0.0
    far, held, studies = detectable(spread, seeds, error), 0, 800
    for _ in range(studies):
        gains = rng.random(photos) < rate
        luck = gains.mean() - rate if photos else 0.0
        values = {seed: far + luck + spread * rng.standard_normal() for seed in range(seeds)}
        answers = {
            "a": dict.fromkeys(values, ("photos", gains.astype(float))),
            "b": dict.fromkeys(values, ("photos", np.zeros(photos))),
        } if photos else None  # fmt: skip
        claim = Claim("1", "", "", beats("a", "b"))
        held += judge(claim, {"a": values, "b": dict.fromkeys(values, 0.0)}, answers).verdict == "holds"
    assert held / studies == pytest.approx(0.8, abs=0.04)


def test_more_seeds_see_less_and_less_but_not_below_the_photos():
    seen = [detectable(0.01, seeds, photos=0.005) for seeds in (2, 3, 5, 20, 2000)]
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] > detectable(0.0, 3, photos=0.005)


def test_seeds_needed_is_the_least_number_that_sees_it():
    for distance in (0.5, 1.0, 3.0):
        number = seeds_needed(distance, 1.0)
        assert power(distance, 1.0, number) >= 0.8 > power(distance, 1.0, number - 1)
    assert seeds_needed(0.5, 1.0) == 34  # of textbooks, for a paired test of half a standard deviation
    assert seeds_needed(0.01, 1.0, photos=0.01) is None  # other photos alone hide it
    assert seeds_needed(1.0, 1.0, level=0.01) > seeds_needed(1.0, 1.0)
