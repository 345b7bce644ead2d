"""Claims of RECAP (arXiv:2310.16656) about painters that learn from better captions, and about the captions, on the small world.

Numbers are those of docs/recipes/recap.md. All arms stand in one run and begin at one painter, which learned from alt-text; they see the same images in
the same order, and are asked for the same captions with the same noise. Which weights learn (D11) is reported and claimed nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from reverie.arms import Arm
from reverie.errors import InputError
from reverie.evaluate.claims import Claim, beats
from reverie.ranges import check_min
from reverie.recaption.mix import Mix
from reverie.recipes import recap as recipe
from reverie.recipes.recap import LABELS, Kind, RecapConfig
from reverie.run.plan import Plan, Step
from reverie.settings import change
from reverie.stage import OF_STEP
from reverie.studies import Study, StudyConfig, named, seeds_of

if TYPE_CHECKING:
    from reverie.evaluate.generation import MeasureGeneration
    from reverie.evaluate.trends import MeasureTrend
    from reverie.learn.recaption import Changed
    from reverie.learn.train_painter import TrainPainter

SCORE = "qa:judge"
DISTANCE = "fd:builtin:clip"
POINT = 0.01  # of the score
KINDS: tuple[Kind, ...] = ("alt", "short", "long", "mix")
STYLES = ("human", "alt", "short", "long")  # of prompts; the first are those of nobody's captions
SHARES = (0.25, 0.5, 0.75)  # of the words of long captions, beside all of them
FALSE = (0.1, 0.3)  # share of the things that a caption names for which one more is added, beside none
PARTS: tuple[Literal["unet", "text"], ...] = ("unet", "text")  # what learns alone, beside both
QUARTERS = (1, 2)  # of all steps, beside all of them
# A fifth of the images, which the painter that says how much captions tell does not learn from; the seed of an image is a random number.
UNSEEN = "seed % 5 = 0"
ASKED = 200  # prompts of each style that training captions are held against
Terms = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class RecapStudy(StudyConfig):
    """Settings of a study of RECAP."""

    # text-to-image model: builtin:painter, a folder, or the Hub id of any diffusers pipeline; all arms begin at it, and it should know alt-text alone
    painter: str = "builtin:painter-alt"
    # captioner that says what every image shows, in columns beside its text: builtin:describer, a folder or the Hub id of an image-text-to-text
    # model, openai:MODEL@URL, or a run of syntic, synth2 or recap; here one that can be tuned
    captioner: str = "builtin:describer"
    recaptioned: int = 200  # images of the small world that are recaptioned and learned from
    tune_steps: int = 60  # optimiser steps of tuning the captioner
    tune_captions: int = 60  # human captions that are drawn for images of the small world
    # optimiser steps of training; a multiple of four, as arms are also trained for a quarter and a half of them
    train_steps: int = 48
    batch_size: int = 16  # examples in a step of training
    lr: float = 3e-4  # peak learning rate
    # captions that painters are asked for, in each of four styles, and pictures that distances are to
    asked_for: int = 40


# Beside each other, 57 trainings of 48 steps, the painting of 112 sets of 40 pictures and four captioners are meant for two cores within half an hour.
TINY = RecapStudy()
SCALES = {
    "tiny": TINY,
    # A quarter of an hour of two cores a seed: what decides is seeds more than steps, and these are added (--decide).
    "small": replace(
        TINY, scale="small", recaptioned=1000, tune_steps=300, tune_captions=120, train_steps=160, asked_for=160
    ),
}


def recap(config: RecapStudy = TINY) -> Study:
    """Claims D1 to D10 and D12 about RECAP, on the small world.

    Example: reverie claims recap --scale tiny --num-seeds 3 --jobs 2
    """
    check_min(2, recaptioned=config.recaptioned, asked_for=config.asked_for, tune_captions=config.tune_captions)
    check_min(1, tune_steps=config.tune_steps, batch_size=config.batch_size)
    if config.train_steps < 4 or config.train_steps % 4:
        raise InputError(
            f"--train-steps {config.train_steps}: give a multiple of 4, as arms are trained for a quarter and a half of them too"
        )
    about = (
        f"Small world: {config.recaptioned:,} studio photos with alt-text as it is on the web, recaptioned by {config.captioner}, which was tuned on "
        f"{config.tune_captions - held_out(config)} captions of other photos. Every arm trains {config.painter} on for {config.train_steps:,} steps of "
        f"{config.batch_size} images. Score: the share of the facts in a caption (things, attributes, counts, relations, background) that the judge confirms in the "
        f"picture, of {config.asked_for:,} captions as a person types them where nothing else is said; distances are on features of builtin:clip to as many "
        "photos, in place of Inception's. Human judges cannot be had here, the judge sees what the grammar of the small world can say, and which weights learn (D11) is "
        "reported below without a claim."
    )
    run = {"smallworld": _smallworld(config)}
    return Study(about, named("recap", config, run), CLAIMS, {"smallworld": "all arms, on the small world"})


def held_out(config: RecapStudy) -> int:
    """Images whose human captions choose the best weights of a captioner."""
    return min(RecapConfig().recaption.held_out, config.tune_captions // 2)


def settings(config: RecapStudy) -> RecapConfig:
    """The recipe, without a base of its own. Captions that are too long are cut, so that all arms see the same images."""
    return change(
        recipe.SCALES[config.scale],
        images=f"smallworld:studio:{config.recaptioned}", captioner=config.captioner, tune_steps=config.tune_steps,
        tune_captions=config.tune_captions, held_out=held_out(config), painter=config.painter, arms=("base", *KINDS), base_steps=0, over_limit="cut",
        train_steps=config.train_steps, batch_size=config.batch_size, lr=config.lr, seeds=seeds_of(config.num_seeds),
        prompts=f"smallworld:human:{config.asked_for}", real=f"smallworld:studio:{config.asked_for}", seed=config.seed,
    )  # fmt: skip


def changed() -> tuple[Changed, ...]:
    """Columns of captions that differ from the captioner's in one way each."""
    from reverie.learn.recaption import Changed

    return (
        Changed("caption_short_as_long_as_alt", "lengths", "short"),
        *(Changed(f"caption_long_{100 * share:.0f}", "words", share=share) for share in SHARES),
        Changed("caption_long_and_any_clause", "clause"),
        *(Changed(f"caption_long_false_{100 * share:.0f}", "false", share=share) for share in FALSE),
    )


