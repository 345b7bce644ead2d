"""What texts are made of, without any model: classes of words, how far two sets of texts are apart, and a small language model.

    word classes     by lists of the words that every sentence is held together by, and by the look of the others; no tagger's parts of speech
    jensen_shannon   of two histograms, in bits: 0 where they are equal, 1 where they share nothing
    Trigrams         interpolated counts (Witten and Bell 1991) over a model of letters, so that no word has no probability

Source: arXiv:2310.16656 (RECAP) explains its gains by how captions differ from prompts and by what they tell; these are our measures of both.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

WORD = re.compile(r"\w+(?:['’]\w+)*")
FUNCTION_WORDS: dict[str, str] = {  # class -> its words
    "determiner": "a an the this that these those each every all some any no both another other such same which whose what",
    "preposition": "of in on at by with from to for into onto over under above below behind beside between among near across along around "
    "through against inside outside within without upon toward towards about after before during per via off out up down than as like",
    "conjunction": "and or but nor so yet while because if when where whereas although though since until unless",
    "pronoun": "i you he she it we they me him her us them my your his its our their mine yours who whom itself himself herself themselves there one ones",
    "auxiliary": "is are was were be been being am has have had having do does did can could may might will would shall should must",
    "adverb": "not very also just only too more most less least well still even then now here again almost slightly",
}
CLASS_OF = {word: name for name, words in FUNCTION_WORDS.items() for word in words.split()}
NUMBER_WORDS = frozenset(
    [
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "dozen",
        "several",
        "single",
    ]
)
RELATIONS = re.compile(
    r"\b(?:left of|right of|(?:on|at) the (?:left|right|top|bottom)|(?:in|to) the (?:left|right|middle|center|centre|foreground|background|distance)"
    r"|on top of|in front of|next to|behind|beside|between|above|below|under|underneath|beneath|against|inside|near|beyond|atop|facing|surrounded by)\b"
)
ATTRIBUTES = frozenset(
    [
        "red",
        "orange",
        "yellow",
        "green",
        "cyan",
        "blue",
        "purple",
        "pink",
        "white",
        "gray",
        "grey",
        "black",
        "beige",
        "brown",
        "tan",
        "teal",
        "turquoise",
        "violet",
        "maroon",
        "golden",
        "gold",
        "silver",
        "dark",
        "light",
        "bright",
        "pale",
        "colorful",
        "colourful",
        "clear",
        "transparent",
        "shiny",
        "matte",
        "small",
        "large",
        "big",
        "little",
        "tiny",
        "huge",
        "tall",
        "short",
        "long",
        "wide",
        "narrow",
        "thin",
        "thick",
        "round",
        "square",
        "rectangular",
        "circular",
        "oval",
        "curved",
        "straight",
        "flat",
        "triangular",
        "wooden",
        "metal",
        "metallic",
        "plastic",
        "glass",
        "stone",
        "brick",
        "leather",
        "concrete",
        "cotton",
        "paper",
        "ceramic",
        "old",
        "new",
        "young",
        "open",
        "closed",
        "empty",
        "full",
        "wet",
        "dry",
        "smooth",
        "rough",
        "soft",
        "hard",
        "blurry",
        "striped",
        "spotted",
        "plain",
    ]
)
CLASSES = (*FUNCTION_WORDS, "number", "code", "name", "-ing", "-ed", "-ly", "other word", "symbol")
LETTERS = 64  # that the model of letters spreads its last chance over


def words_of(text: str) -> list[str]:
    """Words in small letters."""
    return [match[0].casefold() for match in WORD.finditer(text)]


def classes_of(text: str) -> list[str]:
    """The class of every word and sign of a text.

    A name is a word with a capital that does not begin the text or a sentence; code mixes letters with digits or underscores, as file names do.
    """
    found, begins = [], True
    for match in re.finditer(r"\w+(?:['’]\w+)*|[^\w\s]", text):
        token = match[0]
        if not WORD.fullmatch(token):
            found.append("symbol")
            begins = begins or token in ".!?:"
            continue
        found.append(_class_of(token, begins))
        begins = False
    return found


def _class_of(token: str, begins: bool) -> str:
    low = token.casefold()
    if low in CLASS_OF:
        return CLASS_OF[low]
    if token.isdecimal() or low in NUMBER_WORDS:
        return "number"
    if any(char.isdigit() or char == "_" for char in token):
        return "code"
    if token[0].isupper() and not begins:
        return "name"
    for ending in ("ing", "ed", "ly"):
        if low.endswith(ending) and len(low) > len(ending) + 2:
            return f"-{ending}"
    return "other word"


def content_words(text: str) -> set[str]:
    """Different words of a text that are none of the function words."""
    return {word for word in words_of(text) if word not in CLASS_OF}


def facts_counted(text: str) -> dict[str, int]:
    """How many things of each kind a text tells, by lists of words: content words, attributes, numbers and relations."""
    words = words_of(text)
    return {
        "content words": len(content_words(text)),
        "attributes": sum(word in ATTRIBUTES for word in words),
        "numbers": sum(word in NUMBER_WORDS or word.isdecimal() for word in words),
        "relations": len(RELATIONS.findall(text.casefold())),
    }


def jensen_shannon(a: Mapping[object, float], b: Mapping[object, float]) -> float:
    """Divergence of two histograms of any scale, in bits. Raises ValueError for an empty one."""
    total_a, total_b = sum(a.values()), sum(b.values())
    if not total_a or not total_b:
        raise ValueError("an empty histogram has no divergence")
    found = 0.0
    for key in {*a, *b}:
        p, q = a.get(key, 0) / total_a, b.get(key, 0) / total_b
        mean = (p + q) / 2
        found += sum(share * math.log2(share / mean) / 2 for share in (p, q) if share)
    return min(max(found, 0.0), 1.0)


def type_token(texts: Sequence[str], size: int) -> float:
    """Different words among the first so many of these texts; only those of equal size compare. Raises ValueError for fewer words."""
    words: list[str] = []
    for text in texts:
        words += words_of(text)
        if len(words) >= size:
            break
    if len(words) < size or size < 1:
        raise ValueError(f"{len(words):,} words are not {size:,}")
    return len(set(words[:size])) / size


START, END = "<", ">"  # no word holds these


class Trigrams:
    """A language model of words that was counted on some texts.

        P(w | u v) = (c(u v w) + t(u v) P(w | v)) / (c(u v) + t(u v))        with t the number of different words that follow

    and so on down to single words, whose place is taken by a model of letters for those that never came.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(3)]
        self._follow: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(3)]  # different words after a context
        self._total: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(3)]
        self._letters: Counter[str] = Counter()
        for text in texts:
            words = [START, START, *words_of(text), END]
            for at in range(2, len(words)):
                for order in range(3):
                    gram = tuple(words[at - order : at + 1])
                    self._counts[order][gram] += 1
                    self._total[order][gram[:-1]] += 1
                    self._follow[order][gram[:-1]] += self._counts[order][gram] == 1
            for word in words[2:-1]:
                self._letters.update(f"{word} ")
        if not self._letters:
            raise ValueError("a language model cannot be counted on texts without a word")
        self._num_letters = sum(self._letters.values())
        self.probability = cache(self._probability)

    def bits(self, text: str) -> tuple[float, int]:
        """How many bits a text says to who knows the model, and over how many words; the end of the text counts as one."""
        words = [START, START, *words_of(text), END]
        found = sum(-math.log2(self.probability((*words[at - 2 : at],), words[at])) for at in range(2, len(words)))
        return found, len(words) - 2

    def _probability(self, context: tuple[str, ...], word: str) -> float:
        order = len(context)
        lower = self._probability(context[1:], word) if order else self._spelt(word)
        if not (follow := self._follow[order][context]):
            return lower
        return (self._counts[order][(*context, word)] + follow * lower) / (self._total[order][context] + follow)

    def _spelt(self, word: str) -> float:
        """By its letters, with a space behind; one that never came has a share of the chance of the unknown."""
        if word == END:
            return 1.0 / (1 + self._num_letters)
        kinds = len(self._letters)
        found = 1.0
        for letter in f"{word} ":
            found *= (self._letters[letter] + kinds / LETTERS) / (self._num_letters + kinds)
        return found
