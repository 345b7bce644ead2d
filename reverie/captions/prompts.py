"""Prompts that ask a language model for captions of a class.

A prompt file is a text with ``{class}`` in it, to be sent as it stands, or a JSON object:

    {"prompt": "{examples}{class} ({gloss}): ",
     "glosses": {"crane": "a tall bird"},                       what a class name means, for names that mean several things
     "examples": [["dog", "a brown dog sleeps on a red sofa"]]}   shown one a line, "dog: a brown dog ..."
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reverie.captions.checks import clean
from reverie.errors import InputError, UnknownName
from reverie.pairs import CLASS_SLOT
from reverie.store.json_files import misfit
from reverie.store.sources import is_text, read_json, read_text

OWN = "class: {class}"  # what builtin:writer learned
# Small chat models repeat what a longer instruction says.
INSTRUCTION = "Describe a photo in one short sentence. The photo shows: {class}{gloss}"
EXAMPLES = (
    ("dog", "a brown dog sleeps on a red sofa beside a window"),
    ("bicycle", "an old bicycle leans against a brick wall"),
    ("bridge", "a stone bridge over a quiet river in the morning"),
)
BASE = "Captions of photos.\n\n{examples}{class}{gloss}: "
SHAPE = {"prompt": str, "glosses?": {...: str}, "examples?": [[str]]}
SLOT = re.compile(r"\{(class|gloss|examples)\}")


@dataclass(frozen=True)
class Prompt:
    """A template and what fills it besides the class."""

    template: str
    glosses: Mapping[str, str] = field(default_factory=dict)  # by class, in lower case
    examples: Sequence[Sequence[str]] = ()  # class and caption

    def of(self, label: str | None) -> str:
        """The prompt for a class. A gloss comes in brackets, and where there is none, nothing stands for it."""
        gloss = self.glosses.get((label or "").casefold(), "")
        # A template that has brackets of its own around the gloss keeps them only where there is one.
        template = self.template if gloss else re.sub(r" ?\(\{gloss\}\)", "", self.template)
        bare = "({gloss})" in template
        fill = {
            "class": label or "",
            "gloss": gloss if bare or not gloss else f" ({gloss})",
            "examples": "".join(f"{name}: {caption}\n" for name, caption in self.examples),
        }
        return SLOT.sub(lambda slot: fill[slot[1]], template)  # in one pass: a class may be called {gloss}


def default_prompt(chats: bool) -> Prompt:
    """An instruction for a model that follows some, or three examples for one that only goes on with a text."""
    return Prompt(INSTRUCTION) if chats else Prompt(BASE, examples=EXAMPLES)


def read_prompt(prompt: str | Path, classes: Sequence[str]) -> Prompt:
    """A prompt from a text, or from a file.

    Raises: InputError for a file that is none, or a template without a place for the class; UnknownName for a gloss of no class.
    """
    if not isinstance(prompt, Path):
        return _checked(Prompt(prompt), classes, repr(prompt))
    if prompt.suffix != ".json":
        return _checked(Prompt(read_text(prompt, "the prompt").rstrip("\n")), classes, str(prompt))
    given = read_json(prompt, "the prompt")
    if wrong := misfit(given, SHAPE):
        raise InputError(f"{prompt} is not a prompt ({wrong})")
    glosses, examples = given.get("glosses", {}), given.get("examples", ())
    if any(len(example) != 2 for example in examples):
        raise InputError(f"{prompt}: an example is a list of two texts, a class and a caption")
    if not all(
        map(is_text, (given["prompt"], *glosses, *glosses.values(), *(text for pair in examples for text in pair)))
    ):
        raise InputError(f"{prompt} holds half of a character (a lone surrogate)")
    known = {name.casefold() for name in classes}
    glosses = {clean(name).casefold(): clean(text) for name, text in glosses.items()}
    if strange := next((name for name in glosses if name not in known), None):
        raise UnknownName(f"class in the glosses of {prompt.name}", strange, classes)
    return _checked(Prompt(given["prompt"], glosses, examples), classes, str(prompt))


def _checked(prompt: Prompt, classes: Sequence[str], what: str) -> Prompt:
    if (CLASS_SLOT in prompt.template) != bool(classes):
        need = (
            f"has no {CLASS_SLOT} for the class names" if classes else f"holds {CLASS_SLOT}, but no classes are given"
        )
        raise InputError(f"the prompt {what} {need}")
    if not prompt.template.strip():
        raise InputError(f"the prompt {what} is empty")
    return prompt
