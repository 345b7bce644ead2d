"""Tokens against pixels: what is timed, what comes back, what a run records."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from reverie import pairs
from reverie.cli.main import main
from reverie.errors import InputError
from reverie.evaluate import cost
from reverie.evaluate.cost import CostSettings, MeasureCost, measure_cost
from reverie.models.tokenizer import open_tokenizer
from reverie.nets.token_captioner import LookShape
from reverie.stage import StepContext
from reverie.store import results, tables
from tests.models import tiny

CAPTIONS = ["a red circle", "a blue square"]
TINY = {
    "sampler_steps": 2, "batch": 3, "warm_up": 1, "timed": 3,
    "shape": LookShape(width=8, latents=4, layers=1, heads=2, max_tokens=8),
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    painter, writer = tiny.save_amused(folder / "painter"), tiny.save_writer(folder / "writer")
    return CostSettings(str(painter), str(writer), **TINY)


@pytest.fixture(scope="module")
def found(settings):
    return measure_cost(CAPTIONS, settings, memory=False)


def test_rates_follow_from_the_seconds_of_a_step(found):
    for path in ("tokens", "pixels"):
        assert found.images_per_s[path] == pytest.approx(3 / getattr(found.generation, f"{path}_s"))
        assert found.steps_per_s[path] == pytest.approx(1 / getattr(found.training, f"{path}_s"))
    for timed in (found.generation, found.training, found.stored):
        assert 0 < timed.low <= timed.ratio <= timed.high
        assert timed.cpu_ratio > 0
    assert found.memory == {"tokens": None, "pixels": None}


def test_ids_of_a_picture_are_compared_with_those_it_was_made_of(found, settings):
    work = cost._Work(settings, CAPTIONS, "cpu")
    tokenizer = open_tokenizer(settings.painter)
    same = []
    for step in range(1, 4):  # the first one warms up
        ids = work.ids(step).numpy()
        same.append(tokenizer.ids(tokenizer.pictures(ids)) == ids)
    assert found.agreement == pytest.approx(np.concatenate(same).mean())
    assert 0 < found.agreement < 1


def test_both_ways_show_a_captioner_as_many_ids_of_one_type(settings):
    work = cost._Work(settings, CAPTIONS, "cpu")
    tokens, pictures = work.made("tokens", 0), work.made("pixels", 0)
    assert (tokens.shape, pictures.shape, pictures.dtype) == ((3, 4, 4), (3, 3, 16, 16), torch.uint8)
    again = work.learner.ids(pictures)
    assert again.shape == tokens.shape
    looks = [work.net.look(ids) for ids in (tokens, again)]
    assert (looks[0].shape, looks[0].dtype) == (looks[1].shape, looks[1].dtype)
    assert (work.made("tokens", 0) == tokens).all()
    assert not (work.made("tokens", 1) == tokens).all()


def test_a_step_teaches_either_way(settings):
    for path in ("tokens", "pixels"):
        work = cost._Work(settings, CAPTIONS, "cpu")
        before = {name: value.clone() for name, value in work.net.named_parameters() if value.requires_grad}
        for _ in range(2):  # the gates open first
            work.step(work.made(path, 0), 0)
        moved = {
            name for name, value in work.net.named_parameters() if name in before and (value != before[name]).any()
        }
        assert any(name.startswith("resampler") for name in moved), path


def test_bytes(found):
    assert found.content_bytes["tokens"] == 2 * 16
    assert found.content_bytes["pixels"] > 16 * 16  # noise does not compress
    assert found.pair_bytes["pixels"] - found.pair_bytes["tokens"] > 100


def test_ratios_are_of_steps_that_stand_together():
    # A machine that is busy for one step slows both of it.
    timed = cost._timed([(1.0, 1.0), (9.0, 1.0), (1.0, 1.0)], [(1.5, 2.0), (13.5, 2.0), (1.5, 2.0)])
    assert (timed.ratio, timed.low, timed.high, timed.cpu_ratio) == (1.5, 1.5, 1.5, 2.0)


@pytest.mark.slow
def test_memory_is_of_a_process_of_its_own(settings):
    held = np.ones(1_200_000_000, np.uint8)  # of this process, which must not count
    peak = cost.peak_memory("pixels", CAPTIONS, settings)
    if peak is None:
        pytest.skip("this system does not tell the peak of a process")
    assert 0 <= peak.above < peak.peak < len(held)
    large = cost.peak_memory("pixels", CAPTIONS, dataclasses.replace(settings, batch=400))
    assert large.above > peak.above


def test_a_run_records_either_way(settings, tmp_path):
    rows = [
        {"caption_id": f"{number:016x}", "unit": 0, "text": text, "status": status}
        for number, (text, status) in enumerate(zip(CAPTIONS, ("ok", "dropped"), strict=True))
    ]
    tables.append_unit(tmp_path / "captions.lance", 0, pairs.table(rows, pairs.CAPTIONS))
    context = StepContext(tmp_path, "cost")
    assert cost.captions_of(context) == CAPTIONS[:1]
    stage = MeasureCost(dataclasses.replace(settings, timed=1), memory=False)
    stage.check()
    for _ in range(2):  # measured again, it replaces its numbers
        stage.run(context)
    records = results.read(context.results)
    found = {(record.arm, record.metric): record.value for record in records}
    assert len(found) == len(records)
    assert {arm for arm, _ in found} == {"tokens", "pixels"}
    assert found["tokens", "content_bytes"] == 32
    assert found["tokens", "agreement"] == 1.0
    assert records[0].details["agreement"] == found["pixels", "agreement"]
    assert records[0].details["training_ratio"] > 0


def test_command(settings, capsys, tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(CAPTIONS), encoding="utf-8")
    asked = [
        "evaluate", "cost", "--painter", settings.painter, "--language-model", settings.language_model, "--captions", str(file),
        "--batch", "2", "--warm-up", "0", "--timed", "1", "--sampler-steps", "2", "--no-memory", "--device", "cpu",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["batch"] == 2
    assert set(told["content_bytes"]) == {"tokens", "pixels"}
    with pytest.raises(SystemExit):
        main(asked)
    said = capsys.readouterr().out
    assert "images a second" in said
    assert "not measured" in said
    assert "16 ids an image of 16 px" in said


def test_what_cannot_be_measured_is_said(settings):
    with pytest.raises(InputError, match="timed 0"):
        CostSettings(timed=0)
    with pytest.raises(InputError, match="at least one"):
        measure_cost([" "], settings)
