"""Claims of arXiv:2210.07574 about classifiers from class names: captions, filter, loss, what is tuned, training from scratch,
and controls.

Numbers are those of docs/recipes/zero_shot.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from reverie.evaluate.claims import Claim, beats, gains_more
from reverie.recipes.claims import Study, insert, replace, seeds_of
from reverie.recipes.scratch_efficiency import scratch_efficiency
from reverie.recipes.zero_shot import SIZES, WHOLE_BATCH, WHOLE_LR
from reverie.recipes.zero_shot import zero_shot as recipe
from reverie.run.plan import Plan, Step
from reverie.smallworld.scene import class_names

if TYPE_CHECKING:
    from reverie.learn.train import Train
    from reverie.learn.tune import TuneClassifier

PHOTOS = 6400  # to measure on: with 960, the interval over photos would hide most differences
CONTEXT = "a photo of a {class}"
USABLE = "status = 'ok' and blank = false"
STRICT = 0.5  # confidence that few images have
FAST = 5  # times the rate of the others: at theirs, so few steps hardly move the head, whatever the labels
WRONG = 0.3  # share of labels drawn anew
TUNED_EPOCHS = 5  # of tuning end to end
TAKEN = "status = 'ok' and label is not null"  # of real photos
FEW, MANY = 2, 10  # images of a class to train from scratch on: five times as many


def zero_shot(
    scale: Literal["tiny", "small"] = "tiny", seeds: int = 3, per_class: int | None = None, seed: int = 0
) -> Study:
    """Claims 1, 2, 3, 5, 6 and 13 about classifiers from class names, on the small world.

    Example: reverie claims zero_shot --scale tiny --seeds 3

    Args:
        scale: as in reverie run zero_shot.
        seeds: each arm is tuned once with 0, 1, ...
        per_class: captions of each class; as many as the scale says when left out.
        seed: of captions and images.
    """
    from reverie.captions.templates import FromTemplates
    from reverie.evaluate.classifiers import MeasureGradient
    from reverie.filters.per_class import KeepPerClass
    from reverie.learn.classifier_tuning import ClassifierTuning
    from reverie.learn.end_to_end import EndToEnd
    from reverie.learn.fit import Fit
    from reverie.learn.train import Train

    numbers, size, names = seeds_of(seeds), SIZES[scale], class_names()
    size = dataclasses.replace(size, per_class=per_class or size.per_class)
    photos = f"smallworld:street:1:{PHOTOS}"
    plan = recipe(scale, context=CONTEXT, per_class=size.per_class, photos=photos, seeds=numbers, seed=seed)
    images = size.per_class * size.per_caption  # of a class
    tune: Any = plan.step("classifier").stage
    # As many steps in every arm, or a filter would also be a shorter training.
    tune = dataclasses.replace(tune, steps=size.epochs * math.ceil(images * len(names) / size.tune_batch))

    hard = ClassifierTuning(soft_share=0.0)
    steps = TUNED_EPOCHS * images * len(names) // WHOLE_BATCH
    tuned = {
        "LE+CF+SCE": tune,
        "LE": dataclasses.replace(tune, where=USABLE, tuning=hard),
        "LE+CF": dataclasses.replace(tune, tuning=hard),
        "LE+SCE": dataclasses.replace(tune, where=USABLE),
        "wrong labels, CE": dataclasses.replace(tune, tuning=hard, wrong_labels=WRONG),
        "wrong labels, CE and SCE": dataclasses.replace(tune, wrong_labels=WRONG),
        "strict filter": dataclasses.replace(tune, where=f"kept and clip_confidence > {STRICT}"),
        "K at random": dataclasses.replace(tune, where="kept_random"),
        "top K": dataclasses.replace(tune, where="kept_top"),
        "random head": dataclasses.replace(tune, tuning=hard, random_head=True),  # and no teacher that knows the names
        "labels shuffled": dataclasses.replace(tune, tuning=hard, wrong_labels=1.0, lr=FAST * tune.lr),
        "head alone": dataclasses.replace(tune, steps=steps),
    }
    whole = Train(
        EndToEnd(names, (CONTEXT,), size.clip, image_size=64),
        Fit(steps, WHOLE_LR, weight_decay=tune.weight_decay, clip=tune.clip),
        captions_per_batch=WHOLE_BATCH,
        where="kept",
        group="image",
    )
    first = _with(plan, {**tuned, "end to end": whole}, numbers)
    few = max(1, images // 4)
    keeps = [
        Step(f"keep-{choose}", KeepPerClass(names, USABLE, most=few, choose=choose, column=f"kept_{choose}"), ("keep",))
        for choose in ("random", "top")
    ]
    first = insert(first, keeps, before="zero-shot")
    first = insert(first, [Step("gradient", MeasureGradient(tune), of=("keep",))], before="page")
    first = replace(first, "page", of=(*first.step("page").of, "gradient"))

    second = _with(plan, {"B": tuned["LE"], "B+CF": tuned["LE+CF"]}, numbers)
    second = replace(second, "captions", stage=FromTemplates(names, (CONTEXT,)))
    paint: Any = plan.step("paint").stage
    second = replace(second, "paint", stage=dataclasses.replace(paint, per_caption=images))
    about = (
        f"{images * len(names):,} images of the {len(names)} classes of the small world by the builtin painter; a linear "
        f"classifier on the builtin CLIP, tuned for {tune.steps} steps and measured on {PHOTOS:,} photos by the "
        "street camera, and by the studio camera, whose photos zero-shot CLIP knows better."
    )
    words = {
        "sentences": f"{size.per_class} written captions a class",
        "template": "one template for all classes",
        "photos": f"nothing painted: {images} street photos of each class to tune on",
        "scratch": f"a small network from nothing on {FEW} and {MANY} images of a class",
    }
    runs = {
        "sentences": first,
        "template": second,
        "photos": _on_photos(plan, images, numbers, whole),
        "scratch": scratch_efficiency(
            scale,
            paint=(FEW, MANY),
            real=(FEW, MANY),
            mixed=(),
            photos=f"smallworld:street:640:{PHOTOS}",
            seeds=numbers,
            seed=seed,
        ),
    }
    named = {name: dataclasses.replace(run, recipe=f"claims/zero_shot/{name}") for name, run in runs.items()}
    return Study(about, named, CLAIMS, words)


def _on_photos(plan: Plan, per_class: int, numbers: tuple[int, ...], whole: Train) -> Plan:
    """Head alone and end to end, as on painted images, on as many photos."""
    from reverie.evaluate.classifiers import MeasureClassifiers, Tuned
    from reverie.images.shots import TakeShots

    tune: Any = plan.step("classifier").stage
    measure: Any = plan.step("measure").stage
    source = f"smallworld:street:{3 * per_class * len(class_names())}:1"  # of which the photos are taken
    head = dataclasses.replace(tune, on="shots", shots="photos", steps=whole.fit.steps, real_batch=WHOLE_BATCH)
    arms = {
        "head alone": head,
        "end to end": dataclasses.replace(whole, store="photos", where=TAKEN),
    }
    steps, tuned = [Step("photos", TakeShots(class_names(), source, per_class))], []
    for name, stage in arms.items():
        for number in numbers:
            step = f"{_slug(name)}-{number}"
            steps.append(Step(step, dataclasses.replace(stage, seed=number), of=("photos",)))
            tuned.append(Tuned(name, step, number))
    of = tuple(arm.step for arm in tuned)
    steps.append(Step("measure", MeasureClassifiers(tuple(tuned), measure.classes, measure.photos), of=of))
    steps.append(dataclasses.replace(plan.step("page"), of=("measure",)))
    return dataclasses.replace(plan, steps=tuple(steps))


def _with(plan: Plan, arms: Mapping[str, TuneClassifier | Train], numbers: tuple[int, ...]) -> Plan:
    """The plan up to its zero-shot classifier, then these arms, measured on photos by both cameras."""
    from reverie.evaluate.classifiers import MeasureClassifiers, Tuned

    begin = [step.name for step in plan.steps].index("zero-shot") + 1
    steps, tuned = list(plan.steps[:begin]), [Tuned("zero-shot", "zero-shot")]
    for name, stage in arms.items():
        for number in numbers:
            step = f"{_slug(name)}-{number}"
            steps.append(Step(step, dataclasses.replace(stage, seed=number), of=("keep",)))
            tuned.append(Tuned(name, step, number))
    measure: Any = plan.step("measure").stage
    of = tuple(arm.step for arm in tuned)
    on_studio = tuple(arm for arm in tuned if arm.name in ("zero-shot", "LE+CF+SCE"))
    steps.append(Step("measure", MeasureClassifiers(tuple(tuned), measure.classes, measure.photos), of=of))
    studio = measure.photos.replace("street", "studio")
    steps.append(Step("measure-studio", MeasureClassifiers(on_studio, measure.classes, studio), of=("measure",)))
    steps.append(dataclasses.replace(plan.step("page"), of=("measure", "measure-studio")))
    return dataclasses.replace(plan, steps=tuple(steps))


def _slug(name: str) -> str:
    return name.lower().replace("+", "-").replace(",", "").replace(" ", "-")


def _arm(name: str, run: str = "sentences", step: str = "measure") -> str:
    return f"{run}/{step}/{name}"


def _scratch(number: int, kind: str = "painted") -> str:
    return _arm(f"{number} {kind} a class", "scratch", "scratch")


ZERO_SHOT, OURS = _arm("zero-shot"), _arm("LE+CF+SCE")


def _claim(
    name: str, says: str, paper: str, terms: tuple[tuple[str, float], ...], metric: str = "accuracy", **how: Any
) -> Claim:
    fixed = tuple(arm for arm, _ in terms if arm.endswith("/zero-shot"))
    return Claim(name, says, paper, terms, metric, fixed=fixed, **how)


CLAIMS = (
    _claim("1a", "Tuning on painted images beats zero-shot CLIP", "+4.3 (RN50), +2.9 (ViT-B/16)", beats(OURS, ZERO_SHOT)),
    _claim(
        "1b", "and gains more where zero-shot is weak (street) than where it is strong (studio)", "+17.9 to +0.0",
        gains_more(OURS, ZERO_SHOT, _arm("LE+CF+SCE", step="measure-studio"), _arm("zero-shot", step="measure-studio")),
    ),
    _claim("2a", "Written captions (LE) beat one template (B) at equal image count", "", beats(_arm("LE"), _arm("B", "template"))),
    _claim("2b", "The CLIP filter (CF) helps written captions", "", beats(_arm("LE+CF"), _arm("LE"))),
    _claim(
        "2c", "and helps them more than the template", "",
        gains_more(_arm("LE+CF"), _arm("LE"), _arm("B+CF", "template"), _arm("B", "template")),
    ),
    _claim("2d", "Soft targets and labels (CE and SCE) beat labels alone", "", beats(OURS, _arm("LE+CF"))),
    _claim(
        "2e", f"most of all with {WRONG:.0%} wrong labels", "",
        gains_more(_arm("wrong labels, CE and SCE"), _arm("wrong labels, CE"), OURS, _arm("LE+CF")),
    ),
    _claim("3a", "Keeping what is likelier than chance beats no filter", "", beats(OURS, _arm("LE+SCE"))),
    _claim("3b", f"and beats a very strict threshold ({STRICT:g})", "", beats(OURS, _arm("strict filter"))),
    _claim(
        "3c", "K at random among those that pass is no worse than the top K (by 1 point or more)", "",
        beats(_arm("K at random"), _arm("top K")), above=-0.01,
    ),
    _claim(
        "5a", "On painted images, tuning the head alone is no worse than tuning end to end (by 1 point or more)",
        "60.78 and 60.35 (ImageNet)", beats(_arm("head alone"), _arm("end to end")), above=-0.01,
    ),
    _claim(
        "5b", "On as many street photos, end to end is better", "76.17 and 70.09 (ImageNet)",
        beats(_arm("end to end", "photos"), _arm("head alone", "photos")),
    ),
    _claim("6a", f"From scratch, {MANY} photos a class beat {MANY} painted images", "", beats(_scratch(MANY, "real"), _scratch(MANY))),
    _claim(
        "6b", f"{MANY} painted images a class are worth about {FEW} photos (within 3 points)", "50,000 and 9,500 (CIFAR-100)",
        beats(_scratch(MANY), _scratch(FEW, "real")), within=0.03,
    ),
    _claim(
        "6c", f"From {FEW} to {MANY} a class, photos gain more than painted images, which saturate", "",
        gains_more(_scratch(MANY, "real"), _scratch(FEW, "real"), _scratch(MANY), _scratch(FEW)),
    ),
    _claim("13a", "A head from class names beats a random one", "", beats(_arm("LE+CF"), _arm("random head"))),
    _claim("13b", f"Control: with shuffled labels, at {FAST} times the rate, tuning falls below zero-shot", "", beats(ZERO_SHOT, _arm("labels shuffled")), control=True),
    _claim(
        "13c", "Control: at temperature 1 with soft targets alone, the gradient at the start is zero", "0",
        ((_arm("soft targets, T = 1", step="gradient"), 1.0),), "gradient", within=1e-5, control=True,
    ),
    _claim(
        "13d", "and at temperature 2 it is not", "", ((_arm("soft targets, T = 2", step="gradient"), 1.0),), "gradient", above=1e-5, control=True,
    ),
)  # fmt: skip
