"""Memory that readers of images may take at once, however many threads they are."""

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

LARGE = 64 << 20
"""Bytes from which it pays to look for memory that was freed and not given back."""


class Budget:
    """Bytes that are lent to whoever needs them, and waited for while others hold them.

    >>> with Budget(100).hold(1000):
    ...     print("More than there is gets all of it, and so comes alone.")
    More than there is gets all of it, and so comes alone.
    """

    def __init__(self, total: int) -> None:
        self.total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, n_bytes: int) -> Iterator[None]:
        """Take bytes for as long as the block lasts."""
        n_bytes = min(n_bytes, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= n_bytes)
            self._free -= n_bytes
        try:
            if n_bytes > LARGE:
                _trim()
            yield
        finally:
            with self._changed:
                self._free += n_bytes
                self._changed.notify_all()


def _trim() -> None:
    """Give back what each thread keeps of the memory that it freed, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


CONTENTS = Budget(256 << 20)
"""Contents of image files."""
PIXELS = Budget(768 << 20)
"""Pixels that are being decoded; taken while the content is held, never the other way round, so that nobody waits in a
circle."""
