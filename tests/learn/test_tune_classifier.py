"""From pairs in a store to a classifier that answers."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from reverie.errors import InputError, ModelError
from reverie.learn.classifier_tuning import ClassifierTuning
from reverie.learn.tune_classifier import TuneClassifier
from reverie.models.classifier import load_classifier
from reverie.models.encoder import open_encoder
from reverie.models.zero_shot import class_embeddings
from reverie.smallworld.render import render
from reverie.smallworld.scene import sample
from reverie.stage import StepContext
from reverie.store import tables
from tests.filters.conftest import pair_rows

CLASSES = ("red circle", "blue star", "green cross")


def pictures(num: int, camera: str, seed: int) -> list[tuple[str, bytes]]:
    found = []
    for i in range(num):
        label = CLASSES[i % len(CLASSES)]
        scene = sample(np.random.default_rng((seed, i)), 1, label)
        file = io.BytesIO()
        Image.fromarray(render(scene, camera, seed * 1000 + i).image).save(file, "png")  # type: ignore[arg-type]
        found.append((label, file.getvalue()))
    return found


def store(folder: Path, rows: list[tuple[str, bytes]]) -> Path:
    table = pair_rows([image for _, image in rows], unit=0, per_caption=1, labels=[label for label, _ in rows])
    tables.append_unit(folder / "pairs.lance", 0, table)
    return folder


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return StepContext(store(tmp_path / "run", pictures(30, "studio", 1)), "classifier")


QUICK = {"where": "status = 'ok'", "epochs": 4, "batch": 10}


def test_untouched_it_is_zero_shot_clip(context: StepContext) -> None:
    TuneClassifier(CLASSES, on="nothing").run(context)
    classifier = load_classifier(context.folder)
    encoder = open_encoder("builtin:clip")
    rows = encoder.images([Image.open(io.BytesIO(image)) for _, image in pictures(12, "street", 2)])
    expected = (rows @ class_embeddings(encoder, CLASSES, ("a photo of a {class}.",)).T).argmax(1)
    assert torch.equal(classifier.logits(rows).argmax(1), expected)
    chances = (rows @ class_embeddings(encoder, CLASSES, ("a photo of a {class}.",)).T * encoder.logit_scale).softmax(1)
    torch.testing.assert_close(classifier.logits(rows).softmax(1), chances, atol=1e-5, rtol=1e-4)


def test_tuning_fits_the_images_and_a_second_call_changes_nothing(context: StepContext) -> None:
    stage = TuneClassifier(CLASSES, **QUICK)
    stage.run(context)
    before = (context.weights() / "head.safetensors").read_bytes()
    answers = load_classifier(context.folder)([image for _, image in pictures(30, "studio", 1)])
    assert np.mean([a.label == label for a, (label, _) in zip(answers, pictures(30, "studio", 1), strict=True)]) > 0.9
    assert all(0 <= a.confidence <= 1 and abs(sum(a.probabilities) - 1) < 1e-4 for a in answers)
    stage.run(context)
    assert (context.weights() / "head.safetensors").read_bytes() == before


@pytest.mark.parametrize("on", ["shots", "mixed", "painted, then shots", "shots, then painted"])
def test_shots_in_every_order(context: StepContext, tmp_path: Path, on: str) -> None:
    shots = store(tmp_path / "shots", pictures(6, "street", 3))
    TuneClassifier(CLASSES, on=on, shots=shots, **QUICK).run(context)  # type: ignore[arg-type]
    start = load_file(context.checkpoints() / "start.safetensors")["weight"]
    assert not torch.equal(load_file(context.weights() / "head.safetensors")["weight"], start)
    assert (context.checkpoints() / "after1").exists() is ("then" in on)


def test_shots_may_come_from_a_step_and_be_the_first_few(context: StepContext) -> None:
    for rank in range(2):
        rows = pictures(3, "street", 4 + rank)
        table = pair_rows([i for _, i in rows], unit=rank, labels=[name for name, _ in rows])
        tables.append_unit(context.shots("shots-0") / "pairs.lance", rank, table)

    def head(name: str, **options: object) -> torch.Tensor:
        own = StepContext(context.folder, name)
        TuneClassifier(CLASSES, on="shots", **QUICK | options).run(own)  # type: ignore[arg-type]
        return load_file(own.weights() / "head.safetensors")["weight"]

    first = store(context.folder / "first", pictures(3, "street", 4))
    torch.testing.assert_close(head("one", shots="shots-0", num_shots=1), head("folder", shots=first))
    assert not torch.equal(head("both", shots="shots-0"), head("again", shots="shots-0", num_shots=1))
    with pytest.raises(InputError, match="no order of shots"):
        TuneClassifier(CLASSES, on="shots", shots=first, num_shots=1)


def test_steps_in_place_of_epochs(context: StepContext) -> None:
    TuneClassifier(CLASSES, **QUICK | {"steps": 7}).run(context)  # type: ignore[arg-type]
    lines = (context.checkpoints() / "curve.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 7
    with pytest.raises(InputError, match="steps"):
        TuneClassifier(CLASSES, steps=0)


def test_selections_that_are_encoded_together_give_the_same_head(context: StepContext) -> None:
    """``candidates`` changes which images the encoder runs over, not what is learnt."""
    apart, together = StepContext(context.folder, "apart"), StepContext(context.folder, "together")
    some = QUICK | {"where": "label != 'blue star' or pair_id > '8'"}
    with_all = some | {"candidates": "status = 'ok'"}
    TuneClassifier(CLASSES, **some).run(apart)  # type: ignore[arg-type]
    files = set((context.folder / "features").iterdir())
    TuneClassifier(CLASSES, **with_all).run(together)  # type: ignore[arg-type]
    heads = [load_file(at.weights() / "head.safetensors")["weight"] for at in (apart, together)]
    torch.testing.assert_close(*heads, atol=1e-4, rtol=1e-4)
    (whole,) = set((context.folder / "features").iterdir()) - files
    assert len(load_file(whole)["rows"]) == 30
    with pytest.raises(InputError, match="which was to hold for all of them"):
        TuneClassifier(CLASSES, **some | {"candidates": "label = 'blue star'"}).run(StepContext(context.folder, "no"))  # type: ignore[arg-type]


def test_controls(context: StepContext) -> None:
    """A random head knows no class; wrong labels are wrong; both come from the seed."""
    images, truth = zip(*[(image, label) for label, image in pictures(30, "studio", 1)], strict=True)

    def right(name: str, **options: object) -> float:
        own = StepContext(context.folder, name)
        stage = TuneClassifier(CLASSES, **QUICK | {"epochs": 30}, tuning=ClassifierTuning(soft_share=0.0), **options)
        stage.run(own)
        answers = load_classifier(own.weights())(images)
        return float(np.mean([a.label == label for a, label in zip(answers, truth, strict=True)]))

    assert right("plain", lr=0.5) > right("shuffled", lr=0.5, wrong_labels=1.0)
    first = load_file(context.checkpoints("plain") / "begin.safetensors")["weight"]
    right("noise", random_head=True)
    noise = load_file(context.checkpoints("noise") / "begin.safetensors")["weight"]
    assert not torch.equal(first, noise)
    torch.testing.assert_close(noise.norm(dim=1), first.norm(dim=1), rtol=1e-4, atol=1e-3)


def test_what_cannot_be_is_refused(context: StepContext, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two classes"):
        TuneClassifier(("red circle",)).check()
    with pytest.raises(InputError, match="needs real shots"):
        TuneClassifier(CLASSES, on="mixed")
    with pytest.raises(InputError, match=r"no pairs\.lance"):
        TuneClassifier(CLASSES, on="mixed", shots=tmp_path).check()
    with pytest.raises(InputError, match="not among the classes: green cross"):
        TuneClassifier(CLASSES[:2], **QUICK).run(context)
    with pytest.raises(InputError, match="nothing to tune on"):
        TuneClassifier(CLASSES, where="label = 'none'").run(context)
    with pytest.raises(InputError, match="no finished classifier"):
        load_classifier(tmp_path)


def test_another_encoder_under_the_same_name_is_noticed(context: StepContext) -> None:
    TuneClassifier(CLASSES, on="nothing").run(context)
    about = json.loads((context.weights() / "classifier.json").read_text())
    (context.weights() / "classifier.json").write_text(json.dumps(about | {"revision": "builtin:clip@000000000000"}))
    with pytest.raises(ModelError, match="tune it again"):
        load_classifier(context.folder)


def test_of_several_in_a_run_the_main_one_is_meant(context: StepContext) -> None:
    TuneClassifier(CLASSES, on="nothing").run(context)
    TuneClassifier(CLASSES, on="nothing").run(StepContext(context.folder, "other"))
    assert load_classifier(context.folder).classes == CLASSES
    shutil.rmtree(context.weights())
    TuneClassifier(CLASSES, on="nothing").run(StepContext(context.folder, "third"))
    with pytest.raises(InputError, match="holds 2 classifiers"):
        load_classifier(context.folder)


def test_pictures_of_any_mode_are_answered(context: StepContext, tmp_path: Path) -> None:
    TuneClassifier(CLASSES, on="nothing").run(context)
    classifier = load_classifier(context.folder)
    image = Image.open(io.BytesIO(pictures(1, "studio", 1)[0][1]))
    for mode, suffix in (("L", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("RGB", "jpg")):
        image.convert(mode).save(tmp_path / f"{mode}.{suffix}")
        assert classifier([tmp_path / f"{mode}.{suffix}"])[0].label in CLASSES
        assert classifier([image.convert(mode)])[0].label in CLASSES
    with pytest.raises(InputError, match="there is no such file"):
        classifier([tmp_path / "none.png"])
    assert classifier([]) == []


def test_several_processes_are_refused_before_any_work(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without accelerate launch"):
        TuneClassifier(CLASSES).check()


def test_cut_short_its_batches_are_as_large_and_its_passes_are_those_of_the_run(context: StepContext) -> None:
    stage = TuneClassifier(CLASSES, where="status = 'ok'", epochs=4, batch=64)
    trial = stage.trial(3, lambda where: 1000)
    assert trial is not None
    assert (trial.steps, trial.images, trial.captions) == ((4 * 16,), 1000, 1)  # 16 batches of 64 hold 1000
    told: list[dict[str, Any]] = []
    report = context.report

    def listen(kind: str, **facts: Any) -> None:
        report(kind, **facts)
        if kind == "speed":
            told.append(facts)

    trial.job.run(dataclasses.replace(context, report=listen))
    assert [(facts["what"], facts["done"]) for facts in told] == [("images encoded", 30), ("steps", 3)]
    nothing = dataclasses.replace(stage, on="nothing").trial(3, lambda where: 1 // 0)
    assert nothing is not None
    assert (nothing.steps, nothing.images) == ((), 0)


def test_cut_short_on_shots_its_passes_are_over_them() -> None:
    shots = TuneClassifier(CLASSES, on="shots", shots="shots", num_shots=16, real_batch=8, epochs=5)
    trial = shots.trial(3, lambda where: 1 // 0)
    assert trial is not None
    assert trial.steps == (5 * 6,)
    assert dataclasses.replace(shots, num_shots=None).trial(3, lambda where: 0) is None
    twice = dataclasses.replace(shots, on="painted, then shots", steps=7).trial(3, lambda where: 10)
    assert twice is not None
    assert twice.steps == (7, 7)
