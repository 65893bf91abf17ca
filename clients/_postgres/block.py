"""One transaction over one session: how a ``connection()`` block begins, ends, and is joined."""

from __future__ import annotations

import logging
import os
import weakref
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

from .._shared.fork import on_fork
from .._shared.generators import innermost_generator, is_running
from .._shared.telemetry import is_enabled
from ..errors import ClientError, PostgresConnectionError, PostgresError, RlsContextError
from .batch_head import BatchHead, undo
from .block_state import BlockState, BlockUse, GeneratorPart
from .errors import (
    is_connection_loss,
    is_read_only,
    lost_error,
    statement_error,
    unexpected_error,
)
from .guarded import GuardedConnection, check_sendable
from .modes import PLAIN, Modes
from .owner import current_owner
from .recording import BlockRecorder
from .session import BatchError, Session
from .transaction_sql import (
    BEGIN,
    COMMIT,
    LAST_COMMIT,
    LAST_ROLLBACK,
    RELEASE,
    RESET,
    ROLLBACK,
)
from .watchdog import SilenceError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from psycopg.pq.abc import PGresult

    from .._shared.telemetry import Call
    from .first_statement import FirstStatement
    from .pool import Pool
    from .rls_context import RlsContext
    from .session import Statement

__all__ = ["Block", "BlockEntry", "JoinedBlock", "open_block"]

_log = logging.getLogger("clients.postgres")

# Blocks entered in this context, the innermost last; clients are told apart by their pools. Weak:
# one that a signal's exception kept from ending is dropped, and must not be joined.
_open_blocks: ContextVar[tuple[weakref.ref[Block], ...]] = ContextVar("open_blocks", default=())


def open_block(pool: Pool, context: RlsContext) -> Block | None:
    """Return the block that a call in *context* has to join; None when there is none.

    It is one of the same thread, and of the same task or greenlet: a task that is started inside a
    block inherits the context, and must not write into the other's transaction. Nor must who reads
    from a generator write into a block that the generator has entered, and undoes when it is
    closed.

    Args:
        pool: The pool that the call would take a session from.
        context: For whom it is.

    Raises:
        RlsContextError: There is one, for another identity.
    """
    for ref in reversed(_open_blocks.get()):
        block = ref()
        # A copied context can carry another thread's or task's blocks here.
        if block and block.pool is pool and block.is_open and block.is_callers():
            if block.context.is_admin != context.is_admin:
                continue
            if block.context != context:
                raise RlsContextError(
                    f"{block.what} is open in this thread or task, and this call is for "
                    f"{context.other_words(block.context)}: end that block first, one transaction "
                    "belongs to one user"
                )
            return block
    return None


class BlockEntry:
    """What ``connection()`` returns: whether it joins an open block is decided when it is entered.

    Args:
        pool: Where a session comes from.
        context: Whose rows it sees.
        modes: How its transaction begins, if it is one of its own.
        for_consumers: Whether calls of who reads from a generator join what the generator has
            entered; so only where an early end of the generator undoes nothing.
    """

    def __init__(
        self,
        pool: Pool,
        context: RlsContext,
        modes: Modes = PLAIN,
        *,
        for_consumers: bool = False,
    ) -> None:
        self._pool = pool
        self._context = context
        self._modes = modes
        self._for_consumers = for_consumers
        self._entered: Block | JoinedBlock | None = None
        self._recorder: BlockRecorder | None = None

    def __enter__(self) -> GuardedConnection:
        if self._entered is not None:
            raise PostgresError(
                f"{self._context.what} can be entered once: call connection() again"
            )
        outer = open_block(self._pool, self._context)
        if outer is None:
            self._entered = Block(
                self._pool, self._context, self._modes, for_consumers=self._for_consumers
            )
        else:
            self._entered = JoinedBlock(outer, self._modes)
        try:
            if outer is None or not is_enabled():
                return self._entered.__enter__()
            return self._join_recorded(outer)
        except (ClientError, psycopg.Error):
            raise
        except Exception as error:
            raise unexpected_error(error, self._context.what, maybe_applied=False) from error

    def _join_recorded(self, outer: Block) -> GuardedConnection:
        assert self._entered is not None  # noqa: S101 - see __enter__
        recorder = BlockRecorder(self._pool.telemetry, outer.call)
        try:
            handle = self._entered.__enter__()
        except BaseException as error:
            recorder.end(error)
            raise
        self._recorder = handle.recorder = recorder
        return handle

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._entered is None:
            raise PostgresError(f"{self._context.what} is not open")
        if self._recorder is None:
            self._entered.__exit__(exc_type, exc, traceback)
            return
        with self._recorder.ending(exc):
            self._entered.__exit__(exc_type, exc, traceback)


