"""The transaction of one block: whether it is open, and still the one that has the context."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import psycopg
from psycopg import pq

from .._shared.generators import is_running
from .._shared.locks import OwnedLock
from ..errors import ClientError, PostgresError, RlsContextError, TransactionAbortedError
from .errors import describe, is_connection_loss, is_read_only, is_role_gone
from .identity_key import REFUSED
from .session import BatchError, Session
from .transaction_sql import marker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .rls_context import RlsContext

__all__ = ["BlockState", "BlockUse", "Closable", "GeneratorPart"]

T = TypeVar("T")

_ACTIVE = pq.TransactionStatus.ACTIVE
_IDLE = pq.TransactionStatus.IDLE
_INERROR = pq.TransactionStatus.INERROR
_INTRANS = pq.TransactionStatus.INTRANS


class Closable(Protocol):
    """What a block closes at its end."""

    def close(self) -> None:
        """Close it; more than once does no harm."""


class GeneratorPart:
    """A part of a block that a generator has entered; its consumer may go on in the block.

    Args:
        frame_id: The ``id()`` of the generator's frame.
    """

    def __init__(self, frame_id: int) -> None:
        self._frame_id = frame_id
        #: Whether others than the generator have used the transaction meanwhile.
        self.is_shared = False

    def note_use(self) -> None:
        """See whose code uses the transaction now."""
        self.is_shared = self.is_shared or not is_running(self._frame_id)


class BlockState:
    """The transaction of one block.

    Args:
        session: The session that runs it.
        context: Whose rows the transaction sees.
        began: When the transaction began, as the context query says it.
    """

    def __init__(self, session: Session, context: RlsContext, began: bytes) -> None:
        self.session = session
        self.pid = os.getpid()
        #: The first SQL error that nobody has handled yet by a rollback to a savepoint.
        self.swallowed: psycopg.Error | None = None
        #: The last error that says something of the server or of the role.
        self.server_error: psycopg.Error | None = None
        self.closables: list[Closable] = []
        #: What generators have entered and not left.
        self.generator_parts: list[GeneratorPart] = []
        # Held while a statement runs and while the block ends: a thread that still has the handle
        # cannot slip a statement in between the check and the session's next borrower.
        self.lock = OwnedLock()
        #: Whether the block is over; handles of it, a joined block's too, may still be held.
        self.ended = False
        #: How many uses of it are under way, in the thread that has the lock.
        self.busy = 0
        # What the block's first batch has set, see ContextSql.of_block().
        self._marker = session.block_mark
        self._marks = 1
        self._context = context
        self._began = began
        self.context_was_lost = False
        #: Whether the driver failed in a way that leaves its state unknown.
        self.is_tainted = False

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a forked child, and the transaction its parent's."""
        return self.pid != os.getpid()

    @property
    def what(self) -> str:
        """What the block is called in messages."""
        return self._context.what

    def refresh_context(self) -> bool:
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
            self.context_was_lost = not self._context_is_still_there()
        return self.context_was_lost

    def check_context(self) -> None:
        """Refuse to go on without the context."""
        if self.refresh_context():
            raise RlsContextError(
                f"the transaction of {self.what} was ended by a COMMIT or ROLLBACK in its SQL, and "
                "the context went with it: leave the block instead, or use conn.transaction()",
                maybe_applied=True,
            )

    @property
    def outcome(self) -> str:
        """What is known of the block's changes when its end cannot commit them."""
        if self.context_was_lost:
            return "what came before a COMMIT in its SQL may be stored, and nothing else"
        return "nothing was committed"

    def note_use(self) -> None:
        """Tell the parts that generators have open of a use of the transaction."""
        for part in self.generator_parts:
            part.note_use()

    def note(self, error: psycopg.Error) -> None:
        """Remember the SQL error that aborts the transaction, should the caller swallow it."""
        if is_read_only(error) or is_role_gone(error) or error.sqlstate == REFUSED:
            self.server_error = error
        # An error of psycopg's own, before it sent anything, has aborted nothing.
        if self.swallowed is None and self.session.transaction_status not in (_IDLE, _INTRANS):
            self.swallowed = error

    def forget_what_was_undone(self) -> None:
        """Forget the error that had aborted the transaction, once a rollback has undone it."""
        if self.swallowed is not None and self.session.transaction_status != _INERROR:
            self.swallowed = None

    def aborted_error(self) -> TransactionAbortedError:
        """Return the error for an end that looks normal and cannot be."""
        error = TransactionAbortedError(
            f"{self.what} ended normally, but an SQL error in it had aborted the transaction and "
            f"was swallowed: {self.outcome}. Let the error out, or put the statement that may fail "
            "into conn.transaction()",
            sqlstate=self.swallowed.sqlstate if self.swallowed else None,
            maybe_applied=self.context_was_lost,
        )
        error.__cause__ = self.swallowed
        return error

    def close_what_is_open(self) -> None:
        """Close streams and server-side cursors that the block left open."""
        for closable in list(self.closables):
            try:
                closable.close()
            except Exception as error:  # noqa: BLE001 - the block has to end in any case
                # Never instead of the error that is being raised; the block's end reports it.
                if isinstance(error, psycopg.Error):
                    self.note(error)
                if not isinstance(error, psycopg.Error) or is_connection_loss(error):
                    self.session.close()
                with suppress(Exception):
                    closable.close()
        self.closables.clear()

    def _context_is_still_there(self) -> bool:
        pgconn = self.session.pgconn
        self._marks += 1
        # A new mark: the name that SQL has set may outlive the transaction, and then says nothing.
        name = marker(pgconn.parameter_status(b"application_name") or b"", self._marks)
        try:
            values, sql = self._context.values, self._context.sql
            [result] = self.session.message(sql.check(values, pgconn, name))
        except BatchError:
            # The connection is gone: the next statement says so in its own words.
            return True
        signatures = self.session.signatures
        if values is not None and signatures is not None:
            values = signatures.sent
        expected = (*sql.expected(values), self._began)
        # A setting that is not there any more reads NULL.
        if expected != tuple(result.get_value(0, n) or b"" for n in range(len(expected))):
            return False
        self._marker = name
        return True


