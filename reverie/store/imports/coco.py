"""Reader of COCO captions (images and annotations) and Karpathy splits (images with sentences)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from reverie.errors import InputError
from reverie.store.imports.samples import Entry, NotTaken, Reading, Sample, called, image_file, not_asked, text_of
from reverie.store.sources import because, printable, read_json


class _Note(NamedTuple):
    """One caption of the file, as it stands there."""

    image: Hashable  # what its captions share
    file: Any
    text: Any = None
    split: Any = None
    wrong: str | None = None
    image_id: Any = None  # what COCO calls the image


def read_coco(path: Path, reading: Reading) -> Iterator[Entry]:
    """One row a caption. One that is damaged or belongs to no image is dropped, images without captions are counted."""
    data = read_json(path)
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise InputError(f"{path} is not a COCO caption file: it has no list of images")
    if "annotations" in data:
        if reading.get("split") is not None:
            raise InputError(f"{path} has no splits; leave --split out")
        found = list(_annotations(path, images, data["annotations"]))
    else:
        found = list(_sentences(path, images, reading.get("split")))
    used: Counter[Hashable] = Counter()
    limit = reading.get("captions_per_image")
    for position, note in enumerate(found):
        used[note.image] += 1
        if limit is not None and used[note.image] > limit:
            yield NotTaken("captions beyond --captions-per-image")
            continue
        here, problem = None, None
        if reading.get("images"):
            here, problem = (None, note.wrong) if note.wrong else image_file(reading, note.file)
        text, why = text_of(note.text)
        file = printable(note.file) if isinstance(note.file, str) else None
        split = printable(note.split) if isinstance(note.split, str) else None
        name = note.image_id if isinstance(note.image_id, int | str) else None
        yield Sample(position, text, None, here, problem, note.wrong or why, file=file, split=split, image_id=name)
    if not reading.get("images") and any(isinstance(note.file, str) for note in found):
        yield not_asked("file_name" if "annotations" in data else "filename")
    if "annotations" in data:
        if silent := sum(_key(image.get("id")) not in used for image in images if isinstance(image, dict)):
            yield NotTaken("an image without a caption", silent)
        if odd := sum(not isinstance(image, dict) for image in images):
            yield NotTaken("an entry among the images that is no object", odd)


def _annotations(path: Path, images: list[Any], notes: Any) -> Iterator[_Note]:
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


def _sentences(path: Path, images: list[Any], split: str | None) -> Iterator[_Note]:
    wanted = (split, "restval") if split == "train" else (split,)
    splits = (image.get("split") for image in images if isinstance(image, dict))
    known = {name for name in splits if isinstance(name, str)}
    if not any(isinstance(image, dict) and isinstance(image.get("sentences"), list) for image in images):
        raise InputError(f"{path} is not a COCO caption file: it has no annotations, and no image has sentences")
    if split is not None and not known & set(wanted):
        raise InputError(f"{path} has no split {split!r}; it has {', '.join(map(printable, sorted(known))) or 'none'}")
    for number, image in enumerate(images):
        if not isinstance(image, dict) or not isinstance(image.get("sentences"), list):
            yield _Note(number, None, wrong="the image has no list of sentences")
            continue
        if split is not None and image.get("split") not in wanted:
            continue
        folder, name = image.get("filepath", ""), image.get("filename")
        file = str(Path(folder) / name) if isinstance(folder, str) and isinstance(name, str) else name
        for sentence in image["sentences"]:
            if isinstance(sentence, dict) and "raw" in sentence:
                yield _Note(number, file, sentence["raw"], image.get("split"), image_id=image.get("cocoid"))
            else:
                yield _Note(number, file, None, image.get("split"), "the sentence has no text under raw")
        if not image["sentences"]:
            yield _Note(number, file, None, image.get("split"), "an empty list of captions")


def _key(value: Any) -> Hashable:
    """An id as a key; what cannot be one is like no other."""
    return value if isinstance(value, (str, int, float)) else ("odd", id(value))
