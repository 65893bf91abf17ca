"""Operations for the property test: what users do to a client, well-meaning or not.

Each takes a ``Turn``, does one thing as one user, and asserts what must hold of it. Losing the
session to a kill is the only excuse, and the test counts those.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import tuple_row

from clients.errors import (
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
    TransactionAbortedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.postgres_client import PostgresClient

USERS = [UUID(int=number, version=4) for number in range(100, 104)]
#: Rows remember who wrote them in ``writer``, whatever ``user_id`` says.
TABLE = """
CREATE TABLE notes (user_id uuid NOT NULL, writer uuid NOT NULL);
CREATE INDEX ON notes (user_id);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON notes FOR ALL
    USING (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid))
    WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO crm_user;
INSERT INTO notes SELECT id, id FROM unnest(%s::uuid[]) AS id;
"""
_READ = "SELECT DISTINCT user_id FROM notes"
_INSERT = "INSERT INTO notes VALUES (%s, %s)"
_DIRTY = """
SELECT set_config('app.current_user_id', %s, false) AS a,
set_config('search_path', 'pg_temp', false) AS b,
set_config('statement_timeout', '9s', false) AS c, set_config('role', 'none', false) AS d,
pg_advisory_lock(hashtext(%s)) AS e
"""
_SESSION_SETS = (
    "SET search_path = pg_catalog",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET ROLE NONE; SET statement_timeout = 9000; SET row_security = off",
    "CREATE TEMP TABLE notes (user_id uuid, writer uuid)",
    "PREPARE trap AS SELECT 1; LISTEN news; SELECT pg_advisory_lock_shared(1)",
    "DECLARE trap CURSOR WITH HOLD FOR SELECT 1",
)
#: Seen by the next transaction on the same session, without any user.
PROBE = """
SELECT current_setting('app.current_user_id', true) AS who,
    current_setting('search_path') AS path,
    current_user = session_user AS same_role,
    to_regclass('pg_temp.notes') IS NOT NULL AS temp_table,
    current_setting('default_transaction_read_only') AS read_only,
    current_setting('statement_timeout') AS statement_timeout,
    pg_backend_pid() AS pid
"""
#: Slow on the server, so it is asked now and then.
LOCKS = """
SELECT locktype FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
"""
CLEAN = {
    "who": "",
    "path": '"$user", public',
    "same_role": True,
    "temp_table": False,
    "read_only": "off",
    "statement_timeout": "30s",
}


@dataclass
class World:
    """What all threads of one schedule share.

    Args:
        client: The client under test.
        superuser: A connection that may kill.
    """

    client: PostgresClient
    superuser: psycopg.Connection[Any]
    kept: list[Callable[[], object]] = field(default_factory=list)
    written: int = 0
    kills: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, *uses: Callable[[], object]) -> None:
        """Keep ways to use handles whose blocks are about to end."""
        with self.lock:
            self.kept = [*self.kept[-10:], *uses]

    def note_written(self, rows: int) -> None:
        """Count rows that were committed."""
        with self.lock:
            self.written += rows

    def kill(self, pid: int | None = None) -> None:
        """End one session of the application, as an administrator would."""
        with self.lock:
            if pid is None:
                query = (
                    "SELECT pid FROM pg_stat_activity WHERE usename = 'crm_user'"
                    " ORDER BY random() LIMIT 1"
                )
                row = self.superuser.execute(query).fetchone()
                pid = row[0] if row else None
            if pid is not None:
                self.kills += 1
                self.superuser.execute("SELECT pg_terminate_backend(%s)", (pid,))


@dataclass
class Turn:
    """One operation of one user.

    Args:
        world: What all share.
        me: The user.
        other: Another one.
        number: Chooses among variants.
    """

    world: World
    me: UUID
    other: UUID
    number: int

    @property
    def client(self) -> PostgresClient:
        """The client under test."""
        return self.world.client

    def only_mine(self, rows: list[Any]) -> None:
        """See that every row is this user's, and that there is one at all."""
        assert [row["user_id"] for row in rows] == [self.me], (self.me, rows)


def read(turn: Turn) -> None:
    turn.only_mine(turn.client.execute(_READ, user_id=turn.me))


def write(turn: Turn) -> None:
    turn.client.execute(_INSERT, (turn.me, turn.me), turn.me)
    turn.world.note_written(1)


def write_many(turn: Turn) -> None:
    rows = [(turn.me, turn.me)] * 3
    assert turn.client.execute_many(_INSERT, rows, turn.me) == 3
    turn.world.note_written(3)


def write_foreign(turn: Turn) -> None:
    foreign = (turn.other, turn.me)
    raises = pytest.raises(PostgresError, match=r"42501|lost|terminating")
    with raises:
        if turn.number % 2:
            turn.client.execute(_INSERT, foreign, turn.me)
        else:
            turn.client.execute_many(_INSERT, [(turn.me, turn.me), foreign], turn.me)


def change_foreign(turn: Turn) -> None:
    verb = "DELETE FROM notes" if turn.number % 2 else "UPDATE notes SET writer = user_id"
    found = turn.client.execute(
        f"{verb} WHERE user_id = %s RETURNING 1 AS one", (turn.other,), turn.me
    )
    assert found == []


