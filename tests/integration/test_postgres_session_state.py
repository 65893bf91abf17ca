"""Whatever a borrower sets in the session is gone for the next one on the same backend."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import PostgresError
from tests.fault_proxy import FaultProxy
from tests.postgres_helpers import add_contact, contact_names, one_session_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients.postgres_client import PostgresClient
    from utils._stack.postgres import PostgresServer
    from utils.local_stack import StackEndpoints

# What each statement leaves in a session, and the query that finds it there.
# A setting of one's own that was ever set reads '' and not NULL.
SETTING = "SELECT COALESCE(current_setting('{}', true), '')"
LEFTOVERS = {
    "SET search_path = pg_catalog": SETTING.format("search_path"),
    "SET statement_timeout = 1234": SETTING.format("statement_timeout"),
    "SET default_transaction_read_only = on": SETTING.format("transaction_read_only"),
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE": SETTING.format(
        "transaction_isolation"
    ),
    "SET default_transaction_deferrable = on": SETTING.format("default_transaction_deferrable"),
    "SET transaction_timeout = 54321": SETTING.format("transaction_timeout"),
    "SET TimeZone = 'Asia/Tokyo'": SETTING.format("TimeZone"),
    "SET row_security = off": SETTING.format("row_security"),
    "SET app.tenant = 'ann'": SETTING.format("app.tenant"),
    "SELECT set_config('app.tenant', 'ann', false)": SETTING.format("app.tenant"),
    "CREATE TEMP TABLE contacts AS SELECT 'stolen' AS name": (
        "SELECT to_regclass('pg_temp.contacts')"
    ),
    "PREPARE kept AS SELECT 1": "SELECT count(*) FROM pg_prepared_statements WHERE from_sql",
    "DECLARE kept CURSOR WITH HOLD FOR SELECT * FROM contacts": (
        "SELECT count(*) FROM pg_cursors WHERE name = 'kept'"
    ),
    "SELECT pg_advisory_lock(815)": (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    ),
}


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    """One session for every call; the administrator's calls go over it too."""
    with one_session_client(stack) as made:
        yield made


def look(client: PostgresClient, query: str, borrower: str) -> tuple[int, Any]:
    """Return the backend's number, and what the next borrower finds there."""
    query = f"SELECT pg_backend_pid() AS pid, ({query}) AS found"
    if borrower == "execute":
        row = client.execute(query, user_id=uuid4())[0]
    elif borrower == "admin":
        row = client.execute_admin(query)[0]
    else:
        with client.connection(uuid4()) as conn:
            row = conn.execute(query).fetchone()
    return row["pid"], row["found"]


@pytest.mark.parametrize("borrower", ["execute", "block", "admin"])
@pytest.mark.parametrize("way", ["execute", "function", "block", "failed block", "admin block"])
def test_session_state_is_gone_for_the_next_borrower(
    client: PostgresClient, user: UUID, way: str, borrower: str
) -> None:
    """Set by a call, inside a function, in a block, or in one that failed; on one backend."""
    for leave, find in LEFTOVERS.items():
        before = look(client, find, borrower)
        if way == "execute":
            client.execute(leave, user_id=user)
        elif way == "function":
            quoted = leave.replace("'", "''").replace("SELECT ", "SELECT 1, ", 1)
            quoted = quoted if leave.startswith("SELECT") else leave.replace("'", "''")
            client.execute(f"DO $$ BEGIN EXECUTE '{quoted}'; END $$", user_id=user)
        elif way == "block":
            with client.connection(user) as conn:
                conn.execute(leave)
        elif way == "admin block":
            with client.admin_connection() as conn:
                conn.execute(leave.replace("FROM contacts", "FROM pg_catalog.pg_am"))
        else:
            with pytest.raises(KeyError):
                fail_after(client, user, leave)

        assert look(client, find, borrower) == before, leave


def fail_after(client: PostgresClient, user: UUID, statement: str) -> None:
    with client.connection(user) as conn:
        conn.execute(statement)
        raise KeyError


