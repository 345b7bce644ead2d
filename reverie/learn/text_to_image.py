"""Captions and images -> a latent diffusion painter, trained from scratch on a given autoencoder and vocabulary.

The text encoder learns together with the U-Net, from nothing or from a CLIP model's text tower: small worlds have small
vocabularies, and there is nothing to download. Result: a ``StableDiffusionPipeline`` folder that any diffusers user can open.

Source: latent diffusion, arXiv:2112.10752; classifier-free guidance by caption drop, arXiv:2207.12598; velocity
prediction, arXiv:2202.00512, whose even weights give the noisiest times, where the caption decides, their full share;
times shifted towards noise, arXiv:2403.03206 (section 5.3.2), but by a constant and not by resolution.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from reverie.learn.autoencoder import encode
from reverie.models.names import locate
from reverie.models.pretrained import load_model, load_tokenizer_of
from reverie.nets.autocast import exact_on_cpu
from reverie.nets.widen import TEXT_HEADS, widen

TIMES = 1000
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": TIMES,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",  # the sampler starts where training noise ends
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,  # as pipelines want it; it does not count with trailing spacing
}


class Denoiser(nn.Module):
    """U-Net and text encoder, called once a step."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, times: Tensor, token_ids: Tensor) -> Tensor:
        """Predicted velocity (B, c, h, w) for noisy latents at integer times (B,) under captions (B, tokens)."""
        if noisy.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):  # its attention would be slow in bf16, see nets/autocast.py
                words = self.text_encoder(token_ids).last_hidden_state
        else:
            words = self.text_encoder(token_ids).last_hidden_state
        velocity: Tensor = self.unet(noisy, times, words).sample
        return velocity


@dataclass(frozen=True)
class TextToImage:
    """Batches hold ``text`` or ``token_ids`` (see ``tokens``), and ``images`` (uint8) or ready ``latents`` (scaled), n each."""

    autoencoder: str  # folder of a trained AutoencoderKL
    tokenizer: str  # folder
    latent_size: int = 8  # side of the latent grid, recorded as the default sample size
    channels: tuple[int, ...] = (64, 128)  # U-Net, finest first
    attention: tuple[bool, ...] = (True, True)  # which resolutions look at the caption
    layers: int = 1
    heads: int = 4  # attention heads
    text_width: int = 128
    text_layers: int = 2
    text_encoder: str = ""  # CLIP folder with the same tokenizer, whose text tower to start from
    text_time: bool = False  # whether the caption is added to the time embedding too
    start: str = ""  # pipeline by name or folder, on the same latents, to go on from; the sizes above then do not count
    widened: bool = False  # but for these: a start with other channels is widened to ``channels``, with ``text_time``
    caption_drop: float = 0.1  # share of captions replaced by the empty one, for guidance
    shift: float = 1.0  # above 1 more of the times are noisy ones: the median is at shift / (1 + shift) of all steps

    def build(self) -> nn.Module:
        """U-Net and text encoder, untrained but for what ``start`` and ``text_encoder`` bring."""
        if self.start:
            start = locate(self.start)
            unet = load_model(UNet2DConditionModel, start, part="unet").requires_grad_(True)
            words = load_model(CLIPTextModel, start, part="text_encoder").requires_grad_(True)
            if self.widened and (tuple(unet.config.block_out_channels), _has_text_time(unet)) != (
                self.channels,
                self.text_time,
            ):
                unet = widen(unet, self.channels, self.text_time)
            return _denoiser(unet, words)
        channels = self._vae().config.latent_channels
        unet = UNet2DConditionModel(
            sample_size=self.latent_size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=self.channels,
            down_block_types=[f"{'CrossAttn' if a else ''}DownBlock2D" for a in self.attention],
            up_block_types=[f"{'CrossAttn' if a else ''}UpBlock2D" for a in reversed(self.attention)],
            layers_per_block=self.layers,
            cross_attention_dim=self.text_width,
            attention_head_dim=self.heads,  # diffusers reads this as the number of heads
            norm_num_groups=8,
            **({"addition_embed_type": "text", "addition_embed_type_num_heads": TEXT_HEADS} if self.text_time else {}),
        )
        return _denoiser(unet, self._text_encoder())

    def _text_encoder(self) -> CLIPTextModel:
        if self.text_encoder:
            return load_model(CLIPTextModel, locate(self.text_encoder), "cpu").requires_grad_(True)
        tokenizer = self._tokenizer()
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.text_width,
            intermediate_size=4 * self.text_width,
            num_hidden_layers=self.text_layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return CLIPTextModel(text)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Squared error of the velocity, at one random time an image."""
        latents = (
            batch["latents"] if "latents" in batch else encode(self._vae().to(batch["images"].device), batch["images"])
        )
        noise, count = torch.randn_like(latents), len(latents)
        even = torch.rand(count, device=latents.device)
        times = (TIMES * self.shift * even / (1 + (self.shift - 1) * even)).long().clamp(max=TIMES - 1)
        noisy, velocity = self._noised(latents, noise, times)
        dropped = torch.rand(count) < self.caption_drop
        if "token_ids" in batch:
            ids = batch["token_ids"].long()
            ids = torch.where(dropped.to(ids.device)[:, None], self.tokens([""]).to(ids), ids)
        else:
            ids = self.tokens(
                ["" if drop else text for text, drop in zip(batch["text"], dropped.tolist(), strict=True)]
            )
        predicted = net(noisy, times, ids.to(latents.device))
        return {"loss": F.mse_loss(predicted, velocity)}

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids (n, longest) of captions, for batches that visit them often."""
        ids: Tensor = self._tokenizer()(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return ids

    def save(self, net: nn.Module, folder: Path) -> None:
        """A ``StableDiffusionPipeline`` folder with everything in it."""
        assert isinstance(net, Denoiser)
        StableDiffusionPipeline(
            vae=self._vae().cpu(),
            text_encoder=net.text_encoder.cpu(),
            tokenizer=self._tokenizer(),
            unet=net.unet.cpu(),
            scheduler=_schedule(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)

    def _noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents at these times, and the velocity to predict."""
        schedule = _schedule()
        return schedule.add_noise(latents, noise, times), schedule.get_velocity(latents, noise, times)

    def _vae(self) -> AutoencoderKL:
        return _opened_vae(self.autoencoder)

    def _tokenizer(self) -> Any:
        return _opened_tokenizer(self.tokenizer)


def _denoiser(unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> Denoiser:
    exact_on_cpu(unet)
    return Denoiser(unet.to(memory_format=torch.channels_last), text_encoder)


def _has_text_time(unet: UNet2DConditionModel) -> bool:
    return bool(unet.config.addition_embed_type == "text")


@functools.cache
def _schedule() -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULER)


@functools.cache
def _opened_vae(folder: str) -> AutoencoderKL:
    vae: AutoencoderKL = load_model(AutoencoderKL, locate(folder))
    return vae.to(memory_format=torch.channels_last)


@functools.cache
def _opened_tokenizer(folder: str) -> Any:
    return load_tokenizer_of(folder)