class BlockUse:
    """The way of one handle to the block's transaction, open until the handle ends.

    Args:
        state: The transaction.
        parent: The use that this one is a part of, and ends with.
        ended_words: What to say of a use after the end; None: that the block has ended.
    """

    __slots__ = ("_alive", "_ended_words", "_parent", "state")

    def __init__(
        self, state: BlockState, parent: BlockUse | None = None, ended_words: str | None = None
    ) -> None:
        self.state = state
        self._parent = parent
        self._ended_words = ended_words
        self._alive = True

    @property
    def is_open(self) -> bool:
        """Whether neither the handle nor the block has ended, and both are this process's."""
        state, parent = self.state, self._parent
        return (
            self._alive
            and not state.ended
            and not state.is_inherited
            and (parent is None or parent.is_open)
        )

    def part(self, ended_words: str) -> Self:
        """Return a use for something that ends before this one may.

        Args:
            ended_words: What to say of a use after its end.
        """
        return type(self)(self.state, self, ended_words)

    def end(self) -> None:
        """Let the handle be used no more."""
        self._alive = False

    def check_open(self) -> None:
        """Refuse to go on when the handle or the block has ended.

        Raises:
            PostgresError: It has.
        """
        state, parent = self.state, self._parent
        if (
            self._alive
            and not state.ended
            and state.pid == os.getpid()
            and (parent is None or parent.is_open)
        ):
            return
        if parent is not None:
            parent.check_open()
        if not self._alive or self.state.ended:
            raise PostgresError(
                self._ended_words
                or f"{self.state.what} has ended, and its connection with it: open a new "
                "connection()"
            )
        if self.state.is_inherited:
            raise PostgresError(
                f"{self.state.what} belongs to the parent process: open one in this process"
            )

    def drive(self, what: str, work: Callable[..., T], *args: Any) -> T:
        """Call the driver; what is neither its error nor ours becomes ours.

        Args:
            what: What is being done, for the message.
            work: A function of the driver.
            args: Its arguments.

        Raises:
            psycopg.Error: The driver's own errors.
            PostgresError: Anything else; the session is not used again after the block.
        """
        try:
            return work(*args)
        except (psycopg.Error, ClientError):
            raise
        except Exception as error:
            self.state.is_tainted = True
            raise PostgresError(f"{what} failed in {self.state.what}: {describe(error)}") from error

    @contextmanager
    def guard(self, *, sends: bool = True) -> Iterator[BlockState]:
        """Hold the block's lock around one use of its session, and note the errors of it.

        Args:
            sends: Whether it sends something to the server.

        Raises:
            PostgresError: The handle or the block has ended, or the session is busy; nothing was
                sent.
            RlsContextError: The context is lost.
        """
        state = self.state
        with state.lock:
            self._begin(sends=sends)
            try:
                yield state
            except psycopg.Error as error:
                state.note(error)
                raise
            finally:
                state.busy -= 1
            state.forget_what_was_undone()

    def call(self, work: Callable[..., T], *args: Any, sends: bool = True) -> T:
        """Call *work* under the guard, without what a context manager costs at each statement.

        Args:
            work: What uses the session.
            args: Its arguments.
            sends: Whether it sends something to the server.

        Raises:
            PostgresError: As for ``guard``.
        """
        state = self.state
        with state.lock:
            self._begin(sends=sends)
            try:
                result = work(*args)
            except psycopg.Error as error:
                state.note(error)
                raise
            finally:
                state.busy -= 1
            state.forget_what_was_undone()
            return result

    def _begin(self, *, sends: bool) -> None:
        state = self.state
        self.check_open()
        self.drive("the check of the context", state.check_context)
        if sends and state.session.transaction_status == _ACTIVE:
            # psycopg would wait for its own lock, and for ever.
            raise PostgresError(
                f"{state.what} is busy with a stream() or a COPY: read that to its end or "
                "close it first, or use a server-side cursor"
            )
        state.note_use()
        state.busy += 1
