"""What the C library does with memory that is freed."""

import ctypes
import platform
from typing import Final

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h
_NEVER: Final = -1


def keep_freed_memory() -> None:
    """Let this process keep what it frees for what it asks for next; before JAX is first used, whose threads it is for.

    A training step takes hundreds of megabytes for what it computes in between. glibc gives arrays as large as that
    back to the system, which clears each page again when it is touched in the next step: two fifths of the CPU time of
    a step. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_ARENA_MAX, 1)  # one heap for all threads, for others hold little
        libc.mallopt(_MMAP_MAX, 0)  # which large arrays are part of
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
