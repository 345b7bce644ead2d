"""Claims of SynTIC (arXiv:2312.08865) about captioners from sentences alone, on simulated features and on the small world.

Numbers are those of docs/recipes/syntic.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reverie.arms import Arm, Factor
from reverie.evaluate.claims import Claim, beats
from reverie.recipes import syntic as recipe
from reverie.run.plan import Plan, Step
from reverie.settings import resolve
from reverie.studies import Study, StudyConfig, named, seeds_of
from reverie.studies.syntic_simulation import STEPS, TEMPERATURES, SimulateSynTIC, refined

TEMPERATURE = 0.01
THIRDS = 3


@dataclass(frozen=True)
class SynticStudy(StudyConfig):
    """Settings of a study of SynTIC."""

    # file of captions (text, CSV, TSV, JSONL, COCO JSON or parquet), or the folder of a finished run or an import; to simulate
    # features of, those of the small world when absent
    captions: Path | None = None
    sentences: int = 1280  # sentences about the small world to learn from, where no captions are given
    epochs: int = 6  # passes over the examples of training
    simulated: bool = False  # the simulated features alone, in a minute


TINY = SynticStudy()
SCALES = {"tiny": TINY, "small": replace(TINY, scale="small", sentences=12800, epochs=20)}


def syntic(config: SynticStudy = TINY) -> Study:
    """Claims C1 to C8 about SynTIC, on simulated features and on the small world.

    Example: reverie claims syntic --scale tiny --num-seeds 3
    """
    from reverie.captions.corpus import ReadCorpus
    from reverie.captions.scenes import FromScenes

    numbers, sentences = seeds_of(config.num_seeds), config.sentences
    corpus = ReadCorpus(config.captions) if config.captions else FromScenes(2 * sentences)
    simulate = SimulateSynTIC(numbers, max_sentences=0 if config.captions else sentences)
    runs = {
        "simulated": Plan(
            recipe="claims/syntic/simulated", seed=config.seed, unit_size=500,
            steps=(Step("captions", corpus), Step("simulate", simulate, inputs=("captions",))),
        )
    }  # fmt: skip
    words = {"simulated": "features drawn from Gaussians, with ridge regression for a decoder"}
    claims = SIMULATED
    about = (
        "Simulated: sentences as words in a random subspace, features with offsets and noise of their own kind; the score is how well "
        "the words of the references of unseen photos are ranked."
    )
    if not config.simulated:
        usual = recipe.SCALES[config.scale]
        shared = {
            "sentences": sentences, "epochs": config.epochs, "seeds": numbers, "refine_guard": False, "meteor": False,
            "seed": config.seed,
        }  # fmt: skip
        main = resolve(usual, shared | {"rivals": ("capdec", "close", "decap", "viecap")})
        cross = resolve(usual, shared | {"parts": False, "eval_data": "smallworld:street:400:held"})
        runs |= {"smallworld": _smallworld(main), "cross": _cross(cross)}
        words |= {
            "smallworld": "all arms, on the small world",
            "cross": "sentences about 48 classes, photos of 16 others",
        }
        claims += SMALLWORLD
        about += (
            f" Small world: {sentences:,} sentences, one image of each by the builtin painter, decoders of equal size and training; CIDEr "
            "of greedy captions of 400 street photos, each with up to five references."
        )
    return Study(about, named("syntic", config, runs), claims, words)


def arms(config: recipe.SynticConfig) -> dict[Arm, Any]:
    """The recipe's arms, and more that differ from SynTIC in one thing each."""
    shows = recipe.shown(config)
    plain: dict[str, Any] = {"tags": "none", "learns_projected": False, "asked_projected": False}
    more = {
        _variant("refined-features", "refined features", without="projection and tags"): replace(shows, **plain),
        _variant("tags-of-other-images", "tags of other images", shuffle_tags=True): replace(shows, shuffle_tags=True),
        _variant("own-sentence-hidden", "own sentence hidden", exclude_self="caption"): replace(
            shows, exclude_self="caption"
        ),
    }
    for temperature in TEMPERATURES:
        if temperature != TEMPERATURE:
            other = _variant(f"temperature-{temperature:g}", f"temperature {temperature:g}", temperature=temperature)
            more[other] = replace(shows, temperature=temperature)
    return recipe.arms(config) | {arm: recipe.learning(config, each) for arm, each in more.items()}


