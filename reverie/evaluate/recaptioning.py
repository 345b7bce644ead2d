"""What a study of recaptioning measures beyond pictures, each as a job that writes its numbers into results.jsonl.

    MeasureMatrix        what arms score on every kind of prompts, and whether those that learned from such prompts score best
    MeasureRanks         which of some arms is how good over all metrics
    MeasureSteps         after how many steps an arm scores as much as the least of all arms does in the end
    MeasureInformation   how much captions tell one reference painter about their pictures
    MeasureTuning        a captioner before and after it was tuned, on photos that neither saw

The measures are those of train_inference.py and information.py; ``PROTOCOL`` marks their records, which report/recaption.py draws.

Source: arXiv:2310.16656 (RECAP) claims what they are to show; its own protocols are not public.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from reverie import seeds
from reverie.arms import Arm
from reverie.captions.class_captions import without_stem
from reverie.datasets.few_shot import shots_store
from reverie.errors import InputError, StoreError
from reverie.evaluate.generation import prompts
from reverie.evaluate.train_inference import (
    LOWER_IS_BETTER,
    Matrix,
    against_shift,
    area_under,
    best_on_their_own,
    matched_advantages,
    matrix,
    steps_to,
)
from reverie.learn.describe import LIKELIEST
from reverie.models.describer import open_describer
from reverie.ranges import check_min
from reverie.recaption.checks import Things, quality, quality_of_each
from reverie.recaption.mix import Mix
from reverie.smallworld.render import render
from reverie.smallworld.scene import class_names, sample
from reverie.stage import Job, Role, StepContext
from reverie.store import results, tables
from reverie.store.json_files import read_json
from reverie.store.results import Result

PROTOCOL = "recaptioning"
OK = "status = 'ok'"
TUNED = {"prompts": {"long": str, ...: object}, "captioner": str, ...: object}  # of describer.json
EACH = ("words", "recall", "hallucinated")  # numbers of captions that every photo has one of
NUMBERS = (*EACH, "repetition", "variety", "over_limit")


@dataclass(frozen=True)
class Asked:
    """A kind of prompts, and the steps that measured on them: one, or several whose mean stands for prompts of all of them."""

    name: str
    steps: tuple[str, ...]
    prompts: tuple[str, ...]  # texts of the kind, as ``prompts`` of generation.py names them, for the shift


@dataclass(frozen=True)
class MeasureMatrix(Job):
    """Scores of several measuring steps -> the matrix of arms and prompts for each seed, and three numbers of it.

    columns_best        of the prompts that an arm learned from, on how many this arm is the best
    matched_advantage   of each such arm, its score there less the mean of the others
    spearman            rank correlation of how far prompts lie from what an arm learned from with what it loses there
    """

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("seeds",)

    learned: tuple[tuple[str, Mix], ...]  # id of an arm, and the captions that it learned from
    asked: tuple[Asked, ...]  # that of an arm's own kind has its id for a name; there may be others
    store: Path | str  # of these captions
    metric: str = "qa:judge"
    shift: str = "bits"  # measure of evaluate/text_shift.py
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if lacking := {name for name, _ in self.learned} - {each.name for each in self.asked}:
            raise InputError(f"nobody is asked with captions of {min(lacking)}, so nothing says how it does on its own")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What numbers are about: the whole, and each arm."""
        return (Arm("matrix", "arms and prompts"), *(Arm(name, name) for name, _ in self.learned))

    def run(self, context: StepContext) -> None:
        """Gather and judge for each seed anew. Raises InputError for a score that is missing, or captions that are too few."""
        made, far = self._matrix(context), self._shifts(context)
        found: list[Result] = []
        for number, seed in enumerate(made.seeds):
            own = dataclasses.replace(made, seeds=(seed,), values=made.values[number : number + 1])
            matches = {name: name for name, _ in self.learned}
            told = {
                "arms": own.arms, "prompts": own.prompts, "of": self.metric, "shift": self.shift,
                "scores": [[round(value, 6) for value in row] for row in own.values[0].tolist()],
                "shifts": [[round(far[arm, prompt], 6) for prompt in own.prompts] for arm in own.arms],
            }  # fmt: skip
            whole = results.about(context, self, dataclasses.replace(self.arms[0], seed=seed), PROTOCOL, details=told)
            found.append(whole(metric="columns_best", value=float(sum(best_on_their_own(own, matches).values()))))
            found.append(whole(metric="spearman", value=against_shift(own, far)[seed]))
            gains = matched_advantages(own, matches)
            for arm in self.arms[1:]:
                record = results.about(context, self, dataclasses.replace(arm, seed=seed), PROTOCOL)
                found.append(record(metric="matched_advantage", value=gains[arm.id].mean))
        results.append(context.results, *found)

    def _matrix(self, context: StepContext) -> Matrix:
        ids = [name for name, _ in self.learned]
        known = [
            record
            for record in results.select(results.read(context.results), metric=self.metric)
            if record.arm in ids and record.seed in self.seeds
        ]
        parts = {
            step: matrix([record for record in known if record.step == step], self.metric, by="step")
            for step in _steps(self.asked)
        }
        if ragged := next(
            (step for step, part in parts.items() if {*part.arms} != {*ids} or {*part.seeds} != {*self.seeds}), None
        ):
            raise InputError(f"{ragged} has not measured {self.metric} of every arm with every seed")
        columns = [np.mean([_ordered(parts[step], ids)[:, :, 0] for step in each.steps], axis=0) for each in self.asked]
        names = tuple(each.name for each in self.asked)
        return Matrix(self.metric, tuple(ids), names, tuple(sorted(self.seeds)), np.stack(columns, axis=2))

    def _shifts(self, context: StepContext) -> dict[tuple[str, str], float]:
        from reverie.evaluate.text_shift import text_shift

        store = shots_store(context, self.store)
        sets: dict[str, list[str]] = {f"learned {name}": captions_of(store, mix) for name, mix in self.learned}
        for each in self.asked:
            every = [prompts(source) for source in each.prompts]
            sets[f"asked {each.name}"] = [
                texts[place] for place in range(min(map(len, every))) for texts in [every[place % len(every)]]
            ]
        between = text_shift(sets, draws=2).between(self.shift)
        return {
            (arm, each.name): between[f"learned {arm}", f"asked {each.name}"]
            for arm, _ in self.learned
            for each in self.asked
        }


