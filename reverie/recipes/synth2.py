"""A captioner from few human pairs and captions that a language model writes, whose images stay tokens and never become pixels.

    Sharifzadeh et al., Synth²: Boosting Visual-Language Models with Synthetic Captions and Image Embeddings, arXiv:2403.07750

    reverie import photos.json --images photos --out runs/pairs
    reverie run synth2 --classes classes.txt --pairs runs/pairs --writer OWNER/MODEL --out runs/mine
    reverie caption runs/mine photo.jpg

No code was published with the paper; docs/recipes/synth2.md says what is its, and what is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.arms import Arm, Factor, under_seeds
from reverie.errors import InputError
from reverie.ranges import check_min
from reverie.recaption.mix import Mix
from reverie.recipes.options import (
    BUILTIN,
    BUILTIN_TOKENS,
    CaptionedPhotos,
    Precision,
    Scale,
    refuse_idle,
    refuse_twins,
)
from reverie.run.plan import Plan, Step
from reverie.settings import flat
from reverie.stage import OF_STEP

if TYPE_CHECKING:
    from reverie.captions.llm import AskWriter
    from reverie.images.tokens import PaintTokens
    from reverie.learn.train_token_captioner import TrainTokenCaptioner
    from reverie.learn.train_token_painter import TrainTokenPainter
    from reverie.nets.token_captioner import LookShape
    from reverie.stage import SourceStage

MAIN = "captioner"  # the arm that reverie caption asks: of the share nearest to a half, with the first seed
FIRST = "human-first"  # the captioner of human pairs that a fine-tuning begins at
SMALLWORLD = "smallworld:"
TRAIN = "train"  # in place of a model's name: one that the run trains
FREELY = "Write the caption of a photo, at most twenty words and nothing else."  # the ablation's prompt
AMUSED = "amused/amused-256"


@dataclass(frozen=True)
class HumanPairs:
    """Pairs of photos and captions that people made."""

    # human pairs to learn from: a folder that reverie import made, or smallworld:CAMERA:NUMBER, drawn for the run, perhaps with :known, so
    # that no thing is of a held class
    pairs: str = "smallworld:street:256"
    pairs_where: str = ""  # which of the human pairs, in SQL over their columns; all when empty
    human_pairs: int = 0  # number of human pairs to take, the same ones in every run; 0 = all
    # captions that are read, with their shares: alt (the stored text), short and long (as reverie recaption writes them), or columns, such
    # as short=0.5 long=0.5; at each visit of a pair one is drawn; the stored text when absent
    mix: tuple[str, ...] = ()

    @property
    def is_smallworld(self) -> bool:
        """Whether they are drawn, and not a person's own."""
        return self.pairs.startswith(SMALLWORLD)

    @property
    def captions(self) -> Mix | None:
        """Which caption of a pair is read; None: its own text. Raises InputError."""
        if self.mix and self.is_smallworld:
            raise InputError("--mix reads captions that stand beside the text of --pairs; give a folder that has them")
        return Mix.read(self.mix) if self.mix else None

    @property
    def store(self) -> Path | str:
        """The folder, or the step that draws them."""
        return "photos" if self.is_smallworld else Path(self.pairs)


