"""What was taken from a block is dead with it: kept, shared with a thread, or entered late."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import (
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
    TransactionAbortedError,
)
from tests.postgres_helpers import add_contact, contact_names, one_session_client, run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients._postgres.guarded import GuardedConnection
    from clients.postgres_client import PostgresClient
    from utils.local_stack import StackEndpoints

INSERT = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"
ROWS = "SELECT g FROM generate_series(1, 5) g"
MANY_ROWS = "SELECT g FROM generate_series(1, 200000) g"


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    """One session: the next block runs on the very connection of the one before."""
    with one_session_client(stack) as made:
        yield made


def uses_of(conn: GuardedConnection) -> dict[str, Callable[[], Any]]:
    """Take everything from an open block that can be kept, and return how it is used."""
    rows = conn.cursor().execute(ROWS)
    named = conn.cursor("kept", scrollable=True).execute(ROWS)
    named.fetchone()
    iterator = iter(conn.execute(ROWS))
    next(iterator)
    transaction = conn.transaction()
    with conn.cursor().copy("COPY (SELECT 1) TO STDOUT") as copy:
        assert bytes(copy.read()) == b"1\n"
        assert not copy.read()
    late_copy = conn.cursor().copy("COPY (SELECT 1) TO STDOUT")
    stream = conn.cursor().stream(ROWS)
    assert [row["g"] for row in stream] == [1, 2, 3, 4, 5]
    late_stream = conn.cursor().stream(ROWS)
    return {
        "execute": lambda: conn.execute("SELECT 1"),
        "cursor": conn.cursor,
        "transaction": conn.transaction,
        "cursor.execute": lambda: rows.execute("SELECT 1"),
        "cursor.executemany": lambda: rows.executemany("SELECT %s", [(1,)]),
        "cursor.fetchone": rows.fetchone,
        "cursor.fetchmany": rows.fetchmany,
        "cursor.fetchall": rows.fetchall,
        "cursor.nextset": rows.nextset,
        "cursor.scroll": lambda: rows.scroll(0, "absolute"),
        "iterated cursor": lambda: next(iterator),
        "named cursor.fetchone": named.fetchone,
        "named cursor.scroll": lambda: named.scroll(-1),
        "cursor.connection": lambda: rows.connection.execute("SELECT 1"),
        "kept transaction": transaction.__enter__,
        "kept copy": copy.read,
        "written copy": lambda: copy.write(b"x"),
        "late copy": late_copy.__enter__,
        "late stream": lambda: next(late_stream),
        "commit": conn.commit,
        "rollback": conn.rollback,
        "close": conn.close,
    }


@pytest.mark.parametrize("run", [lambda use: use(), run_in_thread])
def test_everything_kept_from_a_block_is_dead_after_it(
    client: PostgresClient, user: UUID, run: Callable[[Any], Any]
) -> None:
    """Also while another user's block is open on the same session, and from another thread."""
    with client.connection(user) as kept:
        uses = uses_of(kept)

    assert kept.closed
    assert repr(kept).endswith("ended>")
    with client.connection(uuid4()) as conn:
        for name, use in uses.items():
            # Twice: a generator would raise once, and then look like rows that have come to an end.
            for _ in range(1 if name.startswith("late") else 2):
                with pytest.raises(PostgresError):
                    pytest.fail(f"{name} returned {run(use)!r}")
        assert conn.execute("SELECT 1 AS a").fetchall() == [{"a": 1}]


def test_nothing_of_a_block_can_be_pickled_or_copied_deeply(
    client: PostgresClient, user: UUID
) -> None:
    """The error names the block, and no half-made session is left to complain at its end."""
    with client.connection(user) as conn:
        for one in (conn, conn.cursor(), conn.transaction()):
            for copied in (copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match=r"the block of .* cannot be pickled or copied"):
                    copied(one)
        gc.collect()
        assert conn.execute("SELECT 1 AS a").fetchone() == {"a": 1}


def test_closing_a_kept_cursor_does_nothing(client: PostgresClient, user: UUID) -> None:
    """A cursor may be closed after its block, and touches nobody's session by it."""
    with client.connection(user) as conn:
        kept = conn.cursor("same_name").execute(ROWS)
    with client.connection(uuid4()) as conn:
        cursor = conn.cursor("same_name").execute(ROWS)
        kept.close()
        with kept:
            pass

        assert len(cursor.fetchall()) == 5


def test_a_handle_of_a_joined_block_is_dead_with_the_outer_one(
    client: PostgresClient, user: UUID
) -> None:
    """A suspended generator's inner block does not outlive the transaction that it joined."""

    def suspended() -> Iterator[Any]:
        with client.connection(user) as inner:
            yield inner.execute("SELECT 1 AS a").fetchall()
            yield inner.execute("SELECT current_setting('app.current_user_id')").fetchall()

    with client.connection(user):
        generator = suspended()
        next(generator)
    with client.connection(uuid4()) as conn:
        with pytest.raises(PostgresError, match="has ended"):
            next(generator)

        assert conn.execute("SELECT 1 AS a").fetchall() == [{"a": 1}]


