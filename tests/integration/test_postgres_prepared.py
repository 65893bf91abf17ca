"""Statements that come again are prepared: within their batch, and without being noticed."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from clients.errors import PostgresError
from tests.fault_proxy import FaultProxy
from tests.postgres_faults import INSERT, superuser, times_applied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

ALICE, BOB = UUID(int=30, version=4), UUID(int=31, version=4)
_OFTEN = 12


@pytest.fixture
def changing(server: PostgresServer) -> Iterator[str]:
    """A table whose columns change."""
    with superuser(server) as conn:
        conn.execute(
            "CREATE TABLE changing AS SELECT 1 AS one; GRANT SELECT ON changing TO crm_user"
        )
        yield "SELECT * FROM changing"
        conn.execute("DROP TABLE changing")


def prepared(client: PostgresClient) -> list[str]:
    """Return what the session has prepared, without the client's own."""
    query = (
        "SELECT statement FROM pg_prepared_statements"
        " WHERE statement LIKE '%often%' AND NOT statement LIKE '%%pg_prepared%%'"
    )
    return [row["statement"] for row in client.execute_admin(query)]


def test_a_statement_that_comes_again_is_prepared_in_its_own_round_trip(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Every call is one round trip, the one that prepares included."""
    with FaultProxy(server.port) as proxy:
        client = new_client(f"postgresql://crm_user:secret@127.0.0.1:{proxy.port}/crm", pool_size=1)
        for number in range(_OFTEN):
            proxy.reset_counts()
            query = "SELECT %s::int AS often"
            assert client.execute(query, (number,), ALICE) == [{"often": number}]
            assert proxy.round_trips == 1
        assert prepared(client) == ["SELECT $1::int AS often"]


def test_a_block_prepares_nothing_that_its_end_forgets(new_client: NewClient) -> None:
    """Also on a session whose calls have prepared statements."""
    client = new_client(pool_size=1)
    for _ in range(_OFTEN):
        client.execute("SELECT 1 AS often", user_id=ALICE)
    for _ in range(2):
        with client.connection(ALICE) as conn:
            assert conn.execute("SELECT statement FROM pg_prepared_statements").fetchall() == []


def test_types_may_change_from_call_to_call(new_client: NewClient) -> None:
    """One text with parameters of other types is never bound to the wrong ones."""
    client = new_client(pool_size=1)
    values: list[Any] = [1, 2**40, "text", None, uuid4(), 1.5]
    for value in values * _OFTEN:
        [row] = client.execute("SELECT %s AS often", (value,), ALICE)
        assert row["often"] == value


def test_a_deallocate_by_somebody_else_costs_no_call_and_repeats_nothing(
    server: PostgresServer, new_client: NewClient
) -> None:
    """The server refuses before it runs anything, and the statement is sent anew."""
    client = new_client(pool_size=1)
    for _ in range(_OFTEN):
        client.execute(INSERT, (uuid4(), ALICE), ALICE)
    for _ in range(3):
        with client.connection(ALICE) as conn:
            conn.execute("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
        token = uuid4()
        client.execute(INSERT, (token, ALICE), ALICE)
        assert times_applied(server, token) == 1


def test_a_table_that_changes_its_columns_costs_no_call(
    server: PostgresServer, new_client: NewClient, changing: str
) -> None:
    """A plan that no longer fits its result is made anew."""
    client = new_client(pool_size=1)
    for _ in range(_OFTEN):
        assert client.execute(changing, user_id=ALICE) == [{"one": 1}]
    with superuser(server) as conn:
        conn.execute("ALTER TABLE changing ADD COLUMN two int DEFAULT 2")
    for _ in range(_OFTEN):
        assert client.execute(changing, user_id=ALICE) == [{"one": 1, "two": 2}]


@pytest.mark.parametrize("name", ["failfast_1", "nobodys"])
def test_the_same_error_out_of_a_function_is_never_taken_for_ours(
    server: PostgresServer, new_client: NewClient, name: str
) -> None:
    """What the caller's statement has run by then must not run again."""
    client = new_client(pool_size=1)
    query = (
        "DO $$ BEGIN PERFORM nextval('runs'); EXECUTE 'DEALLOCATE ALL';"
        f" EXECUTE 'EXECUTE {name}'; END $$"
    )

    def runs() -> int:
        with superuser(server) as conn:
            row = conn.execute("SELECT last_value + is_called::int FROM runs").fetchone()
        assert row is not None
        return int(row[0])

    for _ in range(_OFTEN):
        # Calls that succeed, so that the session has prepared statements again.
        for _ in range(2):
            client.execute("SELECT 1", user_id=ALICE)
        before = runs()
        with pytest.raises(PostgresError, match="26000"):
            client.execute(query, user_id=ALICE)
        assert runs() == before + 1


def test_what_a_function_prepared_is_gone_for_the_next_borrower(new_client: NewClient) -> None:
    """Also on a session that keeps the client's own prepared statements."""
    client = new_client(pool_size=1)
    for _ in range(_OFTEN):
        assert client.execute("SELECT 1 AS often", user_id=ALICE) == [{"often": 1}]
        client.execute("DO $$ BEGIN EXECUTE 'PREPARE trap AS SELECT 1'; END $$", user_id=ALICE)
        left = "SELECT name FROM pg_prepared_statements WHERE from_sql"
        assert client.execute(left, user_id=BOB) == []


@pytest.mark.parametrize("shadow", [False, True])
def test_a_statement_of_ours_cannot_be_replaced_by_sql(
    new_client: NewClient, *, shadow: bool
) -> None:
    """Whatever bears its name then, the next user's call runs as that user and on real tables."""
    client = new_client(pool_size=1)
    for user in (ALICE, BOB):
        client.execute(INSERT, (uuid4(), user), user)
    query = "SELECT DISTINCT user_id FROM ledger"
    names = (
        "SELECT name, statement, parameter_types::text AS types FROM pg_prepared_statements"
        " ORDER BY random()"
    )
    cover = (
        "SET search_path = pg_temp, pg_catalog; CREATE TEMP TABLE ledger AS"
        f" SELECT '{BOB}'::uuid AS user_id;"
        " CREATE TEMP TABLE pg_prepared_statements (name text, from_sql bool)"
    )
    replaced = 0
    for turn in range(_OFTEN):
        assert client.execute(query, user_id=ALICE) == [{"user_id": ALICE}], turn
        for row in client.execute(names, user_id=BOB):
            types = row["types"].strip("{}")
            forged = f"SELECT set_config('app.current_user_id', '{BOB}', false)"
            replace = f"DEALLOCATE {row['name']}; PREPARE {row['name']}"
            replace += f"({types}) AS {forged}" if types else f" AS {forged}"
            commands = [*replace.split("; "), *(cover.split("; ") if shadow else [])]
            body = " ".join(f"EXECUTE $q${command}$q$;" for command in commands)
            for _ in range(2):
                client.execute("SELECT 1 AS often", user_id=BOB)
            if row["statement"] == "COMMIT":
                with pytest.raises(PostgresError, match="nothing was committed"):
                    client.execute(f"DO $$ BEGIN {body} END $$", user_id=BOB)
            else:
                client.execute(f"DO $$ BEGIN {body} END $$", user_id=BOB)
            replaced += 1
            assert client.execute(query, user_id=ALICE) == [{"user_id": ALICE}], row
            break
    assert replaced > 0


def _name_of_commit(client: PostgresClient) -> str:
    query = "SELECT name FROM pg_prepared_statements WHERE statement = 'COMMIT'"
    for _ in range(_OFTEN):
        if found := client.execute(query, user_id=ALICE):
            return str(found[0]["name"])
    raise AssertionError("COMMIT is never prepared")


def test_a_statement_that_takes_our_commit_away_is_an_error_and_not_repeated(
    server: PostgresServer, new_client: NewClient
) -> None:
    """It has run, and was undone: the call says so, and where it can run."""
    client = new_client(pool_size=1)
    with superuser(server) as conn:
        conn.execute("CREATE SEQUENCE undone; GRANT USAGE ON SEQUENCE undone TO crm_user")
    try:
        for turn in range(1, 4):
            token, name = uuid4(), _name_of_commit(client)
            insert = f"INSERT INTO ledger (token, user_id) VALUES ('{token}', '{ALICE}')"
            count, forget = "PERFORM nextval('undone')", f"EXECUTE 'DEALLOCATE {name}'"
            with pytest.raises(PostgresError, match="nothing was committed") as caught:
                client.execute(f"DO $$ BEGIN {insert}; {count}; {forget}; END $$", user_id=ALICE)
            assert caught.value.maybe_applied is False
            assert times_applied(server, token) == 0
            with superuser(server) as conn:
                assert conn.execute("SELECT last_value FROM undone").fetchone() == (turn,)
            with client.connection(ALICE) as block:
                block.execute(f"DO $$ BEGIN {insert}; EXECUTE 'DEALLOCATE ALL'; END $$")
            assert times_applied(server, token) == 1
    finally:
        with superuser(server) as conn:
            conn.execute("DROP SEQUENCE undone")


@pytest.mark.parametrize("expect", [None, 1])
def test_who_takes_our_commit_away_is_told_and_not_the_next_borrower(
    server: PostgresServer, new_client: NewClient, expect: int | None
) -> None:
    """A call that is checked before its COMMIT, too, finds out itself."""
    client = new_client(pool_size=1)
    forget = (
        "CREATE FUNCTION forget(name text) RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN EXECUTE format('DEALLOCATE %I', name); RETURN 1; END $$"
    )
    with superuser(server) as conn:
        conn.execute(forget)
    try:
        name = _name_of_commit(client)
        with pytest.raises(PostgresError, match="nothing was committed"):
            client.execute("SELECT forget(%s)", (name,), ALICE, expect=expect)
        assert client.execute("SELECT 1 AS one", user_id=BOB) == [{"one": 1}]
    finally:
        with superuser(server) as conn:
            conn.execute("DROP FUNCTION forget")


def test_a_statement_that_replaces_our_commit_is_an_error_and_undone(
    server: PostgresServer, new_client: NewClient
) -> None:
    """What the server ran in its place was no COMMIT: the call says so, and nothing is kept."""
    client = new_client(pool_size=1)
    for others in ("SELECT 1", f"SELECT set_config('app.current_user_id', '{BOB}', false)"):
        token, name = uuid4(), _name_of_commit(client)
        insert = f"INSERT INTO ledger (token, user_id) VALUES ('{token}', '{ALICE}')"
        body = f"{insert}; EXECUTE 'DEALLOCATE {name}'; EXECUTE $q$PREPARE {name} AS {others}$q$;"
        with pytest.raises(PostgresError, match="nothing was committed") as caught:
            client.execute(f"DO $$ BEGIN {body} END $$", user_id=ALICE)
        assert caught.value.maybe_applied is False
        assert times_applied(server, token) == 0
        [row] = client.execute("SELECT current_setting('app.current_user_id') AS me", user_id=ALICE)
        assert row["me"] == str(ALICE)


def test_one_text_serves_users_and_administrator_each_by_their_own_rules(
    new_client: NewClient,
) -> None:
    """A prepared plan never carries one user's rows, or row_security = off, to another."""
    client = new_client(pool_size=1)
    for user in (ALICE, BOB):
        client.execute(INSERT, (uuid4(), user), user)
    query = "SELECT DISTINCT user_id FROM ledger WHERE user_id IN (%s, %s)"
    for _ in range(_OFTEN):
        for user in (ALICE, BOB):
            assert client.execute(query, (ALICE, BOB), user) == [{"user_id": user}]
        with pytest.raises(PostgresError, match="42501"):
            client.execute_admin(query, (ALICE, BOB))


def test_the_number_of_prepared_statements_is_bounded(new_client: NewClient) -> None:
    """However many texts come, the server keeps few of them."""
    client = new_client(pool_size=1)
    for number in range(120):
        for _ in range(6):
            client.execute(f"SELECT {number} AS often", user_id=ALICE)
        assert len(prepared(client)) <= 50


def test_long_texts_are_neither_kept_nor_prepared(new_client: NewClient) -> None:
    """Hundreds of long texts on one session cost no memory, and short ones are still prepared."""
    client = new_client(pool_size=1, min_size=1)
    filler = "x" * 200_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(60):
            for _ in range(2):
                query = f"SELECT %s::int AS a -- {number} {filler}"
                assert client.execute(query, (number,), ALICE) == [{"a": number}]
            with client.connection(ALICE) as conn:
                assert conn.execute(query, (number,)).fetchone() == {"a": number}
        del query
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # 60 texts are 12 MB, in each place that keeps them.
    assert after - before < 1_500_000
    for number in range(_OFTEN):
        client.execute("SELECT %s::int AS often", (number,), ALICE)
    assert prepared(client) == ["SELECT $1::int AS often"]


def test_what_is_counted_and_prepared_is_bounded_by_its_length(new_client: NewClient) -> None:
    """Texts of middling length, each often enough to be prepared, are dropped again."""
    client = new_client(pool_size=1, min_size=1)
    for number in range(60):
        query = f"SELECT 1 AS often -- {number} {'x' * 10_000}"
        for _ in range(7):
            assert client.execute(query, user_id=ALICE) == [{"often": 1}]
    client.execute("SELECT 1", user_id=ALICE)

    assert sum(map(len, prepared(client))) < 400_000