@dataclass(frozen=True)
class Asking:
    """How captions are written."""

    classes: Path | None = None  # file of class names, one a line; the classes of the small world when absent
    # language model that writes captions from class names: builtin:writer, a Hub id, a folder, or openai:MODEL@URL
    writer: str = "builtin:writer"
    per_class: int = 8  # captions for each class, where they are written from class names
    # what a language model is asked about: classes, or nothing, which writes as many captions from one prompt (an ablation)
    ask_about: Literal["classes", "nothing"] = "classes"
    # file of what a language model is asked, one a line, with {class}, {gloss} and {extra} in it; in turns; what suits the model when absent
    ask_templates: Path | None = None
    # JSON file that gives for a class name what it means, or wordnet, for names that mean several things; none when absent
    glosses: str | None = None
    # JSON file that gives for a class name the words that name the class too; for captions that must name their class
    synonyms: Path | None = None
    second_class: float = 0.25  # share of captions that are asked to hold a second class, in [0, 1]
    scene: float = 0.25  # share of captions that are asked to be somewhere, in [0, 1]
    # how captions are shared out to classes: uniform, all to one class in ten, or the more the earlier a class stands in the list
    balance: Literal["uniform", "one-in-ten", "frequency"] = "uniform"
    temperature: float = 1.0  # temperature of the writer's sampling; 0 takes the likeliest words
    min_words: int = 5  # shortest caption of the writer, in words
    max_words: int = 50  # longest caption of the writer, in words
    # share of two captions that is alike from which the second is dropped, in (0, 1]; 1 = equal ones only
    near_duplicate: float = 0.8

    def stage(self) -> AskWriter:
        """The stage that asks. Raises InputError for a list of classes, or a writer, that cannot be used."""
        from reverie.captions.class_captions import AskAboutClasses, AskFreely
        from reverie.captions.classes import read_classes
        from reverie.smallworld.scene import class_names

        check_min(1, per_class=self.per_class)
        names = read_classes(self.classes) if self.classes else class_names()
        if self.writer.startswith(BUILTIN) and (
            strange := next((name for name in names if name not in class_names()), "")
        ):
            raise InputError(
                f"{self.writer} writes about the small world only and does not know {strange!r}; name a language model that knows your classes: "
                "--writer NAME"
            )
        shared: dict[str, Any] = {
            "temperature": self.temperature,
            "min_words": self.min_words,
            "max_words": self.max_words,
        }
        if self.ask_about == "nothing":
            if self.writer.startswith(BUILTIN):
                raise InputError(
                    f"{self.writer} only writes about a class it is given; name another --writer, or leave out --ask-about"
                )
            return AskFreely(self.writer, (), self.per_class * len(names), FREELY, **shared)
        about = AskAboutClasses(
            self.writer,
            self.classes or names,
            self.per_class,
            templates=self.ask_templates or (),
            glosses=self.glosses if self.glosses == "wordnet" else Path(self.glosses) if self.glosses else "",
            synonyms=self.synonyms,
            second=self.second_class,
            scene=self.scene,
            balance=self.balance,
            **shared,
        )
        if about.count < 1:  # reads the files: what is wrong with them is said before any work
            raise InputError(f"{self.classes} gives no captions")
        return about


@dataclass(frozen=True)
class ImageTokens:
    """How pictures become tokens."""

    # tokenizer of images: a VQModel or a pipeline that has one, by builtin:NAME, folder or Hub id; train: one is trained on the pictures of
    # the pairs; auto: that of a painter that is named, else builtin:tokenizer for the small world where the package has it, else train
    tokenizer: str = "auto"
    token_px: int = 64  # side in pixels of the pictures that tokens stand for
    codes: int = 256  # codes of a tokenizer that is trained
    # channels of a tokenizer that is trained, one number a resolution, finest first; each but the first halves the side
    tokenizer_channels: tuple[int, ...] = (8, 16, 32, 64)
    tokenizer_steps: int = 400  # optimiser steps of a tokenizer that is trained
    tokenizer_batch: int = 8  # images in a step of training a tokenizer


@dataclass(frozen=True)
class TokenPainting:
    """How captions become tokens."""

    # painter of image tokens: an aMUSEd pipeline by builtin:NAME, folder or Hub id; train: one is trained on the human pairs, which makes a
    # run controlled, as no other painter does but one of the same pairs
    token_painter: str = TRAIN
    painter_width: int = 96  # width of a token painter that is trained; that of its convolutions is half as much
    painter_layers: int = 3  # layers of a token painter that is trained
    painter_steps: int = 400  # optimiser steps of a token painter that is trained
    painter_batch: int = 16  # examples in a step of training a token painter
    caption_drop: float = 0.1  # share of captions that are replaced by the empty one, for guidance
    per_caption: int = 1  # images painted of each caption
    guidance: float = 3.0  # classifier-free guidance, 1 = none; s in l_u + s (l_c - l_u) over the logits of ids
    sampler_steps: int = 8  # sampling steps of an image; from all places masked, each fills some
    painter_dtype: Precision = "fp32"  # number format that the painter computes in; fp16 needs a GPU
    paint_batch: int = 64  # images painted together; changes the speed only


