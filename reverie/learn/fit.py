"""The one training loop: a learner, a stream of batches, and settings in; trained weights and a curve out.

The same loop runs on a CPU, on one GPU, and on several under ``accelerate launch``. Everything random in step s is
seeded from (seed, s, rank), and batches are asked for by position, so a checkpoint holds tensors and a few numbers, no
generator state, and a run that was killed goes on along the same curve.

    folder/latest/       net, optimiser and EMA as safetensors, state.json; replaced whole
    folder/curve.jsonl   {"step": steps done, "lr": ..., "loss": ..., and what else the learner returns}
    folder/nonfinite-*   the batch on which the loss stopped being a number
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import broadcast
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reverie import seeds, stage
from reverie.errors import InputError, MissingExtra, SettingsChanged, TrainingError
from reverie.models.pretrained import load_into, load_tensors
from reverie.stage import ignore_events
from reverie.store.files import atomic_file, atomic_folder, restore_folder
from reverie.store.json_files import misfit, read_json, read_line

TIMED = 1000  # steps at the end of a training whose time is told

Batch = dict[str, Any]
Tensors = tuple[Tensor, ...] | list[Tensor]


class Batches(Protocol):
    """Where batches come from. ``start`` counts the batches of this process already consumed."""

    def iterate(self, start: int) -> Iterator[Batch]: ...


class Learner(Protocol):
    """What is learned: a frozen dataclass. May also have ``after_step(net)``, called after every optimiser step, ``reads_text``, true of
    one that learns from captions, which is handed no pair without one, and two tables from beginnings of parameters' names: ``rates``
    to their learning rate, as a multiple of the usual one, and ``apart`` to an ``Apart`` of their own.
    """

    def build(self) -> nn.Module:
        """The untrained net; called under a fixed seed. Parameters without ``requires_grad`` stay as they are."""
        ...

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scalars to log; ``"loss"`` is minimised. Calls ``net(...)`` exactly once, because DDP hooks in there."""
        ...

    def save(self, net: nn.Module, folder: Path) -> None:
        """Write the trained net as folders that the public classes open."""
        ...


