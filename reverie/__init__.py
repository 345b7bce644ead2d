"""Synthetic image-text data: words in; captions, images, trained models and measured numbers out.

What people use stands here by its plain name and is imported when asked for, so that ``import reverie`` and ``--help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same for who reads the code without running it; a test holds the two together
    from reverie.arms import Arm as Arm
    from reverie.captions.corpus import ReadCorpus as ReadCorpus
    from reverie.captions.templates import FillTemplates as FillTemplates
    from reverie.errors import (
        BrokenImage as BrokenImage,
        FolderInUse as FolderInUse,
        InputError as InputError,
        MissingExtra as MissingExtra,
        ModelError as ModelError,
        ReverieError as ReverieError,
        SettingsChanged as SettingsChanged,
        StoreError as StoreError,
        StoreFull as StoreFull,
        TrainingError as TrainingError,
        UnitExists as UnitExists,
        UnknownName as UnknownName,
    )
    from reverie.filters.keep import Keep as Keep
    from reverie.images.pixels import PaintPixels as PaintPixels
    from reverie.learn.fit import Fit as Fit
    from reverie.learn.losses import multi_positive_loss as multi_positive_loss
    from reverie.learn.stablerep import StableRep as StableRep
    from reverie.learn.train import Train as Train
    from reverie.library import Run as Run, open_run as open_run, recipe as recipe, run as run
    from reverie.models.backbones import load_backbone as load_backbone, represent as represent
    from reverie.models.captioner import Captioner as Captioner, load_captioner as load_captioner
    from reverie.models.classifier import Classifier as Classifier, load_classifier as load_classifier
    from reverie.models.encoder import open_encoder as open_encoder
    from reverie.models.painter import open_painter as open_painter
    from reverie.run.plan import Plan as Plan, Step as Step
    from reverie.store.imports import import_into as import_into
    from reverie.store.pictures import decoded as decoded

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

__all__ = sorted([*_HOME_OF, "run", "__version__"])


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
    return [*__all__, "__doc__"]
