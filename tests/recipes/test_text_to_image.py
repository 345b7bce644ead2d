"""The recipe's settings: what goes together, and what they come to. Training itself is in tests/learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reverie.errors import InputError
from reverie.learn.train_painter import TrainPainter
from reverie.recaption.mix import Mix
from reverie.recipes.text_to_image import TextToImageConfig, text_to_image
from reverie.settings import resolve, resolved
from tests.recaption.test_mix import fill

CONFIG = TextToImageConfig(store=Path("store"))


def stage(**settings: Any) -> TrainPainter:
    (step,) = text_to_image(resolve(CONFIG, settings)).steps
    assert isinstance(step.stage, TrainPainter)
    return step.stage


@pytest.mark.parametrize(
    ("settings", "lr", "text_lr"),
    [
        ({}, 1e-3, 1e-3),
        ({"lr": 2e-3}, 2e-3, 2e-3),
        ({"text_lr": 1e-4}, 1e-3, 1e-4),
        ({"start": "builtin:painter"}, 1e-5, 1e-5),
        ({"start": "builtin:painter", "lr": 1e-4, "text_lr": 1e-6}, 1e-4, 1e-6),
        ({"start": "builtin:painter", "train_parts": "text", "text_lr": 1e-6}, 1e-6, 1e-6),
        ({"start": "builtin:painter", "train_parts": "text", "lr": 1e-6}, 1e-6, 1e-6),
        ({"start": "builtin:painter", "train_parts": "unet"}, 1e-5, 1e-5),
        ({"start": "builtin:painter", "lora": 4}, 1e-4, 1e-4),
    ],
)
def test_rates(settings: dict[str, Any], lr: float, text_lr: float) -> None:
    made = stage(**settings)
    assert made.fit.lr == lr
    assert made.fit.lr * made.text_rate == pytest.approx(text_lr)
    assert made.parts == settings.get("train_parts", "both")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start": "builtin:painter", "channels": (8, 8)}, "--channels belongs to a painter from scratch"),
        ({"start": "builtin:painter", "autoencoder_steps": 5}, "--autoencoder-steps belongs to a painter from scratch"),
        ({"train_parts": "text"}, "--train-parts says what of a --start learns"),
        (
            {"start": "builtin:painter", "train_parts": "unet", "text_lr": 1e-4},
            "which they do not with --train-parts unet",
        ),
        ({"lr": 0.0}, "--lr 0.0: give a number above 0"),
        ({"text_lr": -1.0}, "--text-lr -1.0"),
        ({"caption_drop": 1.5}, "--caption-drop 1.5"),
        ({"caption_drop": -0.5}, "--caption-drop -0.5"),
        ({"paint_px": 0}, "--paint-px 0"),
        ({"lora": 4}, "--lora says what of a --start learns"),
        ({"start": "builtin:painter", "lora": -4}, "--lora -4: give 0 or more"),
        ({"ema": 1.0}, "--ema 1.0 is a decay"),
        ({"mix": ("short=0.5", "long=0.4")}, "add up to 0.9, and must add up to 1"),
        ({"mix": ("short=1",), "templates": Path("sentences.txt")}, "--mix says which captions"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        stage(**settings)


def test_the_rate_follows_the_start_unless_it_is_given() -> None:
    """As for a command line, where the settings have no default as a whole."""

    def ask(**given: Any) -> Any:
        return lambda base: replace(base or CONFIG, **given)

    assert resolved(None, ask()).config.lr == 1e-3
    further = resolved(None, ask(start="owner/pipeline"))
    assert (further.config.lr, further.given) == (1e-5, ("start",))
    assert resolved(None, ask(start="owner/pipeline", lr=1e-4)).config.lr == 1e-4


def test_a_mix_a_rank_and_an_average_reach_the_stage() -> None:
    made = stage(start="builtin:painter", mix=("long=0.5", "short=0.5"), lora=8, ema=0.0, over_limit="cut")
    assert made.mix == Mix.read(["short=0.5", "long=0.5"])
    assert (made.lora, made.fit.ema, made.over_limit) == (8, None, "cut")
    assert (stage().mix, stage().lora, stage().fit.ema, stage().over_limit) == (None, 0, 0.999, "drop")


def test_images_without_captions_are_told_before_any_work(tmp_path: Path) -> None:
    some = fill(tmp_path / "some", text={1: None})
    with pytest.raises(
        InputError, match=r"every pair needs a caption, .* has 1 without a text; learn from captions that"
    ):
        stage(store=some)
    bare = fill(tmp_path / "bare", text=dict.fromkeys(range(12)))
    with pytest.raises(
        InputError, match=r"'text' of .* holds no text in any pair .*, or write captions with: reverie recaption"
    ):
        stage(store=bare, mix=("alt",))
    with pytest.raises(InputError, match="no column 'tags' for tags of the mix"):
        stage(store=bare, mix=("tags",))
    assert stage(store=some, mix=("alt",)).mix == Mix.read(["alt"])
    broken = fill(tmp_path / "broken", status=dict.fromkeys(range(12), "failed"))
    with pytest.raises(InputError, match=r"no image of .*broken is usable, .*; import pictures that can be read"):
        stage(store=broken)
