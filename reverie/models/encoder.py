"""Images and texts -> vectors: any transformers model with two towers (CLIP, SigLIP), or with one (vision backbones).

Images are prepared by the model's own processor (PIL, no torchvision). Texts longer than the model's limit are cut with
the end token kept, as CLIP reads its feature there; how many were cut is counted in ``num_cut``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

from reverie.errors import ModelError
from reverie.models.batching import AdaptiveBatcher
from reverie.models.kinds import check_backbone, check_encoder
from reverie.models.names import locate
from reverie.models.pretrained import load_config, load_image_processor, load_model, load_tokenizer, usable

DUAL_ENCODER = "dual_encoder"  # in the weights of StableRep+, and of CLIP on a backbone
Images = Sequence[Image.Image] | np.ndarray[Any, np.dtype[np.uint8]]
"""PIL images of any size and mode, or a uint8 array (B, H, W, 3)."""


class Encoder:
    """Two towers into one space. Made by ``open_encoder``."""

    def __init__(self, net: Any, tokenizer: Any, processor: Any, revision: str, device: str, batch_size: int) -> None:
        self.net, self.revision, self.device = net, revision, device
        self.num_cut = 0  # texts cut at the limit, so far
        self._tokenizer, self._processor = tokenizer, processor
        self._in_batches = AdaptiveBatcher(batch_size)
        self._limit = min(int(net.config.text_config.max_position_embeddings), int(tokenizer.model_max_length))
        if tokenizer.pad_token_id is None:  # old CLIP tokenizers have none; padding is masked, so any token will do
            tokenizer.pad_token = tokenizer.eos_token if tokenizer.eos_token is not None else tokenizer.unk_token
        # SigLIP reads its text feature at the last place and was trained on texts padded to the limit.
        self._pads_to_limit = net.config.model_type.startswith("siglip")

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities before a softmax (1 / temperature)."""
        return float(self.net.logit_scale.detach().float().exp())

    @property
    def preparation(self) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        """Mean and standard deviation that colours in 0..1 are normalised with, and the side of the square, in pixels."""
        processor = self._processor
        size = (
            getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
        ) or processor.size
        side = size["height"] if "height" in size else size["shortest_edge"]
        return tuple(processor.image_mean), tuple(processor.image_std), int(side)

    @property
    def fit(self) -> tuple[int, str]:
        """How a photo of any size becomes that square, and how it is resampled (as Pillow calls it).

        The first is the length of the shorter side before the centre is cut out, or 0 where the photo is squashed.
        """
        size = self._processor.size
        edge = int(size["shortest_edge"]) if "shortest_edge" in size else 0
        return edge, Image.Resampling(int(self._processor.resample)).name.lower()

    @property
    def limit(self) -> int:
        """Tokens of a text that are read, begin and end included."""
        return self._limit

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """How long these texts are in tokens, begin and end included."""
        return (
            [len(ids) for ids in self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
            if texts
            else []
        )

    def images(self, images: Images) -> torch.Tensor:
        """Unit vectors (B, d), float32, on the CPU."""
        with usable(self.revision, "encode pictures"):
            return self._unit_vectors(self._image_features, _pictures(images))

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (B, d), float32, on the CPU. Texts that had to be cut are added to ``num_cut``."""
        with usable(self.revision, "encode texts"):
            tokens = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
            self.num_cut += sum(len(ids) > self._limit for ids in tokens)
            tokens = [ids if len(ids) <= self._limit else [*ids[: self._limit - 1], ids[-1]] for ids in tokens]
            return self._unit_vectors(self._text_features, tokens)

    @torch.inference_mode()
    def _unit_vectors(self, features: Callable[[Any], torch.Tensor], items: Sequence[Any]) -> torch.Tensor:
        found = list(self._in_batches(features, items))
        return F.normalize(torch.cat(found), dim=1) if found else torch.empty(0, 0)

    def _image_features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        output = self.net.get_image_features(pixel_values=pixels.to(self.device, self.net.dtype))
        return _on_cpu(output.pooler_output)

    def _text_features(self, tokens: Sequence[list[int]]) -> torch.Tensor:
        padding = {"padding": "max_length", "max_length": self._limit} if self._pads_to_limit else {"padding": True}
        inputs = self._tokenizer.pad({"input_ids": list(tokens)}, return_tensors="pt", verbose=False, **padding)
        mask = None if self._pads_to_limit else inputs["attention_mask"].to(self.device)
        output = self.net.get_text_features(input_ids=inputs["input_ids"].to(self.device), attention_mask=mask)
        return _on_cpu(output.pooler_output)


def open_encoder(name: str, device: str = "cpu", batch_size: int = 64) -> Encoder:
    """Load a two-tower model by name (see models/names.py). The batch halves by itself when memory is short.

    Raises: ModelError if the model has no two towers, lacks weights, or comes without tokenizer or image processor.
    """
    place = locate(name)
    if place.kind == "folder" and (Path(place.path_or_id) / DUAL_ENCODER).is_dir():
        raise ModelError(
            f"{name} is a backbone; the encoder of images and texts that it belongs to is {name}/{DUAL_ENCODER}"
        )
    check_encoder(name)
    net = load_model(transformers.AutoModel, place, device)
    if not (hasattr(net, "get_image_features") and hasattr(net, "get_text_features") and hasattr(net, "logit_scale")):
        raise ModelError(f"{name} is a {type(net).__name__}, not an encoder of images and texts such as CLIP or SigLIP")
    tokenizer = load_tokenizer(place)
    processor = load_image_processor(place)
    with usable(name, "encode pictures and texts"):
        return Encoder(net, tokenizer, processor, str(locate(name)), device, batch_size)


class Backbone:
    """A vision model as a feature extractor. Made by ``open_backbone``."""

    def __init__(self, net: Any, processor: Any, revision: str, device: str, batch_size: int) -> None:
        self.net, self.revision, self.device = net, revision, device
        self._processor = processor
        self._in_batches = AdaptiveBatcher(batch_size)

    @torch.inference_mode()
    def features(self, images: Images) -> torch.Tensor:
        """Vectors (B, d), float32, on the CPU, not normalised.

        The class token after the last norm (ViT), the model's own pooling (ResNet, the vision tower of CLIP), or the
        mean over tokens or places where there is neither.
        """
        with usable(self.revision, "read pictures"):
            found = list(self._in_batches(self._features, _pictures(images)))
        return torch.cat(found) if found else torch.empty(0, 0)

    def _features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        output = self.net(pixel_values=pixels.to(self.device, self.net.dtype))
        pooled, last = getattr(output, "pooler_output", None), output.last_hidden_state
        if pooled is None and last.ndim == 4:
            pooled = last.mean(dim=(2, 3))
        elif pooled is None:
            has_class_token = any(
                key.endswith(("cls_token", "class_embedding")) for key, _ in self.net.named_parameters()
            )
            pooled = last[:, 0] if has_class_token else last.mean(dim=1)
        return _on_cpu(pooled.flatten(1))


def open_backbone(name: str, device: str = "cpu", batch_size: int = 64) -> Backbone:
    """Load a vision model, or the vision tower of a two-tower model (before its projection), by name.

    Raises: ModelError if the model takes no images, lacks weights, or comes without image processor.
    """
    place = locate(name)
    check_backbone(name)
    config = load_config(place)
    options: dict[str, Any] = {}
    if type(config) in transformers.AutoModel._model_mapping:
        kind = transformers.AutoModel._model_mapping[type(config)]
        if "add_pooling_layer" in inspect.signature(kind).parameters:
            options["add_pooling_layer"] = False  # a tanh layer that many checkpoints never trained
    net = load_model(transformers.AutoModel, place, device, **options)
    net = getattr(net, "vision_model", net)
    if getattr(net, "main_input_name", "") != "pixel_values":
        raise ModelError(f"{name} is a {type(net).__name__}, which takes no images")
    return Backbone(net, load_image_processor(place), str(locate(name)), device, batch_size)


def _pictures(images: Images) -> list[Image.Image]:
    return [Image.fromarray(item) if isinstance(item, np.ndarray) else item for item in images]


def _on_cpu(features: torch.Tensor) -> torch.Tensor:
    return features.float().cpu()
