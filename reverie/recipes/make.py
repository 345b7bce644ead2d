"""Captions and images in bulk, with scores and a selection, for use outside of reverie or in another run.

    reverie make --captions captions.txt --painter stable-diffusion-v1-5/stable-diffusion-v1-5 --clip openai/clip-vit-base-patch32

Stop it at any time and run the same command again; give an array of jobs --part 1/16, --part 2/16, ...
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from reverie.recipes.options import BUILTIN_TOKENS, KEPT, KEPT_TOKENS, CaptionSource, Painting, clip_default, clip_for
from reverie.run.plan import Plan, Step
from reverie.settings import flat
from reverie.stage import UnitStage

PUBLIC_STEPS = 20  # of public painters; the builtin one was taught at fewer
OTHER_TOKENS = Painting(guidance=3.0, sampler_steps=8)


@dataclass(frozen=True)
class MakeConfig:
    """Settings of captions and images in bulk."""

    text: CaptionSource = CaptionSource()
    paint: Painting = Painting(scheduler=None)
    # pixels, or tokens: ids of a codebook by an aMUSEd pipeline, 512 bytes for an image of 256 ids
    as_: Annotated[Literal["pixels", "tokens"], tyro.conf.arg(name="as")] = "pixels"
    clip: str | None = "builtin:clip"  # CLIP or SigLIP model that images are judged by; none when absent
    # captioner that says what every image shows, in columns beside its text: builtin:describer, a folder or the Hub id of an image-text-to-text
    # model, openai:MODEL@URL, or a run of syntic, synth2 or recap; none when absent
    captioner: str | None = None
    # search for images that repeat another one, to leave them out; there is no column duplicate_of without it
    duplicates: bool = True
    # what is kept, in SQL over the columns of the pairs; clip_score is one if there is a CLIP model
    keep: str = KEPT[True]
    unit_size: int = 100  # captions in one commit
    seed: int = 0  # random seed of the run

    def following(self, usual: MakeConfig) -> dict[str, Any]:
        """No CLIP model by default for a public painter; nothing is kept by what was not looked for; more steps of a public painter of
        pixels; tokens by their painter, in steps and under guidance of its own where it is the builtin one.
        """
        tokens, paint = self.as_ == "tokens", usual.paint
        builtin = self.paint.is_builtin
        sampled = paint if not tokens else BUILTIN_TOKENS if builtin else OTHER_TOKENS
        steps = sampled.sampler_steps if tokens or builtin else PUBLIC_STEPS
        return {
            "painter": BUILTIN_TOKENS.painter if tokens else paint.painter,
            "guidance": sampled.guidance,
            "sampler_steps": steps,
            "clip": clip_default(self.paint.painter, usual.clip),
            "keep": KEPT_TOKENS[self.duplicates] if tokens else usual.keep if self.duplicates else KEPT[False],
        }


def make(config: MakeConfig = MakeConfig()) -> Plan:
    """Captions -> images, scores and a selection, in a store that other tools can read.

    Example: reverie make --captions captions.txt --out runs/mine
    Example: reverie make --captions captions.txt --as tokens --out runs/tokens
    """
    from reverie.filters.blank import Blank
    from reverie.filters.clip_score import ClipScore
    from reverie.filters.duplicates import Duplicates, ImageHash
    from reverie.filters.keep import Keep, check_rule
    from reverie.filters.tokens import Decoded, TokenHash
    from reverie.recaption.describe import Describe, DescribeSpeed

    first = config.text.stage()
    clip = clip_for(config.paint.painter, config.clip)
    tokens = config.as_ == "tokens"

    def seen(stage: UnitStage) -> UnitStage:
        """A filter that looks at pictures, for what is painted."""
        return Decoded(stage, config.paint.painter) if tokens else stage

    # Ids that are all one are dropped by who paints them, and equal ids are equal pictures: neither needs to be seen.
    columns = [] if tokens else [Step("blank", Blank(), inputs=("paint",))]
    if config.duplicates:
        columns.append(Step("hash", TokenHash() if tokens else ImageHash(), inputs=("paint",)))
    if clip:
        columns.insert(0, Step("clip_score", seen(ClipScore(clip)), inputs=("paint",)))
    if config.captioner:
        described = Path(config.captioner) if Path(config.captioner).exists() else config.captioner
        columns.append(
            Step(
                "describe",
                seen(Describe(described, speed=DescribeSpeed(parallel=config.text.written.in_flight))),
                inputs=("paint",),
            )
        )
    compared = [Step("duplicates", Duplicates(near=not tokens), inputs=("hash",))] if config.duplicates else []
    check_rule(config.keep, *(step.stage for step in (*compared, *columns)))
    return Plan(
        recipe="make",
        seed=config.seed,
        unit_size=config.unit_size,
        arguments=flat(config),
        steps=(
            Step("captions", first),
            Step("paint", config.paint.token_stage() if tokens else config.paint.stage(), inputs=("captions",)),
            *columns,
            *compared,
            Step("keep", Keep(config.keep), inputs=tuple(step.name for step in (*compared, *columns)) or ("paint",)),
        ),
    )
