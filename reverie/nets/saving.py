"""Write a transformers network as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import logging


def save_pretrained(net: Any, folder: Path) -> None:
    """``net.save_pretrained`` without its progress bar, which would break into the bar of the run."""
    logging.disable_progress_bar()
    net.save_pretrained(folder)
