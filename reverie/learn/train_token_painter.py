"""Pairs of a store that are image tokens -> a painter of such tokens of one's own: vocabulary and masked model.

The "controlled" setting of Synth² (arXiv:2403.07750): a painter that has seen nothing but known images and captions. Real
pictures become tokens by ``images/tokens.py`` or ``reverie tokenize`` first; no image is read here. Result: an
``AmusedPipeline`` folder, to be named as ``painter`` in other recipes, and in it ``manifest.json``, which names the pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie import seeds
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError
from reverie.learn.fit import Fit, fit, refuse_several
from reverie.learn.manifest import manifest_of, write_manifest
from reverie.learn.text_to_tokens import TextToTokens
from reverie.learn.train_painter import LatentBatches
from reverie.models.pretrained import load_tokenizer_of
from reverie.models.tokenizer import Tokenizer, check_same_codes, open_tokenizer
from reverie.nets.words import split_words, write_tokenizer
from reverie.pairs import TOKEN_COLUMNS
from reverie.recaption.mix import Mix
from reverie.stage import Job, StepContext, Trial
from reverie.store.files import atomic_folder


@dataclass(frozen=True)
class TrainTokenPainter(Job):
    """A job that resumes from its checkpoints; the pipeline lands in ``context.weights()`` last."""

    # whose ids the tokens are: a VQModel, a pipeline that has one, or step:NAME of a step that trains one
    tokenizer: str = "builtin:tokenizer"
    store: Path | str | None = (
        None  # folder with pairs.lance, or the step that took the pairs; the run's own when left out
    )
    where: str = "status = 'ok' and tokens is not null"
    text_encoder: str = (
        ""  # CLIP folder or name, whose vocabulary and text tower to start from; its own words when empty
    )
    width: int = 192  # of the transformer
    layers: int = 4
    heads: int = 6
    conv_width: int = 96
    conv_blocks: int = 3
    conv_heads: int = 3
    text_width: int = 128
    text_layers: int = 2
    caption_drop: float = 0.1
    fit: Fit = field(default_factory=Fit)
    batch: int = 64
    longest: int = 40  # tokens of a caption, with start and end
    mix: Mix | None = None  # which caption a pair has at a visit; its own text when None

    def check(self) -> None:
        """Raises InputError for a store that is not there, or several processes."""
        refuse_several("a token painter is trained")
        check_store(self.store)

    def run(self, context: StepContext) -> None:
        """Train what is not trained yet. Raises InputError for tokens that the tokenizer cannot mean, or of several grids."""
        if context.weights().exists():
            return
        tokenizer = context.model(self.tokenizer)
        known = open_tokenizer(tokenizer)
        pairs = shots_store(context, self.store) if self.store else context.pairs
        ids, captions, names, rows = read_tokens(pairs, self.where, known, self.mix)
        every = [text for row in rows for text in self.mix.all(row)] if self.mix else captions
        work = context.checkpoints()
        words = self.text_encoder or str(work / "tokenizer")
        if not self.text_encoder:
            write_tokenizer(work / "tokenizer", split_words(every), self.longest)
        self._tell_cut(every, words, context)
        learner = TextToTokens(
            tokenizer,
            words,
            grid=ids.shape[-1],
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            conv_width=self.conv_width,
            conv_blocks=self.conv_blocks,
            conv_heads=self.conv_heads,
            text_width=self.text_width,
            text_layers=self.text_layers,
            text_encoder=self.text_encoder,
            caption_drop=self.caption_drop,
        )
        seed = seeds.derive("token painter", context.seed)
        batches = LatentBatches(ids, [[text] for text in captions], self.batch, seed)
        if self.mix:
            batches = MixedLatents(ids, [], self.batch, seed, rows=rows, mix=self.mix)
        net, losses = fit(learner, batches, self.fit, work, seed=seed, device=context.device, report=context.report)
        with atomic_folder(context.weights()) as temporary:
            learner.save(net, temporary)
            if not self.text_encoder:  # which has learned from pairs that no manifest here names
                write_manifest(manifest_of(names, captions, list(ids.numpy())), temporary)
        context.report("trained", steps=self.fit.steps, images=len(ids), **losses)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """So few steps, unless the minutes say how long it takes."""
        if self.fit.minutes is not None:
            return None
        short = dataclasses.replace(self.fit, steps=min(steps, self.fit.steps))
        return Trial(dataclasses.replace(self, fit=short), self.fit.steps)

    def _tell_cut(self, captions: Sequence[str], words: str, context: StepContext) -> None:
        text_tokenizer = load_tokenizer_of(words)
        distinct, limit = sorted(set(captions)), text_tokenizer.model_max_length
        tokens = text_tokenizer(distinct, truncation=False, verbose=False)["input_ids"]
        if cut := sum(len(each) > limit for each in tokens):
            text = f"{cut:,} of {len(distinct):,} captions are longer than {limit - 2} words and are cut there"
            context.report("warning", text=text)


@dataclass(frozen=True)
class MixedLatents(LatentBatches):
    """Batches of ids, each with a caption that a mix draws at the visit."""

    rows: Sequence[Mapping[str, Any]] = ()  # what each is drawn from, N of them
    mix: Mix | None = None

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, Any]:
        """A batch of ``count``."""
        assert self.mix
        places = rng.integers(len(self.rows), size=count)
        visits = rng.integers(1 << 62, size=count).tolist()
        text = [self.mix.draw(self.rows[place], visit) for place, visit in zip(places.tolist(), visits, strict=True)]
        return {"latents": self.latents[torch.from_numpy(places)].float(), "text": text}


class Read(NamedTuple):
    """Pairs that have image tokens, in stored order."""

    ids: Tensor  # (N, rows, columns) as small as they can be kept
    captions: list[str]  # of each, or, where one of several is drawn, the first that it has
    names: list[str]
    rows: list[dict[str, Any]]  # what a mix draws from; nothing without one


def read_tokens(path: Path, where: str, known: Tokenizer, mix: Mix | None = None) -> Read:
    """The image tokens of pairs, their captions and ids.

    Reads no image. Raises: InputError for no pair, a pair without a caption, ids that ``known`` does not have or another
    codebook's, and grids that differ or are not square.
    """
    from reverie.store import tables

    parts: list[Any] = []
    captions: list[str] = []
    names: list[str] = []
    told: list[dict[str, Any]] = []
    shape: tuple[int, ...] | None = None
    texts = mix.columns if mix else ("text",)
    where = mix.usable(path, where) if mix else where
    for rows in tables.scan(path, ["pair_id", *texts, *TOKEN_COLUMNS], where):
        for row in rows.to_pylist():
            name = f"pair {row['pair_id']} of {path}"
            caption = mix.draw(row, 0) if mix else row["text"] or ""
            if not caption.strip():
                raise InputError(f"{name} has no caption; add \"text != ''\" to the filter")
            if row["tokens"] is None:
                raise InputError(f"{name} has no image tokens; make them with: reverie tokenize {path.parent}")
            if row["codebook"] is not None:
                check_same_codes(known, row["codebook"], name)
            grid = tuple(row["grid"] or ())
            if (
                len(grid) != 2
                or grid[0] != grid[1]
                or grid[0] * grid[1] != len(row["tokens"])
                or grid != (shape or grid)
            ):
                wanted = f"{shape[0]} x {shape[1]}" if shape else "a square"
                raise InputError(f"{name} has {len(row['tokens'])} tokens in a grid of {list(grid)}, not in {wanted}")
            shape = grid
            captions.append(caption)
            names.append(row["pair_id"])
            if mix:
                told.append({column: row[column] for column in texts})
            parts.append(np.array(row["tokens"], np.int32))
    if shape is None:
        raise InputError(f"no pair of {path} fits {where!r}, so there are no image tokens to learn from")
    ids = np.stack(parts).reshape(-1, *shape)
    known.check(ids)
    small = np.int16 if known.num_codes <= np.iinfo(np.int16).max else np.int32
    return Read(torch.from_numpy(ids.astype(small)), captions, names, told)
