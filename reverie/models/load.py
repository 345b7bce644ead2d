"""Load a transformers model or one of its companions, or say in one line why not."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.utils import logging

from reverie.errors import ModelError
from reverie.models.names import Located, locate


def load_net(loader: Any, place: Located, device: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A network in evaluation mode, with every weight read from safetensors: none is left at its random start.

    Args:
        loader: a class with ``from_pretrained``, such as ``transformers.AutoModel``.
        dtype: of the computation; half-precision files are widened, so that scores do not depend on how they were stored.
    Raises: ModelError when the model cannot be found, read, or lacks weights.
    """
    logging.disable_progress_bar()  # hundreds of lines in a log file, and a unit's own progress is shown elsewhere
    try:
        net, found = loader.from_pretrained(
            place.path_or_id, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load {place.name} with {loader.__name__}: {_first_line(error)}") from error
    lost = sorted(found["missing_keys"]) + sorted(str(item) for item in found["mismatched_keys"])
    if lost:
        raise ModelError(
            f"{place.name} lacks {len(lost)} of its weights ({lost[0]}, ...); it is not a {type(net).__name__}"
        )
    return net.to(device).eval().requires_grad_(False)


def load_part(loader: Any, place: Located, **options: Any) -> Any:
    """A tokenizer, processor or scheduler. Raises ModelError."""
    try:
        return loader.from_pretrained(place.path_or_id, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load {place.name} with {loader.__name__}: {_first_line(error)}") from error


def check_model(name: str) -> None:
    """That a transformers model can be found, by a look at its config alone, before hours of work for it. Raises ModelError, UnknownName."""
    load_part(transformers.AutoConfig, locate(name))


def feature_dim(name: str) -> int | None:
    """Length of the features of a two-tower model, as far as its config says so. Raises ModelError, UnknownName."""
    config = load_part(transformers.AutoConfig, locate(name))
    towers = [config, getattr(config, "vision_config", None), getattr(config, "text_config", None)]
    found = [getattr(tower, key, None) for key in ("projection_dim", "hidden_size") for tower in towers]
    return next((int(dim) for dim in found if dim), None)


def load_tokenizer(place: Located, **options: Any) -> Any:
    """A tokenizer that has a vocabulary: transformers makes an empty one where the files are missing. Raises ModelError."""
    tokenizer = load_part(transformers.AutoTokenizer, place, **options)
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"{place.name} comes without a tokenizer; put tokenizer.json and tokenizer_config.json beside its weights"
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
