"""Pairs by what their pictures show, against a plain loop over the same encoder."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import pairs
from reverie.errors import InputError
from reverie.models.encoder import open_encoder
from reverie.show import app
from reverie.show.gallery import Gallery
from reverie.show.near import NUM_GIVEN, encoder_of
from reverie.store import tables
from reverie.store.pictures import as_png, open_picture

from ..report.conftest import picture
from .conftest import Open
from .test_pages import get, keys, row, shown

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}


@pytest.fixture
def import_folder(tmp_path: Path) -> Path:
    """Eight pictures in two units, of which one does not decode and one was dropped."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for unit in (0, 1):
        rows = [
            row(4 * unit + n, unit, label=name, image=picture(colour), width=48, height=48)
            for n, (name, colour) in enumerate(COLOURS.items())
        ]
        if unit == 1:
            rows[1] |= {"image": b"no picture"}
            rows[2] |= {"status": "dropped", "reason": "black"}
        tables.append_unit(folder / "pairs.lance", unit, pairs.table(rows, pairs.PAIRS))
    return folder


def slowly(folder: Path, text: str) -> dict[str, float]:
    encoder = open_encoder("builtin:clip")
    (vector,) = encoder.texts([text]).numpy()
    found = {}
    for part in tables.scan(folder / "pairs.lance", ["pair_id", "image"], "status = 'ok'"):
        for each in part.to_pylist():
            if each["image"] != b"no picture":
                found[each["pair_id"]] = float(encoder.images([open_picture(each["image"], "x")]).numpy()[0] @ vector)
    return found


def test_the_nearest_are_those_of_a_plain_loop(import_folder: Path, browse: Open) -> None:
    torch.set_num_threads(1)
    pages, before = browse(import_folder), tables.open_table(import_folder / "pairs.lance").version
    page = pages.get("/", params={"near": "a red circle"}).text
    assert 'http-equiv="refresh"' in page or "cosine" in page
    wait_until_ready(pages)
    page = get(pages, near="a red circle")
    wanted = slowly(import_folder, "a red circle")
    order = sorted(wanted, key=lambda name: -wanted[name])
    assert len(wanted) == 6
    # two pictures are the same, and equally near
    cosines = [float(each) for each in re.findall(r"asked for\">([-\d.]+)<", page)]
    assert cosines == pytest.approx([wanted[name] for name in order], abs=1e-3)
    assert sorted(shown(page)) == sorted(order)
    assert shown(get(pages, near="a red circle", where="label = 'blue'")) == keys(
        import_folder, "status = 'ok' and label = 'blue'"
    )
    seeds = dict(zip(keys(import_folder), range(8), strict=True))
    assert shown(get(pages, near="a red circle", sort="seed")) == sorted(order, key=lambda name: -seeds[name])
    assert pages.get("/", params={"near": "a red circle", "sort": "text"}).status_code == 400
    like = keys(import_folder, "label = 'yellow'")
    assert set(shown(get(pages, like=like[0]))[:2]) == set(like)
    assert tables.open_table(import_folder / "pairs.lance").version == before  # the run itself is as it was

    # what comes later is looked at as well, and nothing twice
    new = [row(20, 2, label="red", image=picture(COLOURS["red"]), width=48, height=48)]
    tables.append_unit(import_folder / "pairs.lance", 2, pairs.table(new, pairs.PAIRS))
    broken = {**row(5, 1, label="green", image=picture(COLOURS["green"]), width=48, height=48)}
    gallery = Gallery(import_folder)
    assert gallery.near.build() == 1
    assert gallery.near.build() == 0
    assert len(gallery.near.find(text="a red circle")) == 7
    assert broken["pair_id"] not in gallery.near.find(text="a red circle")


def test_a_picture_of_ones_own_finds_those_like_it(import_folder: Path, browse: Open) -> None:
    torch.set_num_threads(1)
    Gallery(import_folder).near.build()
    pages = browse(import_folder)
    sent = picture(COLOURS["yellow"])
    answer = pages.post("/given", files={"picture": ("mine.png", sent)})
    assert answer.status_code == 303
    link = answer.headers["location"]
    page = pages.get(link).text
    like = keys(import_folder, "label = 'yellow'")
    encoder = open_encoder("builtin:clip")
    (mine,) = encoder.images([open_picture(sent, "mine")]).numpy()
    wanted = {}
    for part in tables.scan(import_folder / "pairs.lance", ["pair_id", "image"], "status = 'ok'"):
        for each in part.to_pylist():
            if each["image"] != b"no picture":
                wanted[each["pair_id"]] = float(encoder.images([open_picture(each["image"], "x")]).numpy()[0] @ mine)
    assert set(shown(page)[:2]) == set(like)
    cosines = [float(each) for each in re.findall(r"asked for\">([-\d.]+)<", page)]
    assert cosines == pytest.approx(sorted(wanted.values(), reverse=True), abs=1e-3)
    # It is shown, decoded and encoded again, and goes with a filter.
    name = link.removeprefix("/?given=")
    assert np.array_equal(open_picture(pages.get(f"/given/{name}").content, "a"), open_picture(sent, "b"))
    assert shown(get(pages, given=name, where="label = 'blue'")) == keys(
        import_folder, "status = 'ok' and label = 'blue'"
    )
    # It goes with all else that was asked for, and where it is refused, that is not lost either.
    asked = "/?words=a&state=kept&like=x"
    link = pages.post("/given", files={"picture": ("a.png", sent)}, data={"back": asked}).headers["location"]
    assert link == f"/?words=a&state=kept&given={name}"
    refused = pages.post("/given", files={"picture": ("a.png", b"x")}, data={"back": asked})
    assert (refused.status_code, f'href="{asked.replace("&", "&amp;")}"' in refused.text) == (400, True)
    for away in ("//evil.example/?words=a", "https://evil.example"):
        answer = pages.post("/given", files={"picture": ("a.png", sent)}, data={"back": away})
        assert answer.headers["location"] == f"/?given={name}"
    # What is typed afterwards goes before it.
    assert shown(get(pages, given=name, near="a red circle")) == shown(get(pages, near="a red circle"))
    # After others it is forgotten.
    near = Gallery(import_folder).near
    first = near.take(sent)
    for shade in range(NUM_GIVEN):
        near.take(picture((shade, 0, 0)))
    assert near.given(first) is None
    with pytest.raises(InputError, match="send it again"):
        near.find(given=first)


