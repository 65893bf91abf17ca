"""The server restarts, stays away, comes back: idle sessions, load and limits."""

from __future__ import annotations

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from clients._postgres.startup import StartupError, open_libpq
from clients._shared.secrecy import Masked
from clients.errors import PostgresConnectionError, PostgresError
from tests.postgres_faults import USER, Load, at_most, superuser, times_applied, wait_for, write
from utils._stack.postgres import FAST_SHUTDOWN, IMMEDIATE_SHUTDOWN

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

MODES = pytest.mark.parametrize(
    "mode", [FAST_SHUTDOWN, IMMEDIATE_SHUTDOWN], ids=["fast", "immediate"]
)


# A proxy before a server that is down hangs up.
NOBODY_THERE = {"refused", "lost"}


def thirty_calls_succeed_at_once(client: PostgresClient, server: PostgresServer) -> None:
    kinds = ("execute", "connection", "execute_many")
    for turn in range(30):
        token = uuid4()
        with at_most(1.0):
            write(client, token, kinds[turn % 3])
        assert times_applied(server, token) == 1


@MODES
def test_a_restart_costs_no_idle_client_a_failed_or_slow_call(
    server: PostgresServer, new_client: NewClient, mode: signal.Signals
) -> None:
    """Ten idle sessions, a restart: thirty calls succeed in under a second, the pool is swept."""
    client = new_client(pool_size=10, min_size=10)
    assert client.stats()["idle"] == 10
    server.restart(mode)

    thirty_calls_succeed_at_once(client, server)

    stats = client.stats()
    assert stats["stale"] == 10
    assert stats["connects"] == 11, "the first call swept the pool, and one session serves them all"
    assert stats["connect_failures"] == 0


@MODES
def test_pg_ctl_restart_costs_no_failed_call(
    server: PostgresServer, new_client: NewClient, mode: signal.Signals
) -> None:
    """PostgreSQL's own ``pg_ctl restart``, in both modes, costs neither an error nor a second."""
    word = "fast" if mode == FAST_SHUTDOWN else "immediate"
    with under_pg_ctl(server) as pg_ctl:
        client = new_client(pool_size=10, min_size=10)
        pg_ctl("restart", "-m", word)
        thirty_calls_succeed_at_once(client, server)
        assert client.stats()["stale"] == 10


@contextmanager
def under_pg_ctl(server: PostgresServer) -> Iterator[Callable[..., None]]:
    """Run the server's data directory under pg_ctl for a while."""
    server.stop()
    _, _, data, *options = server.command()
    identity: dict[str, Any] = {}
    if server.identity is not None:
        user, group = server.identity
        identity = {"user": user, "group": group, "extra_groups": []}

    def pg_ctl(*words: str) -> None:
        log = str(server.folder / "pg_ctl.log")
        subprocess.run(
            [str(server._program("pg_ctl")), "-D", data, "-l", log, "-w", *words],
            check=True,
            cwd=server.folder,
            env=server.environment(),
            stdout=subprocess.DEVNULL,
            timeout=60,
            **identity,
        )

    quoted = " ".join(f"'{option}'" for option in options)
    try:
        pg_ctl("start", "-o", quoted)
        yield pg_ctl
    finally:
        pg_ctl("stop", "-m", "fast")
        server.start()


def test_after_a_long_outage_the_next_call_works_at_once(
    server: PostgresServer, new_client: NewClient
) -> None:
    """An outage longer than every limit leaves no back-off behind: back up means working."""
    client = new_client(pool_size=4, min_size=4, connect_timeout=1.0, pool_timeout=0.3)
    server.stop()
    outage_ends = time.monotonic() + 2.5
    failed = 0
    while time.monotonic() < outage_ends:
        with pytest.raises(PostgresConnectionError, match="cannot connect"):
            client.execute("SELECT 1", user_id=USER)
        failed += 1
    assert failed >= 2
    server.start()

    with at_most(1.0):
        assert client.execute("SELECT 1 AS one", user_id=USER) == [{"one": 1}]


def test_a_server_that_is_down_gives_every_thread_a_clear_error_in_time(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Down: eight threads on two places all hear the reason within the two time-outs."""
    client = new_client(pool_size=2, connect_timeout=2.0, pool_timeout=2.0)
    server.stop()

    def call(number: int) -> PostgresError:
        with at_most(5.0), pytest.raises(PostgresConnectionError) as caught:
            write(client, uuid4(), "execute" if number % 2 else "connection")
        return caught.value

    with ThreadPoolExecutor(8) as threads:
        errors = list(threads.map(call, range(8)))
    for error in errors:
        words = f"{error} {error.__cause__}"
        why = error if error.reason in NOBODY_THERE else error.__cause__
        assert isinstance(why, PostgresConnectionError)
        assert why.reason in NOBODY_THERE
        assert "check that the server runs" in words
        assert "secret" not in words
    assert client.stats()["size"] == 0, "every place is free again"
    with at_most(5.0), pytest.raises(PostgresConnectionError) as caught:
        client.health_check()
    assert caught.value.reason in NOBODY_THERE


def test_a_server_that_is_starting_up_is_waited_for(
    server: PostgresServer, new_client: NewClient
) -> None:
    """While the server says that it is starting up, calls wait instead of failing."""
    client = new_client(pool_size=2, connect_timeout=20.0)
    server.stop()
    # Recovery asks the archive for files, and the archive is slow: a long start, made for real.
    server.settings["restore_command"] = "sleep 0.8; false"
    (server.data / "recovery.signal").touch()
    if server.identity is not None:
        (server.data / "recovery.signal").chmod(0o644)
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        assert refusal(server) == "starting"
        assert client.execute("SELECT 1 AS one", user_id=USER) == [{"one": 1}]
        assert client.stats()["connect_failures"] == 0
    finally:
        starting.join(60)
        with superuser(server) as conn:
            wait_for(lambda: conn.execute("SELECT pg_is_in_recovery()").fetchone() == (False,))
        del server.settings["restore_command"]


def refusal(server: PostgresServer) -> str:
    """Return why the starting server refuses; it must be that, or the test proves nothing."""
    deadline, reason = time.monotonic() + 10, ""
    while reason != "starting" and time.monotonic() < deadline:
        try:
            open_libpq(Masked(server.url()), {}, 5.0).finish()
        except StartupError as error:
            reason = error.reason
        else:
            return "the server was up at once"
    return reason


@pytest.mark.slow
@MODES
def test_a_restart_under_load_fails_only_what_was_in_flight_and_repeats_nothing(
    server: PostgresServer, new_client: NewClient, mode: signal.Signals
) -> None:
    """Eight threads write while the server restarts: one error each at most, no write twice."""
    client = new_client(pool_size=4, min_size=4)
    with Load(client, threads=8) as load:
        time.sleep(0.4)
        server.stop(mode)
        stopped = time.monotonic()
        server.start()
        started = time.monotonic()
        time.sleep(0.4)

    assert len(load.calls) > 100
    assert any(call.error is None and call.started > started for call in load.calls)
    for call in load.failures:
        # A block's own statement raises psycopg's error, and everything else ours.
        assert isinstance(call.error, (PostgresConnectionError, psycopg.OperationalError))
        assert call.started <= stopped, f"was not under way: {call}"
    # One for each session: the other threads were waiting for a place.
    assert len(load.failures) <= 4
    load.assert_exactly_once(server)
