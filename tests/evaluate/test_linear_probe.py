import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from reverie import seeds
from reverie.arms import Arm, pixels, untrained
from reverie.datasets.labelled import attributes, load_photos
from reverie.errors import InputError, ModelError
from reverie.evaluate.features import crop_box, extract, extract_crops, of_pixels, of_untrained, of_weights
from reverie.evaluate.heads import logistic_heads
from reverie.evaluate.linear_probe import LinearProbe, ProbeSpeed
from reverie.evaluate.significance import unpack
from reverie.models.backbones import build_backbone, save_backbone
from reverie.smallworld.scene import class_names
from reverie.stage import StepContext
from reverie.store import results

from ..records import result

CIFAR = Path(__file__).parents[2].parent / "shared" / "data" / "cifar10"


@pytest.fixture
def context(tmp_path):
    context = StepContext(tmp_path / "run", "probe", inputs=("learn-0",))
    torch.manual_seed(0)
    context.weights("learn-0").mkdir(parents=True)
    save_backbone(build_backbone("resnet-tiny", 32), context.weights("learn-0"))
    return context


def test_the_job_measures_every_arm_and_leaves_no_line_twice(context, photo_folder):
    arms = (Arm("mine", "mine", 3, "learn-0"), *untrained((0, 1)), pixels())
    job = LinearProbe(arms, str(photo_folder), size_px=16, pixels_px=4, neighbours=5)
    job.run(context)
    first = results.read(context.results)
    job.run(context)
    again = results.read(context.results)
    keys = [(r.arm, r.seed, r.metric) for r in again]
    assert keys == [(arm.id, arm.seed, m) for arm in arms for m in ("top1", "mean_per_class", "knn_top1")]
    assert [r.value for r in first] == [r.value for r in again]

    first, *_ = results.select(again, arm="pixels")
    assert first.value == 1.0  # the classes are colours
    assert first.details["num_features"] == 4 * 4 * 3
    assert (first.num_train, first.num_test, first.num_classes) == (60, 30, 3)
    assert first.split == "test"
    assert unpack(first).tolist() == [True] * 30
    assert [r.metric for r in again if r.correct] == ["top1"] * len(arms)
    assert [r.weights for r in again[::3]] == ["learn-0", None, None, None]


TARGETS = attributes("smallworld:street", class_names())
TOLD = {"top1", "mean_per_class", "knn_top1", "top1_shape", "knn_top1_shape", "top1_colour", "knn_top1_colour"}


def hand_made(describe, per_class, seed):
    """Features (n, d) of scenes of every class, and their classes."""
    labels = torch.arange(64).repeat(per_class)
    return describe(labels, torch.Generator().manual_seed(seed)), labels


def measured(describe):
    """Numbers of features that are made of the class, and of a test split that was drawn apart."""
    x, labels = hand_made(describe, 5, 0)
    test = hand_made(describe, 2, 1)
    found = LinearProbe((pixels(),), neighbours=5).measure(x, labels, lambda: test, 64, TARGETS)
    assert {record["metric"] for record in found} == TOLD
    return x, labels, test, {record["metric"]: record for record in found}


def test_features_that_know_the_colour_alone_tell_colours_and_guess_shapes():
    """Of each colour the test photos have every shape equally often, so one shape a colour is right on an eighth, exactly."""
    colours = torch.nn.functional.one_hot(torch.from_numpy(TARGETS["colour"].of_class), 8).float()
    *_, found = measured(lambda labels, draw: colours[labels])
    for protocol in ("top1", "knn_top1"):
        assert found[f"{protocol}_colour"]["value"] == 1.0
        assert found[f"{protocol}_shape"]["value"] == pytest.approx(1 / 8)
        assert found[protocol]["value"] == pytest.approx(1 / 8)
    assert {metric: record["num_classes"] for metric, record in found.items() if metric.startswith("top1")} == {
        "top1": 64,
        "top1_shape": 8,
        "top1_colour": 8,
    }


