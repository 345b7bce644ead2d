"""Pairs of a store -> a text-to-image pipeline: of one's own, from vocabulary, autoencoder, latents and denoiser, or one that is
trained on.

From scratch it is the "controlled" setting of Synth² (arXiv:2403.07750): a painter that has seen nothing but known images and
captions. Result: a pipeline folder of diffusers, to be named as ``painter`` in other recipes.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from reverie import seeds
from reverie.datasets.few_shot import check_store
from reverie.errors import InputError
from reverie.learn.autoencoder import Autoencoder, encode
from reverie.learn.fit import Fit, fit
from reverie.learn.pipelines import Parts, start_of
from reverie.learn.text_to_image import TextToImage
from reverie.learn.train import Train
from reverie.models.names import locate
from reverie.models.pretrained import check_networks
from reverie.nets.words import split_words, write_tokenizer
from reverie.pairs import CLASS_SLOT
from reverie.stage import Job, StepContext
from reverie.store.files import atomic_folder


@dataclass(frozen=True)
class LatentBatches:
    """Random batches of latents, each with one of its captions; a pure function of (seed, position, rank)."""

    latents: Tensor  # (N, c, h, w)
    captions: Sequence[Sequence[str]] | Tensor  # N times one or more; or their token ids (N, captions, tokens)
    batch: int
    seed: int
    rank: int = 0  # of this process

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``: ``latents`` (batch, c, h, w) and ``text`` or ``token_ids``."""
        while True:
            yield self.draw(np.random.default_rng(seeds.derive("latents", self.seed, start, self.rank)), self.batch)
            start += 1

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, Any]:
        """A batch of ``count``."""
        rows = rng.integers(len(self.captions), size=count)
        latents = self.latents[torch.from_numpy(rows)].float()
        if isinstance(self.captions, Tensor):
            which = rng.integers(self.captions.shape[1], size=count)
            return {
                "latents": latents,
                "token_ids": self.captions[torch.from_numpy(rows), torch.from_numpy(which)].long(),
            }
        text = [self.captions[row][int(rng.integers(len(self.captions[row])))] for row in rows.tolist()]
        return {"latents": latents, "text": text}


@dataclass(frozen=True)
class Curriculum:
    """Batches drawn from several sets, in shares that change as the training goes on.

    A batch is a pure function of (seed, position, rank), and has as many rows of each set as its share says, to within one.
    """

    sets: Sequence[LatentBatches]  # all with token ids, or all with texts; their own batch, seed and rank do not count
    shares: Mapping[
        int, Sequence[float]
    ]  # from images seen by all processes to the share of each set; linear in between
    batch: int  # of each process
    seed: int
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        for seen, shares in self.shares.items():
            if len(shares) != len(self.sets) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise InputError(f"shares {tuple(shares)} from {seen:,} images on are not {len(self.sets)} parts of 1")

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        while True:
            rng = np.random.default_rng(seeds.derive("curriculum", self.seed, start, self.rank))
            counts = self.counts(start)
            parts = [part.draw(rng, count) for part, count in zip(self.sets, counts, strict=True) if count]
            yield {
                key: torch.cat([part[key] for part in parts])
                if isinstance(parts[0][key], Tensor)
                else [text for part in parts for text in part[key]]
                for key in parts[0]
            }
            start += 1

    def counts(self, position: int) -> list[int]:
        """How many rows of the batch at a position come from each set; they add up to the batch."""
        knots = sorted(self.shares)
        seen = position * self.batch * self.processes
        shares = [
            np.interp(seen, knots, [self.shares[knot][index] for knot in knots]) for index in range(len(self.sets))
        ]
        ends = np.rint(np.cumsum(shares) * self.batch).astype(int)
        return [int(count) for count in np.diff(ends, prepend=0)]


