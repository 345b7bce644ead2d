"""Captions to ids unit by unit, and pictures of a store to ids beside them."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import pairs, seeds, stage
from reverie.errors import InputError, StoreError
from reverie.images.pixels import PaintPixels, PaintSpeed, PaintWorker
from reverie.images.tokens import PaintTokens, Tokenize, TokenWorker, tokenize_store
from reverie.models.token_painter import open_token_painter, painted_ids
from reverie.models.tokenizer import open_tokenizer
from reverie.stage import StepContext
from reverie.store import tables
from reverie.store.pictures import as_png
from tests.images.test_pixels import SEED, captions, context
from tests.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.save_amused(tmp_path_factory.mktemp("amused") / "model"))


def paint(tmp_path, folder, *texts, **settings):
    return PaintTokens(folder, **settings).open(context(tmp_path))(captions(*texts))


def test_each_caption_gets_its_copies_as_ids_and_no_image(tmp_path, folder):
    table = paint(tmp_path, folder, "a red circle", "a blue square", per_caption=3, guidance=2.0, steps=4)
    assert table.schema == pairs.PAIRS
    rows = table.to_pylist()
    assert [row["pair_id"] for row in rows] == [pairs.pair_id(f"3-{n}", copy) for n in range(2) for copy in range(3)]
    painter = open_token_painter(folder)
    for row in rows:
        seed = seeds.image_seed(SEED, row["caption_id"], row["copy"])
        (ids,) = painted_ids(painter, [row["text"]], [seed], 2.0, 4)
        assert row["tokens"] == ids.ravel().tolist()
        expected = {
            "grid": [4, 4],
            "codebook": painter.tokenizer.codebook_name,
            "width": 16,
            "height": 16,
            "seed": seed,
        }
        expected |= {"painter": painter.revision, "scheduler": "masked, cosine", "steps": 4, "guidance": 2.0}
        expected |= {"origin": "painted", "status": "ok", "image": None}
        assert expected.items() <= row.items()
    tables.append_unit(tmp_path / "pairs.lance", 3, table)
    again = tables.read_unit(tmp_path / "pairs.lance", 3)
    assert again["tokens"].to_pylist() == table["tokens"].to_pylist()
    assert again.get_total_buffer_size() < 200 * len(rows) + 4096


def test_ids_do_not_depend_on_the_batch_and_pictures_may_be_kept_beside(tmp_path, folder):
    texts = ["a red circle", "a blue square", "a cat"]
    settings = {"per_caption": 2, "guidance": 3.0, "steps": 4}
    one = paint(tmp_path, folder, *texts, **settings, speed=PaintSpeed(batch=1), keep_images=True)
    many = paint(tmp_path, folder, *texts, **settings)
    assert one["tokens"].to_pylist() == many["tokens"].to_pylist()
    tokenizer = open_tokenizer(folder)
    for row in one.to_pylist():
        shown = np.asarray(Image.open(io.BytesIO(row["image"])))
        assert (shown == tokenizer.pictures(np.array(row["tokens"], np.int32).reshape(1, 4, 4))[0]).all()
    # The same pipeline as a painter of pixels shows what the ids of the same seeds decode to.
    pixels = PaintPixels(folder, per_caption=2, guidance=3.0, steps=4).open(context(tmp_path))(captions(*texts))
    assert [np.asarray(Image.open(io.BytesIO(image))).tolist() for image in pixels["image"].to_pylist()] == [
        np.asarray(Image.open(io.BytesIO(image))).tolist() for image in one["image"].to_pylist()
    ]


class Fakes:
    """Paints the same id everywhere, or none that is finite."""

    revision, scheduler, size_px, text_limit, num_cut = "fake@1", "masked, cosine", 8, 77, 0

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encode(self, texts):
        return {"prompt": list(texts)}

    def words_unknown(self, texts):
        return []

    def sample_ids(self, embeddings, seeds, guidance, steps):
        rows = []
        for text, seed in zip(embeddings["prompt"], seeds, strict=True):
            if text == "breaks":
                raise RuntimeError("this caption breaks the network")
            ids = torch.randint(0, 12, (2, 2), generator=torch.Generator().manual_seed(seed))
            ids[0, 0] = (ids[1, 1] + 1) % 12
            rows.append({"same": torch.full((2, 2), 3), "nan": torch.full((2, 2), -1)}.get(text, ids))
        return torch.stack(rows)


def test_what_cannot_be_painted_is_accounted_for(tmp_path, folder):
    fake = Fakes(open_tokenizer(folder))
    worker = TokenWorker(PaintTokens(per_caption=2), fake, context(tmp_path))
    rows = worker(captions("a", "same", "nan", "breaks", None)).to_pylist()
    assert [row["status"] for row in rows[::2]] == ["ok", "dropped", "failed", "failed", "failed"]
    assert "of one token" in rows[2]["reason"]
    assert "not finite" in rows[4]["reason"]
    assert rows[6]["reason"] == "RuntimeError: this caption breaks the network"
    assert rows[2]["seed"] == seeds.image_seed(SEED, "3-1", 0, attempt=1), "it was tried with a second seed"
    assert [row["tokens"] is None for row in rows[::2]] == [False, False, True, True, True]
    assert [row["grid"] for row in rows[::2]] == [[2, 2], [2, 2], None, None, None]
    assert isinstance(worker, PaintWorker)


def test_guidance_is_recorded_as_a_scale_in_either_writing(tmp_path, folder):
    settings = {"per_caption": 1, "steps": 3}
    scale = paint(tmp_path, folder, "a cat", guidance=3.0, **settings).to_pylist()
    muse = paint(tmp_path, folder, "a cat", guidance=2.0, writing="muse", **settings).to_pylist()
    assert scale == muse
    assert scale[0]["guidance"] == 3.0
    ramp = paint(tmp_path, folder, "a cat", guidance=3.0, ramp=True, **settings).to_pylist()
    assert ramp[0]["scheduler"] == "masked, cosine, guidance ramp"
    assert stage.fingerprint(stage.settings(PaintTokens(ramp=True))) != stage.fingerprint(stage.settings(PaintTokens()))


def test_settings_that_cannot_be_are_refused(tmp_path, folder):
    for wrong in ({"guidance": 0.5}, {"steps": 0}, {"per_caption": 0}, {"writing": "other"}):
        with pytest.raises(InputError):
            PaintTokens(**wrong)
    PaintTokens(guidance=0.5, writing="muse")
    other = tiny.save_vq(tmp_path / "other", seed=9)
    with pytest.raises(InputError, match=r"the codebook of other@\w+ is not the one of model@"):
        PaintTokens(folder, tokenizer=str(other)).open(context(tmp_path))
    PaintTokens(folder, tokenizer=folder).open(context(tmp_path))


def test_real_pictures_become_ids_beside_them(tmp_path, folder):
    noise = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3)).astype(np.uint8)
    images = [as_png(Image.fromarray(picture)) for picture in noise]
    rows = [
        {"pair_id": f"{n}-000", "caption_id": str(n), "copy": 0, "unit": 0, "image": image, "status": "ok"}
        for n, image in enumerate([*images, None, b"no picture"])
    ]
    given = pairs.table(rows, pairs.PAIRS)
    step = Tokenize(folder)
    found = step.open(StepContext(tmp_path, "tokens"))(given.select(["pair_id", "unit", *step.reads]))
    assert found.column_names == ["pair_id", "unit", "tokens", "grid", "codebook"]
    tokenizer = open_tokenizer(folder)
    for n, row in enumerate(found.to_pylist()):
        if n > 2:
            assert row["tokens"] is row["grid"] is row["codebook"] is None
            continue
        middle = Image.fromarray(noise[n]).resize((16, 16), Image.Resampling.BICUBIC, (4, 0, 28, 24))
        assert row["tokens"] == tokenizer.ids(np.asarray(middle)[None]).ravel().tolist()
        assert (row["grid"], row["codebook"]) == ([4, 4], tokenizer.codebook_name)
    larger = dataclasses.replace(step, size_px=24).open(StepContext(tmp_path, "tokens"))(given)
    assert larger["grid"].to_pylist()[0] == [6, 6]
    with pytest.raises(InputError, match="each id is 4 px wide"):
        Tokenize(folder, size_px=18).open(StepContext(tmp_path, "tokens"))


def store(folder, images, tokens=None):
    rows = [
        {
            "pair_id": f"{n:016x}-000", "caption_id": f"{n:016x}", "copy": 0, "unit": n // 2, "text": "a cat", "image": image,
            "status": "ok" if image or tokens else "failed", "tokens": tokens,
        }
        for n, image in enumerate(images)
    ]  # fmt: skip
    for unit in range(-(-len(rows) // 2)):
        part = [row for row in rows if row["unit"] == unit]
        tables.append_unit(folder / "pairs.lance", unit, pairs.table(part, pairs.PAIRS))


def test_a_store_gets_ids_beside_its_pictures_and_others_in_their_place(tmp_path, folder):
    noise = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    store(tmp_path / "photos", [*(as_png(Image.fromarray(picture)) for picture in noise), None])
    assert tokenize_store(tmp_path / "photos", Tokenize(folder)) == 5
    tokenizer = open_tokenizer(folder)
    path = tmp_path / "photos" / "pairs.lance"
    rows = [row for part in tables.scan(path) for row in part.to_pylist()]
    assert [row["tokens"] for row in rows[:5]] == tokenizer.ids(noise).reshape(5, 16).tolist()
    assert rows[5]["tokens"] is None
    assert all(row["image"] for row in rows[:5])
    other = tiny.save_vq(tmp_path / "other", seed=3)
    assert tokenize_store(tmp_path / "photos", Tokenize(str(other))) == 5
    names = {row["codebook"] for part in tables.scan(path, ["codebook"]) for row in part.to_pylist()}
    assert names == {open_tokenizer(str(other)).codebook_name, None}
    assert not list((tmp_path / "photos" / "columns").iterdir())
    # The table goes on as one: a later unit has its columns too.
    tables.append_unit(path, 9, pairs.table([{**rows[0], "pair_id": "x-000", "unit": 9}], pairs.PAIRS))


def test_ids_that_are_all_there_is_are_never_replaced(tmp_path, folder):
    store(tmp_path / "ids", [None, None], tokens=[1] * 16)
    with pytest.raises(InputError, match="holds no pictures"):
        tokenize_store(tmp_path / "ids", Tokenize(folder))
    picture = as_png(Image.new("RGB", (16, 16)))
    mixed = [{"pair_id": "a-000", "image": picture}, {"pair_id": "b-000", "tokens": [1] * 16, "grid": [4, 4]}]
    common = {"caption_id": "a", "copy": 0, "unit": 0, "status": "ok"}
    tables.append_unit(tmp_path / "mixed" / "pairs.lance", 0, pairs.table([common | r for r in mixed], pairs.PAIRS))
    with pytest.raises(StoreError, match="would overwrite codebook, grid, tokens"):
        tokenize_store(tmp_path / "mixed", Tokenize(folder))


def test_a_table_from_before_there_were_codebooks_takes_what_has_none(tmp_path):
    row = {"pair_id": "a-000", "caption_id": "a", "copy": 0, "unit": 0, "status": "ok"}
    tables.append_unit(tmp_path / "old.lance", 0, pairs.table([row], pairs.PAIRS).drop_columns("codebook"))
    tables.append_unit(tmp_path / "old.lance", 1, pairs.table([{**row, "pair_id": "b-000", "unit": 1}], pairs.PAIRS))
    assert tables.count(tmp_path / "old.lance") == 2
    tokens = {**row, "pair_id": "c-000", "unit": 2, "tokens": [1], "grid": [1, 1], "codebook": "feed"}
    with pytest.raises(StoreError, match="has no column codebook"):
        tables.append_unit(tmp_path / "old.lance", 2, pairs.table([tokens], pairs.PAIRS))
