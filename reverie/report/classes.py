"""What a run with a classifier knows of each class: captions, images, what the filter let pass, and how often it is right.

Reads files only. Everything is counted in arrays, so a thousand classes with a thousand images each are no problem.
"""

from __future__ import annotations

import heapq
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reverie.pairs import DROPPED, FAILED, OK
from reverie.report.facts import ArmFacts, Facts, read_classifier_classes
from reverie.run.events import read_events
from reverie.store import tables
from reverie.store.json_files import misfit

HARDLY = 0.05  # a class of which no larger share passes cannot be drawn, or is not known to the encoder
ALIKE = 0.95  # cosine from which a painted image is called close to a copy
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Class:
    """One class of a run."""

    name: str
    captions: int  # accepted
    refused: int
    images: int  # painted, whatever became of them
    unusable: int  # of those: failed or dropped when they were made
    judged: int  # by the filter whose images the classifier learns from: all of them, or one of several painted sets
    passed: int | None  # surer than that filter asks; None before it ran
    kept: int | None  # to learn from
    photos: int  # that the classifiers were tested on
    right: Mapping[str, float]  # id of an arm -> share of these photos, mean over seeds

    @property
    def pass_rate(self) -> float | None:
        """Share of the judged images that pass; None where it is not known."""
        return None if self.passed is None or not self.judged else self.passed / self.judged


@dataclass(frozen=True)
class Confused:
    """Photos of one class that were taken for another."""

    truth: str
    answer: str
    times: float  # mean over seeds
    photos: int  # of the true class
    before: float | None  # the same of the second arm


@dataclass(frozen=True)
class Classes:
    """All classes of a run, in the order of its classifier."""

    classes: tuple[Class, ...]
    labels: Mapping[str, str]  # of what was asked about photos, by id; the first is compared with the second
    confusion: Mapping[str, Counts]  # id of an arm -> (classes, classes), rows are the truth, summed over its seeds
    num_seeds: Mapping[str, int]
    measured: str  # the measuring step that all this is of
    column: str  # of the pairs: true where an image is kept

    @property
    def arms(self) -> tuple[str, ...]:
        """Ids of what was asked about photos."""
        return tuple(self.labels)

    @property
    def weakest(self) -> list[Class]:
        """By rising pass rate; classes without images first, and in the classifier's order where nothing is filtered yet."""
        return sorted(self.classes, key=lambda item: -1.0 if item.pass_rate is None else item.pass_rate)

    @property
    def not_drawn(self) -> list[Class]:
        """Those of which hardly an image passes the filter."""
        return [item for item in self.weakest if item.pass_rate is not None and item.pass_rate <= HARDLY]

    def change(self, item: Class) -> float | None:
        """By how much the first arm is right more often than the second, in [-1, 1]."""
        if len(self.arms) < 2 or not item.photos:
            return None
        return item.right[self.arms[0]] - item.right[self.arms[1]]

    @property
    def changed(self) -> list[tuple[Class, float]]:
        """Classes with photos and their change, the largest gain first."""
        found = [(item, change) for item in self.classes if (change := self.change(item)) is not None]
        return sorted(found, key=lambda pair: -pair[1])

    def confused(self, limit: int) -> list[Confused]:
        """What the first arm mistakes most often for what."""
        if not self.arms:
            return []
        first, *others = self.arms
        wrong = self.confusion[first].copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        found = []
        for truth, answer in zip(*np.unravel_index(order, wrong.shape), strict=True):
            if wrong[truth, answer]:
                before = self.confusion[others[0]][truth, answer] / self.num_seeds[others[0]] if others else None
                true, taken = self.classes[truth], self.classes[answer]
                times = float(wrong[truth, answer] / self.num_seeds[first])
                found.append(Confused(true.name, taken.name, times, true.photos, before))
        return found


