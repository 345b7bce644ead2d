"""Claims of Synth² (arXiv:2403.07750) about captioners from few human pairs and painted image tokens, on the small world.

Numbers are those of docs/recipes/synth2.md. All arms stand in one run, so that what they share is done once: human pairs, captions,
language model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reverie.arms import Arm
from reverie.errors import InputError
from reverie.evaluate.claims import Claim, beats, gains_more
from reverie.ranges import check_min
from reverie.recipes import synth2 as recipe
from reverie.recipes.synth2 import Synth2Config
from reverie.run.plan import Plan, Step
from reverie.settings import resolve
from reverie.smallworld.scene import class_names
from reverie.stage import OF_STEP
from reverie.studies import Study, StudyConfig, named, seeds_of

if TYPE_CHECKING:
    from reverie.evaluate.trends import MeasureTrend
    from reverie.learn.train_token_captioner import TrainTokenCaptioner

SCORE = "slot_f1"
TOKENIZER = "builtin:tokenizer"  # of other scenes; a controlled comparison leaves it aside
POINT = 0.01  # of the score
MIX = 0.5  # share of painted pairs, where a claim says nothing else
SHARES = (0.25, 0.5, 0.75, 1.0)
REPEATS = 3  # of the measurement of cost, which no seed touches
MORE = ("some", "many")  # sets of human pairs beyond the few
ANY = ""  # filter of pairs: all
Terms = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Synth2Study(StudyConfig):
    """Settings of a study of Synth²."""

    human: tuple[int, int, int] = (200, 600, 1800)  # numbers of human pairs, few to many; none shows a held class
    per_class: int = 16  # captions for each class, where they are written from class names; all 64 are asked about
    painter_steps: int = 1000  # optimiser steps of a token painter that is trained
    language_steps: int = 300  # optimiser steps of a language model that is trained
    train_steps: int = 300  # optimiser steps of training; the same for every captioner
    photos: int = 200  # photos to measure on, in each of three sets
    # steps that either way, image tokens and pictures, is timed for; in each of three measurements
    cost_steps: int = 10


TINY = Synth2Study()
SCALES = {
    "tiny": TINY,
    "small": Synth2Study(
        "small",
        human=(400, 1200, 3600),
        per_class=32,
        painter_steps=2000,
        language_steps=600,
        train_steps=600,
        photos=2000,
        cost_steps=50,
    ),
}


def synth2(config: Synth2Study = TINY) -> Study:
    """Claims T1 to T9 about Synth², on the small world.

    Example: reverie claims synth2 --scale tiny --num-seeds 3
    """
    few, some, many = config.human
    if not 2 <= few < some < many:
        raise InputError(
            f"--human {few} {some} {many} are numbers of pairs, few to many: give three, each above the last"
        )
    check_min(1, photos=config.photos, cost_steps=config.cost_steps)
    check_min(3, per_class=config.per_class)  # of fewer captions about some classes T7b could make no clusters
    kept = round(100 * held_share())
    about = (
        f"Small world: {few:,}, {some:,} and {many:,} human pairs, none of which shows one of the 16 held classes; captions by the builtin writer "
        f"about all 64 classes, {config.per_class} each; token painters and a language model trained for the study, on tokens of {TOKENIZER}. Score: F1 of "
        f"the facts (things, attributes, counts, relations) in greedy captions of {config.photos:,} street photos, {kept} % of which show first a "
        "thing of a held class. Of the numbers that the paper gives, this world can only say whether they point the same way. The writer knows "
        "the small world's grammar, so its captions lack the faults that a language model's have. The language model saw the captions of all "
        "arms: what is measured is what pairs teach about looking."
    )
    run = {"smallworld": _smallworld(config)}
    return Study(about, named("synth2", config, run), CLAIMS, {"smallworld": "all arms, on the small world"})


def held_share() -> float:
    """Share of the classes that no human pair shows."""
    from reverie.datasets.captioned import held_classes

    known, held = held_classes()
    return len(held) / (len(known) + len(held))


def settings(config: Synth2Study) -> Synth2Config:
    """The recipe, with few pairs. At every scale the networks are those of tiny: what decides a claim are pairs, steps, photos and seeds."""
    scaled = recipe.SCALES[config.scale]
    usual = replace(scaled, **{part: getattr(recipe.TINY, part) for part in ("paint", "words", "looking", "unit_size")})
    few, _, many = config.human
    return resolve(
        usual,
        {
            "pairs": f"smallworld:street:{many}:known", "human_pairs": few, "per_class": config.per_class, "tokenizer": TOKENIZER,
            "painter_steps": config.painter_steps,
            "language_steps": config.language_steps, "train_steps": config.train_steps, "seeds": seeds_of(config.num_seeds),
            "eval_data": f"smallworld:street:{config.photos}", "spice": "off", "beams": 1, "rho": SHARES, "exposures": False,
            "cost_steps": config.cost_steps, "seed": config.seed,
        },
    )  # fmt: skip


def arms(config: Synth2Study) -> dict[Arm, TrainTokenCaptioner]:
    """What is trained, under the first seed. All make as many steps."""
    own = settings(config)
    steps = own.looking.train_steps

    def mixed(rho: float = MIX, **how: Any) -> TrainTokenCaptioner:
        return replace(recipe.learning(own, rho, steps), **how)

    def arm(name: str, label: str, rho: float = MIX, human: int = config.human[0], **factors: Any) -> Arm:
        return Arm(name, label, factors={"rho": rho, "human_pairs": human, **factors})

    pixels = replace(recipe.learning(replace(own, path="pixels"), MIX, steps))
    found = {
        recipe.mixture(MIX, human_pairs=config.human[0]): mixed(),
        arm("human", "human pairs alone", 0.0): mixed(0.0),
    }
    for rho in SHARES:
        if rho != MIX:
            found[recipe.mixture(rho, human_pairs=config.human[0])] = mixed(rho)
    for name, number in zip(MORE, config.human[1:], strict=True):
        store = f"human-{name}"
        painter = f"{OF_STEP}painter-{name}"  # of the same pairs, which makes the two a controlled comparison
        found[arm(store, f"{number:,} human pairs alone", 0.0, number)] = mixed(0.0, real=store, painter=painter)
        found[arm(f"painted-{name}", f"{number:,} human pairs and painted ones", human=number)] = mixed(
            real=store, painted=f"paint-{name}", painter=painter
        )
    found |= {
        arm("syn-image", "human captions, painted", images="painted"): mixed(painted="paint-human"),
        arm("gold", "human captions with their photos", images="photos"): mixed(
            painted="human-many", where_painted=ANY
        ),
        arm("uncontrolled", "painter of more pairs", painter="more pairs"): mixed(
            painted="paint-many", painter=f"{OF_STEP}painter-many"
        ),
        arm("pixels", "by way of pixels", path="pixels"): pixels,
    }
    size = balanced_size(config)
    for name, where in balances().items():
        found[arm(name, f"captions: {name.replace('-', ' ')}", pairs=size)] = mixed(
            where_painted=where, num_painted=size
        )
    return found


def balanced_size(config: Synth2Study) -> int:
    """Painted pairs of every caption set of claim T7: as many as the most skewed one has, were half of its captions dropped as repeats."""
    return max(2, len(class_names()[::10]) * config.per_class // 2)


def balances() -> dict[str, str]:
    """Sets of captions from balanced to skewed, as filters of painted pairs."""
    names = class_names()

    def among(some: Sequence[str]) -> str:
        listed = ", ".join(f"'{name}'" for name in some)
        return f"origin = 'painted' and label in ({listed})"

    # Of the n-th class, one in n; ids are evenly spread hex digits.
    ranked = " or ".join(
        f"(label = '{name}' and caption_id < '{min(16**4 - 1, 16**4 // number):04x}')"
        for number, name in enumerate(names, 1)
    )
    return {
        "all-classes": "origin = 'painted'",
        "one-class-in-five": among(names[::5]),
        "first-classes-more-often": f"origin = 'painted' and ({ranked})",
        "one-class-in-ten": among(names[::10]),
    }


def _smallworld(config: Synth2Study) -> Plan:
    from reverie.evaluate.data_equivalence import HumanPairEquivalent
    from reverie.report.page import WritePage

    own = settings(config)
    made = _made(own, config)
    training = _trained(own, arms(config), {"paint", *(step.name for step in made)})
    all_ = tuple(step.name for step in training.values())
    asked = list(training)
    two = [arm for arm in asked if arm.id in ("human", f"painted-{MIX:g}")]
    measures = {"measure": asked, "seen": two, "novel": two}
    photos = {"measure": "", "seen": ":known", "novel": ":held"}
    steps = [
        Step(
            name,
            replace(own.photos.stage(some), photos=f"smallworld:street:{config.photos}{photos[name]}"),
            inputs=all_,
        )
        for name, some in measures.items()
    ]
    steps.append(Step("worth", HumanPairEquivalent("measure", SCORE), inputs=("measure",)))
    steps += [Step(name, trend, inputs=("measure", "paint")) for name, trend in _trends(config).items()]
    steps.append(recipe.cost(own, REPEATS))
    page = Step("page", WritePage(), inputs=tuple(step.name for step in steps))
    return Plan(
        recipe="synth2", seed=own.seed, unit_size=own.unit_size, steps=(*made, *training.values(), *steps, page)
    )


def _made(own: Synth2Config, config: Synth2Study) -> tuple[Step, ...]:
    """All that captioners learn from. Pictures are kept beside tokens for the arm that goes by way of pixels."""
    from reverie.images.tokens_apart import PaintApart

    kept = replace(own, path="pixels")
    human, painted, (language,) = recipe.human_pairs(kept), recipe.painted(kept), recipe.words(own)
    by_name = {step.name: step for step in (*human, *painted)}
    found = [*human]
    tokens: Any = by_name["human"].stage
    painter: Any = by_name["painter"].stage
    paint: Any = replace(by_name["paint"].stage, keep_images=False)  # type: ignore[type-var]
    for name, number in zip(MORE, config.human[1:], strict=True):
        found.append(
            Step(f"human-{name}", replace(tokens, limit=number, keep_images=False), inputs=by_name["human"].inputs)
        )
    found += painted
    for name in MORE:
        store, mine = f"human-{name}", f"painter-{name}"
        found.append(Step(mine, replace(painter, store=store), inputs=(store,)))
        apart = PaintApart(replace(paint, model=f"{OF_STEP}{mine}"))
        found.append(Step(f"paint-{name}", apart, inputs=("clean", mine)))
    found.append(Step("paint-human", PaintApart(paint, "human-many"), inputs=("human-many", "painter")))
    # Words are no pairs: every arm has the same language model, which knows all captions.
    said: Any = replace(language.stage, store="human-many")  # type: ignore[type-var]
    found.append(replace(language, stage=said, inputs=("human-many", "clean")))
    return tuple(found)


def _trained(own: Synth2Config, learned: Mapping[Arm, TrainTokenCaptioner], made: set[str]) -> dict[Arm, Step]:
    """The recipe's training steps, each of which waits for the stores and painter of its own."""
    found = recipe.trained(own, learned)
    for arm, step in found.items():
        stage: Any = step.stage
        named_ = (stage.real, stage.painted, stage.painter.removeprefix(OF_STEP))
        reads = dict.fromkeys((*step.inputs, *(name for name in named_ if name in made)))
        found[arm] = replace(step, inputs=tuple(reads))
    return found


