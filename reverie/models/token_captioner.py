"""A captioner folder of Synth²: a language model with eyes, and the image tokenizer that it reads through.

captioner.json       kind, shape, what it was trained on, and whether it is controlled
decoder/             the language model, which transformers opens, and its tokenizer
visual.safetensors   everything else of the network, its codebook included
tokenizer/           the VQModel, which diffusers opens

It answers as SynTIC's captioner does, but has no support set and no tags.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from reverie.errors import InputError, ModelError
from reverie.models.captioner import ABOUT, Captioner, DecoderInputs
from reverie.models.names import Located, check_sizes, check_weights
from reverie.models.pretrained import first_line, load_model, load_tensors, load_tokenizer
from reverie.models.tokenizer import Tokenizer, open_tokenizer, square
from reverie.nets.captioner import VISUAL
from reverie.nets.token_captioner import LANGUAGE, LookShape, TokenCaptionNet
from reverie.store.json_files import read_json

KIND = "tokens"  # what captioner.json calls one
SHAPE = {
    "kind": str, "size_px": int, "begin": [int], "end": int, "codebook": str, "shape": {...: object},
    "control?": {...: object}, "trained?": {...: object},
}  # fmt: skip
MAX_PARTS = 10_000  # of any size of a shape; more is damage


class TokenReader:
    """Pictures as rows of ids: in the place of an encoder, whose features a captioner is asked with."""

    def __init__(self, tokenizer: Tokenizer, size_px: int, batch_size: int) -> None:
        self.tokenizer, self.size_px, self.batch_size = tokenizer, size_px, batch_size
        self.revision = f"tokens {tokenizer.codebook_name} of {size_px} px"

    def images(self, pictures: Sequence[Any]) -> Tensor:
        """Ids (n, h w), int32, of RGB pictures of any size."""
        parts = []
        for start in range(0, len(pictures), self.batch_size):
            some = [square(picture, self.size_px) for picture in pictures[start : start + self.batch_size]]
            parts.append(torch.from_numpy(self.tokenizer.ids(np.stack(some))).flatten(1))
        return torch.cat(parts)


class TokenCaptioner(Captioner):
    """Made by ``load_captioner``. Call it with images."""

    net: TokenCaptionNet  # type: ignore[assignment]

    def __init__(self, net: TokenCaptionNet, words: Any, reader: TokenReader, about: dict[str, Any]) -> None:
        self.net, self.tokenizer, self.encoder = net, words, reader  # type: ignore[assignment]
        self.detector, self.support, self.names = None, None, []
        self.about = about
        self.grid = reader.tokenizer.grid(reader.size_px)
        self.shows = {"tags": "none", "asked_projected": False}
        self.device = next(net.parameters()).device

    @property
    def control(self) -> str:
        """``controlled`` or ``uncontrolled`` and why, as it was trained; empty where nobody said."""
        told = self.about.get("control", {})
        return f"{told['label']}: {told['reason']}" if {"label", "reason"} <= told.keys() else ""

    def prepare(
        self, features: Tensor, tags: list[list[str]] | None, temperature: float | None = None
    ) -> DecoderInputs:
        """Ids (n, h w) as ``TokenReader`` makes them; there are no tags. Raises InputError for a temperature, as nothing is projected."""
        if temperature is not None:
            raise InputError("this captioner says photos in no support set, so it has no temperature")
        self.encoder.tokenizer.check(features)  # type: ignore[attr-defined]
        return DecoderInputs(
            features, features, torch.empty(len(features), 0, dtype=torch.int64), [[] for _ in features]
        )

    def generate(self, seen: DecoderInputs, beams: int = 1, batch_size: int = 64) -> list[str]:
        """A sentence for each image."""
        found: list[str] = []
        for start in range(0, len(seen.features), batch_size):
            tokens = seen.features[start : start + batch_size].view(-1, *self.grid)
            ids = self.net.generate(tokens.to(self.device), beams)
            found += [" ".join(text.split()) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return found


def open_token_captioner(folder: Path, device: str = "cpu", batch_size: int = 64) -> TokenCaptioner:
    """Open a folder whose captioner.json says that it is one. Raises ModelError for a damaged one."""
    about = read_json(folder / ABOUT, SHAPE, ModelError, "make it again")
    rest = load_tensors(folder / VISUAL)
    decoder = Located("folder", str(folder / "decoder"), None, f"{folder.name}/decoder")
    check_weights(folder / "decoder")
    for file in sorted((folder / "decoder").glob("*config.json")):
        check_sizes(file)
    words = load_tokenizer(decoder)
    tokenizer = open_tokenizer(str(folder / "tokenizer"), device, torch.float32)
    if about["codebook"] != tokenizer.codebook_name:
        raise ModelError(
            f"{folder} was trained on ids of the codebook {about['codebook']}, and its tokenizer has {tokenizer.codebook_name}; copy it again"
        )
    language = load_model(AutoModelForCausalLM, decoder)
    try:
        known = {field.name for field in dataclasses.fields(LookShape)}
        sizes = {name: value for name, value in about["shape"].items() if name in known}
        if any(isinstance(value, int) and value > MAX_PARTS for value in sizes.values()):
            raise ValueError("its sizes are none of a captioner")
        shape = LookShape(**sizes)
        net = TokenCaptionNet(
            language, about["begin"], about["end"], rest["codebook"], tokenizer.grid(about["size_px"]), shape
        )
        missing, unexpected = net.load_state_dict(rest, strict=False)
        if unexpected or any(not name.startswith(LANGUAGE) for name in missing):
            raise ValueError(f"{VISUAL} does not fit {ABOUT}")
    except Exception as error:
        raise ModelError(f"{folder} is a damaged captioner ({first_line(error)}); make it again") from error
    reader = TokenReader(tokenizer, about["size_px"], batch_size)
    return TokenCaptioner(net.requires_grad_(False).eval().to(device), words, reader, about)
