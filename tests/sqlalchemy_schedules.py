"""What threads do through ORM sessions, well-meaning or not, for the schedules of many of them.

Each operation takes a ``SessionTurn``, does one thing in one session, and asserts what must hold.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, func, insert, literal_column, select, text, update
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlalchemy.orm import Session

from clients.errors import (
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
    TransactionAbortedError,
)
from clients.identity import user_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tests.identity_examples import Example, Identity
    from tests.postgres_schedules import World

__all__ = ["SESSION_OPERATIONS", "SessionTurn"]

_SPOILERS = (
    "SET search_path = pg_catalog",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET ROLE NONE; SET statement_timeout = 9000; SET row_security = off",
    "CREATE TEMP TABLE notes AS SELECT 1 AS one",
    "PREPARE trap AS SELECT 1; LISTEN news; SELECT pg_advisory_lock_shared(1)",
    "DECLARE trap CURSOR WITH HOLD FOR SELECT 1",
)
#: A kill is an excuse for these.
_LOST = (DBAPIError, PostgresConnectionError, ResourceClosedError)


@dataclass
class SessionTurn:
    """One operation in one identity.

    Args:
        world: What all threads share.
        engine: The engine of its client.
        model: The notes.
        me: The identity.
        other: Another one; it may have a part of it in common.
        number: Chooses among variants.
    """

    world: World
    engine: Engine
    model: Any
    me: Identity
    other: Identity
    number: int
    written: int = field(default=0)

    @property
    def example(self) -> Example:
        """Which schema."""
        return self.world.example

    def session(self, **options: Any) -> Session:
        """Return a session of this identity, said in one of the two lasting ways."""
        if self.number % 2:
            return Session(self.engine, info={"identity": self.me}, **options)
        return Session(self.engine.execution_options(identity=self.me), **options)

    @property
    def owner(self) -> Any:
        """An expression for whose a note is."""
        return literal_column(self.example.owner)

    def note(self, owner: Identity) -> Any:
        """Return a note of *owner* that this identity writes."""
        made = self.model()
        for name, value in self.columns(owner).items():
            setattr(made, name, value)
        return made

    def columns(self, owner: Identity) -> dict[str, Any]:
        """Return its columns."""
        names = (*self.example.columns, "writer")
        return dict(zip(names, self.example.row(owner, self.me), strict=True))

    def only_mine(self, session: Session) -> None:
        """See that every note is this identity's, and that there is one at all."""
        found = session.scalars(select(self.owner).select_from(self.model).distinct()).all()
        assert found == [self.example.key(self.me)], (self.me, found)


def read(turn: SessionTurn) -> None:
    with turn.session() as session:
        turn.only_mine(session)


def read_in_another_ones_context(turn: SessionTurn) -> None:
    with user_context(**turn.other), turn.session() as session:
        turn.only_mine(session)


def write_and_go_on(turn: SessionTurn) -> None:
    with turn.session() as session:
        session.execute(insert(turn.model).values(**turn.columns(turn.me)))
        session.commit()
        turn.only_mine(session)
        session.rollback()
        turn.only_mine(session)


def write_many(turn: SessionTurn) -> None:
    with turn.session() as session:
        rows = [turn.columns(turn.me)] * 3
        assert (
            len(session.scalars(insert(turn.model).returning(turn.model.writer), rows).all()) == 3
        )
        session.commit()


def write_foreign(turn: SessionTurn) -> None:
    with pytest.raises(_LOST), turn.session() as session:  # noqa: PT012 - either may
        if turn.number % 3:
            session.add(turn.note(turn.other))
        else:
            session.execute(insert(turn.model), [turn.columns(turn.me), turn.columns(turn.other)])
        session.commit()


def change_foreign(turn: SessionTurn) -> None:
    verb = delete(turn.model) if turn.number % 3 else update(turn.model).values(writer="changed")
    with turn.session() as session:
        done: Any = session.execute(verb.where(turn.owner == turn.example.key(turn.other)))
        assert done.rowcount == 0
        session.commit()


def spoil(turn: SessionTurn) -> None:
    with turn.session() as session:
        turn.only_mine(session)
        session.execute(text(_SPOILERS[turn.number % len(_SPOILERS)]))
        for name, value in zip(turn.example.settings, turn.example.texts(turn.other), strict=True):
            session.execute(select(func.pg_catalog.set_config(name, value, False)))  # noqa: FBT003 - SQL
        kept = session.connection().connection.driver_connection
        session.commit()
        turn.only_mine(session)
    assert kept is not None
    turn.world.keep(kept.cursor)


