"""A connection() block: whose it is, how it ends, and what can go wrong on the way."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import PostgresError, RlsContextError, TransactionAbortedError
from clients.postgres_client import PostgresClient
from tests.postgres_helpers import add_contact, contact_names, one_session_client, run_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients._postgres.guarded import GuardedConnection
    from utils.local_stack import StackEndpoints

INSERT = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    """One session for users: whatever a test leaves behind, the next one meets."""
    with one_session_client(stack, admin_url=stack.admin_url) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_session_is_lost(client: PostgresClient) -> Iterator[None]:
    yield

    assert client.stats()["in_use"] == 0


def context(conn: GuardedConnection) -> Any:
    row = conn.execute("SELECT current_setting('app.current_user_id', true) AS u").fetchone()
    return row["u"]


def test_the_block_has_the_users_context(client: PostgresClient, user: UUID) -> None:
    """The setting is the user's id, inside the block."""
    with client.connection(user) as conn:
        assert context(conn) == str(user)


def test_the_context_is_gone_after_the_block(client: PostgresClient, user: UUID) -> None:
    """The same session has none of it, for an administrator and in the bare session."""
    with client.connection(user):
        pass
    session = client._pool.checkout()
    try:
        [left] = session.message(b"SELECT current_setting('app.current_user_id', true)")
    finally:
        client._pool.give_back(session)
    with client.admin_connection() as conn:
        assert context(conn) == ""

    assert left.get_value(0, 0) in (None, b"")


def test_a_normal_end_commits(client: PostgresClient, user: UUID) -> None:
    """What the block wrote is there for the next one."""
    with client.connection(user) as conn:
        conn.execute(INSERT, (user, "kept"))

    assert contact_names(client, user) == ["kept"]


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt(), GeneratorExit()])
def test_an_exception_rolls_back_and_comes_out_itself(
    client: PostgresClient, user: UUID, error: BaseException
) -> None:
    """The very object that was raised, with nothing in its place."""

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "lost"))
            raise error

    with pytest.raises(type(error)) as caught:
        block()

    assert caught.value is error
    assert contact_names(client, user) == []


def test_psycopgs_own_error_comes_out_of_a_block(client: PostgresClient, user: UUID) -> None:
    """The caller's statements raise psycopg's errors unchanged, and the block rolls back."""

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "lost"))
            conn.execute("SELECT 1/0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        block()

    assert contact_names(client, user) == []


def test_a_swallowed_error_raises_at_the_end(client: PostgresClient, user: UUID) -> None:
    """Nothing is lost silently: the end that cannot commit says so, and names the SQL error."""

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "lost"))
            with pytest.raises(psycopg.errors.DivisionByZero):
                conn.execute("SELECT 1/0")

    with pytest.raises(TransactionAbortedError, match="nothing was committed") as caught:
        block()

    assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)
    assert caught.value.sqlstate == "22012"
    assert contact_names(client, user) == []


def test_after_a_swallowed_error_the_server_refuses_in_its_own_words(
    client: PostgresClient, user: UUID
) -> None:
    """The next statement gets 25P02, and no talk of a lost context; the cause is the first."""

    def block() -> None:
        with client.connection(user) as conn:
            for expected in (psycopg.errors.DivisionByZero, psycopg.errors.InFailedSqlTransaction):
                with pytest.raises(expected):
                    conn.execute("SELECT 1/0")

    with pytest.raises(TransactionAbortedError) as caught:
        block()

    assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)


def test_a_savepoint_undoes_itself_alone(client: PostgresClient, user: UUID) -> None:
    """An error inside conn.transaction() leaves the rest of the block whole."""
    with client.connection(user) as conn:
        conn.execute(INSERT, (user, "kept"))
        with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
            conn.execute("SELECT 1/0")
        with conn.transaction() as part:
            conn.execute(INSERT, (user, "undone"))
            raise psycopg.Rollback(part)  # type: ignore[arg-type]  # stands in for psycopg's
        with conn.transaction(force_rollback=True):
            conn.execute(INSERT, (user, "tried"))
        with conn.transaction("named"):
            conn.execute(INSERT, (user, "more"))
        assert context(conn) == str(user)

    assert contact_names(client, user) == ["kept", "more"]


