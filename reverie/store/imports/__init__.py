"""Imports: folders and files that others wrote -> units of captions and real images.

Nothing is trusted: images are decoded before they count as ok, names inside archives never reach the disk, and what cannot
be used becomes a row with a reason. Ids come from a name for the source and the position in it, so importing again, from
another place or after a kill, gives the same rows.

    kinds.py     what a path holds, and which reader reads it
    samples.py   what every reader yields: a caption with perhaps an image, or the reason why something was not taken
    folders.py lines.py coco.py parquet.py webdataset.py huggingface.py    the readers
    units.py     samples -> units in the tables, and the account of all that was there
"""

from reverie.store.imports.kinds import entries, guess_kind, guess_kind_unasked, samples
from reverie.store.imports.samples import Kind, NotTaken, Reading, Sample
from reverie.store.imports.units import Account, Unit, import_into, read

__all__ = [
    "Account",
    "Kind",
    "NotTaken",
    "Reading",
    "Sample",
    "Unit",
    "entries",
    "guess_kind",
    "guess_kind_unasked",
    "import_into",
    "read",
    "samples",
]
