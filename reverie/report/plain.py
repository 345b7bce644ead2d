"""Text from users and models in tables of the terminal, printed as it is: no markup, no control characters."""

from __future__ import annotations

from rich.text import Text

from reverie.store.sources import harmless


def plain(words: object, style: str = "") -> Text:
    """A cell that is neither markup nor emoji code; what would steer the terminal is shown as an escape."""
    return Text(harmless(str(words)), style=style)
