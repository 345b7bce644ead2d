"""Images -> a small latent space: the first half of training a latent diffusion painter from scratch.

Source: latent diffusion, arXiv:2112.10752, section 3.1, with absolute and squared error in place of the perceptual and
adversarial terms, which need networks of their own. Edges come out softer than with those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from reverie.models.names import locate
from reverie.models.pretrained import load_model, part_of
from reverie.nets.autocast import exact_norms_on_cpu


class _Scaled(nn.Module):
    """An autoencoder and a running mean square of its latents, from which its scaling factor is set."""

    mean_square: Tensor

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        self.register_buffer("mean_square", torch.ones(()))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Any]:
        latents = self.vae.encode(pixels).latent_dist
        if self.training:
            self.mean_square.lerp_(latents.mean.detach().square().mean(), 0.02)
        return self.vae.decode(latents.sample()).sample, latents


@dataclass(frozen=True)
class Autoencoder:
    """Trains an ``AutoencoderKL`` on uint8 images (B, 3, H, W) whose sides divide by 2 ** (len(channels) - 1)."""

    channels: tuple[int, ...] = (16, 32, 64)  # one a resolution, finest first
    latent_channels: int = 4
    layers: int = 1  # residual blocks a resolution
    squared: float = 4.0  # weight of the squared error; a small thing of the wrong colour hardly moves the absolute one
    kl: float = 1e-5  # weight of the KL term, nats a latent value
    image_size: int = 64  # recorded as the sample size

    def build(self) -> nn.Module:
        """The untrained autoencoder."""
        count = len(self.channels)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * count,
            up_block_types=["UpDecoderBlock2D"] * count,
            block_out_channels=self.channels,
            layers_per_block=self.layers,
            latent_channels=self.latent_channels,
            norm_num_groups=8,
            sample_size=self.image_size,
            mid_block_add_attention=False,
        )
        # Start almost without noise on the latents: unit variance, the default, drowns what a small net has to say at first.
        with torch.no_grad():
            vae.quant_conv.weight[self.latent_channels :] *= 0.1
            vae.quant_conv.bias[self.latent_channels :] = -6.0
        return _Scaled(vae.to(memory_format=torch.channels_last))

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Absolute and weighted squared error in units of [-1, 1], and the weighted KL."""
        pixels = to_signed(batch["images"])
        painted, latents = net(pixels)
        absolute, squared = F.l1_loss(painted, pixels), F.mse_loss(painted, pixels)
        kl = latents.kl().mean() / latents.mean[0].numel()
        return {
            "loss": absolute + self.squared * squared + self.kl * kl,
            "psnr_db": 10 * torch.log10(4 / squared.detach()),
            "kl": kl.detach(),
        }

    def save(self, net: nn.Module, folder: Path) -> None:
        """An ``AutoencoderKL`` folder whose scaling factor brings latents to unit variance."""
        assert isinstance(net, _Scaled)
        net.vae.register_to_config(scaling_factor=float(net.mean_square.rsqrt()))
        net.vae.save_pretrained(folder)


class _Decoding(nn.Module):
    """An autoencoder that only its decoder's weights learn in."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)
        self.vae.decoder.requires_grad_(True)
        if self.vae.post_quant_conv is not None:
            self.vae.post_quant_conv.requires_grad_(True)

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            latents = self.vae.encode(pixels).latent_dist.mean
        painted: Tensor = self.vae.decode(latents).sample
        return painted


@dataclass(frozen=True)
class Decoder:
    """Trains the decoder of an ``AutoencoderKL`` on; the latents, and what has learnt to paint them, stay as they are.

    It decodes the mean of the encoder, without the noise that the whole autoencoder was trained with.
    """

    start: str  # an AutoencoderKL, or a pipeline that has one, by name or folder
    squared: float = 4.0  # weight of the squared error, as of ``Autoencoder``
    standing_out: float = (
        0.0  # weight of what stands out, all of it together and however small, beside 1 of the whole picture
    )

    def build(self) -> nn.Module:
        """The autoencoder to go on from."""
        place = locate(self.start)
        vae = load_model(AutoencoderKL, place, part=part_of(place, "AutoencoderKL")).requires_grad_(True)
        exact_norms_on_cpu(vae)
        return _Decoding(vae.to(memory_format=torch.channels_last))

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Absolute and weighted squared error in units of [-1, 1]; ``psnr_db`` is that of all pixels alike."""
        pixels = to_signed(batch["images"])
        missed = (net(pixels).float() - pixels).abs()
        squared = missed.square()
        error = missed + self.squared * squared
        if self.standing_out:
            error = error * (1 + self.standing_out * standing_out(pixels))
        return {"loss": error.mean(), "psnr_db": 10 * torch.log10(4 / squared.detach().mean())}

    def save(self, net: nn.Module, folder: Path) -> None:
        """An ``AutoencoderKL`` folder with the encoder and the scaling factor of the old one."""
        assert isinstance(net, _Decoding)
        net.vae.save_pretrained(folder)


def standing_out(pixels: Tensor) -> Tensor:
    """How far each pixel and its neighbours are from the colour of most of the picture (B, 1, H, W), with a mean of 1.

    A small thing is little of a picture, and an error that is a mean over all pixels hardly asks what shape and hue it has.
    """
    most = pixels.flatten(2).median(dim=2).values[:, :, None, None]
    apart = F.max_pool2d((pixels - most).square().mean(1, keepdim=True), 3, 1, 1)
    found: Tensor = apart / apart.mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return found


def to_signed(images: Tensor) -> Tensor:
    """Uint8 images as floats in [-1, 1], the range of latent diffusion models."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Mean latents of uint8 images (B, 3, H, W), shifted and scaled as the pipelines of this autoencoder have them."""
    latents: Tensor = vae.encode(to_signed(images)).latent_dist.mean
    if shift := vae.config.get("shift_factor"):
        latents = latents - shift
    scaled: Tensor = latents * vae.config.scaling_factor
    return scaled
