import numpy as np
import pytest
import torch

from reverie.errors import UnknownName
from reverie.filters.clip_score import ClipScore
from reverie.models.encoder import open_encoder
from reverie.store.pictures import Speed
from tests.filters.conftest import encoded, noise, pair_rows


def scored(stage, context, rows):
    return stage.open(context)(rows.select(["pair_id", "unit", *stage.reads]))


def test_is_the_cosine_of_image_and_caption(context, tiny_clip):
    pictures = [noise(seed) for seed in range(5)]
    texts = ["a red circle", "a red circle", "two dog", "a cat on grey", "a cat on grey"]
    encoder = open_encoder(str(tiny_clip))
    expected = (encoder.images(pictures) * encoder.texts(texts)).sum(dim=1)
    rows = pair_rows(pictures, texts=texts)
    found = scored(ClipScore(str(tiny_clip)), context, rows)
    torch.testing.assert_close(torch.tensor(found["clip_score"].to_numpy()), expected)
    assert found["pair_id"].equals(rows["pair_id"])
    assert found.column_names == ["pair_id", "unit", "clip_score"]
    small = scored(ClipScore(str(tiny_clip), speed=Speed(batch_size=2)), context, rows)
    np.testing.assert_allclose(small["clip_score"].to_numpy(), expected, rtol=1e-5)


def test_null_where_there_is_nothing_to_score(context, tiny_clip):
    pictures = [noise(1), None, b"not an image", encoded(noise(2))[:60], noise(3)]
    rows = pair_rows(pictures, texts=["a cat", "a cat", "a cat", "a cat", None])
    found = scored(ClipScore(str(tiny_clip)), context, rows)["clip_score"].to_pylist()
    assert found[0] is not None
    assert found[1:] == [None] * 4


def test_texts_that_are_cut_are_counted_once(context, tiny_clip):
    rows = pair_rows([noise(1), noise(2), noise(3)], texts=["cat dog " * 10, "cat dog " * 10, "a cat"])
    scored(ClipScore(str(tiny_clip)), context, rows)
    ((kind, facts),) = context.report
    assert (kind, facts["num_cut"], facts["num_texts"]) == ("text_cut", 1, 2)


def test_unknown_model(context):
    with pytest.raises(UnknownName):
        ClipScore("builtin:clipp").open(context)
