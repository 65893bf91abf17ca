"""Interrupts at the moments when a lock is taken, and when it is released again."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.source_files import is_of_the_clients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["interrupt_often", "interrupted_once_locked"]

_INTERRUPTS = 3000
_PAUSE = 0.0003


@contextmanager
def interrupted_once_locked() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block, between the lock's own code and its caller's."""

    def interrupt(frame: FrameType, event: str, function: object) -> None:
        if (
            is_of_the_clients(frame)
            and event == "c_return"
            and getattr(function, "__name__", "") == "acquire"
        ):
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        sys.setprofile(None)


def interrupt_often(call: Callable[[], object]) -> None:
    """Interrupt *call*, made again and again, by real signals: some strike as a lock is released.

    It takes the alarm signal, which would end a test that hangs: mark the test
    ``timeout(300, method="thread")``.
    """

    def ring(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(_INTERRUPTS):
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, _PAUSE)
                # Python passes over an exception in a finalizer: then no other comes.
                end = time.monotonic() + 0.05
                while time.monotonic() < end:
                    call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
