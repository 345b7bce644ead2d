"""The images of a store described by a captioner, in columns beside their text; and human captions of the small world, where a person has none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from reverie import pairs, seeds
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError
from reverie.recaption.describe import Describe
from reverie.run.columns import add_columns
from reverie.stage import Job, Role, StepContext, of_step
from reverie.store import tables
from reverie.store.files import atomic_file
from reverie.store.pictures import Speed

Style = Literal["short", "long"]
USABLE = "status = 'ok' and image is not null"
CAPTIONS = "captions.jsonl"  # in the folder of a step that makes human captions


@dataclass(frozen=True)
class RecaptionPairs(Job):
    """Every ok image of a store -> ``caption_short`` and ``caption_long`` beside its text, as ``reverie recaption`` writes them there.

    The store may be a person's own: its text is never changed. Work that was killed goes on; a column that somebody else made is refused.
    """

    role: ClassVar[Role] = "score"

    captioner: str = "builtin:describer"  # see models/describer.py; step:NAME of a step that tunes one
    store: Path | str = Path()  # folder with pairs.lance, or the step that drew the pairs
    styles: tuple[Style, ...] = ("short", "long")
    count_tokens_by: str = ""  # model whose text encoder is to read the captions
    speed: Speed = field(default_factory=lambda: Speed(16))

    def stages(self, captioner: str) -> Mapping[Style, Describe]:
        """What describes, by style."""
        return {
            style: Describe(
                captioner, f"caption_{style}", style=style, count_tokens_by=self.count_tokens_by, speed=self.speed
            )
            for style in self.styles
        }

    def check(self) -> None:
        """Raises InputError for a store that is not there; ModelError for a captioner that cannot see; UnknownName."""
        check_store(self.store)
        for stage in self.stages(self.captioner).values():
            stage.check()

    def preview(self, count: int) -> Job | None:
        """Some images described in the run folder, and not in the store; None where the run itself draws the images or tunes the captioner."""
        return DescribeSome(self, count) if isinstance(self.store, Path) and not of_step(self.captioner) else None

    def run(self, context: StepContext) -> None:
        """Describe what is not described yet. Raises what ``add_columns`` does."""
        folder = shots_store(context, self.store).parent
        for style, stage in self.stages(context.model(self.captioner)).items():
            added = add_columns(folder, stage, f"recaption-{stage.column}", context.device, context.report)
            context.report(
                "told", text=f"{added.rows:,} images have a {style} caption or a reason, {added.made:,} of them now"
            )


@dataclass(frozen=True)
class DescribeSome(Job):
    """``count`` images of a store, spread evenly, with what a captioner says of them as their text, in the tables of the run."""

    role: ClassVar[Role] = "score"

    recaption: RecaptionPairs
    count: int

    def check(self) -> None:
        """Raises what ``RecaptionPairs`` does."""
        self.recaption.check()

    def run(self, context: StepContext) -> None:
        """Describe them. Raises InputError for a store without images, and what the captioner raises."""
        store = shots_store(context, self.recaption.store)
        names = [name for part in tables.scan(store, ["pair_id"], USABLE) for name in part["pair_id"].to_pylist()]
        if not names:
            raise InputError(f"no image of {store.parent} is usable, so there is nothing to look at")
        count = min(self.count, len(names))
        chosen = [names[place * len(names) // count] for place in range(count)]
        known = [name for name in tables.column_names(store) if name in pairs.PAIRS.names]
        rows = {row["pair_id"]: row | {"unit": 0} for row in tables.rows_of(store, "pair_id", chosen, known)}
        table = pairs.table([rows[name] for name in chosen], pairs.PAIRS)
        texts = {name: f"alt-text: {rows[name]['text'] or 'none'}" for name in chosen}
        for style, stage in self.recaption.stages(self.recaption.captioner).items():
            told = stage.open(context)(table.select(["pair_id", "unit", *stage.reads]))
            for name, text, flags in zip(
                chosen, *(told[item.name].to_pylist() for item in stage.adds[::2]), strict=True
            ):
                texts[name] += f"; {style}: {text or 'nothing'}" + (f" ({', '.join(flags)})" if flags else "")
        made = [rows[name] | {"text": texts[name]} for name in chosen]
        tables.append_unit(context.pairs, 0, pairs.table(made, pairs.PAIRS))


@dataclass(frozen=True)
class DrawHumanCaptions(Job):
    """Photos of the small world, each with a caption that tells all of them -> captions.jsonl and pictures in ``context.shots()``.

    They stand for those that people write with a guideline; the scenes are none of the pairs that are recaptioned, nor of those that anything is
    measured on.
    """

    count: int = 100
    camera: str = "studio"
    style: Literal["long", "human"] = "long"

    def __post_init__(self) -> None:
        if self.count < 2:
            raise InputError(f"{self.count} human captions are too few to tune on; give 2 or more")

    def run(self, context: StepContext) -> None:
        """Draw all of them; the list lands last."""
        from reverie.smallworld.describe import describe
        from reverie.smallworld.render import render
        from reverie.smallworld.scene import sample

        folder = context.shots()
        if (folder / CAPTIONS).exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        lines: list[dict[str, Any]] = []
        for number in range(self.count):
            seed = seeds.derive("human caption", context.seed, number)
            rng = np.random.default_rng(seed)
            scene = sample(rng)
            image = render(scene, self.camera, seed=seeds.derive("camera", seed)).image  # type: ignore[arg-type]
            Image.fromarray(image).save(folder / f"{number:05d}.png")
            lines.append(
                {
                    "image": f"{number:05d}.png", "text": describe(scene, self.style, rng), "style": "long", "annotator": "smallworld",
                    "objects": sorted({thing.name for thing in scene.things}),
                }
            )  # fmt: skip
        with atomic_file(folder / CAPTIONS) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
