"""Encoding and decoding of images, safely also for bytes from unknown sources."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import simplejpeg
from PIL import Image, ImageFile, ImageOps

from reverie.errors import BrokenImage, InputError
from reverie.store.sources import because, printable, what_is

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 64_000_000  # 8000 x 8000; more is a decompression bomb or a mistake
MAX_SIDE = 32_768
AT_ONCE = 4 * MAX_PIXELS  # pixels of pictures that are decoded for one batch, but for its last
MAX_STRETCH = (
    200  # of the longer side to the shorter: encoders first resize the shorter one, and the other grows with it
)
PICTURE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    *(".png", ".webp", ".avif", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
}
# Only these are tried: among the others that Pillow knows are some that run a program (PostScript runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF")

START_OF_SCAN, APP1 = b"\xda", b"\xe1"  # markers of JPEG: pixels follow; EXIF among others

# What Pillow's plugins raise at damage, each in its own way; UnidentifiedImageError is an OSError.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, RuntimeError, ArithmeticError, LookupError, TypeError, AttributeError),
    *(MemoryError, struct.error, zlib.error),
)

# Our own limit above is stricter and names the culprit, so Pillow's warning about the same thing would be noise.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings(
    "ignore", category=UserWarning, module=r"PIL\."
)  # of tags that are damaged; only the turn is asked of them


def picture_files(paths: Iterable[Path]) -> list[Path]:
    """Files as given, and the pictures in folders (at any depth, hidden ones left out), in order of name.

    One without an ending counts by its first bytes. A folder that is named as a picture is among them, beside what it holds: who reads it is told that it is none.

    Raises: InputError for a path that is not there, or a folder without pictures.
    """
    found: list[Path] = []
    for path in paths:
        what = what_is(path)
        if what == "a folder":
            inside = sorted(
                item
                for item in path.rglob("*")
                if (item.suffix.lower() in PICTURE_SUFFIXES or (not item.suffix and looks_like_picture(item)))
                and not any(part.startswith(".") for part in item.relative_to(path).parts)
            )
            if not inside:
                raise InputError(f"there is no picture in {path}")
            found += inside
        elif what is None:
            found.append(path)
        elif what == "nothing":
            raise InputError(f"there is no {path}")
        else:
            raise InputError(f"{path} is {what}, not a picture")
    return found


def read_picture(path: Path) -> Image.Image:
    """A picture from a file, as ``open_picture``. Raises BrokenImage that names the file, also for what is none."""
    name = printable(str(path))
    if what := what_is(path):
        raise BrokenImage(f"{name}: " + ("there is no such file" if what == "nothing" else f"{what}, not a file"))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenImage(f"{name}: cannot be read ({error.strerror})") from error
    return open_picture(data, name)


def open_picture(data: bytes | None, name: str, *, min_px: int | None = None) -> Image.Image:
    """Encoded bytes -> decoded RGB picture, turned upright if its EXIF says how the camera was held.

    Args:
        data: JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF.
        name: what to call it in an error.
        min_px: when given, a JPEG may be decoded at a half, quarter or eighth of its size as long as no side falls below.
    Raises: BrokenImage for no bytes, bytes that are none of these, more than ``MAX_PIXELS`` pixels, and a side that is too long
        by itself or for the other one.
    """
    picture = look(data, name)
    try:
        if min_px is not None and picture.format == "JPEG":
            picture.draft("RGB", (min_px, min_px))
        picture.load()
        _turn_upright(picture)
        return _as_rgb(picture)
    except UNREADABLE as error:
        raise _broken(name, "cannot decode the image", _short(error)) from error


def read_square(data: bytes | None, name: str, out: Pixels, exact: bool = False) -> None:
    """Encoded bytes -> ``out``, uint8 (side, side, 3): upright, shorter side resized (bicubic), centre cropped.

    Args: exact: decode a JPEG at its full size, as for a tokenizer or a model that is asked; else it may be decoded smaller, which is faster.
    Raises: BrokenImage as ``open_picture``; InputError for no bytes, where a picture was left out on purpose.
    """
    if data is None:
        raise InputError(f"{name} has no image; add 'image is not null' to the filter")
    side = len(out)
    pixels = None if exact else _plain_jpeg(data, out)
    if pixels is out:
        return
    picture = open_picture(data, name, min_px=None if exact else side) if pixels is None else Image.fromarray(pixels)
    if picture.size != (side, side):
        shorter = min(picture.size)
        left, top = (picture.width - shorter) / 2, (picture.height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, box)
    out[:] = np.asarray(picture)


def look(data: bytes | None, name: str) -> Image.Image:
    """Read the header only: ``.size`` (before any turn) and ``.format`` are known, no pixel is decoded.

    Raises: as ``open_picture``.
    """
    if not data:
        raise BrokenImage(f"{name}: no image bytes", "no image bytes")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _broken(name, "too many pixels to open safely", f"limit {MAX_PIXELS:,}") from error
    except UNREADABLE as error:
        raise _broken(name, "not a JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF image", f"{len(data)} bytes") from error
    _check_size(*picture.size, name)
    return picture


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise _broken(name, "too many pixels to open safely", f"{width}x{height}, limit {MAX_PIXELS:,}")
    if is_too_long(width, height):
        limit = f"limit {MAX_SIDE:,}, and {MAX_STRETCH} times the other"
        raise _broken(name, "too long on one side", f"{width}x{height}, {limit}")


def _broken(name: str, what: str, own: str) -> BrokenImage:
    return BrokenImage(f"{name}: {what} ({own})", because(what, own))


def is_too_long(width: int, height: int) -> bool:
    """Whether one side is more than any network can be given, by itself or against the other one."""
    return max(width, height) > MAX_SIDE or max(width, height) > MAX_STRETCH * min(width, height)


def _plain_jpeg(data: bytes, out: Pixels) -> Pixels | None:
    """Pixels of a JPEG that needs no turn, in ``out`` itself where the size fits, at most halved thrice.

    The same bits as Pillow's, whose readers cost as much again as the decoding of a small picture. None for what Pillow must
    look at: other formats, EXIF, colours in print, damage.
    """
    if data[:2] != b"\xff\xd8" or _may_have_exif(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray") or height * width > MAX_PIXELS or is_too_long(width, height):
            return None
        fits = (height, width, 3) == out.shape
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, min_height=len(out), min_width=len(out), min_factor=1, buffer=out if fits else None
        )
    except ValueError:
        return None
    return out if fits else pixels


def _may_have_exif(data: bytes) -> bool:
    """Whether a JPEG has EXIF before its pixels, or is so odd that this cannot be told."""
    place = 2
    while data[place : place + 1] == b"\xff":
        kind = data[place + 1 : place + 2]
        if kind == START_OF_SCAN:
            return False
        if kind == APP1 and data[place + 4 : place + 10] == b"Exif\0\0":
            return True
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return True


def upright_rgb(picture: Image.Image, name: str = "picture") -> Image.Image:
    """An opened picture as ``open_picture`` would have read its file: turned by EXIF, in 8 bits of each colour.

    Raises: BrokenImage for no pixels, or numbers whose range nobody knows.
    """
    if not min(picture.size):
        raise BrokenImage(f"{name} of {picture.width}x{picture.height} has no pixels")
    _check_size(*picture.size, name)
    picture = picture.copy()
    _turn_upright(picture)
    try:
        return _as_rgb(picture)
    except ValueError as error:
        raise BrokenImage(f"{name}: {_short(error)}") from error


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Eight bits of each colour; a transparent picture as it is without its transparency.

    Raises: ValueError for numbers whose range nobody knows.
    """
    if picture.mode.startswith("I;16"):  # Pillow would cut at 255, so that nearly everything was white
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode} have no known range; save it with 8 or 16 bits")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _turn_upright(picture: Image.Image) -> None:
    # EXIF that cannot be read says nothing about the turn, and the pixels are whole.
    with suppress(*UNREADABLE):
        ImageOps.exif_transpose(picture, in_place=True)


