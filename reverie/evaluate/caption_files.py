"""Scores of captions in a COCO results file against the references in a COCO captions file: ``reverie evaluate captions``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from reverie.errors import InputError
from reverie.evaluate.metrics.captions import Scores
from reverie.store.sources import read_json

Metric = Literal["bleu", "rouge_l", "cider", "cider_d", "meteor", "meteor_java", "spice"]
WITHOUT_JAVA: tuple[Metric, ...] = ("bleu", "rouge_l", "cider_d", "cider", "meteor")
SHOWN = 5  # ids in one line


@dataclass(frozen=True)
class CaptionFiles:
    """One caption a photo, with its references; ``num_without`` photos have references and no caption."""

    ids: list[Any]
    captions: list[str]
    references: list[list[str]]
    num_without: int

    @property
    def num_references(self) -> int:
        return sum(map(len, self.references))

    @property
    def wordless(self) -> tuple[int, int]:
        """How many captions, and how many references, have no letter and no digit. They are scored as they are."""
        return _wordless(self.captions), _wordless(chain.from_iterable(self.references))


def read(results: Path, references: Path) -> CaptionFiles:
    """Results as a list of {image_id, caption}, references as {"images", "annotations"}; both may be gzipped.

    As the COCO toolkit does, the photos of the results are scored, in their order; photos that only the references have are
    counted. The key "images" is not looked at.

    Raises: InputError for a file that is missing, no JSON or of another shape, results that are empty, name a photo twice or
        have no reference, and captions that are no text.
    """
    found, known = read_json(results), read_json(references)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InputError(f'{results} is not a COCO results file: a list of {{"image_id": 1, "caption": "..."}}')
    if not found:
        raise InputError(f"{results} holds no caption")
    notes = known.get("annotations") if isinstance(known, dict) else None
    if not isinstance(notes, list) or not all(isinstance(note, dict) for note in notes):
        raise InputError(f'{references} is not a COCO captions file: {{"images": [...], "annotations": [...]}}')
    captions: dict[Any, str] = {}
    twice: list[Any] = []
    for number, item in enumerate(found, 1):
        name, caption = _caption(item, results, f"result {number}")
        if name in captions:
            twice.append(name)
        captions[name] = caption
    if twice:
        names = _names(twice)
        raise InputError(
            f"{results} has more than one caption for {len(names)} photo{'s' * (len(names) > 1)}: {_ids(names)}"
        )
    by_photo: dict[Any, list[str]] = {}
    for number, note in enumerate(notes, 1):
        name, caption = _caption(note, references, f"annotation {number}")
        by_photo.setdefault(name, []).append(caption)
    if missing := [name for name in captions if name not in by_photo]:
        told = f"{len(missing):,} of {len(captions):,} results have no reference in {references}: {_ids(missing)}"
        as_text = {str(name) for name in by_photo}
        if all(str(name) in as_text for name in missing):
            told += "; image_id is text in one file and a number in the other"
        raise InputError(told)
    return CaptionFiles(
        list(captions), list(captions.values()), [by_photo[name] for name in captions], len(by_photo) - len(captions)
    )


def _caption(item: dict[str, Any], path: Path, which: str) -> tuple[Any, str]:
    """The photo and the text of a result or an annotation."""
    if "image_id" not in item or "caption" not in item:
        raise InputError(f"{path}: {which} lacks {' and '.join({'image_id', 'caption'} - item.keys())}")
    name, caption = item["image_id"], item["caption"]
    if isinstance(name, bool) or not isinstance(name, int | str):
        raise InputError(f"{path}: {which} has the image_id {_shown(name)}; give a number or a text")
    if not isinstance(caption, str):
        raise InputError(f"{path}: the caption of photo {name} is not text but {_shown(caption)}")
    return name, caption


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:60]
    except RecursionError:
        return "nested too deeply"


def _wordless(texts: Iterable[str]) -> int:
    return sum(not any(sign.isalnum() for sign in text) for text in texts)


def _names(ids: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(ids))


def _ids(ids: Sequence[Any]) -> str:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return ", ".join(str(name)[:60] for name in ids[:SHOWN]) + more


def measure(captioned: CaptionFiles, metrics: Sequence[Metric] = WITHOUT_JAVA) -> dict[str, Scores]:
    """Scores by the name that papers print, in the order asked for; see the functions for their ranges.

    Raises: InputError if no metric is asked for; ReverieError if one needs Java, and it or the extra is not there.
    """
    from reverie.evaluate.metrics import java
    from reverie.evaluate.metrics.captions import Counted, rouge_l
    from reverie.evaluate.metrics.meteor import meteor_without_paraphrases
    from reverie.evaluate.metrics.ptb import tokenise

    if not metrics:
        raise InputError("name at least one metric")
    if "meteor_java" in metrics:
        java.meteor_program()
    if "spice" in metrics:
        java.spice_program()
    words = iter(tokenise([*captioned.captions, *chain.from_iterable(captioned.references)]))
    candidates = [next(words) for _ in captioned.captions]
    references = [[next(words) for _ in own] for own in captioned.references]
    counted = Counted.of(candidates, references) if {"bleu", "cider", "cider_d"} & set(metrics) else None
    scores: dict[str, Scores] = {}
    for metric in metrics:
        if metric == "bleu" and counted is not None:
            scores |= {f"BLEU-{n}": found for n, found in enumerate(counted.bleu(), 1)}
        elif metric == "cider" and counted is not None:
            scores["CIDEr, plain"] = counted.cider()
        elif metric == "cider_d" and counted is not None:
            scores["CIDEr-D"] = counted.cider_d()
        elif metric == "rouge_l":
            scores["ROUGE-L"] = rouge_l(candidates, references)
        elif metric == "meteor":
            scores["METEOR without paraphrases"] = meteor_without_paraphrases(candidates, references)
        elif metric == "meteor_java":
            scores["METEOR"] = java.meteor_java(candidates, references)
        elif metric == "spice":
            scores["SPICE"] = java.spice(candidates, references)
    return scores
