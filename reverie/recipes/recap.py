"""A text-to-image model that listens better, from the images it has: recaptioned by a captioner that was tuned on few human captions.

    Segalis, Valevski, Lumen, Matias, Leviathan, A Picture is Worth a Thousand Words: Principled Recaptioning Improves Image Generation,
    arXiv:2310.16656

    reverie import photos/ --out runs/photos                 # images with bad alt-text, or none
    reverie run recap --images runs/photos --human captions.jsonl --captioner OWNER/MODEL --painter OWNER/PIPELINE --out runs/recap

No code was published with the paper, and its training settings are known from secondary sources at best; docs/recipes/recap.md says what is its, and
what is ours.

In the small world the painter is one that learned from alt-text alone, so that it has something to unlearn; another one can be trained on such text first
(``base``). Every arm goes on from it with as many steps, the same images and the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reverie.arms import Arm
from reverie.errors import InputError
from reverie.ranges import check_min
from reverie.recaption.mix import CHANNELS, Mix, has_words
from reverie.recipes.options import BUILTIN, PUBLIC_PAINTER, Painting, Precision, Scale, refuse_twins
from reverie.recipes.text_to_image import FURTHER_LR, LORA_LR
from reverie.run.plan import Plan, Step
from reverie.settings import flat
from reverie.stage import OF_STEP

if TYPE_CHECKING:
    from reverie.evaluate.generation import MeasureGeneration
    from reverie.learn.describe import TuneDescriber
    from reverie.learn.fit import Fit
    from reverie.learn.train_painter import TrainPainter
    from reverie.models.describer import Style

Kind = Literal["base", "alt", "short", "long", "mix"]
MoreKind = Literal["scratch", "two", "again", "several"]
LABELS: Mapping[Kind | MoreKind, str] = {
    "base": "no further training", "alt": "alt-text", "short": "short captions", "long": "long captions", "mix": "mix of captions",
    "scratch": "mix of captions, from random weights", "two": "mix of captions of two captioners", "again": "mix of captions of a second round",
    "several": "several short captions",
}  # fmt: skip
TOLD: tuple[Kind, ...] = ("mix", "long", "short", "alt")  # the first of these that is there is what the page tells of,
CONTROLS: tuple[Kind, ...] = (
    "alt",
    "base",
)  # against the first of these: what is trained as long, so that captions alone differ
SMALLWORLD = "smallworld:"
WITH_TEXT = f"status = 'ok' and {has_words('text')}"
ALT_PAINTER = "builtin:painter-alt"
PUBLIC_CAPTIONER = "Qwen/Qwen2-VL-2B-Instruct"
TUNE_STEPS, TUNE_LORA = 300, 16  # of a public captioner
OTHER, AGAIN = "second", "again"  # ends of the names of steps and columns of another captioner, and of a second round


@dataclass(frozen=True)
class Recaptioning:
    """How images get better captions."""

    # images to recaption: a folder that reverie import made, or smallworld:CAMERA:NUMBER, drawn for the run with alt-text as it is on the web
    images: str = "smallworld:studio:256"
    # file of captions that people wrote, JSON lines with image (or pair_id) and text, which the captioner is tuned on; drawn for images of the
    # small world, and none, so that the captioner is taken as it is, when absent; a run of syntic or synth2 and a server are never tuned
    human_: Annotated[Path | None, tyro.conf.arg(name="human")] = None
    # captioner that says what every image shows, in columns beside its text: builtin:describer, a folder or the Hub id of an image-text-to-text
    # model, openai:MODEL@URL, or a run of syntic, synth2 or recap
    captioner: str | None = "builtin:describer"
    tune_steps: int = 100  # optimiser steps of tuning the captioner
    tune_captions: int = 60  # human captions that are drawn for images of the small world
    held_out: int = 20  # images whose human captions are not learned from and choose the best weights of the captioner
    tune_lora: int = 0  # rank of LoRA of the captioner; 0 = the weights of its language part learn
    # file of names of things, one a line, whose hallucination is counted; those of COCO, or of the small world, when absent
    objects: Path | None = None
    # captioner beside --captioner, whose captions the arm two reads as well; tuned as that one is, where it can be
    second_captioner: str | None = None
    per_image: int = 4  # short captions of an image for the arm several, which draws one at a visit

    @property
    def is_smallworld(self) -> bool:
        """Whether images are drawn, and not a person's own."""
        return self.images.startswith(SMALLWORLD)

    @property
    def store(self) -> Path | str:
        """The folder, or the step that draws them."""
        return "photos" if self.is_smallworld else Path(self.images)

    @property
    def has_texts(self) -> bool:
        """Whether some image has a text of its own; true of images that are not there, which is told elsewhere."""
        from reverie.store import tables

        pairs = Path(self.images) / "pairs.lance"
        if self.is_smallworld or not tables.exists(pairs):
            return True
        return next(iter(tables.scan(pairs, ["pair_id"], WITH_TEXT)), None) is not None

    @property
    def is_tuned(self) -> bool:
        """Whether the captioner learns from people first. One that is not tuned here is taken as it is where nobody gave captions."""
        return self.human_ is not None or (self.is_smallworld and _can_be_tuned(self.captioner or ""))

    @property
    def is_second_tuned(self) -> bool:
        """Whether the second captioner learns from people as the first does."""
        return self.is_tuned and _can_be_tuned(self.second_captioner or "")

    @property
    def styles(self) -> tuple[Style, ...]:
        """What the captioner can be asked for. Raises InputError for none."""
        from reverie.models.describer import styles_of

        if not self.captioner:
            raise InputError("name a captioner: --captioner builtin:describer, or any image-text-to-text model")
        return styles_of(self.captioner)

    @property
    def second_styles(self) -> tuple[Style, ...]:
        """What the second captioner can be asked for."""
        from reverie.models.describer import styles_of

        return styles_of(self.second_captioner or "")


