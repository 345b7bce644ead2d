"""What a captioner says of every image, in columns beside the text that came with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image

from reverie import seeds
from reverie.errors import InputError, ReverieError
from reverie.models.names import IN_FLIGHT
from reverie.pairs import CAPTIONS, PAIRS
from reverie.recaption.flags import EMPTY, flags_of
from reverie.stage import StepContext, UnitStage, Worker, of_step
from reverie.store.pictures import Speed, decoded

Told = tuple[str | list[str] | None, str, list[str]]  # caption or captions, who said so, flags
Sayer = Callable[[Sequence[Image.Image], Sequence[int]], list[tuple[str | None, list[str]]]]
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class DescribeSpeed(Speed):
    """What changes the time, not the captions."""

    parallel: int = IN_FLIGHT  # requests at once, to a server; fewer while it says that they are too many


@dataclass(frozen=True)
class Describe(UnitStage):
    """Three columns: ``caption_short`` (or as ``column`` says) with what the captioner says, and two about it.

    ``caption_short_by`` names the captioner by its content, and ``caption_short_flags`` what is wrong with a caption (see
    recaption/flags.py). A caption without a word is null and flagged; all three are null where there is no readable image.
    What a sentence begins with when it speaks of the picture ("This image shows") is taken off.
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("image",)

    captioner: (
        Path | str
    )  # what ``open_describer`` opens: a run or weights of a captioner, a model's name, or step:NAME
    column: str = "caption_short"
    beams: int = 1  # 1 takes the likeliest word each time; more search that many sentences at once
    style: Literal["short", "long"] = "short"  # what is asked for, of a captioner that can be asked
    prompt: str = ""  # in place of what is usual for the captioner and the style
    max_tokens: int = 0  # longest caption, in the captioner's own tokens; 0 = as is usual for the style
    temperature: float | None = (
        None  # 0 takes the likeliest words; as is usual for the style when None: 0 of short ones, 0.7 of long ones
    )
    top_p: float | None = None  # likeliest words that together hold this probability are sampled from
    repetition_penalty: float | None = None  # divides the scores of words that are there already
    count_tokens_by: str = (
        ""  # model whose text encoder is to read the captions, by name; its tokenizer says what is too long
    )
    content: str = field(default="", init=False, compare=False)  # 16 hex digits of the captioner's weights and settings
    speed: DescribeSpeed = field(default_factory=DescribeSpeed)

    def __post_init__(self) -> None:
        from reverie.models.artifacts import content_of, has_artifact
        from reverie.models.names import locate

        if not NAME.fullmatch(self.column):
            raise InputError(f"--column {self.column!r}: small letters, digits and '_' only, such as caption_short")
        if taken := next((item.name for item in self.adds if item.name in (*PAIRS.names, *CAPTIONS.names)), None):
            raise InputError(
                f"--column {self.column!r} would overwrite the column {taken!r} of every pair; give another"
            )
        if self.beams < 1:
            raise InputError(f"{self.beams} beams cannot be; give 1 or more")
        if self.max_tokens < 0:
            raise InputError(f"--max-tokens {self.max_tokens}: give 1 or more, or 0 for what is usual")
        if of_step(str(self.captioner)):
            return
        kinds = [kind for kind in ("captioner", "describer") if has_artifact(kind, Path(self.captioner))]
        if kinds:
            object.__setattr__(self, "content", content_of(kinds[0], Path(self.captioner)))
        elif str(self.captioner).startswith("builtin:"):
            with suppress(ReverieError):  # check says what is wrong
                object.__setattr__(self, "content", locate(str(self.captioner)).revision or "")

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        """The columns."""
        return (
            pa.field(self.column, pa.string()),
            pa.field(f"{self.column}_by", pa.string()),
            pa.field(f"{self.column}_flags", pa.list_(pa.string())),
        )

    def check(self) -> None:
        """That there is a finished captioner that sees and can say this, before any work. Raises InputError, ModelError, UnknownName."""
        if of_step(str(self.captioner)):
            return
        from reverie.models.describer import check_describer, styles_of

        check_describer(self.captioner)
        if self.style not in styles_of(self.captioner):
            raise InputError(
                f"{self.captioner} is a captioner that says one sentence and cannot be asked for a {self.style} one"
            )
        if self.prompt and len(styles_of(self.captioner)) == 1:
            raise InputError(f"{self.captioner} is a captioner of reverie, which takes no prompt")

    def open(self, context: StepContext) -> Worker:
        """Load the captioner. Raises InputError, ModelError."""
        say, by = self._sayer(context)

        def describe(rows: pa.Table) -> pa.Table:
            told: list[Told | None] = [None] * len(rows)
            names = rows["pair_id"].to_pylist()
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                drawn = [
                    seeds.derive("describe", context.seed, names[number], self.style, context.retry)
                    for number in numbers
                ]
                for number, (text, flags) in zip(numbers, say(pictures, drawn), strict=True):
                    told[number] = (text, by, flags)
            return self._columns(rows, told)

        return describe

    def _columns(self, rows: pa.Table, told: Sequence[Told | None]) -> pa.Table:
        made: dict[str, Any] = {"pair_id": rows["pair_id"], "unit": rows["unit"]}
        for place, item in enumerate(self.adds):
            made[item.name] = pa.array([each and each[place] for each in told], item.type)
        return pa.table(made)

    def _sayer(self, context: StepContext) -> tuple[Sayer, str]:
        """What says of pictures, under a seed each, a caption with its flags, None where it has no word; and who says so."""
        from reverie.captions.class_captions import without_stem
        from reverie.models.describer import DECODING, Decoding, open_describer

        captioner = context.model(str(self.captioner))
        describer = open_describer(
            captioner,
            context.device,
            prompts={self.style: self.prompt} if self.prompt else None,
            cache=context.folder / "answers.sqlite",
            batch_size=self.speed.batch_size,
            parallel=self.speed.parallel,
        )
        usual = DECODING[self.style]
        temperature = usual.temperature if self.temperature is None else self.temperature
        how = Decoding(
            self.max_tokens or usual.max_tokens,
            0.0 if self.beams > 1 else temperature,
            usual.top_p if self.top_p is None else self.top_p,
            usual.repetition_penalty if self.repetition_penalty is None else self.repetition_penalty,
            self.beams,
        )
        count, limit = (
            _counter(self.count_tokens_by) if self.count_tokens_by else (describer.num_tokens, describer.limit)
        )
        asked = "" if len(describer.styles) == 1 else f", {self.style}"
        by = describer.revision + asked + f", beam {self.beams}" * (self.beams > 1)

        def say(pictures: Sequence[Image.Image], drawn: Sequence[int]) -> list[tuple[str | None, list[str]]]:
            texts = [without_stem(text) for text in describer.describe(pictures, drawn, self.style, how)]
            flags = [flags_of(text, length, limit) for text, length in zip(texts, count(texts), strict=True)]
            return [(None if EMPTY in own else text, own) for text, own in zip(texts, flags, strict=True)]

        return say, by


