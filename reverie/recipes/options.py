"""Groups of settings that recipes share. Each makes the stage, or the part of one, that it is about.

A flag means the same in every recipe; docs/flags.md lists all of them. Defaults are those of ``tiny``; a recipe's ``SCALES`` hold
its own. A recipe's own settings stand in its file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.captions.classes import read_classes, templates_of
from reverie.captions.domains import CAPTION
from reverie.errors import InputError
from reverie.models.names import IN_FLIGHT, locate
from reverie.ranges import check_min
from reverie.settings import flag, flat

if TYPE_CHECKING:
    from reverie.arms import Arm
    from reverie.captions.corpus import ReadCorpus
    from reverie.captions.llm import AskWriter
    from reverie.captions.templates import FillTemplates
    from reverie.captions.word_to_sentence import WordToSentence
    from reverie.evaluate.captioning import MeasureCaptions
    from reverie.images.pixels import PaintPixels
    from reverie.images.real_guidance import FromShots
    from reverie.images.tokens import PaintTokens
    from reverie.learn.classifier_tuning import ClassifierTuning
    from reverie.stage import Job, UnitStage

Scale = Literal["tiny", "small", "paper"]
SmallScale = Literal["tiny", "small"]
Precision = Literal["fp32", "bf16", "fp16"]
ImageFormat = Literal["png", "jpeg", "webp"]

BUILTIN = "builtin:"
PUBLIC_PAINTER = "stable-diffusion-v1-5/stable-diffusion-v1-5"
PUBLIC_DETECTOR = "PekingU/rtdetr_r50vd"  # all of it is in transformers; DETR's own checkpoints want timm
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


KEPT_TOKENS = {True: "status = 'ok' and duplicate_of is null", False: "status = 'ok'"}  # the same of image tokens
KEPT = {  # what is kept unless told, by whether duplicates were looked for
    True: "status = 'ok' and blank = false and duplicate_of is null",
    False: "status = 'ok' and blank = false",
}


@dataclass(frozen=True)
class CaptionFile:
    """Captions that are there already."""

    # file of captions (text, CSV, TSV, JSONL, COCO JSON or parquet), or the folder of a finished run or an import
    captions: Path | None = None
    # column of captions in the caption file, or beside the images of a run; usual names are tried when absent, and of a run its
    # own captions
    text_column: str | None = None
    # rows of a run or an import that captions are taken of, in SQL over its columns, such as kept; all that are ok when absent
    captions_where: str | None = None
    limit: int | None = None  # number of usable captions to take, the first ones; all when absent

    def stage(self, label_column: str | None = None, split: str | None = None) -> ReadCorpus | None:
        """The stage that reads them; None where no file is named. Raises InputError for flags that then say nothing."""
        from reverie.captions.corpus import ReadCorpus

        if self.captions:
            return ReadCorpus(
                self.captions, text_column=self.text_column, label_column=label_column, split=split, limit=self.limit,
                where=self.captions_where,
            )  # fmt: skip
        flags = {"--text-column": self.text_column, "--label-column": label_column, "--captions-split": split}
        flags |= {"--captions-where": self.captions_where}
        if given := [flag for flag, value in (flags | {"--limit": self.limit}).items() if value is not None]:
            raise InputError(f"{' and '.join(given)} belong{'s' * (len(given) == 1)} to a file of --captions")
        return None


@dataclass(frozen=True)
class ClassCaptions:
    """Captions that are written from class names."""

    classes: Path | None = None  # file of class names, one a line; the classes of the small world when absent
    # language model that writes captions from class names: builtin:writer, a Hub id, a folder, or openai:MODEL@URL
    writer: str | None = None
    # file of sentences with {class} in them, one a line, to write captions with; or one such sentence
    templates: str | None = None
    # word-to-sentence model that writes captions: builtin:words, a folder, or the Hub id of a T5 tuned on CommonGen
    words: str | None = None
    synonyms: Path | None = None  # JSON file that gives for a class name the words that name the class too; for --words
    # phrase that each sentence written from a class name is put into, with {caption} in it; the sentence alone when absent
    around: str | None = None
    # file with the prompt for the writer: a text with {class} in it, or JSON with prompt, glosses and examples; one
    # that suits the kind of model when absent
    prompt: Path | None = None
    temperature: float = 1.0  # temperature of the writer's sampling; 0 takes the likeliest words
    max_words: int = 60  # longest caption of the writer, in words
    # requests on their way at once, to a writer or captioner behind a server; fewer while it says that they are too many
    in_flight: int = IN_FLIGHT

    @property
    def asked(self) -> dict[str, Any]:
        """How a language model is asked, where that is not the usual way."""
        usual = {"prompt": None, "temperature": ClassCaptions.temperature, "max_words": ClassCaptions.max_words}
        return {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}

    def refuse_asked(self) -> None:
        """Raises InputError for flags about how a language model is asked, where none is."""
        if self.asked:
            flag = next(iter(self.asked)).replace("_", "-")
            raise InputError(f"--{flag} says how a language model is asked; name one with --writer")

    def stage(
        self,
        per_class: int,
        classes: tuple[str, ...] | Path | None = None,
        synonyms: Mapping[str, tuple[str, ...]] | None = None,
        around: str | None = None,
        templates: tuple[str, ...] = TEMPLATES,
        repeat: bool = False,
    ) -> FillTemplates | WordToSentence | AskWriter:
        """The stage that writes them: a model where one is named, else templates, or the builtin writer for the small world.

        Args:
            classes: names or a file of them, in place of ``classes``.
            synonyms: for sentences of ``words``, where no file of them is named.
            around: for sentences of a model or a file, where none is given.
            templates: in place of a file, where no model is named either.
            repeat: use templates again where they are fewer than the captions wanted.
        """
        from reverie.captions.llm import AskWriter, WriterSpeed
        from reverie.captions.templates import FillTemplates
        from reverie.captions.word_to_sentence import WordToSentence
        from reverie.smallworld.scene import class_names

        check_min(1, per_class=per_class)
        own = classes or self.classes
        named = (("--writer", self.writer), ("--words", self.words), ("--templates", self.templates))
        if len(given := [flag for flag, value in named if value]) > 1:
            raise InputError(f"give {' or '.join(given)}, not both")
        if self.synonyms and not self.words:
            raise InputError("--synonyms belong to the sentences of --words")
        if self.words == "builtin:words" and own and (others := set(read_classes(own)) - set(class_names())):
            raise InputError(
                f"builtin:words knows the classes of the small world only, not {sorted(others)[0]!r}; name a public "
                "word-to-sentence model, or leave --words out"
            )
        if self.words or self.templates or (own and not self.writer):
            self.refuse_asked()
        stage: FillTemplates | WordToSentence | AskWriter
        context = self.around or around or CAPTION
        if self.words:
            stage = WordToSentence(own or class_names(), per_class, self.words, self.synonyms or synonyms, context)
        elif self.templates:
            stage = FillTemplates(own or class_names(), templates_of(self.templates), per_class, repeat, context)
        elif own and not self.writer:
            stage = FillTemplates(own, templates, per_class, repeat, self.around or CAPTION)
        else:
            writer = self.writer or "builtin:writer"
            speed = WriterSpeed(parallel=self.in_flight)
            stage = AskWriter(writer, own or class_names(), per_class, context=context, speed=speed, **self.asked)
        if stage.count < 1:  # reads the files: what is wrong with them is said before any work
            raise InputError(f"{own} gives no captions")
        return stage

    def refuse_few(self, scale: Scale) -> None:
        """Raises InputError at ``paper``, where nobody says what writes hundreds of captions of a class."""
        if scale == "paper" and not (self.words or self.writer or self.templates):
            raise InputError(
                "--scale paper paints each class from hundreds of captions: name a model that writes them, with --words or "
                "--writer, or a file of sentences, with --templates"
            )


@dataclass(frozen=True)
class CaptionSource:
    """Captions from a file, or written from class names."""

    file: CaptionFile = CaptionFile()
    label_column: str | None = None  # column of class names in the caption file; none when absent
    written: ClassCaptions = ClassCaptions()
    per_class: int = 8  # captions for each class, where they are written from class names

    def stage(self) -> ReadCorpus | FillTemplates | WordToSentence | AskWriter:
        """The stage that gives captions."""
        own = self.written
        if self.file.captions and (own.classes or own.writer or own.templates or own.words):
            raise InputError("give --captions, or --classes (with --writer, --words or --templates), not both")
        stage = self.file.stage(self.label_column)
        if stage is None:
            return own.stage(self.per_class)
        if own.synonyms or own.around:
            raise InputError("--synonyms and --around belong to captions that are written from class names")
        own.refuse_asked()
        if stage.count < 1:
            raise InputError(f"{self.file.captions} gives no captions")
        return stage


@dataclass(frozen=True)
class Painting:
    """How images are painted."""

    # text-to-image model: builtin:painter, a folder, or the Hub id of any diffusers pipeline
    painter: str = "builtin:painter"
    per_caption: int = 4  # images painted of each caption
    guidance: float = 2.0  # classifier-free guidance, 1 = none; w in eps_u + w (eps_c - eps_u)
    sampler_steps: int = 10  # sampling steps of an image; of pixels, denoising steps from noise
    scheduler: str | None = "ddim"  # sampler: ddim, dpm-solver++, euler, ...; the painter's own when absent
    paint_px: int | None = None  # side of painted images in pixels; what the painter was made for when absent
    store_px: int | None = None  # side of stored images in pixels; as painted when absent
    image_format: ImageFormat = "png"  # format of stored images; png loses nothing, jpeg and webp take less room
    painter_dtype: Precision = "fp32"  # number format that the painter computes in; fp16 needs a GPU
    # number format of the painter's decoder of latents; that of --painter-dtype when absent; fp16 and bf16 need a GPU
    painter_decoder_dtype: Precision | None = None
    # denoising steps that share what the deep blocks of one gave: faster from 2 on, in somewhat other pictures; 1 = all of every step
    step_cache: int = 1
    # the painter's network by torch.compile, which takes minutes before the first image
    compile_painter: bool = False
    # images painted together; changes the speed only; 0 = as many as a trial on the GPU finds to be quick
    paint_batch: int = 16

    @property
    def is_builtin(self) -> bool:
        """Whether the painter knows the small world and nothing else."""
        return knows_smallworld_alone(self.painter)

    def stage(self, per_caption: int | None = None, starts: tuple[FromShots | None, ...] = (None,)) -> PaintPixels:
        """The stage that paints.

        Args:
            per_caption: images of each caption, of all starts together.
            starts: what images begin at; None is noise.
        Raises: InputError that names a flag below its range.
        """
        check_min(
            1,
            per_caption=self.per_caption,
            sampler_steps=self.sampler_steps,
            paint_px=self.paint_px,
            store_px=self.store_px,
            step_cache=self.step_cache,
        )
        check_min(0, paint_batch=self.paint_batch)
        from reverie.images.pixels import PaintPixels, PaintSpeed

        return PaintPixels(
            self.painter,
            per_caption or self.per_caption,
            self.guidance,
            self.sampler_steps,
            scheduler=self.scheduler,
            size_px=self.paint_px,
            store_px=self.store_px,
            image_format=self.image_format,
            dtype=self.painter_dtype,
            decoder_dtype=self.painter_decoder_dtype,
            step_cache=self.step_cache,
            compiled=self.compile_painter,
            starts=starts,
            speed=PaintSpeed(self.paint_batch),
        )

    def token_stage(self, per_caption: int | None = None) -> PaintTokens:
        """The stage that paints image tokens. Raises InputError for settings that it has no use for."""
        from reverie.images.pixels import PaintSpeed
        from reverie.images.tokens import PaintTokens

        if self.scheduler is not None or self.store_px is not None:
            name = "scheduler" if self.scheduler is not None else "store-px"
            raise InputError(f"--{name} is about pixels, and image tokens are painted without any; leave it out")
        idle = {"step-cache": self.step_cache != 1, "compile-painter": self.compile_painter}
        idle["painter-decoder-dtype"] = self.painter_decoder_dtype is not None
        if given := next((name for name, says in idle.items() if says), None):
            raise InputError(f"--{given} is about painters of pixels, and this one paints tokens; leave it out")
        return PaintTokens(
            self.painter,
            per_caption or self.per_caption,
            self.guidance,
            self.sampler_steps,
            size_px=self.paint_px,
            dtype=self.painter_dtype,
            speed=PaintSpeed(self.paint_batch),
        )


# How the builtin painter of tokens paints well, the defaults of PaintTokens; more guidance makes it paint things that nobody asked for.
BUILTIN_TOKENS = Painting("builtin:token-painter", guidance=1.5, sampler_steps=16)


@dataclass(frozen=True)
class ClassifierCaptions(ClassCaptions):
    """Class names, how a task says them, and the captions that are written from them."""

    per_class: int = 8  # captions for each class, where they are written from class names
    # sentence that says the class of a photo in this task, with {class} in it (added at the end where it is missing),
    # such as "a satellite photo of {class}"; the templates of --domain, or "a photo of a {class}.", when absent
    context: str | None = None
    # record of class names, templates, synonyms and phrase, as FILE.json:DATASET; flags that say the same come first
    domain: str | None = None


@dataclass(frozen=True)
class ClassifierLearning:
    """How a classifier is tuned on painted images."""

    soft_share: float = 0.5  # share of the loss on soft targets (1 - lambda); the rest is cross-entropy
    teacher_temperature: float = 2.0  # temperature of the teacher's soft targets
    # weights that weight decay pulls the classifier towards: zero as published, or its text rows
    decay_to: Literal["zero", "start"] = "zero"
    # the teacher's likeliest class as soft target (a hard pseudo-label), in place of its distribution
    hard_pseudo_labels: bool = False
    label_smoothing: float = 0.0  # label smoothing of the cross-entropy, in [0, 1)
    # side in pixels that painted images are scaled down to before they are encoded, where photos are of low
    # resolution; 0 = full size
    shrink_px: int = 0
    epochs: int = 30  # passes over the examples of training
    tune_batch: int = 64  # painted images in a step of tuning a classifier
    lr: float = 2e-3  # peak learning rate

    def tuning(self) -> ClassifierTuning:
        """The loss."""
        from reverie.learn.classifier_tuning import ClassifierTuning

        return ClassifierTuning(
            soft_share=self.soft_share,
            temperature=self.teacher_temperature,
            hard_pseudo_labels=self.hard_pseudo_labels,
            label_smoothing=self.label_smoothing,
            decay_to=self.decay_to,
        )


@dataclass(frozen=True)
class Selection:
    """Which painted images of a class are kept, by an encoder's confidence."""

    # confidence that an image must exceed to pass; chance = 1 / number of classes
    threshold: float | Literal["chance"] = "chance"
    max_kept: int | None = None  # images kept of each class (K); all that pass when absent
    # which K images of a class are kept where more pass: any at random, or those of the highest confidence
    choose: Literal["random", "top"] = "random"

    @property
    def confidence(self) -> float | None:
        """The threshold as stages say it: None is chance."""
        return None if self.threshold == "chance" else self.threshold

    def fate(self, made: int, fill: bool = True) -> str:
        """How many of so many images of a class the choice can drop, in words."""
        if self.max_kept is None:
            return f"the filter drops those that are no surer than {self.threshold}"
        if not fill:
            return f"the filter keeps {min(made, self.max_kept):,} of them at most and can drop all"
        if made <= self.max_kept:
            return f"the filter can drop none of them, as --max-kept keeps {self.max_kept:,} of each class"
        return f"the filter keeps {self.max_kept:,} and drops {made - self.max_kept:,}"


