"""Captions of a run, or a file of sentences -> a support set: their text features, kept with the sentences."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reverie.captions.corpus import ReadCorpus
from reverie.captions.scenes import FromScenes
from reverie.errors import InputError
from reverie.stage import Job, StepContext, Trial
from reverie.store.files import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.models.encoder import Encoder
    from reverie.models.support_set import Support

TRIED = 256  # sentences of another source, in a trial
PART = 8192  # sentences between two checkpoints


@dataclass(frozen=True)
class SupportSpeed:
    """What changes the speed only."""

    batch_size: int = 256  # sentences through the encoder at once


@dataclass(frozen=True)
class MakeSupport(Job):
    """The job that writes a support set to ``context.weights()``; see models/support_set.py."""

    model: str = "builtin:clip"
    source: ReadCorpus | FromScenes | None = None  # of other sentences; None = the captions of the run
    max_sentences: int = 0  # use so many, drawn at random; 0 = all (DeCap uses 500,000)
    speed: SupportSpeed = field(default_factory=SupportSpeed)

    def check(self) -> None:
        """Raises InputError for a source that holds no usable sentence."""
        if self.source is not None:
            _ = self.source.count

    def check_device(self, device: str) -> None:
        """Raises also ModelError, UnknownName for a model that is no encoder of images and texts."""
        from reverie.models.kinds import check_encoder

        super().check_device(device)
        check_encoder(self.model)

    def run(self, context: StepContext) -> None:
        """Encode, some thousand sentences at a time, and go on after a kill. Raises InputError without any sentence."""
        from reverie.models.encoder import open_encoder
        from reverie.models.support_set import Support, save_support

        if context.weights().exists():
            return
        rows = list(self._sentences(context))
        if not rows:
            raise InputError("there is no sentence to make a support set of")
        if self.max_sentences and self.max_sentences < len(rows):
            import numpy as np

            from reverie import seeds

            drawn = np.random.default_rng(seeds.derive("support", context.seed)).permutation(len(rows))[
                : self.max_sentences
            ]
            rows = [rows[number] for number in sorted(drawn.tolist())]
        encoder = open_encoder(self.model, context.device, self.speed.batch_size)
        texts = [row["text"] for row in rows]
        found = encode_texts(encoder.texts, texts, context.checkpoints(), encoder.revision, context.report)
        if encoder.num_cut:
            context.report("text_cut", num_cut=encoder.num_cut, num_texts=len(texts), model=encoder.revision)
        support = Support(
            [row["id"] for row in rows], texts, [row["group"] for row in rows], found, self.model, encoder.revision
        )
        save_support(context.weights(), support)
        shutil.rmtree(context.checkpoints(), ignore_errors=True)
        context.report("support", sentences=len(support))

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """Of few sentences, for others to read."""
        few = min(self.max_sentences or TRIED, TRIED)
        return Trial(self if self.source is None else dataclasses.replace(self, max_sentences=few))

    def _sentences(self, context: StepContext) -> Iterator[dict[str, Any]]:
        if self.source is not None:
            yield from sentences_of(self.source, context)
            return
        from reverie.store import tables

        for part in tables.scan(context.captions, ["caption_id", "text", "source"], "status = 'ok'"):
            for row in part.to_pylist():
                yield {"id": row["caption_id"], "text": row["text"], "group": group_of(row["source"])}


def sentences_of(source: ReadCorpus | FromScenes, context: StepContext) -> Iterator[dict[str, Any]]:
    """The usable sentences of a source with id and group. Raises InputError."""
    import pyarrow as pa

    positions = range(source.count)
    units = pa.array([0] * len(positions), pa.int64())
    wanted = pa.table({"unit": units, "position": pa.array(positions, pa.int64())})
    for row in source.open(context)(wanted).to_pylist():
        if row["status"] == "ok":
            yield {"id": row["caption_id"], "text": row["text"], "group": group_of(row["source"])}


class Sentences(NamedTuple):
    """Sentences of a source with what is known of them, before any feature."""

    ids: list[str]
    texts: list[str]
    groups: list[str | None]


def sentences_in(source: ReadCorpus | FromScenes, seed: int = 0) -> Sentences:
    """All usable sentences of a source. Raises InputError for none."""
    rows = list(sentences_of(source, StepContext(Path(), "support", seed=seed)))
    return Sentences([row["id"] for row in rows], [row["text"] for row in rows], [row["group"] for row in rows])


def support_of_file(file: Path) -> Callable[[Encoder, str], Support]:
    """What makes a support set of a file of sentences, for an opened encoder and its name; see ``load_captioner``.

    Raises: InputError for a file without usable sentence, when it is called.
    """
    from reverie.models.support_set import Support

    def make(encoder: Encoder, name: str) -> Support:
        found = sentences_in(ReadCorpus(file))
        return Support(*found, encoder.texts(found.texts), name, encoder.revision)

    return make


def group_of(source: str | None) -> str | None:
    """The photo or scene that a caption is of, where its source is known to say so."""
    kind, _, rest = (source or "").partition(": ")
    return rest if kind in ("corpus", "scene") and rest else None


def encode_texts(
    encode: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    folder: Path,
    revision: str,
    report: Callable[..., None],
) -> Tensor:
    """Rows (n, d) of all texts; finished parts stay in the folder until the last is done."""
    import torch
    from safetensors.torch import save_file

    from reverie.models.pretrained import load_tensors
    from reverie.stage import fingerprint

    folder.mkdir(parents=True, exist_ok=True)
    num_parts = math.ceil(len(texts) / PART)
    parts = []
    for number in range(num_parts):
        some = texts[number * PART : (number + 1) * PART]
        name = fingerprint({"revision": revision, "texts": json.dumps(some, ensure_ascii=False)})
        file = folder / f"{number:05d}-{name}.safetensors"
        if not file.exists():
            with atomic_file(file) as partial:
                save_file({"rows": encode(some)}, partial)
        parts.append(load_tensors(file)["rows"])
        report("progress", done=number + 1, total=num_parts, what=f"parts of {PART:,} sentences encoded")
    return torch.cat(parts)
