"""The pages in a browser: keys, a phone's width, and captions that would like to be a page. Needs playwright and Debian's chromium."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from reverie.show.app import make_app
from reverie.show.gallery import Gallery
from reverie.show.serve import _listening
from reverie.store import tables

from .conftest import make_run
from .test_pages import keys

try:
    from playwright import sync_api
except ImportError:
    sync_api = None  # type: ignore[assignment]

CHROMIUM = shutil.which("chromium")
LONG = "W" * 300  # a word that would like the page to be wider


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if sync_api is None or CHROMIUM is None:
        pytest.skip("needs playwright and a chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server as ``reverie show`` starts it, over a run with a script for a caption and a word without end."""
    import lance

    folder = make_run(tmp_path_factory.mktemp("show") / "a run")
    lance.dataset(str(folder / "pairs.lance")).update({"text": f"'\u202e{LONG}'", "label": f"'{LONG}'"}, "copy = 1")
    other = folder.parent / "b"
    shutil.copytree(folder, other)
    galleries = [Gallery(folder), Gallery(other)]
    listener = _listening(0)
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(galleries, port), log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}", folder
    server.should_exit = True
    thread.join(10)
    for gallery in galleries:
        gallery.close()


@pytest.fixture
def faults() -> list[str]:
    """What went wrong in the page: errors of scripts, what its policy forbade, dialogs."""
    return []


@pytest.fixture
def page(browser: Any, faults: list[str]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda said: (
            faults.append(said.text) if said.type == "error" and not re.search("status of [45]", said.text) else None
        ),
    )
    page.on("dialog", lambda dialog: (faults.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
    yield page
    context.close()
    assert not faults


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.id"))


def test_from_pair_to_pair_by_keys(served: tuple[str, Path], page: Any) -> None:
    address, folder = served
    every = keys(folder)
    page.goto(address)
    page.keyboard.press("j")
    assert focused(page) == f"/pair/{every[0]}?place=0"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert focused(page) == f"/pair/{every[1]}?place=1"
    page.keyboard.press("ArrowDown")
    row = int(focused(page).rpartition("=")[2])
    assert row > 2
    page.keyboard.press("ArrowUp")
    assert focused(page) == f"/pair/{every[1]}?place=1"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/pair/{every[1]}*")
    page.keyboard.press("j")
    page.wait_for_url(f"**/pair/{every[2]}*")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/pair/{every[1]}*")
    page.keyboard.press("u")
    page.wait_for_url(f"{address}/")
    page.keyboard.press("/")
    assert focused(page) == "words"
    page.keyboard.type("number 3 xj")  # keys are letters in a field
    for _ in range(3):
        page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?words=number+3")
    assert page.locator("li.pair").count() == 2


def test_a_pair_is_marked_by_a_key_and_by_a_click(served: tuple[str, Path], page: Any) -> None:
    address, folder = served
    every = keys(folder)
    page.goto(address)
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.wait_for_selector("li.pair.bad")
    assert page.locator("#count-bad").inner_text() == "1"
    assert focused(page) == f"/pair/{every[0]}?place=0"
    page.goto(f"{address}/?state=bad")
    assert page.locator("li.pair").count() == 1
    page.goto(f"{address}/pair/{every[0]}")
    assert page.locator(".verdict-line button").get_attribute("aria-pressed") == "true"
    page.keyboard.press("x")
    page.wait_for_selector(".verdict-line button[aria-pressed=false]")
    page.click(".verdict-line button")
    page.wait_for_selector(".verdict-line button[aria-pressed=true]")
    page.click(".verdict-line button")
    page.wait_for_selector(".verdict-line button[aria-pressed=false]")
    page.goto(f"{address}/?where=bad")
    assert page.locator("li.pair").count() == 0
    assert tables.count(folder / "pairs.lance", "bad = false") == len(every)


def test_a_picture_of_ones_own_is_sent_by_the_form(served: tuple[str, Path], page: Any, tmp_path: Path) -> None:
    address, folder = served
    Gallery(folder).near.build()
    image = tables.read_unit(folder / "pairs.lance", 0, ["image"])["image"][0].as_py()
    (tmp_path / "mine.png").write_bytes(image)
    page.goto(address)
    page.set_input_files("input[name=picture]", tmp_path / "mine.png")
    page.click("text=Find")
    page.wait_for_selector("img.given")
    assert page.evaluate("document.querySelector('img.given').naturalWidth") > 0
    assert float(page.locator(".facts span").first.inner_text()) == pytest.approx(1, abs=1e-3)
    page.fill("#words", "red")  # other fields go with it
    page.press("#words", "Enter")
    page.wait_for_url("**words=red**")
    assert page.locator("img.given").count() == 1


def test_a_mark_that_fails_says_why(served: tuple[str, Path], page: Any) -> None:
    address, folder = served
    page.goto(address)
    away = folder / "show is away"
    if (folder / "show").exists():
        (folder / "show").rename(away)
    (folder / "show").write_text("in the way of the log")
    try:
        page.keyboard.press("j")
        page.keyboard.press("x")
        page.wait_for_selector("p.wrong")
        assert "cannot read or write" in page.locator("p.wrong").inner_text()
    finally:
        (folder / "show").unlink()
        if away.exists():
            away.rename(folder / "show")


@pytest.mark.parametrize("width", [360, 1000])
def test_nothing_is_wider_than_the_screen(served: tuple[str, Path], page: Any, width: int) -> None:
    address, folder = served
    page.set_viewport_size({"width": width, "height": 740})
    name = keys(folder, "copy = 1")[0]
    for path in ("/", f"/pair/{name}", f"/?label={LONG}", f"/?where={LONG}", "/nope", f"/?near={LONG}"):
        page.goto(address + path)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    # what a finger must reach on a card is there without a pointer
    page.goto(address)
    assert page.locator("li.pair .mark button").first.is_visible()


def test_captions_run_no_script_and_turn_nothing_around(served: tuple[str, Path], page: Any, faults: list[str]) -> None:
    address, folder = served
    script = keys(folder, "copy = 0")[0]
    for path in ("/", f"/pair/{script}", "/?words=<script>alert(1)</script>", "/?where=<img src=x onerror=alert(3)>"):
        page.goto(address + path)
        assert page.locator("main script, main img[src=x], header img").count() == 0
    page.goto(address)
    assert "<script>alert" in page.locator("li.pair .text").first.inner_text()
    assert page.locator("li.pair .text", has_text="U+202E").count() == 6  # once where both runs say the same
    assert "\u202e" not in page.content()
    assert not faults
    # and were one to come through, the page's policy would stop it
    page.evaluate(
        "() => { const made = document.createElement('div'); made.innerHTML = '<b onclick=\"window.ran = 1\">'; document.body.append(made); }"
    )
    ran = page.evaluate("() => { document.querySelector('b[onclick]').click(); return window.ran; }")
    assert ran is None
    page.wait_for_timeout(100)
    assert "Content Security Policy" in faults.pop()


def test_every_picture_is_there(served: tuple[str, Path], page: Any) -> None:
    address, folder = served
    page.goto(address + "/?state=kept")
    page.evaluate("document.querySelectorAll('li.pair img').forEach((each) => { each.loading = 'eager'; })")
    wanted = 2 * tables.count(folder / "pairs.lance", "status = 'ok' and kept")
    for _ in range(100):  # not wait_for_function, which the policy of the page forbids
        wide = page.evaluate("[...document.querySelectorAll('li.pair img')].map((each) => each.naturalWidth)")
        if wide == [48] * wanted:
            return
        page.wait_for_timeout(100)
    assert wide == [48] * wanted
