"""What is printed of what a run will take."""

from __future__ import annotations

from reverie.report.foreseen import words
from reverie.run.estimate import Estimate, Span, StepEstimate


def test_a_run_that_makes_no_captions_says_so() -> None:
    painter = StepEstimate("painter", "TrainPainter", "learn", steps=10, seconds=Span(60, 90, 120), tried="6 steps")
    lines = words(Estimate("text_to_image", "cpu", 0, None, 0, None, (painter,), 0.5))
    assert lines[0] == "text_to_image on cpu: no captions are made"
    assert lines[1].startswith("time: about 1 min 30 s (1 min to 2 min)")


def test_totals_say_what_they_lack() -> None:
    read = StepEstimate("captions", "ReadCorpus", "source", seconds=Span(0, 0, 0), disk_bytes=9, tried="all of it")
    wrote = StepEstimate(
        "texts", "WriteCaptions", "source", seconds=Span(60, 90, 120), disk_bytes=2000, tried="3 units"
    )
    paint = StepEstimate("paint", "PaintPixels", "paint", unknown="not tried: no weights here")
    after = StepEstimate("blank", "Blank", "score", unknown="not tried: it reads paint")
    page = StepEstimate("page", "Page", "page", unknown="not tried: it writes the page at the end")

    def told(*steps: StepEstimate) -> list[str]:
        return words(Estimate("make", "cpu", 3, 12, 1, None, steps, 0.5, price_per_hour=60))[1:4]

    assert told(read, paint, after, page) == [f"{what}: not known without paint" for what in ("disk", "time", "cost")]
    assert told(read, wrote, paint, after, page) == [
        "disk: at least 2.01 kB without paint",
        "time: at least 1 min 30 s (1 min to 2 min) without paint, one step after the other",
        "cost: at least 1.50 (1.00 to 2.00) without paint at 60 an hour",
    ]
    assert [line[:11] for line in told(read, wrote, page)] == ["disk: about", "time: about", "cost: about"]
    assert [line[:11] for line in told(read)] == ["disk: about", "time: about", "cost: about"]


def test_captions_images_and_units_are_counted() -> None:
    lines = words(Estimate("make", "cpu", 3, 12, 1, None, (), 0.5))
    assert lines == ["make on cpu: 3 captions, 12 images, 1 unit"]
