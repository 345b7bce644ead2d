"""The event log of a run, ``events.jsonl`` (one JSON object a line), and progress on the terminal from the same events.

Kinds the engine writes: run, step, unit, joined, done, stop. Stages add their own through ``context.report``; any fact
``done`` with ``total`` moves the bar of that step, and kind ``warning`` with ``text`` is shown once. Words that a model does
not know are met unit by unit: the first are a warning with ``words``, later ones are of kind ``words``; ``words_unknown`` says
both in one line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from reverie.stage import EventSink
from reverie.store.files import check_own
from reverie.store.json_files import log_lines
from reverie.store.sources import harmless

PLAIN_EVERY_S = 10.0  # between progress lines where nobody watches a terminal
EVENT = {
    "time": float, "kind": str, "step?": str, "text?": str, "device?": str, "what?": (str, None), "done?": float, "total?": float,
    "rows?": int, "seconds?": float,
}  # fmt: skip
PROGRESS_EVERY_S = 2.0  # between two "progress" lines of a step in the log


class Events:
    """The log of one run folder and its display. Closing it ends the display; every line is on disk when written."""

    def __init__(self, folder: Path, console: Console | None = None) -> None:
        self.path = folder / "events.jsonl"
        self._console = console or Console(stderr=True)
        self._shown: set[str] = set()
        self._last_logged: dict[str, float] = {}
        self._bar: _Bar | None = None
        check_own(self.path)
        # One write of one line with O_APPEND: lines of several processes do not mix.
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        _end_last_line(self.path, self._file)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def report(self, kind: str, **facts: Any) -> None:
        """Log one event and show what it means for the person."""
        now = time.time()
        step = str(facts.get("step", ""))
        if kind == "warning" and not self.show_warning(facts):
            return
        if "done" in facts and "total" in facts:
            self.show_progress(int(facts["done"]), int(facts["total"]), facts)
        if kind == "progress":
            if now - self._last_logged.get(step, 0.0) < PROGRESS_EVERY_S and facts.get("done") != facts.get("total"):
                return
            self._last_logged[step] = now
        line = json.dumps({"time": round(now, 3), "kind": kind, **facts}, ensure_ascii=False, default=str) + "\n"
        os.write(self._file, line.encode())

    def show_warning(self, facts: dict[str, Any]) -> bool:
        """A warning for the person, unless it was shown before; whether it is new."""
        text = str(facts.get("text", facts))
        if text in self._shown:
            return False
        self._shown.add(text)
        self.say(f"warning: {text}")
        return True

    def show_progress(self, done: int, total: int, facts: dict[str, Any]) -> None:
        """Move the bar, if there is one."""
        if self._bar:
            self._bar.move(done, total, _brief(facts), facts.get("what"))

    def of(self, step: str) -> EventSink:
        """The ``report`` to hand to a stage: events carry the name of its step."""
        return partial(self._of, step)

    def _of(self, _step: str, kind: str, **facts: Any) -> None:
        self.report(kind, **{"step": _step, **facts})

    def say(self, text: str) -> None:
        """One line for the person, beside the bars."""
        self._console.print(Text(harmless(text)), soft_wrap=True)

    @contextmanager
    def progress(self, step: str, done: int, total: int, what: str) -> Iterator[None]:
        """Show a bar (or plain lines, where there is no terminal) for one step while the block lasts."""
        with _Bar(self._console, step, done, total, what) as self._bar:
            try:
                yield
            finally:
                self._bar = None


class _Bar:
    def __init__(self, console: Console, step: str, done: int, total: int, what: str) -> None:
        self.console, self.step, self.what = console, step, what
        self.first, self.done, self.total, self.note = done, done, total, ""
        self.began = self.last_line = time.monotonic()
        self.live: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(compact=True),
            )
            self.live = Progress(*columns, TextColumn("{task.fields[note]}", style="dim"), console=console)
            self.task = self.live.add_task(step, total=total or None, completed=done, note="", first=done, what=what)

    def __enter__(self) -> _Bar:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.live:
            self.live.stop()
        else:
            far = f"{self.done}/{self.total} {self.what}" if self.total else "done" if kind is None else "stopped"
            seconds = time.monotonic() - self.began
            self.console.print(
                Text(f"{harmless(self.step)}: {far} in {seconds:.1f} s{_or_empty(self.note)}"), soft_wrap=True
            )

    def move(self, done: int, total: int, note: str, what: str | None = None) -> None:
        if done < self.done:  # a step of several parts begins the next one, which has a rate of its own
            self.first, self.began = done, time.monotonic()
            self.last_line = self.began
            if self.live:
                self.live.reset(self.task, completed=done, first=done)
        self.what = what or self.what
        self.done, self.total, self.note = done, total, note or self.note
        if self.live:
            self.live.update(self.task, completed=done, total=total, note=self.note, what=self.what)
            return
        now = time.monotonic()
        if now - self.last_line >= PLAIN_EVERY_S:
            self.last_line = now
            speed = (done - self.first) / (now - self.began)
            left = f", {duration((total - done) / speed)} left" if speed > 0 else ""
            self.console.print(
                Text(f"{self.step}: {done}/{total} {self.what}, {speed:.3g}/s{left}{_or_empty(self.note)}"),
                soft_wrap=True,
            )


class _Rate(ProgressColumn):
    """Rate of this process since the bar began; rich's own counts what an earlier run did."""

    def render(self, task: Task) -> Text:
        seconds = task.elapsed or 0.0
        speed = (task.completed - task.fields["first"]) / seconds if seconds else 0.0
        return Text(f"{speed:.3g} {task.fields['what']}/s" if speed else "", style="progress.data.speed")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    whole = round(seconds)
    for size, unit, small, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run folder, oldest first. A line cut by a kill is left out. Raises StoreError for one that is damaged."""
    yield from log_lines(folder / "events.jsonl", EVENT)


def _brief(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {facts[key]:.4g}" for key in ("loss", "accuracy") if isinstance(facts.get(key), float))


def _or_empty(note: str) -> str:
    return f", {note}" if note else ""


def _end_last_line(path: Path, file: int) -> None:
    """A kill may have cut the last line; begin on a fresh one."""
    with path.open("rb") as log:
        log.seek(0, os.SEEK_END)
        if log.tell() == 0:
            return
        log.seek(-1, os.SEEK_END)
        if log.read(1) != b"\n":
            os.write(file, b"\n")
