"""What a caption asks a picture to show: things by name, how many of them, where they are; and questions about each of these.

    SmallWorldReader      the grammar of smallworld/slots.py: every fact that a sentence says
    ClassReader           names of given classes in any sentence, a number word before them, and a word of place

A reader takes words as they stand, so what it asks about is no more than what the caption says: "a dog" asks for a dog, and for one,
and not for anything else to be absent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reverie import seeds
from reverie.smallworld.describe import NUMBERS, plural
from reverie.smallworld.scene import BACKGROUNDS, COLOURS, class_names
from reverie.smallworld.slots import COUNTS, OPPOSITE, THING, Fact, facts_said, normal, places_said

OPPOSITES = {  # words of place, and what stands in their place in a false caption
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "on the left side of": "on the right side of",
    "on the right side of": "on the left side of",
    "left of": "right of",
    "right of": "left of",
    "on the left": "on the right",
    "on the right": "on the left",
    "at the top": "at the bottom",
    "at the bottom": "at the top",
    "in front of": "behind",
    "behind": "in front of",
    "on top of": "under",
    "underneath": "on top of",
    "beneath": "on top of",
    "under": "on top of",
    "above": "below",
    "below": "above",
    "over": "under",
    "inside": "outside",
    "outside": "inside",
    "far from": "near",
    "near": "far from",
}
NUMBER_WORDS = {"a": 1, "an": 1, "one": 1, "single": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}  # fmt: skip
TOLD = {number: word for word, number in NUMBER_WORDS.items() if word not in ("a", "an", "single")}
BETWEEN = 2  # words that may stand between a number and what it counts: two large brown dogs


@dataclass(frozen=True)
class Placed:
    """A word of place in a caption."""

    word: str
    false: str  # the caption with the opposite word
    fact: Fact | None = None  # what it says, where that is known


@dataclass(frozen=True)
class Question:
    """A question about a picture whose answer is yes if it shows what its caption says, and one whose answer is then no."""

    true: str
    false: str
    about: str  # object, attribute, count or relation


@dataclass(frozen=True)
class Asked:
    """What a caption asks for."""

    names: tuple[str, ...]  # classes that it names, each once
    counts: Mapping[str, int]  # of those that it counts
    placed: tuple[Placed, ...]
    questions: tuple[Question, ...]


class Reader(Protocol):
    """Reads what captions ask for."""

    def __call__(self, text: str) -> Asked:
        """What one caption asks for."""
        ...


class SmallWorldReader:
    """Reads sentences about the small world."""

    def __call__(self, text: str) -> Asked:
        """What a sentence says of a scene, true or not."""
        facts = facts_said(text)
        named = [what for kind, what in sorted(facts) if kind == "attribute" and what in _CLASSES]
        counts: Counter[str] = Counter()
        for match in THING.finditer(normal(text)):
            if match["colour"] and match["count"] in COUNTS:
                counts[f"{match['colour']} {match['shape']}"] += COUNTS[match["count"]]
        placed = tuple(Placed(word, false, fact) for word, fact, false in places_said(text))
        questions = [*_object_questions(facts), *(self._counted(name, number) for name, number in counts.items())]
        questions += [_place_question(each.fact) for each in placed if each.fact is not None]
        return Asked(tuple(named), dict(counts), placed, tuple(questions))

    def _counted(self, name: str, number: int) -> Question:
        return Question(_exactly(name, number), _exactly(name, number % max(NUMBERS) + 1), "count")


_CLASSES = frozenset(class_names())


def _exactly(name: str, number: int) -> str:
    if number == 1:
        return f"Is there exactly one {name} in the picture?"
    colour, _, shape = name.partition(" ")
    return f"Are there exactly {NUMBERS.get(number, str(number))} {colour} {plural(shape)} in the picture?"


def _object_questions(facts: frozenset[Fact]) -> list[Question]:
    """About coloured things, with their size where it is said, and the background."""
    found = []
    said = {what for kind, what in facts if kind == "attribute"}
    for what in sorted(said):
        words = what.split(" ")
        if words[-1] == "background":
            other = _another(words[0], list(BACKGROUNDS), said)
            found.append(Question(f"Is there a {what} in the picture?", f"Is there a {other} background in the picture?", "attribute"))  # fmt: skip
            continue
        # The thing in another colour, whatever is said of it; one that the sentence names as well would be no false question.
        taken = {each.split(" ")[-2] for each in said if each.endswith(f" {words[-1]}")}
        other = _another(words[-2], list(COLOURS), taken)
        false = " ".join([*words[:-2], other, words[-1]])
        about = "object" if len(words) == 2 else "attribute"
        found.append(Question(f"Is there any {what} in the picture?", f"Is there any {false} in the picture?", about))
    return found


def _place_question(fact: Fact) -> Question:
    words = f"{fact[1]} "
    word = next(word for word in OPPOSITE if f" {word} " in words)
    false = words.replace(f" {word} ", f" {OPPOSITE[word]} ")
    return Question(f"Is the {_the(words)}in the picture?", f"Is the {_the(false)}in the picture?", "relation")


def _the(words: str) -> str:
    """``red circle left of blue star`` -> ``red circle left of the blue star``."""
    return re.sub(r" (left of|right of|above|below) ", r" \1 the ", words)


def _another(word: str, known: Sequence[str], taken: set[str]) -> str:
    """The next word of its kind that is not taken."""
    place = known.index(word)
    return next((other for other in [*known[place + 1 :], *known[:place]] if other not in taken), known[place - 1])


class ClassReader:
    """Reads sentences about classes whose names are known, such as those of a detector.

    Args:
        classes: their names.
        synonyms: class name -> words that name it too.
    """

    def __init__(self, classes: Sequence[str], synonyms: Mapping[str, Sequence[str]] | None = None) -> None:
        self.classes = tuple(classes)
        self._name_of = {
            word.casefold(): name for name in classes for word in (name, *((synonyms or {}).get(name, ())))
        }
        # The longest first, so that a hot dog is no dog.
        words = sorted(self._name_of, key=len, reverse=True)
        self._names = re.compile(rf"(?<!\w)(?:{'|'.join(map(_plain_or_plural, words))})(?!\w)") if words else None
        places = "|".join(sorted(map(re.escape, OPPOSITES), key=len, reverse=True))
        self._place = re.compile(rf"(?<!\w)(?:{places})(?!\w)", re.IGNORECASE)

    def __call__(self, text: str) -> Asked:
        """What a sentence names, counts and places."""
        low = text.casefold()
        names: dict[str, None] = {}
        counts: Counter[str] = Counter()
        uncounted: set[str] = set()
        for match in self._names.finditer(low) if self._names else ():
            name = self._class(match[0])
            names[name] = None
            number = _number_before(low[: match.start()])
            if number is None:
                uncounted.add(name)
            else:
                counts[name] += number
        counted = {name: number for name, number in counts.items() if name not in uncounted}
        places = [
            Placed(match[0].lower(), f"{text[: match.start()]}{OPPOSITES[match[0].lower()]}{text[match.end() :]}")
            for match in self._place.finditer(text)
        ]
        # With two words of place, "the opposite" of one of them says nothing clear about the whole.
        placed = tuple(places) if len(places) == 1 and names else ()
        return Asked(tuple(names), counted, placed, tuple(self._questions(text, names, counted, placed)))

    def _class(self, word: str) -> str:
        for ending, instead in (("", ""), ("ies", "y"), ("es", ""), ("s", "")):
            if word.endswith(ending) and (name := self._name_of.get(word.removesuffix(ending) + instead)) is not None:
                return name
        raise AssertionError(word)

    def _questions(
        self, text: str, names: Mapping[str, None], counts: Mapping[str, int], placed: Sequence[Placed]
    ) -> list[Question]:
        others = [name for name in self.classes if name not in names]
        found = []
        for name in names:
            # Any other class is as good, but the same whenever it is asked again.
            other = others[seeds.derive("asked", text, name) % len(others)] if others else None
            false = f"Is there any {other} in the picture?" if other else ""
            found.append(Question(f"Is there any {name} in the picture?", false, "object"))
        for name, number in counts.items():
            said, false = (self._exactly(name, each) for each in (number, number + 1))
            found.append(Question(said, false, "count"))
        for each in placed:
            found.append(Question(f"Is this true of the picture: {text}", f"Is this true of the picture: {each.false}", "relation"))  # fmt: skip
        return found

    def _exactly(self, name: str, number: int) -> str:
        if number == 1:
            return f"Is there exactly one {name} in the picture?"
        return f"Are there exactly {TOLD.get(number, str(number))} {_plural_of(name)} in the picture?"


def _plain_or_plural(word: str) -> str:
    if word.endswith("y"):
        return f"{re.escape(word[:-1])}(?:y|ies)"
    return rf"{re.escape(word)}(?:e?s)?"


def _plural_of(name: str) -> str:
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x", "ch", "sh")) else f"{name}s"


def _number_before(text: str) -> int | None:
    """The number that counts what comes next; None where there is none near enough."""
    words = re.findall(r"[\w'-]+|[^\w\s]", text)[-1 - BETWEEN :]
    for word in reversed(words):
        if word in NUMBER_WORDS:
            return NUMBER_WORDS[word]
        if word.isdecimal() and word.isascii() and len(word) < 3:
            return int(word)
        if not word[0].isalpha() or word in _STOPS:
            return None
    return None


_STOPS = frozenset(
    [
        "of",
        "in",
        "on",
        "at",
        "by",
        "with",
        "and",
        "or",
        "to",
        "from",
        "for",
        "near",
        "under",
        "over",
        "behind",
        "the",
        "is",
        "are",
    ]
)