def _can_be_tuned(captioner: str) -> bool:
    from reverie.models.artifacts import has_artifact

    return not (captioner.startswith("openai:") or has_artifact("captioner", Path(captioner)))


@dataclass(frozen=True)
class RecapConfig:
    """Settings of recaptioning, and of the painters that learn from it."""

    scale: Scale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes, paper is as published
    recaption: Recaptioning = Recaptioning()
    paint: Painting = Painting(ALT_PAINTER, per_caption=1)
    # what is trained beside each other; on alt (the stored text), short or long captions, a mix of them (as --mix says), or base, no further
    # training; all, or all but alt where no image has a text, when absent
    arms: tuple[Kind, ...] = ("base", "alt", "short", "long", "mix")
    # what is trained beside --arms on the same images: the mix from random weights (scratch), the mix of two captioners (two), of a second round
    # of tuning and recaptioning (again), or several short captions of an image (several)
    more_arms: tuple[MoreKind, ...] = ()
    # captions that are read, with their shares: alt (the stored text), short and long (as reverie recaption writes them), or columns, such
    # as short=0.5 long=0.5; at each visit of a pair one is drawn
    mix: tuple[str, ...] = ("short=0.5", "long=0.5")
    # optimiser steps that the painter is first trained on alt-text for, before all arms; 0 = the painter is taken as it is
    base_steps: int = 0
    # what of a pipeline learns: its U-Net (or transformer), its text encoders, or both
    train_parts: Literal["unet", "text", "both"] = "both"
    # rank of LoRA, which learns beside the painter's weights and is added to them; 0 = the weights learn
    lora: int = 0
    train_steps: int = 200  # optimiser steps of training
    batch_size: int = 16  # examples in a step of training
    lr: float = 3e-4  # peak learning rate
    text_lr: float | None = None  # peak learning rate of the text encoders; that of --lr when absent
    caption_drop: float = 0.1  # share of captions that are replaced by the empty one, for guidance
    # captions longer than the text encoder reads: left out, or cut there; they are counted
    over_limit: Literal["drop", "cut"] = "drop"
    ema: float = 0.99  # decay of the average of weights that is the result; 0 = the last weights
    precision: Precision = "fp32"  # number format of training
    seeds: tuple[int, ...] = (0,)  # random seeds of training; every arm is trained once with each
    # captions that painters are asked for: smallworld:STYLE:NUMBER, a file of captions, or a run folder, either with :COLUMN; nothing is
    # measured when absent
    prompts: str | None = "smallworld:human:60"
    # pictures that distances are to: smallworld:CAMERA:NUMBER, a run, an import, or a folder; no distances when absent
    real: str | None = "smallworld:studio:60"
    # classifier-free guidances to measure at; that of --guidance when absent
    guidances: tuple[float, ...] = ()
    features: tuple[str, ...] = ("builtin:clip",)  # encoders for Fréchet and kernel distances
    # object detector for presence and counts; judge reads pictures of the small world; none when empty
    observer: str = "judge"
    places: str = "judge"  # encoder of images and texts for places; judge in the small world; none when empty
    seed: int = 0  # random seed of the run; each training has one of its own

    def following(self, usual: RecapConfig) -> dict[str, Any]:
        """A public captioner learns beside its weights, longer; a public painter learns slowly and is not asked about the small world; of images
        without text none learns alt-text.
        """
        own, has_texts = self.paint.is_builtin, self.recaption.has_texts
        further = LORA_LR if self.lora else FURTHER_LR
        tuned = usual.recaption
        is_public = not (self.recaption.captioner or BUILTIN).startswith(BUILTIN)
        return {
            "tune_steps": max(TUNE_STEPS, tuned.tune_steps) if is_public else tuned.tune_steps,
            "tune_lora": TUNE_LORA if is_public else tuned.tune_lora,
            "arms": usual.arms if has_texts else tuple(kind for kind in usual.arms if kind != "alt"),
            "lr": usual.lr if own else further,
            "prompts": usual.prompts if own else None,
            "real": usual.real if own else None,
            "observer": usual.observer if own else "",
            "places": usual.places if own else "",
        }

    def check(self) -> None:
        """Raises InputError for settings that do not go together, or say nothing."""
        refuse_twins("--seeds", self.seeds)
        refuse_twins("--arms", self.arms)
        if self.more_arms:
            refuse_twins("--more-arms", self.more_arms)
        own = self.recaption
        check_min(
            1,
            batch_size=self.batch_size,
            train_steps=self.train_steps,
            held_out=own.held_out,
            tune_steps=own.tune_steps,
        )
        check_min(
            0,
            base_steps=self.base_steps,
            lora=self.lora,
            tune_lora=own.tune_lora,
            ema=self.ema,
            caption_drop=self.caption_drop,
        )
        if not self.ema < 1 or not self.caption_drop <= 1:
            raise InputError(f"--ema {self.ema:g} is below 1, and --caption-drop {self.caption_drop:g} at most 1")
        for name, rate in (("lr", self.lr), ("text-lr", self.text_lr)):
            if rate is not None and not rate > 0:
                raise InputError(f"--{name} {rate}: give a number above 0")
        if self.text_lr is not None and self.train_parts == "unet":
            raise InputError(
                "--text-lr says how fast the text encoders learn, which they do not with --train-parts unet"
            )
        Mix.read(self.mix)
        unsaid = [style for style in ("short", "long") if style not in own.styles]
        self._check_more()
        if lacking := [kind for kind in self.trained if {name for name, _ in self.mix_of(kind).weights} & {*unsaid}]:
            some = " ".join(kind for kind in self.arms if kind not in lacking)
            raise InputError(
                f"{own.captioner} says one sentence and no {unsaid[0]} one, which {' and '.join(lacking)} would read; give --arms {some}"
                + " and another --mix" * bool({"mix", *self.more_arms} & {*lacking})
            )
        if not self.trained:
            raise InputError("--arms base alone trains nothing; name what to train beside it, such as alt and mix")
        if self.scale == "paper" and own.is_smallworld:
            raise InputError("--scale paper needs images of your own: --images FOLDER, made by reverie import")
        if not own.is_smallworld:
            self._check_texts(Path(own.images))
        if "mix" in self.arms:
            self._check_mix()

    def _check_mix(self) -> None:
        """That the mix reads what the images have, or get from the captioner."""
        own, mix = self.recaption, self.mix_of("mix")
        coming = [CHANNELS[style] for style in own.styles]
        if not own.is_smallworld:
            mix.check_columns(Path(own.images) / "pairs.lance", coming=coming)
        elif lacking := sorted({*mix.columns} - {*coming, "text"}):
            raise InputError(
                f"--mix {mix}: images of the small world have no column {lacking[0]!r}; it may read alt, {' and '.join(own.styles)}"
            )

    def _check_texts(self, store: Path) -> None:
        """That what arms read is there, as far as it is known before the run."""
        from reverie.datasets.few_shot import check_store

        check_store(store)
        learn = [kind for kind in self.trained if "alt" in dict(self.mix_of(kind).weights)]
        if (learn or self.base_steps) and not self.recaption.has_texts:
            flags = ["--arms"] * ("alt" in learn) + ["--mix"] * bool({*learn} - {"alt"})
            leave = [f"leave alt out of {' and '.join(flags)}"] * bool(flags)
            leave += ["give --base-steps 0"] * bool(self.base_steps)
            raise InputError(
                f"no image of {store} has a text, so nothing can be learned from alt-text; {' and '.join(leave)}"
            )

    def _check_more(self) -> None:
        """That further arms have what they are about, and nothing else was given."""
        own = self.recaption
        if "two" in self.more_arms and not own.second_captioner:
            raise InputError(
                "--more-arms two mixes the captions of two captioners; name the other: --second-captioner NAME"
            )
        if own.second_captioner and "two" not in self.more_arms:
            raise InputError("--second-captioner says nothing here: it belongs to --more-arms two")
        if own.second_captioner and own.second_captioner == own.captioner:
            raise InputError(f"--second-captioner {own.second_captioner} is --captioner too; name another")
        if own.per_image != Recaptioning.per_image and "several" not in self.more_arms:
            raise InputError("--per-image says nothing here: it belongs to --more-arms several")
        if "again" in self.more_arms and not own.is_tuned:
            raise InputError(
                f"--more-arms again tunes the captioner a second time, and {own.captioner} is not tuned a first time; give captions "
                "of people (--human) for an image-text-to-text model, or leave again out"
            )
        told = self.told_by_captioners
        if silent := [kind for kind in ("two", "again") if kind in self.more_arms and not told]:
            raise InputError(
                f"--more-arms {' '.join(silent)}: --mix {' '.join(self.mix)} has neither short nor long captions; give another --mix"
            )
        if "two" in self.more_arms and not told.keys() & {*own.second_styles}:
            raise InputError(
                f"{own.second_captioner} says one sentence and no long one, which two would read; give another --mix, or another "
                "--second-captioner"
            )

    @property
    def trained(self) -> tuple[Kind | MoreKind, ...]:
        """Arms that learn."""
        return (*(kind for kind in self.arms if kind != "base"), *self.more_arms)

    @property
    def told_by_captioners(self) -> dict[str, float]:
        """Weights of the mix's short and long captions."""
        return {name: weight for name, weight in Mix.read(self.mix).weights if name in ("short", "long")}

    def mix_of(self, kind: Kind | MoreKind) -> Mix:
        """What an arm reads. Of two captioners each has half of what one has in the mix."""
        from reverie.learn.recaption import SEVERAL, beside

        if kind == "several":
            return Mix.read((SEVERAL,))
        if kind in ("alt", "short", "long"):
            return Mix.read((kind,))
        mix, told = dict(Mix.read(self.mix).weights), self.told_by_captioners
        if kind == "again":
            mix = {beside(name, AGAIN) if name in told else name: weight for name, weight in mix.items()}
        elif kind == "two":
            others = {name: weight for name, weight in told.items() if name in self.recaption.second_styles}
            half = sum(told.values()) / 2
            mix |= {name: weight / 2 for name, weight in told.items()}
            mix |= {beside(name, OTHER): half * weight / sum(others.values()) for name, weight in others.items()}
        return Mix(tuple(mix.items()))


