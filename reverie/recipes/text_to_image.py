"""A painter of one's own, from photos with classes or captions: the "controlled" setting of Synth².

    Synth², arXiv:2403.07750, section 4.1: a generator trained on the very pairs that a model could have been trained on
    shows what synthetic data is worth without the gigabytes behind a public one.

    reverie import photos.parquet --template "a photo of a {class}" --out runs/photos
    reverie run text_to_image --store runs/photos --templates templates.txt --out runs/painter

The result, ``runs/painter/weights/painter``, is a diffusers folder: name it as --painter in other recipes.
"""

from __future__ import annotations

from pathlib import Path

from reverie.run.plan import Plan, Step


def text_to_image(
    store: Path,
    templates: Path | None = None,
    size_px: int = 32,
    autoencoder_channels: tuple[int, ...] = (32, 64, 64),
    autoencoder_steps: int = 3000,
    autoencoder_batch: int = 16,
    channels: tuple[int, ...] = (64, 96),
    steps: int = 5000,
    batch: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
) -> Plan:
    """Train a small latent diffusion painter from scratch on the pairs of a store.

    Example: reverie run text_to_image --store runs/photos --out runs/painter

    Args:
        store: folder with the photos, made by reverie import.
        templates: file of caption templates with {class} in them, one a line; the stored captions when left out.
        size_px: side of the images it learns and paints.
        autoencoder_channels: one a resolution, finest first; each but the first halves the side.
        autoencoder_steps: optimiser steps of the autoencoder.
        autoencoder_batch: images in each.
        channels: of the U-Net, one a resolution, finest first.
        steps: optimiser steps of the U-Net and its text encoder.
        batch: images in each.
        lr: peak learning rate of both.
        seed: of everything random.
    """
    from reverie.captions.classes import read_list
    from reverie.learn.autoencoder import Autoencoder
    from reverie.learn.fit import Fit
    from reverie.learn.train_painter import TrainPainter
    from reverie.ranges import check_at_least

    check_at_least(
        1,
        size_px=size_px,
        autoencoder_channels=autoencoder_channels,
        autoencoder_batch=autoencoder_batch,
        channels=channels,
        batch=batch,
    )
    painter = TrainPainter(
        store=store,
        templates=tuple(read_list(templates, "templates")) if templates else (),
        size_px=size_px,
        autoencoder=Autoencoder(channels=autoencoder_channels, image_size=size_px),
        autoencoder_fit=Fit(
            autoencoder_steps, lr, min(50, autoencoder_steps // 10), weight_decay=0.01, betas=(0.9, 0.95), clip=1.0
        ),
        autoencoder_batch=autoencoder_batch,
        channels=channels,
        attention=(False, *[True] * (len(channels) - 1)),
        fit=Fit(steps, lr, min(200, steps // 10), weight_decay=0.01, betas=(0.9, 0.99), clip=1.0, ema=0.999),
        batch=batch,
    )
    return Plan(recipe="text_to_image", seed=seed, steps=(Step("painter", painter),))
