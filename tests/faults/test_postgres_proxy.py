"""The network between client and server cuts, swallows, refuses, drips and leads nowhere."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from clients.errors import PostgresConnectionError
from clients.postgres_client import PostgresClient
from tests.fault_proxy import FaultProxy
from tests.postgres_faults import (
    INSERT,
    USER,
    all_places_can_be_used,
    at_most,
    superuser,
    times_applied,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

KINDS = pytest.mark.parametrize("kind", ["execute", "execute_many", "connection"])


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[FaultProxy]:
    """A proxy before the server."""
    with FaultProxy(server.port) as between:
        yield between


def through(proxy: FaultProxy) -> str:
    return f"postgresql://crm_user:secret@127.0.0.1:{proxy.port}/crm"


@KINDS
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_cut_at_the_commit_is_reported_once_and_nothing_is_repeated(
    server: PostgresServer, new_client: NewClient, proxy: FaultProxy, kind: str, lost: str
) -> None:
    """Cut before or after the server got the COMMIT: an error that leaves it open, no retry."""
    client = new_client(through(proxy), pool_size=2)
    token = uuid4()
    setattr(proxy, "cut_before" if lost == "request" else "cut_after", b"COMMIT")
    with pytest.raises(PostgresConnectionError, match="may or may not have taken effect"):
        write(client, token, kind)
    assert times_applied(server, token) == (0 if lost == "request" else 1)
    with at_most(1.0):
        write(client, token, kind)
    all_places_can_be_used(client)


def test_cut_idle_connections_cost_no_failed_call(
    server: PostgresServer, new_client: NewClient, proxy: FaultProxy
) -> None:
    """A network that cut every idle connection is noticed before anything is sent."""
    client = new_client(through(proxy), pool_size=5, min_size=5)
    for kind in ("execute", "connection", "execute_many"):
        proxy.cut()
        time.sleep(0.05)
        token = uuid4()
        with at_most(1.0):
            write(client, token, kind)
        assert times_applied(server, token) == 1
    assert client.stats()["stale"] >= 5


# statement_timeout=0.3 and half a second of grace, then two seconds in which the server, asked
# over a new connection, does not answer either. The rest is margin for a busy machine.
_BOUND = 8.0


@pytest.mark.parametrize(
    "at", ["execute", "execute_many", "BEGIN", "COMMIT", "statement", "SAVEPOINT", "FETCH"]
)
def test_a_network_that_swallows_answers_hangs_nobody(
    server: PostgresServer, new_client: NewClient, proxy: FaultProxy, at: str
) -> None:
    """Whichever answer is swallowed, the call ends with a connection error in bounded time."""
    client = new_client(
        through(proxy), pool_size=2, statement_timeout=0.3, connect_timeout=1.0, pool_timeout=1.0
    )
    texts = {"statement": b"SELECT 42", "execute": b"INSERT", "execute_many": b"INSERT"}
    proxy.stall_at = texts.get(at, at.encode())
    if at != "COMMIT":
        # The server cannot be asked and says so at once; once is enough for the slow way.
        proxy.refuse.set()
    expected = (PostgresConnectionError, psycopg.OperationalError)
    with at_most(_BOUND), pytest.raises(expected, match="no answer within"):  # noqa: PT012 - one of four ways
        if at in {"execute", "execute_many"}:
            write(client, uuid4(), at)
        elif at == "FETCH":
            with client.stream("SELECT generate_series(1, 100) AS n", user_id=USER) as rows:
                list(rows)
        else:
            with client.connection(USER) as conn, contextlib.ExitStack() as inner:
                if at == "SAVEPOINT":
                    inner.enter_context(conn.transaction())
                conn.execute("SELECT 42 AS answer")
    assert proxy.stall_at == b"", "the fault was never set off"
    proxy.stall.clear()
    proxy.refuse.clear()
    proxy.cut()
    with at_most(2.0):
        assert client.execute("SELECT 1 AS one", user_id=USER) == [{"one": 1}]
    all_places_can_be_used(client)


def test_an_answer_lost_on_one_connection_is_told_from_a_server_at_work(
    server: PostgresServer, new_client: NewClient, proxy: FaultProxy
) -> None:
    """One muted connection, a server that answers elsewhere and says idle: the answer is lost."""
    client = new_client(through(proxy), pool_size=1, statement_timeout=0.3)
    token = uuid4()
    proxy.mute()
    with at_most(4.0), pytest.raises(PostgresConnectionError, match="may or may not"):
        write(client, token, "execute")
    assert times_applied(server, token) == 1
    assert client.execute("SELECT 1 AS one", user_id=USER) == [{"one": 1}]


def test_a_block_that_raised_its_own_time_out_is_not_taken_for_lost(
    new_client: NewClient, proxy: FaultProxy
) -> None:
    """SET LOCAL statement_timeout lets a statement work in silence for as long as it needs."""
    client = new_client(through(proxy), pool_size=1, statement_timeout=0.3)
    with client.connection(USER) as conn:
        conn.execute("SET LOCAL statement_timeout = 0")
        row = conn.execute("SELECT pg_sleep(2.5)::text AS slept").fetchone()
        assert row == {"slept": ""}
        assert conn.execute("SELECT 1 AS one").fetchone() == {"one": 1}
    assert proxy.connections > 2, "the server was never asked"


def test_a_batch_that_takes_longer_than_one_statement_may_is_not_taken_for_lost(
    server: PostgresServer, new_client: NewClient, proxy: FaultProxy
) -> None:
    """Each row of execute_many has the statement's time to itself, and the batch may be long."""
    client = new_client(through(proxy), pool_size=1, statement_timeout=1.5)
    token = uuid4()
    slow = "INSERT INTO ledger SELECT %s, %s FROM pg_sleep(0.4)"
    assert client.execute_many(slow, [(token, USER)] * 8, USER) == 8
    assert times_applied(server, token) == 8