def test_shape_and_colour_are_what_a_direct_computation_gives():
    shape, colour = (torch.from_numpy(TARGETS[name].of_class) for name in ("shape", "colour"))

    def describe(labels, draw):
        clean = torch.cat([torch.eye(8)[shape[labels]], 0.6 * torch.eye(8)[colour[labels]]], dim=1)
        return clean + 0.45 * torch.randn(clean.shape, generator=draw)

    x, labels, (test_x, test_labels), found = measured(describe)
    for name, of_class in {"shape": shape, "colour": colour}.items():
        record, near = found[f"top1_{name}"], found[f"knn_top1_{name}"]
        right = (
            logistic_heads(x, of_class[labels], 8, (record["details"]["chosen"],)).predict(test_x)[0]
            == of_class[test_labels]
        )
        assert 0.2 < record["value"] < 0.95
        assert record["value"] == pytest.approx(right.float().mean().item())
        assert unpack(result(num_test=128, correct=record["correct"])).tolist() == right.tolist()

        rows, asked = x / x.norm(dim=1, keepdim=True), test_x / test_x.norm(dim=1, keepdim=True)
        votes = torch.zeros(128, 8)
        for row, alike in enumerate(asked @ rows.T):
            for place in alike.argsort(descending=True)[:5]:
                votes[row, of_class[labels[place]]] += torch.exp(alike[place] / 0.07)
        assert near["value"] == pytest.approx((votes.argmax(1) == of_class[test_labels]).float().mean().item())
    # What the strengths were chosen on is in the record.
    assert {metric: found[metric]["details"].get("folds") for metric in ("top1", "top1_shape")} == {
        "top1": None,
        "top1_shape": 5,
    }
    assert found["top1"]["details"]["held_out"] == 0.2


def test_photos_with_attributes_are_probed_for_each_and_an_older_run_is_probed_anew(context):
    job = LinearProbe((pixels(),), "smallworld:studio:128:64", pixels_px=2, neighbours=5)
    job.run(context)
    first = results.read(context.results)
    assert {record.metric for record in first} == TOLD
    packed = {record.metric: record for record in first if record.correct}
    assert set(packed) == {"top1", "top1_shape", "top1_colour"}
    for record in packed.values():
        assert unpack(record).mean() == pytest.approx(record.value)
    job.run(context)
    assert results.read(context.results) == first  # even the seconds: nothing was probed again
    older = [record for record in first if "shape" not in record.metric and "colour" not in record.metric]
    context.results.unlink()
    results.append(context.results, *older)
    job.run(context)
    assert {record.metric for record in results.read(context.results)} == TOLD


def test_a_killed_probe_goes_on_and_probes_anew_what_changed(context, photo_folder):
    seen = []

    def report(kind, **facts):
        if "arm" in facts:
            seen.append(facts["arm"])
            if len(seen) == 3:
                raise KeyboardInterrupt

    context = StepContext(context.folder, "probe", device="cpu", report=report)
    job = LinearProbe((Arm("mine", "mine", 0, "learn-0"), *untrained([0]), pixels()), str(photo_folder), size_px=16)
    with pytest.raises(KeyboardInterrupt):
        job.run(context)

    def probed():
        known = results.read(context.results)
        context.results.unlink()
        results.append(
            context.results,
            *(dataclasses.replace(record, details={**record.details, "seconds": -1.0}) for record in known),
        )
        job.run(StepContext(context.folder, "probe", device="cpu"))
        return {record.arm for record in results.read(context.results) if record.details["seconds"] >= 0}

    assert probed() == {"pixels"}
    assert probed() == set()
    (weights,) = context.weights("learn-0").glob("*.safetensors")
    weights.touch()
    assert probed() == {"mine", "untrained"}
    (photo_folder / "train.parquet").touch()
    assert probed() == {"mine", "untrained", "pixels"}


def test_with_more_arms_those_before_stay(context, photo_folder):
    one = LinearProbe((pixels(),), str(photo_folder), size_px=16)
    one.run(context)
    before = results.read(context.results)
    dataclasses.replace(one, arms=(Arm("mine", "mine", 0, "learn-0"), pixels())).run(context)
    after = results.read(context.results)
    assert after[: len(before)] == before  # to the second that it took
    assert {record.arm for record in after} == {"pixels", "mine"}
    dataclasses.replace(one, held_out=0.3).run(context)
    assert results.read(context.results)[-1].arm_fingerprint != before[0].arm_fingerprint


