"""Synthetic image-text data: words in; captions, images, trained models and measured numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.models.captioner import load_captioner
    from reverie.models.classifier import load_classifier

__all__ = ["load_captioner", "load_classifier"]


def __getattr__(name: str) -> Any:
    """Imported when asked for, so that ``import reverie`` and ``--help`` stay quick."""
    if name == "load_classifier":
        from reverie.models.classifier import load_classifier

        return load_classifier
    if name == "load_captioner":
        from reverie.models.captioner import load_captioner

        return load_captioner
    raise AttributeError(name)
