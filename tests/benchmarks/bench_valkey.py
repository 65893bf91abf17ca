"""What Valkey's operations cost beside bare redis-py, with and without hiredis, and ``limits``.

The driver with hiredis is there twice: its ratio to itself shows the noise of the run.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import limits
import pytest
import redis
from redis._parsers import _RESP3Parser
from redis.connection import PythonRespSerializer

from clients.valkey_client import ValkeyClient
from tests.benchmarks._board import compare
from tests.benchmarks._delayed_link import DelayedLink
from tests.benchmarks._one_processor import one_processor
from tests.benchmarks._pairs import Crew, Times, take_turns
from tests.benchmarks._wire import trips_of
from tests.fault_proxy import FaultProxy
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks._board import Board, Row
    from tests.benchmarks._pairs import Way

pytestmark = pytest.mark.bench

_OURS, _HIREDIS, _PLAIN = "ours", "redis-py, hiredis", "redis-py, no hiredis"
_AGAIN = "redis-py, hiredis, once more"
_VALUE = "x" * 100
_RECORD = {"user": "ada", "roles": ["admin", "editor"], "visits": 17, "name": "x" * 100}
_BATCH = 100
_PROMISES = {
    "get()": "get",
    "set(), expiry": "set",
    "incr()": "incr",
    "pipeline of 100": "pipeline",
}


class PlainConnection(redis.Connection):
    """A connection of redis-py as it is where hiredis is not installed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, parser_class=_RESP3Parser)  # type: ignore[no-untyped-call]

    def _construct_command_packer(self, packer: Any) -> Any:
        del packer
        return PythonRespSerializer(self._buffer_cutoff, self.encoder.encode)


class Contestants:
    """The clients on one server.

    Args:
        url: The server, or what stands in front of it.
        opened: Closes what is opened here.
    """

    def __init__(self, url: str, opened: ExitStack) -> None:
        self.ours = opened.enter_context(ValkeyClient(url))
        self.drivers: dict[str, Any] = {
            name: opened.enter_context(redis.Redis.from_url(url, decode_responses=True, **options))
            for name, options in (
                (_HIREDIS, {}),
                (_PLAIN, {"connection_class": PlainConnection}),
                (_AGAIN, {}),
            )
        }
        storage = limits.storage.RedisStorage(url)
        opened.callback(storage.storage.close)
        limit = limits.RateLimitItemPerMinute(1_000_000)
        strategies: dict[str, limits.strategies.RateLimiter] = {
            "fixed window": limits.strategies.FixedWindowRateLimiter(storage),
            "moving window": limits.strategies.MovingWindowRateLimiter(storage),
            "sliding counter": limits.strategies.SlidingWindowCounterRateLimiter(storage),
        }
        # The strategies keep different kinds of value, so each has a key of its own.
        self.limiters: dict[str, Way] = {
            f"limits, {name}": partial(strategy.hit, limit, name)
            for name, strategy in strategies.items()
        }
        self.ours.set("a", _VALUE)
        self.ours.set_json("record", _RECORD)

    def each(self, ours: Callable[[], object], theirs: Callable[[Any], object]) -> dict[str, Way]:
        """Return one operation in every client's way."""
        return {_OURS: ours} | {
            name: lambda driver=driver: theirs(driver) for name, driver in self.drivers.items()
        }

    def operations(self) -> dict[str, dict[str, Way]]:
        """Return the ways of each operation."""
        ours = self.ours
        return {
            "get()": self.each(lambda: ours.get("a"), lambda driver: driver.get("a")),
            "set(), expiry": self.each(
                lambda: ours.set("b", _VALUE, expire_seconds=60),
                lambda driver: driver.set("b", _VALUE, ex=60),
            ),
            "incr()": self.each(lambda: ours.incr("n"), lambda driver: driver.incr("n")),
            "get_json()": self.each(
                lambda: ours.get_json("record"), lambda driver: json.loads(driver.get("record"))
            ),
            "pipeline of 100": self.each(
                lambda: _filled(ours.pipeline()),
                lambda driver: _filled(driver.pipeline(transaction=False)),
            ),
            "rate_limit()": {
                _OURS: lambda: ours.rate_limit("r", limit=1_000_000, period_seconds=60),
                **self.limiters,
            },
        }


def _filled(pipe: Any) -> list[Any]:
    for _ in range(_BATCH):
        pipe.get("a")
    answers: list[Any] = pipe.execute()
    return answers