@dataclass(frozen=True)
class Network:
    """A network that is trained from scratch, and what it sees."""

    # resnet-tiny, resnet-50, vit-tiny, vit-s16, vit-b16, or a transformers vision model by name
    backbone: str = "resnet-tiny"
    view_px: int = 32  # side of a training view in pixels
    image_px: int = 64  # side in pixels that images and photos are resized to before views are cropped from them
    train_steps: int = 200  # optimiser steps of training; the same in every arm
    lr: float = 1e-3  # peak learning rate
    warmup: float = 0.1  # share of the training steps in which the learning rate rises

    def check(self) -> None:
        """Raises InputError for views that cannot be."""
        check_min(1, view_px=self.view_px, image_px=self.image_px)
        if self.view_px > self.image_px:
            raise InputError(
                f"views of --view-px {self.view_px} cannot be cut from images of --image-px {self.image_px}"
            )


@dataclass(frozen=True)
class MaskedDecoder:
    """What draws the patches that MAE hides, and is not kept."""

    decoder_width: int = 64  # width of MAE's decoder
    decoder_layers: int = 2  # layers of MAE's decoder
    decoder_heads: int = 4  # attention heads of MAE's decoder


@dataclass(frozen=True)
class CaptionedPhotos:
    """Photos that captioners are asked about, and how what they say is scored."""

    # photos to measure on; COCO captions of photos (JSON), or smallworld:CAMERA:NUMBER; nothing is measured when
    # absent
    eval_data: str | None = None
    eval_images: Path | None = None  # folder of the photos that --eval-data names by file
    eval_split: str = "test"  # part of the photos to measure on; of a Karpathy file
    beams: int = 5  # beams of the beam search, the second way to decode; the first is greedy
    meteor: bool = True  # METEOR as well (without paraphrases), which takes longer than all other metrics together
    spice: Literal["auto", "on", "off"] = "auto"  # SPICE as well, which runs under Java 8; auto: where that is there

    @property
    def source(self) -> tuple[str, Path | None, str]:
        """Photos, folder and split, as ``datasets/captioned.py`` takes them; only of those that measure on some."""
        assert self.eval_data is not None
        return self.eval_data, self.eval_images, self.eval_split

    def stage(self, asked: Iterable[Arm]) -> MeasureCaptions:
        """The stage that scores the captions of these photos."""
        from reverie.evaluate.captioning import MeasureCaptions

        return MeasureCaptions(tuple(asked), *self.source, self.beams, self.meteor, self.spice)


