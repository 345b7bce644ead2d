"""SynTIC on simulated features, without any network: Gaussian features of sentences, photos and painted images that share their content.

Source: arXiv:2312.08865 for the method; the simulator is ours. Every sentence has a content, its words weighted by how rare they are, in
a random subspace. Features of sentences, photos and painted images are this content plus an offset of their own kind, plus
noise of their own kind that is stronger along some axes. A painted image shows its sentence with some words lost and others
added; a photo shows what all sentences about it say together. Unit length, as CLIP's features have.

In place of a decoder, ridge regression from what is shown to which words the sentence has. Its score is the mean average
precision with which the words of a photo's references are ranked: what a decoder could know, without grammar. Beside it,
caption metrics of the support sentence that is nearest to a photo, which needs no decoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie import seeds as names_of_seeds
from reverie.arms import Arm, Factor
from reverie.errors import InputError
from reverie.evaluate.captioning import score_captions
from reverie.learn.refine import Refine, refine
from reverie.nets.projection import nearest, project
from reverie.stage import Job, Role, StepContext
from reverie.store import results

Rows = npt.NDArray[np.float64]
STEPS = (0, 5, 20, 50, 200, 1000)  # of refinement, claim C3
TEMPERATURES = (0.001, 0.005, 0.01, 0.05, 0.2)  # of the projection, claim C5
LABELS = {  # of arms, where they are not their ids in words
    "capdec": "CapDec",
    "close": "CLOSE",
    "decap": "DeCap",
    "syntic": "SynTIC",
    "nearest-sentence-projected": "nearest sentence, projected",
}
COMMONEST = 1000  # words that are predicted
RIDGE = 1.0


@dataclass(frozen=True)
class SimulatedEncoder:
    """The simulated encoder: how the squared length of a feature is made up.

    Set once, so that cosines are as those of a CLIP ViT-B/32 are remembered to be: 0.5 among sentences, 0.5 among photos, 0.15 between a
    photo and any sentence, 0.3 between a photo and its own.
    """

    dim: int = 128  # of the features
    content: int = 64  # of the subspace that all kinds share
    offset: float = 0.5  # share of the length that all features of a kind have in common
    across: float = 0.3  # cosine between the offsets of sentences and of photos: the modality gap is what lacks to 1
    shift: float = 0.8  # cosine between the offsets of photos and of painted images
    heard: float = 0.3  # content's share of the rest; noise of its own kind has what is left
    lost: float = 0.3  # share of a sentence's words that a painted image does not show
    added: float = 0.3  # share of a painted image's content that is of another sentence
    tag_recall: float = 0.6  # of a detector


@dataclass(frozen=True)
class SimulateSynTIC(Job):
    """Sentences in, all of SynTIC's stages and rivals on simulated features, numbers in results.jsonl; seconds a seed.

    Sentences of one photo are told apart by the source of the captions; those without are each a photo of their own.
    """

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("seeds",)

    seeds: tuple[int, ...] = (0, 1, 2)
    test: int = 400  # photos, left out of everything else
    max_sentences: int = 0  # sentences to learn from, all of them the support set; 0 = all but those of the test photos
    followed: int = 1000  # sentences that are refined for as long as claim C3 asks
    encoder: SimulatedEncoder = field(default_factory=SimulatedEncoder)
    refinement: Refine = field(default_factory=lambda: Refine(guard=False))
    temperature: float = 0.01

    def run(self, context: StepContext) -> None:
        """Simulate with every seed that was not simulated yet. Raises InputError for too few photos or sentences."""
        groups = self._photos(context)
        ours = results.arm_fingerprint(context, dataclasses.replace(self, seeds=()), context.inputs)
        before = {
            record.seed
            for record in results.select(results.read(context.results), step=context.step, arm_fingerprint=ours)
        }
        for done, seed in enumerate(self.seeds):
            context.report("progress", done=done, total=len(self.seeds), seed=seed)
            if seed in before:
                continue
            records = []
            for arm, found in simulate(groups, self, seed).items():
                arm = dataclasses.replace(arm, seed=seed)
                record = results.about(context, self, arm, "simulation", arm_fingerprint=ours)
                records += [record(metric=metric, value=value) for metric, value in found.items()]
            results.append(context.results, *records)
        context.report("progress", done=len(self.seeds), total=len(self.seeds))

    def _photos(self, context: StepContext) -> list[list[str]]:
        from reverie.learn.make_support_set import group_of
        from reverie.store import tables

        groups: dict[str, list[str]] = {}
        for part in tables.scan(context.captions, ["caption_id", "text", "source"], "status = 'ok'"):
            for row in part.to_pylist():
                groups.setdefault(group_of(row["source"]) or row["caption_id"], []).append(row["text"])
        if len(groups) < 2 * self.test:
            raise InputError(
                f"{len(groups)} photos or scenes are too few: {self.test} are left out for the test; give more captions"
            )
        return list(groups.values())


def simulate(groups: Sequence[Sequence[str]], how: SimulateSynTIC, seed: int) -> dict[Arm, dict[str, float]]:
    """What each arm has of each metric, for one seed.

    Args: groups: the sentences of each photo.
    """
    rng = np.random.default_rng(names_of_seeds.derive("simulated", seed))
    order = rng.permutation(len(groups))
    test = [groups[number] for number in order[: how.test]]
    train = [text for number in order[how.test :] for text in groups[number]]
    train = train[: how.max_sentences or len(train)]
    words = _Words([*train, *(text for texts in test for text in texts)])
    kinds = _Kinds(how.encoder, len(words.list), rng)
    bags = words.bags(train)
    said = [words.bags(texts) for texts in test]
    texts = kinds.features(bags * words.rare, "text")
    photos = kinds.features(np.stack([bag.mean(0) for bag in said]) * words.rare, "photo")
    painted = kinds.features(kinds.painted(bags) * words.rare, "painted")
    asked = np.stack([bag.any(0) for bag in said])
    after: dict[int, Tensor] = {}  # passes of refinement

    def keep(done: int, rows: Tensor) -> None:
        if done in STEPS:
            after[done] = rows.clone()

    some = slice(0, how.followed)
    refine(painted[some], texts[some], dataclasses.replace(how.refinement, steps=max(STEPS), seed=seed), watch=keep)
    best = refine(painted, texts, dataclasses.replace(how.refinement, seed=seed)).rows

    def through(rows: Tensor, temperature: float = how.temperature, support: Tensor = texts) -> Tensor:
        return project(rows, support, temperature).rows

    tags, seen = kinds.tags(bags), kinds.tags(asked.astype(float))
    noise = torch.from_numpy(rng.standard_normal((2, *texts.shape))).float()
    arms: dict[Arm, tuple[Tensor, Tensor]] = {  # what it learns from, what it is asked about
        _arm("text-features"): (texts, photos),
        _arm("capdec"): (F.normalize(texts + 0.016**0.5 * noise[0], dim=1), photos),
        _arm("close"): (F.normalize(texts + 0.08 * noise[1], dim=1), photos),
        _arm("decap"): (texts, through(photos)),
        _arm("painted-features"): (painted, photos),
        _arm("refined-features"): (best, photos),
        _arm("without-tags"): (through(best), through(photos)),
        _arm("without-refinement"): (_with(through(painted), tags), _with(through(photos), seen)),
        _arm("without-projection"): (_with(best, tags), _with(photos, seen)),
        _arm("syntic"): (_with(through(best), tags), _with(through(photos), seen)),
        _arm("tags-of-other-images"): (
            _with(through(best), tags[rng.permutation(len(tags))]),
            _with(through(photos), seen),
        ),
    }
    for temperature in TEMPERATURES:
        arms[_arm(f"temperature-{temperature:g}", temperature=temperature)] = (
            through(best, temperature),
            through(photos, temperature),
        )
    found: dict[Arm, dict[str, float]] = {}
    for arm, (learned, met) in arms.items():
        scores = ridge(learned, bags, met)
        found[arm] = {"mean_average_precision": mean_average_precision(scores, asked), "distinct": _distinct(scores)}
        found[arm]["mmd"] = _mmd(learned, met)
    home, away = _domains(bags, words)
    at_home = torch.from_numpy(home)
    if min(home.sum(), away.sum()) > 10:
        abroad = asked[:, words.away].any(1)
        if abroad.sum() > 10:
            for name, support in (
                ("source-support", texts[at_home]),
                ("target-support", texts[torch.from_numpy(away)]),
            ):
                scores = ridge(
                    through(best[at_home], support=texts[at_home]),
                    bags[home],
                    through(photos[torch.from_numpy(abroad)], support=support),
                )
                found[_arm(name)] = {"mean_average_precision": mean_average_precision(scores, asked[abroad])}
    for name, rows in (("nearest-sentence", photos), ("nearest-sentence-projected", through(photos))):
        _, numbers = nearest(rows, texts, 1)
        scores_of = score_captions([train[number] for number in numbers[:, 0].tolist()], test)
        found[_arm(name)] = {metric: score.corpus for metric, score in scores_of.items()}
    middle = photos.mean(0)
    for steps, rows in after.items():
        found[refined(steps)] = {
            "recall_at_1": float(((rows @ texts[some].T).argmax(1) == torch.arange(len(rows))).float().mean()),
            "centroid_distance": float((rows.mean(0) - middle).norm()),
        }
    inside = [found[refined(steps)]["centroid_distance"] for steps in STEPS[1:-1]]
    found[Arm("steps-best-inside", "best inside")] = {"centroid_distance": min(inside)}
    return found


def refined(steps: int, step: str | None = None) -> Arm:
    """Features after so many passes of refinement, of this step."""
    return Arm(f"steps-{steps}", f"{steps} steps", step=step, factors={"steps": steps})


def _arm(name: str, **factors: Factor) -> Arm:
    return Arm(name, LABELS.get(name, name.replace("-", " ")), factors=factors)


def ridge(learned: Tensor, bags: Rows, met: Tensor) -> Rows:
    """Scores (m, words) for what is met, by ridge regression with a bias from what is shown (n, d) to words (n, words)."""
    x, y = learned.double().numpy(), (bags > 0).astype(float)
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    weights = np.linalg.solve(centred.T @ centred + RIDGE * np.eye(x.shape[1]), centred.T @ (y - mean_y))
    scores: Rows = (met.double().numpy() - mean_x) @ weights + mean_y
    return scores


def mean_average_precision(scores: Rows, wanted: npt.NDArray[np.bool_]) -> float:
    """Mean over rows of the average precision with which wanted words are ranked, in [0, 1]; rows without any are left out."""
    wanted, scores = wanted[wanted.any(1)], scores[wanted.any(1)]
    order = np.argsort(-scores, axis=1, kind="stable")
    hit = np.take_along_axis(wanted, order, 1)
    precision = hit.cumsum(1) / np.arange(1, hit.shape[1] + 1)
    return float(((precision * hit).sum(1) / hit.sum(1)).mean())


class _Words:
    """The commonest words of some sentences."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        self._counter = CountVectorizer(max_features=COMMONEST, binary=True, token_pattern=r"(?u)\b\w+\b")
        bags = self._counter.fit_transform(texts)
        self.list = list(self._counter.get_feature_names_out())
        share = np.asarray(bags.mean(0)).ravel()
        self.rare: Rows = np.log(1 / share)
        # Words that one sentence in thirty to one in eight has: enough to be a topic that a corpus may lack.
        topics = np.flatnonzero((share > 1 / 30) & (share < 1 / 8))
        self.away = topics[: max(1, len(topics) // 4)]

    def bags(self, texts: Sequence[str]) -> Rows:
        """Which words each text has, (n, words)."""
        found: Rows = self._counter.transform(texts).toarray().astype(np.float64)
        return found


class _Kinds:
    """Draws features of sentences, photos and painted images."""

    def __init__(self, how: SimulatedEncoder, num_words: int, rng: np.random.Generator) -> None:
        self.how, self.rng = how, rng
        self.meaning = rng.standard_normal((num_words, how.content))
        self.space = np.linalg.qr(rng.standard_normal((how.dim, how.dim)))[0][: how.content]
        one, two, three = np.linalg.qr(rng.standard_normal((how.dim, 3)))[0].T
        photo = how.across * one + (1 - how.across**2) ** 0.5 * two
        self.offset = {"text": one, "photo": photo, "painted": how.shift * photo + (1 - how.shift**2) ** 0.5 * three}
        self.axes = {kind: rng.gamma(0.5, size=how.dim) ** 0.5 for kind in self.offset}  # some axes are far noisier
        self.tag_rows = rng.standard_normal((num_words, 32)) / 32**0.5

    def features(self, weighted: Rows, kind: str) -> Tensor:
        """Unit rows (n, d) for weighted words (n, words)."""
        how = self.how
        content = weighted @ self.meaning
        content /= np.linalg.norm(content, axis=1, keepdims=True) + 1e-9
        noise = self.rng.standard_normal((len(content), how.dim)) * self.axes[kind] / np.linalg.norm(self.axes[kind])
        own = how.heard**0.5 * content @ self.space + (1 - how.heard) ** 0.5 * noise
        rows = how.offset**0.5 * self.offset[kind] + (1 - how.offset) ** 0.5 * own
        return F.normalize(torch.from_numpy(rows).float(), dim=1)

    def painted(self, bags: Rows) -> Rows:
        """What painted images show of sentences: some words lost, some of another sentence added."""
        kept = bags * (self.rng.random(bags.shape) >= self.how.lost)
        other = bags[self.rng.permutation(len(bags))] * (self.rng.random(bags.shape) < self.how.added)
        return kept + other

    def tags(self, bags: Rows) -> Tensor:
        """Rows (n, 32) that tell some of the words."""
        told = bags * (self.rng.random(bags.shape) < self.how.tag_recall)
        return torch.from_numpy(told @ self.tag_rows).float()


def _domains(bags: Rows, words: _Words) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Sentences without, and with, the words of another domain."""
    away: npt.NDArray[np.bool_] = np.asarray(bags[:, words.away].any(1))
    return np.logical_not(away), away


def _with(shown: Tensor, tags: Tensor) -> Tensor:
    return torch.cat([shown, tags], 1)


def _distinct(scores: Rows) -> float:
    """Share of different answers, an answer being the five likeliest words."""
    top = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :5], axis=1)
    return len(np.unique(top, axis=0)) / len(top)


def _mmd(a: Tensor, b: Tensor) -> float:
    from reverie.evaluate.metrics.distance import mmd

    return mmd(a.numpy(), b.numpy(), max_rows=500)
