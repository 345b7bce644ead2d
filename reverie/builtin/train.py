"""Makes models/builtin: every builtin model, from rendered scenes, with the project's own learners.

    make builtin                                    everything that is not finished yet
    python -m reverie.builtin.train --only clip     one model
    python -m reverie.builtin.train --only painter --further 5000    the painter that ships, trained on
    torchrun --nproc_per_node 2 -m reverie.builtin.train --only painter    by two processes
    python -m reverie.builtin.train --only reader bound taught    the painter that ships, taught by a reader of its latents (by several processes too)
    python -m reverie.builtin.train --only token-reader token-painter --further 5000    the token painter that ships, trained on
    python -m reverie.builtin.train --device cuda --minutes 8    what a GPU makes of it in that time, in WORK/out

Killed at any moment it goes on where it stopped: finished parts have a folder of their own under ``--work``, the part
in hand has a checkpoint. What ships is written last, in half precision, with a ``training.json`` beside the weights
that keeps the settings, the time it took and the curve.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn

from reverie import seeds, stage
from reverie.builtin import command, pieces, pool
from reverie.builtin.bind import LearnToBind, ToBind
from reverie.builtin.describer import LearnToDescribe, ToDescribe, write_words
from reverie.builtin.guess import GuessAsRead, LearnToReadTokens, ToGuess
from reverie.builtin.reader import OPEN, LearnToRead, Scenes, ToRead, targets_of
from reverie.builtin.teach import PaintAsRead, ToTeach
from reverie.errors import InputError
from reverie.learn.autoencoder import Autoencoder, Decoder, encode
from reverie.learn.clip import CLIP
from reverie.learn.detection import Detection
from reverie.learn.fit import Batches, Fit, FitSpeed, Learner, fit
from reverie.learn.language import LanguageModel, WordToSentenceModel
from reverie.learn.stablerep import TextTower
from reverie.learn.text_to_image import TextToImage
from reverie.learn.text_to_tokens import TextToTokens
from reverie.learn.train_painter import Curriculum, LatentBatches
from reverie.learn.vq import Quantiser
from reverie.models.devices import find_device
from reverie.models.names import BUILTIN, builtin_folder, locate
from reverie.models.pretrained import load_model, load_pipeline, load_tensors
from reverie.models.tokenizer import open_tokenizer
from reverie.nets.autocast import quick_in_bf16
from reverie.nets.words import split_words, write_tokenizer
from reverie.smallworld.describe import Style, vocabulary
from reverie.smallworld.render import CameraName
from reverie.smallworld.scene import Scene, class_names
from reverie.store.files import atomic_file, atomic_folder

Part = Literal[
    "pool",
    "autoencoder",
    "decoder",
    "clip",
    "painter",
    "reader",
    "bound",
    "taught",
    "painter-alt",
    "writer",
    "words",
    "detector",
    "tokenizer",
    "token-reader",
    "token-painter",
    "describer",
]
PARTS: tuple[Part, ...] = (
    *(
        "pool",
        "autoencoder",
        "clip",
        "painter",
        "writer",
        "words",
        "detector",
        "tokenizer",
        "token-reader",
        "token-painter",
        "describer",
    ),
)
IN_MINUTES: tuple[Part, ...] = ("decoder", "painter")  # what is trained where there is an end in time
# What several processes train together.
SHARED: tuple[Part, ...] = (
    "decoder",
    "painter",
    "reader",
    "bound",
    "taught",
    "painter-alt",
    "token-reader",
    "token-painter",
)
SHARE_OF_TIME = {  # of what is trained in minutes; 1 for all others
    **{"painter": 6.0, "taught": 6.0, "painter-alt": 6.0, "token-painter": 3.0},
}
SEED = 0
CAPTIONS: tuple[Style, ...] = (
    "short",
    "long",
    "human",
    "human",
)  # what painter and clip read; alt-text would teach them noise
LONGEST = 40  # tokens, with start and end; the longest caption has 37 words
SPEED = FitSpeed(checkpoint_every_s=60, log_every=20)

AUTOENCODER = Autoencoder(channels=(16, 32, 64), latent_channels=4)
AUTOENCODER_FIT = Fit(steps=6000, lr=1e-3, warmup_steps=50, weight_decay=0.01, betas=(0.9, 0.95), clip=1.0)
# At three times the rate the vision tower had not got past colours after 1,100 steps.
CLIP_FIT = Fit(steps=8000, lr=3e-4, warmup_steps=200, weight_decay=0.05, betas=(0.9, 0.98), clip=1.0)
WRITER_FIT = Fit(steps=1500, lr=3e-3, warmup_steps=50, weight_decay=0.01, clip=1.0)
WORDS_FIT = Fit(steps=3000, lr=2e-3, warmup_steps=100, weight_decay=0.01, clip=1.0)
DETECTOR_FIT = Fit(steps=3200, lr=2e-3, warmup_steps=150, weight_decay=0.01, betas=(0.9, 0.99), clip=1.0, speed=SPEED)
STANDING_OUT = 3.0  # weight of things beside the whole picture: small ones are what is read wrong after a decoder
DECODER_FIT = Fit(
    steps=4000, lr=5e-4, warmup_steps=100, weight_decay=0.01, betas=(0.9, 0.99), clip=1.0, ema=0.999, speed=SPEED
)
PAINTER_FIT = Fit(
    steps=20_000, lr=1e-3, warmup_steps=300, weight_decay=0.01, betas=(0.9, 0.99), clip=1.0, ema=0.999, speed=SPEED
)
IMAGE_TOKENIZER = "image-tokenizer"  # folder of its training; "tokenizer" is that of captions
# Of the painter's autoencoder all but one level; from nothing it takes many times as long.
TOKENIZER = Quantiser(channels=(*AUTOENCODER.channels, 64), restart_below=0.1, restart_steps=6000)
TOKENIZER_FIT = Fit(
    steps=12_000, lr=1e-3, warmup_steps=100, weight_decay=0.01, betas=(0.9, 0.99), clip=1.0, ema=0.999, speed=SPEED
)
TOKEN_PAINTER = {"width": 192, "layers": 4, "heads": 6, "conv_width": 96, "conv_blocks": 3, "conv_heads": 3}
TOKEN_PAINTER_FIT = Fit(
    steps=20_000, lr=1e-3, warmup_steps=300, weight_decay=0.03, betas=(0.9, 0.99), clip=1.0, ema=0.999, speed=SPEED
)
# Places of things beside those of the background, of which no caption says which of many like codes it has.
THINGS_WEIGH = 5.0
DESCRIBER = {"width": 128, "eye_layers": 3, "layers": 3, "heads": 4}
DESCRIBER_FIT = Fit(
    steps=12_000, lr=1e-3, warmup_steps=300, weight_decay=0.03, betas=(0.9, 0.98), clip=1.0, ema=0.998, speed=SPEED
)
DESCRIBER_BATCH = 32  # captions in a step
TOKEN_READER_FIT = Fit(steps=4000, lr=1e-3, warmup_steps=100, weight_decay=0.05, clip=1.0, ema=0.998, speed=SPEED)
READER_FIT = Fit(steps=2500, lr=2e-3, warmup_steps=100, weight_decay=0.05, clip=1.0, ema=0.998, speed=SPEED)
BOUND_FIT = Fit(steps=600, lr=1e-3, warmup_steps=50, weight_decay=0.01, clip=1.0, speed=SPEED)
TAUGHT_FIT = Fit(
    steps=3000, lr=5e-4, warmup_steps=50, weight_decay=0.01, betas=(0.9, 0.99), clip=1.0, ema=0.998, speed=SPEED
)
FURTHER_LR = 5e-4  # half the rate to go on with: less of what is there is lost
ALT_LR = 1e-4  # of painter-alt: at five times that, what the reader had taught was gone after 128,000 images
CHANNELS, ATTENTION = (64, 128, 128), (False, True, True)  # of the painter's U-Net, finest first

# What the painter learns from: so many studio scenes, of so many things (None: as they come), drawn from this seed.
PAINTED: dict[str, tuple[float, int | None, int]] = {
    "one": (0.75, 1, 5),
    "two": (0.75, 2, 6),
    "studio": (1.0, None, 1),
}
# The same for painters of tokens, by the plain camera: of what an id says most would be textures and light, of which no caption speaks.
TOKENS_PAINTED = {f"plain-{name}": how for name, how in PAINTED.items()}
TOKENS_READ = ("plain-one", "plain-two")  # those of them that a reader reads
REACH = 0.8 * 2**0.5  # of a thing in its radii, at most: the corner of a square
# Shares of these in a batch by images seen. A single thing is learnt first; more things are much slower from nothing.
SHARES = {0: (1.0, 0.0, 0.0), 300_000: (1.0, 0.0, 0.0), 900_000: (0.4, 0.4, 0.2)}
TOKEN_SHARES = {0: (0.8, 0.1, 0.1), 150_000: (0.6, 0.25, 0.15), 400_000: (0.4, 0.4, 0.2)}
TOKEN_FURTHER_SHARES = {0: (0.45, 0.4, 0.15)}  # a painter that is trained on knows a single thing
# Of what the describer sees, the last by the street camera.
DESCRIBED = ("one", "two", "studio", "street")
DESCRIBED_SHARES = {0: (0.85, 0.0, 0.0, 0.15), 60_000: (0.85, 0.0, 0.0, 0.15), 160_000: (0.25, 0.3, 0.2, 0.25)}
STREETS = 4  # how often the tokenizer sees each street scene while it sees one of those
FURTHER_SHARES = {0: (0.7, 0.15, 0.15), 600_000: (0.4, 0.4, 0.2)}
# A taught painter knows a single thing from before: two are what it has to learn.
TAUGHT_SHARES = {0: (0.34, 0.42, 0.24)}
TAUGHT_SHIFT = 1.8  # of its times
TAUGHT_BATCH = 3 / 8  # of the images of a step; its paintings take the rest of the time
BATCH = {"cpu": 32, "cuda": 512}  # images a step, of each process
GPU_LR = 2.0  # times the rate, for the larger batches there

RENDERING = 0.2  # share of the minutes, at most
MARGIN, MARGIN_S = 0.08, 10.0  # of the minutes and of seconds that starting, saving and stopping may take
UNENDING = 10**6  # steps, where minutes end a training
EARLY_S = 60.0  # between two times that what is not finished is written out


@dataclass
class Work:
    """Where a training works, on what, and until when."""

    folder: Path
    num_scenes: int = 40_000
    further: int = 0
    device: str = "cpu"
    batch: int = 0
    out: Path | None = None
    ends: float | None = None  # on the clock of time.monotonic
    parts: tuple[str, ...] = ()  # that are trained
    rank: int = 0
    processes: int = 1
    alt_from_nothing: bool = False
    share_of_one: float = ToTeach.share_of_one

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first process goes through alone, then all others."""
        with PartialState(cpu=self.device == "cpu").main_process_first():
            yield

    def minutes(self, name: str, part: str) -> float | None:
        """For one part of those that are left; the same when it is resumed."""
        if self.ends is None:
            return None
        file = self.folder / name / "minutes.json"
        if not file.exists():
            left = self.parts[self.parts.index(part) :]
            share = SHARE_OF_TIME.get(part, 1.0) / sum(SHARE_OF_TIME.get(other, 1.0) for other in left)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(max(0.01, (self.ends - time.monotonic()) * share / 60)), encoding="utf-8")
        return _read(file, 0.0)

    def fit(self, settings: Fit, steps: int = 0) -> Fit:
        """Settings of a learner of pictures on this device."""
        cuda = self.device != "cpu"
        settings = dataclasses.replace(settings, precision="bf16" if quick_in_bf16(self.device) else "fp32")
        settings = dataclasses.replace(settings, lr=settings.lr * (GPU_LR if cuda else 1.0))
        return dataclasses.replace(settings, steps=steps) if steps else settings

    def batch_size(self) -> int:
        """Images a step, of each process."""
        return self.batch or BATCH["cpu" if self.device == "cpu" else "cuda"]


