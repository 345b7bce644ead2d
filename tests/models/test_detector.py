import io
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from reverie.errors import BrokenImage, InputError, ModelError
from reverie.evaluate.metrics.detection import overlaps
from reverie.models.detector import Found, open_detector, tags
from reverie.smallworld.render import render
from reverie.smallworld.scene import Scene, Thing, class_names
from tests.models import tiny

SIZES = [(24, 20), (40, 20), (20, 40), (24, 20), (64, 64)]  # width and height
ALL = {"threshold": 0.0, "max_found": 1000}


def noise(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pictures():
    return [noise(seed, size) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module", params=["rt_detr", "yolos"])
def folder(request, tmp_path_factory):
    save = {"rt_detr": tiny.save_rt_detr, "yolos": tiny.save_yolos}[request.param]
    return save(tmp_path_factory.mktemp("detector") / request.param)


@pytest.fixture(scope="module")
def rt_detr(tmp_path_factory):
    return tiny.save_rt_detr(tmp_path_factory.mktemp("detector") / "one")


@pytest.fixture(scope="module")
def builtin():
    return open_detector("builtin:detector")


def same(ours, expected):
    assert [[item.name for item in some] for some in ours] == [[item.name for item in some] for some in expected]
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose([i.score for i in one], [i.score for i in other], atol=1e-5)
        np.testing.assert_allclose([i.box for i in one], [i.box for i in other], atol=1e-3)


def test_agrees_with_the_model_itself(folder, pictures):
    net = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    detector = open_detector(str(folder))
    assert detector.names == tiny.DETECTED
    for picture in pictures:
        with torch.inference_mode():
            output = net(**processor(images=[picture], return_tensors="pt"))
        # The centre, width and height of each box are fractions of the picture as it was before it was resized.
        x, y, width, height = output.pred_boxes[0].unbind(1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1) * torch.tensor(
            [*picture.size, *picture.size]
        )
        corners = torch.stack(
            [corners[:, 0::2].clamp(0, picture.width), corners[:, 1::2].clamp(0, picture.height)], 2
        ).flatten(1)
        found = detector.find([picture], **ALL)[0]
        assert len(found) == 6
        assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
        for item in found:
            assert np.abs(corners.numpy() - item.box).max(1).min() < 1e-3


def test_what_else_is_in_the_batch_changes_nothing(folder, pictures):
    alone = [open_detector(str(folder)).find([picture], **ALL)[0] for picture in pictures]
    for batch_size in (2, 16):
        same(open_detector(str(folder), batch_size=batch_size).find(pictures, **ALL), alone)
    same(open_detector(str(folder)).find(pictures[::-1], **ALL), alone[::-1])


def test_half_the_batch_where_memory_is_short(rt_detr, pictures, monkeypatch):
    detector = open_detector(str(rt_detr), batch_size=4)
    expected, forward = detector.find(pictures, **ALL), type(detector.net).forward

    def small_memory(self, pixel_values, **others):
        if len(pixel_values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, pixel_values, **others)

    monkeypatch.setattr(type(detector.net), "forward", small_memory)
    same(detector.find(pictures, **ALL), expected)


def test_threshold_and_number(rt_detr, pictures):
    detector = open_detector(str(rt_detr))
    every = detector.find(pictures, **ALL)
    limit = (
        sorted(item.score for some in every for item in some)[10] + 1e-4
    )  # not on a score: they move in the last digit
    same(detector.find(pictures, limit, 1000), [[item for item in some if item.score > limit] for some in every])
    same(detector.find(pictures, 0.0, 2), [some[:2] for some in every])
    assert detector.find(pictures, 1.0) == [[]] * len(pictures)
    assert detector.find([]) == []


@pytest.mark.parametrize(("threshold", "max_found"), [(1.5, 1), (-0.1, 1), (float("nan"), 1), (0.5, 0)])
def test_limits_that_cannot_be(rt_detr, threshold, max_found):
    with pytest.raises(InputError, match="score from 0 to 1"):
        open_detector(str(rt_detr)).find([], threshold, max_found)


def test_pictures_of_any_kind(rt_detr):
    detector, picture = open_detector(str(rt_detr)), noise(3, (40, 24))
    grey = picture.convert("L")
    same(detector.find([grey, picture.convert("RGBA")], **ALL), detector.find([grey.convert("RGB"), picture], **ALL))
    cmyk = picture.convert("CMYK")
    same(detector.find([cmyk], **ALL), detector.find([cmyk.convert("RGB")], **ALL))
    same(detector.find(np.asarray(picture)[None], **ALL), detector.find([picture], **ALL))
    sideways, file = picture.transpose(Image.Transpose.ROTATE_90), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # so the camera was held: turning it clockwise gives the picture back
    sideways.save(file, "PNG", exif=exif)
    same(detector.find([Image.open(file)], **ALL), detector.find([picture], **ALL))
    with pytest.raises(BrokenImage, match="picture 1"):
        detector.find([picture, Image.new("RGB", (0, 4))])


def test_tags_are_distinct_names():
    box = (0.0, 0.0, 1.0, 1.0)
    found = [Found("cat", 0.7, box), Found("dog", 0.9, box), Found("cat", 0.8, box), Found("owl", 0.1, box)]
    assert tags(found) == [("dog", 0.9), ("cat", 0.8), ("owl", 0.1)]
    assert tags(found, max_tags=1) == [("dog", 0.9)]
    assert tags([]) == []


def test_not_a_detector(tiny_clip):
    with pytest.raises(
        ModelError,
        match=r"is an encoder of images and texts \(clip\); what is needed here is an object detector such as RT-DETR",
    ):
        open_detector(str(tiny_clip))


@pytest.fixture
def damaged(rt_detr, tmp_path):
    """A copy to break something in."""
    for file in rt_detr.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_lost_weights(damaged):
    weights = load_file(damaged / "model.safetensors")
    del weights["model.enc_score_head.weight"]
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights \(model.enc_score_head.weight"):
        open_detector(str(damaged))


def test_pickled_weights(damaged):
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only as pickle"):
        open_detector(str(damaged))


def test_without_image_processor(damaged):
    for file in damaged.glob("*processor_config.json"):
        file.unlink()
    with pytest.raises(ModelError, match="AutoImageProcessor"):
        open_detector(str(damaged))


def test_with_the_image_processor_of_something_else(damaged):
    tiny.image_processor().save_pretrained(damaged)
    with pytest.raises(
        ModelError, match="CLIPImageProcessorPil, which is not the image processor of an object detector"
    ):
        open_detector(str(damaged))


def test_timm_that_is_not_there(damaged, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = {"model_type": "detr", "use_timm_backbone": True, "backbone": "resnet50"}
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"timm, which is not installed; .* such as PekingU/rtdetr") as told:
        open_detector(str(damaged))
    assert "\n" not in str(told.value)


SCENE = Scene(
    (Thing("circle", "red", "small", 0.26, 0.5, 0.155), Thing("star", "blue", "large", 0.74, 0.5, 0.21)), "white"
)


def test_builtin_finds_the_things_of_a_scene(builtin):
    assert builtin.names == class_names()
    right = 0
    for seed in range(8):
        picture = render(SCENE, seed=seed)
        found = {item.name: item.box for item in builtin.find(picture.image[None])[0]}
        for name, box in zip(("red circle", "blue star"), picture.boxes, strict=True):
            right += name in found and overlaps([found[name]], [box])[0, 0] >= 0.5
    assert right >= 12


def test_boxes_are_in_pixels_of_the_photo_itself(builtin):
    """Whatever its size and shape: the same picture, stretched, has its boxes stretched."""
    square = Image.fromarray(render(SCENE, seed=0).image)
    wide = square.resize((320, 128), Image.Resampling.BICUBIC)
    (small,), (large,) = builtin.find([square], 0.3), builtin.find([wide], 0.3)
    assert [item.name for item in small] == [item.name for item in large] != []
    for one, other in zip(small, large, strict=True):
        np.testing.assert_allclose(np.array(one.box) * [5, 2, 5, 2], other.box, atol=8)


def test_nothing_in_a_picture_of_nothing(builtin):
    empty = [render(Scene((), ground), seed=seed).image for seed, ground in enumerate(("white", "gray", "brown"))]
    assert builtin.find(np.stack(empty)) == [[], [], []]
