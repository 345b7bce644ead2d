"""BLEU, ROUGE-L and CIDEr-D of 5,000 photos with 4 references each: ours against pycocoevalcap, which runs Java for words.

    python benchmarks/caption_metrics.py [--photos 5000] [--captions captions_val2017.json.gz] [--turns 5] [--json]

Both ways get the same captions and take turns; the median turn counts, and the median of the ratios of the turns. "Same
words" is the three metrics on words that are already cut; "from captions" adds cutting, for pycocoevalcap with the start of
Java. Captions are those of COCO where a file of them is given or found beside the checkout, the first of each photo against its
others, and small-world descriptions otherwise. METEOR is timed once, against its Java program without paraphrases.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from reverie.evaluate.metrics.captions import Counted, rouge_l
from reverie.evaluate.metrics.java import meteor_java
from reverie.evaluate.metrics.meteor import meteor_without_paraphrases
from reverie.evaluate.metrics.ptb import tokenise

COCO = Path(__file__).parents[1].parent / "shared" / "data" / "coco" / "captions_val2017.json.gz"
CAPTIONS = 5  # a photo
METEOR_PHOTOS = 500


def coco(path: Path, num: int) -> list[list[str]]:
    """Five captions each of the first photos that have them."""
    by_photo: dict[int, list[str]] = {}
    content = path.read_bytes()
    for note in json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)["annotations"]:
        by_photo.setdefault(note["image_id"], []).append(note["caption"])
    return [own[:CAPTIONS] for own in by_photo.values() if len(own) >= CAPTIONS][:num]


def described(num: int) -> list[list[str]]:
    """Descriptions of small-world scenes."""
    import numpy as np

    from reverie.smallworld.describe import describe
    from reverie.smallworld.scene import sample

    rng = np.random.default_rng(0)
    scenes = [sample(rng) for _ in range(num)]
    return [[describe(scene, "human", rng) for _ in range(CAPTIONS)] for scene in scenes]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def ours_cut(photos: list[list[str]]) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Words by our tokeniser: of the first caption of each photo, and of the others."""
    words = iter(tokenise(list(chain.from_iterable(photos))))
    cut = [[next(words) for _ in own] for own in photos]
    return [own[0] for own in cut], [own[1:] for own in cut]


def ours_score(candidates: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """BLEU-1 to 4, ROUGE-L, CIDEr-D."""
    counted = Counted.of(candidates, references)
    scores = [*counted.bleu(), rouge_l(candidates, references), counted.cider_d()]
    return [found.corpus for found in scores]


def theirs_cut(photos: list[list[str]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Words by Java: of the references and of the candidates, as the toolkit asks for them."""
    asked = {n: [{"caption": text} for text in own[1:]] for n, own in enumerate(photos)}
    given = {n: [{"caption": own[0]}] for n, own in enumerate(photos)}
    return PTBTokenizer().tokenize(asked), PTBTokenizer().tokenize(given)


def as_lists(asked: dict[int, list[str]], given: dict[int, list[str]]) -> tuple[list[list[str]], list[list[list[str]]]]:
    """The toolkit's words in the form that ours are in, so that both score the same ones."""
    candidates = [given[n][0].split(" ") if given[n][0] else [] for n in given]
    return candidates, [[text.split(" ") if text else [] for text in asked[n]] for n in given]


def theirs_score(asked: dict[int, list[str]], given: dict[int, list[str]]) -> list[float]:
    """The same numbers by pycocoevalcap."""
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, _ = Bleu(4).compute_score(asked, given)
    return [*bleu, Rouge().compute_score(asked, given)[0], Cider().compute_score(asked, given)[0]]


def compare(photos: list[list[str]], turns: int, source: str) -> dict[str, Any]:
    """Both ways, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ("our words", "our scores", "their words", "their scores")}
    ours_score(*ours_cut(photos[:100]))  # imports and compiled patterns
    for _ in range(turns):
        cut_s, cut = timed(lambda: ours_cut(photos))
        java_s, words = timed(lambda: theirs_cut(photos))
        same_words = as_lists(*words)
        score_s, ours = timed(lambda same_words=same_words: ours_score(*same_words))
        toolkit_s, theirs = timed(lambda words=words: theirs_score(*words))
        for name, value in zip(seconds, (cut_s, score_s, java_s, toolkit_s), strict=True):
            seconds[name].append(value)
    same = [theirs / ours for theirs, ours in zip(seconds["their scores"], seconds["our scores"], strict=True)]
    both = [
        (java + theirs) / (cut + ours)
        for cut, ours, java, theirs in zip(*(seconds[name] for name in seconds), strict=True)
    ]
    candidates, references = (part[:METEOR_PHOTOS] for part in cut)
    meteor_s, mine = timed(lambda: meteor_without_paraphrases(candidates, references))
    program_s, program = timed(lambda: meteor_java(candidates, references, ("exact", "stem", "synonym")))
    return {
        "captions": source,
        "photos": len(photos),
        "references a photo": CAPTIONS - 1,
        "captions cut otherwise": sum(
            mine != other
            for mine, other in zip([*cut[0], *chain(*cut[1])], [*same_words[0], *chain(*same_words[1])], strict=True)
        ),
        "turns": turns,
        "seconds, words": {
            "reverie": round(statistics.median(seconds["our words"]), 3),
            "pycocoevalcap with Java": round(statistics.median(seconds["their words"]), 3),
        },
        "seconds, scores": {
            "reverie": round(statistics.median(seconds["our scores"]), 3),
            "pycocoevalcap": round(statistics.median(seconds["their scores"]), 3),
        },
        "largest difference of a score": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "ratio same words": round(statistics.median(same), 1),
        "smallest turn, same words": round(min(same), 1),
        "ratio from captions": round(statistics.median(both), 1),
        "smallest turn, from captions": round(min(both), 1),
        "seconds, METEOR without paraphrases": {
            "photos": len(candidates),
            "reverie": round(meteor_s, 2),
            "Java program": round(program_s, 2),
        },
        "difference in METEOR": abs(mine.corpus - program.corpus),
        "ratio METEOR": round(program_s / meteor_s, 1),
    }


def main() -> None:
    """Print the comparison; as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--captions", type=Path, default=COCO)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.captions.exists():
        photos, source = coco(options.captions, options.photos), options.captions.name
    else:
        photos, source = described(options.photos), "small world"
    found = compare(photos, options.turns, source)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:40} {value}")


if __name__ == "__main__":
    main()
