"""METEOR 1.5 for English without its table of paraphrases (Denkowski and Lavie, WMT 2014): exact, stem and synonym matches.

The published metric also matches paraphrases from a table of 60 MB; what is here is what its program gives with
``-m "exact stem synonym"``, so numbers lie a little below those of papers and of the COCO toolkit. The parameters are those
that METEOR 1.5 has for English. :mod:`reverie.evaluate.metrics.java` has the whole metric through the program.
"""

from __future__ import annotations

import functools
import heapq
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import snowballstemmer

from reverie.errors import InputError
from reverie.evaluate.metrics.captions import Scores, Words, check_photos
from reverie.evaluate.metrics.ptb import words_of
from reverie.evaluate.metrics.synonyms import synonym_sets

Match = tuple[int, int]  # a word of the candidate, and the kind of match
Key = Callable[[str], Iterable[str]]  # what words must share to match

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
#: What a matched word counts: exact, stem, synonym.
WEIGHTS = (1.0, 0.6, 0.8)
EXACT, STEM, SYNONYM = range(3)
#: Paths that the search for an alignment keeps at each word.
BEAM = 40
#: Most pairs of words that an alignment may have to choose from.
MAX_PAIRS = 1_000_000

# Words that say little, and count 1 - DELTA instead of DELTA: METEOR's list for English.
FUNCTION_WORDS = words_of(
    """the , . to of and a in that for " is on 's it with was as said at he by be from have has are his but an this not i will ’
    they ) -rrb- ( -lrb- who their had we which were been more or s its would about new one after you : also up when there than $
    all out her people she year two - can if last first “ over other ” into some what so -- no time years could ? 't — '"""
)