@dataclass(frozen=True)
class Words:
    """The language model of captioners, which stays as it is."""

    # language model that captioners say words with, and that does not learn: any causal one by builtin:NAME, folder or Hub id; train: a small
    # one is trained on the captions of the run and of the human pairs
    language_model: str = TRAIN
    language_width: int = 96  # width of a language model that is trained
    language_layers: int = 2  # layers of a language model that is trained
    language_steps: int = 300  # optimiser steps of a language model that is trained


@dataclass(frozen=True)
class Looking:
    """What learns to look at tokens, and how it is trained."""

    # how a language model is shown images: gated cross-attention between its layers, or a prefix of soft words
    look: Literal["gated", "prefix"] = "gated"
    look_width: int = 96  # width of the resampler
    look_layers: int = 2  # layers of the resampler
    look_heads: int = 4  # attention heads of the resampler and of gated cross-attention
    latents: int = 16  # vectors that the resampler makes of an image
    max_tokens: int = 30  # largest number of tokens of a sentence, the end token included
    batch_size: int = 32  # examples in a step of training
    train_steps: int = 200  # optimiser steps of training; the same for every share
    lr: float = 1e-3  # peak learning rate
    warmup_steps: int = 20  # steps in which the learning rate rises

    @property
    def shape(self) -> LookShape:
        """Of the network."""
        from reverie.nets.token_captioner import LookShape

        return LookShape(
            self.look, self.look_width, self.latents, self.look_layers, self.look_heads, max_tokens=self.max_tokens
        )


