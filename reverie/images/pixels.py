"""Captions -> RGB images, several for each caption, painted from noise or from a noised photo of the caption's class.

The batches of a unit depend on its rows only: captions in order, copies in order, cut at a fixed size, one kind of
start after the other, then one more round for images that came out blank. So after a restart, or in any part of the work, every bit of an image is the same
(on the same machine, in the same dtype, with no batch halved for memory); the noise is the same everywhere.
"""

from __future__ import annotations

import io
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from reverie import pairs, seeds
from reverie.errors import InputError, ModelError, ReverieError, UnknownName
from reverie.images.real_guidance import FromShots, Guide
from reverie.stage import Role, StepContext, TwoPartWorker, UnitStage, words_unknown
from reverie.store.pictures import MAX_PIXELS
from reverie.store.places import has_table

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.models.painter import Embeddings  # imports torch, which the command line must not wait for

SCHEDULERS = (
    "ddim",
    "ddpm",
    "dpm-solver++",
    "euler",
    "pndm",
    "unipc",
    "flow-match",
)  # of models/painter.py, which is slow to load
USUAL_BATCH = 16
TRIAL_STEPS = 4  # of each batch of a trial
ENCODE_THREADS = max(2, min(8, (os.cpu_count() or 2) // 2))  # a GPU paints faster than one core compresses
LARGEST_PX = math.isqrt(MAX_PIXELS)
BLANK_LEVELS = 1  # an image whose channels each span at most this many of 255 levels shows nothing


@dataclass(frozen=True)
class PaintSpeed:
    """What changes the speed only."""

    # images painted together; halved when memory runs out; 0 = as many as a trial finds to be quick on a GPU, 16 on a CPU
    batch: int = USUAL_BATCH
    encode_threads: int = ENCODE_THREADS  # threads that compress images while the next batch, or unit, is painted


@dataclass(frozen=True)
class PaintPixels(UnitStage):
    """Captions -> RGB images with any diffusers text-to-image pipeline."""

    role: ClassVar[Role] = "paint"
    writes: ClassVar[Literal["captions", "pairs", "columns"]] = "pairs"

    model: str = "builtin:painter"  # builtin:NAME, a diffusers folder, or a Hub id
    per_caption: int = 4  # images of each caption (l in the StableRep paper), of all starts together
    guidance: float = 2.0  # w in eps_u + w (eps_c - eps_u); 1 = no guidance
    steps: int = 20
    scheduler: str | None = (
        None  # ddim, ddpm, dpm-solver++, euler, pndm, unipc, flow-match; default: ddim or the model's own
    )
    size_px: int | None = None  # side of the painted image; default: what the model was made for
    store_px: int | None = None  # side of the stored image (bicubic); default: as painted
    negative_prompt: str = ""
    image_format: Literal["png", "jpeg", "webp"] = "png"
    quality: int = 95  # of jpeg and webp, 1 to 100
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    # of the autoencoder alone; as dtype when None; the halves need a GPU
    decoder_dtype: Literal["fp32", "bf16", "fp16"] | None = None
    step_cache: int = 1  # denoising steps that share what the deep blocks of one gave; 1 computes all of every step
    compiled: bool = False  # the network by torch.compile, whose sums are rounded otherwise
    starts: tuple[FromShots | None, ...] = (None,)  # the copies are dealt to these in equal blocks; None is noise
    speed: PaintSpeed = field(default_factory=PaintSpeed)

    def __post_init__(self) -> None:
        if not 1 <= self.guidance < math.inf:
            raise InputError(f"guidance {self.guidance} must be a number of at least 1; 1 means no guidance")
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            raise UnknownName("scheduler", self.scheduler, SCHEDULERS)
        if self.image_format not in ("png", "jpeg", "webp"):
            raise InputError(f"image format {self.image_format!r} is not png, jpeg or webp")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality {self.quality} is not between 1 and 100")
        counts = {
            "per_caption": self.per_caption,
            "steps": self.steps,
            "step_cache": self.step_cache,
            "batch": self.speed.batch or 1,
            "encode_threads": self.speed.encode_threads,
            "size_px": self.size_px if self.size_px is not None else 1,
            "store_px": self.store_px if self.store_px is not None else 1,
        }
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if (side := max(self.size_px or 1, self.store_px or 1)) > LARGEST_PX:
            raise InputError(
                f"pictures of {side:,} pixels a side are more than can be read again; give {LARGEST_PX:,} or less"
            )
        if self.compiled and self.step_cache != 1:
            raise InputError(
                "--compile-painter wants the same work in every step, and --step-cache does not do it; leave one out"
            )
        if not self.starts or self.per_caption % len(self.starts):
            raise InputError(
                f"{self.per_caption} images of a caption cannot be dealt equally to {len(self.starts)} starts; use a multiple"
            )

    def check(self) -> None:
        """Raises InputError for a store of shots that is not there."""
        for start in self.starts:
            if start is not None:
                start.check()

    def check_device(self, device: str) -> None:
        """Raises also what the painter's small files tell against the settings: where painting is left to do, they are read anyway."""
        from reverie.models.painter import check_painter

        super().check_device(device)
        if device == "cpu" and self.decoder_dtype in ("fp16", "bf16"):
            raise InputError(f"--painter-decoder-dtype {self.decoder_dtype} needs a GPU; leave it out on a CPU")
        check_painter(self.model, self.steps, self.size_px, self.scheduler, step_cache=self.step_cache)

    def open(self, context: StepContext) -> PaintWorker:
        """Load the painter, once a process. Raises: ModelError, UnknownName, InputError."""
        from reverie.models.painter import open_painter

        painter = open_painter(
            self.model,
            context.device,
            self.scheduler,
            self.negative_prompt,
            self.dtype,
            self.decoder_dtype,
            self.step_cache,
            self.compiled,
        )
        painter.check(self.guidance, self.steps, self.size_px or painter.size_px)
        refuse_another(painter.revision, context)
        size_px = self.size_px or painter.size_px
        guides = [
            None if start is None else Guide(start, context, painter, self.steps, size_px) for start in self.starts
        ]
        return PaintWorker(self, painter, context, guides)


def refuse_another(painter: str, context: StepContext) -> None:
    """A model that was trained on, or updated on the Hub, under the same name would mix two painters in one table."""
    if not has_table(context.pairs):
        return
    from reverie.store import tables  # painting needs no store

    for rows in tables.scan(context.pairs, ["painter"], "painter is not null"):
        if other := next((name for name in rows["painter"].unique().to_pylist() if name != painter), None):
            raise InputError(
                f"the images of {context.folder} are by {other}, and that model is now {painter}; use another --out"
            )


@dataclass
class _Wanted:
    """One image to make, and what has become of it."""

    caption: dict[str, Any]
    copy: int
    text: int  # row of the embeddings, or -1
    start: int = 0  # which of the stage's starts
    status: pairs.Status = pairs.FAILED
    reason: str | None = None
    seed: int | None = None
    kept: Future[Any] | None = None  # what the row holds of it


class PaintWorker(TwoPartWorker):
    """Paints the captions of a unit. ``batch`` is the largest number of images that fits the memory, as far as known.

    The last images of a unit are compressed while the next unit is painted.
    """

    def __init__(
        self, stage: Any, painter: Any, context: StepContext, guides: Sequence[Guide | None] = (None,)
    ) -> None:
        self.stage = stage  # PaintPixels, or what paints something else by the same counts
        self.painter = painter  # a Painter, or what answers as one
        self.context = context
        self.guides = guides  # one for each of the stage's starts
        self.size_px = stage.size_px or painter.size_px
        self.batch = stage.speed.batch or (
            0 if context.device.startswith("cuda") else USUAL_BATCH
        )  # 0 is still to be tried
        self._threads = ThreadPoolExecutor(stage.speed.encode_threads, thread_name_prefix="compress")
        self._words_told: set[str] = set()

    @property
    def made_with(self) -> dict[str, Any]:
        """The columns that say how an image was made from noise; equal in all rows."""
        return {
            "painter": self.painter.revision,
            "scheduler": self.painter.scheduler,
            "steps": self.stage.steps,
            "guidance": float(np.float32(self.stage.guidance)),  # as the table stores it
        }

    def begin(self, captions: pa.Table) -> Callable[[], pa.Table]:
        """Caption rows of one unit -> what waits for its pair rows, ``per_caption`` for each caption, in order.

        An image that cannot be made or is not finite becomes a `failed` row, a black or constant one a `dropped` row;
        the blank and the not finite ones were tried with two seeds. No caption takes others with it.

        Raises: ModelError when not even one image fits the memory; what the painter raises if it does so for every caption.
        """
        rows = captions.select(["caption_id", "unit", "text", "label"]).to_pylist()
        cut_before = self.painter.num_cut
        embeddings, found = self._encode([row["text"] for row in rows])
        self._tell(
            [row for row, text in zip(rows, found, strict=True) if isinstance(text, int)],
            self.painter.num_cut - cut_before,
        )
        wanted = []
        for row, text in zip(rows, found, strict=True):
            number, reason = (text, None) if isinstance(text, int) else (-1, text)
            block = self.stage.per_caption // len(self.guides)
            copies = range(self.stage.per_caption)
            wanted += [_Wanted(row, copy, number, start=copy // block, reason=reason) for copy in copies]
        left = [item for item in wanted if item.text >= 0]
        if not self.batch and left:
            self.batch = self._quickest(embeddings)
        first = 2 * self.context.retry
        blank, errors = self._round(left, first, embeddings)
        _raise_if_all(errors, len(left), {item.text for item in left})
        self._round(blank, first + 1, embeddings)
        return lambda: pairs.table([self._row(item) for item in wanted], pairs.PAIRS)

    def _quickest(self, embeddings: Embeddings) -> int:
        """How many images together are painted quickest, found by painting a few steps of more and more of them."""
        from reverie.models.batching import best_batch
        from reverie.models.painter import pick

        def rate(batch: int) -> float:
            began = time.monotonic()
            self._sampled(pick(embeddings, [0] * batch), range(batch), {}, min(TRIAL_STEPS, self.stage.steps))
            return batch / (time.monotonic() - began)

        self._sampled(pick(embeddings, [0]), [0], {}, min(TRIAL_STEPS, self.stage.steps))  # sets things up
        found = best_batch(rate)
        self.context.report("batch", images=found)
        return found

    def paint(
        self,
        embeddings: Embeddings,
        texts: Sequence[int],
        noise: Sequence[int],
        guide: Guide | None = None,
        shots: Sequence[str] = (),
    ) -> Iterator[np.ndarray | Exception | None]:
        """Paint row ``texts[i]`` of the embeddings with seed ``noise[i]`` for all i, in batches that fit the memory.

        With a guide, image i begins at ``shots[i]``.

        Yields: uint8 (H, W, 3), or None when it is not finite, or what the painter raised for this image alone.
        Raises: ModelError when one image does not fit the memory.
        """
        from reverie.models.painter import pick

        start = 0
        while start < len(texts):
            part, seed = texts[start : start + self.batch], noise[start : start + self.batch]
            error: Exception | None = None
            try:
                begin = _begin(guide, shots[start : start + self.batch]) if guide else {}
                images, finite = self._sampled(pick(embeddings, part), seed, begin)
            except ReverieError:
                raise
            except Exception as raised:
                traceback.clear_frames(raised.__traceback__)  # the frames hold the tensors that filled the memory
                error = raised
            if error is None:
                yield from (image if whole else None for image, whole in zip(images, finite, strict=True))
            elif _out_of_memory(error):
                self._halve(len(part), error)
                continue
            elif len(part) == 1:
                yield error
            else:
                for index in range(len(part)):
                    one = slice(start + index, start + index + 1)
                    yield from self.paint(embeddings, texts[one], noise[one], guide, shots[one])
            start += len(part)

    def _sampled(
        self, embeddings: Embeddings, seed: Sequence[int], begin: dict[str, Any], steps: int | None = None
    ) -> Any:
        """A batch of images, and which of them are finite. ``steps`` are those of the stage unless told."""
        from reverie.models.painter import to_bytes

        return to_bytes(
            self.painter.sample(embeddings, seed, self.stage.guidance, steps or self.stage.steps, self.size_px, **begin)
        )

    def _round(
        self, wanted: list[_Wanted], attempt: int, embeddings: Embeddings
    ) -> tuple[list[_Wanted], list[Exception]]:
        """Paint, and compress in threads while the next batch is painted. Returns the blank ones, and what was raised."""
        blank, errors = [], []
        wanted = sorted(wanted, key=lambda item: item.start)  # a batch has one start; within it the order stays
        noise = [seeds.image_seed(self.context.seed, item.caption["caption_id"], item.copy, attempt) for item in wanted]
        for item, seed, image in zip(wanted, noise, self._painted(wanted, embeddings, noise), strict=True):
            item.seed = seed
            if isinstance(image, Exception):
                item.status, item.reason = pairs.FAILED, _said(image)
                errors.append(image)
                continue
            item.status, item.reason = self._judged(image)
            if item.status != pairs.OK:
                blank.append(item)
            if image is not None and (item.status == pairs.OK or attempt % 2):
                item.kept = self._threads.submit(self._encoded, image)
        return blank, errors

    def _painted(
        self, wanted: list[_Wanted], embeddings: Embeddings, noise: list[int]
    ) -> Iterator[np.ndarray | Exception | None]:
        """The images in order, one start after the other."""
        first = 0
        for number, guide in enumerate(self.guides):
            own = [item for item in wanted if item.start == number]
            shots = [self._shot(item) for item in own] if guide else []
            rows = slice(first, first + len(own))
            yield from self.paint(embeddings, [item.text for item in own], noise[rows], guide, shots)
            first += len(own)

    def _shot(self, item: _Wanted) -> str:
        guide = self.guides[item.start]
        assert guide is not None
        return guide.shot(item.caption["caption_id"], item.caption["label"], item.copy)

    def _encode(self, texts: Sequence[str | None]) -> tuple[Embeddings, list[int | str]]:
        """Encode each text once. Returns the embeddings and, for each text, its row there or why it has none."""
        from reverie.models.painter import join

        found: list[int | str] = ["the caption has no text"] * len(texts)
        usable = {index: text for index, text in enumerate(texts) if text and text.strip()}
        parts: list[Embeddings] = []
        readable: list[int] = []
        errors = []
        for indices, encoded in self._encode_apart(usable) if usable else ():
            if isinstance(encoded, Exception):
                found[indices[0]] = _said(encoded)
                errors.append(encoded)
            else:
                parts.append(encoded)
                readable += indices
        _raise_if_all(errors, len(usable), usable)
        for row, index in enumerate(readable):
            found[index] = row
        return (join(parts) if parts else {}), found

    def _encode_apart(self, texts: dict[int, str]) -> Iterator[tuple[list[int], Embeddings | Exception]]:
        """All texts at once, or one by one where that fails, so that the others are not lost."""
        try:
            yield list(texts), self.painter.encode(list(texts.values()))
        except ReverieError:
            raise
        except Exception as error:
            if len(texts) == 1:
                yield list(texts), error
                return
            for index, text in texts.items():
                yield from self._encode_apart({index: text})

    def _tell(self, captions: Sequence[Mapping[str, Any]], num_cut: int) -> None:
        """Report what the painter cannot read: words without a token, and the ends of long texts."""
        words = self.painter.words_unknown([caption["text"] for caption in captions])
        words = [word for word in words if word not in self._words_told]
        if words:
            facts = {"words": words, "model": self.painter.revision}
            if self._words_told:
                self.context.report("words", **facts)
            else:
                self.context.report("warning", text=words_unknown(self.painter.revision, words), **facts)
            self._words_told.update(words)
        if num_cut:
            limit = self.painter.text_limit
            self.context.report("text_cut", unit=captions[0]["unit"], captions=num_cut, limit=limit)
            self.context.report(
                "warning", text=f"captions of more than {limit} tokens are cut, with the end token kept"
            )

    def _halve(self, batch: int, error: Exception) -> None:
        """Go on with half the batch that did not fit."""
        import torch

        if batch == 1:
            place = f"the memory of {self.context.device}"
            raise ModelError(
                f"one image of {self.size_px} px does not fit {place}; use a smaller size_px, or dtype bf16"
            ) from error
        self.batch = batch // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.context.report("warning", text=f"out of memory; from here on {self.batch} images are painted at once")

    def _judged(self, image: np.ndarray | None) -> tuple[pairs.Status, str | None]:
        return _judged(image)

    def _encoded(self, image: np.ndarray) -> bytes:
        return _encoded(image, self.stage)

    def _content(self, kept: Any) -> dict[str, Any]:
        """The columns that hold the image, or say that there is none."""
        side = (self.stage.store_px or self.size_px) if kept else None
        return {"image": kept, "width": side, "height": side}

    def _row(self, item: _Wanted) -> dict[str, Any]:
        return {
            "pair_id": pairs.pair_id(item.caption["caption_id"], item.copy),
            **item.caption,
            "copy": item.copy,
            **self._content(item.kept.result() if item.kept else None),
            "origin": "painted",
            **self.made_with,
            **self._begun_at(item),
            "seed": item.seed,
            "status": item.status,
            "reason": item.reason,
        }

    def _begun_at(self, item: _Wanted) -> dict[str, Any]:
        guide = self.guides[item.start]
        return {"start": guide.told(self._shot(item)), "steps": guide.start.steps} if guide else {}


def _begin(guide: Guide, shots: Sequence[str]) -> dict[str, Any]:
    """What the painter needs to begin at these photos."""
    import torch

    latents: list[Tensor] = [guide.latent(name) for name in shots]
    return {"start": guide.start, "clean": torch.stack(latents)}


def _encoded(image: np.ndarray, stage: PaintPixels) -> bytes:
    """Compress an image, uint8 (H, W, 3), at the size to be stored."""
    picture = Image.fromarray(image)
    if stage.store_px:
        picture = picture.resize((stage.store_px, stage.store_px), Image.Resampling.BICUBIC)
    settings: dict[str, Any] = {} if stage.image_format == "png" else {"quality": stage.quality}
    if stage.image_format == "jpeg":
        settings["subsampling"] = 0  # the coloured edges of small pictures matter more than a few bytes
    buffer = io.BytesIO()
    picture.save(buffer, stage.image_format, **settings)
    return buffer.getvalue()


def _judged(image: np.ndarray | None) -> tuple[pairs.Status, str | None]:
    if image is None:
        return pairs.FAILED, "the image is not finite, with two seeds"
    low, high = image.min((0, 1)).astype(int), image.max((0, 1)).astype(int)
    if (high - low > BLANK_LEVELS).any():
        return pairs.OK, None
    return pairs.DROPPED, f"the image is {'black' if high.max() <= BLANK_LEVELS else 'of one colour'}, with two seeds"


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _raise_if_all(errors: Sequence[Exception], tries: int, captions: Any) -> None:
    """When nothing works for several captions it is not the captions: let the bug be seen."""
    if errors and len(errors) == tries and len(captions) > 1:
        raise errors[0]


def _out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text.lower() or "DefaultCPUAllocator" in text
