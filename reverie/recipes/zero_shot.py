"""A classifier from class names alone: paint images of the classes, keep those that CLIP recognises, and tune CLIP's zero-shot classifier on
them.

    He et al., Is synthetic data from generative models ready for image recognition?, ICLR 2023, arXiv:2210.07574

    reverie run zero_shot --classes classes.txt --context "a satellite photo of {class}." --eval-data photos --out runs/mine
    reverie predict runs/mine photo.jpg

The defaults of ``paper`` are the published ones where the paper or its code says so; see docs/recipes/zero_shot.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.arms import Arm
from reverie.arms import zero_shot as zero_shot_arm
from reverie.captions.classes import read_classes
from reverie.captions.domains import CAPTION, Domain, context_of, read_domain
from reverie.errors import InputError
from reverie.pairs import CLASS_SLOT
from reverie.recipes.options import (
    BUILTIN,
    PUBLIC_PAINTER,
    TEMPLATES,
    ClassifierCaptions,
    ClassifierLearning,
    Painting,
    Precision,
    Scale,
    Selection,
    amount,
    captions_of,
    clip_for,
)
from reverie.run.plan import Plan, Step
from reverie.settings import flat
from reverie.stage import UnitStage

if TYPE_CHECKING:
    from reverie.captions.llm import AskWriter
    from reverie.captions.templates import FillTemplates
    from reverie.captions.word_to_sentence import WordToSentence
    from reverie.evaluate.classifiers import MeasureClassifiers
    from reverie.filters.clip_confidence import ClipConfidence
    from reverie.filters.per_class import KeepPerClass
    from reverie.learn.train import Train
    from reverie.learn.tune_classifier import TuneClassifier

    Tuning = TuneClassifier | Train

WHOLE_LR, WHOLE_BATCH = 1e-4, 64  # of tuning end to end
USABLE = "status = 'ok' and blank = false"
WORDS = "builtin:words"
MAIN = "classifier"  # id of the arm whose first seed reverie predict asks, and the step that trains it


@dataclass(frozen=True)
class ZeroShotConfig:
    """Settings of a classifier from class names alone."""

    scale: Scale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes, paper is as published
    text: ClassifierCaptions = ClassifierCaptions(words=WORDS)
    paint: Painting = Painting(per_caption=2)
    clip: str = "builtin:clip"  # CLIP or SigLIP model that images are judged by; it also teaches, and is tuned
    select: Selection = Selection()
    fill: bool = True  # the surest of the other images, to fill up classes where fewer than K pass
    learn: ClassifierLearning = ClassifierLearning()
    end_to_end_steps: int = 0  # optimiser steps of one more arm, which tunes the whole encoder; 0 = no such arm
    precision: Precision = "fp32"  # number format of training
    seeds: tuple[int, ...] = (0, 1, 2)  # random seeds of training; every arm is trained once with each
    # photos to measure on; a folder with train and test, or smallworld:CAMERA:TRAIN:TEST; nothing is measured when
    # absent
    eval_data: str | None = "smallworld:street:1:960"
    # part of the photos to measure on; settings are chosen on train, so that test is read once
    eval_split: Literal["train", "test"] = "test"
    unit_size: int = 32  # captions in one commit
    seed: int = 0  # random seed of the run; each training has one of its own

    def following(self, usual: ZeroShotConfig) -> dict[str, Any]:
        """The small world's sentences and photos are of its own classes."""
        return words_of(self.text, self.paint, usual.text) | {
            "eval_data": None if own_classes(self.text) else usual.eval_data
        }


TINY = ZeroShotConfig()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        text=replace(TINY.text, per_class=50),
        paint=Painting(per_caption=4),
        learn=ClassifierLearning(tune_batch=512),
        eval_data="smallworld:street:1:6400",
        unit_size=64,
    ),
    "paper": replace(  # sections 3 and appendix of the paper, and its code
        TINY,
        scale="paper",
        text=ClassifierCaptions(per_class=200),
        paint=Painting(  # CLIP sees 224 pixels
            PUBLIC_PAINTER, per_caption=10, guidance=3.0, sampler_steps=50, painter_dtype="fp16", store_px=256
        ),
        clip="openai/clip-vit-base-patch16",
        select=Selection(max_kept=800),
        learn=ClassifierLearning(tune_batch=512),
        eval_data=None,
        unit_size=100,
    ),
}