def meteor_without_paraphrases(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> Scores:
    """METEOR 1.5 by exact, stem and synonym matches, in [0, 1].

    A photo has the score of its best reference. ``corpus`` comes from the counts of these best alignments, summed over the
    set, so it is not the mean of ``each``. Words are cut once more as METEOR does with ``-norm``: at hyphens and apostrophes.

    Raises: ValueError if there is no photo, their numbers differ, or a photo has no reference; InputError for two captions so
        long and alike that aligning them would take minutes.
    """
    check_photos(candidates, references)
    known: dict[tuple[str, ...], list[str]] = {}

    def cut(words: Words) -> list[str]:
        key = tuple(words)
        if key not in known:
            known[key] = normalise(" ".join(words))
        return known[key]

    best = []
    for candidate, own in zip(candidates, references, strict=True):
        found = [_counts(cut(candidate), cut(reference)) for reference in own]
        best.append(max(found, key=lambda counts: counts.score))  # the first of equals
    # A caption that is wholly right in one piece has no penalty, and adds no chunk to those of the set.
    added = [replace(counts, chunks=0.0) if counts.whole else counts for counts in best]
    total = Counts(*(sum(column) for column in zip(*map(astuple, added), strict=True)))
    return Scores(total.score, np.array([counts.score for counts in best]))


@dataclass(frozen=True)
class Counts:
    """What an alignment of a candidate with a reference comes to; sums of these over a set score the set.

    Lengths and matches in words, then the same weighed by DELTA and WEIGHTS; ``chunks`` are runs of matches in the same order.
    """

    candidate: float
    reference: float
    weighed_candidate: float
    weighed_reference: float
    matches: float
    weighed_matches_candidate: float
    weighed_matches_reference: float
    chunks: float

    @property
    def whole(self) -> bool:
        """Whether all words of both are matched, in one chunk."""
        return self.matches == self.candidate == self.reference and self.chunks <= 1

    @property
    def score(self) -> float:
        """Weighed F-mean of precision and recall, less a penalty for matches in scattered order."""
        if not self.weighed_matches_candidate or not self.weighed_matches_reference:
            return 0.0
        precision = self.weighed_matches_candidate / self.weighed_candidate
        recall = self.weighed_matches_reference / self.weighed_reference
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragments = 0.0 if self.whole else self.chunks / self.matches
        return float(max(mean * (1 - GAMMA * fragments**BETA), 0.0))


def _counts(candidate: Sequence[str], reference: Sequence[str]) -> Counts:
    matched = align(candidate, reference)
    chunks = sum(
        place == 0 or matched[place - 1] is None or matched[place - 1][0] != match[0] - 1  # type: ignore[index]
        for place, match in enumerate(matched)
        if match is not None
    )
    pairs = [(candidate[match[0]], word, match[1]) for word, match in zip(reference, matched, strict=True) if match]
    return Counts(
        len(candidate),
        len(reference),
        sum(map(_weight, candidate)),
        sum(map(_weight, reference)),
        len(pairs),
        sum(_weight(ours) * WEIGHTS[kind] for ours, _, kind in pairs),
        sum(_weight(theirs) * WEIGHTS[kind] for _, theirs, kind in pairs),
        chunks,
    )


def _weight(word: str) -> float:
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA


@dataclass(frozen=True, slots=True)
class _Path:
    """Matches chosen so far, from the first word of the reference on."""

    exact: int = 0
    chunks: int = 0
    distance: int = 0
    end: int = -1  # word of the candidate that would go on with the last chunk; -1 outside of one
    used: frozenset[int] = frozenset()  # words of the candidate, without those that only one word may have
    chosen: tuple[Any, ...] = ()  # (match or None, what was chosen before)


def align(candidate: Sequence[str], reference: Sequence[str]) -> list[Match | None]:
    """For each word of the reference the place of its word in the candidate and the kind of match, or None.

    Each word is matched once at most. Best is most exact matches, then fewest chunks, then the least sum of distances between
    places, searched with a beam. Matches by stem and synonym are taken where they come at no cost in these, which is how the
    program counts (half a match, rounded down), though the paper has the number of all matches in first place. It also adds the
    distance of a match to the path that goes on without it; that is kept, so that ties are broken alike.
    """
    options = _options(candidate, reference)
    taken = np.zeros(len(candidate), np.int64)
    for own in options:
        for place, _ in own:
            taken[place] += 1
    # A match without a rival on either side is sure; others may not use its word.
    sure = [own[0] if len(own) == 1 and taken[own[0][0]] == 1 else None for own in options]
    paths = [_Path()]
    for here, (own, only) in enumerate(zip(options, sure, strict=True)):
        # (rank, number, path, match): the number keeps the order among equals, and few of many become paths.
        ways: list[tuple[tuple[int, int, int], int, _Path, Match | None]] = []
        for path in paths:
            distance = path.distance
            for match in [only] if only else own:
                place, kind = match
                if place in path.used:
                    continue
                far = abs(here - place)
                chunks = path.chunks + (path.end not in (-1, place))
                rank = (-path.exact - (kind == EXACT), chunks, distance + (far if only else 0))
                ways.append((rank, len(ways), path, match))
                distance += far
            if not only:
                ways.append(((-path.exact, path.chunks + (path.end != -1), distance), len(ways), path, None))
        best = heapq.nsmallest(BEAM, ways) if len(ways) > 1 else ways
        paths = [_stepped(rank, path, match) for rank, _, path, match in best]
    end = min(paths, key=lambda path: (-path.exact, path.chunks + (path.end != -1), path.distance))
    matched: list[Match | None] = []
    chosen = end.chosen
    while chosen:
        matched.append(chosen[0])
        chosen = chosen[1]
    return matched[::-1]


def _stepped(rank: tuple[int, int, int], path: _Path, match: Match | None) -> _Path:
    end, used = (match[0] + 1, path.used | {match[0]}) if match else (-1, path.used)
    return _Path(-rank[0], rank[1], rank[2], end, used, (match, path.chosen))


def _options(candidate: Sequence[str], reference: Sequence[str]) -> list[list[Match]]:
    """All words of the candidate that each word of the reference may match: exact ones, then by stem, then synonyms."""
    # Of equal captions only exact matches count, so that a word does not go to another one.
    keys: list[Key] = [_itself] if list(candidate) == list(reference) else [_itself, _stem, _synonyms]
    kinds = [_places(candidate, key) for key in keys]
    options: list[list[Match]] = []
    pairs = 0
    for word in reference:
        own: list[Match] = []
        for kind, (key, places) in enumerate(zip(keys, kinds, strict=True)):
            found = {place for name in key(word) for place in places.get(name, ())}
            pairs += len(found)
            own += [(place, kind) for place in sorted(found) if kind == EXACT or candidate[place] != word]
        if pairs > MAX_PAIRS:
            raise InputError(
                f"METEOR cannot align a caption of {len(candidate):,} words with a reference of {len(reference):,}: too many "
                "of them are alike; shorten them, or leave METEOR out"
            )
        options.append(own)
    return options


def _places(words: Iterable[str], key: Key) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        for name in key(word):
            places.setdefault(name, []).append(place)
    return places


def _itself(word: str) -> tuple[str]:
    return (word,)


@functools.cache
def _stem(word: str) -> tuple[str]:
    return (_stemmer().stemWord(word),)


@functools.cache
def _stemmer() -> Any:
    return snowballstemmer.stemmer("english")


@functools.cache
def _synonyms(word: str) -> frozenset[str]:
    return synonym_sets(word)


# METEOR's own cutting of words: symbols apart, no hyphens, apostrophes apart.
SYMBOL = re.compile(r"([^\w\s.'`,\-’]|_)")
QUOTE, DOUBLE = re.compile("[`‘’]"), re.compile("[“”]|''")
COMMAS = (re.compile(r"(\D),(\D)"), re.compile(r"(\d),(\D)"), re.compile(r"(\D),(\d)"))
HYPHEN = re.compile(r"([^\W_]|\.)-([^\W_])")
APOSTROPHES = (
    (re.compile(r"([^A-Za-zÀ-ɏ])'([^A-Za-zÀ-ɏ])"), r"\1 ' \2"),
    (re.compile(r"([^A-Za-zÀ-ɏ0-9])'([A-Za-zÀ-ɏ])"), r"\1 ' \2"),
    (re.compile(r"([A-Za-zÀ-ɏ])'([^A-Za-zÀ-ɏ])"), r"\1 ' \2"),
    (re.compile(r"([A-Za-zÀ-ɏ])'([A-Za-zÀ-ɏ])"), r"\1 '\2"),
    (re.compile(r"([0-9])'(s)"), r"\1 '\2"),
)
# In lower case, only these keep their full stop at the end of a caption; before a word in lower case every word does.
KEEP_STOP = frozenset(("v", "vs", "i.e", "e.g", "rev", "pp"))
PLAIN = re.compile(r"[a-z0-9 ]*")


def normalise(line: str) -> list[str]:
    """The words of tokens between spaces as METEOR's ``-norm`` cuts them."""
    if PLAIN.fullmatch(line):
        return line.split()
    text = SYMBOL.sub(r" \1 ", f" {line} ")
    for comma in COMMAS:
        text = comma.sub(r"\1 , \2", text)
    text = DOUBLE.sub(' " ', QUOTE.sub("'", text)).replace("–", "-").replace("--", "-")
    text = HYPHEN.sub(r"\1 \2", text)
    for pattern, instead in APOSTROPHES:
        text = pattern.sub(instead, text)
    words, cut = text.split(), list[str]()
    for place, word in enumerate(words):
        stem = word[:-1]
        if len(word) < 2 or not word.endswith("."):
            cut.append(word)
        elif "." in stem and any(letter.isalpha() for letter in stem):
            cut.append(word.replace(".", ""))
        elif stem in KEEP_STOP or (place + 1 < len(words) and words[place + 1][0].islower()):
            cut.append(word)
        else:
            cut += [stem, "."]
    return [word.lower() for word in cut]
