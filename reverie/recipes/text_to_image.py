"""A text-to-image model trained from scratch on photos with classes or captions: the "controlled" setting of Synth².

    Synth², arXiv:2403.07750, section 4.1: a generator trained on the very pairs that a model could have been trained on
    shows what synthetic data is worth without the gigabytes behind a public one.

    reverie import photos.parquet --template "a photo of a {class}" --out runs/photos
    reverie run text_to_image --store runs/photos --templates templates.txt --out runs/painter

The result, ``runs/painter/weights/painter``, is a diffusers folder: name it as --painter in other recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reverie.ranges import check_at_least
from reverie.run.plan import Plan, Step
from reverie.settings import flat


@dataclass(frozen=True)
class TextToImageConfig:
    """Settings of a painter of one's own."""

    store: Path  # folder with the photos to learn from, made by reverie import
    # file of sentences with {class} in them, one a line, to write captions with; the stored captions when absent
    templates: Path | None = None
    paint_px: int = 32  # side of painted images in pixels
    # channels of the autoencoder, one number a resolution, finest first; each but the first halves the side
    autoencoder_channels: tuple[int, ...] = (32, 64, 64)
    autoencoder_steps: int = 3000  # optimiser steps of the autoencoder
    autoencoder_batch: int = 16  # images in a step of the autoencoder
    channels: tuple[int, ...] = (64, 96)  # channels of the U-Net, one number a resolution, finest first
    train_steps: int = 5000  # optimiser steps of training, the same in every arm
    batch_size: int = 32  # examples in a step of training
    lr: float = 1e-3  # peak learning rate
    seed: int = 0  # random seed of captions, images and everything else but training


def text_to_image(config: TextToImageConfig) -> Plan:
    """Train a small latent diffusion painter from scratch on the pairs of a store.

    Example: reverie run text_to_image --store runs/photos --out runs/painter
    """
    from reverie.captions.classes import read_list
    from reverie.learn.autoencoder import Autoencoder
    from reverie.learn.fit import Fit
    from reverie.learn.train_painter import TrainPainter

    check_at_least(
        1,
        paint_px=config.paint_px,
        autoencoder_channels=config.autoencoder_channels,
        autoencoder_batch=config.autoencoder_batch,
        channels=config.channels,
        batch_size=config.batch_size,
    )
    first, steps, lr, channels = config.autoencoder_steps, config.train_steps, config.lr, config.channels
    painter = TrainPainter(
        store=config.store,
        templates=tuple(read_list(config.templates, "templates")) if config.templates else (),
        size_px=config.paint_px,
        autoencoder=Autoencoder(channels=config.autoencoder_channels, image_size=config.paint_px),
        autoencoder_fit=Fit(first, lr, min(50, first // 10), weight_decay=0.01, betas=(0.9, 0.95), clip=1.0),
        autoencoder_batch=config.autoencoder_batch,
        channels=channels,
        attention=(False, *[True] * (len(channels) - 1)),
        fit=Fit(steps, lr, min(200, steps // 10), weight_decay=0.01, betas=(0.9, 0.99), clip=1.0, ema=0.999),
        batch=config.batch_size,
    )
    return Plan(recipe="text_to_image", seed=config.seed, arguments=flat(config), steps=(Step("painter", painter),))
