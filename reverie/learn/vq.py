"""Images -> a codebook and the ids of its codes: the first half of training a painter of image tokens.

Source: VQ-VAE, arXiv:1711.00937, section 3.2 (straight-through gradient, commitment loss, codebook loss) and appendix A.1
(codes as moving averages of the vectors that chose them, the default here). As in learn/autoencoder.py, absolute and squared
error stand in the place of VQ-GAN's perceptual and adversarial terms (arXiv:2012.09841). Codes begin at vectors of the
first batch, and one that hardly any vector chooses any more moves to a vector of the batch at hand.

Where there is an autoencoder of the same pictures, all but the innermost blocks can be its own (``start``): these know edges and colours,
and what is left to learn is which code stands for what.

The quantiser of diffusers has the commitment weight on the other term by default (its ``legacy``), and no moving averages;
so the loss is counted here, and its class only holds the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, VQModel
from torch import Tensor, nn

from reverie.errors import InputError
from reverie.models.names import locate
from reverie.models.pretrained import load_model, part_of
from reverie.nets.autocast import exact_norms_on_cpu

SMALLEST = 1e-5  # of a count, where one is divided by it


class Quantised(NamedTuple):
    """What a batch became on its way: B images, an h x w grid of vectors of width c, K codes."""

    painted: Tensor  # (B, 3, H, W), about 0..1
    vectors: Tensor  # (B, c, h, w) before they are replaced by codes
    codes: Tensor  # (B, c, h, w) that replaced them; carries a gradient to the codebook where that learns by its loss
    ids: Tensor  # (B, h, w)


class Quantising(nn.Module):
    """A ``VQModel``, and how often each of its codes is chosen."""

    counts: Tensor  # (K,) vectors of a batch that choose each code, averaged over batches
    sums: Tensor  # (K, c) of those vectors
    steps: Tensor  # batches seen in training

    def __init__(self, vq: VQModel, decay: float, restart_below: float, restart_steps: int, moving: bool) -> None:
        super().__init__()
        self.vq, self.decay, self.moving = vq, decay, moving
        self.restart_below, self.restart_steps = restart_below, restart_steps
        book = vq.quantize.embedding.weight
        book.requires_grad_(not moving)
        self.register_buffer("counts", torch.zeros(len(book)))
        self.register_buffer("sums", torch.zeros_like(book, requires_grad=False))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor) -> Quantised:
        """Encode images in 0..1, quantise, decode. In training the counts are kept, and the codes moved."""
        vectors = self.vq.encode(images).latents
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            flat = vectors.permute(0, 2, 3, 1).flatten(0, 2)
            if self.training and not self.steps:
                self._begin(flat.detach())
            book = self.vq.quantize.embedding.weight
            ids = nearest(flat.detach(), book.detach())
            codes = F.embedding(ids, book).view(*vectors.shape[:1], *vectors.shape[2:], -1).permute(0, 3, 1, 2)
            if self.training:
                self._count(flat.detach(), ids)
            passed = vectors + (codes - vectors).detach()
        painted = self.vq.decoder(self.vq.post_quant_conv(passed))  # its ``decode`` would take them for ids
        return Quantised(painted, vectors, codes, ids.view(len(images), *vectors.shape[2:]))

    @torch.no_grad()
    def _begin(self, flat: Tensor) -> None:
        """Codes at vectors of the first batch, spread a little where the batch has fewer."""
        book = self.vq.quantize.embedding.weight
        chosen = flat[torch.randint(len(flat), (len(book),), device=flat.device)]
        chosen += 0.01 * flat.std(0) * torch.randn_like(chosen)
        self._put(torch.ones(len(book), dtype=torch.bool, device=flat.device), chosen, len(flat) / len(book))

    @torch.no_grad()
    def _count(self, flat: Tensor, ids: Tensor) -> None:
        """One batch into the averages; codes follow them, and those that nobody chooses begin anew."""
        self.steps += 1
        book = self.vq.quantize.embedding.weight
        self.counts.lerp_(torch.bincount(ids, minlength=len(book)).to(self.counts), 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, ids, flat), 1 - self.decay)
        if self.moving:
            book.copy_(self.sums / self.counts.clamp(min=SMALLEST)[:, None])
        even = len(flat) / len(book)
        dead = self.counts < self.restart_below * even
        if self.restart_below and self.steps <= self.restart_steps and dead.any():
            self._put(dead, flat[torch.randint(len(flat), (int(dead.sum()),), device=flat.device)], even)

    def _put(self, which: Tensor, vectors: Tensor, count: float) -> None:
        self.vq.quantize.embedding.weight.data[which] = vectors
        self.counts[which] = count
        self.sums[which] = count * vectors


@dataclass(frozen=True)
class Quantiser:
    """Trains a ``VQModel`` on uint8 images (B, 3, H, W) whose sides divide by 2 ** (len(channels) - 1)."""

    # one a resolution, finest first; four make 8 x 8 ids of 64 x 64 pixels
    channels: tuple[int, ...] = (16, 24, 48, 96)
    codes: int = 512
    width: int = 32  # of a code
    layers: int = 1  # residual blocks a resolution
    squared: float = 4.0  # weight of the squared error; a small thing of the wrong colour hardly moves the absolute one
    commitment: float = 0.25  # weight of how far the encoder is from the codes it chose
    codebook: Literal["ema", "loss"] = "ema"  # how codes learn: as moving averages, or by the codebook loss
    decay: float = 0.99  # of the averages
    restart_below: float = 0.01  # share of an even use below which a code begins anew; 0 = never
    restart_steps: int = 4000  # after which no code does: weights are averaged over the last steps, and so are codes
    image_size: int = 64  # recorded as the sample size
    # an AutoencoderKL, or a pipeline that has one, by name or folder, with the same blocks but the innermost, which these begin from
    start: str = ""
    outer: bool = True  # those blocks learn too

    def __post_init__(self) -> None:
        if not self.outer and not self.start:
            raise InputError("outer blocks that do not learn must begin from an autoencoder; give start")
        if self.codes < 2 or self.width < 1:
            raise InputError(f"a codebook of {self.codes} codes of width {self.width} cannot be; give 2 codes or more")
        if not 0 <= self.decay < 1 or not 0 <= self.restart_below < 1:
            raise InputError(f"decay {self.decay} and restart_below {self.restart_below} are at least 0, below 1")

    def build(self) -> nn.Module:
        """The untrained tokenizer."""
        count = len(self.channels)
        vq = VQModel(
            down_block_types=["DownEncoderBlock2D"] * count,
            up_block_types=["UpDecoderBlock2D"] * count,
            block_out_channels=self.channels,
            layers_per_block=self.layers,
            latent_channels=self.width,  # of the codes too, as aMUSEd's pipeline takes them for equal
            vq_embed_dim=self.width,
            num_vq_embeddings=self.codes,
            norm_num_groups=8,
            sample_size=self.image_size,
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        )
        if self.start:
            _begin_from(vq, self.start, self.layers, self.outer)
        exact_norms_on_cpu(vq)
        moving = self.codebook == "ema"
        return Quantising(
            vq.to(memory_format=torch.channels_last), self.decay, self.restart_below, self.restart_steps, moving
        )

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Absolute and weighted squared error in units of [-1, 1], commitment and codebook loss; codes in use."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise InputError("a tokenizer is trained by one process: its codes are averages over the whole batch")
        images = (batch["images"].float() / 255).contiguous(memory_format=torch.channels_last)
        out: Quantised = net(images)
        error = 2 * (out.painted.float() - images)
        absolute, squared = error.abs().mean(), error.square().mean()
        commitment = F.mse_loss(out.vectors, out.codes.detach())
        loss = absolute + self.squared * squared + self.commitment * commitment
        if self.codebook == "loss":
            loss = loss + F.mse_loss(out.codes, out.vectors.detach())
        whole: Any = getattr(net, "module", net)
        share = whole.counts / whole.counts.sum()
        return {
            "loss": loss,
            "psnr_db": 10 * torch.log10(4 / squared.detach()),
            "commitment": commitment.detach(),
            # e to the entropy of the choice, as a share of the codes: 1 when all are chosen equally often
            "codebook_use": torch.special.entr(share).sum().exp() / self.codes,
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """A ``VQModel`` folder."""
        assert isinstance(net, Quantising)
        net.vq.save_pretrained(folder)


def _begin_from(vq: VQModel, start: str, layers: int, learn: bool) -> None:
    """Give a tokenizer all blocks but the innermost of an autoencoder for [-1, 1], where the tokenizer has 0..1."""
    place = locate(start)
    vae = load_model(AutoencoderKL, place, part=part_of(place, "AutoencoderKL"))
    channels, known = tuple(vq.config.block_out_channels), tuple(vae.config.block_out_channels)
    if channels != (*known, known[-1]) or vae.config.layers_per_block != layers:
        raise InputError(
            f"{start} has blocks of {known} channels, {vae.config.layers_per_block} layers each; a tokenizer that begins from it has "
            f"{(*known, known[-1])}, and not {channels} with {layers}"
        )
    # Its last block on the way down, without the halving; on the way up, its blocks come after the new one.
    pairs = [
        (vae.encoder.conv_in, vq.encoder.conv_in),
        *zip(vae.encoder.down_blocks, vq.encoder.down_blocks, strict=False),
        *zip(vae.decoder.up_blocks, vq.decoder.up_blocks[1:], strict=True),
        (vae.decoder.conv_norm_out, vq.decoder.conv_norm_out),
        (vae.decoder.conv_out, vq.decoder.conv_out),
    ]
    for known_block, block in pairs:
        block.load_state_dict(known_block.state_dict(), strict=False)
        for name, value in block.named_parameters():
            if name in known_block.state_dict():
                value.requires_grad_(learn)
    with torch.no_grad():
        first, last = vq.encoder.conv_in, vq.decoder.conv_out
        first.bias.sub_(first.weight.sum((1, 2, 3)))
        first.weight.mul_(2)
        last.weight.div_(2)
        last.bias.div_(2).add_(0.5)


def nearest(vectors: Tensor, book: Tensor) -> Tensor:
    """The id of the code nearest to each of (n, c) vectors, as the quantiser of diffusers chooses it."""
    return torch.cdist(vectors, book).argmin(1)