class Block:
    """A context manager over one transaction; dropped without its end, it rolls back.

    Args:
        pool: Where its session comes from.
        context: Whose rows it sees.
        modes: How it begins.
        joinable: Whether calls of this thread or task for the same identity become a part of it.
        for_consumers: As for ``BlockEntry``.
    """

    _state: BlockState | None = None
    _dropped = False
    _recorder: BlockRecorder | None = None
    # The generator that has entered it, by the id of its frame, which would keep the block alive.
    _generator: int | None = None

    def __init__(
        self,
        pool: Pool,
        context: RlsContext,
        modes: Modes = PLAIN,
        *,
        joinable: bool = True,
        for_consumers: bool = False,
    ) -> None:
        self.modes = modes
        self._joinable = joinable
        self._for_consumers = for_consumers
        self.pool = pool
        self.context = context
        self.owner = current_owner()
        self._clean = False
        # Whether its statements are prepared as those of execute() are, and what it leaves in the
        # session goes with the next borrower's reset.
        self._keeps_plans = False

    @property
    def what(self) -> str:
        """What it is called in messages."""
        return self.context.what

    @property
    def is_open(self) -> bool:
        """Whether it has begun and not ended."""
        return self._state is not None

    def is_callers(self) -> bool:
        """Return whether the caller is who has entered it: its task, and its generator."""
        return self.owner.is_current() and (self._generator is None or is_running(self._generator))

    @property
    def state(self) -> BlockState:
        """The running transaction."""
        if self._state is None:
            raise PostgresError(f"{self.what} is not open")
        return self._state

    @property
    def call(self) -> Call | None:
        """What telemetry records of it."""
        return None if self._recorder is None else self._recorder.call

    def __enter__(self) -> GuardedConnection:
        return self._open(None)

    def begin_with(self, first: FirstStatement) -> GuardedConnection:
        """Open the transaction and run its first statement in the same round trip.

        Args:
            first: The statement; afterwards it has its cursor or its error. An error of the
                statement leaves the block open, and aborted.

        Returns:
            The handle.

        Raises:
            psycopg.Error: The statement cannot be converted. Nothing was sent.
            PostgresError: No transaction could be opened.
        """
        check_sendable(first.query, first.params, "execute()")
        handle = self._open(first)
        if first.error is not None:
            self.state.note(first.error)
        return handle

    def _open(self, first: FirstStatement | None) -> GuardedConnection:
        return self._open_recorded(first) if is_enabled() else self._handle(*self._begin(first))

    def _open_recorded(self, first: FirstStatement | None) -> GuardedConnection:
        recorder = BlockRecorder(self.pool.telemetry)
        statement: AbstractContextManager[Call | None] = nullcontext()
        if first is not None:
            statement = recorder.statement(first.query, first.params)
        try:
            with statement as call:
                handle = self._handle(*self._begin(first))
                if call is not None and first is not None:
                    call.failure = first.error
        except BaseException as error:
            recorder.end(error)
            raise
        self._recorder = handle.recorder = recorder
        return handle

    def _handle(self, session: Session, began: bytes) -> GuardedConnection:
        self._state = BlockState(session, self.context, began)
        self.pool.pin(session)
        if self._joinable:
            frame = None if self._for_consumers else innermost_generator()
            self._generator = None if frame is None else id(frame)
            self.owner.begin_block()
            _open_blocks.set((*_others_than(self), weakref.ref(self)))
        return GuardedConnection(BlockUse(self._state))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._dropped and exc is not None:
            # By the collector, which may end a generator after the block that it left open.
            return
        self._end_recorded(exc, exc)

    def end(self, *, commits: bool) -> None:
        """End the transaction for an adapter, whose rollback is no failure.

        Args:
            commits: Whether to commit; it is rolled back otherwise.

        Raises:
            PostgresError: As at the end of a ``connection()`` block.
        """
        self._end_recorded(None if commits else PostgresError("rolled back"), None)

    def _end_recorded(self, exc: BaseException | None, failure: BaseException | None) -> None:
        if self._recorder is None:
            self._end(exc)
            return
        with self._recorder.ending(failure):
            self._end(exc)

    def _end(self, exc: BaseException | None) -> None:
        state = self.state
        if state.pid != os.getpid():
            self._leave_to_the_parent(exc)
            return
        with state.lock:
            state.ended = True
            try:
                if self._joinable:
                    self.owner.end_block()
                    _open_blocks.set(_others_than(self))
                state.close_what_is_open()
                self._finish(state, exc)
            except ClientError:
                raise
            except Exception as error:
                if exc is None:
                    # What ends it by COMMIT has errors of its own: it did not come to that.
                    raise unexpected_error(error, self.what, maybe_applied=False) from error
                _log.warning("the end of %s failed: %s", self.what, type(error).__name__)
            finally:
                # Outermost: whatever fails above, the pool gets its place back.
                self.pool.unpin(state.session)
                self._state = None
                self._release(state)

    def __del__(self) -> None:
        # A signal's exception on the way in or out has kept the with statement from ending it.
        state = self._state
        self._state, self._dropped = None, True
        if state is not None and state.pid == os.getpid():
            state.ended = self.owner.has_ended = True
            self.pool.retire(state.session)
            if self._recorder is not None:
                self._recorder.end(None)

    def _leave_to_the_parent(self, exc: BaseException | None) -> None:
        """End a block that a forked child has inherited: the transaction is the parent's."""
        self.state.ended = self.owner.has_ended = True
        self._state = None
        if exc is None:
            raise PostgresError(
                f"{self.what} belongs to the parent process, which alone can end it: end the "
                "child with os._exit() inside the block, or fork outside it"
            )

    def _begin(self, first: FirstStatement | None) -> tuple[Session, bytes]:
        """Open the transaction; a session that is dead, or cannot be reset, is replaced.

        As long as no statement of the caller's has run, trying again repeats nothing.
        """
        tries_left = self.pool.max_size + 1
        self._keeps_plans = first is not None and self.modes.begin == BEGIN
        again: Session | None = None
        while True:
            session, again = again or self.pool.checkout(self.owner), None
            context = self.context.of_block(session.block_mark, is_kept=self._keeps_plans)
            head = BatchHead(context, goes_on=True)
            try:
                results = self._send(head, first, session)
            except BatchError as failure:
                at, is_out_of_date = failure.index, head.is_out_of_date(session, failure)
                if is_out_of_date:
                    if undo(session):
                        # The same one: what is idle beside it may be out of date as well.
                        again = session
                        continue
                elif first is not None and (at is None or at >= head.user_index):
                    first.error = failure.error
                    return session, b""
                self.pool.retire(session)
                tries_left -= 1
                if tries_left == 0 or not is_out_of_date:
                    self._check_worth_a_try(failure, tries_left)
            except psycopg.Error:
                # The caller's statement cannot be converted: nothing was sent.
                self.pool.give_back(session)
                raise
            except BaseException:
                self.pool.retire(session)
                raise
            else:
                answer = results[head.user_index - 1]
                return session, answer.get_value(0, answer.nfields - 1) or b""

    def _send(
        self, head: BatchHead, first: FirstStatement | None, session: Session
    ) -> list[PGresult]:
        if first is None:
            return session.run_batch(head.full_reset(session, self.modes.begin))
        if not self._keeps_plans:
            return first.run_behind(head.full_reset(session, self.modes.begin), session)
        results = first.run_behind(head.statements(session), session)
        head.learn(session, results)
        return results

    def _check_worth_a_try(self, failure: BatchError, tries_left: int) -> None:
        target = self.pool.target
        lost = failure.index is None or is_connection_loss(failure.error)
        if not lost and (tries_left == 0 or failure.index != 0):
            raise statement_error(failure.error, "BEGIN", target) from failure.error
        # A network that swallows answers would cost the time-out again on each session.
        if tries_left == 0 or isinstance(failure.error, SilenceError):
            raise lost_error(failure.error, "BEGIN", target, maybe_applied=False) from failure.error

    def _finish(self, state: BlockState, exc: BaseException | None) -> None:
        session = state.session
        if exc is not None:
            # Costs nothing, and run_transaction() repeats no work that SQL has committed.
            state.refresh_context()
            self._roll_back(session)
            return
        status = session.transaction_status
        # A statement sent to a session that was just killed leaves libpq waiting for its results,
        # and not yet sure that the connection is gone; the caller swallowed the error.
        waiting = status == TransactionStatus.ACTIVE
        if session.pgconn.status != ConnStatus.OK or (waiting and state.swallowed is not None):
            raise PostgresConnectionError(
                f"{self.what} lost its connection to {self.pool.target.description}: "
                f"{state.outcome}",
                maybe_applied=state.context_was_lost,
            ) from state.swallowed
        if waiting:
            raise PostgresError(
                f"{self.what} ended while a COPY was still running: {state.outcome}",
                maybe_applied=state.context_was_lost,
            )
        if status == TransactionStatus.INERROR:
            self._roll_back(session)
            raise state.aborted_error()
        try:
            state.check_context()
        except RlsContextError:
            self._roll_back(session)
            raise
        self._commit(session)

    def _commit(self, session: Session) -> None:
        try:
            session.run_batch(self._ending(session, COMMIT))
        except BatchError as failure:
            if failure.committed:
                # Only the reset failed, and the session is retired for it.
                return
            target = self.pool.target
            self.pool.learn_from(failure.error)
            if failure.committed is None:
                raise lost_error(
                    failure.error, "COMMIT", target, maybe_applied=True
                ) from failure.error
            self._roll_back(session)
            raise statement_error(failure.error, "COMMIT", target) from failure.error
        self._clean = True

    def _roll_back(self, session: Session) -> None:
        if session.transaction_status == TransactionStatus.ACTIVE or session.conn.closed:
            return
        try:
            session.run_batch(self._ending(session, ROLLBACK))
        except BatchError as failure:
            # Never instead of the error that is being raised; a lost session is rolled back by
            # the server.
            _log.warning("rollback of %s failed: %s", self.what, type(failure.error).__name__)
        else:
            self._clean = True

    def _ending(self, session: Session, end: bytes) -> tuple[Statement, Statement]:
        if not (self._keeps_plans and session.prepared.names):
            return end, RESET
        if session.prepared.unnamed_guard is None:
            return end, RELEASE
        # No statement but the first has run: the guard is still there, and need not be parsed again
        # if nothing else is.
        return (LAST_COMMIT if end is COMMIT else LAST_ROLLBACK), RELEASE

    def _release(self, state: BlockState) -> None:
        error = state.server_error
        # A write into a transaction that is to be read-only says nothing of the server.
        if error is not None and not (self.modes.read_only and is_read_only(error)):
            self.pool.learn_from(error)
        # psycopg still counts the savepoints of a transaction that SQL text ended. And a collector
        # that ends a block in the middle of its statement must not lend that session to another.
        if self._clean and not (state.context_was_lost or state.is_tainted or state.busy):
            self.pool.give_back(state.session)
        else:
            self.pool.retire(state.session)


