"""Claims of SynTIC (arXiv:2312.08865) about captioners from sentences alone, on simulated features and on the small world.

Numbers are those of docs/recipes/syntic.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reverie.evaluate.claims import Claim, beats
from reverie.recipes import syntic as recipe
from reverie.recipes.options import SmallScale
from reverie.run.plan import Plan, Step
from reverie.settings import resolve
from reverie.studies import Study, named, seeds_of
from reverie.studies.syntic_simulation import STEPS, TEMPERATURES, SimulateSynTIC

TEMPERATURE = 0.01
THIRDS = 3


@dataclass(frozen=True)
class SynticStudy:
    """Settings of a study of SynTIC."""

    scale: SmallScale = "tiny"  # size of everything that is left out; tiny runs on a CPU in minutes
    num_seeds: int = 3  # number of seeds of training, 0, 1, ..., each of which trains all arms once
    # file of captions: text, CSV, TSV, JSONL, COCO JSON or parquet; to simulate features of, those of the small world
    # when absent
    captions: Path | None = None
    sentences: int = 1280  # sentences about the small world to learn from, where no captions are given
    epochs: int = 6  # passes over the examples of training
    simulated: bool = False  # the simulated features alone, in a minute
    seed: int = 0  # seed of captions, images, and whatever else is drawn but training


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
    simulate = SimulateSynTIC(numbers, most=0 if config.captions else sentences)
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


def arms(config: recipe.SynticConfig) -> dict[str, Any]:
    """The recipe's arms, and more that differ from SynTIC in one thing each."""
    shows = recipe.shown(config)
    plain: dict[str, Any] = {"tags": "none", "learns_projected": False, "asked_projected": False}
    more = {
        "refined features": replace(shows, **plain),
        "tags of other images": replace(shows, shuffle_tags=True),
        "own sentence hidden": replace(shows, exclude_self="caption"),
    }
    for temperature in TEMPERATURES:
        if temperature != TEMPERATURE:
            more[f"temperature {temperature:g}"] = replace(shows, temperature=temperature)
    return recipe.arms(config) | {name: recipe.learning(config, each) for name, each in more.items()}


def _smallworld(config: recipe.SynticConfig) -> Plan:
    """All arms, and refinement for other numbers of passes."""
    from reverie.learn.refine import Refine, RefineFeatures
    from reverie.report.page import WritePage

    training, asked = recipe.trained(config, arms(config))
    over = {
        f"refine-{steps}": RefineFeatures("support", Refine(steps, guard=False, seed=config.seed)) for steps in STEPS
    }
    more = tuple((name, f"{steps} steps") for name, steps in zip(over, STEPS, strict=True))
    align = recipe.alignment(config, parts=THIRDS, more=more)
    return Plan(
        recipe="syntic",
        seed=config.seed,
        unit_size=config.unit_size,
        steps=(
            *recipe.painted(config),
            *training,
            Step("measure", recipe.measure(config, asked), inputs=tuple(item.weights for item in asked)),
            *(Step(name, stage, inputs=("paint", "support")) for name, stage in over.items()),
            Step("alignment", align, inputs=("support", "refine", *over)),
            Step("page", WritePage(), inputs=("measure", "alignment")),
        ),
    )


