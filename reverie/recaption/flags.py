"""What is wrong with a caption that a model wrote, in single words that a filter can ask for."""

from __future__ import annotations

import itertools
import re

EMPTY, TOO_LONG, REPETITION = "empty", "too_long", "repetition"
IN_A_ROW = 3  # times that a word, or some words together, must follow itself to be a repetition
MOST_TOGETHER = 4  # words
WORD = re.compile(r"\w+")


def flags_of(text: str, num_tokens: int, limit: int) -> list[str]:
    """The flags of a caption; none for a good one.

    Args:
        num_tokens: of the text, by the text encoder that is to read it.
        limit: tokens that it reads; what lies beyond is lost.
    """
    found = []
    if not WORD.search(text):
        found.append(EMPTY)
    if num_tokens > limit:
        found.append(TOO_LONG)
    if repeats(text):
        found.append(REPETITION)
    return found


def repeats(text: str) -> bool:
    """Whether one word, or up to four together, stands three times in a row, case aside: decoders that are stuck do so."""
    words = WORD.findall(text.casefold())
    for size in range(1, MOST_TOGETHER + 1):
        same = (words[place] == words[place + size] for place in range(len(words) - size))
        if any(is_same and len(list(run)) >= size * (IN_A_ROW - 1) for is_same, run in itertools.groupby(same)):
            return True
    return False
