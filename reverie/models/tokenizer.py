"""Pictures -> ids of a codebook and back: any ``VQModel`` of diffusers.

    ids       which code each place of a grid has: 64 numbers for 64 x 64 pixels at a factor of 8
    vectors   the codes themselves, looked up on the device: what a model sees that reads tokens
    pictures  what the decoder makes of them, to look at

A name is a builtin, a folder or a Hub id, of a ``VQModel`` alone or of a pipeline that has one (aMUSEd: ``vqvae``).

Source: VQ-GAN, arXiv:2012.09841; checked against the quantiser of diffusers 0.42, whose ids come flat. What range of numbers
the encoder wants no config says: those whose config looks ids up (``lookup_from_codebook``: aMUSEd's, and ours) have seen
0..1, all others -1..1 as the autoencoders of latent diffusion.

Letters in shapes: B images, H x W pixels, an h x w grid of ids, K codes of width c.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import VQModel
from PIL import Image
from torch import Tensor

from reverie.errors import InputError, ModelError
from reverie.models.kinds import check_network
from reverie.models.names import locate
from reverie.models.pretrained import load_model, load_settings, part_of, usable
from reverie.pairs import TOKEN_COLUMNS

Ids = npt.NDArray[np.int32]
Pixels = npt.NDArray[np.uint8]


def open_tokenizer(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tokenizer:
    """Load a ``VQModel`` by builtin name, folder or Hub id, also out of a pipeline. Raises: ModelError, UnknownName."""
    located = locate(name)
    check_tokenizer(name)
    part = part_of(located, "VQModel")
    vq = load_model(VQModel, located, device, dtype, part=part)
    revision = str(locate(name))  # a Hub model knows its commit only once it is here
    with usable(revision, "turn pictures into ids"):
        tokenizer = Tokenizer(vq, revision)
        if part and (painter := part_of(located, "UVit2DModel")):
            tokenizer.size_px = int(load_settings(located, painter)["sample_size"]) * tokenizer.factor
        return tokenizer


def check_tokenizer(name: str) -> None:
    """That a name is of a ``VQModel``, without its weights. Raises: ModelError, UnknownName."""
    located = locate(name)
    check_network(name)
    if "num_vq_embeddings" not in load_settings(located, part_of(located, "VQModel")):
        raise ModelError(f"{name} is no tokenizer of images, which is a VQModel of diffusers")


class Tokenizer:
    """A ``VQModel`` behind three verbs.

    Attributes:
        revision: name and version of the model.
        codebook: (K, c) float32 on the device.
        codebook_name: 12 hex digits of its content in half precision: ids mean the same where this is the same.
        factor: pixels of a picture for one id, along either side.
        size_px: side of the pictures it was made for.
    """

    def __init__(self, vq: VQModel, revision: str = "") -> None:
        self.vq, self.revision = vq, revision
        config = vq.config
        self.codebook: Tensor = vq.quantize.embedding.weight.detach().float()
        self.codebook_name = hashlib.blake2b(self.codebook.cpu().half().numpy().tobytes(), digest_size=6).hexdigest()
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.size_px = int(config.sample_size)
        self.signed = not config.get("lookup_from_codebook")
        self._spatial = config.norm_type == "spatial"

    @property
    def num_codes(self) -> int:
        """K; ids go from 0 to one less."""
        return len(self.codebook)

    def grid(self, size_px: int) -> tuple[int, int]:
        """Rows and columns of the ids of a square picture. Raises InputError for a side that does not divide."""
        if size_px < self.factor or size_px % self.factor:
            raise InputError(
                f"{size_px} px does not fit {self.revision}: each id is {self.factor} px wide; use a multiple of that"
            )
        return size_px // self.factor, size_px // self.factor

    @torch.no_grad()
    def ids(self, pictures: Pixels) -> Ids:
        """Uint8 (B, H, W, 3), sides divisible by ``factor`` -> int32 (B, h, w)."""
        for side in pictures.shape[1:3]:
            self.grid(side)
        pixels = torch.from_numpy(np.require(pictures, requirements=["C", "W"])).permute(0, 3, 1, 2).float() / 255
        pixels = (2 * pixels - 1 if self.signed else pixels).to(self.vq.device, self.vq.dtype)
        with usable(self.revision, "turn pictures into ids", batched=False):
            vectors = self.vq.encode(pixels).latents
            flat = self.vq.quantize(vectors.float())[2][2]
        found: Ids = flat.view(len(pictures), *vectors.shape[2:]).to(torch.int32).cpu().numpy()
        return found

    def vectors(self, ids: Tensor) -> Tensor:
        """Integer ids (B, h, w) -> their codes (B, c, h, w), looked up on the device of the ids' codebook.

        Raises: InputError for ids that the codebook does not have.
        """
        self.check(ids)
        ids = ids.to(self.codebook.device, torch.long)
        return self.codebook[ids].permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def pictures(self, ids: Ids | Tensor) -> Pixels:
        """Ids (B, h, w) -> what the decoder makes of them, uint8 (B, H, W, 3). Raises InputError as ``vectors``."""
        codes = self.vectors(torch.as_tensor(ids))
        dtype = self.vq.dtype
        exact = dtype == torch.float16 and self.vq.config.get("force_upcast")  # these overflow in fp16
        if exact:
            self.vq.to(torch.float32)
        codes = codes.to(self.vq.dtype)
        with usable(self.revision, "turn ids into pictures", batched=False):
            decoded = self.vq.decoder(self.vq.post_quant_conv(codes), codes if self._spatial else None).float()
        if exact:
            self.vq.to(dtype)
        decoded = decoded / 2 + 0.5 if self.signed else decoded
        levels = (decoded.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
        found: Pixels = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return found

    def check(self, ids: Ids | Tensor | Sequence[int]) -> None:
        """Raise InputError for ids that the codebook does not have."""
        values = torch.as_tensor(ids)
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= self.num_codes):
            wrong = int(values.max()) if int(values.max()) >= self.num_codes else int(values.min())
            raise InputError(
                f"id {wrong} is none of {self.revision}, whose codes are 0 to {self.num_codes - 1}; the ids were made by "
                "another tokenizer, or are damaged"
            )


def check_same_codes(tokenizer: Tokenizer, codebook: str, maker: str) -> None:
    """That ids made with another codebook are not read with this one. Raises InputError.

    Args: codebook: ``codebook_name`` of who made the ids; maker: what to call it.
    """
    if codebook != tokenizer.codebook_name:
        raise InputError(
            f"the codebook of {tokenizer.revision} is not the one of {maker}, so its ids would mean other things; use the "
            "tokenizer that it was trained on, which its folder holds"
        )


def square(picture: Image.Image, size_px: int) -> Pixels:
    """A picture as the tokenizer is given it: shorter side resized (bicubic), centre cropped. Uint8 (side, side, 3)."""
    if picture.size != (size_px, size_px):
        shorter = min(picture.size)
        left, top = (picture.width - shorter) / 2, (picture.height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        picture = picture.resize((size_px, size_px), Image.Resampling.BICUBIC, box)
    return np.asarray(picture.convert("RGB"))


def tokens_row(ids: np.ndarray | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The columns of one grid of ids, (rows, columns); nulls where there is none."""
    if ids is None:
        return dict.fromkeys(TOKEN_COLUMNS)
    return {"tokens": ids.ravel().tolist(), "grid": list(ids.shape), "codebook": tokenizer.codebook_name}