def test_an_error_swallowed_in_a_savepoint_raises_at_its_end(
    client: PostgresClient, user: UUID
) -> None:
    """The savepoint is undone and says so; the block goes on."""

    def savepoint(conn: GuardedConnection) -> None:
        with conn.transaction():
            conn.execute(INSERT, (user, "lost"))
            for _ in range(2):
                with pytest.raises(psycopg.Error):
                    conn.execute("SELECT 1/0")

    with client.connection(user) as conn:
        with pytest.raises(TransactionAbortedError) as caught:
            savepoint(conn)
        conn.execute(INSERT, (user, "kept"))

    assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)
    assert contact_names(client, user) == ["kept"]


@pytest.mark.parametrize("method", ["commit", "rollback", "close"])
def test_ending_the_transaction_by_hand_raises(
    client: PostgresClient, user: UUID, method: str
) -> None:
    """The block goes on with its context, and commits at its end."""
    with client.connection(user) as conn:
        conn.execute(INSERT, (user, "kept"))
        with pytest.raises(PostgresError, match=rf"{method}\(\) is not for the block"):
            getattr(conn, method)()
        assert context(conn) == str(user)

    assert contact_names(client, user) == ["kept"]


@pytest.mark.parametrize(
    "text",
    [
        "COMMIT",
        "ROLLBACK",
        "/* now */ end",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "COMMIT; BEGIN",
        "ROLLBACK; BEGIN; SELECT 1",
        "SELECT 1; COMMIT; SELECT count(*) FROM contacts; BEGIN",
        "COMMIT; BEGIN; SET LOCAL app.other = 'x'",
    ],
)
def test_nothing_goes_on_after_the_transaction_was_ended_by_sql(
    client: PostgresClient, user: UUID, text: str
) -> None:
    """The next statement raises, and so does the end; the next borrower is clean."""

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(text)
            cursor = conn.cursor()
            for call in (
                lambda: conn.execute("SELECT 1"),
                lambda: cursor.execute("SELECT 1"),
                lambda: cursor.executemany("SELECT %s", [(1,)]),
                lambda: conn.cursor("named").execute("SELECT 1"),
                lambda: conn.transaction().__enter__(),
                lambda: next(cursor.stream("SELECT 1")),
                lambda: cursor.copy("COPY (SELECT 1) TO STDOUT").__enter__(),
                lambda: client.execute("SELECT 1", user_id=user),
            ):
                with pytest.raises(RlsContextError, match="context went with it"):
                    call()

    with pytest.raises(RlsContextError, match="context went with it"):
        block()
    with client.connection(user) as conn:
        assert context(conn) == str(user)


@pytest.mark.parametrize(
    "ending",
    [
        "COMMIT; SELECT 1/0",
        "COMMIT; BEGIN; SELECT 1/0",
        "COMMIT AND CHAIN; SELECT 1/0",
        "COMMIT; BEGIN; SELECT pg_terminate_backend(pg_backend_pid())",
    ],
)
def test_what_sql_has_committed_is_not_told_as_undone(
    client: PostgresClient, user: UUID, ending: str
) -> None:
    """However a block ends after a COMMIT in its SQL, its error says that changes may be stored."""

    def block() -> None:
        with client.connection(user) as conn, suppress(psycopg.Error):
            insert = f"INSERT INTO contacts (user_id, name) VALUES ('{user}', 'stored')"
            conn.execute(f"{insert}; {ending}")

    with pytest.raises(PostgresError) as caught:
        block()

    assert caught.value.maybe_applied
    assert "nothing was committed" not in str(caught.value)
    assert contact_names(client, user) == ["stored"]


@pytest.mark.parametrize("text", ["COMMIT", "ROLLBACK AND CHAIN", "COMMIT; BEGIN"])
def test_ending_the_transaction_inside_a_savepoint_is_seen(
    client: PostgresClient, user: UUID, text: str
) -> None:
    """The savepoint's end raises, and so does the block's."""

    def block() -> None:
        with client.connection(user) as conn:
            with pytest.raises(RlsContextError), conn.transaction():
                conn.execute(text)
            conn.execute("SELECT 1")

    with pytest.raises(RlsContextError):
        block()


