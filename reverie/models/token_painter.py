"""aMUSEd pipelines as painters of image tokens: a text becomes a grid of codebook ids, and no pixel is made.

Source of the sampler: MaskGIT, arXiv:2202.04200, section 3.2, as Muse (arXiv:2301.00704) and aMUSEd (arXiv:2401.01808) use it.
All places begin masked; every step draws an id for each masked place, and masks the least sure ones again, fewer each time:

    l       = l_u + s (l_c - l_u)                     guidance; Muse writes (1 + g) l_c - g l_u, which is s = 1 + g
    z_i     ~ softmax(l_i) where i is masked           what is fixed stays
    sure_i  = log p_i(z_i) + tau_t Gumbel              tau from 2 to 0 over the steps; fixed places are always sure
    masked  = the m least sure, m = floor(N cos(pi/2 (t + 1) / T)), at least 1, fewer than before

Differs from the library's: every image draws from its own generator, so its ids do not depend on the batch; exactly m are
masked, also where two places are equally sure; guidance can grow over the steps, as Muse's does.

Letters in shapes: n texts, B images, N = h w places of a grid, K codes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AmusedPipeline
from torch import Tensor

from reverie.errors import InputError, ModelError
from reverie.models.painter import check_grid, count_cut, load_painting, words_without_token
from reverie.models.pretrained import usable
from reverie.models.tokenizer import Ids, Tokenizer

Embeddings = dict[str, Any]
"""Of n texts, first dimension n: ``states`` (n, L, d) of every text token, ``pooled`` (n, e). See models/painter.py's pick and join."""

SCHEDULER = "masked, cosine"  # as rows record it
TEMPERATURES = (2.0, 0.0)  # first and last
SCORE = 6  # aesthetic score that aMUSEd is told: its training's median of good ones; constant in ours
TEXTS_AT_ONCE = 32


def open_token_painter(name: str, device: str = "cpu", dtype: str = "fp32") -> TokenPainter:
    """Load an aMUSEd pipeline by builtin name, folder or Hub id. Raises: ModelError, UnknownName, InputError.

    Args: dtype: fp32, bf16 or fp16; fp16 needs a GPU.
    """
    pipe, revision = load_painting(name, device, dtype)
    if not isinstance(pipe, AmusedPipeline):
        raise ModelError(f"{name} is a {type(pipe).__name__} and paints no tokens; use an AmusedPipeline")
    with usable(revision, "paint"):
        return TokenPainter(pipe.to(device), revision)


