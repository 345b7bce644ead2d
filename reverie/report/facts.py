"""A run folder -> the facts that the page and the terminal show. Reads files only, also of a run that is under way.

Nothing here computes a quality: it counts rows, adds up times and groups measured numbers by arm.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from reverie.arms import UNTRAINED, WITHOUT_CHANCE, Factor
from reverie.captions.prompts import OWN
from reverie.errors import StoreError
from reverie.evaluate.significance import Difference, bootstrap, is_packed, paired, unpack
from reverie.pairs import DROPPED, FAILED, OK
from reverie.run.events import read_events
from reverie.run.plan import read_plan
from reverie.stage import words_unknown
from reverie.store import results, tables
from reverie.store.json_files import log_lines, read_json
from reverie.store.results import Result
from reverie.store.sources import counted

SCORES = {  # metric -> what the page calls it, best first
    "top1_shape": "shape of the named class",
    "top1": "top-1",
    "top1_colour": "colour of the named class",
    "mean_per_class": "mean per class",
    "knn_top1_shape": "nearest neighbours, shape",
    "knn_top1": "nearest neighbours, top-1",
    "knn_top1_colour": "nearest neighbours, colour",
    "top1_at_best": "top-1 of the step that was best on held-out images",
}
CALLED = {  # protocol -> what is called otherwise there
    "linear-probe": {
        "top1_shape": "linear probe, shape",
        "top1": "linear probe, top-1",
        "top1_colour": "linear probe, colour",
        "mean_per_class": "linear probe, mean per class",
    },
    "episodes": {"top1": "few-shot episodes, top-1"},
}
CAPTION_SCORES = {  # the same of captions, which papers print a hundred times over as well; the toolkit's CIDEr is CIDEr-D
    "cider_d": "CIDEr-D",
    "bleu4": "BLEU-4",
    "slot_f1": "facts said right, F1",
    "meteor": "METEOR without paraphrases",
    "rouge_l": "ROUGE-L",
    "spice": "SPICE",
    "distinct": "different captions",
}
BEAM = "_beam"  # ending of a metric of captions by beam search
RETRIEVAL = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "own_sentence": "weight of the own sentence",
    "mean_average_precision": "mean average precision of words",
}
OTHERS = {
    "pair_cosine": "pair cosine",
    "centroid_distance": "distance of centroids",
    "mmd": "MMD",
    "worth_real_photos": "worth in real photos",
    "worth_human_pairs": "worth in human pairs alone",
    "gradient_norm": "norm of the gradient",
    "images_per_s": "images a second",
    "steps_per_s": "steps a second, painting for each",
    "stored_steps_per_s": "steps a second, from a store",
    "peak_mib": "peak memory, MiB",
    "peak_mib_above": "of it above the models, MiB",
    "content_bytes": "bytes an image",
    "pair_bytes": "bytes a pair on disk",
    "agreement": "ids that come back",
    "spearman": "rank correlation",
    "columns_best": "kinds of prompts on which the arm of such captions is the best",
    "matched_advantage": "score on own prompts, less that of the other arms",
    "mean_rank": "mean rank over metrics",
    "worst": "share of metrics on which it is the worst",
    "log2_steps": "steps to the score, log2 of their share of all",
    "area_under": "mean score over the logarithm of steps",
    "information": "drop of the loss that captions make",
    "hallucinated": "things named that are not there",
    "recall": "things there that are named",
}
SHOWN = {  # shares of what captions ask for that painted pictures show, before a colon and who looked
    "soa_c": "SOA-C",
    "soa_i": "SOA-I",
    "soa_top": "SOA, most named classes",
    "soa_bottom": "SOA, least named classes",
    "pa": "PA",
    "qa": "facts confirmed",
    "qa_all": "pictures with all facts confirmed",
    "qa_no": "false facts denied",
}
FROM_OTHERS = {
    "ca": "CA, counting error",
    "fd": "Fréchet distance",
    "kd": "kernel distance",
}  # the same, and lower is better
ASPECT_WORDS = {"top1_shape": "shape", "top1": "class", "top1_colour": "colour"}  # side by side, the shape first
KEPT = "kept to learn from"  # what a count of selected images is of
# What is measured by a protocol; else features.
KINDS = {"captions": "captioner", "generation": "painter", "trend": "trend"}
HUNDREDS = SCORES | CAPTION_SCORES | RETRIEVAL | SHOWN  # metrics that are shown a hundred times over
ASIDE = (
    "diversity",
    "cost",
    "recaptioning",
    "human-equivalence",
)  # protocols of what is not how good a model is; shown where a recipe's own part of the page tells of it
OWN_COMMANDS = {  # of what is made by no recipe
    "make": ["reverie", "make"],
    "generation": ["reverie", "evaluate", "generation"],
}
CURVE = {"step": int, ...: float}
NUM_REASONS = 8  # different ones that are told word for word


@dataclass(frozen=True)
class Count:
    """Rows of one table by what became of them. ``made`` is their sum, counted apart from it."""

    what: str
    made: int
    ok: int
    dropped: int
    failed: int
    reasons: tuple[tuple[str, int], ...]  # of those not ok, commonest first
    planned: int | None = None  # how many there should be in the end, where that is known

    @property
    def adds_up(self) -> bool:
        """Whether every row is ok, dropped or failed."""
        return self.made == self.ok + self.dropped + self.failed


@dataclass(frozen=True)
class ArmFacts:
    """An arm with its seeds: its value by metric and seed."""

    id: str
    label: str
    trained: bool
    values: Mapping[str, Mapping[int, float]]  # metric -> seed -> value in [0, 1]
    records: tuple[Result, ...]
    factors: Mapping[str, Factor] = field(default_factory=dict)

    def mean(self, metric: str) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values[metric].values())

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % t-interval of the mean over seeds; None below three seeds."""
        values = list(self.values[metric].values())
        if len(values) < 3:
            return None
        half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
        low, high = self.mean(metric) - half, self.mean(metric) + half
        return (max(low, 0.0), min(high, 1.0)) if metric in SCORES or plain_metric(metric) in SHOWN else (low, high)


