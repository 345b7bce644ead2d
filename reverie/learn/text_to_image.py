"""Captions and images -> a latent diffusion painter: from scratch on a given autoencoder and vocabulary, or a pipeline that
is trained on.

From scratch the text encoder learns together with the U-Net, from nothing or from a CLIP model's text tower: small worlds
have small vocabularies, and there is nothing to download. Result: a ``StableDiffusionPipeline`` folder that any diffusers user
can open. A pipeline that is trained on predicts what it predicted, with its own scheduler, and is saved with it; which
pipelines that can be, learn/pipelines.py says.

Source: latent diffusion, arXiv:2112.10752; classifier-free guidance by caption drop, arXiv:2207.12598. From scratch: velocity
prediction, arXiv:2202.00512, whose even weights give the noisiest times, where the caption decides, their full share;
times shifted towards noise, arXiv:2403.03206 (section 5.3.2), but by a constant and not by resolution.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from reverie.errors import InputError, ModelError
from reverie.learn.autoencoder import encode
from reverie.learn.lora import add_lora, check_lora, merge_lora
from reverie.learn.noising import Noising
from reverie.learn.pipelines import Parts, PipelineDenoiser, choose, start_of, train_chosen
from reverie.models.names import locate
from reverie.models.pretrained import load_model, load_part_config, load_tokenizer_of, part_of
from reverie.nets.autocast import exact_on_cpu
from reverie.nets.text import text_config
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

    def train(self, mode: bool = True) -> Denoiser:
        """As of any module, but a part that does not learn stays as it is in painting."""
        denoiser: Denoiser = train_chosen(self, super().train, mode)
        return denoiser

    def forward(self, noisy: Tensor, times: Tensor, token_ids: Tensor) -> Tensor:
        """What is predicted (B, c, h, w) for noisy latents at integer times (B,) under captions (B, tokens)."""
        return self.told(noisy, times, self.words(token_ids))

    def words(self, token_ids: Tensor) -> Tensor:
        """What the U-Net is told (B, tokens, width) of captions."""
        words: Tensor
        if token_ids.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):  # its attention would be slow in bf16, see nets/autocast.py
                words = self.text_encoder(token_ids).last_hidden_state
        else:
            words = self.text_encoder(token_ids).last_hidden_state
        return words

    def told(self, noisy: Tensor, times: Tensor, words: Tensor) -> Tensor:
        """The same as a call, for captions whose ``words`` are known."""
        predicted: Tensor = self.unet(noisy, times, words).sample
        return predicted


class Shown(NamedTuple):
    """What a denoiser is called with, and what it should predict."""

    noisy: Tensor  # (n, c, h, w)
    times: Tensor  # (n,)
    told: Any  # token ids (n, tokens), or texts for pipelines that tokenize themselves; some of them empty
    target: Tensor  # (n, c, h, w)


@dataclass(frozen=True)
class TextToImage:
    """Batches hold ``text`` or ``token_ids`` (see ``tokens``), and ``images`` (uint8) or ready ``latents`` (scaled), n each.

    With ``seeds``, n more numbers, the noise, time and caption drop of each image are drawn from its own, so that they are the
    same however the images are dealt to processes; without them, from torch's generator.
    """

    # a trained AutoencoderKL, or a pipeline that has one, by name or folder; that of ``start`` when left out
    autoencoder: str = ""
    tokenizer: str = ""  # folder; that of ``start`` when left out
    latent_size: int = 8  # side of the latent grid, recorded as the default sample size
    channels: tuple[int, ...] = (64, 128)  # U-Net, finest first
    attention: tuple[bool, ...] = (True, True)  # which resolutions look at the caption
    layers: int = 1
    heads: int = 4  # attention heads
    text_width: int = 128
    text_layers: int = 2
    text_encoder: str = ""  # CLIP folder with the same tokenizer, whose text tower to start from
    text_time: bool = False  # whether the caption is added to the time embedding too
    start: str = ""  # pipeline by name or folder, on the same latents, to train on; the sizes above then do not count
    widened: bool = False  # but for these: a start with other channels is widened to ``channels``, with ``text_time``
    caption_drop: float = 0.1  # share of captions replaced by the empty one, for guidance
    shift: float = 1.0  # above 1 more of the times are noisy ones: the median is at shift / (1 + shift) of all steps
    parts: Parts = "both"  # what learns: the U-Net (or transformer), all text encoders, or both
    text_rate: float = 1.0  # learning rate of the text encoders, as a multiple of the network's
    lora: int = 0  # rank of adapters that learn in place of the weights of ``start``; 0 = the weights learn

    def __post_init__(self) -> None:
        if self.lora and not self.start:
            raise InputError("LoRA learns beside weights that have learned; give a start, or leave it out")
        if not self.start and not (self.autoencoder and self.tokenizer):
            raise InputError("a painter from scratch needs an autoencoder and a tokenizer; give both, or a start")
        if self.text_rate <= 0:
            raise InputError(f"text_rate {self.text_rate} must be above 0; parts says what does not learn at all")

    def check(self) -> None:
        """Raises ModelError, UnknownName, InputError for a start that cannot be trained, by a look at its small files."""
        if not self.start:
            return
        check_lora(self.lora)
        start = start_of(self.start)
        if start.driver.predict and (self.autoencoder or self.tokenizer or self.widened):
            raise InputError(
                f"{self.start} is a {start.family}: it is trained as a whole, with nothing put in its place"
            )
        if self.parts == "text" and not start.texts:
            raise InputError(f"{self.start} has no text encoder, so with --train-parts text nothing of it learns")
        self._longest()  # opens the tokenizers

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates of their own, by the beginning of the weights' names."""
        return {} if self.text_rate == 1 else {"text_encoder": self.text_rate}

    def build(self) -> nn.Module:
        """U-Net and text encoder, untrained but for what ``start`` and ``text_encoder`` bring."""
        if self.start and start_of(self.start).driver.predict:
            net: nn.Module = PipelineDenoiser(start_of(self.start), self.parts)
        else:
            net = self._build()
            choose(net, self.parts)
        if self.lora:
            for name, part in net.named_children():
                if any(weight.requires_grad for weight in part.parameters()):
                    add_lora(part, self.lora, f"the {name} of {self.start}")
        if not any(weight.requires_grad for weight in net.parameters()):
            raise InputError(
                f"nothing of {self.start or 'the painter'} learns with --train-parts {self.parts}; name other parts"
            )
        return net

    def _build(self) -> Denoiser:
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
        text = text_config(
            tokenizer, width=self.text_width, layers=self.text_layers, heads=4, context=tokenizer.model_max_length,
            out=self.text_width, read_at_end=False,
        )  # fmt: skip
        return CLIPTextModel(text)

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Squared error of what the network predicts (see learn/noising.py), at one random time an image."""
        noisy, times, told, target = self.shown(batch)
        return {"loss": F.mse_loss(net(noisy, times, told), target)}

    def shown(self, batch: dict[str, Any]) -> Shown:
        """A batch as the network is shown it, at one random time an image, and what it should predict."""
        latents = (
            batch["latents"] if "latents" in batch else encode(self._vae().to(batch["images"].device), batch["images"])
        )
        noising = self._noising()
        noise, even, dropped = self._draws(batch, latents)
        noisy, times, target = noising(latents, noise, noising.levels(even, self.shift))
        if "token_ids" in batch:
            ids = batch["token_ids"].long()
            told: Any = torch.where(dropped.to(ids.device)[:, None], self.tokens([""]).to(ids), ids).to(latents.device)
        else:
            told = ["" if drop else text for text, drop in zip(batch["text"], dropped.tolist(), strict=True)]
            if not (self.start and start_of(self.start).driver.predict):
                told = self.tokens(told).to(latents.device)
        return Shown(noisy, times, told, target)

    def _draws(self, batch: dict[str, Any], latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise like the latents, n even numbers in [0, 1), and which n captions are dropped."""
        count = len(latents)
        if "seeds" not in batch:
            noise = torch.randn_like(latents)
            even = torch.rand(count, device=latents.device)
            return noise, even, torch.rand(count) < self.caption_drop
        noise, luck = torch.empty(latents.shape), torch.empty(count, 2)
        for seed, one, two in zip(batch["seeds"], noise, luck, strict=True):
            generator = torch.Generator().manual_seed(seed)
            torch.randn(one.shape, generator=generator, out=one)
            torch.rand(2, generator=generator, out=two)
        return noise.to(latents.device), luck[:, 0].to(latents.device), luck[:, 1] < self.caption_drop

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids (n, longest) of captions, for batches that visit them often."""
        ids: Tensor = self._tokenizer()(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return ids

    def too_long(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have more tokens than every text encoder takes: they are cut there."""
        tokenizer, limit = self._longest()
        return [len(ids) > limit for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]

    @property
    def text_limit(self) -> int:
        """Tokens that the longest text encoder takes, start and end among them."""
        return self._longest()[1]

    def _longest(self) -> tuple[Any, int]:
        if self.tokenizer:
            return self._tokenizer(), int(self._tokenizer().model_max_length)
        return max(_opened_tokenizers(self.start), key=lambda item: item[1])

    def save(self, net: nn.Module, folder: Path) -> None:
        """A pipeline folder with everything in it: the scheduler is that of ``start``, and adapters are added to the weights."""
        if self.lora:
            merge_lora(net)
        if isinstance(net, PipelineDenoiser):
            pipe = net.cpu().pipe
            pipe.register_modules(vae=self._vae().cpu())
            pipe.save_pretrained(folder)
            pipe.register_modules(vae=None)
        else:
            assert isinstance(net, Denoiser)
            StableDiffusionPipeline(
                vae=self._vae().cpu(),
                text_encoder=net.text_encoder.cpu(),
                tokenizer=self._tokenizer(),
                unet=net.unet.cpu(),
                scheduler=copy.deepcopy(start_of(self.start).scheduler) if self.start else _schedule(),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            ).save_pretrained(folder)
        if self.start:  # pipelines change settings of a scheduler that they are handed
            start_of(self.start).scheduler.save_pretrained(folder / "scheduler")

    def open_autoencoder(self, device: str) -> AutoencoderKL:
        """What makes latents of pictures."""
        return self._vae().to(device)

    def _noising(self) -> Noising:
        return start_of(self.start).noising if self.start else _from_scratch()

    def _vae(self) -> AutoencoderKL:
        return _opened_vae(self.autoencoder or self.start)

    def _tokenizer(self) -> Any:
        return _opened_tokenizer(self.tokenizer) if self.tokenizer else _opened_tokenizers(self.start)[0][0]


