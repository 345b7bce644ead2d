"""The identities of the method, and a slow loss written from its formulas."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reverie.errors import InputError
from reverie.learn.classifier_tuning import (
    ClassifierTuning,
    FeatureBatches,
    LinearHead,
    soft_target_loss,
    starting_head,
)
from reverie.learn.fit import Fit, fit
from reverie.models.classifier import HEAD


@pytest.fixture
def start(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file({"weight": starting_head(torch.randn(5, 8), 20.0)}, tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def gradient(learner: ClassifierTuning, batch: dict[str, torch.Tensor]) -> float:
    net = learner.build()
    torch.autograd.backward(learner.losses(net, batch)["loss"])
    return math.sqrt(sum(float(weight.grad.square().sum()) for weight in net.parameters() if weight.grad is not None))


def test_the_starting_head_is_zero_shot_clip(start: Path) -> None:
    """Scale times cosine, class by class."""
    net = ClassifierTuning(start).build()
    images, rows = torch.randn(7, 8), load_file(start)["weight"]
    for image, logits in zip(images, net(images), strict=True):
        for row, logit in zip(rows, logits, strict=True):
            cosine = float(image @ row) / float(image.norm() * row.norm())
            assert float(logit.detach()) == pytest.approx(20.0 * cosine, abs=1e-4)


def test_all_soft_at_temperature_1_has_no_gradient_at_the_start_and_at_2_it_has(start: Path) -> None:
    batch = {"features": unit(16, 8), "labels": torch.arange(16) % 5}
    assert gradient(ClassifierTuning(start, soft_share=1.0, temperature=1.0), batch) < 1e-5
    assert gradient(ClassifierTuning(start, soft_share=1.0, temperature=2.0), batch) > 1e-2
    assert gradient(ClassifierTuning(start, soft_share=0.5, temperature=1.0), batch) > 1e-2


@pytest.mark.parametrize("decay_to", ["zero", "start"])
def test_the_loss_is_that_of_the_formulas(start: Path, decay_to: str) -> None:
    learner = ClassifierTuning(
        start, soft_share=0.3, temperature=1.7, synthetic_weight=0.8, real_weight=1.2, decay_to=decay_to
    )  # type: ignore[arg-type]
    net = learner.build()
    assert isinstance(net, LinearHead)
    with torch.no_grad():
        net.moved.add_(torch.randn_like(net.moved))
    batch = {
        "features": unit(4, 8), "labels": torch.tensor([0, 1, 2, 3]),
        "real_features": unit(3, 8), "real_labels": torch.tensor([4, 0, 1]),
    }  # fmt: skip
    weight, bias, first = net.parts()["weight"], net.parts()["bias"], load_file(start)["weight"]

    def logs(x: torch.Tensor) -> list[float]:
        scores = [float((x @ weight[c] + bias[c]).detach()) for c in range(5)]
        total = math.log(sum(math.exp(score) for score in scores))
        return [score - total for score in scores]

    painted = []
    for x, label in zip(batch["features"], batch["labels"].tolist(), strict=True):
        teacher = [math.exp(float(x @ first[c]) / 1.7) for c in range(5)]
        soft = -sum(t / sum(teacher) * log for t, log in zip(teacher, logs(x), strict=True))
        painted.append(0.3 * soft - 0.7 * logs(x)[label])
    real = [-logs(x)[y] for x, y in zip(batch["real_features"], batch["real_labels"].tolist(), strict=True)]
    expected = 0.8 * sum(painted) / 4 + 1.2 * sum(real) / 3
    assert float(learner.losses(net, batch)["loss"].detach()) == pytest.approx(expected, rel=1e-4)


def test_hard_pseudo_labels_are_the_teachers_first_choice() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    logs = student.log_softmax(1)
    expected = -sum(float(logs[row, int(teacher[row].argmax())]) for row in range(6)) / 6
    assert float(soft_target_loss(student, teacher, 2.0, hard=True)) == pytest.approx(expected, rel=1e-5)


def test_decay_pulls_the_bias_too_and_to_what_is_asked(start: Path, tmp_path: Path) -> None:
    """With a gradient of zero, only decay moves the head."""
    rows = unit(64, 8)
    batches = FeatureBatches(rows, torch.zeros(64, dtype=torch.int64), batch=64)
    first = load_file(start)["weight"]
    settings = Fit(steps=2, lr=0.1, weight_decay=0.1, schedule="constant")
    for decay_to, towards in (("zero", False), ("start", True)):
        learner = ClassifierTuning(start, soft_share=1.0, temperature=1.0, decay_to=decay_to)  # type: ignore[arg-type]
        net = learner.build()
        assert isinstance(net, LinearHead)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
        for weight in net.parameters():
            weight.grad = torch.zeros_like(weight)
        for _ in range(30):
            optimizer.step()
        moved = float((net.parts()["weight"] - first).norm().detach() / first.norm())
        assert (moved < 1e-6) is towards
        fitted, _ = fit(learner, batches, settings, tmp_path / decay_to, seed=0)
        learner.save(fitted, tmp_path)
        assert set(load_file(tmp_path / HEAD)) == {"weight", "bias"}


def test_tuning_learns_what_zero_shot_does_not_know(start: Path, tmp_path: Path) -> None:
    """Classes whose features lie elsewhere than their texts."""
    torch.manual_seed(1)
    centres, labels = unit(5, 8), torch.arange(200) % 5
    features = torch.nn.functional.normalize(centres[labels] + 0.2 * torch.randn(200, 8), dim=1)
    batches = FeatureBatches(features, labels, batch=50)
    learner = ClassifierTuning(start)
    before = learner.losses(learner.build(), next(batches.iterate(0)))["accuracy"]
    net, _ = fit(learner, batches, Fit(steps=20 * batches.per_epoch, lr=0.3, clip=1.0), tmp_path / "fit", seed=0)
    assert (net(features).argmax(1) == labels).float().mean() > max(0.9, float(before))


def test_every_row_comes_once_a_pass_and_a_batch_depends_on_its_position_only() -> None:
    batches = FeatureBatches(torch.arange(10.0).view(10, 1), torch.arange(10), batch=4, seed=3)
    seen = [int(x) for batch in itertools.islice(batches.iterate(0), 5) for x in batch["labels"]]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert next(batches.iterate(3))["labels"].tolist() == seen[12:16]


def test_fewer_shots_than_a_batch_come_whole_every_step() -> None:
    batches = FeatureBatches(torch.randn(100, 2), torch.zeros(100).long(), torch.randn(3, 2), torch.arange(3), 10, 32)
    for batch in itertools.islice(batches.iterate(0), 4):
        assert sorted(batch["real_labels"].tolist()) == [0, 1, 2]
        assert len(batch["labels"]) == 10
    assert batches.per_epoch == 10


def test_settings_that_cannot_be_are_refused(start: Path) -> None:
    with pytest.raises(InputError, match="soft_share"):
        ClassifierTuning(start, soft_share=1.5)
    with pytest.raises(InputError, match="temperature"):
        ClassifierTuning(start, temperature=0)
    with pytest.raises(InputError, match="nothing to tune on"):
        FeatureBatches(None, None)
