"""The command: what it refuses before it serves, and one start as a person does it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from reverie.cli.main import main
from reverie.store import tables

from .test_pages import keys


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        main(["show", *map(str, words)])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_refused_in_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is no folder" in refused(capsys, tmp_path / "nowhere", "--no-browser")
    assert "holds no images" in refused(capsys, tmp_path / "empty", "--no-browser")
    assert "holds no images" in refused(capsys, folder, tmp_path / "empty", "--no-browser")
    assert "--port 70000 is no port" in refused(capsys, folder, "--port", "70000", "--no-browser")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "--port 0 for a free one" in refused(capsys, folder, "--port", taken.getsockname()[1], "--no-browser")


def test_without_the_extra_one_line_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'reverie[show]'" in refused(capsys, folder, "--no-browser")


def test_served_until_it_is_stopped(folder: Path) -> None:
    """On the loopback alone; a mark made just before the end is in the column after it."""
    words = [sys.executable, "-m", "reverie.cli", "show", str(folder), "--port", "0", "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(address) as answer:
            assert "18 pairs" in answer.read().decode()
        name = keys(folder)[0]
        asked = urllib.request.Request(
            f"{address}mark",
            f"pair={name}&bad=1".encode(),
            {"origin": address.rstrip("/"), "accept": "application/json"},
        )
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGINT)
        _, told = server.communicate(timeout=30)
    assert (server.returncode, told) == (0, "")
    assert keys(folder, "bad") == [name]
    assert tables.count(folder / "pairs.lance", "not bad") == 17


def test_a_browser_that_takes_the_terminal_does_not_keep_the_server_waiting(folder: Path) -> None:
    """Such a browser ends when it is left, and cannot show a page before the server answers."""
    words = [sys.executable, "-m", "reverie.cli", "show", str(folder), "--port", "0"]
    env = {**os.environ, "BROWSER": f"{sys.executable} -c 'import time; time.sleep(60)' %s"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert "18 pairs" in answer.read().decode()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
