from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reverie.errors import BrokenImage, InputError
from reverie.store import pictures
from reverie.store.pictures import as_png, decoded, look, open_picture, read_square, suffix
from tests.store.conftest import picture


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("form", "ending"),
    [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", None), ("GIF", None), ("TIFF", None)],
)
def test_forms(form, ending):
    data = picture(1, form=form)
    assert suffix(data) == ending
    assert look(data, "x").size == (24, 16)
    assert open_picture(data, "x").mode == "RGB"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    buffer = io.BytesIO()
    Image.new(mode, (5, 4)).save(buffer, "TIFF" if mode in ("CMYK", "I;16") else "PNG")
    assert open_picture(buffer.getvalue(), "x").mode == "RGB"


def test_png_keeps_every_pixel():
    again = open_picture(as_png(open_picture(picture(3), "x")), "x")
    assert again.tobytes() == open_picture(picture(3), "x").tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "pair 7: no image bytes"),
        (b"", "pair 7: no image bytes"),
        (b"<html>404</html>", "pair 7: not a JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF image .16 bytes"),
        (picture(1)[:-80], "pair 7: cannot decode the image"),
        (picture(1, 400, 400, "JPEG")[:5000], "pair 7: cannot decode the image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "pair 7: not a JPEG"),
        (picture(1, form="PPM"), "pair 7: not a JPEG"),
        (bomb(), "pair 7: too many pixels to open safely"),
        (bomb(9_000, 9_000), "pair 7: too many pixels to open safely .9000x9000"),
    ],
)
def test_broken_and_huge(data, message, recwarn):
    with pytest.raises(BrokenImage, match=message):
        open_picture(data, "pair 7")
    assert not recwarn.list


def test_a_jpeg_may_be_decoded_smaller_but_not_too_small():
    data = picture(1, 640, 400, "JPEG")
    for size in (400, 201, 200, 150, 99, 50, 8):
        assert min(open_picture(data, "x", min_px=size).size) >= size
    assert open_picture(data, "x", min_px=90).size == (160, 100)


def turned(form: str, orientation: int) -> tuple[bytes, Image.Image]:
    """A picture with a red top left corner, stored as a camera does that was held otherwise; and how it should look."""
    upright = Image.new("RGB", (48, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    backwards = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = backwards[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    (upright if turn is None else upright.transpose(turn)).save(buffer, form, exif=exif)
    return buffer.getvalue(), upright


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_comes_upright(form, orientation):
    data, upright = turned(form, orientation)
    for size in (None, 8):
        found = open_picture(data, "x", min_px=size)
        assert found.width * 2 == found.height * 3
        corners = [found.getpixel((x, y)) for y in (2, found.height - 3) for x in (2, found.width - 3)]
        assert [red > blue for red, _, blue in corners] == [True, False, False, False]
    again = open_picture(as_png(open_picture(data, "x")), "x")
    assert again.size == upright.size  # turned once, not again when what was turned is read back


@pytest.mark.parametrize("exif", [b"", b"x", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"])
def test_broken_exif_does_not_break_the_picture(exif):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "JPEG", exif=exif)
    assert open_picture(buffer.getvalue(), "x").size == (6, 4)


def jpeg(image: Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **how)
    return buffer.getvalue()


def square(data: bytes | None, side: int) -> np.ndarray:
    out = np.full((side, side, 3), 7, np.uint8)
    read_square(data, "x", out)
    return out


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8))


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 40}])
def test_a_plain_jpeg_has_the_bits_that_pillow_gives(how):
    data = jpeg(NOISE.crop((0, 0, 32, 32)), **how)
    assert np.array_equal(square(data, 32), np.asarray(Image.open(io.BytesIO(data))))
    middle = Image.open(io.BytesIO(jpeg(NOISE, **how))).resize((8, 8), Image.Resampling.BICUBIC, (8, 0, 40, 32))
    read = square(jpeg(NOISE, **how), 8).astype(int)  # decoded at a quarter of its size first
    assert abs(read - np.asarray(middle, int)).mean() < 8


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_print_jpegs_read_as_pillow_reads_them(mode):
    data = jpeg(NOISE.crop((0, 0, 32, 32)).convert(mode))
    assert np.array_equal(square(data, 32), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_a_turned_jpeg_stands_upright():
    image = NOISE.crop((0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright, turned = square(jpeg(image), 32), square(jpeg(image, exif=exif), 32)
    assert np.array_equal(turned, upright[::-1, ::-1])


def test_a_cut_jpeg_and_no_jpeg_are_told():
    with pytest.raises(BrokenImage, match="x: cannot decode"):
        square(jpeg(NOISE)[:700], 32)
    with pytest.raises(InputError, match="x has no image"):
        square(None, 32)


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (30, 30), (10, 12), (16, 16)])
def test_shorter_side_resized_and_centre_cropped(width, height):
    """Against the two steps done one after the other."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    ramp = Image.fromarray(np.stack([across * 5, down * 5, across + down], axis=2).astype(np.uint8))
    scale = 16 / min(width, height)
    whole = ramp.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (whole.width - 16) // 2, (whole.height - 16) // 2
    expected = np.asarray(whole.crop((left, top, left + 16, top + 16))).astype(int)
    found = square(as_png(ramp), 16)
    assert np.abs(found.astype(int) - expected).max() <= 3  # the two steps round the width and the place of the crop


def encoded(image, form):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits_keeps_its_shades(form):
    """Cut at 255, as Pillow does, nearly all of it would be white."""
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = np.asarray(open_picture(encoded(Image.fromarray(ramp), form), "x"))
    assert np.array_equal(found, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_of_no_known_range_are_told(kind):
    with pytest.raises(BrokenImage, match="no known range"):
        open_picture(encoded(Image.fromarray(np.ones((4, 4), kind)), "TIFF"), "x")


def test_of_large_pictures_few_are_decoded_at_once(monkeypatch):
    """Sixty-four of the largest would fill any memory, from a file of a few megabytes."""
    rows = pa.table(
        {"pair_id": [str(i) for i in range(5)], "image": [picture(0, 8, 8)] * 3 + [b"x", picture(0, 20, 20)]}
    )
    assert [numbers for numbers, _ in decoded(rows, 4)] == [[0, 1, 2], [4]]
    monkeypatch.setattr(pictures, "AT_ONCE", 100)
    assert [numbers for numbers, _ in decoded(rows, 4)] == [[0, 1], [2], [4]]


def test_exif_is_found_wherever_it_stands_before_the_pixels():
    """Other segments before it may hold any bytes, also those that begin the pixels."""
    picture = Image.fromarray(np.arange(32 * 24 * 3, dtype=np.uint8).reshape(24, 32, 3))
    exif = Image.Exif()
    exif[0x0112] = 3
    plain, turned = jpeg(picture), jpeg(picture, exif=exif)
    note = b"\xff\xda\x00\x08 Exif\0\0 and other words"
    note = b"\xff\xed" + (2 + len(note)).to_bytes(2, "big") + note  # of the kind that image editors write
    assert (square(turned[:2] + note + turned[2:], 32) == square(turned, 32)).all()
    assert (square(plain[:2] + note + plain[2:], 32) == square(plain, 32)).all()
    assert not (square(plain, 32) == square(turned, 32)).all()