@pytest.fixture(scope="module")
def valkey(board: Board) -> Iterator[ValkeyServer]:
    """A server of the benchmarks' own."""
    with ValkeyServer() as server:
        with ValkeyClient(server.url) as client:
            board.versions["Valkey"] = client.server_version().removeprefix("valkey ")
        yield server


@pytest.fixture(scope="module")
def contestants(valkey: ValkeyServer) -> Iterator[Contestants]:
    """All clients, seen to do the same, and to give the same answers."""
    with ExitStack() as opened:
        found = Contestants(valkey.url, opened)
        assert found.drivers[_PLAIN].connection_pool.connection_class is PlainConnection
        operations = found.operations()
        for name in ("get()", "set(), expiry", "get_json()", "pipeline of 100"):
            ours, *others = [way() for way in operations[name].values()]
            assert others == [ours] * len(others)
        for way in operations["set(), expiry"].values():
            found.ours.delete("b")
            way()
            assert found.ours.ttl("b") in {59, 60}
        counts: list[Any] = [way() for way in operations["incr()"].values()]
        assert counts == list(range(counts[0], counts[0] + len(counts)))
        admitted: list[Any] = [way() for way in operations["rate_limit()"].values()]
        assert admitted[0].allowed
        assert all(admitted[1:])
        yield found


@pytest.fixture(scope="module")
def trips(valkey: ValkeyServer) -> dict[str, dict[str, float]]:
    """The round trips of every operation in every way."""
    with FaultProxy(valkey.port) as proxy, ExitStack() as opened:
        url = valkey.url.replace(f":{valkey.port}/", f":{proxy.port}/")
        operations = Contestants(url, opened).operations()
        return {name: trips_of(ways, proxy) for name, ways in operations.items()}


def _compared(
    what: str, times: Times, trips: dict[str, float], promise: str | None = None
) -> list[Row]:
    """Return the rows of an operation; the driver that is there twice has one."""
    others = Times({name: taken for name, taken in times.seconds.items() if name != _AGAIN})
    promises = {} if promise is None else {_HIREDIS: promise}
    return compare("Valkey", what, others, _OURS, trips=trips, promises=promises)


@pytest.mark.parametrize(
    "name",
    ["get()", "set(), expiry", "incr()", "get_json()", "pipeline of 100", "rate_limit()"],
)
def test_an_operation(
    valkey: ValkeyServer,
    contestants: Contestants,
    trips: dict[str, dict[str, float]],
    board: Board,
    name: str,
) -> None:
    """Each costs less than the driver's own, in one round trip."""
    calls = 5 if name == "pipeline of 100" else 100
    with one_processor(valkey.pid):
        times = take_turns(contestants.operations()[name], rounds=61, calls=calls)
    if name == "get()":
        twins = Times({one: times.seconds[one] for one in (_AGAIN, _HIREDIS)})
        board.add(*compare("Valkey", "noise: the driver against itself", twins, _AGAIN))
    assert board.add(*_compared(name, times, trips[name], _PROMISES.get(name))) == []
    assert trips[name][_OURS] == 1


def test_eight_threads(
    contestants: Contestants, trips: dict[str, dict[str, float]], board: Board
) -> None:
    """Eight threads get more done in the same time."""
    with Crew(8) as crew:
        times = take_turns(contestants.operations()["get()"], rounds=21, calls=1200, crew=crew)
    rows = [
        # Calls for each second: the other way round than seconds for each call.
        replace(row, ratio=1 / (row.ratio or 1), promise=promise)
        for row, promise in zip(
            _compared("get(), 8 threads, throughput", times, trips["get()"]),
            ("threads", None),
            strict=True,
        )
    ]
    assert board.add(*rows) == []


@pytest.mark.parametrize("milliseconds", [1, 10])
def test_over_a_link(
    valkey: ValkeyServer, trips: dict[str, dict[str, float]], board: Board, milliseconds: int
) -> None:
    """Over a network the round trips are what counts."""
    with DelayedLink(valkey.port, milliseconds / 1000) as link, ExitStack() as opened:
        url = valkey.url.replace(f":{valkey.port}/", f":{link.port}/")
        operations = Contestants(url, opened).operations()
        for name in ("get()", "set(), expiry", "get_json()", "pipeline of 100", "rate_limit()"):
            calls = 20 if milliseconds == 1 else 4
            times = take_turns(operations[name], rounds=9, calls=calls)
            what = f"{name}, {milliseconds} ms link"
            assert board.add(*_compared(what, times, trips[name])) == []