def _variant(name: str, label: str, **factors: Factor) -> Arm:
    """SynTIC with one thing changed."""
    return Arm(name, label, factors={"method": "syntic", **factors})


def _smallworld(config: recipe.SynticConfig) -> Plan:
    """All arms, and refinement for other numbers of passes."""
    from reverie.learn.refine import Refine, RefineFeatures
    from reverie.report.page import WritePage

    training = recipe.trained(config, arms(config))
    over = {
        refined(steps, f"refine-{steps}"): RefineFeatures("support", Refine(steps, guard=False, seed=config.seed))
        for steps in STEPS
    }
    names = tuple(f"refine-{steps}" for steps in STEPS)
    align = recipe.alignment(config, parts=THIRDS, more=tuple(over))
    return Plan(
        recipe="syntic",
        seed=config.seed,
        unit_size=config.unit_size,
        steps=(
            *recipe.painted(config),
            *training.values(),
            Step("measure", config.photos.stage(training), inputs=tuple(step.name for step in training.values())),
            *(Step(name, stage, inputs=("paint", "support")) for name, stage in zip(names, over.values(), strict=True)),
            Step("alignment", align, inputs=("support", "refine", *names)),
            Step("page", WritePage(), inputs=("measure", "alignment")),
        ),
    )


def _cross(config: recipe.SynticConfig) -> Plan:
    """SynTIC from sentences about other classes than those of the photos, asked with the support of either."""
    from reverie.captions.scenes import FromScenes
    from reverie.datasets.captioned import held_classes
    from reverie.learn.make_support_set import MakeSupport
    from reverie.report.page import WritePage

    known, held = held_classes()
    training = recipe.trained(config, recipe.arms(config))
    target = MakeSupport(config.clip, source=FromScenes(config.sentences, held))
    both = [
        Arm(f"{domain}-support", f"{domain} support", arm.seed, arm.step, factors)
        for arm in training
        for domain, factors in (("source", {}), ("target", {"support": "target-support"}))
    ]
    return Plan(
        recipe="syntic",
        seed=config.seed,
        unit_size=config.unit_size,
        steps=(
            *recipe.painted(config, FromScenes(config.sentences, known, without=held)),
            *training.values(),
            Step("target-support", target, inputs=("captions",)),
            Step(
                "measure",
                config.photos.stage(both),
                inputs=(*(step.name for step in training.values()), "target-support"),
            ),
            Step("alignment", recipe.alignment(config), inputs=("support", "refine")),
            Step("page", WritePage(), inputs=("measure", "alignment")),
        ),
    )


def _simulated(name: str) -> str:
    return f"simulated/simulate/{name}"


def _measured(name: str) -> str:
    return f"smallworld/measure/{name}"


def _aligned(name: str) -> str:
    return f"smallworld/alignment/{name}"


def _both(number: str, says: str, better: str, worse: str, **how: Any) -> tuple[Claim, Claim]:
    """A claim about two arms that both tiers have: first on simulated features."""
    small = how.pop("small", (better, worse))
    return (
        Claim(f"S-{number}", says, "", beats(_simulated(better), _simulated(worse)), "mean_average_precision", **how),
        Claim(number, says, "", beats(_measured(small[0]), _measured(small[1])), "cider_d", **how),
    )


def _in_order(*claims: Claim) -> tuple[Claim, ...]:
    return tuple(sorted(claims, key=lambda claim: claim.name))


