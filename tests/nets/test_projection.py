import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.errors import InputError
from reverie.models.support_set import cached_projection
from reverie.nets.projection import nearest, own_weight, project


def rows(num, dim=16, seed=0):
    return F.normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def dense(features, support, temperature):
    """The formula of the paper, all at once and in double precision."""
    cosines = F.normalize(features.double(), dim=1) @ support.double().T
    weights = (cosines / temperature).softmax(1)
    return weights, weights @ support.double()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 60),
    st.floats(0.005, 3),
    st.integers(1, 50),
    st.integers(1, 70),
    st.integers(0, 99),
)
def test_tile_by_tile_equals_all_at_once(num, support, temperature, tall, wide, seed):
    features, known = rows(num, seed=seed) * 3, rows(support, seed=seed + 1)
    _, sums = dense(features, known, temperature)
    found = project(features, known, temperature, unit=False, tile=(tall, wide))
    torch.testing.assert_close(found.rows.double(), sums, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        project(features, known, temperature, tile=(tall, wide)).rows.norm(dim=1), torch.ones(num)
    )


def test_weights_sum_to_one_and_rows_lie_in_the_convex_hull():
    # Over a support set of unit axes the weights themselves can be read off.
    known, features = torch.eye(12), rows(30, 12)
    weights = project(features, known, 0.05, unit=False, tile=(7, 5)).rows
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(30))
    torch.testing.assert_close(weights.double(), dense(features, known, 0.05)[0], atol=1e-6, rtol=1e-5)


def test_towards_zero_it_is_the_nearest_sentence_and_towards_infinity_the_mean():
    known, features = rows(50, seed=1), rows(20, seed=2)
    cosines, numbers = nearest(features, known, 3, tile=7)
    torch.testing.assert_close(project(features, known, 1e-5).rows, known[numbers[:, 0]], atol=1e-5, rtol=0)
    mean = F.normalize(known.mean(0, keepdim=True), dim=1).expand(20, -1)
    torch.testing.assert_close(project(features, known, 1e6).rows, mean, atol=1e-4, rtol=0)
    order = (features @ known.T).sort(1, descending=True)
    assert (numbers == order.indices[:, :3]).all()
    torch.testing.assert_close(cosines, order.values[:, :3])


def test_the_k_nearest_and_what_they_leave_out():
    known, features = rows(80, seed=1), rows(9, seed=2)
    weights, _ = dense(features, known, 0.05)
    top = weights.sort(1, descending=True)
    found = project(features, known, 0.05, top_k=7, unit=False, tile=(4, 11))
    torch.testing.assert_close(found.left_out.double(), 1 - top.values[:, :7].sum(1), atol=1e-5, rtol=1e-4)
    kept = torch.zeros_like(weights).scatter(1, top.indices[:, :7], top.values[:, :7])
    expected = kept / kept.sum(1, keepdim=True) @ known.double()
    torch.testing.assert_close(found.rows.double(), expected, atol=1e-5, rtol=1e-4)
    every = project(features, known, 0.05, top_k=1000)
    assert every.left_out.max() < 1e-5
    torch.testing.assert_close(every.rows, project(features, known, 0.05).rows, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_feature_does_not_see_its_own_sentences(top_k):
    known = rows(20, seed=1)
    groups = torch.arange(20) // 2
    features = known[::2]
    found = project(features, known, 0.001, own=(groups[::2], groups), top_k=top_k, tile=(3, 4)).rows
    cosines = (features @ known.T).masked_fill(groups[::2][:, None] == groups[None], -1)
    torch.testing.assert_close(found, F.normalize((cosines / 0.001).softmax(1) @ known, dim=1), atol=1e-4, rtol=0)
    assert not torch.allclose(found, project(features, known, 0.001, top_k=top_k).rows, atol=0.1)


def test_half_precision_on_disk_is_computed_in_single():
    known, features = rows(30, seed=1), rows(5, seed=2)
    assert torch.equal(project(features, known.half(), 0.01).rows, project(features, known.half().float(), 0.01).rows)


def test_a_projection_on_disk_goes_on_and_never_meets_other_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("reverie.models.support_set.PART", 10)
    known, features, told = rows(30, seed=1), rows(25, seed=2), []

    def report(kind, **facts):
        told.append(facts["done"])
        if told == [10, 20]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_projection(features, known, 0.01, tmp_path, report=report)
    found = cached_projection(features, known, 0.01, tmp_path, report=report)
    assert told == [10, 20, 25]
    torch.testing.assert_close(found, project(features, known, 0.01).rows)
    cached_projection(features, known, 0.01, tmp_path, report=report)
    assert told == [10, 20, 25]
    other = cached_projection(features, known.flip(0), 0.01, tmp_path)
    torch.testing.assert_close(other, found, atol=1e-5, rtol=1e-4)  # the same set, but another name
    assert len(list(tmp_path.glob("*.safetensors"))) == 6
    hotter = cached_projection(features, known, 0.5, tmp_path)
    assert not torch.allclose(hotter, found, atol=0.1)


def test_slips():
    known = rows(3)
    with pytest.raises(InputError, match="empty"):
        project(known, torch.empty(0, 16))
    with pytest.raises(InputError, match="above 0"):
        project(known, known, 0.0)
    with pytest.raises(InputError, match="leave exclude_self out"):
        project(known[:1], known[:1], own=(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)))
    assert project(torch.empty(0, 16), known).rows.shape == (0, 16)


@pytest.mark.parametrize("top_k", [0, 1, 3, 50])
@pytest.mark.parametrize("tile", [1, 4, 100])
def test_the_weight_of_the_own_sentence_is_that_of_the_softmax(top_k, tile):
    generator = torch.Generator().manual_seed(0)
    support = F.normalize(torch.randn(20, 6, generator=generator), dim=1)
    support[7] = support[3]  # the same sentence twice
    features = support[:9] + 0.8 * torch.randn(9, 6, generator=generator)
    own = support[:9].clone()
    own[8] = F.normalize(torch.randn(6, generator=generator), dim=0)  # a sentence that is not there
    found = own_weight(features, own, support, 0.2, top_k=top_k, tile=tile)
    for row, share in enumerate(found.tolist()):
        logits = F.normalize(features[row], dim=0) @ support.T / 0.2
        kept = set(logits.topk(min(top_k or 20, 20)).indices.tolist())
        weights = {number: math.exp(logits[number]) for number in kept}
        mine = [number for number in kept if torch.equal(support[number], own[row])]
        assert share == pytest.approx(sum(weights[number] for number in mine) / sum(weights.values()), abs=1e-5)
    assert found[8] == 0
    # It is the weight that the projection gives: what is left when the own rows are taken out is the rest.
    if not top_k:
        mixed = project(features[:3], support, 0.2, unit=False).rows
        numbers = torch.arange(20)
        numbers[7] = 3
        rest = project(features[:3], support, 0.2, unit=False, own=(torch.arange(3), numbers)).rows
        torch.testing.assert_close(found[:3, None] * own[:3] + (1 - found[:3, None]) * rest, mixed)
