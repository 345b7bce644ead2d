"""Pairs of a store -> a text-to-image pipeline of one's own: vocabulary, autoencoder, latents, denoiser.

The "controlled" setting of Synth² (arXiv:2403.07750): a painter that has seen nothing but known images and captions.
Result: a ``StableDiffusionPipeline`` folder, to be named as ``painter`` in other recipes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from reverie import seeds
from reverie.errors import InputError
from reverie.learn.autoencoder import Autoencoder, encode
from reverie.learn.fit import Fit, fit
from reverie.learn.text_to_image import TextToImage
from reverie.learn.train import Train
from reverie.models.names import locate
from reverie.models.pretrained import load_model, load_tensors, load_tokenizer_of
from reverie.nets.words import split_words, write_tokenizer
from reverie.stage import Job, StepContext
from reverie.store.files import atomic_file, atomic_folder


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
class TrainPainter(Job):
    """A job; its three parts are kept apart, so that a kill costs no more than the part in hand since its checkpoint."""

    store: Path | None = None  # folder with pairs.lance; the run's own when left out
    where: str = "status = 'ok'"
    templates: tuple[str, ...] = ()  # captions from the label, "{class}" its place; the pairs' own texts when left out
    size_px: int = 32
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    autoencoder_fit: Fit = field(default_factory=Fit)
    autoencoder_batch: int = 16
    channels: tuple[int, ...] = (64, 128)  # of the U-Net, finest first
    attention: tuple[bool, ...] = (True, True)
    text_width: int = 128
    text_layers: int = 2
    fit: Fit = field(default_factory=Fit)
    batch: int = 64
    longest: int = 40  # tokens of a caption, with start and end

    def run(self, context: StepContext) -> None:
        """Train what is not trained yet; the pipeline lands in ``context.weights()`` last."""
        if context.weights().exists():
            return
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise InputError("a painter is trained by one process; start reverie without accelerate launch")
        if self.size_px % 2 ** (len(self.autoencoder.channels) - 1):
            raise InputError(f"size_px {self.size_px} does not halve {len(self.autoencoder.channels) - 1} times")
        store = (self.store or context.folder) / "pairs.lance"
        first = dataclasses.replace(context, step=f"{context.step}.autoencoder")
        Train(
            self.autoencoder,
            self.autoencoder_fit,
            captions_per_batch=self.autoencoder_batch,
            size_px=self.size_px,
            where=self.where,
            store=self.store,
        ).run(first)

        work = context.checkpoints()
        captions = self._captions(store)
        write_tokenizer(work / "tokenizer", split_words(text for texts in captions for text in texts), self.longest)
        distinct = sorted({text for texts in captions for text in texts})
        tokens = load_tokenizer_of(str(work / "tokenizer"))(distinct, truncation=False, verbose=False)["input_ids"]
        if cut := sum(len(ids) > self.longest for ids in tokens):
            text = f"{cut:,} of {len(distinct):,} captions are longer than {self.longest - 2} words and are cut there"
            context.report("warning", text=text)
        latents = self._latents(store, first.weights(), work / "latents.safetensors", context)
        learner = TextToImage(
            str(first.weights()),
            str(work / "tokenizer"),
            latent_size=latents.shape[-1],
            channels=self.channels,
            attention=self.attention,
            text_width=self.text_width,
            text_layers=self.text_layers,
        )
        seed = seeds.derive("painter", context.seed)
        batches = LatentBatches(latents, captions, self.batch, seed)
        net, losses = fit(learner, batches, self.fit, work, seed=seed, device=context.device, report=context.report)
        with atomic_folder(context.weights()) as temporary:
            learner.save(net, temporary)
        context.report("trained", steps=self.fit.steps, images=len(latents), **losses)

    def _captions(self, store: Path) -> list[list[str]]:
        from reverie.store import tables

        rows = [row for part in tables.scan(store, ["text", "label"], self.where) for row in part.to_pylist()]
        if not self.templates:
            return [[row["text"]] for row in rows]
        if any(row["label"] is None for row in rows):
            raise InputError(f"templates need a class for every pair, and {store} has pairs without a label")
        return [[template.replace("{class}", row["label"]) for template in self.templates] for row in rows]

    def _latents(self, store: Path, autoencoder: Path, file: Path, context: StepContext) -> Tensor:
        """Scaled mean latents of all pairs in stored order, computed once."""
        from reverie.store import tables
        from reverie.store.pictures import read_square

        if not file.exists():
            vae = load_model(AutoencoderKL, locate(str(autoencoder)), context.device).to(
                memory_format=torch.channels_last
            )
            parts: list[Tensor] = []
            done, total = 0, tables.count(store, self.where)
            for rows in tables.scan(store, ["pair_id", "image"], self.where):
                pixels = np.empty((len(rows), self.size_px, self.size_px, 3), np.uint8)
                named = zip(rows["image"].to_pylist(), rows["pair_id"].to_pylist(), pixels, strict=True)
                for data, name, out in named:
                    read_square(data, f"pair {name}", out)
                for some in np.array_split(pixels.transpose(0, 3, 1, 2), -(-len(pixels) // 100)):
                    parts.append(encode(vae, torch.from_numpy(some).to(context.device)).half().cpu())
                done += len(rows)
                context.report("progress", done=done, total=total, what="latents")
            with atomic_file(file) as partial:
                save_file({"latents": torch.cat(parts).contiguous()}, partial)
        latents: Tensor = load_tensors(file)["latents"]
        return latents.float()
