import dataclasses
import math

import numpy as np
import pytest
import torch

from reverie import seeds
from reverie.arms import Arm, pixels, untrained
from reverie.errors import InputError
from reverie.evaluate.few_shot import FewShotEpisodes, accuracies, interval, nearest
from reverie.models.backbones import build_backbone, save_backbone
from reverie.stage import StepContext
from reverie.store import results

from .conftest import photos_with_notes

SIZES = {"ways": 3, "shots": 2, "queries": 4}


def clusters(num, classes, spread, seed):
    """Features around one centre a class, far from the origin, and their labels."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 5))
    labels = np.arange(num) % classes
    return 40 + centres[labels] + spread * draw.normal(size=(num, 5)), labels.astype(np.int64)


def slow(few, asked, ways):
    """One question at a time, in plain Python: centred on what is learned from, unit length, nearest mean."""
    centre = [sum(column) / len(few) for column in zip(*few, strict=True)]

    def unit(row):
        moved = [value - middle for value, middle in zip(row, centre, strict=True)]
        length = math.sqrt(sum(value * value for value in moved))
        return [value / length for value in moved]

    shots = len(few) // ways
    prototypes = []
    for number in range(ways):
        own = [unit(row) for row in few[number * shots : (number + 1) * shots]]
        prototypes.append([sum(column) / shots for column in zip(*own, strict=True)])
    answers = []
    for row in asked:
        distances = [math.dist(unit(row), prototype) for prototype in prototypes]
        answers.append(distances.index(min(distances)))
    return answers


def test_answers_are_those_of_a_slow_reference():
    draw = np.random.default_rng(0)
    for shots in (1, 5):
        few, asked = draw.normal(3, 1, (4 * shots, 6)), draw.normal(3, 1, (20, 6))
        assert nearest(few, asked, 4).tolist() == slow(few.tolist(), asked.tolist(), 4)


def test_episodes_are_drawn_from_both_splits_and_marked_by_the_slow_reference():
    support, support_labels = clusters(40, 5, 1.5, 0)
    questions, question_labels = clusters(60, 5, 1.5, 1)
    found = accuracies(support, support_labels, questions, question_labels, **SIZES, episodes=20, seed=7)
    for episode, accuracy in enumerate(found):
        draw = np.random.default_rng(seeds.derive("episode", 7, episode))
        chosen = draw.permutation([0, 1, 2, 3, 4])[:3]
        few = [support[row] for c in chosen for row in draw.permutation(np.flatnonzero(support_labels == c))[:2]]
        asked = [
            (place, questions[row])
            for place, c in enumerate(chosen)
            for row in draw.permutation(np.flatnonzero(question_labels == c))[:4]
        ]
        answers = slow([row.tolist() for row in few], [row.tolist() for _, row in asked], 3)
        assert accuracy == pytest.approx(np.mean([a == place for a, (place, _) in zip(answers, asked, strict=True)]))
    assert len(set(found)) > 2


def test_clear_classes_are_told_apart_noise_is_guessed_and_seeds_matter():
    x, labels = clusters(100, 5, 0.05, 0)
    assert accuracies(x, labels, x, labels, **SIZES, episodes=30, seed=0).mean() == 1.0
    noise, other = np.random.default_rng(0).normal(size=(2, *x.shape))
    first = accuracies(noise, labels, other, labels, **SIZES, episodes=400, seed=0)
    mean, half = interval(first)
    assert abs(mean - 1 / 3) < 2 * half < 0.1
    assert (first == accuracies(noise, labels, other, labels, **SIZES, episodes=400, seed=0)).all()
    assert (first != accuracies(noise, labels, other, labels, **SIZES, episodes=400, seed=1)).any()


def test_the_interval_is_that_of_the_mean():
    values = np.array([0.2, 0.4, 0.9, 0.7])
    mean = sum(values) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)
    assert interval(values) == (pytest.approx(mean), pytest.approx(1.96 * deviation / 2))
    assert interval(np.array([0.5])) == (0.5, 0.0)


def test_the_job_measures_every_arm_on_the_same_episodes(photo_folder, tmp_path):
    context = StepContext(tmp_path / "run", "episodes", inputs=("learn-0",))
    torch.manual_seed(0)
    context.weights("learn-0").mkdir(parents=True)
    save_backbone(build_backbone("resnet-tiny", 32), context.weights("learn-0"))
    arms = (Arm("mine", "mine", 0, "learn-0"), *untrained([0]), pixels())
    job = FewShotEpisodes(arms, str(photo_folder), size_px=16, pixels_px=4, episodes=50, **SIZES)
    job.check()
    job.run(context)
    first = results.read(context.results)
    job.run(context)
    assert [record.value for record in results.read(context.results)] == [record.value for record in first]
    assert [record.arm for record in first] == ["mine", "untrained", "pixels"]
    last = first[-1]
    assert last.value > 0.95  # the classes are colours
    assert last.details["interval"] == pytest.approx(1.96 * last.details["deviation"] / math.sqrt(50))
    assert (last.details["ways"], last.details["shots"], last.num_classes) == (3, 2, 3)
    assert (last.protocol, last.metric) == ("episodes", "top1")


def test_files_that_are_no_photos_are_told(tmp_path):
    told = []
    context = StepContext(tmp_path / "run", "episodes", report=lambda kind, **facts: told.append((kind, facts)))
    photos = photos_with_notes(tmp_path / "photos")
    job = FewShotEpisodes((pixels(),), str(photos), size_px=16, pixels_px=4, episodes=2, **SIZES)
    job.run(context)
    test = f"2 files among the test photos of {photos} are not measured on (1 .heic file; 1 .txt file)"
    train = f"1 file among the train photos of {photos} is not measured on (.heic file)"
    assert [facts["text"] for kind, facts in told if kind == "warning"] == [f"{train}; {test}"]
    (photos / "test").rename(tmp_path / "gone")
    told.clear()
    dataclasses.replace(job, queries=2).run(context)  # half of train
    assert [facts["text"] for kind, facts in told if kind == "warning"] == [train]


def test_slips_are_named(photo_folder, tmp_path):
    with pytest.raises(InputError, match="2 classes or more"):
        FewShotEpisodes((pixels(),), ways=1)
    with pytest.raises(InputError, match="at least 1"):
        FewShotEpisodes((pixels(),), shots=0)
    job = FewShotEpisodes((pixels(),), str(photo_folder), size_px=16, episodes=5)
    with pytest.raises(InputError, match="3 classes have 5 train and 6 test photos, but an episode wants 5"):
        job.run(StepContext(tmp_path / "run", "episodes"))
    with pytest.raises(InputError, match="no train photos"):
        FewShotEpisodes((pixels(),), str(tmp_path / "none")).check()