def main(
    work: Path = Path("runs/builtin"),
    only: tuple[Part, ...] = (),
    num_scenes: int = 40_000,
    further: int = 0,
    device: str = "cpu",
    minutes: float | None = None,
    batch: int = 0,
    out: Path | None = None,
    alt_from_nothing: bool = False,
    share_of_one: float = ToTeach.share_of_one,
) -> None:
    """Train the builtin models.

    Args:
        work: where renders, checkpoints and unfinished parts live.
        only: the parts to make; parts they need must be finished or named too. All but decoder, reader, bound, taught and painter-alt
            when left out; with --minutes decoder and painter.
        num_scenes: studio renders to learn from.
        further: steps to train the shipped painter on for, with the schedule begun again, or its decoder, the token painter or the
            describer; 0 trains one from nothing. A shipped painter that is smaller is widened.
        device: cpu, cuda or cuda:N.
        minutes: for everything, renders and loading included; the rates are annealed by then whatever the speed.
        batch: images a step of the painter, of each process; 0 is 32 on a CPU and 512 on a GPU.
        out: folder for what is made, as a few files of 15 MiB at most (see pieces.py), in place of the package; WORK/out with
            --minutes. It is first written a minute after a training began.
        alt_from_nothing: painter-alt does not begin from the painter's weights.
        share_of_one: of the captions that a taught painter paints to learn from; the others are of two things. 0.6 for a painter
            whose single things are not right yet.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"minutes {minutes} must be above 0")
    if batch < 0 or further < 0 or num_scenes < pool.CHUNK:
        raise InputError(f"batch {batch} and further {further} cannot be below 0, nor num_scenes below {pool.CHUNK}")
    if not 0 <= share_of_one <= 1:
        raise InputError(f"share of one {share_of_one} must be between 0 and 1")
    device = find_device(device)
    chosen = only or (IN_MINUTES if minutes else PARTS)
    # In this order, whatever the order they are named in: later parts learn from earlier ones.
    parts: tuple[Part, ...] = tuple(part for part in get_args(Part) if part in chosen)
    if "taught" in parts and "reader" not in parts and not (work / "reader" / "weights").exists():
        raise InputError(f"taught wants a reader to teach it, and {work} has none: --only reader bound taught")
    if "token-painter" in parts and "token-reader" not in parts and not (work / "token-reader" / "weights").exists():
        raise InputError(
            f"token-painter wants a reader to teach it, and {work} has none: --only token-reader token-painter"
        )
    seconds = None if minutes is None else 60 * minutes * (1 - MARGIN) - MARGIN_S
    run = Work(
        work,
        num_scenes,
        further,
        device,
        batch,
        out or (work / "out" if minutes else None),
        None if seconds is None else time.monotonic() + seconds,
        tuple(part for part in parts if part != "pool"),
        int(os.environ.get("RANK", 0)),
        int(os.environ.get("WORLD_SIZE", 1)),
        alt_from_nothing,
        share_of_one,
    )
    if run.processes > 1:
        if alone := [part for part in parts if part not in SHARED]:
            raise InputError(f"{', '.join(alone)}: one process trains it; several train only {', '.join(SHARED)}")
        if device == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // run.processes))
    words = split_words(vocabulary())
    with run.first():
        if not run.rank:
            write_tokenizer(work / "tokenizer", words, LONGEST)
            write_tokenizer(work / "writer-tokenizer", words, LONGEST, end=False)
    of_tokens = {"token-reader", "token-painter"}
    if set(parts) & {*SHARED, "tokenizer", "describer"} - of_tokens:
        with run.first():
            _make_painted(run, PAINTED, "studio")
    if set(parts) & of_tokens:
        with run.first():
            _make_painted(run, TOKENS_PAINTED, "plain")
    for part in parts:
        MAKERS[part](run)


def renders(run: Work) -> None:
    """What autoencoder and clip learn from."""
    _make_pool(run, "studio", run.num_scenes, None, 1)
    _make_street(run)


def autoencoder(run: Work) -> None:
    """The painter's, from studio renders."""
    train(run, "autoencoder", AUTOENCODER, AUTOENCODER_FIT, pool.Pool.open([run.folder / "studio"], 8, SEED))


