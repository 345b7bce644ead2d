import dataclasses
from pathlib import Path
from typing import Any

import pytest

from reverie.errors import InputError, ReverieError
from reverie.recipes.stablerep import SCALES
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.store.results import read

ANY = {"painter": "owner/painter", "clip": "owner/clip"}  # Hub ids: nothing is looked up to make a plan


def stablerep(scale: str = "tiny", **flags: Any) -> Plan:
    return call_recipe("stablerep", {"scale": scale, **flags})


def stage(plan: Plan, name: str) -> object:
    return plan.step(name).stage


def test_both_arms_see_the_same_images_steps_and_views() -> None:
    for scale in ("tiny", "small"):
        plan = stablerep(scale, **ANY)
        ours, simclr = stage(plan, "stablerep-0"), stage(plan, "simclr-0")
        assert (
            ours.captions_per_batch * ours.learner.images_per_caption
            == simclr.captions_per_batch * simclr.learner.crops
        )
        assert (ours.fit, ours.where, ours.seed) == (simclr.fit, simclr.where, simclr.seed)
        assert (ours.learner.crops, simclr.learner.images_per_caption) == (1, 1)
        kept = {"images_per_caption": 0, "crops": 0}
        assert vars(ours.learner) | kept == vars(simclr.learner) | kept  # all else equal


