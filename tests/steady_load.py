"""Threads that call until a block ends, and end by themselves whatever happens to it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Self

__all__ = ["SteadyLoad"]


class SteadyLoad(ABC):
    """A context manager over threads that take turns; a subclass says what a turn is.

    Args:
        threads: How many.
        limit: Seconds after which they stop in any case.
        pause: Seconds between two turns of a thread.
    """

    def __init__(self, threads: int, *, limit: float, pause: float = 0.0) -> None:
        self._ends_at = time.monotonic() + limit
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads), "a call hangs"

    @abstractmethod
    def take_turn(self, turn: int) -> None:
        """Make one call, and note how it went; threads begin with different numbers."""

    def _run(self, number: int) -> None:
        turn = number
        while not self._stop.is_set() and time.monotonic() < self._ends_at:
            self.take_turn(turn)
            turn += 1
            if self._pause:
                self._stop.wait(self._pause)
