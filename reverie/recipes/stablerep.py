"""StableRep: all images painted from one caption are each other's positives. SimCLR on the same images beside it.

Paper    Tian, Fan, Isola, Chang, Krishnan, NeurIPS 2023, https://arxiv.org/abs/2306.00984
Command  reverie run stablerep --scale tiny        (the demo: CPU, minutes, nothing to download)
         reverie run stablerep --scale paper --captions cc12m.txt --photos imagenet/
Paper's  ImageNet linear probe of ViT-B/16 trained on images painted from captions: CC12M 72.8, RedCaps (3x schedule) 76.7
Ours     docs/recipes/stablerep.md holds what was measured, with command, seeds, time and device

Both arms see the same kept images for as many steps, and as many views in each: n captions x m images for StableRep, m n / 2
images x 2 crops for SimCLR. They are compared by steps and views, never by epochs, which mean different things to the two.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reverie.errors import InputError
from reverie.ranges import check_at_least
from reverie.recipes.make import KEPT, clip_for, source
from reverie.run.plan import Plan, Step


@dataclass(frozen=True)
class TextSize:
    """The text tower of StableRep+."""

    tokenizer: str
    width: int
    layers: int
    heads: int
    context: int
    out: int


SMALL_TEXT = TextSize("builtin:clip", width=128, layers=2, heads=4, context=40, out=128)
PAPER_TEXT = TextSize("openai/clip-vit-base-patch16", width=512, layers=12, heads=8, context=77, out=512)


@dataclass(frozen=True)
class Size:
    """What the dial stands for. Every field but ``head``, ``text``, ``warmup``, ``protocol`` and ``unit_size`` is a flag too."""

    painter: str
    per_class: int  # captions, where they come from class names
    per_caption: int  # l
    per_batch: int  # m
    captions_per_batch: int  # n, for StableRep
    sampler_steps: int
    dtype: Literal["fp32", "bf16", "fp16"]  # of the painter
    store_px: int | None
    keep_best: float  # share of images kept by CLIP score
    backbone: str
    view_px: int
    image_px: int  # shorter side at which images and photos are read
    head: tuple[int, int]  # hidden and out
    text: TextSize
    steps: int
    lr: float  # peak, for n m views a step; another number of views scales it
    warmup: float  # share of the steps
    precision: Literal["fp32", "bf16", "fp16"]
    seeds: tuple[int, ...]
    photos: str | None
    protocol: Literal["logistic", "sgd"]
    unit_size: int

    def __post_init__(self) -> None:
        m, n, copies = self.per_batch, self.captions_per_batch, self.per_caption
        if m < 2 or n < 2 or m * n % 2:
            raise InputError(f"--per-batch {m} and --captions-per-batch {n} must be 2 or more, and their product even")
        if m > copies:
            raise InputError(f"--per-batch {m} images of a caption cannot be drawn from --per-caption {copies}")
        if min(self.per_class, self.sampler_steps, self.view_px, self.image_px) < 1 or not self.seeds:
            raise InputError(
                "--per-class, --sampler-steps, --view-px and --image-px must be 1 or more, --seeds at least one"
            )
        if self.view_px > self.image_px:
            raise InputError(
                f"views of --view-px {self.view_px} cannot be cut from images of --image-px {self.image_px}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))} names one seed twice")


SIZES = {
    "tiny": Size(
        painter="builtin:painter",
        per_class=2,
        per_caption=4,
        per_batch=3,
        captions_per_batch=32,
        sampler_steps=10,
        dtype="fp32",
        store_px=None,
        keep_best=0.95,
        backbone="resnet-tiny",
        view_px=32,
        image_px=64,
        head=(512, 128),
        text=SMALL_TEXT,
        steps=200,
        lr=1e-3,
        warmup=0.1,
        precision="fp32",
        seeds=(0, 1, 2),
        photos="smallworld:street:1280:640",
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
        dtype="fp32",
        store_px=None,
        keep_best=0.95,
        backbone="resnet-tiny",
        view_px=32,
        image_px=64,
        head=(1024, 128),
        text=SMALL_TEXT,
        steps=5000,
        lr=1e-3,
        warmup=0.1,
        precision="fp32",
        seeds=(0, 1, 2),
        photos="smallworld:street:12800:6400",
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
        dtype="fp16",
        store_px=256,
        keep_best=1.0,  # the paper does not filter
        backbone="vit-b16",
        view_px=224,
        image_px=256,
        head=(4096, 256),
        text=PAPER_TEXT,
        steps=85_000,
        lr=2e-4 * 1376 * 6 / 256 / 2,
        warmup=1 / 30,
        precision="fp16",
        seeds=(0,),
        photos=None,
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
    prompt: Path | None = None,
    max_words: int | None = None,
    per_class: int | None = None,
    painter: str | None = None,
    clip: str | None = None,
    guidance: float = 2.0,
    sampler_steps: int | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] | None = None,
    store_px: int | None = None,
    per_caption: int | None = None,
    per_batch: int | None = None,
    captions_per_batch: int | None = None,
    keep_best: float | None = None,
    backbone: str | None = None,
    view_px: int | None = None,
    image_px: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    trackers: tuple[str, ...] = (),
    batch: int = 16,
    seeds: tuple[int, ...] | None = None,
    photos: str | None = None,
    real: Path | None = None,
    text_tower: bool = False,
    downscale_px: tuple[int, ...] = (),
    controls: bool = False,
    duplicates: bool = True,
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
        prompt: file of what the writer is asked, see docs/writers.md; what suits the kind of model when left out.
        max_words: longest caption of the writer, in words; 60 when left out.
        per_class: captions for each class.
        painter: builtin:painter, a folder, or the Hub id of any diffusers text-to-image pipeline.
        clip: CLIP model to filter with; builtin:clip when left out with builtin:painter, else none.
        guidance: w in eps_u + w (eps_c - eps_u).
        sampler_steps: of DDIM.
        dtype: what the painter computes in; fp16 needs a GPU.
        store_px: side of the stored images; as painted when left out at tiny and small.
        per_caption: images painted of each caption (l in the paper).
        per_batch: of these, drawn for a batch (m).
        captions_per_batch: captions in a StableRep batch (n); SimCLR gets m n / 2 images with two crops.
        keep_best: share of the images that are kept, by CLIP score.
        backbone: resnet-tiny, vit-tiny, vit-b16, or a transformers vision model by name.
        view_px: side of a training view.
        image_px: shorter side at which images and photos are read, before views are cut.
        steps: of training, in each arm.
        lr: peak learning rate; when left out it grows with the views in a batch.
        precision: of training.
        trackers: tensorboard, wandb, or another that accelerate knows.
        batch: images painted together. Changes the speed only.
        seeds: train both arms once with each.
        photos: to probe on: a folder with train and test, or smallworld:CAMERA:TRAIN:TEST.
        real: store of real photos, made by reverie import; a third arm is SimCLR on as many of them as images are kept.
        text_tower: a further arm is StableRep+, which also learns which caption its images were painted from.
        downscale_px: StableRep sees some images (5 %) made this small and large again, as photos of low resolution are.
        controls: two more arms that must not do well: StableRep with the images dealt to captions at random, and with m crops
            of one image in place of m images.
        duplicates: leave out images that repeat another one.
        seed: of captions and images.
    """
    flags = {name: value for name, value in locals().items() if value is not None}
    from reverie.evaluate.linear_probe import Arm, LinearProbe
    from reverie.filters.blank import Blank
    from reverie.filters.clip_score import ClipScore
    from reverie.filters.duplicates import Duplicates, ImageHash
    from reverie.filters.select import Keep
    from reverie.images.pixels import PaintPixels, PaintSpeed
    from reverie.learn.fit import Fit, FitSpeed
    from reverie.learn.simclr import SimCLR
    from reverie.learn.stablerep import StableRep, TextTower
    from reverie.learn.train import Train
    from reverie.report.page import WritePage

    size = dataclasses.replace(SIZES[scale], **{name: flags[name] for name in vars(SIZES[scale]) if name in flags})
    if scale == "paper" and not (captions and photos):
        raise InputError("--scale paper needs --captions FILE, and --photos FOLDER with train and test to probe on")
    assert size.photos is not None
    m, n, copies = size.per_batch, size.captions_per_batch, size.per_caption
    first = source(
        captions,
        text_column,
        label_column,
        limit,
        classes,
        writer,
        templates,
        size.per_class,
        prompt=prompt,
        max_words=max_words,
    )
    if first.count < n:
        raise InputError(f"--captions-per-batch {n} is more than the {first.count} captions that there will be")
    clip = clip_for(size.painter, clip)
    if keep_best is not None and not clip:
        raise InputError("--keep-best goes by CLIP score; name a model with --clip")
    shape: dict[str, Any] = {
        "backbone": size.backbone,
        "image_size": size.view_px,
        "head_hidden": size.head[0],
        "head_out": size.head[1],
    }
    usual = SIZES[scale]
    lr = size.lr if lr is not None else size.lr * n * m / (usual.captions_per_batch * usual.per_batch)
    fit = Fit(
        size.steps,
        lr,
        warmup_steps=round(size.warmup * size.steps),
        precision=size.precision,
        speed=FitSpeed(trackers=trackers),
    )
    kept = size.keep_best if clip else 1.0
    check_at_least(1, downscale_px=downscale_px)
    learner = StableRep(images_per_caption=m, downscale_px=downscale_px, **shape)
    ours = Train(learner, fit, n, size_px=size.image_px, where="kept", at_least=m)
    # One image a caption, so that none is the negative of another of its caption, while there are captions enough.
    alone: Literal["caption", "image"] = "caption" if first.count * kept >= m * n // 2 else "image"
    simclr = Train(SimCLR(**shape), fit, m * n // 2, size_px=size.image_px, where="kept", at_least=m, group=alone)
    arms = {"StableRep": ours, "SimCLR": simclr}
    if text_tower:
        plus = dataclasses.replace(learner, text_tower=True, text=TextTower(**vars(size.text)))
        arms["StableRep+"] = dataclasses.replace(ours, learner=plus)
    if controls:
        crops = dataclasses.replace(learner, images_per_caption=1, crops=m)
        arms["images dealt at random"] = dataclasses.replace(ours, group="random")
        arms["crops of one image"] = dataclasses.replace(ours, learner=crops)
    if real:
        arms["SimCLR on real photos"] = dataclasses.replace(
            simclr,
            where="status = 'ok' and image is not null",
            at_least=0,
            store=real,
            limit=round(kept * first.count * copies),
        )
    training = tuple(
        Step(slug(name, number), dataclasses.replace(train, seed=number), of=("keep",))
        for number in size.seeds
        for name, train in arms.items()
    )
    probed = (
        *(Arm(name, number, slug(name, number)) for name in arms for number in size.seeds),
        *(Arm("untrained", number) for number in size.seeds),
        Arm("pixels"),
    )
    paint = PaintPixels(
        size.painter,
        copies,
        guidance,
        size.sampler_steps,
        scheduler="ddim",
        store_px=size.store_px,
        dtype=size.dtype,
        speed=PaintSpeed(batch),
    )
    scores = [Step("blank", Blank(), of=("paint",))]
    if duplicates:
        scores.append(Step("hash", ImageHash(), of=("paint",)))
    compared = [Step("duplicates", Duplicates(), of=("hash",))] if duplicates else []
    if clip:
        scores.insert(0, Step("clip_score", ClipScore(clip), of=("paint",)))
    keep = Keep(KEPT[duplicates], kept)
    crop_px = size.view_px if size.view_px >= 128 else size.image_px  # small networks resize the whole photo themselves
    unit_size = max(1, usual.unit_size * usual.per_caption // copies)  # as many images a commit, however many copies
    return Plan(
        recipe="stablerep",
        seed=seed,
        unit_size=unit_size,
        steps=(
            Step("captions", first),
            Step("paint", paint, of=("captions",)),
            *scores,
            *compared,
            Step("keep", keep, of=tuple(step.name for step in (*compared, *scores))),
            *training,
            Step(
                "probe",
                LinearProbe(probed, size.photos, crop_px, size.image_px, protocol=size.protocol),
                of=tuple(step.name for step in training),
            ),
            Step("page", WritePage(), of=("probe",)),
        ),
    )


def slug(arm: str, number: int) -> str:
    """Name of the step that trains an arm under a seed."""
    return re.sub(r"[^a-z0-9]+", "-", f"{arm.lower().replace('+', ' plus')} {number}")
