"""The pool: who holds it when it is exhausted, fairness, numbers that add up, and its end."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg_pool
import pytest

import clients
from clients._postgres.pool import calling_place
from clients.errors import PostgresConnectionError, PostgresError, RlsContextError, VaultError
from clients.postgres_client import PostgresClient
from tests.postgres_faults import all_places_can_be_used
from tests.postgres_helpers import contact_names, one_session_client, open_sockets, run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from utils.local_stack import StackEndpoints


class Holder:
    """A thread of that name that keeps a block open until it is told to end it."""

    def __init__(self, client: PostgresClient, name: str) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.thread = threading.Thread(target=self._hold, args=(client,), name=name)
        self.thread.start()
        assert self.entered.wait(10)

    def _hold(self, client: PostgresClient) -> None:
        with client.connection(uuid4()):  # the place that the message names
            self.entered.set()
            self.release.wait(30)

    def end(self) -> None:
        """Let the block end, and wait for it."""
        self.release.set()
        self.thread.join(10)


@pytest.mark.parametrize("file", ["{clients}_jobs/main.py", "/srv/contextlib_tools.py"])
def test_a_callers_file_may_be_called_nearly_as_ours(file: str) -> None:
    """An application may lie beside the folder, which may be vendored, under a longer name."""
    name = file.format(clients=Path(clients.__file__).parent)
    caller: dict[str, Any] = {"call": lambda: calling_place()}  # noqa: PLW0108 - a frame of its own
    exec(compile("place = call()", name, "exec"), caller)  # noqa: S102 - the test's own text

    code, _ = caller["place"]
    assert code.co_filename == name


def test_exhaustion_names_the_holders(stack: StackEndpoints, user: UUID) -> None:
    """Thread, age and file:line of each, the limits and the mend, after pool_timeout."""
    with PostgresClient(stack.database_url, 2, pool_timeout=0.3) as client:
        holders = [Holder(client, "worker-a"), Holder(client, "worker-b")]
        started = time.monotonic()
        with pytest.raises(PostgresConnectionError) as caught:
            client.execute("SELECT 1", user_id=user)
        waited = time.monotonic() - started
        for holder in holders:
            holder.end()
        message = str(caught.value)

        assert 0.3 <= waited < 2
        for name in ("worker-a", "worker-b"):
            assert f"{name} for 0." in message
        assert message.count("test_postgres_pool.py:") == 2
        assert "pool_timeout=0.3 s" in message
        assert "pool_size=2" in message
        assert "raise pool_size" in message
        assert client.stats()["exhausted"] == 1
        assert client.execute_scalar("SELECT 1", user_id=user) == 1


def test_the_place_is_the_line_of_the_call(stack: StackEndpoints, user: UUID) -> None:
    """For every way in: the caller's own line, not one of this package or of contextlib."""
    with one_session_client(stack) as client:
        places: list[str] = []

        def look() -> None:
            places.extend(holder.place for holder in client._pool._places.holders())

        class Looking:
            def __iter__(self) -> Any:
                for number in range(1001):
                    look() if number == 1000 else None
                    yield (number,)

        with client.connection(user):
            look()
        with client.admin_connection():
            look()
        with client.stream("SELECT 1", user_id=user):
            look()
        client.execute_many("SELECT %s", Looking(), user)
        files = {place.rpartition(":")[0] for place in places}

        assert len(places) == 4
        assert files == {__file__}


def test_a_thread_that_holds_all_is_refused_at_once(stack: StackEndpoints, user: UUID) -> None:
    """Waiting for oneself would be a deadlock until the time-out."""
    with (
        one_session_client(stack, pool_timeout=20.0) as client,
        client.connection(user),
    ):
        started = time.monotonic()
        with pytest.raises(PostgresConnectionError, match="this thread holds them all"):
            client.execute_admin("SELECT 1")

        assert time.monotonic() - started < 5


def test_nested_calls_of_one_user_never_deadlock_on_one_connection(
    stack: StackEndpoints, user: UUID
) -> None:
    """Blocks, calls, batches and streams in each other, all on the one session."""
    with one_session_client(stack) as client:

        def nest() -> Any:
            with client.connection(user), client.connection(user):
                with client.stream("SELECT g FROM generate_series(1, 3) g", user_id=user) as rows:
                    total = sum(
                        client.execute_scalar("SELECT %s::int", (row["g"],), user) for row in rows
                    )
                client.execute_many("SELECT %s", [(1,), (2,)], user)
                with pytest.raises(RlsContextError):
                    client.execute("SELECT 1", user_id=uuid4())
                return total

        assert run_in_thread(nest) == 6
        assert client.stats()["connects"] == 1


