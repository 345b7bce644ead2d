import subprocess
import sys
import time
from pathlib import Path

import pytest

from reverie.errors import FolderInUse, InputError
from reverie.run.engine import run
from reverie.run.folder import alone, claim, units_held
from tests.run.side_jobs import plan_of

ROOT = Path(__file__).parents[2]

HOLD = """
import sys
from pathlib import Path
from reverie.run.folder import units_held
with units_held(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_claim_takes_new_empty_and_ours(tmp_path: Path) -> None:
    claim(tmp_path / "a b" / "é")
    assert (tmp_path / "a b" / "é").is_dir()
    claim(tmp_path / "a b" / "é")
    (tmp_path / "a b" / "é" / ".plan.json.half").write_text("{")  # what a kill leaves behind
    claim(tmp_path / "a b" / "é")
    (tmp_path / "a b" / "é" / "plan.json").write_text("{}")
    (tmp_path / "a b" / "é" / "other").write_text("")
    claim(tmp_path / "a b" / "é")
    assert len(list((tmp_path / "a b" / "é").iterdir())) == 3  # nothing was taken away


def test_claim_refuses_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderInUse, match=r"thesis\.tex"):
        claim(tmp_path)
    with pytest.raises(FolderInUse, match="is a file"):
        claim(tmp_path / "thesis.tex")
    with pytest.raises((FolderInUse, InputError)):
        claim(tmp_path / "thesis.tex" / "run")


def test_two_processes_share_a_folder_but_no_unit(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "2", "5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with units_held(tmp_path, range(2)), units_held(tmp_path, range(5, 9)), alone(tmp_path):
        pass
    with pytest.raises(FolderInUse, match="another process"), units_held(tmp_path, range(4, 6)):
        pass
    other.kill()
    other.wait()
    with units_held(tmp_path, range(9)):
        pass


def test_a_run_of_jobs_alone_is_the_work_of_one_process(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-m", "tests.run.side_jobs", str(tmp_path), "20"], stderr=subprocess.DEVNULL, cwd=ROOT
    )
    while not list(tmp_path.glob("*.alive")):
        assert other.poll() is None
        time.sleep(0.05)
    with pytest.raises(FolderInUse, match="another process"):
        run(plan_of(20), tmp_path)
    assert not (tmp_path / "all.txt").exists()
    other.kill()
    other.wait()
