"""Looks that are paid for decide wrongly in at most 5 % of studies; the usual interval at each look does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reverie.evaluate.looks import Looks, levels, spent


def ever_outside(seeds, each, studies=40_000):
    """Share of studies without any effect in which the interval of some look leaves out zero."""
    rows = np.random.default_rng(5).standard_normal((studies, seeds[-1])) * 0.03
    out = np.zeros(studies, bool)
    for number, level in zip(seeds, each, strict=True):
        p = stats.ttest_1samp(rows[:, :number], 0.0, axis=1).pvalue
        out |= p < level
    return out.mean()


@pytest.mark.parametrize("seeds", [(3, 5, 8, 12), (3, 4, 5, 6, 8, 10, 12), (4, 12)])
def test_all_looks_together_are_wrong_in_five_of_a_hundred(seeds):
    looks = Looks(seeds, 12)
    assert ever_outside(seeds, levels(looks)) == pytest.approx(0.05, abs=0.003)
    assert ever_outside(seeds, [0.05] * len(seeds)) > 0.07 + 0.01 * len(seeds)


@pytest.mark.parametrize("seeds", [(3,), (3, 5, 8, 12)])
def test_with_other_photos_fewer_are_wrong(seeds):
    """What photos leave to chance is the same at every look, and joins as the root of the summed squares."""
    rng, studies = np.random.default_rng(6), 20_000
    for error in (0.3, 1.0, 3.0):  # over photos, in spreads over seeds
        rows, luck = rng.standard_normal((studies, seeds[-1])), error * rng.standard_normal(studies)
        wrong = np.zeros(studies, bool)
        for number, level in zip(seeds, levels(Looks(seeds, seeds[-1])), strict=True):
            over_seeds = stats.t.isf(level / 2, number - 1) * rows[:, :number].std(axis=1, ddof=1) / number**0.5
            half = np.hypot(over_seeds, stats.norm.isf(level / 2) * error)
            wrong |= abs(rows[:, :number].mean(axis=1) + luck) > half
        assert 0.01 < wrong.mean() < 0.045


def test_what_stops_early_has_spent_less():
    seeds = (3, 5)
    assert ever_outside(seeds, levels(Looks(seeds, 12))) == pytest.approx(spent(5 / 12), abs=0.003)
    assert spent(1.0) == pytest.approx(0.05)
    assert spent(0.0) == 0.0


def test_a_further_look_leaves_those_before_as_they_were():
    assert levels(Looks((3, 5), 12)) == levels(Looks((3, 5, 8), 12))[:2]
    assert levels(Looks((3, 5))) == (0.05, 0.05)  # not paid for


def test_one_look_at_all_seeds_is_the_usual_interval():
    (level,) = levels(Looks((6,), 6))
    assert level == pytest.approx(0.05, abs=0.001)


def test_the_same_number_of_seeds_is_no_new_look():
    looks = Looks((3,), 12).add(5)
    assert looks == Looks((3, 5), 12) == looks.add(5)


def confidence_sequence(seeds: int, prior: float, level: float = 0.05) -> float:
    """Half width in standard errors where the Bayes factor of a normal prior on mean / spread, spread by Haar, reaches 1 / level."""
    part = prior / (seeds + prior)
    grown = (1 / (level * part**0.5)) ** (2 / seeds)
    return ((seeds - 1) * (grown - 1) / (1 - part * grown)) ** 0.5 if part * grown < 1 else np.inf


def test_the_intervals_are_narrower_than_a_confidence_sequence_with_so_few_seeds():
    seeds = (3, 5, 8, 12)
    ours = [stats.t.isf(level / 2, number - 1) for number, level in zip(seeds, levels(Looks(seeds, 12)), strict=True)]
    assert ours == pytest.approx([7.4, 4.4, 3.2, 2.8], abs=0.06)  # as the file says
    for prior in (0.03, 0.1, 0.3, 1.0):
        assert all(half < confidence_sequence(number, prior) for number, half in zip(seeds, ours, strict=True))
    best = [confidence_sequence(number, 0.1) for number in seeds]
    assert best == pytest.approx([13.2, 5.4, 4.4, 4.0], abs=0.06)
