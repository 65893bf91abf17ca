"""An identity of several values, and a role, behind a pooler and across restarts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from clients.errors import PostgresError, RlsContextError
from tests.postgres_faults import all_places_can_be_used
from utils._stack.postgres import FAST_SHUTDOWN, IMMEDIATE_SHUTDOWN

if TYPE_CHECKING:
    import signal

    from clients.postgres_client import PostgresClient
    from tests.identity_examples import Example, Identity, NewClientOf
    from tests.pgbouncer_server import PgBouncerServer
    from utils._stack.postgres import PostgresServer


def use(client: PostgresClient, example: Example, me: Identity, turn: int) -> None:
    """Make one of six calls, and see that it met nobody else's rows."""
    given, mine = example.given(me), [{"owner": example.key(me)}]
    query = f"SELECT DISTINCT {example.owner} AS owner FROM notes"
    match turn % 6:
        case 0:
            assert client.execute(query, **given) == mine
        case 1:
            with client.connection(**given) as conn:
                assert conn.execute(query).fetchall() == mine
                conn.execute("SET search_path = pg_catalog")
        case 2:
            assert client.execute_many(example.insert, [example.row(me, me)] * 3, **given) == 3
        case 3:
            with client.stream(query, batch_size=1, **given) as rows:
                assert list(rows) == mine
        case 4:
            with pytest.raises(PostgresError, match="22012"):
                client.execute("SELECT 1/0", **given)
        case 5:
            settings = ", ".join(
                f"set_config('{name}', 'x', false) AS s{n}"
                for n, name in enumerate(example.settings)
            )
            client.execute(f"SELECT {settings}", **given)


def take_turns(client: PostgresClient, example: Example) -> None:
    """Let every identity make every call, in four threads."""
    calls = [(me, turn) for turn in range(24) for me in example.identities]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda call: use(client, example, *call), calls))


def nobody_wrote_a_foreign_row(client_of: NewClientOf) -> None:
    superuser = client_of.superuser()
    strangers = f"SELECT count(*) FROM notes WHERE {client_of.example.owner} <> writer"
    assert superuser.execute(strangers.encode()).fetchone() == (0,)


@pytest.mark.pgbouncer
def test_no_identity_leaks_behind_a_pooler(
    example: Example, client_of: NewClientOf, pgbouncer: PgBouncerServer
) -> None:
    """One server connection for everybody: values and role go with each transaction."""
    client = client_of(pgbouncer.url(example.login, example.dbname), pool_size=4)
    assert client.behind_pooler is True
    take_turns(client, example)
    nobody_wrote_a_foreign_row(client_of)

    me, other = example.identities[0], example.identities[-1]
    lost = pytest.raises(RlsContextError)
    with lost, client.connection(**example.given(me)) as conn:
        conn.execute("COMMIT AND CHAIN")
        conn.execute(example.insert, example.row(other, me))
    unset = ", ".join(f"current_setting('{name}', true)" for name in example.settings)
    who = f"SELECT concat_ws('', {unset}) AS who, current_user = session_user AS login"
    for _ in range(3):
        assert client.execute_admin(who) == [{"who": "", "login": True}]
    client.close()


@pytest.mark.parametrize("mode", [FAST_SHUTDOWN, IMMEDIATE_SHUTDOWN], ids=["fast", "immediate"])
def test_a_restart_costs_no_identity_a_failed_call(
    example: Example, client_of: NewClientOf, server: PostgresServer, mode: signal.Signals
) -> None:
    """Sessions that were idle are replaced, and the new ones have identity and role."""
    client = client_of(pool_size=4, min_size=4)
    take_turns(client, example)
    server.restart(mode)
    take_turns(client, example)
    nobody_wrote_a_foreign_row(client_of)
    all_places_can_be_used(client, **example.given(example.identities[0]))


def test_a_kill_in_a_block_commits_nothing_of_it(example: Example, client_of: NewClientOf) -> None:
    """And the session that replaces it belongs to whoever calls next."""
    client = client_of(pool_size=1, min_size=1)
    superuser = client_of.superuser()
    me, other = example.identities[:2]
    killed: Any = pytest.raises((PostgresError, psycopg.Error))
    with killed, client.connection(**example.given(me)) as conn:
        conn.execute(example.insert, example.row(me, me))
        row = conn.execute("SELECT pg_backend_pid() AS pid").fetchone()
        superuser.execute("SELECT pg_terminate_backend(%s)", (row["pid"],))
        conn.execute("SELECT pg_sleep(5)")
    use(client, example, other, 0)
    count = client.execute_scalar("SELECT count(*) FROM notes", **example.given(me))
    assert count == 1
