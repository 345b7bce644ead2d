"""Wider intervals for a study that is looked at more than once while seeds are added (sequential testing).

Whoever adds seeds until a 95 % interval leaves the bound is wrong far more often than in 5 % of cases: each look is a new
chance. Here the 5 % are spent over the looks by an error spending function (Lan and DeMets, Discrete sequential boundaries for clinical
trials, Biometrika 70, 1983), so that the intervals of all looks together hold the true difference with 95 % (repeated
confidence intervals: Jennison and Turnbull, Interim analyses, J. R. Statist. Soc. B 51, 1989). Hence a claim may be decided
at any look, either way and against any bound: what counts is the part that the intervals of all looks share. The one shown is the last,
which has the mean in its middle.

The function is their Pocock type, 0.05 ln(1 + (e - 1) n / N) of at most N seeds: neither how many looks there are nor when need be planned,
as long as it is not the differences that say when. Two things follow from so few seeds of unknown spread:

- The usual bounds take differences for normal with a known spread, which three seeds have not. How the t-statistics of a
  growing set of seeds are correlated does not depend on the spread, so the bounds are found by drawing 200,000 such
  sets once, with a fixed seed; what that draw leaves to chance is 0.0005 of the 0.05.
- With looks at 3, 5, 8 and 12 of 12 seeds the half interval is 7.4, 4.4, 3.2 and 2.8 standard errors, where a single look has 4.3,
  2.8, 2.4 and 2.2. The O'Brien-Fleming type has 88, 6.8, 3.2 and 2.3: it would decide nothing at three seeds, and most studies end
  by the clock. A confidence sequence, which needs no N (Wang and Ramdas, arXiv:2310.03722; Lai 1976), with the mixture that suits three seeds
  best of those tried has 13, 5.4, 4.4 and 4.0.

The interval over photos is added at the level of its look, as the root of the summed squares. The photos are the same at every look,
so this is stricter than necessary.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from reverie.evaluate.power import LEVEL

DRAWS = 200_000
MAX_SEEDS = 12  # seeds, where nobody says


@dataclass(frozen=True)
class Looks:
    """How many seeds each look at a study had, and how many there may be in all."""

    seeds: tuple[int, ...] = ()
    max_seeds: int | None = None  # None: the looks are not paid for; each has the usual 95 % interval

    def add(self, seeds: int) -> Looks:
        """One look more, unless the last one had as many seeds."""
        return self if self.seeds[-1:] == (seeds,) else Looks((*self.seeds, seeds), self.max_seeds)


def spent(share: float, level: float = LEVEL) -> float:
    """How much of the level is spent once this share of the seeds is there."""
    return level * math.log(1 + (math.e - 1) * min(share, 1.0))


@functools.cache
def levels(looks: Looks) -> tuple[float, ...]:
    """The two-sided level of the t-interval at each look; 0.05 at each where they are not paid for.

    More looks leave the levels of those before as they are.
    """
    if looks.max_seeds is None:
        return (LEVEL,) * len(looks.seeds)
    # A row a seed, so that further looks see the same draws.
    sums, squares = np.zeros(DRAWS), np.zeros(DRAWS)
    rng, drawn, before = np.random.default_rng(20), 0, 0.0
    inside, found = np.ones(DRAWS, bool), []
    for seeds in looks.seeds:
        for _ in range(drawn, seeds):
            row = rng.standard_normal(DRAWS)
            sums, squares = sums + row, squares + row**2
        drawn, mean = seeds, sums / seeds
        t = np.abs(mean) / np.sqrt((squares / seeds - mean**2) / (seeds - 1))
        left = np.sort(t[inside])
        cut = left[-1 - round((spent(seeds / looks.max_seeds) - before) * DRAWS)]
        before = spent(seeds / looks.max_seeds)
        inside &= t <= cut
        found.append(float(2 * stats.t.sf(cut, seeds - 1)))
    return tuple(found)
