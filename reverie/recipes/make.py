"""Captions and images in bulk, with scores and a selection beside them: everything up to the store.

    reverie make --captions captions.txt --painter stable-diffusion-v1-5/stable-diffusion-v1-5 --clip openai/clip-vit-base-patch32

Stop it at any time and run the same command again; give an array of jobs --part 1/16, --part 2/16, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.captions.classes import read_classes
from reverie.captions.domains import CAPTION
from reverie.errors import InputError
from reverie.models.names import locate
from reverie.run.plan import Plan, Step

if TYPE_CHECKING:
    from reverie.captions.corpus import FromCorpus
    from reverie.captions.llm import FromWriter
    from reverie.captions.templates import FromTemplates
    from reverie.captions.words import FromWords

BUILTIN = "builtin:"
KEPT = {  # what is kept unless told, by whether duplicates were looked for
    True: "status = 'ok' and blank = false and duplicate_of is null",
    False: "status = 'ok' and blank = false",
}


def make(
    captions: Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    classes: Path | None = None,
    writer: str | None = None,
    templates: Path | None = None,
    words: str | None = None,
    synonyms: Path | None = None,
    around: str | None = None,
    prompt: Path | None = None,
    temperature: float | None = None,
    max_words: int | None = None,
    per_class: int = 8,
    painter: str = "builtin:painter",
    per_caption: int = 4,
    guidance: float = 2.0,
    steps: int = 20,
    scheduler: str | None = None,
    size_px: int | None = None,
    batch: int = 16,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    clip: str | None = None,
    keep: str | None = None,
    duplicates: bool = True,
    seed: int = 0,
    unit_size: int = 100,
) -> Plan:
    """Captions -> images, scores and a selection, in a store that other tools can read.

    Example: reverie make --captions captions.txt --out runs/mine

    Args:
        captions: file of captions: text, CSV, TSV, JSONL, COCO JSON or parquet.
        text_column: its column of captions; usual names are tried when left out.
        label_column: its column of class names, if it has one.
        limit: use the first so many usable captions.
        classes: instead of captions, a file of class names; the classes of the small world when both are left out.
        writer: language model that writes captions from class names: builtin:writer, a Hub id, a folder, or openai:MODEL@URL.
            When left out, builtin:writer for the small world and templates for other classes.
        templates: file of sentences with {class} in them, one a line, to write captions with instead.
        words: word-to-sentence model to write captions with instead: builtin:words, a Hub id, a folder; any T5 tuned on
            CommonGen is one. Sentences differ over the whole class.
        synonyms: JSON file, class name to words that also name it in a sentence of words.
        around: how a sentence of words is said in the domain, {caption} for it: "a centered satellite photo of {caption}".
        prompt: file of what the writer is asked: a text with {class} in it, or JSON with prompt, glosses and examples (docs/writers.md);
            when left out, an instruction for chat models and three examples for others.
        temperature: of the writer's sampling; 0 takes the likeliest words, 1 is its own when left out.
        max_words: longest caption of the writer, in words; 60 when left out.
        per_class: captions for each class.
        painter: builtin:painter, a folder, or the Hub id of any diffusers text-to-image pipeline.
        per_caption: images of each caption.
        guidance: w in eps_u + w (eps_c - eps_u); 1 is none.
        steps: of the sampler.
        scheduler: ddim, dpm-solver++, euler, ...; the painter's own when left out.
        size_px: side of the images; the painter's own when left out.
        batch: images painted together. Changes the speed only.
        dtype: what the painter computes in; fp16 needs a GPU.
        clip: CLIP model that scores each image against its caption; builtin:clip when left out with builtin:painter, else none.
        keep: what is kept, in SQL over the columns of the pairs; clip_score is one of them if there is a CLIP model. When left
            out, what is ok, not blank, and no duplicate.
        duplicates: look for images that repeat another one; without it there is no column duplicate_of.
        seed: of everything random.
        unit_size: captions in one commit.
    """
    from reverie.filters.blank import Blank
    from reverie.filters.clip_score import ClipScore
    from reverie.filters.duplicates import Duplicates, ImageHash
    from reverie.filters.select import Keep, check_rule
    from reverie.images.pixels import PaintPixels, PaintSpeed

    stage = source(
        captions,
        text_column,
        label_column,
        limit,
        classes,
        writer,
        templates,
        per_class,
        words=words,
        synonyms=synonyms,
        around=around,
        prompt=prompt,
        temperature=temperature,
        max_words=max_words,
    )
    first = Step("captions", stage)
    clip = clip_for(painter, clip)
    paint = PaintPixels(
        painter,
        per_caption,
        guidance,
        steps,
        scheduler=scheduler,
        size_px=size_px,
        dtype=dtype,
        speed=PaintSpeed(batch),
    )
    columns = [Step("blank", Blank(), of=("paint",))]
    if duplicates:
        columns.append(Step("hash", ImageHash(), of=("paint",)))
    if clip:
        columns.insert(0, Step("clip_score", ClipScore(clip), of=("paint",)))
    compared = [Step("duplicates", Duplicates(), of=("hash",))] if duplicates else []
    check_rule(keep or KEPT[duplicates], *(step.stage for step in (*compared, *columns)))
    return Plan(
        recipe="make",
        seed=seed,
        unit_size=unit_size,
        steps=(
            first,
            Step("paint", paint, of=("captions",)),
            *columns,
            *compared,
            Step("keep", Keep(keep or KEPT[duplicates]), of=tuple(step.name for step in (*compared, *columns))),
        ),
    )


def source(
    captions: Path | None,
    text_column: str | None,
    label_column: str | None,
    limit: int | None,
    classes: tuple[str, ...] | Path | None,
    writer: str | None,
    templates: Path | None,
    per_class: int,
    *,
    words: str | None = None,
    synonyms: Mapping[str, tuple[str, ...]] | Path | None = None,
    around: str | None = None,
    prompt: Path | None = None,
    temperature: float | None = None,
    max_words: int | None = None,
) -> FromCorpus | FromTemplates | FromWords | FromWriter:
    """The stage that gives captions: from a file, from a writer, from a word-to-sentence model, or from templates."""
    from reverie.captions.corpus import FromCorpus
    from reverie.captions.llm import FromWriter
    from reverie.captions.templates import FromTemplates
    from reverie.captions.words import FromWords
    from reverie.smallworld.scene import class_names

    if captions and (classes or writer or templates or words):
        raise InputError("give --captions, or --classes (with --writer, --words or --templates), not both")
    if (
        len(
            given := [
                flag for flag, value in (("--writer", writer), ("--words", words), ("--templates", templates)) if value
            ]
        )
        > 1
    ):
        raise InputError(f"give {' or '.join(given)}, not both")
    if not words and (synonyms or around):
        raise InputError("--synonyms and --around belong to the sentences of --words")
    if words == "builtin:words" and classes and (others := set(read_classes(classes)) - set(class_names())):
        raise InputError(
            f"builtin:words knows the classes of the small world only, not {sorted(others)[0]!r}; name a public "
            "word-to-sentence model, or leave --words out"
        )
    if not captions and (text_column or label_column or limit is not None):
        raise InputError("--text-column, --label-column and --limit belong to a file of --captions")
    asked: dict[str, Any] = {"prompt": prompt, "temperature": temperature, "max_words": max_words}
    asked = {key: value for key, value in asked.items() if value is not None}
    if asked and (captions or words or templates or (classes and not writer)):
        raise InputError(
            f"--{next(iter(asked)).replace('_', '-')} says how a language model is asked; name one with --writer"
        )
    stage: FromCorpus | FromTemplates | FromWords | FromWriter
    if captions:
        stage = FromCorpus(captions, text_column=text_column, label_column=label_column, limit=limit)
    elif words:
        stage = FromWords(classes or class_names(), per_class, words, synonyms, around or CAPTION)
    elif templates or (classes and not writer):
        stage = FromTemplates(classes or class_names(), templates or TEMPLATES, per_class)
    else:
        stage = FromWriter(writer or "builtin:writer", classes or class_names(), per_class, **asked)
    if stage.count < 1:  # reads the files: what is wrong with them is said before any work
        raise InputError(f"{captions or classes} gives no captions")
    return stage


TEMPLATES = (
    "a photo of a {class}",
    "a picture of a {class}",
    "an image of a {class}",
    "a close-up photo of a {class}",
    "a bright photo of a {class}",
    "a drawing of a {class}",
    "a {class} outdoors",
    "a {class} on a plain background",
)


def clip_for(painter: str, clip: str | None) -> str | None:
    """The CLIP model to score with. The builtin one has seen nothing but the small world.

    Raises: InputError for a pair that makes no sense; UnknownName, ModelError for one that is not there, before any work.
    """
    if clip and clip.startswith(BUILTIN) and not painter.startswith(BUILTIN):
        raise InputError(
            f"{clip} knows the small world only; score images of {painter} with a public model: --clip NAME"
        )
    clip = clip or ("builtin:clip" if painter.startswith(BUILTIN) else None)
    for name, config, what in ((painter, "model_index.json", "painter"), (clip, "config.json", "CLIP model")):
        place = locate(name) if name else None
        if place and (
            place.kind == "openai" or (place.kind != "hub" and not (Path(place.path_or_id) / config).exists())
        ):
            raise InputError(f"{name} is not a {what}; see: reverie models")
    return clip
