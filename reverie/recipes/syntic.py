"""A captioner from sentences alone: paint them, bring the features of the pictures to those of photos, learn to say them.

    Liu, Liu and Ma, Improving Cross-modal Alignment with Synthetic Pairs for Text-only Image Captioning, AAAI 2024,
    arXiv:2312.08865

    reverie run syntic --captions sentences.txt --out runs/mine
    reverie caption runs/mine photo.jpg holidays/

No code was published with the paper. What it does not say is set as in the released code of its relatives or by us; see
docs/recipes/syntic.md for which is which.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reverie.errors import InputError
from reverie.recipes.make import BUILTIN, clip_for
from reverie.run.plan import Plan, Step

if TYPE_CHECKING:
    from reverie.captions.corpus import FromCorpus

MAIN = "captioner"  # the arm that reverie caption asks: SynTIC with the first seed


@dataclass(frozen=True)
class Size:
    """What ``scale`` sets; every field but ``unit_size`` is also a flag."""

    painter: str
    clip: str
    detector: str
    sentences: int  # of the small world, where no captions are given
    guidance: float
    sampler_steps: int
    keep_images: bool
    width: int
    layers: int
    max_tokens: int
    tag_heads: int
    batch: int  # sentences a step
    epochs: int
    lr: float
    warmup_steps: int
    seeds: tuple[int, ...]
    photos: str | None
    unit_size: int


SIZES = {
    "tiny": Size(
        painter="builtin:painter", clip="builtin:clip", detector="builtin:detector", sentences=1280, guidance=2.0,
        sampler_steps=10, keep_images=True, width=128, layers=2, max_tokens=30, tag_heads=4, batch=32, epochs=6, lr=3e-3,
        warmup_steps=20, seeds=(0,), photos="smallworld:street:400", unit_size=64,
    ),
    "small": Size(
        painter="builtin:painter", clip="builtin:clip", detector="builtin:detector", sentences=12800, guidance=2.0,
        sampler_steps=20, keep_images=True, width=256, layers=4, max_tokens=30, tag_heads=8, batch=128, epochs=20, lr=5e-4,
        warmup_steps=200, seeds=(0, 1, 2), photos="smallworld:street:2000", unit_size=128,
    ),
    "paper": Size(
        painter="stable-diffusion-v1-5/stable-diffusion-v1-5", clip="openai/clip-vit-base-patch32",
        detector="facebook/detr-resnet-50", sentences=0, guidance=7.5, sampler_steps=20, keep_images=False, width=768,
        layers=4, max_tokens=30, tag_heads=8, batch=128, epochs=10, lr=1e-5, warmup_steps=1000, seeds=(0,), photos=None,
        unit_size=300,
    ),
}  # fmt: skip


def syntic(
    scale: Literal["tiny", "small", "paper"] = "tiny",
    captions: Path | None = None,
    text_column: str | None = None,
    captions_split: str | None = None,
    limit: int | None = None,
    sentences: int | None = None,
    painter: str | None = None,
    clip: str | None = None,
    detector: str | None = None,
    guidance: float | None = None,
    sampler_steps: int | None = None,
    per_caption: int = 1,
    paint_batch: int = 16,
    keep_images: bool | None = None,
    least_score: float = -1.0,
    threshold: float = 0.7,
    most_tags: int = 10,
    refine_steps: int = 50,
    refine_lr: float = 1e-3,
    refine_target: float | None = None,
    refine_guard: bool = True,
    temperature: float = 0.01,
    top_k: int = 0,
    exclude_self: Literal["none", "caption", "same_image_group"] = "none",
    most_support: int = 0,
    parts: bool = True,
    rivals: tuple[Literal["capdec", "close", "decap", "viecap"], ...] = (),
    width: int | None = None,
    layers: int | None = None,
    max_tokens: int | None = None,
    tag_heads: int | None = None,
    label_smoothing: float = 0.1,
    batch: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    warmup_steps: int | None = None,
    seeds: tuple[int, ...] | None = None,
    photos: str | None = None,
    images: Path | None = None,
    split: str = "test",
    beams: int = 5,
    meteor: bool = True,
    seed: int = 0,
) -> Plan:
    """Sentences -> painted images -> features, refined and projected -> a captioner for photos, beside others -> a page.

    Example: reverie run syntic --captions sentences.txt --out runs/mine

    Args:
        scale: the dial: sets every flag that is left out. tiny runs on a CPU in minutes.
        captions: file of sentences: text, CSV, TSV, JSONL, COCO JSON or parquet; sentences about the small world when left out.
        text_column: its column of captions; usual names are tried when left out.
        captions_split: of it, where it has several, as a Karpathy file has; its train also means restval.
        limit: use the first so many usable captions.
        sentences: about the small world, where no captions are given.
        painter: builtin:painter, a folder, or the Hub id of any diffusers text-to-image pipeline.
        clip: the encoder of images and sentences; any CLIP or SigLIP.
        detector: finds the tags; any object detector of transformers, or none.
        guidance: w in eps_u + w (eps_c - eps_u).
        sampler_steps: of the painter.
        per_caption: images of each sentence; the paper paints one.
        paint_batch: images painted together. Changes the speed only.
        keep_images: keep the painted images, and not their features alone.
        least_score: cosine to its sentence that an image must have to be learned from, in [-1, 1].
        threshold: score that a thing must have to become a tag.
        most_tags: different tags of an image.
        refine_steps: passes of the refinement; 0 = none.
        refine_lr: its rate.
        refine_target: stop it where the mean cosine of images to their sentences reaches this.
        refine_guard: stop it where images come as close to their sentences as sentences are to each other.
        temperature: of the projection.
        top_k: support sentences that a projection uses; 0 = all.
        exclude_self: hide from a painted image, when it is projected, nothing, its own sentence, or all of the same photo.
        most_support: sentences in the support set, drawn at random; 0 = all.
        parts: train once more without each part, on painted features alone, and on text features, to see what each is worth.
        rivals: train these as well, on the same sentences, decoder and steps.
        width: of the decoder.
        layers: of the decoder.
        max_tokens: of a sentence, the end token included.
        tag_heads: of the attention to tags.
        label_smoothing: of the loss, in [0, 1).
        batch: sentences a step.
        epochs: passes over the sentences.
        lr: peak learning rate.
        warmup_steps: of the rate.
        seeds: train every captioner once with each.
        photos: to measure on: COCO captions of photos (JSON), or smallworld:CAMERA:NUMBER; none with other captions.
        images: folder of these photos.
        split: of a Karpathy file of photos.
        beams: of the second way to decode; the first takes the likeliest word each time.
        meteor: also METEOR (without paraphrases), which takes longer than all other metrics together.
        seed: of captions and images.
    """
    flags = {name: value for name, value in locals().items() if value is not None}
    from reverie.captions.corpus import FromCorpus
    from reverie.captions.scenes import FromScenes
    from reverie.captions.support import MakeSupport, sentences_in
    from reverie.evaluate.alignment import MeasureAlignment
    from reverie.evaluate.captioned import load_captioned
    from reverie.evaluate.captioning import Asked, MeasureCaptions, refuse_test_captions
    from reverie.images.features import PaintFeatures
    from reverie.images.pixels import PaintPixels, PaintSpeed
    from reverie.learn.refine import Refine, RefineFeatures
    from reverie.learn.syntic import METHODS, Shows
    from reverie.learn.train_captioner import TrainCaptioner
    from reverie.nets.captioner import DecoderShape
    from reverie.report.page import WritePage

    size = dataclasses.replace(SIZES[scale], **{name: flags[name] for name in vars(SIZES[scale]) if name in flags})
    if not size.seeds or len(set(size.seeds)) < len(size.seeds):
        raise InputError(f"--seeds {' '.join(map(str, size.seeds))}: give at least one, and none twice")
    clip_for(size.painter, size.clip)
    if size.detector.startswith(BUILTIN) and not size.painter.startswith(BUILTIN):
        raise InputError(
            f"{size.detector} knows coloured shapes only; find the tags of other pictures with a public model: --detector NAME, or none"
        )
    first: FromCorpus | FromScenes
    if captions is not None:
        if sentences is not None:
            raise InputError("give --captions or --sentences, not both")
        first = FromCorpus(captions, text_column=text_column, split=captions_split, limit=limit)
        if captions_split is None and set(first.splits) - {"train", "restval"}:
            raise InputError(
                f"{captions} holds {', '.join(first.splits)}; say what to learn from: --captions-split train"
            )
        if photos is None:
            size = dataclasses.replace(size, photos=None)  # the small world's photos are of its own things
        _refuse_strangers(size.painter, first)
    else:
        if text_column or captions_split or limit is not None:
            raise InputError("--text-column, --captions-split and --limit belong to a file of --captions")
        if not size.sentences or not size.painter.startswith(BUILTIN):
            raise InputError("give sentences to learn from: --captions FILE")
        first = FromScenes(size.sentences)
    if not -1 <= least_score <= 1:
        raise InputError(f"--least-score {least_score} is a cosine, in [-1, 1]")
    if most_support < 0:
        raise InputError(f"--most-support {most_support} is a number of sentences, or 0 for all")
    if len(set(rivals)) < len(rivals):
        raise InputError(f"--rivals {' '.join(rivals)}: name each once")
    if size.photos and isinstance(first, FromCorpus):
        refuse_test_captions(sentences_in(first, seed), load_captioned(size.photos, images, split))
    if first.count < 2:
        raise InputError(f"{captions or 'the corpus'} gives one sentence; a captioner needs two different ones or more")
    paint = PaintPixels(
        size.painter, per_caption, size.guidance, size.sampler_steps,
        scheduler="ddim" if size.painter.startswith(BUILTIN) else "dpm-solver++", speed=PaintSpeed(paint_batch),
    )  # fmt: skip
    where = "status = 'ok'" + (f" and clip_score >= {least_score}" if least_score > -1 else "")
    finder = None if size.detector == "none" else size.detector
    shows = dataclasses.replace(
        METHODS["syntic"], temperature=temperature, top_k=top_k, exclude_self=exclude_self,
        tags="attention" if finder else "none",
    )  # fmt: skip
    shape = DecoderShape(size.width, size.layers, max_tokens=size.max_tokens, tag_heads=size.tag_heads)
    projected_on, texts = ("support-drawn", "support") if most_support else ("support", None)
    train = TrainCaptioner(
        projected_on, "refine", size.clip, finder, threshold, most_tags, shows, shape, label_smoothing, size.epochs, None,
        size.batch, size.lr, size.warmup_steps, where, texts,
    )  # fmt: skip
    arms: dict[str, Shows] = {"SynTIC": shows}
    if parts:
        arms |= {
            "without refinement": dataclasses.replace(shows, of="painted"),
            "without projection": dataclasses.replace(shows, learns_projected=False, asked_projected=False),
            "without tags": dataclasses.replace(shows, tags="none"),
            "painted features": METHODS["painted"],
            "text features": METHODS["text"],
        }
        if finder is None:
            del arms["without tags"]
    if "viecap" in rivals and finder is None:
        raise InputError("viecap takes names of things from what a detector knows; name one: --detector")
    arms |= {name: METHODS[name] for name in rivals}
    steps = [
        Step("captions", first),
        Step(
            "paint",
            PaintFeatures(paint, size.clip, finder, threshold, most_tags, size.keep_images),
            of=("captions",),
        ),
        Step("support", MakeSupport(size.clip), of=("captions",)),
        *([Step(projected_on, MakeSupport(size.clip, most=most_support), of=("captions",))] if most_support else []),
        Step(
            "refine",
            RefineFeatures(
                "support",
                Refine(
                    refine_steps,
                    refine_lr,
                    temperature=temperature,
                    target=refine_target,
                    guard=refine_guard,
                    seed=seed,
                ),
                where,
            ),
            of=("paint", "support"),
        ),
    ]
    drawn = (projected_on,) if most_support else ()
    asked = []
    for name, shown in arms.items():
        for place, number in enumerate(size.seeds):
            step = slug(name, number) if name != "SynTIC" or place else MAIN
            steps.append(
                Step(
                    step,
                    dataclasses.replace(train, shows=shown, seed=number),
                    of=("paint", "support", "refine", *drawn),
                )
            )
            asked.append(Asked(name, step, number))
    last: tuple[str, ...] = tuple(item.weights for item in asked)
    if size.photos:
        measure = MeasureCaptions(tuple(asked), size.photos, images, split, beams, meteor)
        align = MeasureAlignment(
            projected_on,
            "refine",
            temperature,
            size.clip,
            size.photos,
            images,
            split,
            where,
            top_k=top_k,
            exclude_self=exclude_self,
            texts=texts,
        )
        steps.append(Step("measure", measure, of=last))
        steps.append(Step("alignment", align, of=("support", "refine", *drawn)))
        last = ("measure", "alignment")
    steps.append(Step("page", WritePage(), of=last))
    return Plan(recipe="syntic", seed=seed, unit_size=size.unit_size, steps=tuple(steps))


def slug(name: str, number: int) -> str:
    """The name of the step that trains an arm with a seed."""
    return f"{name.lower().replace(',', '').replace(' ', '-')}-{number}"


def _refuse_strangers(painter: str, corpus: FromCorpus) -> None:
    """Raises InputError where a builtin painter is asked for what it has never seen: its pictures would show nothing of it."""
    from reverie.smallworld.describe import vocabulary

    if not painter.startswith(BUILTIN):
        return
    known = set(vocabulary())
    texts = corpus.texts(1000)
    strange = [text for text in texts if set(text.lower().replace(".", " ").replace(",", " , ").split()) - known]
    if len(strange) > len(texts) / 2:
        raise InputError(
            f"{painter} draws coloured shapes and knows {len(known)} words; {len(strange)} of the first {len(texts)} sentences have "
            f"others, such as {strange[0]!r}. Take public models that can draw, see and name them: --scale paper, or --painter, --clip and "
            "--detector"
        )
