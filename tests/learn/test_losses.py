import math

import pytest
import torch
import torch.nn.functional as F

from reverie.errors import TrainingError
from reverie.learn.losses import entropy_floor, image_text_loss, multi_positive_loss


def features(n, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def ids(n, views):
    """View-major: all captions once, then again."""
    return torch.arange(n).repeat(views)


def slow_multi_positive(rows, captions, temperature):
    """Section 2.5 of the paper's formulas, one number at a time, in double precision."""
    rows = rows.double() / rows.double().norm(dim=1, keepdim=True)
    found = []
    for a in range(len(rows)):
        others = [j for j in range(len(rows)) if j != a]
        positives = [j for j in others if captions[j] == captions[a]]
        total = sum(torch.exp(rows[a] @ rows[j] / temperature) for j in others)
        if positives:
            terms = [torch.log(torch.exp(rows[a] @ rows[j] / temperature) / total) for j in positives]
            found.append(-sum(terms) / len(positives))
    return sum(found) / len(found)


@pytest.mark.parametrize("chunk_rows", [1, 5, 512])
def test_value_and_gradient_equal_the_slow_loop(chunk_rows):
    # Captions with 4, 3, 2 and 1 views: the last is a candidate but no anchor.
    captions = torch.tensor([3, 7, 7, 3, 5, 3, 9, 5, 7, 3])
    rows = features(10).requires_grad_()
    fast = multi_positive_loss(rows, captions, 0.2, chunk_rows=chunk_rows)
    slow = slow_multi_positive(rows, captions, 0.2)
    torch.testing.assert_close(fast, slow.float())
    gradients = [torch.autograd.grad(loss, rows)[0] for loss in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_two_views_are_nt_xent():
    rows, n, temperature = features(12), 6, 0.1
    unit = F.normalize(rows, dim=1)
    total = 0.0
    for a in range(12):
        similar = [math.exp(float(unit[a] @ unit[j]) / temperature) for j in range(12) if j != a]
        total -= math.log(math.exp(float(unit[a] @ unit[(a + n) % 12]) / temperature) / sum(similar))
    assert float(multi_positive_loss(rows, ids(n, 2), temperature)) == pytest.approx(total / 12, rel=1e-5)


@pytest.mark.parametrize(("n", "views"), [(2, 2), (5, 6), (7, 3)])
def test_equal_rows_give_the_log_of_the_number_of_others(n, views):
    loss = multi_positive_loss(torch.ones(n * views, 8), ids(n, views))
    assert float(loss) == pytest.approx(math.log(n * views - 1), rel=1e-5)


@pytest.mark.parametrize("views", [2, 6])
def test_it_is_never_below_the_floor_and_reaches_it(views):
    captions = ids(8, views)
    floor = float(entropy_floor(captions))
    assert floor == pytest.approx(math.log(views - 1), abs=1e-6)
    assert float(multi_positive_loss(features(8 * views), captions)) > floor
    perfect = torch.eye(8).repeat(views, 1)
    assert float(multi_positive_loss(perfect, captions, 0.02)) == pytest.approx(floor, abs=1e-5)


def test_random_unit_vectors_start_where_theory_says():
    loss = multi_positive_loss(features(1200, 256), ids(200, 6), 0.1)
    assert float(loss) == pytest.approx(math.log(1199) + 1 / (2 * 256 * 0.1**2), abs=0.03)


def test_it_does_not_care_about_order_names_or_rotation():
    rows, captions = features(18), ids(6, 3)
    loss = multi_positive_loss(rows, captions)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(1))
    rotation, _ = torch.linalg.qr(features(16, 16, seed=2))
    for other in (
        multi_positive_loss(rows[order], captions[order]),
        multi_positive_loss(rows, 1000 - 7 * captions),
        multi_positive_loss(rows @ rotation, captions),
        multi_positive_loss(rows * torch.rand(18, 1).add(0.5), captions),
    ):
        torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)


def test_half_precision_features_are_compared_in_float32():
    rows = features(40).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = multi_positive_loss(rows, ids(10, 4))
    torch.testing.assert_close(loss, multi_positive_loss(rows.float(), ids(10, 4)))


def test_labels_are_read_every_time():
    rows = features(8)
    losses = {float(multi_positive_loss(rows, captions)) for captions in (ids(4, 2), ids(2, 4), torch.arange(8) // 2)}
    assert len(losses) == 3


def test_useless_batches_are_errors():
    with pytest.raises(TrainingError, match="2 or more images per caption"):
        multi_positive_loss(features(4), torch.arange(4))
    with pytest.raises(ValueError, match="4 features but 3"):
        multi_positive_loss(features(4), torch.arange(3))
    with pytest.raises(ValueError, match="temperature"):
        multi_positive_loss(features(4), ids(2, 2), 0.0)


def slow_image_text(images, texts, scale):
    images = images.double() / images.double().norm(dim=1, keepdim=True)
    texts = texts.double() / texts.double().norm(dim=1, keepdim=True)
    n, views = len(texts), len(images) // len(texts)
    to_text = 0
    for i in range(len(images)):
        shares = torch.stack([torch.exp(scale * images[i] @ text) for text in texts])
        to_text -= torch.log(shares[i % n] / shares.sum())
    to_image = 0
    for i in range(n):
        shares = torch.stack([torch.exp(scale * texts[i] @ image) for image in images])
        for view in range(views):
            to_image -= torch.log(shares[view * n + i] / shares.sum()) / views
    return 0.5 * (to_text / len(images) + to_image / n)


@pytest.mark.parametrize("views", [1, 3])
def test_image_text_loss_equals_the_slow_loop(views):
    inputs = [
        features(4 * views).requires_grad_(),
        features(4, seed=1).requires_grad_(),
        torch.tensor(9.0, requires_grad=True),
    ]
    fast, slow = image_text_loss(*inputs), slow_image_text(*inputs)
    torch.testing.assert_close(fast, slow.float())
    for a, b in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_image_text_loss_wants_whole_captions():
    with pytest.raises(ValueError, match="5 images are not a multiple of 2 texts"):
        image_text_loss(features(5), features(2), torch.tensor(1.0))
