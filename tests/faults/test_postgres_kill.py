"""Sessions are killed: idle, at checkout, in mid-statement, in mid-transaction, by time-outs."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from clients._postgres.session import Session
from clients._postgres.transaction_sql import RESET, ROLLBACK
from clients.errors import PostgresConnectionError
from clients.sqlalchemy_adapter import create_engine
from tests.postgres_faults import (
    INSERT,
    USER,
    Load,
    all_places_can_be_used,
    at_most,
    kill_sessions,
    superuser,
    times_applied,
    wait_for,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

KINDS = pytest.mark.parametrize("kind", ["execute", "execute_many", "connection"])


def runs_counted(server: PostgresServer) -> int:
    """Return how often nextval('runs') was called: a rollback does not undo it."""
    with superuser(server) as conn:
        row = conn.execute("SELECT last_value, is_called FROM runs").fetchone()
    assert row is not None
    return int(row[0]) if row[1] else 0


def test_killed_idle_sessions_cost_no_failed_call(
    server: PostgresServer, new_client: NewClient
) -> None:
    """All ten idle sessions are killed, ten times over: every call succeeds, within a second."""
    client = new_client(pool_size=10, min_size=10)
    for turn in range(10):
        with superuser(server) as conn:
            assert kill_sessions(conn) >= 1
        token = uuid4()
        with at_most(1.0):
            write(client, token, ("execute", "connection", "execute_many")[turn % 3])
        assert times_applied(server, token) == 1
        assert client.health_check()
    assert client.stats()["stale"] >= 10
    assert client.stats()["connect_failures"] == 0


@pytest.mark.parametrize("way", ["execute", "sqlalchemy"])
def test_a_session_that_dies_while_it_is_reset_for_a_second_try_costs_no_failed_call(
    server: PostgresServer, new_client: NewClient, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The guard has found what SQL left, and the server ends the session before the reset."""
    really_run = Session.run_batch
    killed: list[Session] = []
    client = new_client(pool_size=1, min_size=1)
    engine = create_engine(client)

    def run_batch(self: Session, statements: Any) -> Any:
        if tuple(statements) == (ROLLBACK, RESET) and not killed:
            killed.append(self)
            with superuser(server) as conn:
                conn.execute("SELECT pg_terminate_backend(%s, 5000)", (self.pgconn.backend_pid,))
        return really_run(self, statements)

    for _ in range(4):
        client.execute("SELECT 1", user_id=USER)
    client.execute("PREPARE mine AS SELECT 1", user_id=USER)
    monkeypatch.setattr(Session, "run_batch", run_batch)
    if way == "execute":
        client.execute("SELECT 1", user_id=USER)
    else:
        with engine.connect().execution_options(identity={"user_id": USER}) as conn:
            conn.exec_driver_sql("SELECT 1")
            conn.commit()
    assert len(killed) == 1
    all_places_can_be_used(client)


