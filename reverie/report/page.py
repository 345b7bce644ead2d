"""Run folder -> report.html: one file that needs no other, no network and no script.

Everything that was written by a person or a model (captions, labels, reasons, settings) is escaped by the template; every
picture is decoded and encoded again before it is shown; and the page forbids itself to load anything.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from PIL import Image

from reverie import seeds
from reverie.errors import BrokenImage
from reverie.pairs import OK
from reverie.report import facts as tell
from reverie.report import plots
from reverie.stage import Place
from reverie.store import tables
from reverie.store.pictures import open_picture

NUM_CAPTIONS, NUM_COPIES = 8, 6  # of the grid of images
NUM_LOST = 12  # images, and captions, that were not kept
THUMB_PX = 160
MAX_BYTES = 2_000_000  # of pictures on one page
LONGEST = 300  # characters of a caption
LOOKED_AT = 20_000  # rows searched for examples of what was not kept


@dataclass(frozen=True)
class WritePage:
    """Everything in the run folder so far -> report.html."""

    def run(self, place: Place) -> None:
        """Write the page, or write it again."""
        write(place.folder)


def write(folder: Path) -> Path:
    """Write ``report.html`` of a run, whether it is whole, at work or failed, and return its path.

    Raises: InputError if the folder is not a run; StoreError if its tables or results are damaged.
    """
    facts = tell.gather(folder)
    page = folder / "report.html"
    partial = folder / ".report.html.partial"
    partial.write_text(_render(facts), encoding="utf-8")
    partial.replace(page)
    return page


def _render(facts: tell.Facts) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": tell.duration, "shown": tell.shown, "number": tell.number}
    shop = _Thumbs()
    curves, colours = _curves(facts)
    return environment.get_template("page.html").render(
        facts=facts,
        sentence=tell.sentence(facts),
        headline=[item for found in facts.measured[:1] for item in found.comparisons[:1]],
        longest=max((step.seconds or 0.0 for step in facts.steps), default=0.0) or 1.0,
        command=tell.command(facts),
        scores=tell.SCORES,
        metrics=tell.metrics,
        accuracy=lambda found: plots.accuracy(found, colours),
        curves=curves,
        grid=list(_grid(facts.folder / "pairs.lance", shop)),
        lost=list(_lost(facts.folder / "pairs.lance", shop)),
        refused=list(_refused(facts.folder / "captions.lance")),
        left_out=shop.left_out,
    )


# Curves


def _curves(facts: tell.Facts) -> tuple[list[tuple[str, Any]], dict[str, str]]:
    """Drawings of training, each with what its axis shows, and the colour of every arm: the same in all drawings.

    Contrastive arms, whose loss has a known floor, are drawn together; others each alone.
    """
    measured = [arm for found in facts.measured for arm in found.arms]
    arm_of = {record["weights"]: arm.name for arm in measured for record in arm.records if record.get("weights")}
    learners = {step.name: dict(step.settings).get("learner.class", step.name) for step in facts.steps}
    drawn: dict[tuple[str, str], dict[str, dict[str, list[tuple[float, float]]]]] = {}
    names = [arm.name for arm in measured]
    for step, rows in facts.curves.items():
        arm = arm_of.get(step, learners.get(step, step))
        names.append(arm)
        metric, group = ("kl", "") if all("kl" in row for row in rows) else ("loss", arm)
        if points := [(row["step"], row[metric]) for row in rows if "step" in row and metric in row]:
            drawn.setdefault((metric, group), {}).setdefault(arm, {})[step] = points
    colours = plots.arm_colours(list(dict.fromkeys(names)))
    drawings = []
    for (metric, group), lines in drawn.items():
        unit = "loss above its lowest possible value, in nats" if metric == "kl" else f"loss of {group}"
        inorder = dict(sorted(lines.items(), key=lambda item: names.index(item[0])))
        drawings.append((metric, plots.curves(inorder, unit, colours)))
    return drawings, colours


# Pictures


class _Thumbs:
    """Makes small pictures as data URIs until the page has enough of them."""

    def __init__(self) -> None:
        self.left_out, self._bytes = 0, 0

    def make(self, row: Mapping[str, Any]) -> str | None:
        """The picture of a row, or None if it has none, it is broken, or the page is full."""
        if not row["image"]:
            return None
        try:
            picture = open_picture(row["image"], row["pair_id"], at_least_px=THUMB_PX)
        except BrokenImage:
            return None  # the row says so beside the empty frame
        picture.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        kind = "PNG" if max(picture.size) <= 64 else "JPEG"
        picture.save(buffer, kind, quality=85, optimize=True)
        if self._bytes + buffer.tell() > MAX_BYTES:
            self.left_out += 1
            return None
        self._bytes += buffer.tell()
        return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _grid(pairs: Path, shop: _Thumbs) -> Iterator[dict[str, Any]]:
    """Some captions with their images, spread evenly over all units."""
    if not tables.exists(pairs):
        return
    units = sorted(tables.done_units(pairs))
    wanted = Counter(units[place * len(units) // NUM_CAPTIONS] for place in range(NUM_CAPTIONS)) if units else Counter()
    columns = _columns(pairs)
    for unit, num in wanted.items():
        rows = tables.read_unit(pairs, unit, columns)
        captions = list(dict.fromkeys(rows["caption_id"].to_pylist()))
        # Captions of one class often stand together, so the first of each unit would not show the variety.
        start = seeds.derive("page", unit) % len(captions)
        num = min(num, len(captions))
        places = [(start + place * len(captions) // num) % len(captions) for place in range(num)]
        chosen: dict[str, list[dict[str, Any]]] = {captions[place]: [] for place in sorted(places)}
        for row in rows.filter(pa.compute.is_in(rows["caption_id"], pa.array(list(chosen)))).to_pylist():
            chosen[row["caption_id"]].append(row)
        for copies in chosen.values():
            copies.sort(key=lambda row: row["copy"])
            shown = [_card(row, shop) for row in copies[:NUM_COPIES]]
            yield {
                "text": _cut(copies[0]["text"] or ""),
                "label": copies[0]["label"],
                "images": shown,
                "more": len(copies) - len(shown),
            }


def _lost(pairs: Path, shop: _Thumbs) -> Iterator[dict[str, Any]]:
    """Examples of images that were not kept, of as many different reasons as there are."""
    if not tables.exists(pairs):
        return
    columns = _columns(pairs)
    where = f"status != '{OK}'" + (" or kept = false" if "kept" in columns else "")
    yield from (_card(row, shop) for row in _various(pairs, columns, where))


def _refused(captions: Path) -> Iterator[dict[str, Any]]:
    """Examples of captions that were not used."""
    if tables.exists(captions):
        for row in _various(captions, ["text", "status", "reason"], f"status != '{OK}'"):
            yield {"text": _cut(row["text"] or ""), "reason": _reason(row)}


def _various(path: Path, columns: Sequence[str], where: str) -> list[dict[str, Any]]:
    """Rows of as many reasons as there are, the rarest first, because it is the most surprising."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    looked = 0
    for rows in tables.scan(path, columns, where):
        for row in rows.to_pylist():
            same = by_reason.setdefault(_reason(row), [])
            if len(same) < NUM_LOST:
                same.append(row)
        looked += len(rows)
        if looked >= LOOKED_AT:
            break
    rounds = itertools.zip_longest(*sorted(by_reason.values(), key=len))
    chosen = [row for in_turn in rounds for row in in_turn if row is not None][:NUM_LOST]
    return sorted(chosen, key=lambda row: (len(by_reason[_reason(row)]), _reason(row)))


def _columns(pairs: Path) -> list[str]:
    known = tables.column_names(pairs)
    wanted = ["pair_id", "caption_id", "copy", "text", "label", "image", "status", "reason"]
    return wanted + [name for name in ("kept", "drop_reason", "clip_score") if name in known]


def _card(row: Mapping[str, Any], shop: _Thumbs) -> dict[str, Any]:
    kept = row["status"] == OK and row.get("kept") is not False
    return {
        "src": shop.make(row),
        "text": _cut(row["text"] or ""),
        "pair_id": row["pair_id"],
        "kept": kept,
        "reason": "" if kept else _reason(row),
        "score": row.get("clip_score"),
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"


def _reason(row: Mapping[str, Any]) -> str:
    if row["status"] != OK:
        return f"{row['status']}: {row['reason'] or 'no reason given'}"
    return row.get("drop_reason") or "no reason given"
