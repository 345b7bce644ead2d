from __future__ import annotations

from reverie.report.facts import Arm, Measured
from reverie.report.plots import growth


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
