import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from reverie.errors import ModelError
from reverie.models.encoder import open_backbone, open_encoder
from tests.models import tiny


def some_images(num, height=20, width=24):
    return np.random.default_rng(0).integers(0, 256, (num, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tiny_clip):
    return open_encoder(str(tiny_clip))


def test_agrees_with_the_model_itself(clip, tiny_clip):
    texts = ["a red circle", "a photo of the large grey cat on white"]
    images = [Image.fromarray(item) for item in some_images(3)]
    net = transformers.CLIPModel.from_pretrained(tiny_clip).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(tiny_clip)(texts, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    pixels = tiny.image_processor()(images=images, return_tensors="pt")
    with torch.inference_mode():
        expected = net(**inputs, **pixels).logits_per_image
    torch.testing.assert_close(clip.images(images) @ clip.texts(texts).T * clip.logit_scale, expected)


def test_unit_vectors_whatever_the_batch(clip, tiny_clip):
    images, texts = some_images(5), ["a cat", "a dog on grey", "class : red circle", "two", "small"]
    pairs = open_encoder(str(tiny_clip), batch_size=2)
    for ours, small in ((clip.images(images), pairs.images(images)), (clip.texts(texts), pairs.texts(texts))):
        assert ours.dtype == torch.float32
        assert ours.shape == (5, 8)
        torch.testing.assert_close(ours.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(ours, small)


def test_arrays_and_pictures_of_any_mode(clip):
    arrays = some_images(2)
    torch.testing.assert_close(clip.images(arrays), clip.images([Image.fromarray(item) for item in arrays]))
    grey = Image.fromarray(arrays[0]).convert("L")
    torch.testing.assert_close(clip.images([grey]), clip.images([grey.convert("RGB")]))


def test_nothing_in_nothing_out(clip):
    assert len(clip.images([])) == len(clip.texts([])) == 0


def test_long_text_keeps_its_end_token_and_is_counted(clip):
    words = ["red", "green", "blue", "cat", "dog"] * 5
    before = clip.num_cut
    long = clip.texts([" ".join(words), "a cat"])
    assert clip.num_cut == before + 1
    # start + 10 words + end = 12 places; the cut text must equal the text that fits exactly
    torch.testing.assert_close(long[:1], clip.texts([" ".join(words[: tiny.TEXT_LIMIT - 2])]))
    assert clip.num_cut == before + 1


@pytest.mark.parametrize("fits", [1, 2])
def test_batch_halves_when_memory_is_full(tiny_clip, monkeypatch, fits):
    clip = open_encoder(str(tiny_clip), batch_size=8)
    images, inner, tried = some_images(9), clip.net.get_image_features, []
    expected = clip.images(images)

    def small_memory(pixel_values):
        tried.append(len(pixel_values))
        if len(pixel_values) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return inner(pixel_values=pixel_values)

    monkeypatch.setattr(clip.net, "get_image_features", small_memory)
    torch.testing.assert_close(clip.images(images), expected)
    assert tried[:4] == [8, 4, 2, 1] if fits == 1 else [8, 4, 2, 2]
    tried.clear()
    clip.images(images)
    assert max(tried) == fits  # remembered


def test_memory_that_holds_not_even_one(clip, monkeypatch):
    def no_memory(pixel_values):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(clip.net, "get_image_features", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        clip.images(some_images(3))


def test_siglip_pads_to_its_limit(tmp_path):
    siglip = open_encoder(str(tiny.save_siglip(tmp_path / "siglip")))
    texts = ["a cat", "a photo of the large grey dog on white"]
    torch.testing.assert_close(siglip.texts(texts)[:1], siglip.texts(texts[:1]))
    assert siglip.images(some_images(2)).shape == (2, 16)


def test_lost_weights_are_not_replaced_by_random_ones(tiny_clip, tmp_path):
    folder = tmp_path / "damaged"
    transformers.CLIPModel.from_pretrained(tiny_clip).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights \(visual_projection.weight"):
        open_encoder(str(folder))


def test_not_an_encoder(tiny_writer):
    with pytest.raises(ModelError, match="needed here is an encoder of images and texts"):
        open_encoder(str(tiny_writer))
    with pytest.raises(ModelError, match="needed here is a vision model"):
        open_backbone(str(tiny_writer))


def test_folder_without_tokenizer(tiny_clip, tmp_path):
    transformers.CLIPModel.from_pretrained(tiny_clip).save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="bare comes without a tokenizer"):
        open_encoder(str(tmp_path / "bare"))


def test_half_precision_files_are_widened(tiny_clip, tmp_path):
    folder = tiny.save_clip(tmp_path / "half")
    transformers.CLIPModel.from_pretrained(folder).half().save_pretrained(folder)
    encoder = open_encoder(str(folder))
    assert encoder.net.dtype == torch.float32
    torch.testing.assert_close(
        encoder.texts(["a cat"]), open_encoder(str(tiny_clip)).texts(["a cat"]), atol=2e-3, rtol=0
    )


def test_backbones(tiny_clip, tmp_path):
    images = some_images(3)
    vit = open_backbone(str(tiny.save_vit(tmp_path / "vit")))
    pixels = tiny.image_processor()(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        torch.testing.assert_close(vit.features(images), vit.net(pixel_values=pixels).last_hidden_state[:, 0])
    resnet = open_backbone(str(tiny.save_resnet(tmp_path / "resnet")), batch_size=2)
    with torch.inference_mode():
        maps = resnet.net(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(resnet.features(images), maps.mean(dim=(2, 3)))
    assert open_backbone(str(tiny_clip)).features(images).shape == (3, 16)  # the vision tower, before its projection