def _cross(config: recipe.SynticConfig) -> Plan:
    """SynTIC from sentences about other classes than those of the photos, asked with the support of either."""
    from reverie.captions.scenes import FromScenes
    from reverie.datasets.captioned import held_classes
    from reverie.evaluate.captioning import Asked
    from reverie.learn.make_support_set import MakeSupport
    from reverie.report.page import WritePage

    known, held = held_classes()
    training, asked = recipe.trained(config, recipe.arms(config))
    target = MakeSupport(config.clip, source=FromScenes(config.sentences, held))
    both = [
        Asked(name, arm.weights, arm.seed, support)
        for arm in asked
        for name, support in (("source support", None), ("target support", "target-support"))
    ]
    return Plan(
        recipe="syntic",
        seed=config.seed,
        unit_size=config.unit_size,
        steps=(
            *recipe.painted(config, FromScenes(config.sentences, known, without=held)),
            *training,
            Step("target-support", target, inputs=("captions",)),
            Step("measure", recipe.measure(config, both), inputs=(*(item.weights for item in asked), "target-support")),
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
        Claim(f"S-{number}", says, "", beats(_simulated(better), _simulated(worse)), "precision", **how),
        Claim(number, says, "", beats(_measured(small[0]), _measured(small[1])), "cider_d", **how),
    )


def _in_order(*claims: Claim) -> tuple[Claim, ...]:
    return tuple(sorted(claims, key=lambda claim: claim.name))


_PAIRS = (
    _both("C1a", "Learning from text features and being asked about photos is worse than from painted ones", "painted features", "text features"),
    _both("C1b", "and than with CapDec's noise", "CapDec", "text features", small=("capdec", "text features")),
    _both("C1c", "and than with CLOSE's noise", "CLOSE", "text features", small=("close", "text features")),
    _both("C1d", "and than with DeCap's projection", "DeCap", "text features", small=("decap", "text features")),
    _both("C2", "Refined features are better than painted ones", "refined features", "painted features"),
    _both("C4b", "Projection makes better captions", "SynTIC", "without projection"),
    _both("C5a", f"Temperature {TEMPERATURE} is better than {min(TEMPERATURES)}", f"temperature {TEMPERATURE}", f"temperature {min(TEMPERATURES)}", small=("SynTIC", f"temperature {min(TEMPERATURES)}")),
    _both("C5b", f"and than {max(TEMPERATURES)}", f"temperature {TEMPERATURE}", f"temperature {max(TEMPERATURES)}", small=("SynTIC", f"temperature {max(TEMPERATURES)}")),
    _both("C5d", "The best temperature lies inside: 0.005 is better than 0.001", "temperature 0.005", "temperature 0.001"),
    _both("C5e", "and 0.05 is better than 0.2", "temperature 0.05", "temperature 0.2"),
    _both("C6a", "Tags add to projection", "SynTIC", "without tags"),
    _both("C6b", "Control: tags of other images are worse than none", "without tags", "tags of other images", control=True),
    _both("C7a", "All of SynTIC is better than without refinement", "SynTIC", "without refinement"),
)  # fmt: skip
SIMULATED = _in_order(
    *(first for first, _ in _PAIRS),
    Claim("S-C3a", "50 passes of refinement raise retrieval of the own sentence", "", beats(_simulated("50 steps"), _simulated("0 steps")), "R@1"),
    Claim("S-C3b", "and bring features nearer to the centroid of photos", "", beats(_simulated("0 steps"), _simulated("best inside")), "distance"),
    Claim("S-C3c", "but 1,000 passes take them away again", "", beats(_simulated("1000 steps"), _simulated("best inside")), "distance"),
    Claim("S-C4a", "Projection lowers the discrepancy between what is learned from and asked about", "", beats(_simulated("refined features"), _simulated("without tags")), "MMD"),
    Claim("S-C5c", "At a high temperature answers are less diverse", "", beats(_simulated("temperature 0.01"), _simulated("temperature 0.2")), "distinct"),
    Claim("S-C8", "Support of the target domain helps there, without training", "", beats(_simulated("target support"), _simulated("source support")), "precision"),
)  # fmt: skip
SMALLWORLD = _in_order(
    *(second for _, second in _PAIRS),
    Claim("C1e", "and than with ViECap's noise and prompt", "", beats(_measured("viecap"), _measured("text features")), "cider_d"),
    Claim("C3a", "50 passes of refinement raise retrieval of the own sentence", "", beats(_aligned("50 steps"), _aligned("0 steps")), "R@1"),
    Claim("C3b", "and bring features nearer to the centroid of photos", "", beats(_aligned("0 steps"), _aligned("50 steps")), "distance of centroids"),
    Claim("C3c", "but 1,000 passes take them away again", "", beats(_aligned("1000 steps"), _aligned("50 steps")), "distance of centroids"),
    Claim("C4a", "Projection lowers the discrepancy between what is learned from and asked about", "", beats(_aligned("refined"), _aligned("refined, projected")), "MMD"),
    Claim("C4c", "Not the paper's: hiding a picture's own sentence from its projection makes better captions", "", beats(_measured("own sentence hidden"), _measured("SynTIC")), "cider_d"),
    Claim("C5c", "At a high temperature captions are less diverse", "", beats(_measured("SynTIC"), _measured("temperature 0.2")), "distinct"),
    Claim("C6c", "Tags add more than those of other images do", "", beats(_measured("SynTIC"), _measured("tags of other images")), "cider_d"),
    Claim("C7b", "and better than DeCap, the nearest rival", "", beats(_measured("SynTIC"), _measured("decap")), "cider_d"),
    Claim("C8", "Support of the target domain helps there, without training", "", beats("cross/measure/target support", "cross/measure/source support"), "cider_d"),
)  # fmt: skip
