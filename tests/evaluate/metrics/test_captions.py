import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.evaluate.metrics.captions import Counted, bleu, cider, cider_d, rouge_l

sentence = st.lists(st.sampled_from("abcd"), max_size=7)
photo = st.tuples(sentence, st.lists(sentence, min_size=1, max_size=3))
photos = st.lists(photo, min_size=1, max_size=5)


def split(rows):
    return [candidate for candidate, _ in rows], [references for _, references in rows]


def grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def slow_bleu(rows, max_n):
    """Papineni et al. 2002, section 2.1 to 2.3, without smoothing; None where a precision is not defined or 0."""
    ours, theirs = 0, 0
    right, all_of = [0] * max_n, [0] * max_n
    for candidate, references in rows:
        ours += len(candidate)
        theirs += min((len(r) for r in references), key=lambda length: (abs(length - len(candidate)), length))
        for n in range(1, max_n + 1):
            for gram, count in grams(candidate, n).items():
                right[n - 1] += min(count, max(grams(r, n)[gram] for r in references))
                all_of[n - 1] += count
    if not all(right):
        return None
    log_precision = sum(math.log(r / a) for r, a in zip(right, all_of, strict=True)) / max_n
    return math.exp(min(0, 1 - theirs / ours) + log_precision)


@settings(deadline=None, max_examples=80)
@given(photos, st.integers(1, 4))
def test_bleu_equals_a_slow_loop(rows, n):
    found = bleu(*split(rows))[n - 1]
    slow = slow_bleu(rows, n)
    assert found.corpus == pytest.approx(slow, rel=1e-6) if slow else found.corpus < 0.04
    for row, value in zip(rows, found.each, strict=True):
        slow = slow_bleu([row], n)
        assert value == pytest.approx(slow, rel=1e-6) if slow else value < 0.04


def slow_lcs(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@settings(deadline=None, max_examples=80)
@given(photos)
def test_rouge_l_equals_a_slow_loop(rows):
    found = rouge_l(*split(rows))
    slow = []
    for candidate, references in rows:
        if not candidate:
            slow.append(float(any(not r for r in references)))
            continue
        precision = max(slow_lcs(candidate, r) / len(candidate) for r in references)
        recall = max(slow_lcs(candidate, r) / len(r) if r else 0 for r in references)
        below = recall + 1.44 * precision
        slow.append(2.44 * precision * recall / below if below else 0.0)
    assert found.each == pytest.approx(slow)
    assert found.corpus == pytest.approx(np.mean(slow))


def slow_cider(rows, clipped):
    """Vedantam et al. 2015, equations 1 to 3, and 4 for CIDEr-D."""
    df = {n: Counter(g for _, refs in rows for g in {g for r in refs for g in grams(r, n)}) for n in range(1, 5)}

    def vector(words, n):
        return {g: count * (math.log(len(rows)) - math.log(max(1, df[n][g]))) for g, count in grams(words, n).items()}

    each = []
    for candidate, references in rows:
        total = 0.0
        for n in range(1, 5):
            for reference in references:
                ours, theirs = vector(candidate, n), vector(reference, n)
                norm = math.dist(ours.values(), [0] * len(ours)) * math.dist(theirs.values(), [0] * len(theirs))
                dot = sum((min(v, theirs.get(g, 0)) if clipped else v) * theirs.get(g, 0) for g, v in ours.items())
                apart = max(len(candidate) - 1, 0) - max(len(reference) - 1, 0)
                gauss = math.exp(-(apart**2) / (2 * 6**2)) if clipped else 1
                total += gauss * dot / norm / len(references) if norm else 0
        each.append(10 * total / 4)
    return each


@settings(deadline=None, max_examples=80)
@given(photos, st.booleans())
def test_cider_equals_a_slow_loop(rows, clipped):
    found = (cider_d if clipped else cider)(*split(rows))
    slow = slow_cider(rows, clipped)
    assert found.each == pytest.approx(slow, abs=1e-9)
    assert found.corpus == pytest.approx(np.mean(slow), abs=1e-9)


def test_clipping_and_length_are_what_cider_d_adds():
    ours, theirs = ["a", "a", "a", "b", "x"], [["a", "b"]]
    rows = [ours, ["c", "d"]], [theirs, [["c", "d"]]]
    assert cider_d(*rows).each[0] < cider(*rows).each[0]
    assert cider(*rows).each[1] == pytest.approx(10 * 2 / 4)  # all words and the pair; no longer n-grams
    assert cider_d(*rows).each[1] == pytest.approx(10 * 2 / 4)


def test_idf_may_come_from_elsewhere():
    candidates, references = [["a", "dog", "runs"]], [[["a", "dog", "sits"]]]
    assert cider_d(candidates, references).corpus == 0  # one photo: every idf is log 1
    elsewhere = [[["a", "cat"]], [["a", "dog"]], [["a", "cow"], ["one", "cow"]]]
    idf = {"a": 0.0, "dog": math.log(3), "runs": math.log(3), "sits": math.log(3)}
    cosine = idf["dog"] ** 2 / (idf["dog"] ** 2 + idf["runs"] ** 2)
    pair = math.log(3) ** 2 / (2 * math.log(3) ** 2)  # "a dog" of two bigrams, all of them new but that one
    assert cider(candidates, references, elsewhere).corpus == pytest.approx(10 / 4 * (cosine + pair))
    assert cider_d(candidates, references, elsewhere).corpus == pytest.approx(10 / 4 * (cosine + pair))


def test_counted_once_gives_the_same():
    rows = [["a", "b"], ["c"]], [[["a"], ["a", "b", "c"]], [["c", "d"]]]
    counted = Counted.of(*rows)
    assert counted.cider().corpus == cider(*rows).corpus
    assert counted.cider_d().corpus == cider_d(*rows).corpus
    assert [x.corpus for x in counted.bleu()] == [x.corpus for x in bleu(*rows)]


def test_a_token_with_a_space_is_two_words_for_n_grams():
    apart, joined = [["3", "1/2", "cups"]], [["3\xa01/2", "cups"]]
    assert bleu(joined, [apart])[2].corpus == pytest.approx(1)
    assert rouge_l(joined, [apart]).corpus < 1


def test_very_long_captions():
    long = ["a", "dog", "runs"] * 30_000
    rows = [long, ["a", "dog"]], [[["a", "dog"]], [long]]
    for found in (*bleu(*rows), rouge_l(*rows), cider(*rows), cider_d(*rows)):
        assert np.isfinite(found.each).all()


@pytest.mark.parametrize("metric", [bleu, rouge_l, cider, cider_d])
@pytest.mark.parametrize(("candidates", "references"), [([], []), ([["a"]], []), ([["a"]], [[]])])
def test_refuses_what_has_no_score(metric, candidates, references):
    with pytest.raises(ValueError, match=r"do not go together|without a reference"):
        metric(candidates, references)
