import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reverie import pairs, stage
from reverie.errors import InputError
from reverie.learn.fit import Fit, FitSpeed
from reverie.learn.train import Train, TrainSpeed
from reverie.stage import StepContext
from reverie.store import tables

SETTINGS = Fit(steps=4, lr=0.01, speed=FitSpeed(checkpoint_every_s=0.0))


@dataclass(frozen=True)
class Brightness:
    """Learns the mean colour of an image."""

    image_size: int = 16
    images_per_caption: int = 2

    def build(self):
        return nn.Linear(3, 3)

    def losses(self, net, batch):
        colour = batch["images"].float().mean((2, 3)) / 255
        return {"loss": (net(colour) - colour).square().mean()}

    def save(self, net, folder):
        (folder / "weights.json").write_text(json.dumps(net.weight.tolist()))


@pytest.fixture
def context(tmp_path):
    rows = []
    for number in range(6):
        name = pairs.caption_id(0, "test", number)
        for copy in range(2 if number else 1):
            buffer = io.BytesIO()
            pixels = np.random.default_rng(10 * number + copy).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG")
            rows.append(
                {
                    "pair_id": pairs.pair_id(name, copy),
                    "caption_id": name,
                    "copy": copy,
                    "unit": 0,
                    "text": f"caption {number}",
                    "image": buffer.getvalue(),
                    "status": "ok",
                }
            )
    context = StepContext(tmp_path, "train", seed=5)
    tables.append_unit(context.pairs, 0, pairs.table(rows, pairs.PAIRS))
    return context


def weights(context):
    return torch.tensor(json.loads((context.weights() / "weights.json").read_text()))


def test_pairs_become_weights_and_the_rest_is_told(context):
    events = []
    told = replace(context, report=lambda kind, **facts: events.append((kind, facts)))
    Train(Brightness(), SETTINGS, captions_per_batch=4).run(told)
    assert weights(context).shape == (3, 3)
    assert (context.checkpoints() / "curve.jsonl").read_text().count("\n") == 4
    # How often progress is told depends on the clock.
    assert list(dict.fromkeys(kind for kind, _ in events)) == ["warning", "progress", "speed", "trained"]
    assert "1 caption has fewer than 2" in events[0][1]["text"]
    assert (events[-1][1]["captions"], events[-1][1]["steps"]) == (5, 4)


def test_it_goes_on_when_saving_was_cut_off_and_stops_when_done(context, tmp_path):
    class KilledError(Exception):
        pass

    class Cut(Brightness):
        def save(self, net, folder):
            super().save(net, folder)
            raise KilledError

    Cut.__name__ = "Brightness"  # the same settings as the learner that finishes
    with pytest.raises(KilledError):
        Train(Cut(), SETTINGS, captions_per_batch=4).run(context)
    assert not context.weights().exists()
    job = Train(Brightness(), SETTINGS, captions_per_batch=4)
    job.run(context)
    found = weights(context)
    other = replace(context, step="again")
    job.run(other)
    torch.testing.assert_close(weights(other), found, rtol=0, atol=1e-6)
    (context.weights() / "weights.json").write_text("[7]")
    job.run(context)
    assert weights(context).tolist() == [7]


def test_seeds_differ_between_trainings_on_the_same_pairs(context):
    for seed in (0, 1):
        Train(Brightness(), SETTINGS, captions_per_batch=4, seed=seed).run(replace(context, step=f"train-{seed}"))
    assert not torch.equal(weights(replace(context, step="train-0")), weights(replace(context, step="train-1")))


def test_too_few_captions_are_one_clear_line(context):
    with pytest.raises(InputError, match=r"5 captions with 2 or more images.* a batch wants 64"):
        Train(Brightness(), SETTINGS).run(context)


def test_speed_is_no_part_of_the_fingerprint():
    fast = Train(Brightness(), replace(SETTINGS, speed=FitSpeed(9.0, 5)), speed=TrainSpeed(8))
    assert stage.settings(fast) == stage.settings(Train(Brightness(), SETTINGS))
    assert stage.settings(fast) != stage.settings(Train(Brightness(), replace(SETTINGS, lr=0.5)))


@dataclass(frozen=True)
class Particular(Brightness):
    """Wants even batches and known labels, and may begin from the weights of another step."""

    start: Path | None = None

    def check_batch(self, images):
        if images % 2:
            raise InputError(f"{images} images are odd")

    def check_labels(self, names):
        if names != {None}:
            raise InputError("labels")

    def build(self):
        net = super().build()
        if self.start:
            with torch.no_grad():
                net.weight.copy_(torch.tensor(json.loads((self.start / "weights.json").read_text())))
        return net


def test_a_learner_may_refuse_a_size_of_batch_or_labels(context):
    with pytest.raises(InputError, match="5 images are odd"):
        Train(Particular(images_per_caption=1), SETTINGS, captions_per_batch=5).check()
    Train(Particular(images_per_caption=1), SETTINGS, captions_per_batch=4).run(context)
    row = {
        "pair_id": "z-000",
        "caption_id": "z",
        "copy": 0,
        "unit": 1,
        "label": "strange",
        "image": b"",
        "status": "ok",
    }
    tables.append_unit(context.pairs, 1, pairs.table([row], pairs.PAIRS))
    with pytest.raises(InputError, match="labels"):
        Train(Particular(images_per_caption=1), SETTINGS, captions_per_batch=4).run(replace(context, step="other"))


def test_it_begins_from_the_weights_of_another_step(context):
    Train(Brightness(), SETTINGS, captions_per_batch=4).run(context)
    still = replace(SETTINGS, steps=1, lr=1e-9)
    Train(Particular(), still, captions_per_batch=4, start="train").run(
        replace(context, step="further", inputs=("train",))
    )
    torch.testing.assert_close(weights(replace(context, step="further")), weights(context))
    with pytest.raises(InputError, match="Brightness cannot begin from the weights"):
        Train(Brightness(), start="train")


def no_pairs(_: str) -> int:
    return 0


def test_a_trial_takes_few_steps_and_says_how_many_there_are_and_what_a_batch_needs():
    train = Train(Brightness(), replace(SETTINGS, steps=50), captions_per_batch=4)
    trial = train.trial(3, no_pairs)
    assert (trial.job, trial.steps, trial.captions) == (replace(train, fit=replace(SETTINGS, steps=3)), 50, 4)
    assert replace(train, store=Path("photos")).trial(3, no_pairs).captions == 0
    assert train.trial(70, no_pairs).job.fit.steps == 50
    assert Train(Brightness(), Fit(steps=50, minutes=1.0)).trial(3, no_pairs) is None
