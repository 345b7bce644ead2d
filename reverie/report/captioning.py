"""What captioners said of photos, for the page: photos with captions beside references, the best and the worst, and clouds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reverie.datasets.captioned import CaptionedImages, load_captioned
from reverie.errors import BrokenImage, InputError, StoreError
from reverie.evaluate.alignment import OWN
from reverie.evaluate.captioning import captions_folder
from reverie.report import plots
from reverie.report.facts import Facts, main_metric
from reverie.report.thumbs import Thumbs
from reverie.store import results
from reverie.store.json_files import all_lines, read_json

NUM_BEST, NUM_WORST = 4, 8  # photos shown
OTHERS = 3  # arms beside the first
SIDE_PX = 128
SAID = {"greedy": str, "references": [str], "tags": [str]}
CLOUDS = {...: [[float]]}
REFINED = {"steps": int, "stop_reason": str}
MOSTLY = 0.9  # weight of the own sentence from which the page says that it is hardly anything else


def gather(facts: Facts, thumbnails: Thumbs) -> dict[str, Any] | None:
    """What captioning.html needs; None for a run that measured no captions."""
    found = next((each for each in facts.measured if each.protocol == "captions"), None)
    if found is None:
        return None
    settings: Mapping[str, Any] = next(
        (step["settings"] for step in facts.plan["steps"] if step["name"] == found.step), {}
    )
    first, *others = [arm.id for arm in found.arms]
    labels = {arm.id: arm.label for arm in found.arms}
    seed = min(record.seed for record in found.arms[0].records)
    told = {name: said(facts.folder, found.step, name, seed) for name in (first, *others[:OTHERS])}
    known = results.select(found.arms[0].records, metric=main_metric(found), seed=seed)
    scores = next((record.each for record in known if record.each is not None), None)
    if not told[first] or scores is None:
        return None
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    # Ties are many where nothing is right, so the worst are spread over all that share the lowest scores.
    lowest = order[-max(NUM_WORST, len(order) // 4) :]
    chosen = {
        "said best": order[:NUM_BEST],
        "worth reading: among the lowest": [
            lowest[place * len(lowest) // some] for some in (min(NUM_WORST, len(lowest)),) for place in range(some)
        ],
    }
    photos = _photos(facts, settings)
    cards = {
        title: [
            {
                "src": _picture(photos, number, thumbnails),
                "score": scores[number],
                "references": told[first][number]["references"][:2],
                "tags": told[first][number]["tags"],
                "said": told[first][number]["greedy"],
                "others": {
                    labels[name]: rows[number]["greedy"] for name, rows in told.items() if rows and name != first
                },
            }
            for number in numbers
        ]
        for title, numbers in chosen.items()
    }
    drawing = _clouds(facts.folder / "clouds.json")
    every = [card for some in cards.values() for card in some]
    return {
        "cards": cards,
        "first": labels[first],
        "seed": seed,
        "tags": any(card["tags"] for card in every),
        "beside": any(card["others"] for card in every),
        "drawing": drawing,
        "own": own_sentence(facts),
    }


def own_sentence(facts: Facts) -> str:
    """How much of a painted picture's projection is its own sentence, before refinement and after; empty where nobody measured it."""
    means = {arm.id: arm.mean(OWN) for found in facts.measured for arm in found.arms if OWN in arm.values}
    if not {"painted-projected", "refined-projected"} <= means.keys():
        return ""
    before, after = means["painted-projected"], means["refined-projected"]
    say = (
        f"Projected on the support set, a painted picture has {_share(before)} of its weight on its own sentence before refinement, and "
        f"{_share(after)} after it. A photo has no sentence of its own there."
    )
    if after >= MOSTLY:
        say += (
            " So what the decoder learned from is hardly more than features of sentences, as in DeCap; fewer passes (--refine-steps), or "
            "the own sentence hidden (--exclude-self caption), would leave more of the pictures in it."
        )
    learnt = (facts.folder / "weights" / step["name"] for step in facts.plan["steps"] if step["role"] == "learn")
    if file := next((folder / "refined.json" for folder in learnt if (folder / "refined.json").is_file()), None):
        done = read_json(file, REFINED, StoreError, "refine the images again")
        say += f" Refinement made {done['steps']} pass{'es' * (done['steps'] != 1)} and ended by {done['stop_reason']}."
    return say


def _share(value: float) -> str:
    """Per cent, but never 100 % of something that is not all."""
    return f"{value:.1%}" if value < 0.9995 or value == 1 else "more than 99.9%"


def said(folder: Path, step: str, arm: str, seed: int) -> list[dict[str, Any]]:
    """The captions of an arm for all photos in order; empty where they are not there."""
    return list(all_lines(captions_folder(folder, step) / f"{arm}-{seed}.jsonl", SAID))


def _clouds(file: Path) -> Markup | str:
    if not file.exists():
        return ""
    known: Mapping[str, Any] = read_json(file, CLOUDS, StoreError, "delete it, then run the same command again")
    straight = {name: known[name] for name in ("photos", "painted", "refined", "sentences")}
    through = {name: known[f"{name}-projected"] for name in ("photos", "painted", "refined")}
    return plots.clouds(
        [("as they are", straight), ("projected on the support set", through | {"sentences": known["sentences"]})]
    )


def _photos(facts: Facts, settings: Mapping[str, Any]) -> CaptionedImages | None:
    """The photos that were asked about, where they still are: relative paths are those of the folder the run was made in."""
    source, images = str(settings["photos"]), settings.get("images")
    if not source.startswith("smallworld:"):
        source = str(facts.made_in / source)
    try:
        return load_captioned(
            source, facts.made_in / str(images) if images else None, str(settings.get("split", "test"))
        )
    except InputError:
        return None  # the numbers and captions are worth a page without them


def _picture(photos: CaptionedImages | None, number: int, thumbnails: Thumbs) -> str | None:
    if photos is None:
        return None
    try:
        picture = photos.picture(number)
    except (BrokenImage, InputError):
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return thumbnails.make({"image": buffer.getvalue(), "pair_id": photos.names[number]}, SIDE_PX)
