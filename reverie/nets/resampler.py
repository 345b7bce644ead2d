"""From codes on a grid to a few vectors that a language model can look at.

Source: Synth², arXiv:2403.07750, which takes the resampler from Flamingo (arXiv:2204.14198): learned latents attend to the
image and to themselves, layer by layer. A real image and a painted one come in as the same thing, codes of one tokenizer.

Letters in shapes: B images, an h x w grid of codes of width c, R latents of width d.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.errors import InputError


class CodeReader(nn.Module):
    """Codes (B, c, h, w) -> vectors (B, h w, d): a linear map, and where each place is as the sum of its row's and its column's vector."""

    def __init__(self, code_width: int, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        self.value = nn.Linear(code_width, width)
        # About as large as the codes, which come in with unit variance.
        self.rows = nn.Parameter(0.4 * torch.randn(grid[0], 1, width))
        self.columns = nn.Parameter(0.4 * torch.randn(1, grid[1], width))

    def forward(self, codes: Tensor) -> Tensor:
        """Raises InputError for a grid of another size."""
        if tuple(codes.shape[2:]) != self.grid:
            asked, known = (" x ".join(map(str, grid)) for grid in (codes.shape[2:], self.grid))
            raise InputError(f"a grid of {asked} codes cannot be read by a model of {known}; make tokens of that size")
        seen = self.value(codes.permute(0, 2, 3, 1)) + self.rows + self.columns
        return seen.flatten(1, 2)  # type: ignore[no-any-return]


class FeedForward(nn.Sequential):
    """Norm, four times the width, GELU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class CrossAttention(nn.Module):
    """Queries (B, q, d) read keys (B, k, e) -> (B, q, d). Written out, so that a half-precision model may hold it."""

    def __init__(self, width: int, seen_width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"an attention of width {width} cannot have {heads} heads; use a divisor")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(seen_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, asks: Tensor, seen: Tensor) -> Tensor:
        """What each query reads; ``seen`` has a norm of its own before."""
        q = self._split(self.query(self.norm(asks)))
        k, v = map(self._split, self.key_value(seen).chunk(2, dim=-1))
        read = F.scaled_dot_product_attention(q, k, v)
        return self.out(read.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:-1], self.heads, -1).transpose(1, 2)


class ResamplerLayer(nn.Module):
    """X <- X + Attn(q = X, kv = [V; X]); X <- X + FFN(X)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = CrossAttention(width, width, heads)
        self.forwards = FeedForward(width)

    def forward(self, rows: Tensor, seen: Tensor) -> Tensor:
        """The latents (B, R, d) after they read the image (B, n, d) and each other."""
        rows = rows + self.attention(rows, torch.cat([self.norm(seen), self.attention.norm(rows)], 1))
        return rows + self.forwards(rows)  # type: ignore[no-any-return]


class Resampler(nn.Module):
    """Vectors (B, n, d) of any number -> latents (B, R, d)."""

    def __init__(self, width: int, latents: int, layers: int, heads: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(0.02 * torch.randn(latents, width))
        self.layers = nn.ModuleList(ResamplerLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, seen: Tensor) -> Tensor:
        """The latents of each image."""
        rows = self.latents.expand(len(seen), -1, -1)
        for layer in self.layers:
            rows = layer(rows, seen)
        return self.norm(rows)  # type: ignore[no-any-return]