def usable_of(images: Path) -> str:
    """Which images of another run are used: those that it kept, if it chose. Raises InputError if it is not there."""
    from reverie.store import tables

    path = images / "pairs.lance"
    if not path.exists():
        raise InputError(f"{images} holds no pairs.lance; give the folder of a run that painted images")
    return "kept" if "kept" in tables.column_names(path) else "status = 'ok'"


def captions_of(source: UnitStage | Job, num_classes: int) -> int:
    """Captions of each class that a source gives."""
    from reverie.stage import SourceStage

    return source.count // num_classes if isinstance(source, SourceStage) else 0


def amount(captions: UnitStage | Job, num_classes: int, per_caption: int) -> str:
    """What is painted of each class, in words. A few templates for all images are what the paper calls basic."""
    from reverie.captions.templates import FillTemplates

    each = captions_of(captions, num_classes)
    images = each * per_caption
    wrote = f"{each:,} caption{'s' * (each != 1)} of each, {per_caption:,} image{'s' * (per_caption != 1)} of a caption"
    if isinstance(captions, FillTemplates) and captions.num_templates < captions.per_class:
        few = captions.num_templates
        about = "about " * (each % few > 0)
        wrote = f"basic, {few:,} template{'s' * (few > 1)} of each, {about}{images / few:,.0f} images of a template"
    return f"{images:,} image{'s' * (images != 1)} of each of {num_classes:,} classes ({wrote})"