@pytest.fixture
def kill_after_check(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[threading.Event]:
    """Set the event, and the next session is killed right after it was found alive."""
    armed = threading.Event()
    really_stale = Session.is_stale
    with superuser(server) as conn:

        def is_stale(self: Session) -> bool:
            stale = really_stale(self)
            if armed.is_set() and not stale:
                armed.clear()
                conn.execute("SELECT pg_terminate_backend(%s, 5000)", (self.pgconn.backend_pid,))
            return stale

        monkeypatch.setattr(Session, "is_stale", is_stale)
        yield armed


@KINDS
def test_a_session_killed_between_check_and_flight_is_replaced(
    server: PostgresServer, new_client: NewClient, kill_after_check: threading.Event, kind: str
) -> None:
    """The server's farewell before the caller's statement means that it may go to a new session."""
    client = new_client(pool_size=2)
    for _ in range(10):
        token = uuid4()
        kill_after_check.set()
        write(client, token, kind)
        assert not kill_after_check.is_set(), "nothing was killed"
        assert times_applied(server, token) == 1
    all_places_can_be_used(client)


def test_the_health_check_survives_a_killed_session(
    new_client: NewClient, kill_after_check: threading.Event
) -> None:
    """One killed session says nothing of the server, so the health check asks on another."""
    client = new_client(pool_size=2)
    for _ in range(10):
        kill_after_check.set()
        assert client.health_check()
        assert not kill_after_check.is_set()


def test_sessions_killed_at_random_cost_at_most_their_own_call(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Eight threads write while sessions die at random: no write twice, no place lost."""
    client = new_client(pool_size=4, min_size=4)
    query = "SELECT pid FROM pg_stat_activity WHERE usename = 'crm_user'"
    kills = 0
    with superuser(server) as conn, Load(client, threads=8, limit=120.0) as load:
        ends = time.monotonic() + 120.0
        while min(kills, len(load.calls)) < 200 and time.monotonic() < ends:
            pids = [row[0] for row in conn.execute(query)]
            if pids:
                conn.execute("SELECT pg_terminate_backend(%s)", (random.choice(pids),))  # noqa: S311 - no secret
                kills += 1
            time.sleep(0.002)
    assert min(kills, len(load.calls)) >= 200
    assert len(load.failures) <= kills
    for call in load.failures:
        # A block's own statement raises psycopg's error, and everything else ours.
        assert isinstance(call.error, (PostgresConnectionError, psycopg.OperationalError)), call
    load.assert_exactly_once(server)
    all_places_can_be_used(client)


def test_a_kill_in_mid_transaction_gives_the_original_error(
    server: PostgresServer, new_client: NewClient
) -> None:
    """AdminShutdown itself comes out of the block, the body runs once, and nothing is committed."""
    client = new_client(pool_size=2)
    token, runs = uuid4(), 0
    with pytest.raises(psycopg.errors.AdminShutdown), client.connection(USER) as conn:  # noqa: PT012 - the block is the subject
        runs += 1
        conn.execute(INSERT, (token, USER))
        with superuser(server) as killer:
            kill_sessions(killer)
        conn.execute("SELECT 1")
    assert runs == 1
    assert times_applied(server, token) == 0
    all_places_can_be_used(client)


@pytest.mark.parametrize("swallow", [True, False], ids=["swallowed", "unnoticed"])
def test_a_loss_that_the_block_did_not_report_raises_at_its_end(
    server: PostgresServer, new_client: NewClient, *, swallow: bool
) -> None:
    """A block that ends normally after its session died has committed nothing, and says so."""
    client = new_client(pool_size=2)
    token = uuid4()
    with pytest.raises(PostgresConnectionError) as caught, client.connection(USER) as conn:  # noqa: PT012 - the block is the subject
        conn.execute(INSERT, (token, USER))
        with superuser(server) as killer:
            kill_sessions(killer)
        if swallow:
            with pytest.raises(psycopg.errors.AdminShutdown):
                conn.execute("SELECT 1")
    assert isinstance(caught.value.__cause__, psycopg.errors.AdminShutdown)
    assert times_applied(server, token) == 0
    all_places_can_be_used(client)


def test_a_kill_during_execute_is_reported_and_never_repeated(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Once the caller's statement may have run, it is not sent again."""
    client = new_client(pool_size=2)
    before = runs_counted(server)
    caught: list[Exception] = []

    def call() -> None:
        try:
            client.execute("SELECT nextval('runs'), pg_sleep(20)", user_id=USER)
        except PostgresConnectionError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(lambda: runs_counted(server) == before + 1)
    with superuser(server) as killer:
        kill_sessions(killer)
    thread.join(10)
    assert len(caught) == 1
    assert caught[0].sqlstate == "57P01"  # type: ignore[attr-defined]  # it is ours
    assert runs_counted(server) == before + 1
    all_places_can_be_used(client)


@pytest.mark.parametrize("killed_at", [1, 1500, 2500])
def test_execute_many_that_loses_its_session_half_way_commits_nothing(
    server: PostgresServer, new_client: NewClient, killed_at: int
) -> None:
    """A session that dies between batches ends the call: rows are neither lost nor sent twice."""
    client = new_client(pool_size=2)
    token = uuid4()

    def rows() -> Iterator[tuple[Any, ...]]:
        for number in range(3000):
            if number == killed_at:
                with superuser(server) as killer:
                    kill_sessions(killer)
            yield token, USER

    if killed_at < 1000:
        # The first batch is gathered before a session is taken: the kill met an idle one.
        assert client.execute_many(INSERT, rows(), USER) == 3000
        assert times_applied(server, token) == 3000
    else:
        with pytest.raises(PostgresConnectionError):
            client.execute_many(INSERT, rows(), USER)
        assert times_applied(server, token) == 0
    all_places_can_be_used(client)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("idle_in_transaction_session_timeout", psycopg.errors.IdleInTransactionSessionTimeout),
        ("transaction_timeout", psycopg.errors.TransactionTimeout),
    ],
)
@pytest.mark.parametrize("notices", [True, False], ids=["next statement", "at the end"])
def test_a_transaction_that_the_server_timed_out_raises_and_commits_nothing(
    server: PostgresServer,
    new_client: NewClient,
    setting: str,
    expected: type[psycopg.Error],
    *,
    notices: bool,
) -> None:
    """The server's own reason comes out: of the next statement, or of the end of the block."""
    client = new_client(pool_size=2)
    token = uuid4()
    kind = expected if notices else PostgresConnectionError
    with pytest.raises(kind) as caught, client.connection(USER) as conn:  # noqa: PT012 - the block is the subject
        conn.execute(INSERT, (token, USER))
        conn.execute(f"SET LOCAL {setting} = '50ms'")
        time.sleep(0.3)
        if notices:
            conn.execute("SELECT 1")
    if not notices:
        assert isinstance(caught.value.__cause__, expected)
    assert times_applied(server, token) == 0
    all_places_can_be_used(client)