def refuse_several(what: str) -> None:
    """Raises InputError under several processes of an ``accelerate launch``, for what is learned by one: "a captioner is trained"."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(f"{what} by one process; start reverie without accelerate launch")


@dataclass(frozen=True)
class FitSpeed:
    """What may change between a run and its resumption."""

    checkpoint_every_s: float = 300.0  # seconds between checkpoints; 0 = after every step
    log_every: int = 1  # steps between two rows of curve.jsonl
    trackers: tuple[str, ...] = ()  # "tensorboard", "wandb", ...: any that accelerate knows

    def __post_init__(self) -> None:
        for tracker in self.trackers:
            if tracker not in LOGGER_TYPE_TO_CLASS:
                known = ", ".join(sorted(map(str, LOGGER_TYPE_TO_CLASS)))
                raise InputError(f"there is no tracker {tracker!r}; accelerate knows {known}")
            if importlib.util.find_spec(tracker) is None:
                if tracker in ("tensorboard", "wandb"):
                    raise MissingExtra(f"tracker {tracker!r}", "track")
                raise InputError(f"tracker {tracker!r} is not installed: pip install {tracker}")


@dataclass(frozen=True)
class Apart:
    """How a part of a net trains that would have an optimiser of its own: at a constant rate, clipped by its own norm."""

    lr: float = 1e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float | None = None


@dataclass(frozen=True)
class Fit:
    """How to train: AdamW, linear warm-up from 0, then half a cosine to 0 or a constant rate."""

    steps: int = 1000
    lr: float = 1e-3  # peak
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float | None = None  # largest norm of the whole gradient, but for what trains apart
    ema: float | None = None  # decay of the average of weights, e.g. 0.999; the averaged net is then the result
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    minutes: float | None = None  # to train for, over all resumptions: the cosine follows the time, steps is the most
    speed: FitSpeed = field(default_factory=FitSpeed)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup_steps < 0:
            raise InputError(f"{self.steps} steps with {self.warmup_steps} of warm-up cannot be; give 1 step or more")
        if self.minutes is not None and self.minutes <= 0:
            raise InputError(f"minutes {self.minutes} must be above 0; leave it out to train for all the steps")
        if not 0 < self.lr < math.inf or self.weight_decay < 0:
            raise InputError(f"lr {self.lr} must be a number above 0, and weight_decay {self.weight_decay} not below")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InputError(f"ema {self.ema} is a decay: at least 0, below 1")


class Fitted(NamedTuple):
    """The trained net (the EMA one when EMA is on; on the training device) and the losses of the last step."""

    net: nn.Module
    losses: dict[str, float]


def fit(
    learner: Learner,
    batches: Batches,
    settings: Fit,
    folder: Path,
    *,
    seed: int,
    device: str = "cpu",
    report: stage.EventSink = ignore_events,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> Fitted:
    """Train, or go on training from ``folder/latest``, for ``settings.steps`` steps or ``settings.minutes`` in all.

    Args:
        batches: of this process only; equal sizes on every process.
        device: "cpu", "cuda" or "cuda:N"; under ``accelerate launch`` each process takes its own GPU.
        report: gets ``("progress", done=, total=, loss=, rate=)`` about once a second; rate in steps per second.
        watch: called after every step, before its checkpoint, with the steps done and the net that would be the result;
            it leaves the net in the mode it found. After a kill it is called again for the steps that are done again.
    Raises:
        SettingsChanged: the folder holds a checkpoint of another learner, Fit, seed or number of processes.
        TrainingError: a loss is not finite; the batch is saved and named.
        InputError: the batches ran out, or the device cannot do what is asked.
    """
    accelerator = _accelerator(settings, device, folder)
    main, rank = accelerator.is_main_process, accelerator.process_index
    facts = {
        "learner": stage.settings(learner),
        "fit": stage.settings(settings),
        "seed": seed,
        "processes": accelerator.num_processes,
    }
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        restore_folder(folder / "latest")
    accelerator.wait_for_everyone()

    _seed(seeds.derive("build", seed), accelerator.device)
    net = learner.build().to(accelerator.device)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
    apart: Mapping[str, Apart] = getattr(learner, "apart", {})
    groups = decay_groups(net, settings.weight_decay, getattr(learner, "rates", {}), apart)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.precision == "fp16")
    ema = AveragedModel(net, multi_avg_fn=_ema_rule(settings.ema)) if settings.ema else None
    done, losses, spent_s = _load(folder / "latest", net, optimizer, scaler, ema, facts, learner, settings)
    clock = _Clock(settings.minutes, spent_s, accelerator)
    # The net only: accelerate's wrapped optimiser looks for optional packages on disk at every step.
    wrapped = accelerator.prepare_model(net)

    after_step: Callable[[nn.Module], None] | None = getattr(learner, "after_step", None)
    clipped = [
        ([weight for _, weight in named], clip)
        for start, named in _by_beginning(net, apart).items()
        if (clip := apart[start].clip if start else settings.clip) is not None
    ]
    wrapped.train()
    with _Curve(folder, done, settings, accelerator, report) as curve:
        unread: _Unread | None = None  # the step before: reading it late lets a GPU run on while we prepare the next
        last_save = time.monotonic()
        steps = range(done, settings.steps) if clock.share() < 1 else range(0)
        stream = batches.iterate(done) if steps else iter(())
        for step in steps:
            batch = next(stream, None)
            if batch is None:
                raise InputError(
                    f"the batches ran out after {step} of {settings.steps} steps; give more, or fewer steps"
                )
            batch = _to(batch, accelerator.device)
            _seed(seeds.step_seed(seed, step, rank), accelerator.device)
            share = clock.share()
            finished = step + 1 == settings.steps or share >= 1
            rate = learning_rate(settings, step, share)
            for group in optimizer.param_groups:
                group["lr"] = group.get("constant_lr", rate * group.get("rate", 1.0))
            named = learner.losses(wrapped, batch)
            torch.autograd.backward(scaler.scale(named["loss"]))
            if clipped:
                scaler.unscale_(optimizer)
            for weights, clip in clipped:
                nn.utils.clip_grad_norm_(weights, clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if after_step is not None:
                after_step(net)
            if ema is not None:
                ema.update_parameters(net)
            if watch is not None:
                watch(step + 1, net if ema is None else ema.module)

            if unread is not None:
                losses = curve.read(unread)
            values = torch.stack([value.detach().float() for value in named.values()])
            unread = _Unread(step, rate, list(named), accelerator.reduce(values, "mean"), batch, finished)
            if finished or time.monotonic() - last_save >= settings.speed.checkpoint_every_s:
                losses, unread = curve.read(unread), None
                if main:
                    curve.flush()
                    state = {"step": step + 1, "losses": losses, "scaler": scaler.state_dict(), "settings": facts}
                    state["spent_s"] = clock.spent_s(finished)
                    _save(folder, net, optimizer, ema, state)
                last_save = time.monotonic()
            if finished:
                break
        curve.tell_speed()
    accelerator.wait_for_everyone()
    if settings.speed.trackers:
        accelerator.end_training()
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # takes the autocast wrapper off net.forward
    result = net if ema is None else ema.module
    return Fitted(result.eval(), losses)


def learning_rate(settings: Fit, step: int, share: float = 0.0) -> float:
    """Rate of optimiser step ``step`` (from 0): linear from 0 over the warm-up, then half a cosine to 0, or constant.

    With ``settings.minutes`` the cosine is that of ``share``, the part of them that is over, from the first step on.
    """
    warm = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.schedule == "constant":
        return settings.lr * warm
    if settings.minutes is not None:
        return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    progress = max(0, step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(
    net: nn.Module,
    weight_decay: float,
    rates: Mapping[str, float] | None = None,
    apart: Mapping[str, Apart] | None = None,
) -> list[dict[str, Any]]:
    """Trained parameters in two groups: with and without weight decay; and two more for each rate or ``Apart`` of their own.

    Not decayed: fewer than 2 dimensions, or a name with the word bias, ln or bn. Words are what dots, underscores and
    digits separate (``ln_1``, ``bn2``, ``in_proj_bias``), so that "kernel.n" or "fullname" do not count. Position and
    class tokens have 3 dimensions and are decayed. Source: StableRep code, which tests for substrings.

    Args:
        rates: learning rates of parameters whose name begins so, as multiples of the usual one.
        apart: what trains on its own, in the same way; it goes before ``rates``.
    """
    rates, apart = rates or {}, apart or {}
    groups = []
    for start, named in _by_beginning(net, [*apart, *rates]).items():
        decayed: list[nn.Parameter] = []
        spared: list[nn.Parameter] = []
        for name, weight in named:
            words = set(re.split(r"[._\d]+", name))
            (spared if weight.ndim < 2 or words & {"bias", "ln", "bn"} else decayed).append(weight)
        own: dict[str, Any] = {"rate": rates[start]} if start in rates else {}
        decay = weight_decay
        if start in apart:
            own, decay = {"constant_lr": apart[start].lr, "betas": apart[start].betas}, apart[start].weight_decay
        groups += [{"params": decayed, "weight_decay": decay} | own, {"params": spared, "weight_decay": 0.0} | own]
    return groups


def _by_beginning(net: nn.Module, starts: Iterable[str]) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Trained parameters with their names, by the first of ``starts`` that the name begins with; the others first, by ""."""
    found: dict[str, list[tuple[str, nn.Parameter]]] = {start: [] for start in ("", *starts)}
    for name, weight in net.named_parameters():
        if weight.requires_grad:
            found[next((start for start in found if start and name.startswith(start)), "")].append((name, weight))
    return found