class TokenPainter:
    """An aMUSEd pipeline, its tokenizer, and the count of texts it had to cut.

    It answers to what ``models/painter.py`` asks of a painter of pixels as well: those are its decoded ids.

    Attributes:
        revision: name and version of the model, as rows record it.
        tokenizer: whose codes the ids are of.
        num_cut: texts encoded so far that were longer than the text encoder takes.
        text_limit: tokens that it takes.
    """

    scheduler = SCHEDULER
    family = "AmusedPipeline"

    def __init__(self, pipe: AmusedPipeline, revision: str = "") -> None:
        pipe.set_progress_bar_config(disable=True)
        self.pipe, self.revision = pipe, revision
        self.tokenizer = Tokenizer(pipe.vqvae, revision)
        self.net = pipe.transformer
        self.side = int(self.net.config.sample_size)  # of the grid
        self.size_px = self.tokenizer.size_px = self.side * self.tokenizer.factor
        self.mask_id = int(pipe.scheduler.config.mask_token_id)
        self.num_cut = 0
        self.text_limit = int(pipe.tokenizer.model_max_length)
        self.ramp = False  # whether guidance grows over the steps
        self.muse = False  # whether guidance is told in Muse's writing
        codes, inputs = int(self.net.config.codebook_size), int(self.net.config.vocab_size)
        if codes != self.tokenizer.num_codes:
            raise ModelError(
                f"{revision} paints ids of {codes} codes, and its tokenizer has {self.tokenizer.num_codes}; its parts are not "
                "of one model"
            )
        if not codes <= self.mask_id < inputs:
            raise ModelError(
                f"{revision} has the mask {self.mask_id} among its {codes} codes, or beyond its {inputs} inputs"
            )

    def check(self, guidance: float, steps: int, size_px: int) -> None:
        """Raise InputError for settings that this pipeline would refuse, or quietly take for others."""
        min_guidance = 0 if self.muse else 1
        if guidance < min_guidance:
            raise InputError(
                f"guidance {guidance} is below {min_guidance}, which means no guidance; more follows the text closer"
            )
        if steps < 1:
            raise InputError(f"steps must be 1 or more, not {steps}")
        check_grid(self.revision, size_px, self.side, self.tokenizer.factor)

    def words_unknown(self, texts: Sequence[str]) -> list[str]:
        """Words that the tokenizer of texts has no token for, in order of appearance."""
        with usable(self.revision, "read texts"):
            return words_without_token([self.pipe.tokenizer], texts)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Run the text encoder once a text; longer texts are cut with the end token kept, and counted."""
        with usable(self.revision, "encode texts", batched=False):
            self.num_cut += count_cut(self.pipe.tokenizer, self.text_limit, texts)
            return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Embeddings:
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            ids = self.pipe.tokenizer(
                list(texts[start : start + TEXTS_AT_ONCE]),
                return_tensors="pt",
                padding="max_length",
                truncation=True,
                max_length=self.text_limit,
            ).input_ids
            parts.append(self.embed(ids))
        return {key: torch.cat([part[key] for part in parts]) for key in ("states", "pooled")}

    @torch.no_grad()
    def embed(self, token_ids: Tensor) -> Embeddings:
        """What the text encoder makes of token ids (n, tokens)."""
        out = self.pipe.text_encoder(token_ids.to(self.net.device), return_dict=True, output_hidden_states=True)
        return {"states": out.hidden_states[-2], "pooled": out.text_embeds}

    @functools.cached_property
    def _empty(self) -> Embeddings:
        return self._encode([""])

    def sample_ids(self, embeddings: Embeddings, seeds: Sequence[int], guidance: float, steps: int) -> Tensor:
        """Ids of one image for every row of the embeddings, (B, h, w) on the device; all -1 where the network overflowed.

        Args:
            seeds: one an image.
            guidance: s, or g in the writing of Muse (``muse``).
        """
        self.check(guidance, steps, self.size_px)
        scales = guidance_scales(guidance, steps, muse=self.muse, ramp=self.ramp)
        with usable(self.revision, "paint", batched=False):
            return self._sample(embeddings, seeds, scales)

    def sample(
        self, embeddings: Embeddings, seeds: Sequence[int], guidance: float, steps: int, size_px: int, **_: Any
    ) -> Tensor:
        """The same as pictures: (B, 3, H, W) in 0..1."""
        self.check(guidance, steps, size_px)
        ids = self.sample_ids(embeddings, seeds, guidance, steps)
        pixels = self.tokenizer.pictures(ids.clamp(min=0))
        floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return torch.where((ids < 0).flatten(1).any(1).cpu()[:, None, None, None], torch.nan, floats)

    def paint(
        self,
        embeddings: Embeddings,
        seeds: Sequence[int],
        guidance: float = 3.0,
        steps: int = 8,
        size_px: int | None = None,
    ) -> np.ndarray:
        """Like ``sample``, as uint8 (B, H, W, 3)."""
        self.check(guidance, steps, size_px or self.size_px)
        return self.tokenizer.pictures(self.sample_ids(embeddings, seeds, guidance, steps))

    def start_at(self, level: float, steps: int) -> Any:
        """Raises ModelError: there is no noise that a photo could be brought to."""
        raise ModelError(f"{self.revision} paints ids, not from noise, so it cannot begin at a photo")

    @torch.no_grad()
    def _sample(self, embeddings: Embeddings, seeds: Sequence[int], scales: Sequence[float]) -> Tensor:
        count, places, device = len(seeds), self.side**2, self.net.device
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        ids = torch.full((count, places), self.mask_id, dtype=torch.long, device=device)
        whole = torch.ones(count, dtype=torch.bool, device=device)
        for step, scale in enumerate(scales):
            logits = self._logits(ids.view(count, self.side, self.side), embeddings, scale)
            log_p = logits.float().flatten(2).transpose(1, 2).log_softmax(-1)  # (B, N, K)
            # Two rows for each image: one draws its ids, the other shakes how sure it is of them.
            draws = torch.stack([torch.rand(2, places, generator=each) for each in generators]).to(device)
            whole &= torch.isfinite(log_p).flatten(1).all(1)
            masked = ids == self.mask_id
            ids = torch.where(masked, drawn(log_p, draws[:, 0]), ids)
            if step + 1 < len(scales):
                left = num_masked(places, step, len(scales), int(masked[0].sum()))
                sure = log_p.gather(-1, ids[..., None])[..., 0]
                sure = sure + temperature(step, len(scales)) * gumbel(draws[:, 1])
                sure = torch.where(masked, sure, torch.inf)
                again = sure.argsort(dim=1, stable=True)[:, :left]
                ids.scatter_(1, again, self.mask_id)
        return torch.where(whole[:, None], ids, -1).view(count, self.side, self.side)

    def _logits(self, ids: Tensor, embeddings: Embeddings, scale: float) -> Tensor:
        """Under guidance, (B, K, h, w)."""
        if scale == 1:
            return self._predict(ids, embeddings["states"], embeddings["pooled"])
        empty = {key: value.expand(len(ids), *value.shape[1:]) for key, value in self._empty.items()}
        both = {key: torch.cat([empty[key], embeddings[key]]) for key in ("states", "pooled")}
        without, conditional = self._predict(torch.cat([ids, ids]), both["states"], both["pooled"]).float().chunk(2)
        return without + scale * (conditional - without)

    def _predict(self, ids: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        told = micro_conditions(len(ids), self.size_px, states)
        logits: Tensor = self.net(ids, encoder_hidden_states=states, pooled_text_emb=pooled, micro_conds=told)
        return logits


def micro_conditions(count: int, size_px: int, like: Tensor) -> Tensor:
    """What aMUSEd's network is told of a picture besides the text: size, crop and score; the same in training and sampling."""
    told = torch.tensor([[size_px, size_px, 0, 0, SCORE]], dtype=like.dtype, device=like.device)
    return told.expand(count, -1)


