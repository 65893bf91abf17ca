"""What Valkey's operations cost beside redis-py, with and without hiredis, GLIDE and ``limits``.

The driver with hiredis is there twice: its ratio to itself shows the noise of the run. The floor of
a call is a socket with the same time-out, and hiredis to write the command and to read the reply.

What was measured, on two processors that were shared with other work. ``get()``, ``set()`` and
``incr()`` of ours take 0.87 to 0.91 of redis-py's time over a link of 1 ms, and 0.86 to 0.87 of
GLIDE's. At eight threads over that link ours get 1.17 to 1.44 times as much done as redis-py, and
1.09 to 1.20 times as much as GLIDE; on loopback 2.5 to 3.0 and 1.3 to 1.75 times. What is left of
the lead over a network is processor time alone: each of the three waits for one round trip. Eight
sockets of the floor get 5.5 to 7.5 times as much through the link as one, the more the quieter the
machine is: it is not the link that decides.
"""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import hiredis
import limits
import pytest
import redis
from glide_sync import (
    ExpirySet,
    ExpiryType,
    GlideClient,
    GlideClientConfiguration,
    NodeAddress,
    ServerCredentials,
)
from redis._parsers import _RESP3Parser
from redis.connection import PythonRespSerializer

from clients.valkey_client import ValkeyClient
from tests.benchmarks._board import Row, compare
from tests.benchmarks._delayed_link import DelayedLink
from tests.benchmarks._one_processor import one_processor
from tests.benchmarks._pairs import Crew, Times, take_turns
from tests.benchmarks._wire import trips_of
from tests.fault_proxy import FaultProxy
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients._valkey.url import Address
    from tests.benchmarks._board import Board
    from tests.benchmarks._pairs import Way

pytestmark = pytest.mark.bench

_OURS, _HIREDIS, _PLAIN = "ours", "redis-py, hiredis", "redis-py, no hiredis"
_AGAIN = "redis-py, hiredis, once more"
_GLIDE, _FLOOR = "valkey-glide-sync", "a socket and hiredis"
_VALUE = "x" * 100
_RECORD = {"user": "ada", "roles": ["admin", "editor"], "visits": 17, "name": "x" * 100}
_BATCH = 100
_PROMISES = {
    "get()": {_HIREDIS: "get", _GLIDE: "glide", _FLOOR: "floor"},
    "set(), expiry": {_HIREDIS: "set", _GLIDE: "glide"},
    "incr()": {_HIREDIS: "incr", _GLIDE: "glide"},
    "pipeline of 100": {_HIREDIS: "pipeline"},
}
#: What the others have, too, in a form of its own.
_COMMON = ("get()", "set(), expiry", "incr()")


class PlainConnection(redis.Connection):
    """A connection of redis-py as it is where hiredis is not installed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, parser_class=_RESP3Parser)  # type: ignore[no-untyped-call]

    def _construct_command_packer(self, packer: Any) -> Any:
        del packer
        return PythonRespSerializer(self._buffer_cutoff, self.encoder.encode)


class Floor:
    """The least that a call can take in Python: no pool, no errors, and a single thread.

    Args:
        place: The server's address.
        password: Its password.
        timeout: Seconds that a reply may take, as in any client: without, a call could hang.
    """

    def __init__(self, place: Address, password: str, timeout: float) -> None:
        self._socket = socket.create_connection(place, timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(encoding="utf-8", notEnoughData=self)
        self._buffer = bytearray(65536)
        self.close = self._socket.close
        assert self.call("AUTH", password) == "OK"

    def call(self, *words: str) -> object:
        """Send a command, and return its reply."""
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # as in pack
        reply: object = self
        while reply is self:
            count = self._socket.recv_into(self._buffer)
            self._reader.feed(self._buffer, 0, count)  # type: ignore[arg-type]  # any buffer
            reply = self._reader.gets()
        return reply


class FloorOfThread(threading.local):
    """A floor for each thread that uses it.

    Args:
        contestants: What it is measured beside.
        opened: Closes it.
    """

    def __init__(self, contestants: Contestants, opened: ExitStack) -> None:
        self.call = contestants.new_floor(opened).call


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
        target = self.ours.runner.target
        self._place, self._password = target.addresses[0], target.password or ""
        self.glide = GlideClient.create(
            GlideClientConfiguration(
                [NodeAddress(*self._place)],
                credentials=ServerCredentials(password=self._password),
                request_timeout=5000,
            )
        )
        opened.callback(self.glide.close)
        self.floor = self.new_floor(opened)
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

    def new_floor(self, opened: ExitStack) -> Floor:
        """Connect a floor; *opened* closes it."""
        floor = Floor(self._place, self._password, timeout=5.0)
        opened.callback(floor.close)
        return floor

    def each(self, ours: Callable[[], object], theirs: Callable[[Any], object]) -> dict[str, Way]:
        """Return one operation in every client's way."""
        return {_OURS: ours} | {
            name: lambda driver=driver: theirs(driver) for name, driver in self.drivers.items()
        }

    def operations(self) -> dict[str, dict[str, Way]]:
        """Return the ways of each operation."""
        ours, glide = self.ours, self.glide
        minute = ExpirySet(ExpiryType.SEC, 60)
        return {
            "get()": self.each(lambda: ours.get("a"), lambda driver: driver.get("a"))
            | {_GLIDE: lambda: glide.get("a"), _FLOOR: lambda: self.floor.call("GET", "a")},
            "set(), expiry": self.each(
                lambda: ours.set("b", _VALUE, expire_seconds=60),
                lambda driver: driver.set("b", _VALUE, ex=60),
            )
            | {_GLIDE: lambda: glide.set("b", _VALUE, expiry=minute)},
            "incr()": self.each(lambda: ours.incr("n"), lambda driver: driver.incr("n"))
            | {_GLIDE: lambda: glide.incr("n")},
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


def _as_text(answer: object) -> object:
    """Return what GLIDE gives as bytes, and as OK, as the others have it."""
    if isinstance(answer, bytes):
        return answer.decode()
    return True if answer == "OK" else answer


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
            ours, *others = [_as_text(way()) for way in operations[name].values()]
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
    what: str, times: Times, trips: dict[str, float], promises: dict[str, str] | None = None
) -> list[Row]:
    """Return the rows of an operation; the driver that is there twice has one."""
    others = Times({name: taken for name, taken in times.seconds.items() if name != _AGAIN})
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


