"""Labelled photos -> a few shots of each class, the same for every arm that learns from them.

Drawn as CoOp (arXiv:2109.01134) draws them: at random without replacement, by class and seed. Shot n of a class depends on
the photos, the class and the seed alone, so the M shots of one seed are the first M of any larger number.

A step's shots are an ordinary store, ``shots/STEP/`` in the run folder: captions.lance and pairs.lance with ``origin`` real,
and ``shots.json``, which tells a person what was taken. Unit n of it holds shot n of every class, so that the first M
shots of each class are the rows with ``unit < M``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from reverie import pairs, seeds
from reverie.captions.classes import read_classes
from reverie.errors import BrokenImage, InputError
from reverie.pairs import CLASS_SLOT
from reverie.stage import Job, Role, StepContext
from reverie.store.files import atomic_folder
from reverie.store.pictures import as_png, open_picture, suffix
from reverie.store.places import has_table

ABOUT = "shots.json"
SHOWN = 5  # names in an error


@dataclass(frozen=True)
class TakeShots(Job):
    """Labelled photos -> ``per_class`` shots of each class, in ``context.shots()``.

    A photo that cannot be decoded, or that a class has already, is passed over.
    """

    role: ClassVar[Role] = "source"

    classes: tuple[str, ...] | Path  # names, or a file of them
    photos: str = "smallworld:street:1024:960"  # their train split, see datasets/labelled.py
    per_class: int = 16  # M
    seed: int = 0
    template: str = "a photo of a {class}."  # the text of the rows

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise InputError(f"{self.per_class} shots of each class are none; take at least 1")
        if CLASS_SLOT not in self.template:
            raise InputError(f"the template {self.template!r} has no {CLASS_SLOT} in it")

    def check(self) -> None:
        """Raises InputError for photos that are not there, of classes that are not in the list, or too few of a class."""
        self._by_class()

    def run(self, context: StepContext) -> None:
        """Draw, and put the folder in place last; done before, it stays. Raises InputError as ``check``."""
        from reverie.store import tables

        folder = context.shots()
        if folder.exists():
            return
        taken = self._taken(context)
        with atomic_folder(folder) as temporary:
            names = {label: [self._row(shot, 0)["pair_id"] for shot in shots] for label, shots in taken.items()}
            for rank in range(self.per_class):
                rows = [self._row(shots[rank], rank) for shots in taken.values()]
                captions = [{key: row[key] for key in row if key in pairs.CAPTIONS.names} for row in rows]
                captions = [row | {"source": "photo"} for row in captions]
                tables.append_unit(temporary / "captions.lance", rank, pairs.table(captions, pairs.CAPTIONS))
                tables.append_unit(temporary / "pairs.lance", rank, pairs.table(rows, pairs.PAIRS))
            about = {
                "photos": self.photos,
                "split": "train",
                "seed": self.seed,
                "per_class": self.per_class,
                "shots": names,  # in the order drawn: the first M are the M shots of this seed
                "photo_numbers": {label: [shot.number for shot in shots] for label, shots in taken.items()},
            }
            (temporary / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
        context.report("shots", classes=len(taken), per_class=self.per_class, seed=self.seed)

    def preview(self, count: int) -> Job:
        """The same shots: images may begin at them."""
        return self

    def _by_class(self) -> dict[str, list[int]]:
        """Numbers of the photos of each class, in the order in which this seed draws them."""
        from reverie.datasets.labelled import photo_labels

        classes = read_classes(self.classes)
        labels = photo_labels(self.photos, "train")
        _refuse_strangers(self.photos, set(labels), classes)
        found: dict[str, list[int]] = {name: [] for name in classes}
        for number, label in enumerate(labels):
            found[label].append(number)
        self._refuse_few({name: len(numbers) for name, numbers in found.items()}, "")
        for name, numbers in found.items():
            order = np.random.default_rng(seeds.derive("shots", self.seed, name)).permutation(len(numbers))
            found[name] = [numbers[place] for place in order]
        return found

    def _refuse_few(self, counts: dict[str, int], kind: str) -> None:
        few = {name: number for name, number in counts.items() if number < self.per_class}
        if few:
            listed = ", ".join(f"{name!r} has {number}" for name, number in list(few.items())[:SHOWN])
            more = f" and {len(few) - SHOWN} more classes have too few" if len(few) > SHOWN else ""
            raise InputError(
                f"{self.per_class} shots of each class are asked, but of the {kind}train photos of {self.photos} "
                f"{listed}{more}; ask for fewer shots, or give more photos"
            )

    def _taken(self, context: StepContext) -> dict[str, list[_Shot]]:
        """The shots of each class in order; photos are read in rounds, the second for what the first could not use."""
        from reverie.datasets.labelled import take_photos

        left = self._by_class()
        taken: dict[str, list[_Shot]] = {name: [] for name in left}
        passed_over: Counter[str] = Counter()
        while wanted := {
            name: numbers[: self.per_class - len(taken[name])]
            for name, numbers in left.items()
            if len(taken[name]) < self.per_class
        }:
            self._refuse_few({name: len(taken[name]) + len(left[name]) for name in wanted}, "usable and distinct ")
            photos = take_photos(self.photos, "train", [number for numbers in wanted.values() for number in numbers])
            for name, numbers in wanted.items():
                left[name] = left[name][len(numbers) :]
                for number in numbers:
                    try:
                        shot = _Shot.of(number, name, photos[number])
                    except BrokenImage as error:
                        passed_over[str(error)] += 1
                        continue
                    if any(shot.content == other.content for other in taken[name]):
                        passed_over[f"photo {number} of {name!r} is there twice"] += 1
                        continue
                    taken[name].append(shot)
        if passed_over:
            said = "; ".join(list(passed_over)[:SHOWN])
            context.report("warning", text=f"{passed_over.total()} photos were passed over for the shots: {said}")
        return taken

    def _row(self, shot: _Shot, rank: int) -> dict[str, Any]:
        # The name comes from the class and the picture alone: the same shot has the same id under every seed and in every run.
        caption = pairs.caption_id(0, "photo", f"{shot.label}/{shot.content}")
        return {
            "pair_id": pairs.pair_id(caption, 0),
            "caption_id": caption,
            "copy": 0,
            "unit": rank,
            "text": self.template.replace(CLASS_SLOT, shot.label),
            "label": shot.label,
            "image": shot.image,
            "width": shot.width,
            "height": shot.height,
            "origin": "real",
            "status": pairs.OK,
        }


@dataclass(frozen=True)
class _Shot:
    """One photo that can be used."""

    number: int  # in its source
    label: str
    image: bytes
    width: int
    height: int
    content: str  # hash of the bytes

    @classmethod
    def of(cls, number: int, label: str, photo: bytes | np.ndarray[Any, Any] | None) -> _Shot:
        """Raises BrokenImage."""
        if isinstance(photo, np.ndarray):
            photo = as_png(Image.fromarray(photo))
        picture = open_picture(photo, f"photo {number} of {label!r}")
        assert photo is not None
        data = photo if suffix(photo) else as_png(picture)  # the store keeps JPEG, PNG and WebP
        content = hashlib.blake2b(data, digest_size=16).hexdigest()
        return cls(number, label, data, *picture.size, content)


def _refuse_strangers(photos: str, labels: set[str], classes: Sequence[str]) -> None:
    """Labels and classes are joined by name, so every label must be a class, letter by letter."""
    by_case = {name.casefold(): name for name in classes}
    strangers = sorted(labels - set(classes))
    if twins := [name for name in strangers if name.casefold() in by_case]:
        raise InputError(
            f"{photos} has photos of {twins[0]!r}, which differs only by case from the class {by_case[twins[0].casefold()]!r}; "
            "write both alike"
        )
    if strangers:
        more = f" and {len(strangers) - SHOWN} more" if len(strangers) > SHOWN else ""
        raise InputError(
            f"{photos} has photos of classes that are not in the list: {', '.join(strangers[:SHOWN])}{more}; add them to the "
            "list, or take these photos out"
        )


def shots_store(context: StepContext, shots: str | Path) -> Path:
    """The table of pairs of shots: of the step that took them, or of a store that ``reverie import`` made."""
    return (context.shots(shots) if isinstance(shots, str) else shots) / "pairs.lance"


def shots_filter(num: int | None) -> str:
    """The rows of the first ``num`` shots of each class, or of all; a filter of the store."""
    first = "" if num is None else f" and unit < {num}"
    return f"status = 'ok' and label is not null and image is not null{first}"


def check_shots(shots: str | Path | None, num: int | None) -> None:
    """Raises InputError for a number that means nothing. Called when a stage is made."""
    if num is not None and num < 1:
        raise InputError(f"{num} shots of each class are none; use at least 1")
    if num is not None and isinstance(shots, Path):
        raise InputError(
            f"{shots} has no order of shots; the first {num} of each class are known where a step took them"
        )


def check_store(shots: str | Path | None) -> None:
    """Raises InputError for a store that is not there. The shots of a step are made later."""
    if isinstance(shots, Path) and not has_table(shots / "pairs.lance"):
        out = "FOLDER" if shots.exists() else shots  # photos themselves, or a file of captions
        raise InputError(f"{shots} holds no pairs.lance; make it with: reverie import PHOTOS --out {out}")


def read_shots(context: StepContext, shots: str | Path, num: int | None, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of the shots, in the order in which they were drawn. Raises InputError if there are none."""
    from reverie.store import tables  # painting without shots needs no store

    store, where = shots_store(context, shots), shots_filter(num)
    if not tables.count(store, where):
        raise InputError(f"{store.parent} holds no labelled photo")
    yield from tables.scan(store, columns, where)


def shot_picture(context: StepContext, shots: str | Path, name: str) -> bytes:
    """The encoded picture of one shot."""
    from reverie.store import tables

    (rows,) = tables.scan(shots_store(context, shots), ["image"], f"pair_id = '{name}'")
    picture: bytes = rows["image"][0].as_py()
    return picture