def test_waiting_callers_are_served_in_order(stack: StackEndpoints) -> None:
    """First come, first served: nobody who comes later overtakes."""
    with one_session_client(stack, pool_timeout=20.0) as client:
        holder = Holder(client, "holder")
        served: list[int] = []

        def call(number: int) -> None:
            with client.connection(uuid4()):
                served.append(number)

        threads = []
        for number in range(8):
            threads.append(threading.Thread(target=call, args=(number,)))
            threads[-1].start()
            wait_until_waiting(client, number + 1)
        holder.end()
        for thread in threads:
            thread.join(20)

        assert served == list(range(8))


def wait_until_waiting(client: PostgresClient, count: int) -> None:
    deadline = time.monotonic() + 10
    while client.stats()["waiting"] != count:
        assert time.monotonic() < deadline, "they never queued up"
        time.sleep(0.002)


def test_sessions_that_were_made_together_do_not_end_together(
    stack: StackEndpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When each of them ends is drawn once: to be looked at often makes no session end sooner."""
    with PostgresClient(stack.database_url, 20, min_size=20) as client:
        now = time.monotonic
        # In the last part of an hour, in which they end one after the other.
        monkeypatch.setattr(time, "monotonic", lambda: now() + 0.952 * 3600)
        for _ in range(10):
            all_places_can_be_used(client)

        assert client.stats()["connects"] < 20 + 10


def test_numbers_add_up_under_load(stack: StackEndpoints) -> None:
    """After many threads, errors and nested blocks every place is back."""
    with PostgresClient(stack.database_url, 3, pool_timeout=20.0) as client:

        def work() -> None:
            me = uuid4()
            for turn in range(30):
                if turn % 3 == 0:
                    with pytest.raises(PostgresError):
                        client.execute("SELECT 1/0", user_id=me)
                elif turn % 3 == 1:
                    with client.connection(me) as conn:
                        conn.execute("SELECT 1")
                else:
                    client.execute("SELECT 1", user_id=me)
                stats = client.stats()
                assert stats["idle"] + stats["in_use"] <= stats["size"] <= 3

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        stats = client.stats()

        assert stats["checkouts"] == 8 * 30
        assert (stats["in_use"], stats["waiting"], stats["exhausted"]) == (0, 0, 0)
        assert stats["size"] == stats["idle"] == stats["connects"] - stats["retired"]
        assert stats["retired"] == 0


def test_a_drained_pool_connects_anew(stack: StackEndpoints, user: UUID) -> None:
    """Idle sessions go at once, one in use when its block ends, and nobody fails."""
    pid = "SELECT pg_backend_pid()"
    with PostgresClient(stack.database_url, 2, min_size=2) as client:
        with client.connection(user) as conn:
            before = conn.execute(f"{pid} AS pid").fetchone()["pid"]
            client._pool.drain()
            assert client.stats()["size"] == 1
            assert conn.execute("SELECT 1 AS a").fetchall() == [{"a": 1}]
        assert client.stats()["size"] == 0
        assert client.execute_scalar(pid, user_id=user) != before


def test_the_pool_shrinks_to_its_least_size(stack: StackEndpoints, user: UUID) -> None:
    """Calls one after the other use one session, and let the others grow old and go."""
    with PostgresClient(stack.database_url, 4, min_size=2) as client:
        holders = [Holder(client, f"holder {number}") for number in range(4)]
        for holder in holders:
            holder.end()
        assert client.stats()["idle"] == 4
        pid = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)
        places: Any = client._pool._places
        places.max_idle, places._due = 0.0, (0.0, places._due[1])
        for _ in range(4):
            assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == pid
        assert client.stats()["size"] == client.stats()["idle"] == 2


def test_close_lets_open_blocks_end(stack: StackEndpoints, user: UUID) -> None:
    """A block that is open when the client closes commits, and takes its socket with it."""
    gc.collect()
    sockets = open_sockets()
    client = PostgresClient(stack.database_url, 2)
    with client.connection(user) as conn:
        conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'kept')", (user,))
        client.close()
        client.close()
        conn.execute("SELECT 1")
    with PostgresClient(stack.database_url, 1) as other:
        assert contact_names(other, user) == ["kept"]
    gc.collect()

    assert client.stats()["size"] == 0
    assert open_sockets() <= sockets


def test_close_wakes_those_who_wait(stack: StackEndpoints) -> None:
    """They get the reason at once, and not after pool_timeout."""
    client = one_session_client(stack, pool_timeout=30.0)
    holder = Holder(client, "holder")
    outcome: list[BaseException] = []

    def call() -> None:
        try:
            client.execute("SELECT 1", user_id=uuid4())
        except PostgresError as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until_waiting(client, 1)
    client.close()
    thread.join(5)
    holder.end()

    assert "is closed: make a new one" in str(outcome[0])
    assert client.stats()["size"] == 0


def test_use_after_close_says_so(stack: StackEndpoints, user: UUID) -> None:
    """Every method raises the same sentence; the context manager closes."""
    with PostgresClient(stack.database_url, 1, admin_url=stack.admin_url) as client:
        pass
    for call in (
        lambda: client.execute("SELECT 1", user_id=user),
        lambda: client.execute_one("SELECT 1", user_id=user),
        lambda: client.execute_scalar("SELECT 1", user_id=user),
        lambda: client.execute_many("SELECT %s", [(1,)], user),
        lambda: client.execute_admin("SELECT 1"),
        lambda: client.connection(user).__enter__(),
        lambda: client.admin_connection().__enter__(),
        lambda: client.stream("SELECT 1", user_id=user).__enter__(),
        client.health_check,
        client.server_version,
    ):
        with pytest.raises(PostgresError, match=r"PostgreSQL client for .* is closed: make a new"):
            call()


def test_a_signal_in_a_statement_frees_the_place(
    stack: StackEndpoints, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C ends a call and a block at once; the half-read session is not used again."""
    with one_session_client(stack) as client, caplog.at_level(logging.DEBUG):
        for call in (
            lambda: client.execute("SELECT pg_sleep(20)", user_id=user),
            lambda: client.execute_many("SELECT pg_sleep(%s)", [(20,)], user),
            lambda: sleep_in_block(client, user),
        ):
            started = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                interrupted(call)

            assert time.monotonic() - started < 10
            assert client.stats()["in_use"] == 0
            assert client.execute("SELECT 1 AS a", user_id=user) == [{"a": 1}]


def sleep_in_block(client: PostgresClient, user: UUID) -> None:
    with client.connection(user) as conn:
        conn.execute("SELECT pg_sleep(20)")


def interrupted(call: Callable[[], object]) -> None:
    """Run *call* in this thread, and interrupt it as Ctrl-C does."""
    timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    timer.start()
    try:
        call()
    finally:
        timer.join()


def test_a_slow_checkout_is_one_warning_with_the_other_holders(
    stack: StackEndpoints,
    user: UUID,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits longer than the limit says so once, and names those who still hold a place."""
    monkeypatch.setattr("clients._postgres.pool._SLOW_CHECKOUT", 0.1)
    with PostgresClient(stack.database_url, 2) as client:
        leaving, staying = Holder(client, "leaving"), Holder(client, "staying")
        timer = threading.Timer(0.5, leaving.release.set)
        timer.start()
        with caplog.at_level(logging.WARNING):
            client.execute("SELECT 1", (), user)
            client.execute("SELECT 1", (), user)
        staying.release.set()
        for holder in (leaving, staying):
            holder.thread.join()
        timer.join()

    [record] = caplog.records
    message = record.getMessage()
    assert (record.levelname, message.count(" for ")) == ("WARNING", 1)
    assert "staying" in message
    assert __file__ in message
    assert threading.current_thread().name not in message


def test_a_call_writes_no_line_where_the_program_logs_at_info(
    stack: StackEndpoints, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """psycopg_pool's lines about our pools are left out; an application's own pool keeps its."""
    with caplog.at_level(logging.INFO, "psycopg.pool"):
        with PostgresClient(stack.database_url, 2) as client:
            client.execute("SELECT 1", user_id=user)
            client._pool.drain()
            client.execute("SELECT 1", user_id=user)
        ours = list(caplog.records)
        with (
            psycopg_pool.ConnectionPool(stack.database_url, min_size=1, open=True) as pool,
            pool.connection(),
        ):
            pass

    assert ours == []
    assert caplog.records


def test_without_time_to_wait_a_place_that_is_free_is_taken(
    stack: StackEndpoints, user: UUID
) -> None:
    """``pool_timeout=0`` is no wait, and not no look."""
    with one_session_client(stack, pool_timeout=0) as client:
        assert client.execute_scalar("SELECT 1", user_id=user) == 1
        holder = Holder(client, "holder")
        with pytest.raises(PostgresConnectionError, match="pool_timeout=0"):
            client.execute("SELECT 1", user_id=user)
        holder.end()
        assert client.execute_scalar("SELECT 1", user_id=user) == 1


class OwnVaultError(VaultError):
    """An error of an application, whose constructor takes more than a text."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


def test_what_the_url_callable_raises_comes_out_as_it_is(stack: StackEndpoints) -> None:
    """Also an error of ours that an application has derived, which cannot be copied by its text."""
    failure = OwnVaultError("the secret is away", path="crm/database")
    answers = iter([stack.database_url])

    def url() -> str:
        for answer in answers:
            return answer
        raise failure

    with (
        PostgresClient(url, 2, min_size=1, pool_timeout=0.2) as client,
        client.connection(uuid4()),
        ThreadPoolExecutor(1) as other,
    ):
        asked = other.submit(client.execute, "SELECT 1", (), uuid4())

        assert asked.exception() is failure
