"""Claims of StableRep (arXiv:2306.00984) about images of one caption, their number, guidance, text and resolution.

Judged by how often a linear classifier tells the shape in street photos: shape is what augmentation leaves, and raw pixels
lack. Numbers are those of docs/recipes/stablerep.md. The paper's fifth and sixth claims need a generator that was trained on far more
than it is asked for, and are not here.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Literal, cast

from reverie.evaluate.claims import Claim, beats
from reverie.evaluate.linear_probe import Arm, LinearProbe
from reverie.recipes.claims import Study, insert, replace, seeds_of
from reverie.recipes.stablerep import SIZES, slug
from reverie.recipes.stablerep import stablerep as recipe
from reverie.run.plan import Plan, Step

if TYPE_CHECKING:
    from reverie.learn.train import Train

PER_CLASS = {"tiny": 4, "small": 32}  # captions; claim 2 needs l times as many as the budget's arm with l copies
STEPS = {"tiny": 150, "small": 5000}  # of training, so that 45 arms at tiny fit half an hour
LOW_PX = {"tiny": 16, "small": 16}  # side of photos that are photographed again from afar
PHOTOS = {
    "tiny": "smallworld:street:1280:6400",
    "small": "smallworld:street:12800:6400",
}  # to train the probe and test it on
STRONG = 8.0  # guidance of the second run
IMAGES = (2, 4, 6)  # images of one caption in a batch, m, of claim 3; with 6 a batch may be up to 5 views smaller


def stablerep(
    scale: Literal["tiny", "small"] = "tiny",
    seeds: int = 3,
    per_class: int | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Study:
    """StableRep's claims 1, 2, 3, 4, 7, 9, 10 and 11 on the small world.

    Example: reverie claims stablerep --scale tiny --seeds 3

    Args:
        scale: as in reverie run stablerep.
        seeds: each arm is trained once with 0, 1, ...
        per_class: captions of each class; 4 at tiny and 32 at small when left out.
        steps: of training, in each arm; 150 at tiny and 5,000 at small when left out.
        seed: of captions and images.
    """
    numbers, size = seeds_of(seeds), SIZES[scale]
    per_class, steps = per_class or PER_CLASS[scale], steps or STEPS[scale]
    copies = max(size.per_caption, *IMAGES)
    main = recipe(
        scale, per_class=per_class, per_caption=copies, keep_best=1.0, seeds=numbers, steps=steps, text_tower=True,
        controls=True, photos=PHOTOS[scale], seed=seed,
    )  # fmt: skip
    usual = f"kept and copy < {size.per_caption}"  # as many as are painted with the other guidance
    main = _learn_where(main, usual)
    train: Any = main.step(slug("StableRep", 0)).stage
    m, views = size.per_batch, size.per_batch * size.captions_per_batch
    arms: dict[str, Train] = {}
    for other in IMAGES:
        if other != m:
            arms[_with_images(other, m)] = dataclasses.replace(
                _with(train, views // other, images_per_caption=other),
                where=usual if other <= size.per_caption else "kept", at_least=other,
            )  # fmt: skip
    fixed = f"kept and copy < {m}"  # the same m images at every visit
    arms["StableRep, l = m"] = dataclasses.replace(train, where=fixed)
    arms["StableRep, downscaled"] = _with(train, train.captions_per_batch, downscale_px=(LOW_PX[scale],))
    budget = main.num_captions  # images
    arms["few captions, many images"] = dataclasses.replace(train, limit=budget // size.per_caption)
    crops = _with(train, train.captions_per_batch, images_per_caption=1, crops=m)
    arms["many captions, one image"] = dataclasses.replace(crops, where="kept and copy = 0", at_least=0)
    main = _with_arms(main, arms, numbers, LOW_PX[scale])
    strong = recipe(
        scale,
        guidance=STRONG,
        per_class=per_class,
        keep_best=1.0,
        seeds=numbers,
        steps=steps,
        photos=PHOTOS[scale],
        seed=seed,
    )
    about = (
        f"Captions of the 64 classes of the small world, {size.per_caption} images of each, painted by the builtin painter "
        f"({copies} for m = {max(IMAGES)}); a small ResNet, {train.fit.steps} steps of {views} views in every arm. Differences are in how often a linear classifier tells the shape in street photos."
    )
    runs = {"guidance-2": main, "guidance-8": strong}
    words = {"guidance-2": "all arms but those of claim 4", "guidance-8": "the same captions, painted with guidance 8"}
    return Study(about, {name: _named(plan, name) for name, plan in runs.items()}, _claims(m), words)


def _arm(name: str, run: str = "guidance-2", step: str = "probe") -> str:
    return f"{run}/{step}/{name}"


def _with_images(number: int, m: int) -> str:
    """The arm that learns from so many images of each caption."""
    return "StableRep" if number == m else f"StableRep, m = {number}"


def _claims(m: int) -> tuple[Claim, ...]:
    """The claims, all about shape, where StableRep takes m images of each caption."""
    about_shape = functools.partial(Claim, metric="top1_shape")
    two, four, six = (_arm(_with_images(number, m)) for number in IMAGES)
    return (
        about_shape(
            "1",
            "StableRep tells shapes better than SimCLR on the same images, with the same steps and views",
            "about +10 points after 35 epochs",
            beats(_arm("StableRep"), _arm("SimCLR")),
        ),
        about_shape(
            "2",
            "With a budget of images, several of each of fewer captions are better for shape than one of each of more captions",
            "",
            beats(_arm("few captions, many images"), _arm("many captions, one image")),
        ),
        about_shape(
            "3a", "With a batch of so many views, m = 2 is better for shape than one image and two crops", "",
            beats(two, _arm("SimCLR")),
        ),
        about_shape("3b", "and m = 4 is", "", beats(four, _arm("SimCLR"))),
        about_shape("3c", "and m = 6 is", "", beats(six, _arm("SimCLR"))),
        about_shape(
            "3d", "The gain in shape flattens: from 1 to 2 images it is greater than from 2 to 4", "",
            ((two, 2.0), (_arm("SimCLR"), -1.0), (four, -1.0)),
        ),
        about_shape(
            "4",
            "StableRep gains more in shape from guidance 2 over guidance 8 than SimCLR does",
            "best at 2 to 3 and at 8",
            (
                (_arm("StableRep"), 1.0), (_arm("StableRep", "guidance-8"), -1.0),
                (_arm("SimCLR"), -1.0), (_arm("SimCLR", "guidance-8"), 1.0),
            ),
        ),
        about_shape("7", "StableRep+ tells shapes better than StableRep at equal steps", "", beats(_arm("StableRep+"), _arm("StableRep"))),
        about_shape(
            "9a", "Making some images small and large again helps to tell shapes in photos of low resolution", "",
            beats(_arm("StableRep, downscaled", step="probe-low"), _arm("StableRep", step="probe-low")),
        ),
        about_shape(
            "9b", "and costs at most 1.5 points on the others", "at most 1.5 points",
            beats(_arm("StableRep, downscaled"), _arm("StableRep")), above=-0.015,
        ),
        about_shape(
            "10", "Drawing m of l > m images afresh at each visit is better for shape than the same m = l", "l = 10 over 4: +0.5",
            beats(_arm("StableRep"), _arm("StableRep, l = m")),
        ),
        about_shape(
            "11a", "Control: with images dealt to captions at random, StableRep falls below SimCLR in shape", "",
            beats(_arm("SimCLR"), _arm("images dealt at random")), control=True,
        ),
        about_shape(
            "11b", "Control: m crops of one image are not as good for shape as m images", "",
            beats(_arm("StableRep"), _arm("crops of one image")), control=True,
        ),
    )  # fmt: skip


def _learn_where(plan: Plan, where: str) -> Plan:
    """All that learn from the images that were kept learn from these of them."""
    for step in plan.steps:
        if getattr(step.stage, "where", None) == "kept" and hasattr(step.stage, "learner"):
            plan = replace(plan, step.name, stage=dataclasses.replace(cast(Any, step.stage), where=where))
    return plan


def _with(train: Train, captions: int, **learner: object) -> Train:
    return dataclasses.replace(
        train, learner=dataclasses.replace(train.learner, **learner), captions_per_batch=captions
    )


def _with_arms(plan: Plan, arms: dict[str, Train], numbers: tuple[int, ...], low_px: int) -> Plan:
    """Train more arms and probe them; probe two of them on photos of low resolution as well."""
    steps = [
        Step(slug(name, number), dataclasses.replace(train, seed=number), of=("keep",))
        for number in numbers
        for name, train in arms.items()
    ]
    plan = insert(plan, steps, before="probe")
    probe = plan.step("probe")
    assert isinstance(probe.stage, LinearProbe)
    more = tuple(Arm(name, number, slug(name, number)) for name in arms for number in numbers)
    stage = dataclasses.replace(probe.stage, arms=(*probe.stage.arms, *more))
    names = tuple(step.name for step in steps)
    plan = replace(plan, "probe", stage=stage, of=(*probe.of, *names))
    low_arms = tuple(arm for arm in stage.arms if arm.name in ("StableRep", "StableRep, downscaled"))
    low = dataclasses.replace(stage, arms=low_arms, size_px=low_px, resize_px=low_px)
    weights = tuple(arm.weights for arm in low_arms if arm.weights)
    plan = insert(plan, [Step("probe-low", low, of=weights)], before="page")
    return replace(plan, "page", of=("probe", "probe-low"))


def _named(plan: Plan, name: str) -> Plan:
    return dataclasses.replace(plan, recipe=f"claims/stablerep/{name}")
