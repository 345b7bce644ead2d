"""A painter of tokens learns from what is read in its guesses, the reader from pictures and the judge, and neither from the other's loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.builtin import guess, train
from reverie.builtin.guess import GuessAsRead, LearnToReadTokens, ToGuess, seen_softly
from reverie.builtin.reader import OPEN, Scenes
from reverie.errors import InputError
from reverie.learn.text_to_tokens import TextToTokens
from reverie.learn.train_painter import Curriculum, LatentBatches
from reverie.models.token_painter import TokenPainter
from reverie.nets.words import split_words, write_tokenizer
from reverie.smallworld.describe import vocabulary
from reverie.smallworld.judge import Reading
from reverie.smallworld.render import distance
from reverie.smallworld.scene import SHAPES, Scene, Thing
from tests.models import tiny

CODES, SIDE = 12, 4
STAR = [3] * 4 + [0] * 4 + [0]
TWO = [3, 1, OPEN, OPEN, 0, 2, OPEN, OPEN, 1]
MANY = [OPEN] * 9  # a scene of three things, which no reader is asked about


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> GuessAsRead:
    folder = tmp_path_factory.mktemp("guess")
    tiny.save_vq(folder / "vq")
    write_tokenizer(folder / "words", split_words(vocabulary()), 16)
    tokens = TextToTokens(
        str(folder / "vq"), str(folder / "words"), grid=SIDE, width=32, layers=1, heads=2, conv_width=32, conv_blocks=1,
        conv_heads=2, text_width=16, text_layers=2, caption_drop=0.0,
    )  # fmt: skip
    return GuessAsRead(tokens, keep=8, again=5, sampler_steps=2)


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge reads no pictures as small as those of a tiny tokenizer."""
    monkeypatch.setattr(guess, "read", lambda _: Reading((), "white"))


@pytest.fixture
def batches(learner: GuessAsRead) -> ToGuess:
    count = 8
    ids = torch.arange(count * SIDE * SIDE).view(count, SIDE, SIDE) % CODES
    weights = torch.ones(count, SIDE, SIDE)
    weights[:, 1:3, 1:3] = 5.0
    texts = learner.tokens.tokens(["a red star"] * count)[:, None]
    more = {"weights": weights, "targets": torch.tensor([STAR, MANY] * (count // 2))}
    sets = [Scenes(ids[:4], texts[:4], torch.tensor([wanted] * 4)) for wanted in (STAR, TWO)]
    painted = Curriculum([LatentBatches(ids, texts, 0, 0, more=more)], {0: (1.0,)}, 6, 3)
    return ToGuess(painted, sets, known=10, asked=4, every=2, ramp=4)


def test_batches_are_the_same_wherever_they_begin(batches: ToGuess) -> None:
    first = batches.iterate(0)
    drawn = [next(first) for _ in range(5)]
    assert [batch["paint"].item() for batch in drawn] == [True, False, True, False, True]
    assert [batch["weight"].item() for batch in drawn] == [0.25, 0.5, 0.75, 1.0, 1.0]
    for again, there in zip(batches.iterate(1), drawn[1:], strict=False):
        assert again.keys() == there.keys()
        assert all(torch.equal(again[name], there[name]) for name in again)


def test_a_reader_sees_some_ids_of_other_pictures_at_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess, "SOFT", 0.0)
    count, side = 400, 8
    # Every id says of which picture it is, and at which place.
    ids = torch.arange(count * side * side).view(count, side, side)
    codes = torch.arange(count * side * side).float()[:, None]
    torch.manual_seed(0)
    seen = seen_softly(ids, codes)[:, 0].long()
    assert torch.equal(seen % side**2, ids % side**2)
    changed = (seen != ids).flatten(1).float().mean(1)
    assert (changed == 0).float().mean() == pytest.approx(1 - guess.MIXED_UP, abs=0.08)
    assert changed.max() <= 1
    assert changed[changed > 0].mean() == pytest.approx(guess.MOST_MIXED / 2, abs=0.05)


def test_a_guess_is_codes_of_drawn_ids_with_the_gradient_of_their_mean(learner: GuessAsRead) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, CODES, SIDE, SIDE, requires_grad=True)
    hidden = torch.rand(2, SIDE, SIDE) < 0.5
    ids = torch.randint(CODES, (2, SIDE, SIDE))
    codes = torch.randn(CODES, 3)
    found = learner._guessed(logits, hidden, ids, codes)
    away = torch.randn_like(found)
    (gradient,) = torch.autograd.grad((found * away).sum(), logits)
    for n, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(SIDE), torch.arange(SIDE)).tolist():
        vector = found[n, :, i, j]
        if not hidden[n, i, j]:
            assert torch.equal(vector, codes[ids[n, i, j]])
            assert not gradient[n, :, i, j].any()
            continue
        assert (codes - vector).abs().sum(1).min() < 1e-5
        own = logits[n, :, i, j].detach().requires_grad_()
        (own.softmax(0) @ codes @ away[n, :, i, j]).backward()
        torch.testing.assert_close(gradient[n, :, i, j], own.grad)


