from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from reverie.errors import StoreError
from reverie.evaluate.claims import Claim, beats, gains_more, judge, judge_all, read_looks
from reverie.evaluate.looks import Looks, levels
from reverie.evaluate.power import detectable
from reverie.evaluate.significance import rank_luck
from reverie.store.results import append

from ..records import result

A = {0: 0.50, 1: 0.54, 2: 0.52}
B = {0: 0.40, 1: 0.43, 2: 0.43}


A_BEATS_B = beats("r/s/a", "r/s/b")


def claim(terms=A_BEATS_B, **how):
    return Claim("1", "a beats b", "+10", terms, **how)


def test_the_interval_is_the_t_interval_of_paired_differences():
    found = judge(claim(), {"r/s/a": A, "r/s/b": B})
    gains = np.array([A[seed] - B[seed] for seed in A])
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert found.verdict == "holds"
    assert found.mean == pytest.approx(gains.mean())
    assert (found.low, found.high) == pytest.approx((low, high))


def test_it_can_say_no():
    assert judge(claim(beats("r/s/b", "r/s/a")), {"r/s/a": A, "r/s/b": B}).verdict == "fails"
    same = {0: 0.5, 1: 0.3, 2: 0.4}, {0: 0.4, 1: 0.4, 2: 0.4}
    assert judge(claim(), {"r/s/a": same[0], "r/s/b": same[1]}).verdict == "inconclusive"


@pytest.mark.parametrize("looks", [None, Looks((3,), 5)])
def test_seeds_that_have_the_same_number_say_nothing_of_chance(looks):
    found = judge(claim((("r/s/a", 1.0),), above=2.5), {"r/s/a": dict.fromkeys(range(3), 1.0)}, looks=looks)
    assert (found.verdict, found.low, found.high) == ("inconclusive", 1, 1)
    assert found.words == "all 3 seeds have the same number, so nothing is known of chance"
    each = {"r/s/a": {seed: ("photos", np.array([0.9, 1.1, 1.0])) for seed in range(3)}}
    assert judge(claim((("r/s/a", 1.0),), above=2.5), {"r/s/a": dict.fromkeys(range(3), 1.0)}, each).verdict == "fails"


@pytest.mark.parametrize("num", [1, 2])
def test_few_seeds_say_nothing(num):
    few = [{seed: values[seed] for seed in range(num)} for values in (A, B)]
    found = judge(claim(), {"r/s/a": few[0], "r/s/b": few[1]})
    assert found.verdict == "inconclusive"
    assert found.mean == pytest.approx(0.1, abs=0.02)


def test_an_arm_that_is_missing_is_named():
    found = judge(claim(), {"r/s/a": A})
    assert found.verdict == "inconclusive"
    assert found.words == "not measured: r/s/b"
    assert found.mean is None


def test_more_gain_than_another_pair():
    measured = {"a": A, "b": B, "c": {0: 0.6, 1: 0.61, 2: 0.6}, "d": {0: 0.59, 1: 0.6, 2: 0.6}}
    assert judge(claim(gains_more("a", "b", "c", "d")), measured).verdict == "holds"
    assert judge(claim(gains_more("c", "d", "a", "b")), measured).verdict == "fails"


def test_a_bound_other_than_zero():
    measured = {"r/s/a": A, "r/s/b": {0: 0.51, 1: 0.545, 2: 0.528}}  # a is worse, by about a point
    assert judge(claim(above=-0.015), measured).verdict == "holds"
    found = judge(claim(), measured)
    assert found.verdict == "fails"
    assert found.mean == pytest.approx(-0.00767, abs=1e-4)
    assert judge(claim(above=0.2), {"r/s/a": A, "r/s/b": B}).verdict == "fails"


def test_within():
    alike = {"r/s/a": A, "r/s/b": {seed: value + 1e-4 * seed for seed, value in A.items()}}
    assert judge(claim(within=0.01), alike).verdict == "holds"
    assert judge(claim(within=1e-9), {"r/s/a": A, "r/s/b": B}).verdict == "fails"
    assert judge(claim(within=0.095), {"r/s/a": A, "r/s/b": B}).verdict == "inconclusive"


def test_one_number_serves_all_seeds_where_nothing_is_drawn():
    found = judge(claim(fixed=("r/s/b",)), {"r/s/a": A, "r/s/b": {0: 0.4}})
    assert found.by_seed == pytest.approx({0: 0.1, 1: 0.14, 2: 0.12})
    assert found.verdict == "holds"