def arms(config: RecapStudy) -> dict[Arm, TrainPainter | None]:
    """What is trained, under the first seed; None for the painter that all begin at."""
    own = settings(config)
    found = dict(recipe.arms(own))
    by_kind = {arm.id: train for arm, train in found.items()}
    long = by_kind["long"]
    assert long is not None
    # It reads all kinds equally often, so it can say of each how much it tells.
    all_kinds = Mix(tuple((kind, 1 / 3) for kind in ("alt", "short", "long")))
    more = {"all": ("alt-text, short and long captions", all_kinds)}
    for each in changed():
        name = each.column.removeprefix("caption_").replace("_", "-")
        more[name] = (name.replace("-", " "), Mix.read((each.column,)))
    for name, (label, mix) in more.items():
        where = f"({long.where}) and not ({UNSEEN})" if name == "all" else long.where
        found[Arm(name, label, factors={"captions": name, "mix": str(mix)})] = replace(long, mix=mix, where=where)
    for arm, train in list(found.items()):
        if arm.id not in KINDS or train is None:
            continue
        for quarters in QUARTERS:
            steps = config.train_steps * quarters // 4
            fewer = replace(
                train, fit=replace(train.fit, steps=steps, warmup_steps=train.fit.warmup_steps * quarters // 4)
            )
            factors = {**arm.factors, "steps": steps}
            found[Arm(_after(arm.id, quarters), f"{arm.label}, {steps:,} steps", factors=factors)] = fewer
        if arm.id in ("alt", "mix"):
            for parts in PARTS:
                label = f"{arm.label}, {'U-Net' if parts == 'unet' else 'text encoder'} alone"
                factors = {**arm.factors, "parts": parts}
                found[Arm(f"{arm.id}-{parts}", label, factors=factors)] = replace(train, parts=parts)
    return {_with_parts(arm): train for arm, train in found.items()}


def _with_parts(arm: Arm) -> Arm:
    """Says of the arms that learn with all their weights, and are held against others, that they do."""
    return replace(arm, factors={**arm.factors, "parts": "both"}) if arm.id in ("alt", "mix") else arm


def _after(kind: str, quarters: int) -> str:
    return f"{kind}-{('quarter', 'half')[quarters - 1]}"


def _smallworld(config: RecapStudy) -> Plan:
    from reverie.report.page import WritePage

    own, seeds = settings(config), seeds_of(config.num_seeds)
    made = _made(config, own)
    tuned = _tuned(own, seeds)
    trained = {arm: train for arm, train in arms(config).items() if train is not None}
    training = [
        Step(arm.under(seed).key, replace(train, seed=seed), inputs=("changed",))
        for seed in seeds for arm, train in trained.items()
    ]  # fmt: skip
    measured = _measured(config, own, list(trained), seeds)
    ahead = _ahead(measured)
    steps = [
        Step(name, stage, inputs=tuple(step.name for step in ahead if step.name.startswith(f"paint-{name}-")))
        for name, stage in measured.items()
    ]
    steps += _judged(config, seeds, trained, tuned)
    page = Step("page", WritePage(), inputs=tuple(step.name for step in steps))
    return Plan(recipe="recap", seed=own.seed, steps=(*made, *tuned.values(), *training, *ahead, *steps, page))


def _made(config: RecapStudy, own: RecapConfig) -> tuple[Step, ...]:
    """What all arms learn from. The stages say before any work what they lack."""
    from reverie.learn.human_pairs import DrawPairs
    from reverie.learn.recaption import ChangeCaptions, DrawHumanCaptions, RecaptionPairs

    captioner = recipe.captioner_tuning(own)
    describe = RecaptionPairs(f"{OF_STEP}captioner", "photos", count_tokens_by=config.painter)
    return (
        Step("photos", DrawPairs(config.recaptioned, "studio", "all", "alt")),
        Step("human", DrawHumanCaptions(config.tune_captions, "studio")),
        Step("captioner", captioner, inputs=("photos", "human")),
        Step("recaption", describe, inputs=("photos", "captioner")),
        Step("changed", ChangeCaptions("photos", changed()), inputs=("recaption",)),
    )


def _tuned(own: RecapConfig, seeds: Sequence[int]) -> dict[Arm, Step]:
    """Captioners that are asked as for short captions and tuned on long ones: the builtin one knows the small world's long captions already."""
    tune = replace(recipe.captioner_tuning(own), prompt_long="short")
    arm = Arm("tuned", "asked for short captions, tuned on long ones")
    return {arm.under(seed): Step(arm.under(seed).key, replace(tune, seed=seed), inputs=("human",)) for seed in seeds}


def _measured(
    config: RecapStudy, own: RecapConfig, trained: Sequence[Arm], seeds: Sequence[int]
) -> dict[str, MeasureGeneration]:
    """What is asked of whom: everything in a person's words, the four kinds of arms in those of all styles."""
    base = Arm("base", LABELS["base"], factors={"captions": "base", "mix": "", "painter": config.painter})
    found = {}
    for style in STYLES:
        some = [arm.under(seed) for arm in trained if style == "human" or arm.id in KINDS for seed in seeds]
        asked = replace(own, prompts=f"smallworld:{style}:{config.asked_for}")
        stage = recipe.measure(asked, [*some, base] if style == "human" else some)
        found[f"asked-{style}"] = replace(stage, instruments=replace(stage.instruments, answerer="judge"))
    return found


def _ahead(measured: Mapping[str, MeasureGeneration]) -> list[Step]:
    """Painting, an arm at a time, so that arms may be painted beside each other."""
    from reverie.evaluate.generation import PaintAhead

    return [
        Step(f"paint-{name}-{arm.key}", PaintAhead(replace(stage, arms=(arm,)), name), inputs=(arm.step or "changed",))
        for name, stage in measured.items() for arm in stage.arms
    ]  # fmt: skip


def _judged(
    config: RecapStudy, seeds: tuple[int, ...], trained: Mapping[Arm, TrainPainter], tuned: Mapping[Arm, Step]
) -> list[Step]:
    """What is made of the scores and of the captions."""
    from reverie.evaluate.recaptioning import (
        Asked,
        Curve,
        MeasureInformation,
        MeasureMatrix,
        MeasureRanks,
        MeasureSteps,
        MeasureTuning,
    )

    known = {arm.id: arm for arm in trained}
    prompts = {style: f"smallworld:{style}:{ASKED}" for style in STYLES}
    asked = [Asked(style, (f"asked-{style}",), (prompts[style],)) for style in STYLES]
    # A prompt of a mix is a short or a long one, as its captions were.
    asked.insert(-1, Asked("mix", ("asked-short", "asked-long"), (prompts["short"], prompts["long"])))
    mixes = {name: train.mix for name, train in ((arm.id, train) for arm, train in trained.items()) if train.mix}
    matrix = MeasureMatrix(tuple((kind, mixes[kind]) for kind in KINDS), tuple(asked), "photos", SCORE, seeds=seeds)
    curves = tuple(
        Curve(known[kind], (*((config.train_steps * quarters // 4, _after(kind, quarters)) for quarters in QUARTERS), (config.train_steps, kind)))
        for kind in KINDS
    )  # fmt: skip
    own_where = trained[known["long"]].where
    information = MeasureInformation(
        tuple(known["all"].under(seed) for seed in seeds),
        tuple((known[kind], mixes[kind]) for kind in ("alt", "short", "long")),
        "photos", config.asked_for, where=f"({own_where}) and {UNSEEN}",
    )  # fmt: skip
    ranked = tuple(known[kind] for kind in ("short", "long", "mix"))
    scores, everything = ("asked-human",), tuple(f"asked-{style}" for style in STYLES)
    return [
        Step("matrix", matrix, inputs=everything),
        Step("ranks", MeasureRanks(ranked, "asked-human", seeds), inputs=scores),
        Step("steps", MeasureSteps(curves, "asked-human", SCORE, seeds), inputs=scores),
        *(Step(name, trend, inputs=scores) for name, trend in _trends(seeds).items()),
        Step("information", information, inputs=tuple(known["all"].under(seed).key for seed in seeds)),
        Step("tuning", MeasureTuning(tuple(tuned)), inputs=tuple(step.name for step in tuned.values())),
    ]


def _trends(seeds: tuple[int, ...]) -> dict[str, MeasureTrend]:
    from reverie.evaluate.trends import MeasureTrend, Point

    words = (*(Point(f"long-{100 * share:.0f}", at=share) for share in SHARES), Point("long", at=1.0))
    false = (Point("long", at=0.0), *(Point(f"long-false-{100 * share:.0f}", at=share) for share in FALSE))
    points = {
        "score-by-words": ("score along words left of long captions", words),
        "score-by-false-things": ("score along false things in long captions", false),
    }
    return {
        name: MeasureTrend(Arm(name, label), some, "asked-human", SCORE, seeds)
        for name, (label, some) in points.items()
    }


def _arm(name: str, step: str = "asked-human") -> str:
    return f"smallworld/{step}/{name}"


def _more(better: str, worse: str, style: str = "human") -> Terms:
    return beats(_arm(better, f"asked-{style}"), _arm(worse, f"asked-{style}"))


def _sooner(first: str, later: str) -> Claim:
    number = {"long": "a", "mix": "b"}[first] if later == "alt" else {"long": "c", "mix": "d"}[first]
    ours = {"long": "Long captions reach", "mix": "A mix of both reaches"}[first]
    theirs = {"alt": "alt-text", "short": "short captions"}[later]
    says = f"{ours} a given score in fewer steps than {theirs}: log2 of the ratio of steps"
    return Claim(f"D7{number}", says, "", beats(_arm(later, "steps"), _arm(first, "steps")), "log2_steps")


CLAIMS = (
    Claim("D1a", "A mix of short and long captions makes more of the things that are asked for appear than alt-text does", "SOA 84.34 and 78.90", _more("mix", "alt"), "soa_c:judge"),
    Claim("D1b", "counts them better: counting error of alt-text less that of the mix", "CA 1.32 and 1.44", _more("alt", "mix"), "ca:judge"),
    Claim("D1c", "and places them better", "PA 62.42 and 57.60", _more("mix", "alt"), "pa:judge"),
    Claim("D2", "and its pictures are nearer to photos: Fréchet distance of alt-text less that of the mix", "FID 14.84 and 17.87", _more("alt", "mix"), DISTANCE),
    Claim("D3a", "Asked with long captions, long training captions score higher than short ones", "a third party's note", _more("long", "short", "long"), SCORE),
    Claim("D3b", "Asked with short captions, short ones are nearer to photos: Fréchet distance of long less that of short", "a third party's note", _more("long", "short", "short"), DISTANCE),
    Claim("D4a", "The mix is the worst of short, long and mix on fewer metrics than chance has it, a third: minus the share above -1/3", "", ((_arm("mix", "ranks"), -1.0),), "worst", above=-1 / 3),
    Claim("D4b", "and its mean rank over all metrics is better than that of short captions", "a third party's note", beats(_arm("short", "ranks"), _arm("mix", "ranks")), "mean_rank"),
    Claim("D4c", "and than that of long ones", "a third party's note", beats(_arm("long", "ranks"), _arm("mix", "ranks")), "mean_rank"),
    Claim("D5", "Short captions cut or padded to the lengths of alt-text still score higher than alt-text", "", _more("short-as-long-as-alt", "alt"), SCORE),
    Claim("D6", "The score rises with the share of words that is left of long captions, from 25 to 100 %: their rank correlation is above 0", "", ((_arm("score-by-words", "score-by-words"), 1.0),), "spearman", points=len(SHARES) + 1),
    _sooner("long", "alt"),
    _sooner("mix", "alt"),
    _sooner("long", "short"),
    _sooner("mix", "short"),
    Claim("D8", "Of prompts like alt-text, short, long and mixed captions, the arm that learned from such captions is the best on 3 or more", "", ((_arm("matrix", "matrix"), 1.0),), "columns_best", above=2.5),
    Claim("D8b", "Arms lose more on prompts that are farther from what they learned from: rank correlation of loss and shift above 0", "", ((_arm("matrix", "matrix"), 1.0),), "spearman"),
    Claim("D9a", "Long captions tell a painter that reads all kinds more about their pictures than short ones", "", beats(_arm("long", "information"), _arm("short", "information")), "information"),
    Claim("D9b", "and short ones more than alt-text", "", beats(_arm("short", "information"), _arm("alt", "information")), "information"),
    Claim("D10a", "The score falls with the share of false things in long captions, of 0, 10 and 30 %: their rank correlation is below 0", "", ((_arm("score-by-false-things", "score-by-false-things"), -1.0),), "spearman", points=len(FALSE) + 1),
    Claim("D10b", "At 30 % nothing is left of the gain over alt-text: alt-text less these is above -1 point", "", _more("alt", "long-false-30"), SCORE, above=-POINT),
    Claim("D12a", "Tuning on few long captions makes a captioner name more of the things that are there: recall", "", beats(_arm("after", "tuning"), _arm("before", "tuning")), "recall"),
    Claim("D12b", "and say more words", "", beats(_arm("after", "tuning"), _arm("before", "tuning")), "words"),
    Claim("D12c", "and raises the share of things named that are not there by at most 5 points", "", beats(_arm("before", "tuning"), _arm("after", "tuning")), "hallucinated", above=-5 * POINT),
)  # fmt: skip
