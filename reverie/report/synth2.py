"""What painted pairs did for captioners, for the page: at equal steps and at equal sights of human pairs, and whether it is controlled."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from reverie.errors import StoreError
from reverie.evaluate.data_equivalence import OF_PAIRS, PAIRS_ALONE, learned_only_from_pairs
from reverie.evaluate.diversity import Value, covers
from reverie.evaluate.significance import paired
from reverie.models.captioner import ABOUT
from reverie.report import plots
from reverie.report.diversity import CALLED, told
from reverie.report.facts import HUNDREDS, ArmFacts, Facts, Measured, called, main_metric, of_same_pairs, over_photos
from reverie.store import results
from reverie.store.json_files import read_json

TRAINED = {"trained": {"real_seen": int, "painted_seen": int, "steps": int, "round_trip?": (float, None)}}
METRICS = ("cider_d", "slot_f1")  # shown, the first as the curve


def gather(facts: Facts) -> dict[str, Any] | None:
    """What synth2.html needs; None for a run without captioners from painted pairs. Where no photos were given to measure them on, there are no rows."""
    found = next((each for each in facts.measured if any("rho" in arm.factors for arm in each.arms)), None)
    cost = next((each for each in facts.aside if each.protocol == "cost"), None)
    beside = {
        "worth": _worth(facts),
        "diversity": _diversity(facts),
        "cost": cost,
        "ratios": _ratios(cost) if cost else {},
        "timings": max(map(len, cost.arms[0].values.values())) if cost else 0,
    }
    if found is None:
        known = _controls_of_weights(facts)
        return {"rows": [], "controls": known, "round_trips": {}, **beside} if known else None
    metric = main_metric(found)
    first = next((arm for arm in found.arms if arm.factors.get("rho")), found.arms[0])
    same = of_same_pairs(found.arms, first)  # a study has others, which are in the table of its measurement
    mixtures = sorted((arm for arm in same if arm.factors.get("rho") and "exposures_of" not in arm.factors), key=_share)
    human = next((arm for arm in same if arm.factors.get("rho") == 0 and "exposures_of" not in arm.factors), None)
    rivals = {arm.factors["exposures_of"]: arm for arm in same if "exposures_of" in arm.factors}
    seen = {arm.id: _trained(facts, arm) for arm in found.arms}
    rows: list[dict[str, Any]] = [
        {
            "arm": arm, "share": _share(arm), "scores": {name: arm.mean(name) for name in METRICS if name in arm.values},
            "seen": seen[arm.id], "steps": _against(arm, human, metric), "exposures": _against(arm, rivals.get(_share(arm)), metric),
            "rival_seen": seen[rivals[_share(arm)].id] if _share(arm) in rivals else None,
        }
        for arm in mixtures
    ]  # fmt: skip
    return {
        "rows": rows,
        "human": human,
        "human_seen": seen[human.id] if human else None,
        "human_scores": {name: human.mean(name) for name in METRICS if human and name in human.values} if human else {},
        "metrics": {name: called(name, found) for name in METRICS if any(name in row["scores"] for row in rows)},
        "metric": called(metric, found),
        "curve": _curve(found, metric, mixtures, human, rivals),
        "controls": controls(found),
        "round_trips": _round_trips(found, seen),
        "seeds": max(len(arm.values[metric]) for arm in mixtures) if mixtures else 0,
        **beside,
    }


def controls(found: Measured) -> dict[str, list[str]]:
    """``controlled: why`` or ``uncontrolled: why`` -> labels of the arms of which it is so, what most are first."""
    told: dict[str, list[str]] = {}
    for arm in found.arms:
        said = next((str(record.details["control"]) for record in arm.records if record.details.get("control")), None)
        if said:
            told.setdefault(said, []).append(arm.label)
    return dict(sorted(told.items(), key=lambda each: -len(each[1])))


def _controls_of_weights(facts: Facts) -> dict[str, list[str]]:
    """The same of a run that measured no captioner, by its steps."""
    told: dict[str, list[str]] = {}
    for step in facts.trained:
        file = facts.folder / "weights" / step / ABOUT
        if not file.is_file():
            continue
        control = read_json(file, {"control?": {...: object}}, StoreError, "train the captioner again").get("control")
        if control:
            told.setdefault(f"{control['label']}: {control['reason']}", []).append(step)
    return dict(sorted(told.items(), key=lambda each: -len(each[1])))


def told_controls(facts: Facts) -> list[str]:
    """What the page says of control, a line each."""
    return [said for found in facts.measured for said in controls(found)] or list(_controls_of_weights(facts))


def _share(arm: ArmFacts) -> float:
    rho = arm.factors["rho"]
    return float(rho) if isinstance(rho, (int, float)) else 0.0


def _against(arm: ArmFacts, other: ArmFacts | None, metric: str) -> dict[str, Any] | None:
    """One arm less another, over seeds and over photos, where both were measured."""
    if other is None or not arm.values[metric].keys() & other.values.get(metric, {}).keys():
        return None
    return {
        "over_seeds": paired(arm.values[metric], other.values[metric]),
        "over_photos": over_photos(arm, other, metric),
    }


def _trained(facts: Facts, arm: ArmFacts) -> Mapping[str, Any] | None:
    """What the first captioner of an arm has seen, where its folder is still there."""
    weights = arm.records[0].weights
    file = facts.folder / "weights" / str(weights) / ABOUT
    if weights is None or not file.is_file():
        return None
    told: Mapping[str, Any] = read_json(file, TRAINED, StoreError, "train the captioner again")["trained"]
    return told


def _round_trips(found: Measured, seen: Mapping[str, Mapping[str, Any] | None]) -> dict[str, float]:
    """Label of each captioner that was shown pixels -> share of ids that are the same after them; one without a label where all were."""
    told = {
        arm.label: float(known["round_trip"])
        for arm in found.arms
        if (known := seen[arm.id]) and known.get("round_trip") is not None
    }
    painted = [arm for arm in found.arms if arm.factors.get("rho")]
    return {"": next(iter(told.values()))} if told and len(told) == len(painted) else told


def _ratios(cost: Measured) -> dict[str, float]:
    """Pixels by tokens, means over the measurements."""
    records = cost.arms[0].records
    return {
        name: statistics.fmean(record.details[name] for record in records)
        for name in ("generation_ratio", "training_ratio", "stored_ratio")
    }


def _curve(
    found: Measured, metric: str, mixtures: list[ArmFacts], human: ArmFacts | None, rivals: Mapping[Any, ArmFacts]
) -> Any:
    start = [_point(0.0, human, metric)] if human else []
    lines = {"with painted pairs": [*start, *(_point(_share(arm), arm, metric) for arm in mixtures)]}
    if own := sorted((float(share), arm) for share, arm in rivals.items() if metric in arm.values):
        lines["human pairs alone, as many seen as beside the painted ones"] = [
            *start,
            *(_point(*each, metric) for each in own),
        ]
    levels = {"human pairs alone, at equal steps": _scale(metric) * human.mean(metric)} if human else {}
    return plots.over_shares(lines, levels, called(metric, found))


def _scale(metric: str) -> int:
    return 100 if metric in HUNDREDS else 1


def _point(at: float, arm: ArmFacts, metric: str) -> tuple[float, float, tuple[float, float] | None]:
    """Where an arm stands in a drawing: the place given, its mean over seeds, and the interval of that."""
    scale, span = _scale(metric), arm.interval(metric)
    return at, scale * arm.mean(metric), (scale * span[0], scale * span[1]) if span else None


def _worth(facts: Facts) -> dict[str, Any] | None:
    """Scores over the number of human pairs, and how many alone each share of painted ones is worth; None where that was not found.

    Arms that differ in more than pairs are left to results.jsonl.
    """
    records = results.select(results.read(facts.folder / "results.jsonl"), protocol=OF_PAIRS)
    told = records[0].details if records else {}
    found = next((each for each in facts.measured if told and each.step == told.get("measured")), None)
    if found is None:
        return None
    metric = str(told.get("of"))
    lines: dict[float, dict[int, ArmFacts]] = {}
    for arm in found.arms:
        number = arm.factors.get("human_pairs")
        if learned_only_from_pairs(arm.factors) and isinstance(number, int) and number > 0 and metric in arm.values:
            lines.setdefault(_share(arm), {})[number] = arm
    alone = lines.pop(0.0, {})
    if not alone:
        return None
    rows = [
        {
            "share": share, "human": number, "alone": alone[number].mean(metric) if number in alone else None,
            "score": arm.mean(metric), "worth": _over_seeds([record for record in records if record.arm == arm.id]),
        }
        for share, line in sorted(lines.items())
        for number, arm in sorted(line.items())
    ]  # fmt: skip
    drawn = {PAIRS_ALONE: alone} | {
        f"{100 * share:g} % of every batch painted": line for share, line in sorted(lines.items()) if len(line) > 1
    }
    points = {
        name: [_point(number, arm, metric) for number, arm in sorted(line.items())] for name, line in drawn.items()
    }
    return {
        "drawing": plots.over_human_pairs(points, called(metric, found)),
        "rows": rows,
        "metric": metric,
        "called": called(metric, found),
    }


def _over_seeds(records: list[results.Result]) -> str:
    """The worth of the middle seed, of two in the middle the smaller, and from where to where the seeds lie; also off the curve."""
    order = {"below": (0, 0.0), "above": (2, 0.0)}
    ranked = sorted(records, key=lambda record: order.get(str(record.details.get("side")), (1, record.value or 0.0)))
    said = [str(record.details.get("words")).removesuffix(f" {PAIRS_ALONE}") for record in ranked]
    if not said:
        return "not found"
    middle = said[(len(said) - 1) // 2]
    return middle if len(set(said)) == 1 else f"{middle} ({said[0]} to {said[-1]})"


def _diversity(facts: Facts) -> dict[str, Any] | None:
    """What the page calls a number -> its value and interval for each set of captions, as they are shown."""
    found = next((each for each in facts.aside if each.protocol == "diversity"), None)
    if found is None:
        return None
    rows: dict[str, dict[str, tuple[str, str]]] = {}
    for arm in found.arms:
        for record in arm.records:
            if not covers(record.metric, int(record.details.get("clusters") or 0)):  # of an earlier version
                continue
            value = float(record.value or 0.0)
            low, high = (float(record.details.get(end, value)) for end in ("low", "high"))
            shown = told(record.metric, Value(value, low, high))
            rows.setdefault(CALLED.get(record.metric, record.metric), {})[arm.label] = shown
    first = found.arms[0].records[0]
    return {
        "sets": [arm.label for arm in found.arms],
        "rows": rows,
        "size": first.num_train,
        "clusters": first.details.get("clusters"),
    }