@pytest.mark.parametrize("name", _COMMON)
def test_eight_threads(
    contestants: Contestants, trips: dict[str, dict[str, float]], board: Board, name: str
) -> None:
    """Eight threads get more done in the same time."""
    ways = {
        one: way
        for one, way in contestants.operations()[name].items()
        if one not in {_AGAIN, _FLOOR}
    }
    with Crew(8) as crew:
        times = take_turns(ways, rounds=21, calls=1200, crew=crew)
    promises = {_GLIDE: "glide threads", _HIREDIS: "threads"}
    rows = _throughput(f"{name}, 8 threads", times, trips[name], promises)
    assert board.add(*rows) == []


def _throughput(
    what: str, times: Times, trips: dict[str, float], promises: dict[str, str]
) -> list[Row]:
    """Return the rows of an operation in calls for each second, and not in seconds for each."""
    return [
        replace(row, ratio=1 / (row.ratio or 1))
        for row in _compared(f"{what}, throughput", times, trips, promises)
    ]


def test_eight_threads_over_a_link(
    valkey: ValkeyServer, trips: dict[str, dict[str, float]], board: Board
) -> None:
    """Over a network, too; and the clients decide it, because the link has room for all of them."""
    with DelayedLink(valkey.port, 0.001) as link, ExitStack() as opened, Crew(8) as crew:
        url = valkey.url.replace(f":{valkey.port}/", f":{link.port}/")
        contestants = Contestants(url, opened)
        floor = FloorOfThread(contestants, opened)
        get: Way = lambda: floor.call("GET", "a")  # noqa: E731 - as the others are
        each = 50
        rounds = take_turns(
            {
                "8 threads": lambda: crew.seconds(get, 8 * each),
                "1 thread": lambda: Crew(1).seconds(get, each),
            },
            rounds=15,
            calls=1,
        )
        keeps_up = Row(
            area="Valkey",
            what="GET of a socket and hiredis, 1 ms link, 8 threads, throughput",
            ours=rounds.typical("8 threads") / (8 * each),
            against="1 thread",
            theirs=rounds.typical("1 thread") / each,
            ratio=8 / rounds.ratio("8 threads", "1 thread"),
            promise="link keeps up",
        )
        assert board.add(keeps_up) == []
        for name in _COMMON:
            ways = {
                one: way
                for one, way in contestants.operations()[name].items()
                if one not in {_AGAIN, _FLOOR}
            }
            times = take_turns(ways, rounds=31, calls=8 * 20, crew=crew)
            promises = dict.fromkeys((_HIREDIS, _GLIDE), "link threads")
            rows = _throughput(f"{name}, 1 ms link, 8 threads", times, trips[name], promises)
            assert board.add(*rows) == []


@pytest.mark.parametrize("milliseconds", [1, 10])
def test_over_a_link(
    valkey: ValkeyServer, trips: dict[str, dict[str, float]], board: Board, milliseconds: int
) -> None:
    """Over a network the round trips are what counts, and ours is still ahead of the drivers."""
    with DelayedLink(valkey.port, milliseconds / 1000) as link, ExitStack() as opened:
        url = valkey.url.replace(f":{valkey.port}/", f":{link.port}/")
        operations = Contestants(url, opened).operations()
        for name in (*_COMMON, "get_json()", "pipeline of 100", "rate_limit()"):
            is_near = milliseconds == 1
            ways = {
                one: way for one, way in operations[name].items() if one not in {_AGAIN, _FLOOR}
            }
            times = take_turns(ways, rounds=31 if is_near else 9, calls=10 if is_near else 4)
            promises = dict.fromkeys((_HIREDIS, _GLIDE), "link")
            what = f"{name}, {milliseconds} ms link"
            ahead = promises if is_near and name in _COMMON else {}
            assert board.add(*_compared(what, times, trips[name], ahead)) == []