@dataclass(frozen=True)
class Synth2Config:
    """Settings of a captioner from few human pairs and painted tokens."""

    # preset of settings that are not given; tiny runs on a CPU in minutes, paper takes public models, as the paper's sizes and steps are not known
    scale: Scale = "tiny"

    human: HumanPairs = HumanPairs()
    ask: Asking = Asking()
    images: ImageTokens = ImageTokens()
    paint: TokenPainting = TokenPainting()
    words: Words = Words()
    looking: Looking = Looking()
    # shares of painted pairs in a batch (rho), one arm each, in [0, 1]; 0, human pairs alone, is always among them
    rho: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    # painted pairs beside human ones from the start, or after a training on human ones alone
    mode: Literal["augment", "finetune"] = "augment"
    # share of the steps of training that --mode finetune spends on human pairs alone, in (0, 1)
    human_first: float = 0.5
    # how captioners get images: as tokens, or as pixels, which are decoded, stored, read and encoded again (a control)
    path: Literal["tokens", "pixels"] = "tokens"
    # for each share, one more arm of human pairs alone that sees as many of them: at equal steps a mixture sees fewer
    exposures: bool = True
    # refuse a run whose painter did not learn from the very human pairs that captioners learn from
    require_control: bool = False
    seeds: tuple[int, ...] = (0,)  # random seeds of training; every arm is trained once with each
    photos: CaptionedPhotos = CaptionedPhotos("smallworld:street:200", meteor=False)
    precision: Precision = "fp32"  # number format of training
    cost_steps: int = 10  # steps that either way, image tokens and pictures, is timed for; 0 = not at all
    unit_size: int = 64  # captions in one commit
    seed: int = 0  # random seed of the run; each training has one of its own

    def following(self, usual: Synth2Config) -> dict[str, object]:
        """The small world's photos are measured on only where the pairs are its own; the builtin painter paints as it does elsewhere."""
        builtin = self.paint.token_painter == BUILTIN_TOKENS.painter
        return {
            "eval_data": usual.photos.eval_data if self.human.is_smallworld else None,
            "guidance": BUILTIN_TOKENS.guidance if builtin else usual.paint.guidance,
            "sampler_steps": BUILTIN_TOKENS.sampler_steps if builtin else usual.paint.sampler_steps,
        }

    @property
    def shares(self) -> tuple[float, ...]:
        """All shares of painted pairs, in order."""
        return tuple(sorted({0.0, *self.rho}))

    @property
    def main_share(self) -> float:
        """The share that stands for the recipe: of those with painted pairs the one nearest to a half, of two the smaller one."""
        return min((share for share in self.shares if share), key=lambda share: (abs(share - 0.5), share))

    @property
    def tokenizer(self) -> str:
        """The tokenizer as stages name it."""
        from reverie.models.names import builtin_names

        named, painter = self.images.tokenizer, self.paint.token_painter
        if named == "auto":
            shipped = self.human.is_smallworld and "tokenizer" in builtin_names() and self.images.token_px == 64
            named = painter if painter != TRAIN else "builtin:tokenizer" if shipped else TRAIN
        return f"{OF_STEP}tokenizer" if named == TRAIN else named

    @property
    def painter(self) -> str:
        """The painter as stages name it."""
        return f"{OF_STEP}painter" if self.paint.token_painter == TRAIN else self.paint.token_painter

    @property
    def language_model(self) -> str:
        """The language model as stages name it."""
        return f"{OF_STEP}language" if self.words.language_model == TRAIN else self.words.language_model

    @property
    def models(self) -> tuple[str, ...]:
        """Steps that train models which captioners need, in order."""
        named = (self.tokenizer, self.painter, self.language_model)
        return tuple(name.removeprefix(OF_STEP) for name in named if name.startswith(OF_STEP))

    def check(self) -> None:
        """Raises InputError for settings that do not go together, or say nothing; ModelError for a painter with a damaged manifest."""
        from reverie.learn.manifest import read_manifest

        refuse_twins("--seeds", self.seeds)
        refuse_twins("--rho", [f"{share:g}" for share in self.rho])  # as arms are named
        _ = self.human.captions
        for share in self.rho:
            if not 0 <= share <= 1:
                raise InputError(f"--rho {share:g} is the share of painted pairs in a batch, from 0 to 1")
        if self.shares == (0.0,):
            raise InputError("--rho 0 alone paints nothing; give a share of painted pairs as well, such as 0.5")
        examples = self.looking.train_steps * self.looking.batch_size
        if unseen := next((share for share in self.rho if 0 < share * examples < 1), None):
            raise InputError(
                f"--rho {unseen:g} of the {examples:,} examples of a training (--train-steps, --batch-size) is no painted pair; give a larger share"
            )
        if not 0 < self.human_first < 1:
            raise InputError(f"--human-first {self.human_first:g} is a share of the steps, above 0 and below 1")
        if self.mode == "finetune" and first_steps(self) >= self.looking.train_steps:
            raise InputError(
                f"--train-steps {self.looking.train_steps} leaves no step after the {first_steps(self)} on human pairs alone (--human-first "
                f"{self.human_first:g}); give more steps, or a smaller share"
            )
        if not 1 <= self.paint.sampler_steps <= 1000:
            raise InputError(f"--sampler-steps {self.paint.sampler_steps}: steps must be from 1 to 1000")
        check_min(0, cost_steps=self.cost_steps)
        check_min(
            1,
            token_px=self.images.token_px,
            codes=self.images.codes,
            tokenizer_channels=self.images.tokenizer_channels,
            tokenizer_batch=self.images.tokenizer_batch,
            painter_width=self.paint.painter_width,
            painter_layers=self.paint.painter_layers,
            painter_batch=self.paint.painter_batch,
            per_caption=self.paint.per_caption,
            paint_batch=self.paint.paint_batch,
            language_width=self.words.language_width,
            language_layers=self.words.language_layers,
            look_width=self.looking.look_width,
            look_layers=self.looking.look_layers,
            look_heads=self.looking.look_heads,
            latents=self.looking.latents,
            max_tokens=self.looking.max_tokens,
            beams=self.photos.beams,
        )
        if not self.human.pairs:
            raise InputError("give the human pairs to learn from, as reverie import makes them: --pairs FOLDER")
        if self.images.tokenizer == TRAIN and self.paint.token_painter != TRAIN:
            raise InputError(
                f"{self.paint.token_painter} paints tokens of its own codebook, and a tokenizer that is trained here has another; leave out "
                "--tokenizer, or --token-painter"
            )
        refuse_idle(
            self,
            SCALES[self.scale],
            (("codes", "tokenizer_channels", "tokenizer_steps", "tokenizer_batch"), "tokenizer" in self.models, "--tokenizer train"),
            (("painter_width", "painter_layers", "painter_steps", "caption_drop"), "painter" in self.models, "--token-painter train"),
            (("language_width", "language_layers", "language_steps"), "language" in self.models, "--language-model train"),
            (("human_first",), self.mode == "finetune", "--mode finetune"),
            (
                ("ask_templates", "glosses", "synonyms", "second_class", "scene", "balance"),
                self.ask.ask_about == "classes",
                "--ask-about classes",
            ),
            # The one template of a builtin writer, which it learned, has no place for these.
            (
                ("glosses", "second_class", "scene"),
                not self.ask.writer.startswith(BUILTIN) or self.ask.ask_templates is not None,
                "a --writer that is not builtin",
            ),
        )  # fmt: skip
        each = 2 ** (len(self.images.tokenizer_channels) - 1)
        if self.tokenizer.startswith(OF_STEP) and self.images.token_px % each:
            raise InputError(
                f"--token-px {self.images.token_px} does not divide into ids of {each} px, which --tokenizer-channels make; use a multiple"
            )
        if wrong := next((number for number in self.images.tokenizer_channels if number % 8), None):
            raise InputError(f"--tokenizer-channels {wrong} must divide by 8, for its groups")
        if self.paint.painter_width % 12:
            raise InputError(f"--painter-width {self.paint.painter_width} must divide by 12, for its heads")
        if self.words.language_width % 4:
            raise InputError(f"--language-width {self.words.language_width} must divide by 4, for its heads")
        if (
            self.require_control
            and self.paint.token_painter != TRAIN
            and read_manifest(self.paint.token_painter) is None
        ):
            raise InputError(
                f"{self.paint.token_painter} does not say which pairs it learned from, so no run with it is controlled; leave out --token-painter, "
                "or --require-control"
            )


