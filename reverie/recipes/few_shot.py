"""A classifier from class names and a few photos of each: painted images join the photos, and may begin at them.

    He et al., Is synthetic data from generative models ready for image recognition?, ICLR 2023, arXiv:2210.07574

    reverie run few_shot --classes classes.txt --shots photos --num-shots 1 4 16 --seeds 0 1 2 --out runs/mine
    reverie predict runs/mine photo.jpg

Paper's  EuroSAT, CLIP RN50, top-1 at 1 and 16 shots: tuned on shots alone 54.8 and 85.8, with painted images 64.4 and 88.5
Ours     docs/recipes/few_shot.md holds what was measured

At every number of shots and every seed the same shots serve all arms: zero-shot CLIP, tuning on the shots alone, a cache
model without training, and tuning on shots and painted images together, where the painted ones are

    basic    painted from noise and filtered as in zero_shot; one set for the whole run
    filter   of that set, those that lie no nearer to shots of other classes (real filtering)
    guided   painted from noised shots (real guidance); a set for every number of shots and seed

All sets stand in one table of pairs, as blocks of each caption's copies; see docs/decisions/0003.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reverie.errors import InputError
from reverie.recipes.zero_shot import zero_shot
from reverie.run.plan import Plan, Step

if TYPE_CHECKING:
    from reverie.images.guidance import FromShots

Strategy = Literal["guided", "filter", "basic"]
Order = Literal["mixed", "painted-first", "shots-first", "painted"]
ORDERS = {  # a flag's word, and what TuneClassifier calls it
    "mixed": "mixed",
    "painted-first": "painted, then shots",
    "shots-first": "shots, then painted",
    "painted": "painted",
}
FULL = 16  # images that are worth painting together
MAIN = "classifier"  # the arm that reverie predict asks: of most shots, the first strategy, order and seed
SHARED = ("per_class", "painter", "clip", "per_caption", "guidance", "sampler_steps", "most", "epochs", "tune_batch", "lr", "seeds")  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What ``scale`` sets; every field but ``unit_size`` is also a flag."""

    painter: str
    clip: str
    per_class: int  # captions of each class
    per_caption: int  # images of each in a set
    guidance: float
    sampler_steps: int
    most: int  # images kept of each class (K)
    epochs: int
    tune_batch: int
    real_batch: int
    lr: float
    num_shots: tuple[int, ...]
    seeds: tuple[int, ...]
    shots: str | None
    unit_size: int


