import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reverie.cli.main import main
from reverie.errors import InputError, ReverieError
from reverie.run.beside import group, show
from reverie.run.engine import run
from reverie.run.events import Events, read_events
from reverie.run.plan import Plan, Step, call_recipe
from tests.run.side_jobs import Gather, Wait, plan_of

TRAINED = {
    "per_class": 1, "per_caption": 2, "per_batch": 2, "captions_per_batch": 4, "sampler_steps": 2, "train_steps": 6, "seeds": (0,),
    "eval_data": "smallworld:street:128:64",
}  # fmt: skip


def test_what_goes_side_by_side_depends_on_nothing_that_is_left() -> None:
    a, b = Step("a", Wait()), Step("b", Wait())
    after = Step("after", Wait(), inputs=("a",))
    assert group([a, b, after], set()) == (a, b)
    assert group([b, after], {"a"}) == (b, after)
    assert group([a, Step("all", Gather(), inputs=()), b], set()) == (a,)
    assert group([after, b], set()) == ()


def test_a_step_with_nothing_to_do_can_be_shown(tmp_path: Path) -> None:
    far = {"a": (0, 0), "b": (0, 0)}
    with Events(tmp_path) as events, events.progress("a, b", 0, 0, "steps"):
        show("progress", {"step": "a", "done": 0, "total": 0}, far, events)
        show("progress", {"step": "b", "done": 1, "total": 2}, far, events)
    assert far == {"a": (0, 0), "b": (1, 2)}


def test_two_at_a_time_in_two_processes_and_then_what_needs_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(plan_of(), tmp_path, jobs=2) is True
    rows = [line.split() for line in (tmp_path / "all.txt").read_text().splitlines()]
    spans = [(float(began), float(ended)) for _, began, ended in rows]
    at_once = max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)
    assert at_once <= 2
    assert len({process for process, _, _ in rows}) == 2
    said = capsys.readouterr().err
    assert all(f"{name}: done in" in said for name in "abcd")
    assert said.count("the same in each") == 1
    assert "a, b, c, ..." in said
    steps = [event["step"] for event in read_events(tmp_path) if event["kind"] == "done"]
    assert sorted(steps) == ["a", "all", "b", "c", "d"]
    begun = [event["time"] for event in read_events(tmp_path) if event["kind"] == "step" and event["step"] in "abcd"]
    assert max(begun) - min(begun) > 0.1  # each when a process takes it up, so that pages can tell how long it took


def test_a_refusal_is_the_steps_own_and_what_was_done_stays(tmp_path: Path) -> None:
    with pytest.raises(ReverieError, match=r"^c does not like its photos$"):
        run(plan_of(c="refused"), tmp_path, jobs=2)
    # One of the first two has made way for c; the other's process may have begun late.
    done = {path.stem for path in (tmp_path / "done").glob("*.json")}
    assert done & {"a", "b"}
    assert not (tmp_path / "all.txt").exists()
    before = {name: (tmp_path / f"{name}.txt").read_text() for name in done}
    mended = plan_of(c="")
    for file in (tmp_path / "plan.json",):
        record = json.loads(file.read_text())
        record["steps"] = json.loads(json.dumps(record["steps"]).replace("refused", ""))
        file.write_text(json.dumps(record))
    assert run(mended, tmp_path, jobs=2) is True
    assert {name: (tmp_path / f"{name}.txt").read_text() for name in done} == before


def test_a_process_that_dies_is_told_and_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="process of step 'a' ended with code 3"):
        run(dataclasses.replace(plan_of(0.5, a="dies")), tmp_path, jobs=2)
    there = {path.name: path.read_text() for path in tmp_path.glob("*.alive")}
    time.sleep(0.3)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.alive")} == there


def test_a_kill_of_the_first_process_ends_the_others(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "tests.run.side_jobs", str(tmp_path), "60"])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.alive"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(1.0)
    there = {path.name: path.read_text() for path in tmp_path.glob("*.alive")}
    assert len(there) == 2
    time.sleep(0.5)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.alive")} == there


def test_numbers_that_are_none_and_launched_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "stablerep", "--jobs", "0", "--out", str(tmp_path / "run")])
    assert "--jobs 0" in capsys.readouterr().err
    own = dataclasses.replace(plan_of(), file="mine.py")
    with pytest.raises(InputError, match="side is a file of your own"):
        run(own, tmp_path / "run", jobs=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="several trainings at a time"):
        run(plan_of(), tmp_path / "run", jobs=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_trainings_side_by_side_make_the_weights_of_trainings_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many threads: what differs else is rounding."""
    import torch

    def files(plan: Plan, folder: Path, jobs: int) -> dict[str, bytes]:
        run(plan, folder, until="simclr-0", jobs=jobs)
        found = sorted((folder / "weights").rglob("*.safetensors"))
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = files(call_recipe("stablerep", TRAINED), tmp_path / "alone", 1)
    finally:
        torch.set_num_threads(before)
    together = files(call_recipe("stablerep", TRAINED), tmp_path / "together", 2)
    assert len(alone) == 2
    assert alone == together
