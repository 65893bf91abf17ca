"""execute() and its relatives: rows as dicts, one user, one statement, its own error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import (
    NoRowsError,
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
    TransactionAbortedError,
)
from clients.identity import user_context
from clients.postgres_client import PostgresClient
from tests.postgres_helpers import add_contact, contact_names, one_session_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer
    from utils.local_stack import StackEndpoints


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    with PostgresClient(stack.database_url, admin_url=stack.admin_url) as made:
        yield made


def test_rows_are_dicts(client: PostgresClient) -> None:
    """Every row is a dict by column name."""
    rows = client.execute_admin("SELECT 1 AS num, 'hello' AS word")

    assert rows == [{"num": 1, "word": "hello"}]


def test_execute_one_returns_the_first_row(client: PostgresClient, user: UUID) -> None:
    """One dict comes back, also when there are more rows."""
    row = client.execute_one("SELECT g AS num FROM generate_series(1, 3) g", user_id=user)

    assert row == {"num": 1}


def test_execute_one_returns_none_without_rows(client: PostgresClient, user: UUID) -> None:
    """No row is an answer and no failure."""
    assert client.execute_one("SELECT 1 AS num WHERE false", user_id=user) is None


def test_execute_scalar_returns_a_value_which_may_be_null(
    client: PostgresClient, user: UUID
) -> None:
    """A NULL is a value; only a missing row is not."""
    assert client.execute_scalar("SELECT 42", user_id=user) == 42
    assert client.execute_scalar("SELECT NULL", user_id=user) is None


@pytest.mark.parametrize("query", ["SELECT 1 WHERE false", "SELECT"])
def test_execute_scalar_without_a_value_raises(
    client: PostgresClient, user: UUID, query: str
) -> None:
    """It is a ValueError too, as the first design of this client promised."""
    with pytest.raises(NoRowsError, match="execute_one") as caught:
        client.execute_scalar(query, user_id=user)

    assert isinstance(caught.value, ValueError)


def test_a_user_sees_their_own_rows_alone(client: PostgresClient) -> None:
    """Rows that an administrator wrote for two users stay apart, without any WHERE."""
    ann, bob = uuid4(), uuid4()
    for owner, name in ((ann, "User A Contact"), (bob, "User B Contact")):
        client.execute_admin(
            "INSERT INTO contacts (id, user_id, name) VALUES (%s, %s, %s)", (uuid4(), owner, name)
        )

    contacts = client.execute("SELECT * FROM contacts", user_id=ann)

    assert [row["name"] for row in contacts] == ["User A Contact"]
    assert contact_names(client, bob) == ["User B Contact"]


def test_a_user_sees_and_changes_their_own_user_alone(client: PostgresClient) -> None:
    """The table of users is protected, too: who is in it is the administrator's to say."""
    me, other = uuid4(), uuid4()
    add = "INSERT INTO users (id, email) VALUES (%s, %s)"
    for user in (me, other):
        client.execute_admin(add, (user, f"{user}@example.com"))
    try:
        assert [row["id"] for row in client.execute("SELECT id FROM users", user_id=me)] == [me]
        change = "UPDATE users SET email = %s RETURNING id"
        assert client.execute(change, (f"new-{me}@example.com",), me) == [{"id": me}]
        for refused, params in (
            (add, (uuid4(), "third@example.com")),
            ("DELETE FROM users WHERE id = %s", (other,)),
        ):
            with pytest.raises(PostgresError) as caught:
                client.execute(refused, params, me)
            assert caught.value.sqlstate == "42501"
    finally:
        gone = "DELETE FROM users WHERE id = ANY(%s) RETURNING id"
        found = client.execute_admin(gone, ([me, other],))

    assert {row["id"] for row in found} == {me, other}


def test_an_insert_without_returning_commits_and_returns_nothing(
    client: PostgresClient, user: UUID
) -> None:
    """A statement without rows is no error, and its effect stays."""
    rows = client.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'a')", (user,), user)

    assert rows == []
    assert contact_names(client, user) == ["a"]


def test_returning_gives_the_rows(client: PostgresClient, user: UUID) -> None:
    """RETURNING works as for a SELECT, and the write commits."""
    query = "INSERT INTO contacts (user_id, name) VALUES (%s, 'a') RETURNING name, user_id"

    assert client.execute(query, (user,), user) == [{"name": "a", "user_id": user}]
    assert contact_names(client, user) == ["a"]