TINY = RecapConfig()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        recaption=Recaptioning("smallworld:studio:5000", tune_captions=100, tune_steps=300),
        train_steps=4000,
        batch_size=32,
        ema=0.999,
        seeds=(0, 1, 2),
        prompts="smallworld:human:1000",
        real="smallworld:studio:1000",
    ),
    "paper": replace(  # from memory and secondary sources, see docs/recipes/recap.md
        TINY,
        scale="paper",
        recaption=Recaptioning("", captioner=PUBLIC_CAPTIONER, tune_steps=TUNE_STEPS, tune_lora=TUNE_LORA),
        paint=Painting(PUBLIC_PAINTER, per_caption=1, guidance=7.5, sampler_steps=50, painter_dtype="fp16"),
        train_steps=250_000,
        batch_size=512,
        lr=FURTHER_LR,
        ema=0.9999,
        precision="fp16",
        prompts=None,
        real=None,
        observer="",
        places="",
    ),
}


def arms(config: RecapConfig = TINY) -> dict[Arm, TrainPainter | None]:
    """What is trained beside what, under the first seed; None for the painter that all begin at."""
    found: dict[Arm, TrainPainter | None] = {}
    for kind in (*config.arms, *config.more_arms):
        reads = "" if kind == "base" else str(config.mix_of(kind))
        arm = Arm(kind, LABELS[kind], factors={"captions": kind, "mix": reads})
        if kind == "base":
            found[arm] = None
        elif kind == "scratch":
            found[arm] = _from_scratch(config)
        else:
            found[arm] = _painter(config, config.mix_of(kind), config.train_steps, start_of_arms(config))
    return found


