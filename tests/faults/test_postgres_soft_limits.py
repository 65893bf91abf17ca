"""What a signal handler raises comes out of every call as it is, such as a soft time limit."""

from __future__ import annotations

import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.postgres_faults import kill_sessions, superuser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

ADA = UUID(int=40, version=4)
SLEEP = "SELECT pg_sleep(20)"


class SoftLimit(Exception):  # noqa: N818 - named as task queues name theirs
    """An ordinary exception, as task queues raise it."""


@contextmanager
def soft_limit(seconds: float) -> Iterator[None]:
    """Raise SoftLimit in this thread after some time, from a signal handler."""

    def raise_limit(*_: object) -> None:
        raise SoftLimit

    before = signal.signal(signal.SIGALRM, raise_limit)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def in_a_block(client: PostgresClient) -> None:
    with client.connection(ADA) as conn:
        conn.execute(SLEEP)


def in_a_savepoint(client: PostgresClient) -> None:
    with client.connection(ADA) as conn, conn.transaction():
        client.execute(SLEEP, (), ADA)


def in_a_stream(client: PostgresClient) -> None:
    with client.stream(SLEEP, user_id=ADA) as rows:
        list(rows)


def in_a_stream_of_a_block(client: PostgresClient) -> None:
    with client.connection(ADA) as conn, conn.cursor() as cursor:
        list(cursor.stream(SLEEP))


def in_executemany(client: PostgresClient) -> None:
    with client.connection(ADA) as conn, conn.cursor() as cursor:
        cursor.executemany("SELECT pg_sleep(%s)", [(20,)])


CALLS: dict[str, Callable[[Any], object]] = {
    "execute": lambda client: client.execute(SLEEP, (), ADA),
    "execute, expected": lambda client: client.execute(SLEEP, (), ADA, expect=1),
    "execute_admin": lambda client: client.execute_admin(SLEEP),
    "execute_many": lambda client: client.execute_many("SELECT pg_sleep(%s)", [(20,)], ADA),
    "run_transaction": lambda client: client.run_transaction(lambda c: c.execute(SLEEP), ADA),
    "block": in_a_block,
    "savepoint": in_a_savepoint,
    "stream": in_a_stream,
    "cursor.stream": in_a_stream_of_a_block,
    "executemany": in_executemany,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_soft_limit_comes_out_of_every_call(
    call: Callable[[Any], object], new_client: NewClient
) -> None:
    """It can be caught as what it is, and the client goes on with all its places."""
    client = new_client(pool_size=1, min_size=1)

    with pytest.raises(SoftLimit), soft_limit(0.2):
        call(client)

    assert client.stats()["in_use"] == 0
    query = "SELECT current_setting('app.current_user_id') AS who"
    assert client.execute(query, (), ADA) == [{"who": str(ADA)}]


@pytest.mark.parametrize("way", ["execute", "execute_many", "connection"])
def test_a_soft_limit_while_a_call_connects_comes_out_as_it_is(
    server: PostgresServer, new_client: NewClient, way: str
) -> None:
    """The server is silent by then, and whatever had the password in hand is forgotten."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        urls = [server.url("crm_user", "secret")]

        def url() -> str:
            return urls.pop() if urls else f"postgresql://crm_user:secret@127.0.0.1:{port}/crm"

        client = new_client(url, pool_size=2, min_size=1)
        calls: dict[str, Callable[[], object]] = {
            "execute": lambda: client.execute("SELECT 1", (), ADA),
            "execute_many": lambda: client.execute_many("SELECT %s", [(1,)], ADA),
            "connection": lambda: client.connection(ADA).__enter__(),
        }
        with superuser(server) as conn:
            kill_sessions(conn)
        with pytest.raises(SoftLimit), soft_limit(0.2):
            calls[way]()

        assert client.stats()["in_use"] == 0
