"""A backbone from class names alone: paint them in bulk, pre-train on that, and fine-tune on few real photos.

    He et al., Is synthetic data from generative models ready for image recognition?, ICLR 2023, arXiv:2210.07574

    reverie run synthetic_pretraining                                    (the small world, on a CPU)
    reverie run synthetic_pretraining --classes classes.txt --painter PAINTER --photos photos/ --out runs/mine

The paper's CIFAR-100, fine-tuned: untrained 78.83, painted from its class names (1.2 M / 2.4 M / 3.6 M) 83.90 / 85.03 / 85.24, ImageNet
84.50, ImageNet and then painted 84.90 / 85.32 / 85.52. Ours: docs/recipes/synthetic_pretraining.md holds what was measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.captions.classes import read_classes
from reverie.errors import InputError
from reverie.recipes.make import clip_for, source
from reverie.run.plan import Plan, Step

if TYPE_CHECKING:
    from reverie.learn.mae import MAE
    from reverie.learn.mocov2 import MoCoV2
    from reverie.learn.supervised import Supervised

Method = Literal["supervised", "mocov2", "mae"]
SAID: Mapping[Method, str] = {"supervised": "supervised", "mocov2": "MoCo v2", "mae": "MAE"}


@dataclass(frozen=True)
class Size:
    """What ``scale`` sets. Every field but those of the last group is a flag of this name."""

    painter: str
    images: int  # painted, of all classes together
    per_caption: int
    guidance: float
    sampler_steps: int
    backbone: str
    view_px: int
    image_px: int  # side of the squares that training views are cut from
    batch_images: int
    steps: int
    lr: float
    transfer_steps: int
    transfer_batch: int
    transfer_lr: float
    seeds: tuple[int, ...]
    photos: str | None

    warmup: float  # share of the steps, in both trainings
    least_area: float  # of a supervised crop
    queue: int
    momentum: float
    batchnorm_groups: int
    decoder: tuple[int, int, int]  # width, layers and heads, of MAE
    store_px: int | None
    dtype: Literal["fp32", "bf16", "fp16"]  # of the painter
    unit_size: int

    def __post_init__(self) -> None:
        if min(self.images, self.per_caption, self.batch_images, self.view_px, self.image_px) < 1 or not self.seeds:
            raise InputError(
                "--images, --per-caption, --batch-images, --view-px and --image-px must be 1 or more, --seeds at least one"
            )
        if self.batch_images > self.images:
            raise InputError(
                f"--batch-images {self.batch_images} is more than the {self.images} --images there will be"
            )
        if self.view_px > self.image_px:
            raise InputError(
                f"views of --view-px {self.view_px} cannot be cut from images of --image-px {self.image_px}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))} names one seed twice")


SIZES = {
    "tiny": Size(
        painter="builtin:painter", images=640, per_caption=2, guidance=2.0, sampler_steps=10, backbone="resnet-tiny",
        view_px=32, image_px=64, batch_images=64, steps=300, lr=3e-3, transfer_steps=150, transfer_batch=64,
        transfer_lr=3e-3, seeds=(0, 1, 2), photos="smallworld:street:640:640", warmup=0.1, least_area=0.8, queue=512,
        momentum=0.99, batchnorm_groups=4, decoder=(64, 2, 4), store_px=None,
        dtype="fp32", unit_size=32,
    ),
    "small": Size(
        painter="builtin:painter", images=12_800, per_caption=4, guidance=2.0, sampler_steps=20, backbone="resnet-tiny",
        view_px=32, image_px=64, batch_images=128, steps=5000, lr=1e-3, transfer_steps=2000, transfer_batch=64,
        transfer_lr=1e-3, seeds=(0, 1, 2), photos="smallworld:street:6400:6400", warmup=0.05, least_area=0.8,
        queue=4096, momentum=0.99, batchnorm_groups=4, decoder=(64, 2, 4), store_px=None,
        dtype="fp32", unit_size=64,
    ),
    "paper": Size(  # numbers of images as published; steps, rates and batches are the usual ones, see the page of the recipe
        painter="stable-diffusion-v1-5/stable-diffusion-v1-5", images=1_200_000, per_caption=10, guidance=3.0,
        sampler_steps=50, backbone="resnet-50", view_px=224, image_px=256, batch_images=1024, steps=117_000, lr=1e-3,
        transfer_steps=20_000, transfer_batch=256, transfer_lr=3e-4, seeds=(0, 1, 2), photos=None, warmup=0.05,
        least_area=0.08, queue=65_536, momentum=0.999, batchnorm_groups=8, decoder=(512, 8, 16), store_px=256,
        dtype="fp16", unit_size=100,
    ),
}  # fmt: skip


def synthetic_pretraining(
    scale: Literal["tiny", "small", "paper"] = "tiny",
    classes: Path | None = None,
    more_classes: Path | None = None,
    words: str | None = None,
    writer: str | None = None,
    templates: Path | None = None,
    prompt: Path | None = None,
    max_words: int | None = None,
    painter: str | None = None,
    images: int | None = None,
    per_caption: int | None = None,
    guidance: float | None = None,
    sampler_steps: int | None = None,
    batch: int = 16,
    methods: tuple[Method, ...] = ("supervised",),
    backbone: str | None = None,
    view_px: int | None = None,
    image_px: int | None = None,
    start: str | None = None,
    steps: int | None = None,
    batch_images: int | None = None,
    lr: float | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    real: Path | None = None,
    photos: str | None = None,
    shots: int | None = None,
    transfer_steps: int | None = None,
    transfer_batch: int | None = None,
    transfer_lr: float | None = None,
    frozen_batchnorm: bool = False,
    seeds: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Plan:
    """Class names -> captions -> images -> a pre-trained backbone -> fine-tuning on photos, beside an untrained one -> a page.

    Example: reverie run synthetic_pretraining --methods supervised mocov2 --out runs/pretraining

    Args:
        scale: the dial: sets every flag that is left out. tiny runs on a CPU in minutes.
        classes: file of class names to paint; the classes of the small world when left out.
        more_classes: file of further names, none of them among the classes: as many images, of a wider label space.
        words: word-to-sentence model that writes the captions (language enhancement): builtin:words, a folder or Hub id.
        writer: language model to write them with instead; builtin:writer for the small world, templates else.
        templates: file of sentences with {class} in them, one a line, to write captions with instead.
        prompt: file of what the writer is asked, see docs/writers.md; what suits the kind of model when left out.
        max_words: longest caption of the writer, in words; 60 when left out.
        painter: builtin:painter, a folder, or the Hub id of any diffusers text-to-image pipeline.
        images: painted, of all classes together.
        per_caption: images of each caption; more than the size says, where templates make too few captions, if left out.
        guidance: w in eps_u + w (eps_c - eps_u).
        sampler_steps: of DDIM.
        batch: images painted together. Changes the speed only.
        methods: supervised (the classes are told apart), mocov2, mae (labels play no part); one or several, on the same images.
        backbone: resnet-tiny, resnet-50, vit-tiny, vit-s16, vit-b16, or a transformers vision model by name; mae needs a ViT.
        view_px: side of a view.
        image_px: side of the squares that views are cut from.
        start: folder or Hub id of weights of this backbone to begin from; they are also fine-tuned alone.
        steps: of pre-training.
        batch_images: images in a step of pre-training.
        lr: its peak learning rate.
        precision: of both trainings.
        real: store of real photos, made by reverie import; each method also pre-trains on as many of them as are painted.
        photos: to fine-tune and test on: a folder with train and test, or smallworld:CAMERA:TRAIN:TEST; none with other classes.
        shots: photos of each class to fine-tune on; all of train when left out.
        transfer_steps: of fine-tuning, the same for every arm.
        transfer_batch: photos in a step of fine-tuning.
        transfer_lr: its peak learning rate.
        frozen_batchnorm: fine-tune pre-trained weights with the running statistics they came with.
        seeds: train everything once with each.
        seed: of captions and images.
    """
    flags = {name: value for name, value in locals().items() if value is not None}
    from reverie.evaluate.fine_tuning import Arm, FineTune
    from reverie.filters.blank import Blank
    from reverie.filters.select import Keep
    from reverie.images.pixels import PaintPixels, PaintSpeed
    from reverie.learn.fit import Fit
    from reverie.learn.train import Train
    from reverie.report.page import WritePage
    from reverie.smallworld.scene import class_names

    size = dataclasses.replace(SIZES[scale], **{name: flags[name] for name in vars(SIZES[scale]) if name in flags})
    if scale == "paper" and not (classes and photos):
        raise InputError("--scale paper needs --classes FILE, and --photos FOLDER with train and test to fine-tune on")
    if not methods or len(set(methods)) < len(methods):
        raise InputError("--methods wants one or several of supervised, mocov2 and mae, none of them twice")
    clip_for(size.painter, None)
    if photos is None and (classes or more_classes):
        size = dataclasses.replace(size, photos=None)  # the small world's photos are of its own classes
    own = classes or more_classes
    names = (*read_classes(classes or class_names()), *(read_classes(more_classes) if more_classes else ()))
    names = read_classes(names)  # a name that is there twice is told here
    per_class = -(-size.images // (len(names) * size.per_caption))
    first = source(
        None,
        None,
        None,
        None,
        names if own else None,
        writer,
        templates,
        per_class,
        words=words,
        prompt=prompt,
        max_words=max_words,
    )
    if first.count * size.per_caption < size.images:  # there are only so many templates
        if per_caption is None:
            size = dataclasses.replace(size, per_caption=-(-size.images // first.count))
        else:
            raise InputError(
                f"{first.count} captions of --per-caption {per_caption} make fewer than --images {size.images}; "
                "give more templates, a writer, or more images a caption"
            )
    begin = Path(start) if start and Path(start).is_dir() else start
    fit = Fit(
        size.steps, size.lr, round(size.warmup * size.steps), weight_decay=0.05, betas=(0.9, 0.999), precision=precision
    )
    training: dict[str, Train] = {}
    for method in methods:
        painted = Train(
            learner(method, names, size, begin),
            fit,
            size.batch_images,
            size_px=size.image_px,
            where="kept",
            group="image",
            limit=size.images,
        )
        training[f"{SAID[method]} on painted images"] = painted
        if real:
            usable = "status = 'ok' and image is not null" + " and label is not null" * (method == "supervised")
            on_photos = learner(method, _labels(real), size, begin) if method == "supervised" else painted.learner
            training[f"{SAID[method]} on real photos"] = dataclasses.replace(
                painted, learner=on_photos, store=real, where=usable
            )
    pretraining = {(name, number): f"{slug(name)}-{number}" for number in size.seeds for name in training}
    steps_of_plan = [
        Step("captions", first),
        Step(
            "paint",
            PaintPixels(
                size.painter,
                size.per_caption,
                size.guidance,
                size.sampler_steps,
                scheduler="ddim",
                store_px=size.store_px,
                dtype=size.dtype,
                speed=PaintSpeed(batch),
            ),
            of=("captions",),
        ),
        Step("blank", Blank(), of=("paint",)),
        # No filter by CLIP: for pre-training, number and variety come first.
        Step("keep", Keep("status = 'ok' and blank = false"), of=("paint", "blank")),
        *(
            Step(step, dataclasses.replace(training[name], seed=number), of=("keep",))
            for (name, number), step in pretraining.items()
        ),
    ]
    if size.photos:
        arms = [
            Arm(name, number, step, real=shots, frozen_batchnorm=frozen_batchnorm)
            for (name, number), step in pretraining.items()
        ]
        if begin is not None:
            alone = Arm("where it began", model=begin, real=shots, frozen_batchnorm=frozen_batchnorm)
            arms += [dataclasses.replace(alone, seed=number) for number in size.seeds]
        arms += [Arm("untrained", number, real=shots) for number in size.seeds]
        warmup = round(size.warmup * size.transfer_steps)
        transfer = FineTune(
            tuple(arms),
            size.photos,
            backbone=size.backbone,
            image_size=size.view_px,
            size_px=size.image_px,
            fit=Fit(
                size.transfer_steps,
                size.transfer_lr,
                warmup,
                weight_decay=0.05,
                betas=(0.9, 0.999),
                precision=precision,
            ),
            batch=size.transfer_batch,
            least_area=size.least_area,
            keep=True,
        )
        steps_of_plan.append(Step("transfer", transfer, of=tuple(pretraining.values())))
    last = steps_of_plan[-1].name
    steps_of_plan.append(Step("page", WritePage(), of=(last,) if size.photos else tuple(pretraining.values())))
    return Plan(recipe="synthetic_pretraining", seed=seed, unit_size=size.unit_size, steps=tuple(steps_of_plan))


def learner(
    method: Method, classes: tuple[str, ...] | Path, size: Size, start: str | Path | None = None
) -> Supervised | MoCoV2 | MAE:
    """What learns from the images: for a ``Train`` step with ``group="image"``."""
    from reverie.learn.mae import MAE
    from reverie.learn.mocov2 import MoCoV2
    from reverie.learn.supervised import Supervised

    shape: dict[str, Any] = {"backbone": size.backbone, "image_size": size.view_px, "start": start}
    if method == "supervised":
        return Supervised(classes, least_area=size.least_area, **shape)
    if method == "mocov2":
        return MoCoV2(queue=size.queue, momentum=size.momentum, batchnorm_groups=size.batchnorm_groups, **shape)
    width, layers, heads = size.decoder
    return MAE(decoder_width=width, decoder_layers=layers, decoder_heads=heads, **shape)


def slug(name: str) -> str:
    """Name of the step that trains an arm, without its seed."""
    return name.lower().replace(" ", "-")


def _labels(store: Path) -> tuple[str, ...]:
    """The classes of a store of real photos. Raises InputError if it is not there."""
    from reverie.store import tables

    path = store / "pairs.lance"
    if not path.exists():
        raise InputError(f"{store} holds no pairs.lance; make it with: reverie import PHOTOS --out {store}")
    found = {
        name
        for part in tables.scan(path, ["label"], "status = 'ok' and label is not null")
        for name in part["label"].to_pylist()
    }
    return read_classes(sorted(found))
