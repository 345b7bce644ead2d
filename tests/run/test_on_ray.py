"""A real Ray on this machine, its actors in processes of their own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reverie.cli.main import main
from reverie.errors import InputError, ReverieError
from reverie.run.engine import run
from reverie.run.events import read_events
from reverie.run.plan import call_recipe
from reverie.store import tables
from tests.run.conftest import FAKE
from tests.run.side_jobs import plan_of

Rows = Callable[[Path], dict[str, list[dict[str, Any]]]]
SIZE = {"count": 30, "unit_size": 3, "seed": 5}


@pytest.fixture(scope="module")
def pool() -> Iterator[Any]:
    """One Ray for all tests of this file: it takes seconds to start."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'reverie[ray]'")
    from reverie.run.on_ray import cluster

    with cluster(actors=2) as found:
        yield found


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_does_not_fit_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["make", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert "belong to --on ray" in refused([*words, "--actors", "4"], capsys)
    assert "--actors 0: give 1 or more" in refused([*words, "--on", "ray", "--actors", "0"], capsys)
    for gpus in ("1.5", "1e-9", "inf"):
        assert "Ray counts whole GPUs" in refused([*words, "--on", "ray", "--gpus-per-actor", gpus], capsys)
    flags = ["make", "--out", str(tmp_path / "run"), "--on", "ray", "--device"]
    assert "--device cuda:1 with --on ray: give cpu, or cuda" in refused([*flags, "cuda:1"], capsys)
    assert "such as --gpus-per-actor 1" in refused([*flags, "cuda"], capsys)
    assert not (tmp_path / "run").exists()


def test_without_ray_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'reverie[ray]'" in refused(["make", "--on", "ray", "--out", str(tmp_path)], capsys)


def test_nobody_at_the_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'reverie[ray]'")
    words = ["make", "--on", "ray", "--out", str(tmp_path)]
    assert "no Ray answers at 127.0.0.1:9" in refused([*words, "--ray-address", "127.0.0.1:9"], capsys)
    assert "give HOST:PORT" in refused([*words, "--ray-address", "head"], capsys)
    with socket.create_server(("127.0.0.1", 0)) as other:  # such as a page of Ray's own dashboard
        threading.Thread(
            target=lambda: other.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), daemon=True
        ).start()
        port = other.getsockname()[1]
        assert "is no Ray; give --ray-address the port" in refused(
            [*words, "--ray-address", f"127.0.0.1:{port}"], capsys
        )


ASK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", timeout=20)
    print("let in")
except AuthenticationError:
    print("refused")
"""


def asked(address: str, **more: str) -> str:
    """What a process is told that asks a Ray with this in its environment, and nothing else of a token."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", ASK, address]
    return subprocess.run(
        words, env=bare | more, capture_output=True, text=True, timeout=120, check=True
    ).stdout.strip()


@pytest.mark.slow
def test_a_ray_of_ones_own_is_for_nobody_else(pool: Any) -> None:
    """Nothing listens but on the loopback, and who has no token, or another one, is not let in."""
    import psutil
    import ray

    pool.wait()
    here = psutil.Process()
    ports = {
        (process.name(), at.laddr.ip)
        for process in (here, *here.children(recursive=True))
        for at in process.net_connections()
        if at.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in ports}
    assert {ip.removeprefix("::ffff:") for _, ip in ports} <= {"127.0.0.1", "::1"}
    address = ray.get_runtime_context().gcs_address
    assert asked(address) == "refused"
    assert asked(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64) == "refused"
    assert asked(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.environ["RAY_AUTH_TOKEN"]) == "let in"


def test_a_token_is_made_for_each_ray_and_what_was_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'reverie[ray]'")
    from reverie.run.on_ray import _for_us_alone

    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    tokens = []
    for _ in range(2):
        with _for_us_alone():
            assert os.environ["RAY_AUTH_MODE"] == "token"
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
        assert not any(name in os.environ for name in names)
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) == 64
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "mine")
    with _for_us_alone():
        assert [os.environ.get(name) for name in names] == ["token", None, "mine"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with _for_us_alone():
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.slow
def test_a_cluster_that_wants_a_token_is_told_as_one(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'reverie[ray]'")
    code = "import ray; ray.init('local', num_cpus=1, include_dashboard=False, logging_level='error')\n"
    code += "print(ray.get_runtime_context().gcs_address, flush=True); input()"
    locked = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "1" * 64}
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code], env=locked, text=True, **ends) as other:
        try:
            words = [
                sys.executable,
                "-m",
                "reverie.cli",
                "run",
                FAKE,
                "--out",
                str(tmp_path / "run"),
                "--device",
                "cpu",
            ]
            words += ["--on", "ray", "--ray-address", other.stdout.readline().strip()]
            done = subprocess.run(words, env=bare, capture_output=True, text=True, timeout=120)
        finally:
            other.communicate("\n")
    assert done.returncode == 2
    assert "wants another token than it was given; set RAY_AUTH_MODE=token" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_same_tables_as_in_one_process(tmp_path: Path, pool: Any, rows: Rows) -> None:
    assert run(call_recipe(FAKE, SIZE), tmp_path / "ray", pool=pool)
    run(call_recipe(FAKE, SIZE), tmp_path / "here")
    assert rows(tmp_path / "ray") == rows(tmp_path / "here")
    assert (tmp_path / "ray" / "count.txt").read_text() == (tmp_path / "here" / "count.txt").read_text()
    assert tables.verify(tmp_path / "ray", per_caption=2) == []


