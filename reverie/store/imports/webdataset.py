"""Reader of WebDataset shards: tars whose members share a name up to the first dot, sample by sample.

Each shard is read as a stream twice, and nothing is unpacked: first the names alone, so that a shard that is damaged, cut short
or out of order is refused before anything of it is taken, then the content.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import itertools
import json
import lzma
import struct
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from reverie.errors import InputError
from reverie.store.imports.samples import (
    Columns,
    Entry,
    NotAsked,
    NotTaken,
    Reading,
    Sample,
    columns_of,
    from_row,
    keeps_alone,
    refused,
)
from reverie.store.pictures import PICTURE_SUFFIXES
from reverie.store.sources import DAMAGED, GZIP, because, check_file, check_swelling, nested, printable, unpacked_limit

MAX_BYTES = 256 << 20  # of one member that is read
MAX_MEMBER = 1 << 40  # of one that is skipped; more is a damaged header
MAX_NAME = 1 << 20  # of a header that tells a long name; tarfile reads it as a whole
PACKERS: dict[bytes, Any] = {GZIP: gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}  # by what they begin with
LONG_NAMES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
SHARDS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
TEXTS = ("txt", "caption", "cls", "json")


class _Group(NamedTuple):
    """The members of one sample: number in the shard -> ending."""

    name: str
    endings: dict[int, str]
    wrong: str | None = None  # why it cannot be used


class _Unusable(NamedTuple):
    reason: str


class _Member(tarfile.TarInfo):
    """A header that is damaged or missing is an error. ``tarfile`` itself takes both for the end, and the rest would be lost."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> _Member:
        try:
            found = super().fromtarfile(tarfile)
        except EndMark:
            tarfile.is_ended = True
            raise
        except Empty as error:
            if getattr(tarfile, "is_ended", False):
                raise
            raise ReadError("unexpected end of data: the mark at its end is missing") from error
        except Damaged as error:
            raise ReadError(f"a damaged header ({error})") from error
        if not 0 <= found.size <= MAX_MEMBER:
            raise ReadError("a damaged header (impossible size)")
        tarfile.is_ended = False  # a second tar was joined to the first
        return found

    def _proc_member(self, tarfile: Any) -> Any:
        if self.type in LONG_NAMES and not 0 <= self.size <= MAX_NAME:
            raise ReadError("a damaged header (impossible length of a name)")
        return super()._proc_member(tarfile)  # type: ignore[misc]


# Their names, while a parameter above is called tarfile, as in the class that it refines.
EndMark, Empty, Damaged, ReadError = (
    tarfile.EOFHeaderError,  # type: ignore[attr-defined]
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
    tarfile.HeaderError,
    tarfile.ReadError,
)


def is_shard(path: Path) -> bool:
    """Whether a file is a shard by its name."""
    return path.name.lower().endswith(SHARDS) and not path.name.startswith(".")


def read_webdataset(path: Path, reading: Reading) -> Iterator[Entry]:
    """All shards of a folder or a pattern, or one. Raises InputError for a shard that is not complete."""
    if path.is_dir():
        found = sorted(item for item in path.iterdir() if not item.is_dir())
        shards = [item for item in found if is_shard(item)]
        beside = Counter(f"{item.suffix or 'other'} files beside the shards" for item in found if item not in shards)
        beside["folders beside the shards"] = sum(item.is_dir() and item.name[:1] != "." for item in path.iterdir())
        yield from (NotTaken(printable(reason), number) for reason, number in beside.items() if number)
    else:
        shards = [path] if path.exists() else sorted(path.parent.glob(path.name))
    if not shards:
        raise InputError(f"{path} holds no .tar files")
    position = itertools.count()
    first: str | None = None
    known = says = False
    waiting: list[Sample] = []  # unusable samples before the first usable one
    for shard in shards:
        for name, parts in _groups(shard):
            if isinstance(parts, NotTaken):
                yield parts
                continue
            number = next(position)
            found_in = parts if isinstance(parts, _Unusable) else _from_parts(number, parts, reading, shard)
            if not isinstance(found_in, _Unusable):
                yield from waiting
                yield from found_in
                waiting, known = [], True
                says = says or any(isinstance(entry, Sample) and bool(entry.text) for entry in found_in)
                continue
            # One sample without a caption is dropped; none with one means that the columns are wrong.
            first = first or f"{shard}: sample {name}: {found_in.reason}"
            has_image = isinstance(parts, dict) and any(_is_picture(ending) for ending in parts)
            row = refused(number, found_in.reason, Columns(None, None, "image" if has_image else None))
            if known:
                yield row
            else:
                waiting.append(row)
    if first and not known:
        has_images = any(row.problem is not None for row in waiting)
        raise InputError(first + "; take the images alone with --without-text keep" * has_images)
    if keeps_alone(reading) and (column := reading.get("text_column")) and not says:
        yield NotAsked(f"no sample has a text under {printable(column)}, which --text-column names")


