"""The images of a store described by a captioner, in columns beside their text; and human captions of the small world, where a person has none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from reverie import pairs, seeds
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError, SettingsChanged
from reverie.ranges import check_min
from reverie.recaption.describe import NAME, Describe, DescribeSeveral, DescribeSpeed
from reverie.recaption.mix import CHANNELS
from reverie.run.columns import add_columns, begun_with, check_columns, check_images
from reverie.run.plan import read_plan
from reverie.stage import Job, Role, StepContext, Trial, of_step, settings, settings_now
from reverie.store import tables
from reverie.store.files import atomic_file

if TYPE_CHECKING:
    from reverie.learn.describe import TuneDescriber

Style = Literal["short", "long"]
TRIED = 64  # captions that are drawn in a trial
SEVERAL = "captions_short"  # column of lists of short captions
CHANNEL_OF = {column: name for name, column in CHANNELS.items()}
USABLE = "status = 'ok' and image is not null"
How = Literal["lengths", "words", "clause", "false"]
CAPTIONS = "captions.jsonl"  # in the folder of a step that makes human captions


@dataclass(frozen=True)
class RecaptionPairs(Job):
    """Every ok image of a store -> ``caption_short`` and ``caption_long`` beside its text, as ``reverie recaption`` writes them there.

    The store may be a person's own: its text is never changed. Work that was killed goes on; a column that somebody else made is refused. Captions
    that are there and differ in who counts their tokens alone are taken: they say the same, and who learns from them counts anew.
    """

    role: ClassVar[Role] = "score"

    captioner: str = "builtin:describer"  # see models/describer.py; step:NAME of a step that tunes one
    store: Path | str = Path()  # folder with pairs.lance, or the step that drew the pairs
    styles: tuple[Style, ...] = ("short", "long")
    count_tokens_by: str = ""  # model whose text encoder is to read the captions
    speed: DescribeSpeed = field(default_factory=lambda: DescribeSpeed(16))

    def column_of(self, style: Style) -> str:
        """Where captions of a style are written."""
        return CHANNELS[style]

    def stages(self, captioner: str) -> Mapping[Style, Describe]:
        """What describes, by style."""
        return {
            style: Describe(
                captioner, self.column_of(style), style=style, count_tokens_by=self.count_tokens_by, speed=self.speed
            )
            for style in self.styles
        }

    def stages_in(self, folder: Path, captioner: str) -> Mapping[Style, Describe]:
        """The same, with tokens counted as in what the folder has of them."""
        return {style: counted_as_begun(folder, stage) for style, stage in self.stages(captioner).items()}

    def check(self) -> None:
        """Raises InputError for a store that is not there, has no image, or others' captions; ModelError for a captioner that cannot see; UnknownName."""
        check_store(self.store)
        if isinstance(self.store, Path):
            check_images(self.store)
        for stage in self.stages(self.captioner).values():
            stage.check()
        if isinstance(self.store, Path) and not of_step(self.captioner):
            self._check_columns(self.store, self.captioner)

    def check_tuned(self, tune: TuneDescriber, seed: int) -> None:
        """That captions that are there may be those of the captioner that a run of this seed tunes so. Raises InputError.

        They may where that run wrote them, or another one that was told the same; whether they are, the weights tell once they are there.
        """
        if isinstance(self.store, Path):
            self._check_columns(self.store, self.captioner, lambda by: _may_be_tuned_so(by, tune, seed))

    def _check_columns(self, folder: Path, captioner: str, may_be: Callable[[str], bool] | None = None) -> None:
        """That this captioner wrote the captions that are there, or one that it may be. Raises InputError."""
        names = tables.column_names(folder / "pairs.lance")
        for stage in self.stages_in(folder, captioner).values():
            by = str(begun_with(folder, _work(stage)).get("captioner", ""))
            learn = f"learn from these (reverie run text_to_image --store {folder} --mix {CHANNEL_OF.get(stage.column, stage.column)})"
            if not by and (taken := next((item.name for item in stage.adds if item.name in names), None)):
                raise InputError(
                    f"{folder} has a column {taken!r} already, which is not overwritten; {learn}, or import the images once more"
                )
            try:
                check_columns(folder, stage, _work(stage))
            except SettingsChanged as error:
                other = {key.rpartition(".")[2] for key in error.difference} - {"content"}
                if other == {"captioner"} and may_be and may_be(by):
                    continue
                what = ", ".join(sorted(other)) or "weights"
                raise InputError(
                    f"{folder} has captions in {stage.column} that were written before with another {what}; {learn}, name the captioner that "
                    f"wrote them (--captioner {by}{', without --human' if may_be else ''}), or import the images once more"
                ) from error

    def preview(self, count: int) -> Job | None:
        """Some images described in the run folder, and not in the store; None where the run itself draws the images or tunes the captioner."""
        return DescribeSome(self, count) if isinstance(self.store, Path) and not of_step(self.captioner) else None

    def run(self, context: StepContext) -> None:
        """Describe what is not described yet. Raises what ``add_columns`` does."""
        folder = shots_store(context, self.store).parent
        self._check_columns(folder, context.model(self.captioner))
        for style, stage in self.stages_in(folder, context.model(self.captioner)).items():
            added = add_columns(folder, stage, _work(stage), context.device, context.report)
            context.report(
                "told", text=f"{added.rows:,} images have a {style} caption or a reason, {added.made:,} of them now"
            )


