"""Captions -> images as ids of a codebook, which never become pixels; and pictures of a store as such ids.

Source: Synth², arXiv:2403.07750: the generator and the model that reads its images share a tokenizer, so that an image of
64 or 256 ids goes from one to the other without a decoder, an encoder or a file. Units, seeds, batches, failures and second
tries are those of images/pixels.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie import pairs
from reverie.errors import InputError
from reverie.images.pixels import PaintSpeed, PaintWorker, refuse_another
from reverie.pairs import TOKEN_COLUMNS as CONTENT
from reverie.stage import EventSink, Role, StepContext, UnitStage, Worker, fingerprint, ignore_events, of_step, settings
from reverie.store import tables
from reverie.store.pictures import Speed, as_png, decoded

if TYPE_CHECKING:
    from reverie.models.painter import Embeddings
    from reverie.models.token_painter import TokenPainter


@dataclass(frozen=True)
class PaintTokens(UnitStage):
    """Captions -> image tokens with an aMUSEd pipeline of diffusers, 512 bytes for an image of 256 ids."""

    writes: ClassVar[Literal["captions", "pairs", "columns"]] = "pairs"
    role: ClassVar[Role] = "paint"

    model: str = (
        "builtin:token-painter"  # builtin:NAME, an aMUSEd folder, a Hub id, or step:NAME of a step that trains one
    )
    per_caption: int = 4  # images of each caption
    guidance: float = 1.5  # s in l_u + s (l_c - l_u); 1 = no guidance
    steps: int = 16  # passes of the network; a few ids are fixed by each
    ramp: bool = False  # guidance grows evenly from none at the first step to all of it at the last
    writing: Literal["scale", "muse"] = "scale"  # muse: guidance is g in (1 + g) l_c - g l_u, which is s - 1
    tokenizer: str | None = None  # whose ids are wanted; refused if the model paints another's
    size_px: int | None = None  # side of what the ids show; refused if the model has learnt another grid
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    keep_images: bool = False  # decoded pictures beside the ids, to look at
    speed: PaintSpeed = field(default_factory=PaintSpeed)

    def __post_init__(self) -> None:
        min_guidance = 0 if self.writing == "muse" else 1
        if self.writing not in ("scale", "muse"):
            raise InputError(f"writing {self.writing!r} of guidance is not scale or muse")
        if not min_guidance <= self.guidance < math.inf:
            raise InputError(
                f"guidance {self.guidance} must be a number of at least {min_guidance}, which means no guidance"
            )
        counts = {"per_caption": self.per_caption, "steps": self.steps, "batch": self.speed.batch or 1}
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")

    def check_device(self, device: str) -> None:
        """Raises also what the painter's small files tell against the settings."""
        from reverie.models.painter import check_painter

        super().check_device(device)
        if of_step(self.model):
            return
        check_painter(self.model, self.steps, self.size_px, tokens=True)

    def check(self) -> None:
        """Raises InputError for a painter of other codes or of another grid than are wanted, where its files are on this machine."""
        from reverie.models.names import locate
        from reverie.models.tokenizer import check_same_codes, open_tokenizer

        if not (self.tokenizer or self.size_px) or of_step(self.model) or locate(self.model).kind == "hub":
            return
        known = open_tokenizer(self.model)
        if self.size_px not in (None, known.size_px):
            raise InputError(
                f"{known.revision} paints pictures of {known.size_px} px, which is another grid than that of {self.size_px} px; give "
                f"{known.size_px}, or another painter"
            )
        if self.tokenizer and not of_step(self.tokenizer) and locate(self.tokenizer).kind != "hub":
            check_same_codes(open_tokenizer(self.tokenizer), known.codebook_name, known.revision)

    def open(self, context: StepContext) -> TokenWorker:
        """Load the painter, once a process. Raises: ModelError, UnknownName, InputError."""
        from reverie.models.token_painter import open_token_painter
        from reverie.models.tokenizer import check_same_codes, open_tokenizer

        painter = open_token_painter(context.model(self.model), context.device, self.dtype)
        painter.muse, painter.ramp = self.writing == "muse", self.ramp
        painter.check(self.guidance, self.steps, self.size_px or painter.size_px)
        if self.tokenizer:
            check_same_codes(
                open_tokenizer(context.model(self.tokenizer)), painter.tokenizer.codebook_name, painter.revision
            )
        refuse_another(painter.revision, context)
        return TokenWorker(self, painter, context)


