"""What reading secrets costs: cold, warm, when many miss at once, and in a mix as of a pipeline."""

from __future__ import annotations

import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import cachetools
import hvac
import pytest

from clients.errors import VaultError
from clients.vault_client import VaultClient
from tests.benchmarks._board import Row, compare
from tests.benchmarks._delayed_link import DelayedLink
from tests.benchmarks._pairs import Crew, Times, take_turns
from tests.benchmarks._wire import trips_of
from tests.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks._board import Board
    from tests.vault_fixtures import VaultLab

pytestmark = pytest.mark.bench

_PATH = "app/db"
_HVAC, _LOCK, _CONDITION = "hvac", "hvac + cachetools, lock", "hvac + cachetools, condition"
_OURS, _COLD, _WARM = "ours", "get_secret(), cold", "get_secret(), warm"
_SECRETS, _THREADS, _READS, _MISSING = 40, 8, 5000, 64
_MISS = f"{_MISSING} threads miss one secret"


class Readers:
    """One secret, read in each of the ways.

    Args:
        url: The server, or what stands in front of it.
        token: A token that may read the secret.
    """

    def __init__(self, url: str, token: str) -> None:
        self.client = VaultClient(url, token, environ={})
        self._hvac: Any = hvac.Client(url=url, token=token)
        self.cached = {
            _LOCK: self._with_cache(lock=threading.Lock()),
            _CONDITION: self._with_cache(condition=threading.Condition()),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()
        self._hvac.adapter.close()

    def read(self, path: str = _PATH) -> dict[str, Any]:
        """Read it with hvac."""
        answer = self._hvac.secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)
        return dict(answer["data"]["data"])

    def _with_cache(self, **options: Any) -> Any:
        cache: cachetools.TTLCache[Any, Any] = cachetools.TTLCache(maxsize=100, ttl=300)
        remember: Any = cachetools.cached  # its types know no options by name
        return remember(cache, **options)(self.read)

    def cold(self) -> dict[str, Callable[[], object]]:
        """Return the ways that ask the server every time."""

        def missed() -> object:
            self.cached[_LOCK].cache.clear()
            return self.cached[_LOCK](_PATH)

        return {
            _COLD: lambda: self.client.get_secret(_PATH, use_cache=False),
            _HVAC: self.read,
            _LOCK: missed,
        }

    def warm(self) -> dict[str, Callable[[], object]]:
        """Return the ways that ask it once."""
        return {
            _WARM: lambda: self.client.get_secret(_PATH),
            _LOCK: lambda: self.cached[_LOCK](_PATH),
        }

    def missing(self) -> dict[str, Callable[[], object]]:
        """Return the ways that many threads read it in when no cache has it."""
        return {
            _OURS: lambda: self.client.get_secret(_PATH),
            _HVAC: self.read,
            _LOCK: lambda: self.cached[_LOCK](_PATH),
            _CONDITION: lambda: self.cached[_CONDITION](_PATH),
        }

    def forget(self) -> None:
        """Empty every cache."""
        self.client.clear_cache()
        for cached in self.cached.values():
            cached.cache.clear()


@pytest.fixture(scope="module")
def readers(vault_lab: VaultLab, board: Board) -> Iterator[Readers]:
    """All ways, seen to read the same."""
    with Readers(vault_lab.url, vault_lab.token()) as found:
        board.versions["OpenBao"] = found.client.server_version()
        for way in (found.cold() | found.warm()).values():
            assert way() == {"url": "postgresql://app"}
        yield found


@pytest.fixture(scope="module")
def counted(vault_lab: VaultLab) -> Iterator[tuple[Readers, FaultProxy]]:
    """All ways, behind what counts their requests."""
    with (
        FaultProxy(vault_lab.server.port) as proxy,
        Readers(f"http://127.0.0.1:{proxy.port}", vault_lab.token()) as found,
    ):
        yield found, proxy


def test_a_cold_read(readers: Readers, counted: tuple[Readers, FaultProxy], board: Board) -> None:
    """A read past the cache is one request, as with hvac."""
    times = take_turns(readers.cold(), rounds=21, calls=30)
    trips = trips_of(counted[0].cold(), counted[1])
    assert board.add(*compare("Vault", _COLD, times, _COLD, trips=trips)) == []
    assert trips[_COLD] == 1


