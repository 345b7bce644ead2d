"""A blind comparison of painters by people: which pictures are shown, and what the votes come to.

    picked      captions that all runs painted, drawn by a seed, and the order of each caption's pictures, drawn too
    votes       a file a rater, as the page saves it: does a picture show all that is asked, and which is best
    outcome     share of captions that each painter showed, by majority; who was preferred; agreement (alpha); relative gain

What is whose stands in the key alone, a file beside the page that raters do not get.

Source: arXiv:2310.16656 (RECAP) tells a relative gain of faithful pictures by people's votes; its questions and raters are not public, so
these are ours.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from reverie import seeds
from reverie.errors import InputError
from reverie.evaluate.agreement import krippendorff_alpha
from reverie.evaluate.diversity import Value
from reverie.evaluate.painted import Painted
from reverie.stage import fingerprint
from reverie.store.files import atomic_file
from reverie.store.json_files import read_json

ITEM = {"pair_id": str, "text": str, "order": [int], "pictures": [str]}
KEY = {"study": str, "seed": int, "arms": [str], "items": [ITEM]}
VOTES = {"study": str, "rater": str, "shows": {...: bool}, "best": {...: int}}
SAME = -1  # of two or more pictures none is best
MIN_RATERS = 3


@dataclass(frozen=True)
class Item:
    """One caption with the pictures of all arms."""

    pair_id: str
    text: str
    order: tuple[int, ...]  # which arm's picture stands at each place
    pictures: tuple[str, ...]  # digest of each arm's picture; empty where there is none


@dataclass(frozen=True)
class Study:
    """What is shown, and whose it is."""

    study: str  # 16 hex digits of all below: texts, pictures, their order and whose they are
    seed: int
    arms: tuple[str, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class ArmVotes:
    """What people said of one arm."""

    name: str
    faithful: Value  # share of captions whose picture shows all that is asked, by most raters
    best: Value  # share of votes for the best picture
    gain: Value | None  # of ``faithful`` over the first arm's, relative; None for that arm, and where it showed nothing


@dataclass(frozen=True)
class Outcome:
    """What all votes come to."""

    raters: tuple[str, ...]
    captions: int  # with a vote on the picture of every arm
    unanswered: int  # questions that raters left out, of all
    arms: tuple[ArmVotes, ...]
    agreement: float | None  # alpha of the first question
    agreement_best: float | None  # of the second


def pick(sets: Mapping[str, Painted], num: int, seed: int = 0) -> Study:
    """Captions to show, and the order of their pictures.

    Args:
        sets: what each arm painted; pictures pair by caption and copy.
        num: captions to draw; all where there are fewer.
    Raises: InputError for one arm alone, no caption in common, or one caption with two texts.
    """
    if len(sets) < 2:
        raise InputError("a comparison needs at least two sets of pictures; name two or more")
    if num < 1:
        raise InputError(f"--num {num}: give 1 or more")
    texts = [dict(zip(made.pair_ids, made.texts, strict=True)) for made in sets.values()]
    shared = sorted(set.intersection(*(set(one) for one in texts)))
    first: dict[str, str] = {}  # of several copies of a caption the first alone
    for name in shared:
        first.setdefault(name.rpartition("-")[0], name)
    if not first:
        raise InputError(
            f"{' and '.join(sets)} have no caption in common; paint the same captions with the same --seed"
        )
    for name in first.values():
        if len({one[name] for one in texts}) > 1:
            raise InputError(
                f"picture {name} was painted for different captions; paint the same captions with the same --seed"
            )
    names = list(first.values())
    chosen = np.random.default_rng(seeds.derive("study", seed)).permutation(len(names))[:num].tolist()
    places = [{name: number for number, name in enumerate(made.pair_ids)} for made in sets.values()]
    items = []
    for name in (names[at] for at in chosen):
        shown = [made.read([place[name]])[0] for made, place in zip(sets.values(), places, strict=True)]
        order = tuple(_order(len(sets), seed, name))
        items.append(Item(name, texts[0][name], order, tuple(_digest(picture) for picture in shown)))
    return Study(_id(seed, tuple(sets), items), seed, tuple(sets), tuple(items))


def _id(seed: int, arms: Sequence[str], items: Sequence[Item]) -> str:
    return fingerprint({"arms": list(arms), "items": [asdict(item) for item in items], "seed": seed})


def _digest(picture: Image.Image | None) -> str:
    if picture is None:
        return ""
    return hashlib.blake2b(f"{picture.size}".encode() + picture.convert("RGB").tobytes(), digest_size=8).hexdigest()


def _order(num: int, seed: int, name: str) -> list[int]:
    order: list[int] = np.random.default_rng(seeds.derive("study order", seed, name)).permutation(num).tolist()
    return order


def write_key(study: Study, file: Path) -> None:
    """Who painted what, as JSON."""
    with atomic_file(file) as partial:
        partial.write_text(json.dumps(asdict(study), ensure_ascii=False, indent=1), encoding="utf-8")


def read_key(file: Path) -> Study:
    """What ``write_key`` wrote. Raises InputError for a file that is none, or was changed since."""
    known = read_json(file, KEY, InputError, "give the .key.json file that was written beside the page")
    arms = tuple(known["arms"])
    items = tuple(
        Item(each["pair_id"], each["text"], tuple(each["order"]), tuple(each["pictures"])) for each in known["items"]
    )
    if len(arms) < 2 or not items or any(sorted(item.order) != list(range(len(arms))) for item in items):
        raise InputError(f"{file} is damaged (an item does not order all arms); write the page again")
    if known["study"] != _id(known["seed"], arms, items):
        raise InputError(f"{file} was changed after it was written; take the file that was written beside the page")
    return Study(known["study"], known["seed"], arms, items)


def count(study: Study, files: Sequence[Path], baseline: str = "", draws: int = 2000) -> Outcome:
    """What the votes in some files come to.

    Args:
        baseline: arm that gains are relative to; the first when empty.
        draws: of the bootstrap over captions.
    Raises: InputError for a file that is no votes of this study, two of one rater, an arm that is not there, or no vote at all.
    """
    if not files:
        raise InputError("name the files of votes that raters saved from the page")
    if baseline and baseline not in study.arms:
        raise InputError(f"--baseline {baseline!r} is none of {', '.join(study.arms)}")
    base = study.arms.index(baseline) if baseline else 0
    shows: dict[tuple[int, int], list[bool | None]] = {
        (item, arm): [] for item in range(len(study.items)) for arm in range(len(study.arms))
    }
    best: list[list[int | None]] = [[] for _ in study.items]
    raters: list[str] = []
    for file in files:
        votes = read_json(file, VOTES, InputError, "give the files that raters saved from the page")
        if votes["study"] != study.study:
            raise InputError(f"{file} holds votes on another page ({votes['study']}); its key is another file")
        if votes["rater"] in raters:
            raise InputError(f"{file}: there are votes of {votes['rater']!r} already; each rater counts once")
        raters.append(votes["rater"])
        for number, item in enumerate(study.items):
            for place, arm in enumerate(item.order):
                shows[number, arm].append(votes["shows"].get(f"{number}.{place}"))
            said = votes["best"].get(str(number))
            if said is not None and said != SAME and not 0 <= said < len(item.order):
                raise InputError(
                    f"{file} is damaged (picture {said} of caption {number} is not there); save the votes again"
                )
            best[number].append(None if said is None else SAME if said == SAME else item.order[said])
    given = [any(value is not None for value in each) for each in shows.values()]
    if not any(given):
        raise InputError("the files hold no vote; answer some questions on the page first")
    return _counted(study, raters, shows, best, base, draws)


def _counted(
    study: Study, raters: Sequence[str], shows: Mapping[tuple[int, int], Sequence[bool | None]],
    best: Sequence[Sequence[int | None]], base: int, draws: int,
) -> Outcome:  # fmt: skip
    num_arms, items = len(study.arms), range(len(study.items))
    by_most = {key: _majority(each) for key, each in shows.items()}
    # Captions on which every arm has a vote, so that all arms are told of the same ones.
    whole = [item for item in items if all(by_most[item, arm] is not None for arm in range(num_arms))]
    if not whole:
        raise InputError("no caption has votes on the pictures of all painters; let raters answer more questions")
    faithful = np.array([[float(bool(by_most[item, arm])) for arm in range(num_arms)] for item in whole])
    preferred = np.array(
        [[sum(vote == arm for vote in best[item]) for arm in range(num_arms)] for item in whole], dtype=np.float64
    )
    votes = np.array([sum(vote is not None for vote in best[item]) for item in whole], dtype=np.float64)
    rng = np.random.default_rng(seeds.derive("votes", study.study))
    weights = rng.multinomial(len(whole), np.full(len(whole), 1 / len(whole)), draws).astype(np.float64)
    drawn = weights @ faithful / len(whole)
    told = []
    for arm, name in enumerate(study.arms):
        share = faithful.mean(0)
        liked = weights @ preferred[:, arm] / np.maximum(weights @ votes, 1)
        gain = None
        if arm != base and share[base] > 0:
            usable = drawn[:, base] > 0  # a draw in which the other showed nothing has no relative gain
            ratio = drawn[usable, arm] / drawn[usable, base] - 1
            gain = _value(float(share[arm] / share[base] - 1), ratio)
        told.append(
            ArmVotes(
                name,
                _value(float(share[arm]), drawn[:, arm]),
                _value(float(preferred[:, arm].sum() / max(votes.sum(), 1)), liked),
                gain,
            )
        )
    left = sum(value is None for each in [*shows.values(), *best] for value in each)
    return Outcome(
        tuple(raters), len(whole), left, tuple(told), krippendorff_alpha(list(shows.values())), krippendorff_alpha(best)
    )


def _majority(votes: Sequence[bool | None]) -> bool | None:
    """Whether more than half of those who answered said yes; None where nobody did."""
    counts = Counter(vote for vote in votes if vote is not None)
    return counts[True] > counts[False] if counts else None


def _value(value: float, drawn: npt.NDArray[np.float64]) -> Value:
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Value(value, min(low, value), max(high, value))
