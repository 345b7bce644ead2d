"""Thumbnails as data URIs, up to a limit on the size of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from reverie.errors import BrokenImage
from reverie.store.pictures import open_picture

THUMB_PX = 160
MAX_BYTES = 2_000_000  # of pictures on one page


class Thumbs:
    """Makes small pictures as data URIs until the page has enough of them."""

    def __init__(self) -> None:
        self.left_out, self._bytes = 0, 0

    def make(self, row: Mapping[str, Any], side_px: int = THUMB_PX) -> str | None:
        """The picture of a row, or None if it has none, it is broken, or the page is full."""
        if not row["image"]:
            return None
        try:
            picture = open_picture(row["image"], row["pair_id"], min_px=side_px)
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
