"""Whether pictures show what their captions ask for: objects (SOA), numbers of them (CA), places (PA), facts asked about (QA).

    SOA-C   mean over classes c of (pictures of captions that name c in which c is found / pictures of captions that name c)
    SOA-I   the same over all (picture, class) together, so classes weigh by how often they are named
    CA      mean over pictures of the root mean square error of the numbers of what the caption counts; lower is better
    PA      mean over words of place of the share of pictures that fit their caption better than one with the opposite word

Source: SOA, arXiv:1910.13321; CA and PA, arXiv:2112.01398 (TISE). A picture in which nothing is found counts as showing nothing.
The released code of TISE leaves such pictures out of SOA's denominator, so that who paints nothing at all looks better;
``tise_compat`` does as it does, to compare with its numbers.

These are pure functions of what was found; who looks at pictures, evaluate/observers.py says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reverie.evaluate.metrics.frechet import about

Floats = npt.NDArray[np.float64]
PLACED = 0.6  # of P(true caption), from which a picture counts as fitting it
HALF = 40  # classes of SOA's Top-40 and Bottom-40


@dataclass(frozen=True)
class Score:
    """A number over all pictures."""

    value: float
    low: float  # 95 % interval over captions
    high: float
    each: tuple[float | None, ...]  # of each picture; None where its caption asks for nothing of the kind
    parts: Mapping[str, float]  # of each class or word
    counts: Mapping[str, int]  # pictures of each
    num: int  # pictures that it is about


def object_accuracy(
    named: Sequence[Collection[str]],
    found: Sequence[Collection[str]],
    captions: Sequence[object] = (),
    tise_compat: bool = False,
    draws: int = 200,
) -> dict[str, Score]:
    """SOA: ``soa_c`` and ``soa_i``, and with 80 classes or more ``soa_top`` and ``soa_bottom``, the mean over the 40 most and least named.

    Args:
        named: what the caption of each picture names.
        found: what was found in it.
        captions: whose picture each is; the interval is over other captions. Every picture has one of its own when empty.
        tise_compat: leave out pictures in which nothing at all was found, as the released code does.
    Returns: nothing where no caption names anything.
    """
    rows = [
        (number, name, float(name in seen))
        for number, (names, seen) in enumerate(zip(named, found, strict=True))
        if seen or not tise_compat
        for name in sorted(set(names))
    ]
    if not rows:
        return {}
    groups = [name for _, name, _ in rows]
    asked = _Asked(
        [number for number, _, _ in rows], [right for _, _, right in rows], groups, len(named), captions, draws
    )
    scores = {"soa_c": asked.by_group(), "soa_i": asked.together()}
    order = sorted(asked.counts, key=lambda name: -asked.counts[name])
    if len(order) >= 2 * HALF:
        scores |= {"soa_top": asked.by_group(order[:HALF]), "soa_bottom": asked.by_group(order[-HALF:])}
    return scores


def counting_error(
    wanted: Sequence[Mapping[str, int]],
    counted: Sequence[Mapping[str, int]],
    captions: Sequence[object] = (),
    draws: int = 200,
) -> Score | None:
    """CA; None where no caption counts anything. What is not counted in a picture counts as 0."""
    numbers = [number for number, own in enumerate(wanted) if own]
    if len(wanted) != len(counted):
        raise ValueError(f"{len(counted)} pictures were counted in, and {len(wanted)} captions count")
    errors = [
        float(np.sqrt(np.mean([(counted[n].get(name, 0) - number) ** 2 for name, number in wanted[n].items()])))
        for n in numbers
    ]
    if not numbers:
        return None
    return _Asked(numbers, errors, [""] * len(numbers), len(wanted), captions, draws, most=math.inf).together()


def positional_alignment(
    words: Sequence[Sequence[str]],
    right: Sequence[Sequence[bool]],
    captions: Sequence[object] = (),
    draws: int = 200,
) -> Score | None:
    """PA; None where no caption says where anything is.

    Args: words: of place in the caption of each picture. right: whether the picture fits each of them.
    """
    rows = [
        (number, word, float(fits))
        for number, (own, answers) in enumerate(zip(words, right, strict=True))
        for word, fits in zip(own, answers, strict=True)
    ]
    if not rows:
        return None
    numbers, groups, values = zip(*rows, strict=True)
    return _Asked(numbers, values, groups, len(words), captions, draws).by_group()


def confirmed(answers: Sequence[Sequence[bool]], captions: Sequence[object] = (), draws: int = 200) -> dict[str, Score]:
    """QA: ``qa``, share of the facts of captions that are confirmed, and ``qa_all``, of pictures in which all of their caption's are.

    Args: answers: whether each fact of the caption of each picture was confirmed; pictures without any are left out.
    """
    rows = [(number, float(right)) for number, own in enumerate(answers) for right in own]
    if not rows:
        return {}
    numbers, values = zip(*rows, strict=True)
    asked = [number for number, own in enumerate(answers) if own]
    whole = [float(all(answers[number])) for number in asked]
    return {
        "qa": _Asked(numbers, values, [""] * len(rows), len(answers), captions, draws).together(),
        "qa_all": _Asked(asked, whole, [""] * len(asked), len(answers), captions, draws).together(),
    }


class _Asked:
    """Values of (picture, group), with intervals by a bootstrap over captions."""

    def __init__(
        self, numbers: Sequence[int], values: Sequence[float], groups: Sequence[str], total: int,
        captions: Sequence[object], draws: int, most: float = 1.0,
    ) -> None:  # fmt: skip
        if captions and len(captions) != total:
            raise ValueError(f"{len(captions)} captions for {total} pictures")
        names = sorted(set(groups))
        places = {name: place for place, name in enumerate(names)}
        own = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
        units = [own[caption] for caption in captions] if captions else range(total)
        num_units = len(own) if captions else total
        # Sums and counts of each caption in each group: what a draw of captions needs to know.
        self.sums, self.nums = np.zeros((num_units, len(names))), np.zeros((num_units, len(names)))
        each: list[list[float]] = [[] for _ in range(total)]
        for number, value, group in zip(numbers, values, groups, strict=True):
            self.sums[units[number], places[group]] += value
            self.nums[units[number], places[group]] += 1
            each[number].append(value)
        self.each = tuple(round(sum(own) / len(own), 6) if own else None for own in each)
        self.num = sum(bool(own) for own in each)
        self.names, self.places, self.most = names, places, most
        self.counts = {name: int(self.nums[:, place].sum()) for name, place in places.items()}
        self.parts = {name: float(self.sums[:, place].sum() / self.counts[name]) for name, place in places.items()}
        asking = np.flatnonzero(self.nums.any(1))  # captions that ask for nothing of the kind tell nothing
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(len(asking), np.full(len(asking), 1 / len(asking)), draws)
        self.weights = np.zeros((1 + draws, num_units))  # the first is all of them as they are
        self.weights[0], self.weights[1:, asking] = 1, drawn

    def by_group(self, names: Sequence[str] | None = None) -> Score:
        """The mean over these groups, or all, which weigh the same; in a draw those that are in it."""
        own = [self.places[name] for name in names or self.names]
        sums, nums = self.weights @ self.sums[:, own], self.weights @ self.nums[:, own]
        shares = np.divide(sums, nums, out=np.full_like(sums, np.nan), where=nums > 0)
        return self._score(np.nanmean(shares, axis=1))

    def together(self) -> Score:
        """The mean over all values."""
        sums, nums = (self.weights @ part.sum(1) for part in (self.sums, self.nums))
        return self._score(sums / nums)

    def _score(self, found: Floats) -> Score:
        value, low, high = about(float(found[0]), found[1:]) if len(found) > 2 else (float(found[0]),) * 3
        low, high = max(low, 0.0), min(high, self.most)  # the spread of few captions is wider than what can be
        return Score(value, low, high, self.each, self.parts, self.counts, self.num)
