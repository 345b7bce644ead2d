"""How good painted pictures are, and how well they show what was asked for: ``reverie evaluate generation`` and its job in a run.

    fd:NAME, kd:NAME                 Fréchet and kernel distance to other pictures, on features of the encoder NAME
    soa_c:NAME, soa_i:NAME, ca:NAME  objects found, and counted, by the detector NAME; ``judge`` in the small world
    pa:NAME                          things where captions put them, by the encoder NAME or the judge
    qa:NAME, qa_all:NAME, qa_no:NAME   facts confirmed, pictures with all of them confirmed, and false versions of them denied, by NAME

Pictures that could not be painted, or are blank, count as showing nothing; distances are of those that are there. The Fréchet
distance is told with how many pictures both sets have, because it depends on it: the other set is drawn down to as many.

Source: arXiv:2310.16656 (RECAP) for what is measured; evaluate/metrics/generation.py for where each metric comes from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from reverie import pairs, seeds
from reverie.arms import Arm
from reverie.errors import InputError, ModelError, UnknownName
from reverie.evaluate.metrics.frechet import Moments, frechet_distance, frechet_interval, kernel_interval
from reverie.evaluate.metrics.generation import Score, confirmed, counting_error, object_accuracy, positional_alignment
from reverie.evaluate.observers import JUDGE, THRESHOLD, Answerer, Observer, Places, Sight, says_yes
from reverie.evaluate.painted import Painted, Reference, check_reference, is_black, painted, reference
from reverie.images.pixels import PaintPixels
from reverie.ranges import check_min
from reverie.stage import Job, Role, StepContext, Trial
from reverie.store import results, tables

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

    from reverie.evaluate.asked import Asked

UNIT = 100  # captions of a commit
MAX_ROWS = 20_000  # features kept for kernel distances and intervals; moments are of all
PROTOCOL = "generation"
PAINTED = 6  # captions of a trial


@dataclass(frozen=True)
class Instruments:
    """What pictures are measured by. An empty name leaves a measure out."""

    # encoders for distances, by name; ONNX files; pixels for the pictures themselves
    features: tuple[str, ...] = ("builtin:clip",)
    observer: str = JUDGE  # judge, or an object detector
    places: str = JUDGE  # judge, or an encoder of images and texts
    answerer: str = ""  # judge, or an image-text-to-text model that answers questions, as of models/describer.py
    threshold: float = THRESHOLD  # of the detector's scores
    synonyms: Path | None = None  # JSON file: class of the detector -> words that name it too
    tise_compat: bool = False  # leave pictures in which nothing is found out of SOA, as TISE's code does
    draws: int = 200  # of the bootstrap over captions

    def __post_init__(self) -> None:
        check_min(2, draws=self.draws)
        if not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold}: give a score from 0 to 1")
        if len(set(self.features)) < len(self.features):
            raise InputError("an encoder is named twice; give each once")
        if not (self.features or self.observer or self.places or self.answerer):
            raise InputError("nothing is left to measure; name an encoder, a detector, or one that answers questions")

    def check(self) -> None:
        """What small files tell before any work. Raises ModelError, UnknownName, InputError."""
        from reverie.models.describer import check_describer
        from reverie.models.detector import check_detector
        from reverie.models.kinds import check_backbone, check_encoder
        from reverie.models.onnx_features import SUFFIX, check_onnx_features

        for name in self.features:
            check_onnx_features(name)
            if name != "pixels" and not name.endswith(SUFFIX):
                check_backbone(name)
        if self.observer not in ("", JUDGE):
            check_detector(self.observer)
        elif self.synonyms:
            raise InputError("--synonyms name classes of a detector; the judge knows the words of the small world")
        if self.places not in ("", JUDGE):
            check_encoder(self.places)
        if self.answerer not in ("", JUDGE):
            check_describer(self.answerer)


_Answers = tuple[list[bool], list[bool], int, int]
"""About a picture: whether each fact is confirmed, whether each false version is denied, how many answers are neither, and how many there are."""


@dataclass(frozen=True)
class Number:
    """A measured number."""

    metric: str
    value: float
    low: float
    high: float
    num: int  # pictures that it is about
    each: tuple[float, ...] | None = None  # of each of these
    details: Mapping[str, Any] = field(default_factory=dict)


class Measuring:
    """Opened instruments; the features of the pictures that painted ones are held against are taken once.

    Raises: what the instruments raise; ModelError for one that is to answer questions and does not.
    """

    def __init__(
        self, how: Instruments, device: str = "cpu", batch_size: int = 32, answerer: Answerer | None = None
    ) -> None:
        from reverie.evaluate.observers import open_asked, open_observer, open_places
        from reverie.evaluate.transfer import features_of

        self.how, self._batch = how, batch_size
        self._features = {name: features_of(name, device, batch_size) for name in how.features}
        self.observer: Observer | None = (
            open_observer(how.observer, device, batch_size, how.synonyms, how.threshold) if how.observer else None
        )
        self.places: Places | None = open_places(how.places, device) if how.places else None
        self.answerer = answerer or (open_asked(how.answerer, device, batch_size) if how.answerer else None)
        if self.answerer is not None and how.answerer != JUDGE:
            _ask_first(self.answerer, how.answerer)
        self._real: dict[str, dict[str, _Features]] = {}

    def measure(
        self, made: Painted, real: Reference | None, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Number]:
        """All numbers of some painted pictures.

        Args: real: pictures that distances are to; none are measured without.
        Raises: InputError for pictures that the judge cannot read; ModelError for features that are not finite.
        """
        reader = self._reader()
        asked: list[Asked] = []
        sights: list[Sight] = []
        fits: list[list[bool]] = []
        answers: list[_Answers] = []
        own = {name: _Features() for name in self._features} if real else {}
        there = black = 0
        for numbers, pictures in made.batches(self._batch):
            progress(numbers.start, len(made))
            found = [picture for picture in pictures if picture is not None]
            there += len(found)
            black += sum(map(is_black, found))
            if found:
                for name, features in own.items():
                    features.add(self._features[name][0](found).numpy(), name)
            seen = iter(self.observer.look(found) if self.observer and found else [Sight() for _ in found])
            for number, picture in zip(numbers, pictures, strict=True):
                wanted = reader(made.texts[number]) if reader else None
                sight = next(seen) if picture is not None else Sight()
                if wanted is None:
                    continue
                asked.append(wanted)
                sights.append(sight)
                fits.append(self._fits(picture, sight, made.texts[number], wanted))
            if reader:
                answers += self._answers(pictures, asked[-len(pictures) :])
        about_all = {"pictures": there, "without_picture": len(made) - there, "black": black}
        found_ = [*self._distances(own, real), *self._shown(made, asked, sights, fits, answers)]
        return [dataclasses.replace(one, details={**about_all, **one.details}) for one in found_]

    def _reader(self) -> Callable[[str], Asked] | None:
        """Captions are read in terms of what is looked for; with nobody who looks, in those of the small world."""
        from reverie.evaluate.asked import SmallWorldReader

        if self.observer is not None:
            return self.observer.reader
        return SmallWorldReader() if self.places or self.answerer else None

    def _fits(self, picture: Image | None, sight: Sight, text: str, asked: Asked) -> list[bool]:
        if self.places is None or picture is None or not asked.placed:
            return [False] * len(asked.placed)
        if self.places.name == JUDGE and sight.facts is None:  # another one looked for things
            from reverie.evaluate.observers import Judge

            sight = Judge().look([picture])[0]
        return self.places.fit(picture, sight, text, asked)

    def _answers(self, pictures: Sequence[Image | None], asked: Sequence[Asked]) -> list[_Answers]:
        """What is answered about each picture."""
        if self.answerer is None:
            return [([], [], 0, 0) for _ in pictures]
        both: list[tuple[Image, str]] = []
        for picture, own in zip(pictures, asked, strict=True):
            if picture is not None:
                both += [(picture, question.true) for question in own.questions]
                both += [(picture, question.false) for question in own.questions if question.false]
        said = iter(self.answerer([picture for picture, _ in both], [question for _, question in both]) if both else ())
        found: list[_Answers] = []
        for picture, own in zip(pictures, asked, strict=True):
            if picture is None:
                found.append(([False] * len(own.questions), [], 0, 0))
                continue
            true = [says_yes(next(said)) for _ in own.questions]
            false = [says_yes(next(said)) for question in own.questions if question.false]
            unclear = sum(each is None for each in [*true, *false])
            found.append(
                ([each is True for each in true], [each is False for each in false], unclear, len(true) + len(false))
            )
        return found

    def _distances(self, own: Mapping[str, _Features], real: Reference | None) -> Iterator[Number]:
        for name, features in own.items():
            if real is None or features.num < 2:
                continue
            theirs = self._of_real(name, real, features.num)
            details = {"model": self._features[name][1], "real": real.name, "num_real": theirs.num}
            value, rows, others = frechet_distance(features.moments, theirs.moments), features.rows, theirs.rows
            kept, low, high = frechet_interval(rows, others, min(20, self.how.draws))
            yield Number(
                f"fd:{name}", value, max(value + low - kept, 0.0), value + high - kept, features.num, None, details
            )
            yield Number(f"kd:{name}", *kernel_interval(rows, others), len(rows), None, details)

    def _of_real(self, name: str, real: Reference, num: int) -> _Features:
        """Features of as many of the other pictures, or of all where there are not so many."""
        key = f"{real.name} {min(num, len(real))}"
        if name not in self._real.setdefault(key, {}):
            drawn = np.random.default_rng(seeds.derive("reference", 0)).permutation(len(real))[: min(num, len(real))]
            features = _Features()
            for start in range(0, len(drawn), self._batch):
                pictures = real.read(sorted(drawn.tolist())[start : start + self._batch])
                features.add(self._features[name][0](pictures).numpy(), name)
            self._real[key][name] = features
        return self._real[key][name]

    def _shown(
        self, made: Painted, asked: Sequence[Asked], sights: Sequence[Sight], fits: Sequence[Sequence[bool]],
        answers: Sequence[_Answers],
    ) -> Iterator[Number]:  # fmt: skip
        captions, draws = made.captions, self.how.draws
        if self.observer is not None:
            name, about_it = self.observer.name, {"model": self.observer.revision}
            named, found = [each.names for each in asked], [set(sight.counts) for sight in sights]
            compat = {"tise_compat": True} if self.how.tise_compat else {}
            for metric, score in object_accuracy(named, found, captions, self.how.tise_compat, draws).items():
                yield _number(f"{metric}:{name}", score, about_it | compat)
            counted = counting_error(
                [each.counts for each in asked], [sight.counts for sight in sights], captions, draws
            )
            if counted is not None:
                yield _number(f"ca:{name}", counted, about_it)
        if self.places is not None:
            words = [[each.word for each in one.placed] for one in asked]
            if (placed := positional_alignment(words, fits, captions, draws)) is not None:
                yield _number(f"pa:{self.places.name}", placed, {"model": self.places.revision})
        if self.answerer is not None:
            name = self.how.answerer or "answerer"
            unclear = {"unclear_answers": sum(each[2] for each in answers)}
            if answers and unclear["unclear_answers"] == sum(each[3] for each in answers) > 0:
                raise _no_answer(name, unclear["unclear_answers"])
            for metric, score in confirmed([each[0] for each in answers], captions, draws).items():
                yield _number(f"{metric}:{name}", score, unclear)
            if (denied := confirmed([each[1] for each in answers], captions, draws).get("qa")) is not None:
                yield _number(f"qa_no:{name}", denied, unclear)


def _ask_first(answerer: Answerer, name: str) -> None:
    """Two questions about a plain picture, before many are painted and asked about. Raises ModelError where none is answered."""
    from PIL import Image

    picture = Image.new("RGB", (64, 64), (200, 0, 0))
    questions = [f"Is the picture {colour} all over?" for colour in ("red", "blue")]
    if all(says_yes(answer) is None for answer in answerer([picture, picture], questions)):
        raise _no_answer(name, len(questions))


def _no_answer(name: str, count: int) -> ModelError:
    return ModelError(
        f"{name} answered none of {count:,} questions with yes or no; give a model that answers questions, or none"
    )


def _number(metric: str, score: Score, details: Mapping[str, Any]) -> Number:
    parts = {name: round(value, 6) for name, value in score.parts.items()} if len(score.parts) > 1 else {}
    told = {"parts": parts, "counts": dict(score.counts)} if parts else {}
    each = tuple(value for value in score.each if value is not None)
    return Number(metric, score.value, score.low, score.high, score.num, each, {**details, **told})


class _Features:
    """Features as they come: moments of all, and the rows themselves of the first of them."""

    def __init__(self) -> None:
        self._moments: Moments | None = None
        self._rows: list[Any] = []
        self.num = 0

    def add(self, rows: Any, name: str) -> None:
        if self._moments is None:
            self._moments = Moments.empty(rows.shape[1])
        try:
            self._moments.add(rows)
        except ValueError as error:
            raise ModelError(f"{name}: {error}; no distance on them would mean anything") from error
        if self.num < MAX_ROWS:
            self._rows.append(rows[: MAX_ROWS - self.num])
        self.num += len(rows)

    @property
    def moments(self) -> Moments:
        assert self._moments is not None
        return self._moments

    @property
    def rows(self) -> Any:
        return np.concatenate(self._rows)


def prompts(source: str, max_texts: int = 0) -> list[str]:
    """What painters are asked for.

    Args:
        source: smallworld:STYLE:NUMBER (short, long, human or alt), the same scenes in every style; or what ``read_captions`` reads.
        max_texts: the first so many; all when 0.
    Raises: InputError, UnknownName.
    """
    if not source.startswith("smallworld:"):
        from reverie.evaluate.diversity import read_captions

        texts = read_captions(source)
    else:
        from reverie.smallworld.describe import STYLES, describe
        from reverie.smallworld.scene import sample

        try:
            _, style, num = source.split(":")
            count = int(num)
        except ValueError as error:
            raise InputError(
                f"captions {source!r} must read smallworld:STYLE:NUMBER, such as smallworld:human:200"
            ) from error
        if style not in STYLES:
            raise UnknownName("style of captions", style, STYLES)
        check_min(1, captions=count)
        texts = []
        for number in range(count):
            scene = sample(np.random.default_rng(seeds.derive("prompt", number)))
            texts.append(describe(scene, style, np.random.default_rng(seeds.derive("prompt", style, number))))
    return texts[:max_texts] if max_texts else texts


@dataclass(frozen=True)
class GenerationSpeed:
    """What changes the speed only."""

    batch_size: int = 32  # pictures that are looked at together


@dataclass(frozen=True)
class MeasureGeneration(Job):
    """Painters -> pictures of the same captions with the same noise, one set for each guidance, and their numbers in results.jsonl.

    The painter of an arm is what its step trained, or else its factor ``painter``, a model by name. Pictures stay in
    ``generation/STEP/``, as runs of their own that ``reverie evaluate generation`` reads. Where guidances are listed each is an arm of its
    own, with its factor ``guidance``.
    """

    role: ClassVar[Role] = "measure"
    grows: ClassVar[tuple[str, ...]] = ("arms", "guidance")

    arms: tuple[Arm, ...]
    captions: str = "smallworld:human:200"  # see ``prompts``
    real: str = "smallworld:studio:400"  # pictures that distances are to, see evaluate/painted.py; none when empty
    paint: PaintPixels = field(default_factory=lambda: PaintPixels(per_caption=1, steps=10))
    guidance: tuple[float, ...] = ()  # that are tried; that of ``paint`` when empty
    instruments: Instruments = field(default_factory=Instruments)
    speed: GenerationSpeed = field(default_factory=GenerationSpeed)
    subject: str = ""  # id of the arm that pages tell of; the first that was trained when empty
    control: str = (
        ""  # id of the arm that pages hold every other one against; they hold the subject against all when empty
    )

    def __post_init__(self) -> None:
        if not self.arms:
            raise InputError("no painter is named; give at least one")
        if nameless := next((arm.id for arm in self.arms if arm.step is None and not arm.factors.get("painter")), None):
            raise InputError(f"arm {nameless!r} names no painter: neither a step that trains one nor a model")
        for scale in self.guidance:
            self._painting("", scale)  # refuses what cannot be
        if len({f"{scale:g}" for scale in self.guidance}) < len(self.guidance):
            raise InputError("a guidance is named twice; give each once")

    def check(self) -> None:
        """Raises InputError for captions that are not there; what the instruments raise."""
        prompts(self.captions)
        if self.real:
            check_reference(self.real)
        self.instruments.check()

    def check_device(self, device: str) -> None:
        """Raises also what the painters' small files tell, of those that are there by now."""
        from reverie.models.painter import check_painter

        super().check_device(device)
        for arm in self.arms:
            if arm.step is None:
                check_painter(str(arm.factors["painter"]), self.paint.steps, self.paint.size_px, self.paint.scheduler)

    def run(self, context: StepContext) -> None:
        """Paint and measure what is left. Raises what painters and instruments raise."""
        before = {
            (record.arm, record.seed, record.arm_fingerprint)
            for record in results.select(results.read(context.results), step=context.step)
        }
        texts = prompts(self.captions)
        real = reference(self.real) if self.real else None
        measuring: Measuring | None = None
        wanted = self._wanted()
        for done, (arm, scale) in enumerate(wanted):
            context.report("progress", done=done, total=len(wanted), arm=arm.label, seed=arm.seed)
            own = self._at(arm, scale)
            mine = dataclasses.replace(self, arms=(arm,), guidance=(scale,))
            ours = results.arm_fingerprint(context, mine, (arm.step,))
            if (own.id, own.seed, ours) in before:
                continue
            # Before anything is painted: one that is to answer questions may turn out not to.
            measuring = measuring or Measuring(self.instruments, context.device, self.speed.batch_size)
            folder = self._paint(context, arm, scale, texts)
            found = measuring.measure(painted(folder), real)
            record = results.about(
                context, self, own, PROTOCOL, split=self.captions, photos=self.real or None, arm_fingerprint=ours,
                weights=arm.step or str(arm.factors["painter"]),
                details={"guidance": scale, "sampler_steps": self.paint.steps},
            )  # fmt: skip
            results.append(context.results, *(as_result(record, one) for one in found))
        context.report("progress", done=len(wanted), total=len(wanted))

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """A few captions, painted by one painter of each kind, and their pictures measured."""
        return Trial(_Tried(**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)}))

    def paint_all(self, context: StepContext) -> None:
        """Paint all that is to be measured, without measuring. Raises what painters raise."""
        texts, wanted = prompts(self.captions), self._wanted()
        for done, (arm, scale) in enumerate(wanted):
            context.report("progress", done=done, total=len(wanted), arm=arm.label, seed=arm.seed)
            self._paint(context, arm, scale, texts)
        context.report("progress", done=len(wanted), total=len(wanted))

    def _wanted(self) -> list[tuple[Arm, float]]:
        return [(arm, scale) for arm in self.arms for scale in self.guidance or (self.paint.guidance,)]

    def _at(self, arm: Arm, scale: float) -> Arm:
        """What records call an arm at this guidance."""
        factors = {**arm.factors, "guidance": scale}
        if not self.guidance:
            return dataclasses.replace(arm, factors=factors)
        return dataclasses.replace(
            arm, id=f"{arm.id}-g{scale:g}", label=f"{arm.label}, guidance {scale:g}", factors=factors
        )

    def _painting(self, painter: str, scale: float) -> PaintPixels:
        return dataclasses.replace(self.paint, guidance=scale, model=painter or self.paint.model)

    def _paint(self, context: StepContext, arm: Arm, scale: float, texts: Sequence[str]) -> Path:
        """The units that are left, in a folder that is a run to the painter. The noise depends on run seed, caption and copy alone."""
        folder = pictures_folder(context.folder, context.step) / self._at(arm, scale).key
        own = folder / "pairs.lance"
        done = tables.done_units(own) if tables.exists(own) else set()
        units = [texts[start : start + UNIT] for start in range(0, len(texts), UNIT)]
        if len(done) == len(units):
            return folder
        painter = str(context.weights(arm.step)) if arm.step else context.model(str(arm.factors["painter"]))
        work = self._painting(painter, scale).open(dataclasses.replace(context, folder=folder))
        for unit, some in enumerate(units):
            if unit not in done:
                tables.append_unit(own, unit, work(_rows(context.seed, unit, some)))
        return folder