class TokenWorker(PaintWorker):
    """Paints the captions of a unit as ids."""

    stage: PaintTokens
    painter: TokenPainter

    @property
    def made_with(self) -> dict[str, Any]:
        """The columns that say how an image was made; guidance as s, whatever its writing."""
        whole = self.stage.guidance + (1 if self.stage.writing == "muse" else 0)
        ramp = ", guidance ramp" if self.stage.ramp else ""
        made = {"guidance": float(np.float32(whole)), "scheduler": self.painter.scheduler + ramp}
        return super().made_with | made

    def _sampled(
        self, embeddings: Embeddings, seed: Sequence[int], begin: dict[str, Any], steps: int | None = None
    ) -> Any:
        ids = self.painter.sample_ids(embeddings, seed, self.stage.guidance, steps or self.stage.steps)
        found = ids.to("cpu").numpy().astype(np.int32)
        return found, (found >= 0).all((1, 2))

    def _judged(self, image: np.ndarray | None) -> tuple[pairs.Status, str | None]:
        if image is None:
            return pairs.FAILED, "the image is not finite, with two seeds"
        if (image == image.flat[0]).all():
            return pairs.DROPPED, "the image is of one token, with two seeds"
        return pairs.OK, None

    def _encoded(self, image: np.ndarray) -> Any:
        picture = None
        if self.stage.keep_images:
            from PIL import Image

            picture = as_png(Image.fromarray(self.painter.tokenizer.pictures(image[None])[0]))
        return image, picture

    def _content(self, kept: Any) -> dict[str, Any]:
        from reverie.models.tokenizer import tokens_row

        ids, picture = kept or (None, None)
        side = self.painter.size_px if ids is not None else None
        return {**tokens_row(ids, self.painter.tokenizer), "image": picture, "width": side, "height": side}


@dataclass(frozen=True)
class Tokenize(UnitStage):
    """Pictures of pairs -> their image tokens, beside them: real photos for a model that reads tokens."""

    writes: ClassVar[Literal["captions", "pairs", "columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    adds: ClassVar[tuple[pa.Field, ...]] = tuple(pairs.PAIRS.field(name) for name in CONTENT)

    model: str = "builtin:tokenizer"  # builtin:NAME, a folder or a Hub id, of a VQModel or a pipeline that has one
    size_px: int | None = None  # side that pictures are brought to first; what the tokenizer was made for when absent
    speed: Speed = field(default_factory=Speed)

    def open(self, context: StepContext) -> Worker:
        """Load the tokenizer, once a process. Raises: ModelError, UnknownName, InputError."""
        from reverie.models.tokenizer import open_tokenizer, square, tokens_row

        tokenizer = open_tokenizer(self.model, context.device)
        side = self.size_px or tokenizer.size_px
        tokenizer.grid(side)

        def work(rows: pa.Table) -> pa.Table:
            found: list[dict[str, Any]] = [tokens_row(None, tokenizer)] * len(rows)
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                ids = tokenizer.ids(np.stack([square(picture, side) for picture in pictures]))
                for number, one in zip(numbers, ids, strict=True):
                    found[number] = tokens_row(one, tokenizer)
            columns = {name: pa.array([row[name] for row in found], pairs.PAIRS.field(name).type) for name in CONTENT}
            return pa.table({"pair_id": rows["pair_id"], "unit": rows["unit"], **columns})

        return work


def tokenize_store(folder: Path, stage: Tokenize, device: str = "cpu", report: EventSink = ignore_events) -> int:
    """Put ``tokens``, ``grid`` and ``codebook`` beside all pictures of a run or an import, anew.

    Killed on the way, it goes on with the units that are left.
    Returns: how many pictures became ids. Raises: InputError if there are no pictures, or its pairs are image tokens already.
    """
    context = StepContext(folder, "tokenize", device=device, report=report)
    if not tables.exists(context.pairs) or not tables.count(context.pairs, "status = 'ok' and image is not null"):
        raise InputError(f"{folder} holds no pictures; give the folder of a run or an import that has some")
    about, mark = context.columns().with_suffix(".json"), fingerprint(settings(stage))
    if not about.exists() or about.read_text(encoding="utf-8") != mark:
        tables.drop(context.columns())  # another tokenizer began it
        about.parent.mkdir(parents=True, exist_ok=True)
        about.write_text(mark, encoding="utf-8")
    worker, units = stage.open(context), sorted(tables.done_units(context.pairs))
    done = tables.done_units(context.columns())
    for number, unit in enumerate(units, 1):
        if unit not in done:
            rows = tables.read_unit(context.pairs, unit, ["pair_id", "unit", *stage.reads], only=pairs.OK)
            tables.append_unit(context.columns(), unit, worker(rows))
        report("progress", done=number, total=len(units), what="units")
    tables.add_columns(context.pairs, context.columns(), replace=True)
    tables.drop(context.columns())  # the next call may meet other pictures
    about.unlink()
    return tables.count(context.pairs, "tokens is not null")
