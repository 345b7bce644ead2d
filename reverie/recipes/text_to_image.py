"""A text-to-image model trained on photos with classes or captions: from scratch, or starting from a public one.

    Synth², arXiv:2403.07750, section 4.1: a generator trained on the very pairs that a model could have been trained on
    shows what synthetic data is worth without the gigabytes behind a public one.

    reverie import photos.parquet --template "a photo of a {class}" --out runs/photos
    reverie run text_to_image --store runs/photos --templates templates.txt --out runs/painter
    reverie run text_to_image --store runs/photos --start OWNER/PIPELINE --train-parts both --lr 1e-5 --text-lr 1e-6 --out runs/tuned
    reverie run text_to_image --store runs/photos --start OWNER/PIPELINE --mix short=0.5 long=0.5 --lora 32 --out runs/recaptioned

The result, ``runs/painter/weights/painter``, is a diffusers folder: name it as --painter in other recipes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from reverie.errors import InputError
from reverie.ranges import check_min
from reverie.recaption.mix import Mix
from reverie.recipes.options import Precision
from reverie.run.plan import Plan, Step
from reverie.settings import flat

FURTHER_LR = 1e-5  # of networks that have learnt already
LORA_LR = 1e-4  # of what learns beside them


@dataclass(frozen=True)
class TextToImageConfig:
    """Settings of a painter of one's own."""

    store: Path  # folder with the photos to learn from, made by reverie import
    # file of sentences with {class} in them, one a line, to write captions with; or one such sentence; the stored captions when absent
    templates: str | None = None
    # captions that are read, with their shares: alt (the stored text), short and long (as reverie recaption writes them), or columns, such
    # as short=0.5 long=0.5; at each visit of a pair one is drawn; the stored text when absent
    mix: tuple[str, ...] = ()
    # captions longer than the text encoder reads: left out, or cut there; they are counted
    over_limit: Literal["drop", "cut"] = "drop"
    # folder or Hub id of weights to begin from; a text-to-image pipeline of diffusers, or builtin:painter, which is trained on;
    # a painter from scratch when absent
    start: str | None = None
    # what of a pipeline learns: its U-Net (or transformer), its text encoders, or both
    train_parts: Literal["unet", "text", "both"] = "both"
    # rank of LoRA, which learns beside the painter's weights and is added to them; 0 = the weights learn
    lora: int = 0
    paint_px: int | None = None  # side of painted images in pixels; what --start was made for, or 32, when absent
    # channels of the autoencoder, one number a resolution, finest first; each but the first halves the side
    autoencoder_channels: tuple[int, ...] = (32, 64, 64)
    autoencoder_steps: int = 3000  # optimiser steps of the autoencoder
    autoencoder_batch: int = 16  # images in a step of the autoencoder
    channels: tuple[int, ...] = (64, 96)  # channels of the U-Net, one number a resolution, finest first
    train_steps: int = 5000  # optimiser steps of training
    batch_size: int = 32  # examples in a step of training
    lr: float = 1e-3  # peak learning rate; 1e-5 with --start, unless another is given
    text_lr: float | None = None  # peak learning rate of the text encoders; that of --lr when absent
    caption_drop: float = 0.1  # share of captions that are replaced by the empty one, for guidance
    ema: float = 0.999  # decay of the average of weights that is the result; 0 = the last weights
    precision: Precision = "fp32"  # number format of training
    seed: int = 0  # random seed of the run

    def check(self) -> None:
        """Raises InputError for settings that do not go together, or say nothing."""
        check_min(
            1,
            paint_px=self.paint_px,
            autoencoder_channels=self.autoencoder_channels,
            autoencoder_batch=self.autoencoder_batch,
            channels=self.channels,
            batch_size=self.batch_size,
        )
        check_min(0, caption_drop=self.caption_drop)
        if not self.caption_drop <= 1:
            raise InputError(f"--caption-drop {self.caption_drop}: give a share from 0 to 1")
        usual = {item.name: item.default for item in fields(self)}
        if self.start:
            idle: tuple[str, ...] = ("autoencoder_channels", "autoencoder_steps", "autoencoder_batch", "channels")
            why = "belongs to a painter from scratch; --start brings its own networks"
        else:
            idle, why = (
                ("train_parts", "lora"),
                "says what of a --start learns; a painter from scratch learns as a whole",
            )
        if given := [name for name in idle if getattr(self, name) != usual[name]]:
            raise InputError(f"--{given[0].replace('_', '-')} {why}")
        check_min(0, lora=self.lora, ema=self.ema)
        if not self.ema < 1:
            raise InputError(f"--ema {self.ema} is a decay: give a number from 0, and below 1")
        if self.mix:
            Mix.read(self.mix)
            if self.templates:
                raise InputError(
                    "--mix says which captions of the pairs are read, and --templates writes others; give one of them"
                )
        if self.text_lr is not None and self.train_parts == "unet":
            raise InputError(
                "--text-lr says how fast the text encoders learn, which they do not with --train-parts unet"
            )
        for name, rate in (("lr", self.lr), ("text-lr", self.text_lr)):
            if rate is not None and not rate > 0:
                raise InputError(f"--{name} {rate}: give a number above 0")

    def following(self, default: TextToImageConfig | None) -> dict[str, object]:
        """Defaults that follow from other settings: what has learnt already must not be shaken as much as what has not."""
        further = LORA_LR if self.lora else FURTHER_LR
        return {"lr": further if self.start else TextToImageConfig.lr}

    @property
    def rates(self) -> tuple[float, float]:
        """Peak learning rate of what learns, and that of the text encoders as a multiple of it."""
        if self.train_parts == "text":
            return self.text_lr or self.lr, 1.0
        return self.lr, 1.0 if self.text_lr is None else self.text_lr / self.lr


def text_to_image(config: TextToImageConfig) -> Plan:
    """Train a small latent diffusion painter from scratch on the pairs of a store, or a public pipeline on with them.

    Example: reverie run text_to_image --store runs/photos --out runs/painter
    """
    from reverie.captions.classes import read_list, templates_of
    from reverie.learn.autoencoder import Autoencoder
    from reverie.learn.fit import Fit
    from reverie.learn.train_painter import TrainPainter

    config.check()
    given = templates_of(config.templates) if config.templates else ()
    sentences = tuple(read_list(given, "templates")) if isinstance(given, Path) else given
    first, steps, channels = config.autoencoder_steps, config.train_steps, config.channels
    lr, text_rate = config.rates
    painter = TrainPainter(
        store=config.store,
        templates=sentences,
        size_px=config.paint_px or 0,
        autoencoder=Autoencoder(channels=config.autoencoder_channels, image_size=config.paint_px or 32),
        autoencoder_fit=Fit(first, lr, min(50, first // 10), weight_decay=0.01, betas=(0.9, 0.95), clip=1.0),
        autoencoder_batch=config.autoencoder_batch,
        channels=channels,
        attention=(False, *[True] * (len(channels) - 1)),
        fit=Fit(
            steps,
            lr,
            min(200, steps // 10),
            weight_decay=0.01,
            betas=(0.9, 0.999 if config.start else 0.99),
            clip=1.0,
            ema=config.ema or None,
            precision=config.precision,
        ),
        batch=config.batch_size,
        start=config.start or "",
        parts=config.train_parts,
        text_rate=text_rate,
        caption_drop=config.caption_drop,
        mix=Mix.read(config.mix) if config.mix else None,
        over_limit=config.over_limit,
        lora=config.lora,
    )
    painter.check_pairs()
    return Plan(recipe="text_to_image", seed=config.seed, arguments=flat(config), steps=(Step("painter", painter),))
