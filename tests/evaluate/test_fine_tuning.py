import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from reverie import pairs
from reverie.arms import Arm, untrained
from reverie.datasets.labelled import LabelledImages, load_photos
from reverie.errors import InputError, ModelError
from reverie.evaluate import fine_tuning
from reverie.evaluate.fine_tuning import FineTune
from reverie.evaluate.fine_tuning_images import PhotoBatches, draw, too_few
from reverie.evaluate.significance import unpack
from reverie.learn.fit import Fit, FitSpeed
from reverie.models.backbones import build_backbone, save_backbone
from reverie.stage import StepContext
from reverie.store import results, tables

from .conftest import colour_photos, photos_with_notes

QUICK = Fit(6, 3e-3, weight_decay=0.05, betas=(0.9, 0.999))
EVERY_STEP = FitSpeed(checkpoint_every_s=0.0)


@pytest.fixture
def context(tmp_path):
    context = StepContext(tmp_path / "run", "transfer", inputs=("learn-0",), seed=4)
    torch.manual_seed(0)
    context.weights("learn-0").mkdir(parents=True)
    save_backbone(build_backbone("resnet-tiny", 32), context.weights("learn-0"))
    return context


@pytest.fixture
def job(photo_folder):
    return FineTune((*untrained([0]),), str(photo_folder), fit=QUICK, batch=16, looks=2)


