"""After a fork, parent and child never share a socket, a transaction or a lock."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from clients.errors import PostgresError
from tests.postgres_faults import (
    INSERT,
    USER,
    all_places_can_be_used,
    kill_sessions,
    superuser,
    times_applied,
    wait_for,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients._postgres.guarded import GuardedConnection
    from clients._shared.locks import OwnedLock
    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

# Threads of the parent are the subject of some of these tests.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

_PID = "SELECT pg_backend_pid() AS pid"


def in_child(work: Callable[[], Any]) -> Any:
    """Run *work* in a forked child, and return what it returned, or its error's text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # A child that hangs ends itself, and its parent's wait with it.
        signal.alarm(15)
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001 - it goes to the parent
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read() or b'"the child said nothing"')
    os.waitpid(child, 0)
    return answer


def backend_pid(client: PostgresClient) -> int:
    return int(client.execute_scalar(_PID, user_id=USER))


def server_pids(server: PostgresServer) -> set[int]:
    with superuser(server) as conn:
        query = "SELECT pid FROM pg_stat_activity WHERE usename = 'crm_user'"
        return {int(row[0]) for row in conn.execute(query)}


def test_a_child_gets_sessions_of_its_own_and_leaves_the_parents_alone(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Idle pool: the child connects anew, and its exit ends none of the parent's sessions."""
    client = new_client(pool_size=3, min_size=3)
    before = server_pids(server)
    assert len(before) == 3

    def work() -> list[Any]:
        pids = [backend_pid(client) for _ in range(3)]
        client.execute(INSERT, (token, USER), USER)
        stats = client.stats()
        client.close()
        return [pids, stats["connects"]]

    token = uuid4()
    pids, connects = in_child(work)
    assert not set(pids) & before
    assert connects == 1
    assert times_applied(server, token) == 1
    wait_for(lambda: server_pids(server) == before)
    assert {backend_pid(client) for _ in range(5)} <= before
    assert client.stats()["stale"] == 0
    all_places_can_be_used(client)


def test_a_child_warns_of_no_connection_that_it_inherits(
    new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent's sessions are not deleted in the child: nobody could close them there."""
    client = new_client(pool_size=2, min_size=2)
    complaints: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: complaints.append(repr(it.exc_value)))

    def work() -> list[str]:
        client.execute("SELECT 1", user_id=USER)
        gc.collect()
        return complaints

    assert in_child(work) == []


def test_a_fork_inside_a_block_leaves_the_transaction_to_the_parent(
    server: PostgresServer, new_client: NewClient
) -> None:
    """The child's use of the parent's handle raises, its own calls work, the parent commits."""
    client = new_client(pool_size=1)
    mine, theirs = uuid4(), uuid4()

    def work() -> list[str]:
        said = []
        for use in (lambda: conn.execute("SELECT 1"), cursor.fetchone, conn.transaction):
            try:
                use()
                said.append("it worked")
            except PostgresError as error:
                said.append(str(error))
        # Another user than the block's: the block is not the child's.
        client.execute(INSERT, (theirs, theirs), theirs)
        with client.connection(USER) as own:
            said.append(str(own.execute(_PID).fetchone()["pid"]))
        return said

    with client.connection(USER) as conn:
        conn.execute(INSERT, (mine, USER))
        cursor = conn.execute(_PID)
        *refusals, child_pid = in_child(work)
        assert all("belongs to the parent process" in text for text in refusals), refusals
        row = cursor.fetchone()
        assert str(row["pid"]) != child_pid
        assert conn.execute(_PID).fetchone() == row
    assert times_applied(server, mine) == 1
    assert times_applied(server, theirs) == 1


@pytest.mark.parametrize("way", ["normally", "by an exception", "in a stream"])
def test_a_child_that_leaves_an_inherited_block_does_not_end_it(
    server: PostgresServer, new_client: NewClient, way: str
) -> None:
    """Neither COMMIT nor ROLLBACK of a child reaches the transaction of its parent."""
    client = new_client(pool_size=1)
    token, child = uuid4(), 0
    reader, writer = os.pipe()
    try:
        try:
            if way == "in a stream":
                with client.stream("SELECT generate_series(1, 9) AS n", user_id=USER) as rows:
                    child = os.fork()
                    found = len(list(rows))
                    assert child == 0 or found == 9
            else:
                with client.connection(USER) as conn:
                    conn.execute(INSERT, (token, USER))
                    child = os.fork()
                    if child == 0 and way == "by an exception":
                        raise KeyError("in the child")  # noqa: TRY301 - from just here
                    if child:
                        os.waitpid(child, 0)
                        conn.execute(INSERT, (token, USER))
        except BaseException as error:
            if child:
                raise
            os.write(writer, f"{type(error).__name__}: {error}".encode())
    finally:
        if child == 0:
            os._exit(0)
    os.close(writer)
    if way == "in a stream":
        os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    assert ("KeyError" if way == "by an exception" else "belongs to the parent process") in said
    assert times_applied(server, token) == (0 if way == "in a stream" else 2)
    assert client.stats()["retired"] == 0, "the parent's session was spoilt"


def leave_a_savepoint(conn: GuardedConnection, error: Exception | None) -> Iterator[None]:
    with conn.transaction():
        yield
        if error is not None:
            raise error


def leave_a_joined_block(client: PostgresClient) -> Iterator[None]:
    with client.connection(USER):
        yield
        raise KeyError


def leave_a_stream(conn: GuardedConnection, *, closes: bool) -> Iterator[None]:
    rows = conn.cursor().stream("SELECT generate_series(1, 9000) AS n")
    next(rows)
    parent = os.getpid()
    yield
    if os.getpid() == parent:
        assert len(list(rows)) == 8999
    elif closes:
        rows.close()


def leave_a_copy(conn: GuardedConnection) -> Iterator[None]:
    with conn.cursor().copy("COPY (SELECT generate_series(1, 9000)) TO STDOUT") as copy:
        copy.read_row()
        parent = os.getpid()
        yield
        if os.getpid() == parent:
            assert len(list(copy.rows())) == 8999


def leave_a_named_cursor(conn: GuardedConnection) -> Iterator[None]:
    with conn.cursor("named").execute("SELECT generate_series(1, 9) AS n") as rows:
        rows.fetchone()
        parent = os.getpid()
        yield
        if os.getpid() == parent:
            assert len(rows.fetchall()) == 8


PARTS: dict[str, Callable[[PostgresClient, GuardedConnection], Iterator[None]]] = {
    "a savepoint, normally": lambda _, conn: leave_a_savepoint(conn, None),
    "a savepoint, by an exception": lambda _, conn: leave_a_savepoint(conn, KeyError()),
    "a joined block": lambda client, _: leave_a_joined_block(client),
    "a stream that is closed": lambda _, conn: leave_a_stream(conn, closes=True),
    "a stream that is dropped": lambda _, conn: leave_a_stream(conn, closes=False),
    "a COPY": lambda _, conn: leave_a_copy(conn),
    "a named cursor": lambda _, conn: leave_a_named_cursor(conn),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_child_that_leaves_a_part_of_an_inherited_block_does_not_end_that(
    server: PostgresServer, new_client: NewClient, part: str
) -> None:
    """Nothing is sent, read or cancelled on the parent's session, which goes on where it was."""
    client, token = new_client(pool_size=1), uuid4()

    def leave(steps: Iterator[None]) -> str:
        with suppress(KeyError, PostgresError):
            next(steps, None)
        del steps
        gc.collect()
        return "left"

    with client.connection(USER) as conn:
        conn.execute(INSERT, (token, USER))
        opened = [PARTS[part](client, conn)]
        next(opened[0])
        if part in {"a savepoint, normally", "a savepoint, by an exception", "a joined block"}:
            conn.execute(INSERT, (token, USER))
        assert in_child(lambda: leave(opened.pop())) == "left"
        with suppress(KeyError):
            next(opened.pop(), None)
        conn.execute(INSERT, (token, USER))

    assert times_applied(server, token) == (3 if part == "a savepoint, normally" else 2)
    assert client.stats()["retired"] == 0, "the parent's session was spoilt"


def test_a_fork_while_other_threads_use_the_pool_hangs_nobody(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Busy pool, locks held by threads that the child does not have: each child works at once."""
    client = new_client(pool_size=4, min_size=4)
    stop = threading.Event()
    errors: list[Exception] = []

    def use() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                write(client, uuid4(), ("execute", "connection")[turn % 2])
            except Exception as error:  # noqa: BLE001 - the test looks at it
                errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            started = time.monotonic()
            pid = in_child(lambda: [backend_pid(client), client.stats()["connects"]])
            assert isinstance(pid, list), pid
            assert pid[1] == 1
            assert time.monotonic() - started < 10
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert errors == []
    all_places_can_be_used(client)


def test_a_lock_that_another_thread_holds_at_the_fork_is_free_in_the_child(
    new_client: NewClient,
) -> None:
    """Each is held for microseconds, and a fork that meets one of them comes with enough forks."""
    client = new_client(pool_size=2, min_size=1)
    for lock in (client._pool._lock, client._pool._connector.source._lock):
        held, release = threading.Event(), threading.Event()
        holder = threading.Thread(target=hold, args=(lock, held, release))
        holder.start()
        assert held.wait(10)
        try:
            answer = in_child(lambda: backend_pid(client))
        finally:
            release.set()
            holder.join(10)
        assert isinstance(answer, int), answer


def hold(lock: OwnedLock, held: threading.Event, release: threading.Event) -> None:
    with lock:
        held.set()
        release.wait(20)


def test_a_fork_while_a_thread_renews_the_url_hangs_nobody(
    server: PostgresServer, new_client: NewClient
) -> None:
    """A child that has to ask for a fresh URL does not wait for a thread that it does not have."""
    good, asking, release = server.url("crm_user", "secret"), threading.Event(), threading.Event()
    answers, parent = {"current": good}, os.getpid()

    def url(*, use_cache: bool = True) -> str:
        if use_cache:
            return answers["current"]
        if os.getpid() == parent:
            asking.set()
            release.wait(10)
        return good

    client = new_client(url, pool_size=2, min_size=1)
    with superuser(server) as conn:
        kill_sessions(conn)
    slow = threading.Thread(target=write, args=(client, uuid4(), "execute"))
    answers["current"] = server.url("crm_user", "old")
    slow.start()
    assert asking.wait(10)
    try:
        answer = in_child(lambda: backend_pid(client))
    finally:
        release.set()
        slow.join(10)
    assert isinstance(answer, int), answer


def test_a_process_of_multiprocessing_works_and_leaves_the_parents_sessions_alone(
    server: PostgresServer, new_client: NewClient
) -> None:
    """A process made by forking inherits a client and an open block, and harms neither."""
    client = new_client(pool_size=2, min_size=2)
    fork = multiprocessing.get_context("fork")
    token = uuid4()
    with client.connection(USER) as conn:
        conn.execute(INSERT, (token, USER))
        process = fork.Process(target=write, args=(client, token, "execute"))
        process.start()
        process.join(20)
        assert process.exitcode == 0
        conn.execute(INSERT, (token, USER))
    assert times_applied(server, token) == 3
    all_places_can_be_used(client)
    assert client.stats()["stale"] == 0


def test_a_child_that_closes_an_inherited_session_says_no_good_bye_for_its_parent(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Whoever reaches an inherited session in the child cannot end it on the server."""
    client = new_client(pool_size=1)
    session = client._pool._places._pool[0].session
    before = backend_pid(client)
    assert in_child(lambda: [session.close(), "closed"]) == [None, "closed"]
    assert backend_pid(client) == before
    assert client.stats()["stale"] == 0
