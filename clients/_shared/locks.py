"""A lock that an interrupt cannot leave locked."""

from __future__ import annotations

import sys
from _thread import RLock

__all__ = ["OwnedLock"]


class OwnedLock(RLock):  # type: ignore[misc]  # final for type checkers alone
    """A lock that stays free when a signal handler raises right after it was taken.

    Use it in a ``with`` statement. Where the wait is to be bounded, acquire it inside the ``try``
    whose ``finally`` releases it, and pass over the ``RuntimeError`` that says that it was not got:
    the lock knows its owner. There and not in a function, nor in ``suppress()``: an interrupt may
    come at the entry of any function in Python, and the lock would stay locked.
    """

    __slots__ = ()

    if sys.version_info >= (3, 14):
        # There an interrupt may come between the entry and the block, whose end is left out.
        # https://github.com/python/cpython/issues/148874
        def __enter__(self) -> bool:
            depth = self._recursion_count()
            try:
                return self.acquire()
            except BaseException:
                if self._recursion_count() > depth:
                    self.release()
                raise
