"""Leaks that random schedules found, each as small as it gets."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row, kwargs_row, namedtuple_row, scalar_row, tuple_row

from clients.errors import PostgresError, RlsContextError, TransactionAbortedError
from clients.sqlalchemy_adapter import create_engine
from tests.postgres_faults import times_applied

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

ALICE, BOB = UUID(int=20, version=4), UUID(int=21, version=4)


def leave_behind(client: PostgresClient, user: UUID, path: str = "public") -> None:
    """Set the user and the search path for the session, as a careless function would."""
    query = (
        "SELECT set_config('app.current_user_id', %s, false) AS a,"
        " set_config('search_path', %s, false) AS b"
    )
    client.execute(query, (str(user), path), user)


@pytest.mark.parametrize("text", ["ROLLBACK", "ROLLBACK AND CHAIN", "ROLLBACK; BEGIN", "COMMIT"])
def test_a_rollback_in_sql_text_does_not_bring_back_what_another_user_left(
    server: PostgresServer, new_client: NewClient, text: str
) -> None:
    """Nothing that ran before the block can come back in it, in the same text included."""
    client = new_client(pool_size=1)
    leave_behind(client, ALICE)
    token = uuid4()
    # Bob's text writes a row of Alice's: with her context come back, it would be committed.
    insert = f"INSERT INTO ledger VALUES ('{token}', '{ALICE}')"
    refused = pytest.raises((psycopg.errors.InsufficientPrivilege, RlsContextError))
    with refused, client.connection(BOB) as conn:
        conn.execute(f"{text}; {insert}; COMMIT")
    assert times_applied(server, token) == 0


@pytest.mark.parametrize("text", ["ROLLBACK AND CHAIN", "COMMIT AND CHAIN", "ROLLBACK; BEGIN"])
def test_a_session_that_looks_like_the_context_is_not_the_context(
    new_client: NewClient, text: str
) -> None:
    """The same user's id in the session's settings does not pass for a transaction that ended."""
    client = new_client(pool_size=1)
    leave_behind(client, BOB, "pg_temp")
    lost = pytest.raises(RlsContextError)
    with lost, client.connection(BOB) as conn:
        conn.execute("SELECT set_config('app.current_user_id', %s, false)", (str(BOB),))
        conn.execute(text)
        conn.execute("SELECT 1")


def test_a_block_may_change_its_application_name(new_client: NewClient) -> None:
    """What tells a lost context can be changed by the block itself, which loses nothing."""
    client = new_client(pool_size=1)
    with client.connection(BOB) as conn:
        for name in ("one", "two"):
            conn.execute(f"SET application_name = {name}; SET TimeZone = 'Asia/Tokyo'")
            row = conn.execute("SELECT current_setting('app.current_user_id') AS who").fetchone()
            assert row == {"who": str(BOB)}
            with pytest.raises(RlsContextError), client.connection(ALICE):
                pass


@pytest.mark.parametrize("text", ["COMMIT AND CHAIN", "COMMIT; BEGIN", "ROLLBACK; BEGIN"])
@pytest.mark.parametrize("between", [(), ("SELECT 1",), ("SELECT 1", "SET application_name = two")])
def test_a_blocks_own_application_name_hides_no_lost_context(
    new_client: NewClient, between: tuple[str, ...], text: str
) -> None:
    """A name that the block gave its session, and that outlives a COMMIT, is not the context."""
    client = new_client(pool_size=1)
    block = client.connection(BOB)
    conn = block.__enter__()
    conn.execute("SET application_name = one")
    for statement in between:
        conn.execute(statement)
    conn.execute(text)

    with pytest.raises(RlsContextError):
        conn.execute("SELECT 1")
    with pytest.raises(RlsContextError):
        block.__exit__(None, None, None)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "SJIS"])
def test_a_borrowers_encoding_does_not_reach_the_next_ones_values(
    new_client: NewClient, encoding: str
) -> None:
    """Text is written and read as UTF-8 again: never as other characters than were given."""
    client = new_client(pool_size=1)
    text = "\u00c3\u00a9\u20ac"
    query = "SELECT %s AS text, octet_length(%s) AS size"
    for call in (
        lambda: client.execute(query, (text, text), ALICE),
        lambda: [client.execute_one(query, (text, text), ALICE)],
        lambda: in_a_block(client, query, (text, text)),
    ):
        client.execute("SELECT set_config('client_encoding', %s, false)", (encoding,), BOB)
        assert call() == [{"text": text, "size": 7}]


def in_a_block(client: PostgresClient, query: LiteralString, params: tuple[str, ...]) -> Any:
    with client.connection(ALICE) as conn:
        return conn.execute(query, params).fetchall()


def test_a_session_that_cannot_be_reset_is_nobodys_any_more(new_client: NewClient) -> None:
    """A time-out that a borrower left, too short for the reset, costs the next one no error."""
    client = new_client(pool_size=1)
    engine = create_engine(client)
    calls: list[Callable[[], object]] = [
        lambda: client.execute("SELECT 1 AS one", user_id=ALICE),
        lambda: client.execute_many("SELECT %s", [(1,)], ALICE),
        lambda: in_a_block(client, "SELECT 1 AS one", ()),
        client.health_check,
        lambda: in_a_transaction_of(engine),
    ]
    for call in calls:
        # On a session that has prepared nothing, and on one that has.
        for warm_ups in (0, 3):
            assert any(leave_a_limit(client, warm_ups) for _ in range(20))
            assert call()
    assert client.stats()["retired"] >= len(calls)


def in_a_transaction_of(engine: Engine) -> Any:
    with engine.connect().execution_options(identity={"user_id": ALICE}) as conn:
        return conn.exec_driver_sql("SELECT 1 AS one").all()


def leave_a_limit(client: PostgresClient, warm_ups: int) -> bool:
    """Leave a session with much to drop and a millisecond for it; return False if it is not left.

    The millisecond counts for the COMMIT, too. A machine that stalls there brings the limit to an
    end with its own transaction.
    """
    client.health_check()
    for _ in range(warm_ups):
        client.execute("SELECT 1 AS one", user_id=BOB)
    try:
        client.execute(
            """
            DO $$ BEGIN
                FOR i IN 1..400 LOOP
                    EXECUTE format('CREATE TEMP TABLE t%s (a int)', i);
                END LOOP;
                PERFORM set_config('statement_timeout', '1', false);
            END $$""",
            user_id=BOB,
        )
    except PostgresError as error:
        if error.sqlstate != "57014":
            raise
        return False
    return True


def test_a_row_factory_gets_a_cursor_that_dies_with_the_block(new_client: NewClient) -> None:
    """What makes rows may keep the cursor: it leads to the guarded connection alone."""
    client = new_client(pool_size=1)
    kept: list[Any] = []

    def keep(cursor: Any) -> Callable[[Any], Any]:
        kept.append(cursor)
        names = [column.name for column in cursor.description]
        return lambda values: dict(zip(names, values, strict=True))

    with client.connection(BOB) as conn:
        conn.row_factory = keep
        assert conn.execute("SELECT 1 AS one").fetchone() == {"one": 1}
        assert conn.cursor("named").execute("SELECT 2 AS two").fetchall() == [{"two": 2}]
        assert next(conn.cursor(row_factory=keep).stream("SELECT 3 AS three")) == {"three": 3}
    with client.connection(ALICE):
        for cursor in kept:
            assert type(cursor.connection).__name__ == "GuardedConnection"
            for use in (cursor.execute, cursor.connection.execute):
                with pytest.raises(PostgresError, match="has ended"):
                    use("SELECT 1")


@pytest.mark.parametrize(
    "row_factory", [tuple_row, dict_row, scalar_row, namedtuple_row, kwargs_row(dict)]
)
def test_psycopgs_row_factories_work_in_a_block(new_client: NewClient, row_factory: Any) -> None:
    """Each makes the rows that it makes of a plain psycopg cursor, on the server's side, too."""
    client = new_client(pool_size=1)
    query = "SELECT 1 AS one, 'two' AS two"
    with psycopg.connect(client._connector.source.current(), row_factory=row_factory) as plain:
        expected = plain.execute(query).fetchall()
    with client.connection(BOB) as conn:
        assert conn.cursor(row_factory=row_factory).execute(query).fetchall() == expected
        assert conn.cursor("named", row_factory=row_factory).execute(query).fetchall() == expected


