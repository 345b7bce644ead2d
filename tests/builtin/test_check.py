"""The checks themselves, on models that are known to be perfect or useless."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from reverie.builtin import check, command
from reverie.errors import InputError
from reverie.models.detector import Found
from reverie.smallworld.describe import describe, grammatical
from reverie.smallworld.judge import _bank, facts, read
from reverie.smallworld.render import render
from reverie.smallworld.scene import Scene, Thing, sample


def value(rows, start):
    (row,) = [row for row in rows if row.gate.startswith(start)]
    return row


def test_a_gate_is_passed_at_its_number():
    assert check.Row("x", 0.9, 0.9).passed
    assert check.Row("x", 0.89, 0.9).passed is False
    assert check.Row("x", 0.89).passed is None


def test_table_says_what_was_missed():
    console = Console(width=100, file=io.StringIO())
    rows = [check.Row("one", 0.95, 0.9), check.Row("two", 0.5, 0.9), check.Row("three", 812.3, unit="per second")]
    console.print(check.table(rows))
    lines = console.file.getvalue().splitlines()
    assert lines[1].split() == ["one", "95.0%", "90.0%", "passed"]
    assert lines[2].split() == ["two", "50.0%", "90.0%", "missed"]
    assert lines[3].split() == ["three", "812/s"]


def test_captions_say_all_that_is_judged_and_are_fresh_for_each_seed():
    one, two = (list(check._asked(things, 0, 40)) for things in (1, 2))
    assert all(grammatical(caption) for _, caption, _ in one + two)
    assert all(facts(caption).background for _, caption, _ in one)
    assert all(facts(caption).relation for _, caption, _ in two)
    assert [caption for _, caption, _ in one] == [caption for _, caption, _ in check._asked(1, 0, 40)]
    assert [caption for _, caption, _ in one] != [caption for _, caption, _ in check._asked(1, 1, 40)]


def test_pictures_of_the_scenes_are_as_various_and_a_single_picture_is_not():
    scenes, _, numbers = zip(*check._asked(1, 0, 30), strict=True)
    images = [render(scene, "studio", number).image for scene, number in zip(scenes, numbers, strict=True)]
    assert [row.measured for row in check._spread(images, scenes)] == pytest.approx([1, 1], abs=0.1)
    assert [row.measured for row in check._spread(images[:1] * 30, scenes)] == pytest.approx([0, 0], abs=1e-9)
    assert check._spread(images[:1], scenes) == []  # not known is not 0


def test_few_pictures_are_read_as_fast_as_many():
    """What is drawn once is not counted, or a check of one picture misses the gate of speed."""
    _bank.cache_clear()
    first, second = (value(check.check_judge(seed, 1), "judge, pictures").measured for seed in (0, 1))
    assert second / 4 < first


def draw_what_is_said(name, captions, seed=0, device="cpu", progress=None):
    """A perfect painter: it reads the caption and photographs such a scene."""
    where = {"left of": (0.25, 0.5), "right of": (0.75, 0.5), "above": (0.5, 0.25), "below": (0.5, 0.75)}
    images = []
    for number, caption in enumerate(captions):
        said = facts(caption)
        x, y = where[said.relation] if said.relation else (0.5, 0.5)
        things = [
            Thing(shape, colour, "small", *centre, 0.16)
            for (colour, shape), centre in zip(map(str.split, said.names), [(x, y), (1 - x, 1 - y)], strict=False)
        ]
        images.append(render(Scene(tuple(things), said.background or "gray"), seed=number).image)
    return np.stack(images)


def test_painter_gates_tell_a_good_painter_from_a_bad_one(monkeypatch):
    monkeypatch.setattr(check, "paint", draw_what_is_said)
    rows = check.check_painter("perfect", num=20)
    assert value(rows, "painter, one thing").passed
    assert value(rows, "painter, two things").passed
    # Always two steps behind: a good picture of something else.
    monkeypatch.setattr(check, "paint", lambda *given: np.roll(draw_what_is_said(*given), 2, axis=0))
    rows = check.check_painter("late", num=20)
    assert value(rows, "painter, one thing").measured < 0.2
    assert value(rows, "painter, two things").measured < 0.2


def test_what_the_autoencoder_allows(monkeypatch):
    class Perfect:
        def latents(self, pictures):
            return pictures

        def decode(self, latents):
            return latents

    monkeypatch.setattr("reverie.models.painter.open_painter", lambda *given: Perfect())
    rows = check.check_autoencoder("perfect", num=10)
    assert [row.measured for row in rows] == [1.0, 1.0]
    assert [row.passed for row in rows] == [None, None]
    monkeypatch.setattr(Perfect, "decode", lambda self, latents: latents[:, ::-1].transpose(0, 2, 1, 3))
    assert value(check.check_autoencoder("turned", num=10), "autoencoder of the painter, two things").measured < 0.9
    monkeypatch.undo()
    assert check.check_autoencoder("builtin:painter", num=5)[0].measured >= 0.8


class Encoder:
    """Knows which picture belongs to which caption by their order; ``shift`` makes it wrong."""

    def __init__(self, shift):
        self.shift = shift

    def images(self, images):
        assert images.shape == (100, 64, 64, 3)
        return torch.eye(100).roll(self.shift, 0)

    def texts(self, texts):
        assert len(set(texts)) == 100
        return torch.eye(100)


@pytest.mark.parametrize(("shift", "passed"), [(0, True), (1, False)])
def test_encoder_gate(monkeypatch, shift, passed):
    monkeypatch.setattr("reverie.models.encoder.open_encoder", lambda name, device: Encoder(shift))
    (row,) = check.check_encoder("fake", num=100)
    assert row.passed is passed


class Writer:
    """Writes what ``say`` says about the class in the prompt."""

    def __init__(self, say):
        self.say = say

    def write(self, prompts, seeds, max_tokens, temperature, top_p):
        return [self.say(prompt.removeprefix("class: "), seed) for prompt, seed in zip(prompts, seeds, strict=True)]


def a_caption(label, seed):
    rng = np.random.default_rng(seed)
    return describe(sample(rng, 1, first=label), "human", rng)


@pytest.mark.parametrize(
    ("say", "grammar", "distinct"),
    [
        (a_caption, True, True),
        (lambda label, seed: f"{label} {seed}", False, True),
        (lambda label, seed: "a red circle on a white background", False, False),
    ],
)
def test_writer_gates(monkeypatch, say, grammar, distinct):
    monkeypatch.setattr("reverie.models.writer.open_writer", lambda name, device: Writer(say))
    rows = check.check_writer("fake", num=128)
    assert value(rows, "writer, grammatical").passed is grammar
    assert value(rows, "writer, distinct").passed is distinct


@pytest.mark.parametrize(
    ("say", "grammar", "distinct"),
    [(a_caption, True, True), (lambda label, seed: f"a {label} {seed % 2}", False, False)],
)
def test_words_gates(monkeypatch, say, grammar, distinct):
    monkeypatch.setattr("reverie.models.writer.open_writer", lambda name, device: Writer(say))
    rows = check.check_words("fake", num=256)
    assert value(rows, "words, grammatical").passed is grammar
    assert value(rows, "words, distinct").passed is distinct


def test_builtin_words_passes_its_gates():
    assert [row.passed for row in check.check_words("builtin:words", num=128)] == [True, True]


class Finder:
    """Finds what the judge reads, which is nearly all; ``spoil`` changes what is said of a picture."""

    def __init__(self, spoil):
        self.spoil = spoil

    def find(self, images, threshold):
        return [
            self.spoil([Found(thing.name, 1.0, tuple(64 * edge for edge in thing.box)) for thing in read(image).things])
            for image in images
        ]


@pytest.mark.parametrize(
    ("spoil", "found", "false_alarms"),
    [
        (lambda said: said, 1.0, 0.0),
        (lambda said: said + said, 1.0, 1.65),
        (lambda said: [item._replace(name="red circle") for item in said], 0.015, 1.63),
        (lambda said: [item._replace(box=tuple(edge + 30 for edge in item.box)) for item in said], 0.0, 1.65),
        (lambda said: [], 0.0, 0.0),
    ],
)
def test_detector_gate(monkeypatch, spoil, found, false_alarms):
    """Scenes have 1.65 things each, on average, of 64 names."""
    monkeypatch.setattr("reverie.models.detector.open_detector", lambda name, device: Finder(spoil))
    rows = check.check_detector("fake", num=100)
    studio = value(rows, "detector, things of studio")
    assert studio.measured == pytest.approx(found, abs=0.05)
    assert studio.passed is (found == 1.0)
    assert value(rows, "  false alarms, studio").measured == pytest.approx(false_alarms, abs=0.25)
    assert value(rows, "detector, things of street").needed is None


def test_builtin_detector_passes_its_gate():
    assert value(check.check_detector("builtin:detector", num=200), "detector, things of studio").passed


def test_grid(tmp_path):
    captions = ["a red circle on a white background", "a blue star above a green ring", "an orange heart"]
    check.save_grid(tmp_path / "grid.png", draw_what_is_said("", captions), captions, columns=2)
    assert Image.open(tmp_path / "grid.png").size[0] > 200


def test_a_painters_grid_is_asked_for_beside_its_gates(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(check, "paint", draw_what_is_said)
    monkeypatch.setattr(check, "save_grid", lambda *given: seen.append(given))
    check.main(painter="perfect", num=2, grid=tmp_path / "grid.png")
    ((path, images, captions),) = seen
    assert (path, len(images)) == (tmp_path / "grid.png", 36)
    assert all(check.judge(image, caption).right for image, caption in zip(images[:4], captions[:4], strict=True))


def test_slips_are_named(tmp_path):
    with pytest.raises(InputError, match="give a model"):
        check.main()
    with pytest.raises(InputError, match="--painter or --token-painter"):
        check.main(tokenizer="builtin:tokenizer", grid=tmp_path / "grid.png")
    with pytest.raises(InputError, match="no device 'gpu' here"):
        check.main(painter="builtin:painter", device="gpu")


class WithoutLoss:
    """A tokenizer whose ids are the numbers of whole pictures, or of one and the same."""

    num_codes, seen = 4096, []

    def __init__(self, forgetful=False):
        self.forgetful, self.seen = forgetful, []

    def ids(self, pictures):
        first = len(self.seen)
        self.seen += list(pictures)
        return np.arange(first, len(self.seen)).reshape(-1, 1, 1)

    def pictures(self, ids):
        return np.stack([self.seen[0 if self.forgetful else int(number)] for number in ids.ravel()])


def test_a_tokenizer_is_measured_by_what_its_pictures_still_show(monkeypatch):
    monkeypatch.setattr("reverie.models.tokenizer.open_tokenizer", lambda name, device: WithoutLoss())
    rows = check.check_tokenizer("perfect", num=12)
    assert value(rows, "tokenizer, one thing: studio").passed
    # 24 of 4,096 codes, each as often as the others.
    assert value(rows, "  codes in use").measured == pytest.approx(24 / 4096)
    monkeypatch.setattr("reverie.models.tokenizer.open_tokenizer", lambda name, device: WithoutLoss(forgetful=True))
    assert value(check.check_tokenizer("useless", num=12), "tokenizer, one thing: studio").measured < 0.5


def test_the_gates_are_taken_at_the_steps_that_recipes_paint_with():
    from reverie.builtin.check import SAMPLER_STEPS
    from reverie.recipes.options import Painting

    assert Painting().sampler_steps == SAMPLER_STEPS


def test_a_slip_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slip() -> None:
        raise InputError("no such thing; give another")

    monkeypatch.setattr(sys, "argv", ["check"])
    with pytest.raises(SystemExit) as ended:
        command(slip)
    assert (ended.value.code, capsys.readouterr().err) == (2, "error: no such thing; give another\n")
