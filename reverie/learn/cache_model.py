"""Cache model (Tip-Adapter): a classifier without training, zero-shot CLIP plus the votes of a few real photos.

Source: Zhang et al., Tip-Adapter, arXiv:2111.03930, its training-free form with the published alpha and beta. Differs: a
key is the row of the photo itself, not the mean over augmented views, and nothing is searched on a validation split.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from reverie.captions.classes import read_classes
from reverie.datasets.few_shot import check_shots, check_store, shots_filter, shots_store
from reverie.errors import InputError
from reverie.learn.classifier_tuning import starting_head
from reverie.learn.tune_classifier import TuneSpeed, labelled_rows
from reverie.models.classifier import HEAD, Cache, save_classifier
from reverie.models.encoder import open_encoder
from reverie.models.zero_shot import class_embeddings
from reverie.stage import Job, StepContext


@dataclass(frozen=True)
class CacheModel(Job):
    """Real shots -> a classifier folder in ``context.weights()``: logits + alpha exp(-beta (1 - cosine)) of each shot's class."""

    classes: tuple[str, ...] | Path  # names, or a file of them
    shots: Path | str  # store of labelled photos, made by reverie import, or the step that took them
    templates: tuple[str, ...] = ("a photo of a {class}.",)
    model: str = "builtin:clip"
    num_shots: int | None = None  # the first so many of each class; all when None
    alpha: float = 1.0
    beta: float = 5.5
    speed: TuneSpeed = field(default_factory=TuneSpeed)

    def __post_init__(self) -> None:
        check_shots(self.shots, self.num_shots)
        if self.alpha < 0 or self.beta < 0:
            raise InputError(f"alpha {self.alpha} and beta {self.beta} of the cache model must not be negative")

    def check(self) -> None:
        """Raises InputError for fewer than two classes or shots that are not there."""
        if len(read_classes(self.classes)) < 2:
            raise InputError("a classifier needs two classes or more to tell apart")
        check_store(self.shots)

    def check_device(self, device: str) -> None:
        """Raises also ModelError, UnknownName for a model that is no encoder of images and texts."""
        from reverie.models.kinds import check_encoder

        super().check_device(device)
        check_encoder(self.model)

    def run(self, context: StepContext) -> None:
        """Encode the shots and put the folder in place. Raises InputError for labels that are not among the classes."""
        if context.weights().exists():
            return
        classes = read_classes(self.classes)
        encoder = open_encoder(self.model, context.device, self.speed.batch_size)
        start = starting_head(class_embeddings(encoder, classes, self.templates), encoder.logit_scale)
        store = shots_store(context, self.shots)
        keys, labels = labelled_rows(store, shots_filter(self.num_shots), classes, encoder, context)
        context.checkpoints().mkdir(parents=True, exist_ok=True)
        head = context.checkpoints() / HEAD
        save_file({"weight": start, "bias": torch.zeros(len(start))}, head)
        about = {"classes": list(classes), "encoder": self.model, "templates": list(self.templates)}
        cache = Cache(keys, labels, self.alpha, self.beta)
        save_classifier(context.weights(), head, about | {"revision": encoder.revision}, cache)