def start_of_arms(config: RecapConfig) -> str:
    """The painter that every arm begins at, as stages name it."""
    return f"{OF_STEP}base" if config.base_steps else config.paint.painter


def recap(config: RecapConfig = TINY, arms_: Mapping[Arm, TrainPainter | None] | None = None) -> Plan:
    """A captioner tuned on few human captions -> images recaptioned -> painters tuned on them, beside alt-text -> a page.

    Example: reverie run recap --images runs/photos --human captions.jsonl --out runs/recap

    Args:
        arms_: what is trained, in place of ``arms(config)``.
    """
    from reverie.learn.train_painter import TrainAnew
    from reverie.models.painter import check_painter
    from reverie.report.page import WritePage

    config.check()
    is_local = config.paint.is_builtin or Path(config.paint.painter).is_dir()
    if is_local:
        check_painter(config.paint.painter, config.paint.sampler_steps, config.paint.paint_px, config.paint.scheduler)
    steps = list(recaptioned(config))
    last = steps[-1].name
    more = recaptioned_more(config, steps)
    steps += [step for some in more.values() for step in some]
    if config.base_steps:
        base = _painter(config, Mix.read(("alt",)), config.base_steps, config.paint.painter)
        steps.append(
            Step(
                "base",
                replace(base, parts="both", lora=0),
                inputs=("photos",) if config.recaption.is_smallworld else (),
            )
        )
    inputs: tuple[str, ...] = (last, *(("base",) if config.base_steps else ()))
    measured: list[Arm] = []
    for arm, train in (arms(config) if arms_ is None else arms_).items():
        if train is None:
            known = (
                replace(arm, step="base")
                if config.base_steps
                else replace(arm, factors={**arm.factors, "painter": config.paint.painter})
            )
            measured.append(known)
            continue
        if isinstance(train, TrainAnew) and is_local:
            train.check()  # a network that cannot be begun anew is told before any work
        read = tuple(step.name for step in more.get(arm.id, ())[-1:])
        for number in config.seeds:
            measured.append(arm.under(number))
            steps.append(Step(arm.under(number).key, replace(train, seed=number), inputs=(*inputs, *read)))
    last_ones = tuple(step.name for step in steps if step.name not in ("photos", "human"))
    if config.prompts:
        steps.append(Step("generation", measure(config, measured), inputs=last_ones))
        last_ones = ("generation",)
    steps.append(Step("page", WritePage(), inputs=last_ones))
    return Plan(recipe="recap", seed=config.seed, arguments=flat(config), steps=tuple(steps))


