"""A small run, made by hand through the real plan and store, and its pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from reverie.show.app import make_app
from reverie.show.gallery import Gallery

from ..report.conftest import make_plan, write_tables

PORT = 8420
HERE = f"http://127.0.0.1:{PORT}"

Open = Callable[..., TestClient]


def make_run(folder: Path) -> Path:
    """Six captions with three images each; one has failed, one was dropped, some were not selected. The first caption is a script."""
    folder.mkdir()
    make_plan().settle(folder)
    write_tables(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "a run")


@pytest.fixture
def browse() -> Iterator[Open]:
    """The pages of some folders, as the browser of whoever started the server asks for them."""
    galleries: list[Gallery] = []

    def start(*folders: Path) -> TestClient:
        own = [Gallery(each) for each in folders]
        galleries.extend(own)
        return TestClient(make_app(own, PORT), base_url=HERE, headers={"origin": HERE}, follow_redirects=False)

    yield start
    for gallery in galleries:
        gallery.close()
