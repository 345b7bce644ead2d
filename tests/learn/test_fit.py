import dataclasses
import importlib.util
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from reverie.errors import InputError, MissingExtra, SettingsChanged, TrainingError
from reverie.learn import fit as module
from reverie.learn.fit import Apart, Fit, FitSpeed, decay_groups, fit, learning_rate
from tests.learn.line import SETTINGS, Line, Points


def curve(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def same_curves(one: Path, other: Path) -> None:
    first, second = curve(one), curve(other)
    assert [row["step"] for row in first] == [row["step"] for row in second] == list(range(1, len(first) + 1))
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def same_nets(one: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(Line(), Points(), dataclasses.replace(SETTINGS, speed=FitSpeed()), folder, seed=3)


def test_it_learns_and_logs_every_step(whole):
    folder, (net, losses) = whole
    rows = curve(folder)
    assert len(rows) == 60
    assert losses == {key: rows[-1][key] for key in ("loss", "noise")}
    assert sum(row["loss"] for row in rows[-10:]) < 0.8 * sum(row["loss"] for row in rows[:10])
    assert [row["lr"] for row in rows] == [learning_rate(SETTINGS, step) for step in range(60)]
    assert not net.training


def test_a_finished_run_is_read_not_repeated(whole):
    folder, (net, losses) = whole
    again = fit(Line(), Points(end=0), dataclasses.replace(SETTINGS, speed=FitSpeed()), folder, seed=3)
    same_nets(net, again.net)
    assert again.losses == losses
    assert len(curve(folder)) == 60


@pytest.mark.parametrize("last", [1, 23, 59])
def test_resume_gives_the_same_curve(whole, tmp_path, last):
    with pytest.raises(ConnectionError):
        fit(Line(), Points(end=last, fails=True), SETTINGS, tmp_path, seed=3)
    with (tmp_path / "curve.jsonl").open("a") as file:  # rows past the checkpoint, the last one cut short
        file.write('{"step": 60, "loss": 9}\n{"step": 61, "lo')
    resumed = fit(Line(), Points(), SETTINGS, tmp_path, seed=3)
    same_curves(whole[0], tmp_path)
    same_nets(whole[1].net, resumed.net)


def test_kill_9_twice_and_the_curve_is_the_same(whole, tmp_path):
    for _ in range(2):
        before = len(curve(tmp_path)) if (tmp_path / "curve.jsonl").exists() else 0
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, "-m", "tests.learn.line", str(tmp_path)], env=env)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            path = tmp_path / "curve.jsonl"
            if path.exists() and path.read_text().count("\n") >= before + 12:
                break
            time.sleep(0.005)
        assert process.poll() is None, "the process ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = fit(Line(), Points(), SETTINGS, tmp_path, seed=3)
    same_curves(whole[0], tmp_path)
    same_nets(whole[1].net, resumed.net)


def test_a_kill_between_the_two_renames_loses_nothing(whole, tmp_path):
    with pytest.raises(ConnectionError):
        fit(Line(), Points(end=20, fails=True), SETTINGS, tmp_path, seed=3)
    (tmp_path / "latest").rename(tmp_path / "latest.previous")
    (tmp_path / "latest.tmp").mkdir()
    fit(Line(), Points(), SETTINGS, tmp_path, seed=3)
    same_curves(whole[0], tmp_path)


@pytest.mark.parametrize(
    ("learner", "settings", "seed", "named"),
    [
        (Line(width=9), SETTINGS, 3, "learner.width: 8 -> 9"),
        (Line(), dataclasses.replace(SETTINGS, lr=1.0), 3, "fit.lr: 0.01 -> 1.0"),
        (Line(), SETTINGS, 4, "seed: 3 -> 4"),
    ],
)
def test_other_settings_are_refused(whole, learner, settings, seed, named):
    with pytest.raises(SettingsChanged, match=named):
        fit(learner, Points(), settings, whole[0], seed=seed)


def test_a_setting_that_is_newer_than_the_checkpoint_had_its_default(whole, tmp_path):
    with pytest.raises(ConnectionError):
        fit(Line(), Points(end=23, fails=True), SETTINGS, tmp_path, seed=3)
    file = tmp_path / "latest" / "state.json"
    state = json.loads(file.read_text())
    del state["settings"]["learner"]["width"], state["settings"]["fit"]["minutes"]
    file.write_text(json.dumps(state))
    with pytest.raises(SettingsChanged, match=r"learner\.width: 8 -> 9"):
        fit(Line(width=9), Points(), SETTINGS, tmp_path, seed=3)
    same_nets(whole[1].net, fit(Line(), Points(), SETTINGS, tmp_path, seed=3).net)