def test_a_query_is_not_cut_at_a_nul(server: PostgresServer, new_client: NewClient) -> None:
    """Libpq would send the part before it, perhaps without its WHERE; in a block as elsewhere."""
    client = new_client(pool_size=1)
    token = uuid4()
    client.execute("INSERT INTO ledger VALUES (%s, %s)", (token, BOB), BOB)
    cut: Any = "SELECT token FROM ledger\0 WHERE false"
    with client.connection(BOB) as conn:
        cursor = conn.cursor()
        uses: list[Callable[[], object]] = [
            lambda: conn.execute(cut),
            lambda: conn.execute(cut.encode()),
            lambda: conn.execute(psycopg.sql.SQL(cut)),
            lambda: cursor.executemany(cut, [()]),
            lambda: next(cursor.stream(cut)),
            lambda: cursor.copy("COPY ledger TO STDOUT\0 WHERE false").__enter__(),
            lambda: conn.cursor("named").execute(cut),
        ]
        for use in uses:
            with pytest.raises(psycopg.ProgrammingError, match="NUL"):
                use()
        assert conn.execute("SELECT 1 AS one").fetchall() == [{"one": 1}]
    with pytest.raises(PostgresError, match="NUL"), client.stream(cut, user_id=BOB) as rows:
        list(rows)


def test_the_cause_of_an_aborted_block_is_what_aborted_it(new_client: NewClient) -> None:
    """An error before it that never reached the server aborted nothing."""
    client = new_client(pool_size=1)
    with pytest.raises(TransactionAbortedError) as caught:
        swallow_errors(client)
    assert caught.value.sqlstate == "22012"
    assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)


def swallow_errors(client: PostgresClient) -> None:
    with client.connection(BOB) as conn:
        with suppress(psycopg.ProgrammingError):
            conn.execute("SELECT %s", (1, 2))
        with suppress(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1/0")


def test_a_session_whose_context_was_lost_is_not_used_again(new_client: NewClient) -> None:
    """What psycopg knows of its savepoints no longer fits the server."""
    client = new_client(pool_size=1)
    with pytest.raises(RlsContextError), client.connection(BOB) as conn:
        conn.execute("COMMIT")
    assert client.stats()["retired"] == 1


def test_a_stream_raises_on_every_use_after_its_block(new_client: NewClient) -> None:
    """A second try after the error is no empty result, and buffered rows are gone as well."""
    client = new_client(pool_size=1)
    with client.stream("SELECT generate_series(1, 9) AS n", user_id=BOB, batch_size=4) as rows:
        assert next(rows) == {"n": 1}
    for _ in range(3):
        with pytest.raises(PostgresError, match="has ended"):
            list(rows)
