"""Any text-to-image pipeline of diffusers, behind two methods: ``encode`` a text once, ``paint`` it as often as wanted.

It paints from noise, or from a noised picture (models/noise_levels.py), which the pipeline's autoencoder encodes first.

Guidance is eps_u + w (eps_c - eps_u) (StableRep, arXiv:2306.00984, section 2); w = 1 means none, and costs one pass of
the network instead of two. Flux models distilled for guidance ("dev") take w as an input instead and need no second pass.

Every image has its own generator on the CPU, so its noise is the same on every device and in every batch.

Letters in shapes: n texts, B images, H and W pixels.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from reverie.errors import InputError, ModelError, UnknownName
from reverie.models.kinds import check_pipeline
from reverie.models.names import Located, locate
from reverie.models.noise_levels import Start, start_at
from reverie.models.pretrained import check_networks, load_part_config, load_pipeline, pipeline_index, usable
from reverie.models.step_cache import cached_steps, check_step_cache

Embeddings = dict[str, Any]
"""What a pipeline wants to know about n texts: tensors or lists whose first dimension is n, by argument name."""

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm-solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),  # as Stable Diffusion uses it: one pass a step
    "unipc": ("UniPCMultistepScheduler", {}),
    "flow-match": ("FlowMatchEulerDiscreteScheduler", {}),
}

# What `encode_prompt` returns, in order. Other pipelines get the text itself, once an image.
_WITH_POOLED = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_WITH_MASK = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
ENCODED = {
    "StableDiffusionPipeline": ("prompt_embeds", "negative_prompt_embeds"),
    "StableDiffusionXLPipeline": _WITH_POOLED,
    "StableDiffusion3Pipeline": _WITH_POOLED,
    "PixArtAlphaPipeline": _WITH_MASK,
    "PixArtSigmaPipeline": _WITH_MASK,
    "FluxPipeline": ("prompt_embeds", "pooled_prompt_embeds"),
}
DDIM_BY_DEFAULT = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")  # eta 0, as in StableRep section 2.1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXTS_AT_ONCE = 32


def open_painter(
    name: str,
    device: str = "cpu",
    scheduler: str | None = None,
    negative_prompt: str = "",
    dtype: str = "fp32",
    decoder_dtype: str | None = None,
    step_cache: int = 1,
    compiled: bool = False,
) -> Painter:
    """Load a text-to-image pipeline by builtin name, folder or Hub id. On a GPU its convolutions lie in memory channels last.

    Args:
        scheduler: a key of SCHEDULERS; None is DDIM for Stable Diffusion and SDXL, else the pipeline's own.
        negative_prompt: what guidance leads away from; empty is what the pipeline does when none is given.
        dtype: fp32, bf16 or fp16; fp16 needs a GPU.
        decoder_dtype: of the autoencoder alone; as ``dtype`` when None.
        step_cache: steps that share what the deep blocks of one gave, see models/step_cache.py; 1 = none.
        compiled: the network by torch.compile.

    Raises: ModelError, UnknownName (model, scheduler, dtype), InputError.
    """
    pipe, revision = load_painting(name, device, dtype)
    with usable(revision, "paint"):
        if isinstance(pipe, diffusers.AmusedPipeline):
            if step_cache != 1 or compiled or decoder_dtype is not None:
                raise InputError(
                    f"{revision} paints tokens: --step-cache, --compile-painter and --painter-decoder-dtype are about pixels"
                )
            painter: Painter = _token_painter(pipe.to(device), revision, scheduler, negative_prompt)
            return painter
        made = Painter(pipe.to(device), revision, scheduler, negative_prompt)
        made.quicken(step_cache, decoder_dtype, compiled, channels_last=torch.device(device).type == "cuda")
        return made


def load_painting(name: str, device: str, dtype: str) -> tuple[Any, str]:
    """A pipeline that paints, not yet on the device, and its name and version.

    Raises: as ``open_painter``.
    """
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    if dtype == "fp16" and torch.device(device).type == "cpu":
        raise InputError("fp16 needs a GPU; use dtype fp32 or bf16 on the CPU")
    located = locate(name)
    check_pipeline(name)
    pipe = load_pipeline(located, DTYPES[dtype])
    return pipe, str(locate(name))  # a Hub model knows its commit only once it is here


def check_painter(
    name: str,
    steps: int,
    size_px: int | None,
    scheduler: str | None = None,
    tokens: bool = False,
    step_cache: int = 1,
) -> None:
    """What the small files of a pipeline tell against these settings, before any work.

    Args:
        size_px: side of the pictures; None is what the painter was made for.
        tokens: whether ids are wanted, and not pixels.
    Raises: ModelError, UnknownName, InputError, as opening the painter would.
    """
    place = locate(name)
    check_pipeline(name)
    index = pipeline_index(place)
    check_networks(place)
    family = str(index.get("_class_name"))
    if family == "AmusedPipeline":
        if scheduler is not None:
            raise InputError(f"{name} paints tokens, and has no scheduler to choose; leave it out")
        side, factor = load_part_config(place, "transformer").get("sample_size"), _factor(place, "vqvae")
        if isinstance(side, int) and factor:
            check_grid(name, size_px or side * factor, side, factor, f"--paint-px {size_px}: ")
        return
    if tokens:
        raise ModelError(f"{name} is a {family} and paints no tokens; use an AmusedPipeline")
    sampler = load_part_config(place, "scheduler", "scheduler_config.json")
    _check_scheduler(scheduler, str(sampler.get("_class_name", "")), family)
    if isinstance(most := sampler.get("num_train_timesteps"), int):
        _check_steps(steps, most)
    if step_cache != 1:
        part = index.get("unet") or index.get("transformer")
        kind = getattr(diffusers, str(part[1]), None) if isinstance(part, list) and len(part) == 2 else None
        if isinstance(kind, type):
            check_step_cache(kind, name)
    multiple = 8
    if family in ENCODED and (factor := _factor(place, "vae")):
        patch = load_part_config(place, "unet" if "unet" in index else "transformer").get("patch_size", 1)
        packed = 2 if family == "FluxPipeline" else 1  # patches of 2 x 2 in a row
        multiple = max(8, factor * packed * patch) if isinstance(patch, int) else 8
    _check_size(size_px or multiple, multiple, family, f"--paint-px {size_px}")


def _factor(place: Located, part: str) -> int | None:
    """Pixels along a side for one latent of an autoencoder; None where its settings do not say."""
    widths = load_part_config(place, part).get("block_out_channels")
    return 2 ** (len(widths) - 1) if isinstance(widths, list) and 0 < len(widths) < 10 else None


def check_grid(revision: str, size_px: int, side: int, factor: int, said: str = "") -> None:
    """Raises InputError for a size that is not that of the ids which a painter of tokens has learnt."""
    if size_px != side * factor:
        raise InputError(
            f"{said}{revision} paints {side} x {side} ids, which are {side * factor} px; it has learnt no grid of "
            f"{size_px / factor:g} x {size_px / factor:g}"
        )


def _check_size(size_px: int, multiple: int, family: str, called: str = "") -> None:
    if size_px < 1 or size_px % multiple:
        near = max(1, round(size_px / multiple)) * multiple
        raise InputError(
            f"{called or f'size {size_px} px'} does not fit {family}; use a multiple of {multiple}, such as {near}"
        )


def _check_steps(steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        raise InputError(f"steps must be from 1 to {most} for this model, not {steps}")


def _token_painter(pipe: Any, revision: str, scheduler: str | None, negative_prompt: str) -> Any:
    """One that paints ids and decodes them. Raises InputError for settings that it has no use for."""
    from reverie.models.token_painter import TokenPainter

    if scheduler is not None or negative_prompt:
        given = "scheduler" if scheduler is not None else "negative prompt"
        raise InputError(f"{revision} paints tokens, and has no {given} to choose; leave it out")
    return TokenPainter(pipe, revision)


class Painter:
    """A pipeline, its scheduler, and the count of texts it had to cut. Takes the pipeline over, scheduler included.

    Attributes:
        revision: name and version of the model, as rows record it.
        scheduler: name of the scheduler in use.
        num_cut: texts encoded so far that were longer than every text encoder takes; cut with the end token kept.
        text_limit: tokens that the longest text encoder takes, or None.
    """

    def __init__(self, pipe: Any, revision: str = "", scheduler: str | None = None, negative_prompt: str = "") -> None:
        self.pipe = pipe
        self.revision = revision
        self.negative_prompt = negative_prompt
        self.num_cut = 0
        self.family = type(pipe).__name__
        pipe.set_progress_bar_config(disable=True)
        if scheduler is None and self.family in DDIM_BY_DEFAULT:
            scheduler = "ddim"
        if scheduler is not None:
            pipe.scheduler = _scheduler(scheduler, pipe)
        self.scheduler = _scheduler_name(pipe.scheduler)
        self._takes = set(inspect.signature(pipe.__call__).parameters)
        self._tokenizers = _tokenizers(pipe)
        self.text_limit = max((limit for _, limit in self._tokenizers), default=None)
        self._step_cache = 1

    @property
    def _net(self) -> Any:
        """What denoises; None where the pipeline calls it otherwise."""
        unet = getattr(self.pipe, "unet", None)
        return unet if unet is not None else getattr(self.pipe, "transformer", None)

    def quicken(
        self,
        step_cache: int = 1,
        decoder_dtype: str | None = None,
        compiled: bool = False,
        channels_last: bool = False,
    ) -> None:
        """Take what is quicker, in pixels that differ a little. Raises InputError for a network that caches no steps."""
        if step_cache != 1:
            check_step_cache(type(self._net), self.revision)
        self._step_cache = step_cache
        vae = getattr(self.pipe, "vae", None)
        if channels_last:
            for part in (self._net, vae):
                if part is not None:
                    torch.nn.Module.to(part, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if decoder_dtype is not None and vae is not None:
            _decode_in(vae, DTYPES[decoder_dtype])
        if compiled:
            if self._net is None:
                raise InputError(f"--compile-painter: {self.family} does not say what to compile; leave it out")
            self._net.compile()

    @property
    def size_px(self) -> int:
        """Side of the images the model was made for. Raises: InputError when the pipeline does not say."""
        side = getattr(self.pipe, "default_sample_size", None)
        if side is None and self._net is not None:
            side = self._net.config.get("sample_size")
        if side is None:
            raise InputError(f"{self.family} does not say how large it paints; give size_px")
        return int(side if isinstance(side, int) else side[0]) * int(self.pipe.vae_scale_factor)

    def check(self, guidance: float, steps: int, size_px: int) -> None:
        """Raise InputError for settings that this pipeline would refuse, or quietly take for others."""
        if guidance < 1:
            raise InputError(f"guidance {guidance} is below 1; 1 means no guidance, 2 and more follow the text closer")
        _check_steps(steps, self.pipe.scheduler.config.num_train_timesteps)
        multiple = 8
        if self.family in ENCODED:
            net = self._net
            multiple = max(8, self.pipe.image_processor.config.vae_scale_factor * net.config.get("patch_size", 1))
        _check_size(size_px, multiple, self.family)

    def words_unknown(self, texts: Sequence[str]) -> list[str]:
        """Words that a tokenizer has no token for and the painter thus cannot see, in order of appearance."""
        with usable(self.revision, "read texts"):
            return words_without_token([tokenizer for tokenizer, _ in self._tokenizers], texts)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Run the text encoders once a text; longer texts are cut with the end token kept, and counted.

        Returns: what `pick` takes rows from; first dimension n, at least 1.
        """
        with usable(self.revision, "encode texts", batched=False):
            self.num_cut += self._count_cut(texts)
            return self._encode(texts)

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Embeddings:
        names = ENCODED.get(self.family)
        if names is None:
            return {"prompt": list(texts)}
        takes = inspect.signature(self.pipe.encode_prompt).parameters
        settings = {"device": self.pipe.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        settings = {
            key: value for key, value in (settings | {"prompt_2": None, "prompt_3": None}).items() if key in takes
        }
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            outputs = self.pipe.encode_prompt(prompt=list(texts[start : start + TEXTS_AT_ONCE]), **settings)
            parts.append({key: out for key, out in zip(names, outputs, strict=False) if not key.startswith("negative")})
        return join(parts)

    def _count_cut(self, texts: Sequence[str]) -> int:
        if self.text_limit is None:
            return 0
        limit = self.text_limit
        return count_cut(
            next(tokenizer for tokenizer, max_tokens in self._tokenizers if max_tokens == limit), limit, texts
        )

    @functools.cached_property
    def _negative(self) -> Embeddings:
        empty = not self.negative_prompt
        encoded = self._encode([self.negative_prompt])
        if empty and self.pipe.config.get("force_zeros_for_empty_prompt"):  # SDXL was trained so
            encoded = {key: torch.zeros_like(value) for key, value in encoded.items()}
        return {f"negative_{key}": value for key, value in encoded.items()}

    def start_at(self, level: float, steps: int) -> Start:
        """Begin at a picture that is noised to sqrt(abar) = ``level`` in [0, 1]; see models/noise_levels.py.

        Args: steps: of denoising from there.
        Raises: ModelError for a pipeline that paints without latents, or whose scheduler cannot begin there; InputError.
        """
        if not hasattr(getattr(self.pipe, "vae", None), "encode") or "latents" not in self._takes:
            raise ModelError(f"{self.family} has no autoencoder for pictures, so it cannot begin at a photo")
        # PixArt takes a single step for a sign that the model was distilled to it.
        start = start_at(self.pipe.scheduler, level, steps, min_steps=2 if self.family.startswith("PixArt") else 1)
        if "sigmas" in start.arguments and "sigmas" not in self._takes:
            raise ModelError(f"{self.family} does not take the steps of its sampler, so it cannot begin at a photo")
        return start

    @torch.no_grad()
    def latents(self, pictures: np.ndarray) -> Tensor:
        """What the network paints, of pictures: the mean of the autoencoder, shifted and scaled as the pipeline does.

        Args: pictures: uint8 (B, H, W, 3).
        Returns: (B, C, h, w) float32 on the CPU.
        """
        vae = self.pipe.vae
        dtype = vae.dtype
        exact = dtype == torch.float16 and vae.config.get("force_upcast")  # these overflow in fp16
        if exact:
            vae.to(torch.float32)
        pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        encoded = vae.encode(pixels.to(self.pipe.device, vae.dtype))
        vae.to(dtype)
        found: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        means, spreads = _shift_and_spread(vae.config)
        scaled: Tensor = (found.float().cpu() - means) * vae.config.scaling_factor / spreads
        return scaled

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """The pictures of such latents, as uint8 (B, H, W, 3): what the autoencoder alone makes of a picture."""
        vae = self.pipe.vae
        means, spreads = _shift_and_spread(vae.config)
        scaled = latents * spreads / vae.config.scaling_factor + means
        exact = vae.dtype == torch.float16 and vae.config.get("force_upcast")
        dtype = vae.dtype
        if exact:
            vae.to(torch.float32)
        signed: Tensor = vae.decode(scaled.to(self.pipe.device, vae.dtype)).sample
        vae.to(dtype)
        return to_bytes(signed.float() / 2 + 0.5)[0]

    def sample(
        self,
        embeddings: Embeddings,
        seeds: Sequence[int],
        guidance: float,
        steps: int,
        size_px: int,
        start: Start | None = None,
        clean: Tensor | None = None,
    ) -> Tensor:
        """Paint one image for every row of the embeddings.

        Args:
            embeddings: B rows (see `pick`), one image each.
            seeds: B seeds of the start noise (and of the noise in between, for schedulers that add some).
            guidance: w, at least 1.
            steps: from noise; how many there are from ``start`` it says itself.
            start: begin there (see `start_at`), at ``clean`` (see `latents`), B rows, noised with the start noise.

        Returns: (B, 3, H, W) in 0..1 on the device; NaN where the network overflowed.
        Raises: InputError, torch.OutOfMemoryError.
        """
        self.check(guidance, steps, size_px)
        arguments: dict[str, Any] = {
            **embeddings,
            **self._guided(guidance, len(seeds)),
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "num_inference_steps": steps,
            "height": size_px,
            "width": size_px,
            "output_type": "pt",
        }
        if "use_resolution_binning" in self._takes:
            arguments["use_resolution_binning"] = False  # paint the size asked for, not a nearby one
        if start is not None:
            assert clean is not None
            arguments |= start.arguments | {"latents": self._noised(start, clean, arguments["generator"])}
        own = self.pipe.scheduler
        try:
            if start is not None:
                self.pipe.scheduler = start.scheduler
            with (
                usable(self.revision, "paint", batched=False),
                cached_steps(self.pipe, self._net, self._step_cache),
            ):
                images: Tensor = self.pipe(**arguments).images
        finally:
            self.pipe.scheduler = own
        return images

    def _noised(self, start: Start, clean: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Latents as the pipeline takes them; the noise is the one that it would draw itself."""
        net = self._net
        noise = randn_tensor(clean.shape, generator=generators, device=self.pipe.device, dtype=net.dtype)
        latents = start.noised(clean.to(noise.device), noise)
        if hasattr(self.pipe, "_pack_latents"):  # Flux: patches of 2 x 2 in a row
            latents = self.pipe._pack_latents(latents, *latents.shape)
        return latents

    def paint(
        self,
        embeddings: Embeddings,
        seeds: Sequence[int],
        guidance: float = 2.0,
        steps: int = 20,
        size_px: int | None = None,
    ) -> np.ndarray:
        """Like `sample`, as uint8 (B, H, W, 3).

        Raises: ModelError when an image is not finite.
        """
        images, finite = to_bytes(self.sample(embeddings, seeds, guidance, steps, size_px or self.size_px))
        if not finite.all():
            raise ModelError(f"{(~finite).sum()} of {len(finite)} images are not finite; try dtype fp32 or bf16")
        return images

    def _guided(self, guidance: float, count: int) -> dict[str, Any]:
        if self.family == "FluxPipeline":
            if self.pipe.transformer.config.guidance_embeds:
                return {"guidance_scale": guidance}
            scale = {"true_cfg_scale": guidance}
        else:
            scale = {"guidance_scale": guidance}
        # Some pipelines have a default negative text, which would clash with embeddings.
        negative = {"negative_prompt": None}
        if guidance > 1:
            negative |= {key: pick(value, [0] * count) for key, value in self._negative.items()}
        return scale | {key: value for key, value in negative.items() if key in self._takes}


def words_without_token(tokenizers: Sequence[Any], texts: Sequence[str]) -> list[str]:
    """Words that one of the tokenizers has no token for, in order of appearance."""
    found: dict[str, None] = {}
    for tokenizer in tokenizers:
        if not texts or tokenizer.unk_token_id is None:
            continue
        batch = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for text, ids, spans in zip(texts, batch["input_ids"], batch["offset_mapping"], strict=True):
            unknown = (span for token, span in zip(ids, spans, strict=True) if token == tokenizer.unk_token_id)
            found.update((text[start:end], None) for start, end in unknown)
    return list(found)


def count_cut(tokenizer: Any, limit: int, texts: Sequence[str]) -> int:
    """How many texts have more tokens than the limit."""
    return sum(len(ids) > limit for ids in tokenizer(list(texts), verbose=False)["input_ids"])


def pick(rows: Any, wanted: Sequence[int]) -> Any:
    """Rows of a tensor, a list, or of every entry of Embeddings."""
    if isinstance(rows, dict):
        return {key: pick(value, wanted) for key, value in rows.items()}
    if isinstance(rows, Tensor):
        return rows[torch.as_tensor(wanted, device=rows.device)]
    return [rows[index] for index in wanted]


def join(parts: Sequence[Embeddings]) -> Embeddings:
    """Embeddings of several groups of texts as one, in order."""
    columns = {key: [part[key] for part in parts] for key in parts[0]}
    return {
        key: torch.cat(some) if isinstance(some[0], Tensor) else list(itertools.chain(*some))
        for key, some in columns.items()
    }


def to_bytes(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Images in 0..1, (B, 3, H, W) -> uint8 (B, H, W, 3), and which of the B were finite (others come out with holes)."""
    finite = torch.isfinite(images).flatten(1).all(1)
    levels = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), finite.cpu().numpy()


def _decode_in(vae: Any, dtype: torch.dtype) -> None:
    """Let an autoencoder compute in this format, whatever the latents come in; some pipelines widen theirs for a while."""
    torch.nn.Module.to(vae, dtype)
    decode = vae.decode
    vae.decode = lambda latents, *args, **named: decode(latents.to(vae.dtype), *args, **named)


def _shift_and_spread(config: Any) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of an autoencoder's latents, as its pipeline knows them."""
    means = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0]).view(1, -1, 1, 1)
    return means, torch.tensor(config.get("latents_std") or [1.0]).view(1, -1, 1, 1)