def gather(facts: Facts) -> Classes | None:
    """All that is known of the classes; None for a run that makes no classifier, or knows no class yet."""
    if not any(step.role == "learn" and "classes" in dict(step.settings) for step in facts.steps):
        return None
    measured = next((found for found in facts.measured if _tables(found.arms[0])), None)
    arms = tuple(arm for arm in measured.arms if _tables(arm)) if measured else ()
    captions, pairs = facts.folder / "captions.lance", facts.folder / "pairs.lance"
    written, painted = _statuses(captions), _statuses(pairs)
    names = _names(facts.folder, arms) or list(dict.fromkeys(label for label, _ in written))
    step, column = _selection(facts)
    kept = _kept(pairs, column)
    told = _told(facts, step)
    confusion = {arm.id: np.sum(_tables(arm), axis=0) for arm in arms}
    seeds = {arm.id: len(_tables(arm)) for arm in arms}
    labels = {arm.id: arm.label for arm in arms}
    found = []
    for number, name in enumerate(names):
        photos = {arm: int(table[number].sum()) // seeds[arm] for arm, table in confusion.items()}
        found.append(
            Class(
                name,
                written[name, OK],
                written[name, DROPPED] + written[name, FAILED],
                painted[name, OK] + painted[name, DROPPED] + painted[name, FAILED],
                painted[name, DROPPED] + painted[name, FAILED],
                told[name]["made"] if name in told else 0,
                told[name]["passed"] if name in told else None,
                None if kept is None else kept[name],
                max(photos.values(), default=0),
                {
                    arm: float(table[number, number] / table[number].sum())
                    for arm, table in confusion.items()
                    if table[number].any()
                },
            )
        )
    if not found:
        return None
    return Classes(tuple(found), labels, confusion, seeds, measured.step if measured else "", column)


def _names(folder: Path, arms: Sequence[ArmFacts]) -> list[str]:
    """The classes in the order of the classifier, from what was measured, else from a finished classifier."""
    for arm in arms:
        return list(arm.records[0].classes or ())
    for about in sorted(folder.glob("weights/*/classifier.json")):
        return list(read_classifier_classes(about))
    return []


def _tables(arm: ArmFacts) -> list[Counts]:
    return [np.array(record.confusion, dtype=np.int64) for record in arm.records if record.confusion is not None]


def _statuses(path: Path) -> Counter[tuple[str, str]]:
    """How many rows a class and status."""
    found: Counter[tuple[str, str]] = Counter()
    if tables.exists(path):
        for rows in tables.scan(path, ["label", "status"], "label is not null"):
            for row in rows.group_by(["label", "status"]).aggregate([([], "count_all")]).to_pylist():
                found[row["label"], row["status"]] += row["count_all"]
    return found


def _kept(pairs: Path, column: str) -> Counter[str] | None:
    if not tables.exists(pairs) or column not in tables.column_names(pairs):
        return None
    found: Counter[str] = Counter()
    for rows in tables.scan(pairs, ["label"], column):
        for row in pc.value_counts(rows["label"].combine_chunks()).to_pylist():
            found[row["values"]] += row["counts"]
    return found


def _selection(facts: Facts) -> tuple[str, str]:
    """The filter whose images the classifier that is asked by default learns from, and its column."""
    settings = {step.name: (step.role, dict(step.settings)) for step in facts.steps}
    filters = {own["column"]: name for name, (role, own) in settings.items() if role == "select" and "column" in own}
    asked = settings.get("classifier", ("", {}))[1].get("where", "kept")
    column = asked if asked in filters else next(iter(filters), "kept") if "kept" not in filters else "kept"
    return filters.get(column, ""), column


def _told(facts: Facts, step: str) -> dict[str, dict[str, int]]:
    """What a filter said of each class, the last time that it ran."""
    said: dict[str, dict[str, int]] = {}
    for event in read_events(facts.folder):
        if event.get("step") == step and misfit(event, {"per_class": {...: {"made": int, "passed": int}}}) is None:
            said = event["per_class"]
    return said


# Which pictures to look at


def examples(pairs: Path, column: str, names: Sequence[str], num: int) -> dict[str, tuple[list[int], list[int]]]:
    """Row numbers of some images of each class: kept and not kept, from the surest to the least sure.

    Args:
        column: true where an image is kept, null where it was not judged.
        names: classes wanted. num: how many of each kind.
    Returns: class -> (kept, not kept), each up to ``num`` numbers of stored rows; no entry without a selection.
    """
    if not tables.exists(pairs) or column not in (known := tables.column_names(pairs)):
        return {}
    scored = "clip_confidence" in known
    label, sure, kept = [], [], []
    wanted = pa.array(names, pa.string())
    for rows in tables.scan(pairs, ["label", column, *(["clip_confidence"] if scored else [])]):
        number = pc.index_in(rows["label"], wanted)
        number = pc.if_else(pc.is_valid(rows[column]), number, pa.scalar(None, number.type))
        label.append(np.asarray(pc.fill_null(number, -1), dtype=np.int32))
        kept.append(np.asarray(pc.fill_null(rows[column], False), dtype=bool))
        values = pc.fill_null(rows["clip_confidence"], -1.0) if scored else np.zeros(len(rows))
        sure.append(np.asarray(values, dtype=np.float32))
    if not label:
        return {}
    labels, scores, keeps = np.concatenate(label), np.concatenate(sure), np.concatenate(kept)
    order = np.lexsort([-scores, ~keeps, labels])
    group = 2 * labels[order] + ~keeps[order]
    found = {}
    for place, name in enumerate(names):
        ends = np.searchsorted(group, [2 * place, 2 * place + 1, 2 * place + 2])
        found[name] = (_spread(order[ends[0] : ends[1]], num), _spread(order[ends[1] : ends[2]], num))
    return found


def _spread(rows: npt.NDArray[np.int64], num: int) -> list[int]:
    """Some of the rows, the first and the last among them."""
    if len(rows) > num:
        rows = rows[np.linspace(0, len(rows) - 1, num).round().astype(int)]
    return [int(row) for row in rows]


# How close painted images are to real shots


@dataclass(frozen=True)
class Nearest:
    """The painted images that resemble a real shot most, and how alike they are on the whole."""

    pairs: tuple[Mapping[str, Any], ...]  # rows of pairs with their image, the most alike first
    shots: Mapping[str, Mapping[str, Any]]  # pair_id of a shot -> its row with its image, for those that were found
    num: int  # painted images compared
    median: float
    num_alike: int  # of at least ALIKE


def nearest_shots(facts: Facts, num: int) -> Nearest | None:
    """The ``num`` painted images most like a real shot; None if no stage looked for it."""
    path = facts.folder / "pairs.lance"
    if not tables.exists(path) or not {"nearest_shot", "nearest_shot_similarity"} <= set(tables.column_names(path)):
        return None
    best: list[tuple[float, str]] = []
    values: list[npt.NDArray[np.float32]] = []
    for rows in tables.scan(path, ["pair_id", "nearest_shot_similarity"], "nearest_shot_similarity is not null"):
        alike = np.asarray(rows["nearest_shot_similarity"], dtype=np.float32)
        values.append(alike)
        here = zip(alike.tolist(), rows["pair_id"].to_pylist(), strict=True)
        best = heapq.nlargest(num, [*best, *here])
    if not best:
        return None
    everything = np.concatenate(values)
    columns = ["pair_id", "label", "image", "start", "nearest_shot", "nearest_shot_similarity"]
    found = {row["pair_id"]: row for row in tables.rows_of(path, "pair_id", [name for _, name in best], columns)}
    chosen = tuple(found[name] for _, name in best)
    wanted = {str(row["nearest_shot"]) for row in chosen}
    shots: dict[str, Mapping[str, Any]] = {}
    for store in _shot_stores(facts):
        rows = tables.rows_of(store, "pair_id", sorted(wanted - shots.keys()), columns[:3])
        shots |= {row["pair_id"]: row for row in rows}
    return Nearest(
        chosen, shots, len(everything), float(statistics.median(everything.tolist())), int((everything >= ALIKE).sum())
    )


def _shot_stores(facts: Facts) -> list[Path]:
    """Tables of real shots: those that steps of the run took, and those that the plan names, where they still are."""
    named = [value for step in facts.steps for name, value in step.settings if name.rpartition(".")[2] == "shots"]
    own = sorted(facts.folder.glob("shots/*/pairs.lance"))
    return [*own, *(facts.made_in / value / "pairs.lance" for value in dict.fromkeys(named))]
