"""A painter of tokens taught by a reader: beside the cross-entropy, what it guesses at masked places should be read as its caption says.

    ids under masks -> the painter -> an id drawn at every masked place -> the reader -> the painter learns from what it reads
    now and then captions -> paintings -> decoded, read by the judge -> kept, and the reader learns from those kept

Of 4 nats that a masked token of the small world takes, its caption's shape decides some hundredths: which of many like codes a place has is mostly chance, and
a cross-entropy learns shapes as slowly. A reader of the same ids learns them in minutes. It has seen ids that were mixed up with those of other pictures, so that it
can tell how little a bad guess shows; and it goes on learning from what the judge reads in paintings, as a painter soon finds ids that a fixed one takes for stars.

Every other picture has all places masked that a thing may reach into, whatever its shape: else what is visible would tell it, and a sampler begins with nothing visible.

Source: reward feedback learning, arXiv:2304.05977, section 4, as in teach.py. Differences from both: the gradient goes through ids that are drawn, straight
through (arXiv:1308.3432) to the mean of their codes; and through one guess at the tokens of a real picture, not along a painting.

The last paintings are in no checkpoint, so a training that was killed goes on, but not to the same digits as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from reverie import seeds
from reverie.builtin.reader import (
    FILE,
    NONE,
    SMOOTHING,
    Answers,
    Scenes,
    draw_each,
    reading_loss,
    save_reader,
    share_right,
    targets_as_read,
)
from reverie.builtin.teach import Kept
from reverie.errors import InputError
from reverie.learn.fit import Apart
from reverie.learn.text_to_tokens import Shown, TextToTokens, TokenPredictor
from reverie.learn.train_painter import Curriculum
from reverie.models.pretrained import load_into, tensors_about
from reverie.models.token_painter import TokenPainter
from reverie.smallworld.judge import read
from reverie.smallworld.scene import COLOURS

WIDTH, LAYERS = 128, 4  # of the reader
MIXED_UP, MOST_MIXED = 0.8, 0.9  # share of grids that a reader sees mixed up, and of the places of one, at most
SOFT = 0.5  # most noise that is added to the codes, whose numbers are spread by 1


class TokenReader(nn.Module):
    """Codes (B, c, h, w) -> ``Answers``: what is strongest in the left, right, upper and lower half, seen alike wherever it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels, *[WIDTH] * LAYERS]
        self.body = nn.Sequential(
            *(
                layer
                for before, after in pairwise(widths)
                for layer in (nn.Conv2d(before, after, 3, padding=1), nn.SiLU())
            )
        )
        self.shapes, self.colours = nn.Linear(WIDTH, NONE + 1), nn.Linear(WIDTH, len(COLOURS))
        self.number = nn.Linear(WIDTH, 2)

    def forward(self, codes: Tensor) -> Answers:
        """As the class says."""
        seen = self.body(codes)
        rows, columns = seen.shape[2] // 2, seen.shape[3] // 2
        halves = seen[..., :columns], seen[..., columns:], seen[:, :, :rows], seen[:, :, rows:]
        strongest = torch.stack([half.amax((2, 3)) for half in halves], dim=1)  # (B, 4, width)
        return Answers(self.shapes(strongest), self.colours(strongest), self.number(seen.mean((2, 3))))


def open_reader(tokens: TextToTokens, folder: Path | None = None) -> TokenReader:
    """A reader of what a painter paints, untrained or with the weights of a folder. Raises InputError for one that was trained on other codes."""
    reader = TokenReader(tokens.codes.shape[1])
    if folder is not None:
        if tensors_about(folder / FILE).get("codebook") != tokens.codebook_name:
            raise InputError(
                f"{folder.parent} learnt to read ids of another tokenizer than {tokens.image_tokenizer}; remove that folder and train a "
                "reader anew: --only token-reader token-painter"
            )
        load_into(reader, folder / FILE)
    return reader


