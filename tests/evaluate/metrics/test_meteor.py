import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.errors import InputError
from reverie.evaluate.metrics.meteor import EXACT, STEM, SYNONYM, align, meteor_without_paraphrases, normalise
from reverie.evaluate.metrics.synonyms import synonym_sets

# Words without meaning: matched exactly or not at all. "the" is a function word.
sentence = st.lists(st.sampled_from(["zq", "xk", "vj", "the"]), min_size=1, max_size=5)


def slow_meteor(candidate, reference):
    """All alignments of exact matches: most matches, then fewest chunks; Denkowski and Lavie 2014, section 2."""
    best = (0, 0, ())
    places = [[j for j, ours in enumerate(candidate) if ours == theirs] + [None] for theirs in reference]
    for chosen in itertools.product(*places):
        used = [j for j in chosen if j is not None]
        if len(set(used)) < len(used):
            continue
        pairs = [(i, j) for i, j in enumerate(chosen) if j is not None]
        chunks = sum(k == 0 or pairs[k - 1] != (i - 1, j - 1) for k, (i, j) in enumerate(pairs))
        best = max(best, (len(pairs), -chunks, chosen), key=lambda found: found[:2])
    num, minus_chunks, chosen = best
    if not num:
        return 0.0
    weight = lambda words: sum(0.25 if word == "the" else 0.75 for word in words)  # noqa: E731
    matched = [reference[i] for i, j in enumerate(chosen) if j is not None]
    precision, recall = weight(matched) / weight(candidate), weight(matched) / weight(reference)
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    whole = num == len(candidate) == len(reference) and minus_chunks == -1
    return mean * (1 - (0 if whole else 0.6 * (-minus_chunks / num) ** 0.2))


@settings(deadline=None, max_examples=100)
@given(sentence, st.lists(sentence, min_size=1, max_size=3))
def test_equals_all_alignments(candidate, references):
    slow = max(slow_meteor(candidate, reference) for reference in references)
    found = meteor_without_paraphrases([candidate], [references])
    assert found.each == pytest.approx([slow])
    assert found.corpus == pytest.approx(slow)


def test_stems_and_synonyms_count_less():
    reference = ["bicycles", "zq"]
    scores = [
        meteor_without_paraphrases([[word, "zq"]], [[reference]]).corpus
        for word in ("bicycles", "bike", "bicycle", "xk")
    ]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4
    assert align(["bike", "zq"], reference) == [(0, SYNONYM), (1, EXACT)]
    assert align(["bicycle", "zq"], reference)[0] in [(0, STEM), (0, SYNONYM)]
    # A synonym weighs 0.8 of a match: precision and recall are (0.75 + 0.8 * 0.75) / 1.5, without a penalty in one piece.
    assert scores[1] == pytest.approx(0.9)


def test_synonyms_of_wordnet():
    assert synonym_sets("bike") & synonym_sets("bicycle")
    assert synonym_sets("geese") & synonym_sets("goose")  # an irregular form
    assert synonym_sets("couches") & synonym_sets("sofa")  # a regular one
    assert not synonym_sets("cat") & synonym_sets("dog")
    assert not synonym_sets("zqxk")


def test_the_corpus_number_comes_from_sums():
    candidates, references = [["zq", "xk"], ["vj"] * 6], [[["zq", "xk"]], [["vj", "zq", "xk"]]]
    found = meteor_without_paraphrases(candidates, references)
    assert found.each[0] == pytest.approx(1)  # whole and in one chunk: no penalty
    assert found.corpus != pytest.approx(found.each.mean())
    matches, chunks = 3, 1  # a caption that is wholly right adds no chunk
    precision, recall = matches / 8, matches / 5
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert found.corpus == pytest.approx(mean * (1 - 0.6 * (chunks / matches) ** 0.2))


def test_words_are_cut_at_hyphens_and_apostrophes():
    assert normalise("a half-eaten dog 's 1/2") == ["a", "half", "eaten", "dog", "'", "s", "1", "/", "2"]


def test_captions_without_words():
    assert meteor_without_paraphrases([[], ["zq"], []], [[["zq"]], [[]], [[]]]).each.tolist() == [0, 0, 0]


def test_long_captions():
    long = [f"w{n}" for n in range(3000)]
    found = meteor_without_paraphrases([long, ["w1", "w2"]], [[["w1", "w2"]], [long]])
    assert np.isfinite(found.each).all()
    with pytest.raises(InputError, match="leave METEOR out"):
        meteor_without_paraphrases([["zq"] * 2000], [[["zq"] * 2000 + ["xk"]]])


def test_refuses_no_captions():
    with pytest.raises(ValueError, match="do not go together"):
        meteor_without_paraphrases([], [])