@pytest.mark.slow
def test_real_models_paint_and_score_the_same(tmp_path: Path, pool: Any, rows: Rows) -> None:
    """Pictures to the byte, scores to the bit: with one thread each, as tests have."""
    texts = tmp_path / "captions.txt"
    texts.write_text("a red circle\na blue square\na green triangle\na yellow star\n")
    settings = {"captions": texts, "per_caption": 1, "sampler_steps": 2, "unit_size": 2, "keep": "clip_score > -1"}
    assert run(call_recipe("make", settings), tmp_path / "ray", pool=pool)
    assert run(call_recipe("make", settings), tmp_path / "here")
    assert rows(tmp_path / "ray") == rows(tmp_path / "here")
    assert rows(tmp_path / "ray")["pairs"][0]["clip_score"] is not None


@pytest.mark.slow
def test_a_refusal_is_the_stages_own_and_what_was_made_stays(tmp_path: Path, pool: Any) -> None:
    fail = tmp_path / "fail.json"
    fail.write_text('{"captions": [], "texts": ["a sentence about 17", "user error"]}')
    plan = call_recipe(FAKE, {**SIZE, "fail_file": str(fail)})
    with pytest.raises(ReverieError, match=r"^the fake painter was told to refuse this caption; tell it otherwise$"):
        run(plan, tmp_path / "run", pool=pool)
    assert len(tables.done_units(tmp_path / "run" / "captions.lance")) == 10


@pytest.mark.slow
def test_jobs_are_done_by_actors_side_by_side(tmp_path: Path, pool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(plan_of(), tmp_path, jobs=2, pool=pool) is True
    found = [line.split() for line in (tmp_path / "all.txt").read_text().splitlines()]
    assert {process for process, _, _ in found}.isdisjoint({str(os.getpid())})
    assert capsys.readouterr().err.count("the same in each") == 1
    with pytest.raises(ReverieError, match=r"^c does not like its photos$"):
        run(plan_of(c="refused"), tmp_path / "other", jobs=2, pool=pool)
    with pytest.raises(ReverieError, match=r"step a was lost with 3 actors"):
        run(plan_of(a="dies"), tmp_path / "third", pool=pool)


@pytest.mark.slow
def test_an_actor_that_is_killed_costs_its_unit(tmp_path: Path, pool: Any, rows: Rows) -> None:
    killed: list[int] = []

    def kill() -> None:
        """End an actor in the midst of painting, once."""
        while not killed:
            made = tables.done_units(tmp_path / "ray" / "pairs.lance") if (tmp_path / "ray").exists() else set()
            for pid in actors() if made else ():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert run(call_recipe(FAKE, {**SIZE, "pause_s": 0.3}), tmp_path / "ray", pool=pool)
    thread.join(60)
    lost = [event["what"] for event in read_events(tmp_path / "ray") if event["kind"] == "lost"]
    assert len(killed) == 1
    assert len(lost) == 1
    run(call_recipe(FAKE, SIZE), tmp_path / "here")
    assert rows(tmp_path / "ray") == rows(tmp_path / "here")


def actors() -> list[int]:
    """Processes of actors of this process that make a unit, by what Ray calls them."""
    psutil = pytest.importorskip("psutil")
    found = psutil.Process().children(recursive=True)
    return [process.pid for process in found if "ray::_Actor.unit" in " ".join(process.cmdline())]


@pytest.mark.slow
def test_the_one_who_hands_out_is_killed_and_goes_on(tmp_path: Path, rows: Rows) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'reverie[ray]'")
    flags = ["--count", "30", "--unit-size", "3", "--seed", "5", "--pause-s", "0.2", "--device", "cpu"]
    words = [sys.executable, "-m", "reverie.cli", "run", FAKE, *flags, "--on", "ray", "--actors", "2"]
    words += ["--out", str(tmp_path / "ray")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pairs, deadline = tmp_path / "ray" / "pairs.lance", time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline and len(tables.done_units(pairs)) < 2:
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = tables.done_units(pairs)
    assert 2 <= len(before) < 10
    subprocess.run(words, check=True, timeout=300, stdout=subprocess.DEVNULL)
    run(call_recipe(FAKE, SIZE), tmp_path / "here")
    assert rows(tmp_path / "ray") == rows(tmp_path / "here")
    made = [
        event["unit"] for event in read_events(tmp_path / "ray") if event["kind"] == "unit" and event["step"] == "paint"
    ]
    assert sorted(made) == list(range(10))  # nothing twice


@pytest.mark.slow
def test_gpus_that_are_not_there_are_told(tmp_path: Path) -> None:
    """In a process of its own, as one process has one Ray."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'reverie[ray]'")
    words = [sys.executable, "-m", "reverie.cli", "run", FAKE, "--out", str(tmp_path / "run"), "--on", "ray"]
    words += ["--actors", "2", "--gpus-per-actor", "64"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "2 actors with --gpus-per-actor 64 need 128 GPUs" in done.stderr
    assert len(done.stderr.splitlines()) == 1  # no warning of a library
    assert not (tmp_path / "run").exists()


def test_one_gpu_is_not_several() -> None:
    from reverie.run.on_ray import _too_few

    assert _too_few(1, 1, 0).startswith("1 actor with --gpus-per-actor 1 needs 1 GPU, and this machine has none; give")
    assert _too_few(4, 0.5, 1).startswith(
        "4 actors with --gpus-per-actor 0.5 need 2 GPUs, and this machine has 1; give"
    )


def test_several_processes_of_one_training_are_no_place_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="leave it out"):
        run(call_recipe(FAKE, SIZE), tmp_path, pool=object())  # type: ignore[arg-type]