@dataclass(frozen=True)
class LearnToReadTokens:
    """Batches hold ``latents``, the ids (n, h, w) of pictures, and ``targets`` (n, 9) of their scenes."""

    tokens: TextToTokens

    def build(self) -> nn.Module:
        """An untrained reader."""
        return open_reader(self.tokens)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Its loss, and the share of grids that are read right."""
        answers = net(seen_softly(batch["latents"].long(), self.tokens.codes))
        return {
            "loss": reading_loss(answers, batch["targets"], SMOOTHING),
            "right": share_right(answers, batch["targets"]),
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """``reader.safetensors``, which says of which codebook."""
        save_reader(net, folder, {"codebook": self.tokens.codebook_name})


def seen_softly(ids: Tensor, codes: Tensor) -> Tensor:
    """Codes (n, c, h, w) of ids (n, h, w), of which some are those that other pictures of the batch have there, under noise."""
    count, height, width = ids.shape
    share = MOST_MIXED * torch.rand(count, 1, 1) * (torch.rand(count, 1, 1) < MIXED_UP)
    other = ids[torch.randint(count, ids.shape), torch.arange(height)[:, None], torch.arange(width)]
    ids = torch.where((torch.rand(ids.shape) < share).to(ids.device), other, ids)
    vectors = codes.to(ids.device)[ids].permute(0, 3, 1, 2)
    return vectors + SOFT * torch.rand(count, 1, 1, 1, device=ids.device) * torch.randn_like(vectors)


class Guessing(nn.Module):
    """Painter and reader, called once a step."""

    codes: Tensor  # (K, c)

    def __init__(self, predictor: TokenPredictor, reader: TokenReader, learner: GuessAsRead) -> None:
        super().__init__()
        self.predictor, self.reader, self._learner = predictor, reader, learner
        self.register_buffer("codes", learner.tokens.codes)
        self.kept = Kept(learner.keep)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of ``GuessAsRead``."""
        return self._learner.of(self, batch)