def test_a_foreign_row_can_be_neither_written_nor_changed(client: PostgresClient) -> None:
    """An INSERT for another user is refused with 42501; an UPDATE and DELETE find nothing."""
    ann, bob = uuid4(), uuid4()
    add_contact(client, bob, "bob's")

    with pytest.raises(PostgresError, match="row-level security") as caught:
        client.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'x')", (bob,), ann)

    assert caught.value.sqlstate == "42501"
    assert client.execute("UPDATE contacts SET name = 'x' RETURNING id", user_id=ann) == []
    assert client.execute("DELETE FROM contacts RETURNING id", user_id=ann) == []
    assert contact_names(client, bob) == ["bob's"]


def test_an_sql_error_comes_out_as_itself_and_the_session_stays(
    stack: StackEndpoints, user: UUID
) -> None:
    """SQLSTATE, server's words and cause are there, and the one session goes on."""
    with one_session_client(stack) as client:
        before = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)
        with pytest.raises(PostgresError, match="division by zero") as caught:
            client.execute("SELECT 1/0", user_id=user)

        assert caught.value.sqlstate == "22012"
        assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)
        assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == before


def test_two_columns_of_one_name_are_refused(client: PostgresClient, user: UUID) -> None:
    """A dict would lose one silently; inside a block the statement is undone as well."""
    with pytest.raises(PostgresError, match=r"one name \(a\).*AS.*committed"):
        client.execute("SELECT 1 AS a, 2 AS a", user_id=user)
    with client.connection(user), pytest.raises(PostgresError, match=r"one name \(a\).*undone"):
        client.execute("SELECT 1 AS a, 2 AS a", user_id=user)


def test_several_statements_in_one_text_are_refused(client: PostgresClient, user: UUID) -> None:
    """Alone and inside a block alike, and nothing of them stays."""
    text = f"INSERT INTO contacts (user_id, name) VALUES ('{user}', 'x'); SELECT 1"
    with pytest.raises(PostgresError, match="multiple commands"):
        client.execute(text, user_id=user)
    with client.connection(user), pytest.raises(PostgresError, match="one statement"):
        client.execute(text, user_id=user)

    assert contact_names(client, user) == []


@pytest.mark.parametrize(
    ("method", "query", "mend"),
    [
        ("execute", "COPY contacts TO STDOUT", "copy"),
        ("execute_one", " -- now\n begin", r"connection\(\)"),
        ("execute_scalar", "commit", r"connection\(\)"),
        ("execute_many", "VACUUM", "autocommit"),
        ("execute_admin", b"LISTEN ch", "session"),
        ("execute", psycopg.sql.SQL("ROLLBACK"), r"connection\(\)"),
    ],
)
def test_unsuitable_statements_are_refused_before_anything_is_sent(
    client: PostgresClient, user: UUID, method: str, query: Any, mend: str
) -> None:
    """The message names the method and what to use, and no connection is taken."""
    before = client.stats()["checkouts"]
    arguments = ([()],) if method == "execute_many" else ()

    with user_context(user), pytest.raises(PostgresError, match=rf"{method}\(\): .*{mend}"):
        getattr(client, method)(query, *arguments)

    assert client.stats()["checkouts"] == before


def test_no_user_raises_before_a_connection_is_taken(client: PostgresClient) -> None:
    """Every method of a user refuses to run without one."""
    before = client.stats()["checkouts"]
    for call in (
        lambda: client.execute("SELECT 1"),
        lambda: client.execute_one("SELECT 1"),
        lambda: client.execute_scalar("SELECT 1"),
        lambda: client.execute_many("SELECT %s", [(1,)]),
        lambda: client.stream("SELECT 1").__enter__(),
        lambda: client.connection().__enter__(),
    ):
        with pytest.raises(RlsContextError, match="no current user"):
            call()

    assert client.stats()["checkouts"] == before


@pytest.mark.parametrize("bad", ["", " ", "nobody", "1' OR true --", "a\0b", 7, b"x", object()])
def test_a_bad_user_id_raises_before_a_connection_is_taken(
    client: PostgresClient, bad: Any
) -> None:
    """Only a UUID or its text is a user."""
    before = client.stats()["checkouts"]

    with pytest.raises(RlsContextError, match="is not a UUID"):
        client.execute("SELECT 1", user_id=bad)
    with pytest.raises(RlsContextError, match="is not a UUID"):
        client.connection(bad)

    assert client.stats()["checkouts"] == before