def spoil_the_session(turn: Turn) -> None:
    turn.client.execute(_DIRTY, (str(turn.other), str(turn.me)), turn.me)


def spoil_in_a_block(turn: Turn) -> None:
    with turn.client.connection(turn.me) as conn:
        turn.only_mine(conn.execute(_READ).fetchall())
        conn.row_factory = tuple_row
        conn.execute(_SESSION_SETS[turn.number % len(_SESSION_SETS)])
        # The last one: SQL can change the setting, which no setting can guard against.
        conn.execute("SELECT set_config('app.current_user_id', %s, false)", (str(turn.other),))
    turn.world.keep(lambda: conn.execute(_READ).fetchall(), conn.cursor)


def fail(turn: Turn) -> None:
    with pytest.raises(PostgresError):
        turn.client.execute("SELECT 1/0", user_id=turn.me)


def fail_in_a_block(turn: Turn) -> None:
    # A kill makes it another psycopg error.
    raises = pytest.raises(psycopg.Error)
    with raises, turn.client.connection(turn.me) as conn:
        conn.execute(_INSERT, (turn.me, turn.me))
        conn.execute(_SESSION_SETS[turn.number % len(_SESSION_SETS)])
        conn.execute("SELECT 1/0")


def swallow(turn: Turn) -> None:
    raises = pytest.raises((TransactionAbortedError, PostgresConnectionError))
    with raises, turn.client.connection(turn.me) as conn:
        cursor = conn.cursor()
        with suppress(psycopg.Error):
            cursor.execute(_INSERT, (turn.me, turn.me))
            conn.execute("SELECT 1/0")
    turn.world.keep(cursor.fetchone, cursor.fetchall)


def savepoint(turn: Turn) -> None:
    with turn.client.connection(turn.me) as conn:
        conn.execute(_INSERT, (turn.me, turn.me))
        with suppress(psycopg.errors.DivisionByZero), conn.transaction():
            conn.execute(_INSERT, (turn.me, turn.me))
            conn.execute("SELECT 1/0")
        with pytest.raises(RlsContextError), turn.client.connection(turn.other):
            pass
        with turn.client.connection(turn.me) as inner:
            turn.only_mine(inner.execute(_READ).fetchall())
        with pytest.raises(PostgresError):
            inner.execute(_READ)
    turn.world.keep(lambda: inner.execute(_READ), conn.transaction)
    turn.world.note_written(1)


def end_in_text(turn: Turn) -> None:
    text = ("COMMIT", "ROLLBACK AND CHAIN", "ROLLBACK; BEGIN")[turn.number % 3]
    raises = pytest.raises((RlsContextError, psycopg.OperationalError))
    with raises, turn.client.connection(turn.me) as conn:
        turn.only_mine(conn.execute(_READ).fetchall())
        conn.execute(text)
        # Nothing may run here: without the context it would fail, with another's it would leak.
        conn.execute(_INSERT, (turn.me, turn.me))


def stream(turn: Turn) -> None:
    query = "SELECT user_id FROM notes LIMIT 4"
    with turn.client.stream(query, user_id=turn.me, batch_size=2) as rows:
        assert next(rows)["user_id"] == turn.me
    turn.world.keep(lambda: list(rows))


def use_a_kept_handle(turn: Turn) -> None:
    with turn.world.lock:
        kept = turn.world.kept[turn.number % len(turn.world.kept)] if turn.world.kept else None
    if kept is not None:
        with pytest.raises(PostgresError):
            kept()


def ask_without_a_user(turn: Turn) -> None:
    # The application's role cannot pass the policies by, and is told so.
    with pytest.raises(PostgresError, match=r"42501|lost|terminating"):
        turn.client.execute_admin(_READ)


def kill_somebody(turn: Turn) -> None:
    turn.world.kill()
    turn.only_mine(turn.client.execute(_READ, user_id=turn.me))


def kill_my_own(turn: Turn) -> None:
    raises = pytest.raises((PostgresConnectionError, psycopg.OperationalError))
    with raises, turn.client.connection(turn.me) as conn:
        conn.execute(_INSERT, (turn.me, turn.me))
        turn.world.kill(conn.execute("SELECT pg_backend_pid() AS pid").fetchone()["pid"])
        if turn.number % 2:
            with suppress(psycopg.Error):
                conn.execute("SELECT pg_sleep(5)")
        else:
            conn.execute("SELECT pg_sleep(5)")


# How often each one comes in a hundred or so; kills are dear.
OPERATIONS: list[Callable[[Turn], None]] = [
    *[read] * 16,
    *[write] * 8,
    *[write_many] * 4,
    *[write_foreign] * 6,
    *[change_foreign] * 6,
    *[spoil_the_session] * 8,
    *[spoil_in_a_block] * 8,
    *[fail] * 6,
    *[fail_in_a_block] * 6,
    *[swallow] * 6,
    *[savepoint] * 4,
    *[end_in_text] * 6,
    *[stream] * 4,
    *[use_a_kept_handle] * 8,
    *[ask_without_a_user] * 4,
    kill_somebody,
    kill_my_own,
]
