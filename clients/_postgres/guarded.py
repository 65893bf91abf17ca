"""What a ``connection()`` block yields: a connection that guards its transaction and dies with it.

The handle and all that comes from it (cursors, savepoints, streams, copies) ask the block's state
before each use: is the block still open, and is the transaction still the one with the context?
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

import psycopg
from psycopg import pq
from psycopg.rows import dict_row

from .._shared.locks import OwnedLock
from ..errors import PostgresError, RlsContextError, TransactionAbortedError
from .cursor import GuardedCursor
from .errors import is_connection_loss, is_read_only, is_role_gone
from .session import FlightError
from .sql import checked, marker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from psycopg.abc import Params, Query

    from .session import Session

__all__ = ["BlockState", "GuardedConnection", "GuardedTransaction"]

_ACTIVE = pq.TransactionStatus.ACTIVE
_IDLE = pq.TransactionStatus.IDLE
_INERROR = pq.TransactionStatus.INERROR
_INTRANS = pq.TransactionStatus.INTRANS


class Closable(Protocol):
    """What a block closes at its end."""

    def close(self) -> None:
        """Close it; more than once does no harm."""


class BlockState:
    """The transaction of one block.

    Args:
        session: The session that runs it.
        expected: What one column of the context query answers while the context is there.
        began: When the transaction began, as the context query says it.
        what: The block, for messages.
    """

    def __init__(self, session: Session, expected: bytes, began: bytes, what: str) -> None:
        self.session = session
        self.what = what
        self.pid = os.getpid()
        #: The first SQL error that nobody has handled yet by a rollback to a savepoint.
        self.swallowed: psycopg.Error | None = None
        #: The last error that says something of the server or of the role.
        self.telling: psycopg.Error | None = None
        self.closables: list[Closable] = []
        # Held while a statement runs and while the block ends: a thread that still has the handle
        # cannot slip a statement in between the check and the session's next borrower.
        self.lock = OwnedLock()
        #: Whether the block is over; handles of it, a joined block's too, may still be held.
        self.ended = False
        #: How many uses of it are under way, in the thread that has the lock.
        self.busy = 0
        # What the block's first flight has set, see marked().
        self._marker = marker(session.application_name, 1)
        self._marks = 1
        self._expected = expected
        self._began = began
        self.context_was_lost = False

    def context_is_lost(self) -> bool:
        """Return True when the transaction that had the context has ended."""
        if self.context_was_lost:
            return True
        pgconn = self.session.pgconn
        if pgconn.status != pq.ConnStatus.OK:
            return False
        if pgconn.transaction_status == _INERROR:
            # The marker is undone already, but the server refuses every statement, too.
            return False
        if pgconn.transaction_status == _IDLE:
            self.context_was_lost = True
        elif pgconn.parameter_status(b"application_name") != self._marker:
            # COMMIT AND CHAIN and "COMMIT; BEGIN" leave us in a transaction, but in another one.
            # The block's own SET application_name looks the same from here: the server knows.
            self.context_was_lost = not self._ask_server()
        return self.context_was_lost

    def check_context(self) -> None:
        """Refuse to go on without the context."""
        if self.context_is_lost():
            raise RlsContextError(
                f"the transaction of {self.what} was ended by a COMMIT or ROLLBACK in its SQL, and "
                "the context went with it: leave the block instead, or use conn.transaction()"
            )

    def note(self, error: psycopg.Error) -> None:
        """Remember the SQL error that aborts the transaction, should the caller swallow it."""
        if is_read_only(error) or is_role_gone(error):
            self.telling = error
        # An error of psycopg's own, before it sent anything, has aborted nothing.
        if self.swallowed is None and self.session.transaction_status not in (_IDLE, _INTRANS):
            self.swallowed = error

    def aborted_error(self) -> TransactionAbortedError:
        """Return the error for an end that looks normal and cannot be."""
        error = TransactionAbortedError(
            f"{self.what} ended normally, but an SQL error in it had aborted the transaction and "
            "was swallowed: nothing was committed. Let the error out, or put the statement that "
            "may fail into conn.transaction()",
            sqlstate=self.swallowed.sqlstate if self.swallowed else None,
        )
        error.__cause__ = self.swallowed
        return error

    def close_what_is_open(self) -> None:
        """Close streams and server-side cursors that the block left open."""
        for closable in self.closables:
            try:
                closable.close()
            except psycopg.Error as error:
                # Never instead of the error in flight; the end of the block reports this one.
                self.note(error)
                if is_connection_loss(error):
                    self.session.close()
                closable.close()
        self.closables.clear()

    def _ask_server(self) -> bool:
        pgconn = self.session.pgconn
        self._marks += 1
        # A new mark: the name that SQL has set may outlive the transaction, and then says nothing.
        name = marker(pgconn.parameter_status(b"application_name") or b"", self._marks)
        try:
            [result] = self.session.message(checked(pgconn, name))
        except FlightError:
            # The connection is gone: the next statement says so in its own words.
            return True
        user, row_security, began = (result.get_value(0, column) for column in range(3))
        if began != self._began or self._expected not in (user, row_security):
            return False
        self._marker = name
        return True


class GuardedConnection:
    """The connection of one block: ``execute``, ``cursor``, ``transaction``, with dict rows.

    It commits when the block ends normally and rolls back when it does not. After the block,
    every use of it or of its cursors raises PostgresError.
    """

    __slots__ = ("_alive", "_state", "row_factory")

    def __init__(self, state: BlockState) -> None:
        self._state = state
        self._alive = True
        #: Makes the rows of cursors that are given none; it ends with the block.
        self.row_factory: Any = dict_row

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._state.what}{'' if self._is_open else ', ended'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._state.what} is its session's, and cannot be pickled or copied")

    def execute(
        self, query: Query, params: Params | None = None, *, binary: bool = False
    ) -> GuardedCursor:
        """Run a statement, and return the cursor that has its rows.

        Args:
            query: SQL with ``%s`` or ``%(name)s`` placeholders; without *params*, ``%`` is literal.
            params: Values for the placeholders.
            binary: Whether to ask the server for binary results.

        Raises:
            psycopg.Error: The statement failed.
            PostgresError: The block has ended, or its context is lost (RlsContextError).
        """
        return self.cursor(binary=binary).execute(query, params)

    def cursor(
        self,
        name: str | None = None,
        *,
        binary: bool = False,
        row_factory: Any = None,
        scrollable: bool | None = None,
    ) -> GuardedCursor:
        """Return a cursor; with a *name*, one that keeps its rows on the server.

        Args:
            name: The server-side cursor's name.
            binary: Whether to ask the server for binary results.
            row_factory: Makes the rows; dicts when None.
            scrollable: Whether a server-side cursor can go backwards.

        Raises:
            PostgresError: The block has ended, or its context is lost (RlsContextError).
        """
        self.check_open()
        conn = self._state.session.conn
        raw: Any
        if name is None:
            raw = conn.cursor(binary=binary)
        else:
            raw = conn.cursor(name, binary=binary, scrollable=scrollable)
            self._state.closables.append(raw)
        cursor = GuardedCursor(self, raw)
        factory = row_factory or self.row_factory
        if factory is not dict_row:
            # It may keep what it is given: not psycopg's cursor, which leads to the connection.
            raw.row_factory = lambda _: factory(cursor)
        return cursor

    def transaction(
        self, savepoint_name: str | None = None, *, force_rollback: bool = False
    ) -> GuardedTransaction:
        """Return a context manager over a savepoint: an exception undoes it alone.

        Args:
            savepoint_name: Its name; psycopg makes one up when None.
            force_rollback: Whether to undo it at the end in any case.

        Raises:
            PostgresError: The block has ended, or its context is lost (RlsContextError).
        """
        self.check_open()
        # Not conn.transaction(): that is a generator, and one that is dropped in mid-block would
        # send its ROLLBACK TO to whoever has the session by then.
        raw = psycopg.Transaction(self._state.session.conn, savepoint_name, force_rollback)
        return GuardedTransaction(self, raw)

    @property
    def closed(self) -> bool:
        """Whether the block has ended or the connection is gone."""
        return not self._is_open or self._state.session.conn.closed

    def commit(self) -> NoReturn:
        """Refuse: the block commits when it ends."""
        raise self._forbidden("commit")

    def rollback(self) -> NoReturn:
        """Refuse: an exception that leaves the block rolls back."""
        raise self._forbidden("rollback")

    def close(self) -> NoReturn:
        """Refuse: the block gives the connection back when it ends."""
        raise self._forbidden("close")

    def _forbidden(self, method: str) -> PostgresError:
        return PostgresError(
            f"{method}() is not for {self._state.what}: leave the block to commit, raise out of it "
            "to roll back, and use conn.transaction() for a part that may be undone alone"
        )

    @property
    def _is_open(self) -> bool:
        return self._alive and not self._state.ended

    @contextmanager
    def _guarded(self, *, sends: bool = True) -> Iterator[BlockState]:
        state = self._state
        with state.lock:
            self.check_open()
            state.check_context()
            if sends and state.session.transaction_status == _ACTIVE:
                # psycopg would wait for its own lock, and for ever.
                raise PostgresError(
                    f"{state.what} is busy with a stream() or a COPY: read that to its end or "
                    "close it first, or use a server-side cursor"
                )
            state.busy += 1
            try:
                yield state
            except psycopg.Error as error:
                state.note(error)
                raise
            finally:
                state.busy -= 1
            if state.session.transaction_status != _INERROR:
                state.swallowed = None

    def check_open(self) -> None:
        """Refuse to go on when the block has ended.

        Raises:
            PostgresError: It has.
        """
        if not self._is_open:
            raise PostgresError(
                f"{self._state.what} has ended, and its connection with it: open a new connection()"
            )
        if self._state.pid != os.getpid():
            raise PostgresError(
                f"{self._state.what} belongs to the parent process: open one in this process"
            )

    def _end(self) -> None:
        self._alive = False


class GuardedTransaction:
    """A savepoint of a block; psycopg's ``Rollback`` works with it."""

    __slots__ = ("_handle", "_raw")

    def __init__(self, handle: GuardedConnection, raw: psycopg.Transaction) -> None:
        self._handle = handle
        self._raw = raw

    def __enter__(self) -> Self:
        with self._handle._guarded():  # noqa: SLF001 - one guard in three classes
            self._raw.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        handle = self._handle
        if exc is None:
            with handle._guarded() as state:  # noqa: SLF001 - likewise
                if state.session.transaction_status == _INERROR:
                    self._undo_and_raise(state)
                return bool(self._raw.__exit__(None, None, None))
        with handle._state.lock:  # noqa: SLF001 - likewise
            if not handle._is_open:  # noqa: SLF001 - likewise
                # The session may be another user's by now: nothing of ours goes there.
                return False
            if isinstance(exc, psycopg.Rollback) and exc.transaction is self:  # type: ignore[comparison-overlap]  # we gave the caller ourselves
                exc_type, exc = psycopg.Rollback, psycopg.Rollback(self._raw)
            done = bool(self._raw.__exit__(exc_type, exc, traceback))
            if handle._state.session.transaction_status != _INERROR:  # noqa: SLF001 - likewise
                handle._state.swallowed = None  # noqa: SLF001 - likewise
            return done

    def _undo_and_raise(self, state: BlockState) -> NoReturn:
        aborted = state.aborted_error()
        self._raw.__exit__(type(aborted), aborted, None)
        state.swallowed = None
        raise aborted