def test_ids_are_drawn_as_often_as_they_are_likely(learner: GuessAsRead) -> None:
    torch.manual_seed(0)
    logits = torch.randn(CODES)
    many = logits[None, :, None, None].expand(3000, -1, SIDE, SIDE)
    all_ = torch.ones(3000, SIDE, SIDE, dtype=torch.bool)
    found = learner._guessed(many, all_, all_.long(), torch.eye(CODES)).round()
    torch.testing.assert_close(found.mean((0, 2, 3)), logits.softmax(0), atol=0.006, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("loss", "own"), [("read", "predictor."), ("said", "predictor."), ("reader", "reader.")])
def test_each_learns_from_its_own_loss(
    learner: GuessAsRead, batches: ToGuess, precision: str, loss: str, own: str
) -> None:
    torch.manual_seed(0)
    net = learner.build()
    # Painting first: weights that were cast without a gradient for it must not be used again.
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = net(next(batches.iterate(0)))
    found[loss].backward()
    learned = {name for name, value in net.named_parameters() if value.grad is not None and value.grad.abs().max() > 0}
    assert learned
    assert all(name.startswith(own) for name in learned)
    if own == "predictor.":
        assert len([name for name in learned if "transformer_layers" in name]) > 4


def test_all_places_of_things_are_hidden_in_every_other_picture(
    learner: GuessAsRead, batches: ToGuess, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = learner.build()
    shown: list[Tensor] = []
    net.predictor.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    few = torch.zeros(6, SIDE * SIDE, dtype=torch.bool)
    few[:, 0] = True
    monkeypatch.setattr("reverie.learn.text_to_tokens.masked", lambda *_: few)
    batch = next(batches.iterate(1))  # without paintings
    learner.losses(net, batch)
    assert torch.equal(shown[0], shown[1])  # without the caption, and under it
    masks = shown[1] == learner.tokens.mask_id
    assert torch.equal(masks[1::2].flatten(1), few[1::2])
    expected = few[::2].view(-1, SIDE, SIDE) | (batch["weights"][::2] > 1)
    assert torch.equal(masks[::2], expected)


def test_the_loss_is_the_sum_of_its_parts(learner: GuessAsRead, batches: ToGuess) -> None:
    torch.manual_seed(0)
    net = learner.build()
    batch = next(batches.iterate(1))
    torch.manual_seed(5)
    found = learner.losses(net, batch)
    total = found["said"] + learner.weight * 0.5 * found["read"] + found["reader"]
    assert found["loss"].item() == pytest.approx(total.item())
    torch.manual_seed(5)
    hidden = (batch["weights"] > 1) & (torch.arange(6) % 2 == 0)[:, None, None]
    shown = learner.tokens.shown(batch, hidden)
    logits = net.predictor(shown.visible, shown.words).permute(0, 2, 3, 1)
    summed = weighed = 0.0
    for n, i, j in shown.hidden.nonzero().tolist():
        weight = batch["weights"][n, i, j].item()
        summed += weight * F.cross_entropy(logits[n, i, j], shown.ids[n, i, j]).item()
        weighed += weight
    assert found["said"].item() == pytest.approx(summed / weighed, rel=1e-4)


def test_paintings_are_kept_with_what_the_judge_reads(
    learner: GuessAsRead, batches: ToGuess, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def as_asked(_: Any, asked: list[int]) -> list[int]:
        told.append(asked)
        return asked if len(told) % 2 else [8] * 4 + [OPEN] * 5

    monkeypatch.setattr(guess, "targets_as_read", as_asked)
    net = learner.build().eval()
    batch = next(batches.iterate(0))
    torch.manual_seed(1)
    learner.losses(net, batch)
    count = batches.asked
    assert told == [STAR, STAR, TWO, TWO]
    assert net.kept.seen == count
    assert net.kept.right[:count].tolist() == [1.0, 0.0, 1.0, 0.0]
    # The ids are those that the sampler gives for these captions and seeds.
    torch.manual_seed(1)
    seeds = torch.randint(2**31, (count,)).tolist()
    painter = TokenPainter(learner.tokens.pipeline(net.predictor))
    ids = painter.sample_ids(painter.encode(["a red star"] * count), seeds, learner.guidance, learner.sampler_steps)
    assert torch.equal(net.kept.latents[:count].long(), ids)
    assert not [name for name in net.state_dict() if "kept" in name]


def test_the_reader_sees_as_many_scenes_of_two_things_as_of_one(
    learner: GuessAsRead, batches: ToGuess, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = next(batches.iterate(1))
    assert drawn["known_targets"].tolist() == [STAR] * 5 + [TWO] * 5
    assert drawn["asked"].tolist() == [STAR] * 2 + [TWO] * 2
    net, seen = learner.build(), []
    monkeypatch.setattr(
        guess, "reading_loss", lambda answers, targets, *_, **__: seen.append(targets) or answers.shapes.sum()
    )
    learner.losses(net, drawn)
    assert [targets.tolist() for targets in seen[1:]] == [drawn["known_targets"].tolist()]


def test_what_is_logged_lies_on_one_device_before_the_first_painting(learner: GuessAsRead, batches: ToGuess) -> None:
    if not torch.cuda.is_available():
        pytest.skip("wants a GPU")
    batch = {name: value.cuda() for name, value in next(batches.iterate(1)).items()}
    found = learner.losses(learner.build().cuda(), batch)
    assert torch.stack(list(found.values())).isfinite().all()


def test_nothing_was_told_of_a_batch_without_captions(learner: GuessAsRead, batches: ToGuess) -> None:
    silent = replace(learner, tokens=replace(learner.tokens, caption_drop=1.0))
    found = silent.losses(silent.build(), next(batches.iterate(1)))
    assert found["guessed"] == 0
    assert all(value.isfinite() for value in found.values())


def test_a_reader_of_another_codebook_does_not_teach(learner: GuessAsRead, tmp_path: Path) -> None:
    reading = LearnToReadTokens(learner.tokens)
    reading.save(reading.build(), tmp_path / "token-reader" / "weights")
    replace(learner, reader=str(tmp_path / "token-reader" / "weights")).build()
    tiny.save_vq(tmp_path / "other", seed=5)
    other = replace(learner.tokens, image_tokenizer=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"another tokenizer than .*other; remove that folder"):
        replace(learner, tokens=other, reader=str(tmp_path / "token-reader" / "weights")).build()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_place_that_a_thing_reaches_into_counts_more(shape: str) -> None:
    rng, side, px = np.random.default_rng(0), 8, 64
    scenes = [
        Scene((Thing(shape, "red", "small", *rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.25)),), "white")
        for _ in range(40)
    ]
    for scene, weights in zip(scenes, train._weights(scenes, side), strict=True):
        (thing,) = scene.things
        v, u = (np.mgrid[:px, :px] + 0.5) / px
        inside = distance(shape, (u - thing.x) / thing.radius, (v - thing.y) / thing.radius) < 0
        reached = inside.reshape(side, px // side, side, px // side).any((1, 3))
        assert (weights.numpy()[reached] == train.THINGS_WEIGH).all()
        assert (weights == 1).any()


def test_a_small_reader_learns_to_read_ids(learner: GuessAsRead, batches: ToGuess) -> None:
    reading = LearnToReadTokens(learner.tokens)
    torch.manual_seed(0)
    net = reading.build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    ids = torch.arange(2).repeat(16).view(32, 1, 1).expand(-1, SIDE, SIDE) * 5
    targets = torch.tensor([STAR, [1] * 4 + [4] * 4 + [0]] * 16)
    for _ in range(40):
        found = reading.losses(net, {"latents": ids.float(), "targets": targets})
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert found["right"] > 0.7  # some grids are mixed up beyond what can be read


def test_the_reader_trains_apart_from_the_painter(learner: GuessAsRead) -> None:
    from reverie.learn.fit import decay_groups

    net = learner.build()
    own = {id(weight) for group in decay_groups(net, 0.01, {}, learner.apart)[2:] for weight in group["params"]}
    assert own == {id(weight) for weight in net.reader.parameters()}


def test_without_a_reader_there_is_no_teaching(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="--only token-reader token-painter"):
        train.main(tmp_path, ("token-painter",), num_scenes=500)
    assert not (tmp_path / "token-painter").exists()


def test_guesses_are_of_every_guidance_up_to_that_of_paintings(
    learner: GuessAsRead, batches: ToGuess, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = learner.build()
    found: list[tuple[Tensor, Tensor]] = []
    guessed = GuessAsRead._guessed

    def seen(self: GuessAsRead, logits: Tensor, *rest: Tensor) -> Tensor:
        found.append((logits, rest[1]))
        return guessed(self, logits, *rest)

    monkeypatch.setattr(GuessAsRead, "_guessed", seen)
    batch = next(batches.iterate(1))
    scales = []
    for seed in range(20):
        torch.manual_seed(seed)
        learner.losses(net, batch)
        torch.manual_seed(seed)
        hidden = (batch["weights"] > 1) & (torch.arange(6) % 2 == 0)[:, None, None]
        shown = learner.tokens.shown(batch, hidden)
        with torch.no_grad():
            told = net.predictor(shown.visible, shown.words)
            plain = net.predictor(shown.visible, learner.tokens.tokens([""]).expand_as(shown.words))
        for ours, own, without in zip(found[-1][0], told, plain, strict=True):
            scale = ((ours - without) * (own - without)).sum() / (own - without).square().sum()
            torch.testing.assert_close(ours, without + scale * (own - without), atol=1e-4, rtol=1e-3)
            scales.append(scale.item())
    assert min(scales) == pytest.approx(1, abs=0.1)
    assert max(scales) == pytest.approx(learner.guidance, abs=0.1)
