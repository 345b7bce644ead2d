"""A model's name -> where it is, and which version. The only place where a model is found by a string.

    builtin:painter            a folder that ships with the package (sub-folders of models/builtin)
    path/to/folder             a transformers or diffusers folder with safetensors weights
    path/to/model.gguf         a language model as one GGUF file, or a folder that holds nothing but one
    openai/clip-vit-base-patch32   a Hub id, as `from_pretrained` takes it
    openai:MODEL@URL           a model behind an OpenAI-compatible server, e.g. openai:qwen3@http://localhost:8000/v1

Nothing is loaded and nothing is downloaded here; torch is not imported.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from reverie.errors import InputError, ModelError, UnknownName
from reverie.store.json_files import misfit, read_json

Kind = Literal["builtin", "hub", "folder", "openai"]

BUILTIN = Path(__file__).with_name("builtin")
HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")  # "gpt2" or "owner/name"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
CONFIGS = ("model_index.json", "config.json")
SHARDS = "*.safetensors.index.json"
IN_FLIGHT = 32  # requests on their way at once, to a model behind a server
MAX_HEADER = 100_000_000  # bytes; what the safetensors library takes at most
MAX_SETTINGS = {  # settings by name -> the largest number that is none of damage
    re.compile(r"layers|depth|blocks|_heads$|_head$|num_beams"): 10_000,
    re.compile(r"timesteps"): 100_000,
    re.compile(r"^(height|width|shortest_edge|sample_size|image_size)$"): 20_000,
    re.compile(r"position_embeddings|n_positions|n_ctx"): 20_000_000,
}
KERNELS = (  # settings that may name a repository of code on the Hub
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
)
TRAINABLE = (
    "painter-alt",
    "tokenizer",
    "token-painter",
    "describer",
)  # builtins that a checkout may lack, and that a command makes
HASHED = (".safetensors", ".json", ".txt", ".model", ".jinja")  # weights, settings, vocabularies, chat templates


@dataclass(frozen=True)
class Located:
    """Where a model is. ``str(located)`` is the name with its revision, as rows and results record it."""

    kind: Kind
    path_or_id: str  # what `from_pretrained` takes; for openai the model's name on the server
    revision: str | None  # 12 hex digits of the content (folders), the commit (Hub, when cached), or None
    name: str = ""  # as the user wrote it; folders by their last part, so that no path reaches a table
    url: str | None = None  # openai only: base URL of the server
    gguf: str | None = None  # name of the GGUF file in the folder, where the weights are in one

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def builtin_names() -> list[str]:
    """The models that ship with the package, without the ``builtin:`` prefix."""
    if not BUILTIN.is_dir():
        return []
    return sorted(item.name for item in BUILTIN.iterdir() if any((item / config).is_file() for config in CONFIGS))


def builtin_folder(name: str) -> Path:
    """Folder of a builtin model; ``name`` with or without the prefix. Raises UnknownName with the nearest known ones."""
    name = name.removeprefix("builtin:")
    if name not in builtin_names():
        if name in TRAINABLE:
            raise ModelError(
                f"builtin:{name} is not in this package yet; train it with: python -m reverie.builtin.train --only {name}"
            )
        raise UnknownName("builtin model", name, builtin_names() or ["none; run `make builtin`"])
    return BUILTIN / name


def locate(name: str) -> Located:
    """Find a model by name.

    Raises:
        UnknownName: no such builtin, or a prefix that nobody answers to.
        ModelError: a folder without config or without safetensors weights, or something that is no name at all.
        InputError: ``openai:`` without model or with an address that is not http(s).
    """
    prefix, colon, rest = name.partition(":")
    if prefix == "builtin" and colon:
        folder = builtin_folder(rest)
        return Located("builtin", str(folder), folder_revision(folder), name)
    if prefix == "openai" and colon:
        return _on_server(name, rest)
    path = Path(name).expanduser()
    if path.is_dir():
        if (packed := _only_gguf(path)) is not None:
            return _in_gguf(packed)
        return Located("folder", str(path), folder_revision(path), path.resolve().name)
    if path.is_file():
        if path.suffix == ".gguf":
            return _in_gguf(path)
        raise ModelError(f"{name} is a file; give the folder that holds config.json and *.safetensors, or a .gguf file")
    if path.suffix == ".gguf":
        raise ModelError(f"there is no model file {name}")
    if name.startswith((".", "/", "~")):
        raise ModelError(f"model folder {name} does not exist")
    if HUB_ID.fullmatch(name):
        return Located("hub", name, _hub_commit(name), name)
    if colon and prefix.isidentifier():
        raise UnknownName("kind of model", prefix, ["builtin", "openai"])
    raise ModelError(f"{name!r} is no model name; use builtin:NAME, a folder, a Hub id OWNER/NAME, or openai:MODEL@URL")


def folder_revision(folder: Path) -> str:
    """Check that a folder holds loadable weights and name their content by 12 hex digits.

    Every folder with a config needs safetensors beside it (for a pipeline: every model component). The hash covers
    weights, settings, vocabularies and templates, so that equal revisions mean equal models wherever they lie.
    Raises: ModelError.
    """
    if not any((folder / config).is_file() for config in CONFIGS):
        raise ModelError(
            f"{folder} holds no model: neither config.json (transformers) nor model_index.json (diffusers) is there"
        )
    parts = [folder, *_components(folder)]
    for part in parts:
        check_weights(part)
        for file in sorted(part.glob("*config.json")):
            check_sizes(file)
    files = sorted(item for part in parts for item in part.iterdir() if item.suffix in HASHED and item.is_file())
    stats = tuple((str(item), item.stat().st_size, item.stat().st_mtime_ns) for item in files)
    try:
        return _content_hash(str(folder), stats)
    except OSError as error:
        raise ModelError(f"cannot read {error.filename}: {error.strerror}") from error


def read_index(folder: Path) -> dict[str, Any]:
    """The parts of a diffusers pipeline: name -> [library, class]. Raises ModelError for an index that is damaged."""
    path = folder / "model_index.json"
    index: dict[str, Any] = read_json(path, {...: object}, ModelError, "copy it again")
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2 or misfit(value, [(str, None)]) or not re.fullmatch(r"\w[\w.-]*", name):
            raise ModelError(f"{path} is damaged ({name!r} is not a part with library and class); copy it again")
    return index


def _components(folder: Path) -> list[Path]:
    if not (folder / "model_index.json").is_file():
        return []
    return sorted(folder / name for name in read_index(folder) if name[:1].isalnum() and (folder / name).is_dir())


def check_weights(part: Path) -> None:
    """That the folder of one network holds safetensors, and that each file of them is whole. Raises ModelError."""
    if not (part / "config.json").is_file():
        return
    if (part / "adapter_config.json").is_file():  # transformers would load what it names, from wherever that is
        raise ModelError(
            f"{part} holds an adapter beside its weights; merge it into them (merge_and_unload), or take it out"
        )
    found = sorted(part.glob("*.safetensors"))
    for file in found:
        check_tensors(file)
    for index in part.glob(SHARDS):
        shards = read_json(index, {"weight_map": {...: str}}, ModelError, "copy the model again")["weight_map"]
        known = {file.name for file in found}
        if lost := sorted(set(shards.values()) - known):
            raise ModelError(f"{part} lacks {lost[0]}, which {index.name} names; copy the file beside it")
    if found:
        return
    pickles = sorted(item.name for item in part.iterdir() if item.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"{part} has its weights only as pickle ({pickles[0]}), which can run code when loaded; convert them on a machine "
            "where you trust the file: load with from_pretrained, then save_pretrained(folder, safe_serialization=True)"
        )
    raise ModelError(f"{part} has config.json but no *.safetensors weights; copy the weights beside it")


def check_sizes(file: Path) -> None:
    """That a file of settings is a JSON object, and that no size in it would fill the memory or take for ever. Raises ModelError."""
    stack = [("", read_json(file, {...: object}, ModelError, "copy it again"))]
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            stack += [(str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            stack += [(key, inner) for inner in value]
        elif key in KERNELS and isinstance(value, str) and "/" in value:
            raise ModelError(
                f"{file} wants to run code of its own ({key} is {value[:60]}), which is never done; take that entry out"
            )
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            limit = next((largest for pattern, largest in MAX_SETTINGS.items() if pattern.search(key)), None)
            if limit is not None and not -limit <= value <= limit:
                raise ModelError(
                    f"{file} is damaged ({key} is {value:.6g}, and no model has more than {limit:,}); copy it again"
                )


def check_tensors(file: Path) -> None:
    """That a safetensors file is whole, by its header and its length alone. Raises ModelError."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise ModelError(f"{file} is a git-lfs pointer, not the weights; fetch them with: git lfs pull")
            if len(start) < 8 or not 2 <= length <= MAX_HEADER or 8 + length > size:
                raise ModelError(
                    f"{file} is {'empty' if not size else 'damaged: it has no whole header'}; copy it again"
                )
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: its header cannot be read; copy it again") from error
    if size != expected:
        raise ModelError(
            f"{file} is {'cut' if size < expected else 'damaged'}: {size:,} of {expected:,} bytes; copy it again"
        )


