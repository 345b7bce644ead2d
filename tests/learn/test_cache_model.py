"""From shots in a run folder to a cache model that answers."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.datasets.few_shot import TakeShots
from reverie.errors import InputError
from reverie.learn.cache_model import CacheModel
from reverie.models.classifier import load_classifier
from reverie.models.encoder import open_encoder
from reverie.models.zero_shot import class_embeddings
from reverie.smallworld.photos import labelled
from reverie.smallworld.scene import class_names
from reverie.stage import StepContext
from reverie.store import tables

NAMES = class_names()
TEMPLATES = ("a photo of a {class}.",)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    at = StepContext(tmp_path_factory.mktemp("cache") / "run", "cache", ("shots-0",))
    TakeShots(NAMES, "smallworld:street:128:1", 2).run(StepContext(at.folder, "shots-0"))
    return at


@pytest.mark.parametrize("num", [1, None])
def test_it_answers_as_the_formula_does(context, num):
    at = StepContext(context.folder, f"cache-{num}")
    CacheModel(NAMES, "shots-0", num_shots=num, alpha=3.0, beta=2.0).run(at)
    classifier = load_classifier(at.weights())
    encoder = open_encoder("builtin:clip")
    photos = [Image.fromarray(photo) for photo in labelled(3, seed=9)[0]]
    rows = encoder.images(photos).double()
    texts = class_embeddings(encoder, NAMES, TEMPLATES).double()
    expected = encoder.logit_scale * rows @ texts.T
    for part in tables.scan(context.shots("shots-0") / "pairs.lance"):
        for shot in part.to_pylist():
            if num is None or shot["unit"] < num:
                key = encoder.images([Image.open(io.BytesIO(shot["image"]))])[0].double()
                expected[:, NAMES.index(shot["label"])] += 3.0 * torch.exp(-2.0 * (1 - rows @ key))
    torch.testing.assert_close(classifier.logits(rows.float()).double(), expected, atol=1e-3, rtol=1e-4)
    answers = classifier(photos)
    assert [answer.label for answer in answers] == [NAMES[int(row.argmax())] for row in expected]


def test_shots_are_answered_with_their_own_class_when_they_are_loud(context):
    at = StepContext(context.folder, "loud")
    CacheModel(NAMES, "shots-0", alpha=100.0, beta=50.0).run(at)
    shots = [row for part in tables.scan(context.shots("shots-0") / "pairs.lance") for row in part.to_pylist()]
    answers = load_classifier(at.weights())([row["image"] for row in shots])
    assert np.mean([answer.label == row["label"] for answer, row in zip(answers, shots, strict=True)]) > 0.95


def test_a_second_call_changes_nothing_and_the_published_settings_are_the_default(context):
    at = StepContext(context.folder, "twice")
    CacheModel(NAMES, "shots-0").run(at)
    before = {path.name: path.stat().st_mtime_ns for path in at.weights().iterdir()}
    CacheModel(NAMES, "shots-0").run(at)
    assert {path.name: path.stat().st_mtime_ns for path in at.weights().iterdir()} == before
    assert json.loads((at.weights() / "classifier.json").read_text())["cache"] == {"alpha": 1.0, "beta": 5.5}


def test_what_cannot_be_is_refused(context, tmp_path):
    with pytest.raises(InputError, match="two classes"):
        CacheModel(("cat",), "shots-0").check()
    with pytest.raises(InputError, match=r"no pairs\.lance"):
        CacheModel(NAMES, tmp_path).check()
    with pytest.raises(InputError, match="must not be negative"):
        CacheModel(NAMES, "shots-0", alpha=-1)
    with pytest.raises(InputError, match="not among the classes"):
        CacheModel(NAMES[:5], "shots-0").run(StepContext(context.folder, "fewer"))
