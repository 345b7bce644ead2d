import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reverie.errors import StoreFull
from reverie.store.files import atomic_file, atomic_folder, restore_folder


def test_a_file_is_the_old_one_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "numbers.json"
    for text in ("old", "new"):
        with atomic_file(path) as partial:
            partial.write_text(text)
            assert not path.exists() if text == "old" else path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="killed"), atomic_file(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(StoreFull, match="no space left to write"), atomic_file(tmp_path / "numbers.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(PermissionError), atomic_file(tmp_path / "numbers.json"):
        raise PermissionError(errno.EACCES, "no")


def test_a_folder_has_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "some" / "weights"
    (tmp_path / "some" / "weights.tmp" / "left-by-a-kill").mkdir(parents=True)
    with atomic_folder(path) as folder:
        assert list(folder.iterdir()) == []
        (folder / "a").write_text("1")
        assert not path.exists()
    assert [item.name for item in path.iterdir()] == ["a"]
    with atomic_folder(path, replace=True) as folder:
        (folder / "b").write_text("2")
    assert [item.name for item in path.iterdir()] == ["b"]
    with pytest.raises(OSError), atomic_folder(path) as folder:  # noqa: PT011 - not empty, in any words
        (folder / "c").write_text("3")
    assert [item.name for item in path.iterdir()] == ["b"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_block_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "latest"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError, match="killed"), atomic_folder(path, replace=True) as folder:  # noqa: PT012
        (folder / "a").write_text("half")
        raise RuntimeError("killed")
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreFull, match="no space left to write"), atomic_folder(path, replace=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("number", [1, 2])
def test_stopped_at_either_rename_the_old_folder_stays(tmp_path, monkeypatch, number):
    path, renames = tmp_path / "latest", []
    with atomic_folder(path) as folder:
        (folder / "a").write_text("old")
    rename = type(path).rename

    def cut(self, target):
        renames.append(target)
        if len(renames) == number:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "rename", cut)
        with pytest.raises(KeyboardInterrupt), atomic_folder(path, replace=True) as folder:
            (folder / "a").write_text("new")
    assert (path / "a").read_text() == "old"
    path.rename(tmp_path / "latest.previous")  # as a kill would leave it
    restore_folder(path)
    assert (path / "a").read_text() == "old"
    with atomic_folder(path, replace=True) as folder:
        (folder / "a").write_text("new")
    assert (path / "a").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


HOLD = """
import sys, time
from reverie.store.files import passing_folder
with passing_folder("reverie-held-") as folder:
    (folder / "some").mkdir()
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_passing_folder_is_gone_when_the_process_is_told_to_end(tmp_path: Path) -> None:
    told = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=told) as held:
        assert held.stdout is not None
        folder = Path(held.stdout.readline().strip())
        assert folder.parent == tmp_path
        assert folder.is_dir()
        held.terminate()
        assert held.wait(20) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
