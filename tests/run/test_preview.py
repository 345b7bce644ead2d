"""A look before the run: which captions it takes, which steps, and that they are those of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reverie.errors import InputError
from reverie.filters.keep import Keep
from reverie.run.engine import run
from reverie.run.plan import Plan, Step
from reverie.run.preview import Sampled, preview_of
from reverie.stage import Job, Role, StepContext
from tests.run.fake_recipe import Brightness, PaintNoise, Sentences, fake_recipe

Rows = Callable[[Path], dict[str, list[dict[str, Any]]]]


@dataclass(frozen=True)
class Learn(Job):
    """Leaves weights, which others read."""

    model: str = ""

    def run(self, context: StepContext) -> None:
        raise AssertionError("a preview trains nothing")


@dataclass(frozen=True)
class Measure(Learn):
    role: ClassVar[Role] = "measure"


def with_trainings() -> Plan:
    plan = fake_recipe(count=30)
    return replace(
        plan,
        steps=(
            *plan.steps[:3],
            Step("keep", Keep("status = 'ok'"), inputs=("brightness",)),
            Step("net", Learn(), inputs=("keep",)),
            Step("again", Brightness(), inputs=("paint", "net")),
            Step("page", Measure(), inputs=("net",)),
        ),
    )


def test_captions_and_images_are_those_of_the_run(tmp_path: Path, rows: Rows) -> None:
    plan = with_trainings()
    small = preview_of(plan, 5)
    assert [step.name for step in small.steps] == ["captions", "paint", "brightness", "keep"]
    assert run(small, tmp_path / "some")
    assert run(replace(plan, steps=plan.steps[:4]), tmp_path / "all")
    some, whole = rows(tmp_path / "some"), rows(tmp_path / "all")
    for table, key in (("captions", "caption_id"), ("pairs", "pair_id")):
        known = {row[key]: row for row in whole[table]}
        assert some[table], table
        for row in some[table]:
            assert row | {"unit": 0} == known[row[key]] | {"unit": 0}
    texts = [row["text"] for row in some["captions"] if row["status"] == "ok"]
    assert sorted(texts) == sorted(f"a sentence about {place}" for place in (0, 6, 12, 18, 24))
    assert len(some["pairs"]) == 10


def test_it_says_what_it_leaves_out() -> None:
    notes = preview_of(with_trainings(), 5).notes
    assert notes == ("a preview, 5 of 30 captions, spread evenly", "left out of it: net, again, page")


def test_more_captions_than_there_are_is_all_of_them() -> None:
    small = preview_of(fake_recipe(count=3), 100)
    assert small.num_captions == 3


@pytest.mark.parametrize(("total", "count", "together"), [(30, 5, 1), (31, 7, 3), (10, 10, 4), (9, 8, 8), (100, 10, 4)])
def test_places_differ_and_are_in_the_source(total: int, count: int, together: int) -> None:
    sampled = Sampled(Sentences(total), count, together)
    places = [sampled._place(place, total) for place in range(count)]
    assert places == sorted(set(places))
    assert places[0] >= 0
    assert places[-1] < total


def test_what_reads_a_model_that_the_run_trains_is_left_out() -> None:
    plan = with_trainings()
    painted = Step("other", Measure("step:net"), inputs=("keep",))
    assert "other" not in [step.name for step in preview_of(replace(plan, steps=(*plan.steps, painted)), 2).steps]


def test_nothing_to_look_at_is_said_in_a_line() -> None:
    with pytest.raises(InputError, match=r"has nothing to look at before its trainings: it begins with 'net'"):
        preview_of(Plan("mine", (Step("net", Learn()),)), 5)


def test_pictures_are_kept_only_to_look_at() -> None:
    @dataclass(frozen=True)
    class Forgets(PaintNoise):
        keep_images: bool = False

    plan = Plan("mine", (Step("captions", Sentences(3)), Step("paint", Forgets(), inputs=("captions",))))
    kept = [preview_of(plan, 2, images=images).step("paint").stage.keep_images for images in (True, False)]  # type: ignore[union-attr]
    assert kept == [True, False]
