"""What a captioner wrote for the images of a run, for the page: how it was tuned, its captions and their flags, and which pairs nobody learned from.

What the captioner was before and after is in describer.json, captions and flags are columns of the store, and the trainings told how many pairs they
left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from reverie.errors import StoreError
from reverie.evaluate.recaptioning import NUMBERS
from reverie.models.describer import ABOUT
from reverie.pairs import TOKEN_COLUMNS
from reverie.recaption.flags import TOO_LONG
from reverie.recaption.mix import CHANNELS
from reverie.report.facts import Facts, called
from reverie.report.recaption import WORDS, as_text
from reverie.report.thumbs import Thumbs
from reverie.stage import OF_STEP
from reverie.store import tables
from reverie.store.json_files import read_json

STAGE = "RecaptionPairs"  # of learn/recaption.py, as plans name it
LABELS = {"alt": "alt-text", "short": "short", "long": "long"}
USABLE = "status = 'ok' and image is not null"
TUNED = {"captioner": str, "captions": int, "images": int, "held_out": int, "best_step": int, "before": {...: object}, "after": {...: object}}  # fmt: skip
NUM_IMAGES = 8  # shown
LONGEST = 600  # characters of a caption that is shown


def gather(facts: Facts, thumbnails: Thumbs) -> dict[str, Any] | None:
    """What described.html needs; None for a run that recaptions nothing, or has not begun to."""
    step = next((step for step in facts.plan["steps"] if step["settings"]["stage"] == STAGE), None)
    if step is None:
        return None
    store = _store(facts, str(step["settings"]["store"]))
    captioner = str(step["settings"]["captioner"])
    tuning = _tuning(facts, captioner.removeprefix(OF_STEP)) if captioner.startswith(OF_STEP) else None
    there = tables.column_names(store) if tables.exists(store) else []
    styles = [style for style in step["settings"]["styles"] if f"{CHANNELS[style]}_flags" in there]
    if not tuning and not styles:
        return None
    return {
        "tuning": tuning,
        "captioner": None if captioner.startswith(OF_STEP) else captioner,
        "kinds": _kinds(store, styles) if styles else [],
        "images": tables.count(store, USABLE) if styles else 0,
        "left_out": _left_out(facts, step),
        "examples": _examples(store, styles, thumbnails) if styles else [],
    }


def _store(facts: Facts, named: str) -> Path:
    """The table whose images were described: of the step that drew them, or of a folder."""
    if any(step["name"] == named for step in facts.plan["steps"]):
        return facts.folder / "shots" / named / "pairs.lance"
    return facts.made_in / named / "pairs.lance"


def _tuning(facts: Facts, step: str) -> dict[str, Any] | None:
    """The captioner on held-out images before it was tuned and after, as far as it is."""
    file = facts.folder / "weights" / step / ABOUT
    if not file.is_file():
        return None
    about = read_json(file, TUNED, StoreError, "tune the captioner again")
    both = about["before"], about["after"]
    rows = {WORDS.get(name, called(name)): [_number(name, some) for some in both] for name in ("loss", *NUMBERS)}
    before, after = (some.get("loss") for some in both)
    known = isinstance(before, (int, float)) and isinstance(after, (int, float))
    return {
        "about": about,
        "rows": {name: values for name, values in rows.items() if any(values)},
        "loss": (f"{before:.4g}", f"{after:.4g}") if known else None,
        "helped": known and after < before,  # a loss that is not a number is no help
    }


def _number(name: str, some: Mapping[str, object]) -> str:
    value = some.get(name)
    return as_text(name, value) if isinstance(value, (int, float)) else ""


def _kinds(store: Path, styles: Sequence[str]) -> list[dict[str, Any]]:
    """Alt-text and each style: how many images have it, how long it is, and what is wrong with it."""
    found = []
    for kind in ("alt", *styles):
        column, num, words = CHANNELS[kind], 0, 0
        flags: Counter[str] = Counter()
        by: Counter[str] = Counter()
        beside = [] if kind == "alt" else [f"{column}_flags", f"{column}_by"]
        looked = 0
        for rows in tables.scan(store, [column, *beside], USABLE):
            has = pc.match_substring_regex(rows[column], r"\S")
            num += pc.sum(has).as_py() or 0
            words += pc.sum(pc.count_substring_regex(rows[column], r"\S+")).as_py() or 0
            if beside:
                looked += len(rows) - rows[beside[0]].null_count
                for each in pc.value_counts(pc.list_flatten(rows[beside[0]])).to_pylist():
                    flags[each["values"]] += each["counts"]
                for each in pc.value_counts(rows[beside[1]].drop_null()).to_pylist():
                    by[each["values"]] += each["counts"]
        too_long = flags.pop(TOO_LONG, 0)
        found.append(
            {
                "label": LABELS[kind],
                "num": num,
                "words": words / num if num else None,
                "too_long": (too_long, too_long / looked) if looked else None,
                "flags": flags.most_common(),
                "by": [name for name, _ in by.most_common(3)],
            }
        )
    return found


def _left_out(facts: Facts, recaption: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each painter that was trained on these images, under its first seed, what it told of the pairs."""
    steps = facts.plan["steps"]
    labels: dict[str, str] = {}
    for step in steps:
        for arm in step["settings"].get("arms", ()) if step["role"] == "measure" else ():
            labels.setdefault(str(arm["step"]), str(arm["label"]))
    starts = {str(step["settings"].get("start", "")) for step in steps}
    rows: dict[str, dict[str, Any]] = {}
    for step in steps:
        told = facts.trained.get(step["name"])
        own = step["settings"]
        if told is None or not own.get("mix") or str(own.get("store")) != str(recaption["settings"]["store"]):
            continue
        first = f"{OF_STEP}{step['name']}" in starts
        label = "before all others" if first else labels.get(step["name"], step["name"])
        row = {name: told.get(name) for name in ("images", "without_caption", "pairs_too_long", "captions")}
        row |= {"cut": told.get("cut"), "dropped": told.get("dropped")}
        rows.setdefault(label, {"label": label, **row})
    return list(rows.values())


def _examples(store: Path, styles: Sequence[str], thumbnails: Thumbs) -> list[dict[str, Any]]:
    """Some images, spread over all, each with all that is said of it."""
    total = tables.count(store, USABLE)
    places = [place * total // NUM_IMAGES for place in range(NUM_IMAGES)] if total > NUM_IMAGES else range(total)
    chosen, begin = list[str](), 0
    for part in tables.scan(store, ["pair_id"], USABLE):
        chosen += [part["pair_id"][place - begin].as_py() for place in places if begin <= place < begin + len(part)]
        begin += len(part)
    columns = ["pair_id", "image", *TOKEN_COLUMNS, "text"]
    columns += [f"{CHANNELS[style]}{ending}" for style in styles for ending in ("", "_flags")]
    rows = {row["pair_id"]: row for row in tables.rows_of(store, "pair_id", chosen, columns)}
    return [
        {
            "src": thumbnails.make({"tokens": None} | row),
            "said": [(LABELS["alt"], _cut(row["text"]), [])]
            + [(LABELS[style], _cut(row[CHANNELS[style]]), row[f"{CHANNELS[style]}_flags"] or []) for style in styles],
        }
        for row in (rows[name] for name in chosen if name in rows)
    ]


def _cut(text: str | None) -> str:
    text = (text or "").strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"
