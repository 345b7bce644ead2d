"""What it costs to keep painted images as tokens, and what to make pictures of them: time, memory, bytes.

    tokens   caption -> ids                                            -> codes looked up -> captioner
    pixels   caption -> ids -> decoder -> picture -> encoder -> ids    -> codes looked up -> captioner

Both paths paint the same captions from the same seeds, so the sampler's work and its ids are equal, and learn with captioners of equal weights.
Three things are timed:

    generation   captions -> ids; or those and their pictures. PNG is not made: where pictures are kept, that comes on top
    training     generation, and a step of the captioner on what was made
    stored       a step of the captioner on ids; or on PNG that was made before

Every step is timed for both paths, in turns, so that a machine that does other things as well slows both. The ratios are medians over
steps of pixels / tokens: above 1, tokens are faster. Memory is of a process for each path, in which the other never ran.

Source: Synth², arXiv:2403.07750, says that images in embedding space are made 25 % faster; whether that is of generation or of
generation and training it leaves open, so both are here. ``agreement`` is the share of ids that come back from a picture as they
went in: what the way through pixels changes.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from reverie import pairs, seeds
from reverie.arms import Arm
from reverie.errors import InputError
from reverie.nets.token_captioner import LookShape
from reverie.ranges import check_min
from reverie.stage import Job, Role, StepContext, of_step
from reverie.store import results, tables
from reverie.store.pictures import as_png, read_square

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.models.token_painter import TokenPainter

Way = Literal["tokens", "pixels"]
Kind = Literal["generation", "training", "stored"]
PATHS: tuple[Way, ...] = get_args(Way)
KINDS: tuple[Kind, ...] = get_args(Kind)
ARMS = {"tokens": Arm("tokens", "image tokens"), "pixels": Arm("pixels", "pictures")}
LR = 1e-4
MIB = 2**20
MEMORY_STEPS = 3  # a peak is there after the first
STORED = 256  # pairs that the bytes of a store are measured on
PAPER = 1.25  # ratio that the paper tells


@dataclass(frozen=True)
class CostSettings:
    """What both paths do."""

    painter: str = "builtin:token-painter"  # an aMUSEd pipeline by name or folder, whose tokenizer both paths share
    language_model: str = "builtin:writer"  # of the captioner
    guidance: float = 3.0
    sampler_steps: int = 8
    batch: int = 16  # images of a step
    warm_up: int = 20  # steps before the first that counts
    timed: int = 100  # steps that count
    painter_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    shape: LookShape = field(default_factory=LookShape)  # of the captioner
    seed: int = 0

    def __post_init__(self) -> None:
        check_min(1, batch=self.batch, timed=self.timed, sampler_steps=self.sampler_steps)
        check_min(0, warm_up=self.warm_up)


@dataclass(frozen=True)
class Timed:
    """Seconds of a step, medians, and how the two compare."""

    tokens_s: float
    pixels_s: float
    ratio: float  # median over steps of pixels / tokens
    low: float  # quartiles of that
    high: float
    cpu_ratio: (
        float  # the same of the CPU's seconds, which other work on the machine does not blur; of little use on a GPU
    )


@dataclass(frozen=True)
class Memory:
    """Peak of a process in training on what it paints, in bytes."""

    peak: int
    above: int  # of which came after the models were loaded


@dataclass(frozen=True)
class Cost:
    """Both paths side by side."""

    device: str
    painter: str
    num_ids: int  # of an image
    size_px: int
    batch: int
    warm_up: int
    timed: int
    generation: Timed
    training: Timed  # generation, and a step of the captioner
    stored: Timed  # that step alone, on ids or PNG from a store
    memory: dict[str, Memory | None]  # of each path; None where it cannot be told
    content_bytes: dict[str, float]  # of an image: ids of two bytes or four, or PNG
    pair_bytes: dict[str, float]  # on disk, in the store of this package, with caption and all columns
    agreement: float  # share of ids that a picture gives back

    @property
    def images_per_s(self) -> dict[str, float]:
        """Generation alone."""
        return {path: self.batch / getattr(self.generation, f"{path}_s") for path in PATHS}

    @property
    def steps_per_s(self) -> dict[str, float]:
        """Steps of the captioner on images that are painted for it."""
        return {path: 1 / getattr(self.training, f"{path}_s") for path in PATHS}

    @property
    def stored_steps_per_s(self) -> dict[str, float]:
        """Steps of the captioner on images from a store."""
        return {path: 1 / getattr(self.stored, f"{path}_s") for path in PATHS}

    def metrics(self, path: Way) -> dict[str, float | None]:
        """Numbers of one path by the names that records have."""
        memory = self.memory[path]
        return {
            "images_per_s": self.images_per_s[path],
            "steps_per_s": self.steps_per_s[path],
            "stored_steps_per_s": self.stored_steps_per_s[path],
            "peak_mib": None if memory is None else memory.peak / MIB,
            "peak_mib_above": None if memory is None else memory.above / MIB,
            "content_bytes": self.content_bytes[path],
            "pair_bytes": self.pair_bytes[path],
        }


def measure_cost(
    captions: Sequence[str],
    settings: CostSettings = CostSettings(),
    device: str = "cpu",
    memory: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cost:
    """Time both paths, in turns.

    Args:
        captions: taken in turns.
        memory: also start a process for each path, for its peak.
    Raises: InputError without captions; UnknownName, ModelError for a model; what ``learn/synth2.py`` raises for a language model.
    """
    import torch

    texts = [text for text in captions if text.strip()]
    if not texts:
        raise InputError("cost is measured on captions; give at least one")
    work = {path: _Work(settings, texts, device) for path in PATHS}
    painter = work["tokens"].painter
    total = settings.warm_up + settings.timed
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {kind: {path: [] for path in PATHS} for kind in KINDS}
    made: list[np.ndarray] = []
    for step in range(total):
        progress(step, total)
        files: list[bytes] = []  # what a store would hold of this step's images
        for kind in KINDS:
            for path in PATHS if step % 2 == 0 else PATHS[::-1]:
                seconds, seen = _seconds(functools.partial(work[path].do, kind, path, step, files), device)
                if step >= settings.warm_up:
                    taken[kind][path].append(seconds)
                if kind == "generation" and path == "tokens":
                    made.append(seen.cpu().numpy().astype(np.int32))
                    files += [as_png(_picture(one)) for one in painter.tokenizer.pictures(made[-1])]
    progress(total, total)
    every = np.concatenate(made[settings.warm_up :])
    back = np.concatenate(
        [painter.tokenizer.ids(painter.tokenizer.pictures(some)) for some in made[settings.warm_up :]]
    )
    stored = every[:STORED]
    pictures = [as_png(_picture(one)) for one in painter.tokenizer.pictures(stored)]
    return Cost(
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{device}, {torch.get_num_threads()} threads",
        painter=painter.revision,
        num_ids=painter.side**2,
        size_px=painter.size_px,
        batch=settings.batch,
        warm_up=settings.warm_up,
        timed=settings.timed,
        **{kind: _timed(both["tokens"], both["pixels"]) for kind, both in taken.items()},
        memory={path: peak_memory(path, texts, settings, device) if memory else None for path in PATHS},
        content_bytes={
            "tokens": float(painter.side**2 * (2 if painter.tokenizer.num_codes <= 1 << 16 else 4)),
            "pixels": statistics.fmean(map(len, pictures)),
        },
        pair_bytes=_on_disk(stored, pictures, texts, painter),
        agreement=float((back == every).mean()),
    )  # fmt: skip


class _Work:
    """A painter and a captioner, and what either path does with them."""

    def __init__(self, settings: CostSettings, texts: Sequence[str], device: str) -> None:
        import torch

        from reverie.learn.synth2 import Synth2
        from reverie.models.token_painter import open_token_painter

        self.settings, self.texts, self.device = settings, texts, device
        self.painter = open_token_painter(settings.painter, device, settings.painter_dtype)
        self.painter.check(settings.guidance, settings.sampler_steps, self.painter.size_px)
        self.learner = Synth2(settings.language_model, settings.painter, self.painter.size_px, settings.shape)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.net = self.learner.build().to(device).train()
        learns = [weight for weight in self.net.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(learns, lr=LR)
        self.kept: Tensor  # what was painted last

    def said(self, step: int) -> list[str]:
        first = step * self.settings.batch
        return [self.texts[(first + place) % len(self.texts)] for place in range(self.settings.batch)]

    def ids(self, step: int) -> Tensor:
        """Painted, (B, h, w) on the device."""
        noise = [seeds.derive("cost", self.settings.seed, step, place) for place in range(self.settings.batch)]
        embeddings = self.painter.encode(self.said(step))
        return self.painter.sample_ids(embeddings, noise, self.settings.guidance, self.settings.sampler_steps)

    def made(self, path: Way, step: int) -> Tensor:
        """What a step of training is given: ids (B, h, w), or pictures, uint8 (B, 3, H, W)."""
        import torch

        ids = self.ids(step)
        if path == "tokens":
            return ids
        return torch.from_numpy(self.painter.tokenizer.pictures(ids)).permute(0, 3, 1, 2).to(self.device)

    def do(self, kind: Kind, path: Way, step: int, files: Sequence[bytes]) -> Tensor:
        """What is timed. Returns: what the captioner is shown."""
        if kind == "stored":
            seen = self.kept if path == "tokens" else _decoded(files, self.painter.size_px)
        else:
            seen = self.kept = self.made(path, step)
        if kind != "generation":
            self.step(seen, step)
        return seen

    def step(self, seen: Tensor, step: int) -> None:
        """One step of the captioner."""
        batch = {"tokens" if seen.ndim == 3 else "images": seen.to(self.device), "text": self.said(step)}
        self.learner.losses(self.net, batch)["loss"].backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def peak_memory(path: Way, captions: Sequence[str], settings: CostSettings, device: str = "cpu") -> Memory | None:
    """Peak of a fresh process that paints and trains by this path alone.

    Of a GPU it is the memory that tensors take; on a CPU what the process holds in memory (resident set), libraries included, which only Linux tells:
    None elsewhere.
    """
    if not device.startswith("cuda") and not Path("/proc/self/clear_refs").exists():
        return None
    # Not forked: a child would begin with all that its parent holds.
    with multiprocessing.get_context("spawn").Pool(1) as process:
        before, peak = process.apply(_peak, (path, list(captions), settings, device))
    return Memory(peak, max(0, peak - before))


def _peak(path: Way, captions: list[str], settings: CostSettings, device: str) -> tuple[int, int]:
    import torch

    work, cuda = _Work(settings, captions, device), device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of loading
        before = _resident("VmRSS")
    for step in range(MEMORY_STEPS):
        work.step(work.made(path, step), step)
    return before, torch.cuda.max_memory_allocated(device) if cuda else _resident("VmHWM")


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _seconds(job: Callable[[], Tensor], device: str) -> tuple[tuple[float, float], Tensor]:
    """Of the clock, and of this process on the CPU, until the device has done it; and what it gave."""
    _settle(device)
    began, began_cpu = time.perf_counter(), time.process_time()
    found = job()
    _settle(device)
    return (time.perf_counter() - began, time.process_time() - began_cpu), found


def _settle(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def _timed(tokens: Sequence[tuple[float, float]], pixels: Sequence[tuple[float, float]]) -> Timed:
    ratios = [theirs[0] / ours[0] for ours, theirs in zip(tokens, pixels, strict=True)]
    low, high = np.quantile(ratios, [0.25, 0.75]).tolist()
    return Timed(
        statistics.median(clock for clock, _ in tokens),
        statistics.median(clock for clock, _ in pixels),
        statistics.median(ratios), low, high,
        statistics.median(theirs[1] / max(ours[1], 1e-9) for ours, theirs in zip(tokens, pixels, strict=True)),
    )  # fmt: skip


def _picture(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def _decoded(files: Sequence[bytes], side: int) -> Tensor:
    import torch

    found = np.empty((len(files), side, side, 3), np.uint8)
    for number, data in enumerate(files):
        read_square(data, f"picture {number}", found[number])
    return torch.from_numpy(found).permute(0, 3, 1, 2)


def _on_disk(
    ids: np.ndarray, pictures: Sequence[bytes], captions: Sequence[str], painter: TokenPainter
) -> dict[str, float]:
    """Bytes a pair in a store of pairs that have tokens alone, or a picture alone."""
    from reverie.models.tokenizer import tokens_row

    found: dict[str, float] = {}
    for path in PATHS:
        rows = []
        for number, (one, picture) in enumerate(zip(ids, pictures, strict=True)):
            name = f"{seeds.derive('cost row', number) % 16**16:016x}"
            rows.append(
                {
                    "pair_id": name, "caption_id": name, "copy": 0, "unit": 0, "text": captions[number % len(captions)],
                    "width": painter.size_px, "height": painter.size_px, "origin": "painted", "status": pairs.OK,
                    **(tokens_row(one, painter.tokenizer) if path == "tokens" else {"image": picture}),
                }
            )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "pairs.lance"
            tables.append_unit(table, 0, pairs.table(rows, pairs.PAIRS))
            found[path] = sum(file.stat().st_size for file in table.rglob("*") if file.is_file()) / len(rows)
    return found


@dataclass(frozen=True)
class MeasureCost(Job):
    """Cost of either path -> results.jsonl, the arms ``tokens`` and ``pixels`` of the protocol ``cost``.

    Captions are those of the run that are ok, or else sentences of the small world.
    """

    role: ClassVar[Role] = "measure"

    settings: CostSettings = field(default_factory=CostSettings)  # its models may be those of a step, as step:NAME
    memory: bool = True  # in a process for each path
    repeats: int = 1  # how often all of it is measured; each is recorded under a seed of its own: 0, 1, ...

    def __post_init__(self) -> None:
        check_min(1, repeats=self.repeats)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What is measured."""
        return tuple(ARMS.values())

    def check(self) -> None:
        """Raises UnknownName, ModelError for a painter or language model that is not there."""
        from reverie.learn.synth2 import check_language
        from reverie.models.tokenizer import check_tokenizer

        if not of_step(self.settings.painter):
            check_tokenizer(self.settings.painter)
        if not of_step(self.settings.language_model):
            check_language(self.settings.language_model)

    def run(self, context: StepContext) -> None:
        """Measure; run again, it replaces its numbers. Raises what ``measure_cost`` raises."""
        for repeat in range(self.repeats):
            self._measure(context, repeat)

    def _measure(self, context: StepContext, repeat: int) -> None:
        def told(done: int, total: int) -> None:
            context.report("progress", done=done, total=total, what="steps")

        models = {name: context.model(getattr(self.settings, name)) for name in ("painter", "language_model")}
        settings = dataclasses.replace(self.settings, seed=self.settings.seed + repeat, **models)  # type: ignore[arg-type]
        cost = measure_cost(captions_of(context), settings, context.device, self.memory, told)
        shared = {
            **{f"{kind}_{name}": value for kind in KINDS
               for name, value in dataclasses.asdict(getattr(cost, kind)).items() if "ratio" in name or name in ("low", "high")},
            "agreement": cost.agreement, "device": cost.device, "batch": cost.batch, "timed": cost.timed, "warm_up": cost.warm_up,
            "ids": cost.num_ids, "size_px": cost.size_px, "painter": cost.painter,
        }  # fmt: skip
        lines = []
        for path in PATHS:
            record = results.about(
                context, self, dataclasses.replace(ARMS[path], seed=repeat), "cost", split="painted", details=shared
            )
            lines += [
                record(metric=metric, value=value) for metric, value in cost.metrics(path).items() if value is not None
            ]
            lines.append(record(metric="agreement", value=1.0 if path == "tokens" else cost.agreement))
        results.append(context.results, *lines)


def captions_of(context: StepContext, most: int = 10_000) -> list[str]:
    """Captions of a run that are ok, as many as asked; or sentences of the small world where it has none yet."""
    if tables.exists(context.captions):
        found: list[str] = []
        for part in tables.scan(context.captions, ["text"], f"status = '{pairs.OK}'"):
            found += [text for text in part["text"].to_pylist() if text]
            if len(found) >= most:
                break
        if found:
            return found[:most]
    return small_world()


def small_world(count: int = 256) -> list[str]:
    """Sentences that the builtin painter has learned to paint."""
    from reverie.smallworld.describe import describe
    from reverie.smallworld.scene import sample

    rng = np.random.default_rng(seeds.derive("cost captions"))
    return [describe(sample(rng), "human", rng) for _ in range(count)]
