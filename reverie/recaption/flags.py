"""What is wrong with a caption that a model wrote, in single words that a filter can ask for.

    empty        not a word
    too_long     more tokens than the text encoder that is to read it takes
    repetition   one to four words together stand three times in a row: decoders that are stuck do so
    refusal      it speaks of itself and not of the picture
    ocr_dump     most of it is what is written in the picture: words in capitals, numbers, or one long quotation
    non_english  few of its letters are Latin, or none of its words is among the commonest of English
    face_name    it names a person, whom nobody can know by a picture alone

The last four go by the words alone, and so are rules of thumb: they are there to be counted and looked at, and nothing is dropped by them
unless a filter asks for it.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

from reverie.captions.class_captions import REFUSAL

EMPTY, TOO_LONG, REPETITION = "empty", "too_long", "repetition"
FLAGS = (EMPTY, TOO_LONG, REPETITION, "refusal", "ocr_dump", "non_english", "face_name")
IN_A_ROW = 3  # times that a word, or some words together, must follow itself to be a repetition
MOST_TOGETHER = 4  # words
WORD = re.compile(r"\w+")

MIN_WORDS = 6  # of which something can be said about a language, or about what is written in a picture
COMMON = frozenset({
    "a", "an", "the", "of", "in", "on", "at", "with", "and", "or", "is", "are", "was", "there", "this", "that", "it", "its",
    "his", "her", "their", "to", "from", "by", "for", "near", "next", "behind", "under", "above", "over", "between", "front",
    "left", "right", "one", "two", "three", "some", "several", "which", "who", "while", "as",
})  # fmt: skip
PEOPLE = r"man|woman|boy|girl|person|child|player|actor|actress|singer|politician|president|queen|king|prince|princess|athlete|portrait|face"
NAMED = re.compile(
    rf"\b(?:named|called) [A-Z][a-z]+"
    rf"|\b(?:{PEOPLE}),? (?:is |of |is likely )?[A-Z][a-z]+ [A-Z][a-z]+"
    rf"|\b[A-Z][a-z]+ [A-Z][a-z]+,? (?:a|an|the)? ?(?:\w+ )?(?:{PEOPLE})\b"
)
QUOTED = re.compile(r"[\"“”](?P<inside>[^\"“”]+)[\"“”]")


def flags_of(text: str, num_tokens: int, limit: int) -> list[str]:
    """The flags of a caption; none for a good one.

    Args:
        num_tokens: of the text, by the text encoder that is to read it.
        limit: tokens that it reads; what lies beyond is lost.
    """
    if not WORD.search(text):
        return [EMPTY] if num_tokens <= limit else [EMPTY, TOO_LONG]
    found = {
        TOO_LONG: num_tokens > limit,
        REPETITION: repeats(text),
        "refusal": REFUSAL.search(text.strip()) is not None,
        "ocr_dump": _is_ocr(text),
        "non_english": not _is_ocr(text) and _is_foreign(text),
        "face_name": NAMED.search(text) is not None,
    }
    return [flag for flag, is_so in found.items() if is_so]


def repeats(text: str) -> bool:
    """Whether one word, or up to four together, stands three times in a row, case aside: decoders that are stuck do so."""
    words = WORD.findall(text.casefold())
    for size in range(1, MOST_TOGETHER + 1):
        same = (words[place] == words[place + size] for place in range(len(words) - size))
        if any(is_same and len(list(run)) >= size * (IN_A_ROW - 1) for is_same, run in itertools.groupby(same)):
            return True
    return False


def _is_ocr(text: str) -> bool:
    """Whether more than half of the words are capitals or numbers, or more than half of the text is quoted."""
    words = WORD.findall(text)
    if len(words) < MIN_WORDS:
        return False
    loud = sum((word.isupper() and len(word) > 1) or word.isdecimal() for word in words)
    quoted = sum(len(WORD.findall(match["inside"])) for match in QUOTED.finditer(text))
    return bool(max(loud, quoted) > len(words) / 2)


def _is_foreign(text: str) -> bool:
    letters = [char for char in text if char.isalpha()]
    latin = sum(unicodedata.name(char, "").startswith("LATIN") for char in letters)
    if latin < 0.7 * len(letters):
        return True
    words = WORD.findall(text.casefold())
    return len(words) >= MIN_WORDS and COMMON.isdisjoint(words)