def test_a_held_cursor_shows_nobody_elses_rows(client: PostgresClient) -> None:
    """DECLARE ... WITH HOLD keeps rows in the session: the next user cannot fetch them."""
    ann, bob = uuid4(), uuid4()
    add_contact(client, ann, "ann's")
    client.execute("DECLARE held CURSOR WITH HOLD FOR SELECT name FROM contacts", user_id=ann)

    with pytest.raises(PostgresError, match='cursor "held" does not exist'):
        client.execute("FETCH ALL FROM held", user_id=bob)


def test_a_temporary_table_cannot_stand_in_for_a_real_one(client: PostgresClient) -> None:
    """It would shadow contacts, and policies do not hold for it."""
    ann, bob = uuid4(), uuid4()
    add_contact(client, bob, "bob's")
    client.execute("CREATE TEMP TABLE contacts AS SELECT 'forged' AS name", user_id=ann)

    assert contact_names(client, bob) == ["bob's"]


def test_a_session_wide_user_does_not_reach_the_next_borrower(client: PostgresClient) -> None:
    """SET app.current_user_id without LOCAL, in a call and in a block."""
    ann, bob = uuid4(), uuid4()
    add_contact(client, ann, "ann's")
    poison = f"SET app.current_user_id = '{ann}'"
    query = "SELECT current_setting('app.current_user_id') AS u"
    for _ in range(2):
        client.execute(poison, user_id=bob)
        assert client.execute_admin(query) == [{"u": ""}]
        client.execute(poison, user_id=bob)
        assert contact_names(client, bob) == []
        with client.connection(bob) as conn:
            conn.execute(poison)
        with client.connection(bob) as conn:
            assert contact_names(conn) == []


def test_the_role_is_the_sessions_own_again(own_postgres: PostgresServer, user: UUID) -> None:
    """SET ROLE and SET SESSION AUTHORIZATION end with their borrower."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as su:
        su.execute("CREATE ROLE clerk")
        su.execute("GRANT clerk TO crm_user")
    query = "SELECT current_user AS c, session_user AS s"
    expected = [{"c": "crm_user", "s": "crm_user"}]
    try:
        with own_client(own_postgres) as client:
            for statement in ("SET ROLE clerk", "SET SESSION AUTHORIZATION crm_user"):
                client.execute(statement, user_id=user)
                assert client.execute(query, user_id=user) == expected
                with client.connection(user) as conn:
                    conn.execute(statement)
                with client.connection(user) as conn:
                    assert conn.execute(query).fetchall() == expected
                client.execute(statement, user_id=user)
                assert client.execute_admin(query) == expected
    finally:
        with psycopg.connect(own_postgres.url(), autocommit=True) as su:
            su.execute("DROP ROLE clerk")


def own_client(server: PostgresServer, port: int | None = None) -> PostgresClient:
    from clients.postgres_client import PostgresClient  # noqa: PLC0415 - a type elsewhere

    url = server.url("crm_user", "secret")
    if port is not None:
        url = url.replace(f":{server.port}/", f":{port}/")
    return PostgresClient(url, 1, min_size=1)


MODES = (
    "SELECT current_setting('transaction_isolation') AS isolation,"
    " current_setting('transaction_read_only') AS read_only,"
    " current_setting('transaction_deferrable') AS deferrable"
)
USUAL = {"isolation": "read committed", "read_only": "off", "deferrable": "off"}


@pytest.mark.parametrize(
    ("default", "modes"),
    [
        ("", {}),
        ("default_transaction_isolation = 'repeatable read'", {"isolation": "repeatable read"}),
        ("default_transaction_isolation = serializable", {"isolation": "serializable"}),
        ("default_transaction_read_only = on", {"read_only": "on"}),
        ("default_transaction_deferrable = on", {"deferrable": "on"}),
    ],
)
def test_transactions_begin_as_the_role_has_it_whatever_was_left(
    own_postgres: PostgresServer, default: str, modes: dict[str, str]
) -> None:
    """Each default that SQL can leave, against each that a role can have; in one round trip."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as su:
        if default:
            su.execute(f"ALTER ROLE crm_user SET {default}")
        try:
            with (
                FaultProxy(own_postgres.port) as proxy,
                own_client(own_postgres, proxy.port) as client,
            ):
                for left in (
                    "SET default_transaction_isolation = 'read committed'",
                    "SET default_transaction_isolation = 'repeatable read'",
                    "SET default_transaction_isolation = serializable",
                    "SET default_transaction_read_only = off",
                    "SET default_transaction_read_only = on",
                    "SET default_transaction_deferrable = on",
                    "SET default_transaction_deferrable = off",
                    "SELECT 1",
                ):
                    for _ in range(6):
                        assert client.execute(MODES, user_id=uuid4()) == [{**USUAL, **modes}]
                    proxy.reset_counts()
                    client.execute(MODES, user_id=uuid4())
                    assert proxy.round_trips == 1
                    client.execute(left, user_id=uuid4())
        finally:
            su.execute("ALTER ROLE crm_user RESET ALL")