def suffix(data: bytes) -> str | None:
    """File name ending of encoded bytes of the three kinds that the store keeps: jpg, png or webp; None for others."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def looks_like_picture(file: Path) -> bool:
    """Whether a file begins as a picture does; what cannot be read does not."""
    if what_is(file) is not None:
        return False
    try:
        with file.open("rb") as opened:
            return is_picture(opened.read(32))
    except OSError:
        return False


def is_picture(head: bytes) -> bool:
    """Whether the first 32 bytes of a file are those of a picture of a kind that is read."""
    return (
        suffix(head) is not None
        or head[:6] in (b"GIF87a", b"GIF89a")
        or head[:4] in (b"II*\0", b"MM\0*")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or head[4:12] in (b"ftypavif", b"ftypavis")
    )


def as_png(picture: Image.Image) -> bytes:
    """Encode without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


assert not ImageFile.LOAD_TRUNCATED_IMAGES  # a truncated image must fail, not come back half grey


@dataclass(frozen=True)
class Speed:
    """What changes the time, not the scores."""

    batch_size: int = 64  # images decoded, and given to a network, at once


def decoded(rows: pa.Table, batch_size: int) -> Iterator[tuple[list[int], list[Image.Image]]]:
    """Row numbers and RGB pictures, a batch at a time, of large ones a smaller one, so that a unit of them does not fill the memory.

    Rows without an image (tokens only) or with one that does not decode are left out: their columns stay null, which no
    rule of selection takes for good.
    """
    for start in range(0, len(rows), batch_size):
        numbers, pictures, pixels = list[int](), list[Image.Image](), 0
        part = rows.slice(start, batch_size)
        for number, data, name in zip(
            range(start, len(rows)), part["image"].to_pylist(), part["pair_id"].to_pylist(), strict=False
        ):
            try:
                pictures.append(open_picture(data, name))
            except BrokenImage:
                continue
            numbers.append(number)
            pixels += pictures[-1].width * pictures[-1].height
            if pixels > AT_ONCE:
                yield numbers, pictures
                numbers, pictures, pixels = [], [], 0
        if numbers:
            yield numbers, pictures
