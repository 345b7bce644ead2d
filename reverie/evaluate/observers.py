"""Who looks at pictures and says whether they show what their captions ask for.

    judge              the small world's own reader of pictures (smallworld/judge.py): knows things, numbers, places, and answers questions
    an object detector   finds and counts things of its classes
    CLIP               which of two captions fits a picture better, the true one or one with the opposite word of place
    a model that answers questions   any function (pictures, questions) -> answers, one question a picture

Each has a name, which is part of the name of every number that it gave: with another detector or counter, SOA and CA are other metrics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from reverie.captions.classes import read_synonyms
from reverie.errors import InputError
from reverie.evaluate.asked import Asked, ClassReader, Reader, SmallWorldReader
from reverie.evaluate.metrics.generation import PLACED
from reverie.recaption.checks import COCO
from reverie.smallworld.slots import Fact, facts_said, facts_seen

if TYPE_CHECKING:
    from reverie.models.detector import Detector
    from reverie.models.encoder import Encoder

JUDGE = "judge"
THRESHOLD = 0.5  # score of a detector from which an object is there, as in TISE
MAX_FOUND = 100  # objects of a picture
MIN_PX = 32  # of a picture that the judge can read
YES, NO = "yes", "no"


@dataclass(frozen=True)
class Sight:
    """What was found in a picture; an empty one where there is no picture, which shows nothing."""

    counts: Mapping[str, int] = field(default_factory=dict)  # class -> how many
    facts: frozenset[Fact] | None = None  # all that is known of it, by who knows everything


class Observer(Protocol):
    """Finds and counts things."""

    name: str  # behind the colon of its metrics
    revision: str
    reader: Reader  # of captions, in terms of what it can find

    def look(self, pictures: Sequence[Image.Image]) -> list[Sight]:
        """What is in each picture."""
        ...


class Places(Protocol):
    """Says whether things are where captions put them."""

    name: str
    revision: str

    def fit(self, picture: Image.Image, sight: Sight, text: str, asked: Asked) -> list[bool]:
        """Whether a picture fits each word of place of its caption."""
        ...


class Answerer(Protocol):
    """Answers a question about each picture, as ``yes`` or ``no`` with whatever else it says."""

    def __call__(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """One answer for each picture and its question."""
        ...


class Judge:
    """The small world's reader of pictures, in every role."""

    name = revision = JUDGE

    def __init__(self) -> None:
        self.reader: Reader = SmallWorldReader()

    def look(self, pictures: Sequence[Image.Image]) -> list[Sight]:
        """As the protocol says, with all facts. Raises InputError for a picture that is too small to be read."""
        return [_seen(picture) for picture in pictures]

    def fit(self, picture: Image.Image, sight: Sight, text: str, asked: Asked) -> list[bool]:
        """By the facts, not by how well a caption fits."""
        return [each.fact in (sight.facts or ()) for each in asked.placed]

    def __call__(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """Yes where all facts that the question names are there; no answer to what names none."""
        known: dict[int, frozenset[Fact]] = {}  # many questions are about one picture
        answers = []
        for picture, question in zip(pictures, questions, strict=True):
            if id(picture) not in known:
                known[id(picture)] = _seen(picture).facts or frozenset()
            asked = facts_said(question)
            answers.append("I do not know" if not asked else YES if asked <= known[id(picture)] else NO)
        return answers


def _seen(picture: Image.Image) -> Sight:
    from reverie.smallworld.judge import read

    if min(picture.size) < MIN_PX:
        raise InputError(
            f"the judge reads pictures of {MIN_PX} px and more, not of {picture.width} x {picture.height}; it is for the small world alone"
        )
    reading = read(np.asarray(picture.convert("RGB")))
    names = Counter(thing.name for thing in reading.things if thing.shape and thing.colour)
    return Sight(dict(names), facts_seen(reading.things, reading.background))


class DetectorObserver:
    """Any object detector of transformers."""

    def __init__(
        self, detector: Detector, name: str, synonyms: Mapping[str, Sequence[str]] | None = None,
        threshold: float = THRESHOLD,
    ) -> None:  # fmt: skip
        self.name, self.revision = name, detector.revision
        self.reader: Reader = ClassReader(detector.names, synonyms)
        self._detector, self._threshold = detector, threshold

    def look(self, pictures: Sequence[Image.Image]) -> list[Sight]:
        """Its classes, by how many boxes have each."""
        found = self._detector.find(list(pictures), self._threshold, MAX_FOUND)
        return [Sight(dict(Counter(item.name for item in some))) for some in found]


class ClipPlaces:
    """True caption against the one with the opposite word of place, by an encoder of images and texts."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        self.name, self.revision = name, encoder.revision
        self._encoder = encoder

    def fit(self, picture: Image.Image, sight: Sight, text: str, asked: Asked) -> list[bool]:
        """Whether the true caption has more than 0.6 of the probability, of the two."""
        if not asked.placed:
            return []
        image = self._encoder.images([picture])
        texts = self._encoder.texts([text, *(each.false for each in asked.placed)])
        logits = (self._encoder.logit_scale * image @ texts.T)[0].double().tolist()
        return [1 / (1 + float(np.exp(min(false - logits[0], 700.0)))) > PLACED for false in logits[1:]]


def says_yes(answer: str) -> bool | None:
    """What an answer comes to; None where it is neither yes nor no."""
    words = re.findall(r"\w+", answer.casefold())
    said = next((word for word in words if word in (YES, NO)), None)
    return None if said is None else said == YES


def open_observer(
    name: str, device: str = "cpu", batch_size: int = 16, synonyms: Path | None = None, threshold: float = THRESHOLD
) -> Observer:
    """``judge``, or a detector by name.

    Args: synonyms: JSON file, class of the detector -> words that name it too; for the classes of COCO those of recaption/checks.py
        where it has none.
    Raises: ModelError, UnknownName, InputError.
    """
    if name == JUDGE:
        return Judge()
    from reverie.models.detector import open_detector

    detector = open_detector(name, device, batch_size)
    others = {each: COCO[each] for each in detector.names if each in COCO}
    return DetectorObserver(detector, name, others | read_synonyms(synonyms, detector.names), threshold)


def open_places(name: str, device: str = "cpu") -> Places:
    """``judge``, or an encoder of images and texts by name. Raises ModelError, UnknownName."""
    if name == JUDGE:
        return Judge()
    from reverie.models.encoder import open_encoder

    return ClipPlaces(open_encoder(name, device), name)


def open_asked(name: str, device: str = "cpu", batch_size: int = 16) -> Answerer:
    """``judge``, or a model that answers questions about pictures. Raises ModelError, UnknownName, InputError."""
    if name == JUDGE:
        return Judge()
    from reverie.models.answerer import open_answerer

    return open_answerer(name, device, batch_size)