def test_test_photos_are_read_only_when_an_arm_is_final(context, photo_folder):
    (photo_folder / "test.parquet").write_bytes(b"no parquet")
    told = []
    context = StepContext(context.folder, "probe", device="cpu", report=lambda kind, **facts: told.append(facts))
    with pytest.raises(InputError, match="not a parquet file"):
        LinearProbe((pixels(),), str(photo_folder), size_px=16).run(context)
    assert told  # it had begun: the missing file was noticed only at the end
    assert results.read(context.results) == []


def test_sgd_protocol_chooses_a_rate(context, photo_folder):
    LinearProbe((pixels(),), str(photo_folder), size_px=16, pixels_px=4, protocol="sgd", neighbours=0).run(context)
    (record, _) = results.read(context.results)
    assert record.details["chosen"] in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    assert record.value > 0.9


def test_random_crops_are_a_probe_of_their_own(context, photo_folder):
    """The same crops whatever the batch and the threads; nearest neighbours see whole photos."""
    told = []
    context = dataclasses.replace(context, report=lambda kind, **facts: told.append((facts["done"], facts["total"])))
    options = {"size_px": 16, "pixels_px": 4, "protocol": "sgd", "epochs": 6, "neighbours": 5}
    arms = (Arm("mine", "mine", 0, "learn-0"), pixels())
    job = LinearProbe(arms, str(photo_folder), **options, batch_norm=True, augment=True)

    def found_by(job):
        context.results.unlink(missing_ok=True)
        job.run(context)
        return {(r.arm, r.metric): r for r in results.read(context.results)}

    def numbers(found):
        return {key: (r.value, r.details["held_out_top1"], r.correct) for key, r in found.items()}

    first = found_by(job)
    assert told == [*((number, 12) for number in (0, *range(6), 6, *range(6, 12))), (12, 12)]
    assert first["pixels", "top1"].value > 0.8  # the classes are colours, which any crop shows
    assert first["pixels", "top1"].details["augment"] is first["pixels", "top1"].details["batch_norm"] is True
    assert numbers(found_by(dataclasses.replace(job, speed=ProbeSpeed(batch_size=7, threads=3)))) == numbers(first)
    plain = found_by(dataclasses.replace(job, augment=False))
    assert plain["mine", "knn_top1"].value == first["mine", "knn_top1"].value
    assert "augment" not in plain["mine", "top1"].details


def test_what_is_asked_is_trained_on_the_crops_of_every_epoch():
    """The class, its shape and its colour alike, each crop made once; crops that say nothing teach nothing, whatever photos say."""
    colours = torch.nn.functional.one_hot(torch.from_numpy(TARGETS["colour"].of_class), 8).float()
    x, labels = hand_made(lambda labels, draw: colours[labels], 5, 0)
    test = hand_made(lambda labels, draw: colours[labels], 2, 1)
    job = LinearProbe((pixels(),), protocol="sgd", epochs=4, neighbours=0)
    seen = []

    def crops(epoch, rows=x):
        seen.append(epoch)
        return rows

    def found_with(rows):
        found = job.measure(x, labels, lambda: test, 64, TARGETS, crops=lambda epoch: crops(epoch, rows))
        return {record["metric"]: record["value"] for record in found}

    found = found_with(x)
    assert seen == [0, 1, 2, 3]
    assert found["top1_colour"] == 1.0
    assert found["top1_shape"] == pytest.approx(1 / 8)
    assert found_with(torch.zeros_like(x))["top1_colour"] < 0.5


def test_a_crop_is_cut_from_the_photo_itself(photo_folder):
    photos = load_photos(photo_folder, "train")
    seen = []

    def describe(pixels):
        seen.append(pixels)
        return torch.zeros(len(pixels), 1)

    for epoch in (0, 1, 0):
        extract_crops(describe, photos, 8, (0, epoch), 60)
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])
    mirrored = 0
    for place in range(60):
        luck = np.random.default_rng(seeds.derive("probe crop", 0, 0, place))
        picture = photos.picture(place)
        square = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR, box=crop_box(*picture.size, luck)))
        found = seen[0][place].transpose(1, 2, 0)
        turned = np.array_equal(found, square[:, ::-1])
        assert turned or np.array_equal(found, square)
        mirrored += turned
    assert 15 < mirrored < 45


