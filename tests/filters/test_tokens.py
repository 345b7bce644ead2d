"""Filters of image tokens: exact copies by ids alone, and pictures for those that need them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reverie import pairs
from reverie.errors import InputError
from reverie.filters.blank import Blank
from reverie.filters.keep import Keep
from reverie.filters.tokens import Decoded, TokenHash
from reverie.models.token_pictures import TokenPictures, grid_of
from reverie.models.tokenizer import open_tokenizer
from reverie.stage import StepContext, fingerprint, settings
from reverie.store.pictures import as_png
from tests.models import tiny


@pytest.fixture(scope="module")
def vq(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_vq(tmp_path_factory.mktemp("vq") / "model"))


def table(*rows: dict[str, Any]) -> pa.Table:
    whole = [
        {"pair_id": f"{n}-000", "caption_id": str(n), "copy": 0, "unit": 0, "status": "ok", **row}
        for n, row in enumerate(rows)
    ]
    return pairs.table(whole, pairs.PAIRS)


def ids(seed: int, codebook: str) -> dict[str, Any]:
    tokens = np.random.default_rng(seed).integers(0, 12, 16).tolist()
    return {"tokens": tokens, "grid": [4, 4], "codebook": codebook}


def test_equal_ids_of_one_codebook_and_grid_have_one_digest(tmp_path: Any) -> None:
    one = ids(1, "a")
    given = table(one, ids(2, "a"), one, {**one, "codebook": "b"}, {**one, "grid": [2, 8]}, {})
    found = TokenHash().open(StepContext(tmp_path, "hash"))(given)
    digests = found["pixels"].to_pylist()
    assert digests[0] == digests[2]
    assert len(set(digests)) == 5
    assert digests[5] is None
    assert found["hash"].null_count == found["thumbnail"].null_count == 6


def test_a_filter_sees_what_the_ids_show_beside_what_is_a_picture_already(vq: str, tmp_path: Any) -> None:
    tokenizer = open_tokenizer(vq)
    some = [ids(n, tokenizer.codebook_name) for n in range(3)]
    black = as_png(Image.new("RGB", (8, 8)))
    given = table(some[0], {"image": black}, some[1], {}, some[2])
    step = Decoded(Blank(), vq)
    assert set(step.reads) == {"image", "tokens", "grid", "codebook"}
    assert step.adds == Blank.adds
    context = StepContext(tmp_path, "blank")
    found = step.open(context)(given)
    pictures = tokenizer.pictures(np.stack([grid_of(row) for row in some]))
    images = [as_png(Image.fromarray(picture)) for picture in pictures]
    plain = Blank().open(context)(table(*[{"image": each} for each in (images[0], black, images[1], None, images[2])]))
    assert found["spread"].to_pylist() == plain["spread"].to_pylist()
    assert found["spread"].null_count == 1
    assert fingerprint(settings(step)) != fingerprint(settings(Decoded(Blank(0.1), vq)))
    with pytest.raises(InputError, match="Keep is no filter"):
        Decoded(Keep(), vq)  # type: ignore[arg-type]


def test_ids_of_another_codebook_out_of_range_or_beside_their_grid_are_refused(vq: str, tmp_path: Any) -> None:
    work = Decoded(Blank(), vq).open(StepContext(tmp_path, "blank"))
    name = open_tokenizer(vq).codebook_name
    with pytest.raises(
        InputError, match=r"image tokens of codebook feed cannot be turned into pictures.*tried: model@"
    ):
        work(table(ids(1, "feed")))
    with pytest.raises(InputError, match="id 99 is none of model@"):
        work(table({"tokens": [99] * 16, "grid": [4, 4], "codebook": name}))
    with pytest.raises(InputError, match=r"pair 0-000: 15 image tokens do not fill a grid of \[4, 4\]"):
        work(table({"tokens": [1] * 15, "grid": [4, 4], "codebook": name}))
    with pytest.raises(InputError, match="none was found"):
        TokenPictures([]).png({"pair_id": "x", **ids(1, name)})
