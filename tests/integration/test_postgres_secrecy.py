"""No failure of PostgreSQL's client keeps a password where an error reporter would find it."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from clients.errors import ClientError, PostgresConnectionError
from clients.postgres_client import PostgresClient
from tests.postgres_faults import USER, kill_sessions, superuser
from tests.secret_walker import SENTINEL, SoftTimeLimit, leaks_at_steps, leaks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils._stack.postgres import PostgresServer


@pytest.fixture
def secret_url(server: PostgresServer) -> Iterator[str]:
    """The application's URL, with a password that is like nothing else."""
    change = sql.SQL("ALTER ROLE crm_user PASSWORD {}")
    with superuser(server) as conn:
        conn.execute(change.format(sql.Literal(SENTINEL)))
    yield server.url("crm_user", SENTINEL)
    with superuser(server) as conn:
        conn.execute(change.format(sql.Literal("secret")))


@contextmanager
def interrupted_in(seconds: float) -> Iterator[None]:
    """Raise SoftTimeLimit in this thread after a while, as a task queue's worker does."""

    def raise_limit(*_: object) -> None:
        raise SoftTimeLimit

    before = signal.signal(signal.SIGUSR1, raise_limit)
    timer = threading.Timer(seconds, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


BAD_URLS = [
    f"postgresql://u:{SENTINEL}@h:port/db",
    f"postgresql://u:{SENTINEL}@@h/db",
    f"postgresql://u:{SENTINEL}/x@h/db",
    f"postgresql://u:{SENTINEL}%zz@h/db",
    f"postgresql://u:{SENTINEL}@[::1/db",
    f"postgresql://u:{SENTINEL}@h/db?nosuch=1",
    f"postgresql://u:{SENTINEL}@h..x/db",
    f"postgresql://u:{SENTINEL}@h/db\0",
    f"postgresql://u:{SENTINEL} @h/db",
    f"mysql://u:{SENTINEL}@h/db",
    f"host=h password={SENTINEL} nosuch=1",
    f"password='{SENTINEL}",
    f"\ud800{SENTINEL}",
    f"postgresql://u:{SENTINEL}@h/db".encode(),
    [f"postgresql://u:{SENTINEL}@h/db"],
]


@pytest.mark.parametrize("url", BAD_URLS, ids=range(len(BAD_URLS)))
@pytest.mark.parametrize("form", ["text", "callable", "admin"])
def test_a_url_that_cannot_be_used_shows_no_password(secret_url: str, url: Any, form: str) -> None:
    """Wherever it comes from: the frames, the chain and the words are clean."""

    def construct() -> None:
        if form == "admin":
            PostgresClient(secret_url, 1, admin_url=lambda: url)
        else:
            PostgresClient(url if form == "text" else lambda: url)

    with pytest.raises(ClientError):
        construct()
    assert leaks_of(construct, SENTINEL) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"pool_size": 0},
        {"connect_timeout": -1.0},
        {"on_rls_bypass": "maybe"},
        {"local_role": "nosuch"},
        {"identity": {"x": 1}},
    ],
    ids=str,
)
def test_an_unusable_setting_shows_no_password(secret_url: str, settings: dict[str, Any]) -> None:
    """The URL is an argument of the same constructor."""
    assert leaks_of(lambda: PostgresClient(secret_url, **settings), SENTINEL) == []


def test_a_refused_constructor_shows_no_password(server: PostgresServer, secret_url: str) -> None:
    """Wrong password, wrong database, no right, a bypassing role, and nobody there."""
    with superuser(server) as conn:
        conn.execute(sql.SQL("ALTER ROLE crm_admin PASSWORD {}").format(sql.Literal(SENTINEL)))
        try:
            for url in (
                server.url("crm_user", SENTINEL + "x"),
                server.url("crm_user", SENTINEL, "nosuch"),
                server.url("crm_admin", SENTINEL),
                f"postgresql://u:{SENTINEL}@127.0.0.1:1/crm",
                f"postgresql://u:{SENTINEL}@localhost:1/crm",
                f"postgresql://u:{SENTINEL}@nosuch.invalid/crm",
                f"postgresql://u:{SENTINEL}@127.0.0.1:{server.port}/crm?sslmode=require",
                f"host=/nowhere user=u password={SENTINEL}",
            ):
                forms: list[Any] = [url, lambda url=url: url]
                for form in forms:
                    assert leaks_of(partial(PostgresClient, form), SENTINEL) == [], url
        finally:
            conn.execute("ALTER ROLE crm_admin PASSWORD 'secret'")


