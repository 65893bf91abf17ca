"""Waits end, and what is dropped closes: on a frozen clock, and with few connections allowed."""

from __future__ import annotations

import gc
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from clients.errors import PostgresConnectionError
from clients.postgres_client import PostgresClient
from tests.postgres_faults import USER, at_most, superuser, wait_for
from tests.translating_proxy import ForeignServer, TranslatingProxy, nonsense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

_COUNT = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'crm_user'"


def sessions(server: PostgresServer) -> int:
    """Return how many sessions the application's role has on the server."""
    with superuser(server) as conn:
        row = conn.execute(_COUNT).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def no_sessions(server: PostgresServer) -> None:
    """Wait until those of earlier tests are gone."""
    wait_for(lambda: sessions(server) == 0)


@pytest.fixture
def limit_of_five(server: PostgresServer, no_sessions: None) -> Iterator[None]:
    """Let the server take five connections of the application's role."""
    with superuser(server) as conn:
        conn.execute("ALTER ROLE crm_user CONNECTION LIMIT 5")
        yield
        conn.execute("ALTER ROLE crm_user CONNECTION LIMIT -1")


def test_with_a_clock_that_stands_still_a_server_that_is_down_ends_the_call(
    server: PostgresServer, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests of applications freeze it: tries are counted as well as timed."""
    client = new_client(pool_size=2, connect_timeout=2.0, pool_timeout=2.0)
    server.stop()
    frozen = time.monotonic()
    real = time.perf_counter()
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: frozen)
        for call in (lambda: client.execute("SELECT 1", user_id=USER), client.health_check):
            with pytest.raises(PostgresConnectionError) as caught:
                call()
            # libpq tells one refusal in thousands as a hang-up.
            assert caught.value.reason in {"refused", "lost"}
    assert time.perf_counter() - real < 20


def test_with_a_clock_that_stands_still_a_silent_server_ends_the_constructor(
    monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    """The time-out of a connection attempt is counted in waits, too."""
    frozen = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: frozen)
        with pytest.raises(PostgresConnectionError) as caught:
            PostgresClient(f"postgresql://u:p@127.0.0.1:{silent_port}/crm", connect_timeout=1.0)
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("words", ["the server's", "nonsense"])
def test_a_server_that_takes_fewer_connections_than_the_pool_makes_callers_wait(
    server: PostgresServer, limit_of_five: None, words: str
) -> None:
    """Forty calls on a pool of ten, with five connections allowed: none fails, five are used."""
    with TranslatingProxy(server.port, nonsense) as proxy:
        seen: Any = ForeignServer(server, proxy.port) if words == "nonsense" else server
        url = seen.url("crm_user", "secret")
        with (
            PostgresClient(url, 10, min_size=2, pool_timeout=20.0) as client,
            ThreadPoolExecutor(20) as threads,
        ):

            def call(_: int) -> Any:
                with client.connection(uuid4()) as conn:
                    return conn.execute("SELECT pg_sleep(0.02)").fetchall()

            assert len(list(threads.map(call, range(40)))) == 40
            stats = client.stats()
            assert (stats["size"], stats["in_use"], stats["waiting"]) == (5, 0, 0)
            assert stats["exhausted"] == 0


def test_a_server_that_takes_fewer_than_min_size_is_made_do_with(
    server: PostgresServer, limit_of_five: None
) -> None:
    """Construction goes on with what it got."""
    with PostgresClient(server.url("crm_user", "secret"), 10, min_size=8) as client:
        assert client.stats()["size"] == 5
        assert client.execute_scalar("SELECT 1", user_id=USER) == 1


def test_a_server_that_takes_none_is_told_with_its_code(
    server: PostgresServer, limit_of_five: None
) -> None:
    """There is no place of ours to wait for."""
    url = server.url("crm_user", "secret")
    with (
        PostgresClient(url, 5, min_size=5),
        at_most(3.0),
        pytest.raises(PostgresConnectionError) as caught,
    ):
        PostgresClient(url, 1)
    assert (caught.value.reason, caught.value.sqlstate) == ("exhausted", "53300")


def test_the_pool_grows_again_when_the_server_takes_more(
    server: PostgresServer, limit_of_five: None
) -> None:
    """What was learned of a limit holds for a moment only."""
    everyone = threading.Barrier(8, timeout=20)
    with PostgresClient(server.url("crm_user", "secret"), 8, pool_timeout=20.0) as client:

        def call(_: int) -> None:
            with client.connection(uuid4()) as conn:
                conn.execute("SELECT pg_sleep(0.05)")

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(call, range(8)))
        with superuser(server) as conn:
            conn.execute("ALTER ROLE crm_user CONNECTION LIMIT 20")
        time.sleep(1.1)

        def together(_: int) -> None:
            with client.connection(uuid4()):
                everyone.wait()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(together, range(8)))
        assert client.stats()["size"] == 8


def test_a_client_that_is_dropped_closes_at_once(server: PostgresServer, no_sessions: None) -> None:
    """Its connections do not wait for the collector: nothing in it refers to itself."""
    gc.collect()
    gc.disable()
    try:
        url = server.url("crm_user", "secret")
        for _ in range(3):
            client = PostgresClient(url, 4, min_size=4, admin_url=server.url("crm_admin", "secret"))
            client.execute("SELECT 1", user_id=USER)
            with client.connection(USER) as conn:
                conn.execute("SELECT 1")
            client.execute_admin("SELECT 1")
            assert sessions(server) >= 4
            del client, conn
            wait_for(lambda: sessions(server) == 0)
    finally:
        gc.enable()


def test_the_health_of_a_busy_pool_is_the_servers(
    server: PostgresServer, new_client: NewClient, limit_of_five: None
) -> None:
    """Long queries that hold every connection do not make a service look dead."""
    client = new_client(pool_size=5, min_size=5, pool_timeout=10.0)
    everyone, end = threading.Barrier(6, timeout=20), threading.Event()

    def hold(_: int) -> None:
        with client.connection(uuid4()) as conn:
            conn.execute("SELECT 1")
            everyone.wait()
            end.wait(20)

    with ThreadPoolExecutor(5) as threads:
        holders = [threads.submit(hold, number) for number in range(5)]
        everyone.wait()
        try:
            with at_most(5.0):
                # Over the server's limit: its refusal is an answer, too.
                assert client.health_check() is True
                with superuser(server) as conn:
                    conn.execute("ALTER ROLE crm_user CONNECTION LIMIT -1")
                assert client.health_check() is True
            assert client.stats()["in_use"] == 5
        finally:
            end.set()
        for holder in holders:
            holder.result()
    wait_for(lambda: sessions(server) == 5)


def test_the_health_of_a_busy_pool_without_a_server_is_an_error(
    server: PostgresServer, new_client: NewClient
) -> None:
    """The server's, not the pool's."""
    client = new_client(pool_size=1, min_size=1)
    block = client.connection(USER)
    block.__enter__()
    server.stop()
    with pytest.raises(PostgresConnectionError) as caught:
        client.health_check()
    assert caught.value.reason == "refused"
    with pytest.raises(PostgresConnectionError):
        block.__exit__(None, None, None)
