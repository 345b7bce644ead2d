"""A captioner from sentences alone: paint each sentence, move the features of the images towards those of photos, and learn to write the
sentences from them.

    Liu, Liu and Ma, Improving Cross-modal Alignment with Synthetic Pairs for Text-only Image Captioning, AAAI 2024,
    arXiv:2312.08865

    reverie run syntic --captions sentences.txt --out runs/mine
    reverie caption runs/mine photo.jpg holidays/

No code was published with the paper. Settings that it does not give are those of the released code of related methods, or our own;
docs/recipes/syntic.md says which is which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.arms import Arm, under_seeds
from reverie.errors import InputError
from reverie.recipes.options import (
    BUILTIN,
    PUBLIC_DETECTOR,
    PUBLIC_PAINTER,
    CaptionedPhotos,
    CaptionFile,
    Painting,
    Precision,
    Scale,
    clip_for,
    knows_smallworld_alone,
    refuse_idle,
)
from reverie.run.plan import Plan, Step
from reverie.settings import flat

if TYPE_CHECKING:
    from reverie.captions.corpus import ReadCorpus
    from reverie.captions.scenes import FromScenes
    from reverie.evaluate.alignment import MeasureAlignment
    from reverie.learn.refine import Refine
    from reverie.learn.syntic import DecoderInputConfig
    from reverie.learn.train_captioner import TrainCaptioner

MAIN = "captioner"  # the arm that reverie caption asks: SynTIC with the first seed
Rival = Literal["capdec", "close", "decap", "viecap"]
RIVALS: Mapping[Rival, str] = {"capdec": "CapDec", "close": "CLOSE", "decap": "DeCap", "viecap": "ViECap"}


@dataclass(frozen=True)
class Tags:
    """Names of things that a detector finds in a painted image."""

    # object detector that finds the tags: builtin:detector, a folder, a Hub id, or none
    detector: str = "builtin:detector"
    tag_threshold: float = 0.7  # score that a thing must have to become a tag, in [0, 1]
    max_tags: int = 10  # largest number of different tags of an image

    @property
    def finder(self) -> str | None:
        """The model; None for none."""
        return None if self.detector == "none" else self.detector


@dataclass(frozen=True)
class Refinement:
    """How features of painted images are brought to those of photos."""

    refine_steps: int = 50  # passes of the refinement; 0 = none
    refine_lr: float = 1e-3  # learning rate of the refinement
    # mean cosine of images to their sentences at which refinement stops; none when absent
    refine_target: float | None = None
    # early stop of the refinement, once images are as close to their sentences as sentences are to each other, or are projected on
    # hardly anything else than their own
    refine_guard: bool = True
    # weight of its own sentence in the projection of a painted image, at which the guard ends the refinement, in (0, 1]
    refine_max_own: float = 0.9

    def stage(self, temperature: float, seed: int, hides_own: bool = False) -> Refine:
        """The refinement.

        Args:
            hides_own: the projection never sees an image's own sentence.
        """
        from reverie.learn.refine import Refine

        return Refine(
            self.refine_steps,
            self.refine_lr,
            temperature=temperature,
            target=self.refine_target,
            guard=self.refine_guard,
            max_own=1.0 if hides_own else self.refine_max_own,
            seed=seed,
        )


@dataclass(frozen=True)
class Projection:
    """How features are said in terms of sentences."""

    projection_temperature: float = 0.01  # temperature of the projection
    top_k: int = 0  # support sentences that a projection uses; 0 = all
    # what is left out of the support set when a painted image is projected: nothing, its own caption, or all captions
    # of its photo
    exclude_self: Literal["none", "caption", "same_image_group"] = "none"
    max_support: int = 0  # sentences in the support set, drawn at random; 0 = all


@dataclass(frozen=True)
class OtherSupport:
    """Other sentences in whose terms photos are said."""

    # sentences of another domain: photos are said in their terms as well, by the same captioners, and measured; files of captions, runs,
    # or support sets
    support: tuple[Path, ...] = ()
    # split of these files, where they have several, as a Karpathy file has; its train also means restval
    support_split: str | None = None


@dataclass(frozen=True)
class Decoder:
    """The decoder, and how it is trained."""

    width: int = 128  # width of a decoder
    layers: int = 2  # layers of a decoder
    max_tokens: int = 30  # largest number of tokens of a sentence, the end token included
    tag_heads: int = 4  # attention heads for the tags
    label_smoothing: float = 0.1  # label smoothing of the cross-entropy, in [0, 1)
    batch_size: int = 32  # examples in a step of training
    epochs: int = 6  # passes over the examples of training
    lr: float = 3e-3  # peak learning rate
    warmup_steps: int = 20  # steps in which the learning rate rises


@dataclass(frozen=True)
class SynticConfig:
    """Settings of a captioner from sentences alone."""

    scale: Scale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes, paper is as published
    file: CaptionFile = CaptionFile()
    # split to learn from where the caption file has several, as a Karpathy file has; train includes restval
    captions_split: str | None = None
    sentences: int = 1280  # sentences about the small world to learn from, where no captions are given
    paint: Painting = Painting(per_caption=1)
    clip: str = "builtin:clip"  # CLIP or SigLIP model that images are judged by; it also compares sentences
    tags: Tags = Tags()
    keep_images: bool = True  # painted images kept in the store beside their features
    min_score: float = -1.0  # cosine to its sentence that an image must have to be learned from, in [-1, 1]
    refine: Refinement = Refinement()
    project: Projection = Projection()
    other: OtherSupport = OtherSupport()
    # one more arm without each part of SynTIC, one on painted features alone, and one on text features
    parts: bool = True
    rivals: tuple[Rival, ...] = ()  # other methods to train beside SynTIC, with the same sentences, decoder and steps
    decoder: Decoder = Decoder()
    precision: Precision = "fp32"  # number format of training
    seeds: tuple[int, ...] = (0,)  # random seeds of training; every arm is trained once with each
    photos: CaptionedPhotos = CaptionedPhotos("smallworld:street:400")
    unit_size: int = 64  # captions in one commit
    seed: int = 0  # random seed of the run; each training has one of its own

    def following(self, usual: SynticConfig) -> dict[str, Any]:
        """The small world's sentences and photos stand in for a person's own; public painters have a faster sampler."""
        own = self.file.captions is not None
        return {
            "sentences": 0 if own else usual.sentences,
            "eval_data": None if own else usual.photos.eval_data,
            "scheduler": "ddim" if self.paint.is_builtin else "dpm-solver++",
        }

    @property
    def where(self) -> str:
        """Which pairs are learned from."""
        return "status = 'ok'" + (f" and clip_score >= {self.min_score}" if self.min_score > -1 else "")

    @property
    def support_steps(self) -> tuple[str, ...]:
        """Steps that make support sets: of all sentences, and of those that features are projected on where these are fewer."""
        return ("support", "support-drawn") if self.project.max_support else ("support",)

    @property
    def texts(self) -> str | None:
        """The support set that holds all sentences, where features are projected on another."""
        return "support" if self.project.max_support else None

    def check(self) -> None:
        """Raises InputError for settings that do not go together."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))}: give at least one, and none twice")
        clip_for(self.paint.painter, self.clip)
        detector = self.tags.detector
        refine = ("refine_lr", "refine_target", "refine_guard", "refine_max_own")
        refuse_idle(
            self,
            SCALES[self.scale],
            (("tag_threshold", "max_tags"), detector != "none", "a --detector"),
            (refine, self.refine.refine_steps > 0, "a refinement of one step or more (--refine-steps)"),
            (("refine_max_own",), self.refine.refine_guard, "--refine-guard"),
        )
        if detector.startswith(BUILTIN) and not self.paint.is_builtin:
            raise InputError(
                f"{detector} knows coloured shapes only; find the tags of other pictures with a public model: --detector NAME, or none"
            )
        if not -1 <= self.min_score <= 1:
            raise InputError(f"--min-score {self.min_score} is a cosine, in [-1, 1]")
        if self.project.max_support < 0:
            raise InputError(f"--max-support {self.project.max_support} is a number of sentences, or 0 for all")
        if len(set(self.rivals)) < len(self.rivals):
            raise InputError(f"--rivals {' '.join(self.rivals)}: name each once")
        if "viecap" in self.rivals and self.tags.finder is None:
            raise InputError("viecap takes names of things from what a detector knows; name one: --detector")


