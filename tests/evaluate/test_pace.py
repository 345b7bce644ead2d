"""What a measurement will take: how often the whole run does what its trial does, and that the trial leaves no numbers."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reverie.arms import Arm, pixels, untrained
from reverie.evaluate.captioning import MeasureCaptions
from reverie.evaluate.classifiers import MeasureClassifiers
from reverie.evaluate.few_shot import FewShotEpisodes
from reverie.evaluate.generation import Instruments, MeasureGeneration
from reverie.evaluate.heads import FOLDS_OF_ATTRIBUTES, OF_ATTRIBUTES, STRENGTHS
from reverie.evaluate.linear_probe import LinearProbe
from reverie.evaluate.pace import kinds, paced, tell
from reverie.images.pixels import PaintPixels
from reverie.learn.tune_classifier import TuneClassifier
from reverie.models.backbones import build_backbone, save_backbone
from reverie.models.captioner import load_captioner
from reverie.models.classifier import load_classifier, save_classifier
from reverie.stage import Job, StepContext
from tests.models import tiny
from tests.recaption.conftest import save_captioner

Told = dict[str, float]


def whole_of(job: Job, context: StepContext) -> Told:
    """Things that the whole run has, by what they are, as its trial tells them."""
    found: Told = {}

    def report(kind: str, **facts: Any) -> None:
        if kind == "speed":
            found[facts["what"]] = found.get(facts["what"], 0) + facts["whole"]
            assert facts["steps"] > 0
            assert 0 <= facts["low"] <= facts["seconds_each"] <= facts["high"]

    trial = job.trial(8, lambda where: 0)
    assert trial is not None
    trial.job.run(StepContext(context.folder, context.step, report=report))
    assert not context.results.exists()
    return found


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    """A run with a network."""
    found = StepContext(tmp_path / "run", "measure")
    found.weights("learn-0").mkdir(parents=True)
    save_backbone(build_backbone("resnet-tiny", 32), found.weights("learn-0"))
    return found


def test_kinds_are_tried_once_with_as_many_seeds_as_they_have() -> None:
    arms = (Arm("a", "a", 0, "a-0"), Arm("b", "b", 0, "b-0"), Arm("a", "a", 1, "a-1"), Arm("a", "a", 2, "a-2"))
    assert kinds(arms) == [(arms[0], 3), (arms[1], 1)]


def test_the_pace_is_that_of_later_slices_and_a_slow_thing_is_done_few_times() -> None:
    told: list[dict[str, Any]] = []
    done: list[int] = []

    def work(part: slice) -> int:
        time.sleep(0.2 if not done else 0.005 * (part.stop - part.start))
        done.append(part.stop - part.start)
        return done[-1]

    found = paced(lambda kind, **facts: told.append(facts), "things", 1000, work, 60)
    assert found == [20, 20, 20]
    assert told[0]["seconds_each"] == pytest.approx(0.005, rel=0.7)  # without the slow first one
    assert (told[0]["whole"], told[0]["steps"], told[0]["what"]) == (1000, 60, "things")

    def slow(part: slice) -> None:
        done.append(part.stop - part.start)
        time.sleep(0.2)

    done.clear()
    paced(lambda kind, **facts: None, "things", 1000, slow, 60)
    assert max(done) < 20


def test_what_is_less_sure_is_spread_wider() -> None:
    told: dict[str, Any] = {}
    tell(lambda kind, **facts: told.update(facts), "fits", 10, [2.0, 4.0, 9.0], 2, sure=(0.5, 2.0))
    assert (told["low"], told["seconds_each"], told["high"]) == (0.5, 2.0, 9.0)


def test_a_probe(context: StepContext, photo_folder: Path) -> None:
    arms = (Arm("mine", "mine", 0, "learn-0"), Arm("mine", "mine", 1, "learn-1"), *untrained((0, 1, 2)), pixels())
    told = whole_of(LinearProbe(arms, str(photo_folder), size_px=16, pixels_px=4), context)
    assert told["photos"] == 6 * 90
    # two thirds of the photos are tried on all at once, so the fits are those of the whole; no attributes are asked for
    assert told["fits"] == pytest.approx(0.5 * 6 * (len(STRENGTHS) + 2))
    assert set(told) == {"photos", "fits"}


def test_a_probe_of_attributes(context: StepContext) -> None:
    told = whole_of(LinearProbe((pixels(),), "smallworld:street:640:20", size_px=16, pixels_px=2), context)
    assert told["photos drawn"] == 660
    assert told["photos"] == 660
    of_attributes = 2 * len(OF_ATTRIBUTES) * FOLDS_OF_ATTRIBUTES + 2
    assert told["fits"] == pytest.approx(0.5 * (len(STRENGTHS) + 2) + of_attributes)


def test_a_probe_by_sgd_on_crops(context: StepContext, photo_folder: Path) -> None:
    how: dict[str, Any] = {"protocol": "sgd", "epochs": 7, "size_px": 16, "pixels_px": 4}
    told = whole_of(LinearProbe((pixels(),), str(photo_folder), **how), context)
    assert told == {"photos": 90, "rows of SGD": pytest.approx(7 * (48 + 60 / 10))}
    told = whole_of(LinearProbe((pixels(),), str(photo_folder), augment=True, **how), context)
    assert told == {"photos": 90, "crops": 7 * 60, "rows of SGD": 7 * (48 + 60)}


@pytest.mark.parametrize("with_test", [True, False])
def test_episodes(context: StepContext, photo_folder: Path, with_test: bool) -> None:
    if not with_test:
        (photo_folder / "test.parquet").unlink()
    arms = (Arm("mine", "mine", 0, "learn-0"), *untrained((0, 1)))
    job = FewShotEpisodes(arms, str(photo_folder), size_px=16, episodes=400, ways=3, shots=2, queries=4)
    assert whole_of(job, context) == {"photos": 3 * (90 if with_test else 60), "episodes": 3 * 400}


def test_classifiers_of_one_encoder_look_at_the_photos_once(context: StepContext, photo_folder: Path) -> None:
    encoder = tiny.save_clip(context.folder / "encoder")
    first = context.weights("head-0")
    head = context.folder / "head.safetensors"
    save_file({"weight": torch.randn(3, 8), "bias": torch.zeros(3)}, head)
    own = {"classes": ["blue", "green", "red"], "encoder": "encoder", "templates": ["{class}"]}
    save_classifier(context.weights("own-0"), head, own)
    shutil.copytree(encoder, context.weights("own-0") / "encoder")
    revision = load_classifier(context.weights("own-0")).encoder.revision
    save_classifier(first, head, own | {"encoder": str(encoder), "revision": revision})
    save_classifier(context.weights("other-0"), head, own | {"encoder": str(encoder), "revision": revision})
    heads = [Arm("head", "h", 0, "head-0"), Arm("head", "h", 1, "head-1"), Arm("other", "o", 0, "other-0")]
    names = ("blue", "green", "red")
    told = whole_of(MeasureClassifiers(tuple(heads), names, str(photo_folder)), context)
    assert told == {"openings": 3, "photos": 30}
    whole = (Arm("own", "own", 0, "own-0"), Arm("own", "own", 1, "own-1"))
    assert whole_of(MeasureClassifiers(whole, names, str(photo_folder)), context)["photos"] == 60


def test_nothing_to_learn_is_all_of_it() -> None:
    trial = TuneClassifier(classes=("a", "b"), on="nothing").trial(8, lambda where: 0)
    assert trial is not None
    assert trial.part == 1.0


def test_captions(context: StepContext) -> None:
    save_captioner(context.weights("captioner"))
    arms = (Arm("ours", "ours", 0, "captioner"), Arm("ours", "ours", 1, "captioner-1"))
    told = whole_of(MeasureCaptions(arms, "smallworld:street:300", beams=2, spice="off"), context)
    longest = load_captioner(context.weights("captioner")).net.max_tokens  # people say more than it may
    assert told == {
        "photos drawn": 300, "openings": 2, "photos": 300, "words": 2 * 5 * longest,
        "words by beam search": 2 * 5 * longest, "captions scored": 300 * 2 * 2,
    }  # fmt: skip
    alone = whole_of(MeasureCaptions(arms[:1], "smallworld:street:300", beams=1, spice="off"), context)
    assert "words by beam search" not in alone
    assert alone["captions scored"] == 300


def test_generation(context: StepContext) -> None:
    arms = (Arm("one", "one", factors={"painter": "builtin:painter"}),)
    how = Instruments(("pixels",), observer="", draws=10)
    paint = PaintPixels(per_caption=2, steps=1)
    job = MeasureGeneration(arms, "smallworld:human:3", "smallworld:studio:30", paint, (2.0, 3.0), how)
    assert whole_of(job, context) == {
        "openings": 2, "captions painted": 2 * 3, "pictures looked at": 2 * 6 + 6, "sets compared": 2,
    }  # fmt: skip


def test_random_features_vary_as_those_of_the_photos() -> None:
    from reverie.evaluate.linear_probe import _random_like

    draw = np.random.default_rng(0)
    few = torch.from_numpy(draw.normal(size=(100, 2)) @ np.array([[3.0, 0.0, 3.0], [0.0, 1.0, 0.0]])).float()
    rows, labels = _random_like(few, 5000, 4)
    together = np.corrcoef(rows.numpy().T)
    assert together[0, 2] == pytest.approx(1.0, abs=1e-3)
    assert abs(together[0, 1]) < 0.3
    assert set(labels.tolist()) == {0, 1, 2, 3}
