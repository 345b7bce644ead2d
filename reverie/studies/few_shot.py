"""Claims of arXiv:2210.07574 about classifiers from class names and a few photos.

Numbers are those of docs/recipes/few_shot.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reverie.evaluate.claims import Claim, beats, gains_more
from reverie.recipes import few_shot as recipe
from reverie.run.plan import Plan
from reverie.settings import change, resolve
from reverie.studies import Study, StudyConfig, in_tables, named

PHOTOS = "smallworld:street:1024:6400"  # shots are taken of the train photos
FEW, MANY = 1, 4  # shots of each class
LEVELS = (1.0, 0.853, 0.708, 0.0)  # sqrt(abar): copies; the paper's for four shots and for one; no guidance


@dataclass(frozen=True)
class FewShotStudy(StudyConfig):
    """Settings of a study of few-shot classifiers."""

    per_class: int = 4  # captions for each class, where they are written from class names


TINY = FewShotStudy()
SCALES = {"tiny": TINY, "small": replace(TINY, scale="small", per_class=24)}


def few_shot(config: FewShotStudy = TINY) -> Study:
    """Claims 7, 8 and 9 about few-shot classifiers, on the small world.

    Example: reverie claims few_shot --scale tiny --num-seeds 3
    """
    usual = recipe.SCALES[config.scale]
    shared = {
        "num_shots": (FEW, MANY), "per_class": config.per_class, "shots_from": PHOTOS, "seed": config.seed,
    }  # fmt: skip
    kinds = {
        "strategies": resolve(usual, shared | {"orders": ("mixed", "painted-first", "shots-first")}),
        "levels": resolve(usual, shared | {"strategies": ("guided",), "levels": LEVELS}),
    }
    words = {"strategies": "all strategies and orders", "levels": "real guidance at four noise levels"}
    # A run paints from the shots of all its seeds in one table. In runs of further seeds the captions, and what is painted of them from
    # noise, are the same again.
    runs: dict[str, Plan] = {}
    continues: dict[str, str] = {}
    for seeds in in_tables(config.num_seeds):
        for kind, own in kinds.items():
            name = f"{kind}-seed-{seeds[0]}" if seeds[0] else kind
            runs[name] = recipe.few_shot(change(own, seeds=seeds))
            if name != kind:
                continues[name], words[name] = kind, f"{words[kind]}, seed {seeds[0]}"
    about = (
        f"{FEW} and {MANY} street photos of each class of the small world, {config.per_class * usual.paint.per_caption} images of each class "
        "painted in each way, of which all arms keep as many; a linear classifier on the builtin CLIP. Every arm sees as many "
        "shots and as many painted images as any other; one after the other they take twice the steps. Measured on 6,400 "
        "other street photos."
    )
    return Study(about, named("few_shot", config, runs), CLAIMS, words, continues)


def _arm(strategy: str, shots: int = MANY, order: str | None = "mixed", level: float | None = None) -> str:
    run = "strategies" if level is None else "levels"
    return f"{run}/measure-{shots}/{recipe.arm_id(shots, strategy, order, level)}"


def _alone(shots: int = MANY) -> str:
    return _arm("shots-alone", shots, None)


def _claim(name: str, says: str, paper: str, terms: tuple[tuple[str, float], ...], above: float = 0.0) -> Claim:
    return Claim(name, says, paper, terms, "top1", above=above)


GUIDED, BEST, MORE_NOISE = "guided", 0.853, 0.708
CLAIMS = (
    _claim("7a", "With 1 shot, painted images help", "+9.6 (EuroSAT)", beats(_arm(GUIDED, FEW), _alone(FEW))),
    _claim("7b", "and with 4 shots they do", "+5.4", beats(_arm(GUIDED), _alone())),
    _claim(
        "7c", "The more shots, the less they help", "+9.6 to +2.7",
        gains_more(_arm(GUIDED, FEW), _alone(FEW), _arm(GUIDED), _alone()),
    ),
    _claim("8a", "Real guidance beats real filtering", "88.47 and 87.33", beats(_arm(GUIDED), _arm("filter"))),
    _claim(
        "8b", "Real filtering is no worse than the basic strategy (by 1 point or more)", "87.33 and 87.10",
        beats(_arm("filter"), _arm("basic")), above=-0.01,
    ),
    _claim(
        "8c", "Real guidance has its best level inside: the paper's level beats copies of the shots", "",
        beats(_arm(GUIDED, level=BEST), _arm(GUIDED, level=1.0)),
    ),
    _claim(
        "8d", "and beats no guidance", "", beats(_arm(GUIDED, level=BEST), _arm(GUIDED, level=0.0)),
    ),
    _claim(
        "8e", "The more shots, the less noise is best: 0.853 over 0.708 is worth more with 4 shots than with 1", "0.973 for 16 shots, 0.708 for 1",
        gains_more(
            _arm(GUIDED, level=BEST), _arm(GUIDED, level=MORE_NOISE),
            _arm(GUIDED, FEW, level=BEST), _arm(GUIDED, FEW, level=MORE_NOISE),
        ),
    ),
    _claim(
        "9a", "Mixed training beats painted images first, then shots", "", beats(_arm(GUIDED), _arm(GUIDED, order="painted-first"))
    ),
    _claim("9b", "and shots first, then painted images", "", beats(_arm(GUIDED), _arm(GUIDED, order="shots-first"))),
    _claim(
        "9c", "Painted images first beats shots first (expected, not confirmed by the paper)", "",
        beats(_arm(GUIDED, order="painted-first"), _arm(GUIDED, order="shots-first")),
    ),
)  # fmt: skip
