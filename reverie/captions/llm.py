"""Ask a language model for captions, and ask again for those that are not usable."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from reverie import pairs
from reverie.captions.checks import check, same
from reverie.captions.classes import read_classes
from reverie.captions.domains import CAPTION, check_context, in_context
from reverie.captions.prompts import OWN, Prompt, default_prompt, read_prompt
from reverie.errors import InputError
from reverie.models.names import IN_FLIGHT
from reverie.ranges import check_min
from reverie.seeds import derive
from reverie.stage import SourceStage, StepContext, Worker

if TYPE_CHECKING:  # torch is loaded when the stage is opened, not when its options are read
    from reverie.models.writer import Writer


@dataclass(frozen=True)
class WriterSpeed:
    """What changes the time, not the text."""

    batch_size: int = 64  # prompts at once, in this process
    parallel: int = IN_FLIGHT  # requests at once, to a server; fewer while it says that they are too many


@dataclass(frozen=True)
class AskWriter(SourceStage):
    """Captions sampled from a transformers causal language model, or from an OpenAI-compatible server.

    Every caption must pass captions/checks.py, name its class, and differ from the others of its unit. Those that do not
    are kept as dropped rows with the reason, and the model is asked again with the next seed.
    """

    writes: ClassVar[Literal["captions"]] = "captions"

    writer: str = "builtin:writer"  # builtin:NAME, a folder, a Hub id, or openai:MODEL@URL
    classes: tuple[str, ...] | Path = ()  # names, or a file of them; without any, captions carry no label
    per_class: int = 1  # captions for each class (in all, when there are no classes)
    prompt: str | Path = ""  # text or file, see captions/prompts.py; when empty, what suits the kind of model
    names_class: bool = True  # refuse captions in which a word of the class name is missing
    temperature: float = 1.0  # divides the logits; 0 takes the likeliest token
    top_p: float = 0.95  # sample from the likeliest tokens that hold this much probability
    max_tokens: int = 48
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of a local model
    max_chars: int = 300
    max_words: int = 60
    max_tries: int = 8  # draws for one caption before it is given up as failed
    context: str = CAPTION  # how a caption is said in the domain: "a centered satellite photo of {caption}"
    speed: WriterSpeed = field(default_factory=WriterSpeed)

    def __post_init__(self) -> None:
        if self.per_class < 1 or self.max_tries < 1 or self.max_tokens < 1:
            raise InputError("per_class, max_tries and max_tokens must be at least 1")
        check_sampling(self.temperature, self.top_p)
        check_context(self.context)
        check_min(1, max_words=self.max_words, max_chars=self.max_chars)
        if not self.prompt and not self.classes:
            raise InputError("without classes a language model needs a prompt that says what to write")
        if not self.prompt and self.writer.startswith("builtin:"):
            object.__setattr__(self, "prompt", OWN)
        if isinstance(self.prompt, str) and self.prompt:
            read_prompt(self.prompt, ("",) if self.classes else ())

    @property
    def count(self) -> int:
        """Captions that will be made. Raises InputError for a class list or prompt file that is not usable."""
        if isinstance(self.prompt, Path):
            read_prompt(self.prompt, self._classes)
        return max(1, len(self._classes)) * self.per_class

    def check(self) -> None:
        """Raises UnknownName, ModelError, InputError for a model that is not there."""
        from reverie.models.kinds import check_writer

        check_writer(self.writer)

    def open(self, context: StepContext) -> Worker:
        """Load the model. Raises ModelError, UnknownName, InputError."""
        return self.worker(opened(self.writer, self.dtype, self.speed, context), context)

    def worker(self, writer: Writer, context: StepContext) -> Worker:
        """The work with an open writer. Position p is about class p // per_class."""
        # An adapter of a user's own may not say whether it follows instructions.
        prompts = self._prompts(bool(getattr(writer, "chats", False)))

        def write(wanted: pa.Table) -> pa.Table:
            asked = [self._asked(unit, position, context.seed, prompts) for unit, position in _places(wanted)]
            with tokens_told(writer, context):
                rows = self._rows(asked, writer, context.seed, context.retry * self.max_tries)
            return pairs.table(rows, pairs.CAPTIONS)

        return write

    def _rows(self, asked: list[dict[str, Any]], writer: Writer, run_seed: int, first: int) -> list[dict[str, Any]]:
        taken: set[str] = set()
        rows: list[dict[str, Any]] = []
        left = asked
        for attempt in range(first, first + self.max_tries):
            seeds = [derive("caption", run_seed, row["caption_id"], attempt) for row in left]
            texts = writer.write([row["prompt"] for row in left], seeds, self.max_tokens, self.temperature, self.top_p)
            refused = []
            for row, seed, text in zip(left, seeds, texts, strict=True):
                caption, reason = self._judged(text, row["label"], taken)
                made = {**row, "text": caption, "seed": seed, "writer": writer.revision, "reason": reason}
                if reason is None:
                    rows.append({**made, "status": pairs.OK})
                else:
                    name = pairs.caption_id(run_seed, "llm", f"{row['caption_id']}/{attempt}")
                    rows.append({**made, "caption_id": name, "status": pairs.DROPPED})
                    refused.append((row, reason))
            left = [row for row, _ in refused]
            if not left:
                return rows
        for row, reason in refused:
            why = f"no usable caption in {self.max_tries} tries, the last one: {reason}"
            rows.append({**row, "writer": writer.revision, "status": pairs.FAILED, "reason": why})
        return rows

    def _prompts(self, chats: bool) -> tuple[Prompt, ...]:
        return (read_prompt(self.prompt, self._classes) if self.prompt else default_prompt(chats),)

    def _asked(self, unit: int, position: int, run_seed: int, prompts: Sequence[Prompt]) -> dict[str, Any]:
        # The captions of a class stand together, so that one unit holds most of those that could repeat each other.
        label = self._classes[position // self.per_class] if self._classes else None
        return {
            "caption_id": pairs.caption_id(run_seed, "llm", position),
            "unit": unit,
            "label": label,
            "source": "llm",
            "prompt": prompts[position % len(prompts)].of(label),
        }

    def _judged(self, text: str, label: str | None, taken: set[str]) -> tuple[str, str | None]:
        caption, reason = tidy(text, self.max_chars, self.max_words, label)
        if reason is None and label and self.names_class:
            reason = unnamed(caption, (label,))
        if reason is None and same(caption) in taken:
            reason = "duplicate within its unit"
        if reason is not None:
            return caption, reason
        taken.add(same(caption))
        if self.context == CAPTION:
            return caption, None
        return check(in_context(caption, self.context), self.max_chars, self.max_words)

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return read_classes(self.classes) if self.classes else ()


def opened(name: str, dtype: str, speed: WriterSpeed, context: StepContext) -> Writer:
    """The language model of a stage; a server's answers are kept in the run folder. Errors as in ``open_writer``."""
    from reverie.models.writer import open_writer

    return open_writer(
        name,
        context.device,
        dtype=dtype,
        cache=context.folder / "requests.sqlite",
        batch_size=speed.batch_size,
        parallel=speed.parallel,
    )


@contextmanager
def tokens_told(writer: Writer, context: StepContext) -> Iterator[None]:
    """Report how many tokens a writer reads and writes in this block, where it counts them."""

    def counts() -> tuple[int, int]:
        return getattr(writer, "num_read", 0), getattr(writer, "num_written", 0)

    before = counts()
    yield
    read, written = (now - then for now, then in zip(counts(), before, strict=True))
    if read or written:
        context.report("tokens", read=read, written=written)


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises InputError for numbers that no sampling knows."""
    if not 0 <= temperature < math.inf:
        raise InputError(
            f"--temperature {temperature:g}: give a number of 0 (the likeliest words) or more, such as 0.7"
        )
    if not 0 < top_p <= 1:
        raise InputError(f"top_p {top_p:g} must lie in (0, 1]")


THINKING = re.compile(r"<(think|thinking|thought|reasoning)>", re.IGNORECASE)
THOUGHT = re.compile(r".*</(think|thinking|thought|reasoning)>", re.IGNORECASE | re.DOTALL)
# What comes before a caption: a number or a dash, "Caption:", "Sure! Here is a short caption for the photo:".
ITEM = re.compile(r"^(?:[-*•>#]+\s+|\(?\d{1,2}[.):]\s+)")
STEM = re.compile(
    r"^(?:[^:]{0,80}\b(?:caption|description|sentence|answer|photo|image|picture)\b[^:]{0,40}|sure\b[^:]{0,80}):\s*(?=\S|$)",
    re.IGNORECASE,
)
QUOTES = ' \t"“”„«»*_`'


def tidy(text: str, max_chars: int, max_words: int, label: str | None = None) -> tuple[str, str | None]:
    """The caption in what a model wrote, and why it cannot be one: see ``checks.check``.

    What a model thought before it answered is no part of the caption, nor are the words and marks that chat models put
    around it. One that goes on after the caption does so on the next line.
    """
    text = THOUGHT.sub("", text)
    if THINKING.search(text):
        return "", "it ends in the midst of thinking; give the model more tokens"
    for line in text.splitlines():
        caption = ITEM.sub("", line.strip()).strip(QUOTES)
        stem = STEM.match(caption)
        named = stem is None and label and re.match(rf"{re.escape(label)}\s*:\s*", caption, re.IGNORECASE)
        begun = stem or named or None
        caption = ITEM.sub("", caption[begun.end() :]).strip(QUOTES) if begun else caption
        if caption:
            return check(caption, max_chars, max_words)
    return check("", max_chars, max_words)


def unnamed(caption: str, names: Sequence[str]) -> str | None:
    """Why a caption does not count as one about its class: the class name comes first, then words that also count."""
    missing = [words_missing(caption, name) for name in names]
    if not all(missing):
        return None
    return f"does not name its class: {' '.join(missing[0])} is missing"


def words_missing(caption: str, label: str) -> list[str]:
    """Words of a class name that a caption does not hold, in any order, singular or regular plural, any case.

    In scripts without spaces a word counts as held wherever its characters stand together.
    """
    low = caption.casefold()
    return [word for word in re.split(r"[\s_-]+", label.casefold()) if word and not _holds(low, word)]


def _holds(text: str, word: str) -> bool:
    if not word.isascii():
        return word in text
    stem = re.escape(word[:-1]) + "(y|ies)" if word.endswith("y") else re.escape(word) + "(s|es)?"
    return re.search(rf"(?<![a-z0-9]){stem}(?![a-z0-9])", text) is not None


def _places(wanted: pa.Table) -> list[tuple[int, int]]:
    return list(zip(wanted["unit"].to_pylist(), wanted["position"].to_pylist(), strict=True))