def test_a_block_that_is_entered_late_joins_nothing_that_is_over(
    client: PostgresClient, user: UUID
) -> None:
    """It was made inside a block that is over: it never runs in the next borrower's transaction."""
    with client.connection(user):
        late = client.connection(user)
    with client.connection(uuid4()), pytest.raises(RlsContextError, match="is open in this thread"):
        late.__enter__()


def test_a_savepoint_that_ends_after_its_block_touches_nothing(
    client: PostgresClient, user: UUID
) -> None:
    """Its late end neither commits nor undoes in the next borrower's transaction."""
    with client.connection(user) as conn:
        savepoint = conn.transaction()
        savepoint.__enter__()
        failing = conn.transaction()
        failing.__enter__()
    other = uuid4()
    with client.connection(other) as conn:
        conn.execute(INSERT, (other, "kept"))
        with pytest.raises(PostgresError, match="has ended"):
            savepoint.__exit__(None, None, None)

        assert failing.__exit__(KeyError, KeyError(), None) is False
    assert contact_names(client, other) == ["kept"]


def test_a_thread_cannot_use_the_handle_past_the_end(client: PostgresClient) -> None:
    """A thread hammers a shared handle while blocks of two users take turns on one session."""
    ann, bob = uuid4(), uuid4()
    add_contact(client, ann, "ann's")
    add_contact(client, bob, "bob's")
    seen: list[list[str]] = []
    for _ in range(20):
        started, stop = threading.Event(), threading.Event()
        with client.connection(ann) as conn:

            def hammer(conn: GuardedConnection = conn) -> int:
                refused = 0
                while not stop.is_set() and refused < 1000:  # noqa: B023 - this turn's own
                    try:
                        seen.append(contact_names(conn))
                    except PostgresError:
                        refused += 1
                    started.set()  # noqa: B023 - likewise
                return refused

            thread = threading.Thread(target=hammer)
            thread.start()
            started.wait(10)
        for _ in range(3):
            assert contact_names(client, bob) == ["bob's"]
        stop.set()
        thread.join(10)

    assert len(seen) >= 20
    assert all(names == ["ann's"] for names in seen)


def test_leaving_a_small_stream_early_frees_the_connection(
    client: PostgresClient, user: UUID
) -> None:
    """Psycopg keeps its lock while a stream is open; a loop that breaks must not hang the rest."""

    def block() -> None:
        with client.connection(user) as conn:
            for _ in conn.cursor().stream(MANY_ROWS):
                break
            conn.execute("SELECT 1")

    run_in_thread(block)


@pytest.mark.parametrize("rows", [1, 50, 3000, 1_000_000])
def test_leaving_a_stream_early_cancels_that_statement_alone(
    client: PostgresClient, user: UUID, rows: int
) -> None:
    """Whether it had been finished or not: its writes are undone, and the block's are kept."""
    writing = (
        "INSERT INTO contacts (user_id, name) "
        f"SELECT %s, 'undone' FROM generate_series(1, {min(rows, 3000)}) RETURNING name"
    )
    reading = f"SELECT g FROM generate_series(1, {rows}) AS g"

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "kept"))
            for query, params in ((writing, (user,)), (reading, None)):
                for _ in conn.cursor().stream(query, params):
                    break
            conn.execute(INSERT, (user, "kept too"))

    run_in_thread(block)

    assert contact_names(client, user) == ["kept", "kept too"]


def test_a_stream_that_is_read_to_its_end_is_a_part_of_its_block(
    client: PostgresClient, user: UUID
) -> None:
    """What it wrote is committed with the rest, and one that fails aborts the transaction."""
    with client.connection(user) as conn:
        for _ in conn.cursor().stream(f"{INSERT} RETURNING name", (user, "streamed")):
            pass

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "lost"))
            with pytest.raises(psycopg.errors.DivisionByZero):
                list(conn.cursor().stream("SELECT 1 / (g - 3) FROM generate_series(1, 5) AS g"))

    with pytest.raises(TransactionAbortedError):
        block()
    assert contact_names(client, user) == ["streamed"]


def test_a_suspended_stream_ends_with_its_block(client: PostgresClient, user: UUID) -> None:
    """A generator that nobody finishes neither hangs the end nor reads on, nor undoes the block."""
    kept: list[Iterator[Any]] = []

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "kept"))
            kept.append(conn.cursor().stream(MANY_ROWS))
            next(kept[0])

    run_in_thread(block)
    with pytest.raises(PostgresError, match="has ended"):
        next(kept[0])
    assert contact_names(client, user) == ["kept"]


