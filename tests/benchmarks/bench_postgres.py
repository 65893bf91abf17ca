"""What ``execute()`` costs against the usual five round trips, and against no protection at all.

Paired rounds in one run: the ratio of two medians says the same on a slow and on a busy machine.
psycopg_pool stands on the other side of each comparison, as an application would use it.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from clients.postgres_client import PostgresClient
from tests.postgres_faults import superuser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils._postgres_server import PostgresServer

pytestmark = pytest.mark.bench

_ROUNDS, _CALLS = 25, 150
_QUERY = "SELECT id, name, email FROM contacts WHERE user_id = %s ORDER BY created_at LIMIT 5"
_SET = "SELECT set_config('app.current_user_id', %s, true)"


class Ways:
    """The same query in several ways, all on one server and one connection each.

    Args:
        server: A server with the project's schema and many rows.
        opened: Closes what is opened here.
    """

    def __init__(self, server: PostgresServer, opened: ExitStack) -> None:
        self.user = uuid4()
        with superuser(server) as conn:
            rows = (
                "INSERT INTO contacts (user_id, name) SELECT %s, 'mine' FROM generate_series(1, 5)"
            )
            conn.execute(rows, (self.user,))
            conn.execute(
                "INSERT INTO contacts (user_id, name)"
                " SELECT gen_random_uuid(), 'theirs' FROM generate_series(1, 20000)"
            )
            conn.execute("ANALYZE contacts")
        app, root = server.url("crm_user", "secret"), server.url()
        self.client = opened.enter_context(PostgresClient(app, 1, min_size=1))
        self._app = opened.enter_context(_pool(app, autocommit=False))
        self._root = opened.enter_context(_pool(root, autocommit=True))

    def one_flight(self) -> list[dict[str, Any]]:
        """The client's way: one round trip, with reset, context and transaction."""
        return self.client.execute(_QUERY, (self.user,), self.user)

    def block(self) -> list[dict[str, Any]]:
        """The client's block with one statement: three round trips."""
        with self.client.connection(self.user) as conn:
            return list(conn.execute(_QUERY, (self.user,)).fetchall())

    def five_trips(self) -> list[dict[str, Any]]:
        """The usual way: BEGIN, set the context, query, clear the context, COMMIT."""
        with self._app.connection() as conn:
            conn.execute(_SET, (str(self.user),))
            rows: list[dict[str, Any]] = conn.execute(_QUERY, (self.user,)).fetchall()
            conn.execute(_SET, ("",))
        return rows

    def bare(self) -> list[dict[str, Any]]:
        """The least: one autocommit query of a role that policies do not bind."""
        with self._root.connection() as conn:
            rows: list[dict[str, Any]] = conn.execute(_QUERY, (self.user,)).fetchall()
        return rows


def _pool(url: str, *, autocommit: bool) -> ConnectionPool[Any]:
    return ConnectionPool(
        url,
        min_size=1,
        max_size=1,
        open=False,
        kwargs={"row_factory": dict_row, "autocommit": autocommit},
    )


@pytest.fixture(scope="module")
def ways(fault_server: PostgresServer) -> Iterator[Ways]:
    """All ways, warmed up and seen to return the same rows."""
    with ExitStack() as opened:
        found = Ways(fault_server, opened)
        rows = found.bare()
        assert len(rows) == 5
        for way in (found.one_flight, found.block, found.five_trips):
            for _ in range(50):
                assert way() == rows
        yield found


def medians(*ways: Callable[[], object]) -> list[float]:
    """Return each way's median seconds per call; the rounds alternate between them."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(_ROUNDS):
        for way, taken in zip(ways, times, strict=True):
            started = time.perf_counter()
            for _ in range(_CALLS):
                way()
            taken.append((time.perf_counter() - started) / _CALLS)
    return [statistics.median(taken) for taken in times]


def test_execute_costs_at_most_three_fifths_of_five_trips(ways: Ways) -> None:
    """One flight against five round trips, on loopback, where a trip costs next to nothing."""
    ours, five = medians(ways.one_flight, ways.five_trips)
    report("execute() / five trips", ours, five)
    assert ours / five <= 0.6


def test_execute_costs_at_most_twice_the_bare_query(ways: Ways) -> None:
    """The whole protection against none: the transaction, the context, the reset, the policy."""
    ours, bare = medians(ways.one_flight, ways.bare)
    report("execute() / bare query", ours, bare)
    assert ours / bare <= 1.9


def test_a_block_with_one_statement_costs_little_more_than_five_trips(ways: Ways) -> None:
    """Three round trips with all guards and a whole reset, against five without any."""
    ours, five = medians(ways.block, ways.five_trips)
    report("connection() / five trips", ours, five)
    assert ours / five <= 1.4


def report(what: str, ours: float, other: float) -> None:
    print(f"\n{what}: {ours * 1e6:.0f} us / {other * 1e6:.0f} us = {ours / other:.2f}")  # noqa: T201 - a benchmark prints