@dataclass(frozen=True)
class Untrained(TextToImage):
    """The same network as that of ``start``, from random weights: U-Net and text encoder begin untrained.

    Autoencoder, tokenizer, and scheduler, which says what is predicted, are those of ``start``.
    """

    def check(self) -> None:
        """Raises what ``TextToImage`` does, and ModelError for a pipeline whose network cannot be begun from nothing."""
        super().check()
        # The others want weights that are drawn in ways of their own, and read texts with encoders too large to begin anew.
        if start_of(self.start).driver.predict:
            raise ModelError(
                f"{self.start} is a {start_of(self.start).family}, which is not trained from random weights here; leave scratch out, or give "
                "a Stable Diffusion"
            )

    def _build(self) -> Denoiser:
        start = locate(self.start)
        unet = UNet2DConditionModel.from_config(load_part_config(start, "unet"))
        return _denoiser(unet, CLIPTextModel(CLIPTextConfig.from_dict(load_part_config(start, "text_encoder"))))


def _denoiser(unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> Denoiser:
    if unet.config.cross_attention_norm is None:
        exact_on_cpu(unet)
    return Denoiser(unet.to(memory_format=torch.channels_last), text_encoder)


def _has_text_time(unet: UNet2DConditionModel) -> bool:
    return bool(unet.config.addition_embed_type == "text")


@functools.cache
def _schedule() -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULER)


@functools.cache
def _from_scratch() -> Noising:
    return Noising(_schedule(), "v_prediction")


@functools.cache
def _opened_vae(name: str) -> AutoencoderKL:
    place = locate(name)
    vae: AutoencoderKL = load_model(AutoencoderKL, place, part=part_of(place, "AutoencoderKL"))
    return vae.to(memory_format=torch.channels_last)


@functools.cache
def _opened_tokenizer(folder: str) -> Any:
    return load_tokenizer_of(folder)


@functools.cache
def _opened_tokenizers(start: str) -> list[tuple[Any, int]]:
    return start_of(start).tokenizers()