class JoinedBlock:
    """A context manager over a savepoint of a block that is open already.

    What fails inside undoes itself alone, as it would in a transaction of its own. A generator that
    is closed inside, after its consumer has gone on in the block, undoes nothing: what the consumer
    has written in the meantime would be lost with it, though it was told that it is there.

    Args:
        outer: The block to join.
        modes: The modes that the part needs.

    Raises:
        PostgresError: The block's transaction began otherwise.
    """

    def __init__(self, outer: Block, modes: Modes = PLAIN) -> None:
        modes.check_join(outer.modes, outer.what)
        # Kept alive: a block that is dropped rolls back.
        self._outer = outer
        self._use = BlockUse(outer.state)
        self._handle = GuardedConnection(self._use)
        self._savepoint = self._handle.transaction()
        self._part: GeneratorPart | None = None

    def __enter__(self) -> GuardedConnection:
        self._savepoint.__enter__()
        if (frame := innermost_generator()) is not None:
            self._part = GeneratorPart(id(frame))
            self._outer.state.generator_parts.append(self._part)
        return self._handle

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._part is not None:
            self._leave_generator(self._part)
            if isinstance(exc, GeneratorExit) and self._part.is_shared and self._is_healthy():
                exc_type = exc = traceback = None
        try:
            self._savepoint.__exit__(exc_type, exc, traceback)
        finally:
            self._use.end()

    def _leave_generator(self, part: GeneratorPart) -> None:
        parts = self._use.state.generator_parts
        if part in parts:
            parts.remove(part)

    def _is_healthy(self) -> bool:
        status = self._use.state.session.transaction_status
        return self._use.is_open and status == TransactionStatus.INTRANS


def _others_than(ended: Block) -> tuple[weakref.ref[Block], ...]:
    # A block that another thread ended stays in this thread's tuple until now.
    opened = _open_blocks.get()
    if not opened or (len(opened) == 1 and opened[0]() is ended):
        return ()
    return tuple(
        ref
        for ref in opened
        if (block := ref()) is not None and block is not ended and block.is_open
    )


def _forget_after_fork() -> None:
    # The child's calls take sessions of its own, also inside the parent's blocks.
    _open_blocks.set(())


on_fork(_forget_after_fork)
