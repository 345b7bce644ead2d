"""Captions and images in bulk, with scores and a selection, for use outside of reverie or in another run.

    reverie make --captions captions.txt --painter stable-diffusion-v1-5/stable-diffusion-v1-5 --clip openai/clip-vit-base-patch32

Stop it at any time and run the same command again; give an array of jobs --part 1/16, --part 2/16, ...
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.recipes.options import KEPT, CaptionSource, Painting, clip_default, clip_for
from reverie.run.plan import Plan, Step
from reverie.settings import flat


@dataclass(frozen=True)
class MakeConfig:
    """Settings of captions and images in bulk."""

    text: CaptionSource = CaptionSource()
    paint: Painting = Painting(sampler_steps=20, scheduler=None)
    clip: str | None = "builtin:clip"  # CLIP or SigLIP model that images are judged by; none when absent
    # captioner that says what every image shows, in the column caption_short beside its text: a run of syntic, or its weights; none
    # when absent
    captioner: Path | None = None
    # search for images that repeat another one, to leave them out; there is no column duplicate_of without it
    duplicates: bool = True
    # what is kept, in SQL over the columns of the pairs; clip_score is one if there is a CLIP model
    keep: str = KEPT[True]
    unit_size: int = 100  # captions in one commit
    seed: int = 0  # random seed of the run

    def following(self, usual: MakeConfig) -> dict[str, Any]:
        """No CLIP model by default for a public painter; nothing is kept by what was not looked for."""
        return {
            "clip": clip_default(self.paint.painter, usual.clip),
            "keep": usual.keep if self.duplicates else KEPT[False],
        }


def make(config: MakeConfig = MakeConfig()) -> Plan:
    """Captions -> images, scores and a selection, in a store that other tools can read.

    Example: reverie make --captions captions.txt --out runs/mine
    """
    from reverie.filters.blank import Blank
    from reverie.filters.clip_score import ClipScore
    from reverie.filters.duplicates import Duplicates, ImageHash
    from reverie.filters.keep import Keep, check_rule
    from reverie.recaption.describe import Describe

    first = config.text.stage()
    clip = clip_for(config.paint.painter, config.clip)
    columns = [Step("blank", Blank(), inputs=("paint",))]
    if config.duplicates:
        columns.append(Step("hash", ImageHash(), inputs=("paint",)))
    if clip:
        columns.insert(0, Step("clip_score", ClipScore(clip), inputs=("paint",)))
    if config.captioner:
        columns.append(Step("describe", Describe(config.captioner), inputs=("paint",)))
    compared = [Step("duplicates", Duplicates(), inputs=("hash",))] if config.duplicates else []
    check_rule(config.keep, *(step.stage for step in (*compared, *columns)))
    return Plan(
        recipe="make",
        seed=config.seed,
        unit_size=config.unit_size,
        arguments=flat(config),
        steps=(
            Step("captions", first),
            Step("paint", config.paint.stage(), inputs=("captions",)),
            *columns,
            *compared,
            Step("keep", Keep(config.keep), inputs=tuple(step.name for step in (*compared, *columns))),
        ),
    )