def _check_scheduler(name: str | None, own: str, family: str) -> None:
    """Raises UnknownName, InputError for a scheduler that is none, or does not go with the pipeline's own (its class)."""
    if name is None:
        return
    if name not in SCHEDULERS:
        raise UnknownName("scheduler", name, SCHEDULERS)
    flow = own == "FlowMatchEulerDiscreteScheduler"
    if flow != (name == "flow-match"):
        fitting = ["flow-match"] if flow else [key for key in SCHEDULERS if key != "flow-match"]
        raise InputError(f"scheduler {name} does not fit {family}; use {' or '.join(fitting)}")


def _scheduler(name: str, pipe: Any) -> Any:
    _check_scheduler(name, type(pipe.scheduler).__name__, type(pipe).__name__)
    class_name, settings = SCHEDULERS[name]
    # Latents are not bounded by 1: DDIM and DDPM must not clip them, whatever another scheduler's file leaves out.
    unbounded = {"clip_sample": False} if hasattr(pipe, "vae") else {}
    return getattr(diffusers, class_name).from_config(pipe.scheduler.config, **settings, **unbounded)


def _scheduler_name(scheduler: Any) -> str:
    class_name = type(scheduler).__name__
    return next((name for name, (known, _) in SCHEDULERS.items() if known == class_name), class_name)


def _tokenizers(pipe: Any) -> list[tuple[Any, int]]:
    """Tokenizers of a pipeline, each with the number of tokens that its text encoder gets."""
    takes = inspect.signature(pipe.encode_prompt).parameters if hasattr(pipe, "encode_prompt") else {}
    longest = takes["max_sequence_length"].default if "max_sequence_length" in takes else None
    found = []
    for suffix in ("", "_2", "_3"):
        tokenizer, encoder = (getattr(pipe, part + suffix, None) for part in ("tokenizer", "text_encoder"))
        if tokenizer is None or encoder is None:
            continue
        # CLIP has a table of positions; T5 has none, and the pipeline itself says where it cuts.
        fixed = getattr(encoder.config, "max_position_embeddings", None)
        found.append((tokenizer, tokenizer.model_max_length if fixed or longest is None else longest))
    return found
