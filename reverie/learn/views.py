"""Random views of uint8 images, made on the training device. Draws come from torch's generators, which fit.py seeds.

A view function takes uint8 (B, 3, H, W) and gives float32 (B, 3, S, S), normalised with the ImageNet mean and std.
Colour, blur and grey are kornia's functions. Two operations are our own, measured on one CPU core against kornia 0.9:
crop and flip (one resampling for both: 4x) and the hue shift (no detour through HSV planes: 3x).

Source: StableRep code, specs of the augmentations in arXiv:2306.00984 and arXiv:2002.05709. Differs: the crop is not
antialiased, so give images at most about 1.5 times as large as the view; the blur radius is given for views of 224
pixels and shrinks with the view, so that a view of 64 pixels is not blurred to a colour patch; the order of the four
colour changes is drawn once for a group of images, not for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor

from reverie.models.backbones import center_square, normalize, resize_shorter

GROUP = 64  # images that fit a CPU's cache: three times faster than the whole batch at once


def strong(images: Tensor, size_px: int, min_area: float = 0.08, hue: float = 0.1, gray: float = 0.2) -> Tensor:
    """Crop, colour jitter (p .8), grey (p .2), blur (p .5), flip (p .5): SimCLR and StableRep; MoCo v2 at ``min_area`` 0.2.

    Args:
        min_area: the crop has this to 1 of the area.
        hue: the most that colours are turned by, either way, in turns; 0.5 is any hue.
        gray: share of the views that lose their colour.
    """
    return _in_groups(images, lambda group: _strong(group, size_px, min_area, hue, gray))


def light(images: Tensor, size_px: int, min_area: float = 0.08) -> Tensor:
    """Crop of ``min_area`` to 1 of the area and flip (p .5): supervised training, and MAE at ``min_area`` 0.2."""

    def one_group(group: Tensor) -> Tensor:
        boxes = crop_boxes(*_sizes(group), scale=(min_area, 1.0), device=group.device)
        flip = torch.rand(len(group), device=group.device) < 0.5
        return normalize(crop(unit_range(group), boxes, size_px, flip))

    return _in_groups(images, one_group)


def weak(images: Tensor, size_px: int) -> Tensor:
    """Crop of 50-100 % of the area, nothing else: CLIP."""

    def one_group(group: Tensor) -> Tensor:
        boxes = crop_boxes(*_sizes(group), scale=(0.5, 1.0), device=group.device)
        return normalize(crop(unit_range(group), boxes, size_px))

    return _in_groups(images, one_group)


def plain(images: Tensor, size_px: int) -> Tensor:
    """The whole image, resized (antialiased) so that its shorter side fits, and its centre: measuring, not training."""
    return normalize(center_square(unit_range(images), size_px))


def downscale(images: Tensor, resolutions_px: Sequence[int], probability: float = 0.05) -> Tensor:
    """Resize some images down to a random one of the resolutions and up again: synthetic images are all too sharp.

    Goes before the other views: uint8 in, uint8 out. With no resolutions, nothing happens.
    """
    if not resolutions_px:
        return images
    choice = torch.randint(len(resolutions_px), (len(images),), device=images.device)
    chosen = torch.rand(len(images), device=images.device) < probability
    images = images.clone()
    for index, resolution in enumerate(resolutions_px):
        rows = (chosen & (choice == index)).nonzero().squeeze(1)
        if len(rows):
            small = resize_shorter(unit_range(images[rows]), resolution)
            large = F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
            images[rows] = (large * 255).round().to(torch.uint8)
    return images


def _strong(images: Tensor, size_px: int, min_area: float, hue: float, gray: float) -> Tensor:
    count, device = len(images), images.device
    boxes = crop_boxes(*_sizes(images), scale=(min_area, 1.0), device=device)
    views = crop(unit_range(images), boxes, size_px, flip=torch.rand(count, device=device) < 0.5)

    rows = _draw_rows(count, 0.8, device)
    low = torch.tensor([0.6, 0.6, 0.6, -hue], device=device)
    high = torch.tensor([1.4, 1.4, 1.4, hue], device=device)
    factors = low + (high - low) * torch.rand(len(rows), 4, device=device)
    views[rows] = jitter(views[rows], factors, torch.randperm(4).tolist())

    rows = _draw_rows(count, gray, device)
    views[rows] = rgb_to_grayscale(views[rows]).expand(-1, 3, -1, -1)

    rows = _draw_rows(count, 0.5, device)
    views[rows] = blur(views[rows], 0.1 + 1.9 * torch.rand(len(rows), device=device))
    return normalize(views)


def crop_boxes(
    count: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Boxes (count, 4) as top, left, height, width in whole pixels: area uniform in ``scale``, log-uniform aspect ratio.

    Ten tries for a box that fits into the image, then the largest centred one, as torchvision does.
    """
    area = height * width * torch.empty(count, 10, device=device).uniform_(*scale)
    aspect = torch.empty(count, 10, device=device).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp()
    tall, wide = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.int().argmax(1, keepdim=True)
    any_fits = fits.any(1)
    fallback_wide = min(width, round(height * ratio[1]))
    fallback_tall = min(height, round(width / ratio[0]))
    tall = torch.where(any_fits, tall.gather(1, first).squeeze(1), fallback_tall)
    wide = torch.where(any_fits, wide.gather(1, first).squeeze(1), fallback_wide)
    where = torch.rand(2, count, device=device)
    top = torch.where(any_fits, (where[0] * (height - tall + 1)).floor(), (height - fallback_tall) // 2)
    left = torch.where(any_fits, (where[1] * (width - wide + 1)).floor(), (width - fallback_wide) // 2)
    return torch.stack([top, left, tall, wide], 1)


def crop(images: Tensor, boxes: Tensor, size_px: int, flip: Tensor | None = None) -> Tensor:
    """Cut the boxes out, resize them to a square (bilinear) and mirror those that ``flip`` names, in one resampling."""
    height, width = images.shape[-2:]
    top, left, tall, wide = boxes.unbind(1)
    affine = boxes.new_zeros(len(boxes), 2, 3)
    affine[:, 0, 0] = wide / width
    affine[:, 0, 2] = (2 * left + wide) / width - 1
    affine[:, 1, 1] = tall / height
    affine[:, 1, 2] = (2 * top + tall) / height - 1
    if flip is not None:
        affine[:, 0, 0] *= 1 - 2 * flip.to(affine.dtype)
    grid = F.affine_grid(affine, [len(images), 3, size_px, size_px], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def jitter(images: Tensor, factors: Tensor, order: Sequence[int]) -> Tensor:
    """Change brightness, contrast, saturation (factors around 1) and hue (turns, 0 = none), in the given order.

    Args: images in [0, 1]; ``factors`` (B, 4) in the order named above; ``order`` a permutation of 0..3.
    """
    steps: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_saturation_with_gray_subtraction,
        shift_hue,
    )
    for index in order:
        images = steps[index](images, factors[:, index])
    return images


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV and keep saturation and value.

    In HSV every channel is value minus chroma times a trapezoid of the hue's distance on the circle to that channel's
    own hue (red 0, green 1/3, blue 2/3 of a turn), so no HSV image is needed in between.
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    scale = (6 * chroma).clamp_min(1e-8).reciprocal_()
    hue = torch.where(
        value == red,
        (green - blue) * scale,
        torch.where(value == green, (blue - red) * scale + 1 / 3, (red - green) * scale + 2 / 3),
    )
    hue += turns.view(-1, 1, 1)
    turned = torch.empty_like(images)
    for channel in range(3):
        distance = hue - channel / 3
        distance = (distance - distance.round()).abs_()
        torch.addcmul(value, chroma, (6 * distance).sub_(1).clamp_(0, 1), value=-1, out=turned[:, channel])
    return turned


def blur(images: Tensor, radius: Tensor) -> Tensor:
    """Gaussian blur; ``radius`` (B,) is the standard deviation in pixels of a view 224 pixels high, at most 2."""
    scale = images.shape[-2] / 224
    sigma = (radius * scale).unsqueeze(1).expand(-1, 2)
    kernel = 2 * math.ceil(3 * 2.0 * scale) + 1
    return gaussian_blur2d(images, (kernel, kernel), sigma) if len(images) else images


def unit_range(images: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.float().div_(255)


def _in_groups(images: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    if images.device.type != "cpu":
        return view(images)
    return torch.cat([view(group) for group in torch.split(images, GROUP)])


def _sizes(images: Tensor) -> tuple[int, int, int]:
    return len(images), images.shape[-2], images.shape[-1]


def _draw_rows(count: int, probability: float, device: torch.device) -> Tensor:
    """Indices of the images that an operation with this probability hits."""
    return (torch.rand(count, device=device) < probability).nonzero().squeeze(1)
