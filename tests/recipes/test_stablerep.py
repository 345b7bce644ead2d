import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reverie.errors import InputError, ReverieError
from reverie.models.encoder import open_backbone, open_encoder
from reverie.recipes.stablerep import SCALES, arms
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.settings import resolve
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
    assert stage(stablerep(captions_per_batch=32, **ANY), "simclr-0").fit.lr == pytest.approx(2 * usual)
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
    plan = stablerep(real_store=Path("photos"), controls=True, per_caption=7, keep_best=0.9, **ANY)
    ours, simclr = stage(plan, "stablerep-1"), stage(plan, "simclr-1")
    real = stage(plan, "simclr-on-real-photos-1")
    assert real.limit == round(64 * 0.9)  # as many as SimCLR has painted images
    photos = {"store": Path("photos"), "where": real.where, "min_images": 0, "max_images": 0}
    assert real == dataclasses.replace(simclr, limit=real.limit, **photos)
    several = stablerep(real_store=Path("photos"), per_caption=7, keep_best=0.9, one_image=(), **ANY)
    assert stage(several, "simclr-on-real-photos-1").limit == round(64 * 7 * 0.9)
    assert stage(plan, "images-dealt-at-random-1") == dataclasses.replace(ours, group="random")
    crops = stage(plan, "crops-of-one-image-1").learner
    assert (crops.crops, crops.images_per_caption) == (ours.learner.images_per_caption, 1)


def views(train: Any) -> int:
    """Of a step of training."""
    images = train.captions_per_batch * max(
        1, train.images_per_caption or getattr(train.learner, "images_per_caption", 1)
    )
    return images * getattr(train.learner, "crops", 1)


@pytest.mark.parametrize("scale", ["tiny", "small"])
@pytest.mark.parametrize("flags", [{}, {"crops": 2}, {"per_batch": 1, "crops": 4}])
def test_all_methods_see_the_same_images_steps_and_views(scale: str, flags: dict[str, int]) -> None:
    plan = stablerep(
        scale,
        arms=("stablerep", "simclr", "clip", "mae"),
        backbone="vit-tiny",
        one_image=(),
        per_class=8,
        **flags,
        **ANY,
    )
    arms = {name: stage(plan, f"{name}-0") for name in ("stablerep", "simclr", "clip", "mae")}
    wanted = SCALES[scale].per_batch * SCALES[scale].captions_per_batch * flags.get("crops", 1)
    if "per_batch" in flags:
        wanted //= SCALES[scale].per_batch
    assert {name: views(train) for name, train in arms.items()} == dict.fromkeys(arms, wanted)
    for field in ("where", "store", "min_images", "max_images", "limit", "size_px", "seed"):
        assert len({getattr(train, field) for train in arms.values()}) == 1, field
    assert {train.fit.steps for train in arms.values()} == {SCALES[scale].net.train_steps}
    assert {train.learner.backbone for train in arms.values()} == {"vit-tiny"}
    assert (
        arms["clip"].learner.text == stage(stablerep(text_tower=True, **ANY), "stablerep-plus-0").learner.text
        or scale != "tiny"
    )


def test_one_image_of_a_caption_is_for_those_that_are_told() -> None:
    everyone = {"arms": ("stablerep", "simclr", "clip", "mae")}
    for one_image in ((), ("simclr",), ("simclr", "clip", "mae")):
        plan = stablerep(**everyone, one_image=one_image, per_class=2, **ANY)
        found = {name: stage(plan, f"{name}-0").max_images for name in everyone["arms"]}
        assert found == {name: int(name in one_image) for name in found}
        labels = {arm.id: arm.label for arm in stage(plan, "probe").arms}
        assert labels["simclr"] == ("SimCLR" if "simclr" in one_image else "SimCLR, all images")
        assert labels["mae"] == ("MAE" if "mae" in one_image else "MAE, all images")
        assert labels["stablerep"] == "StableRep"
        factors = {arm.id: arm.factors.get("l") for arm in stage(plan, "probe").arms}
        assert [name for name, number in factors.items() if number == 1] == list(one_image)
    assert SCALES["tiny"].one_image == ("simclr",)
    assert SCALES["paper"].one_image == ("simclr", "clip", "mae")


