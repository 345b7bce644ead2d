"""The sampler of ids, against what the paper and the library say, and that no image knows its batch."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from reverie.errors import InputError, ModelError, UnknownName
from reverie.models import token_painter
from reverie.models.painter import open_painter, pick
from reverie.models.token_painter import (
    drawn,
    guidance_scales,
    gumbel,
    num_masked,
    open_token_painter,
    painted_ids,
    temperature,
)
from tests.images import pipelines
from tests.models import tiny

TEXTS = ["a red circle", "a blue square", "the green triangle", "two cat", "a dog", "red", "a photo of a cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_amused(tmp_path_factory.mktemp("amused") / "model")


@pytest.fixture(scope="module")
def painter(folder):
    return open_token_painter(str(folder))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_ids_of_an_image_do_not_depend_on_its_batch(painter, guidance):
    embeddings = painter.encode(TEXTS)
    seven = painter.sample_ids(embeddings, range(7), guidance, 5)
    assert seven.shape == (7, 4, 4)
    for size in (1, 2):
        parts = [
            painter.sample_ids(pick(embeddings, list(range(7))[start : start + size]), range(7)[start : start + size], guidance, 5)
            for start in range(0, 7, size)
        ]  # fmt: skip
        assert torch.equal(torch.cat(parts), seven)
    assert len({tuple(ids.ravel().tolist()) for ids in seven}) == 7


def test_what_is_fixed_stays_and_no_mask_is_left(painter, monkeypatch):
    """Seen by the network's inputs: masked places become fewer as planned, and ids that were shown never change."""
    shown = []
    own = painter._predict
    monkeypatch.setattr(painter, "_predict", lambda ids, *told: shown.append(ids.clone()) or own(ids, *told))
    last = painter.sample_ids(painter.encode(TEXTS), range(7), 1.0, 6)
    counts = [int(num) for ids in shown for num in (ids == painter.mask_id).flatten(1).sum(1).unique()]
    expected, left = [16], 16
    for step in range(5):
        left = num_masked(16, step, 6, left)
        expected.append(left)
    assert counts == expected == [16, 15, 13, 11, 8, 4]
    for before, after in zip(shown, [*shown[1:], last], strict=True):
        fixed = before != painter.mask_id
        assert torch.equal(before[fixed], after[fixed])
    assert int(last.max()) < painter.tokenizer.num_codes


def test_more_steps_than_places_end_without_a_mask(painter):
    ids = painter.sample_ids(painter.encode(["red"]), [3], 1.0, 40)
    assert int(ids.max()) < painter.tokenizer.num_codes


def test_the_plan_of_masks_and_temperatures_is_the_librarys(folder, monkeypatch):
    """Asked of its scheduler step by step, with a model that is sure of nothing."""
    scheduler = diffusers.AmusedScheduler(mask_token_id=15)
    scheduler.set_timesteps(8)
    ids, before = torch.full((1, 36), 15), 36
    for step, time in enumerate(scheduler.timesteps[:-1]):
        ids = scheduler.step(torch.zeros(1, 36, 12), time, ids).prev_sample
        before = num_masked(36, step, 8, before)
        assert int((ids == 15).sum()) == before
        assert float(scheduler.temperatures[step]) == pytest.approx(temperature(step, 8))


def test_ids_are_drawn_as_often_as_they_are_likely():
    probabilities = torch.tensor([0.0, 0.5, 0.2, 0.3])
    uniform = torch.rand(1, 40_000, generator=torch.Generator().manual_seed(0))
    ids = drawn(probabilities.log().expand(1, 40_000, 4), uniform)
    shares = torch.bincount(ids[0], minlength=4) / 40_000
    torch.testing.assert_close(shares, probabilities, atol=0.01, rtol=0)
    noise = gumbel(uniform)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.std().item() == pytest.approx(np.pi / np.sqrt(6), abs=0.03)
    assert torch.isfinite(gumbel(torch.tensor([0.0, 1 - 2**-24]))).all()


def test_both_writings_of_guidance_are_one_and_the_ramp_ends_at_all_of_it(painter):
    conditional, without, g = torch.randn(5), torch.randn(5), 2.5
    (s,) = guidance_scales(g, 1, muse=True)
    torch.testing.assert_close(without + s * (conditional - without), (1 + g) * conditional - g * without)
    assert guidance_scales(3.0, 4) == [3.0] * 4
    assert guidance_scales(3.0, 5, ramp=True) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert guidance_scales(2.0, 5, muse=True, ramp=True) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert guidance_scales(3.0, 1, ramp=True) == [3.0]

    embeddings = painter.encode(TEXTS)
    plain = painter.sample_ids(embeddings, range(7), 3.0, 5)
    try:
        painter.muse = True
        assert torch.equal(painter.sample_ids(embeddings, range(7), 2.0, 5), plain)
        painter.muse, painter.ramp = False, True
        assert not torch.equal(painter.sample_ids(embeddings, range(7), 3.0, 5), plain)
    finally:
        painter.muse = painter.ramp = False