@pytest.mark.parametrize(
    "text",
    [
        "SET application_name = 'mine'",
        "SET LOCAL application_name = 'mine'",
        "SELECT set_config('application_name', 'it''s \\ \"mine\"', true)",
        "RESET application_name",
    ],
)
def test_setting_the_application_name_is_no_false_alarm(
    client: PostgresClient, user: UUID, text: str
) -> None:
    """The block watches that name, and still lets its SQL change it."""
    with client.connection(user) as conn:
        conn.execute(text)
        conn.execute(INSERT, (user, "a"))
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL application_name = 'again'")
            conn.execute(INSERT, (user, "undone"))
        conn.execute(INSERT, (user, "b"))

    assert contact_names(client, user) == ["a", "b"]


def test_resetting_everything_is_losing_the_context(client: PostgresClient, user: UUID) -> None:
    """RESET ALL takes the user with it, so nothing runs after it."""

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute("RESET ALL")
            conn.execute("SELECT 1")

    with pytest.raises(RlsContextError):
        block()


def test_a_block_inside_a_block_of_the_same_user_joins_it(
    client: PostgresClient, user: UUID
) -> None:
    """Even with one session: it is a savepoint, and sees the outer one's writes."""
    with client.connection(user) as outer:
        outer.execute(INSERT, (user, "outer"))
        with client.connection(str(user)) as inner:
            inner.execute(INSERT, (user, "inner"))
            assert contact_names(inner) == ["inner", "outer"]
        with pytest.raises(psycopg.errors.DivisionByZero), client.connection(user) as failing:
            failing.execute("SELECT 1 / (SELECT 0)")
        assert contact_names(outer) == ["inner", "outer"]

    assert contact_names(client, user) == ["inner", "outer"]


def test_a_block_of_another_user_inside_a_block_raises(client: PostgresClient, user: UUID) -> None:
    """One thread is one user at a time, for blocks, calls and streams; the block goes on."""
    other = uuid4()
    with client.connection(user) as conn:
        for call in (
            lambda: client.connection(other).__enter__(),
            lambda: client.execute("SELECT 1", user_id=other),
            lambda: client.execute_many("SELECT %s", [(1,)], other),
            lambda: client.stream("SELECT 1", user_id=other).__enter__(),
        ):
            with pytest.raises(RlsContextError, match=f"this call is for user {other}"):
                call()
        assert context(conn) == str(user)


def test_a_block_made_outside_and_entered_inside_another_is_a_part_of_it(
    client: PostgresClient, user: UUID
) -> None:
    """What counts is when it is entered, for another user and for the same one."""
    others, own = client.connection(uuid4()), client.connection(user)
    with client.connection(user) as outer:
        with pytest.raises(RlsContextError):
            others.__enter__()
        with own as conn:
            conn.execute(INSERT, (user, "joined"))
        assert contact_names(outer) == ["joined"]


def test_another_thread_is_another_user_in_another_transaction(stack: StackEndpoints) -> None:
    """A block of one thread is nothing to another's."""
    ann, bob = uuid4(), uuid4()
    with PostgresClient(stack.database_url, 2) as client, client.connection(ann) as conn:
        conn.execute(INSERT, (ann, "ann's"))
        run_in_thread(lambda: add_contact(client, bob, "bob's"))

        assert contact_names(client, ann) == ["ann's"]
        assert run_in_thread(lambda: contact_names(client, bob)) == ["bob's"]


def test_a_block_can_be_entered_once(client: PostgresClient, user: UUID) -> None:
    """A second with statement over the same object raises and takes no session."""
    block = client.connection(user)
    with block:
        pass
    with pytest.raises(PostgresError, match="entered once"):
        block.__enter__()


def test_a_failed_reset_after_commit_is_no_failed_commit(
    client: PostgresClient, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is not reported as lost; the session that is not clean is replaced."""
    retired = client.stats()["retired"]
    with client.connection(user) as conn:
        conn.execute(INSERT, (user, "kept"))
        monkeypatch.setattr("clients._postgres.block.RESET", b"SELECT 1/0")
    monkeypatch.undo()

    assert client.stats()["retired"] == retired + 1
    assert contact_names(client, user) == ["kept"]
