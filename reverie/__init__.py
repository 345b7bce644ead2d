"""Synthetic image-text data: words in; captions, images, trained models and measured numbers out.

What people use stands here by its plain name and is imported when asked for, so that ``import reverie`` and ``--help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.arms import Arm
    from reverie.captions.corpus import ReadCorpus
    from reverie.captions.templates import FillTemplates
    from reverie.errors import (
        BrokenImage,
        FolderInUse,
        InputError,
        MissingExtra,
        ModelError,
        ReverieError,
        SettingsChanged,
        StoreError,
        StoreFull,
        TrainingError,
        UnitExists,
        UnknownName,
    )
    from reverie.filters.keep import Keep
    from reverie.images.pixels import PaintPixels
    from reverie.learn.fit import Fit
    from reverie.learn.losses import multi_positive_loss
    from reverie.learn.stablerep import StableRep
    from reverie.learn.train import Train
    from reverie.library import Run, open_run, recipe, run
    from reverie.models.backbones import load_backbone, represent
    from reverie.models.captioner import Captioner, load_captioner
    from reverie.models.classifier import Classifier, load_classifier
    from reverie.models.encoder import open_encoder
    from reverie.models.painter import open_painter
    from reverie.run.plan import Plan, Step
    from reverie.store.imports import import_into
    from reverie.store.pictures import decoded

    __version__: str

_HOMES = {
    "reverie.arms": ("Arm",),
    "reverie.captions.corpus": ("ReadCorpus",),
    "reverie.captions.templates": ("FillTemplates",),
    "reverie.errors": (
        "BrokenImage",
        "FolderInUse",
        "InputError",
        "MissingExtra",
        "ModelError",
        "ReverieError",
        "SettingsChanged",
        "StoreError",
        "StoreFull",
        "TrainingError",
        "UnitExists",
        "UnknownName",
    ),
    "reverie.store.pictures": ("decoded",),
    "reverie.filters.keep": ("Keep",),
    "reverie.images.pixels": ("PaintPixels",),
    "reverie.learn.fit": ("Fit",),
    "reverie.learn.losses": ("multi_positive_loss",),
    "reverie.learn.stablerep": ("StableRep",),
    "reverie.learn.train": ("Train",),
    "reverie.library": ("Run", "open_run", "recipe"),
    "reverie.models.captioner": ("Captioner", "load_captioner"),
    "reverie.models.classifier": ("Classifier", "load_classifier"),
    "reverie.models.encoder": ("open_encoder",),
    "reverie.models.painter": ("open_painter",),
    "reverie.models.backbones": ("load_backbone", "represent"),
    "reverie.run.plan": ("Plan", "Step"),
    "reverie.store.imports": ("import_into",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Arm",
    "BrokenImage",
    "Captioner",
    "Classifier",
    "FillTemplates",
    "Fit",
    "FolderInUse",
    "InputError",
    "Keep",
    "MissingExtra",
    "ModelError",
    "PaintPixels",
    "Plan",
    "ReadCorpus",
    "ReverieError",
    "Run",
    "SettingsChanged",
    "StableRep",
    "Step",
    "StoreError",
    "StoreFull",
    "Train",
    "TrainingError",
    "UnitExists",
    "UnknownName",
    "__version__",
    "decoded",
    "import_into",
    "load_backbone",
    "load_captioner",
    "load_classifier",
    "multi_positive_loss",
    "open_encoder",
    "open_painter",
    "open_run",
    "recipe",
    "represent",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "run":  # a package as well, which is why it can be called: see there
        return import_module("reverie.run")
    if name == "__version__":
        from importlib import metadata

        try:
            found: Any = metadata.version("reverie")
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            found = "0+unknown"
    elif name in _HOME_OF:
        found = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module 'reverie' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
