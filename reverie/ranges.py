"""Checks of the numbers that a user gives, before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reverie.errors import InputError


def check_min(minimum: float, **given: float | Sequence[float] | None) -> None:
    """Raises InputError that names the flag of a number below ``minimum`` or of none at all (NaN). None is not looked at."""
    for name, value in given.items():
        for number in value if isinstance(value, Sequence) else [] if value is None else [value]:
            if not number >= minimum:
                raise InputError(f"--{name.replace('_', '-')} {number}: give {minimum:g} or more")


def check_numbers(given: object, name: str) -> None:
    """Raises InputError for a flag that is not a number, which no comparison would catch. Tuples are looked through."""
    if isinstance(given, float) and math.isnan(given):
        raise InputError(f"--{name.replace('_', '-')} nan: give a number")
    for item in given if isinstance(given, (tuple, list)) else ():
        check_numbers(item, name)


@dataclass(frozen=True)
class Range:
    """Numbers that a flag takes, and how that is said."""

    low: float
    high: float = math.inf
    has_low: bool = True
    has_high: bool = True

    def __contains__(self, number: float) -> bool:
        above = number >= self.low if self.has_low else number > self.low
        return math.isfinite(number) and above and (number <= self.high if self.has_high else number < self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.low:g} or more" if self.has_low else f"a number above {self.low:g}"
        if self.has_low:
            return f"a number from {self.low:g} to {'' if self.has_high else 'below '}{self.high:g}"
        return f"a number above {self.low:g} and {'up to' if self.has_high else 'below'} {self.high:g}"


# A flag means the same in every recipe, so its numbers stand once. Those that go together are looked at where they do.
RANGES: dict[str, Range] = {
    name: usual
    for usual, names in (
        (
            Range(1),
            "autoencoder_batch autoencoder_channels autoencoder_steps batch_size batchnorm_groups beams captions_per_batch channels codes "
            "crops decoder_heads decoder_layers decoder_width downscale_px episodes epochs eval_px guidance guidances guided_steps head_hidden held_out head_out image_px in_flight "
            "language_layers language_steps language_width latents layers limit look_heads look_layers look_width max_kept max_tags "
            "max_tokens max_words min_words mixed_per_class num_images num_shots paint_px painted_per_class painter_batch "
            "painter_layers painter_steps painter_width per_batch per_caption per_class per_image probe_epochs queries queue real_batch "
            "real_per_class sampler_steps step_cache store_px tag_heads text_context text_heads text_layers text_out text_width token_px "
            "tokenizer_batch tokenizer_channels tokenizer_steps train_steps transfer_batch transfer_shots transfer_steps tune_batch tune_captions tune_steps "
            "unit_size view_px width",
        ),
        (Range(2), "ways"),
        (
            Range(0),
            "alpha base_steps beta cost_steps end_to_end_steps human_pairs lora max_support paint_batch refine_steps sentences shrink_px temperature top_k tune_lora warmup_steps",
        ),
        (
            Range(0, has_low=False),
            "contrast_temperature lr mae_lr projection_temperature refine_lr teacher_temperature text_lr transfer_lr",
        ),
        (
            Range(0, 1),
            "caption_drop levels rho scene second_class soft_share tag_threshold threshold view_gray warmup",
        ),
        (Range(0, 1, has_high=False), "ema label_smoothing momentum real_share"),
        (Range(0, 1, has_low=False), "keep_best min_area near_duplicate refine_max_own view_min_area"),
        (Range(0, 1, has_low=False, has_high=False), "human_first"),
        (Range(0, 0.5), "view_hue"),
    )
    for name in names.split()
}


def check_ranges(given: Mapping[str, object]) -> None:
    """Raises InputError for a setting of a recipe whose number is out of its range, by flat names. Texts and None are not looked at."""
    for name, value in given.items():
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if not isinstance(number, (int, float)) or isinstance(number, bool):
                continue
            if (usual := RANGES.get(name)) is not None and number not in usual:
                raise InputError(f"--{name.replace('_', '-')} {number}: give {usual}")
