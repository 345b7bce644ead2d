"""Pictures that are there more than once -> duplicates.html, side by side with their labels; and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.table import Table

from reverie.filters.duplicates import SamePicture, same_pictures
from reverie.report.plain import plain
from reverie.report.thumbs import Thumbs
from reverie.store import tables
from reverie.store.files import atomic_file

NUM_GROUPS, NUM_COPIES = 40, 6  # on a page: conflicts, other groups, and pictures of each
NUM_ROWS = 20  # conflicts in the terminal


@dataclass(frozen=True)
class Found:
    """What is there more than once, as the page and the terminal tell it."""

    num_images: int
    conflicts: tuple[SamePicture, ...]
    others: tuple[SamePicture, ...]
    origins: Mapping[str, str]  # caption_id -> where a photo comes from, for pictures that are shown

    @property
    def num_copies(self) -> int:
        """Pictures that could go without loss."""
        return sum(len(group.rows) - 1 for group in (*self.conflicts, *self.others))


def gather(folder: Path, num_groups: int = NUM_GROUPS) -> Found:
    """All duplicates of a folder. Raises InputError if nobody has looked for them yet."""
    pairs = folder / "pairs.lance"
    groups = same_pictures(pairs)
    conflicts = tuple(group for group in groups if group.in_conflict)
    others = tuple(group for group in groups if not group.in_conflict)
    shown = [row for some in (conflicts, others) for group in some[:num_groups] for row in group.rows[:NUM_COPIES]]
    origins = _origins(folder / "captions.lance", [row["caption_id"] for row in shown])
    return Found(tables.count(pairs, "status = 'ok'"), conflicts, others, origins)


def sides(
    found: Found, groups: Sequence[SamePicture], pairs: Path, thumbnails: Thumbs, num: int
) -> list[dict[str, Any]]:
    """Groups as the template shows them: cards with picture, label and origin.

    Args: num: of groups.
    """
    groups = groups[:num]
    names = [row["pair_id"] for group in groups for row in group.rows[:NUM_COPIES]]
    pictures = {row["pair_id"]: row for row in tables.rows_of(pairs, "pair_id", names, ["pair_id", "image"])}
    return [
        {
            "exact": group.exact,
            "more": len(group.rows) - NUM_COPIES,
            "cards": [
                {
                    **row,
                    "src": thumbnails.make(pictures[row["pair_id"]]),
                    "origin": found.origins.get(row["caption_id"], ""),
                }
                for row in group.rows[:NUM_COPIES]
            ],
        }
        for group in groups
    ]


def write(folder: Path) -> Path:
    """Write ``duplicates.html`` and return its path. Raises InputError if nobody has looked for duplicates yet."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found, thumbnails = gather(folder), Thumbs()
    text = environment.get_template("duplicates.html").render(
        folder=folder,
        headline=headline(found),
        found=found,
        conflicts=sides(found, found.conflicts, folder / "pairs.lance", thumbnails, NUM_GROUPS),
        others=sides(found, found.others, folder / "pairs.lance", thumbnails, NUM_GROUPS),
        left_out=thumbnails.left_out,
    )
    page = folder / "duplicates.html"
    with atomic_file(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return page


def table(found: Found) -> Table:
    """The label conflicts, a line each photo after the first of its kind."""
    rows = Table("label", "photo", "is also", "photo", "how", box=None, header_style="bold")
    for group in found.conflicts[:NUM_ROWS]:
        first, *copies = group.rows
        for copy in copies[: NUM_COPIES - 1]:
            how = "equal" if copy["pixels"] == first["pixels"] else "nearly"
            cells = (first["label"], _named(found, first), copy["label"], _named(found, copy), how)
            rows.add_row(*map(plain, cells))
    return rows


def headline(found: Found) -> str:
    """What was found, in one sentence."""
    conflicts, copies = len(found.conflicts), found.num_copies
    said = f"{copies:,} of {found.num_images:,} images repeat{'s' * (copies == 1)} another one"
    if not conflicts:
        return f"{said}; none of them under another label."
    return (
        f"{said}; {conflicts:,} picture{'s' * (conflicts != 1)} stand{'s' * (conflicts == 1)} under two labels or more."
    )


def _named(found: Found, row: Mapping[str, Any]) -> str:
    return found.origins.get(row["caption_id"]) or str(row["pair_id"])


def _origins(captions: Path, names: Sequence[str]) -> dict[str, str]:
    """Where imported photos come from, without the word that says that they were imported."""
    return {
        row["caption_id"]: str(row["source"]).removeprefix("import: ")
        for row in tables.rows_of(captions, "caption_id", names, ["caption_id", "source"])
        if str(row["source"]).startswith("import: ")
    }
