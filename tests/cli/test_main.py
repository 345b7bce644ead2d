"""The command line as a person meets it: exit codes, one line for what is theirs to mend, quick answers."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reverie.cli import data, predict, runs
from reverie.cli import show as show_command
from reverie.cli.main import COMMANDS, main

FAKE = str(Path(__file__).parents[1] / "run" / "fake_recipe.py")
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Type words, in a folder of our own; get exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return typed


def refused(answer: tuple[int, str, str]) -> str:
    """The one line of a refusal."""
    code, out, err = answer
    assert code == 2, err
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("reverie: ")
    assert "Traceback" not in err
    assert len([line for line in lines if line.startswith("reverie: ")]) == 1
    return lines[-1]


def test_run_status_verify_retry_repaint_export(say: Say) -> None:
    run = ["run", FAKE, "--count", "9", "--device", "cpu", "--out", "my run é"]
    code, out, _ = say(*run)
    assert (code, "my run é: done" in out) == (0, True)
    assert say(*run)[0] == 0

    code, out, _ = say("status", "my run é")
    assert code == 0
    assert re.search(r"paint +done +18 ", out), out
    assert say("verify", "my run é")[:2] == (0, "my run é: complete (10 captions, 18 images)\n")
    assert "paint: 0 rows fixed" in say("retry", "my run é", "--device", "cpu")[1]

    from reverie.store import tables

    name = next(tables.scan(Path("my run é/pairs.lance"), ["pair_id"]))["pair_id"][0].as_py()
    code, out, _ = say("repaint", "my run é", name, "--out", "again.png", "--device", "cpu")
    assert (code, "the same bytes" in out) == (0, True)
    assert Path("again.png").read_bytes().startswith(b"\x89PNG")

    assert say("export", "my run é", "--to", "webdataset", "--out", "shards")[0] == 0
    code, out, err = say("import", "shards", "--out", "back again")
    assert code == 0, err
    assert say("verify", "back again")[0] == 0


def test_verify_says_what_is_wrong(say: Say) -> None:
    say("run", FAKE, "--count", "5", "--device", "cpu", "--out", "run", "--until", "paint")
    import lance

    lance.dataset("run/pairs.lance").delete("copy = 1")
    code, out, _ = say("verify", "run")
    assert code == 1
    assert "copies" in out or "caption" in out


def test_parts_by_number(say: Say) -> None:
    for k in (1, 2):
        code, out, err = say("run", FAKE, "--device", "cpu", "--part", f"{k}/2", "--out", "run")
        assert code == 0
        assert "not complete yet" in out
    assert "run again without --part" in err
    assert "done" in say("run", FAKE, "--device", "cpu", "--out", "run")[1]


def test_changed_settings(say: Say) -> None:
    assert say("run", FAKE, "--device", "cpu", "--out", "run")[0] == 0
    line = refused(say("run", FAKE, "--device", "cpu", "--out", "run", "--guidance", "3"))
    assert "paint.guidance: 2.0 -> 3.0" in line


def test_folder_that_holds_something_else(say: Say) -> None:
    Path("home").mkdir()
    Path("home/letter.txt").write_text("dear")
    for words in (["run", FAKE, "--out", "home"], ["import", FAKE, "--out", "home"]):
        assert "home holds something that reverie did not write (letter.txt)" in refused(
            say(*words, *([] if words[0] == "import" else ["--device", "cpu"]))
        )
    assert [path.name for path in Path("home").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_bad_part(say: Say, part: str) -> None:
    assert "give k/n" in refused(say("run", FAKE, "--device", "cpu", f"--part={part}"))


def test_help_of_a_command_is_a_phrase_that_stands_alone() -> None:
    for module in (data, predict, runs, show_command):
        for name, command in inspect.getmembers(module, inspect.isfunction):
            told = (inspect.getdoc(command) or "").partition("Args:\n")[2]
            for flag, text in re.findall(r"^    (\w+): (.*)$", told, re.MULTILINE):
                assert not re.match(r"(of|that|which|its|likewise|the same)\b", text), f"{name} --{flag}: {text}"
                assert "likewise" not in text, f"{name} --{flag}: {text}"


def test_wrong_words(say: Say) -> None:
    assert "did you mean status" in refused(say("staus"))
    assert "did you mean stablerep" in refused(say("run", "stablerp"))
    assert "there is no recipe file" in refused(say("run", "mine.py"))
    assert "did you mean paint" in refused(say("run", FAKE, "--device", "cpu", "--until", "pant"))
    assert say("run", FAKE, "--guidnce", "3")[0] == 2
    assert say("run", FAKE, "--count", "many")[0] == 2


@pytest.mark.parametrize("command", ["status", "verify", "retry", "report"])
def test_folder_that_is_no_run(say: Say, command: str) -> None:
    Path("empty").mkdir()
    assert "empty" in refused(say(command, "empty"))
    assert "nowhere" in refused(say(command, "nowhere"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.txt", None, "missing.txt"),
        ("empty.txt", "", "empty.txt"),
        ("blank.txt", "\n \n", "blank.txt"),
        ("wrong.csv", "a,b\n1,2\n", "wrong.csv"),
        ("broken.json", "{", "broken.json"),
    ],
)
def test_bad_captions(say: Say, name: str, text: str | None, message: str) -> None:
    if text is not None:
        Path(name).write_text(text)
    assert message in refused(say("make", "--captions", name, "--device", "cpu"))
    assert not Path("runs").exists()  # nothing was begun


def test_classes_twice(say: Say) -> None:
    Path("classes.txt").write_text("dog\ncat\ndog\n")
    assert "'dog' twice" in refused(say("make", "--classes", "classes.txt", "--device", "cpu"))


def test_models_that_are_none(say: Say) -> None:
    Path("captions.txt").write_text("a red circle\n")
    words = ("make", "--captions", "captions.txt", "--device", "cpu", "--painter")
    assert "unknown builtin model 'painterr'" in refused(say(*words, "builtin:painterr"))
    Path("hollow/unet").mkdir(parents=True)
    Path("hollow/model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    Path("hollow/unet/config.json").write_text("{}")
    assert "no *.safetensors weights" in refused(say(*words, "./hollow"))
    assert "knows the small world only" in refused(say(*words, "./hollow", "--clip", "builtin:clip"))
    assert "does not exist" in refused(say(*words, "./nowhere"))
    assert not Path("runs").exists()


def test_captions_or_classes_but_not_both(say: Say) -> None:
    assert "not both" in refused(say("make", "--captions", "a.txt", "--classes", "b.txt", "--device", "cpu"))


def test_ctrl_c_says_how_to_go_on(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "make", stopped)
    code, _, err = say("make", "--out", "my run")
    assert code == 130
    assert "run the same command: reverie make --out 'my run'" in err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(words: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(COMMANDS, "make", bug)
    with pytest.raises(ZeroDivisionError):
        main(["make"])


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["run", "--help"], *([name, "--help"] for name in sorted(COMMANDS))], ids=" ".join
)
def test_help_shows_an_example(say: Say, words: list[str]) -> None:
    code, out, _ = say(*words)
    assert code == 0
    assert re.search(r"(Example:\s+|^ +)reverie \w+", out, re.MULTILINE), out


HEAVY = ("torch", "lance", "transformers", "diffusers", "accelerate", "sklearn", "scipy", "matplotlib", "kornia")


@pytest.mark.parametrize(
    "words",
    [["--help"], ["status", "--help"], ["demo", "--help"], ["run", "stablerep", "--help"], ["make", "--help"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
from reverie.cli.main import main
try:
    main({words!r})
except SystemExit as stop:
    assert not stop.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_status_can_be_watched_until_all_is_done(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    from reverie.cli import runs
    from reverie.run.engine import run
    from tests.run.fake_recipe import fake_recipe

    monkeypatch.setattr(runs, "WATCH_S", 0.05)
    run(fake_recipe(), Path("at work"), until="captions")
    rest = threading.Timer(0.3, lambda: run(fake_recipe(pause_s=0.01), Path("at work")))
    rest.start()
    code, out, _ = say("status", "at work", "--watch")
    rest.join()
    assert code == 0
    assert re.search(r"count +done ", out), out


def test_who_stops_watching_stops_no_run(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    from reverie.cli import runs
    from tests.run.fake_recipe import fake_recipe

    def watched() -> tuple[int, str, str]:
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        return say("status", "at work", "--watch")

    monkeypatch.setattr(runs, "WATCH_S", 0.05)
    assert "does not exist" in refused(say("status", "at work", "--watch"))
    Path("at work").mkdir()
    fake_recipe().settle(Path("at work"))
    code = """
