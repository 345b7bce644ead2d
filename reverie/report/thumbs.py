"""Thumbnails as data URIs, up to a limit on the size of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from reverie.errors import BrokenImage
from reverie.store.pictures import open_picture

THUMB_PX = 160
MAX_BYTES = 2_000_000  # of pictures on one page


class Thumbs:
    """Makes small pictures as data URIs until the page has enough of them.

    Args: decode: makes an encoded picture of a row that is image tokens, or None.
    """

    def __init__(self, decode: Callable[[Mapping[str, Any]], bytes | None] = lambda row: None) -> None:
        self.left_out, self._bytes, self._decode = 0, 0, decode

    def make(self, row: Mapping[str, Any], side_px: int = THUMB_PX) -> str | None:
        """The picture of a row, or None if it has none, it is broken, or the page is full."""
        image = row["image"] or (self._decode(row) if row.get("tokens") else None)
        if not image:
            return None
        try:
            picture = open_picture(image, row["pair_id"], min_px=side_px)
        except BrokenImage:
            return None  # the row says so beside the empty frame
        picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        kind = "PNG" if max(picture.size) <= 64 and side_px == THUMB_PX else "JPEG"
        picture.save(buffer, kind, quality=85, optimize=True)
        if self._bytes + buffer.tell() > MAX_BYTES:
            self.left_out += 1
            return None
        self._bytes += buffer.tell()
        return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
