"""Pictures to ids and back, by the library's own quantiser, from a folder, a pipeline, or a builtin that is not there yet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image

from reverie.errors import InputError, ModelError
from reverie.models import names
from reverie.models.tokenizer import check_same_codes, open_tokenizer, square
from tests.images import pipelines
from tests.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_vq(tmp_path_factory.mktemp("vq") / "model")


def pictures(count, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def test_ids_are_those_of_the_librarys_quantiser_and_vectors_are_its_codes(folder):
    tokenizer, vq = open_tokenizer(str(folder)), VQModel.from_pretrained(folder)
    some = pictures(5)
    with torch.no_grad():
        latents = vq.encode(torch.from_numpy(some).permute(0, 3, 1, 2).float() / 255).latents
        codes, _, (_, _, ids) = vq.quantize(latents)
        decoded = vq.decode(ids, force_not_quantize=True, shape=(5, 4, 4, 3)).sample.clamp(0, 1)
    found = tokenizer.ids(some)
    assert (found.dtype, found.shape) == (np.int32, (5, 4, 4))
    assert found.ravel().tolist() == ids.tolist()
    assert len(set(found.ravel().tolist())) > 2
    torch.testing.assert_close(tokenizer.vectors(torch.from_numpy(found)), codes, atol=1e-6, rtol=1e-5)
    expected = (decoded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.abs(tokenizer.pictures(found).astype(int) - expected).max() <= 1
    assert (tokenizer.size_px, tokenizer.factor, tokenizer.num_codes) == (16, 4, 12)
    assert tokenizer.grid(24) == (6, 6)


def test_a_model_of_latent_diffusion_sees_minus_one_to_one(tmp_path):
    tiny.save_vq(tmp_path / "signed", lookup_from_codebook=False)
    tokenizer, vq = open_tokenizer(str(tmp_path / "signed")), VQModel.from_pretrained(tmp_path / "signed")
    some = pictures(3)
    with torch.no_grad():
        latents = vq.encode(torch.from_numpy(some).permute(0, 3, 1, 2).float() / 127.5 - 1).latents
        codes, _, (_, _, ids) = vq.quantize(latents)
        decoded = vq.decode(codes, force_not_quantize=True).sample / 2 + 0.5
    assert tokenizer.ids(some).ravel().tolist() == ids.tolist()
    expected = (decoded.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.abs(tokenizer.pictures(tokenizer.ids(some)).astype(int) - expected).max() <= 1


def test_it_comes_out_of_a_pipeline_too_with_the_size_that_this_paints(tmp_path):
    tiny.save_amused(tmp_path / "amused")
    tokenizer = open_tokenizer(str(tmp_path / "amused"))
    assert tokenizer.size_px == 16
    alone = open_tokenizer(str(tmp_path / "amused" / "vqvae"))
    assert alone.codebook_name == tokenizer.codebook_name
    pipelines.save("sd", tmp_path / "sd")
    with pytest.raises(ModelError, match="sd is a StableDiffusionPipeline, which has no VQModel"):
        open_tokenizer(str(tmp_path / "sd"))


def test_a_codebook_is_the_same_in_half_precision_and_another_is_refused(tmp_path, folder):
    tokenizer = open_tokenizer(str(folder))
    VQModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    half = open_tokenizer(str(tmp_path / "half"))
    check_same_codes(tokenizer, half.codebook_name, "half")
    other = tiny.save_vq(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=r"the codebook of model@\w+ is not the one of other"):
        check_same_codes(tokenizer, open_tokenizer(str(other)).codebook_name, "other")


@pytest.mark.parametrize("wrong", [-1, 12])
def test_an_id_that_the_codebook_lacks_is_refused_in_both_directions_of_use(folder, wrong):
    tokenizer = open_tokenizer(str(folder))
    ids = np.zeros((1, 4, 4), np.int32)
    ids[0, 2, 1] = wrong
    for use in (tokenizer.pictures, lambda ids: tokenizer.vectors(torch.from_numpy(ids))):
        with pytest.raises(InputError, match=rf"id {wrong} is none of model@\w+, whose codes are 0 to 11"):
            use(ids)


def test_a_side_that_does_not_divide_is_refused(folder):
    with pytest.raises(InputError, match="each id is 4 px wide"):
        open_tokenizer(str(folder)).ids(pictures(1, side=18))


def test_a_builtin_that_is_not_trained_yet_says_how_to_train_it(monkeypatch, tmp_path):
    monkeypatch.setattr(names, "BUILTIN", tmp_path)
    for name in ("tokenizer", "token-painter"):
        with pytest.raises(ModelError, match=f"builtin:{name} is not in this package yet.*--only {name}"):
            open_tokenizer(f"builtin:{name}")


def test_photos_are_resized_and_cropped_to_a_square():
    wide = Image.new("RGB", (40, 20), (255, 0, 0))
    wide.paste((0, 0, 255), (0, 0, 4, 20))  # the part that is cut off
    assert square(wide, 8).shape == (8, 8, 3)
    assert (square(wide, 8) == (255, 0, 0)).all()