def _groups(shard: Path) -> Iterator[tuple[str, dict[str, bytes | str] | _Unusable | NotTaken]]:
    """Samples of one shard, by name, as ending -> content; a str is the reason why a member was not read."""
    groups, beside = _names(shard)
    yield from (("", NotTaken(reason, number)) for reason, number in beside.items())
    left = iter(groups)
    with _opened(shard) as tar:
        group = next(left, None)
        parts: dict[str, bytes | str] = {}
        for number, member in enumerate(_members(shard, tar)):
            if group is None or number not in group.endings:
                continue
            parts[group.endings[number]] = _content(tar, member)
            if number == max(group.endings):
                yield group.name, _Unusable(group.wrong) if group.wrong else parts
                group, parts = next(left, None), {}


@contextmanager
def _opened(shard: Path) -> Iterator[tarfile.TarFile]:
    """A shard as a stream, through zero blocks, behind which another tar may stand."""
    check_file(shard)
    try:
        with (
            _unpacked(shard) as file,
            tarfile.open(fileobj=file, mode="r|", tarinfo=_Member, ignore_zeros=True, bufsize=1 << 20) as tar,
        ):
            yield tar
    # Others than TarError come from the headers of gzip, which tarfile reads without a look at their length.
    except (tarfile.TarError, struct.error, ValueError, TypeError, IndexError, OverflowError, *DAMAGED) as error:
        raise InputError(f"cannot read {shard} as tar: {getattr(error, 'strerror', None) or error}") from error


def _unpacked(shard: Path) -> IO[bytes]:
    """What a shard holds, a piece at a time: ``tarfile`` itself unpacks all that a piece swells to."""
    with shard.open("rb") as file:
        head = file.read(6)
    unpack: Any = next((unpack for mark, unpack in PACKERS.items() if head.startswith(mark)), open)
    opened: IO[bytes] = unpack(shard, "rb")
    return opened