TINY = SynticConfig()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        sentences=12800,
        paint=Painting(per_caption=1),
        decoder=Decoder(256, 4, tag_heads=8, batch_size=128, epochs=20, lr=5e-4, warmup_steps=200),
        seeds=(0, 1, 2),
        photos=CaptionedPhotos("smallworld:street:2000"),
        unit_size=128,
    ),
    "paper": replace(
        TINY,
        scale="paper",
        sentences=0,
        paint=Painting(  # as painted, because the detector sees more than 256 pixels; what is stored are features
            PUBLIC_PAINTER,
            per_caption=1,
            guidance=7.5,
            sampler_steps=20,
            scheduler="dpm-solver++",
            painter_dtype="fp16",
        ),
        clip="openai/clip-vit-base-patch32",
        tags=Tags(PUBLIC_DETECTOR, tag_threshold=0.5),  # its scores lie lower than DETR's, see open_detector
        keep_images=False,
        decoder=Decoder(768, 4, tag_heads=8, batch_size=128, epochs=10, lr=1e-5, warmup_steps=1000),
        photos=CaptionedPhotos(),
        unit_size=300,
    ),
}


def shown(config: SynticConfig) -> DecoderInputConfig:
    """What SynTIC's decoder learns from and is asked about."""
    from reverie.learn.syntic import METHODS

    project = config.project
    return replace(
        METHODS["syntic"],
        temperature=project.projection_temperature,
        top_k=project.top_k,
        exclude_self=project.exclude_self,
        tags="attention" if config.tags.finder else "none",
    )