def test_a_large_picture_stays_in_memory(import_folder: Path, browse: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it went to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    sent = as_png(Image.fromarray(noise))
    assert len(sent) > 1.5 * 2**20
    assert browse(import_folder).post("/given", files={"picture": ("mine.png", sent)}).status_code == 303


def test_what_is_sent_must_be_a_picture(import_folder: Path, browse: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = browse(import_folder)
    for files, said in (
        ({"picture": ("mine.png", b"<svg onload=alert(1)>")}, "not a JPEG, PNG"),
        ({"picture": ("mine.png", b"")}, "choose a file"),
        ({"other": ("mine.png", b"x")}, "no picture was sent"),
        ({"picture": ("a.png", b"x"), "second": ("b.png", b"x")}, "no picture was sent"),
    ):
        answer = pages.post("/given", files=files)
        assert answer.status_code == 400
        assert re.search(said, answer.text), answer.text
        assert "Traceback" not in answer.text
    assert pages.post("/given", data={"picture": "text"}).status_code == 400
    assert pages.post("/given", content=b"--x", headers={"content-type": "multipart/form-data"}).status_code == 400
    assert pages.get("/given").headers["location"] == "/"
    forgotten = pages.get("/", params={"given": "nothing"}).text
    assert "send it again" in forgotten
    assert "Nearest to" not in forgotten
    assert pages.get("/given/nothing").status_code == 404
    assert pages.get("/", params={"given": "nothing"}).status_code == 400
    monkeypatch.setattr(app, "MAX_PICTURE", 100)
    answer = pages.post("/given", files={"picture": ("mine.png", b"x" * 200)})
    assert answer.status_code == 413


def wait_until_ready(pages: object) -> None:
    until = time.monotonic() + 30
    while 'role="status"' in get(pages, near="a red circle"):  # type: ignore[arg-type]
        assert time.monotonic() < until
        time.sleep(0.1)


def test_an_encoder_that_is_none_is_told_in_the_page(import_folder: Path, browse: Open) -> None:
    gallery = Gallery(import_folder, encoder="builtin:nothing")
    gallery.near.start()
    until = time.monotonic() + 30
    while gallery.near.is_building and time.monotonic() < until:
        time.sleep(0.02)
    assert "unknown builtin model" in gallery.near.error
    answer = browse(import_folder).get("/", params={"like": "nobody"})
    assert answer.status_code in (200, 400)
    assert "Traceback" not in answer.text


def test_the_encoder_is_the_one_that_the_run_scored_with(tmp_path: Path) -> None:
    def plan(*steps: dict[str, object]) -> dict[str, object]:
        return {"steps": [{"settings": each} for each in steps], "made_in": str(tmp_path)}

    assert encoder_of(None, tmp_path) == "builtin:clip"
    assert encoder_of(plan({"stage": "Blank"}), tmp_path) == "builtin:clip"
    assert (
        encoder_of(
            plan({"stage": "PaintPixels", "model": "a/b"}, {"stage": "ClipScore", "model": "owner/clip"}), tmp_path
        )
        == "owner/clip"
    )
    assert (
        encoder_of(plan({"stage": "OnTokens", "inner": {"stage": "ClipConfidence", "model": "owner/clip"}}), tmp_path)
        == "owner/clip"
    )
    (tmp_path / "own").mkdir()  # relative to where the run was started
    assert encoder_of(plan({"stage": "ClipScore", "model": "own"}), tmp_path / "run") == str(tmp_path / "own")
    assert encoder_of(plan({"stage": "ClipScore", "model": "step:mine"}), tmp_path) == str(
        tmp_path / "weights" / "mine"
    )


def test_building_goes_on_where_it_was_stopped(import_folder: Path) -> None:
    gallery = Gallery(import_folder)
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery.near.build(stop)
    assert seen == [4]
    assert Gallery(import_folder).near.build() == 3
    assert np.isclose(max(Gallery(import_folder).near.find(like=keys(import_folder)[0]).values()), 1, atol=1e-5)
