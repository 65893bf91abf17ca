"""The administrator's side: explicit, through its own role, and never filtered in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import PostgresError, RlsContextError, TransactionAbortedError
from clients.identity import user_context
from tests.postgres_helpers import add_contact, contact_names, one_session_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients.postgres_client import PostgresClient
    from utils.local_stack import StackEndpoints

COUNT = "SELECT count(*) AS n FROM contacts WHERE user_id = ANY(%s)"


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    with one_session_client(stack, admin_url=stack.admin_url) as made:
        yield made


@pytest.fixture
def users(client: PostgresClient) -> list[UUID]:
    """Two users with a contact each."""
    made = [uuid4(), uuid4()]
    for user in made:
        add_contact(client, user, "one")
    return made


def test_an_administrator_sees_all_users(client: PostgresClient, users: list[UUID]) -> None:
    """Both ways go through admin_url, whatever user is the current one."""
    with user_context(users[0]), client.admin_connection() as conn:
        rows = conn.execute(COUNT, (users,)).fetchall()
        who = conn.execute("SELECT current_user::text AS who").fetchone()

    assert rows == [{"n": 2}]
    assert who == client.execute_admin("SELECT current_user::text AS who")[0]
    assert client.execute_admin(COUNT, (users,)) == [{"n": 2}]


def test_the_role_of_the_application_is_another(client: PostgresClient) -> None:
    """The two sides are two roles."""
    who = "SELECT current_user::text AS who"

    assert client.execute(who, user_id=uuid4()) != client.execute_admin(who)


def test_there_is_no_context_and_no_silent_filter(client: PostgresClient) -> None:
    """The setting reads '' and row_security is off, in both ways."""
    query = (
        "SELECT current_setting('app.current_user_id') AS u, current_setting('row_security') AS r"
    )
    with client.admin_connection() as conn:
        assert conn.execute(query).fetchall() == [{"u": "", "r": "off"}]

    assert client.execute_admin(query) == [{"u": "", "r": "off"}]


def test_a_role_that_cannot_bypass_is_told_so(stack: StackEndpoints, users: list[UUID]) -> None:
    """Without admin_url, an administrator's block over a protected table is an error."""
    with one_session_client(stack) as client:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), client.admin_connection() as conn:
            conn.execute("SELECT * FROM contacts")

        assert contact_names(client, users[0]) == ["one"]


def test_an_administrators_block_commits_and_rolls_back(
    client: PostgresClient, users: list[UUID]
) -> None:
    """As a user's block does, a swallowed error included."""
    update = "UPDATE contacts SET name = %s WHERE user_id = %s"
    with client.admin_connection() as conn:
        conn.execute(update, ("two", users[0]))

    def swallow() -> None:
        with client.admin_connection() as conn:
            conn.execute(update, ("three", users[0]))
            with pytest.raises(psycopg.errors.DivisionByZero):
                conn.execute("SELECT 1/0")

    with pytest.raises(TransactionAbortedError, match="admin_connection"):
        swallow()
    assert contact_names(client, users[0]) == ["two"]
    assert contact_names(client, users[1]) == ["one"]


@pytest.mark.parametrize("text", ["COMMIT", "ROLLBACK AND CHAIN", "COMMIT; BEGIN", "RESET ALL"])
def test_an_administrators_block_watches_its_context_too(client: PostgresClient, text: str) -> None:
    """With row_security on again, a role could be filtered in silence."""

    def block() -> None:
        with client.admin_connection() as conn:
            conn.execute(text)
            conn.execute("SELECT 1")

    with pytest.raises(RlsContextError):
        block()


def test_administrators_blocks_join(client: PostgresClient, users: list[UUID]) -> None:
    """execute_admin() inside admin_connection() is a part of it, on one session."""
    with pytest.raises(KeyError):
        delete_and_fail(client, users)

    assert client.execute_admin(COUNT, (users,)) == [{"n": 2}]


def delete_and_fail(client: PostgresClient, users: list[UUID]) -> None:
    with client.admin_connection() as outer, client.admin_connection() as inner:
        inner.execute("DELETE FROM contacts WHERE user_id = %s", (users[0],))
        client.execute_admin("DELETE FROM contacts WHERE user_id = %s", (users[1],))
        assert outer.execute(COUNT, (users,)).fetchall() == [{"n": 0}]
        raise KeyError


def test_user_and_administrator_blocks_are_two_transactions(
    client: PostgresClient, users: list[UUID]
) -> None:
    """Each has its own role and its own outcome, nested either way."""
    with client.connection(users[0]) as conn:
        conn.execute("UPDATE contacts SET name = 'changed'")
        assert client.execute_admin(COUNT + " AND name = 'changed'", (users,)) == [{"n": 0}]
    with client.admin_connection():
        assert contact_names(client, users[0]) == ["changed"]


def test_an_sql_error_names_the_method(client: PostgresClient) -> None:
    """execute_admin() says what failed, and where it stands in the tree."""
    with pytest.raises(PostgresError, match=r"execute_admin\(\) failed: division") as caught:
        client.execute_admin("SELECT 1/0")

    assert caught.value.sqlstate == "22012"
