"""Labelled photos of the small world: one thing each, every class equally often.

They are drawn again whenever they are asked for, the same for the same seed; nothing is kept on disk.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from reverie import seeds
from reverie.errors import InputError, UnknownName
from reverie.smallworld.describe import describe
from reverie.smallworld.render import CAMERAS, CameraName, render
from reverie.smallworld.scene import Scene, class_names, sample


def labelled(
    num: int, camera: CameraName = "street", seed: int = 0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], tuple[str, ...]]:
    """Draw photos of one thing each.

    Photo i depends on the seed and i alone, so a longer set starts with the shorter one, and another camera sees the
    same scenes.

    Returns: images uint8 (num, 64, 64, 3), labels int64 (num,) and the names of the 64 classes. No class is seen more
        than once more often than another.
    Raises: InputError, UnknownName (camera).
    """
    if camera not in CAMERAS:
        raise UnknownName("camera", camera, CAMERAS)
    labels, classes = labels_of(num, seed)

    def draw(index: int) -> npt.NDArray[np.uint8]:
        return photo(index, classes[labels[index]], camera, seed)

    # numpy lets go of the interpreter while it computes, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return np.stack(list(threads.map(draw, range(num)))), labels, classes


def labels_of(num: int, seed: int = 0) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The labels of ``labelled``, int64 (num,), and the names of the classes, without drawing anything. Raises InputError."""
    if num < 1:
        raise InputError(f"asked for {num} photos; ask for at least 1")
    classes = class_names()
    rounds = range(-(-num // len(classes)))
    order = [np.random.default_rng(seeds.derive("classes", seed, n)).permutation(len(classes)) for n in rounds]
    return np.concatenate(order)[:num].astype(np.int64), classes


def photo(index: int, label: str, camera: CameraName, seed: int) -> npt.NDArray[np.uint8]:
    """One photo of ``labelled``, uint8 (64, 64, 3), without its neighbours."""
    own = seeds.derive("photo", seed, index)
    scene = sample(np.random.default_rng(own), num_things=1, first=label)
    return render(scene, camera, seed=seeds.derive("camera", own)).image


def captioned(
    num: int, camera: CameraName = "street", seed: int = 0, references: int = 5, classes: tuple[str, ...] = ()
) -> tuple[npt.NDArray[np.uint8], list[list[str]]]:
    """Photos of one to four things, each with sentences that people might say of it.

    Args:
        references: sentences of each, in the style ``human``; different ones where the scene allows it.
        classes: what the first thing may be; any when empty.
    Returns: images uint8 (num, 64, 64, 3), and the sentences of each.
    Raises: InputError, UnknownName (camera).
    """
    if camera not in CAMERAS:
        raise UnknownName("camera", camera, CAMERAS)
    if num < 1 or references < 1:
        raise InputError(f"asked for {num} photos with {references} sentences each; ask for at least 1")

    def draw(index: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
        own = seeds.derive("captioned photo", seed, index)
        scene, rng = _described(index, seed, classes)
        said = list(dict.fromkeys(describe(scene, "human", rng) for _ in range(4 * references)))
        return render(scene, camera, seed=seeds.derive("camera", own)).image, said[:references]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        drawn = list(threads.map(draw, range(num)))
    return np.stack([image for image, _ in drawn]), [said for _, said in drawn]


def scenes_of_captioned(num: int, seed: int = 0, classes: tuple[str, ...] = ()) -> list[Scene]:
    """What the photos of ``captioned`` show, without drawing any."""
    return [_described(index, seed, classes)[0] for index in range(num)]


def _described(index: int, seed: int, classes: tuple[str, ...]) -> tuple[Scene, np.random.Generator]:
    """A scene, and the generator that its sentences are drawn with."""
    rng = np.random.default_rng(seeds.derive("captioned photo", seed, index))
    return sample(rng, first=str(rng.choice(classes)) if classes else None), rng