def learning(config: SynticConfig, shows: DecoderInputConfig) -> TrainCaptioner:
    """The training of a decoder that is shown this, under the first seed."""
    from reverie.learn.train_captioner import TrainCaptioner
    from reverie.nets.captioner import DecoderShape

    own, tags = config.decoder, config.tags
    shape = DecoderShape(own.width, own.layers, max_tokens=own.max_tokens, tag_heads=own.tag_heads)
    return TrainCaptioner(
        config.support_steps[-1], "refine", config.clip, tags.finder, tags.tag_threshold, tags.max_tags, shows, shape,
        own.label_smoothing, own.epochs, None, own.batch_size, own.lr, own.warmup_steps, config.where, config.texts,
        precision=config.precision,
    )  # fmt: skip


def arms(config: SynticConfig = TINY) -> dict[Arm, TrainCaptioner]:
    """What is trained beside what, under the first seed."""
    from reverie.learn.syntic import METHODS

    shows = shown(config)
    found: dict[Arm, DecoderInputConfig] = {Arm("syntic", "SynTIC", factors={"method": "syntic"}): shows}
    if config.parts:
        found |= {
            _without("refinement"): replace(shows, learns_from="painted"),
            _without("projection"): replace(shows, learns_projected=False, asked_projected=False),
        }
        if config.tags.finder is not None:
            found[_without("tags")] = replace(shows, tags="none")
        found |= {
            Arm(f"{kind}-features", f"{kind} features", factors={"method": kind}): METHODS[kind]
            for kind in ("painted", "text")
        }
    found |= {Arm(name, RIVALS[name], factors={"method": name}): METHODS[name] for name in config.rivals}
    return {arm: learning(config, each) for arm, each in found.items()}


def _without(part: str) -> Arm:
    return Arm(f"without-{part}", f"without {part}", factors={"method": "syntic", "without": part})


def syntic(config: SynticConfig = TINY, arms_: Mapping[Arm, TrainCaptioner] | None = None) -> Plan:
    """Sentences -> painted images -> features, refined and projected -> a captioner for photos, beside others -> a page.

    Example: reverie run syntic --captions sentences.txt --out runs/mine

    Args:
        arms_: what is trained, in place of ``arms(config)``.
    """
    from reverie.report.page import WritePage

    made = painted(config)
    learned = arms(config) if arms_ is None else arms_
    training = trained(config, learned)
    others = other_supports(config)
    steps = [*made, *training.values(), *others]
    last = tuple(step.name for step in training.values())
    if config.photos.eval_data:
        projects = {arm.id for arm, train in learned.items() if train.shows.asked_projected}
        again = asked_with(config, others, [arm for arm in training if arm.id in projects])
        inputs = (*last, *(step.name for step in others))
        steps.append(Step("measure", config.photos.stage([*training, *again]), inputs=inputs))
        steps.append(Step("alignment", alignment(config), inputs=("support", "refine", *config.support_steps[1:])))
        last = ("measure", "alignment")
    return Plan(
        recipe="syntic",
        seed=config.seed,
        unit_size=config.unit_size,
        arguments=flat(config),
        steps=(*steps, Step("page", WritePage(), inputs=last)),
    )


def painted(config: SynticConfig, captions: ReadCorpus | FromScenes | None = None) -> tuple[Step, ...]:
    """Sentences, their painted features, support sets, and the refinement.

    Args:
        captions: the stage that gives sentences, in place of that of the settings.
    """
    from reverie.images.features import PaintFeatures
    from reverie.learn.make_support_set import MakeSupport
    from reverie.learn.refine import RefineFeatures

    config.check()
    first = captions or source(config)
    project, tags = config.project, config.tags
    support = [Step("support", MakeSupport(config.clip), inputs=("captions",))]
    if project.max_support:
        drawn = MakeSupport(config.clip, max_sentences=project.max_support)
        support.append(Step(config.support_steps[-1], drawn, inputs=("captions",)))
    images = PaintFeatures(
        config.paint.stage(), config.clip, tags.finder, tags.tag_threshold, tags.max_tags, config.keep_images
    )
    refine = config.refine.stage(project.projection_temperature, config.seed, project.exclude_self != "none")
    return (
        Step("captions", first),
        Step("paint", images, inputs=("captions",)),
        *support,
        Step("refine", RefineFeatures("support", refine, config.where), inputs=("paint", "support")),
    )


