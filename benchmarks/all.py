"""Run every benchmark of this folder, print one table, and write docs/benchmarks.md with a plot of the ratios.

    make bench                                        all of them
    python benchmarks/all.py --only engine --only loss

Each benchmark is a program that prints JSON with --json: one object, or a list of objects that become rows. Every number
whose name starts with "ratio" is plotted: ours against the other way of doing the same, above 1 is better.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from reverie.run.plan import versions

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def measure(program: Path) -> tuple[list[dict[str, Any]], str]:
    """Run one benchmark; its rows with flat names, and the first line of what it says it measures."""
    done = subprocess.run([sys.executable, str(program), "--json"], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="names of benchmarks; nothing is written to docs then")
    only = parser.parse_args().only
    console, bars, failed = Console(), dict[str, float](), list[str]()
    text = ["# Benchmarks\n", f"`make bench` on {machine()}.\n", "![Ratios](benchmarks.svg)\n"]
    for program in sorted(HERE.glob("*.py")):
        name = program.stem
        if name == "all" or (only and name not in only):
            continue
        try:
            rows, about = measure(program)
        except (subprocess.CalledProcessError, ValueError) as error:
            failed.append(name)
            console.print(f"{name}: {error}", markup=False)
            text.append(f"## {name}\n\nNot measured: it ended with an error.\n")
            continue
        table = Table(title=f"{name}: {about}", title_justify="left", box=None, show_header=False)
        for key in rows[0]:
            table.add_row(key, *(shown(row.get(key)) for row in rows))
        console.print(table, "")
        bars |= ratios(name, rows)
        text.append(f"## {name}\n\n{about}\n\n`python benchmarks/{name}.py`\n\n{markdown(rows)}\n")
    if not only:
        (DOCS / "benchmarks.md").write_text("\n".join(text), encoding="utf-8")
        if bars:
            plot(bars, DOCS / "benchmarks.svg")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