@dataclass(frozen=True)
class MeasureRanks(Job):
    """Scores of an earlier step -> for each of some arms its mean rank over all metrics, 1 the best, and on which share of them it is the worst."""

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("seeds",)

    arms: tuple[Arm, ...]  # that are ranked, by id
    of: str
    seeds: tuple[int, ...] = (0,)

    def run(self, context: StepContext) -> None:
        """Rank for each seed anew. Raises InputError where the arms share no metric."""
        from scipy import stats

        known = _by_seed(results.select(results.read(context.results), step=self.of))
        found = []
        for seed in self.seeds:
            own = [known.get((arm.id, seed), {}) for arm in self.arms]
            shared = [metric for metric in own[0] if all(metric in each for each in own)]
            if not shared:
                raise InputError(
                    f"{self.of} has no metric of all of {', '.join(arm.id for arm in self.arms)} with seed {seed}"
                )
            ranks = {
                metric: stats.rankdata([_less_is_better(metric) * each[metric] for each in own]) for metric in shared
            }
            for place, arm in enumerate(self.arms):
                mine = {metric: float(rank[place]) for metric, rank in ranks.items()}
                worst = [
                    metric for metric, rank in ranks.items() if mine[metric] == max(rank) and mine[metric] > min(rank)
                ]
                record = results.about(
                    context, self, dataclasses.replace(arm, seed=seed), PROTOCOL, details={"ranks": mine}
                )
                found.append(record(metric="mean_rank", value=float(np.mean(list(mine.values())))))
                found.append(record(metric="worst", value=len(worst) / len(shared)))
        results.append(context.results, *found)


@dataclass(frozen=True)
class Curve:
    """An arm as it was trained for several numbers of steps, each from the start."""

    arm: Arm
    points: tuple[tuple[int, str], ...]  # steps, and id of the arm that was trained for so many; the last is the whole


