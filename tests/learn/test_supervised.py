import dataclasses
import json
import math

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification, DeiTConfig, DeiTModel

from reverie import stage
from reverie.errors import InputError, ModelError
from reverie.learn import views
from reverie.learn.fit import Fit, fit
from reverie.learn.supervised import Supervised
from reverie.models.backbones import build_backbone, load_backbone, represent, save_backbone
from tests.learn.conftest import WORDS

CLASSES = tuple(WORDS)
SMALL = Supervised(CLASSES, "resnet-tiny", 32)


def trained(learner, batches, folder, steps=20):
    result = fit(learner, batches, Fit(steps, 3e-3), folder, seed=0)
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return result.net, rows


def batchnorms(net):
    return {
        name: value.clone() for name, value in net.state_dict().items() if "running" in name or "num_batches" in name
    }


@pytest.mark.parametrize("backbone", ["resnet-tiny", "vit-tiny"])
def test_it_learns_and_opens_as_a_backbone_and_as_a_classifier(pictures, tmp_path, backbone):
    learner = dataclasses.replace(SMALL, backbone=backbone, min_area=0.5)
    net, rows = trained(learner, pictures(16, 1), tmp_path, 30)
    assert sum(row["loss"] for row in rows[-5:]) < 0.7 * sum(row["loss"] for row in rows[:5])
    learner.save(net, tmp_path / "weights")
    images = next(pictures(16, 1).iterate(90))["images"]
    public = AutoModelForImageClassification.from_pretrained(tmp_path / "weights").eval()
    with torch.no_grad():
        pixels = views.plain(images, 32)
        torch.testing.assert_close(public(pixel_values=pixels).logits, net(pixel_values=pixels).logits)
        rows_of_net = represent(net.base_model, images)
        torch.testing.assert_close(represent(load_backbone(tmp_path / "weights"), images), rows_of_net)
    assert [public.config.id2label[number] for number in range(len(CLASSES))] == list(CLASSES)


