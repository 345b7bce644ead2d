"""BLEU, ROUGE-L, CIDEr and CIDEr-D of captions that are already words (:func:`reverie.evaluate.metrics.ptb.tokenise`).

Each photo has one candidate caption and at least one reference. Every function gives the number of the whole set and one
number a photo, for a paired bootstrap. Values are as the COCO caption toolkit gives them (arXiv 1504.00325), to rounding:
BLEU and ROUGE-L in [0, 1], CIDEr and CIDEr-D in [0, 10], where papers print a hundred times each.

n-grams are integers, counted in one sparse matrix an order, (captions, n-grams), so that no Python runs for an n-gram.
A token with white space in it (``3 1/2`` of the tokeniser has a no-break space) is two words for n-grams and one for ROUGE-L:
so the toolkit reads its own tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

Words = Sequence[str]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_ORDER = 4
SURROGATES = range(0xD800, 0xE000)  # code points that no text can hold


@dataclass(frozen=True)
class Scores:
    """A metric: ``corpus``, the number of the whole set, and ``each``, (photos,), one number a photo in their order."""

    corpus: float
    each: Floats


def bleu(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]], max_order: int = MAX_ORDER
) -> tuple[Scores, ...]:
    """BLEU-1 to BLEU-``max_order`` (Papineni et al. 2002), in [0, 1], with the COCO toolkit's details.

    Counts are summed over the set before the geometric mean, so ``corpus`` is not the mean of ``each``. The brevity penalty
    compares with the reference length closest to the candidate's, the shorter one of two as close. As in the toolkit, 1e-15
    is added to matches and 1e-9 to the number of n-grams in place of any smoothing, so what has no match of an order has at most 0.04 of it, not 0.

    Raises: ValueError if there is no photo, their numbers differ, or a photo has no reference.
    """
    return Counted.of(candidates, references).bleu(max_order)


def rouge_l(candidates: Sequence[Words], references: Sequence[Sequence[Words]], beta: float = 1.2) -> Scores:
    """ROUGE-L (Lin and Och, ACL 2004), in [0, 1]: an F-measure of the longest common subsequence, recall weighed by ``beta``.

    As in the COCO toolkit the best precision and the best recall may come from different references, and ``corpus`` is the
    mean of ``each``. A caption without words equals another without words, and has nothing of any other.

    Raises: ValueError as :func:`bleu`.
    """
    check_photos(candidates, references)
    counts = [len(own) for own in references]
    sentences = [*candidates, *chain.from_iterable(references)]
    texts = _as_texts(sentences)
    lengths = np.maximum([len(words) for words in sentences], 1)
    pair = np.repeat(np.arange(len(candidates)), counts)
    ours, theirs = [texts[place] for place in pair.tolist()], texts[len(candidates) :]
    common = cpdist(ours, theirs, scorer=LCSseq.similarity, dtype=np.int64)
    starts = np.cumsum([0, *counts[:-1]])
    precision = np.maximum.reduceat(common / lengths[pair], starts)
    recall = np.maximum.reduceat(common / lengths[len(candidates) :], starts)
    below = recall + beta**2 * precision
    each = np.divide((1 + beta**2) * precision * recall, below, out=np.zeros(len(candidates)), where=below > 0)
    return Scores(float(each.mean()), each)


def cider(
    candidates: Sequence[Words],
    references: Sequence[Sequence[Words]],
    idf_from: Sequence[Sequence[Words]] | None = None,
) -> Scores:
    """CIDEr as the paper first defines it (Vedantam et al., arXiv 1411.5726, section 4), in [0, 10].

    The mean over n = 1 to 4 and over the references of the cosine of tf-idf vectors of n-grams, times 10 as usual. What the
    COCO toolkit calls CIDEr is :func:`cider_d`. Words are not stemmed, as in the toolkit.

    Args:
        candidates, references: words of one caption a photo, and of at least one reference a photo.
        idf_from: references of the photos that the inverse document frequencies come from, one document a photo; those of
            this set when None. A single photo makes every weight log(1) = 0 and so every score 0.
    Raises: ValueError as :func:`bleu`.
    """
    return Counted.of(candidates, references, idf_from).cider()


def cider_d(
    candidates: Sequence[Words],
    references: Sequence[Sequence[Words]],
    idf_from: Sequence[Sequence[Words]] | None = None,
    sigma: float = 6.0,
) -> Scores:
    """CIDEr-D (arXiv 1411.5726, section 6), in [0, 10]: what the COCO toolkit, and papers that use it, call CIDEr.

    Beside :func:`cider`, counts of the candidate are clipped to those of the reference, and a difference in length is
    punished by a gaussian of width ``sigma``. The toolkit measures lengths in bigrams, which is the same difference but for
    captions without words.

    Args and Raises: as :func:`cider`.
    """
    return Counted.of(candidates, references, idf_from).cider_d(sigma)


@dataclass(frozen=True)
class Counted:
    """Captions as counts of n-grams, made once for several metrics.

    ``candidates[n - 1]`` (photos, n-grams) and ``references[n - 1]`` (references, n-grams) are sparse counts, ``pair`` (references,)
    the photo of each reference, ``documents[n - 1]`` (n-grams,) in how many of ``num_documents`` photos an n-gram occurs.
    """

    candidates: tuple[sp.csr_array, ...]
    references: tuple[sp.csr_array, ...]
    pair: Ints
    documents: tuple[Ints, ...]
    num_documents: int

    @classmethod
    def of(
        cls,
        candidates: Sequence[Words],
        references: Sequence[Sequence[Words]],
        idf_from: Sequence[Sequence[Words]] | None = None,
    ) -> Counted:
        """Count. Raises: ValueError as :func:`bleu`."""
        check_photos(candidates, references)
        num, elsewhere = len(candidates), idf_from or ()
        groups = [*references, *elsewhere]
        sentences = [*candidates, *chain.from_iterable(groups)]
        group = np.repeat(np.arange(len(groups)), [len(own) for own in groups])
        num_references = int(np.searchsorted(group, num))
        ours, theirs, documents = [], [], []
        for order in _ngrams(sentences):
            ours.append(order[:num])
            theirs.append(order[num : num + num_references])
            first = num + num_references if elsewhere else num
            documents.append(_photos_with(order[first:], group[first - num :]))
        return cls(
            tuple(ours), tuple(theirs), group[:num_references], tuple(documents), len(elsewhere) if elsewhere else num
        )

    @functools.cached_property
    def _overlap(self) -> list[tuple[Ints, Ints, Floats, Floats]]:
        """Of each order what a candidate and a reference share: reference, n-gram, and how often it is in either."""
        found = []
        for ours, theirs in zip(self.candidates, self.references, strict=True):
            spread = ours[self.pair]
            where = spread.minimum(theirs).tocsr()  # has just the places that are in both
            rows = np.repeat(np.arange(len(self.pair)), np.diff(where.indptr))
            width = np.int64(ours.shape[1])
            keys = rows * width + where.indices
            found.append((rows, where.indices, _looked_up(spread, keys, width), _looked_up(theirs, keys, width)))
        return found

    def bleu(self, max_order: int = MAX_ORDER) -> tuple[Scores, ...]:
        """As :func:`bleu`."""
        num = self.candidates[0].shape[0]
        matches, totals = np.zeros((max_order, num)), np.zeros((max_order, num))
        for n, (rows, ngrams, ours, theirs) in enumerate(self._overlap[:max_order]):
            photo = self.pair[rows]
            clipped = np.minimum(ours, theirs)
            # The most of any reference counts: sort by photo and n-gram, then take the largest of each run.
            keys = photo * np.int64(self.candidates[n].shape[1]) + ngrams
            order = np.argsort(keys, kind="stable")
            starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
            if len(starts):
                best = np.maximum.reduceat(clipped[order], starts)
                matches[n] = np.bincount(photo[order][starts], best, num)
            totals[n] = self.candidates[n].sum(axis=1)
        lengths, others = totals[0], np.asarray(self.references[0].sum(axis=1), np.float64)
        # The closest length, and the shorter one of two as close, are one number to minimise.
        far = np.abs(others - lengths[self.pair]) * (2 * others.max(initial=0) + 2) + others
        starts = np.searchsorted(self.pair, np.arange(num))
        closest = np.minimum.reduceat(far, starts) % (2 * others.max(initial=0) + 2)
        each = _bleu(matches, totals, lengths, closest)
        whole = _bleu(*(part.sum(axis=-1, keepdims=True) for part in (matches, totals, lengths, closest)))
        return tuple(Scores(float(corpus[0]), row) for corpus, row in zip(whole, each, strict=True))

    def cider(self) -> Scores:
        """As :func:`cider`."""
        return self._cider(clip=False, sigma=None)

    def cider_d(self, sigma: float = 6.0) -> Scores:
        """As :func:`cider_d`."""
        return self._cider(clip=True, sigma=sigma)

    def _cider(self, clip: bool, sigma: float | None) -> Scores:
        total = np.zeros(len(self.pair))
        for n, (rows, ngrams, ours, theirs) in enumerate(self._overlap):
            weight = (np.log(self.num_documents) - np.log(np.maximum(1, self.documents[n]))) ** 2
            share = (np.minimum(ours, theirs) if clip else ours) * theirs * weight[ngrams]
            norms = np.sqrt(self.candidates[n].power(2) @ weight)[self.pair] * np.sqrt(
                self.references[n].power(2) @ weight
            )
            dot = np.bincount(rows, share, len(self.pair)).astype(np.float64)  # of nothing it gives integers
            total += np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0)
        if sigma is not None:
            apart = self.candidates[1].sum(axis=1)[self.pair] - self.references[1].sum(axis=1)
            total *= np.exp(-(np.asarray(apart, np.float64) ** 2) / (2 * sigma**2))
        num = self.candidates[0].shape[0]
        each = 10 * np.bincount(self.pair, total, num) / np.bincount(self.pair, minlength=num) / MAX_ORDER
        return Scores(float(each.mean()), each)


def _bleu(matches: Floats, totals: Floats, lengths: Floats, closest: Floats) -> list[Floats]:
    """BLEU of each order from (orders, n) counts and (n,) lengths; the small numbers are the toolkit's."""
    product, found = np.ones_like(lengths, np.float64), []
    ratio = (lengths + 1e-15) / (closest + 1e-9)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    for n, (right, guessed) in enumerate(zip(matches, totals, strict=True), 1):
        product = product * (right + 1e-15) / (guessed + 1e-9)
        found.append(product ** (1 / n) * penalty)
    return found


