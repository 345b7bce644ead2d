"""A scene in words, in four styles, and the same grammar read backwards.

    short   the first thing, with one attribute or its relation to another thing
    long    every thing with its attributes, counts, relations and the background
    human   one natural sentence of middle density: what a person would type as a prompt
    alt     web alt-text: things left out, wrong facts, file names, photographers (specs of RECAP, section 6)

Captions are built from patterns with slots. The same patterns compiled to regular expressions say whether a sentence
is grammatical, which is how the writer model is measured.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from reverie.smallworld.scene import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, Scene, Thing, place, relation

Style = Literal["short", "long", "human", "alt"]
STYLES: tuple[Style, ...] = ("short", "long", "human", "alt")
NUMBERS = {2: "two", 3: "three", 4: "four"}

# {thing} is "a red circle", {sized} "a small red circle", {ground} "a white background". {place} and {relation} as in scene.py.
ONE_SHORT = (
    "{thing}",
    "{sized}",
    "{thing} {place}",
    "{thing} on {ground}",
)
ONE_HUMAN = (
    "{sized} on {ground}",
    "{thing} {place} of {ground}",
    "{sized} {place} of {ground}",
    "a picture of {thing} on {ground}",
    "a photo of {sized} on {ground}",
    "an image of {thing} {place}",
    "there is {sized} {place}",
    "there is {thing} on {ground}",
    "{ground} with {thing} {place}",
    "{ground} with {sized}",
    "we see {sized} on {ground}",
    "{sized} sits {place}",
    "just {thing} on {ground}",
)
TWO_SHORT = ("{thing} {relation} {other}", "{thing} and {other}")
TWO_HUMAN = (
    "{thing} {relation} {other} on {ground}",
    "{sized} {relation} {other_sized}",
    "{sized} {relation} {other_sized} on {ground}",
    "there is {thing} {relation} {other} on {ground}",
    "a picture of {thing} {relation} {other} on {ground}",
    "{ground} with {thing} {relation} {other}",
)
JUNK = (
    "stock photo",
    "free download",
    "photo by anna",
    "photo by tom",
    "shop now",
    "wallpaper hd",
    "buy online",
    "new 2019",
)
FILES = ("img {n}", "dsc {n}", "image {n} jpg", "untitled {n}", "photo {n} png")


def describe(scene: Scene, style: Style, rng: np.random.Generator) -> str:
    """One caption of a scene, drawn from the patterns of a style."""
    if style == "alt":
        return _alt(scene, rng)
    if style == "long":
        return _long(scene, rng)
    groups = scene.groups
    if len(scene.things) == len(groups) <= 2:
        patterns = {("short", 1): ONE_SHORT, ("human", 1): ONE_HUMAN, ("short", 2): TWO_SHORT, ("human", 2): TWO_HUMAN}
        return _fill(str(rng.choice(patterns[style, len(groups)])), scene)
    parts = [_group(group, sized=style == "human" and rng.random() < 0.5) for group in groups]
    if style == "short":
        return " and ".join(parts[:2])
    return f"{_list(parts)} on {_ground(scene)}"


def grammatical(text: str) -> bool:
    """Whether the text is a sentence of the one-thing and two-thing patterns, short or human."""
    return any(regex.fullmatch(text) for regex in _REGEXES)


def vocabulary() -> tuple[str, ...]:
    """Every word that any caption can hold, sorted; the tokenizer of the builtin models is made from it."""
    patterns = (*ONE_SHORT, *ONE_HUMAN, *TWO_SHORT, *TWO_HUMAN, *JUNK, *FILES)
    fixed = " ".join(
        [re.sub(r"\{\w+\}", " ", " ".join(patterns)), *PLACES, *RELATIONS, *BACKGROUNDS, *COLOURS, *NUMBERS.values()]
    )
    plurals = [plural(shape) for shape in SHAPES]
    extra = ["a", "an", "and", "background", "class", ":", ",", "small", "large", "with", "is", "on", "of", "the"]
    digits = [str(digit) for digit in range(10)]
    return tuple(sorted({*fixed.split(), *SHAPES, *plurals, *extra, *digits}))


def _fill(pattern: str, scene: Scene) -> str:
    first = scene.things[0]
    words = {
        "thing": _a(first.name),
        "sized": _a(f"{first.size} {first.name}"),
        "place": place(first),
        "ground": _ground(scene),
    }
    if len(scene.things) > 1:
        other = scene.things[1]
        words |= {
            "other": _a(other.name),
            "other_sized": _a(f"{other.size} {other.name}"),
            "relation": relation(first, other),
        }
    return pattern.format(**words)


def _long(scene: Scene, rng: np.random.Generator) -> str:
    groups = scene.groups
    parts = [_group(group, sized=True) for group in groups]
    if len(scene.things) == 1:
        middle = f"{parts[0]} {place(scene.things[0])}"
    elif len(scene.things) == 2 and len(groups) == 2:
        middle = f"{parts[0]} {relation(*scene.things)} {parts[1]}"
    else:
        middle = _list(parts)
        if len(groups) > 1:
            a, b = groups[0][0], groups[1][0]
            if len(groups[0]) == len(groups[1]) == 1:
                middle += f" , the {a.name} is {relation(a, b)} the {b.name}"
    opening = str(rng.choice(["", "a picture of ", "an image of "]))
    return f"{opening}{middle} , on {_ground(scene)}"


def _alt(scene: Scene, rng: np.random.Generator) -> str:
    """Drop 50 to 70 % of the things (never the last one), get 10 % of the facts wrong, add noise."""
    kept = [thing for thing in scene.things if rng.random() > rng.uniform(0.5, 0.7)]
    words = [_noisy(thing, rng) for thing in kept or scene.things[:1]]
    if not kept and rng.random() < 0.5:
        words = []
    noise = [str(rng.choice(JUNK)) for _ in range(int(rng.integers(0, 3)))]
    if rng.random() < 0.4 or not words:
        noise.append(str(rng.choice(FILES)).format(n=" ".join(str(rng.integers(10)) for _ in range(4))))
    pieces = [*words, *noise]
    return " ".join(pieces[i] for i in rng.permutation(len(pieces)))


def _noisy(thing: Thing, rng: np.random.Generator) -> str:
    colour = str(rng.choice(list(COLOURS))) if rng.random() < 0.1 else thing.colour
    shape = str(rng.choice(SHAPES)) if rng.random() < 0.1 else thing.shape
    return shape if rng.random() < 0.4 else f"{colour} {shape}"


def _group(group: tuple[Thing, ...], sized: bool) -> str:
    first = group[0]
    name = f"{first.size} {first.name}" if sized else first.name
    if len(group) == 1:
        return _a(name)
    words = name.split(" ")
    return " ".join([NUMBERS[len(group)], *words[:-1], plural(words[-1])])


def plural(shape: str) -> str:
    """The name of several of a shape."""
    return shape + ("es" if shape.endswith("s") else "s")


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _ground(scene: Scene) -> str:
    return f"{_a(scene.background)} background"


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{' , '.join(parts[:-1])} and {parts[-1]}"


def _regex(pattern: str) -> re.Pattern[str]:
    def words(items: object) -> str:
        return "(?:" + "|".join(items) + ")"  # type: ignore[arg-type]

    things = [_a(f"{colour} {shape}") for colour in COLOURS for shape in SHAPES]
    sized = [f"a {size} {colour} {shape}" for size in ("small", "large") for colour in COLOURS for shape in SHAPES]
    slots = {
        "thing": words(things),
        "other": words(things),
        "sized": words(sized),
        "other_sized": words(sized),
        "place": words(PLACES),
        "relation": words(RELATIONS),
        "ground": words([f"{_a(name)} background" for name in BACKGROUNDS]),
    }
    return re.compile(pattern.format(**slots))


_REGEXES = tuple(_regex(pattern) for pattern in (*ONE_SHORT, *ONE_HUMAN, *TWO_SHORT, *TWO_HUMAN))