def test_methods_are_chosen_and_probed() -> None:
    plan = stablerep(arms=("clip",), seeds=(0,), **ANY)
    assert [step.name for step in plan.steps if step.name.endswith("-0")] == ["clip-0"]
    assert [arm.id for arm in stage(plan, "probe").arms] == ["clip", "untrained", "pixels"]
    mae = stage(
        stablerep(arms=("mae",), per_batch=2, captions_per_batch=24, mae_lr=0.5, decoder_layers=3, **ANY), "mae-0"
    )
    assert (mae.fit.lr, mae.fit.betas, mae.fit.weight_decay, mae.learner.decoder_layers) == (0.5, (0.9, 0.95), 0.05, 3)


def test_few_captions_give_clip_several_images_of_each(tmp_path: Path) -> None:
    """A caption that were in a batch twice would be a negative of its own image."""
    (tmp_path / "classes.txt").write_text("".join(f"thing {n}\n" for n in range(5)))
    own = {
        "classes": tmp_path / "classes.txt",
        "per_class": 2,
        "eval_data": "photos",
        "arms": ("clip",),
        "painter": "owner/painter",
    }
    for per_caption, m, n, expected in ((8, 4, 10, (10, 4)), (8, 6, 4, (8, 3)), (8, 2, 4, (8, 1)), (8, 4, 4, (8, 2))):
        train = stage(stablerep(**own, per_caption=per_caption, per_batch=m, captions_per_batch=n), "clip-0")
        assert (train.captions_per_batch, train.images_per_caption or 1) == expected, (m, n)
        assert train.group == "caption"


def test_the_probes_flags_reach_it_and_paper_probes_as_published(tmp_path: Path) -> None:
    probe = stage(stablerep(protocol="sgd", probe_batch_norm=True, probe_augment=True, probe_epochs=3, **ANY), "probe")
    assert (probe.protocol, probe.batch_norm, probe.augment, probe.epochs) == ("sgd", True, True, 3)
    (tmp_path / "captions.txt").write_text("".join(f"dog {n}\n" for n in range(1376)))
    paper = {"captions": tmp_path / "captions.txt", "eval_data": "imagenet"}
    probe = stage(stablerep("paper", **paper), "probe")
    assert (probe.protocol, probe.augment, probe.epochs, probe.size_px, probe.resize_px) == ("sgd", True, 90, 224, 256)
    assert stage(stablerep("paper", protocol="logistic", **paper), "probe").augment is False
    with pytest.raises(InputError, match="belong to --protocol sgd"):
        stablerep(probe_batch_norm=True, **ANY)


def test_temperature_and_crops_reach_the_learners() -> None:
    plan = stablerep(contrast_temperature=0.2, crops=2, controls=True, **ANY)
    ours, simclr = stage(plan, "stablerep-0").learner, stage(plan, "simclr-0").learner
    assert (ours.temperature, simclr.temperature, ours.crops, simclr.crops) == (0.2, 0.2, 2, 2)
    assert stage(plan, "crops-of-one-image-0").learner.crops == 2 * SCALES["tiny"].per_batch
    assert stage(plan, "simclr-0").fit.lr == pytest.approx(2 * SCALES["tiny"].net.lr)


def test_views_are_of_the_small_world_or_as_published(tmp_path: Path) -> None:
    """In the small world shape is what counts and colour is the way out; what another painter paints is seen as published."""

    def seen(**flags: Any) -> list[tuple[float, float, float]]:
        plan = stablerep(**flags)
        learners = [stage(plan, name).learner for name in ("stablerep-0", "simclr-0")]
        return [(learner.min_area, learner.hue, learner.gray) for learner in learners]

    assert seen() == seen(scale="small") == [(0.5, 0.5, 0.4)] * 2
    assert seen(painter="mine/painter") == [(0.08, 0.1, 0.2)] * 2
    assert seen(painter="mine/painter", view_hue=0.3, view_gray=0.0) == [(0.08, 0.3, 0.0)] * 2
    (tmp_path / "captions.txt").write_text("".join(f"dog {n}\n" for n in range(1376)))
    assert seen(scale="paper", captions=tmp_path / "captions.txt", eval_data="photos") == [(0.08, 0.1, 0.2)] * 2


