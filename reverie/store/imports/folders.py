"""Readers of image folders: one folder a class, or pictures beside a metadata file as Hugging Face's imagefolder has it; or pictures, alone or each
beside a text file of its name, as trainers of LoRA adapters and img2dataset have them.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from reverie.errors import InputError
from reverie.store.imports.lines import read_csv, read_jsonl
from reverie.store.imports.parquet import read_parquet
from reverie.store.imports.samples import (
    Entry,
    NotAsked,
    NotTaken,
    Reading,
    Sample,
    from_template,
    keeps_alone,
    label_of,
    text_of,
)
from reverie.store.pictures import PICTURE_SUFFIXES, looks_like_picture
from reverie.store.sources import because, printable, what_is

METADATA = {"metadata.csv": read_csv, "metadata.jsonl": read_jsonl, "metadata.parquet": read_parquet}
SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")
# Endings of files with the caption of the picture beside them, in any case; the first that holds one counts.
TEXTS = (".txt", ".caption")
# Share of pictures with a text file from which nobody knows whether it or the folder says what they show.
NEARLY_ALL = 0.9
LONGEST_TEXT = 64_000  # bytes of one
LITTER = ("__MACOSX",)  # what packers leave in a folder


def read_folder(path: Path, reading: Reading) -> Iterator[Entry]:
    """Every file below the folder: a sample if it is a picture with a class or a caption, else the reason why it is not taken."""
    if not path.is_dir():
        raise InputError(f"{path} is not a folder")
    root = _split_of(path, reading.get("split"))
    if metadata := metadata_files(root):
        yield from _with_metadata(root, metadata, reading)
    else:
        yield from _classes(root, reading)


def read_pictures(path: Path, reading: Reading) -> Iterator[Entry]:
    """Every picture below the folder, at any depth, in order of name: names of folders are no classes, and what it shows says a text file
    of its name beside it, if there is one.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder")
    files, others = _pictures(path, TEXTS)
    drops, texts = reading.get("without_text") == "drop", _texts_of(files)
    if drops and not texts:
        raise InputError(f"{path} is read as pictures alone, so --without-text drop would leave nothing of it")
    root = path.resolve()
    for position, file in enumerate(files):
        text, wrong = _first_text(texts.get(file, ()), root)
        place = printable(str(file.relative_to(path)))
        yield Sample(position, text, image=file, refused=wrong, file=place, alone=not (text or wrong or drops))
    yield from others
    metadata = (file for file in _all_files(path) if file.name in METADATA and not _hidden(file.relative_to(path)))
    yield from _not_taken(metadata, "metadata, as pictures alone are read")


def captioned(path: Path) -> bool:
    """Whether nearly all pictures of what could be class folders have a text file of their name beside them, and metadata names none."""
    pictures = with_text = 0
    for folder, folders, files in os.walk(path):
        here = Path(folder)
        folders[:] = [
            name for name in folders if not _hidden(Path(name)) and (here != path or may_be_class(here / name))
        ]
        if any(name in METADATA for name in files):
            return False
        if here == path:
            continue
        names = [Path(name) for name in files if not name.startswith(".")]
        stems = {file.stem for file in names if file.suffix.lower() in TEXTS}
        own = [file.stem for file in names if file.suffix.lower() in PICTURE_SUFFIXES]
        pictures += len(own)
        with_text += sum(stem in stems for stem in own)
    return with_text > 0 and with_text >= NEARLY_ALL * pictures


def may_be_class(item: Path) -> bool:
    """Whether this could be the folder of a class: one whose name has the ending of a picture or of its text stands for a file."""
    return item.is_dir() and not _hidden(Path(item.name)) and item.suffix.lower() not in (*PICTURE_SUFFIXES, *TEXTS)


def _texts_of(pictures: Iterable[Path]) -> Mapping[Path, Sequence[Path]]:
    """The files that may hold the caption of a picture, in the order of TEXTS, of each picture that has some."""
    of: dict[Path, dict[Path, list[Path]]] = {}  # by folder, and by path without the ending
    found = dict[Path, Sequence[Path]]()
    for picture in pictures:
        if (folder := picture.parent) not in of:
            of[folder] = defaultdict(list)
            for file in sorted(folder.iterdir()):
                if file.suffix.lower() in TEXTS:
                    of[folder][file.with_suffix("")].append(file)
        if files := of[folder].get(picture.with_suffix("")):
            found[picture] = sorted(
                files, key=lambda file: (TEXTS.index(file.suffix.lower()), file.suffix not in TEXTS)
            )
    return found


def _first_text(files: Iterable[Path], root: Path) -> tuple[str | None, str | None]:
    """The caption in the first of these files that is not blank, or why it is none."""
    read = (_text_in(file, root) for file in files)
    return next((found for found in read if any(found)), (None, None))


