"""The job that trains a captioner on features of painted images, a support set and captions.

Source: arXiv:2312.08865. What differs between SynTIC, its ablations and its rivals is ``shows``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from reverie import seeds
from reverie.errors import InputError
from reverie.learn.fit import Fit, FitSpeed, fit, refuse_several
from reverie.learn.refine import Painted, read_painted, refined_rows, rows_of_captions
from reverie.learn.syntic import CaptionRows, DecoderInputConfig, SynTIC
from reverie.models.captioner import ABOUT, SUPPORT
from reverie.models.pretrained import feature_dim
from reverie.models.support_set import Support, cached_projection, link_support, load_support
from reverie.nets.captioner import TAG, DecoderShape, names_in
from reverie.stage import Job, StepContext, Trial
from reverie.store.files import atomic_folder


@dataclass(frozen=True)
class TrainCaptioner(Job):
    """Trains one decoder and writes a captioner folder to ``context.weights()``; see models/captioner.py."""

    support: str  # step that made the support set
    refined: str | None  # step that refined the features; None where they are not shown
    model: str = "builtin:clip"
    detector: str | None = None  # what finds tags in a photo; the names it knows are those of a prompt as well
    threshold: float = 0.7
    max_tags: int = 10
    shows: DecoderInputConfig = field(default_factory=DecoderInputConfig)
    shape: DecoderShape = field(default_factory=DecoderShape)
    label_smoothing: float = 0.1
    epochs: int = 10
    steps: int | None = None  # in place of epochs
    batch: int = 128  # sentences a step
    lr: float = 1e-5
    warmup_steps: int = 1000
    where: str = "status = 'ok'"  # which pairs
    texts: str | None = None  # step with the text features of all captions, where the support set holds a part of them
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, 1 if self.steps is None else self.steps) < 1:
            raise InputError("epochs, steps and batch must be at least 1")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing {self.label_smoothing} lies in [0, 1)")
        self._fit(self.steps or self.epochs)  # says what is wrong with the rate
        if self.shows.learns_from == "refined" and self.refined is None:
            raise InputError("to show refined features, name the step that refined them")
        if self.shows.tags != "none" and self.detector is None:
            raise InputError(f"tags by {self.shows.tags} need a detector that knows names")

    def check(self) -> None:
        """Raises InputError under several processes, as a small decoder is trained by one, or for heads that do not fit the encoder."""
        dim = feature_dim(self.model)
        if self.shows.tags == "attention" and dim and dim % self.shape.tag_heads:
            raise InputError(
                f"features of {dim} numbers by {self.model} cannot be read by {self.shape.tag_heads} heads (tag_heads); use a divisor"
            )
        refuse_several("a captioner is trained")

    def check_device(self, device: str) -> None:
        """Raises also ModelError, UnknownName for a model that is no encoder of images and texts."""
        from reverie.models.kinds import check_encoder

        super().check_device(device)
        check_encoder(self.model)

    def run(self, context: StepContext) -> None:
        """Project, train, and put the folder in place last.

        Raises: InputError for no painted feature or a single sentence; what ``fit`` raises.
        """
        from reverie.models.encoder import open_encoder

        if context.weights().exists():
            return
        painted = self._painted(context)
        if len(set(painted.texts)) < 2:
            raise InputError("a captioner needs two different sentences or more to learn from")
        support = load_support(context.weights(self.support))
        features = self._features(context, painted)
        shown = (
            shown_to_decoder(features, support, self.shows, painted, context)
            if self.shows.learns_projected
            else features
        )
        checkpoints = context.checkpoints()
        checkpoints.mkdir(parents=True, exist_ok=True)
        names: list[str] = []
        if self.shows.tags != "none":
            from reverie.models.detector import open_detector

            assert self.detector is not None
            names = list(open_detector(self.detector, context.device).names)
            encoder = open_encoder(self.model, context.device)
            if not (checkpoints / "tags.safetensors").exists():
                save_file(
                    {"rows": encoder.texts([TAG.format(name=name) for name in names])}, checkpoints / "tags.safetensors"
                )
        tags = tag_numbers(painted.tags, names, self.max_tags)
        if self.shows.shuffle_tags:
            tags = tags[np.random.default_rng(seeds.derive("shuffled tags", self.seed)).permutation(len(tags))]
        prompts = [names_in(text, names) for text in painted.texts] if self.shows.tags == "prompt" else []
        batches = CaptionRows(
            features, shown, tags, painted.texts, prompts, self.batch, seeds.derive("batches", context.seed, self.seed)
        )
        learner = SynTIC(
            self.model,
            features.shape[1],
            checkpoints / "tags.safetensors" if self.shows.tags != "none" else None,
            self.shows.noise,
            self.shows.tags,
            self.shows.prompt_dropout,
            self.label_smoothing,
            self.shape,
        )
        settings = self._fit(self.steps or self.epochs * batches.per_epoch)
        if self.warmup_steps >= settings.steps:
            context.report(
                "warning",
                text=f"{settings.steps} steps of training lie within the {self.warmup_steps} of warm-up, so the rate never comes to "
                f"{self.lr:g}; train longer (--epochs) or warm up less (--warmup-steps)",
            )
        if cut := learner.num_cut(painted.texts):
            context.report(
                "warning",
                text=f"{cut:,} of {len(painted.texts):,} sentences are cut at {self.shape.max_tokens} tokens (--max-tokens)",
            )
        seed = seeds.derive("captioner", context.seed, self.seed)
        net, losses = fit(
            learner, batches, settings, checkpoints, seed=seed, device=context.device, report=context.report
        )
        with atomic_folder(context.weights()) as temporary:
            learner.save(net, temporary)
            link_support(context.weights(self.support), temporary / SUPPORT)
            about = {
                "encoder": self.model,
                "revision": support.revision,
                "detector": self.detector if self.shows.tags != "none" else None,
                "threshold": self.threshold,
                "max_tags": self.max_tags,
                "names": names,
                "shows": dataclasses.asdict(self.shows),
                "shape": dataclasses.asdict(self.shape),
            }
            (temporary / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
        parameters = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
        context.report("trained", sentences=len(painted.texts), parameters=parameters, **losses)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """So few steps, on batches as large as those of the run."""
        whole = self.steps
        if whole is None:
            count = images(self.where)
            whole = self.epochs * max(1, count // min(self.batch, max(1, count)))
        own = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return Trial(_Short(**{**own, "steps": min(steps, whole)}), whole)

    def _painted(self, context: StepContext) -> Painted:
        return read_painted(context, self.where)

    def _fit(self, steps: int) -> Fit:
        return Fit(
            steps,
            self.lr,
            self.warmup_steps,
            weight_decay=0.01,
            betas=(0.9, 0.999),
            clip=1.0,
            precision=self.precision,
            speed=FitSpeed(checkpoint_every_s=60),
        )

    def _features(self, context: StepContext, painted: Painted) -> Tensor:
        if self.shows.learns_from == "painted":
            return painted.rows
        if self.shows.learns_from == "text":
            return rows_of_captions(context, self.texts or self.support, painted.caption_ids)
        assert self.refined is not None
        return refined_rows(context, self.refined, painted.pair_ids)


@dataclass(frozen=True)
class _Short(TrainCaptioner):
    """A trial: it comes again and again upon what sentences there are, until they fill a batch."""

    def _painted(self, context: StepContext) -> Painted:
        few = super()._painted(context)
        times = -(-self.batch // len(few.texts))
        return Painted(
            few.pair_ids * times,
            few.caption_ids * times,
            few.texts * times,
            few.groups * times,
            few.tags * times,
            few.rows.repeat(times, 1),
        )


def shown_to_decoder(
    features: Tensor, support: Support, shows: DecoderInputConfig, painted: Painted, context: StepContext
) -> Tensor:
    """Features of painted images in terms of the support set, without their own sentences if so asked."""
    own = None
    if shows.exclude_self != "none":
        mine, theirs = painted.caption_ids, list(support.ids)
        if shows.exclude_self == "same_image_group":
            mine = [group or name for group, name in zip(painted.groups, mine, strict=True)]
            theirs = [group or name for group, name in zip(support.groups, theirs, strict=True)]
        number = {name: place for place, name in enumerate(dict.fromkeys([*theirs, *mine]))}
        own = torch.tensor([number[name] for name in mine]), torch.tensor([number[name] for name in theirs])
    return cached_projection(
        features, support.rows, shows.temperature, context.folder / "features",
        top_k=shows.top_k, own=own, device=context.device, report=context.report,
    )  # fmt: skip


def tag_numbers(tags: list[list[str]], names: list[str], max_tags: int) -> Tensor:
    """Numbers of names (n, most of any image), -1 where there are fewer. Names that are not known are passed over."""
    number = {name: place for place, name in enumerate(names)}
    known = [[number[tag] for tag in each if tag in number][:max_tags] for each in tags]
    width = max(map(len, known), default=0)
    rows = [each + [-1] * (width - len(each)) for each in known]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width)
