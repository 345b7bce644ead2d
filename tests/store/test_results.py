import json
import multiprocessing

import pytest

from reverie.errors import StoreError
from reverie.stage import StepContext
from reverie.store import results


def record(**facts):
    plain = {"name": "a", "metric": "top1", "value": 0.5, "split": "test", "seed": 0, "step": "probe"}
    return plain | {"fingerprint": "f", "versions": {}} | facts


def test_measuring_again_replaces_and_keeps_the_rest(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, record(), record(metric="knn_top1"), record(seed=1))
    results.append(path, record(name="b"))
    results.append(path, record(value=0.7))  # the kNN number of the old measurement must not stay beside it
    found = [(r["name"], r["metric"], r["seed"], r["value"]) for r in results.read(path)]
    assert found == [("a", "top1", 1, 0.5), ("b", "top1", 0, 0.5), ("a", "top1", 0, 0.7)]
    assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"]


def test_only_whole_and_finite_records(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, record())
    before = path.read_text()
    with pytest.raises(ValueError, match="lacks seed"):
        results.append(path, {key: value for key, value in record().items() if key != "seed"})
    with pytest.raises(ValueError, match="JSON compliant"):
        results.append(path, record(value=float("nan")))
    assert path.read_text() == before


def test_names_the_line_that_is_damaged(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(record()) + '\n{"name": "a", \n')
    with pytest.raises(StoreError, match="line 2"):
        results.read(path)


def test_no_file_means_no_results(tmp_path):
    assert results.read(tmp_path / "results.jsonl") == []


def _add(path, name):
    for seed in range(10):
        results.append(path, record(name=name, seed=seed))


def test_two_processes_lose_nothing(tmp_path):
    path = tmp_path / "results.jsonl"
    work = [multiprocessing.get_context("fork").Process(target=_add, args=(path, name)) for name in "xyz"]
    for process in work:
        process.start()
    for process in work:
        process.join()
    assert len(results.read(path)) == 30


def test_the_fingerprint_is_that_of_the_plan(tmp_path):
    from reverie.evaluate.linear_probe import Arm, LinearProbe

    stage, context = LinearProbe(arms=(Arm("pixels"),)), StepContext(tmp_path, "probe")
    own = results.step_fingerprint(context, stage)
    assert own != results.step_fingerprint(context, LinearProbe(arms=(Arm("pixels"),), held_out=0.3))
    (tmp_path / "plan.json").write_text(json.dumps({"steps": [{"name": "probe", "fingerprint": "abc"}]}))
    assert results.step_fingerprint(context, stage) == "abc"