def counted_as_begun(folder: Path, stage: Describe) -> Describe:
    """The same, with tokens counted as in what the folder has of it: the captions do not depend on that, and who learns from them counts anew."""
    counted = begun_with(folder, _work(stage)).get("count_tokens_by", stage.count_tokens_by)
    return dataclasses.replace(stage, count_tokens_by=str(counted))


@dataclass(frozen=True)
class RecaptionBeside(RecaptionPairs):
    """The same in columns of their own, beside those of another captioner: ``caption_short_NAME`` and ``caption_long_NAME``."""

    name: str = "second"

    def column_of(self, style: Style) -> str:
        """Where captions of a style are written."""
        return beside(style, self.name)

    def preview(self, count: int) -> Job | None:
        """Nothing: what the first captioner says is looked at."""
        return None


@dataclass(frozen=True)
class RecaptionSeveral(RecaptionPairs):
    """Every ok image of a store -> ``captions_short``: ``count`` short captions of it, sampled as long ones are, so that they differ."""

    styles: tuple[Style, ...] = ("short",)
    count: int = 4

    def stages(self, captioner: str) -> Mapping[Style, Describe]:
        """What describes."""
        from reverie.models.describer import DECODING

        usual = DECODING["long"]
        return {
            "short": DescribeSeveral(
                captioner, SEVERAL, temperature=usual.temperature, top_p=usual.top_p, count_tokens_by=self.count_tokens_by, speed=self.speed,
                count=self.count,
            )
        }  # fmt: skip

    def preview(self, count: int) -> Job | None:
        """Nothing: what the captioner says once is looked at."""
        return None


def beside(style: str, name: str) -> str:
    """The column of captions of a style that stands beside the usual one."""
    return f"{CHANNELS[style]}_{name}"


def _work(stage: Describe) -> str:
    """What ``reverie recaption`` calls the work too."""
    return f"recaption-{stage.column}"


