"""Runs whose tables lie in an object store: moto's S3 server over HTTP, in a process of its own."""

import http.client
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reverie import pairs
from reverie.cli.main import main
from reverie.errors import FolderInUse, InputError, SettingsChanged, UnitExists
from reverie.run.engine import run
from reverie.run.plan import call_recipe, join_run
from reverie.run.status import status
from reverie.store import tables
from reverie.store.places import address, point, remote
from tests.run.conftest import FAKE

Rows = Callable[[Path], dict[str, list[dict[str, Any]]]]
SIZE = {"count": 18, "unit_size": 3, "seed": 5}
KEYS = ("planted-key-id", "planted-secret-key")


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of an S3 server with a bucket."""
    moto = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
    boto3 = pytest.importorskip("boto3")
    found = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    _, port = found.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", aws_access_key_id=KEYS[0],
        aws_secret_access_key=KEYS[1],
    )  # fmt: skip
    client.create_bucket(Bucket="bucket")
    yield port
    found.stop()


@pytest.fixture
def bucket(server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An address in the bucket that nobody has used, with the variables that lead there."""
    use(server, monkeypatch)
    return f"s3://bucket/{tmp_path.name}"


def use(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1], "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def words(at: str, files: Path, *more: str) -> list[str]:
    flags = ["--count", "18", "--unit-size", "3", "--seed", "5", "--device", "cpu"]
    return ["run", FAKE, *flags, "--out", at, "--files", str(files), *more]


def refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("reverie: ")]) == 1
    return lines[-1]


