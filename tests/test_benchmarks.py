"""Every benchmark still fits the package: its smallest run, as a person types it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "benchmarks"
SMALLEST = {
    "reading.py": "--num 2000 --read 64 --batch 8 --rounds 1 --cases 16:16",
    "recap.py": "--rows 300 --width 8 --images 6 --turns 1",
    "synth2.py": "--warm-up 1 --timed 2 --no-memory",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_runs(script: str) -> None:
    words = [sys.executable, str(HERE / script), *SMALLEST[script].split(), "--json"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "not measured" not in str(found)


def test_what_people_wrote_around_a_table_stays() -> None:
    put = runpy.run_path(str(HERE / "all.py"))["put"]
    page = "# Benchmarks\n\n## a\n\nAbout a.\n\n<!-- a: measured -->\n\nold\n\n<!-- a: end -->\n\nWhat it says.\n\n## b\n\nWords.\n"
    found = put(page, "a", "About a.", "new")
    assert found == page.replace("\nold\n", "\nnew\n")
    assert put(found, "a", "About a.", "new") == found
    assert put(page, "b", "", "numbers") == page + "\n<!-- b: measured -->\n\nnumbers\n\n<!-- b: end -->\n"
    first = put(page.replace("## a", "## c").replace("a: ", "c: ") + "\n## d\n\nx\n", "b", "", "numbers")
    assert first.endswith("Words.\n\n<!-- b: measured -->\n\nnumbers\n\n<!-- b: end -->\n\n## d\n\nx\n")
    for broken in (page.replace("<!-- a: end -->", ""), page + "<!-- a: measured -->"):
        with pytest.raises(SystemExit, match="two marks of a once each"):
            put(broken, "a", "", "new")
    more = put(page, "c", "About c.", "numbers")
    assert more.startswith(page)
    assert more.endswith("## c\n\nAbout c.\n\n<!-- c: measured -->\n\nnumbers\n\n<!-- c: end -->\n")


def test_the_page_of_benchmarks_has_the_numbers_behind_it() -> None:
    folder = HERE.parent / "docs"
    page, numbers = (folder / "benchmarks.md").read_text(), json.loads((folder / "benchmarks.json").read_text())
    markdown = runpy.run_path(str(HERE / "all.py"))["markdown"]
    for name, found in numbers.items():
        inside = page.partition(f"<!-- {name}: measured -->")[2].partition(f"<!-- {name}: end -->")[0]
        assert markdown(found["rows"]) in inside, name
