"""Run benchmarks of this folder, print a table of each, and bring docs/benchmarks.md, .json and .svg up to date with what was measured.

    make bench                                                         all of them
    python benchmarks/all.py --only engine                             one, or some
    python benchmarks/all.py --only reading -- --num 600 --rounds 1    a trial, with options of its own: nothing is written

Each benchmark is a program that prints JSON with --json: one object, or a list of objects that become rows. Every number
whose name starts with "ratio" is plotted: ours against the other way of doing the same, above 1 is better. In the page each has
a section, of which only what stands between its two marks is written; what people wrote around it stays.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from reverie.run.plan import versions

# What the published tables were measured with, where that is not what a program does by itself.
OPTIONS = {
    "engine": ["--large"],
    "painting": ["--captions", "4", "--copies", "4", "--steps", "10", "--turns", "3", "--compile"],
    "reading": ["--num", "6000", "--read", "4500", "--rounds", "3"],
    "recap": ["--images", "256"],
    "synth2": ["--warm-up", "20", "--timed", "100"],
}
HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def measure(program: Path, options: Sequence[str] = ()) -> tuple[list[dict[str, Any]], str]:
    """Run one benchmark; its rows with flat names, and the first line of what it says it measures."""
    done = subprocess.run(
        [sys.executable, str(program), *options, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    if not found:
        raise ValueError("it printed no numbers")
    about = program.read_text(encoding="utf-8").partition('"""')[2].partition("\n")[0]
    return [flat(row) for row in (found if isinstance(found, list) else [found])], about


def flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a, b": 1}."""
    items: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}, {key}" if prefix else key.replace("_", " ")
        if isinstance(value, dict):
            items |= flat(value, name)
        else:
            items[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return items


def ratios(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """What is plotted of one benchmark, with labels."""
    many = len(rows) > 1
    return {
        " ".join(
            [name, *([str(next(iter(row.values())))] if many else []), key.removeprefix("ratio").strip(" ,")]
        ): value
        for row in rows
        for key, value in row.items()
        if key.startswith("ratio") and isinstance(value, (int, float))
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Names down, rows across."""
    heads = ["", *(f"{number}" if len(rows) > 1 else "" for number in range(1, len(rows) + 1))]
    lines = [heads, ["---"] * len(heads), *([key, *(shown(row.get(key)) for row in rows)] for key in rows[0])]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: Any) -> str:
    """Numbers with thousands marked, of four digits where they are not whole; nothing for what was not measured."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> str:
    """What the numbers were taken on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.processor()}, {cores} cores, {memory:.0f} GB; {libraries}"


def plot(bars: dict[str, float], path: Path) -> None:
    """One bar a ratio, and a line at 1."""
    figure = Figure(figsize=(8, 0.4 * len(bars) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(bars), list(bars.values()), color="#4c72b0")
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("ratio, above 1 is better for reverie")
    axes.bar_label(axes.containers[0], fmt="%.2f", padding=3)
    figure.savefig(path)


def section(name: str, found: dict[str, Any]) -> str:
    """What stands between the marks of a benchmark."""
    return f"`{found['command']}`, {found['date']}, {found['machine']}.\n\n{markdown(found['rows'])}"


def put(page: str, name: str, about: str, body: str) -> str:
    """The page with this between the marks of a benchmark; at the end of its section, or in a new one, where there were none."""
    first, last = f"<!-- {name}: measured -->", f"<!-- {name}: end -->"
    marked = f"{first}\n\n{body}\n\n{last}"
    if (page.count(first), page.count(last)) == (1, 1) and page.index(first) < page.index(last):
        return page.partition(first)[0] + marked + page.partition(last)[2]
    if first in page or last in page:
        sys.exit(f"docs/benchmarks.md should have the two marks of {name} once each, one after the other; mend them")
    head = f"\n## {name}\n"
    if head not in page:
        return f"{page.rstrip()}\n{head}\n{about}\n\n{marked}\n"
    before, _, rest = page.partition(head)
    own, more, after = rest.partition("\n## ")
    return f"{before}{head}{own.rstrip()}\n\n{marked}\n{more}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="names of benchmarks; all when left out")
    parser.add_argument("options", nargs="*", help="after --: options of the one that is named")
    given = parser.parse_args()
    programs = [path for path in sorted(HERE.glob("*.py")) if path.stem != "all"]
    names = [path.stem for path in programs]
    if unknown := [name for name in given.only if name not in names]:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(names)}")
    if given.options and len(given.only) != 1:
        parser.error("options are those of one benchmark; name it with --only")
    console, failed = Console(), list[str]()
    for program in programs:
        name = program.stem
        if given.only and name not in given.only:
            continue
        options = given.options or OPTIONS.get(name, [])
        try:
            rows, about = measure(program, options)
        except (subprocess.CalledProcessError, ValueError) as error:
            failed.append(name)
            console.print(f"{name}: {error}", markup=False)
            continue
        table = Table(title=f"{name}: {about}", title_justify="left", box=None, show_header=False)
        for key in rows[0]:
            table.add_row(key, *(shown(row.get(key)) for row in rows))
        console.print(table, "")
        if given.options:
            continue
        command = " ".join(["python", f"benchmarks/{name}.py", *options])
        own = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine(), "rows": rows}
        write(name, about, own)
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


def write(name: str, about: str, own: dict[str, Any]) -> None:
    """Bring the page, the numbers behind it and the plot up to date."""
    numbers = DOCS / "benchmarks.json"
    found = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else {}
    found[name] = own
    numbers.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", encoding="utf-8")
    page = DOCS / "benchmarks.md"
    page.write_text(put(page.read_text(encoding="utf-8"), name, about, section(name, own)), encoding="utf-8")
    bars = {label: value for each in sorted(found) for label, value in ratios(each, found[each]["rows"]).items()}
    if bars:
        plot(bars, DOCS / "benchmarks.svg")


if __name__ == "__main__":
    main()
