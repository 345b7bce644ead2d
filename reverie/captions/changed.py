"""Captions changed in one way alone, to learn which of their qualities a painter learns from.

    match_lengths        as long as captions of another set, and with nothing new in them: is it only length?
    first_part           the first part of their sentences or clauses: does it fall with what they tell?
    first_words          the same by words, for captions of one or two clauses
    with_random_clause   a clause of another picture's caption behind them: does any text do?
    with_false_things    things that the picture does not show: what do invented things undo?

All are pure functions of the texts and a seed. Source: arXiv:2310.16656 (RECAP) asks these questions; the protocols are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from reverie import seeds
from reverie.errors import InputError

SENTENCE = re.compile(r"(?<=[.!?])\s+")
CLAUSE = re.compile(r"(\s*[,;]\s*|\s+and\s+)")


def match_lengths(texts: Sequence[str], like: Sequence[str]) -> list[str]:
    """Texts with the numbers of words of others: the longest gets the largest number, and so on.

    Longer ones lose their ends; shorter ones say themselves again, which tells nothing new. A text without a word stays as it is.

    Raises: InputError where there is no text to be like.
    """
    if not like:
        raise InputError("there are no captions whose lengths could be taken")
    words = [text.split() for text in texts]
    wanted = np.sort([len(text.split()) for text in like])
    order = np.argsort([len(each) for each in words], kind="stable")
    found = list(texts)
    for rank, number in enumerate(order.tolist()):
        own = words[number]
        # The middle of each of as many equal parts, so that sets of any size have the same lengths.
        size = int(wanted[int((rank + 0.5) / len(texts) * len(wanted))])
        if own and size:
            found[number] = " ".join((own * math.ceil(size / len(own)))[:size])
    return found


def parts_of(text: str) -> list[str]:
    """Sentences of a text, or of a single one its clauses, each with what joins it to the one before."""
    sentences = SENTENCE.split(text.strip())
    if len(sentences) > 1:
        return [sentences[0], *(f" {each}" for each in sentences[1:])]
    pieces = CLAUSE.split(text.strip())
    return [pieces[0], *(pieces[at] + pieces[at + 1] for at in range(1, len(pieces) - 1, 2))]


def first_part(text: str, share: float) -> str:
    """The first so many of its sentences or clauses, at least one. Raises InputError for a share that is none."""
    if not 0 < share <= 1:
        raise InputError(f"a share of {share:g} of a caption cannot be kept; give a number above 0 and at most 1")
    parts = parts_of(text)
    # A share of parts is meant as a number of parts: 0.3 of ten is three, whatever floating point makes of it.
    return "".join(parts[: max(1, math.ceil(share * len(parts) - 1e-9))]).strip(" ,;")


def first_words(text: str, share: float) -> str:
    """The first so many of its words, at least one; joining signs at the end go. Raises InputError for a share that is none."""
    if not 0 < share <= 1:
        raise InputError(f"a share of {share:g} of a caption cannot be kept; give a number above 0 and at most 1")
    words = text.split()
    return " ".join(words[: max(1, math.ceil(share * len(words) - 1e-9))]).strip(" ,;")


def with_random_clause(texts: Sequence[str], seed: int = 0) -> list[str]:
    """Each text with a clause of another one behind it. Raises InputError for fewer than two texts."""
    if len(texts) < 2:
        raise InputError("a clause of another caption needs another caption; give at least two")
    found = []
    for number, text in enumerate(texts):
        rng = np.random.default_rng(seeds.derive("random clause", seed, number))
        other = (number + 1 + int(rng.integers(len(texts) - 1))) % len(texts)
        clauses = [part.strip(" ,;.").removeprefix("and ") for part in parts_of(texts[other])]
        clauses = [clause for clause in clauses if clause]
        found.append(f"{text} , {clauses[rng.integers(len(clauses))]}" if clauses else text)
    return found


def with_false_things(
    texts: Sequence[str], share: float, things: Sequence[str], named: Callable[[str], Sequence[str]], seed: int = 0
) -> list[str]:
    """Each text with things that it does not name behind it: for each thing that it names, one more with this chance.

    A larger share adds to the same texts what a smaller one adds, and more.

    Args:
        things: names to draw from.
        named: which of these a text names.
    Raises: InputError for a share that is none, or no things.
    """
    if not 0 <= share <= 1 or not things:
        raise InputError(
            f"a share of {share:g} of {len(things)} things cannot be added; give 0 to 1, and at least one thing"
        )
    found = []
    for number, text in enumerate(texts):
        rng = np.random.default_rng(seeds.derive("false things", seed, number))
        own = set(named(text))
        others = [thing for thing in things if thing not in own]
        luck, order = rng.random(len(own)), rng.permutation(len(others)).tolist()
        for place, chance in enumerate(luck.tolist()):
            if chance < share and place < len(order):
                thing = others[order[place]]
                text = f"{text} and {'an' if thing[0] in 'aeiou' else 'a'} {thing}"
        found.append(text)
    return found
