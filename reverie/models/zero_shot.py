"""Zero-shot classification: an image gets the class whose texts are nearest to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from reverie.errors import InputError
from reverie.pairs import CLASS_SLOT


class TextEncoder(Protocol):
    """What is needed of an encoder (models/encoder.py has one)."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Rows (n, d), float32."""
        ...


def class_embeddings(
    encoder: TextEncoder, classes: Sequence[str], templates: Sequence[str] = ("a photo of a {class}.",)
) -> Tensor:
    """One unit row a class: its sentences' unit embeddings averaged over the templates and made unit again.

    Args:
        classes: names, each filled into every template where ``{class}`` stands.
    Returns: float32 (classes, d).
    Raises: InputError for no classes, a class named twice, or a template without ``{class}``.
    Source: Radford et al., arXiv:2103.00020, section 3.1.4.
    """
    if not classes or not templates:
        raise InputError("zero-shot needs at least one class name and one template")
    if twice := sorted(name for name, times in Counter(classes).items() if times > 1):
        raise InputError(f"class names must differ; named twice: {', '.join(twice)}")
    if bare := [template for template in templates if CLASS_SLOT not in template]:
        raise InputError(f"template {bare[0]!r} has no {CLASS_SLOT} for the class name")
    sentences = [template.replace(CLASS_SLOT, name) for name in classes for template in templates]
    rows = F.normalize(encoder.texts(sentences), dim=1).view(len(classes), len(templates), -1)
    return F.normalize(rows.mean(dim=1), dim=1)