def _trends(config: Synth2Study) -> dict[str, MeasureTrend]:
    from reverie.evaluate.trends import MeasureTrend, Point

    numbers = seeds_of(config.num_seeds)
    names = [("painted-0.5", "human"), *((f"painted-{name}", f"human-{name}") for name in MORE)]
    gains = tuple(Point(ours, human, number) for (ours, human), number in zip(names, config.human, strict=True))
    sets = tuple(Point(name, captions=where) for name, where in balances().items())
    return {
        "gain-by-pairs": MeasureTrend(Arm("gain-by-pairs", "gain along human pairs"), gains, seeds=numbers),
        "score-by-balance": MeasureTrend(Arm("score-by-balance", "score along exp(H)"), sets, seeds=numbers),
    }


def _arm(name: str, step: str = "measure") -> str:
    return f"smallworld/{step}/{name}"


def _more_than(better: str, worse: str, step: str = "measure") -> Terms:
    return beats(_arm(better, step), _arm(worse, step))


def _scored(name: str, says: str, terms: Terms, paper: str = "", **how: Any) -> Claim:
    return Claim(name, says, paper, terms, **{"metric": SCORE, **how})


_GAIN = "painted-0.5", "human"
CLAIMS = (
    _scored("T1", "With few human pairs, half of every batch painted makes better captions than human pairs alone, at equal steps", _more_than(*_GAIN), "17 % more, v1 (its abstract)"),
    _scored("T1b", "and by CIDEr too", _more_than(*_GAIN), metric="cider_d"),
    _scored("T2a", "Human captions with painted images beside the few pairs are better than the few alone", _more_than("syn-image", "human")),
    _scored("T2b", "and not better than with their photos: GOLD less SYN_IMAGE is above -1 point", _more_than("gold", "syn-image"), above=-POINT),
    _scored("T3", "The gain shrinks with the number of human pairs: their rank correlation is below 0", ((_arm("gain-by-pairs", "gain-by-pairs"), -1.0),), metric="spearman", points=3),
    _scored("T4", "The gain is greater on photos of classes that no human pair shows", gains_more(_arm(_GAIN[0], "novel"), _arm(_GAIN[1], "novel"), _arm(_GAIN[0], "seen"), _arm(_GAIN[1], "seen"))),
    _scored("T5", "Tokens cost at most 1 point against the way through pixels", _more_than("painted-0.5", "pixels"), above=-POINT),
    _scored("T6a", "Tokens are made more than 1.1 times as fast as pictures: images a second less 1.1 times those of pixels", ((_arm("tokens", "cost"), 1.0), (_arm("pixels", "cost"), -1.1)), "25 % faster (both abstracts)", metric="images_per_s"),
    _scored("T6b", "and so are painting and a training step together", ((_arm("tokens", "cost"), 1.0), (_arm("pixels", "cost"), -1.1)), "25 % faster, of this or of the former", metric="steps_per_s"),
    _scored("T6c", "and need less memory, in MiB", ((_arm("pixels", "cost"), 1.0), (_arm("tokens", "cost"), -1.0)), metric="peak_mib"),
    _scored("T7a", "Captions about all classes are better than as many about one class in ten", _more_than("all-classes", "one-class-in-ten")),
    _scored("T7b", "The score rises with the effective number of clusters exp(H) of the captions: their rank correlation is above 0", ((_arm("score-by-balance", "score-by-balance"), 1.0),), metric="spearman", points=4),
    _scored("T8", "A painter that learned from more pairs, uncontrolled, inflates the gain", _more_than("uncontrolled", "painted-0.5")),
    _scored("T9a", "Painted pairs alone are worse than a mix of a quarter", _more_than("painted-0.25", "painted-1")),
    _scored("T9b", "than a mix of a half", _more_than("painted-0.5", "painted-1")),
    _scored("T9c", "and than a mix of three quarters", _more_than("painted-0.75", "painted-1")),
)  # fmt: skip
