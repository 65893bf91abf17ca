"""What a server's restart costs the next thirty calls."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from clients.errors import PostgresError
from clients.postgres_client import PostgresClient
from tests.benchmarks._board import Row
from tests.benchmarks._wire import trips_of
from tests.fault_proxy import FaultProxy
from tests.postgres_faults import USER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks._board import Board
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.bench

_CALLS, _POOL_SIZE = 30, 10
_QUERY = "SELECT count(*) AS n FROM contacts"
#: How psycopg_pool looks at a connection before it gives it away, and after how many restarts.
_OTHERS = {
    "psycopg_pool": (None, 5),
    # Each dead connection that its check finds costs it a longer sleep.
    "psycopg_pool, check=": (ConnectionPool.check_connection, 1),
}


def our_way(url: str, opened: ExitStack) -> Callable[[], object]:
    """Open ten idle connections of ours."""
    client = opened.enter_context(PostgresClient(url, _POOL_SIZE, min_size=_POOL_SIZE))
    return lambda: client.execute(_QUERY, user_id=USER)


def their_way(name: str, url: str, opened: ExitStack) -> Callable[[], object]:
    """Open ten idle connections of a contestant."""
    pool: ConnectionPool[Any] = ConnectionPool(
        url,
        min_size=_POOL_SIZE,
        max_size=_POOL_SIZE,
        open=False,
        check=_OTHERS[name][0],
        kwargs={"autocommit": True},
    )
    opened.enter_context(pool)
    pool.wait()

    def ask() -> object:
        with pool.connection() as conn:
            return conn.execute(_QUERY).fetchall()

    return ask


def calls_after_restart(call: Callable[[], object]) -> tuple[int, float]:
    """Return how many of the calls failed, and the seconds of the slowest."""
    failed, slowest = 0, 0.0
    for _ in range(_CALLS):
        started = time.perf_counter()
        try:
            call()
        except (PostgresError, psycopg.Error):
            failed += 1
        slowest = max(slowest, time.perf_counter() - started)
    return failed, slowest


@pytest.mark.parametrize("other", _OTHERS)
def test_a_restart_costs_no_call(server: PostgresServer, board: Board, other: str) -> None:
    """Ten idle connections die with the server, and no call of ours fails."""
    url = server.url("crm_user", "secret")
    with FaultProxy(server.port) as proxy, ExitStack() as opened:
        counted = url.replace(f":{server.port}/", f":{proxy.port}/")
        both = {"ours": our_way(counted, opened), "theirs": their_way(other, counted, opened)}
        trips = trips_of(both, proxy)
    restarts = _OTHERS[other][1]
    ours: list[tuple[int, float]] = []
    theirs: list[tuple[int, float]] = []
    for turn in range(restarts):
        with ExitStack() as opened:
            both_ways = [(ours, our_way(url, opened)), (theirs, their_way(other, url, opened))]
            server.restart()
            # Now this one meets the server first, now that one.
            for found, call in both_ways[:: -1 if turn % 2 else 1]:
                found.append(calls_after_restart(call))
    slowest = statistics.median(one for _, one in ours), statistics.median(one for _, one in theirs)
    times = f"{restarts} restarts" if restarts > 1 else "a restart"
    failures = Row(
        area="PostgreSQL",
        what=f"failed calls of {_CALLS * restarts} after {times}",
        ours=sum(one for one, _ in ours),
        against=other,
        theirs=sum(one for one, _ in theirs),
        unit="calls",
        trips=trips["ours"],
        their_trips=trips["theirs"],
        promise="restart",
    )
    longest = Row(
        area="PostgreSQL",
        what="slowest call after a restart",
        ours=slowest[0],
        against=other,
        theirs=slowest[1],
        ratio=slowest[0] / slowest[1],
    )
    assert board.add(failures, longest) == []