def test_guidance_is_towards_the_text_and_away_from_the_empty_one(painter):
    embeddings = painter.encode(["a red circle"])
    ids = torch.full((1, 4, 4), painter.mask_id)
    with torch.no_grad():
        own = painter._predict(ids, embeddings["states"], embeddings["pooled"])
        empty = painter.encode([""])
        none = painter._predict(ids, empty["states"], empty["pooled"])
        torch.testing.assert_close(painter._logits(ids, embeddings, 4.0), none + 4 * (own - none), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(painter._logits(ids, embeddings, 1.0), own)


def test_texts_are_read_as_the_pipeline_reads_them(folder, painter):
    pipe = diffusers.AmusedPipeline.from_pretrained(folder)
    seen = []
    pipe.transformer.register_forward_pre_hook(lambda net, args, kwargs: seen.append(kwargs), with_kwargs=True)
    pipe("a red circle", num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    ours = painter.encode(["a red circle"])
    torch.testing.assert_close(seen[0]["encoder_hidden_states"], ours["states"])
    torch.testing.assert_close(seen[0]["pooled_text_emb"], ours["pooled"])
    told = token_painter.micro_conditions(1, painter.size_px, ours["states"])
    torch.testing.assert_close(seen[0]["micro_conds"], told)
    long = " ".join(["red"] * 20)
    before = painter.num_cut
    assert painter.encode([long, "red"])["states"].shape == (2, tiny.TEXT_LIMIT, 16)
    assert painter.num_cut == before + 1
    assert painter.words_unknown(["a zebra"]) == ["zebra"]


def test_as_a_painter_of_pixels_it_decodes_its_ids(folder, painter):
    pixels = open_painter(str(folder))
    assert (pixels.size_px, pixels.scheduler) == (16, "masked, cosine")
    images = pixels.paint(pixels.encode(TEXTS[:2]), [4, 5], 2.0, 3)
    ids = painted_ids(painter, TEXTS[:2], [4, 5], 2.0, 3)
    assert (images == painter.tokenizer.pictures(ids)).all()
    floats = pixels.sample(pixels.encode(TEXTS[:2]), [4, 5], 2.0, 3, 16)
    assert ((floats.permute(0, 2, 3, 1).numpy() * 255).round() == images).all()
    with pytest.raises(InputError, match="no scheduler to choose"):
        open_painter(str(folder), scheduler="ddim")
    with pytest.raises(InputError, match="no negative prompt"):
        open_painter(str(folder), negative_prompt="ugly")
    with pytest.raises(ModelError, match="cannot begin at a photo"):
        pixels.start_at(0.5, 4)


def test_what_does_not_fit_is_refused(folder, painter, tmp_path):
    with pytest.raises(InputError, match=r"paints 4 x 4 ids, which are 16 px; it has learnt no grid of 8 x 8"):
        painter.check(2.0, 4, 32)
    with pytest.raises(InputError, match=r"guidance 0\.5 is below 1"):
        painter.check(0.5, 4, 16)
    with pytest.raises(InputError, match="steps"):
        painter.check(2.0, 0, 16)
    with pytest.raises(UnknownName, match="dtype"):
        open_token_painter(str(folder), dtype="fp8")
    with pytest.raises(InputError, match="needs a GPU"):
        open_token_painter(str(folder), dtype="fp16")
    pipelines.save("sd", tmp_path / "sd")
    with pytest.raises(ModelError, match="paints no tokens; use an AmusedPipeline"):
        open_token_painter(str(tmp_path / "sd"))


def test_a_tokenizer_of_another_size_among_its_parts_is_refused(tmp_path):
    folder = tiny.save_amused(tmp_path / "mixed")
    tiny.save_vq(folder / "vqvae", num_vq_embeddings=11)
    with pytest.raises(ModelError, match="paints ids of 12 codes, and its tokenizer has 11"):
        open_token_painter(str(folder))
    pipe = diffusers.AmusedPipeline.from_pretrained(tiny.save_amused(tmp_path / "among"))
    pipe.register_modules(scheduler=diffusers.AmusedScheduler(mask_token_id=4))
    pipe.save_pretrained(tmp_path / "among")
    with pytest.raises(ModelError, match="has the mask 4 among its 12 codes"):
        open_token_painter(str(tmp_path / "among"))


def test_an_image_that_overflows_is_told_apart_from_its_neighbours(painter, monkeypatch):
    embeddings = painter.encode(TEXTS[:3])
    good = painter.sample_ids(embeddings, range(3), 1.0, 4)
    own = painter._predict

    def overflows(ids, *told):
        logits = own(ids, *told)
        logits[1, 0, 2, 3] = torch.nan
        return logits

    monkeypatch.setattr(painter, "_predict", overflows)
    found = painter.sample_ids(embeddings, range(3), 1.0, 4)
    assert (found[1] == -1).all()
    assert torch.equal(found[[0, 2]], good[[0, 2]])
    pictures = painter.sample(embeddings, range(3), 1.0, 4, 16)
    assert torch.isfinite(pictures).flatten(1).all(1).tolist() == [True, False, True]