def test_a_stream_that_loses_its_session_raises_and_frees_its_place(
    server: PostgresServer, new_client: NewClient
) -> None:
    """A killed stream ends with a PostgresConnectionError, and not as if the rows were all."""
    client = new_client(pool_size=1)
    query = "SELECT generate_series(1, 1000) AS n"
    with (  # noqa: PT012 - the block is the subject
        pytest.raises(PostgresConnectionError),
        client.stream(query, user_id=USER, batch_size=10) as rows,
    ):
        assert next(rows) == {"n": 1}
        with superuser(server) as killer:
            kill_sessions(killer)
        assert len(list(rows)) < 1000
    all_places_can_be_used(client)


@pytest.mark.parametrize("own_error", [True, False], ids=["own error", "no error"])
def test_open_cursors_of_a_killed_session_do_not_replace_the_error(
    server: PostgresServer, new_client: NewClient, *, own_error: bool
) -> None:
    """The block closes its server-side cursors on a dead session without raising for them."""
    client = new_client(pool_size=1)
    expected = pytest.raises(KeyError if own_error else PostgresConnectionError)
    with expected as caught, client.connection(USER) as conn:
        cursors = [conn.cursor(name) for name in ("one", "two")]
        for cursor in cursors:
            cursor.execute("SELECT generate_series(1, 1000)")
        with superuser(server) as killer:
            kill_sessions(killer)
        if own_error:
            raise KeyError("the caller's")
    if not own_error:
        assert isinstance(caught.value.__cause__, psycopg.errors.AdminShutdown)
    all_places_can_be_used(client)


def test_one_stale_session_has_all_others_looked_at(
    server: PostgresServer, new_client: NewClient
) -> None:
    """The stale ones behind a living one are swept as well, and hold no place on the pool."""
    client = new_client(pool_size=5, min_size=5)
    pids = [place.session.pgconn.backend_pid for place in client._pool._places._pool]
    dead = [*pids[:3], pids[4]]
    alive = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY(%s))"
    with superuser(server) as conn:
        conn.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (dead,))
        wait_for(lambda: conn.execute(alive, (dead,)).fetchone() == (False,))
    assert client.execute("SELECT pg_backend_pid() AS pid", user_id=USER) == [{"pid": pids[3]}]
    assert client.stats()["size"] == 1
    assert client.stats()["stale"] == 4
