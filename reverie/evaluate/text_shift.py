"""What sets of captions are like, how much they tell, and how far each lies from each other: ``reverie evaluate text-shift``.

    words, tokens            mean length; tokens over the limit of a text encoder are cut and lost to it
    no caption               share that is empty, a file name, an address, or has no letter
    content words, attributes, numbers, relations    of a caption, by lists of words (evaluate/metrics/words.py)
    bits, bits a word        of a caption, to who knows other captions of the same set: a model of three words in a row, counted on half of
                             them and asked about the other half
    type-token               different words among as many words of every set

A shift is between half of the set in the row, what a model has learned from, and the other half of the set in the column, what it is
asked for; so the diagonal says what chance does. Length, word classes and function words are compared by the Jensen-Shannon
divergence of their histograms (0 to 1 bit), ``bits`` is how many more bits a word of the column says to a model of the row than to one of the
column, ``mmd`` is about vectors of the texts.

Source: arXiv:2310.16656 (RECAP), whose first explanation is such a shift between training captions and prompts, and whose second is
how much captions tell. How it measures either is not public: these measures are ours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from reverie import seeds
from reverie.captions.checks import check
from reverie.errors import InputError
from reverie.evaluate.diversity import Embed, Value, read_captions, split_source, word_vectors
from reverie.evaluate.metrics.distance import mmd
from reverie.evaluate.metrics.words import (
    CLASS_OF,
    CLASSES,
    Trigrams,
    classes_of,
    facts_counted,
    jensen_shannon,
    type_token,
    words_of,
)

Floats = npt.NDArray[np.float64]

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 11, 16, 21, 31, 41, 61, 81, 121)  # where bins of numbers of words begin
MAX_WORDS = 100_000  # that a language model is counted on
MAX_TYPES = 10_000  # words that type-token looks at
MAX_VECTORS = 2000  # captions of each set that become vectors
MIN_CAPTIONS = 20
NO_LIMIT = 10_000_000
SHUFFLES = 20  # of type-token
PLAIN = ("length", "word classes", "function words")
MEASURES = (*PLAIN, "bits", "mmd")


@dataclass(frozen=True)
class Told:
    """One set of captions."""

    name: str
    total: int
    values: dict[str, Value]


@dataclass(frozen=True)
class TextShift:
    """Sets beside each other."""

    sets: list[Told]
    shifts: dict[str, list[list[float]]]  # measure -> row by row, in the order of the sets
    limit: int | None  # tokens that the text encoder reads, where they were counted
    fitted_words: int  # that each language model was counted on

    def between(self, measure: str) -> dict[tuple[str, str], float]:
        """A measure by (what was learned from, what is asked for), as ``against_shift`` of evaluate/train_inference.py wants it."""
        names = [one.name for one in self.sets]
        return {(a, b): self.shifts[measure][x][y] for x, a in enumerate(names) for y, b in enumerate(names)}


def read_raw(source: str) -> list[str]:
    """Texts as they are, bad ones too: of a file, or of a column as PATH:COLUMN; of a run those that are ok.

    Raises: InputError for what has none.
    """
    from reverie.store.imports import guess_kind_unasked, samples

    path, column = split_source(source)
    if path.is_dir() and any((path / name).is_dir() for name in ("captions.lance", "pairs.lance")):
        return read_captions(source)
    found = [sample.text or "" for sample in samples(path, guess_kind_unasked(path), text_column=column)]
    if not any(text.strip() for text in found):
        raise InputError(f"{source} has no captions")
    return found


def text_shift(
    sets: Mapping[str, Sequence[str]],
    count_tokens: tuple[Callable[[Sequence[str]], list[int]], int] | None = None,
    embed: Embed = word_vectors,
    draws: int = 200,
    seed: int = 0,
    progress: Callable[..., None] = lambda *_: None,
) -> TextShift:
    """Describe each set and compare all of them.

    Args:
        count_tokens: what counts the tokens of texts, and how many are read; tokens are not told without.
        draws: of the bootstrap over captions.
        seed: of what is drawn.
    Raises: InputError for sets that are too small to say anything.
    """
    if not sets:
        raise InputError("name at least one set of captions")
    for name, texts in sets.items():
        usable = sum(bool(words_of(text)) for text in texts)
        if usable < MIN_CAPTIONS:
            raise InputError(
                f"{name} has {usable} captions with a word, too few to say what they are like; give at least {MIN_CAPTIONS}"
            )
    if draws < 2:
        raise InputError("draws must be at least 2")
    shuffled = {name: _shuffled(texts, seed, name) for name, texts in sets.items()}
    halves = {name: (texts[::2], texts[1::2]) for name, texts in shuffled.items()}
    words = {name: sum(len(words_of(text)) for text in half) for name, (half, _) in halves.items()}
    fitted = min(MAX_WORDS, *words.values())
    types = min(MAX_TYPES, *(sum(len(words_of(text)) for text in texts) for texts in sets.values()))
    models = {name: Trigrams(_words_long(half, fitted)) for name, (half, _) in halves.items()}
    told = []
    for number, (name, texts) in enumerate(sets.items()):
        progress(number, len(sets))
        told.append(_told(name, shuffled[name], len(texts), models[name], halves[name][1], count_tokens, types, draws))
    shifts = {measure: [[_shift(measure, halves[a][0], halves[b][1]) for b in sets] for a in sets] for measure in PLAIN}
    own = {name: _bits_a_word(models[name], halves[name][1]) for name in sets}
    shifts["bits"] = [[_bits_a_word(models[a], halves[b][1]) - own[b] for b in sets] for a in sets]
    shifts["mmd"] = _discrepancies(halves, embed)
    return TextShift(told, shifts, count_tokens[1] if count_tokens else None, fitted)


def shift_between(measure: str, learned: Sequence[str], asked: Sequence[str]) -> float:
    """One of the plain measures between two sets of texts. Raises KeyError for another."""
    if measure not in PLAIN:
        raise KeyError(measure)
    return _shift(measure, learned, asked)


def _shuffled(texts: Sequence[str], seed: int, name: str) -> list[str]:
    order = np.random.default_rng(seeds.derive("text shift", seed, name)).permutation(len(texts))
    return [texts[at] for at in order.tolist()]


def _words_long(texts: Sequence[str], wanted: int) -> list[str]:
    """The first texts that together have so many words, so that no model has seen more than another."""
    found, words = [], 0
    for text in texts:
        if words >= wanted:
            break
        found.append(text)
        words += len(words_of(text))
    return found


def _told(
    name: str, texts: Sequence[str], total: int, model: Trigrams, others: Sequence[str],
    count_tokens: tuple[Callable[[Sequence[str]], list[int]], int] | None, types: int, draws: int,
) -> Told:  # fmt: skip
    rng = np.random.default_rng(seeds.derive("bootstrap", name))
    words = [words_of(text) for text in texts]
    lengths = np.array([len(each) for each in words], dtype=np.float64)
    columns: dict[str, Floats] = {"words": lengths, "two words or fewer": (lengths <= 2).astype(np.float64)}
    if count_tokens is not None:
        count, limit = count_tokens
        tokens = np.array(count(texts), dtype=np.float64)
        columns |= {"tokens": tokens, f"over {limit} tokens": (tokens > limit).astype(np.float64)}
    columns["no caption"] = np.array(
        [check(text, NO_LIMIT, NO_LIMIT)[1] is not None for text in texts], dtype=np.float64
    )
    columns["not ASCII"] = np.array([not text.isascii() for text in texts], dtype=np.float64)
    counted = [facts_counted(text) for text in texts]
    columns |= {kind: np.array([each[kind] for each in counted], dtype=np.float64) for kind in counted[0]}
    weights = rng.multinomial(len(texts), np.full(len(texts), 1 / len(texts)), draws).astype(np.float64)
    values = {metric: _value(float(column.mean()), weights @ column / len(texts)) for metric, column in columns.items()}
    classes = [Counter(classes_of(text)) for text in texts]
    every = np.array([sum(each.values()) for each in classes], dtype=np.float64)
    for kind, called in (("name", "names, of all words"), ("code", "codes, of all words")):
        own = np.array([each[kind] for each in classes], dtype=np.float64)
        values[called] = _value(float(own.sum() / every.sum()), (weights @ own) / (weights @ every))
    said = np.array([model.bits(text) for text in others], dtype=np.float64)
    drawn = rng.multinomial(len(said), np.full(len(said), 1 / len(said)), draws) @ said
    values["bits"] = _value(float(said[:, 0].mean()), drawn[:, 0] / len(said))
    values["bits a word"] = _value(float(said[:, 0].sum() / said[:, 1].sum()), drawn[:, 0] / drawn[:, 1])
    # Every shuffling puts other captions first; with replacement, words would repeat by themselves.
    ratios = np.array([type_token(_shuffled(texts, number, name), types) for number in range(SHUFFLES)])
    low, high = np.quantile(ratios, [0.025, 0.975]).tolist()
    values[f"type-token of {types:,} words"] = Value(float(ratios.mean()), low, high)
    return Told(name, total, values)


def _value(value: float, drawn: Floats) -> Value:
    """With the quantiles of its bootstrap, which no mean of these is biased in."""
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Value(value, min(low, value), max(high, value))


def _shift(measure: str, learned: Sequence[str], asked: Sequence[str]) -> float:
    return jensen_shannon(_histogram(measure, learned), _histogram(measure, asked))


def _histogram(measure: str, texts: Sequence[str]) -> Counter[object]:
    if measure == "length":
        return Counter(bisect_right(LENGTHS, len(words_of(text))) for text in texts)
    if measure == "word classes":
        return Counter(kind for text in texts for kind in classes_of(text))
    # One place for every function word, and one for all other words.
    return Counter(word if word in CLASS_OF else "" for text in texts for word in words_of(text))


def _bits_a_word(model: Trigrams, texts: Sequence[str]) -> float:
    said = [model.bits(text) for text in texts]
    return sum(bits for bits, _ in said) / sum(words for _, words in said)


def _discrepancies(halves: Mapping[str, tuple[Sequence[str], Sequence[str]]], embed: Embed) -> list[list[float]]:
    """MMD between vectors, which are fitted on all of them together."""
    parts = [[text for text in half if words_of(text)][:MAX_VECTORS] for pair in halves.values() for half in pair]
    ends = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    rows = embed([text for part in parts for text in part])
    own = [rows[start:end] for start, end in pairwise(ends)]
    return [[mmd(own[2 * a], own[2 * b + 1]) for b in range(len(halves))] for a in range(len(halves))]


assert len(set(CLASSES)) == len(CLASSES)