def test_a_statement_while_a_stream_is_read_raises_instead_of_hanging(
    client: PostgresClient, user: UUID
) -> None:
    """One connection does one thing at a time; what is in memory can still be fetched."""

    def block() -> list[int]:
        with client.connection(user) as conn:
            fetched = conn.execute("SELECT 1 AS a")
            numbers = []
            for row in conn.cursor().stream(ROWS):
                numbers.append(row["g"])
                with pytest.raises(PostgresError, match=r"busy with a stream"):
                    conn.execute("SELECT 1")
            assert fetched.fetchall() == [{"a": 1}]
            assert conn.execute("SELECT 2 AS b").fetchall() == [{"b": 2}]
            return numbers

    assert run_in_thread(block) == [1, 2, 3, 4, 5]


def test_a_copy_that_still_runs_at_the_end_raises(client: PostgresClient, user: UUID) -> None:
    """The block cannot commit in the middle of a COPY, and the session is replaced."""
    copies: list[Any] = []

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "lost"))
            copies.append(conn.cursor().copy("COPY (SELECT generate_series(1, 9)) TO STDOUT"))
            copies.append(copies[0].__enter__())

    with pytest.raises(PostgresError, match="COPY was still running"):
        block()
    with pytest.raises(PostgresError, match="has ended"):
        copies[1].read()
    copies[0].__exit__(None, None, None)
    assert contact_names(client, user) == []


def test_copy_to_works_and_sees_one_users_rows(client: PostgresClient, user: UUID) -> None:
    """COPY TO obeys policies; its object iterates, and gives rows."""
    add_contact(client, user, "mine")
    add_contact(client, uuid4(), "foreign")
    with client.connection(user) as conn:
        with conn.cursor().copy("COPY (SELECT name FROM contacts) TO STDOUT") as copy:
            data = b"".join(bytes(piece) for piece in copy)
        with conn.cursor().copy("COPY (SELECT name FROM contacts) TO STDOUT") as copy:
            copy.set_types(["text"])
            rows = list(copy.rows())

        for use in (copy.read, copy.read_row, lambda: copy.write(b"x")):
            with pytest.raises(PostgresError, match="COPY has ended"):
                use()

    assert data == b"mine\n"
    assert rows == [("mine",)]


def test_copy_from_is_postgresqls_to_refuse_on_such_tables(
    client: PostgresClient, user: UUID
) -> None:
    """It works into a temporary table, and is refused where policies are."""
    with client.connection(user) as conn:
        conn.execute("CREATE TEMP TABLE loaded (a int, b text)")
        with conn.cursor().copy("COPY loaded FROM STDIN") as copy:
            copy.write_row((1, "x"))
            copy.write("2\ty\n")
        assert conn.execute("SELECT count(*) AS n FROM loaded").fetchall() == [{"n": 2}]
        with (
            pytest.raises(psycopg.errors.FeatureNotSupported),
            conn.transaction(),
            conn.cursor().copy("COPY contacts (user_id, name) FROM STDIN") as copy,
        ):
            copy.write_row((user, "x"))


def test_a_named_cursor_on_a_killed_session_does_not_mask_the_error(
    client: PostgresClient, user: UUID
) -> None:
    """Closing what is open fails on a dead connection: the first error is the one that counts."""

    def block() -> None:
        with client.connection(user) as conn:
            named = conn.cursor("open").execute(ROWS)
            named.fetchone()
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(psycopg.errors.AdminShutdown):
        block()
    assert contact_names(client, user) == []


def test_a_lost_session_is_told_from_a_copy_that_still_runs(
    client: PostgresClient, user: UUID
) -> None:
    """After a loss that psycopg reported and libpq has not seen yet, the end says that it is lost.

    The race cannot be made at will: a COPY makes the state that it leaves.
    """
    kept: list[Any] = []

    def block() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "lost"))
            kept.append(conn.cursor().copy("COPY (SELECT generate_series(1, 9)) TO STDOUT"))
            kept[0].__enter__()
            conn._use.state.note(psycopg.OperationalError("consuming input failed"))

    with pytest.raises(PostgresConnectionError, match="lost its connection"):
        block()
    assert contact_names(client, user) == []


def test_blocks_that_another_thread_ends_are_forgotten(client: PostgresClient, user: UUID) -> None:
    """A framework may enter and leave a block in two threads: none stays in memory for it."""
    for _ in range(5):
        block = client.connection(user)
        block.__enter__()
        run_in_thread(lambda block=block: block.__exit__(None, None, None))
        del block
    with client.connection(user):
        gc.collect()
        blocks = [one for one in gc.get_objects() if type(one).__name__ == "Block"]

        assert len(blocks) == 1
