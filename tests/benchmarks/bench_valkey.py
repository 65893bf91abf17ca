"""Speed of the Valkey client as a ratio to bare redis-py, in the same run on the same server.

Run it with ``pytest -m bench tests/benchmarks/bench_valkey.py -s``. The two take turns in short
rounds, in random order, and the median of the paired ratios counts; a second bare client is
measured beside them and shows the noise.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from clients.valkey_client import ValkeyClient
from utils._valkey_server import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.bench

ROUNDS = 21
CALLS = 600
VALUE = "x" * 100
THREADS = 8


@pytest.fixture(scope="module")
def contestants() -> Iterator[dict[str, Any]]:
    """Our client, the bare driver, and the bare driver once more."""
    with ValkeyServer() as server, ValkeyClient(server.url) as ours:
        bare = [redis.Redis.from_url(server.url, decode_responses=True) for _ in range(2)]
        ours.set("a", VALUE)
        yield {"ours": ours, "bare": bare[0], "bare again": bare[1]}
        for one in bare:
            one.close()


def _ratio(contestants: dict[str, Any], name: str, work: Callable[[Any], None]) -> float:
    """Return the median of our time divided by the bare driver's."""
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        order = list(contestants)
        random.shuffle(order)
        times = {}
        for who in order:
            start = time.perf_counter()
            work(contestants[who])
            times[who] = time.perf_counter() - start
        rounds.append(times)
    ours = statistics.median(one["ours"] / one["bare"] for one in rounds)
    noise = statistics.median(one["bare again"] / one["bare"] for one in rounds)
    print(f"{name}: {ours:.2f} of bare redis-py's time (bare against itself: {noise:.2f})")  # noqa: T201
    return ours


def _repeated(call: Callable[[Any], object]) -> Callable[[Any], None]:
    def work(client: Any) -> None:
        for _ in range(CALLS):
            call(client)

    return work


def test_get(contestants: dict[str, Any]) -> None:
    """A get takes at most 0.7 of the driver's time."""
    assert _ratio(contestants, "get", _repeated(lambda c: c.get("a"))) <= 0.7


def test_set(contestants: dict[str, Any]) -> None:
    """A set with an expiry takes at most 0.7 of the driver's time."""

    def work(client: Any) -> None:
        is_ours = isinstance(client, ValkeyClient)
        options = {"expire_seconds": 60} if is_ours else {"ex": 60}
        for _ in range(CALLS):
            client.set("a", VALUE, **options)

    assert _ratio(contestants, "set", work) <= 0.7


def test_incr(contestants: dict[str, Any]) -> None:
    """An increment takes at most 0.7 of the driver's time."""
    assert _ratio(contestants, "incr", _repeated(lambda c: c.incr("n"))) <= 0.7


def test_pipeline(contestants: dict[str, Any]) -> None:
    """A pipeline of 100 takes at most 0.6 of the driver's time."""

    def work(client: Any) -> None:
        for _ in range(CALLS // 50):
            ours = isinstance(client, ValkeyClient)
            pipe = client.pipeline() if ours else client.pipeline(transaction=False)
            for _ in range(100):
                pipe.get("a")
            pipe.execute()

    assert _ratio(contestants, "pipeline of 100", work) <= 0.6


def test_threads(contestants: dict[str, Any]) -> None:
    """Eight threads get at least 1.3 times the driver's throughput."""

    def work(client: Any) -> None:
        def loop() -> None:
            for _ in range(CALLS // 4):
                client.get("a")

        threads = [threading.Thread(target=loop) for _ in range(THREADS)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    assert 1 / _ratio(contestants, "8 threads", work) >= 1.3