@dataclass(frozen=True)
class DescribeSeveral(Describe):
    """The same with ``count`` captions of an image in a list, each sampled from a seed of its own; flags are those of any of them."""

    count: int = 4

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        """The columns, the first of lists."""
        _, *about = super().adds
        return (pa.field(self.column, pa.list_(pa.string())), *about)

    def check(self) -> None:
        """That there is one that can say several, before any work. Raises what ``Describe`` does."""
        super().check()
        from reverie.models.describer import styles_of

        if not of_step(str(self.captioner)) and len(styles_of(self.captioner)) == 1:
            raise InputError(
                f"{self.captioner} is a captioner that says one sentence of an image, and not {self.count}; name another, or ask for one"
            )

    def open(self, context: StepContext) -> Worker:
        """Load the captioner. Raises InputError, ModelError."""
        say, by = self._sayer(context)

        def describe(rows: pa.Table) -> pa.Table:
            told: list[Told | None] = [None] * len(rows)
            names = rows["pair_id"].to_pylist()
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                turns = [
                    say(pictures, [seeds.derive("describe", context.seed, names[number], self.style, context.retry, turn) for number in numbers])
                    for turn in range(self.count)
                ]  # fmt: skip
                for number, said in zip(numbers, zip(*turns, strict=True), strict=True):
                    texts = [text for text, _ in said if text is not None]
                    told[number] = (texts or None, by, sorted({flag for _, flags in said for flag in flags}))
            return self._columns(rows, told)

        return describe


def _counter(name: str) -> tuple[Callable[[Sequence[str]], list[int]], int]:
    """Tokens of texts by the tokenizer of a text encoder or of a painter, and how many it takes. Raises ModelError, UnknownName."""
    from reverie.models.pretrained import load_tokenizer_within

    tokenizer = load_tokenizer_within(name)

    def count(texts: Sequence[str]) -> list[int]:
        return (
            [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]] if texts else []
        )

    return count, int(tokenizer.model_max_length)
