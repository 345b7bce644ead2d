"""Claims of arXiv:2210.07574 about pre-training on painted images and fine-tuning on photos.

Judged by shape: how often the class that a fine-tuned network names has the shape of the photo. Numbers are those of docs/recipes/synthetic_pretraining.md. Amounts are images at equal steps: what differs is how often each
is seen.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from reverie.evaluate.claims import Claim, beats, gains_more
from reverie.recipes.claims import Study, seeds_of
from reverie.recipes.synthetic_pretraining import SIZES, Size, learner
from reverie.recipes.synthetic_pretraining import synthetic_pretraining as recipe
from reverie.run.plan import Plan, Step
from reverie.smallworld.scene import COLOURS, class_names

if TYPE_CHECKING:
    from reverie.learn.train import Train

REAL = "photos"  # the step that takes the real photos to pre-train on
SOURCE = {"tiny": "smallworld:street:640:6400", "small": "smallworld:street:6400:6400"}  # to fine-tune and to test on
REAL_PER_CLASS = {"tiny": 10, "small": 100}
STEPS = {"tiny": (200, 100), "small": (5000, 2000)}  # of pre-training and of fine-tuning
RUN, TRANSFER, TRANSFER_VIT = "backbones", "transfer", "transfer-vit"


def synthetic_pretraining(
    scale: Literal["tiny", "small"] = "tiny",
    seeds: int = 3,
    images: int | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Study:
    """Claims 10, 11 and 12 about pre-training on painted images, on the small world.

    Example: reverie claims synthetic_pretraining --scale tiny --seeds 3

    Args:
        scale: as in reverie run synthetic_pretraining.
        seeds: everything is trained once with 0, 1, ...
        images: painted, of all classes together; as many as the scale says when left out.
        steps: of each pre-training; 200 at tiny and 5,000 at small when left out.
        seed: of captions and images.
    """
    from reverie.images.shots import TakeShots

    numbers, (usual, transfer_steps) = seeds_of(seeds), STEPS[scale]
    size = SIZES[scale]
    size = dataclasses.replace(size, images=images or size.images, steps=steps or usual)

    def plan_for(backbone: str) -> Plan:
        return recipe(
            scale, images=size.images, steps=size.steps, transfer_steps=transfer_steps, backbone=backbone,
            photos=SOURCE[scale], seeds=numbers, seed=seed,
        )  # fmt: skip

    plan = plan_for(size.backbone)
    begin = [step.name for step in plan.steps].index("keep") + 1
    photos = f"smallworld:street:{64 * REAL_PER_CLASS[scale] * 3}:1"  # of which the shots are taken
    plan = dataclasses.replace(
        plan,
        recipe=f"claims/synthetic_pretraining/{RUN}",
        steps=(
            *plan.steps[:begin],
            Step(REAL, TakeShots(class_names(), photos, REAL_PER_CLASS[scale], seed=0)),
            *_backbone(plan, size, numbers, TRANSFER),
            *_backbone(plan_for("vit-tiny"), dataclasses.replace(size, backbone="vit-tiny"), numbers, TRANSFER_VIT),
            dataclasses.replace(plan.step("page"), of=(TRANSFER, TRANSFER_VIT)),
        ),
    )
    about = (
        f"{size.images:,} images of the 64 classes of the small world by the builtin painter, and {REAL_PER_CLASS[scale]} street "
        f"photos of each class; {size.steps} steps of pre-training in every arm, then {transfer_steps} steps of fine-tuning "
        f"on other street photos. Differences are in how often the class that is named for an unseen one has the right shape."
    )
    words = {RUN: "a small ResNet in all arms, and a small ViT for the second part of claim 12"}
    return Study(about, {RUN: plan}, CLAIMS, words)


def _backbone(plan: Plan, size: Size, numbers: tuple[int, ...], transfer: str) -> list[Step]:
    """Pre-training arms of one backbone on the same images, and the step that fine-tunes them all.

    Args:
        plan: the recipe's, for this backbone.
        transfer: name of that step.
    """
    from reverie.evaluate.fine_tuning import Arm

    painted: Any = plan.step(f"supervised-on-painted-images-{numbers[0]}").stage
    names = class_names()
    usable = "status = 'ok' and label is not null and image is not null"
    real = dataclasses.replace(painted, store=REAL, where=usable, limit=0)
    arms: dict[str, Train] = {"painted": painted, "photos": real}
    if transfer == TRANSFER:
        half = tuple(name for name in names if name.split()[0] in list(COLOURS)[: len(COLOURS) // 2])
        quoted = ", ".join(f"'{name}'" for name in half)
        mocov2 = learner("mocov2", names, size)
        arms |= {
            "painted, wrong labels": dataclasses.replace(
                painted, learner=dataclasses.replace(painted.learner, wrong_labels=1.0)
            ),
            "painted, half as many": dataclasses.replace(painted, limit=size.images // 2),
            "painted, a quarter": dataclasses.replace(painted, limit=size.images // 4),
            "half of the classes": dataclasses.replace(
                painted,
                where=f"kept and label in ({quoted})",
                learner=learner("supervised", half, size),
                limit=size.images // 2,
            ),
            "photos, then painted": dataclasses.replace(painted, start="photos"),
            "MoCo v2, painted": dataclasses.replace(painted, learner=mocov2),
            "MoCo v2, photos": dataclasses.replace(real, learner=mocov2),
        }
    steps, tuned = [], []
    before = "" if transfer == TRANSFER else "vit-"
    for number in numbers:
        for name, train in arms.items():
            step = before + _slug(name, number)
            start = before + _slug(train.start, number) if train.start else None
            of = ("keep", REAL, *((start,) if start else ()))
            steps.append(Step(step, dataclasses.replace(train, seed=number, start=start), of=of))
            tuned.append(Arm(name, number, step))
            if name == "painted" and transfer == TRANSFER:  # a ViT has no BatchNorm
                tuned.append(Arm("painted, frozen BatchNorm", number, step, frozen_batchnorm=True))
        tuned.append(Arm("untrained", number))
    fine: Any = plan.step("transfer").stage
    of = tuple(dict.fromkeys(arm.weights for arm in tuned if arm.weights))
    return [*steps, Step(transfer, dataclasses.replace(fine, arms=tuple(tuned), keep=False), of=of)]


def _slug(name: str, number: int) -> str:
    return f"{name.lower().replace(',', '').replace(' ', '-')}-{number}"


def _arm(name: str, transfer: str = TRANSFER) -> str:
    return f"{RUN}/{transfer}/{name}"


def _claim(
    name: str, says: str, paper: str, terms: tuple[tuple[str, float], ...], above: float = 0.0, control: bool = False
) -> Claim:
    return Claim(name, says, paper, terms, "accuracy_shape", above=above, control=control)


PAINTED, PHOTOS = _arm("painted"), _arm("photos")
CLAIMS = (
    _claim(
        "10", "Frozen BatchNorm is better for shape than BatchNorm in train mode", "", beats(_arm("painted, frozen BatchNorm"), PAINTED)
    ),
    _claim("11a", "Pre-training on painted images helps to tell shapes", "83.90 and 78.83 (CIFAR-100)", beats(PAINTED, _arm("untrained"))),
    _claim("11b", "More painted images are better for shape than a quarter of them", "85.24 and 83.90", beats(PAINTED, _arm("painted, a quarter"))),
    _claim(
        "11c", "with diminishing returns", "85.03 to 85.24 after 83.90 to 85.03",
        gains_more(_arm("painted, half as many"), _arm("painted, a quarter"), PAINTED, _arm("painted, half as many")),
    ),
    _claim(
        "11d", "At equal number, twice the classes are no worse for shape than half (by 1 point or more)", "+0.2 to +0.5",
        beats(_arm("painted, half as many"), _arm("half of the classes")), above=-0.01,
    ),
    _claim("11e", "Photos and then painted images (twice the steps) are better for shape than photos", "85.52 and 84.50", beats(_arm("photos, then painted"), PHOTOS)),
    _claim("11f", "and better than painted images", "85.52 and 85.24", beats(_arm("photos, then painted"), PAINTED)),
    _claim(
        "12a", "MoCo v2 loses less in shape by painted images in place of photos than supervised learning does", "0.2 and 0.6 (VOC)",
        gains_more(_arm("MoCo v2, painted"), _arm("MoCo v2, photos"), PAINTED, PHOTOS),
    ),
    _claim(
        "12b", "A ViT loses less in shape than a ResNet", "",
        gains_more(_arm("painted", TRANSFER_VIT), _arm("photos", TRANSFER_VIT), PAINTED, PHOTOS),
    ),
    _claim(
        "0", "Control: images under labels drawn at random are worth less for shape than under their own", "",
        beats(PAINTED, _arm("painted, wrong labels")), control=True,
    ),
)  # fmt: skip