def decoder(run: Work) -> None:
    """A sharper decoder for the painter's autoencoder, whose latents stay as they are."""
    base = _trained(run, "autoencoder", BUILTIN / "painter" / "vae")
    folders = [run.folder / name for name in PAINTED]
    batches = pool.Pool.open(folders, max(8, run.batch_size() // 4), seeds.derive("decoder", SEED, run.rank))
    with run.first():
        minutes = run.minutes("decoder", "decoder")
    settings = dataclasses.replace(run.fit(DECODER_FIT, run.further), minutes=minutes)

    def ship(weights: Path) -> None:
        if _encoder(weights) == _encoder(
            BUILTIN / "painter" / "vae"
        ):  # else it ships with a painter of its own latents
            _ship(run, weights, _copy_half, "painter", "vae")

    train(run, "decoder", Decoder(_named(base), standing_out=STANDING_OUT), settings, batches, ship=ship)


def painter(run: Work) -> None:
    """builtin:painter, from the finished autoencoder or that of the painter that ships."""
    _paint(
        run,
        "painter",
        start="builtin:painter" if run.further else "",
        shares=FURTHER_SHARES if run.further else SHARES,
        styles=None,
    )


def painter_alt(run: Work) -> None:
    """builtin:painter-alt: the same network under web alt-text, for methods that begin from such a one."""
    start = "" if run.alt_from_nothing else str(_trained(run, "painter", Path("builtin:painter")))
    _paint(run, "painter-alt", start, SHARES if run.alt_from_nothing else FURTHER_SHARES, ("alt",))


def reader(run: Work) -> None:
    """What reads a scene from the latents of the painter that ships."""
    vae = BUILTIN / "painter" / "vae"
    batches = ToRead(_scenes(run, _network(run, vae, "builtin:painter"), vae), 64, SEED, run.rank)
    with run.first():
        minutes = run.minutes("reader", "reader")
    train(run, "reader", LearnToRead(), dataclasses.replace(run.fit(READER_FIT), minutes=minutes), batches)


def bound(run: Work) -> None:
    """The text encoder of a finished painter or the one that ships, as it learns which thing is where."""
    start = str(_trained(run, "painter", Path("builtin:painter")))
    vae = BUILTIN / "painter" / "vae"
    network = _network(run, vae, start)
    texts = pool.Pool.open([run.folder / "studio"], 1, 0).captions
    batches = ToBind(_scenes(run, network, vae), _token_ids(network, texts), SEED, run.rank)
    with run.first():
        minutes = run.minutes("bound", "bound")
    train(run, "bound", LearnToBind(start), dataclasses.replace(run.fit(BOUND_FIT), minutes=minutes), batches)


def taught(run: Work) -> None:
    """builtin:painter, from a finished one or the one that ships, taught by the finished reader."""
    start = str(_trained(run, "painter", Path("builtin:painter")))
    vae = BUILTIN / "painter" / "vae"
    network = _network(run, vae, start)
    sets = _painted(run, network, vae, None)
    network = dataclasses.replace(network, latent_size=sets[0].latents.shape[-1], shift=TAUGHT_SHIFT)
    learned = _trained(run, "bound", Path())
    learner = PaintAsRead(
        network,
        reader=str(run.folder / "reader" / "weights"),
        bound=str(learned) if learned != Path() else "",
    )
    batch = max(1, round(TAUGHT_BATCH * run.batch_size()))
    painted = Curriculum(sets, TAUGHT_SHARES, batch, SEED, run.rank, run.processes)
    with run.first():
        minutes = run.minutes("taught", "taught")
    settings = dataclasses.replace(run.fit(TAUGHT_FIT, run.further), minutes=minutes)
    batches = ToTeach(painted, _scenes(run, network, vae), share_of_one=run.share_of_one)
    train(run, "taught", learner, settings, batches, _log_of(start), functools.partial(_ship_painter, run, "painter"))


def _paint(
    run: Work,
    part: Literal["painter", "painter-alt"],
    start: str,
    shares: dict[int, tuple[float, float, float]],
    styles: tuple[Style, ...] | None,
) -> None:
    """A painter, from nothing or from ``start``, under captions of other styles than the pools'."""
    name = f"{part}-further" if run.further else part
    shipped = BUILTIN / "painter" / "vae"
    vae = shipped if start == "builtin:painter" else _trained(run, "autoencoder", shipped)
    refined = _trained(run, "decoder", vae)
    if _encoder(refined) == _encoder(vae):
        vae = refined
    learner = _network(run, vae, start)
    sets = _painted(run, learner, vae, styles)
    learner = dataclasses.replace(learner, latent_size=sets[0].latents.shape[-1])
    batches = Curriculum(sets, shares, run.batch_size(), SEED, run.rank, run.processes)
    with run.first():
        minutes = run.minutes(name, part)
    settings = dataclasses.replace(run.fit(PAINTER_FIT, run.further), minutes=minutes)
    if start and not _smaller(start):
        lr = ALT_LR if part == "painter-alt" else FURTHER_LR
        settings = dataclasses.replace(settings, lr=settings.lr * lr / PAINTER_FIT.lr)
    train(run, name, learner, settings, batches, _log_of(start), functools.partial(_ship_painter, run, part))
    if run.further and not run.rank and run.out is None:
        shutil.rmtree(run.folder / name)  # so that the same command trains on from here


def _network(run: Work, vae: Path, start: str) -> TextToImage:
    """What all painters are made of, on the latents of this autoencoder."""
    return TextToImage(
        _named(vae),
        str(run.folder / "tokenizer"),
        channels=CHANNELS,
        attention=ATTENTION,
        text_time=True,
        shift=2.0,
        text_encoder=str(_trained(run, "clip", Path("builtin:clip"))),  # it knows the words: binding comes sooner
        start=start,
        widened=True,
    )


def _painted(run: Work, learner: TextToImage, vae: Path, styles: tuple[Style, ...] | None) -> list[LatentBatches]:
    """The pools that painters learn from, as latents with token ids; captions of other styles than the pools' if given."""
    sets = []
    for name, (_, things, seed) in PAINTED.items():
        with run.first():
            latents = _latents(run, name, vae)
        folder = run.folder / name
        texts = pool.captions(folder, styles, seed, things) if styles else pool.Pool.open([folder], 1, 0).captions
        sets.append(LatentBatches(latents, _token_ids(learner, texts), 0, 0))
    return sets


def _scenes(run: Work, learner: TextToImage, vae: Path) -> list[Scenes]:
    """The pools of one thing and of two, with what a reader should read."""
    found = []
    for name, (_, things, seed) in PAINTED.items():
        if things is None:
            continue
        with run.first():
            latents = _latents(run, name, vae)
        targets = [targets_of(scene) for _, scene in pool.scenes(run.folder / name, seed, things)]
        texts = pool.Pool.open([run.folder / name], 1, 0).captions
        found.append(Scenes(latents, _token_ids(learner, texts), torch.tensor(targets)))
    return found


def _log_of(start: str) -> list[Any]:
    """What is known of the training of a model to begin from."""
    log = (BUILTIN / start.removeprefix("builtin:") if start.startswith("builtin:") else Path(start)) / "training.json"
    return [json.loads(log.read_text(encoding="utf-8"))] if start and log.exists() else []


def _ship_painter(run: Work, part: str, weights: Path) -> None:
    """In half precision, which the pipeline's own classes write."""
    pipe = load_pipeline(locate(str(weights)), torch.float16)
    _ship(run, weights, lambda _, target: pipe.save_pretrained(target), part)


def _make_painted(run: Work, kinds: dict[str, tuple[float, int | None, int]], camera: CameraName) -> None:
    """Renders for a painter; where time is short, fewer of each kind."""
    begun = time.monotonic()
    for done, (name, (share, things, seed)) in enumerate(kinds.items(), start=1):
        until = None if run.ends is None else begun + RENDERING * (run.ends - begun) * done / len(kinds)
        _make_pool(run, name, int(run.num_scenes * share), things, seed, until, camera)


def _make_street(run: Work, until: float | None = None) -> None:
    """Renders by the other camera."""
    num, workers = run.num_scenes // 8, os.cpu_count() or 1
    pool.make(run.folder / "street", num, "street", CAPTIONS, 2, _say, workers=workers, until=until)


def _make_pool(
    run: Work,
    name: str,
    num: int,
    things: int | None,
    seed: int,
    until: float | None = None,
    camera: CameraName = "studio",
) -> None:
    tell = functools.partial(_say, pool=name)
    workers = os.cpu_count() or 1
    pool.make(run.folder / name, num, camera, CAPTIONS, seed, tell, things=things, workers=workers, until=until)


def _trained(run: Work, part: str, otherwise: Path) -> Path:
    """What was trained here, or else what ships."""
    weights = run.folder / part / "weights"
    return weights if weights.exists() else otherwise


def _named(folder: Path) -> str:
    """A model as settings name it: what ships by its name, so that a training goes on wherever the package lies by then."""
    return f"builtin:{folder.relative_to(BUILTIN).parts[0]}" if folder.is_relative_to(BUILTIN) else str(folder)


def _smaller(start: str) -> bool:
    """Whether a painter to begin from has another U-Net than is asked for."""
    folder = BUILTIN / "painter" if start.startswith("builtin:") else Path(start)
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    return (tuple(config["block_out_channels"]), config["addition_embed_type"]) != (CHANNELS, "text")


def _encoder(folder: Path) -> str:
    """A name for the encoder of an autoencoder, by its weights in half precision."""
    digest = hashlib.blake2b(digest_size=6)
    for name, value in sorted(load_tensors(folder / "diffusion_pytorch_model.safetensors").items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(value.half().numpy().tobytes())
    return digest.hexdigest()


def _token_ids(learner: TextToImage | TextToTokens, captions: Sequence[Sequence[str]]) -> torch.Tensor:
    """Token ids (scenes, captions of each, tokens), as small as they can be kept."""
    distinct = list(dict.fromkeys(text for texts in captions for text in texts))
    known = torch.cat(
        [learner.tokens(distinct[first : first + 5000]).short() for first in range(0, len(distinct), 5000)]
    )
    places = {text: place for place, text in enumerate(distinct)}
    return known[torch.tensor([[places[text] for text in texts] for texts in captions])]


def clip(run: Work) -> None:
    """builtin:clip, from studio and street renders."""
    work = run.folder
    text = TextTower(str(work / "tokenizer"), width=128, layers=2, heads=4, context=LONGEST, out=128)
    learner = CLIP(64, patch_size=8, width=128, layers=3, heads=4, text=text, augmentation="none")
    train(run, "clip", learner, CLIP_FIT, pool.Pool.open([work / "studio", work / "street"], 64, SEED, alike=16))
    _ship(run, work / "clip" / "weights", _copy_half, "clip")


def writer(run: Work) -> None:
    """builtin:writer, from captions of scenes with one thing."""
    learner = LanguageModel(str(run.folder / "writer-tokenizer"), width=96, layers=3, heads=4, context=LONGEST)
    train(run, "writer", learner, WRITER_FIT, pool.Sentences(64, SEED))
    _ship(run, run.folder / "writer" / "weights", _copy_half, "writer")


def sentences(run: Work) -> None:
    """builtin:words, from class names and captions of scenes with one thing or two."""
    learner = WordToSentenceModel(
        str(run.folder / "tokenizer"), width=96, layers=2, heads=4, dropout=0.0, context=LONGEST
    )
    train(run, "words", learner, WORDS_FIT, pool.ClassSentences(64, SEED))
    _ship(run, run.folder / "words" / "weights", _copy_half, "words")


def detector(run: Work) -> None:
    """builtin:detector, from renders of its own: half of them by each camera, with names and boxes."""
    folders = [run.folder / "boxed-studio", run.folder / "boxed-street"]
    workers = os.cpu_count() or 1
    pool.make_boxed(folders[0], run.num_scenes // 4, "studio", 3, _say, workers=workers)
    pool.make_boxed(folders[1], run.num_scenes // 4, "street", 4, _say, workers=workers)
    train(run, "detector", Detection(class_names()), DETECTOR_FIT, pool.Boxed.open(folders, 32, SEED))
    _ship(run, run.folder / "detector" / "weights", _copy_half, "detector")


def describer(run: Work) -> None:
    """builtin:describer, from the painter's scenes and those of the street camera."""
    _make_street(run, None if run.ends is None else time.monotonic() + RENDERING / 4 * (run.ends - time.monotonic()))
    words = run.folder / "describer-tokenizer"
    write_words(words, split_words(vocabulary()), 256)
    pools = [pool.Pool.open([run.folder / name], 1, 0) for name in DESCRIBED]
    name = "describer-further" if run.further else "describer"
    # A describer that goes on sees from the beginning what the first one saw in the end, and other pictures than that one.
    shares = {0: DESCRIBED_SHARES[max(DESCRIBED_SHARES)]} if run.further else DESCRIBED_SHARES
    seed = seeds.derive("further", SEED) if run.further else SEED
    batches = ToDescribe(pools, shares, run.batch or DESCRIBER_BATCH, seed)
    settings = dataclasses.replace(run.fit(DESCRIBER_FIT, run.further), minutes=run.minutes(name, "describer"))
    if run.further:
        settings = dataclasses.replace(settings, lr=settings.lr * FURTHER_LR / PAINTER_FIT.lr)
    learner = LearnToDescribe(str(words), **DESCRIBER, start="builtin:describer" if run.further else "")

    def ship(weights: Path) -> None:
        _ship(run, weights, _copy_half, "describer")

    train(run, name, learner, settings, batches, _log_of(learner.start), ship)
    if run.further and run.out is None:
        shutil.rmtree(run.folder / name)  # so that the same command trains on from here


def tokenizer(run: Work) -> None:
    """builtin:tokenizer, from the painter's scenes and, as photos become ids too, from those of the street camera."""
    _make_street(run, None if run.ends is None else time.monotonic() + RENDERING / 4 * (run.ends - time.monotonic()))
    folders = [*(run.folder / name for name in PAINTED), *[run.folder / "street"] * STREETS]
    batches = pool.Pool.open(folders, max(4, run.batch_size() // 2), seeds.derive("tokenizer", SEED))
    settings = dataclasses.replace(run.fit(TOKENIZER_FIT), minutes=run.minutes(IMAGE_TOKENIZER, "tokenizer"))

    start = _named(_trained(run, "autoencoder", BUILTIN / "painter" / "vae"))
    # Where these blocks stay as they are, a step takes half the time.
    learner = dataclasses.replace(TOKENIZER, start=start, outer=run.device != "cpu")

    def ship(weights: Path) -> None:
        _ship(run, weights, _copy_half, "tokenizer")

    train(run, IMAGE_TOKENIZER, learner, settings, batches, ship=ship)


def token_reader(run: Work) -> None:
    """What reads a scene from ids of the finished tokenizer or of the one that ships."""
    learner, codes = _token_network(run)
    sets = _token_scenes({name: _ids_and_scenes(run, name, learner, codes) for name in TOKENS_READ})
    with run.first():
        minutes = run.minutes("token-reader", "token-reader")
    settings = dataclasses.replace(run.fit(TOKEN_READER_FIT), minutes=minutes)
    train(run, "token-reader", LearnToReadTokens(learner), settings, ToRead(sets, 64, SEED, run.rank))


def token_painter(run: Work) -> None:
    """builtin:token-painter, of the codes of the finished tokenizer or of the one that ships, taught by the finished reader."""
    name = "token-painter-further" if run.further else "token-painter"
    learner, codes = _token_network(run)
    sets = {pooled: _ids_and_scenes(run, pooled, learner, codes) for pooled in TOKENS_PAINTED}
    shares = TOKEN_FURTHER_SHARES if run.further else TOKEN_SHARES
    painted = Curriculum([*sets.values()], shares, run.batch_size(), SEED, run.rank, run.processes)
    with run.first():
        minutes = run.minutes(name, "token-painter")
    settings = dataclasses.replace(run.fit(TOKEN_PAINTER_FIT, run.further), minutes=minutes)
    if run.further:
        settings = dataclasses.replace(settings, lr=settings.lr * FURTHER_LR / PAINTER_FIT.lr)

    def ship(weights: Path) -> None:
        pipe = load_pipeline(locate(str(weights)), torch.float16)
        _ship(run, weights, lambda _, target: pipe.save_pretrained(target), "token-painter")

    taught = GuessAsRead(learner, str(run.folder / "token-reader" / "weights"))
    train(run, name, taught, settings, ToGuess(painted, _token_scenes(sets)), _log_of(learner.start), ship)
    if run.further and not run.rank and run.out is None:
        shutil.rmtree(run.folder / name)  # so that the same command trains on from here


def _token_network(run: Work) -> tuple[TextToTokens, Path]:
    """What paints tokens, and where the codes are that they are of."""
    trained = run.folder / IMAGE_TOKENIZER / "weights"
    codes = trained if trained.exists() else builtin_folder("tokenizer")
    learner = TextToTokens(
        _named(codes),
        str(run.folder / "tokenizer"),
        text_encoder=str(_trained(run, "clip", Path("builtin:clip"))),
        start="builtin:token-painter" if run.further else "",
        **TOKEN_PAINTER,
    )
    return learner, codes


def _ids_and_scenes(run: Work, name: str, learner: TextToTokens, codes: Path) -> LatentBatches:
    """A pool as ids with token ids of its captions, and beside them how much each place counts and what a reader should read."""
    _, things, seed = TOKENS_PAINTED[name]
    texts = pool.Pool.open([run.folder / name], 1, 0).captions
    with run.first():
        ids = _image_ids(run, name, codes)
    scenes = [scene for _, scene in pool.scenes(run.folder / name, seed, things)]
    targets = [targets_of(scene) if len(scene.things) <= 2 else [OPEN] * 9 for scene in scenes]
    more = {"weights": _weights(scenes, ids.shape[-1]), "targets": torch.tensor(targets)}
    return LatentBatches(ids, _token_ids(learner, texts), 0, 0, more=more)


def _token_scenes(sets: dict[str, LatentBatches]) -> list[Scenes]:
    """The pools that a reader of tokens reads."""
    found = []
    for name in TOKENS_READ:
        captions = sets[name].captions
        assert isinstance(captions, torch.Tensor)
        found.append(Scenes(sets[name].latents, captions, sets[name].more["targets"]))
    return found


def _weights(scenes: Sequence[Scene], side: int) -> torch.Tensor:
    """How much each place of a grid counts, (scenes, side, side): those that a thing of any shape would reach into more than others."""
    low = torch.arange(side) / side
    weights = torch.ones(len(scenes), side, side)
    for each, scene in zip(weights, scenes, strict=True):
        for thing in scene.things:
            x, y = (torch.clamp(torch.tensor(middle), low, low + 1 / side) - middle for middle in (thing.x, thing.y))
            each[(x[None] ** 2 + y[:, None] ** 2).sqrt() < REACH * thing.radius] = THINGS_WEIGH
    return weights


def _image_ids(run: Work, name: str, codes: Path) -> torch.Tensor:
    """Ids of a pool's pictures, (N, rows, columns) as small as they can be kept, found once."""
    known = open_tokenizer(str(codes), run.device)
    file = run.folder / f"ids-{name}-{known.codebook_name}-{_encoder(codes)}.safetensors"
    opened = pool.Pool.open([run.folder / name], 1, 0)
    if not file.exists() or len(_only_tensor(file)) != len(opened.captions):
        parts: list[torch.Tensor] = []
        for index, chunk in enumerate(opened.images):
            for some in np.array_split(np.array(chunk), 10):
                parts.append(torch.from_numpy(known.ids(some.transpose(0, 2, 3, 1))).short())
            _say("progress", ids=name, done=index + 1, total=len(opened.images))
        with atomic_file(file) as partial:
            save_file({"latents": torch.cat(parts).contiguous()}, partial)
    return _only_tensor(file)


def train(
    run: Work,
    name: str,
    learner: Learner,
    settings: Fit,
    batches: Batches,
    before: Sequence[Any] = (),
    ship: Callable[[Path], None] | None = None,
) -> None:
    """One model into ``run.folder/name/weights``, if it is not there yet.

    Args:
        before: the logs of the trainings it goes on from.
        ship: brings finished weights where they go; with ``run.out`` also those of a training that is not over.
    """
    folder = run.folder / name
    if settings.minutes is None and run.ends is not None:
        settings = dataclasses.replace(settings, minutes=run.minutes(name, name))
    if settings.minutes is not None:
        settings = dataclasses.replace(settings, steps=UNENDING)
    if (folder / "weights").exists():
        if ship and not run.rank:
            ship(folder / "weights")
        return
    since = time.monotonic()
    said = 0.0
    seconds_before = _read(folder / "seconds.json", 0.0)

    def say(kind: str, **facts: Any) -> None:
        nonlocal said
        if kind == "progress" and time.monotonic() - said < 20 and facts["done"] != facts["total"]:
            return
        said = time.monotonic()
        (folder / "seconds.json").write_text(json.dumps(seconds_before + time.monotonic() - since), encoding="utf-8")
        _say(kind, model=folder.name, **facts)

    written = since

    def watch(_: int, net: nn.Module) -> None:
        nonlocal written
        if time.monotonic() - written < EARLY_S or ship is None or run.out is None or run.rank:
            return
        early = folder / "early"
        shutil.rmtree(early, ignore_errors=True)
        learner.save(copy.deepcopy(net).cpu(), early)
        ship(early)
        written = time.monotonic()

    net, losses = fit(
        learner, batches, settings, folder, seed=SEED, device=run.device, report=say, watch=watch if run.out else None
    )
    with run.first():  # what comes next looks for these weights, in every process
        if not run.rank:
            _finish(run, folder, learner, settings, batches, before, net, losses)
    if ship and not run.rank:
        ship(folder / "weights")


def _finish(
    run: Work,
    folder: Path,
    learner: Learner,
    settings: Fit,
    batches: Batches,
    before: Sequence[Any],
    net: nn.Module,
    losses: dict[str, float],
) -> None:
    """Weights, and how they came to be."""
    with atomic_folder(folder / "weights") as temporary:
        learner.save(net, temporary)
        rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
        log = {
            "learner": stage.settings(learner),
            "fit": stage.settings(settings),
            "batches": {
                key: getattr(some, key)
                for some in (getattr(batches, "painted", None), batches)
                for key in ("batch", "shares", "processes", "known", "asked", "share_of_one", "ramp")
                if hasattr(some, key)
            },
            "seed": SEED,
            "steps": rows[-1]["step"],
            "seconds": round(_read(folder / "seconds.json", 0.0)),
            "device": run.device,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "last": losses,
            "curve": rows[:: max(1, len(rows) // 60)],
            "before": list(before),
        }
        told = json.dumps(log, indent=1).replace(f"{BUILTIN}/", "builtin:")  # the same wherever the package lies
        (temporary / "training.json").write_text(told, encoding="utf-8")


def _latents(run: Work, name: str, autoencoder: Path) -> torch.Tensor:
    """Latents of a pool, in half precision, encoded once."""
    file = run.folder / f"latents-{name}-{_encoder(autoencoder)}.safetensors"
    opened = pool.Pool.open([run.folder / name], 1, 0)
    if not file.exists() or len(_only_tensor(file)) != len(opened.captions):
        vae = load_model(AutoencoderKL, locate(str(autoencoder)), run.device)
        vae = vae.to(memory_format=torch.channels_last)
        parts: list[torch.Tensor] = []
        for index, chunk in enumerate(opened.images):
            pictures = np.array_split(np.array(chunk), 10)
            parts.extend(encode(vae, torch.from_numpy(some).to(run.device)).half().cpu() for some in pictures)
            _say("progress", latents=name, done=index + 1, total=len(opened.images))
        with atomic_file(file) as partial:
            save_file({"latents": torch.cat(parts).contiguous()}, partial)
    return _only_tensor(file)


def _only_tensor(file: Path) -> torch.Tensor:
    latents: torch.Tensor = load_tensors(file)["latents"]
    return latents


def _copy_half(source: Path, target: Path) -> None:
    """A model folder with its weights in half precision."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    for file in target.rglob("*.safetensors"):
        halved = {
            name: value.half() if value.is_floating_point() else value for name, value in load_tensors(file).items()
        }
        save_file(halved, file, metadata={"format": "pt"})


def _ship(run: Work, weights: Path, save: Callable[[Path, Path], object], name: str, component: str = "") -> None:
    """Into the package, or with ``run.out`` to pieces there; ``component`` of a model alone replaces that in it."""
    target = (run.folder / "shipped" if run.out else BUILTIN) / name / component
    with atomic_folder(target, replace=True) as temporary:
        save(weights, temporary)
        if (weights / "training.json").exists():  # places on this machine are nobody's business
            told = (weights / "training.json").read_text(encoding="utf-8").replace(f"{run.folder}{os.sep}", "")
            (temporary / "training.json").write_text(told, encoding="utf-8")
        # Where a model or a part of it was loaded from is a place on this machine too.
        for file in (*temporary.rglob("config.json"), *temporary.rglob("model_index.json")):
            config = json.loads(file.read_text(encoding="utf-8"))
            if config.pop("_name_or_path", None) is not None:
                file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if run.out:
        pieces.pack(run.folder / "shipped" / name, run.out, name)
    _say("shipped", model=name, megabytes=round(sum(f.stat().st_size for f in target.rglob("*")) / 1e6, 1))


def _read(path: Path, default: float) -> float:
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else default


def _say(kind: str, **facts: object) -> None:
    print(time.strftime("%H:%M:%S"), kind, *(f"{key}={value}" for key, value in facts.items()), flush=True)


MAKERS: dict[Part, Callable[[Work], None]] = {
    "pool": renders,
    "autoencoder": autoencoder,
    "decoder": decoder,
    "clip": clip,
    "painter": painter,
    "reader": reader,
    "bound": bound,
    "taught": taught,
    "painter-alt": painter_alt,
    "writer": writer,
    "words": sentences,
    "detector": detector,
    "tokenizer": tokenizer,
    "token-reader": token_reader,
    "token-painter": token_painter,
    "describer": describer,
}

if __name__ == "__main__":
    command(main)
