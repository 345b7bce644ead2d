"""A classifier from class names alone: paint the classes, keep what an encoder believes, tune its text classifier on that.

    He et al., Is synthetic data from generative models ready for image recognition?, ICLR 2023, arXiv:2210.07574

    reverie run zero_shot --classes classes.txt --context "a satellite photo of {class}." --photos photos --out runs/mine
    reverie predict runs/mine photo.jpg

The defaults of ``paper`` are the published ones where the paper or its code says so; see docs/recipes/zero_shot.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reverie.captions.classes import HOLE
from reverie.captions.domains import Domain, read_domain
from reverie.errors import InputError
from reverie.recipes.make import BUILTIN, clip_for, source
from reverie.run.plan import Plan, Step


@dataclass(frozen=True)
class Size:
    """What ``scale`` sets; every field is also a flag."""

    painter: str
    clip: str
    per_class: int  # captions of each class
    per_caption: int  # images of each
    guidance: float
    sampler_steps: int
    most: int | None  # images kept of each class (K)
    epochs: int
    tune_batch: int
    lr: float
    seeds: tuple[int, ...]
    photos: str | None
    unit_size: int


WHOLE_LR, WHOLE_BATCH = 1e-4, 64  # of tuning end to end
SIZES = {
    "tiny": Size(
        painter="builtin:painter", clip="builtin:clip", per_class=8, per_caption=2, guidance=2.0, sampler_steps=10,
        most=None, epochs=30, tune_batch=64, lr=2e-3, seeds=(0, 1, 2), photos="smallworld:street:1:960", unit_size=32,
    ),
    "small": Size(
        painter="builtin:painter", clip="builtin:clip", per_class=50, per_caption=4, guidance=2.0, sampler_steps=20,
        most=None, epochs=30, tune_batch=512, lr=2e-3, seeds=(0, 1, 2), photos="smallworld:street:1:6400", unit_size=64,
    ),
    "paper": Size(  # sections 3 and appendix of the paper, and its code
        painter="stable-diffusion-v1-5/stable-diffusion-v1-5", clip="openai/clip-vit-base-patch16", per_class=200,
        per_caption=10, guidance=3.0, sampler_steps=50, most=800, epochs=30, tune_batch=512, lr=2e-3, seeds=(0, 1, 2),
        photos=None, unit_size=100,
    ),
}  # fmt: skip


def zero_shot(
    scale: Literal["tiny", "small", "paper"] = "tiny",
    classes: Path | None = None,
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
    fill: bool = True,
    soft_share: float = 0.5,
    temperature: float = 2.0,
    decay_to: Literal["zero", "start"] = "zero",
    hard_pseudo_labels: bool = False,
    label_smoothing: float = 0.0,
    shrink_px: int = 0,
    epochs: int | None = None,
    tune_batch: int | None = None,
    lr: float | None = None,
    end_to_end_steps: int = 0,
    seeds: tuple[int, ...] | None = None,
    photos: str | None = None,
    split: Literal["train", "test"] = "test",
    seed: int = 0,
) -> Plan:
    """Class names -> captions -> images -> CLIP filter -> a tuned classifier, beside zero-shot CLIP -> a page.

    Example: reverie run zero_shot --classes classes.txt --photos photos/ --out runs/mine

    Args:
        scale: the dial: sets every flag that is left out. tiny runs on a CPU in minutes.
        classes: file of class names; the classes of the small world when left out.
        context: how the task says a class, {class} for its name, which goes last where that is left out; what the classifier begins
            from and the filter asks.
            "a photo of a {class}." when left out, or the templates of the domain.
        domain: FILE.json:DATASET, a record of class names, templates, synonyms, and what sentences are said in; see
            captions/domains.py. The flags for these go before it.
        words: word-to-sentence model that writes captions from class names (language enhancement): a folder or Hub id;
            builtin:words for the small world with a builtin painter, templates for other classes when left out.
        synonyms: JSON file, class name to words that also name it in a sentence of words.
        around: how a sentence of words is said in the domain, {caption} for it; the sentence alone when left out.
        writer: language model, asked for captions of class names, to write them with instead.
        templates: file of sentences with {class} in them, one a line, to write captions with instead.
        prompt: file of what the writer is asked, see docs/writers.md; what suits the kind of model when left out.
        max_words: longest caption of the writer, in words; 60 when left out.
        per_class: captions of each class.
        painter: builtin:painter, a folder, or the Hub id of any diffusers text-to-image pipeline.
        clip: the encoder that filters, teaches and is tuned; any CLIP or SigLIP.
        per_caption: images of each caption.
        guidance: w in eps_u + w (eps_c - eps_u).
        sampler_steps: of DDIM.
        batch: images painted together. Changes the speed only.
        above: confidence that an image must exceed to pass; 1 / number of classes when left out.
        most: images kept of each class (K); all that pass when left out at tiny and small, 800 at paper.
        choose: which K of more that pass.
        fill: where fewer than K pass, add the surest of those that do not.
        soft_share: of the loss on soft targets; the rest is cross-entropy (sl).
        temperature: of the teacher.
        decay_to: what weight decay pulls the classifier towards: zero as published, or start, its text rows.
        hard_pseudo_labels: the teacher's first choice in place of its distribution.
        label_smoothing: of the cross-entropy, in [0, 1).
        shrink_px: make painted images this small first, where the photos are of low resolution.
        epochs: passes over the kept images.
        tune_batch: images in a step of tuning.
        lr: peak learning rate of tuning.
        end_to_end_steps: tune the whole encoder as well, as the contrast, so many steps of up to 64 kept images at 1e-4; 0 = do not.
        seeds: tune once with each.
        photos: to measure on: a folder with test (and train), or smallworld:CAMERA:TRAIN:TEST; none with other classes.
        split: of these photos; settings are to be chosen on train, so that test is read once.
        seed: of captions and images.
    """
    flags = {name: value for name, value in locals().items() if value is not None}
    from reverie.evaluate.classifiers import MeasureClassifiers, Tuned
    from reverie.filters.blank import Blank
    from reverie.filters.clip_confidence import ClipConfidence
    from reverie.filters.per_class import KeepPerClass
    from reverie.images.pixels import PaintPixels, PaintSpeed
    from reverie.learn.classifier_tuning import ClassifierTuning
    from reverie.learn.end_to_end import EndToEnd
    from reverie.learn.fit import Fit
    from reverie.learn.train import Train
    from reverie.learn.tune import TuneClassifier
    from reverie.report.page import WritePage
    from reverie.smallworld.scene import class_names

    size = dataclasses.replace(SIZES[scale], **{name: flags[name] for name in vars(SIZES[scale]) if name in flags})
    record = read_domain(domain) if domain else Domain()
    if context is not None and HOLE not in context:
        context = f"{context.rstrip()} {HOLE}"
    if end_to_end_steps < 0:
        raise InputError(f"--end-to-end-steps {end_to_end_steps} is a number of steps, or 0 for none")
    if not size.seeds or len(set(size.seeds)) < len(size.seeds):
        raise InputError(f"--seeds {' '.join(map(str, size.seeds))}: give at least one, and none twice")
    clip_for(size.painter, size.clip)
    own = classes or record.classes or None
    if photos is None and own is not None:
        size = dataclasses.replace(size, photos=None)  # the small world's photos are of its own classes
    names: tuple[str, ...] | Path = own or class_names()
    said = (context,) if context else record.templates
    if not (words or writer or templates or own) and size.painter.startswith(BUILTIN):
        words = "builtin:words"
    first = source(
        None,
        None,
        None,
        None,
        own,
        writer,
        templates,
        size.per_class,
        words=words,
        synonyms=synonyms or (record.synonyms if words else None),
        around=around or (record.context if words else None),
        prompt=prompt,
        max_words=max_words,
    )
    paint = PaintPixels(
        size.painter, size.per_caption, size.guidance, size.sampler_steps, scheduler="ddim", speed=PaintSpeed(batch)
    )
    filtered = ("paint", "blank", "confidence")
    tune = TuneClassifier(
        names,
        said,
        size.clip,
        epochs=size.epochs,
        batch=size.tune_batch,
        lr=size.lr,
        tuning=ClassifierTuning(
            soft_share=soft_share,
            temperature=temperature,
            hard_pseudo_labels=hard_pseudo_labels,
            label_smoothing=label_smoothing,
            decay_to=decay_to,
        ),
        shrink_px=shrink_px,
    )
    tuned = {f"classifier{f'-{number}' * (place > 0)}": number for place, number in enumerate(size.seeds)}
    steps = [
        Step("captions", first),
        Step("paint", paint, of=("captions",)),
        Step("blank", Blank(), of=("paint",)),
        Step("confidence", ClipConfidence(names, said, size.clip), of=("paint",)),
        Step(
            "keep",
            KeepPerClass(
                names, "status = 'ok' and blank = false", above=above, most=size.most, choose=choose, fill=fill
            ),
            of=filtered,
        ),
        Step("zero-shot", dataclasses.replace(tune, on="nothing"), of=("keep",)),
        *(Step(name, dataclasses.replace(tune, seed=number), of=("keep",)) for name, number in tuned.items()),
    ]
    whole: dict[str, int] = {}
    if end_to_end_steps:
        side = 64 if size.clip.startswith(BUILTIN) else 224
        train = Train(
            EndToEnd(names, said, size.clip, soft_share, temperature, image_size=side),
            Fit(end_to_end_steps, WHOLE_LR, weight_decay=tune.weight_decay, clip=tune.clip),
            captions_per_batch=min(WHOLE_BATCH, max(1, first.count * size.per_caption // 4)),  # not all are kept
            where="kept",
            group="image",
        )
        whole = {f"end-to-end-{number}": number for number in size.seeds}
        steps += [Step(name, dataclasses.replace(train, seed=number), of=("keep",)) for name, number in whole.items()]
    if size.photos:
        arms = (
            *(Tuned("tuned on painted images", name, number) for name, number in tuned.items()),
            *(Tuned("tuned end to end", name, number) for name, number in whole.items()),
            Tuned("zero-shot", "zero-shot"),  # nothing random in it, so it has no seeds
        )
        measure = MeasureClassifiers(arms, names, size.photos, split)
        steps.append(Step("measure", measure, of=("zero-shot", *tuned, *whole)))
    steps.append(Step("page", WritePage(), of=("measure",) if size.photos else (*tuned, *whole)))
    return Plan(recipe="zero_shot", seed=seed, unit_size=size.unit_size, steps=tuple(steps))