def _rows(seed: int, unit: int, texts: Sequence[str]) -> pa.Table:
    """Captions of a unit, as painters take them."""
    rows = [
        {"caption_id": pairs.caption_id(seed, "prompt", unit * UNIT + place), "unit": unit, "text": text,
         "source": "corpus", "status": pairs.OK}
        for place, text in enumerate(texts)
    ]  # fmt: skip
    return pairs.table(rows, pairs.CAPTIONS)


@dataclass(frozen=True)
class _Tried(MeasureGeneration):
    """A trial. Painters of one kind and guidance take as long; the numbers of a set of pictures take what those of a small set do."""

    def run(self, context: StepContext) -> None:
        from reverie.evaluate.pace import kinds, paced, tell, timed

        texts = prompts(self.captions)
        real = reference(self.real) if self.real else None
        few, per_caption = texts[:PAINTED], self.paint.per_caption
        folder = context.folder / "generation" / context.step
        own, units = folder / "pairs.lance", 0
        for arm, times in kinds(self.arms):
            painter = str(context.weights(arm.step)) if arm.step else context.model(str(arm.factors["painter"]))
            scales = self.guidance or (self.paint.guidance,)
            for scale in {scale > 1: scale for scale in scales}.values():  # without guidance half as much is computed
                alike = times * sum((scale > 1) == (other > 1) for other in scales)
                here, stage = dataclasses.replace(context, folder=folder), self._painting(painter, scale)
                work, took = timed(lambda: stage.open(here))  # noqa: B023
                tell(context.report, "openings", alike, [took])

                def paint(part: slice, work: Callable[[pa.Table], pa.Table] = work) -> None:
                    nonlocal units
                    tables.append_unit(own, units, work(_rows(context.seed, units, few[part])))
                    units += 1

                paced(context.report, "captions painted", alike * len(texts), paint, len(few))
        made, measuring = painted(folder), Measuring(self.instruments, context.device, self.speed.batch_size)
        sets, num = len(self._wanted()), per_caption * len(texts)

        def look(part: slice) -> None:
            numbers = range(len(made))[part]
            names = made.captions[part], made.texts[part], made.pair_ids[part]
            some = Painted(made.name, *names, read=lambda places: made.read([numbers[place] for place in places]))
            measuring.measure(some, None)

        more = min(num, len(real)) if real else 0
        pictures = 0.0

        def told(kind: str, **facts: Any) -> None:
            nonlocal pictures
            pictures = float(facts["seconds_each"]) * len(made)
            context.report(kind, **facts)

        paced(told, "pictures looked at", sets * num + more, look, len(made), self.speed.batch_size)
        if real:
            measuring.measure(made, real)
            _, took = timed(lambda: measuring.measure(made, real))
            tell(context.report, "sets compared", sets, [max(0.0, took - pictures)])


