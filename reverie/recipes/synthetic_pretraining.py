"""A backbone from class names alone: paint them in bulk, pre-train on that, and fine-tune on few real photos.

    He et al., Is synthetic data from generative models ready for image recognition?, ICLR 2023, arXiv:2210.07574

    reverie run synthetic_pretraining                                    (the small world, on a CPU)
    reverie run synthetic_pretraining --classes classes.txt --painter PAINTER --eval-data photos/ --out runs/mine

The paper's CIFAR-100, fine-tuned: untrained 78.83, painted from its class names (1.2 M / 2.4 M / 3.6 M) 83.90 / 85.03 / 85.24, ImageNet
84.50, ImageNet and then painted 84.90 / 85.32 / 85.52. Ours: docs/recipes/synthetic_pretraining.md holds what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.arms import Arm, Factor, untrained
from reverie.captions.classes import read_classes
from reverie.errors import InputError, ReverieError
from reverie.recipes.options import (
    PUBLIC_PAINTER,
    ClassCaptions,
    MaskedDecoder,
    Network,
    Painting,
    Precision,
    Scale,
    amount,
    clip_for,
    refuse_idle,
)
from reverie.run.plan import Plan, Step
from reverie.settings import flat

if TYPE_CHECKING:
    from reverie.evaluate.fine_tuning import FineTune
    from reverie.learn.mae import MAE
    from reverie.learn.mocov2 import MoCoV2
    from reverie.learn.supervised import Supervised
    from reverie.learn.train import Train

Method = Literal["supervised", "mocov2", "mae"]
SAID: Mapping[Method, str] = {"supervised": "supervised", "mocov2": "MoCo v2", "mae": "MAE"}


@dataclass(frozen=True)
class Learners:
    """What the methods of pre-training have of their own."""

    min_area: float = 0.8  # smallest share of an image that a view for supervised learning shows, in [0, 1]
    queue: int = 512  # keys in the queue of MoCo v2
    momentum: float = 0.99  # momentum of MoCo v2's key encoder
    batchnorm_groups: int = 4  # number of parts of a batch that have BatchNorm statistics of their own, for MoCo v2


@dataclass(frozen=True)
class Transfer:
    """How a pre-trained network is fine-tuned on photos."""

    transfer_shots: int | None = None  # photos of each class to fine-tune on; all of train when absent
    transfer_steps: int = 150  # optimiser steps of fine-tuning, the same in every arm
    transfer_batch: int = 64  # photos in a step of fine-tuning
    transfer_lr: float = 3e-3  # peak learning rate of fine-tuning
    frozen_batchnorm: bool = False  # the running statistics that pre-trained weights came with, kept in fine-tuning


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings of pre-training on painted images."""

    scale: Scale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes, paper is as published
    text: ClassCaptions = ClassCaptions()
    per_class: int = 5  # captions for each class, where they are written from class names
    # file of class names beside those of --classes, for as many images of more classes
    more_classes: Path | None = None

    paint: Painting = Painting(per_caption=2)
    num_images: int = 640  # images to paint, of all classes together
    # methods of pre-training on the same images: by labels, or without them by mocov2 and mae
    methods: tuple[Method, ...] = ("supervised",)

    net: Network = Network(train_steps=300, lr=3e-3)
    # folder or Hub id of weights to begin from; of this backbone, and fine-tuned as they are as well, as one more arm
    start: str | None = None
    batch_size: int = 64  # examples in a step of training
    precision: Precision = "fp32"  # number format of training
    learners: Learners = Learners()
    decoder: MaskedDecoder = MaskedDecoder()
    # store of real photos, made by reverie import, to train on as many of as there are painted images
    real_store: Path | None = None
    # photos to measure on; a folder with train and test, or smallworld:CAMERA:TRAIN:TEST; nothing is measured when
    # absent
    eval_data: str | None = "smallworld:street:640:640"

    transfer: Transfer = Transfer()
    seeds: tuple[int, ...] = (0, 1, 2)  # random seeds of training; every arm is trained once with each
    unit_size: int = 32  # captions in one commit
    seed: int = 0  # random seed of the run; each training has one of its own

    def following(self, usual: PretrainingConfig) -> dict[str, Any]:
        """The small world's photos are of its own classes; as many captions as the images need."""
        own = self.text.classes or self.more_classes
        return {"per_class": self._per_class(), "eval_data": None if own else usual.eval_data}

    def _per_class(self) -> int:
        """Captions of each class. Slips are told later."""
        try:
            names = names_of(self) or read_classes(_class_names())
            return -(-self.num_images // (len(names) * self.paint.per_caption))
        except (ReverieError, ZeroDivisionError):
            return self.per_class

    def check(self) -> None:
        """Raises InputError for settings that do not go together."""
        if self.scale == "paper" and not (self.text.classes and self.eval_data):
            raise InputError(
                "--scale paper needs --classes FILE, and --eval-data FOLDER with train and test to fine-tune on"
            )
        self.text.refuse_few(self.scale)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError("--methods wants one or several of supervised, mocov2 and mae, none of them twice")
        if min(self.num_images, self.paint.per_caption, self.batch_size) < 1 or not self.seeds:
            raise InputError("--num-images, --per-caption and --batch-size must be 1 or more, --seeds at least one")
        if self.batch_size > self.num_images:
            raise InputError(
                f"--batch-size {self.batch_size} is more than the {self.num_images} --num-images there will be"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))} names one seed twice")
        self.net.check()
        refuse_idle(
            self,
            SCALES[self.scale],
            (("queue", "momentum", "batchnorm_groups"), "mocov2" in self.methods, "mocov2 among --methods"),
            (("decoder_width", "decoder_layers", "decoder_heads"), "mae" in self.methods, "mae among --methods"),
        )
        clip_for(self.paint.painter, None)


