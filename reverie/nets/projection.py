"""Projection on a support set: an image's feature as a weighted sum of the text features of known sentences.

Source: SynTIC, arXiv:2312.08865, its projection into text space; before it DeCap, arXiv:2303.03032.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.errors import InputError

SAME = 0.9999  # cosine above which two rows are of the same sentence
TEMPERATURE = 0.01  # as in CLIP's own softmax, and in the released code of DeCap and its relatives


class Projected(NamedTuple):
    """What ``project`` gives."""

    rows: Tensor  # unit rows (n, d), float32
    left_out: Tensor  # (n,) share of the weights outside the top k, in [0, 1]; 0 where all were used


def project(
    features: Tensor,
    support: Tensor,
    temperature: float = TEMPERATURE,
    *,
    top_k: int = 0,
    own: tuple[Tensor, Tensor] | None = None,
    unit: bool = True,
    tile: tuple[int, int] = (1024, 4096),
    device: str = "cpu",
) -> Projected:
    """softmax(cosine / temperature) over the whole support set, and the sum of its rows under these weights.

    The softmax is taken tile by tile with a running maximum and sum, so that memory grows with neither set. Weights sum to
    1; before the last normalisation a row lies in the convex hull of the support.

    Args:
        features: rows (n, d), of any length.
        support: unit rows (m, d) of any floating type, also on disk; each tile is computed in float32, because a mixture of
            precisions would move a softmax as sharp as this one.
        temperature: towards 0 the nearest row alone, towards infinity the mean of all.
        top_k: use only the k nearest rows; 0 = all.
        own: a number for each feature (n,) and each support row (m,), both int64: a feature never sees rows of its own number.
        unit: normalise the sum to length 1.
        tile: features and support rows at a time. Changes speed and memory only.
        device: where a tile is computed; features, support and result stay on the CPU.
    Raises: InputError for an empty support set, a temperature that is not above 0, or a feature all of whose rows are its own.
    """
    if not len(support):
        raise InputError("the support set is empty; it needs at least one sentence")
    if not 0 < temperature < math.inf:
        raise InputError(f"the temperature {temperature} must be a number above 0")
    tall, wide = tile
    rows, left_out = torch.empty(len(features), support.shape[1]), torch.empty(len(features))
    for start in range(0, len(features), tall):
        here = slice(start, start + tall)
        found = _some(
            F.normalize(features[here].to(device).float(), dim=1),
            support,
            temperature,
            min(top_k, len(support)),
            (own[0][here].to(device), own[1].to(device)) if own else None,
            wide,
        )
        rows[here] = F.normalize(found.rows, dim=1) if unit else found.rows
        left_out[here] = found.left_out
    return Projected(rows, left_out)


def own_weight(
    features: Tensor,
    own: Tensor,
    support: Tensor,
    temperature: float = TEMPERATURE,
    *,
    top_k: int = 0,
    tile: int = 4096,
    device: str = "cpu",
) -> Tensor:
    """The share of the weights of a projection (n,) that lies on the feature's own sentence, in [0, 1]; see ``project``.

    A painted image has a sentence of its own in the support set, which a photo never has. Where that has nearly all the weight,
    projected features are those of sentences, and whoever learns from them learns from text.

    Args:
        features: rows (n, d), of any length.
        own: unit rows (n, d) of their sentences. One that stands in the support set twice counts twice, one that is not there 0.
    """
    features, own = F.normalize(features.to(device).float(), dim=1) / temperature, own.to(device).float()
    logits, is_own = features.new_empty(len(features), 0), features.new_empty(len(features), 0)
    highest = features.new_full((len(features), 1), -math.inf)
    total, mine = features.new_zeros(len(features), 1), features.new_zeros(len(features), 1)
    for start in range(0, len(support), tile):
        block = support[start : start + tile].to(device).float()
        some, same = features @ block.T, (own @ block.T > SAME).float()
        if top_k:
            logits, places = torch.cat([logits, some], 1).topk(min(top_k, logits.shape[1] + len(block)), dim=1)
            is_own = torch.cat([is_own, same], 1).gather(1, places)
            continue
        raised = torch.maximum(highest, some.amax(1, keepdim=True))
        shrink, weights = torch.exp(highest - raised), torch.exp(some - raised)
        total = total * shrink + weights.sum(1, keepdim=True)
        mine = mine * shrink + (weights * same).sum(1, keepdim=True)
        highest = raised
    share = (logits.softmax(1) * is_own).sum(1) if top_k else (mine / total).squeeze(1)
    return share.cpu()


def nearest(features: Tensor, support: Tensor, k: int, tile: int = 4096) -> tuple[Tensor, Tensor]:
    """Cosines (n, k) and numbers (n, k) of the k nearest support rows, the nearest first."""
    features = F.normalize(features.float(), dim=1)
    best = features.new_full((len(features), 0), 0.0)
    names = torch.empty(len(features), 0, dtype=torch.int64)
    for start in range(0, len(support), tile):
        cosines = features @ support[start : start + tile].float().T
        numbers = torch.arange(start, start + cosines.shape[1]).expand(len(features), -1)
        best, names = _top(torch.cat([best, cosines], 1), torch.cat([names, numbers], 1), k)
    return best, names


def _some(
    features: Tensor, support: Tensor, temperature: float, top_k: int, own: tuple[Tensor, Tensor] | None, tile: int
) -> Projected:
    """``project`` of one tile of unit features, before the last normalisation."""
    sharp = features / temperature
    highest = features.new_full((len(features), 1), -math.inf)
    total = features.new_zeros(len(features), 1)
    sums = features.new_zeros(len(features), support.shape[1])
    best = features.new_zeros(len(features), 0)
    names = torch.zeros(len(features), 0, dtype=torch.int64, device=features.device)
    for start in range(0, len(support), tile):
        block = support[start : start + tile].to(features.device).float()
        logits = sharp @ block.T
        if own:
            logits.masked_fill_(own[0][:, None] == own[1][None, start : start + tile], -math.inf)
        raised = torch.maximum(highest, logits.amax(1, keepdim=True))
        shrink = torch.where(highest == raised, 1.0, torch.exp(highest - raised))
        weights = logits.sub(raised).exp_() if top_k else logits.sub_(raised).exp_()
        if own:
            weights.nan_to_num_(0.0)  # where nothing but the feature's own rows was seen so far
        total = total * shrink + weights.sum(1, keepdim=True)
        if top_k:
            numbers = torch.arange(start, start + len(block), device=block.device).expand(len(features), -1)
            best, names = _top(torch.cat([best, logits], 1), torch.cat([names, numbers], 1), top_k)
        else:
            sums.mul_(shrink.nan_to_num(0.0)).addmm_(weights, block)
        highest = raised
    if not bool((total > 0).all()):
        raise InputError("a caption has no other in the support set than its own; leave exclude_self out")
    if not top_k:
        return Projected((sums / total).cpu(), torch.zeros(len(features)))
    weights = torch.exp(best - highest)
    kept = weights.sum(1, keepdim=True)
    used, names = torch.unique(names, return_inverse=True)
    table = support[used.cpu()].to(features.device).float()
    sums = F.embedding_bag(names, table, mode="sum", per_sample_weights=weights / kept)
    return Projected(sums.cpu(), (1 - kept / total).clamp(0, 1).squeeze(1).cpu())


def _top(values: Tensor, names: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, places = values.topk(min(k, values.shape[1]), dim=1)
    return values, names.gather(1, places)
