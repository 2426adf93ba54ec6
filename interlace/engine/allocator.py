"""Keeps glibc from giving the memory of one forward back before the next: thousands of page faults a forward on a CPU.

For the whole process, once, and only where nobody chose otherwise. Knows nothing of engines.
"""

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them, from malloc.h
_LARGEST_BLOCK = 32 << 20  # bytes: what is larger comes from the system and goes back; glibc allows no more
_KEPT = 256 << 20  # bytes that a thread's arena may hold on to


@functools.cache
def keep_memory() -> bool:
    """Raise malloc's thresholds. False where that can't be done, or the environment sets some already."""
    chosen = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if not sys.platform.startswith("linux") or chosen or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and libc.mallopt(_TRIM_THRESHOLD, _KEPT))
