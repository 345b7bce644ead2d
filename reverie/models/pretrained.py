"""The only place that loads pre-trained weights, configurations, tokenizers and pipelines; what cannot be loaded is a one-line error.

    every weight is read       a key that is missing or of another shape is an error, in every part of a model
    no code of a model runs    trust_remote_code is off wherever it exists, and nobody is asked about it
    no pickle is opened        weights are safetensors (or GGUF, for writers)
    no long wait for nothing   where the Hub cannot be reached, its cache is looked at alone

Nothing else in the package calls ``from_pretrained`` or reads safetensors; a test holds that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import io
import os
import re
import shutil
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import load_model as fill_model
from torch import Tensor, nn
from transformers.utils import logging

from reverie.errors import MissingExtra, ModelError, ReverieError
from reverie.models.names import HUB_ID, Located, check_tensors, check_weights, locate, read_index
from reverie.store.json_files import read_json

CONNECT_S = 2.0  # for a first answer of the Hub; HF_HUB_ETAG_TIMEOUT, where it is set, goes before it
SHOWN = 300  # characters of a library's message
SMALL = (".json", ".txt", ".model", ".jinja")  # endings of what lies beside weights


def load_model(
    loader: Any, place: Located, device: str = "cpu", dtype: torch.dtype = torch.float32, *, part: str = "", **options: Any
) -> Any:  # fmt: skip
    """A network in evaluation mode, with every weight read from safetensors: none is left at its random start.

    Args:
        loader: a class with ``from_pretrained``, such as ``transformers.AutoModel`` or a model of diffusers.
        dtype: of the computation; half-precision files are widened, so that scores do not depend on how they were stored.
        part: sub-folder of a pipeline.
    Raises: ModelError when the model cannot be found, read, or lacks weights.
    """
    _know_our_own()
    logging.disable_progress_bar()  # hundreds of lines in a log file, and a unit's own progress is shown elsewhere
    what = f"{place.name}/{part}" if part else place.name
    if place.gguf:
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtra("a GGUF file", "gguf")
        unpacked = transformers.GgufConfig(dequantize=True)
        options |= {"gguf_file": place.gguf, "quantization_config": unpacked}
    else:
        options |= {"use_safetensors": True}
    # What unpacks GGUF draws a bar of its own, which no setting takes away.
    with readable(place, loader, part), contextlib.redirect_stderr(io.StringIO() if place.gguf else sys.stderr):
        net, found = loader.from_pretrained(
            place.path_or_id, dtype=dtype, output_loading_info=True, **_where(place, part), **_trust(loader), **options
        )
    _check_loaded(net, found, what)
    return net.to(device).eval().requires_grad_(False)


def load_component(loader: Any, place: Located, *, part: str = "", **options: Any) -> Any:
    """A configuration, tokenizer, processor or scheduler. Raises ModelError."""
    if place.gguf:
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtra("a GGUF file", "gguf")
        options |= {"gguf_file": place.gguf}
    with readable(place, loader, part):
        return loader.from_pretrained(place.path_or_id, **_where(place, part), **_trust(loader), **options)


def part_of(place: Located, kind: str) -> str:
    """Name of the part of this class in a pipeline of diffusers; empty where the place is one network and no pipeline.

    Raises: ModelError for a pipeline that has no such part.
    """
    import diffusers

    if place.kind == "hub":
        try:
            index = diffusers.DiffusionPipeline.load_config(place.path_or_id, **_where(place))
        except Exception:  # no pipeline, or no way to it, which who loads the network says in one line
            return ""
    elif (Path(place.path_or_id) / "model_index.json").is_file():
        index = read_index(Path(place.path_or_id))
    else:
        return ""
    found = [name for name, value in index.items() if isinstance(value, (list, tuple)) and value[1] == kind]
    if not found:
        raise ModelError(f"{place.name} is a {_brief(index.get('_class_name'))}, which has no {kind}")
    return str(found[0])


def load_settings(place: Located, part: str = "") -> dict[str, Any]:
    """The config of a network of diffusers, without the network. Raises ModelError."""
    import diffusers

    reader = diffusers.UVit2DModel  # all networks read the same file, but one of them must be asked
    with readable(place, reader, part):
        return dict(reader.load_config(place.path_or_id, **_where(place, part)))


def load_config(place: Located) -> Any:
    """The configuration of a transformers model. Raises ModelError."""
    _know_our_own()
    try:
        return load_component(transformers.AutoConfig, place)
    except ModelError as error:
        if "`model_type`" in str(error):
            raise ModelError(
                f"{place.name} is no model of transformers: its config.json names no model_type"
            ) from error
        raise


@functools.cache
def _know_our_own() -> None:
    """Models that transformers does not have are known to it once they are imported, which their parts must have been before."""
    importlib.import_module("reverie.models.dual_encoder")


def load_tokenizer(place: Located, *, part: str = "") -> Any:
    """A tokenizer that has a vocabulary: transformers makes an empty one where the files are missing. Raises ModelError."""
    tokenizer = load_component(transformers.AutoTokenizer, place, part=part)
    with readable(place, transformers.AutoTokenizer, part):
        empty = tokenizer.vocab_size <= len(tokenizer.all_special_ids)
    if empty:
        raise ModelError(
            f"{place.name} comes without a tokenizer; put tokenizer.json and tokenizer_config.json beside its weights"
        )
    return tokenizer


def load_image_processor(place: Located) -> Any:
    """What prepares pictures for a model, with PIL. Raises ModelError."""
    return load_component(transformers.AutoImageProcessor, place, backend="pil")


def load_processor(place: Located) -> Any:
    """What prepares pictures and texts for a model that takes both, with PIL; of videos it knows nothing. Raises ModelError."""
    config = load_config(place)
    with readable(place, transformers.AutoProcessor):
        known = transformers.models.auto.processing_auto.PROCESSOR_MAPPING
        kind = known.get(type(config), None)
        if kind is None or "image_processor" not in kind.get_attributes():
            raise ModelError(
                f"{place.name} is a model of type {config.model_type!r}, which has no processor of pictures and texts"
            )
    parts = {"image_processor": load_image_processor(place), "tokenizer": load_tokenizer(place)}
    with readable(place, kind):
        settings, _ = kind.get_processor_dict(place.path_or_id, **_where(place))
        # Video processors want torchvision, and no video comes here.
        seeing: Any = type(
            kind.__name__, (kind,), {"check_argument_for_proper_class": _only_what_is_there, "__doc__": kind.__doc__}
        )
        made = seeing.from_args_and_dict([parts.get(name) for name in kind.get_attributes()], settings)
    return made[0] if isinstance(made, tuple) else made


def _only_what_is_there(processor: Any, name: str, part: Any) -> Any:
    return None if part is None else super(type(processor), processor).check_argument_for_proper_class(name, part)


def copy_small_files(place: Located, folder: Path) -> None:
    """Tokenizer, processor and their settings of a model beside weights that were saved elsewhere. Raises ModelError."""
    source = Path(place.path_or_id)
    if place.kind == "hub":
        import huggingface_hub

        with readable(place, transformers.AutoProcessor):
            patterns = [f"*{suffix}" for suffix in SMALL]
            source = Path(
                huggingface_hub.snapshot_download(
                    place.path_or_id, allow_patterns=patterns, local_files_only=not hub_answers()
                )
            )
    for file in sorted(item for item in source.iterdir() if item.is_file() and item.suffix in SMALL):
        if not file.name.endswith((".index.json", "training.json")) and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def load_pipeline(place: Located, dtype: torch.dtype = torch.float32, without: Sequence[str] = ()) -> Any:
    """A text-to-image pipeline of diffusers, every network of it with all its weights. Raises ModelError.

    Args: without: parts that are left out, None in the pipeline.
    """
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()  # cut texts are counted by the painter, not printed by each batch
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # image processors of parts that are not used
    unchecked = {"safety_checker": None}
    if place.kind == "hub":
        with readable(place, diffusers.DiffusionPipeline):
            folder = diffusers.DiffusionPipeline.download(
                place.path_or_id, use_safetensors=True, **_where(place), **_trust(diffusers.DiffusionPipeline), **unchecked
            )  # fmt: skip
        place = dataclasses.replace(place, path_or_id=str(folder))
    folder = Path(place.path_or_id)
    parts = _parts(folder, place.name)
    # A safety checker would turn pictures black without a word; what is kept is decided by filters.
    nets = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in parts else {}
    nets |= dict.fromkeys(without)
    for name, loader in parts.items():
        if name not in nets and isinstance(loader, type) and issubclass(loader, nn.Module):
            check_weights(folder / name)
            local = dataclasses.replace(place, kind="folder")
            nets[name] = load_model(loader, local, dtype=dtype, part=name)
    family = read_index(folder).get("_class_name")
    # aMUSEd paints from text too, but the library's list of those that do leaves it out.
    loader = diffusers.AmusedPipeline if family == "AmusedPipeline" else diffusers.AutoPipelineForText2Image
    with readable(place, loader):
        return loader.from_pretrained(folder, use_safetensors=True, dtype=dtype, **nets)


def check_networks(place: Located) -> None:
    """That the files of a pipeline in a folder hold every weight of its networks, by their names alone.

    Raises: ModelError, as loading them would.
    """
    import diffusers

    if place.kind != "folder":
        return
    folder = Path(place.path_or_id)
    for part, loader in _parts(folder, place.name).items():
        if part == "safety_checker" or not isinstance(loader, type):
            continue  # it is never loaded
        if issubclass(loader, transformers.PreTrainedModel):
            check_weight_names(loader, place, part)
        if not issubclass(loader, diffusers.ModelMixin):
            continue
        check_weights(folder / part)
        family: Any = loader
        with readable(place, loader, part):
            settings = family.load_config(folder / part)
            if "quantization_config" in settings:
                continue
            with torch.device("meta"):  # names only
                net = family.from_config(settings)
            held = _shapes(folder / part)
            net._fix_state_dict_keys_on_load(held)  # names of older versions
        _check_whole(net, sorted(net.state_dict().keys() - held.keys()), f"{place.name}/{part}")


def check_weight_names(loader: Any, place: Located, part: str = "", **options: Any) -> None:
    """As ``load_model`` for a network of transformers in a folder, but by the headers of its files alone, before any work.

    transformers itself fills the network, with tensors that have a shape and no content, so its names for weights of older
    versions hold here too. Raises: ModelError where weights are missing or of another shape.
    """
    if place.kind != "folder" or place.gguf:
        return
    folder = Path(place.path_or_id) / part
    check_weights(folder)
    logging.disable_progress_bar()
    loudness = logging.get_verbosity()
    logging.set_verbosity_error()  # it would print a table of what is missing
    try:
        config = (getattr(loader, "config_class", None) or transformers.AutoConfig).from_pretrained(
            folder, **_trust(transformers.AutoConfig)
        )
        if hasattr(config, "quantization_config"):
            return
        kind = loader._model_mapping[type(config)] if hasattr(loader, "_model_mapping") else loader
        weights = {name: torch.empty(shape, device="meta") for name, shape in _shapes(folder).items()}
        net, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except Exception:  # whatever cannot be looked at in this way is told when it is loaded, which is where it counts
        return
    finally:
        logging.set_verbosity(loudness)
    lost = sorted({str(key) for key in found["missing_keys"]} | {str(item[0]) for item in found["mismatched_keys"]})
    _check_whole(net, lost, f"{place.name}/{part}" if part else place.name)


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of every tensor in the files of a network, by its name there."""
    found: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "pt") as opened:
            names = opened.keys()  # it is no dictionary
            found |= {name: opened.get_slice(name).get_shape() for name in names}
    return found