def guidance_scales(guidance: float, steps: int, *, muse: bool = False, ramp: bool = False) -> list[float]:
    """The scale s of every step.

    Args:
        guidance: s, or with ``muse`` g = s - 1, in whose writing the logits are (1 + g) l_c - g l_u.
        ramp: from no guidance at the first step evenly up to all of it at the last; early ids then vary more.
    """
    whole = 1 + guidance if muse else guidance
    if not ramp or steps == 1:
        return [whole] * steps
    return [1 + (whole - 1) * step / (steps - 1) for step in range(steps)]


def num_masked(places: int, step: int, steps: int, before: int) -> int:
    """Places that are masked after a step (from 0) that is not the last, of ``before`` that were."""
    planned = math.floor(places * math.cos(math.pi / 2 * (step + 1) / steps))
    return max(1, min(planned, before - 1))


def temperature(step: int, steps: int) -> float:
    """Tau of a step, from 0."""
    first, last = TEMPERATURES
    return first if steps == 1 else first + (last - first) * step / (steps - 1)


def drawn(log_p: Tensor, uniform: Tensor) -> Tensor:
    """One id a place, (B, N), from log probabilities (B, N, K) and numbers in [0, 1): where the sum passes the number."""
    sums = log_p.exp().cumsum(-1)
    passed = sums <= (uniform * sums[..., -1])[..., None]
    return passed.sum(-1).clamp(max=log_p.shape[-1] - 1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from numbers in [0, 1)."""
    return -torch.log((-torch.log(uniform.clamp(min=1e-20))).clamp(min=1e-20))


def painted_ids(painter: TokenPainter, texts: Sequence[str], seeds: Sequence[int], guidance: float, steps: int) -> Ids:
    """Ids of one image a text, int32 (B, h, w): the whole way in one call."""
    found: Ids = painter.sample_ids(painter.encode(texts), seeds, guidance, steps).to(torch.int32).cpu().numpy()
    return found
