"""A learner small enough to train in a second, and how to train it as a process of its own (to be killed)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from reverie.learn.fit import Fit, FitSpeed, fit

SETTINGS = Fit(steps=60, lr=1e-2, warmup_steps=5, clip=1.0, ema=0.9, speed=FitSpeed(checkpoint_every_s=0.0))


@dataclass(frozen=True)
class Line:
    """Learns a sum; has everything that a checkpoint can get wrong: BatchNorm, dropout, channels-last convolutions."""

    width: int = 8
    bad_step: int = -1  # the loss of this step is not a number

    def build(self) -> nn.Module:
        net = nn.Sequential(
            nn.Conv2d(3, self.width, 3, padding=1), nn.BatchNorm2d(self.width), nn.ReLU(), nn.Flatten(),
            nn.Dropout(0.1), nn.Linear(self.width * 16, 1),
        )  # fmt: skip
        return net.to(memory_format=torch.channels_last)

    def losses(self, net: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
        noisy = batch["x"] + 0.01 * torch.randn_like(batch["x"])
        loss = (net(noisy).squeeze(1) - batch["y"]).square().mean()
        return {"loss": loss / 0 if batch["step"] == self.bad_step else loss, "noise": noisy.std()}

    def save(self, net: nn.Module, folder: Path) -> None:
        raise NotImplementedError


@dataclass
class Points:
    """Endless batches; may wait before each, or end after some."""

    wait_s: float = 0.0
    end: int | None = None
    fails: bool = False  # the end is an error, as if the machine went away

    def iterate(self, start: int) -> Iterator[dict]:
        step = start
        while self.end is None or step < self.end:
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(16, 3, 4, 4, generator=generator)
            time.sleep(self.wait_s)
            yield {"x": x, "y": x.sum((1, 2, 3)), "step": step, "text": ["a", "b"]}
            step += 1
        if self.fails:
            raise ConnectionError("gone")


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Line(), Points(wait_s=0.02), SETTINGS, Path(sys.argv[1]), seed=3)
