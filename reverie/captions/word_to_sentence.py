"""Word to sentence: a language model says the name of a class in many different sentences (language enhancement).

    class -> draw 0, 1, 2, ... (one seed each) -> those that name the class and were not said before -> in their context

Source: arXiv:2210.07574, language enhancement (a T5 tuned on CommonGen, 250 sentences sampled for 200 distinct ones).
Differs: the paper's script stops where too few sentences differ; here more are drawn, and those that are still missing become failed rows
with a reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from reverie import pairs
from reverie.captions.checks import check, same
from reverie.captions.classes import read_classes, read_synonyms
from reverie.captions.domains import CAPTION, check_context, in_context
from reverie.captions.llm import WriterSpeed, check_sampling, opened, tidy, tokens_told, unnamed
from reverie.errors import InputError
from reverie.pairs import CLASS_SLOT
from reverie.seeds import derive
from reverie.stage import SourceStage, StepContext, Worker

if TYPE_CHECKING:  # torch is loaded when the stage is opened, not when its options are read
    from reverie.models.writer import Writer

ROUND = 1000  # sentences wanted in one round at most, so that a large class is drawn and committed bit by bit
HIGH = 0.5  # share of refused sentences that is worth a warning
SHOWN = 5  # classes that a warning names


@dataclass(frozen=True)
class WordToSentence(SourceStage):
    """Distinct sentences about each class, written by a language model that is given the class name.

    A sentence must pass captions/checks.py, name its class or a synonym, and differ from all others of its class. Those that
    do not are kept as dropped rows with the reason. Sentence p of a class is the p-th usable one of its draws, so it is the
    same for any unit size, part of a run or restart; whoever begins in the middle of a class draws its beginning again.
    """

    writes: ClassVar[Literal["captions"]] = "captions"

    classes: tuple[str, ...] | Path  # names, or a file with one a line or a JSON list
    per_class: int = 200  # distinct sentences of each class
    model: str = "builtin:words"  # builtin:NAME, a folder, a Hub id, or openai:MODEL@URL; seq2seq or causal
    synonyms: Mapping[str, tuple[str, ...]] | Path | None = None  # class name -> words that count as naming it; or JSON
    context: str = CAPTION  # how a sentence is said in the domain: "a centered satellite photo of {caption}"
    prompt: str = CLASS_SLOT  # how the model is given the class name
    temperature: float = 1.0  # divides the logits
    top_p: float = 0.95  # sample from the likeliest tokens that hold this much probability
    max_tokens: int = 48
    surplus: float = 0.25  # how many more sentences are drawn at once than are still wanted
    max_tries: int = 8  # draws for each sentence wanted of a class, before what is missing is given up as failed
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of a local model
    max_chars: int = 300
    max_words: int = 60
    speed: WriterSpeed = field(default_factory=WriterSpeed)

    def __post_init__(self) -> None:
        if self.per_class < 1 or self.max_tries < 1 or self.max_tokens < 1:
            raise InputError("per_class, max_tries and max_tokens must be at least 1")
        check_sampling(self.temperature, self.top_p)
        if self.temperature == 0 and self.per_class > 1:
            raise InputError("at temperature 0 every sentence of a class is the same; sampling needs more")
        if self.surplus < 0:
            raise InputError(f"a surplus of {self.surplus} draws fewer sentences than are wanted; give 0 or more")
        if CLASS_SLOT not in self.prompt:
            raise InputError(f"the prompt {self.prompt!r} has no {CLASS_SLOT} for the class name")
        check_context(self.context)

    @property
    def count(self) -> int:
        """Captions that will be made. Raises InputError for a class list or synonyms that are not usable."""
        return len(self._names) * self.per_class

    def check(self) -> None:
        """Raises what the lists raise; UnknownName, ModelError for a model that is not there."""
        _ = self._names
        from reverie.models.kinds import check_writer

        check_writer(self.model)

    def open(self, context: StepContext) -> Worker:
        """Load the model. Raises ModelError, UnknownName, InputError."""
        return self.worker(opened(self.model, self.dtype, self.speed, context), context)

    def worker(self, writer: Writer, context: StepContext) -> Worker:
        """The work with an open writer. Position p is sentence p modulo per_class of class p // per_class."""
        classes: dict[int, _Sentences] = {}
        rates = _Rates(self.model, context)

        def write(wanted: pa.Table) -> pa.Table:
            nonlocal classes
            places = [divmod(position, self.per_class) for position in wanted["position"].to_pylist()]
            # Units come in order, so a class that this one does not touch is done with.
            classes = {
                number: classes.get(number) or _Sentences(self, self._names[number], writer, context)
                for number in dict.fromkeys(number for number, _ in places)
            }
            rows: list[dict[str, Any]] = []
            with tokens_told(writer, context):
                for (number, index), unit in zip(places, wanted["unit"].to_pylist(), strict=True):
                    rows.extend({**row, "unit": unit} for row in classes[number].rows(index))
                    if index == self.per_class - 1:
                        rates.add(classes[number], last=number == len(self._names) - 1)
            return pairs.table(rows, pairs.CAPTIONS)

        return write

    @cached_property
    def _names(self) -> tuple[tuple[str, ...], ...]:
        """For each class its name, then what also counts as naming it."""
        classes = read_classes(self.classes)
        synonyms = read_synonyms(self.synonyms, classes)
        return tuple((name, *synonyms.get(name, ())) for name in classes)