@dataclass(frozen=True)
class Task:
    """Class names and how they are said, from a list, a record, or the small world."""

    names: tuple[str, ...] | Path
    own: tuple[str, ...] | Path | None  # None where they are those of the small world
    said: tuple[str, ...]  # with {class} in them
    around: str  # how a caption is said, with {caption} in it
    record: Domain

    @property
    def num_classes(self) -> int:
        """How many there are."""
        return len(read_classes(self.names))

    def captions(self, text: ClassifierCaptions) -> FillTemplates | WordToSentence | AskWriter:
        """The stage that writes them, said as the task says its classes."""
        said = self.said if text.context is not None or text.domain else TEMPLATES
        return text.stage(text.per_class, self.own, self.record.synonyms, self.around, said, repeat=True)

    def confidence(self, clip: str) -> ClipConfidence:
        """The stage that says how sure an encoder is of each image's class."""
        from reverie.filters.clip_confidence import ClipConfidence

        return ClipConfidence(self.names, self.said, clip)

    def keep(self, select: Selection, fill: bool = True) -> KeepPerClass:
        """The stage that chooses images of each class."""
        from reverie.filters.per_class import KeepPerClass

        return KeepPerClass(
            self.names, USABLE, threshold=select.confidence, max_kept=select.max_kept, choose=select.choose, fill=fill
        )

    def tune(self, learn: ClassifierLearning, clip: str) -> TuneClassifier:
        """The stage that tunes a classifier on kept images."""
        from reverie.learn.tune_classifier import TuneClassifier

        return TuneClassifier(
            self.names,
            self.said,
            clip,
            epochs=learn.epochs,
            batch=learn.tune_batch,
            lr=learn.lr,
            tuning=learn.tuning(),
            shrink_px=learn.shrink_px,
        )


def task(text: ClassifierCaptions) -> Task:
    """The classes of these settings. Raises InputError, UnknownName for files that cannot be read."""
    from reverie.smallworld.scene import class_names

    record = read_domain(text.domain) if text.domain else Domain()
    context = text.context
    if context is not None and CLASS_SLOT not in context:
        context = f"{context.rstrip()} {CLASS_SLOT}"
    around = record.context
    if context:
        around = context_of(context) if context.count(CLASS_SLOT) == 1 else CAPTION
    own = text.classes or record.classes or None
    return Task(own or class_names(), own, (context,) if context else record.templates, around, record)


def own_classes(text: ClassifierCaptions) -> bool:
    """Whether classes are told, and may be others than those of the small world."""
    return bool(text.classes or (text.domain and read_domain(text.domain).classes))


def words_of(text: ClassifierCaptions, paint: Painting, usual: ClassifierCaptions) -> dict[str, Any]:
    """The usual word-to-sentence model, where it knows the classes and nothing else is to write captions."""
    other = text.writer or text.templates or own_classes(text) or not paint.is_builtin
    return {"words": None if other and usual.words == WORDS else usual.words}


def check(config: Any) -> str:
    """The encoder. Raises InputError for seeds, scales and models that do not go together."""
    config.text.refuse_few(config.scale)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InputError(f"--seeds {' '.join(map(str, config.seeds))}: give at least one, and none twice")
    clip_for(config.paint.painter, config.clip)
    return str(config.clip)


