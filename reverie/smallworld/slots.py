"""What a sentence says of a scene of the small world, fact by fact, and how much of it is true.

    object      a shape that is there
    attribute   the colour or the size of a thing, the colour of the background
    count       how many things of one name there are
    relation    where a thing is, seen from another one or from the middle of the picture

The grammar of smallworld/describe.py read backwards, with no regard for order or for what stands between the facts, so a sentence
of any model can be read. A scene's own facts are all there are, and a sentence of people leaves most of them out: F1 compares
captioners with each other, not with 1.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Literal

from reverie.smallworld.describe import NUMBERS
from reverie.smallworld.scene import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, Scene, Thing, place, relation

Kind = Literal["object", "attribute", "count", "relation"]
KINDS: tuple[Kind, ...] = ("object", "attribute", "count", "relation")
Fact = tuple[Kind, str]

COUNTS = {"a": 1, "an": 1, "one": 1, **{word: number for number, word in NUMBERS.items()}}
MIRRORED = {"right of": "left of", "below": "above"}
OPPOSITE = {
    **{"left of": "right of", "right of": "left of", "above": "below", "below": "above"},
    **{"on the left": "on the right", "on the right": "on the left", "at the top": "at the bottom"},
    **{"at the bottom": "at the top", "in the middle": "on the left"},
}


def _any(words: Sequence[str]) -> str:
    return "|".join(words)


THING = re.compile(
    rf"(?:\b(?P<count>{_any([*COUNTS, 'the'])}) )?(?:\b(?P<size>small|large) )?(?:\b(?P<colour>{_any(list(COLOURS))}) )?"
    rf"\b(?P<shape>{_any(SHAPES)})(?:es|s)?\b"
)
BETWEEN = re.compile(rf" (?:is )?(?:to the )?(?P<relation>{_any(RELATIONS)}) ")
AFTER = re.compile(rf" (?:is |sits )?(?P<place>{_any(PLACES)})\b")
GROUND = re.compile(rf"\b(?P<colour>{_any(list(BACKGROUNDS))}) background\b")


def facts_said(text: str) -> frozenset[Fact]:
    """All facts of a sentence, true or not."""
    text = normal(text)
    found: set[Fact] = {("attribute", f"{match['colour']} background") for match in GROUND.finditer(text)}
    things = list(THING.finditer(text))
    for match in things:
        found.add(("object", match["shape"]))
        if not match["colour"]:
            continue
        name = f"{match['colour']} {match['shape']}"
        found.add(("attribute", name))
        if match["size"]:
            found.add(("attribute", f"{match['size']} {name}"))
        if match["count"] in COUNTS:
            found.add(("count", f"{COUNTS[match['count']]} {name}"))
    return frozenset(found) | {fact for _, fact, _ in places_said(text)}


def places_said(text: str) -> list[tuple[str, Fact, str]]:
    """Where a sentence puts things: the word of place, the fact, and the sentence with the opposite word in its place.

    The middle has no opposite, so there the sentence says that the thing is on the left.
    """
    text = normal(text)
    things = [match for match in THING.finditer(text) if match["colour"]]
    found = []

    def put(match: re.Match[str], group: str, fact: Fact) -> None:
        word = match[group]
        found.append((word, fact, f"{text[: match.start(group)]}{OPPOSITE[word]}{text[match.end(group) :]}"))

    for match in things:
        if where := AFTER.match(text, match.end()):
            put(where, "place", ("relation", f"{match['colour']} {match['shape']} {where['place']}"))
    for a, b in itertools.pairwise(list(THING.finditer(text))):
        if a["colour"] and b["colour"] and (between := BETWEEN.fullmatch(text, a.end(), b.start())):
            names = (f"{each['colour']} {each['shape']}" for each in (a, b))
            put(between, "relation", _related(next(names), between["relation"], next(names)))
    return found


def normal(text: str) -> str:
    """A sentence as it is read here: small letters and single spaces."""
    return " ".join(re.sub(r"[^a-z ]", " ", text.lower()).split())


def facts_seen(things: Sequence[Thing], background: str) -> frozenset[Fact]:
    """All facts of what was read in a picture, which may hold things without shape or colour."""
    return facts_of(Scene(tuple(things), background))


def facts_of(scene: Scene) -> frozenset[Fact]:
    """All facts that a sentence about the scene can say truly."""
    found: set[Fact] = {("attribute", f"{scene.background} background")}
    for group in scene.groups:
        first = group[0]
        found |= {("object", first.shape), ("attribute", first.name), ("attribute", f"{first.size} {first.name}")}
        found.add(("count", f"{len(group)} {first.name}"))
    for thing in scene.things:
        found.add(("relation", f"{thing.name} {place(thing)}"))
    for a, b in itertools.permutations(scene.things, 2):
        if a.name != b.name:
            found.add(_related(a.name, relation(a, b), b.name))
    return frozenset(found)


def slot_f1(said: Sequence[frozenset[Fact]], true: Sequence[frozenset[Fact]]) -> dict[str, float | None]:
    """F1 of the facts of all sentences together, over all kinds (``slot_f1``) and of each (``slot_f1_object`` ...); None where there are none."""
    scores: dict[str, float | None] = {"slot_f1": _f1(said, true)}
    for kind in KINDS:
        parts = [[frozenset(fact for fact in facts if fact[0] == kind) for facts in side] for side in (said, true)]
        scores[f"slot_f1_{kind}"] = _f1(*parts)
    return scores


def slot_f1_each(said: Sequence[frozenset[Fact]], true: Sequence[frozenset[Fact]]) -> list[float]:
    """F1 of each sentence over all kinds, for paired comparisons."""
    return [_f1([a], [b]) or 0.0 for a, b in zip(said, true, strict=True)]


def _f1(said: Sequence[frozenset[Fact]], true: Sequence[frozenset[Fact]]) -> float | None:
    right = sum(len(a & b) for a, b in zip(said, true, strict=True))
    total = sum(map(len, said)) + sum(map(len, true))
    return 2 * right / total if total else None


def _related(a: str, how: str, b: str) -> Fact:
    """The same fact from either side: left of and above only."""
    if how in MIRRORED:
        a, how, b = b, MIRRORED[how], a
    return "relation", f"{a} {how} {b}"
