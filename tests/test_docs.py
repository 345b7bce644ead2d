"""The site is built as ``make docs`` does it, and the Python of README and docs/library.md runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import reverie
from reverie.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(root)}
    return subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_site_is_built_without_a_warning(tmp_path):
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "reference.html").read_text(encoding="utf-8")
    for name in set(reverie.__all__) - {"__version__"}:
        assert re.search(rf'id="reverie\.[\w.]*\b{name}"', reference), name
    commands = (tmp_path / "commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"reverie {name}" not in commands] == []
    assert "\x1b" not in commands


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path):
    for name in ("docs", "examples", "reverie"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "writers.md"
    page.write_text(page.read_text() + "\n[a](library.md#none) [b](nowhere.md) [c](../reverie/gone.py)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for said in ("does not contain an anchor '#none'", "links to nowhere.md", "links to ../reverie/gone.py"):
        assert said in done.stderr


def test_the_minute_of_python_and_the_guide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("captions.txt").write_text("a red circle\na blue star\n")
    (minute,) = blocks(ROOT / "README.md")
    assert re.findall(r"import .*", minute) == ["import reverie"]
    assert len(minute.splitlines()) - 1 <= 6
    names = {}
    exec(compile(minute, "README.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(names["run"].pairs.where("kept"))
    for block in blocks(ROOT / "docs" / "library.md"):  # the same plan in the same folder
        exec(compile(block, "library.md", "exec"), names)
    assert len(names["table"]) == len(names["frame"]) == len(names["images"]) == len(names["kept"]) > 0
    assert Path("shards/00000.tar").is_file()
