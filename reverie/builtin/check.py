"""Quality checks of the builtin models on new scenes, with a minimum for each number.

Printed by ``reverie models check``. The painter is asked in the words that it was trained on, and judged only by what a
caption says; all settings are the defaults of the stages that use the models.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from reverie import seeds
from reverie.builtin import command
from reverie.captions.prompts import OWN
from reverie.errors import InputError
from reverie.models.devices import find_device
from reverie.models.names import TRAINABLE, builtin_names
from reverie.pairs import CLASS_SLOT
from reverie.smallworld.describe import Style, describe, grammatical
from reverie.smallworld.judge import Facts, Verdict, agrees, facts, judge, read
from reverie.smallworld.render import CameraName, render
from reverie.smallworld.scene import SHAPES, Scene, class_names, relation, sample
from reverie.smallworld.slots import facts_of, facts_said
from reverie.stage import ignore_events

if TYPE_CHECKING:
    from reverie.captions.llm import AskWriter
    from reverie.captions.word_to_sentence import WordToSentence

SAMPLER_STEPS = 10  # as of recipes that paint with the builtin painter
AMONG = 100  # captions from which the encoder picks
BLUR_PX, NOISE = 1.0, 6.0  # a stand-in for a small painter's soft pictures: standard deviations in pixels, grey levels

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One measured number; ``needed`` is None where no gate is set."""

    gate: str
    measured: float
    needed: float | None = None
    unit: Literal["fraction", "per second", "per image"] = "fraction"

    @property
    def passed(self) -> bool | None:
        """Whether the gate is met, or None where there is none."""
        return None if self.needed is None else self.measured >= self.needed


Progress = Callable[[str, int, int], None]


def check(
    seed: int = 0,
    num: int = 500,
    *,
    painter: str = "builtin:painter",
    encoder: str = "builtin:clip",
    writer: str = "builtin:writer",
    words: str = "builtin:words",
    detector: str = "builtin:detector",
    tokenizer: str = "builtin:tokenizer",
    token_painter: str = "builtin:token-painter",
    describer: str = "builtin:describer",
    device: str = "cpu",
    progress: Progress = ignore_events,
) -> list[Row]:
    """Measure the judge and the models.

    Args:
        seed: of scenes, captions and noise.
        num: captions and pictures for each gate.
        painter, encoder, writer, words, detector: names of the models, see models/names.py.
        tokenizer, token_painter, describer: the same; a builtin one that is not in this package yet is left out.
        progress: called with what is being measured, images painted, and how many there will be.

    Raises: ModelError, UnknownName if a model cannot be loaded.
    """
    if num < 1:
        raise InputError(f"the models are measured on 1 caption or more, not {num}")
    untrained = {f"builtin:{name}" for name in set(TRAINABLE) - set(builtin_names())}
    progress("judge", 0, 1)
    rows = check_judge(seed, num)
    rows += check_autoencoder(painter, seed, num, device)
    rows += check_painter(painter, seed, num, device, progress)
    progress("clip, writer, words and detector", 0, 1)
    rows += check_encoder(encoder, seed, num, device)
    rows += check_writer(writer, seed, num, device)
    rows += check_words(words, seed, num, device)
    rows += check_detector(detector, seed, num, device)
    # These are measured where they are there; what is not trained yet misses no gate.
    if tokenizer not in untrained:
        rows += check_tokenizer(tokenizer, seed, num, device)
    if token_painter not in untrained:
        rows += check_token_painter(token_painter, seed, num, device, progress)
    if describer not in untrained:
        rows += check_describer(describer, seed, num, device)
    return rows


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    shown = Table("gate", "measured", "needed", "", box=None, header_style="bold")
    for row in rows:
        mark = {True: "[green]passed", False: "[red]missed", None: ""}[row.passed]
        shown.add_row(row.gate, _number(row.measured, row.unit), _number(row.needed, row.unit), mark)
    return shown


