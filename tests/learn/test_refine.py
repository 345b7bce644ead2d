import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F

from reverie.errors import InputError
from reverie.learn.refine import Refine, gradient, nearest_other, refine


def rows(num, dim=12, seed=0):
    return F.normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def loss_of(images, texts, temperature):
    """The paper's loss, image to text only, by autograd's own functions."""
    logits = F.normalize(images, dim=1) @ texts.T / temperature
    return F.cross_entropy(logits, torch.arange(len(images)))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_the_gradient_in_closed_form_is_autograds(temperature):
    images, texts = (rows(9, seed=1) * torch.linspace(0.5, 2, 9)[:, None]).double(), rows(9, seed=2).double()
    free = images.clone().requires_grad_()
    loss = loss_of(free, texts, temperature)
    (expected,) = torch.autograd.grad(loss, free)
    found, slope = gradient(images, texts, temperature)
    torch.testing.assert_close(found, loss.detach())
    torch.testing.assert_close(slope, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


def test_alike_sentences_are_not_held_against_each_other():
    texts = rows(5)
    texts[1] = texts[0]
    images = rows(5, seed=3)
    loss, _ = gradient(images, texts, 0.1, alike=0.95)
    logits = images @ texts.T / 0.1
    logits[0, 1] = logits[1, 0] = -math.inf
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.arange(5)))


def test_a_pass_is_adam_with_unit_length_after_it():
    images, texts = rows(8, seed=1), rows(8, seed=2)
    free = images.clone().requires_grad_()
    adam = torch.optim.Adam([free], lr=1e-2)
    for _ in range(5):
        adam.zero_grad()
        loss_of(free, texts, 0.1).backward()
        adam.step()
        with torch.no_grad():
            free.copy_(F.normalize(free, dim=1))
    found = refine(images, texts, Refine(5, 1e-2, batch=8, temperature=0.1, guard=False, alike=2.0))
    torch.testing.assert_close(found.rows, free.detach(), atol=1e-5, rtol=1e-4)


def test_it_nears_the_own_sentence_and_stops_where_it_is_told():
    images, texts = rows(300, 32, seed=1), rows(300, 32, seed=2)
    free = refine(images, texts, Refine(200, 5e-3, guard=False))
    cosines = [row["cosine"] for row in free.curve]
    assert free.stop_reason == "all steps"
    assert len(cosines) == 201
    assert cosines[0] < 0.1 < 0.5 < cosines[-1]
    aimed = refine(images, texts, Refine(200, 5e-3, guard=False, target=0.3))
    assert 0.3 <= aimed.curve[-1]["cosine"] < 0.35
    assert "target" in aimed.stop_reason
    guarded = refine(images, texts, Refine(200, 5e-3))
    assert "guard" in guarded.stop_reason
    assert guarded.curve[-1]["cosine"] == pytest.approx(nearest_other(texts), abs=0.05)
    torch.testing.assert_close(refine(images, texts, Refine(0)).rows, images)


def test_the_guard_looks_at_the_weight_of_the_own_sentence():
    content, kinds = rows(200, 48, seed=2), rows(2, 48, seed=3)  # a gap between the two kinds, as CLIP has it
    texts = F.normalize(content + 1.5 * kinds[0], dim=1)
    images = F.normalize(content + 1.5 * rows(200, 48, seed=1) + 2 * kinds[1], dim=1)

    def share(found):
        weights = (found @ texts.T / 0.03).softmax(1)
        return float(weights.diagonal().mean())

    how = Refine(40, 2e-3, batch=64, temperature=0.03, max_own=0.5)
    free = refine(images, texts, dataclasses.replace(how, guard=False))
    found = refine(images, texts, how)
    assert share(images) < 0.4
    assert share(free.rows) > 0.55
    assert 0.5 <= share(found.rows) < 0.55
    assert found.curve[-1]["own"] == pytest.approx(share(found.rows), abs=1e-5)
    assert all(row["own"] < 0.5 for row in found.curve[:-1])
    assert f"{share(found.rows):.0%} of its weight on its own sentence, which no photo has" in found.stop_reason
    assert "own" not in free.curve[-1]
    # Where the own sentence is hidden from the projection, its weight is of no account.
    hidden = refine(images, texts, dataclasses.replace(how, max_own=1.0))
    assert len(hidden.curve) > len(found.curve)
    assert refine(images, texts, dataclasses.replace(how, max_own=0.01)).steps == 0


def test_killed_it_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    images, texts, how = rows(64, seed=1), rows(64, seed=2), Refine(6, batch=16, guard=False)
    monkeypatch.setattr("reverie.learn.refine.SAVE_EVERY_S", 0.0)
    told = []

    def report(kind, **facts):
        told.append(facts["done"])
        if told == [1, 2, 3]:
            raise KeyboardInterrupt

    whole = refine(images, texts, how)
    with pytest.raises(KeyboardInterrupt):
        refine(images, texts, how, folder=tmp_path, report=report)
    again = refine(images, texts, how, folder=tmp_path, report=report)
    assert told == [1, 2, 3, 4, 5, 6]  # the third pass was saved before it was told
    assert again.rows.equal(whole.rows)
    assert again.curve == whole.curve
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert json.loads((tmp_path / "refine.json").read_text())["done"] == 6


def test_a_sentence_that_is_there_twice_is_not_its_own_nearest():
    texts = rows(10)
    texts[3] = texts[4]
    cosines = (texts @ texts.T).masked_fill(texts @ texts.T > 0.9999, -1)
    assert nearest_other(texts) == pytest.approx(float(cosines.max(1).values.median()))
    assert nearest_other(texts[:1]) == nearest_other(texts[:1].repeat(5, 1)) == 1.0


def test_slips():
    with pytest.raises(InputError, match="do not fit"):
        refine(rows(3), rows(4), Refine())
    with pytest.raises(InputError, match="give 0 and 2 or more"):
        Refine(batch=1)
    with pytest.raises(InputError, match="above 0"):
        Refine(lr=0)
    with pytest.raises(InputError, match=r"in \(0, 1\]"):
        Refine(max_own=0)
