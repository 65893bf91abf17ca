"""A lock that an interrupt cannot leave locked."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

__all__ = ["OwnedLock"]

if TYPE_CHECKING:
    from threading import RLock
else:
    # Where gevent or eventlet have replaced the lock of the standard library, theirs: the
    # interpreter's own lock would let in every greenlet of the thread that holds it.
    RLock = type(threading.RLock())


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
