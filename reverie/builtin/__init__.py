"""The models that come with the package: how they were trained on the small world, and how they are checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro

from reverie.errors import ReverieError
from reverie.memory import keep_freed


def command(work: Callable[..., Any], *config: Any) -> None:
    """Run a program of this package from the command line; a slip is one line and exit code 2, as with ``reverie``."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # what it warns of is about parts that are not used here
    keep_freed()
    try:
        tyro.cli(work, config=config)
    except ReverieError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
