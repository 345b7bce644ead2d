"""Vision backbones: any transformers vision model by name, or a small one built here, and one way to read features off.

resnet-tiny   ResNetModel, one basic block a stage, 32-64-128-256, 1.2 M parameters: 32 to 64 pixels on a CPU
resnet-50     ResNetModel with bottlenecks, 23.5 M parameters
vit-tiny      ViTModel, 4 layers, width 128, patches of 8 pixels
vit-s16       ViTModel of the size of DeiT-S: 12 layers, width 384, patches of 16 pixels, no distillation token
vit-b16       ViTModel as in the StableRep paper: 12 layers, width 768, patches of 16 pixels
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    CLIPImageProcessorPil,
    ResNetConfig,
    ViTConfig,
)

from reverie.errors import InputError, ModelError, ReverieError
from reverie.models.names import Located, locate
from reverie.models.pretrained import load_config, load_image_processor, load_model
from reverie.nets.saving import save_pretrained

MEAN = (0.485, 0.456, 0.406)  # of ImageNet
STD = (0.229, 0.224, 0.225)
BUILT = ("resnet-tiny", "resnet-50", "vit-tiny", "vit-s16", "vit-b16")


def build_backbone(name: str, image_size: int) -> nn.Module:
    """An untrained backbone for square images of ``image_size`` pixels.

    Args: ``name`` is one of ``BUILT``, or a folder or Hub id, of which the config is used and the weights are not.
    Raises: InputError if the images do not divide into patches; ModelError if there is no such vision model.
    """
    config = _sized(name, image_size)
    return _channels_last(_vision_only(from_config(config), name))


def from_config(config: Any) -> nn.Module:
    """An untrained vision model, without the pooler of ViT and its kin, which no backbone of ours uses."""
    options = {"add_pooling_layer": False} if _has_optional_pooler(AutoModel._model_mapping[type(config)]) else {}
    return cast(nn.Module, AutoModel.from_config(config, **options))


def build_classifier(name: str, image_size: int, classes: Sequence[str]) -> Any:
    """An untrained backbone, as ``build_backbone`` makes it, with one linear layer on its representation.

    Returns: a transformers model for image classification: ``net(pixel_values=...).logits`` is (B, classes), and
        ``net.base_model`` the backbone. Saved by ``save_backbone``, it opens as either.
    Raises: as ``build_backbone``; ModelError if transformers has no classifier of this kind.
    """
    config = _sized(name, image_size)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    try:
        net = AutoModelForImageClassification.from_config(config)
    except ValueError as error:
        raise ModelError(f"{name} ({config.model_type}) cannot be trained as a classifier of images") from error
    return _channels_last(_vision_only(net, name))


def begin_from(net: nn.Module, start: str | Path) -> None:
    """Give an untrained backbone the weights of another one of the same architecture.

    Args: ``start`` is a folder that ``load_backbone`` opens, or a Hub id. A ``net`` on the meta device is compared only.
    Raises: ModelError if there are no such weights, or they are of another architecture or size of view.
    """
    with torch.device("cpu"):
        found = load_backbone(start)
    ours, theirs = net.state_dict(), found.state_dict()
    name = start.name if isinstance(start, Path) else start
    if type(found) is not type(net):
        raise ModelError(f"{name} is a {type(found).__name__}, which cannot start a {type(net).__name__}")
    for key in dict.fromkeys([*ours, *theirs]):
        there, here = (list(weights[key].shape) if key in weights else "not there" for weights in (theirs, ours))
        if there != here:
            hint = "; it was made for another size of view" if key.endswith("position_embeddings") else ""
            raise ModelError(f"{name} cannot start this {type(net).__name__}: {key} is {there}, not {here}{hint}")
    if not any(weight.is_meta for weight in ours.values()):
        net.load_state_dict(theirs)


def load_backbone(folder: str | Path) -> nn.Module:
    """A backbone saved by ``save_backbone``, or any transformers vision folder or Hub id, ready to measure. Raises ModelError."""
    place = locate(str(folder))
    config = load_config(place)
    kind = AutoModel._model_mapping.get(type(config), None)
    if kind is None:
        raise ModelError(f"{folder} is a {config.model_type}, which is not a vision model")
    options: dict[str, Any] = {"add_pooling_layer": False} if _has_optional_pooler(kind) else {}
    net = load_model(AutoModel, place, **options)
    if place.kind != "hub" and (Path(place.path_or_id) / "preprocessor_config.json").is_file():
        processor = load_image_processor(place)
        net.config.image_mean, net.config.image_std = list(processor.image_mean), list(processor.image_std)
    return _channels_last(_vision_only(net, str(folder))).requires_grad_(True).eval()


def save_backbone(net: nn.Module, folder: Path) -> None:
    """Write weights, config and the image processor that goes with them, for ``AutoModel`` and ``AutoImageProcessor``."""
    save_pretrained(net, folder)
    save_image_processor(cast(Any, net).config.view_size, folder)


def save_image_processor(view_size: int, folder: Path) -> None:
    """What makes of a picture what ``represent`` makes of it."""
    CLIPImageProcessorPil(
        size={"shortest_edge": view_size},
        crop_size={"height": view_size, "width": view_size},
        resample=2,  # bilinear, as in represent
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(folder)


def represent(net: nn.Module, images: Tensor) -> Tensor:
    """The representation (B, d): class token after the last norm (ViT), or the model's own pooling (ResNet and others).

    Args: ``images`` (B, 3, H, W), either normalised floats, or uint8, which are resized to the size of the views, cropped
        to the centre and normalised here.
    """
    if images.dtype == torch.uint8:
        config = cast(Any, net).config
        pixels = center_square(images.float().div_(255), getattr(config, "view_size", min(images.shape[-2:])))
        images = normalize(pixels, getattr(config, "image_mean", MEAN), getattr(config, "image_std", STD))
    output = net(pixel_values=images.contiguous(memory_format=torch.channels_last))
    pooled = output.get("pooler_output")
    if pooled is None or _has_optional_pooler(type(net)):
        return cast(Tensor, output["last_hidden_state"][:, 0])
    return cast(Tensor, pooled.flatten(1))


def width(net: nn.Module) -> int:
    """Length of a representation."""
    config = cast(Any, net).config
    return int(config.hidden_sizes[-1]) if hasattr(config, "hidden_sizes") else int(config.hidden_size)


def normalize(pixels: Tensor, mean: Any = MEAN, std: Any = STD) -> Tensor:
    """Pixels (B, 3, H, W) in [0, 1] to zero mean and unit variance a channel."""
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def resize_shorter(pixels: Tensor, size_px: int) -> Tensor:
    """Resize float images (bilinear, antialiased) so that the shorter side has ``size_px`` pixels."""
    height, width_px = pixels.shape[-2:]
    ratio = size_px / min(height, width_px)
    size = (round(height * ratio), round(width_px * ratio))
    if size == (height, width_px):
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)


def center_square(pixels: Tensor, size_px: int) -> Tensor:
    """Resize the shorter side of float images to ``size_px`` and cut out the centre."""
    pixels = resize_shorter(pixels, size_px)
    top, left = ((side - size_px) // 2 for side in pixels.shape[-2:])
    return pixels[..., top : top + size_px, left : left + size_px]


def _sized(name: str, image_size: int) -> Any:
    """The config of a backbone for square images of this size. Raises InputError if they do not divide into patches."""
    config = _config(name)
    if isinstance(getattr(config, "patch_size", None), int) and image_size % config.patch_size:
        raise InputError(f"{image_size} pixels do not divide into patches of {config.patch_size}; change image_size")
    if hasattr(config, "image_size"):
        config.image_size = image_size
    config.view_size = image_size  # every backbone of ours knows the size of view it was made for
    return config


def _config(name: str) -> Any:
    if name == "resnet-tiny":
        # The stem divides the side by 4 and the stages by 8: the last map is 2x2 at 64 pixels, 1x1 at 32.
        sizes = {"hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]}
        return ResNetConfig(embedding_size=32, layer_type="basic", **sizes)
    if name == "resnet-50":
        return ResNetConfig()
    if name == "vit-tiny":
        return ViTConfig(
            hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, patch_size=8
        )
    if name == "vit-s16":
        return ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    if name == "vit-b16":
        return ViTConfig()
    path = Path(name).expanduser()
    place = Located("folder", str(path), None, path.name) if path.is_dir() else None  # its weights need not be there
    try:
        return load_config(place or locate(name))
    except ReverieError as error:
        raise ModelError(f"no backbone {name!r}; use {', '.join(BUILT)}, a folder, or a Hub id ({error})") from error


def _has_optional_pooler(kind: type) -> bool:
    """True of ViT and its kin, whose pooler is an extra tanh layer that most checkpoints never trained."""
    return "add_pooling_layer" in inspect.signature(kind.__init__).parameters  # type: ignore[misc]


def _channels_last(net: nn.Module) -> nn.Module:
    """Convolutions on a CPU are 1.3 to 1.5 times faster so, and no slower elsewhere."""
    return cast(nn.Module, cast(Any, net).to(memory_format=torch.channels_last))


def _vision_only(net: Any, name: str) -> nn.Module:
    if net.main_input_name != "pixel_values":
        raise ModelError(f"{name} is a {type(net).__name__}, which is not a vision model")
    return cast(nn.Module, net)
