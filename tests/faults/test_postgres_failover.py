"""The server turns read-only, or another one takes over."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from clients.errors import PostgresError
from tests.postgres_faults import (
    INSERT,
    USER,
    all_places_can_be_used,
    at_most,
    prepare,
    superuser,
    times_applied,
    wait_for,
    write,
)
from utils._stack.postgres import IMMEDIATE_SHUTDOWN, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_faults import NewClient


def set_read_only(server: PostgresServer, state: str) -> None:
    with superuser(server) as conn:
        conn.execute(f"ALTER SYSTEM SET default_transaction_read_only = {state}")
        conn.execute("SELECT pg_reload_conf()")
    wait_for(lambda: read_only_state(server) == state)


def read_only_state(server: PostgresServer) -> str:
    with superuser(server) as conn:
        row = conn.execute("SHOW default_transaction_read_only").fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
def fickle(server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, writable again after the test."""
    yield server
    set_read_only(server, "off")


def both(first: PostgresServer, second: PostgresServer) -> str:
    hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
    return f"postgresql://crm_user:secret@{hosts}/crm?target_session_attrs=read-write"


def server_port(conn: Any) -> int:
    return int(conn.execute("SELECT current_setting('port')::int AS port").fetchone()["port"])


@pytest.mark.parametrize("kind", ["execute", "execute_many", "connection", "swallowed"])
def test_a_server_that_turned_read_only_costs_one_error_and_every_session(
    fickle: PostgresServer, new_client: NewClient, kind: str
) -> None:
    """25006 comes out once; the session is retired and the pool drained for the next server."""
    client = new_client(pool_size=4, min_size=4)
    set_read_only(fickle, "on")
    if kind == "connection":
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), client.connection(USER) as conn:
            conn.execute(INSERT, (uuid4(), USER))
    elif kind == "swallowed":
        with pytest.raises(PostgresError), client.connection(USER) as conn:  # noqa: PT012 - the block is the subject
            conn.execute("SELECT 1")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                conn.execute(INSERT, (uuid4(), USER))
    else:
        with pytest.raises(PostgresError) as caught:
            write(client, uuid4(), kind)
        assert caught.value.sqlstate == "25006"
    assert client.stats()["size"] == 0, "a session of the demoted server is left"
    set_read_only(fickle, "off")
    token = uuid4()
    write(client, token, "execute")
    assert times_applied(fickle, token) == 1
    all_places_can_be_used(client)


def test_sessions_in_use_when_the_pool_is_drained_go_when_they_return(
    fickle: PostgresServer, new_client: NewClient
) -> None:
    """A block that is open while another call meets 25006 may end, and its session goes then."""
    client = new_client(pool_size=2, min_size=2)
    with client.connection(USER) as conn:
        conn.execute("SELECT 1")
        set_read_only(fickle, "on")
        # Without a user it is no part of the block, and takes the other session.
        with pytest.raises(PostgresError, match="25006"):
            client.execute_admin("SELECT nextval('runs')")
        conn.execute("SELECT 1")
    assert client.stats()["size"] == 0


def test_a_session_whose_url_was_asked_for_before_a_drain_serves_one_call(
    fickle: PostgresServer, new_client: NewClient
) -> None:
    """A callable that thinks for long may lead to the demoted server: its session is not kept."""
    asked, answer = threading.Event(), threading.Event()
    answer.set()

    def url() -> str:
        asked.set()
        assert answer.wait(10)
        return fickle.url("crm_user", "secret")

    client = new_client(url, pool_size=2, min_size=1)
    set_read_only(fickle, "on")
    asked.clear()
    answer.clear()
    with ThreadPoolExecutor(1) as other:
        with (  # noqa: PT012 - the block is the subject
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
            client.connection(USER) as conn,
        ):
            waiting = other.submit(client.execute, "SELECT 1 AS one", user_id=USER)
            assert asked.wait(10)
            conn.execute(INSERT, (uuid4(), USER))
        answer.set()
        assert waiting.result(10) == [{"one": 1}]
    assert client.stats()["size"] == 0


def test_one_url_with_several_hosts_follows_the_writable_server(
    fickle: PostgresServer, new_client: NewClient
) -> None:
    """target_session_attrs=read-write picks the writable one of two, and follows a switch."""
    with PostgresServer(settings={"synchronous_commit": "on"}) as second:
        prepare(second)
        set_read_only(second, "on")
        client = new_client(both(second, fickle), pool_size=3, min_size=3)
        token = uuid4()
        write(client, token, "execute")
        assert times_applied(fickle, token) == 1

        set_read_only(fickle, "on")
        set_read_only(second, "off")
        with pytest.raises(PostgresError, match="25006"):
            write(client, uuid4(), "execute")
        for kind in ("execute", "connection", "execute_many"):
            token = uuid4()
            with at_most(2.0):
                write(client, token, kind)
            assert times_applied(second, token) == 1
            assert times_applied(fickle, token) == 0
        all_places_can_be_used(client)


@pytest.mark.slow
def test_a_promoted_standby_takes_over_within_one_call(new_client: NewClient) -> None:
    """The primary dies, its standby is promoted: the same URL goes on with what was committed."""
    settings = {"synchronous_commit": "on", "wal_level": "replica", "max_wal_senders": "4"}
    with PostgresServer(settings=settings) as primary:
        prepare(primary)
        with standby_of(primary) as standby:
            client = new_client(both(primary, standby), pool_size=3, min_size=3)
            token = uuid4()
            write(client, token, "execute")
            wait_for(lambda: times_applied(standby, token) == 1)

            reader = new_client(standby.url("crm_user", "secret"), min_size=1)
            for _ in range(8):
                rows = reader.execute("SELECT token FROM ledger", user_id=USER)
                assert rows == [{"token": token}], "a standby serves reads"
            with reader.connection(USER) as conn:
                assert conn.execute("SELECT token FROM ledger").fetchall() == rows

            primary.stop(IMMEDIATE_SHUTDOWN)
            with superuser(standby) as conn_:
                assert conn_.execute("SELECT pg_promote()").fetchone() == (True,)
            for kind in ("execute", "connection", "execute_many"):
                token = uuid4()
                with at_most(2.0):
                    write(client, token, kind)
                assert times_applied(standby, token) == 1
            with client.connection(USER) as conn:
                assert server_port(conn) == standby.port
            all_places_can_be_used(client)


@contextmanager
def standby_of(primary: PostgresServer) -> Iterator[PostgresServer]:
    """Copy a running primary with pg_basebackup, and run the copy as its standby."""
    standby = PostgresServer(settings=primary.settings)
    try:
        standby.password = primary.password
        standby._installation = standby._reachable_installation()
        identity: dict[str, Any] = {}
        if standby.identity is not None:
            user, group = standby.identity
            identity = {"user": user, "group": group, "extra_groups": []}
        subprocess.run(
            [
                str(standby._program("pg_basebackup")),
                "--dbname", primary.url(dbname="replication"),
                "--pgdata", str(standby.data),
                "--write-recovery-conf",
                "--checkpoint=fast",
            ],
            check=True,
            cwd=standby.folder,
            env=standby.environment(),
            timeout=60,
            **identity,
        )  # fmt: skip
        standby.start()
        yield standby
    finally:
        standby.close()
