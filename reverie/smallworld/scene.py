"""Scenes of the small world: one to four coloured shapes, with everything about them known.

A scene graph says what a caption can say (shape, colour, size, place, count, relation, background). What a caption
never says (rotation, texture, light, clutter) is not here: it is drawn from a seed when the scene is photographed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "crescent")
COLOURS = {
    "red": (220, 30, 40),
    "orange": (250, 135, 15),
    "yellow": (250, 225, 40),
    "green": (35, 160, 60),
    "cyan": (30, 200, 215),
    "blue": (40, 70, 225),
    "purple": (135, 45, 185),
    "pink": (250, 120, 185),
}
BACKGROUNDS = {
    "white": (242, 242, 240),
    "gray": (142, 144, 146),
    "black": (24, 24, 28),
    "beige": (222, 206, 172),
    "brown": (104, 74, 50),
}
_FEW = {"small": (0.115, 0.13), "large": (0.165, 0.19)}
SIZES = {  # radius by number of things, so that they never touch
    1: {"small": (0.17, 0.21), "large": (0.28, 0.34)},
    2: {"small": (0.14, 0.165), "large": (0.195, 0.23)},
    3: _FEW,
    4: _FEW,
}
RELATIONS = ("left of", "right of", "above", "below")
PLACES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")


@dataclass(frozen=True)
class Thing:
    """One coloured shape. ``x`` to the right and ``y`` downwards, centre and radius as fractions of the picture side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        """Class name, such as ``red circle``."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Things on a background. The first thing is the one that captions start with; no two things touch."""

    things: tuple[Thing, ...]
    background: str

    @property
    def groups(self) -> tuple[tuple[Thing, ...], ...]:
        """Things of one name together, in order of first appearance: what "three red circles" counts."""
        names: dict[str, list[Thing]] = {}
        for thing in self.things:
            names.setdefault(thing.name, []).append(thing)
        return tuple(tuple(group) for group in names.values())


def class_names() -> tuple[str, ...]:
    """The 64 classes of the small world: every colour with every shape."""
    return tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def place(thing: Thing) -> str:
    """Where a thing is, in words: one of PLACES."""
    dx, dy = thing.x - 0.5, thing.y - 0.5
    if max(abs(dx), abs(dy)) < 0.1:
        return "in the middle"
    if abs(dx) >= abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"


def relation(a: Thing, b: Thing) -> str:
    """Where ``a`` is, seen from ``b``: one of RELATIONS, along the axis on which they are further apart."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def sample(
    rng: np.random.Generator,
    num_things: int | None = None,
    first: str | None = None,
    weights: Sequence[float] = (0.55, 0.3, 0.1, 0.05),
) -> Scene:
    """Draw a scene.

    Args:
        rng: where the choices come from.
        num_things: 1 to 4; drawn with ``weights`` if not given.
        first: class name of the first thing; drawn uniformly if not given.
    """
    count = num_things or 1 + int(rng.choice(4, p=weights))
    names = class_names()
    lead = first or names[rng.integers(len(names))]
    others = [name for name in names if name != lead]
    kinds = [lead]
    while len(kinds) < count:
        # One time in four the next thing repeats the last one, so that captions have something to count.
        kinds.append(kinds[-1] if rng.random() < 0.25 else others[rng.integers(len(others))])
    sizes = {name: str(rng.choice(["small", "large"])) for name in dict.fromkeys(kinds)}
    centres = _centres(rng, count)
    things = []
    for name, (x, y) in zip(kinds, centres, strict=True):
        colour, shape = name.split(" ")
        radius = float(rng.uniform(*SIZES[count][sizes[name]]))
        x, y = np.clip((x, y), radius + 0.02, 0.98 - radius)
        things.append(Thing(shape, colour, sizes[name], float(x), float(y), radius))
    return Scene(tuple(things), str(rng.choice(list(BACKGROUNDS))))


def _centres(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Places far enough apart for the largest radius of this count."""

    def jitter(width: float) -> float:
        return float(rng.uniform(-width, width))

    if count == 1:
        dx, dy = {0: (-0.24, 0), 1: (0.24, 0), 2: (0, -0.24), 3: (0, 0.24), 4: (0, 0)}[int(rng.integers(5))]
        return [(0.5 + dx + jitter(0.06), 0.5 + dy + jitter(0.06))]
    if count == 2:
        along, across = 0.25 + jitter(0.01), jitter(0.1)
        pair = [(0.5 - along, 0.5 + across), (0.5 + along, 0.5 + jitter(0.1))]
        if rng.random() < 0.5:
            pair = [(y, x) for x, y in pair]
        return pair if rng.random() < 0.5 else pair[::-1]
    corners = [(x, y) for x in (0.26, 0.74) for y in (0.26, 0.74)]
    order = rng.permutation(4)[:count]
    return [(corners[i][0] + jitter(0.05), corners[i][1] + jitter(0.05)) for i in order]