SIZES = {
    "tiny": Size(
        painter="builtin:painter", clip="builtin:clip", per_class=4, per_caption=1, guidance=2.0, sampler_steps=10, most=3,
        epochs=30, tune_batch=64, real_batch=32, lr=1e-3, num_shots=(1, 4), seeds=(0, 1, 2),
        shots="smallworld:street:1024:960", unit_size=32,
    ),
    "small": Size(
        painter="builtin:painter", clip="builtin:clip", per_class=24, per_caption=2, guidance=2.0, sampler_steps=20,
        most=24, epochs=30, tune_batch=512, real_batch=32, lr=1e-3, num_shots=(1, 4, 16), seeds=(0, 1, 2),
        shots="smallworld:street:2048:6400", unit_size=64,
    ),
    "paper": Size(  # sections 3 and appendix of the paper, and its code
        painter="stable-diffusion-v1-5/stable-diffusion-v1-5", clip="openai/clip-vit-base-patch16", per_class=200,
        per_caption=10, guidance=3.0, sampler_steps=50, most=800, epochs=30, tune_batch=512, real_batch=32, lr=1e-3,
        num_shots=(1, 2, 4, 8, 16), seeds=(0, 1, 2), shots=None, unit_size=100,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Round:
    """One number of shots with one seed. All its arms learn from the same shots."""

    shots: int
    seed: int

    @property
    def taken(self) -> str:
        """The step that took the shots, of which these are the first."""
        return f"shots-{self.seed}"

    @property
    def margin(self) -> str:
        """The set of shots, in the names of columns."""
        return f"{self.shots}_{self.seed}"

    def step(self, what: str) -> str:
        """Name of a step of this round."""
        return f"{what}-{self.shots}-{self.seed}"


@dataclass(frozen=True)
class _Painted:
    """The painted images of one strategy: where they begin, and which of them are learnt from."""

    called: str
    start: FromShots | None
    keep: str  # the step that chooses
    column: str  # true where an image is kept
    rule: tuple[tuple[str, Any], ...] = ()  # of that step, where it is not the rule of zero_shot


def few_shot(
    scale: Literal["tiny", "small", "paper"] = "tiny",
    classes: Path | None = None,
    shots: str | None = None,
    num_shots: tuple[int, ...] | None = None,
    photos: str | None = None,
    strategies: tuple[Strategy, ...] = ("guided", "filter", "basic"),
    orders: tuple[Order, ...] = ("mixed",),
    levels: tuple[float, ...] | None = None,
    guided_filter: bool = True,
    margin: float = 0.0,
    alpha: float = 1.0,
    beta: float = 5.5,
    context: str | None = None,
    domain: str | None = None,
    words: str | None = None,
    synonyms: Path | None = None,
    around: str | None = None,
    writer: str | None = None,
    templates: Path | None = None,
    prompt: Path | None = None,
    max_words: int | None = None,
    per_class: int | None = None,
    painter: str | None = None,
    clip: str | None = None,
    per_caption: int | None = None,
    guidance: float | None = None,
    sampler_steps: int | None = None,
    batch: int = 16,
    above: float | None = None,
    most: int | None = None,
    choose: Literal["random", "top"] = "random",
    soft_share: float = 0.5,
    temperature: float = 2.0,
    decay_to: Literal["zero", "start"] = "zero",
    hard_pseudo_labels: bool = False,
    label_smoothing: float = 0.0,
    shrink_px: int = 0,
    epochs: int | None = None,
    tune_batch: int | None = None,
    real_batch: int | None = None,
    lr: float | None = None,
    seeds: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Plan:
    """Class names and a few photos -> captions -> images -> filters -> classifiers with and without painted images -> a page.

    Example: reverie run few_shot --classes classes.txt --shots photos/ --num-shots 1 4 16 --out runs/mine

    Args:
        scale: the dial: sets every flag that is left out. tiny runs on a CPU in minutes.
        classes: file of class names; the classes of the small world when left out.
        shots: photos to take shots of: a folder with a folder of pictures for each class, or with train (and test), or
            smallworld:CAMERA:TRAIN:TEST; see evaluate/photos.py.
        num_shots: of each class (M); every arm is made once for each number.
        photos: to measure on, likewise; the test photos of --shots when left out, if there are any.
        strategies: what painted images are learnt from: guided begins at the shots, filter drops what lies nearer to shots of
            other classes, basic does neither. The first of them is what reverie predict asks.
        orders: how shots and painted images are learnt from: mixed in every step, one after the other, or painted alone.
        levels: sqrt(abar) in [0, 1] that shots are noised to before they are painted over: 1 copies them, 0 forgets them; a
            guided arm for each. By the number of shots when left out: 0.708 for 1 to 0.973 for 16.
        guided_filter: choose guided images by confidence as well, as the basic ones are; else K of them at random.
        margin: cosine by which an image must be nearer to a shot of its own class than to any other, to pass filter.
        alpha: of the cache model: how loud the shots are.
        beta: of the cache model: how fast a shot's vote falls with distance.
        context: how the task says a class, {class} for its name; what the classifier begins from and the filter asks.
        domain: FILE.json:DATASET, a record of class names, templates, synonyms, and what sentences are said in.
        words: word-to-sentence model that writes captions from class names; as in zero_shot when left out.
        synonyms: JSON file, class name to words that also name it in a sentence of words.
        around: how a sentence of words is said in the domain, {caption} for it; the sentence alone when left out.
        writer: language model, asked for captions of class names, to write them with instead.
        templates: file of sentences with {class} in them, one a line, to write captions with instead.
        prompt: file of what the writer is asked, see docs/writers.md; what suits the kind of model when left out.
        max_words: longest caption of the writer, in words; 60 when left out.
        per_class: captions of each class.
        painter: builtin:painter, a folder, or the Hub id of any diffusers text-to-image pipeline.
        clip: the encoder that filters, teaches and is tuned; any CLIP or SigLIP.
        per_caption: images of each caption in each set.
        guidance: w in eps_u + w (eps_c - eps_u).
        sampler_steps: of DDIM from noise; guided images take the share of them that their noise level leaves.
        batch: images painted together. Changes the speed only.
        above: confidence that an image must exceed to pass; 1 / number of classes when left out.
        most: images kept of each class (K), the same for all arms; filled up with the best of those that fail.
        choose: which K of more that pass.
        soft_share: of the loss on soft targets of painted images; the rest is cross-entropy (sl).
        temperature: of the teacher.
        decay_to: what weight decay pulls the classifier towards: zero as published, or start, its text rows.
        hard_pseudo_labels: the teacher's first choice in place of its distribution.
        label_smoothing: of the cross-entropy, in [0, 1).
        shrink_px: make painted images this small before the encoder, where the photos are of low resolution.
        epochs: passes over the kept images; tuning on shots alone takes as many steps.
        tune_batch: painted images in a step of tuning.
        real_batch: shots in a step of tuning.
        lr: peak learning rate of tuning.
        seeds: take shots and tune once with each.
        seed: of captions and images.
    """
    flags = {name: value for name, value in locals().items() if value is not None}
    from reverie.captions.classes import read_classes
    from reverie.evaluate.classifiers import MeasureClassifiers, Tuned
    from reverie.filters.shots import ShotMargin, ShotSet
    from reverie.images.shots import TakeShots
    from reverie.learn.cache_model import CacheModel
    from reverie.report.page import WritePage

    size = dataclasses.replace(SIZES[scale], **{name: flags[name] for name in vars(SIZES[scale]) if name in flags})
    _refuse_slips(size, strategies, orders, levels)
    if shots is None and (classes or domain or size.shots is None):
        raise InputError("name the photos that shots are taken of: --shots FOLDER")
    assert size.shots is not None
    base = zero_shot(
        scale, classes, context, domain, words, synonyms, around, writer, templates, prompt, max_words,
        batch=batch, above=above, choose=choose, fill=True, soft_share=soft_share, temperature=temperature,
        decay_to=decay_to, hard_pseudo_labels=hard_pseudo_labels, label_smoothing=label_smoothing, shrink_px=shrink_px, seed=seed, **{name: getattr(size, name) for name in SHARED},
    )  # fmt: skip
    keep, tune, paint = (_stage(base, name) for name in ("keep", "zero-shot", "paint"))
    names = tune.classes
    num_classes = len(read_classes(names))
    rounds = [_Round(count, number) for count in sorted(size.num_shots, reverse=True) for number in size.seeds]
    chance = float(np.float32(1 / num_classes if above is None else above))  # confidences are stored as float32
    sets = {each: _painted(each, strategies, levels, chance, guided_filter, margin) for each in rounds}

    # Every start has a block of each caption's copies; noise, which serves several strategies, comes first.
    painted = [one for own in sets.values() for one in own]
    starts = sorted(dict.fromkeys(one.start for one in painted), key=lambda start: start is not None)
    blocks = {
        start: f"copy >= {place * size.per_caption} and copy < {(place + 1) * size.per_caption}"
        for place, start in enumerate(starts)
    }
    paint = dataclasses.replace(paint, per_caption=size.per_caption * len(starts), starts=tuple(starts))
    taken = {f"shots-{number}": TakeShots(names, size.shots, max(size.num_shots), number) for number in size.seeds}
    margins = ShotMargin(tuple(ShotSet(each.taken, each.shots, each.margin) for each in rounds), size.clip)
    scores = ("paint", "blank", "confidence", "margin")
    keeps = {
        one.keep: dataclasses.replace(keep, among=blocks[one.start], column=one.column, **dict(one.rule))
        for one in painted
    }
    steps = [
        base.step("captions"),
        *(Step(name, stage) for name, stage in taken.items()),
        Step("paint", paint, of=("captions", *taken)),
        base.step("blank"),
        base.step("confidence"),
        Step("margin", margins, of=("paint", *taken)),
        *(Step(name, stage, of=scores) for name, stage in keeps.items()),
        Step("zero-shot", tune, of=("paint",)),
    ]

    # As many steps for every arm, so that none learns longer than another.
    tune_steps = size.epochs * math.ceil(size.most * num_classes / size.tune_batch)
    tune = dataclasses.replace(tune, steps=tune_steps, real_batch=size.real_batch)
    arms: dict[int, list[Tuned]] = {each.shots: [] for each in rounds}
    for each in rounds:
        shown = f"{each.shots} shot{'s' * (each.shots > 1)}"
        own = dataclasses.replace(tune, seed=each.seed, shots=each.taken, num_shots=each.shots, on="shots")
        cache = CacheModel(names, each.taken, tune.templates, tune.model, each.shots, alpha, beta)
        for called, stage, of in _learnt(own, cache, orders, sets[each], blocks):
            name = MAIN if steps[-1].name == "zero-shot" else each.step(called.replace(", ", "-").replace(" ", "-"))
            steps.append(Step(name, stage, of=(*of, each.taken)))
            arms[each.shots].append(Tuned(f"{called}, {shown}", name, each.seed, each.shots))

    test = _test_photos(photos, size.shots)
    measures = {
        f"measure-{count}": MeasureClassifiers((*own, Tuned("zero-shot", "zero-shot", shots=0)), names, test)
        for count, own in arms.items()
        if test is not None
    }
    steps += [
        Step(name, stage, ("zero-shot", *(arm.step for arm in stage.arms[:-1]))) for name, stage in measures.items()
    ]
    steps.append(
        Step("page", WritePage(), of=tuple(measures) or tuple(arm.step for own in arms.values() for arm in own))
    )
    # About as many images a commit, however many starts; but each start should fill a batch.
    unit_size = max(-(-FULL // size.per_caption), size.unit_size // len(starts))
    return Plan(recipe="few_shot", seed=seed, unit_size=unit_size, steps=tuple(steps))


def _painted(
    each: _Round,
    strategies: tuple[Strategy, ...],
    levels: tuple[float, ...] | None,
    chance: float,
    guided_filter: bool,
    margin: float,
) -> list[_Painted]:
    """The painted images that one number of shots and seed learns from, a kind for each strategy and level."""
    from reverie.images.guidance import FromShots

    found = []
    for strategy in strategies:
        if strategy == "basic":
            found.append(_Painted("basic", None, "keep", "kept"))
        elif strategy == "filter":
            nearer = {"by": f"shot_margin_{each.margin}", "above": margin, "or_equal": True}
            rule = (*nearer.items(), ("also", f"clip_confidence > {chance}"))
            found.append(_Painted("real filter", None, each.step("keep-filter"), f"kept_filter_{each.margin}", rule))
        else:
            for place, level in enumerate(levels or (None,)):
                mark = f"-{place}" * (place > 0)
                rule = () if guided_filter else (("above", 0.0),)
                found.append(
                    _Painted(
                        "guided" if level is None else f"guided at {level:g}",
                        FromShots(each.taken, each.shots, level),
                        each.step("keep-guided") + mark,
                        f"kept_guided_{each.margin}{mark.replace('-', '_')}",
                        rule,
                    )
                )
    return found


def _learnt(
    own: Any, cache: Any, orders: tuple[Order, ...], painted: list[_Painted], blocks: Mapping[FromShots | None, str]
) -> list[tuple[str, Any, tuple[str, ...]]]:
    """What is learnt from one number of shots and seed: its name, the stage, and the steps that it reads besides the shots."""
    found: list[tuple[str, Any, tuple[str, ...]]] = []
    for order in orders:
        for one in painted:
            among = f"status = 'ok' and {blocks[one.start]}"
            stage = dataclasses.replace(own, on=ORDERS[order], where=one.column, among=among)
            found.append((f"{ORDERS[order]}, {one.called}", stage, (one.keep,)))
    # A page compares the first two arms class by class: with painted images, and without.
    return [found[0], ("shots alone", own, ()), *found[1:], ("cache model", cache, ())]


def _test_photos(photos: str | None, shots: str) -> str | None:
    """Where test photos are: as told, or with the shots; None where only a few photos are given, and nothing is measured."""
    from reverie.evaluate.photos import find_photos

    if photos is not None:
        return photos
    try:
        find_photos(shots, "test")
    except InputError:
        return None
    return shots


def _stage(plan: Plan, name: str) -> Any:
    return plan.step(name).stage


def _refuse_slips(
    size: Size, strategies: tuple[str, ...], orders: tuple[str, ...], levels: tuple[float, ...] | None
) -> None:
    lists = {"--num-shots": size.num_shots, "--seeds": size.seeds, "--strategies": strategies, "--orders": orders}
    lists |= {"--levels": levels} if levels is not None else {}
    for flag, values in lists.items():
        if not values:
            raise InputError(f"{flag} needs at least one value")
        if len(set(values)) < len(values):
            raise InputError(f"{flag} {' '.join(map(str, values))} names one twice")
    if min(size.num_shots) < 1:
        raise InputError(f"--num-shots {min(size.num_shots)}: at least 1; the zero-shot arm is always there")
    if levels and "guided" not in strategies:
        raise InputError("--levels are noise levels of guided images; add guided to --strategies")
