"""Captions with other shapes, and how the right one is told from them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reverie.builtin.told import TellShapesApart, ToTell, forms_of, other_captions
from reverie.learn.text_to_tokens import TextToTokens, masked
from reverie.learn.train_painter import Curriculum, LatentBatches
from reverie.nets.words import split_words, write_tokenizer
from reverie.smallworld.describe import vocabulary
from reverie.smallworld.scene import SHAPES
from tests.models import tiny

CODES = 12


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> TextToTokens:
    folder = tmp_path_factory.mktemp("told")
    tiny.save_vq(folder / "vq")
    write_tokenizer(folder / "words", split_words(vocabulary()), 16)
    return TextToTokens(
        str(folder / "vq"), str(folder / "words"), grid=4, width=32, layers=1, heads=2, conv_width=32, conv_blocks=1,
        conv_heads=2, text_width=16, text_layers=2, caption_drop=0.0,
    )  # fmt: skip


def words(learner: TextToTokens, ids: torch.Tensor) -> list[str]:
    return [learner._tokenizer().decode(row, skip_special_tokens=True).strip() for row in ids]


def test_every_shape_becomes_another_and_all_else_stays(learner: TextToTokens) -> None:
    texts = ["a red star on the left", "three blue circles", "a red ring above a blue cross", "a black background"] * 50
    forms = forms_of(learner)
    found = words(learner, other_captions(learner.tokens(texts), forms, np.random.default_rng(0)))
    plain = words(learner, learner.tokens(texts))
    ways = set()
    for before, after in zip(plain, found, strict=True):
        old, new = before.split(), after.split()
        assert len(old) == len(new)
        changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        if "background" in old:
            assert not changed
        elif "circles" in old:
            (pair,) = changed
            assert pair[0] == "circles"
            assert pair[1].endswith("s")
            assert pair[1] != "crosss"
        else:
            assert all(a in SHAPES and b in SHAPES for a, b in changed)
            assert len(changed) == sum(word in SHAPES for word in old)
            ways.add((len(changed), {a for a, _ in changed} == {b for _, b in changed}))
    assert ways == {(1, False), (2, True), (2, False)}  # of two, both exchanged, or both others


def test_the_loss_is_that_of_a_loop_under_masks_that_hide_things(learner: TextToTokens) -> None:
    told = TellShapesApart(learner, weight=0.3)
    torch.manual_seed(0)
    net = told.build().eval()
    count = 6
    ids = torch.randint(0, CODES, (count, 4, 4))
    weights = torch.ones(count, 4, 4)
    weights[:, 1:3, 1:3] = 5.0
    own, other = learner.tokens(["a red star"] * count), learner.tokens(["a red ring"] * count)
    batch = {"latents": ids.float(), "token_ids": own, "other_ids": other, "weights": weights}
    torch.manual_seed(4)
    with torch.no_grad():
        found = told.losses(net, batch)
    torch.manual_seed(4)
    usual = learner.losses(net, {"latents": ids[::2].float(), "token_ids": own[::2], "weights": weights[::2]})
    hidden = masked(3, 16).view(3, 4, 4) | (weights[1::2] > 1)
    each, better = [], []
    for row, picture in enumerate(ids[1::2]):
        shown = picture.clone()
        shown[hidden[row]] = CODES
        sums = []
        for text in (own, other):
            with torch.no_grad():
                logits = net(shown[None], text[:1])[0]
            losses = [F.cross_entropy(logits[:, i, j], picture[i, j]).item() for i in (1, 2) for j in (1, 2)]
            sums.append(losses)
        each += sums[0]
        better.append(sum(sums[1]) - sum(sums[0]))
    apart = np.mean([np.log1p(np.exp(-value)) for value in better])
    assert found["told"].item() == pytest.approx(np.mean(each), rel=1e-4)
    assert found["apart"].item() == pytest.approx(apart, rel=1e-4)
    assert found["right"].item() == pytest.approx(np.mean([value > 0 for value in better]))
    assert found["loss"].item() == pytest.approx(usual["loss"].item() + np.mean(each) + 0.3 * apart, rel=1e-4)


def test_batches_are_the_same_wherever_they_begin(learner: TextToTokens) -> None:
    ids, texts = torch.zeros(5, 4, 4), learner.tokens(["a red star", "a red ring", "a cross", "two hearts", "a square"])
    sets = [LatentBatches(ids, texts[:, None], 0, 0, weights=torch.ones(5, 4, 4))]
    batches = ToTell(Curriculum(sets, {0: (1.0,)}, 4, 3), forms_of(learner))
    first = batches.iterate(0)
    next(first)
    for again, there in zip(batches.iterate(1), [next(first), next(first)], strict=False):
        assert again.keys() == there.keys()
        assert all(torch.equal(again[name], there[name]) for name in again)
        assert not torch.equal(again["other_ids"], again["token_ids"])
