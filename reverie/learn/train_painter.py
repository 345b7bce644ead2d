"""Pairs of a store -> a text-to-image pipeline: of one's own, from vocabulary, autoencoder, latents and denoiser, or one that is
trained on.

From scratch it is the "controlled" setting of Synth² (arXiv:2403.07750): a painter that has seen nothing but known images and
captions. Result: a pipeline folder of diffusers, to be named as ``painter`` in other recipes.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from reverie import seeds
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError
from reverie.learn.autoencoder import Autoencoder, encode
from reverie.learn.fit import Fit, fit
from reverie.learn.lora import check_lora
from reverie.learn.pipelines import Parts, start_of
from reverie.learn.text_to_image import TextToImage, Untrained
from reverie.learn.train import Train
from reverie.models.names import locate
from reverie.models.pretrained import check_networks
from reverie.nets.words import split_words, write_tokenizer
from reverie.pairs import CLASS_SLOT
from reverie.recaption.mix import Mix
from reverie.run.columns import check_images
from reverie.stage import Job, StepContext, Trial, of_step
from reverie.store.files import atomic_folder

TRIED = 64  # pairs of another store, in a trial
OverLimit = Literal["drop", "cut"]
OVER: Mapping[OverLimit, str] = {"drop": "dropped", "cut": "cut"}  # what is told of captions that are too long


@dataclass(frozen=True)
class LatentBatches:
    """Random batches of latents, each with one of its captions; a pure function of (seed, position, rank)."""

    latents: Tensor  # (N, c, h, w)
    captions: Sequence[Sequence[str]] | Tensor  # N times one or more; or their token ids (N, captions, tokens)
    batch: int
    seed: int
    rank: int = 0  # of this process
    more: Mapping[str, Tensor] = field(default_factory=dict)  # that batches hold under these names, N rows each

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``: ``latents`` (batch, c, h, w) and ``text`` or ``token_ids``; and ``more``."""
        while True:
            yield self.draw(np.random.default_rng(seeds.derive("latents", self.seed, start, self.rank)), self.batch)
            start += 1

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, Any]:
        """A batch of ``count``."""
        rows = rng.integers(len(self.captions), size=count)
        drawn: dict[str, Any] = {"latents": self.latents[torch.from_numpy(rows)].float()}
        drawn |= {name: values[torch.from_numpy(rows)] for name, values in self.more.items()}
        if isinstance(self.captions, Tensor):
            which = rng.integers(self.captions.shape[1], size=count)
            return {
                **drawn,
                "token_ids": self.captions[torch.from_numpy(rows), torch.from_numpy(which)].long(),
            }
        text = [self.captions[row][int(rng.integers(len(self.captions[row])))] for row in rows.tolist()]
        return {**drawn, "text": text}


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

    def draw(self, row: Mapping[str, Any], seed: int, without: Collection[str] = ()) -> str:
        """One of them, but for those that are left out."""
        captions = [text for text in self.all(row) if text not in without]
        return captions[seed % len(captions)]

    def usable(self, store: Path, where: str) -> str:
        """The filter of pairs to learn from, which is ``where``. Raises InputError for pairs that have no caption."""
        from reverie.store import tables

        (column,) = self.columns
        if lacking := tables.count(store, f"({where}) and {column} is null"):
            what = "templates need a class for every pair" if self.templates else "every pair needs a caption"
            hint = ""
            if not self.templates:
                some = tables.count(store, f"({where}) and {column} is not null")
                hint = "; learn from captions that reverie recaption writes (--mix short=0.5 long=0.5)"
                hint += ", or leave these out (--mix alt)" * bool(some)
            raise InputError(f"{what}, and {store} has {lacking:,} without a {column}{hint}")
        return where


