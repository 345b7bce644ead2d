"""Captions about classes from a language model, made to differ: templates in turns, second concepts, scenes, glosses.

    class -> template, gloss, perhaps a second class and a scene -> language model -> refusals and stems out, 5 to 50 words, class named

Source: Synth², arXiv:2403.07750, which asks for one caption of a class at a time and says that diversity and balance of the set
matter. Its templates are not public; these are ours. The control, captions asked without a class, is ``AskFreely``, whose answers are
cleaned alike. What repeats or is near to it is looked for over the whole run, see filters/captions.py.
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reverie import pairs
from reverie.captions.checks import clean, same
from reverie.captions.classes import read_list, read_synonyms
from reverie.captions.llm import AskWriter, tidy, unnamed
from reverie.captions.prompts import EXAMPLES, OWN, Prompt
from reverie.errors import InputError
from reverie.pairs import CLASS_SLOT
from reverie.seeds import derive
from reverie.store.sources import read_json

# To a model that follows instructions.
ASKED = (
    "Describe a photo in one plain sentence. The photo shows: {class}{gloss}{extra}",
    "You annotate photos. Write what is in one, in a single factual sentence without opinions. It shows: {class}{gloss}{extra}",
    "Write the caption of an everyday photo, at most twenty words and nothing else. In the photo: {class}{gloss}{extra}",
    "Imagine a photo and say in one sentence what can be seen in it, things and places only. It has in it: {class}{gloss}{extra}",
    "In one short sentence, say what a camera saw. It saw: {class}{gloss}{extra}",
)
# To one that only goes on with a text.
GONE_ON = (
    "Captions of photos.\n\n{examples}{class}{gloss}{extra}: ",
    "What is in each picture:\n\n{examples}{class}{gloss}{extra}: ",
    "Descriptions of photographs, one a line.\n\n{examples}{class}{gloss}{extra}: ",
    "Photo archive. Subject and description:\n\n{examples}{class}{gloss}{extra}: ",
)
SCENES = (
    "indoors", "outdoors", "in a street", "in a kitchen", "in a garden", "at the sea", "in the mountains", "at night", "in the rain",
    "in a shop", "on a table", "in a field", "in a forest", "in a city", "in a living room", "on a sunny day",
)  # fmt: skip
WORDNET = "wordnet"

Balance = Literal["uniform", "one-in-ten", "frequency"]

NOT = r"(?:can ?not|can['’]t|could(?:n['’]t| not)|will not|won['’]t|do not|don['’]t|(?:am |['’]m )?(?:unable|not able) to)"
TASK = r"(?:create|describe|provide|write|generate|fulfil|produce|assist|comply|caption|help)"
ABOUT = r"(?:image|photo|photograph|picture|caption|description|sentence|request|prompt|content|details?|information|context)s?"
# Said at the beginning, where somebody in a photo would not speak, or anywhere by words about the task: a sign may say "I can't see".
REFUSAL = re.compile(
    r"(?:^|</\w+>)\W*(?:(?:caption|answer|response|sure|well|oh|no|unfortunately|however|but)\b\W+)*"
    r"(?:i(?:['’]m| am) (?:\w+ )?sorry\b|sorry(?=\s*[,.!;:–—-]|\s+(?:but|i|for|that)\b)|(?:i|my) apolog|i would need\b"
    rf"|i ?{NOT} (?:\w+ )?(?:{TASK}|see|view|access|answer|continue|have (?:an?y?|the|access)|do (?:that|this|so))\b)"
    r"|\b(?:as|i am|i['’]m|being) (?:just |only )?an? (?:ai|(?:large )?language model)\b"
    rf"|\bi ?{NOT} (?:\w+ )?{TASK}\b|\b{NOT} (?:\w+ )?{TASK} (?:[\w-]+ ){{0,3}}{ABOUT}\b"
    r"|\bhere(?:['’]s| is| are) (?:an?|the|your|some) (?:\w+ )?(?:caption|description|sentence)"
    r"|\blet me know (?:if|what|when|whether|which|how)\b|\bi['’]d be happy to\b|\bi would be happy to\b"
    rf"|(?:^|[.!?])\s*please (?:provide|specify)\b|\bplease (?:provide|specify) (?:[\w-]+ ){{0,3}}{ABOUT}\b",
    re.IGNORECASE | re.MULTILINE,
)
PICTURE = r"(?:image|photo|photograph|picture|snapshot|scene)"
# What is said of a picture as a picture, and not of a thing that hangs on a wall: a framed one is what the caption is about.
KIND = (
    r"(?:aerial|amazing|beautiful|black[- ]and[- ]white|blurry|bright|candid|charming|clear|close[- ]?up|colou?r|colou?rful|cropped|detailed"
    r"|dramatic|high[- ](?:quality|resolution)|lovely|nice|panoramic|peaceful|scenic|serene|sharp|simple|single|stock|striking|stunning|vivid"
    r"|vibrant|wide[- ]angle|wonderful)"
)
SHOWS = r"(?:showing|that shows|depicting|depicts|features|captures|displays|contains|shows)"
STEM = re.compile(
    rf"^(?:(?:this|here|it) is (?:an?|the) (?:[\w-]+ ){{0,2}}{PICTURE}(?: (?:of|taken of|showing|that shows|depicting|with))?+"
    rf"|(?:this|the|an?) (?:{KIND},? ){{0,3}}{PICTURE}(?: here)?(?: (?:taken|shot|captured))? (?:is of|of|{SHOWS})"
    rf"|in (?:this|the) (?:{KIND},? ){{0,3}}{PICTURE},?(?: (?:there (?:is|are)|(?:we|you)(?: can)? see))?+)\s+(?=\S)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AskFreely(AskWriter):
    """As many captions from one prompt that names no class: what captions about classes are held against, and cleaned as these are."""

    min_words: int = 5
    max_words: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_words(self)

    def _judged(self, text: str, label: str | None, taken: set[str]) -> tuple[str, str | None]:
        caption, reason = cleaned(self, text, label)
        if reason is None and same(caption) in taken:
            reason = "duplicate within its unit"
        if reason is None:
            taken.add(same(caption))
        return caption, reason


@dataclass(frozen=True)
class AskAboutClasses(AskWriter):
    """Captions about classes, as ``AskWriter`` makes them, asked in many ways.

    ``per_class`` is how many captions a class has on average; ``balance`` says how they are shared out:

        uniform     as many of each class
        one-in-ten  all of every tenth class, and none of the others
        frequency   the more the earlier a class stands in the list: of the n-th one in proportion to 1/n
    """

    prompt: str | Path = ""  # a template of your own in place of those below; see ``templates``
    min_words: int = 5
    max_words: int = 50
    templates: tuple[str, ...] | Path = ()  # asked in turns, or a file of them; what suits the model when empty
    glosses: Path | str = ""  # JSON file, class name -> what it means; or wordnet, for names that mean several things
    synonyms: Mapping[str, tuple[str, ...]] | Path | None = None  # class name -> words that count as naming it; or JSON
    second: float = 0.25  # share of captions that are asked to hold a second class of the list
    scene: float = 0.25  # share of captions that are asked to be somewhere
    scenes: tuple[str, ...] | Path = SCENES  # where, or a file of such places
    balance: Balance = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt not in ("", OWN):
            raise InputError("captions about classes are asked by templates, not by one prompt; give --templates")
        check_words(self)
        for name, share in (("second", self.second), ("scene", self.scene)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} {share} is a share of captions, from 0 to 1")
        if self.balance not in ("uniform", "one-in-ten", "frequency"):
            raise InputError(f"a balance {self.balance!r} is not known; use uniform, one-in-ten or frequency")

    @property
    def count(self) -> int:
        """Captions that will be made. Raises InputError for a list, templates or glosses that are not usable."""
        _ = self._glosses, self._same, self._scenes, self._templates(True)
        return int(self._starts[-1])

    def check(self) -> None:
        """Raises what ``count`` does, and for a model that is not there as ``AskWriter`` does."""
        _ = self.count
        super().check()

    def _prompts(self, chats: bool) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(template, self._glosses, EXAMPLES if "{examples}" in template else ())
            for template in self._templates(chats)
        )

    def _templates(self, chats: bool) -> tuple[str, ...]:
        given = read_list(self.templates, "templates") if isinstance(self.templates, Path) else list(self.templates)
        if not given:
            return (OWN,) if self.prompt == OWN else ASKED if chats else GONE_ON
        for template in given:
            if CLASS_SLOT not in template:
                raise InputError(f"the template {template!r} has no {CLASS_SLOT} in it")
        return tuple(given)

    def _asked(self, unit: int, position: int, run_seed: int, prompts: Sequence[Prompt]) -> dict[str, Any]:
        number = int(np.searchsorted(self._starts, position, side="right"))
        label = self._classes[number]
        turn = position - (int(self._starts[number - 1]) if number else 0)
        # Shifted by the class, so that a class with few captions does not mean the first template.
        prompt = prompts[(turn + number) % len(prompts)]
        rng = np.random.default_rng(derive("how to ask", run_seed, position))
        with_second, with_scene = (rng.random(2) < (self.second, self.scene)).tolist()
        other = self._classes[(number + 1 + int(rng.integers(len(self._classes) - 1))) % len(self._classes)]
        extra = f" and {other}" if with_second else ""
        if with_scene:
            extra += f", {self._scenes[int(rng.integers(len(self._scenes)))]}"
        return {
            "caption_id": pairs.caption_id(run_seed, "llm", position),
            "unit": unit,
            "label": label,
            "source": "llm",
            # A class may be called {extra}, so it goes in last, with the gloss.
            "prompt": Prompt(prompt.template.replace("{extra}", _plain(extra)), prompt.glosses, prompt.examples).of(
                label
            ),
        }

    def _judged(self, text: str, label: str | None, taken: set[str]) -> tuple[str, str | None]:
        caption, reason = cleaned(self, text, label)
        if reason is None and label and self.names_class:
            reason = unnamed(caption, (label, *self._same.get(label, ())))
        if reason is None and same(caption) in taken:
            reason = "duplicate within its unit"
        if reason is None:
            taken.add(same(caption))
        return caption, reason

    @cached_property
    def _starts(self) -> np.ndarray:
        """Where the captions of each class end."""
        num = len(self._classes)
        if num < 2:
            raise InputError(
                f"a list of one class, {self._classes[0]!r}, gives captions of one thing; give two classes or more"
            )
        weights = np.ones(num)
        if self.balance == "frequency":
            weights = 1 / np.arange(1, num + 1)
        elif self.balance == "one-in-ten":
            weights = np.zeros(num)
            weights[np.random.default_rng(derive("one in ten")).permutation(num)[: -(-num // 10)]] = 1
        return np.asarray(np.cumsum(shared_out(num * self.per_class, weights)))

    @cached_property
    def _scenes(self) -> tuple[str, ...]:
        found = read_list(self.scenes, "scenes") if isinstance(self.scenes, Path) else self.scenes
        if not found and self.scene:
            raise InputError("there are no scenes to ask for; give some, or a share of 0")
        return tuple(found)

    @cached_property
    def _same(self) -> dict[str, tuple[str, ...]]:
        return read_synonyms(self.synonyms, self._classes)

    @cached_property
    def _glosses(self) -> dict[str, str]:
        return read_glosses(self.glosses, self._classes)


def check_words(asked: AskFreely | AskAboutClasses) -> None:
    """Raises InputError for numbers of words that no caption can have."""
    if not 1 <= asked.min_words <= asked.max_words:
        raise InputError(
            f"captions of {asked.min_words} to {asked.max_words} words cannot be; give at least 1, and no less at most"
        )


def cleaned(asked: AskFreely | AskAboutClasses, text: str, label: str | None) -> tuple[str, str | None]:
    """A caption without stem, and why it is not usable: a refusal, too short or too long, or what ``tidy`` finds."""
    if REFUSAL.search(text.strip()):
        return clean(text)[: asked.max_chars], "a refusal, or talk about the task"
    caption, reason = tidy(text, asked.max_chars, asked.max_words, label)
    caption = without_stem(caption)
    if reason is None and caption.count(" ") + 1 < asked.min_words:
        reason = f"fewer than {asked.min_words} words"
    return caption, reason


def _plain(text: str) -> str:
    """Without what a prompt would fill in."""
    return text.replace("{", "(").replace("}", ")")


def without_stem(caption: str) -> str:
    """A caption without "This is an image of" and its like; one that is nothing else stays as it is."""
    while found := STEM.match(caption):
        caption = caption[found.end() :]
    return caption


def shared_out(total: int, weights: np.ndarray) -> np.ndarray:
    """Whole numbers (n,) in proportion to weights that sum to ``total``: the largest remainders are rounded up, earlier ones first."""
    exact = total * weights / weights.sum()
    counts: np.ndarray = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return np.asarray(counts)


def read_glosses(source: Path | str, classes: Sequence[str]) -> dict[str, str]:
    """What class names mean, by name in lower case.

    Args: source: a JSON file, name -> gloss, which may know other names too; ``wordnet``, for those with several noun senses, of
        which the first is meant; or nothing.
    Raises: InputError for a file that is none or knows no class, or where no library has a WordNet.
    """
    if not str(source):
        return {}
    if str(source) == WORDNET:
        senses_of = _dictionary()
        return {name.casefold(): senses[0] for name in classes if len(senses := senses_of(name)) > 1}
    given = read_json(Path(source), "glosses")
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise InputError(f"{source} must hold a JSON object: class name -> what it means")
    known = {name.casefold() for name in classes}
    found = {low: clean(text) for name, text in given.items() if (low := clean(name).casefold()) in known}
    if not found:
        raise InputError(f"{source} has a gloss for none of the {len(classes)} classes; its names must be theirs")
    return found


def _dictionary() -> Callable[[str], list[str]]:
    """What a noun may mean, the usual sense first, by the first library that has a WordNet: wn, or else NLTK.

    Raises: InputError where neither has one.
    """
    there = {name for name in ("wn", "nltk") if importlib.util.find_spec(name) is not None}
    for name, found in (("wn", _of_wn), ("nltk", _of_nltk)):
        if name in there and (senses := found()):
            return senses
    told = "no WordNet is installed: pip install wn, then python -m wn download oewn:2024"
    if "wn" in there:
        told = "wn is installed without a WordNet: python -m wn download oewn:2024"
    elif there:
        told = "nltk is installed without its WordNet: python -m nltk.downloader wordnet"
    raise InputError(f"{told}; or give --glosses a file of them")


def _of_wn() -> Callable[[str], list[str]] | None:
    """By the library wn; None where it has no lexicon, of which it says nothing but that no word has a sense."""
    import wn

    try:
        if not wn.lexicons():
            return None
    except (wn.Error, OSError, sqlite3.Error):  # its database is of another version, or cannot be made
        return None
    return lambda name: [text for sense in wn.synsets(name, pos="n") if (text := sense.definition())]


def _of_nltk() -> Callable[[str], list[str]] | None:
    """By NLTK; None where its data are not there."""
    from nltk.corpus import wordnet

    try:
        wordnet.synsets("thing", pos="n")
    except (LookupError, OSError):  # found out with the first word only
        return None
    return lambda name: [sense.definition() for sense in wordnet.synsets(name.replace(" ", "_"), pos="n")]
