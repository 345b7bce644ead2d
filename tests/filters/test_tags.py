import dataclasses

import pyarrow as pa
import pytest

from reverie.captions.templates import FillTemplates
from reverie.errors import InputError, ModelError, UnknownName
from reverie.filters.tags import Tags
from reverie.models import detector
from reverie.run.engine import run
from reverie.run.plan import Plan, Step
from reverie.store import tables
from reverie.store.pictures import Speed
from tests.filters.conftest import drawn, encoded, noise, pair_rows
from tests.filters.test_in_a_run import Draw
from tests.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.save_rt_detr(tmp_path_factory.mktemp("detector") / "tiny"))


def seen(context, pictures, stage):
    return stage.open(context)(pair_rows(pictures).select(["pair_id", "unit", *stage.reads]))


def test_what_the_detector_finds(context, folder):
    pictures = [noise(seed, (30 + seed, 24)) for seed in range(5)]
    found = detector.open_detector(folder).find(pictures, 0.5, 1000)
    limit = sorted(item.score for some in found for item in some)[len(found) // 2] + 1e-4
    made = seen(context, pictures, Tags(folder, threshold=limit))
    assert made.column_names == ["pair_id", "unit", "tags", "tag_scores"]
    for row, some in zip(made.to_pylist(), found, strict=True):
        best = {item.name: item.score for item in reversed(some) if item.score > limit}  # sorted: the surest is last
        assert dict(zip(row["tags"], row["tag_scores"], strict=True)) == pytest.approx(best, abs=1e-5)
        assert row["tag_scores"] == sorted(row["tag_scores"], reverse=True)
    first = seen(context, pictures, Tags(folder, threshold=0.0, max_tags=1, speed=Speed(2)))
    assert first["tags"].to_pylist() == [[some[0].name] for some in detector.open_detector(folder).find(pictures, 0.0)]


def test_nothing_seen_is_empty_and_no_image_is_null(context, folder):
    made = seen(context, [noise(1), None, b"not an image", encoded(noise(2))[:60]], Tags(folder, threshold=1.0))
    assert made["tags"].to_pylist() == made["tag_scores"].to_pylist() == [[], None, None, None]
    assert made["tags"].type == pa.list_(pa.string())
    assert made["tag_scores"].type == pa.list_(pa.float32())


@pytest.mark.parametrize("options", [{"threshold": 1.1}, {"threshold": -1}, {"max_tags": 0}])
def test_options_that_cannot_be(options):
    with pytest.raises(InputError, match=r"cannot be|is no score"):
        Tags(**options)


def test_unknown_and_unsuited_models(context, tiny_clip, tmp_path):
    with pytest.raises(UnknownName):
        Tags("builtin:detectr").check()
    with pytest.raises(ModelError):
        Tags(str(tmp_path / "nowhere")).check()
    with pytest.raises(ModelError, match="what is needed here is an object detector"):
        Tags(str(tiny_clip)).check()
    Tags().check()


def plan(stage):
    captions = FillTemplates(("red circle", "blue square"), ("a {class}", "the {class}", "one {class}"), per_class=3)
    steps = (
        Step("captions", captions),
        Step("draw", Draw(), inputs=("captions",)),
        Step("tags", stage, inputs=("draw",)),
    )
    return Plan(recipe="test", unit_size=2, steps=steps)


def test_killed_and_run_again(tmp_path, folder, monkeypatch):
    stage = Tags(folder, threshold=0.3)
    assert run(plan(stage), tmp_path / "untouched")
    inner, calls = detector.Detector.find, []

    def find(self, *given):
        calls.append(len(given[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(self, *given)

    monkeypatch.setattr(detector.Detector, "find", find)
    with pytest.raises(KeyboardInterrupt):
        run(plan(stage), tmp_path / "killed")
    done = len(tables.done_units(tmp_path / "killed" / "columns" / "tags.lance"))
    assert 0 < done < 3
    assert run(plan(dataclasses.replace(stage, speed=Speed(3))), tmp_path / "killed")
    rows = [
        {row["pair_id"]: row for part in tables.scan(tmp_path / name / "pairs.lance") for row in part.to_pylist()}
        for name in ("untouched", "killed")
    ]
    assert rows[0].keys() == rows[1].keys()
    for pair, row in rows[0].items():
        assert row["tags"] == rows[1][pair]["tags"]
        assert row["tag_scores"] == pytest.approx(rows[1][pair]["tag_scores"], abs=1e-5)
    assert any(row["tags"] for row in rows[0].values())


def test_builtin_tags_of_a_drawing(context):
    """A picture that the small world's camera did not take."""
    made = seen(context, [drawn("ellipse", (220, 30, 40), (18, 18, 46, 46), (242, 242, 240))], Tags(threshold=0.3))
    assert made["tags"].to_pylist()[0][:1] == ["red circle"]
