"""A recipe with two trainings, for one process or several: see test_launch.py."""

from __future__ import annotations

from pathlib import Path

from reverie.learn.fit import Fit
from reverie.learn.stablerep import StableRep
from reverie.learn.train import Train
from reverie.run.plan import Plan, Step
from tests.run.fake_recipe import CountPairs, PaintNoise, Sentences


def launched() -> Plan:
    """Captions, noise, two small nets, and a job that only one process may do."""
    learner = StableRep("resnet-tiny", image_size=32, images_per_caption=2, head_hidden=8, head_out=8)
    steps = (
        Step("captions", Sentences(12)),
        Step("paint", PaintNoise(3), inputs=("captions",)),
        Step("first", Train(learner, Fit(3, lr=0.01), 4, size_px=32), inputs=("paint",)),
        Step("second", Train(learner, Fit(2, lr=0.01), 4, size_px=32, seed=1), inputs=("paint",)),
        Step("count", CountPairs("status = 'ok'"), inputs=("second",)),
    )
    return Plan("launched", steps, file=str(Path(__file__)))
