"""How good captioners are on photos that people described: the job that asks several of them about the same photos.

Every arm answers twice, with the likeliest word each time and with a beam, because published numbers mix the two.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from reverie.datasets.captioned import CaptionedImages, check_captioned, load_captioned
from reverie.errors import InputError
from reverie.stage import Job, StepContext, fingerprint
from reverie.store import results
from reverie.store.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from reverie.evaluate.metrics.captions import Scores
    from reverie.models.captioner import Captioner

PAIRED = "cider_d"  # the COCO toolkit's CIDEr: its number of each photo is kept, to compare arms photo by photo
TAKEN = 1.0 / 100  # share of photos with a reference that stands in the support set word for word, which is told


@dataclass(frozen=True)
class Asked:
    """A captioner to ask, under one seed; arms of one name are its seeds."""

    name: str  # what the page calls it
    weights: str  # the learning step
    seed: int = 0  # that it was trained with
    support: str | None = None  # step of another support set, in place of its own
    temperature: float | None = None  # of the projection, in place of the one it learned with


@dataclass(frozen=True)
class CaptionSpeed:
    """What changes the speed only."""

    batch_size: int = 64  # photos at once


@dataclass(frozen=True)
class MeasureCaptions(Job):
    """Captioners -> metrics of their captions in results.jsonl, and the captions themselves in ``captions/STEP/``.

    There also stand COCO results, ``coco/ARM-SEED-DECODING.json``, and the references that they are scored against,
    ``coco/references.json``; ``reverie evaluate captions`` reads them.
    """

    grows: ClassVar[tuple[str, ...]] = ("arms",)

    arms: tuple[Asked, ...]
    photos: str = "smallworld:street:400"  # see datasets/captioned.py
    images: Path | None = None  # folder of the photos, where these are a file of captions
    split: str = "test"  # of such a file that has several
    beams: int = 5
    meteor: bool = False  # also METEOR without paraphrases, which takes far longer than all others together
    speed: CaptionSpeed = field(default_factory=CaptionSpeed)

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise InputError(f"{self.beams} beams cannot be; give 1 or more")

    def check(self) -> None:
        """Raises InputError if the photos are not there, UnknownName for a camera or set of classes."""
        check_captioned(self.photos, self.images, self.split)

    def run(self, context: StepContext) -> None:
        """Ask every arm that was not asked yet, and write its numbers.

        Raises: InputError for a support set with a sentence of a test photo; ModelError for a captioner that cannot be opened.
        """
        from reverie.models.captioner import load_captioner

        photos = load_captioned(self.photos, self.images, self.split)
        before = {
            (r["name"], r["seed"], r.get("arm_fingerprint"))
            for r in results.read(context.results)
            if r["step"] == context.step
        }
        seen: dict[str, torch.Tensor] = {}
        tags: dict[str, list[list[str]] | None] = {}
        for done, arm in enumerate(self.arms):
            context.report("progress", done=done, total=len(self.arms), arm=arm.name, seed=arm.seed)
            folder = context.folder / "captions" / context.step / f"{fingerprint({'arm': arm.name})}-{arm.seed}.jsonl"
            ours = results.arm_fingerprint(context, dataclasses.replace(self, arms=(arm,)), (arm.weights, arm.support))
            if (arm.name, arm.seed, ours) in before and folder.exists():
                continue
            support = context.weights(arm.support) if arm.support else None
            captioner = load_captioner(context.weights(arm.weights), context.device, self.speed.batch_size, support)
            taken = refuse_test_captions(captioner.support, photos) if captioner.support else 0
            if taken > TAKEN * len(photos):
                context.report(
                    # The small world has few sentences, so chance gives many of them twice: logged, and no warning.
                    "told" if self.photos.startswith("smallworld:") else "warning",
                    text=f"{arm.name}: {taken} of {len(photos)} photos have a reference that is also a support sentence of another picture",
                )
            name = captioner.encoder.revision
            if name not in seen:
                seen[name] = encoded(captioner, photos, self.speed.batch_size)
            finder = f"{name} {captioner.detector.revision}" if captioner.detector else ""
            if finder not in tags:
                tags[finder] = found_tags(captioner, photos, self.speed.batch_size) if finder else None
            look = captioner.prepare(seen[name], tags[finder], arm.temperature)
            answers = {
                "greedy": captioner.generate(look, 1),
                f"beam {self.beams}": captioner.generate(look, self.beams),
            }
            _write_results(folder.parent / "coco", f"{_slug(arm.name)}-{arm.seed}", photos, answers)
            _write_captions(folder, photos, answers, look.names)
            self._write(context, arm, photos, answers, ours)
        context.report("progress", done=len(self.arms), total=len(self.arms))

    def _write(
        self, context: StepContext, arm: Asked, photos: CaptionedImages, answers: dict[str, list[str]], ours: str
    ) -> None:
        shared = {
            "name": arm.name, "split": "test", "seed": arm.seed, "step": context.step, "weights": arm.weights,
            "photos": self.photos, "num_test": len(photos), "arm_fingerprint": ours,
            "fingerprint": results.step_fingerprint(context, self), "versions": results.versions(),
        }  # fmt: skip
        records: list[dict[str, Any]] = []
        for decoding, texts in answers.items():
            found = score_captions(texts, photos.references, self.meteor)
            for metric, score in found.items():
                record = shared | {
                    "metric": metric if decoding == "greedy" else f"{metric}, {decoding}",
                    "value": score.corpus,
                }
                if metric == PAIRED:
                    record["each"] = [round(float(value), 6) for value in score.each]
                records.append(record | {"decoding": decoding})
            records.append(
                shared
                | {
                    "metric": "distinct" if decoding == "greedy" else f"distinct, {decoding}",
                    "value": len(set(texts)) / len(texts),
                    "decoding": decoding,
                }
            )
            records += [shared | {"decoding": decoding} | found for found in _facts(texts, photos, decoding)]
        results.append(context.results, *records)


def _facts(texts: Sequence[str], photos: CaptionedImages, decoding: str) -> list[dict[str, Any]]:
    """How many facts of the scenes were said, where the photos are of known scenes."""
    if not photos.scenes:
        return []
    from reverie.smallworld.slots import facts_of, facts_said, slot_f1, slot_f1_each

    said, true = [facts_said(text) for text in texts], [facts_of(scene) for scene in photos.scenes]
    suffix = "" if decoding == "greedy" else f", {decoding}"
    found: list[dict[str, Any]] = [
        {"metric": f"{name}{suffix}", "value": value}
        for name, value in slot_f1(said, true).items()
        if value is not None
    ]
    found[0]["each"] = [round(value, 6) for value in slot_f1_each(said, true)]
    return found


def score_captions(
    texts: Sequence[str], references: Sequence[Sequence[str]], with_meteor: bool = False
) -> dict[str, Scores]:
    """Metric -> its number over all photos and for each: bleu1 to bleu4, rouge_l, cider, cider_d, perhaps meteor.

    Tokens are the COCO toolkit's. METEOR is that without paraphrases, see evaluate/metrics/meteor.py.
    """
    from reverie.evaluate.metrics.captions import Counted, rouge_l
    from reverie.evaluate.metrics.ptb import tokenise

    said = tokenise(texts)
    known = iter(tokenise([text for each in references for text in each]))
    told = [[next(known) for _ in each] for each in references]
    counted = Counted.of(said, told)
    found = {f"bleu{order}": score for order, score in enumerate(counted.bleu(), 1)}
    found |= {"rouge_l": rouge_l(said, told), "cider": counted.cider(), "cider_d": counted.cider_d()}
    if with_meteor:
        from reverie.evaluate.metrics.meteor import meteor_without_paraphrases

        found["meteor"] = meteor_without_paraphrases(said, told)
    return found


def encoded(captioner: Captioner, photos: CaptionedImages, batch_size: int) -> torch.Tensor:
    """Unit rows (n, d) of all photos."""
    import torch

    return torch.cat([captioner.encoder.images(pictures) for pictures in photos.batches(batch_size)])


def found_tags(captioner: Captioner, photos: CaptionedImages, batch_size: int) -> list[list[str]]:
    """Tags of all photos."""
    return [names for pictures in photos.batches(batch_size) for names in captioner.find_tags(pictures) or []]


def refuse_test_captions(support: Any, photos: CaptionedImages) -> int:
    """How many photos have a reference that is also a support sentence, word for word, of another picture.

    Raises: InputError, with its id, for a support sentence about a test photo; where it is not known what the sentences are
        about, for one that is a reference word for word.
    """
    from reverie.captions.checks import same

    about = set(photos.names)
    said: dict[str, set[str]] = {}
    for name, texts in zip(photos.names, photos.references, strict=True):
        for text in texts:
            said.setdefault(same(text), set()).add(name)
    taken: set[str] = set()
    for name, text, group in zip(support.ids, support.texts, support.groups, strict=True):
        alike = said.get(same(text), set())
        # Two sets may number their files alike, so a file of that name in another folder is the same one only if people said the same.
        if group is not None and (group in about or any(Path(photo).name == Path(group).name for photo in alike)):
            raise InputError(
                f"support sentence {name} is about the test photo {group}; take test captions out of the support set"
            )
        if alike and group is None:
            raise InputError(
                f"support sentence {name} ({text!r}) is a reference of the test photo {min(alike)}; take test captions out of the "
                "support set, or give it as COCO captions that say which photo each is about"
            )
        taken |= alike
    return len(taken)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-")


def _write_results(folder: Path, arm: str, photos: CaptionedImages, answers: dict[str, list[str]]) -> None:
    """COCO results of each decoding, and the references beside them."""
    ids = photos.ids or photos.names
    notes = [(name, text) for name, texts in zip(ids, photos.references, strict=True) for text in texts]
    files: dict[str, Any] = {
        "references": {
            "images": [{"id": name, "file_name": file} for name, file in zip(ids, photos.names, strict=True)],
            "annotations": [
                {"id": number, "image_id": name, "caption": text} for number, (name, text) in enumerate(notes)
            ],
        }
    }
    for decoding, texts in answers.items():
        files[f"{arm}-{_slug(decoding)}"] = [
            {"image_id": name, "caption": text} for name, text in zip(ids, texts, strict=True)
        ]
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        with atomic_file(folder / f"{file}.json") as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_captions(file: Path, photos: CaptionedImages, answers: dict[str, list[str]], names: list[list[str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial, partial.open("w", encoding="utf-8") as stream:
        for number, photo in enumerate(photos.names):
            line = {"photo": photo, "references": list(photos.references[number]), "tags": names[number]}
            line |= {decoding: texts[number] for decoding, texts in answers.items()}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
