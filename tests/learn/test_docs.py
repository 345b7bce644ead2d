"""The example of docs/adding-a-learner.md, run."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import AutoModel

from reverie.learn.fit import Fit, fit

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-learner.md"


class Pictures:
    """Half bright, half dark, so that a turn can be seen."""

    def iterate(self, start: int):
        while True:
            images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
            images[:, :, :16] = 255
            yield {"images": images, "text": ["x"] * 8, "caption": torch.arange(8)}


def test_the_learner_learns_and_saves(tmp_path: Path) -> None:
    names: dict[str, object] = {"__name__": "page"}
    first = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    exec(compile(first, str(PAGE), "exec", dont_inherit=True), names)
    learner = names["Rotation"]()  # type: ignore[operator]
    fitted = fit(learner, Pictures(), Fit(steps=40, lr=1e-3), tmp_path / "work", seed=0)
    assert fitted.losses["accuracy"] > 0.5
    learner.save(fitted.net, tmp_path / "weights")
    assert AutoModel.from_pretrained(tmp_path / "weights").config.model_type == "resnet"
