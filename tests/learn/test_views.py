import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter

from reverie.learn import views
from reverie.models.backbones import MEAN, STD


def photo(size=48, seed=0):
    """Smooth colours with some edges, uint8 (3, size, size): what a resampling can be compared on."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)[0]
    return (smooth * 255).to(torch.uint8)


def batch(count=6, size=48):
    return torch.stack([photo(size, seed) for seed in range(count)])


def pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def back(picture):
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def denormalize(pixels):
    return pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


def test_crop_and_flip_equal_pil_one_image_at_a_time():
    images = batch()
    boxes = torch.tensor(
        [[0, 0, 48, 48], [5, 7, 30, 20], [10, 0, 38, 38], [3, 3, 24, 32], [20, 20, 16, 16], [0, 9, 24, 24]]
    )
    flip = torch.tensor([False, True, False, True, True, False])
    found = views.crop(images.float() / 255, boxes.float(), 32, flip)
    for index, (top, left, tall, wide) in enumerate(boxes.tolist()):
        cut = torch.nn.functional.interpolate(  # not antialiased, as documented
            images[index : index + 1, :, top : top + tall, left : left + wide].float() / 255, size=32, mode="bilinear"
        )[0]
        cut = cut.flip(-1) if flip[index] else cut
        # At the rim of a box we see one pixel beyond it, where a cut image would repeat its last.
        torch.testing.assert_close(found[index, :, 1:-1, 1:-1], cut[:, 1:-1, 1:-1], rtol=0, atol=1e-4)
        assert (found[index] - cut).abs().max() < 0.1


def test_jitter_equals_pil_one_image_at_a_time():
    images = batch()
    brightness, contrast, saturation = torch.linspace(0.6, 1.4, 18).view(3, 6)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        factors = torch.stack([brightness, contrast, saturation, torch.zeros(6)], 1)
        found = views.jitter(images.float() / 255, factors, order)
        for index in range(6):
            picture = pil(images[index])
            for which in order:
                kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
                picture = kind(picture).enhance(float(factors[index, which]))
            assert (found[index] - back(picture)).abs().max() < 4 / 255  # PIL rounds to whole steps after each change


def test_hue_equals_colorsys_one_pixel_at_a_time():
    images = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images[0, :, 0, 0] = torch.tensor([0.5, 0.5, 0.5])
    images[0, :, 0, 1] = torch.tensor([0.0, 0.0, 0.0])
    images[0, :, 0, 2] = torch.tensor([0.9, 0.9, 0.1])
    turns = torch.tensor([0.1, -0.4])
    found = views.shift_hue(images, turns)
    for index in range(2):
        for row in range(5):
            for column in range(5):
                hue, saturation, value = colorsys.rgb_to_hsv(*images[index, :, row, column].tolist())
                expected = colorsys.hsv_to_rgb((hue + float(turns[index])) % 1, saturation, value)
                assert found[index, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_blur_is_a_gaussian_of_the_radius():
    dot = torch.zeros(2, 3, 224, 224)
    dot[:, :, 100, 100] = 1
    found = views.blur(dot, torch.tensor([0.7, 2.0]))
    place = torch.arange(224.0) - 100
    for index, radius in enumerate((0.7, 2.0)):
        profile = found[index, 0].sum(0)
        assert float(profile.sum()) == pytest.approx(1, abs=1e-4)
        assert float((profile * place**2).sum()) == pytest.approx(radius**2, rel=0.05)
    picture = back(pil(photo(224)).filter(ImageFilter.GaussianBlur(2.0)))
    assert (views.blur(photo(224)[None].float() / 255, torch.tensor([2.0]))[0] - picture).abs().max() < 3 / 255


def test_blur_shrinks_with_the_view():
    dot = torch.zeros(1, 3, 56, 56)
    dot[:, :, 20, 20] = 1
    profile = views.blur(dot, torch.tensor([2.0]))[0, 0].sum(0)
    sampled = torch.exp(-0.5 * (torch.arange(-6.0, 7.0) / 0.5) ** 2)
    assert float(profile.max()) == pytest.approx(float(sampled[6] / sampled.sum()), rel=0.01)


def test_boxes_are_inside_and_uniform_in_area():
    torch.manual_seed(0)
    boxes = views.crop_boxes(4000, 60, 80, scale=(0.08, 1.0))
    top, left, tall, wide = boxes.unbind(1)
    assert (boxes == boxes.round()).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 60).all()
    assert (left + wide <= 80).all()
    assert (wide / tall > 0.7).all()
    assert (wide / tall < 1.43).all()
    assert float((top + tall / 2).mean()) == pytest.approx(30, abs=0.7)
    area = views.crop_boxes(4000, 100, 100, scale=(0.08, 1.0), ratio=(1.0, 1.0))[:, 2:].prod(1) / 100**2
    for share in (0.1, 0.3, 0.5, 0.9):  # squares always fit, so nothing is drawn twice
        assert float((area < share).float().mean()) == pytest.approx((share - 0.08) / 0.92, abs=0.03)


def test_a_box_that_never_fits_is_the_largest_centred_one():
    boxes = views.crop_boxes(5, 10, 100, scale=(1.0, 1.0))
    assert boxes.tolist() == [[0, 43, 10, 13]] * 5


def test_strong_hits_as_often_as_it_should():
    torch.manual_seed(0)
    images = photo(16).repeat(2000, 1, 1, 1)
    found = denormalize(views.strong(images, 16))
    grey = (found.amax(1) - found.amin(1)).amax((1, 2)) < 1e-4
    assert float(grey.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert found.min() > -1e-4
    assert found.max() < 1 + 1e-4


def test_strong_views_of_a_large_part_in_any_hue_without_colour_or_with_it():
    """A red picture with a green stripe at its rim: how much of it is seen, and what becomes of red."""
    torch.manual_seed(0)
    images = torch.zeros(600, 3, 40, 40, dtype=torch.uint8)
    images[:, 0], images[:, 0, :, :8], images[:, 1, :, :8] = 200, 0, 200
    hues = []
    for hue in (0.1, 0.5):
        found = denormalize(views.strong(images, 20, min_area=0.9, hue=hue, gray=0.0))
        assert bool(((found.amax(1) - found.amin(1)).amax((1, 2)) > 0.05).all())  # none is grey
        # Nine tenths of a picture always show both colours.
        assert bool(((found[:, :, 10, 0] - found[:, :, 10, -1]).abs().amax(1) > 0.05).all())
        bluest = found[:, :, 10, 10].argmax(1) == 2
        hues.append(float(bluest.float().mean()))
    assert hues[0] == 0.0
    assert hues[1] == pytest.approx(0.8 / 3, abs=0.06)
    found = denormalize(views.strong(images, 20, gray=1.0))
    assert float((found.amax(1) - found.amin(1)).max()) < 1e-4


def test_light_crops_no_less_than_asked_and_flips_half_and_leaves_colours():
    torch.manual_seed(0)
    ramp = torch.arange(0, 160, 4, dtype=torch.uint8).view(1, 1, 1, 40).expand(2000, 3, 40, 40)  # brighter to the right
    found = 255 * denormalize(views.light(ramp, 20, 0.5))
    slope = found[:, 0, 10, -1] - found[:, 0, 10, 0]
    assert float((slope < 0).float().mean()) == pytest.approx(0.5, abs=0.04)
    width = slope.abs() / (4 * 19 / 20)  # pixels of the image that the view spans
    assert float(width.min()) > 40 * (0.5 * 0.75) ** 0.5 - 3  # half the area, in the narrowest shape
    assert float(width.max()) <= 40 + 1e-3
    torch.testing.assert_close(found[:, 0], found[:, 2], atol=1e-2, rtol=0)
    whole = 255 * denormalize(views.light(ramp[:8], 40, 1.0))
    assert {round(float(value)) for value in whole[:, 0, 0, 0]} <= {0, 156}


@pytest.mark.parametrize("view", [views.strong, views.weak, views.light, views.plain])
def test_views_are_float_squares_made_from_torch_seeds(view):
    images = batch(70, 40)
    torch.manual_seed(1)
    first = view(images, 32)
    assert (first.shape, first.dtype) == ((70, 3, 32, 32), torch.float32)
    torch.manual_seed(1)
    assert torch.equal(view(images, 32), first)
    torch.manual_seed(2)
    assert torch.equal(view(images, 32), first) == (view is views.plain)


def test_plain_is_the_centre_normalised():
    image = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    image[..., 16:48] = 255
    found = denormalize(views.plain(image, 32))
    assert float(found.min()) == pytest.approx(1.0, abs=1e-5)


def test_downscale_takes_detail_from_a_few():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1000, 3, 16, 16), dtype=torch.uint8)
    found = views.downscale(images, (4, 8), probability=0.2)
    changed = (found != images).flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.2, abs=0.04)
    assert found.dtype == torch.uint8
    detail = found[changed].float().std((2, 3)).mean(1)
    kept = float(images.float().std((2, 3)).mean())
    assert (detail < 0.7 * kept).all()
    assert 0.3 < float((detail < 0.19 * kept).float().mean()) < 0.7  # about half went down to 4 pixels
    assert views.downscale(images, ()) is images


def test_there_is_no_silent_drift_from_the_recipe():
    """Mean brightness of strong views equals the images' (factors are symmetric); hue is symmetric around zero."""
    torch.manual_seed(0)
    images = photo(24).repeat(1500, 1, 1, 1)
    found = denormalize(views.strong(images, 24))
    assert float(found.mean()) == pytest.approx(float(images.float().mean() / 255), abs=0.02)
    assert math.isfinite(float(found.std()))
