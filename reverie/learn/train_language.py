"""A small causal language model of a run's own, on its captions: what a captioner says its words with where no other is named.

It learns from text alone. Captioners of Synth² leave it as it is and learn where to look, so all arms say words equally well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reverie import pairs, seeds
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError
from reverie.learn.fit import Fit, fit, refuse_several
from reverie.learn.language import LanguageModel
from reverie.nets.words import split_words, write_tokenizer
from reverie.recaption.mix import Mix
from reverie.stage import Job, StepContext, Trial
from reverie.store import tables
from reverie.store.files import atomic_folder


@dataclass(frozen=True)
class TextBatches:
    """Random batches of texts, a pure function of (seed, position)."""

    texts: Sequence[str]
    batch: int
    seed: int

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        while True:
            rng = np.random.default_rng(seeds.derive("texts", self.seed, start))
            yield {"text": [self.texts[row] for row in rng.integers(len(self.texts), size=self.batch).tolist()]}
            start += 1


@dataclass(frozen=True)
class TrainLanguageModel(Job):
    """Captions of the run, and those of human pairs -> a vocabulary of their words and a language model, in ``context.weights()``."""

    store: Path | str | None = None  # folder of human pairs, or the step that took them; none when absent
    width: int = 128
    layers: int = 2
    heads: int = 4
    context: int = 64  # tokens of a text; longer ones are cut
    fit: Fit = field(default_factory=Fit)
    batch: int = 64
    mix: Mix | None = None  # captions of human pairs that are read; their own text when None

    def check(self) -> None:
        """Raises InputError for a store that is not there, or several processes."""
        refuse_several("a language model is trained")
        check_store(self.store)

    def run(self, context: StepContext) -> None:
        """Train, or go on training, then put the folder in place last. Raises InputError for too few captions."""
        if context.weights().exists():
            return
        texts = sorted(self._said(context))
        if len(texts) < 2:
            raise InputError("a language model needs two different captions or more to learn from")
        work = context.checkpoints()
        write_tokenizer(work / "tokenizer", split_words(texts), self.context)
        learner = LanguageModel(str(work / "tokenizer"), "", self.width, self.layers, self.heads, self.context)
        seed = seeds.derive("language model", context.seed)
        batches = TextBatches(texts, self.batch, seed)
        net, losses = fit(learner, batches, self.fit, work, seed=seed, device=context.device, report=context.report)
        with atomic_folder(context.weights()) as temporary:
            learner.save(net, temporary)
        context.report("trained", steps=self.fit.steps, captions=len(texts), **losses)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """So few steps, unless the minutes say how long it takes."""
        if self.fit.minutes is not None:
            return None
        short = dataclasses.replace(self.fit, steps=min(steps, self.fit.steps))
        return Trial(dataclasses.replace(self, fit=short), self.fit.steps)

    def _said(self, context: StepContext) -> set[str]:
        found = set(_texts(shots_store(context, self.store), self.mix)) if self.store else set()
        return found.union(_texts(context.captions)) if tables.exists(context.captions) else found


def _texts(path: Path, mix: Mix | None = None) -> Iterator[str]:
    for part in tables.scan(path, list(mix.columns if mix else ("text",)), f"status = '{pairs.OK}'"):
        rows = part.to_pylist()
        texts = (text for row in rows for text in (mix.all(row) if mix else (row["text"] or "",)))
        yield from (text.strip() for text in texts if text.strip())
