"""Behind PgBouncer in transaction mode, with one server connection for everybody."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import PostgresConnectionError, PostgresError, RlsContextError
from clients.postgres_client import PostgresClient
from tests.fault_proxy import FaultProxy
from tests.pgbouncer_server import PgBouncerServer
from tests.postgres_faults import (
    INSERT,
    USER,
    Load,
    superuser,
    times_applied,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

pytestmark = [pytest.mark.pgbouncer, pytest.mark.timeout(90)]

A, B = UUID(int=10, version=4), UUID(int=11, version=4)
_WHO = "SELECT current_setting('app.current_user_id') AS who"
_MINE = "SELECT DISTINCT user_id::text AS who FROM ledger"


@pytest.fixture(autouse=True)
def _ledger(server: PostgresServer) -> Iterator[None]:
    with superuser(server) as conn:
        conn.execute("TRUNCATE ledger")
        conn.execute("INSERT INTO ledger VALUES (gen_random_uuid(), %s)", (A,))
        conn.execute("INSERT INTO ledger VALUES (gen_random_uuid(), %s)", (B,))
        # A deferred constraint fails at COMMIT and nowhere else.
        conn.execute(
            "CREATE TABLE IF NOT EXISTS deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
            "GRANT SELECT, INSERT ON deferred TO crm_user;"
        )
    yield
    with superuser(server) as conn:
        named = "SELECT count(*) FROM deferred"
        assert conn.execute(named).fetchone() == (0,), "a failed COMMIT left a row"
        conn.execute("DROP TABLE deferred")


@contextmanager
def nobody_hangs(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer: a hang behind the pooler ends by its own time-outs."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def use(client: PostgresClient, user: UUID, turn: int) -> None:
    """Make one of eight calls as *user*, and see that it met nobody else's context."""
    me = str(user)
    match turn % 8:
        case 0:
            assert client.execute(_WHO, user_id=user) == [{"who": me}]
        case 1:
            assert client.execute(_MINE, user_id=user) == [{"who": me}]
        case 2:
            with client.connection(user) as conn:
                assert conn.execute(_WHO).fetchone() == {"who": me}
                conn.execute("SET search_path = pg_catalog")
                assert conn.execute("SELECT who FROM public.whoami").fetchall() == [{"who": me}]
        case 3:
            assert client.execute_many(INSERT, [(uuid4(), user)] * 3, user) == 3
        case 4:
            with client.stream(_MINE, user_id=user, batch_size=1) as rows:
                assert list(rows) == [{"who": me}]
        case 5:
            with pytest.raises(PostgresError, match="22012"):
                client.execute("SELECT 1/0", user_id=user)
        case 6:
            with pytest.raises(PostgresError, match="23505"):
                client.execute("INSERT INTO deferred VALUES (1), (1)", user_id=user)
        case 7:
            with client.connection(user) as conn:
                cursor = conn.cursor()
                cursor.executemany(INSERT, [(uuid4(), user)] * 3)
                assert cursor.rowcount == 3


@pytest.fixture(autouse=True)
def _view(server: PostgresServer, _ledger: None) -> Iterator[None]:
    with superuser(server) as conn:
        conn.execute(f"CREATE VIEW whoami AS {_WHO}; GRANT SELECT ON whoami TO crm_user")
        yield
        conn.execute("DROP VIEW whoami")


