"""StableRep: all images painted from one caption are each other's positives. SimCLR, CLIP and MAE on the same images beside it.

Paper    Tian, Fan, Isola, Chang, Krishnan, NeurIPS 2023, https://arxiv.org/abs/2306.00984
Command  reverie run stablerep --scale tiny        (the demo: CPU, minutes, nothing to download)
         reverie run stablerep --scale paper --captions cc12m.txt --eval-data imagenet/
Paper's  ImageNet linear probe of ViT-B/16 trained on images painted from captions: CC12M 72.8, RedCaps (3x schedule) 76.7
Ours     docs/recipes/stablerep.md holds what was measured, with command, seeds, time and device

All arms learn for as many steps, with as many views in each: n captions x m images for StableRep, m n / 2 images x 2 crops for
SimCLR, m n captions x one image for CLIP, m n images for MAE. They are compared by steps and views, never by epochs, which mean
different things to each. SimCLR learns from one image of each caption, as published, unless it is told or captions are too few; the others
from all that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from reverie.arms import Arm, Factor, pixels, seeds_together, untrained
from reverie.errors import InputError
from reverie.ranges import check_min
from reverie.recaption.mix import Mix
from reverie.recipes.options import (
    KEPT,
    PUBLIC_PAINTER,
    CaptionSource,
    MaskedDecoder,
    Network,
    Painting,
    Precision,
    Scale,
    clip_default,
    clip_for,
    refuse_idle,
    refuse_twins,
    usable_of,
)
from reverie.run.plan import Plan, Step
from reverie.settings import flat

if TYPE_CHECKING:
    from reverie.evaluate.linear_probe import LinearProbe
    from reverie.learn.train import Train


Kind = Literal["stablerep", "simclr", "clip", "mae"]
Alone = Literal["simclr", "clip", "mae"]  # they take images one by one, and no caption has more than one in a batch
LABELS: Mapping[Kind, str] = {"stablerep": "StableRep", "simclr": "SimCLR", "clip": "CLIP", "mae": "MAE"}
REAL = "status = 'ok' and image is not null"


@dataclass(frozen=True)
class Text:
    """The text tower of CLIP and StableRep+."""

    text_tower: bool = False  # one more arm, StableRep+, which also learns which caption its images were painted from
    text_tokenizer: str = "builtin:clip"  # tokenizer of the text tower: a name or folder of which no weights are read
    text_width: int = 128  # width of the text tower
    text_layers: int = 2  # layers of the text tower
    text_heads: int = 4  # attention heads of the text tower
    text_context: int = 40  # tokens of a caption that the text tower reads
    text_out: int = 128  # width of the space that images and texts share
    # captions that are read, with their shares: alt (the stored text), short and long (as reverie recaption writes them), or columns, such
    # as short=0.5 long=0.5; at each visit of a pair one is drawn; the stored text when absent
    mix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probing:
    """How the linear probe is fitted."""

    # classifier of the linear probe: logistic regression, or SGD as published
    protocol: Literal["logistic", "sgd"] = "logistic"
    probe_batch_norm: bool = False  # batch norm before the classifier of the linear probe, for --protocol sgd
    # random crops and flips of the train photos, new in every epoch of the linear probe, for --protocol sgd
    probe_augment: bool = False
    probe_epochs: int = 90  # passes over the train photos of the linear probe, for --protocol sgd


@dataclass(frozen=True)
class View:
    """How StableRep and SimCLR change what they see.

    The published views forget a part of the colour and most of the place. In the small world a caption is told from the others of a batch by
    colour and background long before it is by shape, and a tenth of a picture shows no shape. So there a view has half of the
    picture or more, in any hue, and colour is no way out.
    """

    view_min_area: float = 0.5  # smallest share of an image that a view of StableRep and SimCLR is cut from
    # the most that hues of a view of StableRep and SimCLR are turned by, in turns; 0.5 is any hue
    view_hue: float = 0.5
    view_gray: float = 0.4  # share of the views of StableRep and SimCLR that lose their colour

    def check(self) -> None:
        """Raises InputError for shares that are none."""
        if not (0 < self.view_min_area <= 1 and 0 <= self.view_gray <= 1):
            raise InputError(
                "--view-min-area and --view-gray are shares, above 0 and up to 1; only --view-gray may be 0"
            )
        if not 0 <= self.view_hue <= 0.5:
            raise InputError(f"--view-hue {self.view_hue:g} must be 0 to 0.5 turns")


PUBLISHED = View(0.08, 0.1, 0.2)


@dataclass(frozen=True)
class StableRepConfig:
    """Settings of StableRep and of the arms beside it."""

    scale: Scale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes, paper is as published
    text: CaptionSource = CaptionSource(per_class=1)
    paint: Painting = Painting(per_caption=8)
    # folder of another run, whose painted images are used; they are painted when absent
    images_from: Path | None = None
    clip: str | None = "builtin:clip"  # CLIP or SigLIP model that images are judged by; none when absent
    # search for images that repeat another one, to leave them out; there is no column duplicate_of without it
    duplicates: bool = True
    keep_best: float = 0.95  # share of the images that are kept, by CLIP score
    # what is trained beside each other; methods that learn from the images, of which mae needs a ViT for a backbone
    arms: tuple[Kind, ...] = ("stablerep", "simclr")
    # methods that learn from one image of each caption (l = 1), as was published of all three; others from all that are kept
    one_image: tuple[Alone, ...] = ("simclr",)
    per_batch: int = 6  # images of a caption in a batch (m)
    captions_per_batch: int = 16  # captions in a StableRep batch (n); the other methods get as many views
    crops: int = 1  # views of an image in a StableRep batch (k)
    view: View = View()
    contrast_temperature: float = 0.1  # temperature of the contrastive loss of StableRep and SimCLR
    net: Network = Network(view_px=24, train_steps=900, lr=2e-3)
    head_hidden: int = 512  # hidden width of the projection head
    head_out: int = 128  # output width of the projection head
    decoder: MaskedDecoder = MaskedDecoder()
    mae_lr: float = 1e-3  # peak learning rate of MAE
    precision: Precision = "fp32"  # number format of training
    trackers: tuple[str, ...] = ()  # experiment trackers: tensorboard, wandb, or another that accelerate knows
    seeds: tuple[int, ...] = (0, 1, 2, 3)  # random seeds of training; every arm is trained once with each
    # photos to measure on; a folder with train and test, or smallworld:CAMERA:TRAIN:TEST
    eval_data: str | None = "smallworld:street:1280:1920"

    probing: Probing = Probing()
    # store of real photos, made by reverie import, to train on as many of as there are painted images
    real_store: Path | None = None

    towers: Text = Text()
    # sides in pixels that 5 % of StableRep's images are scaled down to and up again, so that it sees photos of low
    # resolution
    downscale_px: tuple[int, ...] = ()
    # two more arms that must do worse than StableRep: images dealt to captions at random, and crops of one image
    controls: bool = False
    unit_size: int = 16  # captions in one commit
    seed: int = 0  # random seed of the run; each training has one of its own

    def following(self, usual: StableRepConfig) -> dict[str, Any]:
        """No CLIP model by default for a public painter, nothing left out without one, and published views of what it paints; a
        rate and a commit by what is in them.
        """
        clip = clip_default(self.paint.painter, self.clip)
        view = usual.view if self.paint.is_builtin else PUBLISHED
        more = self.views / usual.views
        return {
            "clip": clip_default(self.paint.painter, usual.clip),
            "keep_best": usual.keep_best if clip else 1.0,
            "lr": usual.net.lr * more,
            "mae_lr": usual.mae_lr * more,
            **flat(view),
            "probe_augment": usual.probing.probe_augment and self.probing.protocol == "sgd",
            "unit_size": max(1, usual.unit_size * usual.paint.per_caption // max(1, self.paint.per_caption)),
        }

    @property
    def views(self) -> int:
        """In a batch (m n k)."""
        return self.per_batch * self.captions_per_batch * self.crops

    def check(self) -> None:
        """Raises InputError for settings that do not go together."""
        m, n, k = self.per_batch, self.captions_per_batch, self.crops
        if self.scale == "paper" and not ((self.text.file.captions or self.images_from) and self.eval_data):
            raise InputError(
                "--scale paper needs --captions FILE, and --eval-data FOLDER with train and test to probe on"
            )
        if self.eval_data is None:
            raise InputError("name photos to probe on: --eval-data FOLDER with train and test")
        check_min(1, per_batch=m, crops=k, probe_epochs=self.probing.probe_epochs)
        if m * k < 2 or n < 2 or self.views % 2:
            raise InputError(
                f"--per-batch {m} (or --crops {k}) and --captions-per-batch {n} must be 2 or more, and their product even"
            )
        if not (0 < self.contrast_temperature < math.inf and 0 < self.mae_lr < math.inf):
            raise InputError("--contrast-temperature and --mae-lr must be numbers above 0")
        if min(self.text.per_class, self.paint.sampler_steps) < 1:
            raise InputError("--per-class and --sampler-steps must be 1 or more")
        refuse_twins("--seeds", self.seeds)
        refuse_twins("--arms", self.arms)
        self.net.check()
        self.view.check()
        check_min(1, downscale_px=self.downscale_px)
        self._check_flags_that_say_nothing()
        clip_for(self.paint.painter, self.clip)
        if self.keep_best != 1.0 and not self.clip:
            raise InputError("--keep-best goes by CLIP score; name a model with --clip")

    def _check_flags_that_say_nothing(self) -> None:
        if self.probing.protocol != "sgd" and (self.probing.probe_batch_norm or self.probing.probe_augment):
            raise InputError("--probe-batch-norm and --probe-augment belong to --protocol sgd")
        if self.probing.protocol != "sgd" and self.probing.probe_epochs != Probing.probe_epochs:
            raise InputError("--probe-epochs belongs to --protocol sgd; a logistic regression has no epochs")
        idle = [kind for kind in self.one_image if kind not in self.arms]
        if idle and self.one_image != SCALES[self.scale].one_image:
            raise InputError(
                f"--one-image {idle[0]} says what {LABELS[idle[0]]} learns from, which --arms does not name"
            )
        if self.real_store and set(self.arms) <= {"stablerep"}:
            raise InputError("--real-store trains SimCLR, CLIP or MAE on photos too; name one of them with --arms")
        if self.towers.mix:
            Mix.read(self.towers.mix)
            if not self.images_from:
                raise InputError(
                    "--mix reads captions that stand beside images: name the run that has them with --images-from (reverie recaption "
                    "writes them)"
                )
        refuse_idle(
            self,
            SCALES[self.scale],
            (
                ("text_tokenizer", "text_width", "text_layers", "text_heads", "text_context", "text_out", "mix"),
                self.towers.text_tower or "clip" in self.arms,
                "--text-tower, or to clip among --arms",
            ),
            (("decoder_width", "decoder_layers", "decoder_heads"), "mae" in self.arms, "mae among --arms"),
        )
        if self.images_from:
            # What makes images: all of it is the other run's.
            names = [*flat(self.text), *flat(self.paint), "clip", "duplicates", "keep_best", "unit_size"]
            given, usual = flat(self), flat(SCALES[self.scale])
            if silent := next((name for name in names if given[name] != usual[name]), None):
                raise InputError(
                    f"--{silent.replace('_', '-')} is about how images are made and chosen, and with --images-from those of "
                    "another run are taken as they are; leave one out"
                )


# A step on views of 24 px costs half of one on 32: at equal time more is learnt.
TINY = StableRepConfig()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        text=CaptionSource(per_class=32),
        paint=Painting(per_caption=8),
        per_batch=4,
        captions_per_batch=64,
        net=Network(train_steps=5000),
        head_hidden=1024,
        eval_data="smallworld:street:12800:6400",
        seeds=(0, 1, 2),
        unit_size=64,
    ),
    "paper": replace(  # sections 2 and 3 of the paper and the authors' command for CC12M, 35 epochs
        TINY,
        scale="paper",
        text=CaptionSource(per_class=10),
        paint=Painting(PUBLIC_PAINTER, per_caption=10, sampler_steps=50, painter_dtype="fp16", store_px=256),
        clip=None,
        keep_best=1.0,  # the paper does not filter
        per_batch=6,
        captions_per_batch=1376,
        view=PUBLISHED,
        net=Network("vit-b16", 224, 256, train_steps=85_000, lr=2e-4 * 1376 * 6 / 256 / 2, warmup=1 / 30),
        head_hidden=4096,
        head_out=256,
        decoder=MaskedDecoder(512, 8, 16),
        mae_lr=1.5e-4 * 1376 * 6 / 256,  # the rate of arXiv:2111.06377 at this batch
        one_image=("simclr", "clip", "mae"),
        towers=Text(False, "openai/clip-vit-base-patch16", 512, 12, 8, 77, 512),
        precision="fp16",
        seeds=(0,),
        eval_data=None,
        probing=Probing("sgd", probe_augment=True),
        unit_size=500,
    ),
}


class Pool(NamedTuple):
    """The images that there will be to learn from."""

    captions: float  # with images
    images: float
    where: str
    store: Path | None  # None is the run's own


def pool(config: StableRepConfig) -> Pool:
    """What is painted, or was by another run. Raises InputError where that is too little for a batch."""
    m, n = config.per_batch, config.captions_per_batch
    if config.images_from is None:
        captions, copies = config.text.stage().count, config.paint.per_caption
        if m > copies:
            raise InputError(f"--per-batch {m} images of a caption cannot be drawn from --per-caption {copies}")
        if captions < n:
            raise InputError(f"--captions-per-batch {n} is more than the {captions} captions that there will be")
        there = captions * config.keep_best
        return Pool(there, there * copies, "kept", None)
    from reverie.store import tables

    where, pairs = usable_of(config.images_from), config.images_from / "pairs.lance"
    painted, usable = tables.count(pairs), tables.count(pairs, where)
    captions = tables.count(pairs, "copy = 0")
    if m * captions > painted or m * n > usable:
        raise InputError(
            f"{config.images_from} has {usable} usable images of {captions} captions, too few for batches of "
            f"--captions-per-batch {n} with --per-batch {m} images each"
        )
    return Pool(captions * usable / painted, usable, where, config.images_from)


def arms(config: StableRepConfig = TINY) -> dict[Arm, Train]:
    """What is trained beside what, under the first seed."""
    from reverie.learn.clip import CLIP
    from reverie.learn.fit import Fit, FitSpeed
    from reverie.learn.mae import MAE
    from reverie.learn.simclr import SimCLR
    from reverie.learn.stablerep import StableRep, TextTower
    from reverie.learn.train import Train

    m, n, k, net, text = config.per_batch, config.captions_per_batch, config.crops, config.net, config.towers
    there, views = pool(config), config.views
    shape: dict[str, Any] = {"backbone": net.backbone, "image_size": net.view_px}
    head: dict[str, Any] = shape | {
        "head_hidden": config.head_hidden,
        "head_out": config.head_out,
        "temperature": config.contrast_temperature,
        "min_area": config.view.view_min_area,
        "hue": config.view.view_hue,
        "gray": config.view.view_gray,
    }
    tower = TextTower(
        text.text_tokenizer, text.text_width, text.text_layers, text.text_heads, text.text_context, text.text_out
    )
    fit = Fit(
        net.train_steps,
        net.lr,
        warmup_steps=round(net.warmup * net.train_steps),
        precision=config.precision,
        speed=FitSpeed(trackers=config.trackers),
    )
    learner = StableRep(images_per_caption=m, crops=k, downscale_px=config.downscale_px, **head)
    ours = Train(learner, fit, n, size_px=net.image_px, where=there.where, store=there.store, min_images=m)
    mix = Mix.read(text.mix) if text.mix else None

    def alone(kind: Alone, learner: Any, images: int, **options: Any) -> Train:
        """One image a caption, so that none is the negative of another of its caption, while there are captions enough."""
        enough = there.captions >= images
        return replace(
            ours,
            learner=learner,
            captions_per_batch=images,
            group="caption" if enough else "image",
            max_images=int(enough and kind in config.one_image),
            **options,
        )

    found: dict[Kind, Train] = {"stablerep": ours}
    found["simclr"] = alone("simclr", SimCLR(**head), views // 2)
    # A caption that comes twice is the negative of itself, so where captions are few CLIP gets several images of each.
    clip = CLIP(net.view_px, text=tower, backbone=net.backbone)
    each = next((number for number in range(1, m + 1) if views % number == 0 and views // number <= there.captions), m)
    found["clip"] = (
        alone("clip", clip, views, mix=mix)
        if each == 1
        else replace(ours, learner=clip, captions_per_batch=views // each, images_per_caption=each, mix=mix)
    )
    masked = replace(fit, lr=config.mae_lr, weight_decay=0.05, betas=(0.9, 0.95))  # of arXiv:2111.06377
    found["mae"] = alone("mae", MAE(**vars(config.decoder), **shape), views, fit=masked)

    named = {_arm(kind, found[kind]): found[kind] for kind in config.arms}
    of_ours: dict[str, Factor] = {"learner": "stablerep", "images": "painted"}
    if text.text_tower:
        with_text = Arm("stablerep-plus", "StableRep+", factors=of_ours | {"text_tower": True})
        named[with_text] = replace(ours, learner=replace(learner, text_tower=True, text=tower), mix=mix)
    if config.controls:
        dealt = Arm("images-dealt-at-random", "images dealt at random", factors=of_ours | {"group": "random"})
        crops = Arm("crops-of-one-image", "crops of one image", factors=of_ours | {"crops": m * k})
        named[dealt] = replace(ours, group="random")
        named[crops] = replace(ours, learner=replace(learner, images_per_caption=1, crops=m * k))
    if config.real_store:
        for kind in config.arms:
            if kind != "stablerep":
                real = Arm(
                    f"{kind}-on-real-photos",
                    f"{LABELS[kind]} on real photos",
                    factors={"learner": kind, "images": "real"},
                )
                named[real] = _on_photos(kind, found[kind], there, config.real_store)
    return named


def _arm(kind: Kind, train: Train) -> Arm:
    """What pages call a method; of one that was published with one image of each caption and sees more, they say so."""
    factors: dict[str, Factor] = {"learner": kind, "images": "painted"}
    if train.max_images:
        factors["l"] = train.max_images
    several = kind != "stablerep" and not train.max_images
    return Arm(kind, f"{LABELS[kind]}, all images" if several else LABELS[kind], factors=factors)


def _on_photos(kind: Kind, train: Train, there: Pool, store: Path) -> Train:
    """The same on as many photos as it has painted images. Raises InputError for CLIP on too few photos with a caption."""
    views = train.captions_per_batch * max(1, train.images_per_caption)
    where = REAL
    if kind == "clip":
        from reverie.store import tables

        where, pairs = f"{REAL} and text is not null", store / "pairs.lance"
        if pairs.exists() and (captions := tables.count(pairs, where)) < views:
            raise InputError(f"{store} has {captions} photos with a caption, and a batch of CLIP wants {views}")
    return replace(
        train,
        captions_per_batch=views,
        images_per_caption=0,
        where=where,
        min_images=0,
        max_images=0,
        store=store,
        mix=None,  # the photos' own texts
        limit=round(there.captions if train.max_images else there.images),
    )


def stablerep(config: StableRepConfig = TINY, arms_: Mapping[Arm, Train] | None = None) -> Plan:
    """Captions -> images -> StableRep, SimCLR, CLIP and MAE on them -> linear probe on real photos -> a page.

    Example: reverie run stablerep --scale tiny --guidance 3 --out runs/guidance3

    Args:
        arms_: what is trained, in place of ``arms(config)``.
    """
    from reverie.report.page import WritePage

    made = () if config.images_from else painted(config)
    config.check()
    training = trained(config, arms(config) if arms_ is None else arms_)
    measure = Step("probe", probe(config, training), inputs=tuple(step.name for step in training.values()))
    return Plan(
        recipe="stablerep",
        seed=config.seed,
        unit_size=config.unit_size,
        arguments=flat(config),
        steps=(*made, *training.values(), measure, Step("page", WritePage(), inputs=("probe",))),
    )


def painted(config: StableRepConfig) -> tuple[Step, ...]:
    """Captions, images, scores, and the choice of images to learn from. Raises InputError for settings that do not go together."""
    from reverie.filters.blank import Blank
    from reverie.filters.clip_score import ClipScore
    from reverie.filters.duplicates import Duplicates, ImageHash
    from reverie.filters.keep import Keep

    config.check()
    pool(config)
    scores = [Step("blank", Blank(), inputs=("paint",))]
    if config.duplicates:
        scores.append(Step("hash", ImageHash(), inputs=("paint",)))
    compared = [Step("duplicates", Duplicates(), inputs=("hash",))] if config.duplicates else []
    if config.clip:
        scores.insert(0, Step("clip_score", ClipScore(config.clip), inputs=("paint",)))
    keep = Keep(KEPT[config.duplicates], config.keep_best)
    return (
        Step("captions", config.text.stage()),
        Step("paint", config.paint.stage(), inputs=("captions",)),
        *scores,
        *compared,
        Step("keep", keep, inputs=tuple(step.name for step in (*compared, *scores))),
    )


def trained(config: StableRepConfig, arms_: Mapping[Arm, Train]) -> dict[Arm, Step]:
    """The steps that train these arms, each arm once with each seed."""
    inputs = () if config.images_from else ("keep",)
    return {
        arm.under(number): Step(arm.under(number).key, replace(train, seed=number), inputs=inputs)
        for number in config.seeds
        for arm, train in arms_.items()
    }


def probe(config: StableRepConfig, training: Iterable[Arm]) -> LinearProbe:
    """The stage that measures what these arms have learned, beside untrained networks and raw pixels."""
    from reverie.evaluate.linear_probe import LinearProbe

    assert config.eval_data is not None
    probed = (*seeds_together(training), *untrained(config.seeds), pixels())
    net = config.net
    crop_px = net.view_px if net.view_px >= 128 else net.image_px  # small networks resize the whole photo themselves
    own = config.probing
    return LinearProbe(
        probed,
        config.eval_data,
        crop_px,
        net.image_px,
        protocol=own.protocol,
        batch_norm=own.probe_batch_norm,
        augment=own.probe_augment,
        epochs=own.probe_epochs,
    )