def pipeline_index(place: Located) -> dict[str, Any]:
    """The parts of a diffusers pipeline: name -> [library, class]. Raises ModelError, also for what is no pipeline."""
    file = _small_file(place, "model_index.json")
    if not file.is_file():
        raise ModelError(f"{place.name} is not a pipeline of diffusers (model_index.json is not there)")
    return read_index(file.parent)


def load_part_config(place: Located, part: str, file: str = "config.json") -> dict[str, Any]:
    """The settings of a network, or of what another file is about, in a pipeline, without its weights. Raises ModelError."""
    config: dict[str, Any] = read_json(_small_file(place, f"{part}/{file}"), {...: object}, ModelError, "copy it again")
    return config


def _small_file(place: Located, name: str) -> Path:
    if place.kind != "hub":
        return Path(place.path_or_id) / name
    import huggingface_hub

    with readable(place, huggingface_hub.hf_hub_download, name.rpartition("/")[0]):
        return Path(huggingface_hub.hf_hub_download(place.path_or_id, name, local_files_only=not hub_answers()))


def load_tensors(file: Path | str) -> dict[str, Tensor]:
    """What a safetensors file holds. Raises ModelError for one that is not there, cut, or damaged otherwise."""
    check_tensors(Path(file))
    try:
        return dict(load_file(file))
    except Exception as error:
        raise ModelError(f"{file} is damaged ({first_line(error)}); make it again") from error


