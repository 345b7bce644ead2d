"""The page of a run that is at work."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from reverie.report.page import WritePage
from reverie.run import page_so_far
from reverie.run.engine import run
from reverie.run.events import read_events
from reverie.run.plan import Plan, Step
from reverie.stage import Job, Role, StepContext
from tests.run.fake_recipe import fake_recipe


@dataclass(frozen=True)
class Note(Job):
    """A page that says in one line which steps are done, and by whom it was written."""

    role: ClassVar[Role] = "page"
    fails: bool = False

    def run(self, context: StepContext) -> None:
        mine = threading.current_thread() is threading.main_thread()
        if self.fails and not mine:
            raise ValueError("no page yet")
        done = sorted(path.stem for path in (context.folder / "done").glob("*.json"))
        with (context.folder / "pages.txt").open("a") as file:
            file.write(f"{'end' if mine else 'so far'}: {' '.join(done)}\n")


def plan(page: Job) -> Plan:
    base = fake_recipe(pause_s=0.05)
    return dataclasses.replace(base, steps=(*base.steps, Step("page", page, inputs=("count",))))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_so_far, "EVERY_S", 0.02)
    monkeypatch.setattr(page_so_far, "SHARE", 1.0)


def test_pages_are_written_beside_the_work_and_the_last_one_by_the_step_itself(tmp_path: Path) -> None:
    assert run(plan(Note()), tmp_path) is True
    written = (tmp_path / "pages.txt").read_text().splitlines()
    assert len(written) > 2
    assert all(line.startswith("so far: ") for line in written[:-1])
    assert "so far: captions" in written, "one while images were painted"
    assert written[-1] == "end: brightness captions count paint"
    assert not any(thread.name == "page so far" for thread in threading.enumerate())


def test_a_page_that_cannot_be_written_yet_does_not_stop_the_work(tmp_path: Path) -> None:
    assert run(plan(Note(fails=True)), tmp_path) is True
    assert (tmp_path / "pages.txt").read_text() == "end: brightness captions count paint\n"
    assert any(event["kind"] == "page" and event["failed"] == "no page yet" for event in read_events(tmp_path))


def test_the_real_page_of_a_run_at_work_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    write = WritePage.run

    def watch(self: WritePage, context: StepContext) -> None:
        write(self, context)
        seen.append((context.folder / "report.html").read_text())

    monkeypatch.setattr(WritePage, "run", watch)
    run(plan(WritePage()), tmp_path)
    assert len(seen) > 1
    assert "load it again" in seen[0]


def test_a_run_without_a_page_has_none(tmp_path: Path) -> None:
    assert run(fake_recipe(), tmp_path) is True
    assert not any(event["kind"] == "page" for event in read_events(tmp_path))
