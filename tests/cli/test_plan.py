"""A look before the spending, as typed: what it prints, what is refused, and that nothing stays."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest

from tests.cli.test_main import FAKE, Say, refused, say

__all__ = ["say"]  # the fixture


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_plan_is_told_and_leaves_nothing(say: Say, scratch: Path) -> None:
    flags = ["--count", "20", "--pause-s", "0.01", "--device", "cpu"]
    code, out, err = say("plan", FAKE, *flags, "--price-per-hour", "3600")
    assert code == 0, err
    assert re.search(r"paint +PaintNoise +5 +40 ", out), out
    assert "fake_recipe on cpu: 20 captions, 40 images, 5 units" in out
    assert re.search(r"cost: about \d\.\d\d \(\d\.\d\d to \d\.\d\d\) at 3600 an hour", out)
    assert "count: not tried: it measures what was trained" in out
    code, out, _ = say("plan", FAKE, *flags, "--json", "--out", "mine")
    record = json.loads(out)
    assert (code, record["images"], record["cost"], set(record["unknown"])) == (0, 40, None, {"count"})
    assert not list(scratch.glob("reverie-*"))
    assert not list(Path().iterdir())


def test_a_plan_of_parts_of_a_run(say: Say) -> None:
    code, out, _ = say("plan", FAKE, "--device", "cpu", "--until", "paint", "--jobs", "1", "--part", "1/2", "--json")
    assert (code, [step["name"] for step in json.loads(out)["steps"]]) == (0, ["captions", "paint"])


def test_a_preview_is_a_page_and_the_run_folder_stays_as_it_is(say: Say, scratch: Path) -> None:
    code, out, err = say("run", FAKE, "--count", "20", "--preview", "3", "--device", "cpu", "--out", "run")
    assert code == 0, err
    page = Path(out.strip())
    assert list(scratch.glob("reverie-*")) == [page]
    text = page.read_text()
    assert "a preview, 3 of 20 captions" in text
    assert "a sentence about 6" in text
    assert text.count("<img") >= 5
    assert not Path("run").exists()
    assert say("run", FAKE, "--count", "20", "--device", "cpu", "--out", "run")[0] == 0


def test_a_preview_that_stops_shows_what_there_is(say: Say, scratch: Path) -> None:
    Path("fail.json").write_text(json.dumps({"captions": [], "texts": ["a sentence about 0", "user error"]}))
    line = refused(say("run", FAKE, "--preview", "2", "--fail-file", "fail.json", "--device", "cpu"))
    assert "was told to refuse this caption" in line
    (page,) = scratch.glob("reverie-*")
    assert str(page) in line
    assert "a preview" in page.read_text()


def test_slips_are_one_line(say: Say, scratch: Path) -> None:
    Path("none.txt").write_text("\n\n")
    for command in (["plan", "make"], ["make", "--preview", "2"]):
        for flags, told in (
            (["--captions", "nowhere.txt"], "nowhere.txt"),
            (["--classes", "none.txt"], "none.txt"),
            (["--painter", "builtin:paintr"], "unknown builtin model 'paintr'"),
        ):
            assert told in refused(say(*command, *flags, "--device", "cpu"))
    assert not list(scratch.glob("reverie-*"))
    assert sorted(path.name for path in Path().iterdir()) == ["none.txt"]


@pytest.mark.parametrize("command", [["plan", FAKE], ["run", FAKE, "--preview", "2"]])
def test_flags_that_a_run_refuses_are_refused(command: list[str], say: Say, scratch: Path) -> None:
    for flags, told in (
        (["--until", "nowhere"], "unknown step 'nowhere'"),
        (["--part", "9/3"], "--part 9/3"),
        (["--actors", "2"], "belong to --on ray"),
        (["--on", "ray", "--actors", "0"], "--actors 0: give 1 or more"),
        (["--jobs", "0"], "--jobs 0: give 1 or more"),
        (["--files", "here"], "--files is for tables in an object store"),
    ):
        assert told in refused(say(*command, *flags))
    for count in ("0", "-1"):
        told = "--preview belongs to the run" if command[0] == "plan" else f"--preview {count}: give 1 or more"
        assert told in refused(say(*command[:2], "--preview", count))
    assert not list(Path().iterdir())
    assert not list(scratch.glob("reverie-*"))


def test_a_price_is_a_number(say: Say) -> None:
    for price in ("inf", "nan", "-1"):
        assert "--price-per-hour" in refused(say("plan", FAKE, "--trial", "0", "--price-per-hour", price))


def test_a_plan_says_what_its_numbers_are_of(say: Say) -> None:
    assert say("run", FAKE, "--count", "4", "--device", "cpu", "--out", "run")[0] == 0
    out = say("plan", FAKE, "--count", "4", "--device", "cpu", "--out", "run", "--trial", "0", "--part", "1/2")[1]
    assert "run holds a run: these are the numbers of a whole one; what is left: reverie status run" in out
    assert "--part, --jobs and --on ray are not looked at" in out


def test_a_preview_goes_no_further_than_the_run(say: Say) -> None:
    flags = ["--count", "4", "--preview", "2", "--device", "cpu", "--until", "captions"]
    code, out, err = say("run", FAKE, *flags)
    assert code == 0, err
    assert "paint:" not in err
    assert Path(out.strip()).exists()


def test_totals_without_the_painter_are_not_told_as_the_whole(say: Say) -> None:
    Path("cap.txt").write_text("a red circle\na blue star\n")
    words = ["plan", "make", "--captions", "cap.txt", "--painter", "nobody/nothing", "--price-per-hour", "3"]
    code, out, err = say(*words, "--device", "cpu")
    assert code == 0, err
    for what in ("disk", "time", "cost"):
        assert f"\n{what}: not known without paint\n" in out
    assert "paint: not tried: the weights of nobody/nothing are not on this machine" in out
    record = json.loads(say(*words, "--device", "cpu", "--json")[1])
    assert (record["without"], record["seconds"], record["disk_bytes"], record["cost"]) == (["paint"], None, None, None)


def test_a_server_is_not_asked(say: Say) -> None:
    Path("classes.txt").write_text("red circle\nblue star\n")
    words = [
        "plan",
        "make",
        "--classes",
        "classes.txt",
        "--writer",
        "openai:some@http://127.0.0.1:9/v1",
        "--device",
        "cpu",
        "--json",
    ]
    code, out, err = say(*words)
    assert code == 0, err
    unknown = json.loads(out)["unknown"]
    assert "is asked over the network" in unknown["captions"]
    assert unknown["paint"] == "not tried: it reads captions"