def _ema_rule(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Average with decay min(decay, (1 + n) / (10 + n)) at update n: a short memory at first, to forget the start."""

    @torch.no_grad()
    def average(kept: Tensors, new: Tensors, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(kept, new, 1 - min(decay, (1 + n) / (10 + n)))

    return average


class _Clock:
    """How much of the minutes to train for is over; the same on every process, which is the first one's time."""

    def __init__(self, minutes: float | None, spent_s: float, accelerator: Any) -> None:
        self.limit_s = None if minutes is None else 60 * minutes
        self.since, self.accelerator = time.monotonic() - spent_s, accelerator

    def share(self) -> float:
        if self.limit_s is None:
            return 0.0
        share = (time.monotonic() - self.since) / self.limit_s
        if self.accelerator.num_processes > 1:
            share = float(broadcast(torch.tensor(share, dtype=torch.float64, device=self.accelerator.device)))
        return share

    def spent_s(self, finished: bool) -> float:
        """For a checkpoint; of a finished training never less than its time, or a resumption would go on."""
        spent = time.monotonic() - self.since
        return spent if self.limit_s is None or not finished else max(spent, self.limit_s)


class _Unread(NamedTuple):
    """Losses of a step, still on the device, and the batch to save if they turn out not to be numbers."""

    step: int
    lr: float
    names: list[str]
    values: Tensor
    batch: Batch
    last: bool


class _Curve:
    """Reads losses, stops at the first that is not finite, and tells curve.jsonl, the report and the trackers."""

    def __init__(self, folder: Path, done: int, settings: Fit, accelerator: Any, report: stage.EventSink) -> None:
        self.folder, self.settings, self.accelerator, self.report = folder, settings, accelerator, report
        self.file = None
        self.since, self.since_step = time.monotonic(), done
        self.took, self.before = deque[float](maxlen=TIMED), perf_counter()  # seconds of each of the last steps
        self.done = 0  # steps since it was opened
        if accelerator.is_main_process:
            path = folder / "curve.jsonl"
            _drop_after(path, done)
            self.file = path.open("a", encoding="utf-8")

    def __enter__(self) -> _Curve:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def read(self, unread: _Unread) -> dict[str, float]:
        done, total = unread.step + 1, self.settings.steps
        now = perf_counter()
        self.done += 1
        self.took.append(now - self.before)
        self.before = now
        losses = dict(zip(unread.names, unread.values.tolist(), strict=True))
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            name = f"nonfinite-step{unread.step:07d}-rank{self.accelerator.process_index}"
            saved = _save_batch(self.folder / name, unread.batch, {"step": unread.step, "lr": unread.lr, **losses})
            raise TrainingError(
                f"{' and '.join(bad)} became {losses[bad[0]]} at step {unread.step}; the batch is saved in {saved}; "
                "try a lower learning rate, a longer warm-up, clipping, or fp32"
            )
        if self.file is None:
            return losses
        if done % self.settings.speed.log_every == 0 or unread.last:
            self.file.write(json.dumps({"step": done, "lr": unread.lr, **losses}) + "\n")
            if self.settings.speed.trackers:
                self.accelerator.log({"lr": unread.lr, **losses}, step=done)
        elapsed = time.monotonic() - self.since
        if elapsed >= 1 or unread.last:
            rate = (done - self.since_step) / max(elapsed, 1e-9)
            self.since, self.since_step = time.monotonic(), done
            self.file.flush()
            self.report("progress", done=done, total=total, what="steps", loss=losses["loss"], rate=rate)
        return losses

    def tell_speed(self) -> None:
        """Seconds of a step, as the last ones took; the first also sets things up, the last is read at once: they do not count."""
        took = sorted(list(self.took)[1:-1])
        if self.file is not None and took:
            low, middle, high = (took[round(share * (len(took) - 1))] for share in (0.25, 0.5, 0.75))
            self.report("speed", what="steps", steps=len(took), done=self.done, seconds_each=middle, low=low, high=high)

    def flush(self) -> None:
        """Everything up to the checkpoint is on disk before the checkpoint is."""
        assert self.file is not None
        self.file.flush()
        os.fsync(self.file.fileno())


def _drop_after(path: Path, done: int) -> None:
    """Keep the rows of a curve up to the checkpoint; a row cut short by a kill is past it anyway."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = read_line(line)
        except ValueError:
            break
        if misfit(row, {"step": int}) or row["step"] > done:
            break
        kept.append(line + "\n")
    with atomic_file(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def _accelerator(settings: Fit, device: str, folder: Path) -> Any:
    """Accelerate for this device and precision; its process-wide state forgets the fit before."""
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} is not there (torch sees no CUDA); use --device cpu")
    if settings.precision == "fp16" and device == "cpu":
        raise InputError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision="no" if settings.precision == "fp32" else settings.precision,
        cpu=device == "cpu",
        log_with=list(settings.speed.trackers) or None,
        project_dir=str(folder),
    )
    if settings.speed.trackers:
        accelerator.init_trackers("reverie")
    return accelerator


def _seed(value: int, device: torch.device) -> None:
    """Seed torch on the CPU and on this device. torch.manual_seed costs a millisecond where CUDA is not started yet."""
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _save_batch(path: Path, batch: Batch, facts: Mapping[str, Any]) -> Path:
    """Tensors of a batch to ``path``.safetensors, the rest to ``path``.json."""
    tensors = {key: value.contiguous().cpu() for key, value in batch.items() if isinstance(value, Tensor)}
    others = {key: value for key, value in batch.items() if not isinstance(value, Tensor)}
    with atomic_file(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps({**facts, **others}, default=repr), encoding="utf-8")
    file = path.with_suffix(".safetensors")
    with atomic_file(file) as partial:
        save_file(tensors, partial)
    return file


def _save(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None, state: Any) -> None:
    """Replace ``folder/latest``."""
    with atomic_folder(folder / "latest", replace=True) as new:
        save_model(net, str(new / "net.safetensors"))
        if ema is not None:
            save_model(ema, str(new / "ema.safetensors"))
        moments = optimizer.state_dict()["state"]
        save_file(
            {f"{index}.{key}": value.contiguous() for index, kept in moments.items() for key, value in kept.items()},
            new / "optimizer.safetensors",
        )
        (new / "state.json").write_text(json.dumps(state), encoding="utf-8")


STATE = {"settings": {...: object}, "scaler": ({...: object}, None), "step": int, "losses": {...: float}}


def _load(
    latest: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ema: nn.Module | None,
    facts: Mapping[str, Any],
    learner: Learner,
    settings: Fit,
) -> tuple[int, dict[str, float], float]:
    """Fill net, optimiser, scaler and EMA from a checkpoint. Returns steps done, the last losses, seconds spent."""
    if not latest.exists():
        return 0, {}, 0.0
    again = f"delete {latest} to begin anew, then run the same command again"
    state = read_json(latest / "state.json", STATE, TrainingError, again)
    # A setting that is newer than the checkpoint had its default then.
    known = {"learner": learner, "fit": settings}
    recorded = {key: stage.settings_now(value, known.get(key)) for key, value in state["settings"].items()}
    old, new = _flat(json.loads(json.dumps(recorded))), _flat(json.loads(json.dumps(facts)))
    difference = {key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    if difference:
        raise SettingsChanged(str(latest.parent), difference)
    load_into(net, latest / "net.safetensors")
    if ema is not None:
        load_into(ema, latest / "ema.safetensors")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in load_tensors(latest / "optimizer.safetensors").items():
        try:
            index, key = name.split(".")
            # Moments lie in memory as their weight does (channels last, perhaps); the fused optimiser counts on it.
            like = weights[int(index)] if value.ndim else value
            moments.setdefault(int(index), {})[key] = torch.empty_like(like).copy_(value)
        except (ValueError, IndexError, RuntimeError) as error:
            raise TrainingError(f"the checkpoint does not fit the optimiser ({name}); {again}") from error
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    if state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    return state["step"], state["losses"], state.get("spent_s", 0.0)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
