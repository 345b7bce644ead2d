from __future__ import annotations

import warnings

import pytest
from matplotlib.figure import Figure

from reverie.arms import Factor
from reverie.report.facts import ArmFacts, Measured
from reverie.report.plots import _bars, by_class, growth, over_human_pairs


def arm(name: str, *values: float, **factors: Factor) -> ArmFacts:
    return ArmFacts(name, name, True, {"top1": dict(enumerate(values))}, (), factors)


def measured(*arms: ArmFacts, protocol: str = "classifier") -> Measured:
    return Measured("measure", protocol, arms, (), {})


def test_growth_draws_a_line_for_arms_that_differ_by_a_number() -> None:
    guided = {"order": "mixed", "strategy": "guided"}
    few = measured(arm("a", 0.5, 0.6, 0.7, shots=1, **guided), arm("zero-shot", 0.4, shots=0))
    many = measured(arm("b", 0.7, 0.8, 0.9, shots=16, **guided), arm("c", 0.1, shots=4, strategy="other"))
    drawn = growth([few, many])
    assert drawn is not None
    assert "mixed, guided: 60.0% at 1, 80.0% at 16" in drawn
    assert "zero-shot" in drawn
    assert "other" not in drawn  # one number makes no line


def test_arms_that_are_called_alike_are_drawn_apart() -> None:
    line = [arm("a", 0.5, shots=1, strategy="guided"), arm("b", 0.7, shots=4, strategy="guided")]
    twins = [ArmFacts(name, "alike", True, {"top1": {0: 0.4}}, (), {}) for name in ("c", "d")]
    one, both = growth([measured(*line, twins[0])]), growth([measured(*line, *twins)])
    assert one is not None
    assert both is not None
    assert both.count("alike") == 2 * one.count("alike") > 0


def test_growth_of_photos_and_painted_images() -> None:
    amounts = ((10, 0), (50, 0), (0, 10), (0, 50), (10, 50))
    arms = [arm(f"{real}-{painted}", 0.2, real=real, painted=painted) for real, painted in amounts]
    drawn = growth([measured(*arms, protocol="fine-tuning")])
    assert drawn is not None
    assert "real a class: 20.0% at 10, 20.0% at 50; painted a class: 20.0% at 10, 20.0% at 50" in drawn


@pytest.mark.parametrize(
    ("values", "low", "high"), [((-1, -1, -1), -1, 0), ((-0.4, 0.2, -0.2), -0.6, 0.3), ((0.5, 0.5, 0.6), 0, 0.6)]
)
def test_bars_of_a_trend_are_whole_on_both_sides_of_zero(values: tuple[float, ...], low: float, high: float) -> None:
    falls = ArmFacts("gain", "gain", True, {"spearman": dict(enumerate(values))}, (), {})
    axes = Figure().add_subplot()
    _bars(axes, measured(falls, protocol="trend"), [falls], "spearman", {"gain": "#000000"}, wide=True)
    first, last = axes.get_xlim()
    assert first <= low <= 0 <= high < last
    assert (first == 0) == (low == 0)


def test_no_growth_where_arms_have_no_number() -> None:
    assert growth([measured(arm("StableRep", 0.3), arm("SimCLR", 0.2))]) is None
    assert growth([measured(arm("a", 0.3, shots=1), arm("b", 0.2, shots=4), protocol="linear-probe")]) is None


def test_emoji_and_other_scripts_are_letters_that_the_page_draws_in_its_own_font():
    whole, cut = "👩\u200d🚀 woman", "a" * 33 + "👩\u200d🚀 and more"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of matplotlib, whose fonts lack them
        drawn = by_class([(name, 0.5) for name in (whole, "🐶 dog", "犬", cut, "b" * 34 + "👍🏽 up")], "share")
    for name in (whole, "🐶 dog", "犬", "a" * 33 + "…", "b" * 34 + "…"):
        assert f">{name}</text>" in drawn
    assert "font-family" not in drawn


def test_scores_over_human_pairs_have_a_tick_at_each_number() -> None:
    drawn = over_human_pairs({"alone": [(200, 12.5, (12, 13)), (600, 20, None), (1800, 30, None)]}, "F1")
    assert "alone: 12.5 at 200, 20.0 at 600, 30.0 at 1800" in drawn
    for tick in ("200", "600", "1,800"):
        assert f">{tick}</text>" in drawn
    assert ">1000<" not in drawn