def check_judge(seed: int = 0, num: int = 500) -> list[Row]:
    """How often studio renders are read right: as they are, and blurred and noisy as a small painter's pictures are."""
    rows, spent_s = [], 0.0
    read(render(next(_asked(1, seed, 1))[0], "studio", 0).image)  # its bank of shapes is drawn once, and not timed
    for things, needed in ((1, 0.99), (2, 0.97)):
        name = f"judge, {'one thing' if things == 1 else 'two things with relation'}"
        sharp, soft = [], []
        for scene, _, number in _asked(things, seed, num):
            image = render(scene, "studio", number).image
            start = time.process_time()
            reading = read(image)
            spent_s += time.process_time() - start
            sharp.append(agrees(reading, _all_facts(scene)).right)
            soft.append(agrees(read(_softened(image, number)), _all_facts(scene)).right)
        rows.append(Row(f"{name}: studio renders", float(np.mean(sharp)), needed))
        rows.append(Row(f"{name}: blurred and noisy", float(np.mean(soft)), 0.97 if things == 1 else None))
    return [*rows, Row("judge, pictures on one core", 2 * num / spent_s, 200, "per second")]


def check_autoencoder(name: str, seed: int = 0, num: int = 500, device: str = "cpu") -> list[Row]:
    """How often studio renders are still read right after the painter's autoencoder: no painting of it can be better."""
    from reverie.models.painter import open_painter

    painter = open_painter(name, device)
    rows = []
    for things in (1, 2):
        asked = list(_asked(things, seed, num))
        right = []
        for start in range(0, num, AMONG):
            some = asked[start : start + AMONG]
            renders = np.stack([render(scene, "studio", number).image for scene, _, number in some])
            images = painter.decode(painter.latents(renders))
            right += [
                agrees(read(image), _all_facts(scene)).right for image, (scene, _, _) in zip(images, some, strict=True)
            ]
        what = "one thing" if things == 1 else "two things with relation"
        rows.append(Row(f"autoencoder of the painter, {what}: renders still right", float(np.mean(right))))
    return rows


def check_painter(
    name: str, seed: int = 0, num: int = 500, device: str = "cpu", progress: Progress = ignore_events
) -> list[Row]:
    """How often a painting shows what its caption says, and where it does not."""
    return _check_paintings("painter", functools.partial(paint, name), seed, num, device, progress)


def check_token_painter(
    name: str, seed: int = 0, num: int = 500, device: str = "cpu", progress: Progress = ignore_events
) -> list[Row]:
    """The same of a painter of image tokens, whose ids are decoded to be read."""
    return _check_paintings("token painter", functools.partial(paint_tokens, name), seed, num, device, progress)


def _check_paintings(
    what: str, make: Callable[..., Images], seed: int, num: int, device: str, progress: Progress
) -> list[Row]:
    rows, spent_s = [], 0.0
    for things, needed in ((1, 0.90), (2, 0.75)):
        scenes, captions, _ = zip(*_asked(things, seed, num), strict=True)
        start = time.perf_counter()
        told = functools.partial(progress, f"{what}, {things} thing{'s' * (things > 1)}")
        images = make(captions, seed, device, told)
        spent_s += time.perf_counter() - start
        verdicts = [judge(image, caption) for image, caption in zip(images, captions, strict=True)]
        asked = f"{what}, {'one thing' if things == 1 else 'two things with relation'}"
        rows.append(Row(asked, float(np.mean([verdict.right for verdict in verdicts])), needed))
        for part in ("shapes", "colours", "background", "relation", "sizes", "place"):
            said = [value for verdict in verdicts if (value := getattr(verdict, part)) is not None]
            if said:
                rows.append(Row(f"  {part}, where said", float(np.mean(said))))
        if things == 1:
            rows += _by_shape(verdicts, scenes) + _spread(images, scenes)
    return [*rows, Row(f"{what}, images with guidance", 2 * num / spent_s, unit="per second")]


def check_tokenizer(name: str, seed: int = 0, num: int = 500, device: str = "cpu") -> list[Row]:
    """How often renders are still read right after they became ids and pictures again, and how many codes those ids use.

    The use is e to the entropy of the ids of studio scenes, as a share of all codes.
    """
    from reverie.models.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(name, device)
    rows, counts = [], np.zeros(tokenizer.num_codes)
    kinds: list[tuple[int, float | None]] = [(1, 0.97), (2, None)]
    for things, needed in kinds:  # of the studio camera alone: the judge cannot read the street's renders
        right, asked = [], list(_asked(things, seed, num))
        for start in range(0, num, AMONG):
            some = asked[start : start + AMONG]
            ids = tokenizer.ids(np.stack([render(scene, "studio", number).image for scene, _, number in some]))
            counts += np.bincount(ids.ravel(), minlength=len(counts))
            images = tokenizer.pictures(ids)
            right += [
                agrees(read(image), _all_facts(scene)).right for image, (scene, _, _) in zip(images, some, strict=True)
            ]
        what = "one thing" if things == 1 else "two things with relation"
        rows.append(Row(f"tokenizer, {what}: studio renders still right", float(np.mean(right)), needed))
    shares = counts[counts > 0] / counts.sum()
    rows.append(Row("  codes in use", float(np.exp(-(shares * np.log(shares)).sum()) / len(counts))))
    return rows


