"""What kind of model a name leads to, by its small files alone, and the one line where another kind is needed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import transformers

from reverie.errors import ModelError
from reverie.models.names import Located, locate, read_index
from reverie.models.pretrained import check_weight_names, load_config
from reverie.store.json_files import read_json

Kind = Literal["encoder", "detector", "text-to-text", "language", "vision", "describer", "painter", "network", "server"]

CALLED: dict[Kind, str] = {
    "encoder": "an encoder of images and texts",
    "detector": "an object detector",
    "text-to-text": "a text-to-text model",
    "language": "a language model",
    "vision": "a vision model",
    "describer": "an image-text-to-text model",
    "painter": "a pipeline that paints",
    "network": "a network of diffusers",
    "server": "a language model on a server",
}
FAMILIES: tuple[tuple[Kind, str], ...] = (  # of transformers, the narrower first
    ("detector", "MODEL_FOR_OBJECT_DETECTION_MAPPING"),
    ("text-to-text", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING"),
    ("language", "MODEL_FOR_CAUSAL_LM_MAPPING"),
    ("vision", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING"),
    ("describer", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING"),
)


@dataclasses.dataclass(frozen=True)
class Known:
    """The kind of a model and the name of its class or type."""

    kind: Kind
    of: str

    def __str__(self) -> str:
        return f"{CALLED[self.kind]} ({self.of})" if self.of else CALLED[self.kind]


def kind_of(place: Located) -> Known | None:
    """What a model is; None for one that is none of these, or is on the Hub and no model of transformers.

    Raises: ModelError for a config that cannot be read.
    """
    if place.kind == "openai":
        return Known("server", "")
    if place.gguf:
        return Known("language", "GGUF")
    folder = Path(place.path_or_id)
    if place.kind != "hub":
        if (folder / "model_index.json").is_file():
            return Known("painter", _text(read_index(folder).get("_class_name")))
        settings = read_json(folder / "config.json", {...: object}, ModelError, "copy it again")
        if "model_type" not in settings and "_class_name" in settings:
            return Known("network", _text(settings["_class_name"]))
    config = load_config(place)
    for kind, mapping in FAMILIES:
        if type(config) in getattr(transformers, mapping):
            two_towers = kind == "vision" and hasattr(config, "vision_config") and hasattr(config, "text_config")
            return Known("encoder" if two_towers else kind, config.model_type)
    return None


def check_kind(name: str, *wanted: Kind, needed: str) -> None:
    """A look at small files, before any work.

    Args:
        wanted: kinds that are fine; so is one that is not known.
        needed: what the line says is needed.
    Raises: ModelError that says what the model is, also where it cannot be found; UnknownName.
    """
    place = locate(name)
    if place.kind == "hub" and {"painter", "network"} & {*wanted}:
        return  # its small files are looked at where they are fetched
    found = kind_of(place)
    if found is not None and found.kind not in wanted:
        raise ModelError(f"{name} is {found}; what is needed here is {needed}")


def check_encoder(name: str) -> None:
    """That a model is of images and texts, and lacks no weight. Raises ModelError, UnknownName."""
    check_kind(name, "encoder", needed="an encoder of images and texts, such as CLIP or SigLIP")
    check_weight_names(transformers.AutoModel, locate(name))


def check_backbone(name: str) -> None:
    """That a model has a vision tower. Raises ModelError, UnknownName."""
    check_kind(name, "encoder", "vision", "detector", needed="a vision model, or an encoder of images and texts")


def check_writer(name: str) -> None:
    """That a model writes texts, and lacks no weight; a server is asked when it is needed. Raises ModelError, UnknownName."""
    check_kind(name, "language", "text-to-text", "server", needed="a language model")
    place = locate(name)
    if place.kind == "folder" and not place.gguf:
        check_weight_names(language_class(load_config(place)), place)


def language_class(config: Any) -> Any:
    """What a language model is loaded with, with an encoder of its own or without."""
    has_encoder = getattr(config, "is_encoder_decoder", False)
    return transformers.AutoModelForSeq2SeqLM if has_encoder else transformers.AutoModelForCausalLM


def check_pipeline(name: str) -> None:
    """That a model is a pipeline of diffusers. Raises ModelError, UnknownName."""
    check_kind(name, "painter", needed="a text-to-image pipeline of diffusers")


def check_network(name: str) -> None:
    """That a model is a network of diffusers, or a pipeline that may hold one. Raises ModelError, UnknownName."""
    check_kind(name, "painter", "network", needed="a tokenizer of images, which is a VQModel of diffusers")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
