"""SynTIC's refinement: moves the features of painted images towards their own captions and away from others.

Source: arXiv:2312.08865. The paper gives the loss; its optimiser, rate, number of steps and batch are not known to us, so
those here are ours: Adam at 1e-3, 50 passes over all features, batches of 256, unit length after every step.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from reverie import seeds
from reverie.errors import InputError, StoreError
from reverie.models.pretrained import load_tensors
from reverie.nets.projection import SAME, own_weight
from reverie.stage import Job, StepContext, Trial
from reverie.store.files import atomic_file, atomic_folder
from reverie.store.json_files import read_json

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's usual ones
SAVE_EVERY_S = 60.0  # seconds between checkpoints
SAMPLE = 2048  # texts on which the level of text-to-text likeness is measured
WEIGHED = 512  # images on which the weight of the own sentence is measured after every pass


@dataclass(frozen=True)
class Refine:
    """How features are refined. Only painted images are, never photos: those have no sentence."""

    steps: int = 50  # passes; each feature is moved once in each, in a batch drawn afresh
    lr: float = 1e-3
    batch: int = 256
    temperature: float = 0.01
    target: float | None = None  # stop where the mean cosine to the own sentence reaches this
    # Stop where it reaches what a sentence has to its nearest other: images are not that close to texts; and where a projection on
    # all texts has ``max_own`` of its weight on the own one: what is said in that way is a text again.
    guard: bool = True
    max_own: float = 0.9  # 1 for a projection that never sees the own sentence
    alike: float = 0.95  # sentences of a batch that are closer than this are not held against each other
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 2:
            raise InputError(
                f"{self.steps} refinement steps in batches of {self.batch} cannot be; give 0 and 2 or more"
            )
        if self.target is not None and not -1 <= self.target <= 1:
            raise InputError(f"the target {self.target} of the refinement is a cosine, in [-1, 1]")
        if not 0 < self.max_own <= 1:
            raise InputError(f"max_own {self.max_own} is a share of the weight of a projection, in (0, 1]")
        if not 0 < self.lr < math.inf or not 0 < self.temperature < math.inf:
            raise InputError("the rate and the temperature of the refinement must be numbers above 0")


class Refined(NamedTuple):
    """What ``refine`` gives."""

    rows: Tensor  # unit rows (n, d)
    steps: int  # passes that were done
    stop_reason: str  # all steps, the target, or the guard
    # for each pass, from 0: step, cosine (mean, to the own sentence), own (its mean weight in a projection, with the guard), loss (not of 0)
    curve: list[dict[str, float]]


def gradient(rows: Tensor, texts: Tensor, temperature: float, alike: float = math.inf) -> tuple[Tensor, Tensor]:
    """Of -1/b sum_i log softmax_j(cos(rows_i, texts_j) / temperature)_i: the loss, and its gradient in rows, in closed form.

    Args:
        rows: (b, d), of any length.
        texts: unit rows (b, d); text i belongs to row i.
        alike: texts with a cosine above this to the own one are left out of the softmax.
    """
    length = rows.norm(dim=1, keepdim=True)
    unit = rows / length
    logits = unit @ texts.T / temperature
    if alike < 1:
        same = texts @ texts.T > alike
        same.fill_diagonal_(False)
        logits.masked_fill_(same, -math.inf)
    chances = logits.softmax(1)
    loss = -logits.log_softmax(1).diagonal().mean()
    towards = texts - chances @ texts
    along = (towards * unit).sum(1, keepdim=True) * unit
    return loss, -(towards - along) / (len(rows) * temperature * length)


def refine(
    images: Tensor,
    texts: Tensor,
    config: Refine,
    *,
    folder: Path | None = None,
    report: Callable[..., None] | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Refined:
    """Move features of painted images for ``config.steps`` passes, or until a stop rule holds.

    Args:
        images: unit rows (n, d); row i was painted from text i.
        texts: unit rows (n, d).
        folder: for a checkpoint every minute, from which a killed refinement goes on.
        watch: called with the passes done, from 0, and the rows then.
    """
    if images.shape != texts.shape:
        raise InputError(f"{tuple(images.shape)} features of images do not fit {tuple(texts.shape)} of texts")
    state = {"rows": F.normalize(images.float(), dim=1).clone()}
    state |= {"mean": torch.zeros_like(state["rows"]), "square": torch.zeros_like(state["rows"])}
    texts = texts.float()
    level = nearest_other(texts) if config.guard else math.inf

    def looked(done: int) -> dict[str, float]:
        found = {"step": float(done), "cosine": _cosine(state["rows"], texts)}
        if config.guard and config.max_own < 1:
            found["own"] = mean_own_weight(state["rows"], texts, config.temperature)
        return found

    done, curve = 0, [looked(0)]
    if folder is not None and (folder / "refine.json").exists():
        again = "delete it, then run the same command again"
        shape = {"done": int, "curve": [{"step": float, "cosine": float, ...: float}]}
        known = read_json(folder / "refine.json", shape, StoreError, again)
        state, done, curve = load_tensors(folder / f"refine-{known['done']}.safetensors"), known["done"], known["curve"]
    elif watch:
        watch(0, state["rows"])
    stop_reason, last = "all steps", time.monotonic()
    while done < config.steps:
        if stop := _stop(curve[-1], config, level):
            stop_reason = stop
            break
        loss = _one_pass(state, texts, config, done)
        done += 1
        curve.append(looked(done) | {"loss": loss})
        if watch:
            watch(done, state["rows"])
        if folder is not None and time.monotonic() - last >= SAVE_EVERY_S:
            _save(folder, state, done, curve)
            last = time.monotonic()
        if report:
            report("progress", done=done, total=config.steps, what="passes of refinement", cosine=curve[-1]["cosine"])
    return Refined(state["rows"], done, stop_reason, curve)


def nearest_other(texts: Tensor, sample: int = SAMPLE) -> float:
    """Median cosine of a text to the nearest one that is not the same, over some of the texts; 1 for fewer than two."""
    some = texts[:: max(1, len(texts) // sample)][:sample].float()
    cosines = some @ some.T
    cosines[cosines > SAME] = -math.inf
    best = cosines.max(1).values if len(some) > 1 else some.new_full((1,), -math.inf)
    known = best[best > -math.inf]
    return float(known.median()) if len(known) else 1.0


def _one_pass(state: dict[str, Tensor], texts: Tensor, config: Refine, done: int) -> float:
    """Adam on every row once, in random batches. Returns the mean loss."""
    rows, mean, square = state["rows"], state["mean"], state["square"]
    order: np.ndarray[Any, np.dtype[np.int64]]
    order = np.random.default_rng(seeds.derive("refine", config.seed, done)).permutation(len(rows))
    sums = 0.0
    for batch in torch.split(torch.from_numpy(order), config.batch):
        loss, slope = gradient(rows[batch], texts[batch], config.temperature, config.alike)
        mean[batch] = BETAS[0] * mean[batch] + (1 - BETAS[0]) * slope
        square[batch] = BETAS[1] * square[batch] + (1 - BETAS[1]) * slope * slope
        ahead = mean[batch] / (1 - BETAS[0] ** (done + 1))
        size = (square[batch] / (1 - BETAS[1] ** (done + 1))).sqrt() + EPSILON
        rows[batch] = F.normalize(rows[batch] - config.lr * ahead / size, dim=1)
        sums += float(loss) * len(batch)
    return sums / len(rows)


def mean_own_weight(rows: Tensor, texts: Tensor, temperature: float, sample: int = WEIGHED) -> float:
    """Mean weight of the own sentence where rows are projected on all texts, over some of the rows; 0 without any."""
    some = slice(None, None, max(1, len(rows) // sample))
    return float(own_weight(rows[some][:sample], texts[some][:sample], texts, temperature).mean()) if len(rows) else 0.0


def _stop(now: dict[str, float], config: Refine, level: float) -> str:
    if config.target is not None and now["cosine"] >= config.target:
        return f"the target: the mean cosine to the own sentence reached {config.target:g}"
    if now["cosine"] >= level:
        return f"the guard: images are as close to their sentences ({now['cosine']:.2f}) as sentences are to each other"
    if now.get("own", 0.0) >= config.max_own:
        return f"the guard: projected, an image has {now['own']:.0%} of its weight on its own sentence, which no photo has there"
    return ""


def _cosine(rows: Tensor, texts: Tensor) -> float:
    return float((rows * texts).sum(1).mean()) if len(rows) else math.nan


def _save(folder: Path, state: dict[str, Tensor], done: int, curve: list[dict[str, float]]) -> None:
    """A checkpoint: the tensors first, then the file that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    old = [*folder.glob("refine-*.safetensors")]
    save_file(state, folder / f"refine-{done}.safetensors")
    with atomic_file(folder / "refine.json") as partial:
        partial.write_text(json.dumps({"done": done, "curve": curve}), encoding="utf-8")
    for file in old:
        if file.name != f"refine-{done}.safetensors":
            file.unlink()


