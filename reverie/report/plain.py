"""Text from users and models in tables of the terminal, printed as it is: no markup, no control characters."""

from __future__ import annotations

import unicodedata

from rich.text import Text

from reverie.store.sources import printable


def plain(words: object, style: str = "") -> Text:
    """A cell that is neither markup nor emoji code; what would steer the terminal is shown as an escape."""
    text = "".join(
        char if char == "\n" or unicodedata.category(char) != "Cc" else repr(char)[1:-1]
        for char in printable(str(words))
    )
    return Text(text, style=style)
