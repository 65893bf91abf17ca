"""Times of contestants that take turns, so that all of them meet the same machine.

pyperf and pytest-benchmark measure one thing after the other, pyperf even in processes of their
own. What else the machine does meanwhile then falls on one side of a ratio alone. Here each round
has every contestant once, in random order, and what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import gc
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Crew", "Times", "Way", "take_turns"]

#: One call of a contestant.
Way: TypeAlias = "Callable[[], object]"


@dataclass(frozen=True, slots=True)
class Times:
    """What the rounds took.

    Args:
        seconds: By contestant, the seconds per call of each round.
    """

    seconds: Mapping[str, list[float]]

    def typical(self, name: str) -> float:
        """Return the median seconds per call."""
        return statistics.median(self.seconds[name])

    def ratio(self, ours: str, theirs: str) -> float:
        """Return the median of *ours* by *theirs*, round by round."""
        pairs = zip(self.seconds[ours], self.seconds[theirs], strict=True)
        return statistics.median(one / other for one, other in pairs)


class Crew:
    """Threads that stay: a framework that keeps a connection for each thread shall keep it.

    Args:
        size: How many; with 1 the calls run in the caller's own thread.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = ThreadPoolExecutor(size) if size > 1 else None
        self._gate = threading.Barrier(size + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def seconds(self, way: Way, calls: int) -> float:
        """Return the wall-clock seconds per call of *calls* calls, shared among the threads."""
        if self._pool is None:
            started = time.perf_counter()
            for _ in range(calls):
                way()
            return (time.perf_counter() - started) / calls
        share = -(-calls // self.size)
        # Each thread waits at the gate, so no thread can take the share of another.
        done = [self._pool.submit(self._work, way, share) for _ in range(self.size)]
        self._gate.wait()
        started = time.perf_counter()
        for one in done:
            one.result()
        return (time.perf_counter() - started) / (share * self.size)

    def each(self, way: Way) -> None:
        """Call *way* once in every thread."""
        self.seconds(way, self.size)

    def _work(self, way: Way, calls: int) -> None:
        self._gate.wait()
        for _ in range(calls):
            way()


def take_turns(
    ways: Mapping[str, Way],
    *,
    rounds: int,
    calls: int,
    crew: Crew | None = None,
    warm_up: int | None = None,
    before: Callable[[], object] = lambda: None,
) -> Times:
    """Measure *ways* against each other.

    Args:
        ways: The contestants by name.
        rounds: How many rounds; each has every contestant once.
        calls: How many calls a contestant makes in a round.
        crew: The threads that make them; the caller's alone when None.
        warm_up: How many calls each makes first, unmeasured; *calls* when None.
        before: What is done before each contestant's calls, unmeasured.
    """
    crew = Crew(1) if crew is None else crew
    for way in ways.values():
        before()
        crew.seconds(way, calls if warm_up is None else max(warm_up, 1))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    with _collector_at_rest():
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                before()
                gc.collect()
                seconds[name].append(crew.seconds(ways[name], calls))
    return Times(seconds)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Keep the garbage collector out of what is timed, as ``timeit`` does.

    It goes through the objects of all contestants, and whoever makes the next object pays for it.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