@dataclass(frozen=True)
class MeasureSteps(Job):
    """Scores of an earlier step -> log2 of the share of all steps after which each arm scores what the least of them does in the end.

    Beside it stands the area under each curve, over the logarithm of steps.
    """

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("seeds",)

    curves: tuple[Curve, ...]
    of: str
    metric: str = "qa:judge"
    seeds: tuple[int, ...] = (0,)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What is measured."""
        return tuple(curve.arm for curve in self.curves)

    def run(self, context: StepContext) -> None:
        """Look for each seed anew. Raises InputError for a score that is missing."""
        known = _by_seed(results.select(results.read(context.results), step=self.of, metric=self.metric))
        found = []
        for seed in self.seeds:
            lines: dict[str, list[tuple[int, float]]] = {}
            for curve in self.curves:
                for steps, name in curve.points:
                    if (name, seed) not in known:
                        raise InputError(f"{self.of} has no {self.metric} of {name} with seed {seed}")
                    score = known[name, seed][self.metric]
                    lines.setdefault(curve.arm.id, []).append((steps, _less_is_better(self.metric) * -score))
            least = min(line[-1][1] for line in lines.values())
            for curve in self.curves:
                line = lines[curve.arm.id]
                reached = steps_to(line, least)
                assert reached is not None  # at the latest at the end
                told = {"curve": line, "threshold": least, "of": self.metric}
                record = results.about(context, self, dataclasses.replace(curve.arm, seed=seed), PROTOCOL, details=told)
                found.append(record(metric="log2_steps", value=math.log2(reached / line[-1][0])))
                found.append(record(metric="area_under", value=area_under(line)))
        results.append(context.results, *found)


@dataclass(frozen=True)
class MeasureInformation(Job):
    """A reference painter for each seed -> how much captions of each kind tell it about their pictures."""

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("references",)

    references: tuple[Arm, ...]  # painters, one a seed, by the steps that trained them
    kinds: tuple[tuple[Arm, Mix], ...]
    store: Path | str
    num_pictures: int = 200  # the first that have captions of all kinds
    times: int = 8  # noise levels of a picture
    where: str = OK  # pictures that count: those that the references did not learn from

    def __post_init__(self) -> None:
        check_min(2, num_pictures=self.num_pictures)
        check_min(1, times=self.times)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What is measured."""
        return tuple(arm.under(each.seed, each.step) for each in self.references for arm, _ in self.kinds)

    def run(self, context: StepContext) -> None:
        """Measure with the references that are left. Raises InputError for pictures without captions, what painters raise."""
        from reverie.evaluate.information import conditional_information
        from reverie.learn.pipelines import start_of
        from reverie.models.tokenizer import square

        before = {
            (record.arm, record.seed, record.arm_fingerprint)
            for record in results.select(results.read(context.results), step=context.step)
        }
        for done, reference in enumerate(self.references):
            context.report("progress", done=done, total=len(self.references), seed=reference.seed)
            ours = results.arm_fingerprint(
                context, dataclasses.replace(self, references=(reference,)), (reference.step,)
            )
            if all((arm.id, reference.seed, ours) in before for arm, _ in self.kinds):
                continue
            assert reference.step is not None
            painter = str(context.weights(reference.step))
            pictures, texts = self._pictures(shots_store(context, self.store))
            side = start_of(painter).size_px
            shown = np.stack([square(picture, side) for picture in pictures])
            told = conditional_information(
                painter, shown, {arm.id: own for (arm, _), own in zip(self.kinds, texts, strict=True)}, self.times,
                context.seed, context.device,
            )  # fmt: skip
            found = []
            for (arm, _), own in zip(self.kinds, told, strict=True):
                details = {"low": own.drop.low, "high": own.drop.high, "share": own.share, "cut": own.num_cut}
                record = results.about(
                    context, self, arm.under(reference.seed, reference.step), PROTOCOL, photos=str(self.store),
                    arm_fingerprint=ours, details=details,
                )  # fmt: skip
                found.append(record(metric="information", value=own.drop.value, each=own.each, num_test=len(own.each)))
            results.append(context.results, *found)
        context.report("progress", done=len(self.references), total=len(self.references))

    def _pictures(self, store: Path) -> tuple[list[Any], list[list[str]]]:
        """Pictures, and the captions of each kind; of those that a pair has several of, one."""
        from reverie.store.pictures import decoded

        columns = list(dict.fromkeys(name for _, mix in self.kinds for name in mix.columns))
        pictures: list[Any] = []
        texts: list[list[str]] = [[] for _ in self.kinds]
        for rows in tables.scan(store, ["pair_id", "image", *columns], self.where):
            told = rows.to_pylist()
            for numbers, some in decoded(rows, 32):
                for number, picture in zip(numbers, some, strict=True):
                    if len(pictures) < self.num_pictures and all(mix.all(told[number]) for _, mix in self.kinds):
                        pictures.append(picture)
                        for own, (_, mix) in zip(texts, self.kinds, strict=True):
                            own.append(mix.draw(told[number], 0))
        if len(pictures) < 2:
            raise InputError(
                f"{store.parent} has {len(pictures)} pictures with captions of all kinds; information is measured on 2 or more"
            )
        return pictures, texts


