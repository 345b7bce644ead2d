"""Losses as pure functions of features. They gather over processes themselves; see gather.py.

Letters: B rows of this process, K rows of all processes, d length of a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from reverie.errors import TrainingError
from reverie.learn.gather import gather, rank, world

SELF = -1e9  # added to an anchor's similarity with itself; finite, because 0 * inf is not a number


def multi_positive_loss(
    features: Tensor, caption_ids: Tensor, temperature: float = 0.1, *, chunk_rows: int = 512
) -> Tensor:
    """Cross-entropy in which all views of one caption are each other's positives.

    L(a) = log sum_{j != a} exp(a.b_j / t) - mean_{j positive} a.b_j / t, the mean taken over anchors with a positive.

    Args:
        features: (B, d), any length; made float32 and of unit length here.
        caption_ids: (B,), equal numbers mean "same caption", on other processes too. Passed every time, never cached.
        temperature: divides cosine similarities; above 0.
        chunk_rows: anchors compared at once; memory is O(chunk_rows x K), not O(B x K).
    Returns: scalar in nats, at least ``entropy_floor(caption_ids)``.
    Raises: ValueError on unequal lengths or a temperature not above 0; TrainingError if no row has a positive.
    Source: StableRep, arXiv:2306.00984. Differs: the authors' code multiplies in half precision, and averages in rows
        without a positive as 0.
    """
    if len(features) != len(caption_ids):
        raise ValueError(f"{len(features)} features but {len(caption_ids)} caption ids")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    with torch.autocast(features.device.type, enabled=False):
        anchors = F.normalize(features.float(), dim=1)
        candidates = gather(anchors)
        group, num_positives = _groups(caption_ids)
        own = torch.arange(len(anchors), device=anchors.device) + rank() * len(anchors)
        # Every process divides by the same number, the average count of useful anchors, so that DDP's mean over
        # processes is the mean over anchors even where the counts differ.
        useful = num_positives > 0
        num_useful = int(useful.sum())
        if num_useful == 0:
            raise TrainingError(
                "no image of the batch has another view of its caption; use 2 or more images per caption, or crops"
            )
        weights = useful[own].float() * (world() / num_useful)

        # The positives' similarities from one sum of rows per caption: no (B, K) mask is ever made.
        sums = anchors.new_zeros(len(num_positives), anchors.shape[1]).index_add(0, group, candidates)
        positive = (anchors * (sums[group[own]] - candidates[own])).sum(1) / num_positives[own].clamp(min=1)
        others = _LogSumExpOfOthers.apply(anchors, candidates, own, weights, temperature, chunk_rows)  # type: ignore[no-untyped-call]
        return others - (weights * positive).sum() / temperature  # type: ignore[no-any-return]


def entropy_floor(caption_ids: Tensor) -> Tensor:
    """The least the multi-positive loss can be: mean of log(number of positives). Loss minus floor is KL(p || q)."""
    _, num_positives = _groups(caption_ids)
    useful = num_positives > 0
    return (num_positives.clamp(min=1).log() * useful).sum() / useful.sum().clamp(min=1)


def image_text_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Half of image-to-text plus half of text-to-image cross-entropy; with one view per text it is CLIP's loss.

    Args:
        images: (m*n, d), view-major: row i belongs to text i mod n. Any length; made float32 and of unit length here.
        texts: (n, d).
        scale: scalar, factor on cosine similarities, exp(logit_scale).
    Returns: scalar in nats. An image has one positive among the texts of all processes; a text has its m views, each with
        weight 1/m, among the images of all processes. Equal texts in two places of a batch count as negatives.
    Raises: ValueError if there are not m images for each text.
    Source: StableRep code (the text tower), arXiv:2306.00984.
    """
    count = len(texts)
    if count == 0 or len(images) % count:
        raise ValueError(f"{len(images)} images are not a multiple of {count} texts")
    with torch.autocast(images.device.type, enabled=False):
        images, texts, scale = F.normalize(images.float(), dim=1), F.normalize(texts.float(), dim=1), scale.float()
        own = torch.arange(count, device=texts.device)
        views = len(images) // count
        to_text = scale * images @ gather(texts).T
        image_loss = F.cross_entropy(to_text, (own + rank() * count).repeat(views))
        all_images = gather(images)
        to_image = scale * texts @ all_images.T
        mine = all_images.view(world(), views, count, -1)[rank()].mean(0)
        text_loss = (to_image.logsumexp(1) - scale * (texts * mine).sum(1)).mean()
        return 0.5 * (image_loss + text_loss)


def _groups(caption_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Of the rows of all processes: number of the caption among those present, and number of positives."""
    _, group, counts = torch.unique(gather(caption_ids), return_inverse=True, return_counts=True)
    return group, counts[group] - 1


class _LogSumExpOfOthers(torch.autograd.Function):
    """sum_i w_i log sum_{j != own(i)} exp(a_i.b_j / t), a chunk of anchors at a time.

    The gradient is made with the value, while a chunk of similarities is at hand, so nothing of size B x K is kept and
    nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, own: Tensor, weights: Tensor, temperature: float, chunk_rows: int
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        total = anchors.new_zeros(())
        anchor_gradient, candidate_gradient = torch.empty_like(anchors), torch.zeros_like(candidates)
        for start in range(0, len(anchors), chunk_rows):
            rows = slice(start, start + chunk_rows)
            scaled = anchors[rows] / temperature
            similarity = scaled @ candidates.T
            similarity[torch.arange(len(scaled), device=own.device), own[rows]] += SELF
            top = similarity.amax(1, keepdim=True)
            share = similarity.sub_(top).exp_()
            sums = share.sum(1, keepdim=True)
            total += ((top + sums.log()).squeeze(1) * weights[rows]).sum()
            if wanted:
                share.mul_(weights[rows].unsqueeze(1) / sums)
                torch.matmul(share, candidates, out=anchor_gradient[rows])
                candidate_gradient.addmm_(share.T, scaled)
        ctx.save_for_backward(anchor_gradient.div_(temperature), candidate_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        anchors, candidates = ctx.saved_tensors
        return gradient * anchors, gradient * candidates, None, None, None, None
