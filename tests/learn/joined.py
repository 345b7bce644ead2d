"""The same training and gradients, by one process or by several over gloo: ``python -m tests.learn.joined FOLDER``.

WORLD_SIZE and RANK come from the environment, as ``accelerate launch`` sets them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from reverie.learn.fit import Fit, fit
from reverie.learn.losses import entropy_floor, image_text_loss, multi_positive_loss

CAPTIONS, VIEWS = 8, 3
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.scale = nn.Linear(6, 5), nn.Linear(4, 5), nn.Parameter(torch.tensor(1.5))

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.image(images), self.text(texts), self.scale.exp()


@dataclass(frozen=True)
class Both:
    """Both losses of StableRep+. One caption of the joined batch occurs once only, on one process."""

    def build(self) -> nn.Module:
        return Towers()

    def losses(self, net: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
        images, texts, scale = net(batch["images"], batch["texts"])
        contrast = multi_positive_loss(images, batch["caption"], 0.3, chunk_rows=5)
        pairs = image_text_loss(images, texts, scale)
        return {"loss": contrast + pairs, "contrast": contrast, "floor": entropy_floor(batch["caption"])}

    def save(self, net: nn.Module, folder: Path) -> None:
        raise NotImplementedError


class Slices:
    def iterate(self, start: int) -> Iterator[dict]:
        while True:
            generator = torch.Generator().manual_seed(start)
            images = torch.randn(VIEWS, CAPTIONS, 6, generator=generator)
            texts = torch.randn(CAPTIONS, 4, generator=generator)
            captions = torch.arange(CAPTIONS).repeat(VIEWS, 1)
            captions[1:, 0] = torch.tensor([100, 101])  # these three views have no positive
            mine = slice(RANK * CAPTIONS // WORLD, (RANK + 1) * CAPTIONS // WORLD)
            yield {
                "images": images[:, mine].flatten(0, 1),
                "caption": captions[:, mine].flatten(),
                "texts": texts[mine],
            }
            start += 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    # AdamW does not feel the size of a gradient, so the gradients of one step are kept as they are.
    gradients: dict[str, torch.Tensor] = {}
    learner, step = Both(), torch.optim.AdamW.step

    def spy(self, *args):
        if not gradients:
            weights = [weight for group in self.param_groups for weight in group["params"]]
            gradients.update({str(index): weight.grad.clone() for index, weight in enumerate(weights)})
        return step(self, *args)

    torch.optim.AdamW.step = spy
    fit(learner, Slices(), Fit(steps=6, lr=0.05), folder, seed=1)
    if RANK == 0:
        save_file(gradients, folder / "gradients.safetensors")
