"""A classifier from class names and a few photos of each class, trained together on these photos and on painted images.

    He et al., Is synthetic data from generative models ready for image recognition?, ICLR 2023, arXiv:2210.07574

    reverie run few_shot --classes classes.txt --shots-from photos --num-shots 1 4 16 --seeds 0 1 2 --out runs/mine
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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reverie.arms import Arm, Factor, zero_shot
from reverie.errors import InputError
from reverie.recipes.options import (
    PUBLIC_PAINTER,
    ClassifierCaptions,
    ClassifierLearning,
    Painting,
    Scale,
    Selection,
    amount,
    captions_of,
    refuse_twins,
)
from reverie.recipes.zero_shot import WORDS, Task, check, own_classes, task, words_of
from reverie.run.plan import Plan, Step
from reverie.settings import flat

if TYPE_CHECKING:
    from reverie.images.real_guidance import FromShots

Strategy = Literal["guided", "filter", "basic"]
Order = Literal["mixed", "painted-first", "shots-first", "painted"]
ORDERS = {  # a flag's word, and what TuneClassifier calls it
    "mixed": "mixed",
    "painted-first": "painted, then shots",
    "shots-first": "shots, then painted",
    "painted": "painted",
}
STRATEGIES = {  # what people call them, and what is learnt without painted images
    "guided": "guided",
    "filter": "real filter",
    "basic": "basic",
    "shots-alone": "shots alone",
    "cache-model": "cache model",
}
FULL = 16  # images that are worth painting together
MAIN = "classifier"  # the arm that reverie predict asks: of most shots, the first strategy, order and seed


@dataclass(frozen=True)
class FewShotConfig:
    """Settings of a classifier from class names and a few photos."""

    scale: Scale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes, paper is as published
    text: ClassifierCaptions = ClassifierCaptions(words=WORDS, per_class=4)
    # photos that shots are taken of: a folder with a folder of pictures for each class, or with train (and test), or
    # smallworld:CAMERA:TRAIN:TEST
    shots_from: str | None = "smallworld:street:1024:960"
    # photos of each class to learn from (M); everything is measured once with each number
    num_shots: tuple[int, ...] = (1, 4)
    # photos to measure on; a folder with train and test, or smallworld:CAMERA:TRAIN:TEST; by default those of
    # --shots-from, if it has test photos; nothing is measured when absent
    eval_data: str | None = "smallworld:street:1024:960"
    # painted images to learn from: begun at shots, those no nearer to shots of other classes, or neither; reverie
    # predict asks the first
    strategies: tuple[Strategy, ...] = ("guided", "filter", "basic")
    # orders of learning from shots and painted images: mixed in every step, one after the other, or painted alone
    orders: tuple[Order, ...] = ("mixed",)
    # noise levels sqrt(abar) in [0, 1] that shots are painted over from, 1 = copies, an arm for each; by-shots = 0.708
    # for 1 shot to 0.973 for 16
    levels: tuple[float, ...] | Literal["by-shots"] = "by-shots"
    # denoising steps of an image begun at a shot: a number, published = 50, 40, 35, 20, 15 for 1, 2, 4, 8, 16 shots, share =
    # as many hundredths of --sampler-steps
    guided_steps: int | Literal["published", "share"] = "share"
    guided_filter: bool = True  # choice of guided images by confidence, as of the others; else K of them at random
    # margin of the strategy filter: how much nearer (in cosine) an image must be to a shot of its own class than to
    # any other
    margin: float = 0.0
    alpha: float = 1.0  # weight of the shots in the cache model
    beta: float = 5.5  # sharpness of the cache model: how fast a shot's vote falls with distance
    paint: Painting = Painting(per_caption=1)
    clip: str = "builtin:clip"  # CLIP or SigLIP model that images are judged by; it also teaches, and is tuned
    select: Selection = Selection(max_kept=3)
    learn: ClassifierLearning = ClassifierLearning(lr=1e-3)
    real_batch: int = 32  # shots in a step of tuning a classifier
    seeds: tuple[int, ...] = (0, 1, 2)  # random seeds of training; every arm is trained once with each
    unit_size: int = 32  # captions in one commit
    seed: int = 0  # random seed of the run; each training has one of its own

    def following(self, usual: FewShotConfig) -> dict[str, Any]:
        """The small world's sentences and photos are of its own classes; test photos lie with those that shots are taken of."""
        own = own_classes(self.text)
        taken = None if own and self.shots_from == usual.shots_from else self.shots_from
        return words_of(self.text, self.paint, usual.text) | {
            "shots_from": None if own else usual.shots_from,
            "eval_data": _test_photos(taken) if taken else None,
        }


