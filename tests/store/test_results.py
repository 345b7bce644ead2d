import json
import multiprocessing

import pytest

from reverie.arms import pixels
from reverie.errors import StoreError
from reverie.stage import StepContext
from reverie.store import results

from ..records import result as record


def test_measuring_again_replaces_and_keeps_the_rest(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, record(), record(metric="knn_top1"), record(seed=1))
    results.append(path, record(arm="b"))
    results.append(path, record(value=0.7))  # the kNN number of the old measurement must not stay beside it
    found = [(r.arm, r.metric, r.seed, r.value) for r in results.read(path)]
    assert found == [("ours", "top1", 1, 0.5), ("b", "top1", 0, 0.5), ("ours", "top1", 0, 0.7)]
    assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"]


def test_only_finite_numbers(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, record())
    before = path.read_text()
    with pytest.raises(ValueError, match="JSON compliant"):
        results.append(path, record(value=float("nan")))
    assert path.read_text() == before


def test_names_the_line_that_is_damaged(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(record().as_dict()) + '\n{"arm": "a", \n')
    with pytest.raises(StoreError, match="line 2"):
        results.read(path)
    for facts, wrong in (({"colour": "red"}, "'colour' is no part of a record"), ({"arm": 3}, "'arm' is not a text")):
        path.write_text(json.dumps(record().as_dict() | facts))
        with pytest.raises(StoreError, match=f"line 1 is damaged .{wrong}"):
            results.read(path)


def test_what_a_line_holds_follows_from_the_fields_of_a_record(tmp_path):
    path = tmp_path / "results.jsonl"
    line = record(classes=("a", "b"), confusion=((1, 0), (0, 1)), factors={"shots": 4}).as_dict()
    for facts, wrong in (
        ({"value": "high"}, "'value' is not a number"), ({"seed": None}, "'seed' is not a whole number"),
        ({"photos": None}, "'photos' is not a text"), ({"each": [0.5, "x"]}, "'each.1' is not a number"),
        ({"confusion": [[1, 0], [0, 0.5]]}, "'confusion.1.1' is not a whole number"), ({"factors": {"shots": []}}, "'factors.shots' is not"),
        ({"versions": {"torch": 2}}, "'versions.torch' is not a text"), ({"classes": "ab"}, "'classes' is not a list"),
    ):  # fmt: skip
        path.write_text(json.dumps(line | facts))
        with pytest.raises(StoreError, match=f"damaged .{wrong}"):
            results.read(path)
    path.write_text(json.dumps({key: value for key, value in line.items() if key != "metric"}))
    with pytest.raises(StoreError, match="'metric' is missing"):
        results.read(path)
    path.write_text(json.dumps(line | {"value": None, "details": {"any": [{"thing": None}]}}))
    assert results.read(path)[0].details == {"any": [{"thing": None}]}


def test_a_record_comes_back_as_it_was(tmp_path):
    told = record(
        arm="guided-4", label="guided, 4 shots", value=None, factors={"shots": 4, "strategy": "guided", "level": 0.5},
        classes=("cat", "dog"), confusion=((3, 1), (0, 2)), each=(0.5, 1.0), num_test=6, details={"seconds": 1.5},
    )  # fmt: skip
    results.append(tmp_path / "results.jsonl", told)
    assert results.read(tmp_path / "results.jsonl") == [told]


def test_records_are_chosen_by_fields_and_factors():
    few, many = (record(arm=f"guided-{shots}", factors={"shots": shots}, details={"ways": 5}) for shots in (1, 4))
    other = record(arm="pixels", metric="knn_top1")
    assert results.select([few, many, other], shots=4) == [many]
    assert results.select([few, many, other], metric="top1", ways=5) == [few, many]
    assert results.select([few, many, other], arm="pixels", metric="knn_top1") == [other]
    assert results.select([few, many, other], shots=None) == []


def test_no_file_means_no_results(tmp_path):
    assert results.read(tmp_path / "results.jsonl") == []


def _add(path, name):
    for seed in range(10):
        results.append(path, record(arm=name, seed=seed))


def test_two_processes_lose_nothing(tmp_path):
    path = tmp_path / "results.jsonl"
    work = [multiprocessing.get_context("fork").Process(target=_add, args=(path, name)) for name in "xyz"]
    for process in work:
        process.start()
    for process in work:
        process.join()
    assert len(results.read(path)) == 30


def test_the_fingerprint_is_that_of_the_plan(tmp_path):
    from reverie.evaluate.linear_probe import LinearProbe

    stage, context = LinearProbe(arms=(pixels(),)), StepContext(tmp_path, "probe")
    own = results.step_fingerprint(context, stage)
    assert own != results.step_fingerprint(context, LinearProbe(arms=(pixels(),), held_out=0.3))
    (tmp_path / "plan.json").write_text(json.dumps({"steps": [{"name": "probe", "fingerprint": "abc"}]}))
    assert results.step_fingerprint(context, stage) == "abc"