@dataclass(frozen=True)
class GuessAsRead:
    """Batches as of ``ToGuess``."""

    tokens: TextToTokens
    reader: str = ""  # folder of a trained one; untrained when left out
    weight: float = 0.3  # of what is read, beside the cross-entropy of 1
    number: float = 0.2  # of the number of things in what is read
    keep: int = 3000  # of the last paintings, for the reader
    again: int = 16  # of them, that it learns from in a step
    apart_reader: Apart = field(default_factory=lambda: Apart(lr=2e-4, weight_decay=0.02, betas=(0.9, 0.98), clip=1.0))
    sampler_steps: int = 8
    guidance: float = 2.0  # of paintings; that of guesses lies between 1 and this

    @property
    def apart(self) -> dict[str, Apart]:
        """The reader trains apart: its task is the same at the end as at the beginning, so its rate is constant."""
        return {"reader.": self.apart_reader}

    def build(self) -> nn.Module:
        """What ``tokens`` builds, and the reader."""
        predictor = self.tokens.build()
        assert isinstance(predictor, TokenPredictor)
        reader = open_reader(self.tokens, Path(self.reader) if self.reader else None)
        return Guessing(predictor, reader, self)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss`` of all; ``said`` (cross-entropy), ``read`` and ``reader`` are its parts, ``guessed`` the share of guesses read right;
        ``painted``, of the last paintings that are kept, the share of which the judge read all shapes as asked; 0 as long as there are none.
        """
        found: dict[str, Tensor] = net(batch)
        return found

    def save(self, net: nn.Module, folder: Path) -> None:
        """The painter alone, as ``TextToTokens`` does."""
        assert isinstance(net, Guessing)
        self.tokens.save(net.predictor, folder)

    def of(self, net: Guessing, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses, inside the net's one call."""
        wanted = batch["targets"]
        if batch["paint"]:
            self._paint(net, batch["asked_ids"], batch["asked"])
        every_other = torch.arange(len(wanted), device=wanted.device) % 2 == 0
        shown = self.tokens.shown(batch, (batch["weights"] > 1) & every_other[:, None, None])
        plain = self._without_caption(net.predictor, shown)
        logits = net.predictor(shown.visible, shown.words)
        said = self.tokens.said(logits, shown, batch["weights"])
        with torch.autocast(logits.device.type, enabled=False):
            # Of any guidance up to the sampler's, so that what is taught holds for all of them.
            scale = 1 + (self.guidance - 1) * torch.rand(len(plain), 1, 1, 1, device=plain.device)
            guided = torch.lerp(plain.float(), logits.float(), scale)
            guess = self._guessed(guided, shown.hidden, shown.ids, net.codes)
            fixed = {name: weight.detach() for name, weight in net.reader.named_parameters()}
            answers = functional_call(net.reader, fixed, (guess[shown.told],))
            as_read = reading_loss(answers, wanted[shown.told], number=self.number)
            known = seen_softly(batch["known"].long(), net.codes)
            reader = reading_loss(net.reader(known), batch["known_targets"], SMOOTHING)
            painted = reader.new_zeros(())
            if net.kept.seen:
                again, read_in = net.kept.draw(self.again)
                reader = (
                    reader + reading_loss(net.reader(net.codes[again.long()].permute(0, 3, 1, 2)), read_in, SMOOTHING)
                ) / 2
                painted = net.kept.right.mean()
        return {
            "loss": said["loss"] + self.weight * batch["weight"] * as_read + reader,
            "said": said["loss"],
            "read": as_read,
            "reader": reader,
            "guessed": share_right(answers, wanted[shown.told]),
            "painted": painted,
        }

    @torch.no_grad()
    def _without_caption(self, predictor: TokenPredictor, shown: Shown) -> Tensor:
        """Logits (n, K, h, w) under the empty caption."""
        empty = self.tokens.tokens([""]).to(shown.words).expand_as(shown.words)
        logits: Tensor = predictor(shown.visible, empty)
        torch.clear_autocast_cache()  # it holds weights in half precision that were cast without a gradient
        return logits

    def _guessed(self, logits: Tensor, hidden: Tensor, ids: Tensor, codes: Tensor) -> Tensor:
        """Codes (n, c, h, w) of ids drawn from logits (n, K, h, w) where hidden; their gradient is that of the mean code."""
        likely = logits.permute(0, 2, 3, 1).softmax(-1)
        drawn = torch.multinomial(likely.detach().flatten(0, 2), 1).view(ids.shape)
        mean = likely @ codes
        guess = codes[torch.where(hidden, drawn, ids)] + torch.where(hidden[..., None], mean - mean.detach(), 0)
        return guess.permute(0, 3, 1, 2)

    @torch.no_grad()
    def _paint(self, net: Guessing, words: Tensor, wanted: Tensor) -> None:
        """Paint captions, and keep what the judge reads in them."""
        painter = TokenPainter(self.tokens.pipeline(net.predictor))
        drawn = torch.randint(2**31, (len(words),)).tolist()
        ids = painter.sample_ids(painter.embed(words), drawn, self.guidance, self.sampler_steps)
        ids = ids.clamp(min=0)  # -1 is a painting that overflowed, of which the judge reads nothing
        with torch.autocast(ids.device.type, enabled=False):
            pictures = painter.tokenizer.pictures(ids)
        torch.clear_autocast_cache()  # it holds weights in half precision that were cast without a gradient
        told = [targets_as_read(read(picture), row) for picture, row in zip(pictures, wanted.tolist(), strict=True)]
        net.kept.add(ids, torch.tensor(told, device=wanted.device), wanted)


@dataclass(frozen=True)
class ToGuess:
    """Batches for ``GuessAsRead``: those of ``painted``, with ``weight`` (from 0 to 1) by which what is read counts, and ``paint``, whether there
    are paintings in this step; ``known``, ``known_targets`` for the reader; ``asked_ids``, ``asked`` to paint. A pure function of (seed, position, rank).

    The reader sees as many scenes of each set, whatever the shares of the painter are by then: what it forgets, it teaches wrongly.
    """

    painted: Curriculum  # with token ids, weights and targets
    sets: Sequence[Scenes]  # of one thing, and of two
    known: int = 32  # scenes for the reader, as many of each set
    asked: int = 24  # captions that are painted at a time, as many of each set
    every: int = 16  # steps, of which one has paintings
    ramp: int = 100  # steps until what is read has its full weight

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        for position, batch in enumerate(self.painted.iterate(start), start):
            rng = np.random.default_rng(seeds.derive("to guess", self.painted.seed, position, self.painted.rank))
            latents, _, targets = draw_each(self.sets, rng, self.known)
            _, ids, wanted = draw_each(self.sets, rng, self.asked)
            weight = torch.tensor(min(1.0, (position + 1) / self.ramp))
            yield {
                **batch,
                **{"known": latents, "known_targets": targets, "asked_ids": ids, "asked": wanted},
                **{"weight": weight, "paint": torch.tensor(position % self.every == 0)},
            }