def test_paper_is_as_published(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("".join(f"dog {n}\n" for n in range(1376)))
    plan = stablerep("paper", captions=tmp_path / "captions.txt", eval_data="imagenet")
    paint, train = stage(plan, "paint"), stage(plan, "stablerep-0")
    assert (paint.model, paint.per_caption, paint.guidance, paint.steps, paint.scheduler, paint.store_px) == (
        "stable-diffusion-v1-5/stable-diffusion-v1-5", 10, 2.0, 50, "ddim", 256,
    )  # fmt: skip
    assert train.captions_per_batch * train.learner.images_per_caption == 8256
    assert (train.learner.backbone, train.learner.head_hidden, train.learner.head_out) == ("vit-b16", 4096, 256)
    assert (train.learner.temperature, train.fit.betas, train.fit.weight_decay) == (0.1, (0.9, 0.98), 0.1)
    assert train.fit.lr == pytest.approx(3.225e-3)
    assert "clip_score" not in {step.name for step in plan.steps}


def test_duplicates_may_stay() -> None:
    usual, plan = stablerep(), stablerep(duplicates=False)
    assert {step.name for step in usual.steps} - {step.name for step in plan.steps} == {"hash", "duplicates"}
    keep = next(step for step in plan.steps if step.name == "keep")
    assert keep.inputs == ("clip_score", "blank")
    assert "duplicate_of" not in keep.stage.rule  # type: ignore[attr-defined]


def test_paper_needs_what_we_cannot_make() -> None:
    with pytest.raises(InputError, match="--captions FILE, and --eval-data"):
        stablerep("paper")


def test_every_flag_reaches_its_stage() -> None:
    plan = stablerep(guidance=4.0, per_caption=7, per_batch=2, captions_per_batch=10, train_steps=9, lr=0.5, seeds=(3, 4), eval_data="x", seed=8, **ANY)  # fmt: skip
    paint, train = stage(plan, "paint"), stage(plan, "stablerep-4")
    assert (paint.guidance, paint.per_caption) == (4.0, 7)
    assert (train.captions_per_batch, train.learner.images_per_caption, train.fit.steps, train.fit.lr) == (
        10,
        2,
        9,
        0.5,
    )
    assert (stage(plan, "probe").photos, plan.seed) == ("x", 8)
    assert {step.name for step in plan.steps if step.name.startswith("simclr")} == {"simclr-3", "simclr-4"}


def test_arms_are_probed_beside_untrained_and_pixels() -> None:
    arms = [(arm.id, arm.label, arm.step) for arm in stage(stablerep(seeds=(0,), **ANY), "probe").arms]
    assert arms == [
        ("stablerep", "StableRep", "stablerep-0"),
        ("simclr", "SimCLR", "simclr-0"),
        ("untrained", "untrained network", None),
        ("pixels", "raw pixels", None),
    ]


def test_the_seeds_of_an_arm_stand_together() -> None:
    arms = [(arm.id, arm.seed) for arm in stage(stablerep(seeds=(3, 4), **ANY), "probe").arms]
    assert arms[:4] == [("stablerep", 3), ("stablerep", 4), ("simclr", 3), ("simclr", 4)]


@pytest.mark.parametrize("flags", [{"per_batch": 1}, {"per_batch": 3, "captions_per_batch": 5}])
def test_batches_that_cannot_be(flags: dict[str, int]) -> None:
    with pytest.raises(InputError, match="per-batch"):
        stablerep(**flags, **ANY)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"per_batch": 5, "per_caption": 4}, "cannot be drawn from --per-caption 4"),
        ({"keep_best": 0.0}, "share to keep"),
        ({"train_steps": 0}, "1 step or more"),
        ({"lr": -1.0}, "lr -1.0"),
        ({"seeds": ()}, "at least one"),
        ({"sampler_steps": 0}, "1 or more"),
    ],
)
def test_a_slip_is_told_before_any_work(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        stablerep(**flags, **ANY)


def test_a_share_to_keep_needs_a_score() -> None:
    with pytest.raises(InputError, match="--clip"):
        stablerep(painter="owner/painter", keep_best=0.5)


def test_the_rate_grows_with_the_views_unless_it_is_given() -> None:
    usual = stage(stablerep(**ANY), "simclr-0").fit.lr
    assert stage(stablerep(captions_per_batch=64, **ANY), "simclr-0").fit.lr == pytest.approx(2 * usual)
    assert stage(stablerep(captions_per_batch=64, lr=0.5, **ANY), "simclr-0").fit.lr == 0.5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"backbone": "resnet-tny"}, "no backbone"),
        ({"eval_data": "no-such-folder"}, "no train photos"),
        ({"eval_data": "smallworld:moon:10:10"}, "moon"),
        ({"real_store": Path("nowhere")}, "no pairs.lance"),
    ],
)
def test_what_the_last_steps_need_is_looked_for_first(tmp_path: Path, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(ReverieError, match=said):
        run(stablerep(**flags), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_scale_has_enough_captions_for_simclr() -> None:
    for name in ("tiny", "small"):
        config = SCALES[name]
        assert config.views // 2 <= 0.9 * 64 * config.text.per_class


def test_few_captions_with_many_copies_feed_simclr_images_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    flags = {"classes": tmp_path / "classes.txt", "per_class": 1, "per_caption": 100, "per_batch": 10}
    plan = stablerep(captions_per_batch=2, **flags, **ANY)
    assert stage(plan, "stablerep-0").group == "caption"
    assert stage(plan, "simclr-0").group == "image"
    assert plan.unit_size == 1


def test_more_arms_differ_from_the_two_in_one_thing() -> None:
    plan = stablerep(real_store=Path("photos"), controls=True, per_caption=5, keep_best=0.9, **ANY)
    ours, simclr = stage(plan, "stablerep-1"), stage(plan, "simclr-1")
    real = stage(plan, "simclr-on-real-photos-1")
    assert real.limit == round(64 * 2 * 5 * 0.9)
    assert real == dataclasses.replace(simclr, store=Path("photos"), where=real.where, limit=real.limit, min_images=0)
    assert stage(plan, "images-dealt-at-random-1") == dataclasses.replace(ours, group="random")
    crops = stage(plan, "crops-of-one-image-1").learner
    assert (crops.crops, crops.images_per_caption) == (ours.learner.images_per_caption, 1)


def test_the_whole_line_with_the_builtin_models(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("red circle\nblue square\ngreen star\npink ring\n")
    plan = stablerep(
        classes=tmp_path / "classes.txt",
        writer="builtin:writer",
        sampler_steps=2,
        per_class=3,
        per_caption=3,
        per_batch=2,
        captions_per_batch=4,
        train_steps=2,
        seeds=(0,),
        eval_data="smallworld:street:128:64",
    )
    plan = dataclasses.replace(plan, unit_size=6)
    assert run(plan, tmp_path / "a run") is True
    found = {(record.arm, record.metric) for record in read(tmp_path / "a run" / "results.jsonl")}
    assert {(name, "top1") for name in ("stablerep", "simclr", "untrained", "pixels")} <= found
    page = (tmp_path / "a run" / "report.html").read_text(encoding="utf-8")
    assert "StableRep" in page
    assert "red circle" in page
