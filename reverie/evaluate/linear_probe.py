"""How much a linear classifier gets out of frozen features: the job that probes several arms on the same photos.

Imports torch only when it runs, so that a recipe can name it at no cost.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.errors import InputError
from reverie.evaluate import results
from reverie.stage import Place, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.evaluate.features import Describe
    from reverie.evaluate.heads import Probed


@dataclass(frozen=True)
class Arm:
    """One thing to probe, under one seed: weights of a learning step, or ``untrained`` or ``pixels``."""

    name: str  # what the page calls it; arms of one name are its seeds
    seed: int = 0  # the seed it was trained with; for ``untrained``, that its weights are drawn with
    weights: str | None = None  # the learning step, or a folder elsewhere; None only for ``untrained`` and ``pixels``

    def __post_init__(self) -> None:
        if self.weights is None and self.name not in ("untrained", "pixels"):
            raise InputError(f"arm {self.name!r} names no weights; only 'untrained' and 'pixels' do without")


@dataclass(frozen=True)
class ProbeSpeed:
    """What changes time and memory only."""

    batch_size: int = 256  # photos through the network at once


@dataclass(frozen=True)
class LinearProbe:
    """Weights of several learning steps -> accuracy of a linear classifier on real or street photos.

    ``untrained`` is the network of the first arm with weights, drawn anew; ``pixels`` are the photos made small.
    """

    arms: tuple[Arm, ...]
    photos: str = "smallworld:street:4000:1000"  # see evaluate/photos.py
    size_px: int = 64  # photos are cut to squares of this side
    resize_px: int = 0  # their shorter side before the cut; 0 = size_px
    pixels_px: int = 16  # side of the photos of arm ``pixels``
    protocol: Literal["logistic", "sgd"] = "logistic"
    batch_norm: bool = False  # only for ``sgd``
    held_out: float = 0.2  # share of train that the strength or rate is chosen on
    neighbours: int = 20  # also report weighted k-nearest-neighbours accuracy; 0 = do not
    seed: int = 0  # of the split and of SGD
    speed: ProbeSpeed = field(default_factory=ProbeSpeed)

    def __post_init__(self) -> None:
        if 0 < self.resize_px < self.size_px:
            raise InputError(f"squares of {self.size_px} pixels cannot be cut from photos resized to {self.resize_px}")

    def check(self) -> None:
        """Raises InputError if photos are not there, or broken."""
        from reverie.evaluate.photos import check_photos

        for split in ("train", "test"):
            check_photos(self.photos, split)

    def run(self, place: Place) -> None:
        """Probe every arm and write its numbers. An arm that was probed with the same settings, weights and photos stays.

        Raises: InputError for photos that cannot be used; ModelError for weights that cannot.
        """
        import torch

        from reverie.evaluate import features
        from reverie.evaluate.heads import probe
        from reverie.evaluate.knn import knn
        from reverie.evaluate.metrics.classification import top1
        from reverie.evaluate.photos import Photos, load_photos

        train = load_photos(self.photos, "train")
        open_photos = functools.cache(lambda: load_photos(self.photos, "test", train.classes))

        def rows_of(describe: Describe, photos: Photos) -> tuple[Tensor, Tensor]:
            rows = features.extract(describe, photos, self.size_px, self.speed.batch_size, self.resize_px)
            return rows.to(place.device), torch.from_numpy(photos.labels).to(place.device)

        ours = results.step_fingerprint(place, self)
        before = {
            (record["name"], record["seed"]): record.get("inputs")
            for record in results.read(place.results)
            if record["step"] == place.step and record["fingerprint"] == ours
        }
        for done, arm in enumerate(self.arms):
            place.report("progress", done=done, total=len(self.arms), arm=arm.name, seed=arm.seed)
            inputs = self._inputs(arm, place)
            if before.get((arm.name, arm.seed)) == inputs:
                continue
            began = time.monotonic()
            describe = describe_arm(arm, self.arms, place, self.pixels_px)
            x, labels = rows_of(describe, train)
            open_test = functools.cache(functools.partial(lambda describe: rows_of(describe, open_photos()), describe))
            found = probe(
                x,
                labels,
                open_test,
                len(train.classes),
                protocol=self.protocol,
                batch_norm=self.batch_norm,
                held_out=self.held_out,
                seed=self.seed,
            )
            numbers = {"top1": found.top1, "mean_per_class": found.mean_per_class}
            if self.neighbours:
                near = knn(x, labels, open_test()[0], len(train.classes), k=self.neighbours)
                numbers["knn_top1"] = top1(near.cpu().numpy(), found.labels)
            about = {
                "num_train": len(train),
                "num_test": len(found.labels),
                "num_classes": len(train.classes),
                "num_features": x.shape[1],
                "inputs": inputs,
                "chosen": found.chosen,
                "held_out_top1": max(found.held_out),
                "seconds": round(time.monotonic() - began, 3),
            }
            self._write(place, arm, numbers, about, found)
        place.report("progress", done=len(self.arms), total=len(self.arms))

    def _inputs(self, arm: Arm, place: Place) -> str:
        """Names the files that an arm reads as they are now, by size and time of change."""
        from reverie.evaluate.photos import find_photos

        photos = [find_photos(self.photos, split) for split in ("train", "test")]
        return fingerprint({"photos": [*map(_as_it_is, photos)], "weights": _as_it_is(_weights(arm, self.arms, place))})

    def _write(
        self, place: Place, arm: Arm, numbers: Mapping[str, float], about: Mapping[str, object], found: Probed
    ) -> None:
        import numpy as np

        shared = {
            "name": arm.name,
            "split": "test",
            "seed": arm.seed,
            "step": place.step,
            "weights": arm.weights,
            "photos": self.photos,
            "protocol": self.protocol,
            **about,
            "fingerprint": results.step_fingerprint(place, self),
            "versions": results.versions(),
        }
        records = [shared | {"metric": metric, "value": value} for metric, value in numbers.items()]
        # Which test photos were right, one bit each: two arms can then be compared photo by photo.
        records[0]["correct"] = np.packbits(found.predicted == found.labels).tobytes().hex()
        results.append(place.results, *records)


def describe_arm(arm: Arm, arms: Sequence[Arm], place: Place, pixels_px: int) -> Describe:
    """What gives the features of an arm. Raises InputError for ``untrained`` beside no weights; ModelError."""
    from reverie.evaluate import features

    weights = _weights(arm, arms, place)
    if weights is None:
        return features.of_pixels(pixels_px)
    if arm.weights:
        return features.of_weights(weights, place.device)
    return features.of_untrained(weights, arm.seed, place.device)


def _weights(arm: Arm, arms: Sequence[Arm], place: Place) -> Path | None:
    """Weights of an arm, or those whose network ``untrained`` takes; None for ``pixels``."""
    if arm.name == "pixels":
        return None
    trained = arm.weights or next((other.weights for other in arms if other.weights), None)
    if trained is None:
        raise InputError("arm 'untrained' takes its network from another arm's weights, and no arm has any")
    return place.weights(trained)


def _as_it_is(source: object) -> list[Any]:
    if not isinstance(source, Path) or not source.exists():
        return [str(source)]
    files = [source, *sorted(source.iterdir())] if source.is_dir() else [source]
    return [str(source), *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]