def test_a_statement_that_waits_for_a_lock_is_the_servers_to_end(
    server: PostgresServer, new_client: NewClient
) -> None:
    """A lock wait ends by statement_timeout with the server's words, and not as a lost answer."""
    client = new_client(pool_size=1, statement_timeout=0.5)
    with superuser(server) as conn, conn.transaction():
        conn.execute("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Exception, match="57014") as caught:
            write(client, uuid4(), "execute")
    assert not isinstance(caught.value, PostgresConnectionError)
    all_places_can_be_used(client)


def test_a_network_that_refuses_gives_an_error_and_recovers_at_once(
    server: PostgresServer, new_client: NewClient, proxy: FaultProxy
) -> None:
    """Refused: a clear error in time; let through again: the next call works."""
    client = new_client(through(proxy), pool_size=2, connect_timeout=2.0, pool_timeout=1.0)
    proxy.refuse.set()
    proxy.cut()
    time.sleep(0.05)
    with at_most(4.0), pytest.raises(PostgresConnectionError, match="cannot connect"):
        client.execute("SELECT 1", user_id=USER)
    proxy.refuse.clear()
    token = uuid4()
    with at_most(1.0):
        write(client, token, "connection")
    assert times_applied(server, token) == 1


@pytest.mark.parametrize("kind", ["execute", "stream", "connection"])
def test_an_answer_that_drips_byte_by_byte_is_read_whole(
    new_client: NewClient, proxy: FaultProxy, kind: str
) -> None:
    """However the network cuts the answer up, the rows are right."""
    client = new_client(through(proxy), pool_size=1)
    query = "SELECT n, repeat('x', n) AS text FROM generate_series(1, 60) AS n"
    expected = [{"n": n, "text": "x" * n} for n in range(1, 61)]
    proxy.drip = True
    if kind == "execute":
        assert client.execute(query, user_id=USER) == expected
    elif kind == "stream":
        with client.stream(query, user_id=USER, batch_size=7) as rows:
            assert list(rows) == expected
    else:
        with client.connection(USER) as conn:
            assert conn.execute(query).fetchall() == expected


def test_a_black_hole_ends_the_constructor_in_time_and_leaves_nothing(proxy: FaultProxy) -> None:
    """An address that swallows everything fails within connect_timeout, with no thread left."""
    proxy.stall.set()
    threads = threading.active_count()
    with at_most(4.5), pytest.raises(PostgresConnectionError, match="raise connect_timeout"):
        PostgresClient(through(proxy), connect_timeout=2.0)
    proxy.cut()
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads


def test_a_black_hole_at_growth_fails_the_newcomers_and_not_the_holder(
    server: PostgresServer, new_client: NewClient, proxy: FaultProxy
) -> None:
    """While new connections vanish, the open one goes on, and newcomers hear it in time."""
    client = new_client(
        through(proxy), pool_size=3, min_size=1, connect_timeout=2.0, pool_timeout=1.0
    )
    # The session that is open bypasses nothing: only what is opened now meets the hole.
    hole = FaultProxy(server.port)
    hole.stall.set()

    def call(_: int) -> str:
        with at_most(4.5), pytest.raises(PostgresConnectionError) as caught:
            client.execute("SELECT 1", user_id=uuid4())
        return str(caught.value)

    with hole, client.connection(USER) as conn:
        proxy.target, reachable = hole.port, proxy.target
        with ThreadPoolExecutor(4) as threads:
            messages = list(threads.map(call, range(4)))
        assert conn.execute("SELECT 1 AS one").fetchone() == {"one": 1}
        proxy.target = reachable
    assert any("raise connect_timeout" in message for message in messages)
    all_places_can_be_used(client)


def test_a_cut_in_the_middle_of_a_block_comes_out_as_it_is(
    server: PostgresServer, new_client: NewClient, proxy: FaultProxy
) -> None:
    """The driver's own OperationalError leaves the block, which runs once and commits nothing."""
    client = new_client(through(proxy), pool_size=1)
    token, runs = uuid4(), 0
    with pytest.raises(psycopg.OperationalError), client.connection(USER) as conn:  # noqa: PT012 - the block is the subject
        runs += 1
        conn.execute(INSERT, (token, USER))
        proxy.cut_before = b"SELECT 1"
        conn.execute("SELECT 1")
    assert runs == 1
    assert times_applied(server, token) == 0
    all_places_can_be_used(client)
