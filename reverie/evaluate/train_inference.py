"""Train-inference discrepancy: painters that learned from one kind of captions, asked with every kind.

    M[a][q]              a metric of arm a, which learned from captions a, on prompts q
    matched advantage    M[a][a] less the mean of the other arms on prompts a
    best of its column   whether the matched arm is the best on its own prompts
    against the shift    whether arms are worse on prompts that lie farther from what they learned from

Source: arXiv:2310.16656 (RECAP) explains its gains by this discrepancy; the protocol is ours. How far captions lie apart,
evaluate/text_shift.py says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reverie.errors import InputError
from reverie.evaluate.significance import Difference, paired
from reverie.evaluate.trends import spearman
from reverie.store.results import Result

LOWER_IS_BETTER = ("ca", "fd", "kd")  # before the colon


@dataclass(frozen=True)
class Matrix:
    """A metric of every arm on every kind of prompts, by seed."""

    metric: str
    arms: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    values: npt.NDArray[np.float64]  # (seeds, arms, prompts); NaN where it was not measured

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.metric.partition(":")[0] in LOWER_IS_BETTER else 1

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """Over seeds (arms, prompts). Raises InputError where a number is missing."""
        if np.isnan(self.values).any():
            seed, arm, prompt = (int(at[0]) for at in np.nonzero(np.isnan(self.values)))
            raise InputError(
                f"{self.metric} of {self.arms[arm]} on {self.prompts[prompt]} with seed {self.seeds[seed]} was not measured"
            )
        found: npt.NDArray[np.float64] = self.values.mean(0)
        return found


def matrix(records: Iterable[Result], metric: str, by: str = "split", arm_by: str = "arm") -> Matrix:
    """The matrix of what some measuring steps found, one for each kind of prompts.

    Args:
        by: field, factor or detail of a record that names its prompts.
        arm_by: the same for what an arm learned from.
    Raises: InputError if there is no such number, or two in one place.
    """
    found: dict[tuple[int, str, str], float] = {}
    for record in records:
        if record.metric != metric or record.value is None:
            continue
        place = record.seed, str(record.get(arm_by)), str(record.get(by))
        if place in found:
            raise InputError(f"{metric} of {place[1]} on {place[2]} with seed {place[0]} was measured twice")
        found[place] = record.value
    if not found:
        raise InputError(f"there is no {metric} to make a matrix of")
    seeds, arms, prompts = (tuple(dict.fromkeys(place[at] for place in found)) for at in range(3))
    values = np.full((len(seeds), len(arms), len(prompts)), np.nan)
    for (seed, arm, prompt), value in found.items():
        values[seeds.index(seed), arms.index(arm), prompts.index(prompt)] = value
    return Matrix(metric, arms, prompts, tuple(sorted(seeds)), values[np.argsort(seeds)])  # type: ignore[arg-type]


def matched_advantages(made: Matrix, matches: Mapping[str, str]) -> dict[str, Difference]:
    """By how much each arm is better on its own prompts than the others are there, above 0 where it is, paired over seeds.

    Args: matches: arm -> the prompts that are like what it learned from.
    Raises: InputError for an arm or prompts that are not in the matrix, or a number that is missing.
    """
    made.means  # noqa: B018  says what is missing
    found = {}
    for arm, prompt in matches.items():
        row, column = _places(made, arm, prompt)
        own = made.sign * made.values[:, row, column]
        others = made.sign * np.delete(made.values[:, :, column], row, axis=1).mean(1)
        found[arm] = paired(
            dict(zip(made.seeds, own.tolist(), strict=True)), dict(zip(made.seeds, others.tolist(), strict=True))
        )
    return found


def best_on_their_own(made: Matrix, matches: Mapping[str, str]) -> dict[str, bool]:
    """Whether each matched arm is the best of its column, in the mean over seeds. Raises as ``matched_advantages``."""
    means = made.sign * made.means
    found = {}
    for arm, prompt in matches.items():
        row, column = _places(made, arm, prompt)
        found[arm] = bool(means[row, column] > np.delete(means[:, column], row).max())
    return found


def against_shift(made: Matrix, shift: Mapping[tuple[str, str], float]) -> dict[int, float]:
    """Rank correlation, for each seed, of how far an arm's captions lie from the prompts with how much it loses there to the best arm.

    Above 0 where arms lose more the farther they have to go, as the explanation predicts. What an arm loses is told within a column, so
    that hard prompts do not count as far ones.

    Args: shift: (arm, prompts) -> how far; of any measure of evaluate/text_shift.py.
    Raises: InputError for a pair without a shift, or fewer than three arms and prompts together.
    """
    made.means  # noqa: B018
    pairs = [(row, column) for row in range(len(made.arms)) for column in range(len(made.prompts))]
    missing = next(
        ((made.arms[r], made.prompts[c]) for r, c in pairs if (made.arms[r], made.prompts[c]) not in shift), None
    )
    if missing:
        raise InputError(f"nothing says how far the captions of {missing[0]} lie from {missing[1]}")
    if len(pairs) < 3:
        raise InputError(f"{len(pairs)} places of a matrix show no trend; measure more arms or prompts")
    far = [shift[made.arms[row], made.prompts[column]] for row, column in pairs]
    found = {}
    for number, seed in enumerate(made.seeds):
        good = made.sign * made.values[number]
        lost = good.max(0, keepdims=True) - good
        found[seed] = spearman(far, [float(lost[row, column]) for row, column in pairs])
    return found


@dataclass(frozen=True)
class WeightsEffect:
    """What it does which weights learn, with captions of one kind."""

    captions: str
    means: dict[str, float]  # parts -> mean over seeds
    less_both: dict[str, Difference]  # parts -> less what both together give


def which_weights(
    records: Iterable[Result], metric: str, parts_by: str = "parts", captions_by: str = "captions"
) -> list[WeightsEffect]:
    """Painters of which the network, the text encoder, or both learned, beside each other for every kind of captions.

    What comes out is for the reader: no direction is claimed.

    Args: parts_by, captions_by: factors of the arms.
    Raises: InputError where no arm has both factors.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        parts, captions = record.get(parts_by), record.get(captions_by)
        if record.metric == metric and record.value is not None and parts is not None and captions is not None:
            values.setdefault(str(captions), {}).setdefault(str(parts), {})[record.seed] = record.value
    if not values:
        raise InputError(f"no {metric} was measured of arms with the factors {parts_by} and {captions_by}")
    found = []
    for captions, by_parts in values.items():
        both = by_parts.get("both", {})
        less = {
            parts: paired(own, both) for parts, own in by_parts.items() if parts != "both" and own.keys() & both.keys()
        }
        means = {parts: float(np.mean(list(own.values()))) for parts, own in by_parts.items()}
        found.append(WeightsEffect(captions, means, less))
    return found