TINY = PretrainingConfig()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        num_images=12_800,
        per_class=50,
        paint=Painting(per_caption=4),
        net=Network(train_steps=5000, warmup=0.05),
        batch_size=128,
        learners=Learners(queue=4096),
        eval_data="smallworld:street:6400:6400",
        transfer=Transfer(transfer_steps=2000, transfer_lr=1e-3),
        unit_size=64,
    ),
    "paper": replace(  # numbers of images as published; steps, rates and batches are the usual ones, see the page of the recipe
        TINY,
        scale="paper",
        num_images=1_200_000,
        per_class=1875,
        paint=Painting(
            PUBLIC_PAINTER, per_caption=10, guidance=3.0, sampler_steps=50, painter_dtype="fp16", store_px=256
        ),
        net=Network("resnet-50", 224, 256, train_steps=117_000, warmup=0.05),
        batch_size=1024,
        learners=Learners(0.08, 65_536, 0.999, 8),
        decoder=MaskedDecoder(512, 8, 16),
        eval_data=None,
        transfer=Transfer(transfer_steps=20_000, transfer_batch=256, transfer_lr=3e-4),
        unit_size=100,
    ),
}


def arms(config: PretrainingConfig = TINY) -> dict[Arm, Train]:
    """What is pre-trained beside what, under the first seed."""
    from reverie.learn.fit import Fit
    from reverie.learn.train import Train

    net = config.net
    fit = Fit(
        net.train_steps,
        net.lr,
        round(net.warmup * net.train_steps),
        weight_decay=0.05,
        betas=(0.9, 0.999),
        precision=config.precision,
    )
    names = names_of(config) or read_classes(_class_names())
    found: dict[Arm, Train] = {}
    for method in config.methods:
        painted = Train(
            learner(method, names, config),
            fit,
            config.batch_size,
            size_px=net.image_px,
            where="kept",
            group="image",
            limit=config.num_images,
        )
        of_method = {"method": method}
        arm = Arm(
            f"{method}-on-painted-images",
            f"{SAID[method]} on painted images",
            factors=of_method | {"images": "painted"},
        )
        found[arm] = painted
        if config.real_store:
            usable = "status = 'ok' and image is not null" + " and label is not null" * (method == "supervised")
            labelled = method == "supervised"
            on_photos = learner(method, _labels(config.real_store), config) if labelled else painted.learner
            real = Arm(
                f"{method}-on-real-photos", f"{SAID[method]} on real photos", factors=of_method | {"images": "real"}
            )
            found[real] = replace(painted, learner=on_photos, store=config.real_store, where=usable)
    return found