def test_a_loss_that_is_no_number_stops_and_leaves_the_batch(tmp_path):
    with pytest.raises(TrainingError, match=r"loss became inf at step 7.*nonfinite-step0000007-rank0\.safetensors"):
        fit(Line(bad_step=7), Points(), SETTINGS, tmp_path, seed=3)
    saved = tmp_path / "nonfinite-step0000007-rank0"
    batch = next(Points().iterate(7))
    torch.testing.assert_close(load_file(saved.with_suffix(".safetensors"))["x"], batch["x"])
    facts = json.loads(saved.with_suffix(".json").read_text())
    assert (facts["step"], facts["text"]) == (7, ["a", "b"])
    assert len(curve(tmp_path)) == 7
    assert json.loads((tmp_path / "latest" / "state.json").read_text())["step"] <= 7


def test_bf16_stays_near_fp32(whole, tmp_path):
    settings = dataclasses.replace(SETTINGS, precision="bf16", speed=FitSpeed())
    fit(Line(), Points(), settings, tmp_path, seed=3)
    exact, rough = curve(whole[0])[:20], curve(tmp_path)[:20]
    assert [row["loss"] for row in exact] == pytest.approx([row["loss"] for row in rough], rel=0.1)
    assert exact[10]["loss"] != rough[10]["loss"]


def test_the_ema_is_the_slow_average(tmp_path):
    seen: list[dict] = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Line):
        def after_step(self, net):
            seen.append({key: value.clone() for key, value in net.state_dict().items()})

    settings = dataclasses.replace(SETTINGS, steps=15, ema=0.5, speed=FitSpeed())
    result = fit(Watched(), Points(), settings, tmp_path, seed=3)
    average = seen[0]["5.weight"]
    for n, state in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * state["5.weight"]
    torch.testing.assert_close(result.net.state_dict()["5.weight"], average)
    torch.testing.assert_close(result.net.state_dict()["1.running_mean"], seen[-1]["1.running_mean"])


def test_who_watches_sees_every_step_and_the_net_that_would_be_the_result(tmp_path):
    seen = {}

    def watch(step, net):
        seen[step] = {key: value.clone() for key, value in net.state_dict().items()}

    settings = dataclasses.replace(SETTINGS, steps=6, speed=FitSpeed())
    result = fit(Line(), Points(), settings, tmp_path, seed=3, watch=watch)
    assert list(seen) == [1, 2, 3, 4, 5, 6]
    for name, value in result.net.state_dict().items():  # the average, as the settings have it
        assert torch.equal(value, seen[6][name])
    assert not torch.equal(seen[6]["5.weight"], seen[5]["5.weight"])


def test_clipping_bounds_the_first_moment(tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=3, clip=1e-3, ema=None, speed=FitSpeed())
    fit(Line(), Points(), settings, tmp_path, seed=3)
    moments = load_file(tmp_path / "latest" / "optimizer.safetensors")
    assert sum(float(v.square().sum()) for k, v in moments.items() if k.endswith("exp_avg")) ** 0.5 <= 1e-3


def test_schedule():
    settings = Fit(steps=110, lr=2.0, warmup_steps=10)
    rates = [learning_rate(settings, step) for step in range(110)]
    assert rates[:3] == pytest.approx([0.0, 0.2, 0.4])
    assert rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)
    assert rates[109] == pytest.approx(1 + math.cos(math.pi * 0.99))
    assert learning_rate(dataclasses.replace(settings, schedule="constant"), 109) == 2.0
    assert learning_rate(Fit(steps=5, lr=1.0), 0) == 1.0