@dataclass(frozen=True)
class MeasureTuning(Job):
    """Tuned captioners, one a seed -> their numbers before and after, as two arms, on photos of the small world that none of them has seen.

    What is there is known, so that nothing a person left out counts as hallucinated; and each photo has a number of its own, so that an
    interval can say what other photos would give. Both are asked with the prompt that the captioner was tuned for.
    """

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("tuned",)

    tuned: tuple[Arm, ...]  # captioners, by the steps that tuned them
    photos: ClassVar[int] = 1000

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What is measured."""
        when = {"before": "before tuning", "after": "tuned"}
        return tuple(Arm(name, label, each.seed, each.step) for each in self.tuned for name, label in when.items())

    def run(self, context: StepContext) -> None:
        """Describe all photos. Raises StoreError for weights that say nothing of their captioner; as ``open_describer``."""
        true, pictures, things = [], [], Things(class_names())
        for number in range(self.photos):
            seed = seeds.derive("photo for tuned captioners", context.seed, number)
            scene = sample(np.random.default_rng(seed))
            true.append({thing.name for thing in scene.things})
            pictures.append(Image.fromarray(render(scene, "studio", seeds.derive("camera", seed)).image))
        found, asked = [], 0
        for arm in self.arms:
            assert arm.step is not None
            weights = context.weights(arm.step)
            told = read_json(weights / "describer.json", TUNED, StoreError, "tune the captioner again")
            name = weights if arm.id == "after" else told["captioner"].rpartition("@")[0]
            describer = open_describer(name, context.device, prompts={"long": told["prompts"]["long"]})
            said = describer.describe(pictures, [0] * len(pictures), "long", LIKELIEST)
            said = [without_stem(text) for text in said]
            asked += len(said)
            context.report("progress", done=asked, total=len(self.arms) * self.photos)
            numbers = quality(said, true, things, describer.num_tokens(said), describer.limit)
            each = quality_of_each(said, true, things)
            record = results.about(
                context, self, arm, PROTOCOL, num_test=self.photos, photos=f"smallworld:studio:{self.photos}"
            )
            found += [
                record(metric=name, value=float(np.mean(each[name])), each=each[name])
                if name in each
                else record(metric=name, value=numbers[name])
                for name in NUMBERS
            ]
        results.append(context.results, *found)


def captions_of(store: Path, mix: Mix, where: str = OK) -> list[str]:
    """A caption of every pair that has one of the mix. Raises InputError for a store that lacks a column."""
    usable = mix.usable(store, where)
    rows = [row for part in tables.scan(store, ["pair_id", *mix.columns], usable) for row in part.to_pylist()]
    return [mix.draw(row, number) for number, row in enumerate(sorted(rows, key=lambda row: str(row["pair_id"])))]


def _steps(asked: Iterable[Asked]) -> list[str]:
    return list(dict.fromkeys(step for each in asked for step in each.steps))


def _ordered(made: Matrix, ids: Sequence[str]) -> Any:
    """Values with the arms in this order."""
    return made.values[:, [made.arms.index(name) for name in ids], :]


def _by_seed(records: Iterable[Result]) -> Mapping[tuple[str, int], dict[str, float]]:
    found: dict[tuple[str, int], dict[str, float]] = {}
    for record in records:
        if record.value is not None:
            found.setdefault((record.arm, record.seed), {})[record.metric] = record.value
    return found


def _less_is_better(metric: str) -> int:
    """1 for metrics of which less is better, -1 for others: times it, less is better of all."""
    return 1 if metric.partition(":")[0] in LOWER_IS_BETTER else -1
