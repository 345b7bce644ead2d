"""Claims of arXiv:2210.07574 about pre-training on painted images and fine-tuning on photos.

Judged by shape: how often the class that a fine-tuned network names has the shape of the photo. Numbers are those of
docs/recipes/synthetic_pretraining.md. Amounts are images at equal steps: what differs is how often each is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reverie.arms import Arm, Factor, by_id, untrained
from reverie.evaluate.claims import Claim, beats, gains_more
from reverie.recipes import synthetic_pretraining as recipe
from reverie.run.plan import Plan, Step
from reverie.settings import resolve
from reverie.smallworld.scene import COLOURS, class_names
from reverie.studies import Study, StudyConfig, check_of_small_world, named, seeds_of

if TYPE_CHECKING:
    from reverie.learn.train import Train

REAL = "photos"  # the step that takes the real photos to pre-train on
RUN, TRANSFER, TRANSFER_VIT = "backbones", "transfer", "transfer-vit"


@dataclass(frozen=True)
class PretrainingStudy(StudyConfig):
    """Settings of a study of pre-training on painted images."""

    num_images: int = 640  # images to paint, of all classes together
    pretrain_shots: int = 10  # photos of each class to pre-train on
    train_steps: int = 200  # optimiser steps of training; the same in every arm
    transfer_steps: int = 100  # optimiser steps of fine-tuning, the same in every arm
    # photos to measure on; smallworld:CAMERA:TRAIN:TEST; fine-tuned on its train photos
    eval_data: str = "smallworld:street:640:6400"


TINY = PretrainingStudy()
SCALES = {
    "tiny": TINY,
    "small": PretrainingStudy(
        scale="small",
        num_images=12_800,
        pretrain_shots=100,
        train_steps=5000,
        transfer_steps=2000,
        eval_data="smallworld:street:6400:6400",
    ),
}


def synthetic_pretraining(config: PretrainingStudy = TINY) -> Study:
    """Claims 10, 11 and 12 about pre-training on painted images, on the small world.

    Example: reverie claims synthetic_pretraining --scale tiny --num-seeds 3
    """
    from reverie.datasets.few_shot import TakeShots
    from reverie.report.page import WritePage

    check_of_small_world(config.eval_data)
    shared = {
        "num_images": config.num_images, "train_steps": config.train_steps, "transfer_steps": config.transfer_steps,
        "eval_data": config.eval_data, "seeds": seeds_of(config.num_seeds), "seed": config.seed,
    }  # fmt: skip
    usual = recipe.SCALES[config.scale]
    resnet, vit = resolve(usual, shared), resolve(usual, shared | {"backbone": "vit-tiny"})
    photos = f"smallworld:street:{64 * config.pretrain_shots * 3}:1"  # of which the shots are taken
    plan = Plan(
        recipe="synthetic_pretraining",
        seed=resnet.seed,
        unit_size=resnet.unit_size,
        steps=(
            *recipe.painted(resnet),
            Step(REAL, TakeShots(class_names(), photos, config.pretrain_shots, seed=0)),
            *_backbone(resnet, _all_arms(resnet), TRANSFER),
            *_backbone(vit, arms(vit), TRANSFER_VIT),
            Step("page", WritePage(), inputs=(TRANSFER, TRANSFER_VIT)),
        ),
    )
    about = (
        f"{config.num_images:,} images of the 64 classes of the small world by the builtin painter, and {config.pretrain_shots} street "
        f"photos of each class; {config.train_steps} steps of pre-training in every arm, then {config.transfer_steps} steps of fine-tuning "
        f"on other street photos. Differences are in how often the class that is named for an unseen one has the right shape."
    )
    words = {RUN: "a small ResNet in all arms, and a small ViT for the second part of claim 12"}
    return Study(about, named("synthetic_pretraining", config, {RUN: plan}), CLAIMS, words)


def arms(config: recipe.PretrainingConfig) -> dict[Arm, Train]:
    """The same learner on painted images and on photos."""
    painted = by_id(recipe.arms(config))["supervised-on-painted-images"]
    usable = "status = 'ok' and label is not null and image is not null"
    return {
        _told("painted", "painted"): painted,
        _told("photos", "photos", "real"): replace(painted, store=REAL, where=usable, limit=0),
    }


def _told(name: str, label: str, images: str = "painted", method: str = "supervised", **factors: Factor) -> Arm:
    return Arm(name, label, factors={"method": method, "images": images, **factors})


def _all_arms(config: recipe.PretrainingConfig) -> dict[Arm, Train]:
    """These, and more that differ from one of them in one thing each."""
    found, names = arms(config), class_names()
    painted, real = by_id(found)["painted"], by_id(found)["photos"]
    half = tuple(name for name in names if name.split()[0] in list(COLOURS)[: len(COLOURS) // 2])
    quoted = ", ".join(f"'{name}'" for name in half)
    mocov2 = recipe.learner("mocov2", names, config)
    return found | {
        _told("painted-wrong-labels", "painted, wrong labels", wrong_labels=1.0): replace(
            painted, learner=replace(painted.learner, wrong_labels=1.0)
        ),
        _told("painted-half-as-many", "painted, half as many", share=0.5): replace(
            painted, limit=config.num_images // 2
        ),
        _told("painted-a-quarter", "painted, a quarter", share=0.25): replace(painted, limit=config.num_images // 4),
        _told("half-of-the-classes", "half of the classes", share=0.5, classes=len(half)): replace(
            painted,
            where=f"kept and label in ({quoted})",
            learner=recipe.learner("supervised", half, config),
            limit=config.num_images // 2,
        ),
        _told("photos-then-painted", "photos, then painted", then="real"): replace(painted, start="photos"),
        _told("moco-v2-painted", "MoCo v2, painted", method="mocov2"): replace(painted, learner=mocov2),
        _told("moco-v2-photos", "MoCo v2, photos", "real", "mocov2"): replace(real, learner=mocov2),
    }


def _backbone(config: recipe.PretrainingConfig, arms_: dict[Arm, Train], transfer: str) -> list[Step]:
    """The pre-training of arms of one backbone on the same images, and the step that fine-tunes them all.

    Args:
        transfer: name of that step.
    """
    steps, tuned = [], []
    before = "" if transfer == TRANSFER else "vit-"
    for number in config.seeds:
        for arm, train in arms_.items():
            step = f"{before}{arm.id}-{number}"
            start = f"{before}{train.start}-{number}" if train.start else None
            of = ("keep", REAL, *((start,) if start else ()))
            steps.append(Step(step, replace(train, seed=number, start=start), inputs=of))
            tuned.append(arm.under(number, step))
            if arm.id == "painted" and transfer == TRANSFER:  # a ViT has no BatchNorm
                frozen = _told("painted-frozen-batchnorm", "painted, frozen BatchNorm", frozen_batchnorm=True)
                tuned.append(frozen.under(number, step))
        tuned += untrained([number])
    of = tuple(dict.fromkeys(arm.step for arm in tuned if arm.step))
    return [*steps, Step(transfer, recipe.transfer(config, tuple(tuned), keep=False), inputs=of)]


def _arm(name: str, transfer: str = TRANSFER) -> str:
    return f"{RUN}/{transfer}/{name}"


def _claim(
    name: str, says: str, paper: str, terms: tuple[tuple[str, float], ...], above: float = 0.0, control: bool = False
) -> Claim:
    return Claim(name, says, paper, terms, "top1_shape", above=above, control=control)


PAINTED, PHOTOS = _arm("painted"), _arm("photos")
CLAIMS = (
    _claim(
        "10", "Frozen BatchNorm is better for shape than BatchNorm in train mode", "", beats(_arm("painted-frozen-batchnorm"), PAINTED)
    ),
    _claim("11a", "Pre-training on painted images helps to tell shapes", "83.90 and 78.83 (CIFAR-100)", beats(PAINTED, _arm("untrained"))),
    _claim("11b", "More painted images are better for shape than a quarter of them", "85.24 and 83.90", beats(PAINTED, _arm("painted-a-quarter"))),
    _claim(
        "11c", "with diminishing returns", "85.03 to 85.24 after 83.90 to 85.03",
        gains_more(_arm("painted-half-as-many"), _arm("painted-a-quarter"), PAINTED, _arm("painted-half-as-many")),
    ),
    _claim(
        "11d", "At equal number, twice the classes are no worse for shape than half (by 1 point or more)", "+0.2 to +0.5",
        beats(_arm("painted-half-as-many"), _arm("half-of-the-classes")), above=-0.01,
    ),
    _claim("11e", "Photos and then painted images (twice the steps) are better for shape than photos", "85.52 and 84.50", beats(_arm("photos-then-painted"), PHOTOS)),
    _claim("11f", "and better than painted images", "85.52 and 85.24", beats(_arm("photos-then-painted"), PAINTED)),
    _claim(
        "12a", "MoCo v2 loses less in shape by painted images in place of photos than supervised learning does", "0.2 and 0.6 (VOC)",
        gains_more(_arm("moco-v2-painted"), _arm("moco-v2-photos"), PAINTED, PHOTOS),
    ),
    _claim(
        "12b", "A ViT loses less in shape than a ResNet", "",
        gains_more(_arm("painted", TRANSFER_VIT), _arm("photos", TRANSFER_VIT), PAINTED, PHOTOS),
    ),
    _claim(
        "0", "Control: images under labels drawn at random are worth less for shape than under their own", "",
        beats(PAINTED, _arm("painted-wrong-labels")), control=True,
    ),
)  # fmt: skip