TINY = Synth2Config()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        human=HumanPairs("smallworld:street:1000"),
        ask=Asking(per_class=100),
        images=ImageTokens(codes=512, tokenizer_channels=(16, 24, 48, 96), tokenizer_steps=6000, tokenizer_batch=16),
        paint=TokenPainting(painter_width=192, painter_layers=4, painter_steps=8000, painter_batch=64),
        words=Words(language_width=128, language_layers=3, language_steps=2000),
        looking=Looking(look_width=128, batch_size=64, train_steps=4000, lr=5e-4, warmup_steps=200),
        seeds=(0, 1, 2),
        photos=replace(TINY.photos, eval_data="smallworld:street:2000"),
        cost_steps=100,
        unit_size=256,
    ),
    "paper": replace(
        TINY,
        scale="paper",
        human=HumanPairs(""),
        ask=Asking(writer="HuggingFaceTB/SmolLM2-1.7B-Instruct", per_class=48),
        images=ImageTokens(token_px=256, tokenizer_channels=(16, 24, 48, 96), tokenizer_batch=16),
        paint=TokenPainting(AMUSED, guidance=10.0, sampler_steps=12, painter_dtype="fp16"),
        words=Words("HuggingFaceTB/SmolLM2-360M"),
        looking=Looking(
            look_width=1024,
            look_layers=6,
            look_heads=16,
            latents=64,
            batch_size=128,
            train_steps=100_000,
            lr=1e-4,
            warmup_steps=1000,
        ),
        photos=replace(TINY.photos, eval_data=None),
        cost_steps=100,
        unit_size=300,
    ),
}


