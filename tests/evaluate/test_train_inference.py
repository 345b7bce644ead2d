import math

import numpy as np
import pytest

from reverie.errors import InputError
from reverie.evaluate.train_inference import (
    against_shift,
    area_under,
    best_on_their_own,
    matched_advantages,
    matrix,
    steps_to,
    which_weights,
)
from tests.records import result

ARMS = ("alt", "short", "long")
MATCHES = {arm: arm for arm in ARMS}


def measured(values, metric="soa_i:judge", seeds=(0, 1, 2)):
    """Records of values[arm][prompts], a little other for each seed."""
    return [
        result(arm=arm, split=prompt, seed=seed, metric=metric, protocol="generation", value=values[row][column] + 0.001 * seed * (row + 1))
        for seed in seeds
        for row, arm in enumerate(ARMS)
        for column, prompt in enumerate(ARMS)
    ]  # fmt: skip


VALUES = [[0.6, 0.4, 0.2], [0.5, 0.7, 0.5], [0.3, 0.6, 0.8]]


def test_matrix_and_matched_advantage_by_hand():
    made = matrix(measured(VALUES, seeds=(2, 0, 1)), "soa_i:judge")
    assert (made.arms, made.prompts, made.seeds) == (ARMS, ARMS, (0, 1, 2))
    assert made.values[0].tolist() == [pytest.approx(row) for row in VALUES]
    found = matched_advantages(made, MATCHES)
    assert found["alt"].mean == pytest.approx(0.6 - (0.5 + 0.3) / 2 + 0.001 * (1 - 2.5))
    assert found["long"].mean == pytest.approx(0.8 - (0.2 + 0.5) / 2 + 0.001 * (3 - 1.5))
    assert found["long"].verdict == "holds"
    assert best_on_their_own(made, MATCHES) == {"alt": True, "short": True, "long": True}
    other = matrix(measured([[0.6, 0.8, 0.2], *VALUES[1:]]), "soa_i:judge")
    assert best_on_their_own(other, MATCHES)["short"] is False


def test_errors_are_better_when_low():
    made = matrix(measured([[0.6, 1.4, 1.2], [1.5, 0.7, 1.5], [1.3, 1.6, 0.8]], "ca:judge"), "ca:judge")
    assert all(best_on_their_own(made, MATCHES).values())
    assert all(one.mean > 0 for one in matched_advantages(made, MATCHES).values())


def test_loss_against_shift():
    made = matrix(measured(VALUES), "soa_i:judge")
    shift = {(a, q): abs(ARMS.index(a) - ARMS.index(q)) * 1.0 for a in ARMS for q in ARMS}
    found = against_shift(made, shift)
    assert set(found) == {0, 1, 2}
    assert all(value > 0.8 for value in found.values())
    turned = {place: -value for place, value in shift.items()}
    assert against_shift(made, turned)[0] == pytest.approx(-found[0])
    del shift["alt", "long"]
    with pytest.raises(InputError, match="how far the captions of alt lie from long"):
        against_shift(made, shift)


def test_what_makes_no_matrix():
    records = measured(VALUES)
    with pytest.raises(InputError, match="there is no pa:judge"):
        matrix(records, "pa:judge")
    with pytest.raises(InputError, match="measured twice"):
        matrix([*records, records[0]], "soa_i:judge")
    with pytest.raises(InputError, match="soa_i:judge of alt on alt with seed 0 was not measured"):
        matched_advantages(matrix(records[1:], "soa_i:judge"), MATCHES)
    with pytest.raises(InputError, match="the matrix has no mix on alt"):
        best_on_their_own(matrix(records, "soa_i:judge"), {"mix": "alt"})
    alone = matrix([record for record in records if record.arm == "alt"], "soa_i:judge")
    with pytest.raises(InputError, match="nothing to be better than"):
        matched_advantages(alone, {"alt": "alt"})


def test_which_weights_by_hand():
    values = {
        ("unet", "alt"): 0.4,
        ("text", "alt"): 0.3,
        ("both", "alt"): 0.5,
        ("unet", "mix"): 0.7,
        ("both", "mix"): 0.6,
    }
    records = [
        result(arm=f"{parts}-{captions}", seed=seed, metric="qa:judge", value=value + 0.01 * seed, factors={"parts": parts, "captions": captions})
        for (parts, captions), value in values.items()
        for seed in range(3)
    ]  # fmt: skip
    alt, mix = which_weights(records, "qa:judge")
    assert (alt.captions, mix.captions) == ("alt", "mix")
    assert alt.means["unet"] == pytest.approx(0.41)
    assert alt.less_both["text"].mean == pytest.approx(-0.2)
    assert mix.less_both["unet"].mean == pytest.approx(0.1)
    assert "both" not in alt.less_both
    with pytest.raises(InputError, match="with the factors parts and captions"):
        which_weights(measured(VALUES), "soa_i:judge")


def test_sample_efficiency():
    curve = [(1, 0.0), (10, 0.2), (100, 0.6)]
    assert steps_to(curve, 0.4) == pytest.approx(math.sqrt(10 * 100))
    assert steps_to(curve, 0.2) == pytest.approx(10)
    assert steps_to(curve, -1) == 1
    assert steps_to(curve, 0.7) is None
    assert area_under(curve) == pytest.approx((0.1 + 0.4) / 2)
    assert area_under([(5, 0.3), (50, 0.3)]) == pytest.approx(0.3)
    for wrong in ([], [(0, 1.0)], [(2, 0.1), (2, 0.2)], [(3, 0.1), (2, 0.2)]):
        with pytest.raises(InputError, match="each once and in order"):
            steps_to(wrong, 0.1)
    with pytest.raises(InputError, match="at least two points"):
        area_under([(1, 0.5)])
    assert np.isfinite(area_under(curve))