def check_photos(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    """Raises: ValueError if there is no photo, their numbers differ, or a photo has no reference."""
    if not candidates or len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates and references of {len(references)} photos do not go together")
    if not all(references):
        raise ValueError("a photo without a reference has no score")


def _ngrams(sentences: Iterable[Words]) -> list[sp.csr_array]:
    """Counts of each order 1 to 4, (sentences, distinct n-grams), with sorted columns."""
    sentences = list(sentences)
    words = list(chain.from_iterable(sentences))
    number = {word: place for place, word in enumerate(dict.fromkeys(words))}
    if apart := {word for word in number if len(word.split()) != 1}:
        return _ngrams([words if apart.isdisjoint(words) else " ".join(words).split() for words in sentences])
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    codes = first = np.fromiter(map(number.__getitem__, words), np.int64, len(words))
    sentence = np.repeat(np.arange(len(sentences)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the end of the sentence
    found, width = [], max(len(number), 1)
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            inside = left[: len(codes)] >= order
            # An n-gram is an (n-1)-gram and a word; those of one order are numbered anew, so that numbers stay small.
            joined = codes[:-1] * np.int64(max(len(number), 1)) + first[order - 1 :] if len(codes) else codes
            inside = inside[: len(joined)]
            distinct, places = np.unique(joined[inside], return_inverse=True)
            codes, width = np.zeros(len(joined), np.int64), max(len(distinct), 1)
            codes[inside] = places
            rows, columns = sentence[: len(joined)][inside], places
        else:
            rows, columns = sentence, codes
        counts = sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(sentences), width))
        counts.sum_duplicates()
        found.append(counts)
    return found


def _photos_with(counts: sp.csr_array, photo: Ints) -> Ints:
    """In how many photos each n-gram occurs: rows of one photo are one document."""
    rows = np.repeat(photo, np.diff(counts.indptr))
    keys = np.sort(rows * np.int64(counts.shape[1]) + counts.indices)  # np.unique is ten times slower here
    first = np.diff(keys, prepend=-1) > 0
    return np.bincount(keys[first] % counts.shape[1], minlength=counts.shape[1])


def _looked_up(counts: sp.csr_array, keys: Ints, width: np.int64) -> Floats:
    """Entries of a sparse matrix at places that it holds, given as row * width + column, in that order."""
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    held = rows * width + counts.indices
    return np.asarray(counts.data[np.searchsorted(held, keys)], np.float64)


def _as_texts(sentences: Sequence[Words]) -> list[str]:
    """Each sentence as a text with one character a word, which is what compares fastest; no words are one empty word."""
    filled = [words or ("",) for words in sentences]
    number = {word: place for place, word in enumerate(dict.fromkeys(chain.from_iterable(filled)))}
    codes = np.fromiter(map(number.__getitem__, chain.from_iterable(filled)), np.uint32)
    codes[codes >= SURROGATES.start] += len(SURROGATES)
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    ends = np.cumsum([len(words) for words in filled]).tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
