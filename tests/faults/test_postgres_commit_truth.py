"""What a failed call says of its effect is true: wherever the connection or the server dies."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.errors import ClientError, PostgresError
from tests.message_proxy import MessageProxy
from tests.postgres_faults import INSERT, USER, superuser, times_applied, wait_for, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

KINDS = ("execute", "execute_many", "connection", "many rows", "bulk", "expected")
# More than any of them has.
MOST_MESSAGES = 60
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[MessageProxy]:
    with MessageProxy(server.port) as relay:
        yield relay


def proxied(proxy: MessageProxy, new_client: NewClient) -> PostgresClient:
    url = f"postgresql://crm_user:secret@127.0.0.1:{proxy.port}/crm"
    client: PostgresClient = new_client(
        f"{url}?sslmode=disable&gssencmode=disable", pool_size=1, min_size=1
    )
    return client


def write_once(client: PostgresClient, token: UUID, kind: str) -> None:
    """Write *token* in one way; "many rows" has it in the last of several batches."""
    if kind == "many rows":
        others = [(uuid4(), USER)] * 1500
        client.execute_many(INSERT, [*others, (token, USER)], USER)
    elif kind == "bulk":
        client.bulk_insert("ledger", ("token", "user_id"), [(token, USER)], USER)
    elif kind == "expected":
        # Its COMMIT is a round trip of its own.
        client.execute(INSERT, (token, USER), USER, expect=1)
    else:
        write(client, token, kind)


def outcome_of(client: PostgresClient, token: UUID, kind: str) -> ClientError | None:
    """Return what came out; None is a success."""
    try:
        write_once(client, token, kind)
    except ClientError as error:
        return error
    except psycopg.Error as error:
        # Of the statement in the block: psycopg's own, and the block is rolled back.
        assert kind == "connection"
        return PostgresError(str(error))
    return None


def judge(outcome: ClientError | None, applied: int, what: object) -> None:
    """The error and the table agree."""
    if outcome is None:
        assert applied == 1, what
    elif not outcome.maybe_applied:
        assert applied == 0, (what, outcome)
        assert "may or may not" not in str(outcome)
    else:
        assert applied <= 1, what
        assert "nothing was committed" not in str(outcome).lower()


def cut_once(
    server: PostgresServer,
    conn: psycopg.Connection[Any],
    client: PostgresClient,
    proxy: MessageProxy,
    case: tuple[str, str, int, bool, bool],
) -> tuple[bool, ClientError | None, int]:
    """Cut one write; return whether it was, what came out, and what is in the table."""
    kind, direction, messages, answers_pass, is_warm = case
    pid = client.execute_scalar("SELECT pg_backend_pid()", user_id=USER)
    for _ in range(7 if is_warm else 0):
        write(client, uuid4(), "execute")
    token = uuid4()
    proxy.cut_after(direction, messages, answers_pass=answers_pass)
    outcome = outcome_of(client, token, kind)
    if was_cut := proxy.relent():
        wait_for(lambda: conn.execute(SESSIONS, (pid,)).fetchone() == (0,))
    return was_cut, outcome, times_applied(server, token)


CASES = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(["up", "down"]),
    st.integers(0, MOST_MESSAGES),
    st.booleans(),
    st.booleans(),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=CASES)
def test_a_connection_that_is_cut_behind_any_message_is_told_truly(
    server: PostgresServer,
    new_client: NewClient,
    proxy: MessageProxy,
    case: tuple[str, str, int, bool, bool],
) -> None:
    """Committed is success or "may have taken effect", and not committed is never a success."""
    with superuser(server) as conn:
        client = proxied(proxy, new_client)
        _, outcome, applied = cut_once(server, conn, client, proxy, case)

        judge(outcome, applied, case)
        assert client.execute_scalar("SELECT 1", user_id=USER) == 1
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_every_message_boundary_is_told_truly(
    server: PostgresServer,
    new_client: NewClient,
    proxy: MessageProxy,
    kind: str,
    direction: str,
) -> None:
    """Each boundary of each way, with statements prepared and not; all three outcomes are met."""
    seen = set()
    client = proxied(proxy, new_client)
    with superuser(server) as conn:
        for is_warm in (False, True):
            for answers_pass in (True, False):
                # Thousands, of which a few are tried.
                many = sorted(random.sample(range(4_700), 25))
                for messages in many if kind == "many rows" else range(MOST_MESSAGES):
                    case = (kind, direction, messages, answers_pass, is_warm)
                    was_cut, outcome, applied = cut_once(server, conn, client, proxy, case)
                    judge(outcome, applied, case)
                    seen.add((outcome and outcome.maybe_applied, applied))
                    if not was_cut:
                        break
    if kind != "many rows":
        assert (None, 1) in seen
        assert (True, 1 if direction == "down" else 0) in seen


def killed_at_random(
    server: PostgresServer, new_client: NewClient, kills: int
) -> dict[tuple[bool | None, int], int]:
    """Kill sessions around their COMMIT; return how often each outcome came with each effect."""
    client: PostgresClient = new_client(pool_size=2, min_size=2)
    tally: dict[tuple[bool | None, int], int] = {}
    done = threading.Event()
    killed = [0]

    def kill() -> None:
        query = "SELECT pid FROM pg_stat_activity WHERE usename = 'crm_user' AND state <> 'idle'"
        with superuser(server) as conn:
            while not done.is_set():
                for (pid,) in conn.execute(query).fetchall():
                    conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
                    killed[0] += 1
                time.sleep(random.random() * 0.003)  # noqa: S311 - no secret

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        deadline = time.monotonic() + 300
        while killed[0] < kills and time.monotonic() < deadline:
            kind, token = random.choice(KINDS[:3]), uuid4()  # noqa: S311 - no secret
            outcome = outcome_of(client, token, kind)
            applied = times_applied(server, token)
            judge(outcome, applied, (kind, outcome))
            key = (None if outcome is None else outcome.maybe_applied, applied)
            tally[key] = tally.get(key, 0) + 1
    finally:
        done.set()
        killer.join()
    assert killed[0] >= kills
    return tally


def test_a_kill_around_the_commit_is_told_truly(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Terminated before, at or behind the COMMIT: the table and the error agree."""
    killed_at_random(server, new_client, 60)


@pytest.mark.slow
def test_a_thousand_kills_around_the_commit_are_told_truly(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Many enough to meet the moment behind the COMMIT."""
    tally = killed_at_random(server, new_client, 1000)

    assert sum(tally.values()) >= 500
    assert tally.get((None, 1), 0) > 0
