"""What the process does with memory that is freed."""

from __future__ import annotations

import ctypes
import functools
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, as malloc.h numbers them
KEPT_BYTES = 1 << 30


@functools.cache
def keep_freed() -> None:
    """Memory that is freed stays with the process, up to a gigabyte, for what is allocated next. Nothing where the C library is not glibc.

    By default glibc gives it back and gets it anew with every batch, page by page, each of which the kernel fills with zeros. That
    takes more time than reading encoded images does otherwise, and shows in trainings on a CPU. Variables of glibc's own
    (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_) do the same from outside.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(MMAP_THRESHOLD, KEPT_BYTES)
