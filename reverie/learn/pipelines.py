"""Text-to-image pipelines of diffusers as networks to train: what each family's network is told about texts and times.

    StableDiffusionPipeline                 U-Net; one CLIP text encoder
    StableDiffusionXLPipeline               U-Net that is told sizes too; two
    PixArtAlphaPipeline, PixArtSigmaPipeline   transformer; T5
    StableDiffusion3Pipeline                transformer, flow matching; two CLIP, and T5 where it is there
    FluxPipeline                            the same on patches of 2 x 2 latents; CLIP and T5

Texts are encoded by the pipeline itself, so training and painting cannot differ in it. A family is driven if it stands in
FAMILIES; ``start_of`` looks at a few small files and says in one line what cannot be trained.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import torch
from torch import Tensor, nn

from reverie.errors import ModelError
from reverie.learn.noising import Noising, noising_of
from reverie.models.names import Located, locate
from reverie.models.pretrained import (
    load_component,
    load_part_config,
    load_pipeline,
    load_tokenizer,
    pipeline_index,
    readable,
)

Parts = Literal["unet", "text", "both"]
GUIDANCE = 3.5  # what a network distilled for guidance is told in training, as in the scripts of diffusers


@dataclass(frozen=True)
class Family:
    """A class of pipelines."""

    network: Literal["unet", "transformer"]
    # of pipeline, noisy latents, times, texts and pixels; None: the denoiser of learn/text_to_image.py, by token ids
    predict: Callable[[Any, Tensor, Tensor, Sequence[str], int], Tensor] | None
    flow: bool = False
    optional: tuple[str, ...] = ()  # parts that a pipeline may lack
    sample_size: int | None = None  # side of the latents, where no file says it


def _sdxl(pipe: Any, noisy: Tensor, times: Tensor, texts: Sequence[str], size_px: int) -> Tensor:
    words, _, pooled, _ = pipe.encode_prompt(list(texts), device=noisy.device, do_classifier_free_guidance=False)
    if pipe.config.force_zeros_for_empty_prompt:  # so the pipeline says that no text was told
        told = torch.tensor([bool(text) for text in texts], device=noisy.device)
        words, pooled = words * told[:, None, None], pooled * told[:, None]
    sizes = torch.tensor([[size_px, size_px, 0, 0, size_px, size_px]], dtype=pooled.dtype, device=noisy.device)
    more = {"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1)}
    predicted: Tensor = pipe.unet(noisy, times, words, added_cond_kwargs=more).sample
    return predicted


def _pixart(pipe: Any, noisy: Tensor, times: Tensor, texts: Sequence[str], size_px: int) -> Tensor:
    words, mask, *_ = pipe.encode_prompt(list(texts), do_classifier_free_guidance=False, device=noisy.device)
    more: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if pipe.transformer.use_additional_conditions:
        size = torch.full((len(noisy), 2), float(size_px), dtype=words.dtype, device=noisy.device)
        more = {"resolution": size, "aspect_ratio": torch.ones_like(size[:, :1])}
    predicted: Tensor = pipe.transformer(
        noisy, encoder_hidden_states=words, encoder_attention_mask=mask, timestep=times, added_cond_kwargs=more
    ).sample
    return predicted[:, : noisy.shape[1]]  # the other half is a variance, which it keeps from before


def _sd3(pipe: Any, noisy: Tensor, times: Tensor, texts: Sequence[str], size_px: int) -> Tensor:
    words, _, pooled, _ = pipe.encode_prompt(
        list(texts), None, None, device=noisy.device, do_classifier_free_guidance=False
    )
    predicted: Tensor = pipe.transformer(
        noisy, timestep=times, encoder_hidden_states=words, pooled_projections=pooled
    ).sample
    return predicted


def _flux(pipe: Any, noisy: Tensor, times: Tensor, texts: Sequence[str], size_px: int) -> Tensor:
    words, pooled, text_ids = pipe.encode_prompt(list(texts), None, device=noisy.device)
    count, _, height, width = noisy.shape
    places = pipe._prepare_latent_image_ids(count, height // 2, width // 2, noisy.device, words.dtype)
    guidance = torch.full((count,), GUIDANCE, device=noisy.device) if pipe.transformer.config.guidance_embeds else None
    predicted = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy.contiguous(), *noisy.shape),
        timestep=times / 1000,
        guidance=guidance,
        pooled_projections=pooled,
        encoder_hidden_states=words,
        txt_ids=text_ids,
        img_ids=places,
    ).sample
    unpacked: Tensor = pipe._unpack_latents(predicted, height, width, 1)
    return unpacked


FAMILIES = {
    "StableDiffusionPipeline": Family("unet", None),
    "StableDiffusionXLPipeline": Family("unet", _sdxl),
    "PixArtAlphaPipeline": Family("transformer", _pixart),
    "PixArtSigmaPipeline": Family("transformer", _pixart),
    "StableDiffusion3Pipeline": Family("transformer", _sd3, flow=True, optional=("text_encoder_3",)),
    "FluxPipeline": Family("transformer", _flux, flow=True, sample_size=128),
}


@dataclass(frozen=True)
class Start:
    """What the small files of a pipeline say, before any weight is read."""

    place: Located
    family: str
    texts: tuple[str, ...]  # its text encoders, by their names in it
    noising: Noising
    scheduler: Any
    factor: int  # pixels a side of a latent
    multiple: int  # that the side of pictures is of
    size_px: int  # that it was made for

    @property
    def driver(self) -> Family:
        """How its network is driven."""
        return FAMILIES[self.family]

    def tokenizers(self) -> list[tuple[Any, int]]:
        """Each with the number of tokens that its text encoder gets."""
        takes = inspect.signature(getattr(diffusers, self.family).encode_prompt).parameters
        longest = takes["max_sequence_length"].default if "max_sequence_length" in takes else None
        found = []
        for part in self.texts:
            tokenizer = load_tokenizer(self.place, part=part.replace("text_encoder", "tokenizer"))
            # CLIP has a table of positions; T5 has none, and the pipeline itself says where it cuts.
            fixed = "max_position_embeddings" in load_part_config(self.place, part)
            found.append((tokenizer, tokenizer.model_max_length if fixed or longest is None else longest))
        return found


@functools.cache
def start_of(name: str) -> Start:
    """A pipeline to train further, by builtin name, folder or Hub id; reads configurations only.

    Raises: ModelError, UnknownName for what is no pipeline, or none that can be trained here.
    """
    place = locate(name)
    if place.kind == "openai":
        raise ModelError(
            f"{name} is a language model on a server and cannot be trained; give a diffusers folder or Hub id"
        )
    index = pipeline_index(place)
    family = str(index.get("_class_name"))
    driver = FAMILIES.get(family)
    if driver is None:
        raise ModelError(
            f"{name} is a {family[:60]}, which is not trained here; give one of {', '.join(kind[:-8] for kind in FAMILIES)}"
        )
    kinds = {part: value[1] for part, value in index.items() if isinstance(value, list) and value[1]}
    texts = tuple(sorted(part for part in kinds if part.startswith("text_encoder")))
    wanted = {"vae", "scheduler", driver.network, *_text_encoders(family)} - set(driver.optional)
    if lost := sorted(wanted - kinds.keys()):
        raise ModelError(f"{name} has no {lost[0]}, without which a {family} is not trained here")
    if kinds["vae"] != "AutoencoderKL" or (
        family == "StableDiffusionPipeline" and kinds["text_encoder"] != "CLIPTextModel"
    ):
        odd = "vae" if kinds["vae"] != "AutoencoderKL" else "text_encoder"
        raise ModelError(f"the {odd} of {name} is a {kinds[odd]}, with which a {family} is not trained here")
    with readable(place, getattr(diffusers, family)):
        return _looked_at(name, place, family, kinds, texts)


def _looked_at(name: str, place: Located, family: str, kinds: Mapping[str, str], texts: tuple[str, ...]) -> Start:
    driver = FAMILIES[family]
    vae, net = load_part_config(place, "vae"), load_part_config(place, driver.network)
    channels, seen = int(vae["latent_channels"]), int(net["in_channels"]) // (4 if family == "FluxPipeline" else 1)
    if channels != seen:
        raise ModelError(
            f"the network of {name} reads {seen} channels and its latents have {channels}: it is told more than a text, as for "
            "inpainting, and is not trained here"
        )
    if more := next(
        (key for key in ("class_embed_type", "time_cond_proj_dim", "num_class_embeds") if net.get(key)), ""
    ):
        raise ModelError(f"the network of {name} is told more than a text and a time ({more}), and is not trained here")
    if not hasattr(diffusers, kinds["scheduler"]):
        raise ModelError(f"{name} has a scheduler that diffusers does not have ({kinds['scheduler'][:60]})")
    scheduler = load_component(getattr(diffusers, kinds["scheduler"]), place, part="scheduler")
    noising = noising_of(scheduler, name)
    if (noising.prediction == "flow") != driver.flow:
        fitting = "of flow matching" if driver.flow else "with betas"
        raise ModelError(
            f"{name} is a {family} with a {kinds['scheduler']}; only with a scheduler {fitting} is it trained here"
        )
    side = net.get("sample_size") or driver.sample_size
    if not side:
        raise ModelError(f"{name} does not say how large it paints (sample_size of its {driver.network})")
    side = int(side if isinstance(side, int) else side[0])
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    patch = 2 if family == "FluxPipeline" else int(net.get("patch_size") or 1)
    return Start(place, family, texts, noising, scheduler, factor, factor * patch, side * factor)


def _text_encoders(family: str) -> set[str]:
    takes = inspect.signature(getattr(diffusers, family).__init__).parameters
    return {part for part in takes if part.startswith("text_encoder")}


class PipelineDenoiser(nn.Module):
    """Network and text encoders of a pipeline, called once a step."""

    def __init__(self, start: Start, parts: Parts) -> None:
        super().__init__()
        self.pipe, self.family = load_pipeline(start.place, without=("vae",)), start.family
        self.factor = start.factor
        self.add_module(start.driver.network, getattr(self.pipe, start.driver.network))
        for part in start.texts:
            self.add_module(part, getattr(self.pipe, part))
        choose(self, parts)
        if self.family == "StableDiffusionXLPipeline":  # what lies behind the layer that is read learns nothing
            text = self.pipe.text_encoder
            text = getattr(text, "text_model", text)
            text.encoder.layers[-1].requires_grad_(False)
            text.final_layer_norm.requires_grad_(False)

    def train(self, mode: bool = True) -> PipelineDenoiser:
        """As of any module, but parts that do not learn stay as they are in painting."""
        denoiser: PipelineDenoiser = train_chosen(self, super().train, mode)
        return denoiser

    def forward(self, noisy: Tensor, times: Tensor, texts: Sequence[str]) -> Tensor:
        """What the network predicts (B, c, h, w) of noisy latents at times (B,) under texts."""
        predict = FAMILIES[self.family].predict
        assert predict is not None
        return predict(self.pipe, noisy, times, texts, noisy.shape[-1] * self.factor)


def choose(net: nn.Module, parts: Parts) -> None:
    """Parts of a denoiser learn or not, by their names."""
    for name, part in net.named_children():
        part.requires_grad_(parts == "both" or (parts == "text") == name.startswith("text_encoder"))


def train_chosen(net: Any, train: Callable[[bool], Any], mode: bool) -> Any:
    """Put a denoiser in training mode, but for the parts of it that do not learn."""
    train(mode)
    for part in net.children():
        if not any(weight.requires_grad for weight in part.parameters()):
            part.train(False)
    return net