class Proxy:
    """Stands before a server and answers some requests itself: ``fails(number, method, path)`` gives the status, 0 to hang up.

    With ``after`` the server has done what it was asked by then.
    """

    def __init__(self, port: int, fails: Callable[[int, str, str], int | None], after: bool = False) -> None:
        self.asked: Counter[str] = Counter()
        self.failed = 0
        outer, guard = self, threading.Lock()

        def ask(given: BaseHTTPRequestHandler, body: bytes) -> http.client.HTTPResponse:
            onward = http.client.HTTPConnection("127.0.0.1", port)
            onward.request(given.command, given.path, body, dict(given.headers))
            return onward.getresponse()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with guard:
                    outer.asked[self.command] += 1
                    status = fails(outer.asked.total(), self.command, self.path)
                    outer.failed += status is not None
                if status is not None and after:
                    ask(self, body).read()
                if status == 0:
                    self.close_connection = True
                    self.connection.close()
                    return
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                reply = ask(self, body)
                data = reply.read()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(name, value)
                length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_port

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def test_an_address_survives_being_a_path() -> None:
    assert remote(Path("s3://bucket/a/run")) == remote("s3://bucket/a/run/") == "s3://bucket/a/run"
    assert remote(Path("gs://b/x")) == "gs://b/x"
    assert remote(Path("runs/s3")) is None
    assert remote(Path("s3")) is None
    with pytest.raises(InputError, match="holds no keys"):
        remote("s3://key:secret@bucket/run")
    assert remote(Path("/runs/s3:/a")) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("s3://", "names no bucket"), ("s3:", "names no bucket"), ("S3://bucket/run", "give s3://BUCKET/NAME"),
        ("s3a://bucket/run", "give s3://BUCKET/NAME"), ("gcs://bucket/run", "or a folder"), ("https://host/run", "or a folder"),
        ("s3://bucket/a/../b", "holds .., which"), ("s3://bucket/..", "holds .., which"), ("s3://bucket/a#1", "holds #, which"),
        ("s3://bucket/a%20b", "holds %, which"), ("s3://", "reverie: s3:// is no address"), ("http://host/run", "reverie: http://host/run is"),
        ("s3://bucket/run?key=x", '"?" is no part of an address here'),
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_store_makes_no_folder(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lance takes a relative path that begins with a word and a colon for an address, whatever is there."""
    monkeypatch.chdir(tmp_path)
    assert said in refused(["run", FAKE, "--out", given], capsys)
    assert not list(tmp_path.iterdir())


def test_an_address_with_keys_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for scheme in ("s3", "S3", "s3a"):
        said = refused(["run", FAKE, "--out", f"{scheme}://{KEYS[0]}:{KEYS[1]}@bucket/run"], capsys)
        assert "holds no keys" in said
        assert not [key for key in KEYS if key in said]


def test_tables_of_a_folder_that_points_elsewhere(tmp_path: Path) -> None:
    point(tmp_path, "s3://bucket/run")
    assert address(tmp_path / "pairs.lance") == "s3://bucket/run/pairs.lance"
    assert address(tmp_path / "columns" / "hash.lance") == "s3://bucket/run/columns/hash.lance"
    assert address(tmp_path / "shots" / "some" / "pairs.lance") == str(tmp_path / "shots" / "some" / "pairs.lance")
    assert address(tmp_path / "plan.json") == str(tmp_path / "plan.json")
    point(tmp_path, "s3://bucket/run")
    with pytest.raises(FolderInUse, match=r"lie at s3://bucket/run, not at s3://bucket/other"):
        point(tmp_path, "s3://bucket/other")
    (tmp_path / "own" / "pairs.lance").mkdir(parents=True)
    with pytest.raises(FolderInUse, match="tables of its own"):
        point(tmp_path / "own", "s3://bucket/run")


def test_files_without_a_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--files is for tables in an object store" in refused(words(str(tmp_path / "run"), tmp_path), capsys)


def test_commands_that_need_a_folder_take_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("captions.txt").write_text("a fox\n")
    # No server is asked, nor is any other place looked into: for all that is known here nobody answers.
    commands = ("status", "retry", "verify", "compact", "report", "show", "duplicates", "tokenize")
    more = {
        "export": ["--to", "parquet", "--out", "x"], "recaption": ["--captioner", "builtin:describer"], "repaint": ["0-000"],
        "predict": ["a.jpg"], "caption": ["a.jpg"],
    }  # fmt: skip
    for command in (*commands, *more):
        said = refused([command, "s3://bucket/x", *more.get(command, ())], capsys)
        assert "reverie: s3://bucket/x is an address; give the folder that has all else of the run (runs/x, or" in said
    for given in ("S3://bucket/x", "http://host/x"):
        assert f"reverie: {given} is an address; give the folder" in refused(["status", given], capsys)
    assert "(runs/NAME, or its --files)" in refused(["status", "s3://bucket"], capsys)
    assert "s3://bucket/y is an address; give the folder" in refused(["show", ".", "s3://bucket/y"], capsys)
    assert "s3://bucket/y does not exist" in refused(["import", "s3://bucket/y", "--out", "x"], capsys)
    assert "s3://bucket/y is an address, and files" in refused(
        ["export", ".", "--to", "coco", "--out", "s3://bucket/y"], capsys
    )
    for secret in (f"s3://{KEYS[0]}:{KEYS[1]}@bucket/x", f"s3://bucket/x?key={KEYS[1]}"):
        assert not [key for key in KEYS if key in refused(["status", secret], capsys)]
    assert "s3://bucket/x is no folder" in refused(["import", "captions.txt", "--out", "s3://bucket/x"], capsys)
    with pytest.raises(InputError, match="is no folder"):
        run(call_recipe(FAKE, SIZE), Path("s3://bucket/x"))
    assert not Path("s3:").exists()


@pytest.mark.slow
def test_a_run_from_its_beginning_to_its_end(
    tmp_path: Path, bucket: str, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "files"
    with pytest.raises(SystemExit) as stop:
        main(words(bucket, files))
    assert stop.value.code in (None, 0), capsys.readouterr().err
    assert not list(files.rglob("*.lance"))
    run(call_recipe(FAKE, SIZE), tmp_path / "here")
    assert rows(files) == rows(tmp_path / "here")
    assert (files / "count.txt").read_text() == (tmp_path / "here" / "count.txt").read_text()
    assert [step.done for step in status(files)] == [step.done for step in status(tmp_path / "here")]
    for command in (
        ["verify", str(files)], ["retry", str(files), "--device", "cpu"], ["status", str(files)], ["report", str(files)],
        ["export", str(files), "--to", "webdataset", "--out", str(tmp_path / "shards")],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code in (None, 0), (command, capsys.readouterr().err)
    assert run(call_recipe(FAKE, SIZE), files)  # the folder knows where its tables are
    for file in (file for file in files.rglob("*") if file.is_file()):
        assert not [key for key in KEYS if key.encode() in file.read_bytes()], file
    said = capsys.readouterr()
    assert not [key for key in KEYS if key in said.out + said.err]

    other = tmp_path / "another folder of the same run"
    assert run(call_recipe(FAKE, SIZE), other, at=bucket)  # from another machine, say
    assert rows(other) == rows(files)
    with pytest.raises(SettingsChanged, match="guidance"):
        run(call_recipe(FAKE, {**SIZE, "guidance": 3.0}), tmp_path / "third", at=bucket)
    assert "give the folder" in refused(["compact", bucket], capsys)


@pytest.mark.slow
def test_settings_that_another_machine_changed_are_those_of_all(tmp_path: Path, bucket: str) -> None:
    """What has not begun may be changed; a folder that was of the run before does not go on with the settings of before."""
    before, after = call_recipe(FAKE, SIZE), call_recipe(FAKE, {**SIZE, "guidance": 3.0})
    assert run(before, tmp_path / "a", until="captions", at=bucket)
    assert run(before, tmp_path / "b", until="captions", at=bucket)
    assert run(after, tmp_path / "a", until="paint", at=bucket)
    for at in (bucket, None):
        with pytest.raises(SettingsChanged, match="guidance"):
            run(before, tmp_path / "b", at=at)
    assert run(after, tmp_path / "b")
    assert {
        row["guidance"] for row in tables.scan(tmp_path / "b" / "pairs.lance", ["guidance"]).__next__().to_pylist()
    } == {3.0}


@pytest.mark.slow
def test_folders_that_begin_at_once_have_one_plan(tmp_path: Path, bucket: str) -> None:
    plans = [call_recipe(FAKE, {**SIZE, "guidance": float(number)}) for number in range(1, 5)]
    begin = threading.Barrier(4)

    def settle(number: int) -> bool:
        folder = tmp_path / str(number)
        folder.mkdir()
        join_run(folder, bucket)
        begin.wait(60)
        try:
            plans[number].settle(folder, change=True)
        except SettingsChanged:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(settle, range(4))) == 1
    assert len({(tmp_path / str(number) / "plan.json").read_text() for number in range(4)}) == 1


@pytest.mark.slow
def test_two_writers_at_once_a_kill_and_the_same_tables(tmp_path: Path, bucket: str, rows: Rows) -> None:
    def start(part: str, files: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "reverie.cli", *words(bucket, files, "--pause-s", "0.2", "--part", part)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    first, second = (start(f"{k}/2", tmp_path / f"machine {k}") for k in (1, 2))
    painted, deadline = f"{bucket}/pairs.lance", time.monotonic() + 240
    while len(tables.done_units(painted)) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert second.wait(240) == 0
    done = tables.done_units(painted)
    assert {3, 4, 5} <= done
    assert len(done) < 6, "it was over before the kill"
    assert start("1/2", tmp_path / "machine 1").wait(240) == 0
    assert run(call_recipe(FAKE, SIZE), tmp_path / "machine 1")
    run(call_recipe(FAKE, SIZE), tmp_path / "here")
    assert rows(tmp_path / "machine 1") == rows(tmp_path / "here")
    assert tables.verify(tmp_path / "machine 1", per_caption=2) == []


@pytest.mark.slow
def test_writers_that_race_for_a_unit(bucket: str) -> None:
    """Four at once for each of five units: one is in time, as the store refuses to write over the list of files that it has."""
    path = f"{bucket}/captions.lance"

    def write(number: int) -> bool:
        unit, writer = divmod(number, 4)
        row = {"caption_id": f"{unit:016x}", "unit": unit, "text": f"by {writer}", "status": "ok"}
        try:
            tables.append_unit(path, unit, pairs.table([row], pairs.CAPTIONS))
        except UnitExists:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(write, range(20)))
    assert [sum(won[unit * 4 : unit * 4 + 4]) for unit in range(5)] == [1] * 5
    assert tables.count(path) == 5


@pytest.mark.slow
@pytest.mark.parametrize(("status", "after"), [(503, False), (0, False), (0, True)])
def test_a_lost_request_is_sent_again(
    tmp_path: Path, server: int, monkeypatch: pytest.MonkeyPatch, rows: Rows, status: int, after: bool
) -> None:
    """Every seventh request is refused, or its connection is cut before an answer, which may be that a commit is there."""
    with Proxy(server, lambda number, *_: status if number % 7 == 3 else None, after) as proxy:
        use(proxy.port, monkeypatch)
        small = {**SIZE, "count": 6}
        assert run(call_recipe(FAKE, small), tmp_path / "files", at=f"s3://bucket/{tmp_path.name}")
        assert proxy.failed > 3
        run(call_recipe(FAKE, small), tmp_path / "here")
        assert rows(tmp_path / "files") == rows(tmp_path / "here")


def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, server: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(server, monkeypatch)
    said = refused(words("s3://nobucket/run", tmp_path / "files"), capsys)
    assert "cannot use s3://nobucket/run: the server answered 404" in said
    assert "AWS_*" in said
    with Proxy(server, lambda *_: 403) as proxy:
        use(proxy.port, monkeypatch)
        said = refused(words("s3://bucket/other", tmp_path / "other"), capsys)
        assert "the server answered 403" in said
        assert not [key for key in KEYS if key in said]
    assert not list(tmp_path.iterdir())


def test_the_folder_of_files_is_tried_before_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("")
    for files, said in (("file", "is a file, not a folder; give another"), ("full", "(a.txt); give a new or empty")):
        assert f"{said} --files" in refused(words("s3://bucket/run", tmp_path / files), capsys)
    assert "No such file or directory; give another --files" in refused(
        words("s3://bucket/run", Path("/proc/x")), capsys
    )


def test_a_store_that_lets_nobody_write_any_more_is_one_line(
    tmp_path: Path, server: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"s3://bucket/{tmp_path.name}"
    with Proxy(
        server, lambda _, method, path: 403 if method == "PUT" and "/captions.lance/" in path else None
    ) as proxy:
        use(proxy.port, monkeypatch)
        said = refused(words(at, tmp_path / "files"), capsys)
    assert "captions.lance: the server answered 403" in said
    assert "the same command goes on" in said
    use(server, monkeypatch)
    assert run(call_recipe(FAKE, SIZE), tmp_path / "files", until="captions")
