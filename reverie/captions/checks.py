"""Is this text a caption? One function, used by every source of captions."""

from __future__ import annotations

import re
import unicodedata

# Invisible characters that change neither letters nor emoji: soft hyphen, zero-width space, direction marks and
# overrides, word joiner, byte-order mark. The zero-width joiners (U+200C, U+200D) stay: Persian, Hindi and emoji need them.
INVISIBLE = dict.fromkeys(
    [
        0x00AD,
        0x061C,
        0x200B,
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        0xFEFF,
        *range(0xFFF9, 0xFFFC),
    ]
)
URL = re.compile(r"(https?|ftp)://\S+|www\.\S+|\S+@\S+\.\w+", re.IGNORECASE)
FILE_NAME = re.compile(
    r"\S+\.(jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif|pdf|mp4|mov|html?|php)|(img|dsc[nf]?|pict|photo|image|screenshot)[_-]?\d+|p\d{7}",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """Normalise to NFC, remove control and invisible characters, fold white space to single spaces."""
    if not (text.isascii() and text.isprintable()):  # most captions need nothing of this
        text = unicodedata.normalize("NFC", text).translate(INVISIBLE)
        text = "".join(char for char in text if char.isspace() or unicodedata.category(char) not in ("Cc", "Cs"))
    return " ".join(text.split())


def check(text: str | None, max_chars: int = 300, max_words: int = 60) -> tuple[str, str | None]:
    """Clean a text and say why it cannot be a caption.

    Args:
        text: any script; None counts as empty.
        max_chars, max_words: limits after cleaning; words are what stands between spaces.
    Returns: the clean text, and None or the reason for refusing it.
    """
    text = clean(text or "")
    if not text:
        return text, "empty"
    if len(text) > max_chars:
        return text, f"longer than {max_chars} characters"
    if text.count(" ") >= max_words:
        return text, f"more than {max_words} words"
    if "\ufffd" in text:
        return text, "characters lost in decoding"
    if URL.fullmatch(text):
        return text, "a web address, not a text"
    if FILE_NAME.fullmatch(text):
        return text, "a file name, not a text"
    # A letter of any script, or a pictograph: numbers and punctuation alone say nothing that could be painted.
    if not any(unicodedata.category(char)[0] == "L" or unicodedata.category(char) == "So" for char in text):
        return text, "no letters"
    return text, None


def same(text: str) -> str:
    """The form in which two captions count as duplicates: case and outer punctuation do not matter."""
    return unicodedata.normalize("NFKC", text).casefold().strip(" .,;:!?\"'")