_PAIRS = (
    _both("C1a", "Learning from text features and being asked about photos is worse than from painted ones", "painted-features", "text-features"),
    _both("C1b", "and than with CapDec's noise", "capdec", "text-features"),
    _both("C1c", "and than with CLOSE's noise", "close", "text-features"),
    _both("C1d", "and than with DeCap's projection", "decap", "text-features"),
    _both("C2", "Refined features are better than painted ones", "refined-features", "painted-features"),
    _both("C4b", "Projection makes better captions", "syntic", "without-projection"),
    _both("C5a", f"Temperature {TEMPERATURE} is better than {min(TEMPERATURES)}", f"temperature-{TEMPERATURE}", f"temperature-{min(TEMPERATURES)}", small=("syntic", f"temperature-{min(TEMPERATURES)}")),
    _both("C5b", f"and than {max(TEMPERATURES)}", f"temperature-{TEMPERATURE}", f"temperature-{max(TEMPERATURES)}", small=("syntic", f"temperature-{max(TEMPERATURES)}")),
    _both("C5d", "The best temperature lies inside: 0.005 is better than 0.001", "temperature-0.005", "temperature-0.001"),
    _both("C5e", "and 0.05 is better than 0.2", "temperature-0.05", "temperature-0.2"),
    _both("C6a", "Tags add to projection", "syntic", "without-tags"),
    _both("C6b", "Control: tags of other images are worse than none", "without-tags", "tags-of-other-images", control=True),
    _both("C7a", "All of SynTIC is better than without refinement", "syntic", "without-refinement"),
)  # fmt: skip
SIMULATED = _in_order(
    *(first for first, _ in _PAIRS),
    Claim("S-C3a", "50 passes of refinement raise retrieval of the own sentence", "", beats(_simulated("steps-50"), _simulated("steps-0")), "recall_at_1"),
    Claim("S-C3b", "and bring features nearer to the centroid of photos", "", beats(_simulated("steps-0"), _simulated("steps-best-inside")), "centroid_distance"),
    Claim("S-C3c", "but 1,000 passes take them away again", "", beats(_simulated("steps-1000"), _simulated("steps-best-inside")), "centroid_distance"),
    Claim("S-C4a", "Projection lowers the discrepancy between what is learned from and asked about", "", beats(_simulated("refined-features"), _simulated("without-tags")), "mmd"),
    Claim("S-C5c", "At a high temperature answers are less diverse", "", beats(_simulated("temperature-0.01"), _simulated("temperature-0.2")), "distinct"),
    Claim("S-C8", "Support of the target domain helps there, without training", "", beats(_simulated("target-support"), _simulated("source-support")), "mean_average_precision"),
)  # fmt: skip
SMALLWORLD = _in_order(
    *(second for _, second in _PAIRS),
    Claim("C1e", "and than with ViECap's noise and prompt", "", beats(_measured("viecap"), _measured("text-features")), "cider_d"),
    Claim("C3a", "50 passes of refinement raise retrieval of the own sentence", "", beats(_aligned("steps-50"), _aligned("steps-0")), "recall_at_1"),
    Claim("C3b", "and bring features nearer to the centroid of photos", "", beats(_aligned("steps-0"), _aligned("steps-50")), "centroid_distance"),
    Claim("C3c", "but 1,000 passes take them away again", "", beats(_aligned("steps-1000"), _aligned("steps-50")), "centroid_distance"),
    Claim("C4a", "Projection lowers the discrepancy between what is learned from and asked about", "", beats(_aligned("refined"), _aligned("refined-projected")), "mmd"),
    Claim("C4c", "Not the paper's: hiding a picture's own sentence from its projection makes better captions", "", beats(_measured("own-sentence-hidden"), _measured("syntic")), "cider_d"),
    Claim("C5c", "At a high temperature captions are less diverse", "", beats(_measured("syntic"), _measured("temperature-0.2")), "distinct"),
    Claim("C6c", "Tags add more than those of other images do", "", beats(_measured("syntic"), _measured("tags-of-other-images")), "cider_d"),
    Claim("C7b", "and better than DeCap, the nearest rival", "", beats(_measured("syntic"), _measured("decap")), "cider_d"),
    Claim("C8", "Support of the target domain helps there, without training", "", beats("cross/measure/target-support", "cross/measure/source-support"), "cider_d"),
)  # fmt: skip