def test_the_pooler_is_seen(
    server: PostgresServer, pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """behind_pooler says whether a pooler stands between."""
    assert new_client(pgbouncer.url()).behind_pooler is True
    assert new_client().behind_pooler is False


@pytest.mark.slow
def test_two_clients_on_one_server_connection_never_meet_and_never_hang(
    server: PostgresServer, pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """Thousands of alternating calls on one server connection: each sees its own user alone."""
    first = new_client(pgbouncer.url(), pool_size=2, pool_timeout=20.0)
    second = new_client(pgbouncer.url(), pool_size=2, pool_timeout=20.0)
    with nobody_hangs(45):
        for turn in range(1600):
            use(first, A, turn)
            use(second, B, turn + turn // 8)
        assert server_sessions(server) == 1
        with superuser(server) as conn:
            strangers = conn.execute(
                "SELECT count(*) FROM ledger WHERE user_id NOT IN (%s, %s)", (A, B)
            )
            assert strangers.fetchone() == (0,)
    assert prepared_statements(first) == []


def test_threads_of_two_clients_share_one_server_connection(
    pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """Eight threads of two clients queue for one server connection, and each gets its own rows."""
    clients = [new_client(pgbouncer.url(), pool_size=4, pool_timeout=20.0) for _ in range(2)]

    def work(number: int) -> int:
        user = (A, B)[number % 2]
        for turn in range(150):
            use(clients[turn % 2], user, turn // 2 + number)
        return 150

    with nobody_hangs(45), ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 1200
    for client in clients:
        all_places_can_be_used_in_turn(client)


def all_places_can_be_used_in_turn(client: PostgresClient) -> None:
    """Not at once, as elsewhere: the pooler lets one transaction run at a time."""
    stats = client.stats()
    assert stats["in_use"] == 0
    for _ in range(stats["max_size"] + 1):
        client.execute("SELECT 1", user_id=USER)


def server_sessions(server: PostgresServer) -> int:
    with superuser(server) as conn:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'crm_user'"
        row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def prepared_statements(client: PostgresClient) -> list[dict[str, Any]]:
    return client.execute_admin("SELECT name FROM pg_prepared_statements")


def test_nothing_named_is_left_on_the_server(
    pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """However often a statement is repeated, the server connection has no prepared statement."""
    client = new_client(pgbouncer.url(), pool_size=1)
    for turn in range(80):
        use(client, A, turn)
    with client.connection(A) as conn:
        for _ in range(20):
            conn.execute("SELECT %s::int AS n", (1,))
        query = "SELECT name FROM pg_prepared_statements UNION SELECT name FROM pg_cursors"
        assert conn.execute(query).fetchall() == []
    assert prepared_statements(client) == []


@pytest.mark.parametrize(
    "text", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN"]
)
def test_an_end_in_sql_text_is_seen_through_the_pooler(
    pgbouncer: PgBouncerServer, new_client: NewClient, text: str
) -> None:
    """After SQL-text COMMIT or ROLLBACK nothing runs without context, here as without a pooler."""
    client = new_client(pgbouncer.url(), pool_size=1)
    other = new_client(pgbouncer.url(), pool_size=1)
    with pytest.raises(RlsContextError), client.connection(A) as conn:  # noqa: PT012 - the block is the subject
        conn.execute(text)
        with pytest.raises(RlsContextError):
            conn.execute(_MINE)
    assert other.execute(_MINE, user_id=B) == [{"who": str(B)}]
    assert client.execute(_MINE, user_id=A) == [{"who": str(A)}]


def test_a_swallowed_error_raises_through_the_pooler(
    server: PostgresServer, pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """A swallowed SQL error raises at the end of its block and does not touch the next client."""
    client = new_client(pgbouncer.url(), pool_size=1)
    other = new_client(pgbouncer.url(), pool_size=1)
    token = uuid4()
    with pytest.raises(PostgresError, match="swallowed"), client.connection(A) as conn:  # noqa: PT012 - the block is the subject
        conn.execute(INSERT, (token, A))
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1/0")
    assert times_applied(server, token) == 0
    assert other.execute(_WHO, user_id=B) == [{"who": str(B)}]


def test_session_state_is_gone_before_the_next_client(
    pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """What one client set on the shared server connection does not steer the other's statements."""
    first = new_client(pgbouncer.url(), pool_size=1)
    second = new_client(pgbouncer.url(), pool_size=1)
    spoil = (
        "SELECT set_config('search_path', 'pg_catalog', false) AS path,"
        " set_config('app.current_user_id', %s, false) AS who, pg_advisory_lock(7)"
    )
    clean = (
        "SELECT current_setting('search_path') AS path, current_setting('app.current_user_id')"
        " AS who, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks"
    )
    expected = {"path": '"$user", public', "who": str(B), "locks": 0}
    for _ in range(20):
        first.execute(spoil, (str(A),), A)
        assert second.execute(clean, user_id=B) == [expected]
        with first.connection(A) as conn:
            conn.execute(spoil, (str(A),))
            conn.execute("CREATE TEMP TABLE ledger (token uuid, user_id uuid)")
        with second.connection(B) as conn:
            assert conn.execute(clean).fetchone() == expected
            assert conn.execute(_MINE).fetchall() == [{"who": str(B)}]


def test_killed_server_connections_fail_only_what_was_in_flight(
    server: PostgresServer, pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """A pooler's own words for a lost server connection never lead to a second attempt."""
    client = new_client(pgbouncer.url(), pool_size=4, pool_timeout=20.0)
    victims = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = 'crm_user' AND state <> 'idle'"
    )
    with superuser(server) as conn, Load(client, threads=4) as load:
        ends = time.monotonic() + 2.0
        while time.monotonic() < ends:
            conn.execute(victims)
            time.sleep(0.02)
    assert len(load.calls) > 20
    assert load.failures, "nothing was hit"
    for call in load.failures:
        assert isinstance(call.error, (PostgresConnectionError, psycopg.OperationalError)), call
    load.assert_exactly_once(server)
    all_places_can_be_used_in_turn(client)


def test_a_restarted_pooler_costs_no_failed_call(
    server: PostgresServer, pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """The pooler restarts between calls: its idle clients notice before anything is sent."""
    client = new_client(pgbouncer.url(), pool_size=5, min_size=5)
    pgbouncer.restart()
    for turn in range(16):
        use(client, A, turn)
    assert client.stats()["stale"] == 5


def test_a_block_that_raised_its_time_out_gets_the_plain_limit_behind_a_pooler(
    pgbouncer: PgBouncerServer, new_client: NewClient
) -> None:
    """The pooler hides which session works, so a silence ends at the limit, with that reason."""
    client = new_client(pgbouncer.url(), pool_size=1, statement_timeout=0.3, connect_timeout=1.0)
    lost = pytest.raises(psycopg.OperationalError, match="no answer within")
    with nobody_hangs(8), lost, client.connection(A) as conn:
        conn.execute("SET LOCAL statement_timeout = 0")
        conn.execute("SELECT pg_sleep(9)")


def test_calls_stay_one_round_trip(pgbouncer: PgBouncerServer, new_client: NewClient) -> None:
    """Nothing is prepared by name and nothing is asked first: the pooler gets one batch."""
    with FaultProxy(pgbouncer.port) as proxy:
        url = pgbouncer.url().replace(f":{pgbouncer.port}/", f":{proxy.port}/")
        client = new_client(url, pool_size=1, min_size=1)
        client.execute("SELECT 1", user_id=USER)
        proxy.reset_counts()
        for _ in range(8):
            client.execute(_MINE, user_id=A)

        assert proxy.round_trips == 8


def test_a_pooler_that_takes_fewer_clients_than_the_pool_makes_callers_wait(
    server: PostgresServer,
) -> None:
    """Forty calls on a pool of ten, with four clients let in: none fails."""
    with (
        PgBouncerServer(server, max_clients=4) as pooler,
        PostgresClient(pooler.url(), 10, min_size=2, pool_timeout=20.0) as client,
        ThreadPoolExecutor(20) as threads,
    ):

        def call(number: int) -> object:
            return client.execute_scalar(
                "SELECT %s::int + 0 * length(pg_sleep(0.01)::text)", (number,), user_id=USER
            )

        assert list(threads.map(call, range(40))) == list(range(40))
        assert client.stats()["connect_failures"] > 0
        assert client.stats()["size"] <= 4