@dataclass(frozen=True)
class Comparison:
    """One arm against another, over seeds and, if the right answers are known, over photos."""

    first: ArmFacts
    second: ArmFacts
    over_seeds: Difference
    over_photos: Difference | None


@dataclass(frozen=True)
class Measured:
    """What one measuring step found."""

    step: str
    protocol: str  # see store/results.py
    arms: tuple[ArmFacts, ...]
    comparisons: tuple[Comparison, ...]
    about: Mapping[str, Any]  # what all records say alike: photos, num_test, ..., and their details
    subject: str = ""  # id of the arm that is told of, where the measuring step names one
    control: str = ""  # id of the arm that all others are held against, the same


@dataclass(frozen=True)
class StepFacts:
    """One step of the plan: how far it is, and how long it took."""

    name: str
    stage: str  # its class, for people
    role: str
    reads: tuple[str, ...]
    state: str  # done, begun, waiting
    done: int | None  # of ``total``, while begun
    total: int | None
    seconds: float | None  # None if it never began
    fingerprint: str
    settings: tuple[tuple[str, str], ...]
    spans: tuple[tuple[float, float], ...] = ()  # times at work, in seconds of the clock


@dataclass(frozen=True)
class Facts:
    """Everything the page tells in words and numbers."""

    folder: Path
    plan: Mapping[str, Any]
    steps: tuple[StepFacts, ...]
    counts: tuple[Count, ...]
    measured: tuple[Measured, ...]
    curves: Mapping[str, list[dict[str, float]]]  # learning step -> rows of its curve
    warnings: tuple[str, ...]
    device: str
    missing: tuple[str, ...] = field(default=())  # what a whole run would have and this one has not yet
    aside: tuple[Measured, ...] = field(default=())  # of the protocols of ``ASIDE``
    trained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # learning step -> what it told in the end

    @property
    def seconds(self) -> float:
        """Time in which any step was at work."""
        return _seconds(span for step in self.steps for span in step.spans)

    @property
    def made_in(self) -> Path:
        """Where the run was started: what relative paths in its settings are relative to."""
        return Path(self.plan.get("made_in", "."))