def synth2(config: Synth2Config = TINY, arms_: Mapping[Arm, TrainTokenCaptioner] | None = None) -> Plan:
    """Class names -> captions -> image tokens -> captioners from them and few human pairs, beside human pairs alone -> a page.

    Example: reverie run synth2 --classes classes.txt --pairs runs/pairs --out runs/mine

    Args:
        arms_: what is trained, in place of ``arms(config)``.
    """
    from reverie.evaluate.diversity import MeasureDiversity
    from reverie.report.page import WritePage

    made = (*human_pairs(config), *painted(config))
    first = beginnings(config)
    learned = arms(config) if arms_ is None else arms_
    training = trained(config, learned)
    steps = [*made, *words(config), *first.values(), *training.values()]
    last = tuple(step.name for step in training.values())
    if config.photos.eval_data:
        asked = [*training, *(arm for arm in first if config.exposures)]
        steps.append(
            Step("measure", config.photos.stage(asked), inputs=(*last, *(step.name for step in first.values())))
        )
        last = ("measure",)
    steps.append(Step("diversity", MeasureDiversity("human", mix=config.human.captions), inputs=("human", "clean")))
    last = (*last, "diversity")
    if config.cost_steps:
        steps.append(cost(config))
        last = (*last, "cost")
    control = "painter and captioners learn from the same human pairs"
    if config.paint.token_painter != TRAIN:
        control = f"uncontrolled, unless {config.paint.token_painter} learned from the same human pairs"
    return Plan(
        recipe="synth2",
        seed=config.seed,
        unit_size=config.unit_size,
        arguments=flat(config),
        steps=(*steps, Step("page", WritePage(), inputs=last)),
        notes=(control,),
    )


