"""A support set on disk: sentences with their text features, which image features are projected on.

support.json         the encoder's name and revision
sentences.jsonl      {"id", "text", "group"} a line; the group is a photo that several sentences belong to, or null
rows.safetensors     rows (n, d), unit length, float32: half precision would move a softmax at temperature 0.01
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from reverie.errors import InputError, ModelError
from reverie.models.pretrained import load_tensors
from reverie.nets.projection import project
from reverie.stage import EventSink
from reverie.store.files import atomic_file, atomic_folder
from reverie.store.json_files import misfit, read_json, read_line

PART = 8192  # rows of a projection between two checkpoints
ABOUT, SENTENCES, ROWS = "support.json", "sentences.jsonl", "rows.safetensors"


@dataclass(frozen=True)
class Support:
    """An opened support set; its rows are mapped from disk."""

    ids: Sequence[str]
    texts: Sequence[str]
    groups: Sequence[str | None]
    rows: Tensor  # (n, d)
    encoder: str
    revision: str

    def __len__(self) -> int:
        return len(self.ids)


def save_support(folder: Path, support: Support) -> None:
    """Write the folder beside its place and rename it, so that it is never seen half."""
    with atomic_folder(folder) as temporary:
        with (temporary / SENTENCES).open("w", encoding="utf-8") as file:
            for name, text, group in zip(support.ids, support.texts, support.groups, strict=True):
                file.write(json.dumps({"id": name, "text": text, "group": group}, ensure_ascii=False) + "\n")
        save_file({"rows": support.rows.contiguous()}, temporary / ROWS)
        about = {"encoder": support.encoder, "revision": support.revision}
        (temporary / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def load_support(folder: Path) -> Support:
    """Open a support folder. Raises InputError if there is none, ModelError if it is damaged."""
    if not (folder / ABOUT).is_file():
        raise InputError(f"there is no support set at {folder}")
    about = read_json(folder / ABOUT, {"encoder": str, "revision": str}, ModelError, "make the support set again")
    lines = []
    try:
        with (folder / SENTENCES).open("rb") as file:
            for number, line in enumerate(file, 1):
                value = read_line(line)
                if wrong := misfit(value, {"id": str, "text": str, "group": (str, None)}):
                    raise ValueError(f"{SENTENCES} line {number}: {wrong}")
                lines.append(value)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is a damaged support set ({error}); make it again") from error
    rows = load_tensors(folder / ROWS).get("rows", torch.empty(0))
    ids, texts, groups = ([line[name] for line in lines] for name in ("id", "text", "group"))
    support = Support(ids, texts, groups, rows, about["encoder"], about["revision"])
    if rows.ndim != 2 or len(rows) != len(support) or rows.dtype != torch.float32:
        raise ModelError(f"{folder} is a damaged support set ({ROWS} does not fit {SENTENCES}); make it again")
    return support


def cached_projection(
    features: Tensor,
    support: Tensor,
    temperature: float,
    folder: Path,
    *,
    top_k: int = 0,
    own: tuple[Tensor, Tensor] | None = None,
    device: str = "cpu",
    report: EventSink | None = None,
) -> Tensor:
    """``project``, some thousand rows at a time, each part kept under a name that holds everything it depends on.

    So a projection that was killed goes on, and arms that are shown the same share it.
    """
    name = hashlib.blake2b(
        f"{temperature} {top_k} {tuple(features.shape)} {tuple(support.shape)}".encode(), digest_size=12
    )
    for rows in (features, support, *(own or ())):
        name.update(rows.contiguous().numpy().data)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(features), PART):
        file = folder / f"{name.hexdigest()}-{start // PART:05d}.safetensors"
        if not file.exists():
            mine = (own[0][start : start + PART], own[1]) if own else None
            found = project(features[start : start + PART], support, temperature, top_k=top_k, own=mine, device=device)
            with atomic_file(file) as partial:
                save_file({"rows": found.rows, "left_out": found.left_out}, partial)
            if report:
                report(
                    "progress", done=min(start + PART, len(features)), total=len(features), what="features projected"
                )
                if top_k:
                    report("projected", top_k=top_k, left_out=round(float(found.left_out.mean()), 6))
        parts.append(load_tensors(file)["rows"])
    return torch.cat(parts)


def link_support(source: Path, target: Path) -> None:
    """The same support set in another folder, without a second copy of it where the file system can do so."""
    target.mkdir(parents=True)
    for name in (ABOUT, SENTENCES, ROWS):
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copy(source / name, target / name)
