"""What the fault tests of PostgreSQL share: a server to maltreat, a ledger, clients, clocks."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.postgres_client import PostgresClient
from tests.steady_load import SteadyLoad
from utils._stack.postgres import PostgresServer
from utils._stack.seed import apply_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A ledger without a unique index: a statement that is applied twice leaves two rows.
_LEDGER = """
CREATE TABLE ledger (token uuid NOT NULL, user_id uuid NOT NULL);
ALTER TABLE ledger ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON ledger FOR ALL
    USING (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid))
    WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));
CREATE SEQUENCE runs;
GRANT SELECT, INSERT ON ledger TO crm_user;
GRANT USAGE ON SEQUENCE runs TO crm_user;
"""
INSERT = "INSERT INTO ledger (token, user_id) VALUES (%s, %s)"
USER = UUID("00000000-0000-4000-8000-00000000000a")


class NewClient(Protocol):
    """Makes a client of the application's role, which is closed after the test."""

    def __call__(self, url: str | Callable[..., str] | None = None, **settings: Any) -> Any:
        """Return a PostgresClient."""


def prepare(server: PostgresServer) -> None:
    """Give a new server the project's schema and the ledger."""
    apply_sql(server.url(), {"crm_user": "secret", "crm_admin": "secret"})
    with superuser(server) as conn:
        conn.execute(_LEDGER)


@pytest.fixture(scope="session")
def fault_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that only the fault tests use: they stop it, cut it and change its settings."""
    # A crash must lose nothing that was committed, or the ledger would prove nothing.
    with PostgresServer(settings={"synchronous_commit": "on"}) as server:
        prepare(server)
        yield server


@pytest.fixture
def server(fault_server: PostgresServer) -> Iterator[PostgresServer]:
    """The fault tests' server, running before and after each test."""
    yield fault_server
    if not fault_server.running:
        fault_server.start()


@pytest.fixture
def new_client(server: PostgresServer) -> Iterator[NewClient]:
    """A maker of clients; all that it made have given back every session when they close."""
    with ExitStack() as opened:

        def make(url: str | Callable[..., str] | None = None, **settings: Any) -> PostgresClient:
            client = PostgresClient(url or server.url("crm_user", "secret"), **settings)
            opened.callback(client.close)
            made.append(client)
            return client

        made: list[PostgresClient] = []
        yield make
        for client in made:
            assert client.stats()["in_use"] == 0
            assert client.stats()["waiting"] == 0


@contextmanager
def superuser(server: PostgresServer) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open an autocommit connection that passes row-level security by."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        yield conn


def kill_sessions(conn: psycopg.Connection[Any], role: str = "crm_user") -> int:
    """End every session of *role* as an administrator would; return how many there were."""
    gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY(%s))"
    rows = conn.execute(
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role,)
    ).fetchall()
    wait_for(lambda: bool(conn.execute(gone, ([row[0] for row in rows],)).fetchone() == (True,)))
    return len(rows)


def wait_for(condition: Callable[[], bool], limit: float = 10.0) -> None:
    """Wait until *condition* holds; fail after *limit* seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition never came"
        time.sleep(0.005)


def times_applied(server: PostgresServer, token: UUID) -> int:
    """Return how often the ledger has *token*, whoever wrote it."""
    with superuser(server) as conn:
        row = conn.execute("SELECT count(*) FROM ledger WHERE token = %s", (token,)).fetchone()
    assert row is not None
    return int(row[0])


def write(client: PostgresClient, token: UUID, kind: str) -> None:
    """Write *token* into the ledger once, through one of the client's ways."""
    if kind == "execute":
        client.execute(INSERT, (token, USER), USER)
    elif kind == "execute_many":
        client.execute_many(INSERT, [(token, USER)], USER)
    else:
        with client.connection(USER) as conn:
            conn.execute(INSERT, (token, USER))


def all_places_can_be_used(client: PostgresClient, **given: Any) -> None:
    """Open as many blocks at once as the pool has places, each on a session that works."""
    given = given or {"user_id": USER}
    places = client.stats()["max_size"]
    assert client.stats()["in_use"] == 0
    everyone = threading.Barrier(places, timeout=10)

    def use(_: int) -> int:
        with client.connection(**given) as conn:
            everyone.wait()
            row = conn.execute("SELECT 1 AS one").fetchone()
            return int(row["one"])

    with ThreadPoolExecutor(places) as threads:
        assert list(threads.map(use, range(places))) == [1] * places
    assert client.stats()["in_use"] == 0


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer, also when it raises."""
    started = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - started
        assert took <= seconds, f"took {took:.2f} s, more than {seconds:.2f} s"


@dataclass(frozen=True)
class Call:
    """One attempt to write into the ledger."""

    token: UUID
    started: float
    ended: float
    error: Exception | None


class Load(SteadyLoad):
    """Threads that write unique tokens until the block ends; it ends them by itself.

    Args:
        client: What they write through.
        threads: How many.
        limit: Seconds after which they stop in any case.
    """

    def __init__(self, client: PostgresClient, threads: int, limit: float = 30.0) -> None:
        super().__init__(threads, limit=limit)
        self.calls: list[Call] = []
        self._client = client

    @property
    def failures(self) -> list[Call]:
        """The calls that raised."""
        return [call for call in self.calls if call.error is not None]

    def take_turn(self, turn: int) -> None:
        """Write a token of its own, in one of the three ways."""
        kinds = ("execute", "connection", "execute_many")
        token, started, error = uuid4(), time.monotonic(), None
        try:
            write(self._client, token, kinds[turn % 3])
        except Exception as failure:  # noqa: BLE001 - the test judges each of them
            error = failure
        self.calls.append(Call(token, started, time.monotonic(), error))

    def assert_exactly_once(self, server: PostgresServer) -> None:
        """Every successful call is in the ledger once, every failed one at most once."""
        with superuser(server) as conn:
            counts = dict(conn.execute("SELECT token, count(*) FROM ledger GROUP BY token"))
        for call in self.calls:
            applied = counts.get(call.token, 0)
            assert applied == 1 if call.error is None else applied <= 1, call