def check_describer(name: str, seed: int = 0, num: int = 500, device: str = "cpu") -> list[Row]:
    """How much of what is said of renders is true, short and long; and how many of the things that are there a long caption names."""
    from PIL import Image

    from reverie.models.describer import STYLES, Decoding, open_describer

    opened = open_describer(name, device)
    rows, start = [], time.process_time()
    cameras: list[CameraName] = ["studio", "street"]
    for camera in cameras:
        rng = np.random.default_rng(seeds.derive("described", seed, camera))
        scenes = [sample(rng) for _ in range(num)]
        pictures = [
            Image.fromarray(render(scene, camera, seeds.derive("look", seed, number)).image)
            for number, scene in enumerate(scenes)
        ]
        for style in STYLES:
            said = [facts_said(text) for text in opened.describe(pictures, [0] * num, style, Decoding(60))]
            true = [facts_of(scene) for scene in scenes]
            right, total = sum(len(a & b) for a, b in zip(said, true, strict=True)), sum(map(len, said))
            rows.append(Row(f"describer, {style}: what it says of {camera} renders is true", right / max(1, total)))
            if style == "long":
                named = sum(
                    ("attribute", thing.name) in facts
                    for facts, scene in zip(said, scenes, strict=True)
                    for thing in scene.things
                )
                rows.append(Row("  things that it names", named / sum(len(scene.things) for scene in scenes)))
    return [*rows, Row("describer, captions on one core", 4 * num / (time.process_time() - start), unit="per second")]


def _by_shape(verdicts: Iterable[Verdict], scenes: Iterable[Scene]) -> list[Row]:
    """How often each shape is painted right, where a scene has one thing."""
    right: dict[str, list[bool]] = {shape: [] for shape in SHAPES}
    for verdict, scene in zip(verdicts, scenes, strict=True):
        right[scene.things[0].shape].append(verdict.shapes)
    return [Row(f"  {shape}", float(np.mean(some))) for shape, some in right.items() if some]


def _spread(images: Iterable[Images], scenes: Iterable[Scene]) -> list[Row]:
    """How various pictures of one thing are, against scenes of the same captions: a painter may paint right, but always the same."""
    shown = [reading.things[0] for image in images if len((reading := read(image)).things) == 1]
    meant = [scene.things[0] for scene in scenes]
    if min(len(shown), len(meant)) < 2:
        return []  # of one there is no deviation
    rows = []
    for what, values in (("places", lambda thing: (thing.x, thing.y)), ("sizes", lambda thing: (thing.radius,))):
        found, wanted = (np.std([values(thing) for thing in some], axis=0).mean() for some in (shown, meant))
        rows.append(Row(f"  standard deviation of {what}, of the scenes'", float(found / wanted) if wanted else 0.0))
    return rows