def steps_to(curve: Sequence[tuple[int, float]], threshold: float) -> float | None:
    """At how many steps a score first reaches a threshold, between two measurements on a logarithmic scale of steps; None if it never does.

    Args: curve: (steps, score), more is better.
    Raises: InputError for steps below 1 or out of order.
    """
    _check_curve(curve)
    for number, (steps, score) in enumerate(curve):
        if score < threshold:
            continue
        if number == 0 or score == threshold:
            return float(steps)
        before, least = curve[number - 1]
        share = (threshold - least) / (score - least)
        return float(np.exp(np.log(before) + share * (np.log(steps) - np.log(before))))
    return None


def area_under(curve: Sequence[tuple[int, float]]) -> float:
    """Mean score over a logarithmic scale of steps, from the first to the last. Raises InputError as ``steps_to``, and for one point."""
    _check_curve(curve)
    if len(curve) < 2:
        raise InputError("an area needs at least two points of a curve")
    places, scores = np.log([steps for steps, _ in curve]), [score for _, score in curve]
    return float(np.trapezoid(scores, places) / (places[-1] - places[0]))


def _check_curve(curve: Sequence[tuple[int, float]]) -> None:
    steps = [step for step, _ in curve]
    if not steps or min(steps) < 1 or steps != sorted(set(steps)):
        raise InputError("a curve has steps of 1 and more, each once and in order")


def _places(made: Matrix, arm: str, prompt: str) -> tuple[int, int]:
    if arm not in made.arms or prompt not in made.prompts:
        raise InputError(
            f"the matrix has no {arm} on {prompt}; it has {', '.join(made.arms)} on {', '.join(made.prompts)}"
        )
    if len(made.arms) < 2:
        raise InputError("one arm alone has nothing to be better than; measure at least two")
    return made.arms.index(arm), made.prompts.index(prompt)