@dataclass(frozen=True)
class Without:
    """Captions but for some texts."""

    captions: PairCaptions | Mix
    texts: frozenset[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table of pairs, which are looked at."""
        return self.captions.columns

    def draw(self, row: Mapping[str, Any], seed: int) -> str:
        """One of the others."""
        return self.captions.draw(row, seed, self.texts)


class LongCaptions(NamedTuple):
    """What was found among all captions of the pairs."""

    total: int  # captions
    cut: int  # of these, longer than the text encoder reads
    texts: frozenset[str]  # these, each once
    pairs: frozenset[str]  # pairs all of whose captions are so long


@dataclass(frozen=True)
class TrainPainter(Job):
    """A job; its parts are kept apart, so that a kill costs no more than the part in hand since its checkpoint."""

    together: ClassVar[bool] = True  # by all processes of an ``accelerate launch``
    beside: ClassVar[bool] = True

    store: Path | str | None = None  # folder with pairs.lance, or the step that drew pairs; the run's own when left out
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
    mix: Mix | None = None  # which caption a pair has at a visit; its own text, or a template, when None
    over_limit: OverLimit = "drop"  # captions longer than the text encoder reads: left out, or cut there
    lora: int = 0  # rank of the matrices that learn beside those of ``start``, which stay as they are; 0 = all of its weights learn

    seed: int = 0  # beside the run seed, to train again on the same pairs

    def __post_init__(self) -> None:
        if self.mix and self.templates:
            raise InputError(
                "a mix says which captions of the pairs are read, and templates write others; give one of them"
            )

    def check(self) -> None:
        """Raises InputError, ModelError, UnknownName for a store that is not there, a start that cannot be trained, or a side that does not fit."""
        world = int(os.environ.get("WORLD_SIZE", 1))
        for batch in (self.batch,) if self.start else (self.batch, self.autoencoder_batch):
            if batch % world:
                raise InputError(f"a batch of {batch} cannot be shared equally by {world} processes")
        check_store(self.store)
        check_lora(self.lora)
        if of_step(self.start):
            return  # nothing of it can be known yet
        if self.start:
            self._further().check()
            check_networks(locate(self.start))
            self._fits(start_of(self.start).multiple)
        else:
            self._fits(2 ** (len(self.autoencoder.channels) - 1))

    def check_pairs(self) -> None:
        """Raises InputError for a store that has no images, or none of the captions, where no earlier step is to write them."""
        from reverie.store import tables

        if isinstance(self.store, Path) and tables.exists(self.store / "pairs.lance"):
            check_images(self.store, self.where)
            self._captions.usable(self.store / "pairs.lance", self.where)

    @property
    def _captions(self) -> PairCaptions | Mix:
        return self.mix or PairCaptions(self.templates)

    def run(self, context: StepContext) -> None:
        """Train what is not trained yet; the pipeline lands in ``context.weights()`` last."""
        from reverie.store import tables
        from reverie.store.latents import StoredLatents, encode_units

        if context.weights().exists():
            return
        if of_step(self.start):
            dataclasses.replace(self, start=context.model(self.start)).run(context)
            return
        self.check()
        store = shots_store(context, self.store) if self.store else context.pairs
        captions = self._captions
        where = captions.usable(store, self.where)
        if self.mix and (bare := self.mix.bare(store, self.where, where)):
            context.report("warning", text=bare)
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        learner = self._further() if self.start else self._from_scratch(context, store, captions, where)
        long = self._long(learner, store, captions, where, (rank, world), context.device)
        if long.cut:
            text = f"{long.cut:,} of {long.total:,} captions are longer than {learner.text_limit} tokens and are "
            context.report("warning", text=text + {"cut": "cut there", "drop": _dropped(long)}[self.over_limit])
        drawn = Without(captions, long.texts if self.over_limit == "drop" else frozenset())

        latents = context.checkpoints() / "latents.lance"
        vae = learner.open_autoencoder(context.device)
        began = time.monotonic()
        encode_units(
            store,
            latents,
            lambda pictures: encode(vae, pictures.to(context.device)),
            self._side(),
            where,
            (rank, world),
            lambda done, total: context.report("progress", done=done, total=total, what="units of latents"),
        )
        if made := tables.count(latents):
            each = (time.monotonic() - began) / made
            context.report(
                "speed", what="images encoded", steps=made, done=made, seconds_each=each, low=each, high=each
            )
        vae.cpu()
        _meet(context.device)
        seed = seeds.derive("painter", context.seed, *([self.seed] if self.seed else []))
        left_out = long.pairs if self.over_limit == "drop" else frozenset()
        batches = StoredLatents(store, latents, drawn, self.batch, seed, where, rank, world, left_out)
        if not self.start:
            learner = dataclasses.replace(learner, latent_size=batches.shape[-1])
        checkpoints = context.checkpoints()
        net, losses = fit(
            learner, batches, self.fit, checkpoints, seed=seed, device=context.device, report=context.report
        )
        if rank == 0:
            with atomic_folder(context.weights()) as temporary:
                learner.save(net, temporary)
            facts = {
                "images": batches.num_pairs,
                "without_caption": tables.count(store, self.where) - tables.count(store, where),
                "pairs_too_long": len(left_out),
                "captions": long.total,
                OVER[self.over_limit]: long.cut,
            }
            context.report("trained", steps=self.fit.steps, **facts, **losses)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """So few steps of each of its trainings, on few pairs of a store, whose pictures are encoded first."""
        from reverie.store import tables

        trained = (self.fit,) if self.start else (self.autoencoder_fit, self.fit)
        if any(each.minutes is not None for each in trained):
            return None
        short = [dataclasses.replace(each, steps=min(steps, each.steps)) for each in (self.autoencoder_fit, self.fit)]
        few, where, count = max(TRIED, self.autoencoder_batch), self.where, 0
        if isinstance(self.store, Path):
            path = self.store / "pairs.lance"
            count = tables.count(path, where)
            part = next(iter(tables.scan(path, ["pair_id"], where)), None)
            names = (
                ", ".join("'" + name.replace("'", "''") + "'" for name in part["pair_id"].to_pylist()[:few])
                if part
                else "''"
            )
            where = f"({where}) and pair_id in ({names})"
        elif self.store is None:
            count = images(where)
        job = dataclasses.replace(self, autoencoder_fit=short[0], fit=short[1], where=where)
        captions = 0 if self.store else 1 if self.start else self.autoencoder_batch
        return Trial(job, tuple(each.steps for each in trained), captions, count)

    def _side(self) -> int:
        return self.size_px or (start_of(self.start).size_px if self.start else 32)

    def _fits(self, multiple: int) -> None:
        if self._side() % multiple:
            raise InputError(f"size_px {self._side()} does not fit; give a multiple of {multiple}")

    def _further(self) -> TextToImage:
        return TextToImage(
            start=self.start,
            parts=self.parts,
            text_rate=self.text_rate,
            caption_drop=self.caption_drop,
            lora=self.lora,
        )

    def _from_scratch(self, context: StepContext, store: Path, captions: PairCaptions | Mix, where: str) -> TextToImage:
        """With an autoencoder and a vocabulary that are made here."""
        first = dataclasses.replace(context, step=f"{context.step}.autoencoder")
        Train(
            self.autoencoder,
            self.autoencoder_fit,
            captions_per_batch=self.autoencoder_batch,
            size_px=self._side(),
            where=where,
            store=self.store,
        ).run(first)
        tokenizer = context.checkpoints() / "tokenizer"
        if int(os.environ.get("RANK", 0)) == 0:
            words = {
                word
                for _, all_texts in _texts(store, where, captions)
                for texts in all_texts
                for word in split_words(texts)
            }
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

    def _long(
        self,
        learner: TextToImage,
        store: Path,
        captions: PairCaptions | Mix,
        where: str,
        share: tuple[int, int],
        device: str,
    ) -> LongCaptions:
        """Which captions are longer than the text encoder takes; the processes share the work, and all know all of it."""
        cut = total = 0
        pairs: set[str] = set()
        found: set[str] = set()
        known: dict[str, bool] = {}  # of captions that come often, as templates do
        for number, (names, texts) in enumerate(_texts(store, where, captions)):
            if number % share[1] != share[0]:
                continue
            flat = dict.fromkeys(text for each in texts for text in each)
            new = [text for text in flat if text not in known]
            is_long = dict(zip(new, learner.too_long(new) if new else [], strict=True)) | {
                text: known[text] for text in flat if text in known
            }
            for name, each in zip(names, texts, strict=True):
                long = [text for text in each if is_long[text]]
                total, cut = total + len(each), cut + len(long)
                found.update(long)
                if len(long) == len(each):
                    pairs.add(name)
            if self.templates:
                known |= is_long
        if share[1] > 1:
            PartialState(cpu=device == "cpu")  # so that the processes know each other
            parts = gather_object([(total, cut, sorted(found), sorted(pairs))])
            total, cut = (sum(part[place] for part in parts) for place in (0, 1))
            found, pairs = ({each for part in parts for each in part[place]} for place in (2, 3))
        return LongCaptions(total, cut, frozenset(found), frozenset(pairs))


@dataclass(frozen=True)
class TrainAnew(TrainPainter):
    """The same network as that of ``start``, from random weights: its U-Net and text encoder begin untrained, all else of it is taken as it is.

    All of its weights learn, with the latents, captions and noise that one sees which goes on from ``start``.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.start or self.parts != "both" or self.lora:
            raise InputError("from random weights all of a network learns; name the pipeline that it is the network of")

    def _further(self) -> Untrained:
        return Untrained(start=self.start, text_rate=self.text_rate, caption_drop=self.caption_drop)


def _dropped(long: LongCaptions) -> str:
    """What became of captions that are too long, after "are"."""
    pairs = f", and with them {len(long.pairs):,} pairs that have no other" if long.pairs else ""
    return f"left out{pairs}"


def _texts(store: Path, where: str, captions: PairCaptions | Mix) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Names of the pairs and all captions of each, some thousand pairs at a time."""
    from reverie.store import tables

    for rows in tables.scan(store, ["pair_id", *captions.columns], where):
        yield rows["pair_id"].to_pylist(), [captions.all(row) for row in rows.to_pylist()]


def _meet(device: str) -> None:
    """Wait for the other processes of an ``accelerate launch``."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        PartialState(cpu=device == "cpu").wait_for_everyone()