def test_crops_have_the_areas_and_shapes_of_the_paper():
    luck = np.random.default_rng(0)
    boxes = np.array([crop_box(300, 200, luck) for _ in range(4000)])
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 300).all() and (boxes[:, 3] <= 200).all()  # noqa: PT018
    share = wide * tall / 60_000
    assert 0.078 < share.min() < 0.1 and 0.85 < share.max() <= 1.0  # noqa: PT018
    assert 0.745 < (wide / tall).min() < 0.77 and 1.3 < (wide / tall).max() < 1.345  # noqa: PT018
    # In a strip no crop of these shapes fits that is large enough, so it is the largest in the middle.
    assert {crop_box(1000, 10, luck) for _ in range(50)} == {(493, 0, 506, 10)}


def test_batch_norm_and_crops_belong_to_sgd(photo_folder):
    for option in ({"batch_norm": True}, {"augment": True}):
        with pytest.raises(InputError, match="belong to the protocol sgd"):
            LinearProbe((pixels(),), str(photo_folder), size_px=16, **option)
    with pytest.raises(InputError, match="1 epoch or more"):
        LinearProbe((pixels(),), str(photo_folder), size_px=16, epochs=0)


def test_too_few_photos_to_choose_on_are_told_before_any_work():
    """Of 64 photos of the small world there is one of each class."""
    with pytest.raises(InputError, match="have no class twice"):
        LinearProbe((pixels(),), "smallworld:street:64:64").check()
    LinearProbe((pixels(),), "smallworld:street:65:64").check()


def test_arms_need_weights_or_a_known_name(context, photo_folder):
    with pytest.raises(InputError, match="'simclr' names no step"):
        LinearProbe((Arm("simclr", "SimCLR"),))
    with pytest.raises(InputError, match="no arm has any"):
        LinearProbe((*untrained([0]),), str(photo_folder), size_px=16).run(context)


def test_features_do_not_depend_on_the_batch(context, photo_folder):
    photos = load_photos(photo_folder, "test")
    describe = of_weights(context.weights("learn-0"))
    assert torch.allclose(extract(describe, photos, 16, 30), extract(describe, photos, 16, 7), atol=1e-5)


def test_untrained_is_drawn_under_its_seed(context, photo_folder):
    photos = load_photos(photo_folder, "test")
    folder = context.weights("learn-0")
    before = torch.rand(1, generator=torch.default_generator.clone_state())
    rows = [extract(of_untrained(folder, seed), photos, 16) for seed in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.allclose(rows[0], rows[2])
    assert not torch.allclose(rows[0], extract(of_weights(folder), photos, 16))
    assert torch.rand(1) == before  # nobody else's random numbers are used up


def test_pixels(photo_folder):
    photos = load_photos(photo_folder, "test")
    means = extract(lambda images: torch.from_numpy(images.mean(axis=(2, 3)) / 255), photos, 16, 8)
    assert torch.allclose(extract(of_pixels(1), photos, 16), means.float(), atol=1e-5)
    with pytest.raises(ModelError, match="not finite"):
        extract(lambda images: torch.full((len(images), 2), torch.nan), photos, 16)


def test_importing_the_job_does_not_import_torch():
    code = "import sys, reverie.evaluate.linear_probe as p; p.LinearProbe((p.Arm('pixels', 'raw pixels'),)); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not CIFAR.exists(), reason="no CIFAR-10 beside the checkout")
def test_real_photos(tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for split, num in {"train": 300, "test": 200}.items():
        whole = pq.read_table(CIFAR / f"{split}.parquet")
        rows = np.random.default_rng(0).permutation(len(whole))[:num]
        pq.write_table(whole.take(rows), folder / f"{split}.parquet")
    context = StepContext(tmp_path / "run", "probe")
    LinearProbe((pixels(),), str(folder), size_px=32, pixels_px=8).run(context)
    found = {r.metric: r.value for r in results.read(context.results)}
    assert "airplane" in load_photos(folder, "train").classes
    assert 0.15 < found["top1"] < 0.5  # ten classes; raw pixels know the sky from the grass
    assert json.loads(context.results.read_text().splitlines()[0])["num_classes"] == 10