def source(config: SynticConfig) -> ReadCorpus | FromScenes:
    """The stage that gives sentences. Raises InputError for those that cannot be learned from."""
    from reverie.captions.scenes import FromScenes
    from reverie.datasets.captioned import load_captioned
    from reverie.evaluate.captioning import refuse_test_captions
    from reverie.learn.make_support_set import sentences_in

    captions = config.file.captions
    first: ReadCorpus | FromScenes
    if captions is not None:
        if config.sentences:
            raise InputError("give --captions or --sentences, not both")
        corpus = config.file.stage(split=config.captions_split)
        assert corpus is not None
        if config.captions_split is None and set(corpus.splits) - {"train", "restval"}:
            raise InputError(
                f"{captions} holds {', '.join(corpus.splits)}; say what to learn from: --captions-split train"
            )
        _refuse_strangers(config.paint.painter, corpus)
        if config.photos.eval_data:
            photos = load_captioned(*config.photos.source)
            refuse_test_captions(sentences_in(corpus, config.seed), photos)
        first = corpus
    else:
        config.file.stage(split=config.captions_split)
        if not config.sentences or not config.paint.is_builtin:
            raise InputError("give sentences to learn from: --captions FILE")
        first = FromScenes(config.sentences)
    if first.count < 2:
        raise InputError(f"{captions or 'the corpus'} gives one sentence; a captioner needs two different ones or more")
    return first


def trained(config: SynticConfig, arms_: Mapping[Arm, TrainCaptioner]) -> dict[Arm, Step]:
    """The steps that train these arms, each arm once with each seed."""
    of = ("paint", "support", "refine", *config.support_steps[1:])
    return {
        arm: Step(arm.step or MAIN, replace(train, seed=arm.seed), inputs=of)
        for arm, train in under_seeds(arms_, config.seeds, MAIN)
    }


def other_supports(config: SynticConfig) -> list[Step]:
    """The steps that make support sets of other sentences. Raises InputError for those that photos cannot be measured with."""
    from reverie.captions.corpus import ReadCorpus
    from reverie.datasets.captioned import load_captioned
    from reverie.evaluate.captioning import refuse_test_captions
    from reverie.learn.make_support_set import MakeSupport, sentences_in
    from reverie.models.support_set import ABOUT, SENTENCES

    given, split = config.other.support, config.other.support_split
    if split and not given:
        raise InputError("--support-split belongs to a file of --support")
    if given and not config.photos.eval_data:
        raise InputError("--support is what photos are said in and measured; name some: --eval-data")
    steps = []
    for path in given:
        if (path / ABOUT).is_file():  # its sentences, all of them, by the encoder of this run
            corpus = ReadCorpus(path / SENTENCES, distinct=False, max_chars=10_000, max_words=10_000)
        else:
            corpus = ReadCorpus(path, split=split)
            if split is None and set(corpus.splits) - {"train", "restval"}:
                raise InputError(
                    f"{path} holds {', '.join(corpus.splits)}; say what to say photos in: --support-split train"
                )
        photos = load_captioned(*config.photos.source)
        refuse_test_captions(sentences_in(corpus, config.seed), photos)
        steps.append(Step(_other(path), MakeSupport(config.clip, corpus, config.project.max_support)))
        if any(step.name == steps[-1].name for step in steps[:-1]):
            raise InputError(f"--support names {path.name} twice, or two files that are called so; give each once")
    return steps


def asked_with(config: SynticConfig, others: list[Step], asked: Iterable[Arm]) -> list[Arm]:
    """The same captioners, asked in terms of each other support set."""
    return [
        replace(
            arm,
            id=f"{arm.id}-{step.name}",
            label=f"{arm.label}, support {path.name}",
            factors={**arm.factors, "support": step.name},
        )
        for path, step in zip(config.other.support, others, strict=True)
        for arm in asked
    ]


def _other(path: Path) -> str:
    return f"other-{re.sub(r'[^a-z0-9]+', '-', path.stem.lower()).strip('-') or 'support'}"


def alignment(config: SynticConfig, **more: Any) -> MeasureAlignment:
    """The stage that says how near painted features are to those of photos.

    Args:
        more: other fields of it.
    """
    from reverie.evaluate.alignment import MeasureAlignment

    project = config.project
    return MeasureAlignment(
        config.support_steps[-1],
        "refine",
        project.projection_temperature,
        config.clip,
        *config.photos.source,
        config.where,
        top_k=project.top_k,
        exclude_self=project.exclude_self,
        texts=config.texts,
        **more,
    )


def _refuse_strangers(painter: str, corpus: ReadCorpus) -> None:
    """Raises InputError where a builtin painter is asked for what it has never seen: its pictures would show nothing of it."""
    from reverie.smallworld.describe import vocabulary

    if not knows_smallworld_alone(painter):
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
