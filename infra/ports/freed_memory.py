"""The C library keeps freed memory for later use: after a compilation, tens to hundreds of MiB."""

import ctypes


def return_freed_memory() -> None:
    """Return freed memory to the system, in some ms. C libraries other than glibc do it by themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