@pytest.mark.parametrize("milliseconds", [1, 10])
def test_a_cold_read_over_a_link(
    vault_lab: VaultLab, counted: tuple[Readers, FaultProxy], board: Board, milliseconds: int
) -> None:
    """Over a network the one request is what counts."""
    with (
        DelayedLink(vault_lab.server.port, milliseconds / 1000) as link,
        Readers(f"http://127.0.0.1:{link.port}", vault_lab.token()) as readers,
    ):
        times = take_turns(readers.cold(), rounds=15, calls=20 if milliseconds == 1 else 5)
    trips = trips_of(counted[0].cold(), counted[1])
    what = f"{_COLD}, {milliseconds} ms link"
    assert board.add(*compare("Vault", what, times, _COLD, trips=trips)) == []


def test_a_warm_read_costs_next_to_nothing(
    readers: Readers, counted: tuple[Readers, FaultProxy], board: Board
) -> None:
    """A cached secret takes no request, and a sliver of the time of one."""
    # Of the cheap ones a thousand at a time: one alone is not to be measured.
    batches = {name: _repeat(way, 1000) for name, way in readers.warm().items()}
    taken = take_turns(batches | {_HVAC: readers.read}, rounds=21, calls=5).seconds
    times = Times(
        {
            name: taken[name] if name == _HVAC else [one / 1000 for one in taken[name]]
            for name in taken
        }
    )
    trips = trips_of(counted[0].warm() | {_HVAC: counted[0].read}, counted[1])
    rows = compare("Vault", _WARM, times, _WARM, trips=trips, promises={_HVAC: "warm"})
    assert board.add(*rows) == []


def test_many_threads_that_miss_send_one_request(
    counted: tuple[Readers, FaultProxy], board: Board
) -> None:
    """One of 64 threads asks, and the others wait for its answer."""
    readers, proxy = counted
    requests = {}
    with Crew(_MISSING) as crew:
        for name, way in readers.missing().items():
            readers.forget()
            proxy.reset_counts()
            crew.each(way)
            requests[name] = proxy.round_trips
    rows = [
        Row(
            area="Vault",
            what=_MISS,
            ours=requests[_OURS],
            against=other,
            theirs=requests[other],
            unit="requests",
            promise="miss",
        )
        for other in (_HVAC, _LOCK, _CONDITION)
    ]
    assert board.add(*rows) == []


def test_many_threads_that_miss_wait_for_one_request(readers: Readers, board: Board) -> None:
    """All 64 have the secret after the time of about one request."""
    with Crew(_MISSING) as crew:
        times = take_turns(
            readers.missing(), rounds=11, calls=_MISSING, crew=crew, before=readers.forget
        )
    assert board.add(*compare("Vault", f"{_MISS}, time", times, _OURS)) == []


def test_a_realistic_mix(vault_lab: VaultLab, board: Board) -> None:
    """Eight threads over forty secrets: hit rate over 80 %, error rate under 0.1 %."""
    for number in range(_SECRETS):
        vault_lab.write(f"bench/{number}", {"n": number})
    draw = random.Random(1)  # noqa: S311 - a repeatable mix
    paths = [f"bench/{int(draw.paretovariate(1.2)) % _SECRETS}" for _ in range(_READS)]
    fresh: list[float] = []
    with VaultClient(vault_lab.url, vault_lab.token(), environ={}) as client:

        def errors_of(path: str) -> int:
            use_cache = random.random() > 0.02  # noqa: S311 - a mix
            began = time.perf_counter()
            try:
                client.get_secret(path, use_cache=use_cache)
            except VaultError:
                return 1
            if not use_cache:
                fresh.append(time.perf_counter() - began)
            return 0

        with ThreadPoolExecutor(_THREADS) as pool:
            errors = sum(pool.map(errors_of, paths))
        stats = client.cache_stats()
    mix = f"{_READS:,} reads, {_THREADS} threads, {_SECRETS} secrets: "
    slow = statistics.quantiles(fresh, n=20)[-1]
    board.add(Row(area="Vault", what=f"{mix}p95 of the uncached", ours=slow))
    rows = [
        Row(area="Vault", what=what, ours=share, unit="", promise=promise)
        for what, share, promise in (
            (f"{mix}hit rate", stats["hit_rate"], "hit rate"),
            (f"{mix}error rate", errors / _READS, "error rate"),
        )
    ]
    assert board.add(*rows) == []


def _repeat(way: Callable[[], object], times: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(times):
            way()

    return work