class _Sentences:
    """The draws of one class, as far as they were needed.

    They are drawn in rounds that hold nothing else, and whose sizes follow from the class alone: so the model sees the same
    batches whoever asks, and not even the rounding of its arithmetic can tell two runs apart.
    """

    def __init__(self, stage: WordToSentence, names: tuple[str, ...], writer: Writer, context: StepContext) -> None:
        self.stage, self.names, self.writer, self.seed = stage, names, writer, context.seed
        self.label = names[0]
        self.max_draws = (1 + context.retry) * stage.max_tries * stage.per_class  # a retry goes on with further draws
        self.texts: list[str] = []  # of every draw
        self.reasons: list[str | None] = []  # for refusing it
        self.good: list[int] = []  # numbers of the usable ones
        self._taken: set[str] = set()

    def rows(self, index: int) -> Iterator[dict[str, Any]]:
        """Sentence ``index``, with what was refused since the one before it."""
        while len(self.good) <= index and len(self.texts) < self.max_draws:
            self._draw()
        if index <= len(self.good):
            first = self.good[index - 1] + 1 if index else 0
            end = self.good[index] if index < len(self.good) else len(self.texts)
            for number in range(first, end):
                yield self._row(f"draw {number}", pairs.DROPPED, number)
        if index < len(self.good):
            yield self._row(str(index), pairs.OK, self.good[index])
        else:
            yield {**self._row(str(index), pairs.FAILED), "reason": self._why}

    @property
    def looked_at(self) -> int:
        """Draws up to the last sentence that is wanted; those after it are surplus."""
        wanted = self.stage.per_class
        return self.good[wanted - 1] + 1 if len(self.good) >= wanted else len(self.texts)

    @property
    def refused(self) -> list[str]:
        """The reasons, one a refused draw."""
        return [reason for reason in self.reasons[: self.looked_at] if reason]

    def _draw(self) -> None:
        stage, first = self.stage, len(self.texts)
        missing = min(stage.per_class - len(self.good), ROUND)
        numbers = range(first, first + math.ceil(missing * (1 + stage.surplus)))
        texts = self.writer.write(
            [self._prompt] * len(numbers),
            [self._seed(number) for number in numbers],
            stage.max_tokens,
            stage.temperature,
            stage.top_p,
        )
        for number, text in zip(numbers, texts, strict=True):
            caption, reason = self._judged(text)
            self.texts.append(caption)
            self.reasons.append(reason)
            if reason is None:
                self.good.append(number)

    def _judged(self, text: str) -> tuple[str, str | None]:
        stage = self.stage
        sentence, reason = tidy(text, stage.max_chars, stage.max_words)
        reason = reason or unnamed(sentence, self.names)
        if reason is None and same(sentence) in self._taken:
            reason = "duplicate within its class"
        if reason is not None:
            return sentence, reason
        self._taken.add(same(sentence))
        if stage.context == CAPTION:
            return sentence, None
        return check(in_context(sentence, stage.context), stage.max_chars, stage.max_words)

    def _row(self, name: str, status: pairs.Status, number: int | None = None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "caption_id": pairs.caption_id(self.seed, "words", f"{name}/{self.label}"),
            "label": self.label,
            "source": "words",
            "writer": self.writer.revision,
            "prompt": self._prompt,
            "status": status,
        }
        if number is not None:
            row |= {"text": self.texts[number], "reason": self.reasons[number], "seed": self._seed(number)}
        return row

    @property
    def _prompt(self) -> str:
        return self.stage.prompt.replace(CLASS_SLOT, self.label)

    def _seed(self, number: int) -> int:
        return derive("words", self.seed, self.label, number)

    @cached_property
    def _why(self) -> str:
        """Why a sentence failed; asked when there will be no further draws."""
        return (
            f"{len(self.texts):,} draws gave {len(self.good):,} of {self.stage.per_class:,} usable sentences; "
            f"most often: {_commonest(self.refused)}"
        )


class _Rates:
    """What share of its sentences each class refused: told of every class, and warned of where it is high."""

    def __init__(self, model: str, context: StepContext) -> None:
        self.model, self.context = model, context
        self.high: dict[str, float] = {}
        self.num_classes = self.num_told = 0

    def add(self, sentences: _Sentences, last: bool) -> None:
        """A class is through; ``last`` is the last of all."""
        drawn, refused = sentences.looked_at, sentences.refused
        rate, why = len(refused) / drawn, _commonest(refused)
        self.context.report(
            "refused", label=sentences.label, drawn=drawn, refused=len(refused), rate=round(rate, 4), why=why
        )
        self.num_classes += 1
        if rate > HIGH:
            self.high[sentences.label] = rate
        # Each time there are twice as many, so that a model which is no good for a thousand classes is not a thousand lines.
        if len(self.high) >= max(1, 2 * self.num_told) or (last and len(self.high) > self.num_told):
            self.num_told = len(self.high)
            worst = sorted(self.high.items(), key=lambda item: -item[1])[:SHOWN]
            self.context.report(
                "warning",
                text=f"{self.model}: more than {HIGH:.0%} of the sentences were refused for {len(self.high)} of "
                f"{self.num_classes} classes; worst: {', '.join(f'{label} {rate:.0%}' for label, rate in worst)}",
            )


def _commonest(reasons: list[str]) -> str | None:
    return Counter(reasons).most_common(1)[0][0] if reasons else None