def _may_be_tuned_so(by: str, tune: TuneDescriber, seed: int) -> bool:
    """Whether the captioner of this name may be what a run of this seed makes of such a step. It may where nothing is known of it: runs are moved."""
    weights = Path(by)
    if weights.parent.name != "weights":
        return False
    run = weights.parent.parent
    if not run.exists():
        return True
    if not (run / "plan.json").exists():
        return False
    plan = read_plan(run)
    step = next((each for each in plan["steps"] if each["name"] == weights.name), None)
    return (
        step is not None
        and plan["seed"] == seed
        and settings_now(step["settings"], tune) == json.loads(json.dumps(settings(tune)))
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
        """Describe them. Raises what the captioner raises."""
        store = shots_store(context, self.recaption.store)
        names = [name for part in tables.scan(store, ["pair_id"], USABLE) for name in part["pair_id"].to_pylist()]
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

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """Some of them."""
        few = min(self.count, TRIED)
        return Trial(dataclasses.replace(self, count=few), part=few / self.count)

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


@dataclass(frozen=True)
class Changed:
    """A column of captions that differ from others in one way alone; see captions/changed.py."""

    column: str
    how: How  # as long as ``like``, the first words of it, with a clause of another one, or with things that are not there
    of: str = "long"  # alt, short, long, or a column
    share: float = 1.0  # of words that are kept, or of things that a false one is added for
    like: str = "alt"  # whose lengths are taken

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.column) or self.column in (*pairs.PAIRS.names, *CHANNELS.values()):
            raise InputError(
                f"changed captions cannot be called {self.column!r}; give small letters, digits and '_', and no column of pairs"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the store."""
        read = (self.of, self.like) if self.how == "lengths" else (self.of,)
        return tuple(CHANNELS.get(name, name) for name in read)

    def change(self, texts: Sequence[str], like: Sequence[str], seed: int) -> list[str]:
        """The captions, changed. Raises InputError for a share that is none, or too few texts."""
        from reverie.captions.changed import first_words, match_lengths, with_false_things, with_random_clause
        from reverie.recaption.checks import Things
        from reverie.smallworld.scene import class_names

        if self.how == "lengths":
            return match_lengths(texts, like)
        if self.how == "words":
            return [first_words(text, self.share) for text in texts]
        if self.how == "clause":
            return with_random_clause(texts, seed)
        names = class_names()
        return with_false_things(texts, self.share, names, lambda text: sorted(Things(names).named(text)), seed)


@dataclass(frozen=True)
class ChangeCaptions(Job):
    """Captions of a store -> columns of them that are changed in one way each, beside those they were made of.

    A pair that lacks the caption lacks the changed one too.
    """

    role: ClassVar[Role] = "score"

    store: Path | str  # folder with pairs.lance, or the step that drew the pairs
    changes: tuple[Changed, ...]
    seed: int = 0  # beside the run seed

    def __post_init__(self) -> None:
        check_min(1, changes=len(self.changes))

    def check(self) -> None:
        """Raises InputError for a store that is not there."""
        check_store(self.store)

    def run(self, context: StepContext) -> None:
        """Change all; the columns land together. Raises InputError for a store that lacks what is changed."""
        store = shots_store(context, self.store)
        own = store.parent / "columns" / f"{context.step}.lance"
        there = tables.column_names(store)
        read = list(dict.fromkeys(name for change in self.changes for name in change.reads))
        if missing := next((name for name in read if name not in there), None):
            raise InputError(
                f"{store.parent} has no column {missing!r} whose captions could be changed; make it with: reverie recaption"
            )
        rows = pa.concat_tables(list(tables.scan(store, ["pair_id", "unit", *read], f"status = '{pairs.OK}'"))).sort_by(
            "pair_id"
        )
        made: dict[str, Any] = {"pair_id": rows["pair_id"], "unit": rows["unit"]}
        for change in self.changes:
            texts, like = rows[change.reads[0]].to_pylist(), rows[change.reads[-1]].to_pylist()
            said = [place for place, text in enumerate(texts) if text and text.strip()]
            new = change.change(
                [texts[place] for place in said], [text for text in like if text and text.strip()],
                seeds.derive("changed captions", context.seed, self.seed, change.column),
            )  # fmt: skip
            column: list[str | None] = [None] * len(rows)
            for place, text in zip(said, new, strict=True):
                column[place] = text
            made[change.column] = pa.array(column, pa.string())
        shutil.rmtree(own, ignore_errors=True)  # of a run that was killed here
        table = pa.table(made)
        for unit in sorted(set(rows["unit"].to_pylist())):
            tables.append_unit(own, unit, table.filter(pc.equal(table["unit"], unit)))
        tables.add_columns(store, own, replace=True)
