import io
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from reverie.errors import InputError
from reverie.filters.duplicates import Duplicates, ImageHash, exact_copies, near_copies, perceptual_hashes
from reverie.store import tables
from tests.filters.conftest import all_rows, drawn, encoded, noise, pair_rows, run_columns


def bits_apart(first, second):
    one, two = perceptual_hashes([first, second]).view(np.uint64)
    return int(np.bitwise_count(one ^ two))


def photo(seed, size=96):
    """Smooth random shading, the spectrum of a photo rather than of noise."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC)


def test_hash_half_of_its_bits_are_set():
    bits = np.bitwise_count(perceptual_hashes([photo(seed) for seed in range(8)]).view(np.uint64))
    assert set(bits.tolist()) == {32}


def test_hash_survives_what_leaves_a_picture_alike():
    picture = photo(3)
    jpeg = Image.open(io.BytesIO(encoded(picture, "JPEG", quality=60)))
    assert bits_apart(picture, jpeg) <= 4
    assert bits_apart(picture, picture.resize((64, 64))) <= 4
    assert bits_apart(picture, ImageEnhance.Brightness(picture).enhance(0.8)) <= 4


def test_hash_tells_other_pictures_apart():
    hashes = perceptual_hashes([photo(seed) for seed in range(20)]).view(np.uint64)
    apart = np.bitwise_count(hashes[:, None] ^ hashes)[~np.eye(20, dtype=bool)]
    assert apart.min() > 7
    assert apart.mean() == pytest.approx(32, abs=3)


def by_pairs(original, hashes, thumbnails, max_distance, max_colour):
    """The slow version: every row against every earlier original."""
    found = original.copy()
    for row in range(len(hashes)):
        if original[row] != row:
            found[row] = found[original[row]]
            continue
        others = np.flatnonzero(found[:row] == np.arange(row))
        near = np.bitwise_count((hashes[others] ^ hashes[row]).view(np.uint64)) <= max_distance
        unlike = (
            np.abs(thumbnails[others].astype(int) - thumbnails[row].astype(int)).max(axis=1, initial=0) > max_colour
        )
        found[row] = next(iter(others[near & ~unlike]), row)
    return found


def many(seed, num, centres, max_flips=6):
    """Exact copies, hashes and thumbnails around some centres, in two colours."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, centres, dtype=np.uint64)[random.integers(0, centres, num)]
    for flip in range(max_flips):
        flipped = random.integers(0, max_flips, num) > flip
        hashes[flipped] ^= np.uint64(1) << random.integers(0, 64, int(flipped.sum()), dtype=np.uint64)
    thumbnails = random.integers(0, 2, (num, 48), dtype=np.uint8) * random.choice([0, 30], (num, 1)).astype(np.uint8)
    return exact_copies([f"{int(value) % 997}" for value in hashes]), hashes.view(np.int64), thumbnails


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 7), st.integers(1, 40), st.integers(1, 3))
def test_near_copies_agree_with_comparing_all(seed, max_distance, small, num_agreeing):
    arguments = (*many(seed, 40, 4), max_distance, 24)
    np.testing.assert_array_equal(near_copies(*arguments, small, num_agreeing), by_pairs(*arguments))


@pytest.mark.parametrize("centres", [1, 40, 700])
def test_near_copies_of_more_than_are_compared_all_with_all(centres):
    original, hashes, thumbnails = many(centres, 700, centres)
    for max_distance in (0, 4, 7):
        arguments = (original, hashes, thumbnails, max_distance, 24)
        found = near_copies(*arguments)
        np.testing.assert_array_equal(found, by_pairs(*arguments))
    assert len(set(found.tolist())) < 700 if centres < 700 else len(set(found.tolist())) > 300


def test_nothing_to_compare():
    assert len(near_copies(exact_copies([]), np.zeros(0, np.int64), np.zeros((0, 48), np.uint8), 4, 24)) == 0


def test_a_picture_made_often_costs_no_square_of_memory():
    num = 20_000  # its pairs would take gigabytes
    random = np.random.default_rng(0)
    hashes = np.full(num, 0x0F0F0F0F0F0F0F0F, dtype=np.uint64) ^ (
        np.uint64(1) << random.integers(0, 64, num, np.uint64)
    )
    tracemalloc.start()
    found = near_copies(np.arange(num), hashes.view(np.int64), np.zeros((num, 48), np.uint8), 4, 24)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 0).all()
    assert peak < 100e6


def test_from_pairs_to_the_column(context):
    circle = drawn()
    pictures = [
        circle,
        drawn("rectangle", "blue", (4, 10, 30, 60)),
        circle,  # the same pixels
        encoded(circle, "JPEG", quality=90),  # nearly
        drawn(colour=(0, 76, 255)),  # another colour of about the same grey: no copy
        noise(1, (64, 64)),
        b"broken",
    ]
    rows = pair_rows(pictures, status=["ok"] * 6 + ["failed"])
    tables.append_unit(context.pairs, 0, rows)
    run_columns(ImageHash(), context, "hash", rows.slice(0, 6))
    Duplicates().run(context)
    found = all_rows(context, ["duplicate_of"])
    names = rows["pair_id"].to_pylist()
    same = sorted([names[0], names[2], names[3]])
    expected = {name: same[0] if name in same[1:] else None for name in names}
    assert {name: row["duplicate_of"] for name, row in found.items()} == expected
    ((kind, facts),) = context.report
    assert (kind, facts["num_images"], facts["num_exact"] + facts["num_near"]) == ("duplicates", 6, 2)

    Duplicates(near=False).run(context)  # again, with other settings: the column is made anew
    exact = {name: row["duplicate_of"] for name, row in all_rows(context, ["duplicate_of"]).items()}
    first, second = sorted([names[0], names[2]])
    assert exact == {name: first if name == second else None for name in names}


def test_copies_across_units_point_at_the_earlier_unit(context):
    late, early = pair_rows([drawn()], unit=5), pair_rows([drawn()], unit=2)
    for unit, rows in ((5, late), (2, early)):
        tables.append_unit(context.pairs, unit, rows)
    run_columns(ImageHash(), context, "hash", pa.concat_tables([late, early]))
    Duplicates().run(context)
    found = all_rows(context, ["duplicate_of"])
    assert found[late["pair_id"][0].as_py()]["duplicate_of"] == early["pair_id"][0].as_py()


def test_what_it_needs(context):
    tables.append_unit(context.pairs, 0, pair_rows([drawn()]))
    with pytest.raises(InputError, match="put an ImageHash step before"):
        Duplicates().run(context)
    with pytest.raises(InputError, match="between 0 and 7"):
        Duplicates(max_distance=8).run(context)
