"""Our caption metrics against pycocoevalcap, which runs Java for words and METEOR, on real captions."""

import contextlib
import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from reverie.evaluate.metrics.captions import bleu, cider_d, rouge_l
from reverie.evaluate.metrics.java import meteor_java
from reverie.evaluate.metrics.meteor import meteor_without_paraphrases
from reverie.evaluate.metrics.ptb import tokenise

COCO = Path(__file__).parents[3].parent / "shared" / "data" / "coco" / "captions_val2017.json.gz"

# Captions that end with an initial. To Java the next line of its file goes on with them: where that begins with A or The, a
# sentence ends here, and the full stop is none of the initial's. To us a caption stands for itself.
BEFORE_AN_ARTICLE = {39631: "k.", 82045: "s.", 363042: "d."}

pytestmark = [
    pytest.mark.skipif(not COCO.exists(), reason="no COCO captions beside the checkout"),
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java"),
]
pytest.importorskip("pycocoevalcap", reason="no pycocoevalcap")


@pytest.fixture(scope="module")
def annotations():
    return json.loads(gzip.decompress(COCO.read_bytes()))["annotations"]


def first_against_others(annotations, num):
    """Words of the first caption of each photo, and of its others."""
    by_photo: dict[int, list[str]] = {}
    for note in annotations:
        by_photo.setdefault(note["image_id"], []).append(note["caption"])
    photos = list(by_photo.values())[:num]
    words = iter(tokenise([caption for own in photos for caption in own]))
    cut = [[next(words) for _ in own] for own in photos]
    return [own[0] for own in cut], [own[1:] for own in cut]


@pytest.mark.slow
def test_words_of_all_captions(annotations):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    theirs = PTBTokenizer().tokenize({note["id"]: [{"caption": note["caption"]}] for note in annotations})
    ours = tokenise([note["caption"] for note in annotations])
    different = {
        note["id"]: mine[-1]
        for note, mine in zip(annotations, ours, strict=True)
        if " ".join(mine) != theirs[note["id"]][0]
    }
    assert len(ours) == 25_014
    assert different == BEFORE_AN_ARTICLE
    for name, last in BEFORE_AN_ARTICLE.items():
        assert theirs[name][0].endswith(f" {last[:-1]}")


def test_bleu_rouge_and_cider_of_a_thousand_photos(annotations):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates, references = first_against_others(annotations, 1000)
    asked = {n: [" ".join(words) for words in own] for n, own in enumerate(references)}
    given = {n: [" ".join(words)] for n, words in enumerate(candidates)}
    with contextlib.redirect_stdout(io.StringIO()):
        whole, each = Bleu(4).compute_score(asked, given)
    pairs = list(zip(bleu(candidates, references), whole, each, strict=True))
    pairs.append((rouge_l(candidates, references), *Rouge().compute_score(asked, given)))
    pairs.append((cider_d(candidates, references), *Cider().compute_score(asked, given)))
    for ours, corpus, values in pairs:
        assert ours.corpus == pytest.approx(corpus, abs=1e-6)
        assert np.abs(ours.each - np.array(values)).max() < 1e-6
        assert 0.1 < ours.corpus < 1.2  # people agree, and not wholly


def test_meteor_of_some_photos(annotations):
    meteor_equals_the_program(*first_against_others(annotations, 60))


@pytest.mark.slow
def test_meteor_of_a_thousand_photos(annotations):
    meteor_equals_the_program(*first_against_others(annotations, 1000))


def meteor_equals_the_program(candidates, references):
    theirs = meteor_java(candidates, references, ("exact", "stem", "synonym"))
    ours = meteor_without_paraphrases(candidates, references)
    assert np.abs(ours.each - theirs.each).max() < 1e-6
    assert ours.corpus == pytest.approx(theirs.corpus, abs=1e-6)


@pytest.mark.slow
def test_meteor_through_java_is_what_the_toolkit_gives(annotations):
    from pycocoevalcap.meteor.meteor import Meteor

    candidates, references = first_against_others(annotations, 100)
    asked = {n: [" ".join(words) for words in own] for n, own in enumerate(references)}
    corpus, each = Meteor().compute_score(asked, {n: [" ".join(words)] for n, words in enumerate(candidates)})
    found = meteor_java(candidates, references)
    assert found.corpus == corpus
    assert found.each.tolist() == each
    assert found.corpus > meteor_without_paraphrases(candidates, references).corpus
