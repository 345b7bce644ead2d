"""Claims of a study, judged -> a table in the terminal, and report.html with a drawing of every difference.

Beside each claim stands what the study could see: where that is much, "inconclusive" says little about the claim.
The page links to the pages of the study's runs, which stand in folders beside it, and needs nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import jinja2
from rich.markup import escape
from rich.table import Table

from reverie.evaluate.claims import ClaimResult
from reverie.evaluate.looks import Looks
from reverie.report import plots
from reverie.report.facts import HUNDREDS
from reverie.report.plain import plain
from reverie.store.files import atomic_file

FAR = 1000  # seeds; beyond, the number would say more than the measured spread does
STYLES = {"holds": "green", "fails": "bold red", "inconclusive": "dim"}  # of verdicts in the terminal


def table(judged: Sequence[ClaimResult]) -> Table:
    """A row a claim: what it says, what the paper has, ours with its interval, and the verdict."""
    rows = Table(box=None, header_style="bold")
    heads, cells = _columns(judged)
    for head in heads:
        rows.add_column(head, justify="right" if head in ("ours", "could see") else "left")
    for item, row in zip(judged, cells, strict=True):
        rows.add_row(*map(plain, row[:-1]), plain(item.verdict, STYLES[item.verdict]))
    return rows


def ours(item: ClaimResult) -> str:
    """The measured difference, in points for accuracies."""
    return "not measured" if item.mean is None else _number(item, item.mean)


def interval(item: ClaimResult) -> str:
    """Its interval; empty where there is none."""
    return "" if item.low is None or item.high is None else f"{_number(item, item.low)} to {_number(item, item.high)}"


def could_see(item: ClaimResult, seeds: int | None = None) -> str:
    """The difference from its bound that so many seeds would decide, by the measured spread; empty below three seeds."""
    found = item.could_see(seeds)
    return "" if found is None else _size(item, found)


def foreseen(judged: Sequence[ClaimResult], seeds: int) -> Table:
    """A row a claim: the difference that so many seeds would decide, and from how many seeds that is estimated."""
    rows = Table(
        box=None, header_style="bold", title_justify="left",
        title=f"What {seeds} seeds can see: the difference from the bound that is decided in 4 of 5 such studies",
    )  # fmt: skip
    for head in ("", "claim", "could see", "spread over"):
        rows.add_column(head, justify="right" if head == "could see" else "left")
    for item in judged:
        number = len(item.by_seed or {})
        rows.add_row(
            item.claim.name,
            escape(item.claim.statement),
            could_see(item, seeds) or "not known yet",
            f"{number} seed{'s' * (number != 1)}",
        )
    return rows


def summary(judged: Sequence[ClaimResult], looks: Looks, once: Collection[str] = ()) -> str:
    """How many claims are decided, and what the others would need.

    Args: once: names of claims that do not depend on seeds.
    """
    open_ = [item for item in judged if item.verdict == "inconclusive"]
    holds = sum(item.verdict == "holds" for item in judged)
    decided = len(judged) - len(open_)
    lines = [
        f"{decided} of {len(judged)} claims decided ({holds} hold, {decided - holds} fail), {len(open_)} undecided; {rule(looks)}"
    ]
    need: dict[str, list[str]] = {}
    for item in open_:
        if item.spread is None:
            need.setdefault("more than one seed, or an arm that is missing", []).append(item.claim.name)
        elif item.claim.name in once:
            need.setdefault("something else than seeds, on which they do not depend", []).append(item.claim.name)
        elif (seeds := item.needs()) is None:
            need.setdefault("more test photos, however many seeds", []).append(item.claim.name)
        else:
            need.setdefault(f"{seeds:,} seeds" if seeds <= FAR else f"more than {FAR} seeds", []).append(
                item.claim.name
            )
    lines += [f"  {', '.join(names)} would need {what}" for what, names in sorted(need.items(), key=_by_number)]
    if any("seeds" in what for what in need):
        lines.append("  (in 4 of 5 studies, were the true differences the measured ones)")
    return "\n".join(lines)


def rule(looks: Looks) -> str:
    """By which rule and at which looks it was decided."""
    if looks.max_seeds is None:
        return f"95 % intervals, {looks.seeds[-1]} seeds" if looks.seeds else "95 % intervals"
    at = ", ".join(map(str, looks.seeds))
    return f"{len(looks.seeds)} look{'s' * (len(looks.seeds) != 1)} at {at} of at most {looks.max_seeds} seeds, 5 % of error spent over all of them"


def _by_number(item: tuple[str, list[str]]) -> tuple[bool, int]:
    first = item[0].split()[0].replace(",", "")
    return not first.isdecimal(), int(first) if first.isdecimal() else 0


def markdown(judged: Sequence[ClaimResult]) -> str:
    """The table as a page in docs holds it."""
    heads, cells = _columns(judged)
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "/") for cell in row] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _columns(judged: Sequence[ClaimResult]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells; what the paper has is left out where it gives no number for any claim."""
    heads = ["", "claim", "paper", "ours", "95 % interval", "could see", "verdict"]
    cells = [
        [
            item.claim.name,
            item.claim.statement,
            item.claim.paper,
            ours(item),
            interval(item),
            could_see(item),
            item.verdict,
        ]
        for item in judged
    ]
    if not any(item.claim.paper for item in judged):
        heads, cells = [heads[0], heads[1], *heads[3:]], [[*row[:2], *row[3:]] for row in cells]
    return heads, cells


def write(
    folder: Path,
    name: str,
    about: str,
    command: str,
    judged: Sequence[ClaimResult],
    runs: Mapping[str, str],
    looks: Looks | None = None,
) -> Path:
    """Write ``report.html`` and its table as ``claims.md`` into the study's folder, and return the path of the page.

    Args:
        runs: name -> what it is, in words.
        looks: at how many seeds it was looked at, and whether that was paid for.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    counts = {verdict: sum(item.verdict == verdict for item in judged) for verdict in STYLES}
    drawn = [item for item in judged if item.mean is not None and item.claim.metric in HUNDREDS]
    text = environment.get_template("claims.html").render(
        name=name, about=about, command=command, judged=judged, ours=ours, interval=interval, could_see=could_see,
        counts=counts, looks=looks or Looks(), rule=rule,
        runs={run: words for run, words in runs.items() if (folder / run / "report.html").exists()},
        broken=[item for item in judged if item.claim.control and item.verdict != "holds"],
        drawing=plots.differences(drawn) if drawn else "",
    )  # fmt: skip
    page = folder / "report.html"
    with atomic_file(page) as partial:
        partial.write_text(text, encoding="utf-8")
    with atomic_file(folder / "claims.md") as partial:
        partial.write_text(markdown(judged) + "\n", encoding="utf-8")
    return page


def _number(item: ClaimResult, value: float) -> str:
    return f"{100 * value:+.1f}" if item.claim.metric in HUNDREDS else f"{value:.2g}"


def _size(item: ClaimResult, value: float) -> str:
    return f"{100 * value:.1f}" if item.claim.metric in HUNDREDS else f"{value:.2g}"
