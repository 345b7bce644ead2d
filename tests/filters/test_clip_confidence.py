import numpy as np
import pytest

from reverie.errors import InputError, ModelError
from reverie.filters.clip_confidence import ClipConfidence
from reverie.models.encoder import open_encoder
from tests.filters.conftest import noise, pair_rows

CLASSES = ("red circle", "cat", "dog")
TEMPLATES = ("a photo of a {class}.", "the {class}")


def scored(stage, context, rows):
    return stage.open(context)(rows.select(["pair_id", "unit", *stage.reads]))["clip_confidence"].to_pylist()


def test_softmax_over_averaged_prompts_by_hand(context, tiny_clip):
    encoder = open_encoder(str(tiny_clip))
    pictures = [noise(seed) for seed in range(3)]
    prototypes = []
    for name in CLASSES:
        mean = np.mean(
            [encoder.texts([template.replace("{class}", name)])[0].numpy() for template in TEMPLATES], axis=0
        )
        prototypes.append(mean / np.linalg.norm(mean))
    logits = encoder.images(pictures).numpy() @ np.array(prototypes).T * encoder.logit_scale
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    stage = ClipConfidence(CLASSES, TEMPLATES, str(tiny_clip))
    found = [scored(stage, context, pair_rows(pictures, labels=[name] * 3)) for name in CLASSES]
    np.testing.assert_allclose(np.array(found).T, expected, rtol=1e-4)
    np.testing.assert_allclose(np.sum(found, axis=0), 1, rtol=1e-5)


def test_null_without_label_or_image(context, tiny_clip):
    stage = ClipConfidence(CLASSES, model=str(tiny_clip))
    assert scored(stage, context, pair_rows([noise(1), None], labels=[None, "cat"])) == [None, None]


def test_label_that_is_no_class(context, tiny_clip):
    stage = ClipConfidence(CLASSES, model=str(tiny_clip))
    with pytest.raises(InputError, match="'horse' is not among the 3 classes"):
        scored(stage, context, pair_rows([noise(1)], labels=["horse"]))


def test_bad_templates_and_classes(context):
    with pytest.raises(InputError, match=r"must hold \{class\}"):
        ClipConfidence(CLASSES, ("a photo",)).open(context)
    with pytest.raises(InputError, match="twice"):
        ClipConfidence(("cat", "cat")).open(context)


def test_an_encoder_that_is_not_there_is_told_before_any_work(tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        ClipConfidence(("cat", "dog"), model=str(tmp_path)).check()