@pytest.fixture
def ticking(monkeypatch):
    """A clock that goes on by a tenth of a second whenever it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 10))


def test_minutes_anneal_by_the_time_and_end_with_it(tmp_path, ticking):
    settings = dataclasses.replace(SETTINGS, steps=10**6, minutes=0.1)
    fit(Line(), Points(), settings, tmp_path, seed=3)
    rows = curve(tmp_path)
    rates = [row["lr"] for row in rows]
    assert 10 < len(rows) < 60
    assert rates[-1] == 0.0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[5] > 0.3 * settings.lr  # the warm-up is by steps
    fit(Line(), Points(end=0), settings, tmp_path, seed=3)  # finished: asks for no more
    assert curve(tmp_path) == rows


def test_minutes_are_those_of_all_resumptions(tmp_path, ticking):
    settings = dataclasses.replace(SETTINGS, steps=10**6, minutes=1.0)
    with pytest.raises(ConnectionError):
        fit(Line(), Points(end=10, fails=True), settings, tmp_path, seed=3)
    path = tmp_path / "latest" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spent_s": 58.0}))
    fit(Line(), Points(), settings, tmp_path, seed=3)
    rows = curve(tmp_path)
    assert 12 < len(rows) < 40
    assert rows[9]["lr"] > 0.9 * settings.lr
    assert 0 < rows[10]["lr"] < 0.01 * settings.lr
    assert rows[-1]["lr"] == 0.0


def test_steps_end_minutes_too(tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=7, minutes=5.0)
    fit(Line(), Points(), settings, tmp_path, seed=3)
    assert len(curve(tmp_path)) == 7
    with pytest.raises(InputError, match="minutes 0 must be above 0"):
        Fit(minutes=0)


def test_decay_groups():
    net = nn.Module()
    names = ["kernel", "ln_1", "position_bias", "fullname", "bn2", "cls_token", "frozen"]
    for name in names:
        net.register_parameter(name, nn.Parameter(torch.zeros(1, 2, 3)))
    net.register_parameter("scale", nn.Parameter(torch.zeros(5)))
    net.frozen.requires_grad_(False)
    decayed, spared = decay_groups(net, 0.3)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)

    def ids(weights):
        return {id(weight) for weight in weights}

    assert ids(decayed["params"]) == ids([net.kernel, net.fullname, net.cls_token])
    assert ids(spared["params"]) == ids([net.ln_1, net.position_bias, net.bn2, net.scale])


def test_weights_with_a_rate_of_their_own_are_groups_of_their_own():
    net = nn.ModuleDict({"text": nn.Linear(2, 2), "image": nn.Linear(2, 2)})
    groups = decay_groups(net, 0.3, {"text": 0.1})
    assert [(group["weight_decay"], group.get("rate")) for group in groups] == [
        (0.3, None), (0.0, None), (0.3, 0.1), (0.0, 0.1),
    ]  # fmt: skip
    wanted = [net["image"].weight, net["image"].bias, net["text"].weight, net["text"].bias]
    for group, weight in zip(groups, wanted, strict=True):
        assert [id(one) for one in group["params"]] == [id(weight)]


@dataclasses.dataclass(frozen=True)
class HeadApart(Line):
    """Its last layer trains apart."""

    @property
    def apart(self):
        return {"5.": Apart(lr=3e-2, weight_decay=0.2, betas=(0.8, 0.9), clip=1e-3)}


def test_a_part_trains_with_a_constant_rate_and_clipping_of_its_own(tmp_path):
    groups = decay_groups(HeadApart().build(), 0.3, {"5": 0.1}, HeadApart().apart)
    assert [(g["weight_decay"], g.get("rate"), g.get("constant_lr"), g.get("betas"), len(g["params"])) for g in groups] == [
        (0.3, None, None, None, 1), (0.0, None, None, None, 3),
        (0.2, None, 3e-2, (0.8, 0.9), 1), (0.0, None, 3e-2, (0.8, 0.9), 1), (0.3, 0.1, None, None, 0), (0.0, 0.1, None, None, 0),
    ]  # fmt: skip
    settings = dataclasses.replace(SETTINGS, steps=1, clip=None, ema=None, speed=FitSpeed())
    still, _ = fit(Line(), Points(), settings, tmp_path / "usual", seed=3)  # the first rate of a warm-up is 0
    moved, _ = fit(HeadApart(), Points(), settings, tmp_path / "apart", seed=3)
    for (name, before), (_, after) in zip(still.named_parameters(), moved.named_parameters(), strict=True):
        assert torch.equal(before, after) != name.startswith("5."), name
    torch.testing.assert_close((moved[5].bias - still[5].bias).abs(), torch.tensor([3e-2]), rtol=1e-3, atol=0)
    moments = load_file(tmp_path / "apart" / "latest" / "optimizer.safetensors")
    norms = [sum(float(moments[f"{k}.exp_avg"].square().sum()) for k in some) ** 0.5 for some in ((4, 5), range(4))]
    assert norms[0] == pytest.approx(0.2e-3, rel=1e-3)  # 1 - beta times the clip
    assert norms[1] > 1e-3


def test_progress_reaches_the_end(tmp_path):
    events = []
    fit(Line(), Points(), SETTINGS, tmp_path, seed=3, report=lambda kind, **facts: events.append((kind, facts)))
    (kind, facts), (last, speed) = events[-2:]
    assert (kind, facts["done"], facts["total"]) == ("progress", 60, 60)
    assert facts["rate"] > 0
    assert facts["loss"] == curve(tmp_path)[-1]["loss"]
    assert (last, speed["what"], speed["steps"]) == ("speed", "steps", 58)
    assert 0 < speed["low"] <= speed["seconds_each"] <= speed["high"] < 1


def test_rows_of_the_curve_can_be_rarer(tmp_path):
    settings = dataclasses.replace(SETTINGS, speed=FitSpeed(log_every=25))
    fit(Line(), Points(), settings, tmp_path, seed=3)
    assert [row["step"] for row in curve(tmp_path)] == [25, 50, 60]


def test_slips_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="ran out after 10 of 60 steps"):
        fit(Line(), Points(end=10), SETTINGS, tmp_path / "a", seed=3)
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        fit(Line(), Points(), dataclasses.replace(SETTINGS, precision="fp16"), tmp_path / "b", seed=3)
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="sees no CUDA"):
        fit(Line(), Points(), SETTINGS, tmp_path / "c", seed=3, device="cuda")
    with pytest.raises(InputError, match=r"no tracker 'tensorbord'; accelerate knows .*tensorboard"):
        FitSpeed(trackers=("tensorbord",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"reverie\[track\]"):
        FitSpeed(trackers=("wandb",))
    with pytest.raises(InputError, match="pip install clearml"):
        FitSpeed(trackers=("clearml",))