def test_captions_may_be_sentences_of_class_names() -> None:
    plan = stablerep(words="builtin:words")
    assert type(stage(plan, "captions")).__name__ == "WordToSentence"
    assert stage(plan, "captions").count == 64


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"arms": ()}, "--arms needs at least one value"),
        ({"arms": ("clip", "clip")}, "--arms clip clip names one twice"),
        ({"arms": ("stablerep",), "real_store": Path("x")}, "SimCLR, CLIP or MAE on photos"),
        ({"crops": 0}, "--crops 0"),
        ({"contrast_temperature": 0.0}, "--contrast-temperature"),
        ({"probe_epochs": 0}, "--probe-epochs 0"),
        ({"probe_epochs": 5}, "--probe-epochs belongs to --protocol sgd"),
        ({"one_image": ("mae",)}, "--one-image mae says what MAE learns from, which --arms does not name"),
        ({"contrast_temperature": float("inf")}, "numbers above 0"),
        ({"view_min_area": 0.0}, "--view-min-area and --view-gray are shares"),
        ({"view_gray": 1.5}, "--view-min-area and --view-gray are shares"),
        ({"view_hue": 0.6}, "--view-hue 0.6"),
        ({"lr": float("inf")}, "lr inf must be a number above 0"),
        ({"images_from": Path("nowhere")}, "nowhere holds no pairs.lance"),
        ({"mix": ("short=0.5", "long=0.5"), "text_tower": True}, "--mix reads captions that stand beside images"),
        ({"mix": ("short=0.5",), "text_tower": True}, "add up to 0.5, and must add up to 1"),
        ({"mix": ("alt",), "images_from": Path("nowhere")}, "--text-tower, or to clip among --arms"),
        ({"images_from": Path("nowhere"), "guidance": 4.0}, "--guidance is about how images are made"),
        ({"images_from": Path("nowhere"), "words": "builtin:words"}, "--words is about how images are made"),
        ({"images_from": Path("nowhere"), "keep_best": 0.5}, "--keep-best is about how images are made"),
    ],
)
def test_more_slips_are_told_before_any_work(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        stablerep(**flags)


def test_mae_on_a_network_without_patches_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plain ViT, and resnet-tiny is a ResNetModel; use vit-tiny"):
        run(stablerep(arms=("mae",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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
    learn_again(tmp_path)
    found = {(record.arm, record.metric) for record in read(tmp_path / "a run" / "results.jsonl")}
    assert {(name, "top1") for name in ("stablerep", "simclr", "untrained", "pixels")} <= found
    page = (tmp_path / "a run" / "report.html").read_text(encoding="utf-8")
    assert "StableRep" in page
    assert "red circle" in page


def learn_again(folder: Path) -> None:
    """CLIP and MAE, in a second run, from what the first one painted; the probe on crops, with batch norm."""
    again = stablerep(
        images_from=folder / "a run", arms=("clip", "mae"), backbone="vit-tiny", per_batch=2, captions_per_batch=4, train_steps=2,
        seeds=(0,), eval_data="smallworld:street:128:64", protocol="sgd", probe_batch_norm=True, probe_augment=True, probe_epochs=2,
    )  # fmt: skip
    assert [step.name for step in again.steps] == ["clip-0", "mae-0", "probe", "page"]
    assert stage(again, "clip-0").where == "kept"
    assert run(again, folder / "again") is True
    assert not (folder / "again" / "pairs.lance").exists()
    found = {record.arm for record in read(folder / "again" / "results.jsonl") if record.metric == "top1"}
    assert found == {"clip", "mae", "untrained", "pixels"}
    weights = folder / "again" / "weights"
    assert open_encoder(str(weights / "clip-0" / "dual_encoder")).texts(["a red circle"]).shape == (1, 128)
    assert open_backbone(str(weights / "mae-0")).features(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 128)
    assert "MAE" in (folder / "again" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="12 captions, too few for batches of --captions-per-batch 40"):
        stablerep(images_from=folder / "a run", captions_per_batch=40)


def test_a_mix_of_captions_is_read_by_what_reads_captions(tmp_path: Path) -> None:
    """Beside the images of a run, as reverie recaption writes them."""
    from tests.recaption.test_mix import HALVES, fill

    config = resolve(
        SCALES["tiny"],
        {
            "images_from": fill(tmp_path), "arms": ("stablerep", "clip"), "text_tower": True, "per_batch": 1, "crops": 2,
            "captions_per_batch": 4, "mix": ("short=0.5", "long=0.5"),
        },
    )  # fmt: skip
    assert {arm.id: train.mix for arm, train in arms(config).items()} == {
        "stablerep": None, "clip": HALVES, "stablerep-plus": HALVES,
    }  # fmt: skip