def absent(name: str) -> str:
    """Why a model cannot be tried without asking or fetching anything; empty for one that is on this machine, or is none."""
    try:
        place = locate(name)
    except (InputError, ModelError, UnknownName):
        return ""
    if place.kind == "openai":
        return f"{name} is asked over the network, which may cost money, and its speed is its own"
    if place.kind == "hub" and place.revision is None:
        return f"the weights of {name} are not on this machine, and a trial downloads nothing"
    return ""


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds no other model. Raises ModelError for several."""
    found = sorted(folder.glob("*.gguf"))
    if not found or any((folder / config).is_file() for config in CONFIGS):
        return None
    if len(found) > 1:
        raise ModelError(f"{folder} holds {len(found)} GGUF files; name one of them, such as {found[0]}")
    return found[0]


def _in_gguf(file: Path) -> Located:
    with file.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise ModelError(f"{file} is damaged: it does not begin as a GGUF file does; copy it again")
    stat = file.stat()
    revision = _content_hash(str(file.parent), ((str(file), stat.st_size, stat.st_mtime_ns),))
    return Located("folder", str(file.parent), revision, file.name, gguf=file.name)


@functools.lru_cache(maxsize=64)
def _content_hash(folder: str, stats: tuple[tuple[str, int, int], ...]) -> str:
    # Sizes and times are in the key only: a changed file is read again, an unchanged one is not.
    digest = hashlib.blake2b(digest_size=6)
    for path, size, _ in stats:
        digest.update(f"{Path(path).relative_to(folder).as_posix()}/{size}/".encode())
        with Path(path).open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _hub_commit(name: str) -> str | None:
    """The commit that the local Hub cache holds for ``main``; None when nothing is cached."""
    from huggingface_hub import constants

    ref = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "main"
    return ref.read_text().strip()[:12] if ref.is_file() else None


def _on_server(name: str, rest: str) -> Located:
    model, _, url = rest.partition("@http")
    address = urlsplit(f"http{url}")
    if not model or address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(f"{name!r} is not openai:MODEL@URL, for example openai:qwen3@http://localhost:8000/v1")
    if address.username or address.password or address.query:
        raise InputError("an openai: address must carry no key; put the key in the environment variable OPENAI_API_KEY")
    return Located("openai", model, None, name, address.geturl().rstrip("/"))
