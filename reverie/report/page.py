"""Run folder -> report.html: one file that needs no other, no network and no script.

Everything that was written by a person or a model (captions, labels, reasons, settings) is escaped by the template; every
picture is decoded and encoded again before it is shown; and the page forbids itself to load anything.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jinja2
import pyarrow as pa

from reverie import seeds
from reverie.errors import ReverieError
from reverie.pairs import OK, TOKEN_COLUMNS
from reverie.report import captioning, described, duplicates, generation, plots, recaption, synth2
from reverie.report import classes as by_class
from reverie.report.facts import (
    KINDS,
    Facts,
    amount,
    artifact,
    aspects,
    called,
    columns,
    command,
    duration,
    gather,
    headline,
    kind_of,
    metrics,
    number,
    unnamed,
)
from reverie.report.thumbs import THUMB_PX, Thumbs
from reverie.run.plan import read_plan
from reverie.stage import Job, Role, StepContext
from reverie.store import tables
from reverie.store.files import atomic_file

if TYPE_CHECKING:
    from reverie.models.token_pictures import TokenPictures

NUM_CAPTIONS, NUM_COPIES = 8, 6  # of the grid of images
NUM_LOST = 12  # images, and captions, that were not kept
NUM_CONFLICTS = 8  # pictures under two labels
NUM_WARNINGS = 3  # shown; some more are folded away
OPEN_CLASSES, FOLDED_CLASSES = 8, 56  # whose pictures are shown
PER_CLASS = 3  # pictures kept of a class, and as many not kept
CLASS_ARMS = 4  # classifiers beside each other in the table of classes
CLASS_ROWS = 1000  # of that table
MATRIX_CLASSES = 100  # most in a drawn confusion matrix
NUM_CONFUSED, NUM_NEAREST, NUM_CHANGED = 12, 12, 8
CLASS_PX = 72  # of small pictures
LONGEST = 300  # characters of a caption
LOOKED_AT = 20_000  # rows searched for examples of what was not kept


@dataclass(frozen=True)
class WritePage(Job):
    """Everything in the run folder so far -> report.html."""

    role: ClassVar[Role] = "page"

    def run(self, context: StepContext) -> None:
        """Write the page, or write it again."""
        write(context.folder)


def write(folder: Path) -> Path:
    """Write ``report.html`` of a run, whether it is whole, at work or failed, and return its path.

    Raises: InputError if the folder is not a run; StoreError if its tables or results are damaged.
    """
    facts = gather(folder)
    page = folder / "report.html"
    with atomic_file(page) as partial:
        partial.write_text(_render(facts), encoding="utf-8")
    return page


@functools.cache  # whoever writes several pages reads the templates once
def environment() -> jinja2.Environment:
    """The page, and what its templates call."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "number": number,
        "amount": amount,
    }
    return environment


def _render(facts: Facts) -> str:
    thumbnails = Thumbs(_decoder(facts.folder))
    curves, colours = _curves(facts)
    return (
        environment()
        .get_template("page.html")
        .render(
            facts=facts,
            headline=headline(facts),
            main_comparison=[item for found in facts.measured[:1] for item in found.comparisons[:1]],
            shapes=bool(facts.measured) and len(aspects(facts.measured[0])) > 1,
            longest=max((step.seconds or 0.0 for step in facts.steps), default=0.0) or 1.0,
            command=command(facts),
            artifact=artifact(facts),
            metrics=metrics,
            columns=columns,
            called=called,
            kinds=KINDS,
            captioning=captioning.gather(facts, thumbnails),
            described=described.gather(facts, thumbnails),
            generation=generation.gather(facts, thumbnails),
            recaptioning=recaption.gather(facts),
            mixture=synth2.gather(facts),
            growth=plots.growth(facts.measured),
            accuracy=lambda found: plots.accuracy(found, colours),
            curves=curves,
            # And does not only learn or measure.
            makes=any(step["kind"] != "job" for step in facts.plan["steps"])
            or tables.exists(facts.folder / "pairs.lance"),
            learns=any(step["role"] == "learn" for step in facts.plan["steps"]),
            grid=list(_grid(facts.folder / "pairs.lance", thumbnails)),
            lost=list(_lost(facts.folder / "pairs.lance", thumbnails)),
            refused=list(_refused(facts.folder / "captions.lance")),
            unnamed=unnamed(facts),
            num_warnings=NUM_WARNINGS,
            **_duplicates(facts.folder, thumbnails),
            **_classes(facts, thumbnails),
            left_out=thumbnails.left_out,
        )
    )


# Curves