TINY = FewShotConfig()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        text=replace(TINY.text, per_class=24),
        shots_from="smallworld:street:2048:6400",
        eval_data="smallworld:street:2048:6400",
        num_shots=(1, 4, 16),
        paint=Painting(per_caption=2),
        select=Selection(max_kept=24),
        learn=ClassifierLearning(tune_batch=512, lr=1e-3),
        unit_size=64,
    ),
    "paper": replace(  # sections 3 and appendix of the paper, and its code
        TINY,
        scale="paper",
        text=ClassifierCaptions(per_class=200),
        shots_from=None,
        eval_data=None,
        num_shots=(1, 2, 4, 8, 16),
        guided_steps="published",
        paint=Painting(  # CLIP sees 224 pixels
            PUBLIC_PAINTER, per_caption=10, guidance=3.0, sampler_steps=50, painter_dtype="fp16", store_px=256
        ),
        clip="openai/clip-vit-base-patch16",
        select=Selection(max_kept=800),
        learn=ClassifierLearning(tune_batch=512, lr=1e-3),
        unit_size=100,
    ),
}


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

    strategy: Strategy
    level: float | None  # of guided images, where it is told
    start: FromShots | None
    keep: str  # the step that chooses
    column: str  # true where an image is kept
    rule: tuple[tuple[str, Any], ...] = ()  # of that step, where it is not the rule of zero_shot


