"""Adapters beside attention: what learns, what is saved, and what has nothing to put them beside."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie.errors import InputError, MissingExtra
from reverie.learn.fit import Fit, fit
from reverie.learn.lora import add_lora
from reverie.learn.text_to_image import TextToImage
from reverie.models.painter import open_painter
from tests.images.pipelines import FAMILIES, unet
from tests.learn.test_pipelines import TEXTS, Few, batch_of, made, weights


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart", "sd3", "flux"])
def test_adapters_change_nothing_at_first_learn_alone_and_are_saved_in_the_weights(tmp_path: Path, family: str) -> None:
    pytest.importorskip("peft")
    start = made(tmp_path / "pipe", family)
    learner = TextToImage(start=start, parts="both", lora=2, caption_drop=0)
    net, batch = learner.build().eval(), batch_of()
    plain = TextToImage(start=start, caption_drop=0)
    with torch.no_grad():
        losses = [
            float(one.losses(each, batch)["loss"]) for one, each in ((learner, net), (plain, plain.build().eval()))
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    learning = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in learning)
    assert {name.split(".")[0] for name in learning} >= {
        "transformer" if family in ("pixart", "sd3", "flux") else "unet",
        "text_encoder",
    }

    net, _ = fit(learner, Few(), Fit(6, lr=3e-2, weight_decay=0, ema=0.5), tmp_path / "fit", seed=0)
    with torch.no_grad():
        before = float(learner.losses(net, batch)["loss"])
    learner.save(net, tmp_path / "saved")
    old, new = weights(tmp_path / "pipe"), weights(tmp_path / "saved")
    assert old.keys() == new.keys()
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])}
    assert changed
    assert all(any(word in name.lower() for word in ("attn", "attention")) for name in changed)
    again = TextToImage(start=str(tmp_path / "saved"), caption_drop=0)
    with torch.no_grad():
        after = float(again.losses(again.build().eval(), batch)["loss"])
    assert after == pytest.approx(before, rel=1e-4)
    assert after != pytest.approx(losses[0], rel=1e-4)


def test_one_part_alone(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    learner = TextToImage(start=made(tmp_path / "pipe", "sd"), parts="text", lora=2)
    net, _ = fit(learner, Few(), Fit(2, lr=1e-2, weight_decay=0), tmp_path / "fit", seed=0)
    learner.save(net, tmp_path / "saved")
    old, new = weights(tmp_path / "pipe"), weights(tmp_path / "saved")
    assert {name.split(".")[0] for name, value in old.items() if not torch.equal(value, new[name])} == {"text_encoder"}
    painter = open_painter(str(tmp_path / "saved"))
    assert painter.paint(painter.encode(TEXTS), [1, 2, 3], guidance=1.0, steps=2, size_px=32).shape == (3, 32, 32, 3)


def test_a_network_without_attention_has_nothing_to_train(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(InputError, match=r"the convolutions has no attention to put LoRA beside"):
        add_lora(torch.nn.Conv2d(1, 1, 1), 2, "the convolutions")
    torch.manual_seed(0)
    pipe = FAMILIES["sd"]()
    plain: Any = {
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "mid_block_type": None,
    }
    pipe.register_modules(unet=type(unet(cross_attention_dim=16))(**{**pipe.unet.config, **plain}))
    pipe.save_pretrained(tmp_path / "deaf")
    with pytest.raises(
        InputError, match=r"the unet of .*deaf has no attention to put LoRA beside; train its weights themselves"
    ):
        TextToImage(start=str(tmp_path / "deaf"), parts="unet", lora=2).build()


def test_what_cannot_be_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = made(tmp_path / "pipe", "sd")
    with pytest.raises(InputError, match="--lora -1 is a rank"):
        TextToImage(start=start, lora=-1).check()
    with pytest.raises(InputError, match="beside weights that have learned"):
        TextToImage("autoencoder", "tokenizer", lora=2)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name, *rest))
    with pytest.raises(
        MissingExtra, match=r"LoRA needs an optional package; install it with: pip install 'reverie\[lora\]'"
    ):
        TextToImage(start=start, lora=2).check()


def test_a_start_without_text_encoder_has_no_text_part_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pipeline may be whose family does not need one."""
    from reverie.learn import pipelines, text_to_image

    start = made(tmp_path / "pipe", "pixart")
    index = Path(start) / "model_index.json"
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"text_encoder": [None, None], "tokenizer": [None, None]})
    )
    family = pipelines.FAMILIES["PixArtAlphaPipeline"]
    bare = pipelines.Family(family.network, family.predict, optional=("text_encoder",))
    monkeypatch.setitem(pipelines.FAMILIES, "PixArtAlphaPipeline", bare)
    pipelines.start_of.cache_clear()
    with pytest.raises(InputError, match="has no text encoder, so with --train-parts text nothing of it learns"):
        text_to_image.TextToImage(start=start, parts="text").check()
    pipelines.start_of.cache_clear()