import sys
from pathlib import Path
from reverie.run.folder import units_held
with units_held(Path("at work"), range(3, 5)):
    print(flush=True)
    sys.stdin.read()
"""
    ends: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **ends) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        status, out, err = watched()
        assert (status, err) == (0, "")
        assert out.endswith("\nthe run goes on\n")
        assert "nobody" not in out
        worker.kill()
    status, out, err = watched()
    assert (status, err) == (0, "")
    assert out.rstrip().endswith("nobody is at work in at work; the command that began the run goes on")


def test_status_needs_no_torch(tmp_path: Path) -> None:
    from tests.run.fake_recipe import fake_recipe

    fake_recipe().settle(tmp_path)
    code = f"""
import sys
from reverie.cli.main import main
try:
    main(["status", {str(tmp_path)!r}])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"
    assert "captions" in done.stdout


def test_a_recipe_may_not_take_the_names_of_a_run(say: Say) -> None:
    Path("mine.py").write_text("def mine(out: int = 1):\n    return out\n")
    assert "every run has: out" in refused(say("run", "mine.py"))
    Path("loose.py").write_text("def loose(**options: int):\n    return options\n")
    assert "names its parameters" in refused(say("run", "loose.py"))


def test_disk_full_is_one_line(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    from reverie.errors import StoreFull
    from reverie.store import tables

    def full(path: Path, units: object) -> None:
        raise StoreFull(f"no space left for {path}; free some and run the same command again")

    monkeypatch.setattr(tables, "append_units", full)
    code, _, err = say("run", FAKE, "--device", "cpu", "--out", "run")
    assert code == 2
    assert err.splitlines()[-1].startswith("reverie: no space left")


def test_import_says_what_it_counts(say: Say) -> None:
    Path("captions.txt").write_text("a fox\n\nan owl\n")
    told = "x: 3 captions (1 dropped)\n3 found = 2 taken + 1 dropped (no text)\n"
    assert say("import", "captions.txt", "--out", "x")[1] == told
    again = refused(say("import", "captions.txt", "--out", "x", "--name", "two", "--kind", "csv"))
    assert "say with --text-column which of a fox it is" in again
    assert say("import", "captions.txt", "--out", "x", "--name", "two")[1] == told
    assert say("import", "captions.txt", "--out", "x", "--name", "two")[1] == told
    from PIL import Image

    from reverie.store import tables

    assert tables.count("x/captions.lance") == 6
    Image.new("RGB", (8, 8)).save("a.png")
    Path("b.png").write_bytes(b"broken")
    Path("table.csv").write_text("image,caption\na.png,a fox\nb.png,an owl\n../a.png,a cat\n")
    said = say("import", "table.csv", "--out", "y", "--images", ".")[1]
    assert said.splitlines()[0] == "y: 3 captions, 1 image ok, 2 failed"
    assert say("import", "table.csv", "--out", "z")[1].splitlines() == [
        "z: 3 captions",
        "3 found = 3 taken",
        "captions only: image names pictures; import them too with --images FOLDER",
    ]


def test_import_says_how_many_images_have_no_text(say: Say) -> None:
    from PIL import Image

    Path("photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(f"photos/{name}.png")
    assert say("import", "photos", "--out", "x")[1] == "x: 2 images ok (2 without text)\n2 found = 2 taken\n"
    Path("table.csv").write_text("image,caption\na.png,a fox\nb.png,\n")
    said = say("import", "table.csv", "--out", "y", "--images", "photos")[1]
    assert said == "y: 2 captions (1 dropped), 1 image ok, 1 dropped\n2 found = 1 taken + 1 dropped (no text)\n"
    said = say("import", "table.csv", "--out", "z", "--images", "photos", "--without-text", "keep")[1]
    assert said == "z: 1 caption, 2 images ok (1 without text)\n2 found = 2 taken\n"


@pytest.mark.parametrize("text", [None, "", "id,what\n1,a fox\n", "id,text\n"])
def test_a_source_that_cannot_be_read_leaves_no_folder(say: Say, text: str | None) -> None:
    if text is not None:
        Path("source.csv").write_text(text)
    assert "source.csv" in refused(say("import", "source.csv", "--out", "x"))
    assert not Path("x").exists()
    Path("there").mkdir()
    assert "source.csv" in refused(say("import", "source.csv", "--out", "there"))
    assert Path("there").is_dir()


def test_export_to_a_place_that_cannot_be_written(say: Say) -> None:
    from reverie.store import tables
    from tests.store.conftest import captions_of, pairs_of

    tables.append_unit("run/pairs.lance", 0, pairs_of(captions_of(0, 1)))
    Path("file").write_text("mine")
    line = refused(say("export", "run", "--to", "webdataset", "--out", "file/x"))
    assert line == "reverie: cannot write to file/x: Not a directory; give another folder"


@pytest.mark.parametrize("content", ["{}", "[]", "not json"])
@pytest.mark.parametrize("command", ["status", "report"])
def test_a_plan_that_is_not_ours(say: Say, content: str, command: str) -> None:
    Path("other").mkdir()
    Path("other/plan.json").write_text(content)
    assert "delete" not in refused(say(command, "other"))
    refused(say("run", FAKE, "--out", "other"))
    assert Path("other/plan.json").read_text() == content


def test_retry_from_anywhere(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The caption file was named relative to where the run was started."""
    Path("captions.txt").write_text("a red circle\n")
    flags = [
        "--captions",
        "captions.txt",
        "--per-caption",
        "1",
        "--sampler-steps",
        "1",
        "--until",
        "captions",
        "--out",
        "run",
    ]
    assert say("make", *flags)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert say("retry", "../run")[0] == 0


def test_failed_captions_are_told_and_a_retry_tries_others(say: Say) -> None:
    """The small world's writer has no word for an aardvark."""
    Path("classes.txt").write_text("aardvark\nred circle\n")
    flags = ["--classes", "classes.txt", "--writer", "builtin:writer", "--per-class", "1", "--until", "captions"]
    code, out, _ = say("make", *flags, "--out", "run")
    assert code == 0
    assert "1 caption failed; make it again with: reverie retry run" in out
    from reverie.store import tables

    def tried() -> set[int]:
        where = "status = 'dropped' and label = 'aardvark'"
        return {
            seed for rows in tables.scan("run/captions.lance", ["seed"], where) for seed in rows["seed"].to_pylist()
        }

    before = tried()
    assert say("retry", "run")[0] == 0
    assert tried() > before


def test_nothing_usable_stops_where_it_is(say: Say) -> None:
    Path("classes.txt").write_text("aardvark\n")
    flags = ["--classes", "classes.txt", "--writer", "builtin:writer", "--per-class", "1", "--out", "run"]
    code, _, err = say("make", *flags)
    assert code == 2
    assert "no caption is usable" in err


def test_not_allowed_is_one_line(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "captions.csv")

    monkeypatch.setattr("reverie.run.engine.run", forbidden)
    assert "not allowed to read or write" in refused(say("run", FAKE, "--out", "run"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["make", "--guidance", "nan"], "guidance nan"),
        (["models", "check", "--num", "0"], "--num 0: give 1 or more"),
        (["run", "stablerep", "--view-px", "64", "--image-px", "32"], "cannot be cut from images"),
        (["run", "stablerep", "--seeds", "0", "0"], "--seeds 0 0 names one twice"),
        (["run", "stablerep", "--captions-per-batch", "500"], "more than the 64 captions"),
    ],
)
def test_slips_are_told_before_any_work(say: Say, words: list[str], said: str) -> None:
    assert said in refused(say(*words))
    assert not Path("runs").exists()


# Doors in and out


def image(path: Path, seed: int = 0) -> Path:
    from tests.store.conftest import picture

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(seed))
    return path


def test_an_import_ends_with_the_sum_of_all_that_was_there(say: Say) -> None:
    image(Path("f/cat/a.png"))
    Path("f/cat/b.png").write_bytes(b"no picture")
    Path("f/cat/notes.txt").write_text("words")
    code, out, err = say("import", "f", "--out", "real")
    assert code == 0, err
    assert out.splitlines() == [
        "real: 2 captions, 1 image ok, 1 failed",
        "3 found = 1 taken + 1 failed (not a JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF image) + 1 not taken (.txt file)",
    ]
    assert say("import", "f", "--out", "real")[1] == out  # again, from what is stored
    assert "leaves no captions" in refused(say("import", "f", "--out", "other", "--captions-per-image", "0"))
    assert not Path("other").exists()


def test_an_import_of_which_nothing_is_usable_is_an_error_after_its_sum(say: Say) -> None:
    Path("f").mkdir()
    Path("f/a.png").write_bytes(b"no picture")
    Path("e.jsonl").write_text('{"text": " "}\n')
    for source, out, told in (
        ("f", "broken", "broken: 0 images ok, 1 failed"),
        ("e.jsonl", "empty", "empty: 1 caption (1 dropped)"),
    ):
        code, said, err = say("import", source, "--out", out)
        assert (code, said.splitlines()[0]) == (2, told)
        assert err.endswith(f"reverie: nothing of {source} is usable; mend it, then import it into another folder\n")


@pytest.mark.parametrize("name", ["x" * 300, "file/inside", "file"])
def test_out_that_cannot_be(say: Say, name: str) -> None:
    image(Path("f/cat/a.png"))
    Path("file").write_text("a file")
    refused(say("import", "f", "--out", name))
    refused(say("run", FAKE, "--device", "cpu", "--out", name))
    assert say("import", "f", "--out", "real")[0] == 0
    refused(say("export", "real", "--to", "coco", "--out", name))
    refused(say("verify", name))
    refused(say("import", name, "--out", "other"))


def test_repaint_into_a_folder_is_refused_before_painting(say: Say) -> None:
    assert say("run", FAKE, "--count", "3", "--device", "cpu", "--out", "run")[0] == 0
    assert "is a folder; give --out the name of a file" in refused(say("repaint", "run", "no-such-pair", "--out", "."))


@pytest.mark.parametrize("label", ["cat [/x]", "[draft] cat", ":cat: cat", "cat [bold]", "cat \\"])
def test_labels_are_printed_as_they_are(say: Say, label: str) -> None:
    image(Path("f") / label / "a.png")
    image(Path("f/dog/a.png"))
    assert say("import", "f", "--out", "out")[0] == 0
    code, out, err = say("duplicates", "out")
    assert code == 0, err
    assert label in out


def test_what_would_steer_the_terminal_is_shown() -> None:
    from reverie.report.plain import plain

    assert plain("a\x1b[31m\x07 b\udcff").plain == "a\\u001b[31m\\u0007 b\\xff"


def test_damaged_tables_in_words(say: Say) -> None:
    image(Path("f/cat/a.png"))
    assert say("import", "f", "--out", "out")[0] == 0
    data = next(Path("out/pairs.lance/data").iterdir())
    data.write_bytes(data.read_bytes()[:-100])
    code, out, err = say("verify", "out")
    assert (code, "cannot read" in out, "Traceback" in err) == (1, True, False)
    for words in (
        ["duplicates", "out"],
        ["import", "f", "--out", "out"],
        ["export", "out", "--to", "coco", "--out", "x"],
    ):
        assert "pairs.lance" in refused(say(*words))
    for name in ("pairs.lance", "captions.lance"):
        shutil.rmtree(f"out/{name}/_versions")
        code, out, _ = say("verify", "out")
        assert (code, f"{name} is damaged" in out) == (1, True)


@pytest.mark.parametrize(
    "rule",
    [
        "clip_score > 0,99",
        "status = 'ok' clip_score > 100",
        "no_such_column > 1",
        "clip_score > 'a'",
        "kept",
        "status = 'ok",
    ],
)
def test_a_rule_that_does_not_fit_is_told_before_any_work(say: Say, rule: str) -> None:
    Path("classes.txt").write_text("red circle\n")
    assert repr(rule)[1:-1] in refused(say("make", "--classes", "classes.txt", "--device", "cpu", "--keep", rule))
    assert not Path("runs").exists()


@pytest.mark.parametrize("where", ["copy > 0,99", "status = 'ok' copy > 100", "copy > 0) or (copy < 1", "none > 1"])
def test_an_export_reads_its_filter_to_the_end(say: Say, where: str) -> None:
    image(Path("f/cat/a.png"))
    assert say("import", "f", "--out", "out")[0] == 0
    for kind in ("webdataset", "parquet", "coco", "folder"):
        assert "filter" in refused(say("export", "out", "--to", kind, "--out", "x", "--where", where))
    assert not Path("x").exists()


def test_a_class_name_that_no_folder_can_have(say: Say) -> None:
    image(Path("a.png"))
    Path("a.jsonl").write_text(json.dumps({"image": "a.png", "label": "\u00e4" * 200}) + "\n")
    assert say("import", "a.jsonl", "--out", "out", "--images", ".")[0] == 0
    assert "too long for the name of a folder" in refused(say("export", "out", "--to", "folder", "--out", "x"))
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("make", ["paint-px", "per-class", "per-caption", "sampler-steps", "guidance", "unit-size"]),
        ("text_to_image", ["paint-px", "channels", "batch-size", "autoencoder-channels", "autoencoder-batch"]),
        ("scratch_efficiency", ["per-caption", "view-px", "image-px"]),
        ("stablerep", ["downscale-px", "per-caption"]),
    ],
)
def test_numbers_below_their_range(say: Say, recipe: str, flags: list[str]) -> None:
    Path("store").mkdir()
    for flag in flags:
        for value in ("0", "-8"):
            words = ["make"] if recipe == "make" else ["run", recipe]
            words += ["--store", "store"] if recipe == "text_to_image" else []
            line = refused(say(*words, "--device", "cpu", f"--{flag}", value))
            assert value in line or "at least 1" in line, flag
    assert not Path("runs").exists()


@pytest.mark.parametrize("flag", ["guidance", "lr"])
def test_not_a_number(say: Say, flag: str) -> None:
    assert f"--{flag} nan" in refused(say("run", "stablerep", "--device", "cpu", f"--{flag}", "nan"))


@pytest.mark.parametrize(
    "words",
    [
        ["run", "syntic", "--support", "a.txt", "--support", "b.txt"],
        ["make", "--per-class=2", "--per_class", "3"],
        ["evaluate", "transfer", "pixels", "photos", "--seed", "1", "--seed=1"],
    ],
)
def test_a_flag_that_is_given_twice_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "is given twice; give it once" in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())