def gather(folder: Path) -> Facts:
    """All facts of a run folder.

    Raises: InputError if there is no readable plan.json; StoreError if a table or the results are damaged.
    """
    plan = read_plan(folder)
    events = list(read_events(folder))
    # The step that writes the page cannot be done while it writes, and has nothing to tell.
    steps = tuple(_step(step, folder, events) for step in plan["steps"] if step["role"] != "page")
    every = tuple(_measured(results.read(folder / "results.jsonl"), plan))
    measured = tuple(found for found in every if found.protocol not in ASIDE)
    counts = tuple(_counts(folder, plan))
    curves = {
        path.parent.name: list(log_lines(path, CURVE))
        for path in sorted((folder / "checkpoints").glob("*/curve.jsonl"))
    }
    device = next((str(event.get("device", "")) for event in reversed(events) if event.get("kind") == "run"), "")
    aside = tuple(found for found in every if found.protocol in ASIDE)
    missing = tuple(_missing(plan, steps, counts, measured, aside))
    trained = {str(event.get("step", "")): event for event in events if event.get("kind") == "trained"}
    return Facts(folder, plan, steps, counts, measured, curves, _warnings(events), device, missing, aside, trained)


def _warnings(events: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Each once; the words that a model does not know in one line, whenever they were met."""
    told: dict[str, dict[str, None]] = {}  # text, or model that lacks words -> those words
    for event in events:
        if event.get("words") and event.get("model"):
            told.setdefault(str(event["model"]), {}).update(dict.fromkeys(map(str, event["words"])))
        elif event.get("kind") == "warning":
            told.setdefault(str(event.get("text", "")), {})
    return tuple(words_unknown(text, list(words)) if words else text for text, words in told.items())


def command(facts: Facts) -> str:
    """The command that makes this run again, in a folder of its own: one flag a line, safe to paste into a shell."""
    plan = facts.plan
    recipe = plan["file"] or plan["recipe"]
    lines = [OWN_COMMANDS.get(recipe, ["reverie", "run", recipe])]
    given = plan.get("given")
    for name, value in plan["arguments"].items():
        flag = name.rstrip("_").replace("_", "-")  # as settings.flag has it
        if given is not None and name not in given:
            continue
        if isinstance(value, bool):
            lines.append([f"--{flag}" if value else f"--no-{flag}"])
        elif given is not None or (value is not None and value != []):
            lines.append([f"--{flag}", *(str(item) for item in (value if isinstance(value, list) else [value]))])
    if facts.device:
        lines.append(["--device", facts.device])
    lines.append(["--out", f"{facts.folder}-again"])
    return " \\\n  ".join(shlex.join(words) for words in lines)


def unnamed(facts: Facts) -> float | None:
    """The share of written captions that did not name the class that they were asked for; None where none had to."""
    asked = (step["settings"] for step in facts.plan["steps"] if step["kind"] == "captions")
    if not any(settings.get("classes") and settings.get("names_class") for settings in asked):
        return None
    events = (event for event in read_events(facts.folder) if event.get("kind") == "cleaned")
    return next((event.get("miss_rate") for event in reversed(list(events))), None)


def headline(facts: Facts) -> str:
    """The result in one sentence, or how far the run is."""
    if not facts.measured and not facts.missing and (made := artifact(facts)):
        return f"{made.words} is ready; it was not measured, as no photos were given."
    if not facts.measured and not facts.missing and facts.counts:
        return _what_was_made(facts.counts)
    if not facts.measured:
        whole = sum(step.state == "done" for step in facts.steps)
        return f"Nothing is measured yet; {whole} of {len(facts.steps)} steps are done."
    found = facts.measured[0]
    if worth := next((each for each in facts.measured if each.protocol == "equivalence"), None):
        # Of the arms with painted images alone, that with most of them: what the run was made to know.
        arm = max(worth.arms, key=lambda each: (not each.records[0].num_real, each.records[0].num_painted or 0))
        painted, mean = arm.records[0].num_painted or 0, arm.mean("worth_real_photos")
        return (
            f"{painted:,} painted images do what {mean:,.0f} real photos do, for the same network trained from nothing."
        )
    metric = main_metric(found)
    asked = [arm for arm in found.arms if metric in arm.values]
    first = subject(found, metric) or asked[0]
    if first.factors.get("rho"):
        return _mixture(found, first, asked, metric)
    if metric in CAPTION_SCORES:
        others = [f"{number(metric, arm.mean(metric))} {_with(arm)}" for arm in asked if arm is not first]
        say = f"The captions of {first.label} for {found.about.get('num_test', 0):,} unseen photos have {called(metric)} {number(metric, first.mean(metric))}"
        return f"{say}; {_and(others[:5])}." if others else f"{say}."
    if metric not in SCORES:
        control = _control(found, first)
        others = [f"{number(metric, arm.mean(metric))} {_with(arm)}" for arm in asked if arm is control]
        return "; ".join([f"{first.label}: {called(metric)} {number(metric, first.mean(metric))}", *others]) + "."
    photos = f"{found.about['num_test']:,} unseen photos" if "num_test" in found.about else "unseen photos"
    on = f"{first.label} features" if first.trained else first.label
    what = f"The classifier {first.label}"
    if found.protocol == "linear-probe":
        what = f"A linear classifier on {on}"
    if found.protocol == "episodes":
        what = f"Knowing {found.about['shots']} photo{'s' * (found.about['shots'] > 1)} of each of {found.about['ways']} classes, the nearest prototype in {on}"
        photos = f"{found.about['episodes']:,} episodes' questions"
    does = "is right on"
    if metric == "top1_shape":
        does = "tells the shape in" if found.protocol == "linear-probe" else "names the right shape in"
    say = f"{what} {does} {first.mean(metric):.1%} of {photos}"
    rivals = [arm for arm in asked if arm is not first]
    trained = [arm for arm in rivals if arm.trained]
    others = [  # further trained arms are in the table
        f"{arm.mean(metric):.1%} with {'the ' * (arm.id == UNTRAINED)}{arm.label}"
        for arm in rivals
        if arm not in trained[1:]
    ]
    if chance := guessing(found, metric):
        others.append(f"{chance:.1%} by guessing")
    return f"{say}; {_and(others)}." if others else f"{say}."


def _mixture(found: Measured, first: ArmFacts, asked: list[ArmFacts], metric: str) -> str:
    """What painted pairs beside human ones come to; other shares are in the table."""
    share = first.factors["rho"]
    percent = 100 * share if isinstance(share, (int, float)) else 0
    beside: dict[Factor, str] = {
        None: "with human pairs alone in as many steps",
        share: "with human pairs alone, as many of them seen",
    }
    others = [
        f"{number(metric, arm.mean(metric))} {beside[arm.factors.get('exposures_of')]}"
        for arm in of_same_pairs(asked, first)
        if arm.factors.get("rho") == 0 and arm.factors.get("exposures_of") in beside
    ]
    of = "from painted pairs alone" if share == 1 else f"with {percent:g} % of every batch painted"
    photos = f"{found.about['num_test']:,} unseen photos" if "num_test" in found.about else "unseen photos"
    say = f"Captions of {photos} have {called(metric)} {number(metric, first.mean(metric))} {of}"
    return f"{say}; {_and(others)}." if others else f"{say}."


def of_same_pairs(arms: Iterable[ArmFacts], first: ArmFacts) -> list[ArmFacts]:
    """Captioners that differ from this one in the share of painted pairs alone, and in how often they saw human ones."""
    shares = {"rho", "human_pairs", "exposures_of"}
    number = first.factors.get("human_pairs")
    return [arm for arm in arms if arm.factors.keys() <= shares and arm.factors.get("human_pairs") == number]


def _what_was_made(counts: Iterable[Count]) -> str:
    tables_, kept = [], ""
    for count in counts:
        if count.what == KEPT:
            kept = f", {count.ok:,} of them {KEPT}"
        else:
            tables_.append(counted(count.ok, count.what))
    return f"{_and(tables_)}{kept}."


def _with(arm: ArmFacts) -> str:
    return arm.label if "without" in arm.factors else f"with {arm.label}"


class Artifact(NamedTuple):
    """What a run makes that can be asked about photos."""

    kind: Literal["classifier", "captioner"]
    words: str


def artifact(facts: Facts) -> Artifact | None:
    """What stands finished in the run that can be asked about photos; None if there is nothing of the kind."""
    if any(facts.folder.glob("weights/*/captioner.json")):
        return Artifact("captioner", "A captioner")
    for about in sorted(facts.folder.glob("weights/*/classifier.json")):
        return Artifact("classifier", f"A classifier of {len(read_classifier_classes(about)):,} classes")
    return None


def read_classifier_classes(about: Path) -> tuple[str, ...]:
    """The classes of a finished classifier, in its order. Raises StoreError if the file is damaged."""
    return tuple(read_json(about, {"classes": [str]}, StoreError, "make the classifier again")["classes"])


def main_metric(found: Measured) -> str:
    """The metric that stands for the whole: how often the shape is told where photos have shapes, else top-1 where it was measured."""
    return metrics(found)[0]


def subject(found: Measured, metric: str) -> ArmFacts | None:
    """The arm that is told of: that which the measuring step names, else the first trained one."""
    asked = [arm for arm in found.arms if metric in arm.values]
    named = [arm for arm in asked if _plain_id(arm) == found.subject]
    return next(iter([*named, *(arm for arm in asked if arm.trained)]), None)


def _control(found: Measured, arm: ArmFacts) -> ArmFacts | None:
    """What an arm is held against where the measuring step names that: under the same guidance."""
    guidance = arm.factors.get("guidance")
    alike = (other for other in found.arms if other.factors.get("guidance") == guidance)
    return next((other for other in alike if _plain_id(other) == found.control and other is not arm), None)


def _plain_id(arm: ArmFacts) -> str:
    """The id of an arm without the guidance, which stands in it where several are tried."""
    guidance = arm.factors.get("guidance")
    return arm.id.removesuffix(f"-g{guidance:g}") if isinstance(guidance, (int, float)) else arm.id


def aspects(found: Measured) -> tuple[str, ...]:
    """Metrics to draw side by side: shape, class and colour where photos have them, else the main one alone."""
    metric = main_metric(found)
    return tuple(ASPECT_WORDS) if metric == next(iter(ASPECT_WORDS)) else (metric,)


def guessing(found: Measured, metric: str) -> float | None:
    """How often a guess is right; None where that is not known."""
    own = {record.num_classes for arm in found.arms for record in arm.records if record.metric == metric}
    number_of = own.pop() if len(own) == 1 else None
    return 1 / number_of if number_of else None


def metrics(found: Measured) -> list[str]:
    """All metrics of a measuring step, the known ones first."""
    measured = list(dict.fromkeys(metric for arm in found.arms for metric in arm.values))
    known = [item for metric in HUNDREDS for item in measured if plain_metric(item) == metric]
    return known + [item for item in measured if item not in known]


def plain_metric(metric: str) -> str:
    """A metric without the name of the model that it is by."""
    return metric.partition(":")[0]


def columns(found: Measured) -> list[str]:
    """The metrics of a measuring step that a table has room for; all others are in results.jsonl."""
    every = metrics(found)
    if len(aspects(found)) > 1:  # of the classes of the small world there are equally many photos
        return [metric for metric in every if "per_class" not in metric]
    if every[0] not in CAPTION_SCORES:
        return every
    beam = f"{every[0]}{BEAM}"
    return [metric for metric in every if metric in CAPTION_SCORES or metric == beam]


def called(metric: str, found: Measured | None = None) -> str:
    """What the page calls a metric; beside those of shape and colour, top-1 is that of the class."""
    kind, _, by = metric.partition(":")
    if by and kind in SHOWN | FROM_OTHERS:
        return f"{(SHOWN | FROM_OTHERS)[kind]}, {by}"
    known = HUNDREDS | OTHERS | (CALLED.get(found.protocol, {}) if found else {})
    plain = metric.removesuffix(BEAM)
    name = known.get(plain, plain)
    if plain != metric:
        name += f", beam {found.about['beams']}" if found and "beams" in found.about else ", beam"
    return name.replace("top-1", "class") if found and len(aspects(found)) > 1 else name


def number(metric: str, value: float) -> str:
    """A measured value as text: per cent for accuracies, as papers print them for captions, else four digits, fewer below 1."""
    if (
        metric in SCORES
        or metric in RETRIEVAL
        or plain_metric(metric) in SHOWN
        or metric.removesuffix(BEAM) == "distinct"
    ):
        return f"{value:.1%}"
    if metric.removesuffix(BEAM) in CAPTION_SCORES:
        return f"{100 * value:.1f}"
    return f"{value:.{2 if abs(value) < 0.1 else 3 if abs(value) < 1 else 4}g}"


def amount(metric: str, value: float) -> str:
    """A cost as text."""
    if metric == "agreement":
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 100 else number(metric, value)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min {rest} s" if minutes and rest else f"{minutes} min" if minutes else f"{rest} s"


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _step(step: Mapping[str, Any], folder: Path, events: list[dict[str, Any]]) -> StepFacts:
    own = [event for event in events if event.get("step") == step["name"]]
    last: dict[str, Any] = next((event for event in reversed(own) if "done" in event and "total" in event), {})
    state = "done" if (folder / "done" / f"{step['name']}.json").exists() else "begun" if own else "waiting"
    spans = _spans(own)
    unsaid = {"stage", *_idle(step["settings"])}
    settings = tuple(_flat("", {key: value for key, value in step["settings"].items() if key not in unsaid}))
    done, total = (last.get("done"), last.get("total")) if state == "begun" else (None, None)
    return StepFacts(
        step["name"], step["settings"]["stage"], step["role"], tuple(step["inputs"]), state, done, total, _seconds(spans) if own else None,
        step["fingerprint"], settings, tuple(spans)
    )  # fmt: skip


def _idle(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings of a step that say nothing: the prompt that a builtin writer learned has no place for what others are asked as well."""
    if settings["stage"] == "AskAboutClasses" and settings.get("prompt") == OWN and not settings.get("templates"):
        return "second", "scene", "scenes", "glosses"
    return ()


def _spans(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """When a step was at work, each time that it was taken up: from a ``step`` event to its last before ``done``."""
    spans: list[tuple[float, float]] = []
    at_work = False
    for event in events:
        if event.get("kind") == "step":
            spans.append((float(event["time"]), float(event["time"])))
            at_work = True
        elif at_work:
            spans[-1] = spans[-1][0], float(event["time"])
            at_work = event.get("kind") != "done"
    return spans


def _seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Time within any of them: what was done side by side counts once."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _flat(prefix: str, value: object) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for place, item in enumerate(value):
            yield from _flat(f"{prefix}.{place}", item)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _counts(folder: Path, plan: Mapping[str, Any]) -> Iterable[Count]:
    captions, pairs = folder / "captions.lance", folder / "pairs.lance"
    for what, path in (("captions", captions), ("images", pairs)):
        if not tables.exists(path):
            continue
        statuses: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for rows in tables.scan(path, ["status", "reason"]):
            for status, reason in zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True):
                statuses[status] += 1
                if status != OK:
                    reasons[f"{status}: {reason or 'no reason given'}"] += 1
        planned = plan["num_captions"] if what == "captions" else None
        copies = next((step["per_caption"] for step in plan["steps"] if step["kind"] == "pairs"), None)
        if what == "images" and copies and tables.exists(captions):
            planned = tables.count(captions, f"status = '{OK}'") * copies
        yield Count(
            what, tables.count(path), statuses[OK], statuses[DROPPED], statuses[FAILED], _commonest(reasons), planned
        )  # fmt: skip
    if tables.exists(pairs) and "kept" in tables.column_names(pairs):
        kept: Counter[bool] = Counter()
        reasons = Counter()
        chosen_from = f"status = '{OK}' and kept is not null"  # a selection may be about some of the images
        for rows in tables.scan(pairs, ["kept", "drop_reason"], chosen_from):
            for keep, reason in zip(rows["kept"].to_pylist(), rows["drop_reason"].to_pylist(), strict=True):
                kept[bool(keep)] += 1
                if not keep:
                    reasons[reason or "no reason given"] += 1
        made = tables.count(pairs, chosen_from)
        yield Count(KEPT, made, kept[True], kept[False], 0, _commonest(reasons))


def _commonest(reasons: Counter[str]) -> tuple[tuple[str, int], ...]:
    """Commonest first. Too many to read are told by their kind, without what they are about."""
    if len(reasons) <= NUM_REASONS:
        return tuple(reasons.most_common())
    kinds: Counter[str] = Counter()
    for reason, times in reasons.items():
        kinds[kind_of(reason)] += times
    return tuple(kinds.most_common())


def kind_of(reason: str) -> str:
    """A reason as ``DROPPED: what happened: to what``, without the last."""
    status, _, rest = reason.partition(": ")
    return f"{status}: {rest.partition(': ')[0]}" if status in (DROPPED, FAILED) else status


def _measured(records: list[Result], plan: Mapping[str, Any]) -> Iterable[Measured]:
    settings = {step["name"]: step["settings"] for step in plan["steps"]}
    for step in dict.fromkeys(record.step for record in records):
        of_step = [record for record in records if record.step == step and record.value is not None]
        arms = []
        for name in dict.fromkeys(record.arm for record in of_step):
            own = tuple(record for record in of_step if record.arm == name)
            values: dict[str, dict[int, float]] = {}
            for record in own:
                values.setdefault(record.metric, {})[record.seed] = float(record.value or 0.0)
            trained = any(record.weights for record in own)
            arms.append(ArmFacts(name, own[0].label, trained, values, own, own[0].factors))
        if not arms:
            continue
        lines = [record.as_dict() for record in of_step]
        lines = [
            {key: value for key, value in line.items() if key != "details"} | line.get("details", {}) for line in lines
        ]
        alike = {key: value for key, value in lines[0].items() if all(line.get(key) == value for line in lines)}
        named = {name: str(settings.get(step, {}).get(name, "")) for name in ("subject", "control")}
        found = Measured(step, of_step[0].protocol, tuple(arms), (), alike, **named)
        yield replace(found, comparisons=tuple(_comparisons(found)))


def _comparisons(found: Measured) -> Iterable[Comparison]:
    """The subject against each other arm, or each arm against the control, the subject first; by the main metric."""
    metric = main_metric(found)
    told = subject(found, metric)
    if told is None or plain_metric(metric) not in HUNDREDS:
        return
    rest = [arm for arm in found.arms if arm is not told and metric in arm.values]
    for first, other in (
        [(arm, _control(found, arm)) for arm in (told, *rest)] if found.control else [(told, arm) for arm in rest]
    ):
        if other is None or metric not in other.values:
            continue
        ours = first.values[metric]
        if other.factors.get("exposures_of", first.factors.get("rho")) != first.factors.get("rho"):
            continue  # the rival of another share
        theirs = dict(other.values[metric])
        if other.id in WITHOUT_CHANCE:
            theirs = dict.fromkeys(ours, next(iter(theirs.values())))
        if not ours.keys() & theirs.keys():
            continue
        yield Comparison(first, other, paired(ours, theirs), over_photos(first, other, metric))


def over_photos(first: ArmFacts, other: ArmFacts, metric: str) -> Difference | None:
    """Compare photo by photo, where it is known what each arm had of this metric on each."""
    ours, theirs = (
        {record.seed: unpack(record) for record in arm.records if record.metric == metric and is_packed(record)}
        for arm in (first, other)
    )
    if other.id in WITHOUT_CHANCE and theirs:
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared or len({len(rows) for seed in shared for rows in (ours[seed], theirs[seed])}) > 1:
        return None
    return bootstrap(np.array([ours[seed] for seed in shared]), np.array([theirs[seed] for seed in shared]))


def _missing(
    plan: Mapping[str, Any],
    steps: tuple[StepFacts, ...],
    counts: tuple[Count, ...],
    measured: tuple[Measured, ...],
    aside: tuple[Measured, ...],
) -> Iterable[str]:
    known = {count.what for count in counts}
    for step in steps:
        if step.state == "done":
            continue
        how_far = f" ({step.done:,} of {step.total:,})" if step.done is not None and step.total else ""
        yield f"step {step.name} {'is not finished' if step.state == 'begun' else 'has not begun'}{how_far}"
    kinds = {step["kind"] for step in plan["steps"]}
    if "captions" in kinds and "captions" not in known:
        yield "there are no captions yet"
    if "pairs" in kinds and "images" not in known:
        yield "there are no images yet"
    beside = {record.step for found in aside for arm in found.arms for record in arm.records}
    roles = {step["role"] for step in plan["steps"] if step["name"] not in beside}
    if not measured and "measure" in roles:
        yield "no result has been measured yet"