def arms(config: ZeroShotConfig = TINY) -> dict[Arm, Tuning]:
    """What is tuned beside what, under the first seed."""
    about, clip = task(config.text), check(config)
    tune = about.tune(config.learn, clip)
    found: dict[Arm, Tuning] = {Arm(MAIN, "tuned on painted images", factors={"tuned": "head"}): tune}
    if config.end_to_end_steps:
        images = about.captions(config.text).count * config.paint.per_caption
        whole = Arm("end-to-end", "tuned end to end", factors={"tuned": "encoder"})
        found[whole] = end_to_end(config, config.end_to_end_steps, min(WHOLE_BATCH, max(1, images // 4)))
    return found


def end_to_end(config: ZeroShotConfig, steps: int, batch: int = WHOLE_BATCH) -> Train:
    """The arm that tunes the whole encoder on kept images, not all of which are kept."""
    from reverie.learn.end_to_end import EndToEnd
    from reverie.learn.fit import Fit
    from reverie.learn.train import Train

    about, clip = task(config.text), check(config)
    tune = about.tune(config.learn, clip)
    side = 64 if clip.startswith(BUILTIN) else 224
    learn = config.learn
    return Train(
        EndToEnd(about.names, about.said, clip, learn.soft_share, learn.teacher_temperature, image_size=side),
        Fit(steps, WHOLE_LR, weight_decay=tune.weight_decay, clip=tune.clip, precision=config.precision),
        captions_per_batch=batch,
        where="kept",
        group="image",
    )


def zero_shot(config: ZeroShotConfig = TINY, arms_: Mapping[Arm, Tuning] | None = None) -> Plan:
    """Class names -> captions -> images -> CLIP filter -> a tuned classifier, beside zero-shot CLIP -> a page.

    Example: reverie run zero_shot --classes classes.txt --eval-data photos/ --out runs/mine

    Args:
        arms_: what is tuned, in place of ``arms(config)``.
    """
    from reverie.report.page import WritePage

    made, about = painted(config), task(config.text)
    per_caption = config.paint.per_caption
    images = captions_of(made[0].stage, about.num_classes) * per_caption
    note = f"{amount(made[0].stage, about.num_classes, per_caption)}; {config.select.fate(images, config.fill)}"
    tuned = trained(config, arms(config) if arms_ is None else arms_)
    names = tuple(step.name for step in tuned.values())
    steps = [*made, zero_shot_step(config), *tuned.values()]
    if config.eval_data:
        steps.append(Step("measure", measure(config, tuned, config.eval_data), inputs=("zero-shot", *names)))
    page = Step("page", WritePage(), inputs=("measure",) if config.eval_data else names)
    return Plan(
        recipe="zero_shot",
        seed=config.seed,
        unit_size=config.unit_size,
        arguments=flat(config),
        steps=(*steps, page),
        notes=(note,),
    )


def painted(config: ZeroShotConfig, captions: UnitStage | None = None) -> tuple[Step, ...]:
    """Captions, images, confidences, and the choice of images to learn from.

    Args:
        captions: the stage that gives captions, in place of that of the settings.
    """
    from reverie.filters.blank import Blank

    if config.end_to_end_steps < 0:
        raise InputError(f"--end-to-end-steps {config.end_to_end_steps} is a number of steps, or 0 for none")
    if config.precision != ZeroShotConfig.precision and not config.end_to_end_steps:
        raise InputError(
            f"--precision {config.precision} is of the encoder's training, and only its head is trained; give --end-to-end-steps"
        )
    clip = check(config)
    about = task(config.text)
    return (
        Step("captions", about.captions(config.text) if captions is None else captions),
        Step("paint", config.paint.stage(), inputs=("captions",)),
        Step("blank", Blank(), inputs=("paint",)),
        Step("confidence", about.confidence(clip), inputs=("paint",)),
        Step("keep", about.keep(config.select, config.fill), inputs=("paint", "blank", "confidence")),
    )


def zero_shot_step(config: ZeroShotConfig) -> Step:
    """The classifier that nothing is learned for, which all others are measured beside."""
    return Step(
        "zero-shot", replace(task(config.text).tune(config.learn, check(config)), on="nothing"), inputs=("keep",)
    )


def trained(config: ZeroShotConfig, arms_: Mapping[Arm, Tuning]) -> dict[Arm, Step]:
    """The steps that tune these arms, each arm once with each seed."""
    found = {}
    for arm, stage in arms_.items():
        for place, number in enumerate(config.seeds):
            tuned = arm.under(number, MAIN if arm.id == MAIN and not place else None)
            found[tuned] = Step(tuned.step or MAIN, replace(stage, seed=number), inputs=("keep",))
    return found


def measure(config: ZeroShotConfig, tuned: Iterable[Arm], photos: str) -> MeasureClassifiers:
    """The stage that measures these and the zero-shot classifier, which has no seed as nothing in it is random."""
    from reverie.evaluate.classifiers import MeasureClassifiers

    return MeasureClassifiers((*tuned, zero_shot_arm()), task(config.text).names, photos, config.eval_split)
