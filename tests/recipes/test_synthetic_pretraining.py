"""The whole line at its smallest, and that every flag reaches its stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie import pairs
from reverie.errors import InputError, ModelError
from reverie.models.backbones import build_backbone, load_backbone, save_backbone
from reverie.recipes.synthetic_pretraining import SCALES
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe, plan_again
from reverie.store import results, tables

NAMES = "red circle\nblue square\ngreen star\npink ring\n"
SMALL: dict[str, Any] = {
    "num_images": 16, "per_caption": 2, "sampler_steps": 1, "batch_size": 8, "train_steps": 2, "transfer_steps": 2,
    "transfer_batch": 8, "seeds": (0,), "eval_data": "smallworld:street:128:64", "writer": "builtin:writer",
}  # fmt: skip


def synthetic_pretraining(scale: str = "tiny", **flags: Any) -> Plan:
    return call_recipe("synthetic_pretraining", {"scale": scale, **flags})


def stage(plan: Plan, name: str) -> Any:
    return plan.step(name).stage


@pytest.fixture
def names(tmp_path: Path) -> Path:
    (tmp_path / "classes.txt").write_text(NAMES, encoding="utf-8")
    return tmp_path / "classes.txt"


def test_the_whole_line_with_two_methods(names: Path, tmp_path: Path) -> None:
    plan = call_recipe("synthetic_pretraining", SMALL | {"classes": names, "methods": ("supervised", "mocov2")})
    plan = dataclasses.replace(plan, unit_size=4)
    assert run(plan, tmp_path / "run") is True
    found = results.select(results.read(tmp_path / "run" / "results.jsonl"), metric="top1")
    assert {row.arm for row in found} == {"supervised-on-painted-images", "mocov2-on-painted-images", "untrained"}
    for row in found:
        assert (row.num_test, row.num_classes, row.details["steps"], row.num_train) == (64, 64, 2, 128)
    (moco,) = results.select(found, method="mocov2", images="painted")
    assert moco.label == "MoCo v2 on painted images"
    for step in ("supervised-on-painted-images-0", "mocov2-on-painted-images-0", "transfer.untrained-0"):
        load_backbone(tmp_path / "run" / "weights" / step)
    assert tables.count(tmp_path / "run" / "pairs.lance", "kept") == 16
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "MoCo v2 on painted images" in page
    assert "loss of transfer" in page
    assert "not complete" not in page


def test_a_plan_is_made_again_from_its_folder(names: Path, tmp_path: Path) -> None:
    arguments = {"classes": names, "methods": ("mae",), "backbone": "vit-tiny", "eval_data": "smallworld:street:128:64"}
    plan = call_recipe("synthetic_pretraining", arguments)
    (tmp_path / "run").mkdir()
    plan.settle(tmp_path / "run")
    assert plan_again(tmp_path / "run").fingerprints() == plan.fingerprints()


def test_as_many_images_of_more_classes(names: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("red star\nblue ring\n", encoding="utf-8")
    narrow = synthetic_pretraining(classes=names, num_images=240, writer="builtin:writer")
    wide = synthetic_pretraining(classes=names, more_classes=more, num_images=240, writer="builtin:writer")
    for plan, classes in ((narrow, 4), (wide, 6)):
        assert plan.num_captions * stage(plan, "paint").per_caption == 240
        train = stage(plan, "supervised-on-painted-images-0")
        assert len(train.learner.classes) == classes
        assert (train.limit, train.group, train.where) == (240, "image", "kept")
    uneven = synthetic_pretraining(classes=names, num_images=242, writer="builtin:writer")
    assert uneven.num_captions * 2 == 248
    assert stage(uneven, "supervised-on-painted-images-0").limit == 242
    few = synthetic_pretraining(
        classes=names, num_images=242
    )  # eight templates for each class, each four times or less
    assert (few.num_captions, stage(few, "paint").per_caption) == (124, 2)
    assert (stage(few, "captions").num_templates, stage(few, "captions").repeat) == (8, True)
    more.write_text("red star\nblue square\n", encoding="utf-8")
    with pytest.raises(InputError, match="'blue square' twice"):
        synthetic_pretraining(classes=names, more_classes=more)


def test_every_flag_reaches_its_stage(names: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    torch.manual_seed(0)
    save_backbone(build_backbone("vit-tiny", 32), start)
    plan = synthetic_pretraining(
        classes=names, writer="builtin:writer", guidance=4.0, sampler_steps=7, methods=("mae", "supervised"), backbone="vit-tiny",
        start=str(start), train_steps=9, batch_size=20, lr=0.5, precision="bf16", eval_data="somewhere", transfer_shots=3, transfer_steps=11,
        transfer_batch=5, transfer_lr=0.25, frozen_batchnorm=True, seeds=(3, 4), seed=8, view_px=24, image_px=48,
    )  # fmt: skip
    paint, mae, transfer = stage(plan, "paint"), stage(plan, "mae-on-painted-images-4"), stage(plan, "transfer")
    assert (paint.guidance, paint.steps) == (4.0, 7)
    assert (mae.fit.steps, mae.fit.lr, mae.fit.precision, mae.captions_per_batch, mae.size_px, mae.seed) == (
        9, 0.5, "bf16", 20, 48, 4,
    )  # fmt: skip
    assert (mae.learner.backbone, mae.learner.image_size, mae.learner.start) == ("vit-tiny", 24, start)
    assert (transfer.fit.steps, transfer.fit.lr, transfer.batch, transfer.photos, transfer.image_size) == (
        11, 0.25, 5, "somewhere", 24,
    )  # fmt: skip
    arms = [
        (arm.id, arm.seed, arm.step, *map(arm.factors.get, ("start", "real", "frozen_batchnorm")))
        for arm in transfer.arms
    ]
    assert arms == [
        *(
            (f"{method}-on-painted-images", seed, f"{method}-on-painted-images-{seed}", None, 3, True)
            for seed in (3, 4)
            for method in ("mae", "supervised")
        ),
        *(("start", seed, None, start, 3, True) for seed in (3, 4)),
        *(("untrained", seed, None, None, 3, None) for seed in (3, 4)),
    ]
    assert plan.seed == 8
    assert set(plan.step("transfer").inputs) == {arm.step for arm in transfer.arms if arm.step}


def test_real_photos_are_learned_from_beside_painted_ones(names: Path, tmp_path: Path) -> None:
    rows = [
        {
            "pair_id": f"{n}-000",
            "caption_id": str(n),
            "copy": 0,
            "unit": 0,
            "label": label,
            "image": b"",
            "status": "ok",
        }
        for n, label in enumerate(("owl", "cat", None, "owl"))
    ]
    tables.append_unit(tmp_path / "photos" / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    plan = synthetic_pretraining(
        classes=names, writer="builtin:writer", real_store=tmp_path / "photos", methods=("supervised", "mocov2"), eval_data="there", seeds=(2,)
    )  # fmt: skip
    painted, real = (stage(plan, f"supervised-on-{what}-2") for what in ("painted-images", "real-photos"))
    assert real.learner.classes == ("cat", "owl")
    assert real.where.endswith("label is not null")
    assert real == dataclasses.replace(painted, learner=real.learner, store=tmp_path / "photos", where=real.where)
    moco = stage(plan, "mocov2-on-real-photos-2")
    assert moco.learner == stage(plan, "mocov2-on-painted-images-2").learner
    assert "label" not in moco.where
    assert [arm.label for arm in stage(plan, "transfer").arms] == [
        "supervised on painted images",
        "supervised on real photos",
        "MoCo v2 on painted images",
        "MoCo v2 on real photos",
        "untrained network",
    ]


def test_paper_has_the_published_numbers_of_images(names: Path) -> None:
    plan = synthetic_pretraining(
        "paper", classes=names, writer="builtin:writer", eval_data="cifar100", methods=("supervised", "mocov2")
    )
    paint, moco = stage(plan, "paint"), stage(plan, "mocov2-on-painted-images-0").learner
    assert plan.num_captions * paint.per_caption == 1_200_000
    assert (paint.guidance, paint.per_caption) == (3.0, 10)
    assert (moco.queue, moco.momentum, moco.temperature, moco.head_out, moco.backbone) == (
        65_536,
        0.999,
        0.2,
        128,
        "resnet-50",
    )
    assert "confidence" not in {step.name for step in plan.steps}  # no filter by CLIP
    for config in SCALES.values():
        assert config.learners.queue % config.batch_size == 0


def test_what_cannot_be_is_refused_before_any_work(names: Path, tmp_path: Path) -> None:
    def refused(said: str, kind: type[Exception] = InputError, **flags: Any) -> None:
        with pytest.raises(kind, match=said) as caught:
            run(call_recipe("synthetic_pretraining", SMALL | {"classes": names} | flags), tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run" / "captions.lance").exists()

    one = tmp_path / "one.txt"
    one.write_text("red circle\n", encoding="utf-8")
    refused("two classes or more", classes=one)
    refused("--batch-size 64 is more than the 16 --num-images", batch_size=64)
    refused(
        "8 captions of --per-caption 2 make fewer than --num-images 640",
        writer=None,
        num_images=640,
        per_class=2,
        templates=one_sentence(tmp_path),
    )
    refused("--methods wants one", methods=())
    refused("names one seed twice", seeds=(1, 1))
    refused("views of --view-px 128", view_px=128)
    refused("plain ViT, and resnet-tiny is a ResNetModel", methods=("mae",))
    refused("queue of 512 keys is not a multiple of a batch of 12", methods=("mocov2",), batch_size=12)
    save_backbone(build_backbone("vit-tiny", 32), tmp_path / "vit")
    refused("vit is a ViTModel, which cannot start a ResNetModel", ModelError, start=str(tmp_path / "vit"))
    refused("no train photos", eval_data=str(tmp_path / "none"))
    refused(r"no pairs\.lance", real_store=tmp_path / "none")
    refused("--scale paper needs --classes FILE, and --eval-data FOLDER", scale="paper", eval_data=None)


def one_sentence(folder: Path) -> Path:
    (folder / "sentences.txt").write_text("a {class}\na big {class}\n", encoding="utf-8")
    return folder / "sentences.txt"