def load_into(net: nn.Module, file: Path) -> None:
    """Fill a network from a checkpoint. Raises ModelError for one that is cut, damaged otherwise, or of another network."""
    check_tensors(file)
    try:
        fill_model(net, str(file))
    except Exception as error:
        raise ModelError(
            f"{file} is damaged ({first_line(error)}); delete it, then run the same command again"
        ) from error


def tensors_about(file: Path) -> dict[str, str]:
    """The notes in a safetensors file. Raises ModelError."""
    check_tensors(file)
    with safe_open(str(file), "pt") as opened:
        return dict(opened.metadata() or {})


def fetched(what: str, name: str | Path) -> Path:
    """A folder as it is, or the folder that the Hub's repository of this name is downloaded to, pickles left out.

    Raises: ModelError for what is neither, and where the Hub refuses or cannot be reached and nothing is cached.
    """
    if Path(name).is_dir():
        return Path(name)
    if not HUB_ID.fullmatch(str(name)):
        raise ModelError(f"{name} is no {what}; give a folder that is there, or a Hub id OWNER/NAME")
    import huggingface_hub

    pickles = ["*.bin", "*.pt", "*.pth", "*.ckpt"]
    try:
        folder = huggingface_hub.snapshot_download(
            str(name), ignore_patterns=pickles, local_files_only=not hub_answers()
        )
    except Exception as error:  # of network, Hub and cache, which have no class in common
        raise ModelError(f"cannot fetch the {what} {name} from the Hub: {first_line(error)}") from error
    return Path(folder)


