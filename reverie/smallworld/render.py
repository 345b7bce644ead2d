"""A scene through a camera: everything a caption does not say is drawn here, from a seed.

``studio`` is what the painter learns to paint: clean, but with rotation, fill textures, outlines, background patterns
and light that the usual augmentations cannot undo. ``street`` is our real-photo domain: the same nuisances, stronger,
with clutter, uneven coloured light, blur and noise. ``plain`` shows what a caption may say, and outlines. Edges are
anti-aliased by signed distance, in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from reverie.smallworld.scene import BACKGROUNDS, COLOURS, Scene, Thing

CameraName = Literal["studio", "street", "plain"]
Plane = npt.NDArray[Any]  # floats, one value a pixel


@dataclass(frozen=True)
class Camera:
    """Strength of each nuisance; 0 switches it off."""

    rotation_deg: float  # things turn by up to this much either way
    texture: float  # depth of fill textures, fraction of brightness
    pattern: float  # depth of background patterns, fraction of brightness
    light: tuple[float, float]  # darkest and brightest factor of the light across the picture
    cast: float  # colour cast of the light, fraction
    clutter: tuple[int, int]  # fewest and most small marks
    blur_px: tuple[float, float]  # standard deviation of the Gaussian
    noise: float  # standard deviation, in grey levels


CAMERAS: dict[str, Camera] = {
    "studio": Camera(45, 0.35, 0.12, (0.86, 1.06), 0.0, (0, 0), (0, 0), 0),
    "street": Camera(45, 0.45, 0.30, (0.55, 1.15), 0.12, (4, 9), (0.3, 1.0), 9),
    "plain": Camera(0, 0, 0, (1, 1), 0, (0, 0), (0, 0), 0),
}


@dataclass(frozen=True)
class Picture:
    """``image`` uint8 (side, side, 3); ``boxes`` float (things, 4) as x0, y0, x1, y1 in pixels of the visible shape."""

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]


def render(scene: Scene, camera: CameraName = "studio", seed: int = 0, side: int = 64) -> Picture:
    """Photograph a scene. The same scene, camera, seed and side give the same bytes."""
    if side < 32:
        raise ValueError(f"side is {side}; below 32 pixels the smallest things vanish")
    settings = CAMERAS[camera]
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) + 0.5
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    canvas *= (1 + settings.pattern * (_pattern(rng, x, y, side) - 0.5))[..., None]
    if settings.clutter[1]:
        _clutter(rng, canvas, x, y, int(rng.integers(settings.clutter[0], settings.clutter[1] + 1)))
    boxes = [_draw(rng, canvas, thing, settings, x, y, side) for thing in scene.things]
    canvas *= _light(rng, settings, x, y, side)
    if settings.blur_px[1]:
        canvas = _blur(canvas, float(rng.uniform(*settings.blur_px)))
    if settings.noise:
        canvas += rng.normal(0, settings.noise, canvas.shape).astype(np.float32)
    return Picture(np.clip(canvas, 0, 255).round().astype(np.uint8), np.array(boxes, np.float32).reshape(-1, 4))


def distance(shape: str, u: Plane, v: Plane) -> Plane:
    """Signed distance to the outline of a shape of radius 1 around the origin; negative inside, v points down.

    Star corners are treated as the crossing of straight lines, which is exact near the outline and that is all we use.
    """
    r = np.hypot(u, v)
    if shape == "circle":
        return r - 0.92
    if shape == "ring":
        return np.abs(r - 0.72) - 0.25
    if shape == "square":
        return _box(u, v, 0.8, 0.8)
    if shape == "cross":
        return np.minimum(_box(u, v, 0.98, 0.31), _box(u, v, 0.31, 0.98))
    if shape == "triangle":
        angles = np.deg2rad([90, 210, 330])
        return cast(Plane, np.max([u * np.cos(a) + (v + 0.05) * np.sin(a) - 0.52 for a in angles], axis=0))
    if shape == "star":
        turn = np.pi / 5
        angle = np.abs((np.arctan2(u, -v) + turn) % (2 * turn) - turn)
        # The line from the tip (1, 0) to the inner corner at 36 degrees, in the folded wedge.
        cx, cy = 0.45 * np.cos(turn), 0.45 * np.sin(turn)
        length = np.hypot(1 - cx, cy)
        return cast(Plane, ((r * np.cos(angle) - 1) * cy + r * np.sin(angle) * (1 - cx)) / length)
    if shape == "heart":
        half = 0.5
        turned = _box((u + v - 0.1) / np.sqrt(2), (u - v + 0.1) / np.sqrt(2), half, half)
        lobe = half / np.sqrt(2)
        lobes = [np.hypot(u - side * lobe, v - 0.1 + lobe) - half for side in (-1, 1)]
        return cast(Plane, np.min([turned, *lobes], axis=0))
    if shape == "crescent":
        return np.maximum(r - 0.95, 0.72 - np.hypot(u - 0.45, v))
    raise ValueError(f"unknown shape {shape!r}")


def _box(u: Plane, v: Plane, width: float, height: float) -> Plane:
    du, dv = np.abs(u) - width, np.abs(v) - height
    return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)


def _draw(
    rng: np.random.Generator, canvas: Plane, thing: Thing, camera: Camera, x: Plane, y: Plane, side: int
) -> tuple[float, float, float, float]:
    turn = np.deg2rad(rng.uniform(-camera.rotation_deg, camera.rotation_deg))
    radius = thing.radius * side
    dx, dy = (x - thing.x * side) / radius, (y - thing.y * side) / radius
    u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    away = distance(thing.shape, u, v) * radius
    inside = np.clip(0.5 - away, 0, 1)
    paint = np.array(COLOURS[thing.colour], np.float32) + rng.uniform(-10, 10, 3)
    fill = paint * (1 - camera.texture * rng.uniform(0.4, 1) * _pattern(rng, x, y, side, plain=0.35))[..., None]
    outline = rng.choice(["none", "dark", "light"], p=[0.5, 0.3, 0.2])
    if outline != "none":
        edge = np.clip(0.5 + away + 1.6, 0, 1)[..., None]
        fill = fill * (1 - edge) + edge * (paint * 0.25 if outline == "dark" else paint * 0.4 + 150)
    canvas += inside[..., None] * (fill - canvas)
    rows, columns = np.flatnonzero(inside.max(1) > 0.5), np.flatnonzero(inside.max(0) > 0.5)
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _pattern(rng: np.random.Generator, x: Plane, y: Plane, side: int, plain: float = 0.3) -> Plane:
    """Plain, stripes, dots, checks or a gradient, as values in [0, 1]."""
    kind = rng.choice(["plain", "stripes", "dots", "checks", "gradient"], p=[plain, *[(1 - plain) / 4] * 4])
    angle, phase = rng.uniform(0, np.pi, 2)
    wave = 2 * np.pi / (side * rng.uniform(0.16, 0.3))
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    waves = np.sin(along * wave + phase), np.sin(across * wave)
    shades = {
        "plain": np.full_like(x, 0.5),
        "stripes": 0.5 + 1.5 * waves[0],
        "dots": 2 * waves[0] * waves[1] - 0.3,
        "checks": 0.5 + 3 * waves[0] * waves[1],
        "gradient": 0.5 + (along - side * (np.cos(angle) + np.sin(angle)) / 2) / side,
    }
    shade: Plane = np.clip(shades[str(kind)], 0, 1)
    return shade


def _light(rng: np.random.Generator, camera: Camera, x: Plane, y: Plane, side: int) -> Plane:
    angle = rng.uniform(0, 2 * np.pi)
    along = np.clip(0.5 + ((x / side - 0.5) * np.cos(angle) + (y / side - 0.5) * np.sin(angle)) / 1.2, 0, 1)
    low, high = np.sort(rng.uniform(*camera.light, 2))
    cast = 1 + rng.uniform(-camera.cast, camera.cast, 3)
    shade: Plane = ((low + (high - low) * along)[..., None] * cast).astype(np.float32)
    return shade


def _clutter(rng: np.random.Generator, canvas: Plane, x: Plane, y: Plane, count: int) -> None:
    """Small marks of any colour that belong to nothing: specks and short strokes under the things."""
    side = canvas.shape[0]
    for _ in range(count):
        cx, cy = rng.uniform(0, side, 2)
        angle = rng.uniform(0, np.pi)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        length, width = rng.uniform(0.02, 0.16) * side, rng.uniform(0.012, 0.035) * side
        mark = np.clip(0.5 - _box(along, across, length, width), 0, 1)[..., None] * rng.uniform(0.5, 1)
        canvas += mark * (rng.uniform(20, 235, 3).astype(np.float32) - canvas)


def _blur(canvas: Plane, sigma: float) -> Plane:
    reach = max(1, int(3 * sigma + 0.5))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(canvas, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        canvas = sum(
            weight * np.take(padded, range(i, i + canvas.shape[axis]), axis=axis) for i, weight in enumerate(taps)
        )
    return canvas
