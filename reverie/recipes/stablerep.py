"""StableRep: all images painted from one caption are each other's positives. SimCLR on the same images beside it.

Paper    Tian, Fan, Isola, Chang, Krishnan, NeurIPS 2023, https://arxiv.org/abs/2306.00984
Command  reverie run stablerep --scale tiny        (the demo: CPU, minutes, nothing to download)
         reverie run stablerep --scale paper --captions cc12m.txt --eval-data imagenet/
Paper's  ImageNet linear probe of ViT-B/16 trained on images painted from captions: CC12M 72.8, RedCaps (3x schedule) 76.7
Ours     docs/recipes/stablerep.md holds what was measured, with command, seeds, time and device

Both arms see the same kept images for as many steps, and as many views in each: n captions x m images for StableRep, m n / 2
images x 2 crops for SimCLR. They are compared by steps and views, never by epochs, which mean different things to the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.arms import Arm, Factor, pixels, seeds_together, untrained
from reverie.errors import InputError
from reverie.ranges import check_at_least
from reverie.recipes.options import (
    KEPT,
    PUBLIC_PAINTER,
    CaptionSource,
    Network,
    Painting,
    Precision,
    Scale,
    clip_default,
    clip_for,
)
from reverie.run.plan import Plan, Step
from reverie.settings import flat

if TYPE_CHECKING:
    from reverie.evaluate.linear_probe import LinearProbe
    from reverie.learn.train import Train


@dataclass(frozen=True)
class Text:
    """The text tower of StableRep+."""

    text_tower: bool = False  # one more arm, StableRep+, which also learns which caption its images were painted from
    text_tokenizer: str = "builtin:clip"  # tokenizer of the text tower: a name or folder of which no weights are read
    text_width: int = 128  # width of the text tower
    text_layers: int = 2  # layers of the text tower
    text_heads: int = 4  # attention heads of the text tower
    text_context: int = 40  # tokens of a caption that the text tower reads
    text_out: int = 128  # width of the space that images and texts share


@dataclass(frozen=True)
class StableRepConfig:
    """Settings of StableRep and of the arms beside it."""

    scale: Scale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes, paper is as published
    text: CaptionSource = CaptionSource(per_class=2)
    paint: Painting = Painting()
    clip: str | None = "builtin:clip"  # CLIP or SigLIP model that images are judged by; none when absent
    # search for images that repeat another one, to leave them out; there is no column duplicate_of without it
    duplicates: bool = True
    keep_best: float = 0.95  # share of the images that are kept, by CLIP score
    per_batch: int = 3  # images of a caption in a batch (m)
    captions_per_batch: int = 32  # captions in a StableRep batch (n); SimCLR gets m n / 2 images with two crops
    net: Network = Network()
    head_hidden: int = 512  # hidden width of the projection head
    head_out: int = 128  # output width of the projection head
    precision: Precision = "fp32"  # number format of training
    trackers: tuple[str, ...] = ()  # experiment trackers: tensorboard, wandb, or another that accelerate knows
    seeds: tuple[int, ...] = (0, 1, 2)  # random seeds of training; every arm is trained once with each
    # photos to measure on; a folder with train and test, or smallworld:CAMERA:TRAIN:TEST
    eval_data: str | None = "smallworld:street:1280:640"
    # classifier of the linear probe: logistic regression, or SGD as published
    probe: Literal["logistic", "sgd"] = "logistic"
    # store of real photos, made by reverie import, to train on as many of as there are painted images
    real_store: Path | None = None
    towers: Text = Text()
    # sides in pixels that 5 % of StableRep's images are scaled down to and up again, so that it sees photos of low
    # resolution
    downscale_px: tuple[int, ...] = ()
    # two more arms that must do worse than StableRep: images dealt to captions at random, and crops of one image
    controls: bool = False
    unit_size: int = 16  # captions in one commit
    seed: int = 0  # random seed of captions, images and everything else but training

    def following(self, usual: StableRepConfig) -> dict[str, Any]:
        """No CLIP model by default for a public painter, nothing left out without one; a rate and a commit by what is in them."""
        clip = clip_default(self.paint.painter, self.clip)
        views, usual_views = self.views, usual.views
        return {
            "clip": clip_default(self.paint.painter, usual.clip),
            "keep_best": usual.keep_best if clip else 1.0,
            "lr": usual.net.lr if views == usual_views else usual.net.lr * views / usual_views,
            "unit_size": max(1, usual.unit_size * usual.paint.per_caption // max(1, self.paint.per_caption)),
        }

    @property
    def views(self) -> int:
        """In a batch (m n)."""
        return self.per_batch * self.captions_per_batch

    def check(self) -> None:
        """Raises InputError for settings that do not go together."""
        m, n, copies = self.per_batch, self.captions_per_batch, self.paint.per_caption
        if self.scale == "paper" and not (self.text.file.captions and self.eval_data):
            raise InputError(
                "--scale paper needs --captions FILE, and --eval-data FOLDER with train and test to probe on"
            )
        if self.eval_data is None:
            raise InputError("name photos to probe on: --eval-data FOLDER with train and test")
        if m < 2 or n < 2 or m * n % 2:
            raise InputError(f"--per-batch {m} and --captions-per-batch {n} must be 2 or more, and their product even")
        if m > copies:
            raise InputError(f"--per-batch {m} images of a caption cannot be drawn from --per-caption {copies}")
        if min(self.text.per_class, self.paint.sampler_steps) < 1 or not self.seeds:
            raise InputError("--per-class and --sampler-steps must be 1 or more, --seeds at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))} names one seed twice")
        self.net.check()
        check_at_least(1, downscale_px=self.downscale_px)
        clip_for(self.paint.painter, self.clip)
        if self.keep_best != 1.0 and not self.clip:
            raise InputError("--keep-best goes by CLIP score; name a model with --clip")


TINY = StableRepConfig()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        text=CaptionSource(per_class=32),
        paint=Painting(per_caption=8, sampler_steps=20),
        per_batch=4,
        captions_per_batch=64,
        net=Network(train_steps=5000),
        head_hidden=1024,
        eval_data="smallworld:street:12800:6400",
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
        net=Network("vit-b16", 224, 256, train_steps=85_000, lr=2e-4 * 1376 * 6 / 256 / 2, warmup=1 / 30),
        head_hidden=4096,
        head_out=256,
        towers=Text(False, "openai/clip-vit-base-patch16", 512, 12, 8, 77, 512),
        precision="fp16",
        seeds=(0,),
        eval_data=None,
        probe="sgd",
        unit_size=500,
    ),
}


def arms(config: StableRepConfig = TINY) -> dict[Arm, Train]:
    """What is trained beside what, under the first seed."""
    from reverie.learn.fit import Fit, FitSpeed
    from reverie.learn.simclr import SimCLR
    from reverie.learn.stablerep import StableRep, TextTower
    from reverie.learn.train import Train

    m, n, net, text = config.per_batch, config.captions_per_batch, config.net, config.towers
    shape: dict[str, Any] = {
        "backbone": net.backbone,
        "image_size": net.view_px,
        "head_hidden": config.head_hidden,
        "head_out": config.head_out,
    }
    fit = Fit(
        net.train_steps,
        net.lr,
        warmup_steps=round(net.warmup * net.train_steps),
        precision=config.precision,
        speed=FitSpeed(trackers=config.trackers),
    )
    there = config.text.stage().count
    learner = StableRep(images_per_caption=m, downscale_px=config.downscale_px, **shape)
    ours = Train(learner, fit, n, size_px=net.image_px, where="kept", min_images=m)
    # One image a caption, so that none is the negative of another of its caption, while there are captions enough.
    alone: Literal["caption", "image"] = "caption" if there * config.keep_best >= m * n // 2 else "image"
    simclr = Train(SimCLR(**shape), fit, m * n // 2, size_px=net.image_px, where="kept", min_images=m, group=alone)
    of_ours: dict[str, Factor] = {"learner": "stablerep", "images": "painted"}
    found = {
        Arm("stablerep", "StableRep", factors=of_ours): ours,
        Arm("simclr", "SimCLR", factors={"learner": "simclr", "images": "painted"}): simclr,
    }
    if text.text_tower:
        tower = TextTower(
            text.text_tokenizer, text.text_width, text.text_layers, text.text_heads, text.text_context, text.text_out
        )
        with_text = Arm("stablerep-plus", "StableRep+", factors=of_ours | {"text_tower": True})
        found[with_text] = replace(ours, learner=replace(learner, text_tower=True, text=tower))
    if config.controls:
        dealt = Arm("images-dealt-at-random", "images dealt at random", factors=of_ours | {"group": "random"})
        crops = Arm("crops-of-one-image", "crops of one image", factors=of_ours | {"crops": m})
        found[dealt] = replace(ours, group="random")
        found[crops] = replace(ours, learner=replace(learner, images_per_caption=1, crops=m))
    if config.real_store:
        real = Arm("simclr-on-real-photos", "SimCLR on real photos", factors={"learner": "simclr", "images": "real"})
        found[real] = replace(
            simclr,
            where="status = 'ok' and image is not null",
            min_images=0,
            store=config.real_store,
            limit=round(config.keep_best * there * config.paint.per_caption),
        )
    return found


def stablerep(config: StableRepConfig = TINY, arms_: Mapping[Arm, Train] | None = None) -> Plan:
    """Captions -> images -> StableRep and SimCLR on the same images -> linear probe on real photos -> a page.

    Example: reverie run stablerep --scale tiny --guidance 3 --out runs/guidance3

    Args:
        arms_: what is trained, in place of ``arms(config)``.
    """
    from reverie.report.page import WritePage

    made = painted(config)
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
    first, n = config.text.stage(), config.captions_per_batch
    if first.count < n:
        raise InputError(f"--captions-per-batch {n} is more than the {first.count} captions that there will be")
    scores = [Step("blank", Blank(), inputs=("paint",))]
    if config.duplicates:
        scores.append(Step("hash", ImageHash(), inputs=("paint",)))
    compared = [Step("duplicates", Duplicates(), inputs=("hash",))] if config.duplicates else []
    if config.clip:
        scores.insert(0, Step("clip_score", ClipScore(config.clip), inputs=("paint",)))
    keep = Keep(KEPT[config.duplicates], config.keep_best)
    return (
        Step("captions", first),
        Step("paint", config.paint.stage(), inputs=("captions",)),
        *scores,
        *compared,
        Step("keep", keep, inputs=tuple(step.name for step in (*compared, *scores))),
    )


def trained(config: StableRepConfig, arms_: Mapping[Arm, Train]) -> dict[Arm, Step]:
    """The steps that train these arms, each arm once with each seed."""
    return {
        arm.under(number): Step(arm.under(number).key, replace(train, seed=number), inputs=("keep",))
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
    return LinearProbe(probed, config.eval_data, crop_px, net.image_px, protocol=config.probe)
