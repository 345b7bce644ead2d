"""A model's name -> where it is, and which version. The only place where a model is found by a string.

    builtin:painter            a folder that ships with the package (sub-folders of models/builtin)
    path/to/folder             a transformers or diffusers folder with safetensors weights
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
from typing import Literal
from urllib.parse import urlsplit

from reverie.errors import InputError, ModelError, UnknownName

Kind = Literal["builtin", "hub", "folder", "openai"]

BUILTIN = Path(__file__).with_name("builtin")
HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")  # "gpt2" or "owner/name"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
CONFIGS = ("model_index.json", "config.json")
HASHED = (".safetensors", ".json", ".txt", ".model", ".jinja")  # weights, settings, vocabularies, chat templates


@dataclass(frozen=True)
class Located:
    """Where a model is. ``str(located)`` is the name with its revision, as rows and results record it."""

    kind: Kind
    path_or_id: str  # what `from_pretrained` takes; for openai the model's name on the server
    revision: str | None  # 12 hex digits of the content (folders), the commit (Hub, when cached), or None
    name: str = ""  # as the user wrote it; folders by their last part, so that no path reaches a table
    url: str | None = None  # openai only: base URL of the server

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
        return Located("folder", str(path), folder_revision(path), path.resolve().name)
    if path.is_file():
        raise ModelError(f"{name} is a file; give the folder that holds config.json and *.safetensors")
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
        _check_weights(part)
    files = sorted(item for part in parts for item in part.iterdir() if item.suffix in HASHED and item.is_file())
    stats = tuple((str(item), item.stat().st_size, item.stat().st_mtime_ns) for item in files)
    return _content_hash(str(folder), stats)


def _components(folder: Path) -> list[Path]:
    index = folder / "model_index.json"
    if not index.is_file():
        return []
    try:
        names = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{index} is not valid JSON ({error})") from error
    return sorted(folder / name for name in names if (folder / name).is_dir())


def _check_weights(part: Path) -> None:
    if not (part / "config.json").is_file() or any(part.glob("*.safetensors")):
        return
    pickles = sorted(item.name for item in part.iterdir() if item.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"{part} has its weights only as pickle ({pickles[0]}), which can run code when loaded; convert them on a machine "
            "where you trust the file: load with from_pretrained, then save_pretrained(folder, safe_serialization=True)"
        )
    raise ModelError(f"{part} has config.json but no *.safetensors weights; copy the weights beside it")


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
