import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from reverie.run import events
from reverie.run.events import Events, duration, read_events


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_events_are_lines_and_outlive_a_cut_line(tmp_path: Path) -> None:
    with Events(tmp_path, quiet()) as log:
        log.report("unit", step="paint", unit=3, text="año\n2")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "kind": "un')  # killed here
    with Events(tmp_path, quiet()) as log:
        log.of("paint")("words", name="a", kind_of="b")
    kinds = [(event["kind"], event["step"]) for event in read_events(tmp_path)]
    assert kinds == [("unit", "paint"), ("words", "paint")]
    assert next(read_events(tmp_path))["text"] == "año\n2"
    assert list(read_events(tmp_path / "nowhere")) == []


def test_a_warning_is_shown_once(tmp_path: Path) -> None:
    console = quiet()
    with Events(tmp_path, console) as log:
        for _ in range(3):
            log.report("warning", text="unknown words: [bold]zorp[/bold]")
    assert shown(console).count("unknown words: [bold]zorp[/bold]") == 1
    assert len(list(read_events(tmp_path))) == 1


def test_plain_lines_tell_rate_and_time_left(tmp_path: Path, monkeypatch) -> None:
    console = quiet()
    monkeypatch.setattr(events, "PLAIN_EVERY_S", 0.0)
    with Events(tmp_path, console) as log, log.progress("paint", 10, 100, "units"):
        log.report("unit", step="paint", done=40, total=100)
    lines = shown(console).splitlines()
    assert lines[0].startswith("paint: 40/100 units, ")
    assert "/s, " in lines[0]
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("paint: 40/100 units in ")


def test_plain_lines_are_rare(tmp_path: Path) -> None:
    console = quiet()
    with Events(tmp_path, console) as log, log.progress("train", 0, 500, "steps"):
        for step in range(500):
            log.report("progress", step="train", done=step + 1, total=500, loss=1.5)
    assert shown(console).splitlines() == [shown(console).strip()]
    assert "loss 1.5" in shown(console)
    logged = [json.loads(line)["done"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert logged[-1] == 500
    assert len(logged) <= 3


def test_a_step_without_numbers_says_done(tmp_path: Path) -> None:
    console = quiet()
    with Events(tmp_path, console) as log, log.progress("page", 0, 0, "steps"):
        pass
    assert shown(console).startswith("page: done in 0.0 s")


def test_bars_on_a_terminal(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Events(tmp_path, console) as log, log.progress("paint", 5, 10, "units"):
        log.report("unit", step="paint", done=8, total=10)
    assert "8/10" in shown(console)


def test_the_next_part_of_a_step_has_a_rate_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1000.0, 1001.0, 1001.0, 1101.0, 1101.0])
    monkeypatch.setattr("reverie.run.events.time.monotonic", lambda: next(now))
    console = quiet()
    with Events(tmp_path, console) as log, log.progress("painter", 0, 0, "steps"):
        log.report("progress", step="painter", done=500, total=500)
        log.report("progress", step="painter", done=1, total=301)
        log.report("progress", step="painter", done=101, total=301, what="latents")
    assert "painter: 101/301 latents, 1/s, 3 min 20 s left" in shown(console)


def test_duration_in_words() -> None:
    words = [duration(seconds) for seconds in (0.2, 42, 60, 185, 7800, 273600)]
    assert words == ["0 s", "42 s", "1 min", "3 min 5 s", "2 h 10 min", "3 d 4 h"]
