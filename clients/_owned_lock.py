"""A lock that an interrupt cannot leave locked."""

from __future__ import annotations

import threading
from contextlib import suppress

__all__ = ["OwnedLock"]


class OwnedLock:
    """A lock to acquire inside the ``try`` whose ``finally`` releases it.

    It knows its owner, so releasing it does no harm where it was not had; and an exception that a
    signal handler raises between taking the lock and noting it leaves it free.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def acquire(self, *, timeout: float) -> bool:
        """Return True when this thread has it within *timeout* seconds; 0 does not wait."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Let others have it, if it is this thread's."""
        with suppress(RuntimeError):
            self._lock.release()
