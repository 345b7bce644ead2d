"""Checks of the numbers that a user gives, before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reverie.errors import InputError


def check_min(minimum: float, **given: float | Sequence[float] | None) -> None:
    """Raises InputError that names the flag of a number below ``minimum`` or of none at all (NaN). None is not looked at."""
    for name, value in given.items():
        for number in value if isinstance(value, Sequence) else [] if value is None else [value]:
            if not number >= minimum:
                raise InputError(f"--{name.replace('_', '-')} {number}: give {minimum:g} or more")


def check_numbers(given: object, name: str) -> None:
    """Raises InputError for a flag that is not a number, which no comparison would catch. Tuples are looked through."""
    if isinstance(given, float) and math.isnan(given):
        raise InputError(f"--{name.replace('_', '-')} nan: give a number")
    for item in given if isinstance(given, (tuple, list)) else ():
        check_numbers(item, name)
