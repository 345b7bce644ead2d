"""Human pairs of a run: drawn where a person has none, and turned into image tokens that painter and captioners learn from.

A store of a person's own stays as it is: tokens of its pictures are written into the run, so that a tokenizer of the run's own may make
them, and pictures are copied only where somebody will read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from reverie import pairs, seeds
from reverie.datasets.captioned import check_captioned, held_classes, load_captioned
from reverie.datasets.few_shot import check_store, shots_store
from reverie.errors import InputError
from reverie.learn.manifest import (
    LeavingOut,
    both,
    control_of,
    manifest_of_pairs,
    read_manifest,
    refuse_test_photos,
    refuse_test_pictures,
    require_control,
)
from reverie.models.names import locate
from reverie.models.tokenizer import Tokenizer, check_tokenizer, open_tokenizer, square, tokens_row
from reverie.recaption.mix import Mix
from reverie.stage import Job, StepContext, Trial, of_step
from reverie.store import tables
from reverie.store.pictures import Speed, as_png, decoded
from reverie.store.sources import counted
from reverie.store.token_batches import read_token_pairs

TRIED = 64  # pairs of a trial
UNIT = 100  # drawn pairs in one commit
FLAG = "--pairs-where"  # of the recipe, for who is told to leave pairs out
COLUMNS = ("pair_id", "caption_id", "copy", "unit", "text", "label", "image", "width", "height", *pairs.TOKEN_COLUMNS)
Which = Literal["all", "known", "held"]


@dataclass(frozen=True)
class DrawPairs(Job):
    """Photos of the small world, each with one sentence as a person might say it -> ``context.shots()``, as ``reverie import`` leaves photos.

    The scenes are none of those that captioners are measured on.
    """

    count: int = 256
    camera: str = "street"
    # of which classes the things are: all, known ones alone, or a held one first; see datasets/captioned.py
    which: Which = "all"
    style: Literal["human", "alt"] = "human"  # as a person might say it, or as text beside images of the web is

    def __post_init__(self) -> None:
        from reverie.smallworld.render import CAMERAS

        if self.camera not in CAMERAS or self.which not in ("all", "known", "held"):
            raise InputError(f"pairs of camera {self.camera!r} and classes {self.which!r} cannot be drawn")
        if self.count < 2:
            raise InputError(f"{self.count} pairs are too few to learn from; draw 2 or more")

    def run(self, context: StepContext) -> None:
        """Draw what is left. A pair depends on the run seed and its number alone."""
        path = context.shots() / "pairs.lance"
        done, total = tables.done_units(path) if tables.exists(path) else set(), -(-self.count // UNIT)
        for unit in range(total):
            if unit not in done:
                numbers = range(unit * UNIT, min(self.count, (unit + 1) * UNIT))
                rows = [self._pair(number, context.seed) | {"unit": unit} for number in numbers]
                tables.append_unit(path, unit, pairs.table(rows, pairs.PAIRS))
            context.report("progress", done=unit + 1, total=total, what="units")

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """Some of them."""
        few = min(self.count, TRIED)
        return Trial(dataclasses.replace(self, count=few), part=few / self.count)

    def _pair(self, number: int, run_seed: int) -> dict[str, Any]:
        from reverie.smallworld.describe import describe
        from reverie.smallworld.render import render
        from reverie.smallworld.scene import sample

        seed = seeds.derive("human pair", run_seed, self.which, number)
        rng, held = np.random.default_rng(seed), set(held_classes()[1])
        first = str(rng.choice(sorted(held))) if self.which == "held" else None
        scene = sample(rng, first=first)
        while self.which == "known" and any(thing.name in held for thing in scene.things):
            scene = sample(rng)
        image = Image.fromarray(render(scene, self.camera, seed=seeds.derive("camera", seed)).image)  # type: ignore[arg-type]
        name = pairs.caption_id(run_seed, f"human {self.which}", number)
        return {
            "pair_id": pairs.pair_id(name, 0), "caption_id": name, "copy": 0, "text": describe(scene, self.style, rng),
            "label": scene.things[0].name, "image": as_png(image), "width": image.width, "height": image.height, "origin": "real",
            "seed": seed, "status": pairs.OK,
        }  # fmt: skip


@dataclass(frozen=True)
class TokenizePairs(Job):
    """Pairs of a store -> the same pairs with image tokens, in ``context.shots()``.

    Pairs that have no picture keep the tokens they have.
    """

    store: Path | str  # folder with pairs.lance, or the step that took the photos
    tokenizer: str = "builtin:tokenizer"  # a VQModel, a pipeline that has one, or step:NAME of a step that trains one
    size_px: int | None = None  # side that pictures are brought to first; what the tokenizer was made for when absent
    where: str = ""  # which of the pairs that are ok, as a Lance SQL filter
    limit: int = 0  # pairs to take, the same ones whatever the seed; 0 = all
    keep_images: bool = False  # pictures beside the tokens, for who reads pixels
    test_photos: str = ""  # that no pair may show; see datasets/captioned.py
    test_images: Path | None = None  # folder of them, where they are a file of captions
    test_split: str = "test"  # of such a file that has several
    mix: Mix | None = None  # captions that are read of each pair, in columns beside its own text, which are then kept
    painter: str = ""  # folder of a painter that must have learned from these very pairs; any may when empty
    speed: Speed = field(default_factory=Speed)

    def __post_init__(self) -> None:
        if self.limit < 0 or self.limit == 1:
            raise InputError(f"{self.limit} pairs are too few to learn from; take 2 or more, or 0 for all")

    def check(self) -> None:
        """Raises InputError for a store that is not there or has pairs without caption, for photos that are not there, and for a side that the
        tokenizer's ids do not fill; ModelError, UnknownName.
        """
        if not of_step(self.tokenizer):
            check_tokenizer(self.tokenizer)
            if self.size_px and locate(self.tokenizer).kind != "hub":
                open_tokenizer(self.tokenizer).grid(self.size_px)
        if self.test_photos:
            check_captioned(self.test_photos, self.test_images, self.test_split)
        self.check_pairs()

    def check_pairs(self) -> None:
        """Raises InputError for a store that is not there or has pairs without caption, as far as it is known before the run."""
        check_store(self.store)
        if isinstance(self.store, Path):
            self._chosen(self.store / "pairs.lance")

    def run(self, context: StepContext) -> None:
        """Do what is left, unit by unit.

        Raises: InputError for pairs without caption, picture and tokens, of other codes or another grid, that show a test photo, or that are others
            than those of the painter.
        """
        source, own = shots_store(context, self.store), context.shots() / "pairs.lance"
        tokenizer = open_tokenizer(context.model(self.tokenizer), context.device)
        side = self.size_px or tokenizer.size_px
        grid = tokenizer.grid(side)
        chosen = pa.array(self._chosen(source), pa.string())
        if len(chosen) < self.limit:
            fit = " that --pairs-where takes" if self.where else ""
            context.report(
                "warning",
                text=f"--human-pairs {self.limit:,} is more than the {len(chosen):,} pairs{fit}; all of them are taken",
            )
        wanted = dict.fromkeys([*COLUMNS, *(self.mix.columns if self.mix else ())])
        columns = [name for name in wanted if name in tables.column_names(source)]
        units, done = sorted(tables.done_units(source)), tables.done_units(own) if tables.exists(own) else set()
        for number, unit in enumerate(units, 1):
            if unit not in done:
                rows = tables.read_unit(source, unit, columns, only=pairs.OK)
                rows = rows.filter(pc.is_in(rows["pair_id"], chosen))
                tables.append_unit(own, unit, self._tokenized(rows, tokenizer, side))
            context.report("progress", done=number, total=len(units), what="units")
        if broken := tables.count(own, f"status = '{pairs.FAILED}'"):
            has = "pair has" if broken == 1 else "pairs have"
            context.report(
                "warning",
                text=f"{broken:,} human {has} neither a picture that can be read nor image tokens, and no part in the training",
            )
        found = read_token_pairs(own, tokenizer.codebook_name, tokenizer.num_codes, grid, captions=self.mix)
        if self.test_photos:
            photos = load_captioned(self.test_photos, self.test_images, self.test_split)
            leaving = leaving_out(context, self.where)
            refuse_test_photos(found, photos, tokenizer, side, source, leaving)
        if self.painter:  # before anything is painted
            require_control(control_of(Path(self.painter).name, read_manifest(self.painter), manifest_of_pairs(found)))
        context.report("told", text=f"{len(found):,} human pairs as image tokens of {tokenizer.revision}")

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """Some of them, for others to read."""
        return Trial(dataclasses.replace(self, limit=min(self.limit or TRIED, TRIED), painter=""))

    def look(self) -> CheckUnseen:
        """What looks before there is a tokenizer whether any of these pairs shows a test photo."""
        which = (self.store, self.where, self.limit, self.mix)
        return CheckUnseen(*which, self.test_photos, self.test_images, self.test_split, self.speed)

    def _chosen(self, source: Path) -> list[str]:
        return chosen_pairs(source, self.where, self.limit, self.mix)

    def _tokenized(self, rows: pa.Table, tokenizer: Tokenizer, side: int) -> pa.Table:
        made: list[dict[str, Any]] = rows.to_pylist()
        for numbers, pictures in decoded(rows, self.speed.batch_size):
            ids = tokenizer.ids(np.stack([square(picture, side) for picture in pictures]))
            for number, one in zip(numbers, ids, strict=True):
                made[number] |= tokens_row(one, tokenizer)
        for row in made:
            row |= {"origin": "real", "status": pairs.OK}
            if row.get("tokens") is None:
                row |= {"status": pairs.FAILED, "reason": "it has neither a picture that can be read nor image tokens"}
            if self.mix is not None and not (row.get("text") or "").strip():
                row["text"] = self.mix.draw(row, 0)  # for who reads one caption a pair, as a painter does
            if not self.keep_images:
                row |= {"image": None, "width": side, "height": side}
        more = [
            rows.schema.field(name) for name in (self.mix.columns if self.mix else ()) if name not in pairs.PAIRS.names
        ]
        return pairs.table(made, pa.schema([*pairs.PAIRS, *more]))


@dataclass(frozen=True)
class CheckUnseen(Job):
    """Refuses pairs whose pictures are test photos, before a tokenizer learns from them; leaves nothing behind.

    ``TokenizePairs`` refuses them as well, but where the run trains its tokenizer that is after a long training.
    """

    store: Path | str  # as all fields of TokenizePairs
    where: str = ""
    limit: int = 0
    mix: Mix | None = None
    test_photos: str = ""
    test_images: Path | None = None
    test_split: str = "test"
    speed: Speed = field(default_factory=Speed)

    def check(self) -> None:
        """Raises InputError for a store that is not there. The photos are checked by ``TokenizePairs``, once."""
        check_store(self.store)

    def run(self, context: StepContext) -> None:
        """Look at all photos and pictures. Raises InputError for pairs that show a test photo."""
        source = shots_store(context, self.store)
        photos = load_captioned(self.test_photos, self.test_images, self.test_split)
        chosen = chosen_pairs(source, self.where, self.limit, self.mix)

        def tell(done: int) -> None:
            context.report("progress", done=done, total=len(photos) + len(chosen), what="pictures")

        leaving = leaving_out(context, self.where)
        refuse_test_pictures(self._pictures(source, chosen), photos, len(chosen), source, tell, leaving)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """Some of the pairs, beside all photos."""
        return Trial(dataclasses.replace(self, limit=min(self.limit or TRIED, TRIED)))

    def _pictures(self, source: Path, chosen: list[str]) -> Iterator[tuple[str, Image.Image]]:
        """Ids and pictures of pairs, as far as they have one that can be read."""
        known = pa.array(chosen, pa.string())
        for part in tables.scan(source, ["pair_id", "image"], "image is not null"):
            rows = part.filter(pc.is_in(part["pair_id"], known))
            names = rows["pair_id"].to_pylist()
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                yield from zip((names[number] for number in numbers), pictures, strict=True)


def leaving_out(context: StepContext, where: str) -> LeavingOut:
    """How whoever runs the recipe leaves pairs out."""
    return LeavingOut(FLAG, where, context.folder / "leave-out.sql")


def chosen_pairs(source: Path, where: str, limit: int, mix: Mix | None) -> list[str]:
    """Ids of the pairs that are taken, see ``TokenizePairs``. Raises InputError for fewer than two, painted ones, one without caption, or the same for all."""
    fits = f"status = '{pairs.OK}'" + (f" and ({where})" if where else "")
    if painted := tables.count(source, f"{fits} and origin = 'painted'"):
        human = both(where, "origin = 'real'")
        raise InputError(
            f'{painted:,} pairs of {source} are painted, and human ones are wanted; leave them out: {FLAG} "{human}"'
        )
    if mix is not None:
        fits = mix.usable(source, fits)
    names: list[str] = []
    bare: list[str] = []
    for part in tables.scan(source, ["pair_id", "text"], fits):
        names += part["pair_id"].to_pylist()
        texts = zip(part["pair_id"].to_pylist(), part["text"].to_pylist(), strict=True)
        bare += [name for name, text in texts if not (mix or (text or "").strip())]
    if bare:
        told = f"{len(bare):,} of {len(names):,} pairs of {source} have no caption, first {min(bare)}"
        if len(names) - len(bare) < 2:
            raise InputError(f"{told}; caption them, or name columns that hold captions: --mix")
        others = both(where, r"regexp_like(text, '\S')")
        raise InputError(f'{told}; caption them, or leave them out: {FLAG} "{others}"')
    if len(names) < 2:
        raise InputError(f"{source} has {counted(len(names), 'pairs')} to learn from; import 2 or more")
    names.sort()
    if limit and limit < len(names):  # the pairs of a lower limit are among them
        order = np.random.default_rng(seeds.derive("limit")).permutation(len(names))[:limit]
        names = [names[at] for at in np.sort(order).tolist()]
    if mix is None and (said := _only_sentence(source, fits, set(names))) is not None:
        raise InputError(
            f"all {len(names):,} pairs that are taken of {source} say {said!r}; a captioner needs two different sentences or more to learn from"
        )
    return names


def _only_sentence(source: Path, fits: str, names: set[str]) -> str | None:
    """The text of these pairs if it is the same for all."""
    said: set[str] = set()
    for part in tables.scan(source, ["pair_id", "text"], fits):
        for name, text in zip(part["pair_id"].to_pylist(), part["text"].to_pylist(), strict=True):
            if name in names:
                said.add(text)
        if len(said) > 1:
            return None
    return next(iter(said))