def test_the_current_user_counts_where_none_is_given(client: PostgresClient) -> None:
    """user_context() says who it is; user_id= says otherwise, as UUID or as text."""
    ann, bob = uuid4(), uuid4()
    query = "SELECT current_setting('app.current_user_id')"
    with user_context(ann):
        assert client.execute_scalar(query) == str(ann)
        assert client.execute_scalar(query, user_id=str(bob)) == str(bob)


def test_threads_of_a_pool_have_no_user_unless_they_are_given_the_context(
    client: PostgresClient, user: UUID
) -> None:
    """A pool's thread raises rather than run as somebody else; copy_context() mends it."""
    query = "SELECT current_setting('app.current_user_id')"
    with ThreadPoolExecutor(1) as pool, user_context(user):
        with pytest.raises(RlsContextError, match="copy_context"):
            pool.submit(client.execute_scalar, query).result()
        given = pool.submit(copy_context().run, client.execute_scalar, query).result()

    assert given == str(user)


def test_an_administrator_who_cannot_bypass_gets_an_error_and_no_filtered_rows(
    stack: StackEndpoints,
) -> None:
    """Without admin_url the role is bound by policies, and an empty result would be a lie."""
    with one_session_client(stack) as client:
        with pytest.raises(PostgresError, match="would be affected by row-level") as caught:
            client.execute_admin("SELECT * FROM contacts")

        assert caught.value.sqlstate == "42501"
        assert client.execute_admin("SELECT 1 AS num") == [{"num": 1}]


def test_a_deferred_constraint_fails_with_its_own_error(own_postgres: PostgresServer) -> None:
    """What fails at commit is reported as that, nothing is committed, and the session goes on."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as su:
        su.execute(
            "CREATE TABLE deferred (id int PRIMARY KEY,"
            " next int REFERENCES deferred DEFERRABLE INITIALLY DEFERRED)"
        )
        su.execute("GRANT ALL ON deferred TO crm_user")
    user = uuid4()
    insert = "INSERT INTO deferred VALUES (1, 99) RETURNING pg_backend_pid() AS pid"
    with PostgresClient(own_postgres.url("crm_user", "secret"), 1) as client:
        pid = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)
        with pytest.raises(PostgresError, match="foreign key") as caught:
            client.execute(insert, user_id=user)
        with (
            pytest.raises(PostgresError, match=r"COMMIT failed.*foreign key") as in_block,
            client.connection(user) as conn,
        ):
            conn.execute(insert)

        for error in (caught.value, in_block.value):
            assert error.sqlstate == "23503"
            assert (error.constraint, error.table) == ("deferred_next_fkey", "deferred")
        assert client.execute("SELECT * FROM deferred", user_id=user) == []
        assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == pid
    with psycopg.connect(own_postgres.url(), autocommit=True) as su:
        su.execute("DROP TABLE deferred")


def test_a_statement_in_a_block_is_a_part_of_it(client: PostgresClient, user: UUID) -> None:
    """execute() joins the block: it sees its writes, and goes with them."""

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'outer')", (user,))
            add_contact(client, user, "joined")
            assert contact_names(client, user) == ["joined", "outer"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()

    assert contact_names(client, user) == []


def test_a_failed_statement_in_a_block_undoes_itself_alone(
    client: PostgresClient, user: UUID
) -> None:
    """The block may catch our error and go on, and commits the rest."""
    with client.connection(user):
        add_contact(client, user, "kept")
        with pytest.raises(PostgresError) as caught:
            client.execute("SELECT 1/0", user_id=user)
        add_contact(client, user, "later")

    assert caught.value.sqlstate == "22012"
    assert not isinstance(caught.value, TransactionAbortedError)
    assert contact_names(client, user) == ["kept", "later"]


def test_parameters_that_do_not_match_are_no_lost_connection(
    client: PostgresClient, user: UUID
) -> None:
    """The server's 08P01 for a missing parameter is the caller's mistake."""
    with pytest.raises(PostgresError, match="08P01") as caught:
        client.execute("SELECT $1::int", user_id=user)

    assert not isinstance(caught.value, PostgresConnectionError)


def test_health_check_and_version(client: PostgresClient) -> None:
    """A healthy server says True, and its version."""
    assert client.health_check() is True
    assert float(client.server_version()) >= 14
