"""Makes models/builtin: every builtin model, from rendered scenes, with the project's own learners.

    make builtin                                    everything that is not finished yet
    python -m reverie.smallworld.train --only clip  one model
    python -m reverie.smallworld.train --only painter --further 5000    the painter that ships, trained on

Killed at any moment it goes on where it stopped: finished parts have a folder of their own under ``--work``, the part
in hand has a checkpoint. What ships is written last, in half precision, with a ``training.json`` beside the weights
that keeps the settings, the time it took and the curve.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from reverie import stage
from reverie.learn.autoencoder import Autoencoder, encode
from reverie.learn.clip import CLIP
from reverie.learn.detection import Detection
from reverie.learn.fit import Batches, Fit, FitSpeed, Learner, fit
from reverie.learn.language import LanguageModel, WordToSentence
from reverie.learn.stablerep import TextTower
from reverie.learn.text_to_image import TextToImage
from reverie.learn.train_painter import LatentBatches
from reverie.models.load import load_net, load_pipeline, load_tensors
from reverie.models.names import BUILTIN, locate
from reverie.nets.words import split_words, write_tokenizer
from reverie.smallworld import pool
from reverie.smallworld.describe import Style, vocabulary
from reverie.smallworld.scene import class_names

Part = Literal["pool", "autoencoder", "painter", "clip", "writer", "words", "detector"]
PARTS: tuple[Part, ...] = ("pool", "autoencoder", "clip", "painter", "writer", "words", "detector")
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
PAINTER_FIT = Fit(steps=5000, lr=1e-3, warmup_steps=200, weight_decay=0.01, betas=(0.9, 0.99), clip=1.0, ema=0.999)
FURTHER_LR = 5e-4  # half the rate to go on with: less of what is there is lost


def main(
    work: Path = Path("runs/builtin"), only: tuple[Part, ...] = PARTS, num_scenes: int = 40_000, further: int = 0
) -> None:
    """Train the builtin models.

    Args:
        work: where renders, checkpoints and unfinished parts live.
        only: the parts to make; parts they need must be finished or named too.
        num_scenes: studio renders to learn from.
        further: steps to train the shipped painter on for, with the schedule begun again; 0 trains one from nothing.
    """
    words = split_words(vocabulary())
    write_tokenizer(work / "tokenizer", words, LONGEST)
    write_tokenizer(work / "writer-tokenizer", words, LONGEST, end=False)
    if "pool" in only:
        pool.make(work / "studio", num_scenes, "studio", CAPTIONS, seed=1, report=_say)
        pool.make(work / "street", num_scenes // 8, "street", CAPTIONS, seed=2, report=_say)
    if "autoencoder" in only:
        train(work / "autoencoder", AUTOENCODER, AUTOENCODER_FIT, pool.Pool.open([work / "studio"], 8, SEED))
    if "clip" in only:
        clip(work)
    if "painter" in only:
        painter(work, further)
    if "writer" in only:
        writer(work)
    if "words" in only:
        sentences(work)
    if "detector" in only:
        detector(work, num_scenes)


def painter(work: Path, further: int = 0) -> None:
    """builtin:painter, from the finished autoencoder."""
    folder = work / ("painter-further" if further else "painter")
    latents = _latents(work)
    batches = LatentBatches(latents, pool.Pool.open([work / "studio"], 1, SEED).captions, 32, SEED)
    learner = TextToImage(
        str(work / "autoencoder" / "weights"),
        str(work / "tokenizer"),
        latent_size=latents.shape[-1],
        channels=(32, 64, 128),
        attention=(False, True, True),
        shift=2.0,
        text_encoder=str(work / "clip" / "weights"),  # it knows what the words look like: binding comes sooner
        start="builtin:painter" if further else "",
    )
    before = [json.loads((BUILTIN / "painter" / "training.json").read_text(encoding="utf-8"))] if further else []
    settings = dataclasses.replace(PAINTER_FIT, steps=further, lr=FURTHER_LR) if further else PAINTER_FIT
    train(folder, learner, settings, batches, before)
    pipe = load_pipeline(locate(str(folder / "weights")), torch.float16)
    _ship(folder, lambda source, target: pipe.save_pretrained(target), "painter")
    if further:
        shutil.rmtree(folder)  # so that the same command trains on from here


def clip(work: Path) -> None:
    """builtin:clip, from studio and street renders."""
    text = TextTower(str(work / "tokenizer"), width=128, layers=2, heads=4, context=LONGEST, out=128)
    learner = CLIP(64, patch_size=8, width=128, layers=3, heads=4, text=text, augmentation="none")
    train(work / "clip", learner, CLIP_FIT, pool.Pool.open([work / "studio", work / "street"], 64, SEED, alike=16))
    _ship(work / "clip", _copy_half)


def writer(work: Path) -> None:
    """builtin:writer, from captions of scenes with one thing."""
    learner = LanguageModel(str(work / "writer-tokenizer"), width=96, layers=3, heads=4, context=LONGEST)
    train(work / "writer", learner, WRITER_FIT, pool.Sentences(64, SEED))
    _ship(work / "writer", _copy_half)


def sentences(work: Path) -> None:
    """builtin:words, from class names and captions of scenes with one thing or two."""
    learner = WordToSentence(str(work / "tokenizer"), width=96, layers=2, heads=4, dropout=0.0, context=LONGEST)
    train(work / "words", learner, WORDS_FIT, pool.ClassSentences(64, SEED))
    _ship(work / "words", _copy_half)


def detector(work: Path, num_scenes: int) -> None:
    """builtin:detector, from renders of its own: half of them by each camera, with names and boxes."""
    folders = [work / "boxed-studio", work / "boxed-street"]
    pool.make_boxed(folders[0], num_scenes // 4, "studio", seed=3, report=_say)
    pool.make_boxed(folders[1], num_scenes // 4, "street", seed=4, report=_say)
    train(work / "detector", Detection(class_names()), DETECTOR_FIT, pool.Boxed.open(folders, 32, SEED))
    _ship(work / "detector", _copy_half)


def train(folder: Path, learner: Learner, settings: Fit, batches: Batches, before: Sequence[Any] = ()) -> None:
    """One model into ``folder/weights``, if it is not there yet; ``before`` are the logs of the trainings it goes on from."""
    if (folder / "weights").exists():
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

    net, losses = fit(learner, batches, settings, folder, seed=SEED, report=say)
    temporary = folder / "weights.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    learner.save(net, temporary)
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    log = {
        "learner": stage.settings(learner),
        "fit": stage.settings(settings),
        "seed": SEED,
        "seconds": round(_read(folder / "seconds.json", 0.0)),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "last": losses,
        "curve": rows[:: max(1, len(rows) // 60)],
        "before": list(before),
    }
    (temporary / "training.json").write_text(json.dumps(log, indent=1), encoding="utf-8")
    temporary.rename(folder / "weights")


def _latents(work: Path) -> torch.Tensor:
    """Latents of the studio pool, encoded once."""
    file = work / "latents.safetensors"
    if not file.exists():
        vae = load_net(AutoencoderKL, locate(str(work / "autoencoder" / "weights")))
        vae = vae.to(memory_format=torch.channels_last)
        chunks = pool.Pool.open([work / "studio"], 1, SEED).images
        parts: list[torch.Tensor] = []
        for index, chunk in enumerate(chunks):
            pictures = np.array_split(np.array(chunk), 10)
            parts.extend(encode(vae, torch.from_numpy(some)).half() for some in pictures)
            _say("progress", model="latents", done=index + 1, total=len(chunks))
        save_file({"latents": torch.cat(parts).contiguous()}, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").rename(file)
    latents: torch.Tensor = load_tensors(file)["latents"]
    return latents.float()


def _copy_half(source: Path, target: Path) -> None:
    """A model folder with its weights in half precision."""
    shutil.copytree(source, target)
    for file in target.rglob("*.safetensors"):
        halved = {
            name: value.half() if value.is_floating_point() else value for name, value in load_tensors(file).items()
        }
        save_file(halved, file, metadata={"format": "pt"})


def _ship(folder: Path, save: Callable[[Path, Path], object], name: str = "") -> None:
    target = BUILTIN / (name or folder.name)
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save(folder / "weights", temporary)
    shutil.copy(folder / "weights" / "training.json", temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    _say("shipped", model=folder.name, megabytes=round(sum(f.stat().st_size for f in target.rglob("*")) / 1e6, 1))


def _read(path: Path, default: float) -> float:
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else default


def _say(kind: str, **facts: object) -> None:
    print(time.strftime("%H:%M:%S"), kind, *(f"{key}={value}" for key, value in facts.items()), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