def test_results_of_several_runs_are_judged_and_written(tmp_path):
    for run, values in (("one", A), ("two", B)):
        found = [result(arm="arm", seed=seed, value=value) for seed, value in values.items()]
        append(tmp_path / run / "results.jsonl", *found)
    (found,) = judge_all([claim(beats("one/probe/arm", "two/probe/arm"))], tmp_path, {"one": "one", "two": "two"})
    assert found.verdict == "holds"
    (written,) = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert written["verdict"] == "holds"
    assert written["claim"]["paper"] == "+10"


def asked(seed: int, share: float, num: int = 400) -> tuple[str, np.ndarray]:
    return "photos", np.random.default_rng(seed).random(num) < share


def test_the_interval_allows_for_other_photos():
    """Seeds that agree say nothing of other photos: the verdict must not rest on them alone."""
    base = np.arange(400) < 200
    gains = base.copy()
    gains[[200, 201, 202]] = True  # three photos of 400 more, and none less
    agreeing = {seed: 203 / 400 + seed * 1e-9 for seed in range(3)}
    values = {"r/s/a": agreeing, "r/s/b": dict.fromkeys(range(3), 200 / 400)}
    answers = {
        "r/s/a": dict.fromkeys(range(3), ("photos", gains)),
        "r/s/b": dict.fromkeys(range(3), ("photos", base)),
    }
    assert judge(claim(), values).verdict == "holds"  # by seeds alone
    found = judge(claim(), values, answers)
    assert found.verdict == "inconclusive"
    slow = 1.959964 * np.std([1.0] * 3 + [0.0] * 397, ddof=1) / 20
    assert found.over_photos == pytest.approx(slow)
    assert found.high - found.mean == pytest.approx(slow)


def test_intervals_over_seeds_and_photos_join_as_independent_ones():
    answers = {arm: {seed: asked(seed + place, 0.5) for seed in A} for place, arm in enumerate(("r/s/a", "r/s/b"))}
    alone, photos = judge(claim(), {"r/s/a": A, "r/s/b": B}), judge(claim(), {"r/s/a": A, "r/s/b": B}, answers)
    assert (photos.high - photos.mean) ** 2 == pytest.approx((alone.high - alone.mean) ** 2 + photos.over_photos**2)


def test_photos_of_another_source_are_other_photos():
    bits = asked(0, 0.5)[1]
    terms, values = gains_more("a", "b", "c", "d"), dict.fromkeys("abcd", dict.fromkeys(range(3), 0.5))
    none = np.zeros(400, bool)
    same = {arm: {0: ("one", bits if arm in "ac" else none)} for arm in "abcd"}
    assert judge(claim(terms), values, same).over_photos == 0.0  # the same photos gain in both
    other = {arm: {0: ("one" if arm in "ab" else "two", bits if arm in "ac" else none)} for arm in "abcd"}
    expected = 1.959964 * np.sqrt(2 * bits.astype(float).var(ddof=1) / 400)
    assert judge(claim(terms), values, other).over_photos == pytest.approx(expected)


def drawn(seeds: int, mean: float, seed: int = 0) -> dict[str, dict[int, float]]:
    gains = np.random.default_rng(seed).normal(mean, 0.01, 12)[:seeds]
    return {"r/s/a": dict(enumerate(gains)), "r/s/b": dict.fromkeys(range(seeds), 0.0)}


def test_a_look_that_is_paid_for_is_wider_and_what_it_decided_stays():
    measured = drawn(8, 0.02)
    looks = Looks((3, 5, 8), 12)
    found = judge(claim(), measured, looks=looks)
    gains = np.array(list(measured["r/s/a"].values()))
    lows, highs = zip(
        *(
            stats.ttest_1samp(gains[:number], 0).confidence_interval(1 - level)
            for number, level in zip(looks.seeds, levels(looks), strict=True)
        ),
        strict=True,
    )
    assert (found.low, found.high) == pytest.approx((lows[-1], highs[-1]))
    first = next(number for number, low in enumerate(lows, 1) if low > 0)
    assert found.verdict == "holds"
    assert f"decided at look {first} of 3" in found.words
    assert found.low < judge(claim(), measured).low
    later = measured | {"r/s/b": measured["r/s/b"] | {5: 0.2, 6: -0.2, 7: 0.1}}  # the seeds that came after it are wild
    assert judge(claim(), later).verdict == "inconclusive"
    kept = judge(claim(), later, looks=looks)
    assert kept.verdict == "holds"
    assert kept.low < 0
    assert f"decided at look {first} of 3" in kept.words
    assert "last look alone would decide nothing" in kept.words