def _text_in(file: Path, root: Path) -> tuple[str | None, str | None]:
    """The caption that a file holds, or why it is none. A link out of the folder would make a caption of any file of this machine."""
    if found := what_is(file):
        cannot = found.replace("unreadable", "cannot read its text", 1)
        return None, because(cannot if cannot != found else f"{found} in place of a text file", printable(file.name))
    if file.is_symlink() and not file.resolve().is_relative_to(root):
        return None, because("a link out of the folder in place of a text file", printable(file.name))
    try:
        with file.open("rb") as opened:
            data = opened.read(LONGEST_TEXT + 1)
    except OSError as error:
        return None, because(f"cannot read its text ({error.strerror})", printable(file.name))
    if len(data) > LONGEST_TEXT:
        return None, because(f"its text file has more than {LONGEST_TEXT:,} bytes", printable(file.name))
    try:
        return text_of(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, because("its text is not UTF-8", printable(file.name))


def metadata_files(path: Path) -> list[Path]:
    """The metadata files of an imagefolder. Raises InputError for a folder with two."""
    found = sorted(file for name in METADATA for file in path.rglob(name) if not _hidden(file.relative_to(path)))
    for first, second in itertools.pairwise(found):
        if first.parent == second.parent:
            raise InputError(f"{first.parent} has {first.name} and {second.name}; keep one of them")
    return found


def _classes(path: Path, reading: Reading) -> Iterator[Entry]:
    """One folder a class, images inside, at any depth. The position is the place in the order of class and file names."""
    inside = sorted(path.iterdir())
    classes = [item for item in inside if may_be_class(item)]
    if not classes:
        alone = ", or --kind pictures for pictures of which nothing is said" * any(map(_is_picture, inside))
        raise InputError(
            f"{path} holds no class folders; expected {path.name}/CLASS/IMAGE.jpg{alone}{_instead(inside)}"
        )
    if keeps_alone(reading):
        raise InputError(
            f"the pictures of {path} have the names of their folders for classes, so none is without text; to take them alone, whatever "
            "their folders are called, give --kind pictures"
        )
    names = [_class_name(item.name) for item in classes]
    if twice := [name for name, number in Counter(name.casefold() for name in names).items() if number > 1]:
        same = ", ".join(item.name for item, name in zip(classes, names, strict=True) if name.casefold() == twice[0])
        raise InputError(f"{path} has several folders for one class: {same}")
    if len(classes) == 1 and (inner := _classes_below(classes[0])):
        raise InputError(
            f"{path} holds one folder, {classes[0].name}, which holds no images but folders of images "
            f"({', '.join(printable(item.name) for item in inner[:3])}{', ...' * (len(inner) > 3)}); if these are the classes, give "
            f"{printable(str(inner[0].parent))}; if {printable(classes[0].name)} is the class, put its images into it"
        )
    files, others = {}, list[NotTaken]()
    for name, item in zip(names, classes, strict=True):
        files[name], passed = _pictures(item)
        others += passed
    if empty := [printable(name) for name in names if not files[name]]:
        raise InputError(
            f"{path}: no images for class {', '.join(empty)}; each of its folders counts as a class, so fill it or take it out"
        )
    position = itertools.count()
    for name in names:
        label, wrong = label_of(name)
        for file in files[name]:
            place = printable(str(file.relative_to(path)))
            yield Sample(next(position), from_template(reading, label), label, file, refused=wrong, file=place)
    yield from others
    loose = [item for item in inside if item not in classes]
    for item in loose:
        if item.is_dir():
            is_hidden = _hidden(Path(item.name))
            yield from _not_taken(
                _all_files(item), "hidden" if is_hidden else "files in a folder that is named as a file"
            )
        else:
            yield NotTaken("hidden" if _hidden(Path(item.name)) else "beside the class folders")
    if any(not item.is_dir() and _is_picture(item) for item in loose):
        yield NotAsked(
            "names of folders are taken for classes: if these are none, take all pictures, at any depth, with --kind pictures"
        )
    elif _texts_of(itertools.chain.from_iterable(files.values())):
        yield NotAsked(
            "text files of the same name lie beside pictures: if they are captions, take them in place of the names of folders with --kind pictures"
        )


def _with_metadata(path: Path, metadata: list[Path], reading: Reading) -> Iterator[Entry]:
    """The rows of each metadata file, whose file names are relative to its folder."""
    named: set[Path] = set()
    for file in metadata:
        own: Reading = {**reading, "images": file.parent, "split": None}
        place = file.parent.relative_to(path)
        for entry in METADATA[file.name](file, own):
            if isinstance(entry, Sample):
                if isinstance(entry.image, Path):
                    named.add(entry.image)
                    entry = dataclasses.replace(entry, file=printable(str(entry.image.relative_to(path))))
                if place.parts:
                    entry = dataclasses.replace(entry, position=printable(f"{place}/{entry.position}"))
            yield entry
    pictures, others = _pictures(path)
    yield from others
    left = [picture for picture in pictures if picture not in named]
    if left and not keeps_alone(reading):
        yield NotTaken("not named in the metadata", len(left))
        return
    for picture in left:
        inside = printable(str(picture.relative_to(path)))
        yield Sample(f"not named: {inside}", None, image=picture, file=inside, alone=True)


def _classes_below(path: Path) -> list[Path]:
    """Several folders with images in a folder without, or in the only folder in it: classes that lie deeper than they should."""
    inside = sorted(path.iterdir()) if os.access(path, os.R_OK | os.X_OK) else []
    if any(not item.is_dir() and _is_picture(item) for item in inside):
        return []
    inner = [item for item in inside if may_be_class(item)]
    if len(inner) == 1:
        return [] if inner[0].is_symlink() else _classes_below(inner[0])
    return inner if len([item for item in inner if any(map(_is_picture, _all_files(item)))]) > 1 else []


def _is_picture(file: Path) -> bool:
    ending = file.suffix.lower()
    return not _hidden(Path(file.name)) and (ending in PICTURE_SUFFIXES or (not ending and looks_like_picture(file)))


def _pictures(path: Path, beside: Sequence[str] = ()) -> tuple[list[Path], list[NotTaken]]:
    """Pictures at any depth in order of name, and what else there is. One without an ending counts by its first bytes.

    Args: beside: endings of files that go with a picture of their name.
    """
    found: list[Path] = []
    passed: Counter[str] = Counter()
    for folder, folders, files in os.walk(path):
        here = Path(folder)
        for name in list(folders):
            if _hidden(Path(name)):
                folders.remove(name)
                passed["hidden"] += sum(1 for _ in _all_files(here / name))
            elif Path(name).suffix.lower() in PICTURE_SUFFIXES:
                found.append(here / name)  # as a row that failed, beside what it holds
            elif (here / name).is_symlink():
                passed["a link to a folder, which is not followed"] += 1
        here_found = [here / name for name in files if not _hidden(Path(name)) and _is_picture(here / name)]
        found += here_found
        taken, stems = set(here_found), {file.with_suffix("") for file in here_found}
        for name in files:
            file, ending = here / name, Path(name).suffix.lower()
            if file in taken or (ending in beside and file.with_suffix("") in stems):
                continue
            if _hidden(Path(name)):
                passed["hidden"] += 1
            elif name not in METADATA:
                passed[printable(f"{ending} files" if ending else "files without an ending")] += 1
    return sorted(found), [NotTaken(reason, number) for reason, number in passed.items()]


def _split_of(path: Path, split: str | None) -> Path:
    """The folder of a split, where the folder holds some. Raises InputError where it is not clear which one is meant."""
    folders = sorted(item for item in path.iterdir() if item.is_dir() and not _hidden(Path(item.name)))
    splits = {item.name: item for item in folders if item.name.lower() in SPLITS}
    if len(folders) == 1 and not splits and not metadata_files(folders[0]):  # such as data/train and data/test
        inner = {item.name.lower() for item in folders[0].iterdir() if item.is_dir() and not _hidden(Path(item.name))}
        if len(inner) > 1 and inner <= set(SPLITS):
            return _split_of(folders[0], split)
    if split is not None:
        found = {**splits, **{name.lower(): item for name, item in splits.items()}}
        if split not in found and split.lower() not in found:
            raise InputError(f"{path} has no split {split!r}; it has {', '.join(splits) or 'none'}")
        return found.get(split) or found[split.lower()]
    if any((path / name).is_file() for name in METADATA):
        return path
    # A class may be called train: a folder of this name is a split if it holds classes or metadata itself.
    full = [item for item in splits.values() if any(inner.is_dir() for inner in item.iterdir()) or metadata_files(item)]
    if not splits or (len(splits) < len(folders) and not full):
        return path
    if len(full) == len(folders) == 1:
        return full[0]
    named = ", ".join(splits)
    if full:
        raise InputError(
            f"{path} has several splits ({named}); choose one with --split, or name its own folder or file"
        )
    raise InputError(
        f"{path} holds no classes but what looks like splits ({named}), and no classes in them; expected "
        f"{path.name}/{next(iter(splits))}/CLASS/IMAGE.jpg, or other names if these are classes"
    )


def _instead(inside: Iterable[Path]) -> str:
    files = [item for item in inside if item.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".txt", ".gz")]
    return f"; to import a file in it, name the file: {printable(str(files[0]))}" if files else ""


def _all_files(path: Path) -> Iterator[Path]:
    return (Path(folder) / name for folder, _, files in os.walk(path) for name in files)


def _not_taken(files: Iterable[Path], reason: str) -> Iterator[NotTaken]:
    if number := sum(1 for _ in files):
        yield NotTaken(reason, number)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in LITTER for part in path.parts)


def _class_name(folder: str) -> str:
    return " ".join(folder.replace("_", " ").split())