def synthetic_pretraining(config: PretrainingConfig = TINY, arms_: Mapping[Arm, Train] | None = None) -> Plan:
    """Class names -> captions -> images -> a pre-trained backbone -> fine-tuning on photos, beside an untrained one -> a page.

    Example: reverie run synthetic_pretraining --methods supervised mocov2 --out runs/pretraining

    Args:
        arms_: what is pre-trained, in place of ``arms(config)``.
    """
    from reverie.report.page import WritePage

    made = painted(config)
    names = names_of(config) or read_classes(_class_names())
    note = f"{amount(made[0].stage, len(names), config.paint.per_caption)}; only blank ones are dropped"
    training = {
        arm.under(number): Step(arm.under(number).key, replace(train, seed=number), inputs=("keep",))
        for number in config.seeds
        for arm, train in (arms(config) if arms_ is None else arms_).items()
    }
    steps = [*made, *training.values()]
    last = tuple(step.name for step in training.values())
    if config.eval_data:
        how: dict[str, Factor] = {"real": config.transfer.transfer_shots}
        kept = how | {"frozen_batchnorm": config.transfer.frozen_batchnorm}
        tuned = [replace(arm, factors={**arm.factors, **kept}) for arm in training]
        begin = _start(config)
        if begin is not None:
            tuned += [
                Arm("start", "where it began", number, factors=kept | {"start": begin}) for number in config.seeds
            ]
        tuned += untrained(config.seeds, how)
        steps.append(Step("transfer", transfer(config, tuple(tuned)), inputs=last))
        last = ("transfer",)
    return Plan(
        recipe="synthetic_pretraining",
        seed=config.seed,
        unit_size=config.unit_size,
        arguments=flat(config),
        steps=(*steps, Step("page", WritePage(), inputs=last)),
        notes=(note,),
    )


def painted(config: PretrainingConfig) -> tuple[Step, ...]:
    """Captions, images, and the choice of those to learn from."""
    from reverie.filters.blank import Blank
    from reverie.filters.keep import Keep

    config.check()
    copies = config.paint.per_caption
    first = config.text.stage(config.per_class, names_of(config), repeat=True)
    if first.count * copies < config.num_images:
        raise InputError(
            f"{first.count} captions of --per-caption {copies} make fewer than --num-images {config.num_images}; "
            "give more captions of each class or more images of a caption, or leave --per-class out"
        )
    return (
        Step("captions", first),
        Step("paint", config.paint.stage(), inputs=("captions",)),
        Step("blank", Blank(), inputs=("paint",)),
        # No filter by CLIP: for pre-training, number and variety come first.
        Step("keep", Keep("status = 'ok' and blank = false"), inputs=("paint", "blank")),
    )


def transfer(config: PretrainingConfig, arms_: tuple[Arm, ...], keep: bool = True) -> FineTune:
    """The stage that fine-tunes these networks and measures them.

    Args:
        keep: the weights as well.
    """
    from reverie.evaluate.fine_tuning import FineTune
    from reverie.learn.fit import Fit

    assert config.eval_data is not None
    net, how = config.net, config.transfer
    return FineTune(
        arms_,
        config.eval_data,
        backbone=net.backbone,
        image_size=net.view_px,
        size_px=net.image_px,
        fit=Fit(
            how.transfer_steps,
            how.transfer_lr,
            round(net.warmup * how.transfer_steps),
            weight_decay=0.05,
            betas=(0.9, 0.999),
            precision=config.precision,
        ),
        batch=how.transfer_batch,
        min_area=config.learners.min_area,
        keep=keep,
    )


def names_of(config: PretrainingConfig) -> tuple[str, ...] | None:
    """Classes that are told; None where they are those of the small world. Raises InputError for a name that is there twice."""
    if not (config.text.classes or config.more_classes):
        return None
    more = read_classes(config.more_classes) if config.more_classes else ()
    return read_classes((*read_classes(config.text.classes or _class_names()), *more))


def _class_names() -> tuple[str, ...]:
    from reverie.smallworld.scene import class_names

    return class_names()


def _start(config: PretrainingConfig) -> str | Path | None:
    return Path(config.start) if config.start and Path(config.start).is_dir() else config.start


def learner(method: Method, classes: tuple[str, ...] | Path, config: PretrainingConfig) -> Supervised | MoCoV2 | MAE:
    """What learns from the images: for a ``Train`` step with ``group="image"``."""
    from reverie.learn.mae import MAE
    from reverie.learn.mocov2 import MoCoV2
    from reverie.learn.supervised import Supervised

    net, own = config.net, config.learners
    shape: dict[str, Any] = {"backbone": net.backbone, "image_size": net.view_px, "start": _start(config)}
    if method == "supervised":
        return Supervised(classes, min_area=own.min_area, **shape)
    if method == "mocov2":
        return MoCoV2(queue=own.queue, momentum=own.momentum, batchnorm_groups=own.batchnorm_groups, **shape)
    return MAE(**vars(config.decoder), **shape)


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