@dataclass(frozen=True)
class RefineFeatures(Job):
    """The job: features of the run's painted images -> refined ones in ``context.weights()``, with what happened on the way.

    rows.safetensors     rows (n, d), unit length
    refined.json         pair_ids in order, steps, stop_reason, curve
    """

    support: str  # step that made a support set of the run's captions
    config: Refine = field(default_factory=Refine)
    where: str = "status = 'ok'"  # which pairs

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """Of the few images there are, for others to read."""
        return Trial(self)

    def run(self, context: StepContext) -> None:
        """Refine. Raises InputError for no feature, or one whose sentence the support set lacks."""
        if context.weights().exists():
            return
        painted = read_painted(context, self.where)
        texts = rows_of_captions(context, self.support, painted.caption_ids)
        found = refine(painted.rows, texts, self.config, folder=context.checkpoints(), report=context.report)
        with atomic_folder(context.weights()) as temporary:
            save_file({"rows": found.rows.contiguous()}, temporary / "rows.safetensors")
            about = {
                "pair_ids": painted.pair_ids,
                "steps": found.steps,
                "stop_reason": found.stop_reason,
                "curve": found.curve,
            }
            (temporary / "refined.json").write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(context.checkpoints(), ignore_errors=True)
        if self.config.steps and not found.steps:
            context.report("warning", text=f"no pass of refinement was made; {found.stop_reason}")
        context.report("refined", steps=found.steps, stop_reason=found.stop_reason, cosine=found.curve[-1]["cosine"])