def fail_and_go_on(turn: SessionTurn) -> None:
    with turn.session() as session:
        session.execute(insert(turn.model).values(**turn.columns(turn.me)))
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT 1/0"))
        session.rollback()
        turn.only_mine(session)


def swallow(turn: SessionTurn) -> None:
    raises = pytest.raises((TransactionAbortedError, PostgresConnectionError))
    with raises, turn.session() as session:
        with suppress(DBAPIError):
            session.execute(insert(turn.model).values(**turn.columns(turn.me)))
            session.execute(text("SELECT 1/0"))
        session.commit()


def savepoint(turn: SessionTurn) -> None:
    with turn.session() as session:
        with suppress(DBAPIError), session.begin_nested():
            session.execute(insert(turn.model).values(**turn.columns(turn.me)))
            session.execute(text("SELECT 1/0"))
        with session.begin_nested():
            session.execute(insert(turn.model).values(**turn.columns(turn.me)))
        turn.only_mine(session)
        session.commit()


def change_identity(turn: SessionTurn) -> None:
    with turn.session() as session:
        turn.only_mine(session)
        with pytest.raises(RlsContextError):
            session.execute(select(turn.model), execution_options={"identity": turn.other})


def end_in_text(turn: SessionTurn) -> None:
    sql = ("COMMIT", "ROLLBACK AND CHAIN", "ROLLBACK; BEGIN")[turn.number % 3]
    with pytest.raises((RlsContextError, *_LOST)), turn.session() as session:  # noqa: PT012 - likewise
        turn.only_mine(session)
        session.execute(text(sql))
        session.execute(insert(turn.model).values(**turn.columns(turn.me)))


def stream(turn: SessionTurn) -> None:
    with turn.session() as session:
        query = select(turn.owner).select_from(turn.model).limit(4)
        rows: Iterator[Any] = iter(session.scalars(query.execution_options(yield_per=2)))
        assert next(rows) == turn.example.key(turn.me)


def raw_cursor(turn: SessionTurn) -> None:
    with user_context(**turn.other), turn.session() as session:
        driver: Any = session.connection().connection.driver_connection
        with driver.cursor() as cursor:
            cursor.execute(f"SELECT DISTINCT {turn.example.owner} FROM notes")
            assert cursor.fetchall() == [(turn.example.key(turn.me),)]
    turn.world.keep(cursor.fetchall, lambda: cursor.execute("SELECT 1"))


def use_a_kept_handle(turn: SessionTurn) -> None:
    with turn.world.lock:
        kept = turn.world.kept[turn.number % len(turn.world.kept)] if turn.world.kept else None
    if kept is not None:
        with pytest.raises(PostgresError):
            kept()


def without_an_identity(turn: SessionTurn) -> None:
    with pytest.raises(RlsContextError), Session(turn.engine) as session:
        session.execute(select(turn.model))


def kill_my_own(turn: SessionTurn) -> None:
    with pytest.raises(_LOST), turn.session() as session:  # noqa: PT012 - likewise
        session.execute(insert(turn.model).values(**turn.columns(turn.me)))
        turn.world.kill(session.scalar(text("SELECT pg_backend_pid()")))
        session.execute(text("SELECT pg_sleep(5)"))


def kill_somebody(turn: SessionTurn) -> None:
    turn.world.kill()
    with turn.session() as session:
        turn.only_mine(session)


#: How often each one comes; kills are dear.
SESSION_OPERATIONS: list[Callable[[SessionTurn], None]] = [
    *[read] * 12,
    *[read_in_another_ones_context] * 6,
    *[write_and_go_on] * 6,
    *[write_many] * 4,
    *[write_foreign] * 6,
    *[change_foreign] * 6,
    *[spoil] * 8,
    *[fail_and_go_on] * 6,
    *[swallow] * 6,
    *[savepoint] * 4,
    *[change_identity] * 6,
    *[end_in_text] * 6,
    *[stream] * 4,
    *[raw_cursor] * 6,
    *[use_a_kept_handle] * 8,
    *[without_an_identity] * 4,
    kill_somebody,
    kill_my_own,
]
