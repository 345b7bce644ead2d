"""The page of a run that is at work, written anew from time to time beside the work, by the plan's own page step."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import cast

from reverie.run.events import Events
from reverie.run.plan import Plan
from reverie.stage import Job, StepContext

EVERY_S = 120.0  # seconds between two pages, at least
SHARE = 0.02  # of the time that may go into pages


class PageSoFar:
    """Writes the page in a thread of its own while the block lasts, or until ``stop``; nothing for a plan without a page."""

    def __init__(self, plan: Plan, folder: Path, device: str, events: Events) -> None:
        self.step = next(
            (step for step in plan.steps if isinstance(step.stage, Job) and step.stage.role == "page"), None
        )
        self.plan, self.folder, self.device, self.events = plan, folder, device, events
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._write, name="page so far", daemon=True)

    def __enter__(self) -> PageSoFar:
        if self.step is not None:
            self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Returns when no page is being written any more, so that the last one of the run stays."""
        self.over.set()
        if self.thread.is_alive():
            self.thread.join()

    def _write(self) -> None:
        assert self.step is not None
        context = StepContext(self.folder, self.step.name, self.step.inputs, self.plan.seed, self.device)
        wait = EVERY_S
        while not self.over.wait(wait):
            began = time.monotonic()
            try:
                cast(Job, self.step.stage).run(context)
            except Exception as error:  # the work goes on; the page at its end says the same to whoever waits for it
                self.events.report("page", step=self.step.name, failed=str(error))
            wait = max(EVERY_S, (time.monotonic() - began) / SHARE)