def refuse_idle(config: Any, usual: Any, *rules: tuple[tuple[str, ...], bool, str]) -> None:
    """Raises InputError for a flag that was given and says nothing.

    Args:
        usual: the settings of the scale; what differs from them was given.
        rules: names of settings, whether they say something here, and what they belong to, in words.
    """
    given, default = flat(config), flat(usual)
    for names, works, owner in rules:
        if not works and (idle := next((name for name in names if given[name] != default[name]), None)):
            raise InputError(f"{flag(idle)} says nothing here: it belongs to {owner}; leave it out, or give that too")


def refuse_twins(flag: str, values: Sequence[object]) -> None:
    """Raises InputError for a flag of several values that has none, or one twice."""
    if not values:
        raise InputError(f"{flag} needs at least one value")
    if len(set(values)) < len(values):
        raise InputError(f"{flag} {' '.join(map(str, values))} names one twice")


def knows_smallworld_alone(painter: str) -> bool:
    """Whether a painter is a builtin one, or a folder whose words are those of the small world and no others, such as a run trained on it."""
    if painter.startswith(BUILTIN):
        return True
    file = Path(painter) / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        return False
    from reverie.nets.words import SPECIAL, split_words
    from reverie.smallworld.describe import vocabulary

    try:
        words = set(json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"])
    except (ValueError, KeyError, TypeError):
        return False  # of some other kind; what is wrong with it, whoever opens it says
    return words <= split_words(vocabulary()) | {*SPECIAL}


def clip_default(painter: str, clip: str | None) -> str | None:
    """The usual CLIP model: the builtin one has seen nothing but the small world, so it is none for other painters."""
    return clip if not (clip or "").startswith(BUILTIN) or knows_smallworld_alone(painter) else None


def clip_for(painter: str, clip: str | None) -> str | None:
    """The CLIP model to score with.

    Raises: InputError for a pair that makes no sense; UnknownName, ModelError for one that is not there, before any work.
    """
    if clip and clip.startswith(BUILTIN) and not knows_smallworld_alone(painter):
        raise InputError(
            f"{clip} knows the small world only; score images of {painter} with a public model: --clip NAME"
        )
    for name, config, what in ((painter, "model_index.json", "painter"), (clip, "config.json", "CLIP model")):
        if name is None:
            continue
        place = locate(name)
        if place.kind == "openai" or (place.kind != "hub" and not (Path(place.path_or_id) / config).exists()):
            from reverie.models.kinds import check_encoder, check_pipeline  # slow, and not needed where all is well

            (check_pipeline if what == "painter" else check_encoder)(name)
            raise InputError(f"{name} is not a {what}; see: reverie models")
    return clip


def page() -> str:
    """docs/flags.md: what every flag of the recipes is, in Markdown."""
    from reverie.run.plan import config_type, find_recipe, find_study, known_recipes, known_studies, recipe_scales
    from reverie.settings import helps, required

    kinds = {name: find_recipe(name) for name in known_recipes()}
    kinds |= {f"claims {name}": find_study(name) for name in known_studies()}
    said: dict[str, dict[str, str]] = {}
    for where, recipe in kinds.items():
        kind = config_type(recipe)
        assert kind is not None
        for name, text in helps(kind).items():
            said.setdefault(name, {})[where] = text
    lines = [
        "# Flags of the recipes",
        "",
        "Made from the code by `make flags`. A flag means the same in every recipe; `reverie run RECIPE --scale SCALE --help` shows",
        "the defaults of a scale. Some defaults follow from other settings, such as photos of the small world, which are measured on only",
        "where the classes are its own; what is given by hand goes before them, and `plan.json` holds what came out.",
        "",
        "## Shared",
        "",
        "| flag | meaning | of |",
        "|---|---|---|",
    ]
    for name in sorted(name for name, texts in said.items() if len(texts) > 1):
        texts = said[name]
        text = texts[next(iter(texts))] if len(set(texts.values())) == 1 else next(iter(texts.values())).split(";")[0]
        lines.append(f"| `{flag(name)}` | {_cell(text)} | {', '.join(texts)} |")
    for where, recipe in kinds.items():
        lines += ["", f"## {where}", ""]
        scales = {scale: flat(config) for scale, config in recipe_scales(recipe).items()}
        kind = config_type(recipe)
        assert kind is not None
        lines.append(f"| flag | {' | '.join(scales or ['default'])} | meaning |")
        lines.append(f"|---|{'---|' * max(1, len(scales))}---|")
        usual = {item: getattr(kind, item, None) for item in helps(kind)}
        for name, text in helps(kind).items():
            if name in required(kind):
                values = ["required"]
            else:
                values = [_value(config[name]) for config in scales.values()] or [_value(usual[name])]
            meaning = _cell(text) if len(said[name]) == 1 else ""
            lines.append(f"| `{flag(name)}` | {' | '.join(values)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _value(value: object) -> str:
    if value is None or value == ():
        return ""
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`".replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
