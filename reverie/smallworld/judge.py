"""A picture read back into things, background and relation, by geometry and without knowing how it was made.

    pixel -> how far from the background's colour at any brightness -> things and specks
    thing -> its strongest hue (light and texture scale a colour, outlines pale it, none of them turns it)
          -> its outline, brought to unit area, against a bank of all shapes at all angles

It measures painters, so nothing here is learnt from what a painter makes. ``judge`` compares a reading with what a
caption says, and leaves open what the caption leaves open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from reverie.errors import InputError
from reverie.smallworld.describe import NUMBERS
from reverie.smallworld.render import distance
from reverie.smallworld.scene import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Thing, place, relation

SIDE = 64  # pictures are read at this size; lengths and areas below are in its pixels
BRIGHTNESS = (0.74, 1.16)  # what may scale a background's colour and leave it background: light times pattern
APART = 24.0  # grey levels between background and thing
SMALLEST, LARGEST = 24, SIDE**2 // 2  # area of a thing; anything smaller is a speck, anything larger has no shape
PALE = 28.0  # grey levels between the strongest and weakest channel; anything less has no colour
NEAR = 0.8  # overlap of an outline with the nearest shape's; anything less has no shape
LIMITS = (0.0, 0.35, 0.5)  # where a soft edge is cut, as a fraction of the thing's contrast: the best fit counts
ANGLES_DEG = range(-48, 49, 6)
ROUNDED = (0.0, 0.12)  # how far a painter may round corners, as a fraction of the radius
WORN = 0.1  # how much thinner, of the radius, thin shapes are whose outline looks like the background
WINDOW, CELLS = 1.1, 20  # half side of the window around an outline of unit area, and cells along its side

Plane = npt.NDArray[np.float32]

_COUNTS = {word: number for number, word in NUMBERS.items()}
_THING = re.compile(rf"\b(an?|{'|'.join(_COUNTS)}) (?:(small|large) )?((?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)}))")
_GROUND = re.compile(rf"\b({'|'.join(BACKGROUNDS)}) background")


@dataclass(frozen=True)
class Seen(Thing):
    """A thing as it looks in a picture.

    ``shape`` and ``colour`` are ``""`` where there is none of the small world to see. ``box`` is x0, y0, x1, y1 as
    fractions of the picture side; ``fit`` is the overlap of the outline with the nearest shape's, 1 at best.
    """

    box: tuple[float, float, float, float]
    fit: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows: things from large to small, on a background."""

    things: tuple[Seen, ...]
    background: str


@dataclass(frozen=True)
class Facts:
    """What a caption says; None or an empty ``sizes`` where it is silent."""

    names: tuple[str, ...]
    sizes: tuple[str, ...]
    place: str | None  # of the only thing
    relation: str | None  # of the first of two things to the second
    background: str | None


@dataclass(frozen=True)
class Verdict:
    """Which of a caption's facts a picture shows; None where the caption is silent."""

    shapes: bool
    colours: bool
    things: bool  # every colour on its own shape, and nothing else in the picture
    relation: bool | None
    background: bool | None
    sizes: bool | None
    place: bool | None

    @property
    def right(self) -> bool:
        """Things, relation and background, which is what the gates of the builtin painter ask for."""
        return self.things and self.relation is not False and self.background is not False


def judge(image: npt.NDArray[np.uint8], caption: str) -> Verdict:
    """Read a picture and hold it against a caption. Errors as in ``read`` and ``facts``."""
    return agrees(read(image), facts(caption))


def facts(caption: str) -> Facts:
    """What a caption of the short, long or human style says.

    Raises: InputError if it names no coloured shape.
    """
    names, sizes = [], []
    for number, size, name in _THING.findall(caption):
        names += [name] * _COUNTS.get(number, 1)
        sizes += [size] * _COUNTS.get(number, 1)
    if not names:
        raise InputError(f"caption {caption!r} names no coloured shape of the small world; nothing to judge")
    ground = _GROUND.search(caption)
    return Facts(
        tuple(names),
        tuple(sizes) if all(sizes) else (),
        next((words for words in PLACES if words in caption), None) if len(names) == 1 else None,
        next((words for words in RELATIONS if f" {words} " in caption), None) if len(names) == 2 else None,
        ground and ground[1],
    )


def agrees(reading: Reading, said: Facts) -> Verdict:
    """Hold what a picture shows against what a caption says."""
    seen = reading.things
    things = sorted(thing.name for thing in seen) == sorted(said.names)
    pairs = [(a, b) for a in seen for b in seen if a is not b and (a.name, b.name) == said.names]
    sized = sorted((thing.name, thing.size) for thing in seen)
    return Verdict(
        shapes=sorted(thing.shape for thing in seen) == sorted(name.split(" ")[1] for name in said.names),
        colours=sorted(thing.colour for thing in seen) == sorted(name.split(" ")[0] for name in said.names),
        things=things,
        relation=None if said.relation is None else any(relation(a, b) == said.relation for a, b in pairs),
        background=None if said.background is None else reading.background == said.background,
        sizes=sized == sorted(zip(said.names, said.sizes, strict=True)) if said.sizes else None,
        place=None if said.place is None else things and place(seen[0]) == said.place,
    )