def paint(folder, num, labels=("blue", "green", "red")):
    """A store of painted images, of these labels in turns."""
    images, _ = colour_photos(num, 5)
    rows = [
        {"pair_id": f"{n:04d}-000", "caption_id": f"{n:04d}", "copy": 0, "unit": 0, "label": labels[n % len(labels)], "image": image, "status": "ok"}
        for n, image in enumerate(images)
    ]  # fmt: skip
    tables.append_unit(folder / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    return folder


def by_metric(context, name="untrained"):
    return {row.metric: row for row in results.select(results.read(context.results), arm=name)}


def arm(name="a", seed=0, step=None, **factors):
    return Arm(name, name, seed, step, factors)


def test_every_arm_is_trained_for_as_many_steps_and_measured_on_test(job, context, photo_folder):
    arms = (
        arm("mine", 1, "learn-0"),
        arm("frozen", 1, "learn-0", frozen_batchnorm=True),
        arm("few", real=5),
        arm("untrained"),
    )
    steps = []
    told = dataclasses.replace(context, report=lambda kind, **facts: steps.append(facts))
    dataclasses.replace(job, arms=arms, fit=Fit(24, 5e-3)).run(told)
    found = results.read(context.results)
    keys = [(row.arm, row.metric) for row in found]
    assert keys == [(own.id, metric) for own in arms for metric in ("top1", "mean_per_class", "top1_at_best")]
    mine = by_metric(context, "mine")
    assert mine["top1"].value > 0.8  # the classes are colours
    assert unpack(mine["top1"]).mean() == pytest.approx(mine["top1"].value)
    assert [by_metric(context, own.id)["top1"].weights for own in arms] == [
        "learn-0",
        "learn-0",
        "transfer.few-0",
        None,
    ]
    assert [by_metric(context, own.id)["top1"].num_train for own in arms] == [60, 60, 15, 60]
    assert {row.details["steps"] for row in found} == {24}
    assert (steps[-1]["done"], steps[-1]["total"]) == (96, 96)
    for own in arms:
        curve = (context.checkpoints(f"transfer.{own.key}") / "curve.jsonl").read_text()
        assert curve.count("\n") == 24


def test_the_best_step_is_chosen_on_held_out_photos_and_its_weights_are_measured(
    job, context, photo_folder, monkeypatch
):
    """Held-out photos say that the first look is the best; the numbers must be those of the networks at that step and the last."""
    kept = {}
    looks = iter([0.9, 0.2, 0.1])
    measured = fine_tuning.top1
    real_fit = fine_tuning.fit

    def watching(learner, *arguments, watch, **options):
        def spy(step, net):
            kept[step] = {name: value.clone() for name, value in net.state_dict().items()}
            watch(step, net)

        return real_fit(learner, *arguments, watch=spy, **options)

    def told(predicted, labels):
        return next(looks) if len(labels) == 6 else measured(predicted, labels)

    monkeypatch.setattr(fine_tuning, "fit", watching)
    monkeypatch.setattr(fine_tuning, "top1", told)
    job = dataclasses.replace(job, looks=3, keep=True)
    job.run(context)
    records = by_metric(context)
    best = records["top1_at_best"].details
    assert (best["best_step"], best["held_out_top1"]) == (2, 0.9)
    assert records["top1"].details["num_held_out"] == 6
    net = AutoModelForImageClassification.from_pretrained(context.weights("transfer.untrained-0")).eval()
    test = load_photos(photo_folder, "test", ("blue", "green", "red"))
    for step, metric in ((6, "top1"), (2, "top1_at_best")):
        net.load_state_dict(kept[step])
        predicted = job._predict(net, test, None, "cpu")
        assert float(np.mean(predicted == test.labels)) == pytest.approx(records[metric].value), metric
    assert list(net.config.id2label.values()) == ["blue", "green", "red"]


def test_a_finished_arm_is_not_run_again_and_other_images_are(job, context, photo_folder, monkeypatch):
    job.run(context)
    before = context.results.read_text()
    monkeypatch.setattr(fine_tuning, "fit", None)  # would fail
    context.results.unlink()
    job.run(context)
    assert context.results.read_text() == before
    monkeypatch.undo()
    images, names = colour_photos(60, 77)
    pq.write_table(pa.table({"image": images, "label": names}), photo_folder / "train.parquet")
    tuned, real_fit = [], fine_tuning.fit

    def noted(*arguments, **options):
        tuned.append(1)
        return real_fit(*arguments, **options)

    monkeypatch.setattr(fine_tuning, "fit", noted)
    job.run(context)
    assert tuned


@pytest.mark.parametrize("step", [1, 4])
def test_killed_in_an_arm_it_goes_on_to_the_same_numbers(job, context, photo_folder, tmp_path, monkeypatch, step):
    job = dataclasses.replace(job, fit=dataclasses.replace(QUICK, speed=EVERY_STEP))
    whole = dataclasses.replace(context, folder=tmp_path / "whole")
    job.run(whole)
    real_fit = fine_tuning.fit

    class Killed(Exception):
        pass

    def cut(*arguments, watch, **options):
        def stop(done, net):
            watch(done, net)
            if done == step + 1:
                raise Killed

        return real_fit(*arguments, watch=stop, **options)

    monkeypatch.setattr(fine_tuning, "fit", cut)
    with pytest.raises(Killed):
        job.run(context)
    assert (
        json.loads((context.checkpoints("transfer.untrained-0") / "latest" / "state.json").read_text())["step"] == step
    )
    assert not context.results.exists()
    monkeypatch.undo()
    job.run(context)

    def told(of):
        rows = results.read(of.results)
        return [dataclasses.replace(row, details={**row.details, "seconds": 0.0}) for row in rows]

    assert told(context) == told(whole)
    left = {path.name for path in context.checkpoints("transfer.untrained-0").iterdir()}
    assert left == {"arm.json", "curve.jsonl"}


def test_the_test_split_is_opened_when_a_network_is_final(job, context, photo_folder):
    (photo_folder / "test.parquet").unlink()
    with pytest.raises(InputError, match="no test photos"):
        job.check()
    with pytest.raises(InputError, match="no test photos"):
        job.run(context)
    assert (context.checkpoints("transfer.untrained-0") / "curve.jsonl").read_text().count("\n") == 6
    assert results.read(context.results) == []


def test_painted_images_join_by_name_alone_and_mixed(job, context, photo_folder):
    paint(
        context.folder, 30, ("red", "blue", "green")
    )  # another order than that of the photos, and right for none of them
    images, _ = colour_photos(30, 5)
    names = [("red", "blue", "green")[n % 3] for n in range(30)]
    arms = (arm("painted", real=0, painted=None), arm("mixed", real=2, painted=4), arm("half", real=2, painted=4))
    job = dataclasses.replace(job, arms=arms)
    pool = fine_tuning.ArmImages(job, context)
    real, painted = pool.rows(arms[0])
    assert len(real) == 0
    assert [pool.pool.images[row] for row in painted] == images
    assert [pool.pool.classes[pool.pool.labels[row]] for row in painted] == names
    real, painted = pool.rows(arms[1])
    assert (real < 60).all()
    assert (painted >= 60).all()
    assert np.bincount(pool.pool.labels[real]).tolist() == [2, 2, 2]
    assert np.bincount(pool.pool.labels[painted]).tolist() == [4, 4, 4]
    train, held_out = job._without_held_out((real, painted), pool.pool.labels, 0)
    assert [len(rows) for rows in train] == [3, 12]
    assert (held_out < 60).all()  # real ones are what it will be asked about
    assert job._shares(train) == (3, 13)
    assert dataclasses.replace(job, real_share=0.5)._shares(train) == (8, 8)
    job.run(context)
    row = by_metric(context, "mixed")["top1"]
    assert (row.num_train, row.num_real, row.num_painted) == (18, 6, 12)
    assert row.factors == {"real": 2, "painted": 4}


def test_a_filter_may_take_one_image_or_a_twentieth():
    assert [too_few(fewest, 10) for fewest in (10, 9, 8)] == [False, False, True]
    assert [too_few(fewest, 200) for fewest in (190, 189)] == [False, True]


def test_hardly_fewer_painted_images_than_asked_are_a_warning_and_much_fewer_an_error(job, context):
    told = []
    paint(context.folder, 120)
    reporting = dataclasses.replace(context, report=lambda kind, **facts: told.append((kind, facts.get("text"))))
    job = dataclasses.replace(job, arms=(arm("painted", real=0, painted=41),))
    _, rows = fine_tuning.ArmImages(job, reporting).rows(job.arms[0])
    assert len(rows) == 120
    assert told == [("warning", "painted: a class has 40 painted images of 41, and all of them are used")]
    job = dataclasses.replace(job, arms=(arm("painted", real=0, painted=50),))
    with pytest.raises(InputError, match="a class has 40 painted images of 50; paint more, or ask for fewer"):
        fine_tuning.ArmImages(job, context).rows(job.arms[0])


def test_too_few_photos_and_strange_labels_are_told_before_any_work(job, photo_folder):
    with pytest.raises(InputError, match="21 train photos of each class are wanted"):
        dataclasses.replace(job, arms=(arm("untrained", real=21),)).check()
    with pytest.raises(InputError, match="labels that are not in the class list"):
        dataclasses.replace(job, classes=("dog", "cat"), arms=(arm("untrained", real=1),)).check()


def test_draws_are_nested_balanced_and_of_the_seed():
    labels = np.repeat([0, 1, 2], 20)
    few, many = draw(labels, 3, 0), draw(labels, 8, 0)
    assert set(few) < set(many)
    assert np.bincount(labels[many]).tolist() == [8, 8, 8]
    assert set(few) != set(draw(labels, 3, 1))
    assert draw(labels, None, 0).tolist() == list(range(60))


def numbered(num):
    """Pictures whose colour is their number."""
    found = []
    for number in range(num):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return LabelledImages(found, np.arange(num) % 2, ("even", "odd"))


def test_batches_go_through_every_source_in_turn_and_from_any_position():
    sources = ((np.arange(6), 3), (np.arange(6, 26), 5))
    batches = PhotoBatches(numbered(26), sources, 1, 8)
    stream = batches.iterate(0)
    first = [next(stream) for _ in range(8)]
    numbers = [batch["images"][:, 0, 0, 0].tolist() for batch in first]
    assert all(
        batch["label"] == ["even" if n % 2 == 0 else "odd" for n in found]
        for batch, found in zip(first, numbers, strict=True)
    )
    assert all(max(found[:3]) < 6 <= min(found[3:]) for found in numbers)
    for start in (0, 2, 4):  # six images, three a batch: two batches are a pass
        assert sorted(numbers[start][:3] + numbers[start + 1][:3]) == list(range(6))
    assert sorted(number for found in numbers[:4] for number in found[3:]) == list(range(6, 26))
    assert next(batches.iterate(5))["images"].equal(first[5]["images"])
    halves = [dataclasses.replace(batches, rank=rank, world=2) for rank in (0, 1)]
    shared = [next(half.iterate(5))["images"][:, 0, 0, 0].tolist() for half in halves]
    assert sorted(shared[0] + shared[1]) == sorted(numbers[5])


def test_a_batch_larger_than_what_there_is_sees_images_again():
    (batch, *_) = (next(PhotoBatches(numbered(3), ((np.arange(3), 8),), 0, 8).iterate(0)),)
    assert sorted(batch["images"][:, 0, 0, 0].tolist())[:3] != [0, 1, 2]
    assert set(batch["images"][:, 0, 0, 0].tolist()) == {0, 1, 2}


def test_classes_may_be_given_so_that_no_train_photos_are_needed(job, context, photo_folder):
    paint(context.folder, 30)
    (photo_folder / "train.parquet").unlink()
    job = dataclasses.replace(job, arms=(arm("painted", real=0, painted=None),), classes=("red", "green", "blue"))
    job.check()
    job.run(context)
    assert by_metric(context, "painted")["top1"].details["num_held_out"] == 3


def test_files_that_are_no_photos_are_told(job, context, tmp_path):
    told = []
    context = dataclasses.replace(context, report=lambda kind, **facts: told.append((kind, facts)))
    photos = photos_with_notes(tmp_path / "notes")
    job = dataclasses.replace(job, photos=str(photos), fit=Fit(1, 3e-3), batch=4, looks=1)
    job.run(context)
    warnings = [facts["text"] for kind, facts in told if kind == "warning"]
    test = f"2 files among the test photos of {photos} are not measured on (1 .heic file; 1 .txt file)"
    assert warnings == [f"1 file among the train photos of {photos} is not measured on (.heic file)", test]


def test_slips_are_named(job, context, photo_folder, tmp_path):
    for arguments, said in (
        ({"step": "x", "start": "y"}, "not from both"),
        ({"frozen_batchnorm": True}, "no statistics of BatchNorm"),
        ({"real": 0}, "at least one real or painted"),
        ({"real": -1}, "at least one real or painted"),
        ({"real": "many"}, "'many' is no number of images"),
    ):
        with pytest.raises(InputError, match=said):
            dataclasses.replace(job, arms=(arm(**arguments),))
    with pytest.raises(InputError, match="arm id 'A b': lower-case letters"):
        arm("A b")
    for changes, said in (
        ({"arms": ()}, "at least one arm"),
        ({"arms": (arm("a"), arm("a"))}, "differ in id or seed"),
        ({"batch": 0}, "at least 1"),
        ({"real_share": 1.0}, r"lie in \[0, 1\)"),
    ):
        with pytest.raises(InputError, match=said):
            dataclasses.replace(job, **changes)
    with pytest.raises(InputError, match=r"no pairs\.lance"):
        dataclasses.replace(job, painted=tmp_path / "none").check()
    with pytest.raises(InputError, match="no train photos"):
        dataclasses.replace(job, photos=str(tmp_path / "none")).check()
    paint(context.folder, 6, ("red", "violet"))
    painted = dataclasses.replace(job, arms=(arm("painted", real=0, painted=None),))
    with pytest.raises(InputError, match="not among the classes: violet"):
        painted.run(context)
    paint(tmp_path / "one", 6, ("red",))
    with pytest.raises(InputError, match=r"no painted image .* shows blue, green"):
        dataclasses.replace(painted, painted=tmp_path / "one").run(context)
    images, _ = colour_photos(6, 0)
    pq.write_table(pa.table({"image": images, "label": ["red"] * 6}), photo_folder / "train.parquet")
    with pytest.raises(InputError, match="photos of one class"):
        job.run(context)


def test_weights_of_another_architecture_are_told_before_any_work(job, context, tmp_path):
    save_backbone(build_backbone("vit-tiny", 32), tmp_path / "vit")
    with pytest.raises(ModelError, match="vit is a ViTModel, which cannot start a ResNetModel"):
        dataclasses.replace(job, arms=(arm(start=tmp_path / "vit"),)).check()
    save_backbone(build_backbone("vit-tiny", 32), context.weights("learn-0"))
    with pytest.raises(ModelError, match="cannot start a ResNetModel"):
        dataclasses.replace(job, arms=(arm(step="learn-0"),)).run(context)


def test_shape_and_colour_are_those_of_the_class_that_is_named(context):
    job = FineTune((*untrained([0]),), "smallworld:studio:128:64", fit=QUICK, batch=16, looks=2, keep=True)
    job.run(context)
    found = by_metric(context)
    assert set(found) == {"top1", "mean_per_class", "top1_shape", "top1_colour", "top1_at_best"}
    net = AutoModelForImageClassification.from_pretrained(context.weights("transfer.untrained-0")).eval()
    test = load_photos("smallworld:studio:128:64", "test")
    said = [test.classes[number].split() for number in job._predict(net, test, None, "cpu")]
    true = [test.classes[number].split() for number in test.labels]
    for word, name in enumerate(("colour", "shape")):
        right = [a[word] == b[word] for a, b in zip(said, true, strict=True)]
        assert unpack(found[f"top1_{name}"]).tolist() == right
        assert found[f"top1_{name}"].value == pytest.approx(np.mean(right))
        assert found[f"top1_{name}"].num_classes == 8
    assert found["top1"].num_classes == 64


def test_an_arm_that_was_finished_before_there_were_shapes_is_measured_anew(context, monkeypatch):
    job = FineTune((*untrained([0]),), "smallworld:studio:128:64", fit=Fit(2, 3e-3), batch=16, looks=1)
    monkeypatch.setattr(fine_tuning, "attributes", lambda *_: {})
    job.run(context)
    assert "top1_shape" not in by_metric(context)
    monkeypatch.undo()
    job.run(context)
    assert {"top1", "top1_shape", "top1_colour"} <= set(by_metric(context))
    before = context.results.read_text()
    monkeypatch.setattr(fine_tuning, "fit", None)  # would fail
    job.run(context)
    assert context.results.read_text() == before


def test_cut_short_it_trains_one_arm_on_real_photos_and_counts_all(job, context):
    arms = (*untrained([0, 1]), arm(step="learn-0", frozen_batchnorm=True))
    found = dataclasses.replace(job, arms=arms, fit=dataclasses.replace(QUICK, steps=100), looks=10).trial(
        3, lambda where: 0
    )
    assert (found.steps, found.alike, found.captions, found.alone) == (100, 3, 0, True)
    told = []
    found.job.run(
        dataclasses.replace(context, report=lambda kind, **facts: told.append(facts) if kind == "speed" else None)
    )
    assert [facts["what"] for facts in told] == ["steps", "photos measured"]
    assert (told[0]["done"], told[1]["done"]) == (3, by_metric(context)["top1"].num_test)


def test_cut_short_on_painted_images_alone_it_asks_for_some(job):
    painted = dataclasses.replace(job, arms=(arm(real=0, painted=3),), classes=("blue", "green", "red"))
    assert painted.trial(3, lambda where: 0).captions == 1
    assert painted.trial(3, lambda where: 0).job.arms[0].factors == {"real": 0, "painted": None}
    assert dataclasses.replace(job, fit=dataclasses.replace(QUICK, minutes=1.0)).trial(3, lambda where: 0) is None