@pytest.mark.parametrize(("points", "seeds", "unwidened"), [(3, 3, 0.12), (3, 5, 0.055), (4, 3, 0.07)])
def test_rank_correlations_of_few_points_are_not_decided_by_chance(points, seeds, unwidened):
    """All orders are as likely, drawn one by one; the t-interval alone is wrong in more than 5 %."""
    orders = [stats.spearmanr(range(points), order).statistic for order in itertools.permutations(range(points))]
    drawn = np.random.default_rng(0).choice(orders, size=(20_000, seeds))
    means = abs(drawn.mean(axis=1))
    halves = stats.t.isf(0.025, seeds - 1) * drawn.std(axis=1, ddof=1) / seeds**0.5
    assert (means > halves).mean() > unwidened
    assert (means > np.maximum(halves, rank_luck(points, seeds) + 1e-9)).mean() < 0.05
    assert rank_luck(points, 12) < rank_luck(points, seeds, 0.05) <= rank_luck(points, seeds, 0.01)


def test_a_claim_about_few_points_has_an_interval_that_chance_would_not_leave():
    rises = Claim("T", "", "", (("trend", 1.0),), "spearman", points=3)
    found = judge(rises, {"trend": dict.fromkeys(range(3), 0.5)})
    assert found.verdict == "inconclusive"
    assert (found.low, found.high) == pytest.approx((0.5 - 5 / 6, 0.5 + 5 / 6))
    assert found.could_see() == pytest.approx(5 / 6)
    assert found.needs() == 8
    assert judge(rises, {"trend": dict.fromkeys(range(3), 1.0)}).verdict == "holds"  # one study in 108


def test_looks_that_contradict_each_other_decide_nothing():
    gains = [1.0, 1.001, 0.999, 1.0, 1.0] + [-9.0, -9.001, -8.999] * 10
    measured = {"r/s/a": dict(enumerate(gains)), "r/s/b": dict.fromkeys(range(len(gains)), 0.0)}
    found = judge(claim(), measured, looks=Looks((3, len(gains)), len(gains)))
    assert found.verdict == "inconclusive"
    assert "nothing in common" in found.words


def test_photos_join_at_the_level_of_the_look():
    measured = drawn(3, 0.02)
    answers = {arm: {seed: asked(seed + place, 0.5) for seed in range(3)} for place, arm in enumerate(measured)}
    looks = Looks((3,), 12)
    found = judge(claim(), measured, answers, looks)
    (level,) = levels(looks)
    alone = judge(claim(), measured, None, looks)
    half = found.over_photos / 1.959964 * stats.norm.isf(level / 2)
    assert (found.high - found.mean) ** 2 == pytest.approx((alone.high - alone.mean) ** 2 + half**2)


def test_what_a_claim_could_see_and_what_it_needs():
    measured = drawn(4, 0.004)
    found = judge(claim(above=-0.02), measured)
    gains = np.array(list(measured["r/s/a"].values()))
    assert found.could_see() == pytest.approx(detectable(gains.std(ddof=1), 4))
    assert found.could_see(9) < found.could_see()
    assert found.distance == pytest.approx(gains.mean() + 0.02)  # from its bound
    assert judge(claim(), measured).needs() > found.needs() >= 3
    assert judge(claim(within=0.05), measured).distance == pytest.approx(0.05 - abs(gains.mean()))
    assert judge(claim(), drawn(2, 0.0)).could_see() is None  # no pilot
    assert judge(claim(), {"r/s/a": A}).needs() is None


def test_looks_are_kept_and_read_again(tmp_path):
    assert read_looks(tmp_path) == Looks()
    looks = Looks((3, 5), 12)
    judge_all([claim()], tmp_path, {}, looks)
    assert read_looks(tmp_path) == looks
    written = json.loads((tmp_path / "claims.json").read_text())
    assert [look["level"] for look in written["looks"]] == list(levels(looks))
    assert "spending" in written["rule"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"looks": [{"seeds": "3"}], "max_seeds": 12}',
        b'{"looks": [], "max_seeds": [12]}',
    ],
)
def test_looks_that_are_damaged_are_one_line(tmp_path, content):
    (tmp_path / "claims.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"claims\.json.*judges anew") as caught:
        read_looks(tmp_path)
    assert "\n" not in str(caught.value)