def check_model(name: str) -> None:
    """That a transformers model can be found, by a look at its config alone, before hours of work for it. Raises ModelError, UnknownName."""
    load_config(locate(name))


def feature_dim(name: str) -> int | None:
    """Length of the features of a two-tower model, as far as its config says so. Raises ModelError, UnknownName."""
    config = load_config(locate(name))
    towers = [config, getattr(config, "vision_config", None), getattr(config, "text_config", None)]
    found = [getattr(tower, key, None) for key in ("projection_dim", "hidden_size") for tower in towers]
    return next((int(dim) for dim in found if dim), None)


def first_line(error: BaseException) -> str:
    """What a library's error says, as a part of one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"no entry {text}"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


@contextmanager
def readable(place: Located, loader: Any, part: str = "") -> Iterator[None]:
    """Whatever a library raises while it reads a model means that the model cannot be read. Raises ModelError."""
    what = f"{place.name}/{part}" if part else place.name
    try:
        yield
    except ReverieError:
        raise
    except Exception as error:
        said = first_line(error)
        if "trust_remote_code" in said or "custom code" in said:
            raise ModelError(
                f"{what} wants to run code of its own, which is never done; use a model of a class that "
                f"{loader.__module__.split('.')[0]} has itself"
            ) from error
        if place.kind == "hub" and not hub_answers():
            raise ModelError(
                f"{what} is not in the local cache, and {_endpoint().hostname} cannot be reached (or HF_HUB_OFFLINE is "
                "set); check the name and the network, or give a folder"
            ) from error
        raise ModelError(f"cannot load {what} with {loader.__name__}: {said}") from error


@contextmanager
def usable(revision: str, what: str, batched: bool = True) -> Iterator[None]:
    """A model that opens may still not fit its own settings. Raises ModelError for it.

    Args: batched: whether a batch that fills the memory is halved inside the block, and not by who calls it.
    """
    try:
        yield
    except (ReverieError, OSError):
        raise
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or (should_reduce_batch_size(error) and not batched):
            raise
        raise ModelError(
            f"{revision} cannot {what}, its files do not fit each other: {type(error).__name__}, {first_line(error)}"
        ) from error


def hub_answers() -> bool:
    """Whether the Hub may be asked: not if it is off by HF_HUB_OFFLINE, or if no connection can be made in a moment.

    Without this look its client tries for half a minute, file by file.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    return _connects(*_first_hop())


