"""Claims of a study, judged -> a table in the terminal, and report.html with a drawing of every difference.

The page links to the pages of the study's runs, which stand in folders beside it, and needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from rich.table import Table

from reverie.evaluate.claims import Judged
from reverie.report import plots
from reverie.report.facts import HUNDREDS
from reverie.report.plain import plain

STYLES = {"holds": "green", "fails": "bold red", "inconclusive": "dim"}  # of verdicts in the terminal


def table(judged: Sequence[Judged]) -> Table:
    """A row a claim: what it says, what the paper has, ours with its interval, and the verdict."""
    rows = Table(box=None, header_style="bold")
    heads, cells = _columns(judged)
    for head in heads:
        rows.add_column(head, justify="right" if head == "ours" else "left")
    for item, row in zip(judged, cells, strict=True):
        rows.add_row(*map(plain, row[:-1]), plain(item.verdict, STYLES[item.verdict]))
    return rows


def ours(item: Judged) -> str:
    """The measured difference, in points for accuracies."""
    return "not measured" if item.mean is None else _number(item, item.mean)


def interval(item: Judged) -> str:
    """Its interval; empty where there is none."""
    return "" if item.low is None or item.high is None else f"{_number(item, item.low)} to {_number(item, item.high)}"


def markdown(judged: Sequence[Judged]) -> str:
    """The table as a page in docs holds it."""
    heads, cells = _columns(judged)
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "/") for cell in row] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _columns(judged: Sequence[Judged]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells; what the paper has is left out where it gives no number for any claim."""
    heads = ["", "claim", "paper", "ours", "95 % interval", "verdict"]
    cells = [
        [item.claim.name, item.claim.says, item.claim.paper, ours(item), interval(item), item.verdict]
        for item in judged
    ]
    if not any(item.claim.paper for item in judged):
        heads, cells = [heads[0], heads[1], *heads[3:]], [[*row[:2], *row[3:]] for row in cells]
    return heads, cells


def write(folder: Path, name: str, about: str, command: str, judged: Sequence[Judged], runs: Mapping[str, str]) -> Path:
    """Write ``report.html`` and its table as ``claims.md`` into the study's folder, and return the path of the page.

    Args:
        runs: name -> what it is, in words.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    counts = {verdict: sum(item.verdict == verdict for item in judged) for verdict in STYLES}
    drawn = [item for item in judged if item.mean is not None and item.claim.metric in HUNDREDS]
    text = environment.get_template("claims.html").render(
        name=name, about=about, command=command, judged=judged, ours=ours, interval=interval, counts=counts,
        runs={run: words for run, words in runs.items() if (folder / run / "report.html").exists()},
        broken=[item for item in judged if item.claim.control and item.verdict != "holds"],
        drawing=plots.differences(drawn) if drawn else "",
    )  # fmt: skip
    page, partial = folder / "report.html", folder / ".report.html.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(page)
    (folder / "claims.md").write_text(markdown(judged) + "\n", encoding="utf-8")
    return page


def _number(item: Judged, value: float) -> str:
    return f"{100 * value:+.1f}" if item.claim.metric in HUNDREDS else f"{value:.2g}"