def few_shot(config: FewShotConfig = TINY) -> Plan:
    """Class names and a few photos -> captions -> images -> filters -> classifiers with and without painted images -> a page.

    Example: reverie run few_shot --classes classes.txt --shots-from photos/ --num-shots 1 4 16 --out runs/mine
    """
    from reverie.datasets.few_shot import TakeShots
    from reverie.evaluate.classifiers import MeasureClassifiers
    from reverie.filters.blank import Blank
    from reverie.filters.shot_margin import ShotMargin, ShotSet
    from reverie.learn.cache_model import CacheModel
    from reverie.report.page import WritePage

    _refuse_slips(config)
    about, clip = task(config.text), check(config)
    assert config.shots_from is not None
    assert config.select.max_kept is not None
    names, copies, captions = about.names, config.paint.per_caption, about.captions(config.text)
    keep, tune = about.keep(config.select), about.tune(config.learn, clip)
    rounds = [_Round(count, number) for count in sorted(config.num_shots, reverse=True) for number in config.seeds]
    sets = {each: _painted(each, config, about) for each in rounds}

    # Every start has a block of each caption's copies; noise, which serves several strategies, comes first.
    painted = [one for own in sets.values() for one in own]
    starts = sorted(dict.fromkeys(one.start for one in painted), key=lambda start: start is not None)
    blocks = {
        start: f"copy >= {place * copies} and copy < {(place + 1) * copies}" for place, start in enumerate(starts)
    }
    paint = config.paint.stage(copies * len(starts), tuple(starts))
    taken = {
        f"shots-{number}": TakeShots(names, config.shots_from, max(config.num_shots), number) for number in config.seeds
    }
    margins = ShotMargin(tuple(ShotSet(each.taken, each.shots, each.margin) for each in rounds), clip)
    scores = ("paint", "blank", "confidence", "margin")
    keeps = {
        one.keep: replace(keep, candidates=blocks[one.start], column=one.column, **dict(one.rule)) for one in painted
    }
    steps = [
        Step("captions", captions),
        *(Step(name, stage) for name, stage in taken.items()),
        Step("paint", paint, inputs=("captions", *taken)),
        Step("blank", Blank(), inputs=("paint",)),
        Step("confidence", about.confidence(clip), inputs=("paint",)),
        Step("margin", margins, inputs=("paint", *taken)),
        *(Step(name, stage, inputs=scores) for name, stage in keeps.items()),
        Step("zero-shot", replace(tune, on="nothing"), inputs=("paint",)),
    ]

    # As many steps for every arm, so that none learns longer than another.
    tune_steps = config.learn.epochs * math.ceil(config.select.max_kept * about.num_classes / config.learn.tune_batch)
    tune = replace(tune, on="nothing", steps=tune_steps, real_batch=config.real_batch)
    arms: dict[int, list[Arm]] = {each.shots: [] for each in rounds}
    for each in rounds:
        own = replace(tune, seed=each.seed, shots=each.taken, num_shots=each.shots, on="shots")
        cache = CacheModel(names, each.taken, tune.templates, tune.model, each.shots, config.alpha, config.beta)
        for arm, stage, of in _learnt(each, own, cache, config.orders, sets[each], blocks):
            asked = arm.under(each.seed, MAIN if steps[-1].name == "zero-shot" else None)
            steps.append(Step(asked.step or MAIN, stage, inputs=(*of, each.taken)))
            arms[each.shots].append(asked)

    measures = {
        f"measure-{count}": MeasureClassifiers((*own, zero_shot({"shots": 0})), names, config.eval_data)
        for count, own in arms.items()
        if config.eval_data is not None
    }
    steps += [Step(name, stage, ("zero-shot", *_steps(stage.arms[:-1]))) for name, stage in measures.items()]
    learnt = tuple(name for own in arms.values() for name in _steps(own))
    steps.append(Step("page", WritePage(), inputs=tuple(measures) or learnt))
    # About as many images a commit, however many starts; but each start should fill a batch.
    unit_size = max(-(-FULL // copies), config.unit_size // len(starts))
    note = (
        f"{len(starts)} set{'s' * (len(starts) > 1)} of {amount(captions, about.num_classes, copies)}; of each set "
        f"{config.select.fate(captions_of(captions, about.num_classes) * copies)}"
    )
    return Plan(
        recipe="few_shot",
        seed=config.seed,
        unit_size=unit_size,
        arguments=flat(config),
        steps=tuple(steps),
        notes=(note,),
    )


def _painted(each: _Round, config: FewShotConfig, about: Task) -> list[_Painted]:
    """The painted images that one number of shots and seed learns from, a kind for each strategy and level."""
    from reverie.images.real_guidance import FromShots

    threshold = config.select.confidence
    chance = float(
        np.float32(1 / about.num_classes if threshold is None else threshold)
    )  # confidences are stored as float32
    levels: tuple[float | None, ...] = (None,) if config.levels == "by-shots" else config.levels
    found = []
    for strategy in config.strategies:
        if strategy == "basic":
            found.append(_Painted("basic", None, None, "keep", "kept"))
        elif strategy == "filter":
            nearer = {"by": f"shot_margin_{each.margin}", "threshold": config.margin, "or_equal": True}
            rule = (*nearer.items(), ("also", f"clip_confidence > {chance}"))
            column = f"kept_filter_{each.margin}"
            found.append(_Painted("filter", None, None, each.step("keep-filter"), column, rule))
        else:
            for place, level in enumerate(levels):
                mark = f"-{place}" * (place > 0)
                rule = () if config.guided_filter else (("threshold", 0.0),)
                found.append(
                    _Painted(
                        "guided",
                        level,
                        FromShots(each.taken, each.shots, level, config.guided_steps),
                        each.step("keep-guided") + mark,
                        f"kept_guided_{each.margin}{mark.replace('-', '_')}",
                        rule,
                    )
                )
    return found


def _learnt(
    each: _Round,
    own: Any,
    cache: Any,
    orders: tuple[Order, ...],
    painted: list[_Painted],
    blocks: Mapping[FromShots | None, str],
) -> list[tuple[Arm, Any, tuple[str, ...]]]:
    """What is learnt from one number of shots and seed: the arm, the stage, and the steps that it reads besides the shots."""
    found: list[tuple[Arm, Any, tuple[str, ...]]] = []
    for order in orders:
        for one in painted:
            candidates = f"status = 'ok' and {blocks[one.start]}"
            stage = replace(own, on=ORDERS[order], where=one.column, candidates=candidates)
            found.append((_arm(each.shots, one.strategy, order, one.level), stage, (one.keep,)))
    # A page compares the first two arms class by class: with painted images, and without.
    alone, cached = _arm(each.shots, "shots-alone"), _arm(each.shots, "cache-model")
    return [found[0], (alone, own, ()), *found[1:], (cached, cache, ())]


def _arm(
    shots: int,
    strategy: Strategy | Literal["shots-alone", "cache-model"],
    order: Order | None = None,
    level: float | None = None,
) -> Arm:
    """What is learnt from so many shots: with painted images of a strategy in an order, or without."""
    factors: dict[str, Factor] = {"shots": shots, "strategy": strategy}
    factors |= {"order": order} if order else {}
    factors |= {"level": level} if level is not None else {}
    at = "" if level is None else f" at {level:g}"
    label = f"{f'{ORDERS[order]}, ' if order else ''}{STRATEGIES[strategy]}{at}, {shots} shot{'s' * (shots > 1)}"
    return Arm(arm_id(shots, strategy, order, level), label, factors=factors)


def arm_id(shots: int, strategy: str, order: str | None = None, level: float | None = None) -> str:
    """The id of what is learnt from so many shots, which is also how its step is called, but for the seed."""
    at = () if level is None else ("at", f"{level:g}")
    return "-".join((*((order,) if order else ()), strategy, *at, str(shots)))


def _steps(arms: Sequence[Arm]) -> tuple[str, ...]:
    return tuple(arm.step for arm in arms if arm.step)


def _test_photos(shots_from: str) -> str | None:
    """Where test photos are: with those that shots are taken of; None where only a few photos are given, and nothing is measured."""
    from reverie.datasets.labelled import find_photos

    try:
        find_photos(shots_from, "test")
    except InputError:
        return None
    return shots_from


def _refuse_slips(config: FewShotConfig) -> None:
    for flag, values in (
        ("--num-shots", config.num_shots),
        ("--seeds", config.seeds),
        ("--strategies", config.strategies),
        ("--orders", config.orders),
        *((("--levels", config.levels),) if config.levels != "by-shots" else ()),
    ):
        refuse_twins(flag, values)
    if min(config.num_shots) < 1:
        raise InputError(f"--num-shots {min(config.num_shots)}: at least 1; the zero-shot arm is always there")
    if config.levels != "by-shots" and "guided" not in config.strategies:
        raise InputError("--levels are noise levels of guided images; add guided to --strategies")
    if config.guided_steps != SCALES[config.scale].guided_steps and "guided" not in config.strategies:
        raise InputError("--guided-steps are those of guided images; add guided to --strategies")
    if config.shots_from is None:
        raise InputError("name the photos that shots are taken of: --shots-from FOLDER")
    if config.select.max_kept is None:
        raise InputError("every arm learns from as many images of each class: --max-kept NUMBER")