def recaptioned(config: RecapConfig) -> tuple[Step, ...]:
    """Images, human captions, the captioner that is tuned on them, and its captions. Raises InputError for settings or images that cannot be used."""
    from reverie.datasets.captioned import smallworld_source
    from reverie.learn.human_pairs import DrawPairs
    from reverie.learn.recaption import DrawHumanCaptions, RecaptionPairs

    own, steps = config.recaption, list[Step]()
    captioner = own.captioner or ""
    if own.is_smallworld:
        camera, count, which = smallworld_source(own.images)
        steps.append(Step("photos", DrawPairs(count, camera, which, "alt")))  # type: ignore[arg-type]
        if own.human_ is None and own.is_tuned:
            steps.append(Step("human", DrawHumanCaptions(own.tune_captions, camera)))
    if own.is_tuned:
        tune = captioner_tuning(config)
        tune.check()
        steps.append(Step("captioner", tune, inputs=tuple(step.name for step in steps)))
        captioner = f"{OF_STEP}captioner"
    counted = config.paint.painter if config.paint.is_builtin or Path(config.paint.painter).is_dir() else ""
    describe = RecaptionPairs(captioner, own.store, own.styles, count_tokens_by=counted)
    describe.check()  # what cannot see, or has no pictures to look at, is told before any work
    if own.is_tuned:
        describe.check_tuned(tune, config.seed)
    return (*steps, Step("recaption", describe, inputs=tuple(step.name for step in steps)))