class Painted(NamedTuple):
    """What is known of the run's painted images without the images."""

    pair_ids: list[str]
    caption_ids: list[str]
    texts: list[str]
    groups: list[str | None]  # photo or scene that the caption is of
    tags: list[list[str]]
    rows: Tensor  # unit rows (n, d)


def read_painted(context: StepContext, where: str) -> Painted:
    """Features of painted images in the order of the store. Raises InputError if there is none."""
    from reverie.learn.make_support_set import group_of
    from reverie.store import tables  # refining rows in hand needs no store

    columns = ["pair_id", "caption_id", "text", "embedding", "tags"]
    sources = {
        name: group_of(source)
        for part in tables.scan(context.captions, ["caption_id", "source"])
        for name, source in zip(part["caption_id"].to_pylist(), part["source"].to_pylist(), strict=True)
    }
    found = Painted([], [], [], [], [], torch.empty(0))
    rows: list[Tensor] = []
    for part in tables.scan(context.pairs, columns, f"{tables.whole_filter(where)} and embedding is not null"):
        flat = part["embedding"].combine_chunks().flatten().to_numpy()
        rows.append(torch.from_numpy(flat.copy()).view(len(part), -1))
        for name, caption, text, tags in zip(
            *(part[name].to_pylist() for name in ("pair_id", "caption_id", "text", "tags")), strict=True
        ):
            found.pair_ids.append(name)
            found.caption_ids.append(caption)
            found.texts.append(text)
            found.groups.append(sources.get(caption))
            found.tags.append(tags or [])
    if not rows:
        raise InputError(f"no painted image in {context.folder} fulfils {where!r} and has features")
    return found._replace(rows=torch.cat(rows))


def refined_rows(context: StepContext, step: str, pair_ids: Sequence[str]) -> Tensor:
    """What a refining step made of these pairs, (n, d). Raises InputError for a pair that it did not refine."""
    folder = context.weights(step)
    known = read_json(folder / "refined.json", {"pair_ids": [str]}, StoreError, "refine the images again")["pair_ids"]
    at = {name: number for number, name in enumerate(known)}
    if lacking := next((name for name in pair_ids if name not in at), None):
        raise InputError(f"pair {lacking} was not refined by step {step!r}")
    rows: Tensor = load_tensors(folder / "rows.safetensors")["rows"]
    return rows[[at[name] for name in pair_ids]]


def rows_of_captions(context: StepContext, support: str, caption_ids: list[str]) -> Tensor:
    """Text features (n, d) of these captions. Raises InputError for one that the support set lacks."""
    from reverie.models.support_set import load_support

    known = load_support(context.weights(support))
    at = {name: number for number, name in enumerate(known.ids)}
    if lacking := next((name for name in caption_ids if name not in at), None):
        raise InputError(f"caption {lacking} of a painted image is not in the support set of step {support!r}")
    return known.rows[[at[name] for name in caption_ids]]
