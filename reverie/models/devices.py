"""The device to work on. Imports torch only when it is asked."""

from __future__ import annotations

from reverie.errors import InputError


def find_device(wanted: str) -> str:
    """The one that is named; of none the GPU, if there is one. Raises InputError for one that is not there."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(["cuda"] if found else []), *(f"cuda:{number}" for number in range(found))]
    if wanted and wanted not in there:
        raise InputError(f"there is no device {wanted!r} here; use one of: {', '.join(there)}")
    return wanted or ("cuda" if found else "cpu")
