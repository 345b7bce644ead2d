"""Exports: pairs of a table -> files that other tools read.

Every export is built in a folder beside its target and gets its name when it is complete. Pairs come unit by unit, sorted
by id within a unit, so equal pairs give equal files whoever made them in whatever order.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reverie.errors import BrokenImage, FolderInUse, InputError
from reverie.pairs import TOKEN_COLUMNS
from reverie.store import tables
from reverie.store.files import atomic_folder, file_name
from reverie.store.pictures import suffix
from reverie.store.sources import counted

OK = "status = 'ok'"
ROW_GROUP = 100  # rows that a reader of parquet has to hold at least
DECODED = 64  # image tokens that are decoded at once
MAX_NAME = 255  # bytes, of a file or folder in the usual file systems
Progress = Callable[[int, int], None]
"""Called with the pairs written so far and in all."""
Decode = Callable[[Sequence[Mapping[str, Any]]], list[bytes]]
"""Rows of image tokens -> their encoded pictures, in order; see models/token_pictures.py."""


def to_webdataset(
    path: str | Path,
    folder: str | Path,
    where: str = OK,
    *,
    per_shard: int = 10_000,
    columns: Sequence[str] | None = None,
    progress: Progress | None = None,
    decode: Decode | None = None,
    ids: bool = False,
) -> dict[str, int]:
    """Tar shards 00000.tar, ... with ID.jpg (or png, webp), ID.txt and ID.json a pair, for `webdataset` and open_clip.

    A pair without text has no ID.txt, so that open_clip passes it over.

    Args:
        where: Lance SQL filter. Pairs without an image are left out in any case.
        columns: what goes into the .json; all but the image when None.
        decode: makes pictures of image tokens; pairs that are tokens alone are left out without it.
        ids: image tokens as they are, in ID.npy, int32 (rows, columns), in place of pictures.
    Returns: number of pairs and shards, and where there are some, pairs without text. ``sizes.json`` tells open_clip the pairs a shard.
    Raises: InputError if nothing fits or the filter is wrong; FolderInUse if the folder holds something; StoreFull.
    """
    sizes: dict[str, int] = {}
    silent = 0
    with _whole(folder) as part:
        rows = enumerate(_pairs(path, where, columns, progress, decode, ids))
        for number, group in itertools.groupby(rows, lambda item: item[0] // per_shard):
            name = f"{number:05d}.tar"
            with tarfile.open(part / name, "w", format=tarfile.USTAR_FORMAT) as shard:
                for _, row in group:
                    image, key = row.pop("image"), file_name(row["pair_id"])
                    _add(shard, f"{key}.{'npy' if ids else _ending(image, row)}", image)
                    if text := row.get("text"):
                        _add(shard, f"{key}.txt", text.encode())
                    silent += not text
                    _add(shard, f"{key}.json", json.dumps(row, ensure_ascii=False, default=_plain).encode())
                    sizes[name] = sizes.get(name, 0) + 1
        (part / "sizes.json").write_text(json.dumps(sizes))
    return {"pairs": sum(sizes.values()), "shards": len(sizes)} | _told(silent)


def _told(silent: int) -> dict[str, int]:
    """The count of pairs without text, where there are some."""
    return {"pairs without text": silent} if silent else {}


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time and no owner: equal pairs give equal bytes
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))


def to_parquet(
    path: str | Path,
    folder: str | Path,
    where: str = OK,
    *,
    per_file: int = 10_000,
    columns: Sequence[str] | None = None,
    progress: Progress | None = None,
    decode: Decode | None = None,
    ids: bool = False,
) -> dict[str, int]:
    """Parquet files that ``datasets.load_dataset(folder)`` opens as split train, with ``image`` as an Image feature.

    Args:
        where: Lance SQL filter. Pairs that are tokens only are written too, with no image.
        columns: what to write beside pair_id, text and image; all when None.
        decode: makes the image of pairs that are tokens only.
        ids: no images; the ids are in the columns ``tokens`` and ``grid`` anyway.
    Returns: number of pairs and files, and where there are some, pairs without text. Raises: as ``to_webdataset``.
    """
    total = _count(path, where)
    num_files = -(-total // per_file)
    files = iter([f"train-{number:05d}-of-{num_files:05d}.parquet" for number in range(num_files)])
    done, silent, writer = 0, 0, None
    with _whole(folder) as part:
        (part / "data").mkdir()
        for rows in unit_tables(path, where, columns, decode):
            rows = _without_images(rows) if ids else rows
            silent += sum(not text for text in rows["text"].to_pylist())
            start = 0
            while start < rows.num_rows:
                piece = for_datasets(rows.slice(start, per_file - done % per_file))
                if done % per_file == 0:
                    writer = pq.ParquetWriter(part / "data" / next(files), piece.schema)
                assert writer is not None
                writer.write_table(piece, row_group_size=ROW_GROUP)
                start, done = start + piece.num_rows, done + piece.num_rows
                if done % per_file == 0 or done == total:
                    writer.close()
            if progress:
                progress(done, total)
    return {"pairs": done, "files": num_files} | _told(silent)


def for_datasets(rows: pa.Table) -> pa.Table:
    """Images as the struct of bytes and path that `datasets` stores, and its features in the metadata."""
    if "image" in rows.column_names:
        ids, images = rows["pair_id"].to_pylist(), rows["image"].to_pylist()
        names = [data and f"{name}.{suffix(data) or 'bin'}" for name, data in zip(ids, images, strict=True)]
        cells = [data and {"bytes": data, "path": name} for name, data in zip(names, images, strict=True)]
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = rows.set_column(rows.column_names.index("image"), "image", pa.array(cells, struct))
    features = {field.name: _feature(field.name, field.type) for field in rows.schema}
    return rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    if name == "image":
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature("", kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {"feature": _feature("", kind.value_type), "_type": "List"}
    names = {
        pa.float32(): "float32",
        pa.float64(): "float64",
        pa.float16(): "float16",
    }  # Arrow calls them float, double
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


def to_coco(
    path: str | Path,
    folder: str | Path,
    where: str = OK,
    *,
    progress: Progress | None = None,
    decode: Decode | None = None,
) -> dict[str, int]:
    """``captions.json`` in the form of COCO captions, and the images in ``images/``.

    Each pair is an image with one caption, or with none where it has no text; copies of one caption are several images. Ids are numbers
    from 1, as tools expect; ``pair_id`` stands beside them.
    Returns: number of pairs, and where there are some, pairs without text. Raises: as ``to_webdataset``.
    """
    done = silent = 0
    with _whole(folder) as part:
        (part / "images").mkdir()
        # Two lists grow at once and neither should be held in memory: the second waits in a file of its own.
        with (part / "captions.json").open("w+") as file, (part / "annotations").open("w+") as notes:
            file.write('{"info": {"description": "exported by reverie"}, "licenses": [], "images": [')
            columns = ["pair_id", "text", "width", "height"]
            for done, row in enumerate(_pairs(path, where, columns, progress, decode), start=1):
                name = f"{file_name(row['pair_id'])}.{_ending(row['image'], row)}"
                (part / "images" / name).write_bytes(row["image"])
                facts = {"id": done, "file_name": name, "width": row["width"], "height": row["height"]}
                comma = ",\n" if done > 1 else "\n"
                file.write(comma + json.dumps(facts | {"pair_id": row["pair_id"]}))
                if text := row["text"]:
                    comma = ",\n" if done - silent > 1 else "\n"
                    notes.write(comma + json.dumps({"id": done, "image_id": done, "caption": text}))
                silent += not text
            file.write('\n], "annotations": [')
            notes.seek(0)
            shutil.copyfileobj(notes, file)
            file.write("\n]}\n")
        (part / "annotations").unlink()
    return {"pairs": done} | _told(silent)


def to_folder(
    path: str | Path,
    folder: str | Path,
    where: str = OK,
    *,
    progress: Progress | None = None,
    decode: Decode | None = None,
    ids: bool = False,
) -> dict[str, int]:
    """One folder a class with its images, named by pair; with ``ids`` image tokens as ID.npy, int32 (rows, columns).

    Characters of class names that file systems dislike become ``_``.
    Returns: number of pairs and classes. Raises: as ``to_webdataset``; InputError if a pair has no class, or two classes would
        share a folder.
    """
    classless = f"{_shown(where, decode, ids)} and (label is null or label = '')"
    if number := tables.count(path, classless):
        raise InputError(
            f"{counted(number, 'pairs')} of {path} {'has' if number == 1 else 'have'} no class; add \"label != ''\" to the filter, or export as coco"
        )
    folders: dict[str, str] = {}
    done = 0
    with _whole(folder) as part:
        for row in _pairs(path, where, ["pair_id", "label"], progress, decode, ids):
            name = file_name(row["label"])
            if len(name.encode()) > MAX_NAME:
                raise InputError(
                    f"the class {row['label'][:40]!r}... is too long for the name of a folder ({len(name.encode())} bytes of "
                    f"{MAX_NAME}); leave it out with --where, or export as coco"
                )
            if folders.setdefault(name.casefold(), row["label"]) != row["label"]:
                raise InputError(f"classes {folders[name.casefold()]!r} and {row['label']!r} would share a folder")
            (part / name).mkdir(exist_ok=True)
            ending = "npy" if ids else _ending(row["image"], row)
            (part / name / f"{file_name(row['pair_id'])}.{ending}").write_bytes(row["image"])
            done += 1
    return {"pairs": done, "classes": len(folders)}


# Reading


def _pairs(
    path: str | Path,
    where: str,
    columns: Sequence[str] | None,
    progress: Progress | None,
    decode: Decode | None = None,
    ids: bool = False,
) -> Iterator[dict[str, Any]]:
    """Rows with an image as dictionaries, in an order that does not depend on who committed first.

    Args: ids: image tokens in place of images, as the bytes of a .npy file.
    """
    where = _shown(where, decode, ids)
    total, done = _count(path, where), 0
    extra = [*columns, "tokens", "grid"] if ids and columns is not None else columns
    for rows in unit_tables(path, where, extra, None if ids else decode):
        for row in rows.to_pylist():
            if ids:
                row["image"] = _npy(row)
                if columns is not None:
                    row = {name: value for name, value in row.items() if name not in ("tokens", "grid")}
            yield row
        done += rows.num_rows
        if progress:
            progress(done, total)


def _shown(where: str, decode: Decode | None, ids: bool) -> str:
    """Of the pairs that fit a filter those that have what is to be written."""
    has = (
        "tokens is not null" if ids else "(image is not null or tokens is not null)" if decode else "image is not null"
    )
    return f"{tables.whole_filter(where)} and {has}"


def _npy(row: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(row["tokens"], np.int32).reshape(row["grid"]), allow_pickle=False)
    return buffer.getvalue()


def _without_images(rows: pa.Table) -> pa.Table:
    place = rows.column_names.index("image")
    return rows.set_column(place, "image", pa.nulls(rows.num_rows, pa.large_binary()))


def _with_pictures(rows: pa.Table, decode: Decode) -> pa.Table:
    """With the decoded picture where there are tokens alone."""
    images = rows["image"].to_pylist()
    todo = [n for n, tokens in enumerate(rows["tokens"].to_pylist()) if tokens is not None and images[n] is None]
    if not todo:
        return rows
    told = rows.select([name for name in ("pair_id", *TOKEN_COLUMNS) if name in rows.column_names]).to_pylist()
    for start in range(0, len(todo), DECODED):
        some = todo[start : start + DECODED]
        for number, image in zip(some, decode([{"codebook": None, **told[n]} for n in some]), strict=True):
            images[number] = image
    return rows.set_column(rows.column_names.index("image"), "image", pa.array(images, pa.large_binary()))


def _count(path: str | Path, where: str) -> int:
    if total := tables.count(path, where):
        return total
    raise InputError(f"no pair of {path} fits {where!r}; nothing was written")


def unit_tables(
    path: str | Path, where: str, columns: Sequence[str] | None, decode: Decode | None = None
) -> Iterator[pa.Table]:
    known = tables.column_names(path)
    if unknown := [name for name in columns or () if name not in known]:
        raise InputError(f"{path} has no column {', '.join(unknown)}; it has {', '.join(known)}")
    names = [name for name in known if columns is None or name in {"pair_id", "text", "image", *columns}]
    needed = [name for name in TOKEN_COLUMNS if decode and name in known and name not in names]
    for unit in sorted(tables.done_units(path)):
        rows = tables.read_unit(path, unit, [*names, *needed], where=where)
        if rows.num_rows:
            rows = rows.take(pc.sort_indices(rows["pair_id"]))
            yield _with_pictures(rows, decode).select(names) if decode else rows


# Writing


@contextmanager
def _whole(folder: str | Path) -> Iterator[Path]:
    """A folder to build in; it takes the place of ``folder`` at the end, or disappears."""
    target = Path(folder).resolve()
    with ExitStack() as stack:
        try:
            if (target.exists() and not target.is_dir()) or (target.is_dir() and any(target.iterdir())):
                raise FolderInUse(f"{folder} holds something already; give a new folder")
            part = stack.enter_context(atomic_folder(target, durable=False))
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}; give another folder") from error
        yield part


def _ending(data: bytes, row: dict[str, Any]) -> str:
    if ending := suffix(data):
        return ending
    raise BrokenImage(f"pair {row['pair_id']}: neither JPEG, PNG nor WebP")


def _plain(value: Any) -> Any:
    """What JSON does not know: bytes as hex, anything else (a time, say) in words."""
    return value.hex() if isinstance(value, bytes) else str(value)