def _curves(facts: Facts) -> tuple[list[tuple[str, Any]], dict[str, str]]:
    """Drawings of training, each with what its axis shows, and the colour of every arm: the same in all drawings.

    Contrastive arms, whose loss has a known floor, are drawn together, and the arms of a fine-tuning job; others each alone.
    """
    # Of a learning step, or of the part of a fine-tuning job that is called by the job and the arm.
    arm_of: dict[str, str] = {}
    labels: dict[str, str] = {}
    job_of: dict[str, str] = {}  # the arms of one fine-tuning job learn the same thing, so their losses can be compared
    for step in facts.plan["steps"]:
        for arm in step["settings"].get("arms", ()) if step["role"] == "measure" else ():
            labels.setdefault(arm["id"], arm["label"])
            part = f"{step['name']}.{arm['id']}-{arm['seed']}"
            job_of[part] = step["name"]
            arm_of[part] = arm["id"]
            if arm["step"]:
                arm_of.setdefault(arm["step"], arm["id"])
    names = [arm.id for found in facts.measured for arm in found.arms]
    labels |= {arm.id: arm.label for found in facts.measured for arm in found.arms}
    drawn: dict[tuple[str, str], dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for name, rows in facts.curves.items():
        own = arm_of.get(name, name)
        labels.setdefault(own, own)
        names.append(own)
        metric, group = ("kl", "") if all("kl" in row for row in rows) else ("loss", job_of.get(name, own))
        if points := [(row["step"], row[metric]) for row in rows if "step" in row and metric in row]:
            drawn.setdefault((metric, group), {}).setdefault(own, {})[name] = points
    colours = plots.arm_colours(list(dict.fromkeys(names)))
    drawings = []
    for (metric, group), lines in drawn.items():
        unit = (
            "loss above its lowest possible value, in nats" if metric == "kl" else f"loss of {labels.get(group, group)}"
        )
        inorder = dict(sorted(lines.items(), key=lambda item: names.index(item[0])))
        drawings.append((metric, plots.curves(inorder, unit, colours, labels)))
    return drawings, colours


# Duplicates


def _duplicates(folder: Path, thumbnails: Thumbs) -> dict[str, Any]:
    """Pictures under two labels, where somebody has looked for duplicates."""
    pairs = folder / "pairs.lance"
    if not tables.exists(pairs) or "duplicate_of" not in tables.column_names(pairs):
        return {"found_twice": None}
    found = duplicates.gather(folder, NUM_CONFLICTS)
    return {
        "found_twice": found,
        "found_headline": duplicates.headline(found),
        "conflicts": duplicates.sides(found, found.conflicts, pairs, thumbnails, NUM_CONFLICTS),
    }


# Classes


def _classes(facts: Facts, thumbnails: Thumbs) -> dict[str, Any]:
    """What classes.html needs; ``classes`` is None for a run without a classifier."""
    found = by_class.gather(facts)
    if found is None:
        return {"classes": None}
    names = [item.name for item in found.classes]
    rates = [(item.name, item.pass_rate) for item in found.weakest if item.pass_rate is not None]
    changed = [(item.name, change) for item, change in found.changed]
    confused = found.confused(NUM_CONFUSED)
    drawn = confused and len(names) <= MATRIX_CLASSES
    nearest = by_class.nearest_shots(facts, NUM_NEAREST)
    return {
        "classes": found,
        "hardly": by_class.HARDLY,
        "rates": plots.by_class(rates, "images that pass the filter", by_class.HARDLY) if rates else "",
        "strips": _strips(found, facts.folder / "pairs.lance", thumbnails),
        "num_open": OPEN_CLASSES,
        "num_arms": CLASS_ARMS,
        "max_rows": CLASS_ROWS,
        "changes": plots.by_class(changed, "change in accuracy, points") if changed else "",
        "gained": [(item, change) for item, change in found.changed if change > 0][:NUM_CHANGED],
        "lost_most": [(item, change) for item, change in found.changed[::-1] if change < 0][:NUM_CHANGED],
        "fewest_photos": min((item.photos for item, _ in found.changed), default=0),
        "confused": confused,
        "confusion": plots.heat_map(found.confusion[found.arms[0]], names) if drawn else "",
        "nearest": nearest,
        "alike": by_class.ALIKE,
        "copies": list(_copies(nearest, thumbnails)) if nearest else [],
    }


def _strips(
    found: by_class.Classes, pairs: Path, thumbnails: Thumbs
) -> list[tuple[by_class.Class, list[dict[str, Any]]]]:
    """Classes with a few of their pictures: those of which fewest and most pass, then the rest from the weakest on."""
    weakest = [item for item in found.weakest if item.images]
    half = OPEN_CLASSES // 2
    first = weakest if len(weakest) <= OPEN_CLASSES else [*weakest[:half], *weakest[-half:]]
    rest = [item for item in weakest if item not in first]
    chosen = [*first, *rest[:FOLDED_CLASSES]]
    wanted = by_class.examples(pairs, found.column, [item.name for item in chosen], PER_CLASS)
    if not wanted:
        return []
    numbers = [row for kept, lost in wanted.values() for row in (*kept, *lost)]
    columns = dict.fromkeys([*_columns(pairs), found.column])
    rows = iter(tables.take(pairs, numbers, list(columns)).to_pylist() if numbers else [])
    taken = {name: [next(rows) for _ in (*kept, *lost)] for name, (kept, lost) in wanted.items()}
    # Who works in the folder meanwhile may have moved rows; a picture must never stand beside another class.
    return [
        (
            item,
            [_card(row, thumbnails, CLASS_PX, found.column) for row in taken[item.name] if row["label"] == item.name],
        )
        for item in chosen
    ]


def _copies(nearest: by_class.Nearest, thumbnails: Thumbs) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Painted images, each with its nearest real shot."""
    for row in nearest.pairs:
        shot = nearest.shots.get(row["nearest_shot"])
        painted = {
            "src": thumbnails.make(row, CLASS_PX),
            "label": row["label"],
            "pair_id": row["pair_id"],
            "nearest_shot": row["nearest_shot"],
            "similarity": row["nearest_shot_similarity"],
            "own": bool(row.get("start")) and str(row["nearest_shot"]) in row["start"],
        }
        yield (
            painted,
            {"src": thumbnails.make(shot, CLASS_PX) if shot else None, "label": shot["label"] if shot else None},
        )


# Pictures


def _grid(pairs: Path, thumbnails: Thumbs) -> Iterator[dict[str, Any]]:
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
            shown = [_card(row, thumbnails) for row in copies[:NUM_COPIES]]
            yield {
                "text": _cut(copies[0]["text"] or ""),
                "label": copies[0]["label"],
                "images": shown,
                "more": len(copies) - len(shown),
            }


def _lost(pairs: Path, thumbnails: Thumbs) -> Iterator[dict[str, Any]]:
    """Examples of images that were not kept, of as many different reasons as there are."""
    if not tables.exists(pairs):
        return
    columns = _columns(pairs)
    where = f"status != '{OK}'" + (" or kept = false" if "kept" in columns else "")
    yield from (_card(row, thumbnails) for row in _various(pairs, columns, where))


def _refused(captions: Path) -> Iterator[dict[str, Any]]:
    """Examples of captions that were not used."""
    if tables.exists(captions):
        for row in _various(captions, ["text", "status", "reason"], f"status != '{OK}'"):
            yield {"text": _cut(row["text"] or ""), "reason": _reason(row)}


def _various(path: Path, columns: Sequence[str], where: str) -> list[dict[str, Any]]:
    """Rows of as many kinds of reasons as there are, the rarest first, because it is the most surprising."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    looked = 0
    for rows in tables.scan(path, columns, where):
        for row in rows.to_pylist():
            same = by_reason.setdefault(kind_of(_reason(row)), [])
            if len(same) < NUM_LOST:
                same.append(row)
        looked += len(rows)
        if looked >= LOOKED_AT:
            break
    rounds = itertools.zip_longest(*sorted(by_reason.values(), key=len))
    chosen = [row for in_turn in rounds for row in in_turn if row is not None][:NUM_LOST]
    return sorted(chosen, key=lambda row: (len(by_reason[kind_of(_reason(row))]), _reason(row)))


def _columns(pairs: Path) -> list[str]:
    known = tables.column_names(pairs)
    wanted = ["pair_id", "caption_id", "copy", "text", "label", "image", "status", "reason"]
    return wanted + [
        name for name in (*TOKEN_COLUMNS, "kept", "drop_reason", "clip_score", "clip_confidence") if name in known
    ]


def _decoder(folder: Path) -> Callable[[Mapping[str, Any]], bytes | None]:
    """Image tokens of a run as pictures, if the tokenizer that its plan names is still to be had."""

    @functools.cache
    def pictures() -> TokenPictures:  # slow to load, and most runs have no tokens
        from reverie.models.token_pictures import TokenPictures, models_named

        return TokenPictures(models_named(read_plan(folder), folder))

    def decode(row: Mapping[str, Any]) -> bytes | None:
        try:
            return pictures().png(row)
        except ReverieError:
            return None  # an empty frame, as for a broken image

    return decode


def _card(row: Mapping[str, Any], thumbnails: Thumbs, side_px: int = THUMB_PX, column: str = "kept") -> dict[str, Any]:
    """What the templates show of a pair. ``column`` says whether it was kept; reasons are told of ``kept`` alone."""
    kept = row["status"] == OK and row.get(column) is not False
    return {
        "src": thumbnails.make(row, side_px),
        "text": _cut(row["text"] or ""),
        "pair_id": row["pair_id"],
        "kept": kept,
        "reason": "" if kept or (column != "kept" and row["status"] == OK) else _reason(row),
        "score": row.get("clip_score"),
        "confidence": row.get("clip_confidence"),
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"


def _reason(row: Mapping[str, Any]) -> str:
    if row["status"] != OK:
        return f"{row['status']}: {row['reason'] or 'no reason given'}"
    return row.get("drop_reason") or "no reason given"
