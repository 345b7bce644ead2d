import dataclasses

import pytest
import torch

from reverie import pairs
from reverie.errors import InputError
from reverie.images.features import PaintFeatures
from reverie.images.pixels import PaintPixels
from reverie.stage import StepContext

STAGE = PaintFeatures(PaintPixels("builtin:painter", per_caption=2, steps=1, scheduler="ddim"), keep_images=True)


def captions(*texts):
    rows = [
        {"caption_id": pairs.caption_id(0, "scene", n), "unit": 0, "text": text, "status": "ok"}
        for n, text in enumerate(texts)
    ]
    return pairs.table(rows, pairs.CAPTIONS)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    context = StepContext(tmp_path_factory.mktemp("run"), "paint")
    return STAGE.open(context)(captions("a red circle", "", "a blue star"))


def test_a_row_has_its_features_and_one_that_failed_has_none(rows):
    found = rows.to_pylist()
    assert [row["status"] for row in found] == ["ok", "ok", "failed", "failed", "ok", "ok"]
    for row in found:
        if row["status"] == "failed":
            assert row["embedding"] is row["clip_score"] is row["tags"] is None
        else:
            assert torch.tensor(row["embedding"]).norm() == pytest.approx(1.0, abs=1e-5)
            assert -1 <= row["clip_score"] <= 1


def test_features_do_not_depend_on_what_is_kept_nor_on_the_batch(rows, tmp_path):
    stage = dataclasses.replace(STAGE, keep_images=False, speed=dataclasses.replace(STAGE.speed, batch_size=1))
    other = stage.open(StepContext(tmp_path, "paint"))(captions("a red circle", "", "a blue star"))
    assert other["image"].null_count == len(other)
    assert rows["image"].null_count == 2
    assert other["pair_id"].equals(rows["pair_id"])
    for mine, theirs in zip(other["embedding"].to_pylist(), rows["embedding"].to_pylist(), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(torch.tensor(mine), torch.tensor(theirs), atol=1e-5, rtol=0)


def test_slips():
    with pytest.raises(InputError, match="threshold"):
        PaintFeatures(threshold=1.5)
    with pytest.raises(InputError, match="max_tags"):
        PaintFeatures(max_tags=0)
