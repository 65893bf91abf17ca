"""Operations for the property test: what users do to a client, well-meaning or not.

Each takes a ``Turn``, does one thing as one user, and asserts what must hold of it. Losing the
session to a kill is the only excuse, and the test counts those.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    from tests.identity_examples import Example, Identity

_DIRTY = """
set_config('search_path', 'pg_temp', false) AS b,
set_config('statement_timeout', '9s', false) AS c, set_config('role', 'none', false) AS d,
pg_advisory_lock(hashtext(%s)) AS e
"""
_SESSION_SETS = (
    "SET search_path = pg_catalog",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET ROLE NONE; SET statement_timeout = 9000; SET row_security = off",
    "CREATE TEMP TABLE notes AS SELECT 1 AS one",
    "PREPARE trap AS SELECT 1; LISTEN news; SELECT pg_advisory_lock_shared(1)",
    "DECLARE trap CURSOR WITH HOLD FOR SELECT 1",
)
# Seen by the next transaction on the same session, without any user.
_PROBE = """
SELECT concat_ws('', {who}) AS who,
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


def probe(example: Example) -> str:
    """Return the query for what the last borrower has left."""
    return _PROBE.format(
        who=", ".join(f"current_setting('{one}', true)" for one in example.settings)
    )


@dataclass
class World:
    """What all threads of one schedule share.

    Args:
        client: The client under test.
        example: Its schema.
        superuser: A connection that may kill.
    """

    client: PostgresClient
    example: Example
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
                    "SELECT pid FROM pg_stat_activity WHERE usename = %s ORDER BY random() LIMIT 1"
                )
                row = self.superuser.execute(query, (self.example.login,)).fetchone()
                pid = row[0] if row else None
            if pid is not None:
                self.kills += 1
                self.superuser.execute("SELECT pg_terminate_backend(%s)", (pid,))


@dataclass
class Turn:
    """One operation in one identity.

    Args:
        world: What all share.
        me: The identity.
        other: Another one; it may have a part of it in common.
        number: Chooses among variants.
    """

    world: World
    me: Identity
    other: Identity
    number: int

    @property
    def client(self) -> PostgresClient:
        """The client under test."""
        return self.world.client

    @property
    def mine(self) -> dict[str, Any]:
        """The arguments of a call in this identity."""
        return self.world.example.given(self.me)

    @property
    def other_s(self) -> dict[str, Any]:
        """The arguments of a call in the other identity."""
        return self.world.example.given(self.other)

    @property
    def read(self) -> str:
        """SQL for whose notes there are."""
        return f"SELECT DISTINCT {self.world.example.owner} AS owner FROM notes"

    @property
    def insert(self) -> str:
        """SQL that takes ``my_note`` or ``foreign_note``."""
        return self.world.example.insert

    @property
    def my_note(self) -> tuple[object, ...]:
        """A note of this identity."""
        return self.world.example.row(self.me, self.me)

    @property
    def foreign_note(self) -> tuple[object, ...]:
        """A note of the other identity, written by this one."""
        return self.world.example.row(self.other, self.me)

    @property
    def spoil(self) -> tuple[str, list[str]]:
        """SQL that sets each setting to the other's for the session, and its parameters."""
        sets = [f"set_config('{one}', %s, false) AS s{n}" for n, one in enumerate(self.settings)]
        return f"SELECT {', '.join(sets)}", list(self.world.example.texts(self.other))

    @property
    def settings(self) -> tuple[str, ...]:
        """What policies read."""
        return self.world.example.settings

    def only_mine(self, rows: list[Any]) -> None:
        """See that every row is this identity's, and that there is one at all."""
        assert [row["owner"] for row in rows] == [self.world.example.key(self.me)], (self.me, rows)


def read(turn: Turn) -> None:
    turn.only_mine(turn.client.execute(turn.read, **turn.mine))


def write(turn: Turn) -> None:
    turn.client.execute(turn.insert, turn.my_note, **turn.mine)
    turn.world.note_written(1)


def write_many(turn: Turn) -> None:
    rows = [turn.my_note] * 3
    assert turn.client.execute_many(turn.insert, rows, **turn.mine) == 3
    turn.world.note_written(3)


def write_foreign(turn: Turn) -> None:
    raises = pytest.raises(PostgresError, match=r"42501|lost|terminating")
    with raises:
        if turn.number % 2:
            turn.client.execute(turn.insert, turn.foreign_note, **turn.mine)
        else:
            rows = [turn.my_note, turn.foreign_note]
            turn.client.execute_many(turn.insert, rows, **turn.mine)