def read(image: npt.NDArray[np.uint8]) -> Reading:
    """Read a picture.

    Args:
        image: uint8 (H, W, 3), at least 32 x 32; read at 64 x 64 whatever its size.
    Raises: ValueError for any other array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 32:
        raise ValueError(f"expected uint8 (H, W, 3) of at least 32 x 32, got {image.dtype} {image.shape}")
    if image.shape[:2] != (SIDE, SIDE):
        image = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    pixels = image.astype(np.float32)
    background, contrast = _background(pixels)
    labels, _ = ndimage.label(contrast > APART, np.ones((3, 3)))
    patches = [
        (where, contrast[where] * (labels[where] == number))
        for number, where in enumerate(ndimage.find_objects(labels), 1)
    ]
    patches = [(where, patch) for where, patch in patches if np.count_nonzero(patch) >= SMALLEST]
    things = [_thing(pixels[where], patch, where, len(patches)) for where, patch in patches]
    return Reading(tuple(sorted(things, key=lambda thing: -thing.radius)), background)


def _background(pixels: Plane) -> tuple[str, Plane]:
    """The background that explains the picture best, and how far each pixel is from it, in grey levels."""
    base = np.array(list(BACKGROUNDS.values()), np.float32)
    along, power = pixels @ base.T, (base**2).sum(1)
    scale = np.clip(along / power, *BRIGHTNESS)
    # |p - s b|^2 for every background at once; a thing is a thing however far away it is, so the cost is capped.
    away = np.sqrt(np.maximum((pixels**2).sum(-1)[..., None] - 2 * scale * along + scale**2 * power, 0))
    best = int(np.minimum(away, 2 * APART).mean((0, 1)).argmin())
    return list(BACKGROUNDS)[best], away[..., best]


def _thing(pixels: Plane, contrast: Plane, where: tuple[slice, slice], count: int) -> Seen:
    """Name one of ``count`` patches of a picture; ``contrast`` is 0 outside the thing."""
    inside = pixels[contrast > 0]
    strength = np.ptp(inside, axis=1)
    strong = inside[strength >= np.quantile(strength, 0.6)].mean(0)
    full = float(np.quantile(contrast[contrast > 0], 0.75))
    fit, shape, x, y, radius = max(_shape(contrast > limit * full) for limit in LIMITS)
    rows, columns = where
    sizes = SIZES[min(count, max(SIZES))]
    return Seen(
        shape=shape if fit >= NEAR and len(inside) <= LARGEST else "",
        colour=_colour(strong) if np.ptp(strong) >= PALE else "",
        size="small" if radius / SIDE < (sizes["small"][1] + sizes["large"][0]) / 2 else "large",
        x=(columns.start + x) / SIDE,
        y=(rows.start + y) / SIDE,
        radius=radius / SIDE,
        box=(columns.start / SIDE, rows.start / SIDE, columns.stop / SIDE, rows.stop / SIDE),
        fit=fit,
    )


def _colour(pixel: Plane) -> str:
    """The colour nearest in hue."""
    turn = _hue(np.array(list(COLOURS.values()), np.float32)) - _hue(pixel)
    return list(COLOURS)[int(np.cos(turn).argmax())]


def _hue(pixels: Plane) -> Plane:
    """Angle on the colour wheel, in radians; unchanged by brightness and by mixing with gray."""
    r, g, b = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    angle: Plane = np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)
    return angle


def _shape(mask: npt.NDArray[np.bool_]) -> tuple[float, str, float, float, float]:
    """Overlap with the nearest shape, its name, centre (x, y) and radius in pixels of the mask."""
    rows, columns = np.nonzero(mask)
    unit = float(np.sqrt(len(rows)))
    x, y = float(columns.mean()), float(rows.mean())
    window = _window(mask.astype(np.float32), x, y, unit)
    bank, power, outlines = _bank()
    common = bank @ window
    overlap = common / (power + window @ window - common)
    best = int(overlap.argmax())
    name, dx, dy, area = outlines[best]
    radius = unit / area
    return float(overlap[best]), name, x + 0.5 - dx * radius, y + 0.5 - dy * radius, radius


def _window(mask: Plane, x: float, y: float, unit: float) -> Plane:
    """The mask around (x, y) on a grid that spans ``WINDOW`` times ``unit`` each way, as one row."""
    ticks = ((np.arange(CELLS, dtype=np.float32) + 0.5) / CELLS * 2 - 1) * (WINDOW * unit)
    grid = np.broadcast_arrays((ticks + y)[:, None], (ticks + x)[None])
    cells: Plane = ndimage.map_coordinates(mask, grid, order=1).ravel()
    return cells


@cache
def _bank() -> tuple[Plane, Plane, list[tuple[str, float, float, float]]]:
    """All outlines at unit area: their windows, their power, and (shape, centroid x, y, root of area) at radius 1."""
    half, scale = 1.3, 60
    v, u = (np.mgrid[0 : 2 * half * scale, 0 : 2 * half * scale].astype(np.float32) + 0.5) / scale - half
    windows, outlines = [], []
    for shape, worn in (*((shape, 0.0) for shape in SHAPES), ("ring", WORN), ("crescent", WORN)):
        for angle in np.deg2rad([0] if shape in ("circle", "ring") else list(ANGLES_DEG)):
            away = distance(shape, u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle))
            for rounded in ROUNDED[: 1 if worn else None]:
                mask = ndimage.gaussian_filter((away < -worn).astype(np.float32), rounded * scale) > 0.5
                rows, columns = np.nonzero(mask)
                unit = float(np.sqrt(len(rows)))
                # Softened by half a cell, as a mask of few pixels is when it is brought to the grid.
                soft = ndimage.gaussian_filter(mask.astype(np.float32), WINDOW * unit / CELLS / 2)
                windows.append(_window(soft, columns.mean(), rows.mean(), unit))
                centre = (float(u[mask].mean()), float(v[mask].mean()))
                outlines.append((shape, *centre, unit / scale))
    bank = np.array(windows)
    return bank, (bank**2).sum(1), outlines
