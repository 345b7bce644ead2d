"""StableRep: all images painted from one caption are each other's positives. SimCLR on the same images beside it.

Paper    Tian, Fan, Isola, Chang, Krishnan, NeurIPS 2023, https://arxiv.org/abs/2306.00984
Command  reverie run stablerep --scale tiny        (the demo: CPU, minutes, nothing to download)
         reverie run stablerep --scale paper --captions cc12m.txt --photos imagenet/
Paper's  ImageNet linear probe of ViT-B/16 trained on images painted from captions: CC12M 73.5, RedCaps (3x schedule) 76.7
Ours     docs/recipes/stablerep.md holds what was measured, with command, seeds, time and device

Both arms see the same kept images for as many steps, and as many views in each: n captions x m images for StableRep, m n / 2
images x 2 crops for SimCLR. They are compared by steps and views, never by epochs, which mean different things to the two.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reverie.errors import InputError
from reverie.recipes.make import clip_for, source
from reverie.run.plan import Plan, Step


@dataclass(frozen=True)
class Size:
    """What the dial stands for. Every field but those of the network can be given as a flag."""

    painter: str
    per_class: int  # captions, where they come from class names
    per_caption: int  # l
    per_batch: int  # m
    captions_per_batch: int  # n, for StableRep
    sampler_steps: int
    store_px: int | None
    keep_best: float  # share of images kept by CLIP score
    backbone: str
    view_px: int
    head: tuple[int, int]  # hidden and out
    steps: int
    lr: float
    warmup: float  # share of the steps
    precision: Literal["fp32", "bf16", "fp16"]
    seeds: tuple[int, ...]
    photos: str | None
    photo_px: int
    protocol: Literal["logistic", "sgd"]
    unit_size: int


SIZES = {
    "tiny": Size(
        painter="builtin:painter",
        per_class=2,
        per_caption=4,
        per_batch=3,
        captions_per_batch=32,
        sampler_steps=10,
        store_px=None,
        keep_best=0.95,
        backbone="resnet-tiny",
        view_px=32,
        head=(512, 128),
        steps=300,
        lr=1e-3,
        warmup=0.1,
        precision="fp32",
        seeds=(0, 1, 2),
        photos="smallworld:street:2560:1280",
        photo_px=64,
        protocol="logistic",
        unit_size=16,
    ),
    "small": Size(
        painter="builtin:painter",
        per_class=32,
        per_caption=8,
        per_batch=4,
        captions_per_batch=64,
        sampler_steps=20,
        store_px=None,
        keep_best=0.95,
        backbone="resnet-tiny",
        view_px=32,
        head=(1024, 128),
        steps=5000,
        lr=1e-3,
        warmup=0.1,
        precision="fp32",
        seeds=(0, 1, 2),
        photos="smallworld:street:12800:6400",
        photo_px=64,
        protocol="logistic",
        unit_size=64,
    ),
    "paper": Size(  # sections 2 and 3 of the paper and the authors' command for CC12M, 35 epochs
        painter="stable-diffusion-v1-5/stable-diffusion-v1-5",
        per_class=10,
        per_caption=10,
        per_batch=6,
        captions_per_batch=1376,
        sampler_steps=50,
        store_px=256,
        keep_best=1.0,  # the paper does not filter
        backbone="vit-b16",
        view_px=224,
        head=(4096, 256),
        steps=85_000,
        lr=2e-4 * 1376 * 6 / 256 / 2,
        warmup=1 / 30,
        precision="fp16",
        seeds=(0,),
        photos=None,
        photo_px=256,
        protocol="sgd",
        unit_size=500,
    ),
}


def stablerep(
    scale: Literal["tiny", "small", "paper"] = "tiny",
    captions: Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    classes: Path | None = None,
    writer: str | None = None,
    templates: Path | None = None,
    per_class: int | None = None,
    painter: str | None = None,
    clip: str | None = None,
    guidance: float = 2.0,
    sampler_steps: int | None = None,
    per_caption: int | None = None,
    per_batch: int | None = None,
    captions_per_batch: int | None = None,
    keep_best: float | None = None,
    backbone: str | None = None,
    view_px: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    seeds: tuple[int, ...] | None = None,
    photos: str | None = None,
    real: Path | None = None,
    controls: bool = False,
    seed: int = 0,
) -> Plan:
    """Captions -> images -> StableRep and SimCLR on the same images -> linear probe on real photos -> a page.

    Example: reverie run stablerep --scale tiny --guidance 3 --out runs/guidance3

    Args:
        scale: the dial: sets every flag that is left out. tiny runs on a CPU in minutes, paper is as published.
        captions: file of captions: text, CSV, TSV, JSONL, COCO JSON or parquet.
        text_column: its column of captions; usual names are tried when left out.
        label_column: its column of class names, if it has one.
        limit: use the first so many usable captions.
        classes: instead of captions, a file of class names; the classes of the small world when both are left out.
        writer: language model that writes captions from class names; builtin:writer for the small world, templates else.
        templates: file of sentences with {class} in them, one a line, to write captions with instead.
        per_class: captions for each class.
        painter: builtin:painter, a folder, or the Hub id of any diffusers text-to-image pipeline.
        clip: CLIP model to filter with; builtin:clip when left out with builtin:painter, else none.
        guidance: w in eps_u + w (eps_c - eps_u).
        sampler_steps: of DDIM.
        per_caption: images painted of each caption (l in the paper).
        per_batch: of these, drawn for a batch (m).
        captions_per_batch: captions in a StableRep batch (n); SimCLR gets m n / 2 images with two crops.
        keep_best: share of the images that are kept, by CLIP score.
        backbone: resnet-tiny, vit-tiny, vit-b16, or a transformers vision model by name.
        view_px: side of a training view.
        steps: of training, in each arm.
        lr: peak learning rate.
        seeds: train both arms once with each.
        photos: to probe on: a folder with train and test, or smallworld:CAMERA:TRAIN:TEST.
        real: store of real photos, made by reverie import; a third arm is SimCLR on as many of them as images are kept.
        controls: two more arms that must not do well: StableRep with the images dealt to captions at random, and with m crops
            of one image in place of m images.
        seed: of captions and images.
    """
    from reverie.evaluate.linear_probe import Arm, LinearProbe
    from reverie.filters.blank import Blank
    from reverie.filters.clip_score import ClipScore
    from reverie.filters.duplicates import Duplicates, ImageHash
    from reverie.filters.select import Keep
    from reverie.images.pixels import PaintPixels
    from reverie.learn.fit import Fit
    from reverie.learn.simclr import SimCLR
    from reverie.learn.stablerep import StableRep
    from reverie.learn.train import Train
    from reverie.report.page import WritePage

    size = SIZES[scale]
    photos = photos or size.photos
    if scale == "paper" and not (captions and photos):
        raise InputError("--scale paper needs --captions FILE, and --photos FOLDER with train and test to probe on")
    assert photos is not None
    seeds = seeds or size.seeds
    m, n = per_batch or size.per_batch, captions_per_batch or size.captions_per_batch
    if m < 2 or m * n % 2:
        raise InputError(f"--per-batch {m} must be 2 or more, and an even number of views is needed, not {m * n}")
    first = source(captions, text_column, label_column, limit, classes, writer, templates, per_class or size.per_class)
    copies = per_caption or size.per_caption
    painter = painter or size.painter
    clip = clip_for(painter, clip)
    steps = steps or size.steps
    shape: dict[str, Any] = {
        "backbone": backbone or size.backbone,
        "image_size": view_px or size.view_px,
        "head_hidden": size.head[0],
        "head_out": size.head[1],
    }
    fit = Fit(steps, lr or size.lr, warmup_steps=round(size.warmup * steps), precision=size.precision)
    kept = (keep_best or size.keep_best) if clip else 1.0
    ours = Train(StableRep(images_per_caption=m, **shape), fit, n, where="kept")
    # One image a caption, so that none is the negative of another of its caption, while there are captions enough.
    alone: Literal["caption", "image"] = "caption" if first.count * kept >= m * n // 2 else "image"
    simclr = Train(SimCLR(**shape), fit, m * n // 2, where="kept", group=alone)
    arms = {"StableRep": ours, "SimCLR": simclr}
    if controls:
        crops = StableRep(images_per_caption=1, crops=m, **shape)
        arms["images dealt at random"] = dataclasses.replace(ours, group="random")
        arms["crops of one image"] = dataclasses.replace(ours, learner=crops)
    if real:
        arms["SimCLR on real photos"] = dataclasses.replace(
            simclr, where="status = 'ok' and image is not null", store=real, limit=round(kept * first.count * copies)
        )
    training = tuple(
        Step(_slug(name, number), dataclasses.replace(train, seed=number), of=("keep",))
        for number in seeds
        for name, train in arms.items()
    )
    probed = (
        *(Arm(name, number, _slug(name, number)) for name in arms for number in seeds),
        *(Arm("untrained", number) for number in seeds),
        Arm("pixels"),
    )
    paint = PaintPixels(
        painter,
        copies,
        guidance,
        sampler_steps or size.sampler_steps,
        scheduler="ddim",
        store_px=size.store_px,
    )
    scores = [Step("blank", Blank(), of=("paint",)), Step("hash", ImageHash(), of=("paint",))]
    if clip:
        scores.insert(0, Step("clip_score", ClipScore(clip), of=("paint",)))
    keep = Keep("status = 'ok' and blank = false and duplicate_of is null", kept)
    unit_size = max(1, size.unit_size * size.per_caption // copies)  # as many images a commit, however many copies
    return Plan(
        recipe="stablerep",
        seed=seed,
        unit_size=unit_size,
        steps=(
            Step("captions", first),
            Step("paint", paint, of=("captions",)),
            *scores,
            Step("duplicates", Duplicates(), of=("hash",)),
            Step("keep", keep, of=("duplicates", *(step.name for step in scores))),
            *training,
            Step(
                "probe",
                LinearProbe(probed, photos, size.photo_px, protocol=size.protocol),
                of=tuple(step.name for step in training),
            ),
            Step("page", WritePage(), of=("probe",)),
        ),
    )


def _slug(arm: str, number: int) -> str:
    return f"{arm.lower().replace(' ', '-')}-{number}"
