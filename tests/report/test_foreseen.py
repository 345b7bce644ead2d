"""What is printed of what a run will take."""

from __future__ import annotations

from reverie.report.foreseen import words
from reverie.run.estimate import Estimate, Span, StepEstimate


def test_a_run_that_makes_no_captions_says_so() -> None:
    painter = StepEstimate("painter", "TrainPainter", "learn", steps=10, seconds=Span(60, 90, 120), tried="6 steps")
    lines = words(Estimate("text_to_image", "cpu", 0, None, 0, None, (painter,), 0.5))
    assert lines[0] == "text_to_image on cpu: no captions are made"
    assert lines[1].startswith("time: about 1 min 30 s (1 min to 2 min)")


def test_captions_images_and_units_are_counted() -> None:
    lines = words(Estimate("make", "cpu", 3, 12, 1, None, (), 0.5))
    assert lines == ["make on cpu: 3 captions, 12 images, 1 unit"]
