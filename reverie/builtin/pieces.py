"""Splits model folders into a few small files and joins them again, to copy them from the machine that trained them.

python -m reverie.builtin.pieces runs/builtin/out reverie/models/builtin
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path, PurePosixPath

import tyro

from reverie.builtin import command
from reverie.errors import InputError
from reverie.store.files import atomic_file
from reverie.store.sources import DAMAGED

PIECE = 15 * 2**20  # bytes
MAX_PIECES = 8  # pieces in a folder, of all models together
MAX_MODEL = 2**30  # bytes of one model once unpacked


def pack(model: Path, out: Path, name: str) -> None:
    """Write a model folder as ``out/NAME.zip.0`` and so on, in place of its former pieces.

    Raises: InputError if there would be too many pieces.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for file in sorted(item for item in model.rglob("*") if item.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(model).as_posix())  # without the time: equal models, equal bytes
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    whole = data.getvalue()
    pieces = [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)]
    out.mkdir(parents=True, exist_ok=True)
    old = sorted(out.glob(f"{name}.zip.*"))
    others = len(list(out.glob("*.zip.*"))) - len(old)
    if others + len(pieces) > MAX_PIECES:
        raise InputError(
            f"{name} is {len(whole) / 2**20:.0f} MiB: with what is in {out}, more than {MAX_PIECES} pieces"
        )
    for index, piece in enumerate(pieces):
        with atomic_file(out / f"{name}.zip.{index}") as temporary:
            temporary.write_bytes(piece)
    for file in old:
        if int(file.suffix[1:]) >= len(pieces):
            file.unlink()


def unpack(pieces: Path, models: Path) -> None:
    """Every model in a folder of pieces to ``models/NAME``; files of that name are replaced.

    Raises: InputError if there are no pieces, or some are missing or torn, or lead out of the folder.
    """
    names = sorted({file.name.rpartition(".zip.")[0] for file in pieces.glob("*.zip.*")})
    if not names:
        raise InputError(f"{pieces} holds no pieces of models (NAME.zip.0, ...)")
    for name in names:
        files = sorted(pieces.glob(f"{name}.zip.*"), key=lambda file: (len(file.suffix), file.suffix))
        if not re.fullmatch(r"\w[\w-]*", name):  # "..", say
            raise InputError(f"{files[0]} is no piece of a model by its name (NAME.zip.0, ...); nothing was unpacked")
        try:
            archive = zipfile.ZipFile(io.BytesIO(b"".join(file.read_bytes() for file in files)))
            _check_entries(archive, pieces / f"{name}.zip.0")
            archive.extractall(models / name)
        # Damage and methods that are unknown are errors of several kinds.
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, *DAMAGED) as error:
            raise InputError(
                f"the pieces of {name} in {pieces} are not complete ({error}); fetch all of them again"
            ) from error


def _check_entries(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises InputError for names that lead out of the folder, and for more bytes than models have."""
    for entry in archive.infolist():
        place = PurePosixPath(entry.filename)
        if place.is_absolute() or ".." in place.parts or "\\" in entry.filename:
            raise InputError(f"{path} holds {entry.filename!r}, which leads out of its folder; nothing was unpacked")
    if sum(entry.file_size for entry in archive.infolist()) > MAX_MODEL:
        raise InputError(f"{path} holds more than {MAX_MODEL / 2**20:.0f} MiB; nothing was unpacked")


if __name__ == "__main__":
    command(unpack, tyro.conf.PositionalRequiredArgs)