def _members(shard: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members, before what they hold is unpacked. Raises InputError for a packed shard that swells as no pictures or texts do."""
    limit = unpacked_limit(shard)
    for member in tar:
        if not member.issparse():
            check_swelling(shard, member.offset_data + member.size, limit)
        yield member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | str:
    if member.islnk() or member.issym():
        return "a link, which is not followed"
    if member.issparse():
        return "a sparse file, which is not read"
    if not member.isfile():
        return "not a file"
    if member.size > MAX_BYTES:
        return because("too large", f"{member.size:,} bytes")
    file = tar.extractfile(member)
    return file.read() if file else "not a file"


def _names(shard: Path) -> tuple[list[_Group], Counter[str]]:
    """How the members of a shard make samples, and how many make none, by the reason. Raises InputError for one out of order."""
    beside: Counter[str] = Counter()
    groups: list[_Group] = []
    seen: set[tuple[str, str]] = set()
    key: tuple[str, str] | None = None
    run: list[tuple[int, str]] = []  # the members of one key: number and name

    def finish() -> None:
        if key is not None:
            groups.extend(_samples_of(shard, key[1], run))

    with _opened(shard) as tar:
        for number, member in enumerate(_members(shard, tar)):
            tar.members = []  # type: ignore[attr-defined]  # or it would hold all headers
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            stem, dot, _ = name.partition(".")
            if member.isdir():
                continue
            if "__MACOSX" in folder.split("/") or not stem:
                beside["hidden members"] += 1
            elif not dot:
                beside["members without an ending"] += 1
            else:
                if (folder, stem) != key:
                    finish()
                    key, run = (folder, stem), []
                    if key in seen:
                        raise InputError(
                            f"{shard}: the members of sample {printable(stem)!r} do not stand together; sort the members by "
                            "name, for example with: tar --sort=name"
                        )
                    seen.add(key)
                run.append((number, name))
    finish()
    return groups, beside


def _samples_of(shard: Path, stem: str, run: list[tuple[int, str]]) -> Iterator[_Group]:
    """What shares a name up to its first dot is one sample, but for names that hold dots themselves.

    Those show by this: no member is called by the first part alone, and up to its last dot each name has a text of its own.
    """
    endings = {number: name.partition(".")[2].lower() for number, name in run}
    if all("." in ending for ending in endings.values()):
        own: dict[str, dict[int, str]] = {}
        for number, name in run:
            inner, _, ending = name.rpartition(".")
            own.setdefault(inner, {})[number] = ending.lower()
        if all(any(ending in TEXTS for ending in parts.values()) for parts in own.values()):
            for inner, parts in own.items():
                if max(parts) - min(parts) >= len(parts):
                    raise InputError(
                        f"{shard}: the members of sample {printable(inner)!r} do not stand together; sort the members by name"
                    )
                yield _group(inner, parts)
            return
    yield _group(stem, endings)


def _group(name: str, endings: dict[int, str]) -> _Group:
    twice = sorted(ending for ending, number in Counter(endings.values()).items() if number > 1)
    wrong = f"it has several members that end in .{printable(twice[0])}" if twice else None
    return _Group(printable(name), endings, wrong)


def _is_picture(ending: str) -> bool:
    return f".{ending.rpartition('.')[2]}" in PICTURE_SUFFIXES


def _from_parts(position: int, parts: dict[str, bytes | str], reading: Reading, shard: Path) -> list[Entry] | _Unusable:
    """A WebDataset sample: caption in .txt or .json, class in .cls or .json, image under its usual ending.

    Returns: its samples, or why it has none.
    """
    row: dict[str, Any] = {}
    wrong: str | None = None
    given = {reading.get("text_column"), reading.get("label_column")} - {None}
    keeps = keeps_alone(reading)
    read: set[str] = set()
    for ending, content in parts.items():
        if ending not in TEXTS and ending not in given:
            continue
        read.add(ending)
        if isinstance(content, str):
            wrong = wrong or f".{ending} is {content}"
        elif ending == "json":
            try:
                facts = json.loads(content)
            except (ValueError, RecursionError) as error:
                return _Unusable(because(".json is not JSON", nested(error)))
            # What it says of an image is no image: names in an archive never reach the disk.
            if isinstance(facts, dict):
                row = {**{key: value for key, value in facts.items() if key != "image"}, **row}
        else:
            try:
                row["txt" if ending == "caption" else ending] = content.decode("utf-8-sig")
            except UnicodeDecodeError:
                wrong = wrong or because("characters lost in decoding", f".{ending} is not UTF-8 text")
    picture, problem = _picture_of(parts, reading.get("image_column"))
    if wrong:
        image = parts.get(picture) if picture else None
        return [Sample(position, None, None, image if isinstance(image, bytes) else None, problem, wrong)]
    asked: Reading = {**reading, "image_column": None}
    if keeps and (column := reading.get("text_column")):
        row.setdefault(column, None)  # an image of which nothing is said lacks it
    try:
        columns = columns_of(shard, list(row), asked, guess_image=False)
    except InputError:
        columns = Columns(None, None, None)
    if columns.text is None and columns.label is None and not (keeps and (picture is not None or problem)):
        told = printable(", ".join(row))
        return _Unusable(
            f"no column of captions or classes{f' is among {told}; say with --text-column which it is' * bool(told)}"
        )
    if picture is not None:
        read.add(picture)
        content = parts[picture]
        problem = f"the image is {content}" if isinstance(content, str) else None
        row["image"] = content
    image_column = "image" if picture is not None and problem is None else None
    found = list(from_row(position, row, columns._replace(image=image_column, others=()), reading, shard))
    if problem:
        found = [dataclasses.replace(item, problem=problem) if isinstance(item, Sample) else item for item in found]
    rest = Counter(f"members that are not read: .{printable(ending)}" for ending in parts if ending not in read)
    if problem and picture is None:  # its pictures are told of in the row
        rest = Counter({reason: number for reason, number in rest.items() if not _is_picture(reason)})
    return [*found, *(NotTaken(reason, number) for reason, number in rest.items())]


def _picture_of(parts: dict[str, bytes | str], given: str | None) -> tuple[str | None, str | None]:
    """The ending of the picture of a sample, or None and perhaps the reason why none can be named."""
    if given is not None:
        return (given, None) if given in parts else (None, f"no member that ends in .{given}")
    pictures = [ending for ending in parts if _is_picture(ending)]
    plain = [ending for ending in pictures if "." not in ending]
    if len(plain) == 1:
        return plain[0], None
    if not pictures:
        return None, None
    several = printable(", ".join(f".{ending}" for ending in pictures))
    return None, f"its pictures end in {several}; say with --image-column which one it is, without the first dot"