def change_foreign(turn: Turn) -> None:
    verb = "DELETE FROM notes" if turn.number % 2 else "UPDATE notes SET writer = 'changed'"
    example = turn.world.example
    query = f"{verb} WHERE {example.owner} = %s RETURNING 1 AS one"
    found = turn.client.execute(query, (example.key(turn.other),), **turn.mine)
    assert found == []


def spoil_the_session(turn: Turn) -> None:
    query, params = turn.spoil
    turn.client.execute(f"{query}, {_DIRTY}", (*params, str(turn.me)), **turn.mine)


def spoil_in_a_block(turn: Turn) -> None:
    with turn.client.connection(**turn.mine) as conn:
        turn.only_mine(conn.execute(turn.read).fetchall())
        conn.row_factory = tuple_row
        conn.execute(_SESSION_SETS[turn.number % len(_SESSION_SETS)])
        # The last one: SQL can change the setting, which no setting can guard against.
        conn.execute(*turn.spoil)
    turn.world.keep(lambda: conn.execute(turn.read).fetchall(), conn.cursor)


def fail(turn: Turn) -> None:
    with pytest.raises(PostgresError):
        turn.client.execute("SELECT 1/0", **turn.mine)


def fail_in_a_block(turn: Turn) -> None:
    # A kill makes it another psycopg error.
    raises = pytest.raises(psycopg.Error)
    with raises, turn.client.connection(**turn.mine) as conn:
        conn.execute(turn.insert, turn.my_note)
        conn.execute(_SESSION_SETS[turn.number % len(_SESSION_SETS)])
        conn.execute("SELECT 1/0")


def swallow(turn: Turn) -> None:
    cursors: list[Any] = []
    raises = pytest.raises((TransactionAbortedError, PostgresConnectionError))
    with raises, turn.client.connection(**turn.mine) as conn:
        # The block may not even have begun when a session was killed: then there is no cursor.
        cursors.append(conn.cursor())
        with suppress(psycopg.Error):
            cursors[0].execute(turn.insert, turn.my_note)
            conn.execute("SELECT 1/0")
    # Only now: until its block has ended, another thread may use a handle.
    for cursor in cursors:
        turn.world.keep(cursor.fetchone, cursor.fetchall)


def savepoint(turn: Turn) -> None:
    with turn.client.connection(**turn.mine) as conn:
        conn.execute(turn.insert, turn.my_note)
        with suppress(psycopg.errors.DivisionByZero), conn.transaction():
            conn.execute(turn.insert, turn.my_note)
            conn.execute("SELECT 1/0")
        with pytest.raises(RlsContextError), turn.client.connection(**turn.other_s):
            pass
        with turn.client.connection(**turn.mine) as inner:
            turn.only_mine(inner.execute(turn.read).fetchall())
        with pytest.raises(PostgresError):
            inner.execute(turn.read)
    turn.world.keep(lambda: inner.execute(turn.read), conn.transaction)
    turn.world.note_written(1)


def end_in_text(turn: Turn) -> None:
    text = ("COMMIT", "ROLLBACK AND CHAIN", "ROLLBACK; BEGIN")[turn.number % 3]
    raises = pytest.raises((RlsContextError, psycopg.OperationalError))
    with raises, turn.client.connection(**turn.mine) as conn:
        turn.only_mine(conn.execute(turn.read).fetchall())
        conn.execute(text)
        # Nothing may run here: without the context it would fail, with another's it would leak.
        conn.execute(turn.insert, turn.my_note)


def stream(turn: Turn) -> None:
    query = f"SELECT {turn.world.example.owner} AS owner FROM notes LIMIT 4"
    with turn.client.stream(query, batch_size=2, **turn.mine) as rows:
        assert next(rows)["owner"] == turn.world.example.key(turn.me)
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
        turn.client.execute_admin(turn.read)


def kill_somebody(turn: Turn) -> None:
    turn.world.kill()
    turn.only_mine(turn.client.execute(turn.read, **turn.mine))


def kill_my_own(turn: Turn) -> None:
    raises = pytest.raises((PostgresConnectionError, psycopg.OperationalError))
    with raises, turn.client.connection(**turn.mine) as conn:
        conn.execute(turn.insert, turn.my_note)
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
