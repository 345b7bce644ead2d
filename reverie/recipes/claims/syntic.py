"""Claims of SynTIC (arXiv:2312.08865) about captioners from sentences alone, on simulated features and on the small world.

Numbers are those of docs/recipes/syntic.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from reverie.evaluate.claims import Claim, beats
from reverie.evaluate.simulated import STEPS, TEMPERATURES, SimulateSynTIC
from reverie.recipes.claims import Study, insert, replace, seeds_of
from reverie.recipes.syntic import MAIN, SIZES, slug
from reverie.recipes.syntic import syntic as recipe
from reverie.run.plan import Plan, Step

TEMPERATURE = 0.01
THIRDS = 3


def syntic(
    scale: Literal["tiny", "small"] = "tiny",
    seeds: int = 3,
    captions: Path | None = None,
    sentences: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    simulated: bool = False,
) -> Study:
    """Claims C1 to C8 about SynTIC, on simulated features and on the small world.

    Example: reverie claims syntic --scale tiny --seeds 3

    Args:
        scale: as in reverie run syntic.
        seeds: features are simulated and captioners trained once with 0, 1, ...
        captions: sentences to simulate features of, such as COCO captions; of the small world when left out.
        sentences: of the small world; as many as the scale says when left out.
        epochs: of training; as many as the scale says when left out.
        seed: of captions and images.
        simulated: the simulated features alone, in a minute.
    """
    from reverie.captions.corpus import FromCorpus
    from reverie.captions.scenes import FromScenes

    numbers, size = seeds_of(seeds), SIZES[scale]
    sentences = sentences or size.sentences
    corpus = FromCorpus(captions) if captions else FromScenes(2 * sentences)
    runs = {
        "simulated": Plan(
            recipe="claims/syntic/simulated", seed=seed, unit_size=500,
            steps=(Step("captions", corpus), Step("simulate", SimulateSynTIC(numbers, most=0 if captions else sentences), of=("captions",))),
        )
    }  # fmt: skip
    words = {"simulated": "features drawn from Gaussians, with ridge regression for a decoder"}
    claims = SIMULATED
    about = (
        "Simulated: sentences as words in a random subspace, features with offsets and noise of their own kind; the score is how well "
        "the words of the references of unseen photos are ranked."
    )
    if not simulated:
        main, cross = _smallworld(scale, sentences, epochs, numbers, seed)
        runs |= {"smallworld": main, "cross": cross}
        words |= {
            "smallworld": "all arms, on the small world",
            "cross": "sentences about 48 classes, photos of 16 others",
        }
        claims += SMALLWORLD
        about += (
            f" Small world: {sentences:,} sentences, one image of each by the builtin painter, decoders of equal size and training; CIDEr "
            "of greedy captions of 400 street photos, each with up to five references."
        )
    named = {name: dataclasses.replace(run, recipe=f"claims/syntic/{name}") for name, run in runs.items()}
    return Study(about, named, claims, words)


def _smallworld(
    scale: Literal["tiny", "small"], sentences: int, epochs: int | None, numbers: tuple[int, ...], seed: int
) -> tuple[Plan, Plan]:
    from reverie.captions.scenes import FromScenes
    from reverie.captions.support import MakeSupport
    from reverie.evaluate.captioned import held_classes
    from reverie.evaluate.captioning import Asked, MeasureCaptions
    from reverie.learn.refine import Refine, RefineFeatures

    rivals: Any = ("capdec", "close", "decap", "viecap")
    main = recipe(
        scale,
        sentences=sentences,
        epochs=epochs,
        rivals=rivals,
        seeds=numbers,
        refine_guard=False,
        meteor=False,
        seed=seed,
    )
    train: Any = main.step(MAIN).stage
    shows = train.shows
    plain = {"tags": "none", "learns_projected": False, "asked_projected": False}
    arms = {
        "refined features": dataclasses.replace(shows, **plain),
        "tags of other images": dataclasses.replace(shows, shuffle_tags=True),
        "own sentence hidden": dataclasses.replace(shows, exclude_self="caption"),
    }
    for temperature in TEMPERATURES:
        if temperature != TEMPERATURE:
            arms[f"temperature {temperature:g}"] = dataclasses.replace(shows, temperature=temperature)
    more = [
        Step(
            slug(name, number), dataclasses.replace(train, shows=shown, seed=number), of=("paint", "support", "refine")
        )
        for name, shown in arms.items()
        for number in numbers
    ]
    main = insert(main, more, before="measure")
    measure: Any = main.step("measure")
    asked = (*measure.stage.arms, *(Asked(name, slug(name, number), number) for name in arms for number in numbers))
    main = replace(
        main,
        "measure",
        stage=dataclasses.replace(measure.stage, arms=asked),
        of=(*measure.of, *(step.name for step in more)),
    )
    align: Any = main.step("alignment")
    over = [
        Step(
            f"refine-{steps}", RefineFeatures("support", Refine(steps, guard=False, seed=seed)), of=("paint", "support")
        )
        for steps in STEPS
    ]
    main = insert(main, over, before="alignment")
    main = replace(
        main,
        "alignment",
        stage=dataclasses.replace(
            align.stage,
            parts=THIRDS,
            more=tuple((step.name, f"{steps} steps") for step, steps in zip(over, STEPS, strict=True)),
        ),
        of=(*align.of, *(step.name for step in over)),
    )
    known, held = held_classes()
    cross = recipe(
        scale,
        sentences=sentences,
        epochs=epochs,
        parts=False,
        photos="smallworld:street:400:held",
        seeds=numbers,
        refine_guard=False,
        meteor=False,
        seed=seed,
    )
    cross = replace(cross, "captions", stage=FromScenes(sentences, known, without=held))
    target = Step(
        "target-support", MakeSupport(SIZES[scale].clip, source=FromScenes(sentences, held)), of=("captions",)
    )
    cross = insert(cross, [target], before="measure")
    measured: Any = cross.step("measure")
    both = tuple(
        Asked(name, arm.weights, arm.seed, support)
        for arm in measured.stage.arms
        for name, support in (("source support", None), ("target support", "target-support"))
    )
    cross = replace(
        cross, "measure", stage=dataclasses.replace(measured.stage, arms=both), of=(*measured.of, "target-support")
    )
    assert isinstance(measured.stage, MeasureCaptions)
    return main, cross


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
