"""Sentences about random scenes of the small world, which are not rendered: a corpus for those who have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie import pairs, seeds
from reverie.errors import InputError
from reverie.stage import SourceStage, StepContext, Worker


@dataclass(frozen=True)
class FromScenes(SourceStage):
    """One sentence about each of ``count`` scenes, most in the style ``human``, one in five ``short``.

    The scenes are those of ``smallworld/photos.py`` with another seed, so no photo shows one of them.
    """

    writes: ClassVar[Literal["captions"]] = "captions"

    count: int
    classes: tuple[str, ...] = ()  # what the first thing of a scene may be; any when empty
    without: tuple[str, ...] = ()  # what no thing of a scene is

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"a corpus of {self.count} sentences is empty; give 1 or more")
        if set(self.classes) & set(self.without):
            raise InputError("no scene can begin with a thing that no scene may hold")

    def open(self, context: StepContext) -> Worker:
        """Draw the scenes."""
        from reverie.smallworld.describe import describe
        from reverie.smallworld.scene import sample

        def write(wanted: pa.Table) -> pa.Table:
            rows: list[dict[str, Any]] = []
            for unit, position in zip(wanted["unit"].to_pylist(), wanted["position"].to_pylist(), strict=True):
                seed = seeds.derive("scene in words", context.seed, position)
                rng = np.random.default_rng(seed)
                first = str(rng.choice(self.classes)) if self.classes else None
                scene = sample(rng, first=first)
                while any(thing.name in self.without for thing in scene.things):
                    scene = sample(rng, first=first)
                text = describe(scene, "short" if rng.random() < 0.2 else "human", rng)
                rows.append(
                    {
                        "caption_id": pairs.caption_id(context.seed, "scene", position),
                        "unit": unit,
                        "text": text,
                        "label": scene.things[0].name,
                        "source": f"scene: {position}",
                        "seed": seed,
                        "status": pairs.OK,
                    }
                )
            return pairs.table(rows, pairs.CAPTIONS)

        return write
