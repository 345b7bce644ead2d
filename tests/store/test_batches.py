"""Order, draws and slices of training batches, compared with what they are said to be."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie import pairs
from reverie.errors import BrokenImage, InputError
from reverie.store import batches as module
from reverie.store import tables
from reverie.store.batches import CaptionBatches
from reverie.store.pictures import read_square
from tests.store.conftest import captions_of, pairs_of

COPIES = 4


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """14 captions with 4 copies each, in three units."""
    path = tmp_path_factory.mktemp("store") / "pairs.lance"
    for unit, number in enumerate((5, 5, 4)):
        tables.append_unit(path, unit, pairs_of(captions_of(unit, number), COPIES))
    return path


def first(batches, number, start=0):
    return list(itertools.islice(batches.iterate(start), number))


def same(a, b) -> bool:
    plain = {k: v for k, v in a.items() if not torch.is_tensor(v)} == {
        k: v for k, v in b.items() if not torch.is_tensor(v)
    }
    return plain and torch.equal(a["images"], b["images"]) and torch.equal(a["caption"], b["caption"])


def test_what_is_in_a_batch(path):
    batches = CaptionBatches(path, captions=3, images=2, seed=1, size_px=12, columns=("copy",))
    (batch,) = first(batches, 1)
    assert batch["images"].shape == (6, 3, 12, 12)
    assert batch["images"].dtype == torch.uint8
    assert batch["caption"].dtype == torch.int64
    assert torch.equal(batch["caption"][:3], batch["caption"][3:])  # view-major
    assert len(set(batch["caption"][:3].tolist())) == 3
    assert len(batch["text"]) == len(batch["label"]) == 3
    rows = {row["pair_id"]: row for table in tables.scan(path) for row in table.to_pylist()}
    for i, name in enumerate(batch["pair_id"]):
        row = rows[name]
        assert batch["text"][i % 3] == row["text"]
        assert batch["label"][i % 3] == row["label"]
        assert batch["copy"][i] == row["copy"]
        alone = np.empty((12, 12, 3), np.uint8)
        read_square(row["image"], name, alone)
        assert np.array_equal(batch["images"][i].permute(1, 2, 0).numpy(), alone)


def test_small_images_are_decoded_once_and_large_ones_every_time(path, monkeypatch):
    calls = Counter()

    def count(image, name, out):
        calls[name] += 1
        read_square(image, name, out)

    monkeypatch.setattr(module, "read_square", count)
    small = first(CaptionBatches(path, captions=7, images=3, seed=0, size_px=8), 30)
    # Batches in the making at the same time may all decode an image that none of them finds.
    assert max(calls.values()) <= module.AHEAD + 1
    decoded = calls.total()
    calls.clear()
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    large = first(CaptionBatches(path, captions=7, images=3, seed=0, size_px=8), 30)
    assert calls.total() >= 30 * 21 > 2 * decoded
    assert all(same(a, b) for a, b in zip(small, large, strict=True))


def test_an_epoch_visits_every_caption_once_and_drops_the_rest(path):
    batches = CaptionBatches(path, captions=4, images=2, seed=1, size_px=8)
    assert (len(batches), batches.num_captions, batches.left_out) == (3, 14, 0)
    seen = first(batches, 9)
    orders = [[n for batch in seen[3 * e : 3 * e + 3] for n in batch["caption"][:4].tolist()] for e in range(3)]
    assert all(len(set(order)) == 12 for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert first(CaptionBatches(path, captions=4, images=2, seed=2, size_px=8), 1)[0]["pair_id"] != seen[0]["pair_id"]


def test_copies_are_drawn_without_replacement_and_afresh(path):
    batches = CaptionBatches(path, captions=7, images=3, seed=0, size_px=8)
    drawn, chosen = Counter(), set()
    for batch in first(batches, 60):
        for slot in range(7):
            names = batch["pair_id"][slot::7]
            assert len({name[:16] for name in names}) == 1
            assert len(set(names)) == 3
            drawn.update(names)
            chosen.add(tuple(names))
    assert len(drawn) == 14 * COPIES
    assert len(chosen) > 14 * 4
    expected = 60 * 7 * 3 / (14 * COPIES)  # every copy equally often: 22.5, standard deviation about 2.4
    assert max(abs(number - expected) for number in drawn.values()) < 6 * 2.4


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(start=st.integers(0, 40), captions=st.integers(1, 7), images=st.integers(1, COPIES), threads=st.integers(1, 3))
def test_starting_later_continues_exactly(path, start, captions, images, threads):
    whole = CaptionBatches(path, captions, images, seed=3, size_px=8)
    later = CaptionBatches(path, captions, images, seed=3, size_px=8, threads=threads)
    expected = list(itertools.islice(whole.iterate(0), start, start + 2))
    assert all(same(a, b) for a, b in zip(expected, first(later, 2, start), strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_the_joined_batch(path, world):
    joined = first(CaptionBatches(path, 6, 2, seed=5, size_px=8), 4)
    ranks = [first(CaptionBatches(path, 6, 2, seed=5, size_px=8, rank=r, world=world), 4) for r in range(world)]
    for number, whole in enumerate(joined):
        parts = [rank[number] for rank in ranks]
        assert all(len(part["pair_id"]) == 12 // world for part in parts)
        assert [text for part in parts for text in part["text"]] == whole["text"]
        views = [part["images"].unflatten(0, (2, -1)) for part in parts]
        assert torch.equal(torch.cat(views, dim=1).flatten(0, 1), whole["images"])
        views = [part["caption"].unflatten(0, (2, -1)) for part in parts]
        assert torch.equal(torch.cat(views, dim=1).flatten(), whole["caption"])


def test_the_order_does_not_depend_on_how_rows_came_to_be(path, tmp_path):
    """Other commit order, a retry and a compaction: the same batches."""
    other = tmp_path / "pairs.lance"
    for unit, number in ((2, 4), (0, 5), (1, 5)):
        tables.append_unit(other, unit, pairs_of(captions_of(unit, number), COPIES))
    tables.replace_rows(other, tables.read_unit(other, 0).slice(3, 6), "pair_id")
    expected = first(CaptionBatches(path, 4, 2, seed=1, size_px=8), 5)
    assert all(
        same(a, b) for a, b in zip(expected, first(CaptionBatches(other, 4, 2, seed=1, size_px=8), 5), strict=True)
    )
    tables.compact(other, keep_s=0)
    assert all(
        same(a, b) for a, b in zip(expected, first(CaptionBatches(other, 4, 2, seed=1, size_px=8), 5), strict=True)
    )


def test_a_joined_column_selects_without_copying(path, tmp_path):
    import pyarrow as pa

    other, kept = tmp_path / "pairs.lance", tmp_path / "kept.lance"
    for unit in range(2):
        rows = pairs_of(captions_of(unit, 5), COPIES)
        tables.append_unit(other, unit, rows)
        keep = [copy != 0 and not (unit == 0 and i < 4) for i, copy in enumerate(rows["copy"].to_pylist())]
        tables.append_unit(kept, unit, pa.table({"pair_id": rows["pair_id"], "unit": rows["unit"], "kept": keep}))
    tables.add_columns(other, kept)
    batches = CaptionBatches(other, 3, 2, seed=0, size_px=8, where="status = 'ok' and kept", columns=("kept",))
    assert (batches.num_captions, batches.left_out) == (9, 0)
    for batch in first(batches, 12):
        assert all(batch["kept"])
        assert not [name for name in batch["pair_id"] if name.endswith("-000")]
    with pytest.raises(InputError, match=r"has 0 captions with 4 or more images .* \(9 have fewer\)"):
        CaptionBatches(other, 1, 4, seed=0, size_px=8, where="kept")


def test_captions_with_too_few_copies_are_counted(tmp_path):
    path = tmp_path / "pairs.lance"
    rows = pairs_of(captions_of(0, 3), 2).to_pylist()
    rows[1] |= {"status": "failed", "reason": "black"}
    tables.append_unit(path, 0, pairs.table(rows, pairs.PAIRS))
    batches = CaptionBatches(path, 2, 2, seed=0, size_px=8)
    assert (batches.num_captions, batches.left_out) == (2, 1)
    with pytest.raises(InputError, match="a batch wants 3"):
        CaptionBatches(path, 3, 2, seed=0, size_px=8)


def test_sizes_that_do_not_go_together(path):
    with pytest.raises(InputError, match="shared equally by 4"):
        CaptionBatches(path, 6, 2, seed=0, size_px=8, world=4)
    with pytest.raises(InputError, match="rank below world"):
        CaptionBatches(path, 6, 2, seed=0, size_px=8, rank=2, world=2)
    with pytest.raises(InputError, match="does not fit"):
        CaptionBatches(path, 6, 2, seed=0, size_px=8, where="kept")
    with pytest.raises(InputError, match="does not fit"):
        CaptionBatches(path, 6, 2, seed=0, size_px=8, columns=("hash",))
    with pytest.raises(ValueError, match="must not be negative"):
        CaptionBatches(path, 6, 2, seed=0, size_px=8).iterate(-1)


@pytest.mark.parametrize(("image", "error"), [(b"broken", BrokenImage), (None, InputError)])
def test_an_image_that_cannot_be_read_is_named(tmp_path, image, error):
    rows = pairs_of(captions_of(0, 2), 1).to_pylist()
    rows[1] |= {"image": image, "tokens": [1], "grid": [1, 1]}
    tables.append_unit(tmp_path / "p.lance", 0, pairs.table(rows, pairs.PAIRS))
    with pytest.raises(error, match=f"pair {rows[1]['pair_id']}"):
        first(CaptionBatches(tmp_path / "p.lance", 2, 1, seed=0, size_px=8), 1)


def test_stopping_early_leaves_no_thread_behind(path):
    import threading

    before = threading.active_count()
    batches = CaptionBatches(path, 2, 2, seed=0, size_px=8).iterate(0)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_limit_takes_the_same_captions_whatever_the_seed_and_grows_by_adding(path):
    def seen(limit, seed):
        batches = CaptionBatches(path, captions=3, images=2, seed=seed, size_px=8, limit=limit)
        assert batches.num_captions == min(limit, 14)
        return {text for batch in first(batches, 3 * len(batches)) for text in batch["text"]}

    assert seen(6, 0) == seen(6, 1)
    assert len(seen(6, 0)) == 6
    assert seen(6, 0) < seen(12, 0)
    assert CaptionBatches(path, captions=3, images=2, seed=0, size_px=8, limit=100).num_captions == 14


def test_images_alone_and_images_dealt_at_random(path):
    alone = CaptionBatches(path, captions=20, images=1, seed=0, size_px=8, group="image")
    assert alone.num_captions == 14 * COPIES
    batches = first(alone, 2)
    assert len({name for batch in batches for name in batch["pair_id"]}) == 40  # an epoch sees each image once

    def dealt(seed, group):
        batches = CaptionBatches(path, captions=14, images=COPIES, seed=seed, size_px=8, group=group)
        (batch,) = first(batches, 1)
        groups: dict[int, set[str]] = {}
        for number, name in zip(batch["caption"].tolist(), batch["pair_id"], strict=True):
            groups.setdefault(number, set()).add(name)
        return {frozenset(group) for group in groups.values()}

    painted, shuffled = dealt(0, "caption"), dealt(0, "random")
    assert all(len({name.split("-")[0] for name in group}) == 1 for group in painted)
    assert not painted & shuffled
    assert set.union(*map(set, painted)) == set.union(*map(set, shuffled))  # all images are still there
    assert shuffled == dealt(1, "random")


def test_learners_with_other_m_see_the_same_images(tmp_path):
    """The third caption has one image only; with min_images=2 nobody sees it."""
    path = tmp_path / "pairs.lance"
    rows = pairs_of(captions_of(0, 4), 2).to_pylist()
    rows[5] |= {"status": "failed", "reason": "black"}
    tables.append_unit(path, 0, pairs.table(rows, pairs.PAIRS))

    def seen(images, group, min_images):
        batches = CaptionBatches(path, 3, images, seed=0, size_px=8, group=group, min_images=min_images)
        return {name for batch in first(batches, 30) for name in batch["pair_id"]}, batches.left_out

    both, left_out = seen(2, "caption", 2)
    assert seen(1, "caption", 2) == (both, left_out) == (both, 1)
    assert seen(1, "image", 2)[0] == both
    assert seen(1, "caption", 0)[0] == both | {rows[4]["pair_id"]}


def test_one_image_of_a_caption_is_always_the_same_and_the_first_that_there_is(tmp_path):
    """The first image of the third caption failed, so its second one stands for it; all captions are there."""
    path = tmp_path / "pairs.lance"
    rows = pairs_of(captions_of(0, 4), 3).to_pylist()
    rows[6] |= {"status": "failed", "reason": "black"}
    tables.append_unit(path, 0, pairs.table(rows, pairs.PAIRS))

    def seen(**options):
        batches = CaptionBatches(path, 2, 1, seed=0, size_px=8, **options)
        return {name for batch in first(batches, 40) for name in batch["pair_id"]}

    assert seen(max_images=1) == {rows[place]["pair_id"] for place in (0, 3, 7, 9)}
    assert seen(max_images=1, min_images=3) == {rows[place]["pair_id"] for place in (0, 3, 9)}
    assert seen(max_images=2, group="image") == {rows[place]["pair_id"] for place in (0, 1, 3, 4, 7, 8, 9, 10)}
    with pytest.raises(InputError, match="2 images of a caption cannot be drawn from at most 1"):
        CaptionBatches(path, 2, 2, seed=0, size_px=8, max_images=1)