def test_any_transformers_backbone_can_be_trained(pictures, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    DeiTModel(DeiTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    learner = dataclasses.replace(SMALL, backbone=str(tmp_path))
    net = learner.build()
    learner.losses(net, next(pictures(4, 1).iterate(0)))["loss"].backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []
    learner.save(net, tmp_path / "weights")
    assert AutoModel.from_pretrained(tmp_path / "weights").config.model_type == "deit"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy_with_labels_joined_by_name(pictures, smoothing):
    """Slowly: minus the log of the softmax, against a target that gives ``smoothing`` of its weight to all classes alike."""
    batch = next(pictures(5, 2).iterate(0))  # two images of each of five captions, view-major
    order = tuple(reversed(CLASSES))
    learner = Supervised(order, "resnet-tiny", 32, augmentation="plain", label_smoothing=smoothing)
    net = learner.build().eval()
    named = learner.losses(net, batch)
    logits = net(pixel_values=views.plain(batch["images"], 32)).logits.tolist()
    total, right = 0.0, 0
    for row, logit in enumerate(logits):
        name = batch["label"][row % 5]
        log_sum = math.log(sum(math.exp(value) for value in logit))
        for number, value in enumerate(logit):
            target = (1 - smoothing) * (order[number] == name) + smoothing / len(order)
            total -= target * (value - log_sum)
        right += order[max(range(len(order)), key=logit.__getitem__)] == name
    assert float(named["loss"].detach()) == pytest.approx(total / len(logits), rel=1e-5)
    assert float(named["accuracy"]) == pytest.approx(right / len(logits))


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale(pictures, tmp_path):
    start = tmp_path / "start"
    net, _ = trained(SMALL, pictures(8, 1), tmp_path / "first", 3)
    SMALL.save(net, start)
    before = batchnorms(net)
    assert before["resnet.embedder.embedder.normalization.num_batches_tracked"] == 3

    frozen = dataclasses.replace(SMALL, start=start, frozen_batchnorm=True)
    found, _ = trained(frozen, pictures(8, 1), tmp_path / "frozen", 4)
    for name, value in batchnorms(found).items():
        assert torch.equal(value, before[name]), name
    scale = "resnet.embedder.embedder.normalization.weight"
    assert not torch.equal(found.state_dict()[scale], net.state_dict()[scale])

    free, _ = trained(dataclasses.replace(frozen, frozen_batchnorm=False), pictures(8, 1), tmp_path / "free", 4)
    assert any(not torch.equal(value, before[name]) for name, value in batchnorms(free).items())


def test_a_frozen_batch_norm_normalises_with_the_running_statistics(pictures):
    learner = dataclasses.replace(SMALL, frozen_batchnorm=True, augmentation="plain")
    batch = next(pictures(6, 1).iterate(0))
    torch.manual_seed(0)
    net = learner.build().train()
    loss = learner.losses(net, batch)["loss"]
    net.eval()
    torch.testing.assert_close(loss, dataclasses.replace(learner, frozen_batchnorm=False).losses(net, batch)["loss"])


def test_it_begins_from_the_weights_given_and_they_count_by_content(pictures, tmp_path):
    torch.manual_seed(1)
    source = build_backbone("resnet-tiny", 32)
    save_backbone(source, tmp_path / "one")
    learner = dataclasses.replace(SMALL, start=tmp_path / "one")
    for name, value in learner.build().base_model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "one").rename(tmp_path / "elsewhere" / "one")
    moved = dataclasses.replace(SMALL, start=tmp_path / "elsewhere" / "one")
    first = stage.settings(moved)
    assert str(tmp_path) not in json.dumps(first)
    save_backbone(build_backbone("resnet-tiny", 32), tmp_path / "elsewhere" / "one")
    assert stage.settings(moved) != first


def test_slips_are_named(pictures, tmp_path):
    with pytest.raises(InputError, match="two classes or more"):
        Supervised(("cat",))
    with pytest.raises(InputError, match="differs only by case"):
        Supervised(("cat", "Cat"))
    with pytest.raises(InputError, match="min_area 0"):
        Supervised(CLASSES, min_area=0)
    with pytest.raises(InputError, match="label_smoothing 1"):
        Supervised(CLASSES, label_smoothing=1.0)
    batch = next(pictures(4, 1).iterate(0))
    batch["label"] = ["red", "mauve", "red", "red"]
    with pytest.raises(InputError, match="not among the classes: mauve"):
        SMALL.losses(SMALL.build(), batch)
    with pytest.raises(InputError, match="some images have no label"):
        SMALL.check_labels(["red", None])


def test_weights_of_another_architecture_cannot_be_the_start(tmp_path):
    save_backbone(build_backbone("vit-tiny", 32), tmp_path / "vit")
    start = tmp_path / "vit"
    for learner, said in (
        (dataclasses.replace(SMALL, start=start), "vit is a ViTModel, which cannot start a ResNetModel"),
        (Supervised(CLASSES, "vit-tiny", 64, start=start), "another size of view"),
        (dataclasses.replace(SMALL, start=tmp_path / "none"), "none does not exist"),
    ):
        with pytest.raises(ModelError, match=said) as caught, torch.device("meta"):  # as Train.check builds it
            learner.build()
        assert "\n" not in str(caught.value)


def test_wrong_labels_are_drawn_anew_for_a_share_of_the_images_and_stay(pictures):
    batch = next(pictures(16, 2).iterate(0))
    learner = dataclasses.replace(SMALL, augmentation="plain", wrong_labels=1.0)
    net = learner.build().eval()  # so that its logits are the same at every visit

    def loss(learner):
        with torch.no_grad():
            return learner.losses(net, batch)["loss"].item()

    assert loss(learner) == loss(learner) != loss(dataclasses.replace(learner, wrong_labels=0.0))
    labels = [learner._maybe_wrong(0, f"pair-{number}") for number in range(3000)]
    assert all(labels.count(number) == pytest.approx(3000 / len(CLASSES), rel=0.2) for number in range(len(CLASSES)))
    some = dataclasses.replace(learner, wrong_labels=0.3)
    kept = sum(some._maybe_wrong(len(CLASSES), f"pair-{number}") == len(CLASSES) for number in range(3000))
    assert kept == pytest.approx(2100, rel=0.05)
    with pytest.raises(InputError, match="share"):
        dataclasses.replace(SMALL, wrong_labels=1.5)
