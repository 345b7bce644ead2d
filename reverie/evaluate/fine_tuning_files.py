"""The files that fine-tuning keeps for an arm: a fingerprint of its inputs, its best weights, its results, and its network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn

from reverie.errors import ModelError, StoreError
from reverie.learn.supervised import Supervised
from reverie.models.pretrained import load_into, tensors_about
from reverie.store import results
from reverie.store.files import atomic_file, atomic_folder
from reverie.store.json_files import read_json

MARK = "arm.json"  # what an arm was made of, and its numbers once it is measured


BEST = "best.safetensors"
AGAIN = "delete it, then run the same command again"


class ArmMark:
    """The file that says what an arm was made of, and its numbers once they are measured."""

    def __init__(self, file: Path, made_of: str) -> None:
        self.file, self.made_of = file, made_of

    def records(self) -> list[results.Result] | None:
        """The numbers of a finished arm that was made of the same."""
        found = self._read()
        if "records" not in found or found.get("made_of") != self.made_of:
            return None
        try:
            return results.from_lines(found["records"])
        except ValueError as error:
            raise StoreError(f"{self.file} is damaged ({error}); {AGAIN}") from error

    def begin(self) -> None:
        """Take away what another arm of this name left; what this one left is gone on with."""
        if self._read().get("made_of") != self.made_of:
            shutil.rmtree(self.file.parent, ignore_errors=True)
        self._write({"made_of": self.made_of})

    def end(self, records: list[results.Result]) -> None:
        """Keep the numbers."""
        self._write({"made_of": self.made_of, "records": [record.as_dict() for record in records]})

    def _read(self) -> dict[str, Any]:
        if not self.file.exists():
            return {}
        shape = {"made_of?": object, "records?": [object]}
        return dict(read_json(self.file, shape, StoreError, AGAIN))

    def _write(self, facts: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.file) as partial:
            partial.write_text(json.dumps(facts), encoding="utf-8")


class BestWeights:
    """Keeps the weights that were best on the held-out images, in a file, so that a kill loses nothing."""

    def __init__(self, folder: Path, every: int, steps: int, writes: bool) -> None:
        self.file, self.every, self.steps, self.writes = folder / BEST, every, steps, writes

    def look(self, step: int, net: nn.Module, measure: Callable[[], float]) -> None:
        """Measure at every so many steps and at the last, and keep the weights if they are better than all before."""
        if not self.writes or (step % self.every and step != self.steps):
            return
        accuracy, known = measure(), self._known()
        if known is None or accuracy > known[1]:
            with atomic_file(self.file) as partial:
                save_model(net, str(partial), {"step": str(step), "top1": repr(accuracy)})

    def restore(self, net: nn.Module) -> dict[str, float]:
        """Fill the net with the best weights. Returns the step they are of, and how often they were right."""
        load_into(net, self.file)
        known = self._known()
        assert known is not None
        return {"best_step": known[0], "held_out_top1": known[1]}

    def _known(self) -> tuple[int, float] | None:
        if not self.file.exists():
            return None
        about = tensors_about(self.file)
        try:
            return int(about["step"]), float(about["top1"])
        except (KeyError, ValueError) as error:
            raise ModelError(f"{self.file} is damaged; {AGAIN}") from error


def put_weights(weights: Path, net: nn.Module, learner: Supervised) -> None:
    with atomic_folder(weights, replace=True) as temporary:
        learner.save(net, temporary)


def tidy(folder: Path) -> None:
    """Take away what a finished arm needs no more."""
    shutil.rmtree(folder / "latest", ignore_errors=True)
    (folder / BEST).unlink(missing_ok=True)
