"""How far apart the features of photos, painted images and sentences lie, before and after each stage of SynTIC.

Source: arXiv:2312.08865 wants these gaps closed but does not measure them. The metrics are ours: distance of the centroids, cosine of each
image and its sentence, retrieval of that sentence and its weight in the projection, and the discrepancy (MMD) between what the decoder learns from and what it is asked
about.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from reverie import seeds
from reverie.arms import Arm
from reverie.datasets.captioned import load_captioned
from reverie.evaluate.captioning import CaptionSpeed
from reverie.stage import Job, Role, StepContext
from reverie.store import results
from reverie.store.files import atomic_file

DRAWN = 250  # points of each cloud on the page
MAX_ROWS = 1000  # rows that retrieval is measured on
SENTENCES = Arm("sentences", "sentences")
OWN = "own_sentence"  # metric: its weight in the projection of a painted image


@dataclass(frozen=True)
class MeasureAlignment(Job):
    """Numbers in results.jsonl, and ``clouds.json`` with each cloud in two dimensions for the page."""

    role: ClassVar[Role] = "measure"

    support: str  # step that made the support set
    refined: str  # step that refined the features
    temperature: float = 0.01  # of the projection
    model: str = "builtin:clip"
    photos: str = "smallworld:street:400"
    images: Path | None = None
    split: str = "test"
    where: str = "status = 'ok'"
    more: tuple[Arm, ...] = ()  # clouds of other steps that refined
    top_k: int = 0  # as in DecoderInputConfig
    exclude_self: Literal["none", "caption", "same_image_group"] = "none"  # as in DecoderInputConfig
    texts: str | None = None  # step with the text features of all captions, where the support set holds a part of them
    parts: int = 1  # measure on so many parts of all rows, dealt at random; the part's number is the seed of its record
    speed: CaptionSpeed = field(default_factory=CaptionSpeed)

    def check_device(self, device: str) -> None:
        """Raises also ModelError, UnknownName for a model that is no encoder of images and texts."""
        from reverie.models.kinds import check_encoder

        super().check_device(device)
        check_encoder(self.model)

    def run(self, context: StepContext) -> None:
        """Measure; run again, it replaces its numbers. Raises what the reading of its parts raises."""
        import torch

        from reverie.evaluate.metrics.distance import centroids, mmd
        from reverie.evaluate.metrics.retrieval import recall_at_k
        from reverie.learn.refine import read_painted, refined_rows, rows_of_captions
        from reverie.learn.syntic import DecoderInputConfig
        from reverie.learn.train_captioner import shown_to_decoder
        from reverie.models.encoder import open_encoder
        from reverie.models.support_set import cached_projection, load_support
        from reverie.nets.projection import own_weight

        encoder = open_encoder(self.model, context.device, self.speed.batch_size)
        photos = load_captioned(self.photos, self.images, self.split)
        real = torch.cat([encoder.images(pictures) for pictures in photos.batches(self.speed.batch_size)])
        said = encoder.texts([texts[0] for texts in photos.references])
        painted = read_painted(context, self.where)
        texts = rows_of_captions(context, self.texts or self.support, painted.caption_ids)
        refined = refined_rows(context, self.refined, painted.pair_ids)
        support = load_support(context.weights(self.support))
        shows = DecoderInputConfig(temperature=self.temperature, top_k=self.top_k, exclude_self=self.exclude_self)

        def projected(rows: torch.Tensor) -> torch.Tensor:
            return shown_to_decoder(rows, support, shows, painted, context)

        def own_share(rows: torch.Tensor, own: torch.Tensor) -> float:
            how: dict[str, Any] = {"top_k": self.top_k, "device": context.device}
            return float(own_weight(rows, own, support.rows, self.temperature, **how).mean())

        asked = cached_projection(
            real,
            support.rows,
            self.temperature,
            context.folder / "features",
            top_k=self.top_k,
            device=context.device,
            report=context.report,
        )
        clouds = {  # rows, their own sentences, and what the decoder is asked about if it learns from these
            Arm("photos", "photos"): (real, said, real),
            Arm("photos-projected", "photos, projected"): (asked, said, asked),
            Arm("painted", "painted"): (painted.rows, texts, real),
            Arm("painted-projected", "painted, projected"): (projected(painted.rows), texts, asked),
            Arm("refined", "refined"): (refined, texts, real),
            Arm("refined-projected", "refined, projected"): (projected(refined), texts, asked),
            SENTENCES: (texts, texts, real),
        }
        drawn = {cloud.id: rows[:DRAWN].numpy() for cloud, (rows, _, _) in clouds.items()}
        # What is hidden has no weight, so there is nothing to know.
        weighed = (
            {"painted-projected": painted.rows, "refined-projected": refined} if self.exclude_self == "none" else {}
        )
        for cloud in self.more:
            assert cloud.step is not None
            clouds[cloud] = refined_rows(context, cloud.step, painted.pair_ids), texts, real
        records: list[results.Result] = []
        for part in range(self.parts):
            for cloud, (rows, own, met) in clouds.items():
                mine, other, photo = (
                    _dealt(len(rows), self.parts, part),
                    _dealt(len(met), self.parts, part),
                    _dealt(len(real), self.parts, part),
                )
                some, theirs = rows[mine[:MAX_ROWS]].numpy(), own[mine[:MAX_ROWS]].numpy()
                alike = some @ theirs.T
                same = theirs @ theirs.T > 0.9999  # a sentence that is there twice is right twice
                numbers = {
                    "pair_cosine": float((rows[mine] * own[mine]).sum(1).mean()),
                    "recall_at_1": recall_at_k(alike, same, 1),
                    "recall_at_5": recall_at_k(alike, same, 5),
                    "centroid_distance": centroids(rows[mine].numpy(), real[photo].numpy()),
                }
                if min(len(mine), len(other)) > 1:  # MMD is about pairs of rows
                    numbers["mmd"] = mmd(rows[mine].numpy(), met[other].numpy())
                if cloud is SENTENCES:
                    del numbers["pair_cosine"], numbers["recall_at_1"], numbers["recall_at_5"]
                if cloud.id in weighed:
                    numbers[OWN] = own_share(weighed[cloud.id][mine[:MAX_ROWS]], texts[mine[:MAX_ROWS]])
                record = results.about(
                    context, self, dataclasses.replace(cloud, seed=part), "alignment", photos=self.photos, weights=None
                )
                records += [record(metric=metric, value=value) for metric, value in numbers.items()]
        results.append(context.results, *records)
        with atomic_file(context.folder / "clouds.json") as partial:
            partial.write_text(json.dumps(in_two_dimensions(drawn)), encoding="utf-8")


def _dealt(num: int, parts: int, part: int) -> Any:
    """The row numbers of one of several parts of equal size."""
    order = np.random.default_rng(seeds.derive("parts", num)).permutation(num)
    return order[part::parts] if parts > 1 else np.arange(num)


def in_two_dimensions(clouds: dict[str, npt.NDArray[np.floating]]) -> dict[str, list[list[float]]]:
    """All clouds on the two axes along which all of them together are widest (principal components)."""
    everything = np.concatenate(list(clouds.values())).astype(np.float64)
    middle = everything.mean(0)
    _, _, axes = np.linalg.svd(everything - middle, full_matrices=False)
    return {name: np.round((rows - middle) @ axes[:2].T, 4).tolist() for name, rows in clouds.items()}