@dataclass(frozen=True)
class PaintAhead(Job):
    """The pictures of a measuring step that comes later, of some of its arms: painters may paint side by side, numbers come one by one.

    What is painted, and where it stays, is as that step has it; it then finds its pictures there.
    """

    role: ClassVar[Role] = "measure"
    beside: ClassVar[bool] = True

    painted: MeasureGeneration  # with the arms that are to paint here
    step: str  # name of the measuring step

    def check(self) -> None:
        """Raises InputError for captions that are not there."""
        prompts(self.painted.captions)

    def check_device(self, device: str) -> None:
        """As the step that measures."""
        self.painted.check_device(device)

    def run(self, context: StepContext) -> None:
        """Paint what is left. Raises what painters raise."""
        self.painted.paint_all(dataclasses.replace(context, step=self.step))


def pictures_folder(run: Path, step: str) -> Path:
    """Where a measuring step keeps what it painted, one folder for each arm, guidance and seed."""
    return run / "generation" / step


def as_result(record: Callable[..., results.Result], number: Number) -> results.Result:
    """A number as a line of results.jsonl."""
    known: Mapping[str, Any] = getattr(record, "keywords", {}).get("details", {})
    details = {**known, **number.details, "low": number.low, "high": number.high}
    return record(metric=number.metric, value=number.value, num_test=number.num, each=number.each, details=details)
