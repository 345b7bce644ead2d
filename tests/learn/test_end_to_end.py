"""The whole tower is tuned, begins as zero-shot CLIP, and comes back as a classifier folder of its own."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.errors import InputError
from reverie.learn.end_to_end import EndToEnd
from reverie.learn.fit import Fit
from reverie.learn.train import Train
from reverie.models.classifier import load_classifier
from reverie.models.encoder import open_encoder
from reverie.models.zero_shot import class_embeddings
from reverie.stage import StepContext
from tests.learn.test_tune_classifier import CLASSES, pictures, store

LEARNER = EndToEnd(CLASSES, image_size=64)


@pytest.fixture(scope="module")
def batch():
    found = pictures(12, "studio", 3)
    images = np.stack([np.asarray(Image.open(io.BytesIO(image))) for _, image in found])
    return {"images": torch.from_numpy(images).permute(0, 3, 1, 2), "label": [label for label, _ in found]}


def test_it_begins_as_zero_shot_clip(batch):
    logits, teacher = LEARNER.build()(batch["images"])
    encoder = open_encoder("builtin:clip")
    rows = encoder.images(batch["images"].permute(0, 2, 3, 1).numpy())
    assert torch.allclose(logits, teacher, atol=1e-4)
    assert torch.equal(logits.argmax(1), (rows @ class_embeddings(encoder, CLASSES).T).argmax(1))


def test_with_soft_targets_alone_at_temperature_1_there_is_nothing_to_learn_yet(batch):
    def gradient(temperature: float) -> float:
        learner = EndToEnd(CLASSES, soft_share=1.0, temperature=temperature, image_size=64)
        net = learner.build()
        learner.losses(net, batch)["loss"].backward()
        found = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        return float(torch.cat([grad.flatten() for grad in found]).norm())

    assert gradient(1.0) < 1e-4
    assert gradient(2.0) > 1e-2


def test_texts_and_teacher_stay_as_they_are_and_the_result_opens(tmp_path):
    context = StepContext(store(tmp_path / "run", pictures(24, "studio", 1)), "classifier")
    train = Train(LEARNER, Fit(8, 3e-4), captions_per_batch=8, group="image")
    train.check()
    train.run(context)
    classifier = load_classifier(context.weights())
    before = open_encoder("builtin:clip")
    assert torch.allclose(classifier.encoder.texts(["a red circle"]), before.texts(["a red circle"]), atol=1e-6)
    images = [Image.open(io.BytesIO(image)) for _, image in pictures(6, "studio", 1)]
    assert not torch.allclose(classifier.encoder.images(images), before.images(images), atol=1e-3)
    answers = classifier(images)
    assert (
        np.mean([answer.label == label for answer, (label, _) in zip(answers, pictures(6, "studio", 1), strict=True)])
        >= 5 / 6
    )
    assert (context.weights() / "encoder" / "model.safetensors").exists()


def test_a_label_of_no_class_is_named(batch):
    with pytest.raises(InputError, match="'red cube' is not among the classes"):
        LEARNER.losses(LEARNER.build(), {**batch, "label": ["red cube"] * 12})