def test_a_refused_login_keeps_no_libpq_connection(server: PostgresServer) -> None:
    """Psycopg's own error has one, which shows the password in its repr."""
    with pytest.raises(psycopg.OperationalError) as plain:
        psycopg.connect(server.url("crm_user", "wrong"))
    assert "wrong" in repr(plain.value.pgconn)

    with pytest.raises(PostgresConnectionError) as caught:
        PostgresClient(server.url("crm_user", "wrong"))
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert caught.value.__cause__.pgconn is None


def test_a_failing_call_shows_no_password(server: PostgresServer, secret_url: str) -> None:
    """A killed session, an SQL error, a server that is gone, a pool that is exhausted or closed."""
    client = PostgresClient(secret_url, 2, pool_timeout=0.2, connect_timeout=2.0)

    def end_the_session() -> None:
        with client.connection(USER) as conn, superuser(server) as other:
            kill_sessions(other)
            conn.execute("SELECT 1")

    def exhaust() -> None:
        while True:
            held.append(client._pool.checkout())

    held: list[Any] = []
    with client:
        assert leaks_of(lambda: client.execute("SELECT 1/0", user_id=USER), SENTINEL) == []
        assert leaks_of(end_the_session, SENTINEL) == []
        assert leaks_of(exhaust, SENTINEL) == []
        for session in held:
            client._pool.give_back(session)
        server.stop()
        calls: list[Callable[[], object]] = [
            lambda: client.execute("SELECT 1", user_id=USER),
            lambda: client.execute_many("SELECT %s", [(1,)], USER),
            lambda: client.connection(USER).__enter__(),
            client.health_check,
        ]
        for call in calls:
            assert leaks_of(call, SENTINEL) == []
        server.start()
    assert leaks_of(client.health_check, SENTINEL) == []


def test_a_soft_time_limit_during_a_silent_connect_shows_no_password() -> None:
    """The thread waits inside the connection attempt, which has the password in hand."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql://u:{SENTINEL}@127.0.0.1:{listener.getsockname()[1]}/crm"

        def construct() -> None:
            with interrupted_in(0.2):
                PostgresClient(url)

        with pytest.raises(SoftTimeLimit):
            construct()
        assert leaks_of(construct, SENTINEL) == []


# The argument itself, until the first statement of the constructor has masked it, and the functions
# that mask it: an interrupt there meets the text in their hands.
MASKING = ("__init__(): connection_url", "hidden(): url", "__init__(): value")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "callable"])
def test_an_interrupt_at_any_step_shows_no_password(
    secret_url: str, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Of a constructor, and of a call that connects."""
    # Python drops what is raised in a finaliser, and pytest would keep it.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    given: Any = secret_url if form == "text" else lambda: secret_url

    def construct() -> None:
        PostgresClient(given, 1, min_size=1).close()

    found = leaks_at_steps(construct, SENTINEL, stride=3)
    with PostgresClient(given, 1, min_size=1) as client:

        def reconnect() -> None:
            client._pool.drain()
            client.execute("SELECT 1", user_id=USER)

        found += leaks_at_steps(reconnect, SENTINEL, stride=3)
    assert [place for place in found if not place.endswith(MASKING)] == []


def test_a_target_shows_no_password(secret_url: str) -> None:
    """Nor does any part of the client that a frame may hold."""
    with PostgresClient(secret_url, 1) as client:
        parts = [client, client._connector, client._connector.target, client._connector.source]
        assert all(SENTINEL not in repr(part) for part in parts)
