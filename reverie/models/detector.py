"""Images -> objects with names, scores and boxes: any object detector of transformers (RT-DETR, DETR, YOLOS, D-FINE ...).

Every picture is prepared alone by the model's own processor (PIL, no torchvision), and only pictures that come out of the same size
share a batch: padding would let a picture's neighbours change what is found in it, and YOLOS has no mask for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from PIL import Image

from reverie.errors import InputError, ModelError
from reverie.models.batching import AdaptiveBatcher
from reverie.models.encoder import Images
from reverie.models.kinds import check_kind
from reverie.models.names import locate
from reverie.models.pretrained import check_weight_names, load_config, load_image_processor, load_model, usable
from reverie.store.pictures import upright_rgb

NEEDED = "an object detector such as RT-DETR, DETR or YOLOS"
WITHOUT_TIMM = "PekingU/rtdetr_r18vd"


OBJECTS = 300  # looked at in an image for its tags: ten people are one tag, and what stands beside them another


class Found(NamedTuple):
    """An object in a picture. ``box`` is x0, y0, x1, y1 in pixels of the picture as given, turned upright; ``score`` 0 to 1."""

    name: str
    score: float
    box: tuple[float, float, float, float]


class Detector:
    """Finds objects of the classes ``names``. Made by ``open_detector``."""

    def __init__(self, net: Any, processor: Any, revision: str, device: str, batch_size: int) -> None:
        self.net, self.revision, self.device = net, revision, device
        self.names = tuple(str(net.config.id2label[number]) for number in sorted(net.config.id2label))
        self._processor = processor
        self._in_batches = AdaptiveBatcher(batch_size)

    def find(self, images: Images, threshold: float = 0.7, max_found: int = 10) -> list[list[Found]]:
        """Objects of every picture, the surest first; an empty list where there is none.

        Args:
            images: PIL images of any size and mode, or a uint8 array (B, H, W, 3).
            threshold: lowest score, 0 to 1. What a score means is the model's affair: DETR's is a probability, RT-DETR's falls with
                the box as well, as it was trained to be the overlap with the true one.
            max_found: objects of a picture.
        Raises: InputError for a threshold or number that cannot be; BrokenImage for a picture without pixels.
        """
        if not 0 <= threshold <= 1 or max_found < 1:
            raise InputError(f"threshold {threshold} is a score from 0 to 1, and max_found {max_found} at least 1")
        pictures = [
            upright_rgb(item if isinstance(item, Image.Image) else Image.fromarray(item), f"picture {number}")
            for number, item in enumerate(images)
        ]
        with usable(self.revision, "find objects"):
            batches = self._in_batches(lambda few: self._find(few, threshold), pictures)
            found = [some for batch in batches for some in batch]
        return [sorted(some, key=lambda item: -item.score)[:max_found] for some in found]

    @torch.inference_mode()
    def _find(self, pictures: Sequence[Image.Image], threshold: float) -> list[list[Found]]:
        prepared = [self._processor(images=[picture], return_tensors="pt") for picture in pictures]
        alike: dict[tuple[int, ...], list[int]] = {}
        for number, inputs in enumerate(prepared):
            alike.setdefault(tuple(inputs["pixel_values"].shape), []).append(number)
        found: list[list[Found]] = [[] for _ in pictures]
        for numbers in alike.values():
            inputs = {
                key: torch.cat([prepared[n][key] for n in numbers]).to(self.device) for key in prepared[numbers[0]]
            }
            inputs["pixel_values"] = inputs["pixel_values"].to(self.net.dtype)
            sizes = [pictures[number].size[::-1] for number in numbers]
            answers = self._processor.post_process_object_detection(
                self.net(**inputs), threshold=threshold, target_sizes=sizes
            )
            for number, answer in zip(numbers, answers, strict=True):
                found[number] = self._in_words(answer, pictures[number].size)
        return found

    def _in_words(self, answer: dict[str, torch.Tensor], size: tuple[int, int]) -> list[Found]:
        names = self.net.config.id2label
        rows = zip(answer["labels"].tolist(), answer["scores"].tolist(), answer["boxes"].tolist(), strict=True)
        width, height = size
        return [
            Found(
                str(names[label]),
                score,
                (min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height)),
            )
            for label, score, (x0, y0, x1, y1) in rows
        ]


def tags(found: Iterable[Found], max_tags: int = 10) -> list[tuple[str, float]]:
    """Names of what was found, each once with its best score, the surest first; ``most`` names at most."""
    best: dict[str, float] = {}
    for item in found:
        best[item.name] = max(item.score, best.get(item.name, 0.0))
    return sorted(best.items(), key=lambda named: -named[1])[:max_tags]


def open_detector(name: str, device: str = "cpu", batch_size: int = 16) -> Detector:
    """Load an object detector by name (see models/names.py). The batch halves by itself when memory is short.

    Raises: ModelError if the model is no detector of its own classes, lacks weights, wants timm where there is none, or comes
        without image processor.
    """
    check_detector(name)
    place = locate(name)
    net = load_model(transformers.AutoModelForObjectDetection, place, device)
    processor = load_image_processor(place)
    if not hasattr(processor, "post_process_object_detection"):
        raise ModelError(
            f"{name} comes with a {type(processor).__name__}, which is not the image processor of an object detector"
        )
    with usable(name, "find objects"):
        return Detector(net, processor, str(locate(name)), device, batch_size)


def check_detector(name: str) -> None:
    """What a look at the config alone tells, before any work. Raises ModelError, UnknownName as ``open_detector``."""
    place = locate(name)
    check_kind(name, "detector", needed=NEEDED)
    config = load_config(place)
    if type(config) not in transformers.AutoModelForObjectDetection._model_mapping:
        raise ModelError(f"{name} is a {config.model_type}, not {NEEDED}")
    backbone = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", None) == "timm_backbone" and importlib.util.find_spec("timm") is None:
        raise ModelError(
            f"{name} has a backbone of timm, which is not installed; use a detector without it, such as "
            f"{WITHOUT_TIMM}, or: pip install timm"
        )
    check_weight_names(transformers.AutoModelForObjectDetection, place)