def check_encoder(name: str, seed: int = 0, num: int = 500, device: str = "cpu") -> list[Row]:
    """How often the caption nearest to a studio render, among 100 long ones of different scenes, is its own."""
    from reverie.models.encoder import open_encoder

    encoder = open_encoder(name, device)
    rng = np.random.default_rng(seeds.derive("check encoder", seed))
    right = []
    for _ in range(max(1, num // AMONG)):
        captions: dict[str, Scene] = {}
        while len(captions) < AMONG:
            scene = sample(rng)
            captions[describe(scene, "long", rng)] = scene
        images = np.stack([render(scene, "studio", int(rng.integers(2**62))).image for scene in captions.values()])
        likeness = encoder.images(images) @ encoder.texts(list(captions)).T
        right += [int(best) == index for index, best in enumerate(likeness.argmax(1))]
    return [Row(f"clip, own caption among {AMONG} for a studio render", float(np.mean(right)), 0.95)]


def check_writer(name: str, seed: int = 0, num: int = 500, device: str = "cpu") -> list[Row]:
    """How many captions of a draw are sentences of the small world that name their class, and how many differ."""
    from reverie.captions.llm import AskWriter

    return _texts("writer", AskWriter(writer=name, classes=class_names()), name, seed, num, device)


def check_words(name: str, seed: int = 0, num: int = 500, device: str = "cpu") -> list[Row]:
    """The same of the word-to-sentence model, which is given the class name alone."""
    from reverie.captions.word_to_sentence import WordToSentence

    return _texts("words", WordToSentence(class_names(), model=name), name, seed, num, device)


def check_detector(name: str, seed: int = 0, num: int = 500, device: str = "cpu") -> list[Row]:
    """How many things of fresh renders by either camera are found, at the defaults of the stage that asks for tags.

    Found is what has the right name and overlaps the box of the thing by half (intersection over union), each thing once; a
    false alarm is whatever else is said to be there.
    """
    from reverie.evaluate.metrics.detection import num_right
    from reverie.filters.tags import Tags
    from reverie.models.detector import open_detector

    detector, threshold = open_detector(name, device), Tags().threshold
    rows = []
    cameras: dict[CameraName, float | None] = {"studio": 0.90, "street": None}
    for camera, needed in cameras.items():
        rng = np.random.default_rng(seeds.derive("check detector", seed))
        scenes = [sample(rng) for _ in range(num)]
        pictures = [render(scene, camera, int(rng.integers(2**62))) for scene in scenes]
        answers = detector.find(np.stack([picture.image for picture in pictures]), threshold)
        right = 0
        for scene, picture, found in zip(scenes, pictures, answers, strict=True):
            names, boxes = [item.name for item in found], np.array([item.box for item in found])
            right += num_right([thing.name for thing in scene.things], picture.boxes, names, boxes)
        there, said = sum(len(scene.things) for scene in scenes), sum(map(len, answers))
        rows.append(Row(f"detector, things of {camera} renders found", right / there, needed))
        rows.append(Row(f"  false alarms, {camera} renders", (said - right) / num, unit="per image"))
    return rows


def paint(
    name: str,
    captions: Sequence[str],
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Images:
    """One image a caption, at the settings that recipes have for it. uint8 (captions, 64, 64, 3)."""
    from reverie.images.pixels import PaintPixels
    from reverie.models.painter import open_painter

    stage = PaintPixels(model=name, steps=SAMPLER_STEPS)
    painter = open_painter(name, device, stage.scheduler)

    def make(texts: Sequence[str], numbers: list[int]) -> Images:
        return painter.paint(painter.encode(texts), numbers, stage.guidance, stage.steps)

    return _painted("check painter", captions, stage.speed.batch, seed, progress, make)


def paint_tokens(
    name: str,
    captions: Sequence[str],
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Images:
    """One image a caption, at the default settings of PaintTokens, decoded. uint8 (captions, 64, 64, 3)."""
    from reverie.images.tokens import PaintTokens
    from reverie.models.token_painter import open_token_painter, painted_ids

    stage = PaintTokens(model=name)
    painter = open_token_painter(name, device)

    def make(texts: Sequence[str], numbers: list[int]) -> Images:
        return painter.tokenizer.pictures(painted_ids(painter, texts, numbers, stage.guidance, stage.steps))

    return _painted("check token painter", captions, stage.speed.batch, seed, progress, make)


def _painted(
    what: str,
    captions: Sequence[str],
    batch: int,
    seed: int,
    progress: Callable[[int, int], None],
    make: Callable[[Sequence[str], list[int]], Images],
) -> Images:
    """What ``make`` paints of each caption, whose noise is numbered by its place and ``what``."""
    images = []
    for start in range(0, len(captions), batch):
        progress(start, len(captions))
        texts = captions[start : start + batch]
        images.append(make(texts, [seeds.derive(what, seed, start + place) for place in range(len(texts))]))
    return np.concatenate(images)


def save_grid(path: Path, images: Images, captions: Sequence[str], columns: int = 6) -> None:
    """Draw pictures over their captions and verdicts, as PNG or any format that matplotlib knows by its suffix."""
    import textwrap

    from matplotlib.figure import Figure

    height = -(-len(captions) // columns)
    figure = Figure(figsize=(1.6 * columns, 2.1 * height), dpi=120, layout="constrained")
    places = figure.subplots(height, columns, squeeze=False).ravel()
    for place in places:
        place.axis("off")
    for place, image, caption in zip(places, images, captions, strict=False):
        reading = read(image)
        verdict = agrees(reading, facts(caption))
        place.imshow(image)
        place.set_title(textwrap.fill(caption, 24), fontsize=7)
        place.text(
            0.5, -0.03, _in_words(verdict), ha="center", va="top", fontsize=6, transform=place.transAxes,
            color="tab:green" if verdict.right else "tab:red",
        )  # fmt: skip
    figure.savefig(path)


def _texts(what: str, stage: AskWriter | WordToSentence, model: str, seed: int, num: int, device: str) -> list[Row]:
    """One draw of a model a class, the classes in turns, at the defaults of its stage."""
    from reverie.models.writer import open_writer

    classes = [class_names()[index % len(class_names())] for index in range(num)]
    texts = open_writer(model, device).write(
        [str(stage.prompt or OWN).replace(CLASS_SLOT, label) for label in classes],
        [seeds.derive(f"check {what}", seed, index) for index in range(num)],
        stage.max_tokens,
        stage.temperature,
        stage.top_p,
    )
    good = [grammatical(text) and label in text for text, label in zip(texts, classes, strict=True)]
    return [
        Row(f"{what}, grammatical and naming its class", float(np.mean(good)), 0.98),
        Row(f"{what}, distinct captions", len(set(texts)) / num, 0.60),
    ]


def _in_words(verdict: Verdict) -> str:
    wrong = [part for part in ("shapes", "colours", "relation", "background") if getattr(verdict, part) is False]
    return "right" if verdict.right else f"wrong: {', '.join(wrong) or 'colours swapped'}"


def _asked(things: int, seed: int, num: int) -> Iterator[tuple[Scene, str, int]]:
    """Fresh scenes under short or human captions that say all that is judged, and a number for the noise of each."""
    rng = np.random.default_rng(seeds.derive("check", things, seed))
    found = 0
    while found < num:
        scene = sample(rng, things)
        style: Style = "short" if rng.random() < 0.5 else "human"
        caption = describe(scene, style, rng)
        said = facts(caption)
        if said.background if things == 1 else said.relation:
            yield scene, caption, int(rng.integers(2**62))
            found += 1


def _all_facts(scene: Scene) -> Facts:
    """Everything that is judged, whatever a caption of the scene says."""
    between = relation(*scene.things) if len(scene.things) == 2 else None
    return Facts(tuple(thing.name for thing in scene.things), (), None, between, scene.background)


def _softened(image: Images, seed: int) -> Images:
    blurred: npt.NDArray[np.float32] = ndimage.gaussian_filter(image.astype(np.float32), (BLUR_PX, BLUR_PX, 0))
    noisy = blurred + np.random.default_rng(seed).normal(0, NOISE, image.shape)
    levels: Images = np.clip(noisy.round(), 0, 255).astype(np.uint8)
    return levels


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return {"fraction": f"{value:.1%}", "per second": f"{value:,.0f}/s", "per image": f"{value:.3f} an image"}[unit]


def main(
    painter: str = "",
    tokenizer: str = "",
    token_painter: str = "",
    describer: str = "",
    num: int = 500,
    seed: int = 0,
    device: str = "cpu",
    grid: Path | None = None,
) -> None:
    """Measure models of one's own where ``reverie models check`` measures the builtin ones.

    Args:
        painter: a text-to-image pipeline, by name or folder.
        tokenizer: of images, by name or folder.
        token_painter: an aMUSEd pipeline, by name or folder.
        describer: what says what it sees, by name or folder.
        num: fresh scenes to measure on.
        seed: of those scenes.
        device: cpu, cuda or cuda:N.
        grid: file for a picture of 36 paintings over their captions and verdicts.
    """
    if num < 1:
        raise InputError(f"the models are measured on 1 caption or more, not {num}")
    if not (painter or tokenizer or token_painter or describer):
        raise InputError("give a model: --painter, --tokenizer, --token-painter or --describer")
    if grid and bool(painter) == bool(token_painter):
        raise InputError("--grid is a picture of what one painter paints: give --painter or --token-painter")
    device = find_device(device)
    rows = check_painter(painter, seed, num, device) if painter else []
    rows += check_tokenizer(tokenizer, seed, num, device) if tokenizer else []
    rows += check_token_painter(token_painter, seed, num, device) if token_painter else []
    if grid:
        captions = [caption for things in (1, 2) for _, caption, _ in _asked(things, seed, 18)]
        make = functools.partial(paint, painter) if painter else functools.partial(paint_tokens, token_painter)
        save_grid(grid, make(captions, seed, device), captions)
    if describer:
        rows += check_describer(describer, seed, num, device)
    Console().print(table(rows))


if __name__ == "__main__":
    command(main)
