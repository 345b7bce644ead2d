from __future__ import annotations

import warnings

from reverie.report.facts import Arm, Measured
from reverie.report.plots import by_class, growth


def arm(name: str, *values: float) -> Arm:
    return Arm(name, True, {"accuracy": dict(enumerate(values))}, ())


def test_growth_draws_a_line_for_arms_that_differ_by_a_number():
    few = Measured("a", (arm("mixed, guided, 1 shot", 0.5, 0.6, 0.7), arm("zero-shot", 0.4)), (), {})
    many = Measured("b", (arm("mixed, guided, 16 shots", 0.7, 0.8, 0.9), arm("other, 4 shots", 0.1)), (), {})
    drawn = growth([few, many])
    assert "mixed, guided: 60.0% at 1, 80.0% at 16" in drawn
    assert "zero-shot" in drawn
    assert "other" not in drawn  # one number makes no line


def test_growth_of_photos_and_painted_images():
    names = (
        "10 real a class",
        "50 real a class",
        "10 painted a class",
        "50 painted a class",
        "10 real and 50 painted a class",
    )
    drawn = growth([Measured("a", tuple(arm(name, 0.2) for name in names), (), {})])
    assert "real a class: 20.0% at 10, 20.0% at 50; painted a class: 20.0% at 10, 20.0% at 50" in drawn


def test_no_growth_where_arms_have_no_number():
    assert growth([Measured("a", (arm("StableRep", 0.3), arm("SimCLR", 0.2)), (), {})]) is None


def test_emoji_and_other_scripts_are_letters_that_the_page_draws_in_its_own_font():
    whole, cut = "👩\u200d🚀 woman", "a" * 33 + "👩\u200d🚀 and more"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of matplotlib, whose fonts lack them
        drawn = by_class([(name, 0.5) for name in (whole, "🐶 dog", "犬", cut, "b" * 34 + "👍🏽 up")], "share")
    for name in (whole, "🐶 dog", "犬", "a" * 33 + "…", "b" * 34 + "…"):
        assert f">{name}</text>" in drawn
    assert "font-family" not in drawn