def human_pairs(config: Synth2Config) -> tuple[Step, ...]:
    """Human pairs, and what turns them into tokens. Raises InputError for settings or pairs that cannot be used."""
    from reverie.datasets.captioned import smallworld_source
    from reverie.learn.fit import Fit
    from reverie.learn.human_pairs import DrawPairs, TokenizePairs
    from reverie.learn.train import Train
    from reverie.learn.vq import Quantiser

    config.check()
    human, images = config.human, config.images
    shown = "status = 'ok' and image is not null" + (f" and ({human.pairs_where})" if human.pairs_where else "")
    steps: list[Step] = []
    if human.is_smallworld:
        camera, count, which = smallworld_source(human.pairs)
        steps.append(Step("photos", DrawPairs(count, camera, which)))  # type: ignore[arg-type]
    tokens = TokenizePairs(
        human.store,
        config.tokenizer,
        images.token_px,
        human.pairs_where,
        human.human_pairs,
        config.path == "pixels",
        config.photos.eval_data or "",
        config.photos.eval_images,
        config.photos.eval_split,
        human.captions,
        config.paint.token_painter if config.require_control and config.paint.token_painter != TRAIN else "",
    )
    tokens.check_pairs()  # what is wrong with pairs is said before any work
    if "tokenizer" in config.models:
        if isinstance(human.store, Path):
            from reverie.store import tables

            if not tables.count(human.store / "pairs.lance", shown):
                raise InputError(
                    f"{human.store} has no pictures to train a tokenizer on; name the one that its tokens are of: --tokenizer NAME"
                )
            if tokens.test_photos:  # photos that are drawn for the run are none of them
                steps.append(Step("unseen", tokens.look()))
        quantiser = Quantiser(channels=images.tokenizer_channels, codes=images.codes, image_size=images.token_px)
        fit = Fit(
            images.tokenizer_steps,
            2e-3,
            min(50, images.tokenizer_steps // 10),
            weight_decay=0.01,
            betas=(0.9, 0.99),
            clip=1.0,
            precision=config.precision,
        )
        learn = Train(
            quantiser,
            fit,
            images.tokenizer_batch,
            1,
            images.token_px,
            shown,
            human.store,
            group="random",
        )
        steps.append(Step("tokenizer", learn, inputs=tuple(step.name for step in steps)))
    return (*steps, Step("human", tokens, inputs=tuple(step.name for step in steps)))


def painted(config: Synth2Config, source: SourceStage | None = None) -> tuple[Step, ...]:
    """Captions, cleaned, and their images as tokens.

    Args:
        source: the stage that gives captions, in place of that of the settings.
    """
    from reverie.filters.captions import CleanCaptions

    photos = config.photos
    # The small world has so few sentences that chance gives most of them.
    own = photos.eval_data if photos.eval_data and not photos.eval_data.startswith(SMALLWORLD) else ""
    clean = CleanCaptions(config.ask.near_duplicate, own, photos.eval_images if own else None, photos.eval_split)
    steps = [Step("captions", source or config.ask.stage()), Step("clean", clean, inputs=("captions",))]
    inputs = ["captions", "clean"]
    if "tokenizer" in config.models:
        inputs.append("tokenizer")
    if "painter" in config.models:
        steps.append(Step("painter", painter(config), inputs=("human", *inputs[2:])))
        inputs.append("painter")
    return (*steps, Step("paint", token_stage(config), inputs=tuple(inputs)))


def painter(config: Synth2Config) -> TrainTokenPainter:
    """The stage that trains a token painter on the human pairs."""
    from reverie.learn.fit import Fit
    from reverie.learn.train_token_painter import TrainTokenPainter

    own = config.paint
    return TrainTokenPainter(
        config.tokenizer,
        "human",
        width=own.painter_width,
        layers=own.painter_layers,
        heads=6 if own.painter_width >= 192 else 3,
        conv_width=own.painter_width // 2,
        conv_heads=3,
        caption_drop=own.caption_drop,
        fit=Fit(
            own.painter_steps,
            1e-3,
            min(200, own.painter_steps // 10),
            weight_decay=0.03,
            betas=(0.9, 0.99),
            clip=1.0,
            precision=config.precision,
        ),
        batch=own.painter_batch,
        mix=config.human.captions,
    )


def token_stage(config: Synth2Config) -> PaintTokens:
    """The stage that paints."""
    from reverie.images.pixels import PaintSpeed
    from reverie.images.tokens import PaintTokens

    own = config.paint
    return PaintTokens(
        config.painter,
        own.per_caption,
        own.guidance,
        own.sampler_steps,
        tokenizer=config.tokenizer,
        size_px=config.images.token_px,
        dtype=own.painter_dtype,
        keep_images=config.path == "pixels",
        speed=PaintSpeed(own.paint_batch),
    )


def words(config: Synth2Config) -> tuple[Step, ...]:
    """The step that trains the language model of captioners, where none is named."""
    from reverie.learn.fit import Fit
    from reverie.learn.train_language import TrainLanguageModel

    if "language" not in config.models:
        return ()
    own, looking = config.words, config.looking
    room = looking.max_tokens + looking.latents + 8  # with soft words before the sentence
    warmup, precision = min(50, own.language_steps // 10), config.precision
    fit = Fit(own.language_steps, 2e-3, warmup, weight_decay=0.01, clip=1.0, precision=precision)
    size = (own.language_width, own.language_layers, 4, max(64, room))
    stage = TrainLanguageModel("human", *size, fit, mix=config.human.captions)
    return (Step("language", stage, inputs=("human", "clean")),)


def learning(config: Synth2Config, rho: float, steps: int, start: str | None = None) -> TrainTokenCaptioner:
    """The training of a captioner, under the first seed."""
    from reverie.learn.train_token_captioner import TrainTokenCaptioner

    own = config.looking
    return TrainTokenCaptioner(
        config.language_model,
        config.tokenizer,
        "human",
        rho=rho,
        start=start,
        path=config.path,
        size_px=config.images.token_px,
        shape=own.shape,
        steps=steps,
        batch=own.batch_size,
        lr=own.lr,
        warmup_steps=min(own.warmup_steps, steps // 4),
        precision=config.precision,
        painter=config.painter,
        controlled=config.require_control,
        mix=config.human.captions,
    )


def arms(config: Synth2Config = TINY) -> dict[Arm, TrainTokenCaptioner]:
    """What is trained beside what, under the first seed: the main share, human pairs alone, and the other shares.

    At equal steps a mixture sees fewer human pairs, so each share has a rival beside it that sees human pairs alone, and as many of them.
    """
    finetune = config.mode == "finetune"
    total = config.looking.train_steps
    steps = total - first_steps(config) if finetune else total
    start = FIRST if finetune else None

    def equal(share: float) -> dict[Arm, TrainTokenCaptioner]:
        left = round((1 - share) * steps)
        if not config.exposures or not 0 < share < 1 or left < 1:
            return {}
        name = f"human-as-{share:g}"
        arm = Arm(name, f"human pairs, as many as at {100 * share:g} %", factors={"rho": 0.0, "exposures_of": share})
        return {arm: learning(config, 0.0, left, start)}

    main = config.main_share
    found = {mixture(main): learning(config, main, steps, start)}
    human = Arm("human", "human pairs alone", factors={"rho": 0.0})
    found |= {human: learning(config, 0.0, steps, start)} | equal(main)
    for share in config.shares:
        if share not in (0.0, main):
            found |= {mixture(share): learning(config, share, steps, start)} | equal(share)
    return found


def first_steps(config: Synth2Config) -> int:
    """Steps on human pairs alone before a fine-tuning."""
    return max(1, round(config.human_first * config.looking.train_steps))


def mixture(share: float, **factors: Factor) -> Arm:
    """The arm of a share of painted pairs, with more factors."""
    return Arm(f"painted-{share:g}", f"{100 * share:g} % painted", factors={"rho": share, **factors})


def beginnings(config: Synth2Config) -> dict[Arm, Step]:
    """The captioners of human pairs that a fine-tuning begins at, one a seed; none without one."""
    if config.mode != "finetune":
        return {}
    arm = Arm(FIRST, "human pairs alone, before fine-tuning", factors={"rho": 0.0, "exposures_of": 1.0})
    stage = learning(config, 0.0, first_steps(config))
    return {
        arm.under(seed): Step(f"{FIRST}-{seed}", replace(stage, seed=seed), inputs=_reads(config))
        for seed in config.seeds
    }


def trained(config: Synth2Config, arms_: Mapping[Arm, TrainTokenCaptioner]) -> dict[Arm, Step]:
    """The steps that train these arms, each arm once with each seed."""
    found = {}
    for arm, train in under_seeds(arms_, config.seeds, MAIN):
        begins = f"{train.start}-{arm.seed}" if train.start else None
        inputs = (*_reads(config), *([begins] if begins else []))
        found[arm] = Step(arm.step or MAIN, replace(train, seed=arm.seed, start=begins), inputs=inputs)
    return found


def _reads(config: Synth2Config) -> tuple[str, ...]:
    return ("human", "paint", *config.models)


def cost(config: Synth2Config, repeats: int = 1) -> Step:
    """The step that times what the painter and a captioner of this run do with image tokens, and with pictures of them."""
    from reverie.evaluate.cost import CostSettings, MeasureCost

    paint = config.paint
    does = CostSettings(
        config.painter,
        config.language_model,
        paint.guidance,
        paint.sampler_steps,
        max(1, paint.painter_batch // 2),
        warm_up=max(1, config.cost_steps // 5),
        timed=config.cost_steps,
        painter_dtype=paint.painter_dtype,
        shape=config.looking.shape,
    )
    return Step("cost", MeasureCost(does, repeats=repeats), inputs=("clean", *config.models))