@pytest.mark.parametrize("default", ["0", "60s"])
def test_a_transaction_timeout_that_was_left_ends_nobody_elses(
    own_postgres: PostgresServer, default: str
) -> None:
    """It counts from a transaction's first statement, before anything can reset it."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as su:
        su.execute(f"ALTER ROLE crm_user SET transaction_timeout = '{default}'")
        try:
            with own_client(own_postgres) as client:
                for _ in range(3):
                    client.execute("SELECT 1", user_id=uuid4())
                client.execute("SET transaction_timeout = '1s'", user_id=uuid4())
                client.execute("SELECT pg_sleep(1.1)", user_id=uuid4())
                assert client.stats()["retired"] == 0
        finally:
            su.execute("ALTER ROLE crm_user RESET ALL")


def test_defaults_that_the_server_changes_hold_from_the_next_call_on(
    own_postgres: PostgresServer, user: UUID
) -> None:
    """As an operator makes a server read-only: no session is new, and each call is as it says."""
    with (
        psycopg.connect(own_postgres.url(), autocommit=True) as su,
        FaultProxy(own_postgres.port) as proxy,
    ):
        try:
            with own_client(own_postgres, proxy.port) as client:
                for mode, value in (("isolation", "serializable"), ("read_only", "on")):
                    name = f"default_transaction_{mode}"
                    for _ in range(4):
                        assert client.execute(MODES, user_id=user) == [USUAL]
                    su.execute(f"ALTER SYSTEM SET {name} = {value}")
                    _reload(su, client, user, name, value)
                    for _ in range(4):
                        assert client.execute(MODES, user_id=user) == [{**USUAL, mode: value}]
                    proxy.reset_counts()
                    client.execute(MODES, user_id=user)
                    assert proxy.round_trips == 1
                    su.execute(f"ALTER SYSTEM RESET {name}")
                    _reload(su, client, user, name, USUAL[mode])
        finally:
            su.execute("ALTER SYSTEM RESET ALL")
            su.execute("SELECT pg_reload_conf()")


def test_a_transaction_timeout_that_the_server_gets_lets_no_other_one_stand(
    own_postgres: PostgresServer, user: UUID
) -> None:
    """The reset would start no clock where the one of the last borrower's time-out runs."""
    with (
        psycopg.connect(own_postgres.url(), autocommit=True) as su,
        FaultProxy(own_postgres.port) as proxy,
    ):
        try:
            with own_client(own_postgres, proxy.port) as client:
                for _ in range(4):
                    client.execute("SELECT 1", user_id=user)
                su.execute("ALTER SYSTEM SET transaction_timeout = '60s'")
                _reload(su, client, user, "transaction_timeout", "1min")
                for _ in range(4):
                    client.execute("SELECT 1", user_id=user)
                proxy.reset_counts()
                client.execute("SET transaction_timeout = '1s'", user_id=user)
                assert proxy.round_trips == 1
                client.execute("SELECT pg_sleep(1.1)", user_id=uuid4())
                assert client.stats()["retired"] == 0
        finally:
            su.execute("ALTER SYSTEM RESET ALL")
            su.execute("SELECT pg_reload_conf()")