def recaptioned_more(config: RecapConfig, first: Sequence[Step]) -> dict[str, list[Step]]:
    """What further arms read, by arm: a captioner where one is tuned, and its captions. Raises InputError for settings that cannot be used.

    Args:
        first: the steps of ``recaptioned``.
    """
    from reverie.learn.describe import TuneAgain
    from reverie.learn.recaption import RecaptionBeside, RecaptionPairs, RecaptionSeveral

    own, names, found = config.recaption, tuple(step.name for step in first), dict[str, list[Step]]()
    describe = first[-1].stage
    assert isinstance(describe, RecaptionPairs)
    told: dict[str, RecaptionPairs] = {}
    counted = describe.count_tokens_by
    if "two" in config.more_arms:
        name, found["two"] = own.second_captioner or "", []
        if own.is_second_tuned:
            tune = replace(captioner_tuning(config), captioner=name)
            tune.check()
            name = f"captioner-{OTHER}"
            found["two"] = [Step(name, tune, inputs=tuple(each for each in names if each in ("photos", "human")))]
            name = f"{OF_STEP}{name}"
        told["two"] = RecaptionBeside(name, own.store, own.second_styles, counted, name=OTHER)
    if "again" in config.more_arms:
        once = captioner_tuning(config)
        tune = TuneAgain(**{item.name: getattr(once, item.name) for item in fields(once)} | {"seed": once.seed + 1})
        found["again"] = [Step(f"captioner-{AGAIN}", tune, inputs=names)]
        told["again"] = RecaptionBeside(f"{OF_STEP}captioner-{AGAIN}", own.store, own.styles, counted, name=AGAIN)
    if "several" in config.more_arms:
        found["several"] = []
        told["several"] = RecaptionSeveral(describe.captioner, own.store, count_tokens_by=counted, count=own.per_image)
    for kind, stage in told.items():
        stage.check()
        end = {"two": OTHER}.get(kind, kind)
        inputs = tuple(dict.fromkeys((*names, *(step.name for step in found[kind]))))
        found[kind].append(Step(f"recaption-{end}", stage, inputs=inputs))
    return found


def captioner_tuning(config: RecapConfig) -> TuneDescriber:
    """The stage that tunes the captioner."""
    from reverie.learn.describe import TuneDescriber

    own = config.recaption
    if own.human_ is None and own.tune_captions <= own.held_out:
        raise InputError(
            f"--tune-captions {own.tune_captions} human captions are drawn, and --held-out {own.held_out} of them are not learned from; draw more"
        )
    return TuneDescriber(
        own.captioner or "",
        own.human_ or "human",
        own.store,
        own.tune_steps,
        lora=own.tune_lora,
        held_out=own.held_out,
        objects=own.objects,
    )


def _painter(config: RecapConfig, mix: Mix, steps: int, start: str) -> TrainPainter:
    from reverie.learn.train_painter import TrainPainter

    text_only = config.train_parts == "text"
    lr = (config.text_lr or config.lr) if text_only else config.lr
    return TrainPainter(
        store=config.recaption.store,
        size_px=config.paint.paint_px or 0,
        fit=_fit(config, steps, lr),
        batch=config.batch_size,
        start=start,
        parts=config.train_parts,
        text_rate=1.0 if text_only or config.text_lr is None else config.text_lr / config.lr,
        caption_drop=config.caption_drop,
        mix=mix,
        over_limit=config.over_limit,
        lora=config.lora,
    )


def _from_scratch(config: RecapConfig) -> TrainPainter:
    """The painter's network, all of which begins untrained and learns, on the mix with as many steps."""
    from reverie.learn.train_painter import TrainAnew

    whole = replace(config, train_parts="both", lora=0)
    like = _painter(whole, config.mix_of("scratch"), config.train_steps, config.paint.painter)
    return TrainAnew(**{item.name: getattr(like, item.name) for item in fields(like)})


def _fit(config: RecapConfig, steps: int, lr: float) -> Fit:
    from reverie.learn.fit import Fit

    return Fit(
        steps, lr, min(10_000 if config.scale == "paper" else 200, steps // 10), weight_decay=0.01, betas=(0.9, 0.999), clip=1.0,
        ema=config.ema or None, precision=config.precision,
    )  # fmt: skip


def measure(config: RecapConfig, measured: list[Arm]) -> MeasureGeneration:
    """The stage that measures what painters paint of the same captions, with the same noise."""
    from reverie.evaluate.generation import Instruments, MeasureGeneration

    assert config.prompts
    instruments = Instruments(config.features if config.real else (), config.observer, config.places)
    there = {arm.id for arm in measured}
    subject = next((kind for kind in TOLD if kind in there), "")
    control = next((kind for kind in CONTROLS if kind in there and kind != subject), "")
    return MeasureGeneration(
        tuple(measured), config.prompts, config.real or "", config.paint.stage(), config.guidances, instruments,
        subject=subject, control=control,
    )  # fmt: skip
