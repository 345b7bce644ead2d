"""Which words WordNet 3.0 counts as synonyms, for METEOR.

    python -m reverie.evaluate.metrics.synonyms meteor-1.5.jar

makes ``wordnet/synonyms.txt.gz`` anew from the files ``synonym/english.synsets`` and ``synonym/english.exceptions`` of the
METEOR 1.5 program (Denkowski and Lavie 2014), which its authors took from WordNet 3.0. Entries of several words are left out,
as a token is one word. ``wordnet/LICENSE`` is the licence of WordNet.
"""

from __future__ import annotations

import functools
import gzip
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from reverie.store.files import atomic_file

TABLE = Path(__file__).parent / "wordnet" / "synonyms.txt.gz"

# Endings that METEOR takes off a word to find it in WordNet, and what it puts in their place; the first that leads to a word.
ENDINGS = (
    *(
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    *(("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)


def synonym_sets(word: str) -> frozenset[str]:
    """Names of the sets of synonyms that a word in lower case is in, itself or as a form of its base words.

    Two words that share one are synonyms to METEOR, whatever their part of speech.
    """
    sets, bases = _table()
    own = _split(sets.get(word, ""))
    if word in bases:
        return own.union(*(_split(sets.get(base, "")) for base in bases[word].split()))
    return own | _split(sets.get(_base(word, sets), ""))


def _split(names: str) -> frozenset[str]:
    return frozenset(names.split())


def _base(word: str, sets: dict[str, str]) -> str:
    """The base word of a regular form; empty if there is none."""
    if word.endswith("ss") or len(word) <= 2:
        return word
    for ending, instead in ENDINGS:
        if word.endswith(ending) and (base := word[: -len(ending)] + instead) in sets:
            return base
    return ""


@functools.cache
def _table() -> tuple[dict[str, str], dict[str, str]]:
    """Word -> its sets, and irregular form -> its bases, both as words between spaces."""
    sets, _, forms = gzip.decompress(TABLE.read_bytes()).decode().partition("\n\n")
    return _read(sets), _read(forms)


def _read(lines: str) -> dict[str, str]:
    return dict(line.split("\t") for line in lines.splitlines())


def make(jar: Path, table: Path = TABLE) -> None:
    """Write the table from the METEOR program."""
    with zipfile.ZipFile(jar) as program:
        synsets = program.read("synonym/english.synsets").decode().splitlines()
        exceptions = program.read("synonym/english.exceptions").decode().splitlines()
    numbers: dict[str, str] = {}
    words = []
    for word, own in _pairs(synsets):
        names = [numbers.setdefault(name, f"{len(numbers):x}") for name in own.split()]
        words.append(f"{word}\t{' '.join(names)}")
    bases: dict[str, list[str]] = {}
    for base, forms in _pairs(exceptions):
        for form in forms.split():
            bases.setdefault(form, []).append(base)
    irregular = [f"{form}\t{' '.join(own)}" for form, own in bases.items() if "_" not in form]
    text = "\n".join(words) + "\n\n" + "\n".join(irregular) + "\n"
    with atomic_file(table) as partial:
        partial.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _pairs(lines: list[str]) -> Iterator[tuple[str, str]]:
    """A line with a word, then a line about it."""
    return ((word, about) for word, about in zip(lines[::2], lines[1::2], strict=True) if "_" not in word)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
