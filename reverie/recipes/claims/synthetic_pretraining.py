"""Claims of arXiv:2210.07574 about pre-training on painted images and fine-tuning on photos.

Numbers are those of docs/recipes/synthetic_pretraining.md. Amounts are images at equal steps: what differs is how often each
is seen.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from reverie.evaluate.claims import Claim, beats, gains_more
from reverie.recipes.claims import Study, seeds_of
from reverie.recipes.synthetic_pretraining import SIZES, learner
from reverie.recipes.synthetic_pretraining import synthetic_pretraining as recipe
from reverie.run.plan import Plan, Step
from reverie.smallworld.scene import COLOURS, class_names

if TYPE_CHECKING:
    from reverie.learn.train import Train

REAL = "photos"  # the step that takes the real photos to pre-train on
SOURCE = {"tiny": "smallworld:street:640:6400", "small": "smallworld:street:6400:6400"}  # to fine-tune and to test on
REAL_PER_CLASS = {"tiny": 10, "small": 100}


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
        steps: of each pre-training.
        seed: of captions and images.
    """
    numbers = seeds_of(seeds)
    size = SIZES[scale]
    size = dataclasses.replace(size, images=images or size.images, steps=steps or size.steps)
    runs = {
        "resnet": _run(recipe(scale, images=size.images, steps=size.steps, photos=SOURCE[scale], seeds=numbers, seed=seed), size, numbers, scale),
        "vit": _run(
            recipe(scale, images=size.images, steps=size.steps, backbone="vit-tiny", photos=SOURCE[scale], seeds=numbers, seed=seed),
            dataclasses.replace(size, backbone="vit-tiny"), numbers, scale,
        ),
    }  # fmt: skip
    about = (
        f"{size.images:,} images of the 64 classes of the small world by the builtin painter, and {REAL_PER_CLASS[scale]} street "
        f"photos of each class; {size.steps} steps of pre-training in every arm, then {size.transfer_steps} steps of fine-tuning "
        f"on other street photos; top-1 on unseen ones."
    )
    words = {"resnet": "a small ResNet, all arms", "vit": "a small ViT, for the second part of claim 12"}
    named = {
        name: dataclasses.replace(run, recipe=f"claims/synthetic_pretraining/{name}") for name, run in runs.items()
    }
    return Study(about, named, CLAIMS, words)


def _run(plan: Plan, size: Any, numbers: tuple[int, ...], scale: str) -> Plan:
    """The recipe's images and fine-tuning, with pre-training arms of our own."""
    from reverie.evaluate.fine_tuning import Arm
    from reverie.images.shots import TakeShots

    painted: Any = plan.step(f"supervised-on-painted-images-{numbers[0]}").stage
    names = class_names()
    usable = "status = 'ok' and label is not null and image is not null"
    real = dataclasses.replace(painted, store=REAL, where=usable, limit=0)
    half = tuple(name for name in names if name.split()[0] in list(COLOURS)[: len(COLOURS) // 2])
    quoted = ", ".join(f"'{name}'" for name in half)
    arms: dict[str, Train] = {"painted": painted, "photos": real}
    if size.backbone != "vit-tiny":
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
    begin = [step.name for step in plan.steps].index("keep") + 1
    transfer: Any = plan.step("transfer").stage
    photos = f"smallworld:street:{64 * REAL_PER_CLASS[scale] * 3}:1"  # of which the shots are taken
    steps = [*plan.steps[:begin], Step(REAL, TakeShots(names, photos, REAL_PER_CLASS[scale], seed=0))]
    tuned = []
    for number in numbers:
        for name, train in arms.items():
            step = _slug(name, number)
            start = _slug(train.start, number) if train.start else None
            of = ("keep", REAL, *((start,) if start else ()))
            steps.append(Step(step, dataclasses.replace(train, seed=number, start=start), of=of))
            tuned.append(Arm(name, number, step))
            if name == "painted" and size.backbone != "vit-tiny":  # which has no BatchNorm
                tuned.append(Arm("painted, frozen BatchNorm", number, step, frozen_batchnorm=True))
        tuned.append(Arm("untrained", number))
    of = tuple(arm.weights for arm in tuned if arm.weights)
    steps.append(Step("transfer", dataclasses.replace(transfer, arms=tuple(tuned)), of=tuple(dict.fromkeys(of))))
    steps.append(plan.step("page"))
    return dataclasses.replace(plan, steps=tuple(steps))


def _slug(name: str, number: int) -> str:
    return f"{name.lower().replace(',', '').replace(' ', '-')}-{number}"


def _arm(name: str, run: str = "resnet") -> str:
    return f"{run}/transfer/{name}"


def _claim(
    name: str, says: str, paper: str, terms: tuple[tuple[str, float], ...], above: float = 0.0, control: bool = False
) -> Claim:
    return Claim(name, says, paper, terms, "accuracy", above=above, control=control)


PAINTED, PHOTOS = _arm("painted"), _arm("photos")
CLAIMS = (
    _claim(
        "10", "Frozen BatchNorm is better than BatchNorm in train mode", "", beats(_arm("painted, frozen BatchNorm"), PAINTED)
    ),
    _claim("11a", "Pre-training on painted images helps", "83.90 and 78.83 (CIFAR-100)", beats(PAINTED, _arm("untrained"))),
    _claim("11b", "More painted images are better than a quarter of them", "85.24 and 83.90", beats(PAINTED, _arm("painted, a quarter"))),
    _claim(
        "11c", "with diminishing returns", "85.03 to 85.24 after 83.90 to 85.03",
        gains_more(_arm("painted, half as many"), _arm("painted, a quarter"), PAINTED, _arm("painted, half as many")),
    ),
    _claim(
        "11d", "At equal number, twice the classes are no worse than half (by 1 point or more)", "+0.2 to +0.5",
        beats(_arm("painted, half as many"), _arm("half of the classes")), above=-0.01,
    ),
    _claim("11e", "Photos and then painted images (twice the steps) are better than photos", "85.52 and 84.50", beats(_arm("photos, then painted"), PHOTOS)),
    _claim("11f", "and better than painted images", "85.52 and 85.24", beats(_arm("photos, then painted"), PAINTED)),
    _claim(
        "12a", "MoCo v2 loses less by painted images in place of photos than supervised learning does", "0.2 and 0.6 (VOC)",
        gains_more(_arm("MoCo v2, painted"), _arm("MoCo v2, photos"), PAINTED, PHOTOS),
    ),
    _claim(
        "12b", "A ViT loses less than a ResNet", "",
        gains_more(_arm("painted", "vit"), _arm("photos", "vit"), PAINTED, PHOTOS),
    ),
    _claim(
        "0", "Control: images under labels drawn at random are worth less than under their own", "",
        beats(PAINTED, _arm("painted, wrong labels")), control=True,
    ),
)  # fmt: skip
