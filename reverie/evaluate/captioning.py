"""How good captioners are: the job that has several of them caption the same photos and scores the captions against those of people.

Every arm captions the photos twice, by greedy decoding and by beam search, because published numbers mix the two.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from reverie.arms import Arm
from reverie.datasets.captioned import CaptionedImages, check_captioned, load_captioned
from reverie.errors import InputError, ReverieError
from reverie.stage import Job, Role, StepContext, Trial
from reverie.store import results
from reverie.store.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from reverie.evaluate.metrics.captions import Scores
    from reverie.models.captioner import Captioner, DecoderInputs

PAIRED = "cider_d"  # the COCO toolkit's CIDEr: its number of each photo is kept, to compare arms photo by photo
Scored = tuple[str, float, tuple[float, ...] | None]  # metric, its number, and that of each photo
ASKED = 32  # photos of a trial
SAID = 8  # words of a sentence in it
TOGETHER = 64  # photos that words are found for at once, see models/captioner.py
TAKEN = 1.0 / 100  # share of photos with a reference that stands in the support set word for word, which is told


@dataclass(frozen=True)
class CaptionSpeed:
    """What changes the speed only."""

    batch_size: int = 64  # photos at once


@dataclass(frozen=True)
class MeasureCaptions(Job):
    """Captioners -> metrics of their captions in results.jsonl, and the captions themselves in ``captions/STEP/``.

    There also stand COCO results, ``coco/ARM-SEED-greedy.json`` and ``-beam.json``, and the references that they are scored against,
    ``coco/references.json``; ``reverie evaluate captions`` reads them. The factor ``support`` of an arm names the step of another
    support set, in place of its own. Metrics of captions by beam search end in ``_beam``.
    """

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("arms",)

    arms: tuple[Arm, ...]
    photos: str = "smallworld:street:400"  # see datasets/captioned.py
    images: Path | None = None  # folder of the photos, where these are a file of captions
    split: str = "test"  # of such a file that has several
    beams: int = 5
    meteor: bool = False  # also METEOR without paraphrases, which takes far longer than all others together
    spice: Literal["auto", "on", "off"] = (
        "auto"  # also SPICE; auto: where its Java 8 is there, or else a word why it is left out
    )
    speed: CaptionSpeed = field(default_factory=CaptionSpeed)

    def __post_init__(self) -> None:
        if nameless := next((arm.id for arm in self.arms if arm.step is None), None):
            raise InputError(f"arm {nameless!r} names no step that trains its captioner")
        if self.beams < 1:
            raise InputError(f"{self.beams} beams cannot be; give 1 or more")

    def check(self) -> None:
        """Raises InputError if the photos are not there, UnknownName for a camera or set of classes; for SPICE as ``spice_program``."""
        check_captioned(self.photos, self.images, self.split)
        if self.spice == "on":
            from reverie.evaluate.metrics.java import spice_program

            spice_program()

    def run(self, context: StepContext) -> None:
        """Ask every arm that was not asked yet, and write its numbers.

        Raises: InputError for a support set with a sentence of a test photo; ModelError for a captioner that cannot be opened.
        """
        from reverie.models.captioner import load_captioner

        photos = load_captioned(self.photos, self.images, self.split)
        before = {
            (record.arm, record.seed, record.arm_fingerprint)
            for record in results.select(results.read(context.results), step=context.step)
        }
        seen: dict[str, torch.Tensor] = {}
        tags: dict[str, list[list[str]] | None] = {}
        for done, arm in enumerate(self.arms):
            context.report("progress", done=done, total=len(self.arms), arm=arm.label, seed=arm.seed)
            assert arm.step is not None
            folder = captions_folder(context.folder, context.step)
            file, other = folder / f"{arm.key}.jsonl", arm.factors.get("support")
            reads = (arm.step, str(other) if other else None)
            ours = results.arm_fingerprint(context, dataclasses.replace(self, arms=(arm,)), reads)
            if (arm.id, arm.seed, ours) in before and file.exists():
                continue
            support = context.weights(str(other)) if other else None
            captioner = load_captioner(context.weights(arm.step), context.device, self.speed.batch_size, support)
            taken = refuse_test_captions(captioner.support, photos) if captioner.support else 0
            if taken > TAKEN * len(photos):
                context.report(
                    # The small world has few sentences, so chance gives many of them twice: logged, and no warning.
                    "told" if self.photos.startswith("smallworld:") else "warning",
                    text=f"{arm.label}: {taken} of {len(photos)} photos have a reference that is also a support sentence of another picture",
                )
            name = captioner.encoder.revision
            if name not in seen:
                seen[name] = encoded(captioner, photos, self.speed.batch_size)
            finder = f"{name} {captioner.detector.revision}" if captioner.detector else ""
            if finder not in tags:
                tags[finder] = found_tags(captioner, photos, self.speed.batch_size) if finder else None
            look = captioner.prepare(seen[name], tags[finder])
            greedy = captioner.generate(look, 1)
            answers = {"greedy": greedy, "beam": captioner.generate(look, self.beams) if self.beams > 1 else greedy}
            _write_results(folder / "coco", arm.key, photos, answers)
            _write_captions(file, photos, answers, look.names)
            self._write(context, arm, photos, answers, ours, captioner.control)
        context.report("progress", done=len(self.arms), total=len(self.arms))

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """A few words about a few photos, by one captioner of each kind."""
        return Trial(_Tried(**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)}))

    def _write(
        self,
        context: StepContext,
        arm: Arm,
        photos: CaptionedImages,
        answers: dict[str, list[str]],
        ours: str,
        control: str,
    ) -> None:
        record = results.about(
            context, self, arm, "captions", photos=self.photos, num_test=len(photos), arm_fingerprint=ours,
            details={"beams": self.beams} | ({"control": control} if control else {}),
        )  # fmt: skip
        scored: dict[tuple[str, ...], list[Scored]] = {}  # a beam of one says what the likeliest words do
        found: list[results.Result] = []
        for decoding, texts in answers.items():
            ending = "" if decoding == "greedy" else "_beam"
            if tuple(texts) not in scored:
                scored[tuple(texts)] = self._scored(context, texts, photos)
            found += [
                record(metric=f"{metric}{ending}", value=value, each=each)
                for metric, value, each in scored[tuple(texts)]
            ]
        results.append(context.results, *found)

    def _scored(self, context: StepContext, texts: list[str], photos: CaptionedImages) -> list[Scored]:
        scores = score_captions(texts, photos.references, self.meteor)
        if spice := self._spice(context, texts, photos):
            scores["spice"] = spice
        found: list[Scored] = []
        for metric, score in scores.items():
            each = tuple(round(float(value), 6) for value in score.each) if metric == PAIRED else None
            found.append((metric, score.corpus, each))
        return [*found, ("distinct", len(set(texts)) / len(texts), None), *_facts(texts, photos)]

    def _spice(self, context: StepContext, texts: list[str], photos: CaptionedImages) -> Scores | None:
        """SPICE where it is asked for, or can be had; None, with a warning that is shown once, where it cannot."""
        from reverie.evaluate.metrics.java import spice
        from reverie.evaluate.metrics.ptb import tokenise

        if self.spice == "off":
            return None
        try:
            found = spice(tokenise(texts), [tokenise(each) for each in photos.references])
        except ReverieError as error:
            if self.spice == "on":
                raise
            context.report("warning", text=f"SPICE is left out: {error}")
            return None
        return found if math.isfinite(found.corpus) else None


@dataclass(frozen=True)
class _Tried(MeasureCaptions):
    """A trial. How much a captioner will say when it is trained is not known: it is taken to say as much as the longest sentence that
    people said, at least as much as they do on average, and at most as much as it can.
    """

    def run(self, context: StepContext) -> None:
        import torch

        from reverie.evaluate.pace import kinds, paced, tell, timed
        from reverie.models.captioner import load_captioner

        photos, num = self._some(context)
        seen: dict[str, torch.Tensor] = {}
        tags: dict[str, list[list[str]] | None] = {"": None}
        for arm, times in kinds(self.arms):
            assert arm.step is not None
            place = context.weights(arm.step)
            captioner, took = timed(lambda: load_captioner(place, context.device, self.speed.batch_size))  # noqa: B023
            tell(context.report, "openings", times, [took])

            def pictures(part: slice) -> list[Any]:
                return [photos.picture(number) for number in range(len(photos))[part]]

            def rows_of(part: slice, captioner: Captioner = captioner) -> torch.Tensor:
                return captioner.encoder.images(pictures(part))

            def tags_of(part: slice, captioner: Captioner = captioner) -> list[list[str]]:
                return captioner.find_tags(pictures(part)) or []

            name = captioner.encoder.revision
            if name not in seen:
                seen[name] = torch.cat(paced(context.report, "photos", num, rows_of, len(photos)))
            finder = f"{name} {captioner.detector.revision}" if captioner.detector else ""
            if finder not in tags:
                parts = paced(context.report, "photos searched", num, tags_of, len(photos))
                tags[finder] = [names for part in parts for names in part]
            batch = min(TOGETHER, num)
            rows, known = seen[name], tags[finder]
            few = min(len(rows), len(known or rows))
            again = -(-batch // few)
            look = captioner.prepare(
                rows[:few].repeat(again, 1)[:batch], (known[:few] * again)[:batch] if known else None
            )
            lengths = [len(captioner.tokenizer(text)["input_ids"]) + 1 for said in photos.references for text in said]
            longest, most = min(max(lengths), captioner.net.max_tokens), captioner.net.max_tokens
            sure = (min(1.0, sum(lengths) / len(lengths) / longest), most / longest)
            for beams in sorted({1, self.beams}):
                each, words = _word(captioner, look, beams)
                whole = times * math.ceil(num / TOGETHER) * longest
                tell(
                    context.report,
                    "words" if beams == 1 else "words by beam search",
                    whole,
                    [each * words],
                    words,
                    sure,
                )
        texts = [said[0] for said in photos.references]
        score_captions(texts[:2], photos.references[:2])  # opens what it needs
        _, took = timed(lambda: [score_captions(texts, photos.references, self.meteor), _facts(texts, photos)])
        sets = len(self.arms) * len({1, self.beams})
        tell(context.report, "captions scored", num * sets, [took], len(photos))
        if self._java():
            context.report("untimed", text="SPICE, which runs outside of Python, has no time in it")

    def _some(self, context: StepContext) -> tuple[CaptionedImages, int]:
        """A few of the photos, and how many there are of all."""
        from reverie.datasets.captioned import smallworld_source
        from reverie.evaluate.pace import tell, timed

        if not self.photos.startswith("smallworld:"):
            found = load_captioned(self.photos, self.images, self.split)
            own = slice(0, ASKED)
            return CaptionedImages(found.names[own], found.images[own], found.references[own]), len(found)
        camera, num, kind = smallworld_source(self.photos)
        few = min(ASKED, num)
        load_captioned(f"smallworld:{camera}:1:{kind}")
        photos, took = timed(lambda: load_captioned(f"smallworld:{camera}:{few}:{kind}"))
        tell(context.report, "photos drawn", num, [took], few)
        return photos, num

    def _java(self) -> bool:
        from reverie.evaluate.metrics.java import spice_program

        try:
            return self.spice != "off" and bool(spice_program())
        except ReverieError:
            return False


def _word(captioner: Captioner, look: DecoderInputs, beams: int) -> tuple[float, int]:
    """Seconds of a word of all these photos at once, and how many were said."""
    from reverie.evaluate.pace import timed

    net, said = captioner.net, 0

    def count(*_: object) -> None:
        nonlocal said
        said += 1

    decoder: torch.nn.Module = getattr(net, "language", None) or net.decoder
    most, net.max_tokens = net.max_tokens, 2
    try:
        captioner.generate(look, beams)  # sets things up
        net.max_tokens = min(most, SAID)
        counter = decoder.register_forward_hook(count)
        _, took = timed(lambda: captioner.generate(look, beams))
        counter.remove()
    finally:
        net.max_tokens = most
    return took / said, said


def captions_folder(run: Path, step: str) -> Path:
    """Where a measuring step keeps the captions, as JSON lines, one file for each arm and seed."""
    return run / "captions" / step


def _facts(texts: Sequence[str], photos: CaptionedImages) -> list[Scored]:
    """How many facts of the scenes were said, where the photos are of known scenes."""
    if not photos.scenes:
        return []
    from reverie.smallworld.slots import facts_of, facts_said, slot_f1, slot_f1_each

    said, true = [facts_said(text) for text in texts], [facts_of(scene) for scene in photos.scenes]
    each = tuple(round(value, 6) for value in slot_f1_each(said, true))
    scores = {name: value for name, value in slot_f1(said, true).items() if value is not None}
    return [(name, value, each if name == "slot_f1" else None) for name, value in scores.items()]


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
        files[f"{arm}-{decoding}"] = [
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
