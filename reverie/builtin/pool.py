"""Scenes rendered ahead of training: pictures as one memory-mapped array, captions or boxes beside it.

Rendering is slower than a small network learns, so scenes are drawn once and visited many times, each time with one
of their captions. A pool is made in chunks, by as many processes as are told, and a killed run goes on with the chunks that
are missing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie import seeds
from reverie.smallworld.describe import Style, describe
from reverie.smallworld.render import CameraName, Picture, render
from reverie.smallworld.scene import BACKGROUNDS, COLOURS, Scene, sample
from reverie.stage import EventSink
from reverie.store.files import atomic_file

CHUNK = 500
CAPTIONS_EACH = 4


def make(
    folder: Path,
    num: int,
    camera: CameraName,
    styles: Sequence[Style],
    seed: int,
    report: EventSink,
    *,
    things: int | None = None,
    workers: int = 1,
    until: float | None = None,
) -> None:
    """Render ``num`` scenes with a few captions each, drawn evenly from the styles, into a folder of whole chunks, one at least.

    Args:
        things: in each scene; one to four when left out.
        workers: processes that render.
        until: a time of ``time.monotonic`` after which no chunk is begun, but for the first.
    """
    _make(folder, num, functools.partial(_captioned, camera, tuple(styles), seed, things), report, workers, until)


def make_boxed(folder: Path, num: int, camera: CameraName, seed: int, report: EventSink, *, workers: int = 1) -> None:
    """Render ``num`` scenes with the name and the box of every thing, into a folder of chunks.

    There are as many scenes of four things as of one, where captions have mostly one: more to learn from in a picture. One
    scene in twenty has no thing at all, because that is to be said of a picture too.
    """
    _make(folder, num, functools.partial(_boxed, camera, seed), report, workers)


def captions(folder: Path, styles: Sequence[Style], seed: int, things: int | None = None) -> list[list[str]]:
    """Other captions of the scenes of a pool, which was made with this seed and number of things."""
    found = []
    for name, scene in scenes(folder, seed, things):
        rng = np.random.default_rng(seeds.derive("captions", name, *styles))
        found.append([describe(scene, styles[k % len(styles)], rng) for k in range(CAPTIONS_EACH)])
    return found


def scenes(folder: Path, seed: int, things: int | None = None) -> Iterator[tuple[int, Scene]]:
    """The scenes of a pool, which was made with this seed and number of things, each with the seed that it came of."""
    for file in sorted(folder.glob("*.json")):
        for index in range(int(file.stem) * CHUNK, (int(file.stem) + 1) * CHUNK):
            name = seeds.derive("scene", seed, index)
            yield name, sample(np.random.default_rng(name), things)


def _captioned(
    camera: CameraName, styles: tuple[Style, ...], seed: int, things: int | None, index: int
) -> tuple[Picture, Any]:
    name = seeds.derive("scene", seed, index)
    rng = np.random.default_rng(name)
    scene = sample(rng, things)
    picture = render(scene, camera, seeds.derive("look", name))
    return picture, [describe(scene, styles[k % len(styles)], rng) for k in range(CAPTIONS_EACH)]


def _boxed(camera: CameraName, seed: int, index: int) -> tuple[Picture, Any]:
    name = seeds.derive("boxed scene", seed, index)
    rng = np.random.default_rng(name)
    scene = sample(rng, weights=(0.25, 0.25, 0.25, 0.25))
    if rng.random() < 0.05:
        scene = Scene((), scene.background)
    picture = render(scene, camera, seeds.derive("look", name))
    return picture, [[thing.name, box] for thing, box in zip(scene.things, picture.boxes.tolist(), strict=True)]


def _make(
    folder: Path,
    num: int,
    draw: Callable[[int], tuple[Picture, Any]],
    report: EventSink,
    workers: int = 1,
    until: float | None = None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chunks = range(max(1, num // CHUNK))
    todo = [chunk for chunk in chunks if not (folder / f"{chunk:05d}.json").exists()]
    done = len(chunks) - len(todo)
    write = functools.partial(_write_chunk, folder, draw, until)
    with contextlib.ExitStack() as stack:
        written: Iterator[bool]
        if workers > 1 and len(todo) > 1:
            # Workers only draw, with numpy, and nothing has touched a GPU yet: a fork is safe, and starts at once.
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
            written = stack.enter_context(context.Pool(workers)).imap_unordered(write, todo)
        else:
            written = map(write, todo)
        for made in written:
            if not made:
                continue
            done += 1
            report("progress", done=done * CHUNK, total=len(chunks) * CHUNK)


def _write_chunk(folder: Path, draw: Callable[[int], tuple[Picture, Any]], until: float | None, chunk: int) -> bool:
    """One chunk, if it is not too late. Returns: whether it is there."""
    if until is not None and chunk > 0 and time.monotonic() >= until:
        return False
    drawn = [draw(chunk * CHUNK + index) for index in range(CHUNK)]
    np.save(
        folder / f"{chunk:05d}.npy",
        np.stack([picture.image.transpose(2, 0, 1) for picture, _ in drawn]),
        allow_pickle=False,
    )
    done = folder / f"{chunk:05d}.json"
    with atomic_file(done) as temporary:
        temporary.write_text(json.dumps([note for _, note in drawn]), encoding="utf-8")
    return True


@dataclass(frozen=True)
class Pool:
    """Random batches of a pool, each a pure function of (seed, position)."""

    images: Sequence[Any]  # uint8 (CHUNK, 3, side, side) a chunk, memory-mapped
    captions: list[list[str]]
    batch: int
    seed: int
    alike: int = 1  # scenes in a row of a batch that agree in colours and background, and leave the shapes to learn

    @staticmethod
    def open(folders: Sequence[Path], batch: int, seed: int, alike: int = 1) -> Pool:
        """Open finished pools as one."""
        images, captions = _chunks(folders)
        return Pool(images, captions, batch, seed, alike)

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        while True:
            rng = np.random.default_rng(seeds.derive("pool", self.seed, start))
            rows = self._rows(rng)
            text = [self.captions[row][rng.integers(len(self.captions[row]))] for row in rows]
            pictures = np.stack([self.images[row // CHUNK][row % CHUNK] for row in rows])
            yield {"images": torch.from_numpy(pictures), "text": text}
            start += 1

    def _rows(self, rng: np.random.Generator) -> list[int]:
        rows: list[int] = rng.integers(len(self.captions), size=self.batch).tolist()
        if self.alike > 1:
            colours, groups = self._groups
            for first in range(0, self.batch - self.alike + 1, self.alike):
                group = groups[colours[rows[first]]]
                if len(group) >= self.alike:
                    rows[first : first + self.alike] = rng.choice(group, self.alike, replace=False).tolist()
        return rows

    @cached_property
    def _groups(self) -> tuple[list[str], dict[str, list[int]]]:
        """For each scene what colours its captions name, and all scenes by that."""
        words = {*COLOURS, *BACKGROUNDS}
        colours = [" ".join(sorted(words & set(" ".join(texts).split()))) for texts in self.captions]
        groups: dict[str, list[int]] = {}
        for row, key in enumerate(colours):
            groups.setdefault(key, []).append(row)
        return colours, groups


@dataclass(frozen=True)
class Boxed:
    """Random batches of pictures with what is in them and where, each a pure function of (seed, position)."""

    images: Sequence[Any]  # uint8 (CHUNK, 3, side, side) a chunk, memory-mapped
    things: list[list[tuple[str, list[float]]]]  # of every picture: names, and boxes as x0, y0, x1, y1 in pixels
    batch: int
    seed: int

    @staticmethod
    def open(folders: Sequence[Path], batch: int, seed: int) -> Boxed:
        """Open finished pools of ``make_boxed`` as one."""
        images, things = _chunks(folders)
        return Boxed(images, things, batch, seed)

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``, as ``learn/detection.py`` takes them."""
        while True:
            rows = np.random.default_rng(seeds.derive("boxed", self.seed, start)).integers(
                len(self.things), size=self.batch
            )
            things = [self.things[row] for row in rows]
            yield {
                "images": torch.from_numpy(np.stack([self.images[row // CHUNK][row % CHUNK] for row in rows])),
                "boxes": [torch.tensor([box for _, box in some]).reshape(-1, 4) for some in things],
                "names": [[name for name, _ in some] for some in things],
            }
            start += 1


def _chunks(folders: Sequence[Path]) -> tuple[list[Any], list[Any]]:
    """Pictures of finished pools, and what was noted of each."""
    names = [name for folder in folders for name in sorted(folder.glob("*.json"))]
    images = [np.load(name.with_suffix(".npy"), mmap_mode="r", allow_pickle=False) for name in names]
    return images, [note for name in names for note in json.loads(name.read_text(encoding="utf-8"))]


@dataclass(frozen=True)
class Sentences:
    """What the writer learns from: a class, then a caption of a scene with one thing of that class."""

    batch: int
    seed: int

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        while True:
            rng = np.random.default_rng(seeds.derive("sentences", self.seed, start))
            scenes = [sample(rng, num_things=1) for _ in range(self.batch)]
            styles: list[Style] = ["short" if rng.random() < 0.2 else "human" for _ in scenes]
            text = [
                f"class: {s.things[0].name} {describe(s, style, rng)}" for s, style in zip(scenes, styles, strict=True)
            ]
            yield {"text": text}
            start += 1


@dataclass(frozen=True)
class ClassSentences:
    """What the word-to-sentence model learns from: a class, and a caption of a scene in which it comes first.

    One scene in three shows another thing as well: sentences about a class are about more than the class.
    """

    batch: int
    seed: int

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        while True:
            rng = np.random.default_rng(seeds.derive("class sentences", self.seed, start))
            scenes = [self._scene(rng) for _ in range(self.batch)]
            styles: list[Style] = ["short" if rng.random() < 0.2 else "human" for _ in scenes]
            yield {
                "label": [scene.things[0].name for scene in scenes],
                "text": [describe(scene, style, rng) for scene, style in zip(scenes, styles, strict=True)],
            }
            start += 1

    def _scene(self, rng: np.random.Generator) -> Scene:
        count = 2 if rng.random() < 1 / 3 else 1
        while len((scene := sample(rng, num_things=count)).groups) < count:
            pass  # two of the same are a plural, which is not the name of the class
        return scene
