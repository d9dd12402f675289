"""The memory allocator of the process."""

import contextlib
import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next request instead of giving it back to the system.

    Activations are large and come and go at every step; giving each back costs a page fault for every 4 KiB when it
    is asked for again: a third of the time of a training step of Conv-4. Without glibc this does nothing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
                ctypes.CDLL("libc.so.6").mallopt(parameter, 2**31 - 1)
