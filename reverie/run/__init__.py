"""The engine: plans, run folders, and doing what is left of a plan.

The package can be called: ``reverie.run(plan, folder)`` is ``reverie.library.run``, which has the name that people look for.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        """See ``reverie.library.run``."""
        from reverie.library import run

        return run(*args, **options)


sys.modules[__name__].__class__ = _Callable
