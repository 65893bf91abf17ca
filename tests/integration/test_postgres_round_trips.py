"""Round trips, counted on the wire by a proxy: the first time and the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import PostgresError, TransactionAbortedError
from clients.postgres_client import PostgresClient
from tests.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils._stack.postgres import PostgresServer

USER = UUID("00000000-0000-4000-8000-000000000001")
QUERY = "SELECT name FROM contacts WHERE name = %s"
INSERT = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"


@pytest.fixture(scope="module")
def proxy(own_postgres: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(own_postgres.port) as relay:
        yield relay


@pytest.fixture(scope="module")
def client(own_postgres: PostgresServer, proxy: FaultProxy) -> Iterator[PostgresClient]:
    def through_proxy(role: str) -> str:
        parts = urlsplit(own_postgres.url(role, "secret"))
        return urlunsplit(parts._replace(netloc=f"{role}:secret@127.0.0.1:{proxy.port}"))

    with PostgresClient(through_proxy("crm_user"), 1, admin_url=through_proxy("crm_admin")) as made:
        yield made


@pytest.fixture
def trips(proxy: FaultProxy) -> Callable[[Callable[[], object]], int]:
    """Return a function that counts the round trips of a call."""

    def count(call: Callable[[], object]) -> int:
        proxy.reset_counts()
        call()
        return proxy.round_trips

    return count


Trips = Any


def test_a_bare_psycopg_transaction_takes_more(
    own_postgres: PostgresServer, proxy: FaultProxy, trips: Trips
) -> None:
    """The counter counts: BEGIN, the statement and COMMIT of plain psycopg are three."""
    parts = urlsplit(own_postgres.url("crm_user", "secret"))
    url = urlunsplit(parts._replace(netloc=f"crm_user:secret@127.0.0.1:{proxy.port}"))
    with psycopg.connect(url) as conn:

        def transaction() -> None:
            conn.execute("SELECT 1")
            conn.commit()

        assert trips(transaction) == 3


CALLS: dict[str, Callable[[PostgresClient], object]] = {
    "execute": lambda c: c.execute(QUERY, ("a",), USER),
    "execute, writing": lambda c: c.execute(INSERT, (USER, "a"), USER),
    "execute_one": lambda c: c.execute_one(QUERY, ("a",), USER),
    "execute_scalar": lambda c: c.execute_scalar("SELECT 1", user_id=USER),
    "execute_admin": lambda c: c.execute_admin("SELECT 1 AS a"),
    "health_check": lambda c: c.health_check(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_round_trip(client: PostgresClient, trips: Trips, name: str) -> None:
    """The first time, and all times after it, past psycopg's own threshold for preparing."""
    counts = [trips(lambda: CALLS[name](client)) for _ in range(8)]

    assert counts == [1] * 8


@pytest.mark.parametrize("question", ["health_check", "server_version", "check_rls"])
def test_a_call_after_a_question_is_one_round_trip(
    client: PostgresClient, trips: Trips, question: str
) -> None:
    """The question resets the session, and the client knows that nothing is prepared any more."""
    for _ in range(8):
        client.execute_scalar("SELECT 1", user_id=USER)
    getattr(client, question)()

    assert trips(lambda: client.execute_scalar("SELECT 1", user_id=USER)) == 1


def test_a_failing_call_is_two_round_trips(client: PostgresClient, trips: Trips) -> None:
    """One to learn of the error, one to clean up; and the next is one again."""

    def fail() -> None:
        with pytest.raises(PostgresError):
            client.execute("SELECT 1/0", user_id=USER)

    assert trips(fail) == 2
    assert trips(lambda: CALLS["execute"](client)) == 1


def test_what_is_refused_here_costs_nothing(client: PostgresClient, trips: Trips) -> None:
    """No user, and a statement that cannot run, never reach the server."""

    def fail() -> None:
        for call in (
            lambda: client.execute("SELECT 1"),
            lambda: client.execute("COMMIT", user_id=USER),
            lambda: client.connection("nobody"),
        ):
            with pytest.raises(PostgresError):
                call()

    assert trips(fail) == 0


@pytest.mark.parametrize("admin", [False, True])
def test_a_block_with_one_statement_is_three_round_trips(
    client: PostgresClient, trips: Trips, *, admin: bool
) -> None:
    """Begin, statement, commit; each further statement is one more."""

    def block(statements: int) -> None:
        with client.admin_connection() if admin else client.connection(USER) as conn:
            for _ in range(statements):
                conn.execute("SELECT %s::int", (1,))

    assert [trips(lambda n=n: block(n)) for n in (0, 1, 1, 2, 10)] == [2, 3, 3, 4, 12]


def test_a_failed_block_costs_no_more(client: PostgresClient, trips: Trips) -> None:
    """Begin, the statement, rollback."""

    def block() -> None:
        with client.connection(USER) as conn:
            conn.execute("SELECT 1/0")

    def fail() -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            block()

    assert trips(fail) == 3


def test_a_swallowed_error_costs_no_more(client: PostgresClient, trips: Trips) -> None:
    """Begin, two statements that fail, rollback: nobody asks the server about the context."""

    def block() -> None:
        with client.connection(USER) as conn:
            for _ in range(2):
                with pytest.raises(psycopg.Error):
                    conn.execute("SELECT 1/0")

    def fail() -> None:
        with pytest.raises(TransactionAbortedError):
            block()

    assert trips(fail) == 4


@pytest.mark.parametrize(("rows", "limit"), [(1, 2), (1000, 4), (2500, 12)])
def test_a_batch_is_at_most_four_round_trips_for_a_thousand_rows(
    client: PostgresClient, trips: Trips, rows: int, limit: int
) -> None:
    """Sent while the server answers, and committed once."""
    user = uuid4()
    data = [(user, f"name {i}") for i in range(rows)]

    assert trips(lambda: client.execute_many(INSERT, data, user)) <= limit
    assert client.execute_scalar("SELECT count(*) FROM contacts", user_id=user) == rows


def test_calls_inside_a_block_are_three_round_trips(client: PostgresClient, trips: Trips) -> None:
    """Savepoint, statement, release: what fails undoes itself alone."""
    with client.connection(USER):
        for name in ("execute", "execute, writing", "execute_one", "execute_scalar"):
            assert trips(lambda name=name: CALLS[name](client)) <= 3


def test_a_named_cursor_is_iterated_in_batches(client: PostgresClient, trips: Trips) -> None:
    """A loop over it is one round trip for a hundred rows, and not for each."""

    def read() -> None:
        with client.connection(USER) as conn:
            cursor = conn.cursor("named").execute("SELECT g FROM generate_series(1, 1000) g")
            assert sum(1 for _ in cursor) == 1000

    assert trips(read) <= 10 + 6


def test_a_stream_is_one_round_trip_for_a_batch(client: PostgresClient, trips: Trips) -> None:
    """Begin, declare, ten batches and the end of them, close, commit."""

    def read() -> None:
        query = "SELECT g FROM generate_series(1, 1000) g"
        with client.stream(query, user_id=USER, batch_size=100) as rows:
            assert sum(1 for _ in rows) == 1000

    assert trips(read) <= 10 + 6
