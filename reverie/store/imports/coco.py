"""Reader of COCO captions (images and annotations) and Karpathy splits (images with sentences)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from reverie.errors import InputError
from reverie.store.imports.samples import (
    Entry,
    NotTaken,
    Reading,
    Sample,
    called,
    image_file,
    keeps_alone,
    not_asked,
    text_of,
)
from reverie.store.sources import because, printable, read_json

NO_CAPTIONS = "an empty list of captions"


class _Note(NamedTuple):
    """One caption of the file, as it stands there."""

    image: Hashable  # what its captions share
    file: Any
    text: Any = None
    split: Any = None
    wrong: str | None = None
    image_id: Any = None  # what COCO calls the image


def read_coco(path: Path, reading: Reading) -> Iterator[Entry]:
    """One row a caption. One that is damaged or belongs to no image is dropped, images without captions are counted.

    Where images without text are wanted, one of which nothing is said is a row too, and its annotations, or list of sentences, may be missing.
    """
    data = read_json(path)
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise InputError(f"{path} is not a COCO caption file: it has no list of images")
    keeps = keeps_alone(reading)
    has_sentences = any(isinstance(image, dict) and isinstance(image.get("sentences"), list) for image in images)
    if has_notes := "annotations" in data or (keeps and not has_sentences):
        if reading.get("split") is not None:
            raise InputError(f"{path} has no splits; leave --split out")
        found = list(_annotations(path, images, data.get("annotations", []), keeps))
    else:
        found = list(_sentences(path, images, reading.get("split"), keeps))
    if not found and keeps and not reading.get("images"):
        raise InputError(
            f"{path} has no captions, and its images are read with --images FOLDER alone; give their folder"
        )
    limit = reading.get("captions_per_image")
    speaking = _speaking(found, limit) if keeps else set()
    used: Counter[Hashable] = Counter()
    for position, note in enumerate(found):
        used[note.image] += 1
        if limit is not None and used[note.image] > limit:
            yield NotTaken("captions beyond --captions-per-image")
            continue
        text, why = text_of(note.text)
        wrong = None if keeps and note.wrong == NO_CAPTIONS else note.wrong
        alone = keeps and not (text or why or wrong) and note.image not in speaking
        if alone:
            speaking.add(note.image)  # once
        here, problem = None, None
        if reading.get("images"):
            here, problem = (None, wrong) if wrong else image_file(reading, note.file)
        file = printable(note.file) if isinstance(note.file, str) else None
        split = printable(note.split) if isinstance(note.split, str) else None
        name = note.image_id if isinstance(note.image_id, int | str) else None
        yield Sample(
            position, text, None, here, problem, wrong or why, file=file, split=split, image_id=name, alone=alone
        )
    if not reading.get("images") and any(isinstance(note.file, str) for note in found):
        yield not_asked("file_name" if has_notes else "filename")
    if has_notes:
        silent = {
            number: image
            for number, image in enumerate(images)
            if isinstance(image, dict) and _key(image.get("id")) not in used
        }
        if keeps and reading.get("images"):
            yield from _silent(silent, reading)
        elif silent:
            yield NotTaken("an image without a caption", len(silent))
        if odd := sum(not isinstance(image, dict) for image in images):
            yield NotTaken("an entry among the images that is no object", odd)


def _speaking(found: list[_Note], limit: int | None) -> set[Hashable]:
    """Images with a text, among those of their captions that are read."""
    seen: Counter[Hashable] = Counter()
    speaking: set[Hashable] = set()
    for note in found:
        seen[note.image] += 1
        if (limit is None or seen[note.image] <= limit) and not note.wrong and text_of(note.text)[0]:
            speaking.add(note.image)
    return speaking


def _silent(images: dict[int, dict[str, Any]], reading: Reading) -> Iterator[Sample]:
    """Images of which no annotation says anything, by their place in the file."""
    for number, image in images.items():
        file, name = image.get("file_name"), image.get("id")
        here, problem = image_file(reading, file)
        known = printable(file) if isinstance(file, str) else None
        name = name if isinstance(name, int | str) else None
        yield Sample(f"image {number}", None, None, here, problem, file=known, image_id=name, alone=True)


def _annotations(path: Path, images: list[Any], notes: Any, keeps: bool) -> Iterator[_Note]:
    if not isinstance(notes, list):
        raise InputError(f"{path} is not a COCO caption file: its annotations are {called(notes)}, not a list")
    files: dict[Hashable, Any] = {}
    several: set[Hashable] = set()  # ids of more than one image: nothing says which one their captions are of
    for image in images:
        if isinstance(image, dict) and "id" in image:
            key, file = _key(image["id"]), image.get("file_name")
            if files.setdefault(key, file) != file:
                several.add(key)
    if notes and not any(isinstance(note, dict) and "caption" in note for note in notes):
        if keeps:  # boxes or classes of things, say
            return
        keys = sorted({printable(str(key)) for note in notes if isinstance(note, dict) for key in note})
        raise InputError(
            f"{path} is not a COCO caption file: no annotation has a caption (they have {', '.join(keys) or 'nothing'})"
        )
    for number, note in enumerate(notes):
        if not isinstance(note, dict):
            yield _Note(("annotation", number), None, wrong=f"the annotation is {called(note)}, not an object")
        elif "caption" not in note:
            yield _Note(("annotation", number), None, wrong="the annotation has no caption")
        elif "image_id" not in note:
            yield _Note(("annotation", number), None, wrong="the annotation has no image_id")
        elif (key := _key(note["image_id"])) not in files:
            said = str(key) if isinstance(key, (str, int, float)) else called(note["image_id"])
            wrong = because("its image is not among the images", f"image_id {printable(said[:40])}")
            yield _Note(key, None, note["caption"], wrong=wrong)
        elif key in several:
            wrong = because("several images have its image_id", printable(str(key)[:40]))
            yield _Note(key, None, note["caption"], wrong=wrong)
        else:
            yield _Note(key, files[key], note["caption"], image_id=note["image_id"])


def _sentences(path: Path, images: list[Any], split: str | None, keeps: bool) -> Iterator[_Note]:
    wanted = (split, "restval") if split == "train" else (split,)
    splits = (image.get("split") for image in images if isinstance(image, dict))
    known = {name for name in splits if isinstance(name, str)}
    if not any(isinstance(image, dict) and isinstance(image.get("sentences"), list) for image in images):
        raise InputError(f"{path} is not a COCO caption file: it has no annotations, and no image has sentences")
    if split is not None and not known & set(wanted):
        raise InputError(f"{path} has no split {split!r}; it has {', '.join(map(printable, sorted(known))) or 'none'}")
    for number, image in enumerate(images):
        said = image.get("sentences", [] if keeps else None) if isinstance(image, dict) else None
        if not isinstance(said, list):
            yield _Note(number, None, wrong="the image has no list of sentences")
            continue
        if split is not None and image.get("split") not in wanted:
            continue
        folder, name = image.get("filepath", ""), image.get("filename")
        file = str(Path(folder) / name) if isinstance(folder, str) and isinstance(name, str) else name
        for sentence in said:
            if isinstance(sentence, dict) and "raw" in sentence:
                yield _Note(number, file, sentence["raw"], image.get("split"), image_id=image.get("cocoid"))
            else:
                yield _Note(number, file, None, image.get("split"), "the sentence has no text under raw")
        if not said:
            yield _Note(number, file, None, image.get("split"), NO_CAPTIONS)


def _key(value: Any) -> Hashable:
    """An id as a key; what cannot be one is like no other."""
    return value if isinstance(value, (str, int, float)) else ("odd", id(value))
