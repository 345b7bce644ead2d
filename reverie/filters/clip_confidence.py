"""CLIP confidence: the probability that an encoder gives an image's own class among all classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from reverie.captions.classes import read_classes
from reverie.errors import InputError
from reverie.pairs import CLASS_SLOT
from reverie.stage import StepContext, UnitStage, Worker
from reverie.store.pictures import Speed, decoded


@dataclass(frozen=True)
class ClipConfidence(UnitStage):
    """Column ``clip_confidence``: probability of the pair's own label, in [0, 1]; null without label or readable image.

    Softmax over all classes of the cosine times the encoder's own logit scale. A class is the mean of its prompts' unit
    vectors, made unit length again.
    """

    writes: ClassVar[Literal["columns"]] = "columns"
    reads: ClassVar[tuple[str, ...]] = ("label", "image")

    classes: tuple[str, ...] | Path  # names, or a file of them
    templates: tuple[str, ...] = ("a photo of a {class}.",)
    model: str = "builtin:clip"
    speed: Speed = field(default_factory=Speed)

    def check(self) -> None:
        """Raises ModelError, UnknownName for an encoder that is not there or is none."""
        from reverie.models.kinds import check_encoder

        check_encoder(self.model)

    def open(self, context: StepContext) -> Worker:
        """Load the encoder and encode the classes. Raises InputError, ModelError, UnknownName."""
        from reverie.models.encoder import open_encoder
        from reverie.models.zero_shot import class_embeddings

        classes = read_classes(self.classes)
        if not self.templates or any(CLASS_SLOT not in template for template in self.templates):
            raise InputError(
                f"every template of clip_confidence must hold {CLASS_SLOT}, and there must be at least one"
            )
        encoder = open_encoder(self.model, context.device, self.speed.batch_size)
        prototypes = class_embeddings(encoder, classes, self.templates)
        if encoder.num_cut:
            num_texts = len(classes) * len(self.templates)
            context.report("text_cut", num_cut=encoder.num_cut, num_texts=num_texts, model=encoder.revision)
        index = {name: number for number, name in enumerate(classes)}

        def score(rows: pa.Table) -> pa.Table:
            labels = rows["label"].to_pylist()
            if strangers := {label for label in labels if label is not None} - index.keys():
                raise InputError(
                    f"label {min(strangers)!r} is not among the {len(classes)} classes of clip_confidence; give the class list "
                    "that the captions were made with"
                )
            scores = np.full(len(rows), np.nan, dtype=np.float32)
            for numbers, pictures in decoded(rows, self.speed.batch_size):
                chances = (encoder.images(pictures) @ prototypes.T * encoder.logit_scale).softmax(dim=1)
                for number, row in zip(numbers, chances, strict=True):
                    if labels[number] is not None:
                        scores[number] = row[index[labels[number]]]
            found = pa.array(scores, pa.float32(), mask=np.isnan(scores))
            return pa.table({"pair_id": rows["pair_id"], "unit": rows["unit"], "clip_confidence": found})

        return score