def _first_hop() -> tuple[str, int]:
    """Who is spoken to first: the Hub, or the proxy on the way there."""
    url = _endpoint()
    host = url.hostname or ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(host):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        return url.hostname or "", url.port or {"https": 443, "http": 80}.get(url.scheme, 1080)
    return host, url.port or {"https": 443}.get(url.scheme, 80)


def _endpoint() -> Any:
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT)


@functools.cache
def _connects(host: str, port: int) -> bool:
    """Looked at once a process. In a thread, as the look-up of a name knows no time limit."""
    limit = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", CONNECT_S))
    answered: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=limit).close()
            answered.append(True)
        except (OSError, ValueError, OverflowError):
            answered.append(False)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(limit)
    return answered == [True]


def _where(place: Located, part: str = "") -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that say where to look."""
    where: dict[str, Any] = {"subfolder": part} if part else {}
    if place.kind != "hub" or not hub_answers():
        where["local_files_only"] = True
    return where


def _trust(loader: Any) -> dict[str, bool]:
    """Never. Schedulers and models of diffusers have no code of their own to run and do not know the word."""
    told = loader.__module__.startswith("transformers") or hasattr(loader, "download")
    return {"trust_remote_code": False} if told else {}


def _check_loaded(net: Any, found: Any, what: str) -> None:
    lost = [str(key) for key in sorted(found["missing_keys"])]
    lost += [str(item[0] if isinstance(item, tuple) else item) for item in found["mismatched_keys"]]
    # What stays on the meta device was in no file either.
    lost += [name for name, weight in net.named_parameters() if weight.is_meta and name not in lost]
    _check_whole(net, lost, what)
    if wrong := [str(item) for item in found.get("error_msgs") or ()]:
        raise ModelError(f"cannot load {what}: {' '.join(wrong[0].split())[:SHOWN]}")


def _check_whole(net: Any, lost: Sequence[str], what: str) -> None:
    if lost:
        shown = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise ModelError(f"{what} lacks {len(lost)} of its weights ({shown}); it is not a whole {type(net).__name__}")


def _parts(folder: Path, name: str) -> dict[str, Any]:
    """The class of every part that the index of a pipeline names. Raises ModelError for one that only its own code could make."""
    import diffusers
    from diffusers.pipelines import pipeline_loading_utils as known

    index = read_index(folder)
    family = index.get("_class_name")
    if not isinstance(family, str) or not hasattr(diffusers, family):
        raise ModelError(
            f"{name} is a pipeline of a class that diffusers does not have ({_brief(family)}), and code of a model is never run"
        )
    found: dict[str, Any] = {}
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list):
            continue
        library, kind = value
        if library is None or kind is None:
            continue
        own = re.fullmatch(r"\w+", part) and (folder / part / f"{library}.py").exists()
        module = None
        if not own and library in ("diffusers", "transformers"):
            module = importlib.import_module(library)
        elif not own:
            module = getattr(diffusers.pipelines, str(library), None)
        renamed = getattr(known, "_maybe_remap_transformers_class", lambda _: None)(kind)
        loader = getattr(module, kind, None) or (renamed and getattr(module, renamed, None))
        if loader is None and part != "safety_checker":
            raise ModelError(
                f"{name}/{part} is {_brief(library)}.{_brief(kind)}, which neither diffusers nor transformers has, and code of a "
                "model is never run"
            )
        found[part] = loader
    return found


def _brief(value: object) -> str:
    text = str(value) if isinstance(value, str) else repr(value)
    return text[:60]


def load_tokenizer_of(name: str) -> Any:
    """The tokenizer of a builtin model, a Hub id, or a folder, which may hold nothing else. Raises ModelError, UnknownName."""
    path = Path(name).expanduser()
    return load_tokenizer(Located("folder", str(path), None, path.name) if path.is_dir() else locate(name))


def load_tokenizer_within(name: str) -> Any:
    """The tokenizer of a model, or the first one of a pipeline of diffusers. Raises ModelError, UnknownName."""
    place = locate(name)
    is_pipeline = part_of(place, "CLIPTokenizer") if place.kind == "hub" else ""
    if place.kind != "hub" and (Path(place.path_or_id) / "model_index.json").is_file():
        is_pipeline = "tokenizer"
    return load_tokenizer(place, part=is_pipeline)