@dataclass(frozen=True)
class PairCaptions:
    """Captions of a pair: its own text, or templates filled with its label, one of which is drawn at each visit."""

    templates: tuple[str, ...] = ()  # "{class}" is the label's place

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table of pairs, which are looked at."""
        return ("label",) if self.templates else ("text",)

    def all(self, row: Mapping[str, Any]) -> list[str]:
        """Every caption that a pair can have."""
        if not self.templates:
            return [row["text"]]
        return [template.replace(CLASS_SLOT, row["label"]) for template in self.templates]

    def draw(self, row: Mapping[str, Any], seed: int) -> str:
        """One of them."""
        captions = self.all(row)
        return captions[seed % len(captions)]

    def check(self, store: Path, where: str) -> None:
        """Raises InputError for pairs that have no caption."""
        from reverie.store import tables

        (column,) = self.columns
        if lacking := tables.count(store, f"({where}) and {column} is null"):
            what = "templates need a class for every pair" if self.templates else "every pair needs a caption"
            raise InputError(f"{what}, and {store} has {lacking:,} without a {column}")


@dataclass(frozen=True)
class TrainPainter(Job):
    """A job; its parts are kept apart, so that a kill costs no more than the part in hand since its checkpoint."""

    together: ClassVar[bool] = True  # by all processes of an ``accelerate launch``

    store: Path | None = None  # folder with pairs.lance; the run's own when left out
    where: str = "status = 'ok'"
    templates: tuple[str, ...] = ()  # captions from the label, "{class}" its place; the pairs' own texts when left out
    size_px: int = 0  # side of pictures; 0 = what ``start`` was made for, or 32
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    autoencoder_fit: Fit = field(default_factory=Fit)
    autoencoder_batch: int = 16
    channels: tuple[int, ...] = (64, 128)  # of the U-Net, finest first
    attention: tuple[bool, ...] = (True, True)
    text_width: int = 128
    text_layers: int = 2
    fit: Fit = field(default_factory=Fit)
    batch: int = 64  # of all processes together
    longest: int = 40  # tokens of a caption, with start and end
    start: str = (
        ""  # pipeline by name or folder to train on; what says how a painter is made from scratch then does not count
    )
    parts: Parts = "both"  # of ``start``, what learns: its U-Net (or transformer), its text encoders, or both
    text_rate: float = 1.0  # learning rate of the text encoders, as a multiple of the network's
    caption_drop: float = 0.1  # share of captions replaced by the empty one, for guidance

    def check(self) -> None:
        """Raises InputError, ModelError, UnknownName for a store that is not there, a start that cannot be trained, or a side that does not fit."""
        check_store(self.store)
        world = int(os.environ.get("WORLD_SIZE", 1))
        for batch in (self.batch,) if self.start else (self.batch, self.autoencoder_batch):
            if batch % world:
                raise InputError(f"a batch of {batch} cannot be shared equally by {world} processes")
        if self.start:
            self._further().check()
            check_networks(locate(self.start))
            self._fits(start_of(self.start).multiple)
        else:
            self._fits(2 ** (len(self.autoencoder.channels) - 1))

    def run(self, context: StepContext) -> None:
        """Train what is not trained yet; the pipeline lands in ``context.weights()`` last."""
        from reverie.store.latents import StoredLatents, encode_units

        if context.weights().exists():
            return
        self.check()
        store = (self.store or context.folder) / "pairs.lance"
        captions = PairCaptions(self.templates)
        captions.check(store, self.where)
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        learner = self._further() if self.start else self._from_scratch(context, store, captions)
        cut, total = self._count_cut(learner, store, captions, (rank, world), context.device)
        if cut:
            text = f"{cut:,} of {total:,} captions are longer than {learner.text_limit} tokens and are cut there"
            context.report("warning", text=text)

        latents = context.checkpoints() / "latents.lance"
        vae = learner.open_autoencoder(context.device)
        encode_units(
            store,
            latents,
            lambda pictures: encode(vae, pictures.to(context.device)),
            self._side(),
            self.where,
            (rank, world),
            lambda done, total: context.report("progress", done=done, total=total, what="units of latents"),
        )
        vae.cpu()
        _meet(context.device)
        seed = seeds.derive("painter", context.seed)
        batches = StoredLatents(store, latents, captions, self.batch, seed, self.where, rank, world)
        if not self.start:
            learner = dataclasses.replace(learner, latent_size=batches.shape[-1])
        checkpoints = context.checkpoints()
        net, losses = fit(
            learner, batches, self.fit, checkpoints, seed=seed, device=context.device, report=context.report
        )
        if rank == 0:
            with atomic_folder(context.weights()) as temporary:
                learner.save(net, temporary)
            facts = {"images": batches.num_pairs, "captions": total, "cut": cut}
            context.report("trained", steps=self.fit.steps, **facts, **losses)

    def _side(self) -> int:
        return self.size_px or (start_of(self.start).size_px if self.start else 32)

    def _fits(self, multiple: int) -> None:
        if self._side() % multiple:
            raise InputError(f"size_px {self._side()} does not fit; give a multiple of {multiple}")

    def _further(self) -> TextToImage:
        return TextToImage(start=self.start, parts=self.parts, text_rate=self.text_rate, caption_drop=self.caption_drop)

    def _from_scratch(self, context: StepContext, store: Path, captions: PairCaptions) -> TextToImage:
        """With an autoencoder and a vocabulary that are made here."""
        first = dataclasses.replace(context, step=f"{context.step}.autoencoder")
        Train(
            self.autoencoder,
            self.autoencoder_fit,
            captions_per_batch=self.autoencoder_batch,
            size_px=self._side(),
            where=self.where,
            store=self.store,
        ).run(first)
        tokenizer = context.checkpoints() / "tokenizer"
        if int(os.environ.get("RANK", 0)) == 0:
            words = {word for texts in _texts(store, self.where, captions) for word in split_words(texts)}
            write_tokenizer(tokenizer, words, self.longest)
        _meet(context.device)
        return TextToImage(
            str(first.weights()),
            str(tokenizer),
            channels=self.channels,
            attention=self.attention,
            text_width=self.text_width,
            text_layers=self.text_layers,
            caption_drop=self.caption_drop,
        )

    def _count_cut(
        self, learner: TextToImage, store: Path, captions: PairCaptions, share: tuple[int, int], device: str
    ) -> tuple[int, int]:
        """How many captions are longer than the text encoder takes, and how many there are; shared by the processes."""
        cut = total = 0
        known: dict[str, bool] = {}  # of captions that come often, as templates do
        for texts in itertools.islice(_texts(store, self.where, captions), share[0], None, share[1]):
            new = list(dict.fromkeys(text for text in texts if text not in known))
            long = dict(zip(new, learner.too_long(new) if new else [], strict=True))
            cut += sum(known[text] if text in known else long[text] for text in texts)
            total += len(texts)
            if self.templates:
                known |= long
        if share[1] > 1:
            counts = torch.tensor([cut, total], device=PartialState(cpu=device == "cpu").device)
            cut, total = reduce(counts, "sum").tolist()
        return cut, total


def _texts(store: Path, where: str, captions: PairCaptions) -> Iterator[list[str]]:
    """All captions of the pairs, some thousand at a time."""
    from reverie.store import tables

    for rows in tables.scan(store, captions.columns, where):
        yield [text for row in rows.to_pylist() for text in captions.all(row)]


def _meet(device: str) -> None:
    """Wait for the other processes of an ``accelerate launch``."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        PartialState(cpu=device == "cpu").wait_for_everyone()
