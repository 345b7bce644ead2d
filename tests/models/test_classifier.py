"""A classifier folder with a cache of shots, against Tip-Adapter written with loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from reverie.errors import InputError, ModelError
from reverie.models.classifier import Cache, Classifier, load_classifier, save_classifier
from reverie.models.encoder import open_encoder

CLASSES = ("cat", "dog", "owl")


def rows(num, seed, d=8):
    return F.normalize(torch.randn(num, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def slow(features, keys, labels, weight, bias, alpha, beta):
    """arXiv:2111.03930: phi(f F^T) L + f W^T with phi(x) = exp(-beta (1 - x)), one number at a time."""
    logits = []
    for f in features.tolist():
        row = []
        for number in range(len(weight)):
            total = sum(a * b for a, b in zip(f, weight[number].tolist(), strict=True)) + float(bias[number])
            for key, label in zip(keys.tolist(), labels.tolist(), strict=True):
                cosine = sum(a * b for a, b in zip(f, key, strict=True))
                total += alpha * math.exp(-beta * (1 - cosine)) * (1.0 if label == number else 0.0)
            row.append(total)
        logits.append(row)
    return torch.tensor(logits)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 5.5), (2.5, 1.0), (0.0, 5.5)])
def test_votes_against_loops(alpha, beta):
    keys, labels, features = rows(7, 0), torch.tensor([0, 2, 2, 0, 0, 2, 0]), rows(5, 1)
    weight, bias = 10 * rows(3, 2), torch.tensor([0.1, -0.2, 0.0])
    classifier = Classifier(CLASSES, None, weight, bias, Cache(keys, labels, alpha, beta))
    expected = slow(features, keys, labels, weight, bias, alpha, beta)
    torch.testing.assert_close(classifier.logits(3 * features), expected, atol=1e-4, rtol=1e-4)
    if alpha == 0:
        torch.testing.assert_close(
            classifier.logits(features), Classifier(CLASSES, None, weight, bias).logits(features)
        )


def test_a_shot_itself_gets_the_whole_vote_and_nothing_goes_to_a_class_without_shots():
    keys, labels = rows(4, 0), torch.tensor([0, 0, 2, 2])
    votes = Cache(keys, labels, alpha=1.0, beta=50.0).votes(keys, 3)
    assert (votes.argmax(1) == labels).all()
    assert (votes.max(1).values >= 1 - 1e-5).all()
    assert (votes[:, 1] == 0).all()


def test_the_folder_gives_back_the_same_answers(tmp_path, tiny_clip):
    encoder = open_encoder(str(tiny_clip))
    d = encoder.texts(["a"]).shape[1]
    cache = Cache(rows(6, 0, d), torch.tensor([0, 1, 2] * 2), alpha=2.0, beta=3.0)
    save_file({"weight": rows(3, 1, d), "bias": torch.zeros(3)}, tmp_path / "begin.safetensors")
    about = {"classes": CLASSES, "encoder": str(tiny_clip), "revision": encoder.revision, "templates": ["{class}"]}
    save_classifier(tmp_path / "cached", tmp_path / "begin.safetensors", about, cache)
    save_classifier(tmp_path / "plain", tmp_path / "begin.safetensors", about)
    features = rows(5, 2, d)
    cached, plain = (load_classifier(tmp_path / name) for name in ("cached", "plain"))
    own = Classifier(CLASSES, encoder, rows(3, 1, d), torch.zeros(3), cache)
    torch.testing.assert_close(cached.logits(features), own.logits(features))
    assert plain.cache is None
    assert (cached.logits(features) - plain.logits(features)).abs().max() > 0.01
    assert not list(tmp_path.glob("*.tmp"))
    (tmp_path / "cached" / "cache.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"cache.safetensors is damaged"):
        load_classifier(tmp_path / "cached")
    (tmp_path / "cached" / "cache.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot read .*cache.safetensors"):
        load_classifier(tmp_path / "cached")


def test_what_is_no_classifier_or_no_picture_is_refused(tmp_path, tiny_clip):
    encoder = open_encoder(str(tiny_clip))
    d = encoder.texts(["a"]).shape[1]
    save_file({"weight": rows(3, 1, d), "bias": torch.zeros(3)}, tmp_path / "begin.safetensors")
    about = {"classes": CLASSES, "encoder": str(tiny_clip), "revision": encoder.revision, "templates": ["{class}"]}
    save_classifier(tmp_path / "whole", tmp_path / "begin.safetensors", about)
    classifier = load_classifier(tmp_path / "whole")
    with pytest.raises(InputError, match="give a list"):
        classifier("photo.jpg")
    with pytest.raises(InputError, match="no pixels"):
        classifier([np.zeros((0, 4, 3), np.uint8)])
    save_classifier(tmp_path / "short", tmp_path / "begin.safetensors", about | {"classes": CLASSES[:2]})
    with pytest.raises(ModelError, match="does not fit the classes"):
        load_classifier(tmp_path / "short")
    for damaged in ("{}", "[]", '{"classes": []}'):
        (tmp_path / "whole" / "classifier.json").write_text(damaged)
        with pytest.raises(ModelError, match=r"classifier.json is damaged"):
            load_classifier(tmp_path / "whole")


def test_the_cache_is_part_of_an_onnx_file(tmp_path, tiny_clip):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from reverie.models.onnx import export_onnx

    encoder = open_encoder(str(tiny_clip))
    d = encoder.texts(["a"]).shape[1]
    cache = Cache(rows(6, 0, d), torch.tensor([0, 1, 2] * 2), alpha=5.0, beta=3.0)
    classifier = Classifier(CLASSES, encoder, rows(3, 1, d), torch.zeros(3), cache)
    assert export_onnx(classifier, tmp_path / "cached.onnx") < 1e-4