def _reload(
    su: psycopg.Connection[Any], client: PostgresClient, user: UUID, name: str, value: str
) -> None:
    """Have the server read its settings again, and wait until the client's session has."""
    su.execute("SELECT pg_reload_conf()")
    for _ in range(200):
        if client.execute_scalar(SETTING.format(name), user_id=user) == value:
            return
        time.sleep(0.02)
    raise AssertionError(f"{name} has not become {value}")


@pytest.fixture
def leaving_things(own_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server with a function ``leave_things()`` that leaves all kinds of session state."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as su:
        su.execute("CREATE SEQUENCE tally")
        su.execute("GRANT ALL ON tally TO crm_user")
        su.execute(
            "CREATE FUNCTION leave_things() RETURNS int LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM set_config('search_path', 'pg_catalog', false);"
            " PERFORM set_config('app.current_user_id', gen_random_uuid()::text, false);"
            " PERFORM pg_advisory_lock(816); PERFORM nextval('public.tally');"
            " EXECUTE 'LISTEN secrets'; EXECUTE 'CREATE TEMP TABLE pg_temp.t AS SELECT 1';"
            " RETURN pg_backend_pid(); END $$"
        )
        yield own_postgres
        su.execute("DROP FUNCTION leave_things")
        su.execute("DROP SEQUENCE tally")


def test_what_a_function_sets_is_gone_too(leaving_things: PostgresServer, user: UUID) -> None:
    """A stored function sets, listens, takes a number and a lock: the next one finds nothing."""
    query = (
        "SELECT pg_backend_pid(), current_setting('search_path'), to_regclass('pg_temp.t'),"
        " current_setting('app.current_user_id'), (SELECT count(*) FROM pg_listening_channels()),"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
    )
    with own_client(leaving_things) as client:
        pid = client.execute_scalar("SELECT leave_things()", user_id=user)
        other = uuid4()
        with client.connection(other) as conn:
            conn.row_factory = psycopg.rows.tuple_row
            found = conn.execute(query).fetchone()
        client.execute("SELECT public.leave_things()", user_id=user)
        with pytest.raises(PostgresError, match="currval"):
            client.execute("SELECT currval('tally')", user_id=other)
        client.execute("NOTIFY secrets", user_id=user)
        listening = "SELECT count(*) FROM pg_listening_channels()"
        for _ in range(3):
            client.execute("SELECT public.leave_things()", user_id=user)
            assert client.execute_scalar(listening, user_id=other) == 0

        assert found == (pid, '"$user", public', None, str(other), 0, 0)
        assert client.execute_scalar("SELECT pg_backend_pid()", user_id=other) == pid


def test_the_row_factory_is_the_blocks_own(client: PostgresClient, user: UUID) -> None:
    """Python's side of the session is clean, too; and the handle takes no other attribute."""
    with client.connection(user) as conn:
        conn.row_factory = psycopg.rows.tuple_row
        assert conn.execute("SELECT 1 AS a").fetchall() == [(1,)]
        scalars = conn.cursor(row_factory=psycopg.rows.scalar_row)
        assert scalars.execute("SELECT 2").fetchall() == [2]
        # A None is a row there, and not the end of them.
        assert list(scalars.execute("VALUES (1), (NULL), (3)")) == [1, None, 3]
        with pytest.raises(AttributeError):
            conn.autocommit = True  # type: ignore[attr-defined]  # what is tried here

    assert client.execute("SELECT 1 AS a", user_id=user) == [{"a": 1}]
    with client.connection(user) as conn:
        assert conn.execute("SELECT 1 AS a").fetchall() == [{"a": 1}]


def test_a_locks_session_gives_it_up_with_the_block(stack: StackEndpoints, user: UUID) -> None:
    """A session-level advisory lock is not held by an idle connection of the pool."""
    with one_session_client(stack) as first, one_session_client(stack) as second:
        with first.connection(user) as conn:
            conn.execute("SELECT pg_advisory_lock(817)")

        assert second.execute_scalar("SELECT pg_try_advisory_lock(817)", user_id=user) is True
