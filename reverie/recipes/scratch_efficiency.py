"""What painted images are worth in real photos: a small network trained from scratch on so many of either, and on both.

    He et al., Is synthetic data from generative models ready for image recognition?, ICLR 2023, arXiv:2210.07574, table 4

    reverie run scratch_efficiency                                            (the small world, on a CPU)
    reverie run scratch_efficiency --classes classes.txt --painter PAINTER --photos photos/ --paint 100 500 2000 \
        --real 100 500 2000 --mixed 10 50 200 --out runs/mine

The paper's: 50,000 painted images of CIFAR-100 give 28.74 %, about what 9,500 photos give. Ours: docs/recipes/scratch_efficiency.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reverie.captions.classes import read_classes
from reverie.errors import InputError
from reverie.ranges import check_at_least
from reverie.recipes.make import clip_for, source
from reverie.run.plan import Plan, Step


@dataclass(frozen=True)
class Size:
    """What ``scale`` sets; every field but ``unit_size`` is also a flag."""

    paint: tuple[int, ...]
    real: tuple[int, ...]
    mixed: tuple[int, ...]
    per_caption: int
    sampler_steps: int
    backbone: str
    view_px: int
    image_px: int
    steps: int
    batch_images: int
    lr: float
    photos: str | None
    unit_size: int

    def __post_init__(self) -> None:
        for flag, numbers in (("--paint", self.paint), ("--real", self.real), ("--mixed", self.mixed)):
            if any(number < 1 for number in numbers) or len(set(numbers)) < len(numbers):
                raise InputError(f"{flag} takes different numbers of images of each class, 1 or more")
        if not self.paint or len({*self.real, *self.mixed}) < 2:
            raise InputError("give --paint at least one number, and --real (with --mixed) two, or there is no curve")


SIZES = {
    "tiny": Size(
        paint=(2, 10), real=(2, 10), mixed=(2,), per_caption=2, sampler_steps=10, backbone="resnet-tiny", view_px=32,
        image_px=64, steps=150, batch_images=64, lr=3e-3, photos="smallworld:street:640:640", unit_size=32,
    ),
    "small": Size(
        paint=(10, 50, 200), real=(10, 50, 200), mixed=(10, 50), per_caption=4, sampler_steps=20, backbone="resnet-tiny",
        view_px=32, image_px=64, steps=3000, batch_images=64, lr=1e-3, photos="smallworld:street:12800:6400", unit_size=64,
    ),
}  # fmt: skip


def scratch_efficiency(
    scale: Literal["tiny", "small"] = "tiny",
    classes: Path | None = None,
    words: str | None = None,
    writer: str | None = None,
    templates: Path | None = None,
    prompt: Path | None = None,
    max_words: int | None = None,
    painter: str = "builtin:painter",
    per_caption: int | None = None,
    guidance: float = 2.0,
    sampler_steps: int | None = None,
    batch: int = 16,
    images: Path | None = None,
    photos: str | None = None,
    paint: tuple[int, ...] | None = None,
    real: tuple[int, ...] | None = None,
    mixed: tuple[int, ...] | None = None,
    real_share: float = 0.5,
    backbone: str | None = None,
    view_px: int | None = None,
    image_px: int | None = None,
    steps: int | None = None,
    batch_images: int | None = None,
    lr: float | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    seed: int = 0,
) -> Plan:
    """Class names -> images -> a network from scratch on n painted images, on n real photos, and on both -> a page.

    Example: reverie run scratch_efficiency --paint 10 50 --real 10 50 --mixed 10 --out runs/scratch

    Args:
        scale: the dial: sets every flag that is left out. tiny runs on a CPU in minutes.
        classes: file of class names, as the photos have them; the classes of the small world when left out.
        words: word-to-sentence model that writes the captions: builtin:words, a folder or Hub id.
        writer: language model to write them with instead; builtin:writer for the small world, templates else.
        templates: file of sentences with {class} in them, one a line, to write captions with instead.
        prompt: file of what the writer is asked, see docs/writers.md; what suits the kind of model when left out.
        max_words: longest caption of the writer, in words; 60 when left out.
        painter: builtin:painter, a folder, or the Hub id of any diffusers text-to-image pipeline.
        per_caption: images of each caption; more than the size says, where templates make too few captions, if left out.
        guidance: w in eps_u + w (eps_c - eps_u).
        sampler_steps: of DDIM.
        batch: images painted together. Changes the speed only.
        images: folder of another run, whose painted images are used; nothing is painted then.
        photos: to train and test on: a folder with train and test, or smallworld:CAMERA:TRAIN:TEST.
        paint: painted images of each class, an arm for each number.
        real: photos of each class, an arm for each number.
        mixed: photos of each class that are used together with all painted images, and alone, an arm for each.
        real_share: of a batch, where photos and painted images are mixed; 0 = as many as there are of them.
        backbone: resnet-tiny, resnet-50, vit-tiny, vit-s16, vit-b16, or a transformers vision model by name.
        view_px: side of a view.
        image_px: side of the squares that views are cut from.
        steps: of training, the same for every arm.
        batch_images: images in a step.
        lr: peak learning rate.
        seeds: train every arm once with each; also which images are drawn.
        seed: of captions and images.
    """
    flags = {name: value for name, value in locals().items() if value is not None}
    from reverie.evaluate.fine_tuning import Arm, FineTune
    from reverie.evaluate.scratch import CountWorth
    from reverie.filters.blank import Blank
    from reverie.filters.select import Keep
    from reverie.images.pixels import PaintPixels, PaintSpeed
    from reverie.learn.fit import Fit
    from reverie.report.page import WritePage
    from reverie.smallworld.scene import class_names

    size = dataclasses.replace(SIZES[scale], **{name: flags[name] for name in vars(SIZES[scale]) if name in flags})
    if classes and photos is None:
        raise InputError("--classes needs --photos FOLDER with train and test photos of them")
    if not seeds:
        raise InputError("give at least one seed")
    assert size.photos is not None
    check_at_least(1, per_caption=size.per_caption, view_px=size.view_px, image_px=size.image_px)
    check_at_least(1, per_caption=per_caption)
    names = read_classes(classes or class_names())
    if len(names) < 2:
        raise InputError("a classifier needs two classes or more to tell apart")
    most = max(size.paint)
    making: list[Step] = []
    if images is None:
        clip_for(painter, None)
        first = source(
            None, None, None, None, names if classes else None, writer, templates, -(-most // size.per_caption), words=words, prompt=prompt, max_words=max_words
        )  # fmt: skip
        copies = -(-most * len(names) // first.count) if per_caption is None else per_caption
        if first.count * copies < most * len(names):
            raise InputError(
                f"{first.count} captions of --per-caption {copies} make fewer than {most} images of each of {len(names)} classes"
            )
        making = [
            Step("captions", first),
            Step(
                "paint",
                PaintPixels(painter, copies, guidance, size.sampler_steps, scheduler="ddim", speed=PaintSpeed(batch)),
                of=("captions",),
            ),
            Step("blank", Blank(), of=("paint",)),
            Step("keep", Keep("status = 'ok' and blank = false"), of=("paint", "blank")),
        ]
    arms: list[Arm] = []
    for number in seeds:
        arms += [Arm(f"{n} painted a class", number, real=0, painted=n) for n in sorted(size.paint)]
        arms += [Arm(f"{n} real a class", number, real=n) for n in sorted({*size.real, *size.mixed})]
        arms += [Arm(f"{n} real and {most} painted a class", number, real=n, painted=most) for n in sorted(size.mixed)]
    training = FineTune(
        tuple(arms),
        size.photos,
        painted=images,
        classes=names,
        where=_usable(images) if images else "kept",
        backbone=size.backbone,
        image_size=size.view_px,
        size_px=size.image_px,
        fit=Fit(size.steps, size.lr, size.steps // 10, weight_decay=0.05, betas=(0.9, 0.999)),
        batch=size.batch_images,
        real_share=real_share,
        least_area=0.8,
        held_out=0.0,  # every image that an arm counts is trained on
    )
    return Plan(
        recipe="scratch_efficiency",
        seed=seed,
        unit_size=size.unit_size,
        steps=(
            *making,
            Step("scratch", training, of=("keep",) if making else ()),
            Step("worth", CountWorth("scratch"), of=("scratch",)),
            Step("page", WritePage(), of=("worth",)),
        ),
    )


def _usable(images: Path) -> str:
    """Which images of another run are used: those that it kept, if it chose. Raises InputError if it is not there."""
    from reverie.store import tables

    path = images / "pairs.lance"
    if not path.exists():
        raise InputError(f"{images} holds no pairs.lance; give the folder of a run that painted images")
    return "kept" if "kept" in tables.column_names(path) else "status = 'ok'"
